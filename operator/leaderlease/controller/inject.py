"""Puts the sidecar into a pod. Pure: a pod goes in, a pod comes out.

Rule 1: what was injected is left as it is, and so is a pod that brings a container of our name.
Rule 2: the sidecar is the first init container, with ``restartPolicy: Always``: it answers before the application's
        first line, and ends after its last.
Rule 3: ready means that the local API answers, never that this pod leads.
Rule 4: what the pod says itself wins: an environment variable of ours that a container has already is not replaced.
Rule 5: nothing is needed in the pod's namespace: the authority that signed the nodes is in an annotation of the pod,
        which the downward API turns into a file.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from leaderlease.controller.parameters import Parameters, read_parameters
from leaderlease.controller.resource import ANNOTATION_CA, ANNOTATION_STATUS, INJECTED, SIDECAR, Json, sidecar_state
from leaderlease.errors import ConfigError

NAMESPACES_NEVER: Final = ("kube-system", "kube-public", "kube-node-lease")
CA_BYTES_MAX: Final = 64 << 10
"""A pod's annotations have 256 KiB in all."""

VOLUME_SHARED: Final = "leaderlease"
VOLUME_STATE: Final = "leaderlease-state"
VOLUME_IDENTITY: Final = "leaderlease-identity"
PATH_SHARED: Final = "/leaderlease"
PATH_STATE: Final = "/var/lib/leaderlease"
PATH_IDENTITY: Final = "/var/run/secrets/leaderlease.dev"
FILE: Final = f"{PATH_SHARED}/leader.json"
STARTUP_S: Final = 60
"""How long the sidecar may take until its API answers; then it is started again."""


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """What the sidecars of an installation have in common.

    Attributes:
        image: Of the sidecar.
        endpoints: Nodes of the quorum, host:port.
        pull_policy: Of the image; empty leaves it to Kubernetes.
        ca: PEM text: the authority that signed the nodes; empty for plain TCP.
        audience: Of the token that the sidecar shows; empty gives it none.
    """

    image: str
    endpoints: tuple[str, ...]
    pull_policy: str = ""
    ca: str = ""
    audience: str = "leaderlease"


def inject(pod: Json, injection: Injection, parameters: Parameters | None = None) -> Json:
    """Return the pod with its sidecar; the same object where nothing is to be done.

    Args:
        pod: As the API server has it, or the template of a Deployment; is not changed.
        injection: What all sidecars have in common.
        parameters: Of :func:`read_parameters`, where they were read before.

    Raises:
        ConfigError: The label or an annotation cannot work, or the pod has something in the sidecar's place.
    """
    if sidecar_state(pod) != "wanted":
        return pod
    asked = parameters or read_parameters(pod)
    _check_place(pod["spec"], injection)
    result = copy.deepcopy(pod)
    annotations = {**(result["metadata"].get("annotations") or {}), ANNOTATION_STATUS: INJECTED}
    if injection.ca:
        annotations[ANNOTATION_CA] = injection.ca
    result["metadata"]["annotations"] = annotations
    spec = result["spec"]
    others = [*(spec.get("initContainers") or ()), *spec["containers"]]
    for container in others:
        _tell(container, asked)
    spec["initContainers"] = [sidecar(asked, injection), *(spec.get("initContainers") or ())]
    spec["volumes"] = [*(spec.get("volumes") or ()), *_volumes(asked, injection)]
    return result


def patch(before: Json, after: Json) -> list[Json]:
    """Return the JSON patch (RFC 6902) from one pod to the other, member by member of ``metadata`` and ``spec``."""
    return [
        {"op": "add", "path": f"/{part}/{key}", "value": value}
        for part in ("metadata", "spec")
        for key, value in after[part].items()
        if before[part].get(key) != value
    ]


