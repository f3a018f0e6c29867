"""Many leases and many sessions on the cluster, and what their clients wrote down."""

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import e2e
from support.checkers.belief import check_belief
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


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which nobody led a lease.

    Attributes:
        is_lost: The holder before had not let go: it died, or its time ran out.
    """

    length_ms: float
    is_lost: bool


@dataclass(slots=True)
class Belief:
    """While a nonce believed; ``is_over`` when it said so, ``is_let_go`` when it wanted that."""

    lease: str
    since_ms: float
    until_ms: float
    is_over: bool = False
    is_let_go: bool = False


@dataclass
class Crowd:
    """Pods full of clients.

    Attributes:
        folder: Where they write.
    """

    namespace: str
    folder: Path
    _events: dict[Path, list[Event]] = field(default_factory=dict)
    _beliefs: dict[Path, dict[str, Belief]] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)

    def read(self) -> None:
        """Take what was written since the last call."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                event = _event(line)
                self._events.setdefault(path, []).append(event)
                _follow(self._beliefs.setdefault(path, {}), event)

    def neglected(self, since_ms: float) -> list[str]:
        """Return the leases that nobody believed to hold at any time from then on."""
        self.read()
        beliefs = (one for mine in self._beliefs.values() for one in mine.values())
        return sorted(set(self._leases()) - {one.lease for one in beliefs if one.until_ms > since_ms})

    def gaps(self, since_ms: float, until_ms: float) -> dict[str, list[Gap]]:
        """Return the times within a time in which a lease had no leader.

        A process that wrote nothing any more was dead from then on, and a dead holder leads nothing. So ask when those
        who live have had the time to write again, such as those that were cut off.
        """
        self.read()
        held: dict[str, list[tuple[float, float, bool]]] = {lease: [] for lease in self._leases()}
        for path, beliefs in self._beliefs.items():
            last_ms = self._events[path][-1].at_ms
            alive_until_ms = last_ms if last_ms < until_ms - SILENT_MS else until_ms
            for one in beliefs.values():
                start, end = max(one.since_ms, since_ms), min(one.until_ms, alive_until_ms)
                if start < end:
                    held[one.lease].append((start, end, one.is_let_go))
        return {lease: _between(times, since_ms, until_ms) for lease, times in held.items()}

    def check(self) -> int:
        """Run the checkers; return the number of grants.

        Raises:
            Violation: Two nonces believed at one instant, or terms did not rise.
        """
        self.read()
        history = [event for events in self._events.values() for event in events]
        check_belief(history)
        check_tokens(history)
        return sum(event.kind == "believe" for event in history)

    def _leases(self) -> list[str]:
        return [f"{self.namespace}/l{i}" for i in range(LEASES)]


def _event(line: bytes) -> Event:
    fields = json.loads(line)
    names = {name: sys.intern(fields[name]) for name in ("lease", "nonce")}  # a nonce writes hundreds of lines
    return Event(**{**fields, **names, "kind": Kind(fields["kind"])})


def _follow(beliefs: dict[str, Belief], event: Event) -> None:
    """Take one event into the beliefs of its process; ``belief_intervals`` judges, this only measures."""
    mine = beliefs.get(event.nonce)
    if event.kind is Kind.BELIEVE:
        beliefs[event.nonce] = Belief(event.lease, event.at_ms, event.until_ms)
    elif mine is None or mine.is_over:
        return
    elif event.kind is Kind.UNBELIEVE:
        mine.until_ms = min(mine.until_ms, event.at_ms)
        mine.is_over, mine.is_let_go = True, not event.until_ms
    else:
        mine.until_ms = max(mine.until_ms, event.until_ms)


def _between(held: list[tuple[float, float, bool]], since_ms: float, until_ms: float) -> list[Gap]:
    gaps, reached, is_let_go = [], since_ms, True
    for start, end, is_voluntary in [*sorted(held), (until_ms, until_ms, True)]:
        if start > reached:
            gaps.append(Gap(start - reached, not is_let_go))
        if end >= reached:
            reached, is_let_go = end, is_voluntary
    return gaps


def gather(namespace: str, folder: Path) -> Crowd:
    """Apply all leases and all clients, and wait until every lease is held."""
    folder.mkdir()
    folder.chmod(0o777)
    crowd = Crowd(namespace, folder)
    e2e.apply(*_leases(namespace))
    e2e.apply(*_pods(namespace, folder))
    e2e.kubectl("rollout", "status", "statefulset/crowd", "-n", namespace, "--timeout=120s")
    until_held(crowd, 120.0)
    return crowd


def until_held(crowd: Crowd, timeout_s: float) -> None:
    """Wait until every lease was held within the last second: at any instant some are handed over."""

    def all_held() -> bool:
        return not crowd.neglected(e2e.boottime_ms() - 1_000)

    e2e.until("every lease is held", all_held, timeout_s, POLL_S)


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
