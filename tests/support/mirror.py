"""One namespace of a real API server, as an operator mirrors a quorum into it: short ways to act and to look."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leaderlease.cli.local import LocalQuorum
from support.apiserver import ApiServer
from support.operators import Replica, eventually

GROUP = "/apis/leaderlease.dev/v1alpha1"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
QUORUM = "operators"
SERVICE = {"name": "billing-leader", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
"""A ``leaderService``."""


class World:
    """One namespace, and short ways to look at it."""

    def __init__(self, api: ApiServer, namespace: str, quorum: str = QUORUM) -> None:
        self.api = api
        self.namespace = namespace
        self.quorum = quorum

    def apply(self, name: str = "billing", **spec: Any) -> dict[str, Any]:
        """Apply a LeaderLease."""
        body = {
            "apiVersion": "leaderlease.dev/v1alpha1",
            "kind": "LeaderLease",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"quorum": self.quorum, **spec},
        }
        return dict(self.api.apply(body, f"{GROUP}/namespaces/{self.namespace}/leaderleases"))

    def lease(self, name: str = "billing") -> dict[str, Any]:
        """Return a LeaderLease; empty if there is none."""
        return dict(self.api.get(f"{GROUP}/namespaces/{self.namespace}/leaderleases/{name}") or {})

    def status(self, name: str = "billing") -> dict[str, Any]:
        """Return its status."""
        return dict(self.lease(name).get("status") or {})

    def delete(self, name: str = "billing") -> None:
        """Delete a LeaderLease."""
        self.api.request("DELETE", f"{GROUP}/namespaces/{self.namespace}/leaderleases/{name}")

    def pod(self, name: str, ip: str, **labels: str) -> str:
        """Create a pod that runs and is ready, as a kubelet would say; return its uid."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        labels = {"leaderlease.dev/inject": "billing", "app": "billing", **labels}
        body = self.api.request(
            "POST",
            path,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {key.replace("__", "/"): value for key, value in labels.items()}},
                "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": "app"}]},
            },
        )
        ready = {"type": "Ready", "status": "True"}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
        self.api.request("PATCH", f"{path}/{name}/status", {"status": status}, content="application/merge-patch+json")
        return str(body["metadata"]["uid"])

    def role(self, name: str) -> str:
        """Return a pod's role label."""
        body = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        return str(((body or {}).get("metadata", {}).get("labels") or {}).get("leaderlease.dev/role", ""))

    def addresses(self, service: str = "billing-leader") -> list[str]:
        """Return where the leader Service leads to."""
        found = self.api.get(f"{SLICES.format(self.namespace)}/{service}-leader")
        return [address for one in (found or {}).get("endpoints") or () for address in one["addresses"]]

    def reasons(self) -> list[str]:
        """Return the reasons of all Events of the namespace, oldest first."""
        found = self.api.request("GET", f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"]
        return [event["reason"] for event in sorted(found, key=lambda event: str(event["eventTime"]))]

    def mirror(self, name: str = "billing") -> dict[str, Any]:
        """Return the mirror Lease's spec."""
        found = self.api.get(f"{LEASES.format(self.namespace)}/{name}")
        return dict((found or {}).get("spec") or {})


def holder(world: World, name: str = "billing") -> str:
    """Return who holds, as the status says."""
    return str((world.status(name).get("holder") or {}).get("identity", ""))


def declared(world: World, name: str = "billing") -> bool:
    """The status says that the present spec is at the quorum."""
    body = world.lease(name)
    return bool(body) and (body.get("status") or {}).get("observedGeneration") == body["metadata"]["generation"]


def announce(nodes: LocalQuorum, api: ApiServer, name: str) -> None:
    """Apply a LeaderQuorum that tells of these nodes."""
    body = {
        "apiVersion": "leaderlease.dev/v1alpha1",
        "kind": "LeaderQuorum",
        "metadata": {"name": name},
        "spec": {"endpoints": nodes.endpoints},
    }
    api.apply(body, f"{GROUP}/leaderquorums")


@contextmanager
def serving(nodes: LocalQuorum, api: ApiServer, name: str) -> Iterator[LocalQuorum]:
    """Start the nodes, and apply a LeaderQuorum that tells of them."""
    try:
        with nodes:
            announce(nodes, api, name)
            yield nodes
    finally:
        if api.is_running:
            api.request("DELETE", f"{GROUP}/leaderquorums/{name}")


def start(
    api: ApiServer,
    replicas: list[Replica],
    home: Path,
    *options: str,
    quorum: str = QUORUM,
    kubeconfig: Path | None = None,
) -> Replica:
    """Start one more replica and wait until it is ready."""
    name = f"{home.name.replace('_', '-')[-20:]}-{len(replicas)}".strip("-")
    replica = Replica(api, home, name, ("--lease-quorum", quorum, *options), kubeconfig)
    replicas.append(replica)
    eventually(
        f"{name} is ready:\n{replica.tail()}",
        lambda: replica.process.poll() is None and replica.http("/readyz") == "ok\n",
    )
    return replica


def series(text: str, name: str) -> float:
    """Return the value of one series of a scrape; 0 without it."""
    return float(next((line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")), 0))


def renewals(quorum: LocalQuorum) -> float:
    """Return how many renewals the nodes have confirmed."""
    found = 0.0
    for node in quorum.nodes:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=10) as answer:
            found += series(answer.read().decode(), "leaderlease_renewals_total")
    return found
