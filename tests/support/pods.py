"""Pods as a Deployment makes them, and the sidecar that was put into them."""

from typing import Any

from leaderlease.controller.inject import Injection

CA = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
INJECTION = Injection(image="agent:1", endpoints=("node-0.nodes:7400", "node-1.nodes:7400"), ca=CA)
Pod = dict[str, Any]


def make(label: str | None = "billing", spec: Any = None, /, **annotations: str) -> Pod:
    """Return a pod as a Deployment makes it; in names of annotations, _ is -."""
    container = {"name": "app", "image": "app:1", "ports": [{"name": "http", "containerPort": 8080}]}
    return {
        "metadata": {
            "generateName": "billing-5d8f-",
            "labels": {"app": "billing", **({"leaderlease.dev/inject": label} if label is not None else {})},
            "annotations": {f"leaderlease.dev/{key.replace('_', '-')}": text for key, text in annotations.items()},
        },
        "spec": {"containers": [container], **(spec or {})},
    }


def sidecar(pod: Pod) -> dict[str, Any]:
    """Return the first init container."""
    found: dict[str, Any] = pod["spec"]["initContainers"][0]
    return found


def flags(pod: Pod) -> dict[str, list[str]]:
    """Return the sidecar's arguments by flag."""
    first, *rest = sidecar(pod)["args"]
    assert first == "sidecar"
    found: dict[str, list[str]] = {}
    for flag, value in zip(rest[::2], rest[1::2], strict=True):
        found.setdefault(flag, []).append(value)
    return found
