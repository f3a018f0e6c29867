"""For every alert: series with which it fires, and series with which it must not; promtool evaluates both.

Samples are 15 s apart, as in the chart; ``1x8`` is nine samples of 1, ``0+1x8`` rises by one with each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Series = Mapping[str, str]

QUORUM = {"quorum": "default"}
NODE = {**QUORUM, "pod": "node-0"}
PEER = {**NODE, "peer": "node-1"}
LEASE = {"namespace": "shop", "lease": "billing"}


@dataclass(frozen=True)
class Case:
    """One alert.

    Attributes:
        alert: Its name without the prefix.
        at: When it is looked at.
        labels: With which it fires, severity apart.
        summary: What people read.
        series: With which it fires.
        quiet: With each of which it does not: why not -> series.
        severities: All that fire with these series at that time.
    """

    alert: str
    at: str
    labels: Mapping[str, str]
    summary: str
    series: Series
    quiet: Mapping[str, Series]
    severities: tuple[str, ...] = ("warning",)


def named(name: str, labels: Mapping[str, str], **more: str) -> str:
    """Return the series of a metric of ours."""
    pairs = ",".join(f'{key}="{value}"' for key, value in {**labels, **more}.items())
    return f"leaderlease_{name}{{{pairs}}}"


def buckets(name: str, labels: Mapping[str, str], above: str, up_to: str) -> Series:
    """Return a histogram all of whose values lie between two bounds."""
    return {
        named(f"{name}_bucket", labels, le=above): "0x100",
        named(f"{name}_bucket", labels, le=up_to): "0+1x100",
        named(f"{name}_bucket", labels, le="+Inf"): "0+1x100",
    }


def nodes(name: str, *values: str, labels: Mapping[str, str] = QUORUM) -> Series:
    """Return what node-0, node-1, ... say of the same thing."""
    return {named(name, labels, pod=f"node-{i}"): value for i, value in enumerate(values)}


def leaderless(has_leader: str, waiting: str, available: str = "1x300", elsewhere: str = "0x300") -> Series:
    """Return a lease as two nodes see it; ``elsewhere`` is what the other one says of its holder."""
    return {
        **nodes("has_leader", has_leader, elsewhere, labels={**QUORUM, **LEASE}),
        **nodes("candidates_waiting", waiting, "0x300", labels={**QUORUM, **LEASE}),
        **nodes("quorum_available", available),
    }


def clock(error: int, doubt: int) -> Series:
    """Return what pings say of one peer's clock."""
    return {
        named("clock_rate_error_ppm", PEER): f"{error}x100",
        named("clock_rate_doubt_ppm", PEER): f"{doubt}x100",
    }


def proposals(failed: str, committed: str) -> Series:
    """Return both counters of one node."""
    return {named("proposals_failed_total", NODE): failed, named("proposals_committed_total", NODE): committed}


def reconciles(leases: int, looks: str, result: str = "ok") -> Series:
    """Return the operator's view of some leases."""
    return {
        named("reconcile_leases", NODE): f"{leases}x200",
        named("reconcile_total", NODE, kind="lease", result=result): looks,
    }


def certificate(days: int, kind: str = "leaf") -> Series:
    """Return a certificate that ends that long after the epoch, at which the clock of promtool begins."""
    return {named("certificate_expiry_timestamp_seconds", NODE, kind=kind): f"{days * 86400}x100"}