def sidecar(asked: Parameters, injection: Injection) -> Json:
    """Return the container."""
    probe = {"httpGet": {"path": "/readyz", "port": SIDECAR}, "timeoutSeconds": 2}
    pull_policy = asked.pull_policy or injection.pull_policy
    user = {} if asked.run_as_user is None else {"runAsUser": asked.run_as_user, "runAsGroup": asked.run_as_user}
    return {
        "name": SIDECAR,
        "image": asked.image or injection.image,
        **({"imagePullPolicy": pull_policy} if pull_policy else {}),
        "restartPolicy": "Always",
        # Kubernetes replaces $(NAME) in arguments; $$( is a plain $(.
        "args": [argument.replace("$(", "$$(") for argument in _arguments(asked, injection)],
        "env": [
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in (
                ("POD_NAME", "metadata.name"),
                ("POD_NAMESPACE", "metadata.namespace"),
                ("POD_UID", "metadata.uid"),
                ("NODE_NAME", "spec.nodeName"),
            )
        ],
        "ports": [{"name": SIDECAR, "containerPort": asked.pod_port, "protocol": "TCP"}],
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": STARTUP_S},
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 3},
        # Why it ended, for `kubectl describe pod`.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": copy.deepcopy(asked.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            **user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": VOLUME_STATE, "mountPath": PATH_STATE},
            {"name": VOLUME_SHARED, "mountPath": PATH_SHARED},
            *([_mount(VOLUME_IDENTITY, PATH_IDENTITY)] if injection.ca or injection.audience else []),
        ],
    }


def _arguments(asked: Parameters, injection: Injection) -> Iterator[str]:
    yield "sidecar"
    for name in asked.leases:
        yield from ("--lease", name)
    yield from ("--endpoints", ",".join(injection.endpoints))
    yield from ("--listen", f"127.0.0.1:{asked.port}", "--listen-pod", f":{asked.pod_port}")
    yield from ("--state-dir", PATH_STATE, "--file", FILE)
    if injection.audience:
        yield from ("--token-file", f"{PATH_IDENTITY}/token")
    if injection.ca:
        yield from ("--tls-ca", f"{PATH_IDENTITY}/ca.crt")
    yield from asked.flags


def _mount(name: str, path: str) -> Json:
    return {"name": name, "mountPath": path, "readOnly": True}


def _volumes(asked: Parameters, injection: Injection) -> Iterator[Json]:
    # Memory: what a restart goes on with is worthless after a reboot, and a write must not wait for a disk.
    yield {"name": VOLUME_STATE, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    yield {"name": VOLUME_SHARED, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    sources: list[Json] = []
    if injection.audience:
        token = {"audience": injection.audience, "expirationSeconds": asked.token_seconds, "path": "token"}
        sources.append({"serviceAccountToken": token})
    if injection.ca:
        item = {"path": "ca.crt", "fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_CA}']"}}
        sources.append({"downwardAPI": {"items": [item]}})
    if sources:
        yield {"name": VOLUME_IDENTITY, "projected": {"sources": sources}}


def _tell(container: Json, asked: Parameters) -> None:
    """Give a container of the application the address and the file (rule 4)."""
    known = {one.get("name") for one in container.get("env") or ()}
    ours = {"LEADERLEASE_URL": f"http://127.0.0.1:{asked.port}", "LEADERLEASE_FILE": FILE}
    # First, so that others may refer to them as $(LEADERLEASE_URL).
    added = [{"name": name, "value": value} for name, value in ours.items() if name not in known]
    container["env"] = [*added, *(container.get("env") or ())]
    container["volumeMounts"] = [*(container.get("volumeMounts") or ()), _mount(VOLUME_SHARED, PATH_SHARED)]


def _check_place(spec: Mapping[str, Any], injection: Injection) -> None:
    ours = {VOLUME_STATE, VOLUME_SHARED, VOLUME_IDENTITY}
    for volume in spec.get("volumes") or ():
        if volume.get("name") in ours:
            raise ConfigError(f"volume {volume['name']!r}: the sidecar has a volume of this name: choose another")
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        for mount in container.get("volumeMounts") or ():
            if str(mount.get("mountPath", "")).rstrip("/") == PATH_SHARED:
                raise ConfigError(
                    f"container {container.get('name')!r}: mountPath {PATH_SHARED} is where the sidecar's file comes: "
                    "choose another"
                )
    if not injection.endpoints:
        raise ConfigError("endpoints: the list is empty; name at least one node as host:port")
    if len(injection.ca.encode()) > CA_BYTES_MAX:
        raise ConfigError(f"ca: {len(injection.ca.encode())} bytes of certificates, at most {CA_BYTES_MAX}")
