"""What the operator is told at its start."""

from pathlib import Path

import msgspec

from leaderlease.controller.resource import Json


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator is told at its start.

    Attributes:
        quorums: Quorum name -> endpoints; wins over LeaderQuorums of the same name.
        namespace: The operator's own.
        lease_quorum: The quorum that decides which replica writes.
        identity: Name of this replica.
        watch_namespaces: Empty for all.
        pod_selector: Label selector of the pods to be watched; empty for all.
        listen_http: host:port; empty serves no HTTP.
        resync_s: How often everything is listed and looked at again.
        audience: Of the tokens that nodes accept; empty hands over no keys.
        kubeconfig: Path; empty takes the pod's own configuration, else ``~/.kube/config``.
        tls: Paths of certificate, key and CA towards the nodes; None for plain TCP.
        own_quorum: A LeaderQuorum that is applied where it is missing or different; None applies none.
        is_injecting: The webhook is served, so a labelled pod without a sidecar was missed.
    """

    quorums: dict[str, tuple[str, ...]]
    namespace: str
    lease_quorum: str
    identity: str
    watch_namespaces: tuple[str, ...] = ()
    pod_selector: str = ""
    listen_http: str = ""
    resync_s: float = 300.0
    audience: str = "leaderlease"
    kubeconfig: str = ""
    context: str = ""
    tls: tuple[Path | None, Path | None, Path] | None = None
    own_quorum: Json | None = None
    is_injecting: bool = False