CASES = [
    Case("QuorumLost", "4m", QUORUM, "No majority of quorum default works together.",
         nodes("quorum_available", "1x8 0x20", "0x28"),
         {"only one node is cut off": nodes("quorum_available", "0x28", "1x28")}, ("critical",)),
    Case("QuorumUnseen", "6m", QUORUM, "No node of quorum default is seen any more.",
         nodes("quorum_available", "1x8 stale", "1x4 stale"),
         {"one node is seen": nodes("quorum_available", "1x8 stale", "1x40")}, ("critical",)),
    Case("QuorumDegraded", "7m", QUORUM, "Quorum default can lose no more nodes.",
         {**nodes("can_lose", "0x40", "0x40"), **nodes("acceptors_total", "3x40"), **nodes("quorum_available", "1x40")},
         {"another node still reaches all": {**nodes("can_lose", "0x40", "1x40"), **nodes("acceptors_total", "3x40"),
                                             **nodes("quorum_available", "1x40")},
          "one node alone never could": {**nodes("can_lose", "0x40"), **nodes("acceptors_total", "1x40"),
                                         **nodes("quorum_available", "1x40")}}),
    Case("MemberDown", "5m", {**QUORUM, "peer": "node-2"}, "No other node can ask member node-2 of quorum default.",
         nodes("peer_connected", "0x40", "0x40", labels={**QUORUM, "peer": "node-2"}),
         {"one of them can": nodes("peer_connected", "0x40", "1x40", labels={**QUORUM, "peer": "node-2"})}),
    Case("NotCaughtUp", "12m", NODE, "Node node-0 has not copied yet what the others accepted since it was away.",
         nodes("caught_up", "0x60"), {"it took 3 minutes": nodes("caught_up", "0x12 1x60")}),
    Case("ProposalsFailing", "20m", QUORUM, "40 proposals of quorum default failed in 10 minutes.",
         proposals("0+1x120", "0+1x120"),
         {"one in a hundred is no trouble": proposals("0+1x120", "0+100x120"),
          "a few at a quiet time": proposals("0x60 1x30 2x30", "0x120")}),
    Case("RenewalsFailing", "7m", QUORUM, "Quorum default could not confirm renewals.",
         {named("renew_failures_total", NODE, reason="quorum"): "0+1x40"},
         {"others hold what was to be renewed": {named("renew_failures_total", NODE, reason="refused"): "0+1x40"}}),
    Case("PeerRoundTripSlow", "17m", PEER, "Pings from node-0 to node-1 take 0.204 s (p99).",
         buckets("peer_round_trip_seconds", PEER, "0.1024", "0.2048"),
         {"all is quick": buckets("peer_round_trip_seconds", PEER, "0.0008", "0.0016")}),
    Case("ClockRateError", "12m", PEER, "Clocks of node-0 and node-1 run 280 ppm apart or more.", clock(-300, 20),
         {"the pings do not prove it": clock(300, 60), "a sound clock": clock(40, 5)}),
    Case("ClockRateError", "4m", PEER, "Clocks of node-0 and node-1 run 880 ppm apart or more.", clock(900, 20),
         {"far from what leases allow": clock(300, 20)}, ("critical",)),
    Case("FsyncSlow", "17m", NODE, "Commits on the disk of node-0 take 0.51 s (p99).",
         buckets("fsync_duration_seconds", NODE, "0.256", "0.512"),
         {"a slow disk, but not that slow": buckets("fsync_duration_seconds", NODE, "0.064", "0.128")}),
    Case("FsyncSlow", "17m", NODE, "Commits on the disk of node-0 take 2.04 s (p99).",
         buckets("fsync_duration_seconds", NODE, "1.024", "2.048"),
         {"a sound disk": buckets("fsync_duration_seconds", NODE, "0.001", "0.002")}, ("warning", "critical")),
    Case("DiskStalled", "4m", NODE, "The disk of node-0 does not answer.", nodes("disk_stalled", "1x20"),
         {"it answers between": nodes("disk_stalled", "0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1")}, ("critical",)),
    Case("NoLeader", "3m", {**QUORUM, **LEASE}, "Nobody leads shop/billing, and candidates wait.",
         leaderless("0x300", "1x300"),
         {"nobody wants it": leaderless("0x300", "0x300"),
          "a node lags behind": leaderless("0x300", "1x300", elsewhere="1x300"),
          "the quorum is lost, which has its own alert": leaderless("0x300", "1x300", available="0x300")},
         ("critical",)),
    Case("TwoLeaders", "3m", LEASE, "2 pods believe that they lead shop/billing.",
         {named("is_leader", LEASE, pod="a"): "1x20", named("is_leader", LEASE, pod="b"): "0x3 1x20"},
         {"a hand-over between two scrapes": {named("is_leader", LEASE, pod="a"): "1x10 0x20",
                                              named("is_leader", LEASE, pod="b"): "0x9 1x20"},
          "leaders of two leases": {named("is_leader", LEASE, pod="a"): "1x20",
                                    named("is_leader", {**LEASE, "lease": "carts"}, pod="b"): "1x20"}},
         ("critical",)),
    Case("LeaderlessTooLong", "40m", {**QUORUM, **LEASE},
         "shop/billing was wanted and not led for 100% of an hour.", leaderless("0x300", "1x300"),
         {"nobody wants it": leaderless("0x300", "0x300"),
          "one fail-over": leaderless("1x19 0x1 1x300", "1x300")}),
    Case("HighNumberOfLeaderChanges", "18m", LEASE, "shop/billing changed its leader 5 times in 15 minutes.",
         {named("term", LEASE, pod="node-0"): "1x20 2x8 3x8 4x8 5x8 6x60"},
         {"two hand-overs of a roll-out": {named("term", LEASE, pod="node-0"): "1x20 2x8 3x80"},
          "a node that was away has an old term": {
              named("term", LEASE, pod="node-0"): "7x100",
              named("term", LEASE, pod="node-1"): "3x20 4x8 5x8 6x8 7x60"}}),
    Case("ClientsRefused", "20m", QUORUM, "Nodes of quorum default refused 40 connections in 10 minutes.",
         {named("sessions_refused_total", NODE, reason="identity"): "0+1x120"},
         {"nobody new": {named("sessions_refused_total", NODE, reason="identity"): "40x120"}}),
    Case("SidecarStale", "4m", {**LEASE, "pod": "billing-0"},
         "The sidecar of billing-0 does not know who leads shop/billing.",
         {named("lease_fresh", LEASE, pod="billing-0"): "0x20"},
         {"it knew again": {named("lease_fresh", LEASE, pod="billing-0"): "0x6 1x20"}}),
    Case("SeriesDropped", "17m", QUORUM, "12 leases of quorum default have no series of their own.",
         nodes("lease_series_dropped", "12x80"), {"all have": nodes("lease_series_dropped", "0x80")}, ("info",)),
    Case("OperatorDown", "12m", QUORUM, "No replica of the operator of quorum default is seen any more.",
         nodes("reconcile_is_active", "1x4 _x100", "0x4 _x100"),
         {"one replica is seen": nodes("reconcile_is_active", "1x4 _x100", "0x100"),
          "there never was one": nodes("quorum_available", "1x100")}),
    Case("OperatorInactive", "4m", QUORUM, "No replica of the operator of quorum default writes.",
         nodes("reconcile_is_active", "0x20", "0x20"),
         {"one stands by": nodes("reconcile_is_active", "0x20", "1x20")}),
    Case("ReconcileStale", "30m", QUORUM, "The operator of quorum default has reconciled nothing for 15 minutes.",
         reconciles(3, "7x200"),
         {"it looks at everything from time to time": reconciles(3, "7x19 9x19 11x19 13x19 15x19 17x19 19x19"),
          "there is nothing to look at": reconciles(0, "7x200")}),
    Case("ReconcileFailing", "20m", {**QUORUM, "kind": "lease", "result": "error"},
         "Looks at objects of kind lease fail: 40 in 10 minutes (error).", reconciles(3, "0+1x120", "error"),
         {"they succeed": reconciles(3, "0+1x120")}),
    Case("CertificateExpiresSoon", "20m", {**NODE, "kind": "leaf"},
         "The leaf certificate of node-0 ends in 6d 23h 40m 0s.", certificate(7),
         {"it is renewed in time": certificate(30), "the webhook has its own alert": certificate(7, "webhook")}),
    Case("CertificateExpiresSoon", "10m", {**NODE, "kind": "leaf"},
         "The leaf certificate of node-0 ends in 23h 50m 0s.", certificate(1),
         {"a week is no emergency": certificate(7)}, ("critical",)),
    Case("WebhookCertificateExpiresSoon", "20m", {**NODE, "kind": "webhook"},
         "The webhook certificate of node-0 ends in 6d 23h 40m 0s.", certificate(7, "webhook"),
         {"it is renewed in time": certificate(30, "webhook"), "it is another certificate": certificate(7)}),
    Case("WebhookCertificateExpiresSoon", "10m", {**NODE, "kind": "webhook"},
         "The webhook certificate of node-0 ends in 23h 50m 0s.", certificate(1, "webhook"),
         {"a week is no emergency": certificate(7, "webhook")}, ("critical",)),
    Case("CertificateRefused", "7m", NODE, "node-0 cannot use its renewed certificate files.",
         nodes("certificate_refused", "1x40"), {"half-written files, once": nodes("certificate_refused", "1x2 0x40")}),
]  # fmt: skip
