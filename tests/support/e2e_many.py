"""Many leases and many sessions on the cluster, and what their clients wrote down."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import e2e
from support.checkers.belief import belief_intervals, check_belief
from support.checkers.history import Event, Kind
from support.checkers.terms import check_tokens

PODS = 3
CLIENTS = 20
"""Sessions of each pod."""
LEASES = 300
DURATION_S = 3.0
SILENT_MS = 1_500.0
"""A process with leases writes a hundred renewals in this time."""
POLL_S = 1.0
"""Between two looks at everything that was written."""


@dataclass
class Crowd:
    """Pods full of clients.

    Attributes:
        folder: Where they write.
    """

    namespace: str
    folder: Path
    _events: dict[Path, list[Event]] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)

    def history(self) -> list[Event]:
        """Return all events so far; only what is new is read."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                fields = json.loads(line)
                event = Event(**{**fields, "kind": Kind(fields["kind"])})
                self._events.setdefault(path, []).append(event)
        return sorted((event for events in self._events.values() for event in events), key=lambda event: event.at_ms)

    def held(self, at_ms: float) -> int:
        """Return how many leases somebody believed to hold at a time."""
        held = belief_intervals(self.history())
        return len({one.lease for one in held if one.since_ms <= at_ms < one.until_ms})

    def leaderless_ms(self, since_ms: float, until_ms: float) -> list[float]:
        """Return for how long each lease had no leader within a time, in milliseconds; leases that always had are 0.

        A process that wrote nothing any more was dead from then on, and a dead holder leads nothing.
        """
        self.history()
        by_lease: dict[str, list[tuple[float, float]]] = {f"{self.namespace}/l{i}": [] for i in range(LEASES)}
        for events in self._events.values():
            last_ms = events[-1].at_ms
            alive_until_ms = last_ms if last_ms < until_ms - SILENT_MS else until_ms
            for one in belief_intervals(events):
                start, end = max(one.since_ms, since_ms), min(one.until_ms, alive_until_ms)
                if start < end:
                    by_lease[one.lease].append((start, end))
        return [until_ms - since_ms - _covered(held) for held in by_lease.values()]

    def check(self) -> int:
        """Run the checkers; return the number of grants.

        Raises:
            Violation: Two nonces believed at one instant, or terms did not rise.
        """
        history = self.history()
        check_belief(history)
        check_tokens(history)
        return sum(event.kind == "believe" for event in history)


def _covered(held: list[tuple[float, float]]) -> float:
    total, reached = 0.0, 0.0
    for start, end in sorted(held):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def gather(namespace: str, folder: Path) -> Crowd:
    """Apply all leases and all clients, and wait until every lease is held."""
    folder.mkdir()
    folder.chmod(0o777)
    crowd = Crowd(namespace, folder)
    e2e.apply(*_leases(namespace))
    e2e.apply(*_pods(namespace, folder))
    e2e.kubectl("rollout", "status", "statefulset/crowd", "-n", namespace, "--timeout=120s")
    e2e.until("every lease is held", lambda: crowd.held(e2e.boottime_ms()) == LEASES, 120, POLL_S)
    return crowd


def _leases(namespace: str) -> Iterator[dict[str, Any]]:
    for i in range(LEASES):
        yield {
            "apiVersion": "leaderlease.dev/v1alpha1",
            "kind": "LeaderLease",
            "metadata": {"name": f"l{i}", "namespace": namespace},
            "spec": {"leaseDuration": f"{DURATION_S:g}s", "candidates": {"serviceAccountNames": ["crowd"]}},
        }


def _pods(namespace: str, folder: Path) -> Iterator[dict[str, Any]]:
    metadata = {"name": "crowd", "namespace": namespace}
    script = (Path(__file__).parent / "e2e_crowd.py").read_text()
    secret = e2e.get("secret", "leaderlease-node-tls", "-n", e2e.NAMESPACE)
    authority = base64.b64decode(secret["data"]["ca.crt"]).decode()
    endpoints = ",".join(e2e.get("leaderquorum", "default")["spec"]["endpoints"])
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    data = {"crowd.py": script, "ca.crt": authority}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    fields = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", "POD_NAMESPACE": "metadata.namespace"}
    values = {
        "JOURNAL": "/journal",
        "LEADERLEASE_ENDPOINTS": endpoints,
        "PODS": str(PODS),
        "CLIENTS": str(CLIENTS),
        "LEASES": str(LEASES),
    }
    identity = [
        {"serviceAccountToken": {"audience": "leaderlease", "expirationSeconds": 3600, "path": "token"}},
        {"configMap": {"name": "crowd", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    mounts = {"/journal": "journal", "/app": "app", "/var/run/secrets/leaderlease.dev": "identity"}
    pod = {
        "serviceAccountName": "crowd",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 2,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "crowd"}},
            }
        ],
        "containers": [
            {
                "name": "crowd",
                "image": f"{e2e.IMAGES['agent']}:{e2e.TAG}",
                "imagePullPolicy": "Never",
                "command": ["python3", "-u", "/app/crowd.py"],
                "env": [
                    *({"name": key, "value": value} for key, value in values.items()),
                    *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()),
                ],
                "volumeMounts": [{"name": name, "mountPath": path} for path, name in mounts.items()],
            }
        ],
        "volumes": [
            {"name": "app", "configMap": {"name": "crowd"}},
            {"name": "identity", "projected": {"sources": identity}},
            {"name": "journal", "hostPath": {"path": str(folder), "type": "Directory"}},
        ],
    }
    yield {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": {
            "replicas": PODS,
            "serviceName": "crowd",
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "crowd"}},
            "template": {"metadata": {"labels": {"app": "crowd"}}, "spec": pod},
        },
    }
