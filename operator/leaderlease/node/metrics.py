"""Prometheus metrics of a node, read from its state when somebody scrapes (etcd's words where etcd has one).

Rule 1: a scrape changes nothing and costs nothing between scrapes.
Rule 2: series for single leases stop at ``LEASE_SERIES_MAX``; ``lease_series_dropped`` says how many have none.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from leaderlease import __version__
from leaderlease.node.driver import Driver
from leaderlease.node.durations import Durations
from leaderlease.node.homes import LEASE
from leaderlease.node.node import Node
from leaderlease.node.rotation import Rotation
from leaderlease.node.sessions import Sessions
from leaderlease.paxos.acceptor import Register

LEASE_SERIES_MAX: Final = 500
PREFIX: Final = "leaderlease_"


def registry_of(node: Node) -> CollectorRegistry:
    """Return a registry of its own for this node."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(node))
    return registry


class NodeCollector(Collector):
    """Reads one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def describe(self) -> list[Metric]:
        """Declare nothing ahead: the names depend on the state."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of this node."""
        info = {"version": __version__, "python": platform.python_version()}
        yield _gauge("build_info", "Which software runs.", [(1, info)])
        if self._node.rotation is not None:
            yield from _certificates(self._node.rotation)
        sessions = self._node.sessions
        if sessions is None:
            return
        yield from _counters(sessions)
        yield from _quorum(self._node, sessions)
        yield from _leases(sessions)
        stats, storage = sessions.driver.stats, sessions.driver.storage
        stats.committed(storage.fsync_seconds())
        phases = [(durations, {"phase": phase}) for phase, durations in stats.phase_seconds.items()]
        yield _histogram("phase_duration_seconds", "From the first message of a Paxos phase to its majority.", phases)
        yield _histogram("failover_seconds", "From the end of one holder, as this node saw it, to the next.",
                         [(stats.failover_seconds, {})])  # fmt: skip
        yield _histogram("fsync_duration_seconds", "Commits of this node's disk.", [(stats.fsync_seconds, {})])


def _counters(sessions: Sessions) -> Iterator[Metric]:
    stats = sessions.driver.stats
    yield _counter("ballots_started", "Ballots that this node began.", stats.ballots_started)
    rejected = [(count, {"reason": reason}) for reason, count in stats.ballots_rejected.items()]
    yield _counter("ballots_rejected", "Answers that refused a ballot of this node.", rejected)
    yield _counter("proposals_committed", "Values that a majority accepted.", stats.proposals_committed)
    yield _counter("proposals_failed", "Values proposed and not known to be chosen.", stats.proposals_failed)
    yield _gauge("proposals_pending", "Attempts under way.", len(sessions.driver.attempts))
    yield _counter("renewals", "Leases renewed by a majority.", stats.renewals)
    failures = [(count, {"reason": reason}) for reason, count in stats.renew_failures.items()]
    yield _counter("renew_failures", "Leases that a keepalive did not renew.", failures)
    yield _counter("expired", "Leases that ran out unreleased.", stats.expired)
    changes = [(count, {"reason": reason}) for reason, count in stats.leader_changes.items()]
    yield _counter("leader_changes", "New holders.", changes)
    yield _counter("leaderless_seconds", "Time without a holder, summed over leases.", stats.leaderless_ms / 1000)
    errors = [(count, {"from": origin}) for origin, count in stats.protocol_errors.items()]
    yield _counter("protocol_errors", "Connections dropped for breaking the protocol.", errors)
    refused = [(count, {"reason": reason}) for reason, count in stats.sessions_refused.items()]
    yield _counter("sessions_refused", "Client connections that were refused.", refused)
    refused = [(count, {"request": kind}) for kind, count in stats.requests_refused.items()]
    yield _counter("requests_refused", "Requests that their client may not make.", refused)


def _quorum(node: Node, sessions: Sessions) -> Iterator[Metric]:
    driver = sessions.driver
    healthy = driver.connected & driver.quorum.members
    yield _gauge("quorum_available", "Whether a majority can be asked.", int(driver.quorum.is_met(healthy)))
    yield _gauge("acceptors_total", "Members that vote.", len(driver.quorum.members))
    yield _gauge("acceptors_healthy", "Members that can be asked, this one included.", len(healthy))
    yield _gauge("can_lose", "Members that may still fail before no majority is left.", driver.quorum.can_lose(healthy))
    yield _gauge("membership_epoch", "Number of the configuration.", driver.epoch)
    highest = max(driver.proposer.counter, driver.acceptor.counter_max)
    yield _gauge("ballot_highest", "Highest ballot counter used or promised.", highest)
    yield _gauge("sessions", "Clients connected.", len(sessions.open_sessions))
    yield _gauge("disk_stalled", "Whether the disk is too slow to propose for new holders.", driver.is_disk_stalled())
    is_caught_up = node.catchup is not None and node.catchup.is_caught_up()
    yield _gauge("caught_up", "Whether what others accepted was copied since the start.", int(is_caught_up))
    yield from _peers(driver)


def _peers(driver: Driver) -> Iterator[Metric]:
    peers = [({"peer": m.name}, m.uuid) for m in driver.configuration.members if m.uuid != driver.member]
    connected = [(int(uuid in driver.connected), labels) for labels, uuid in peers]
    yield _gauge("peer_connected", "Whether a member can be asked.", connected)
    stats = [(driver.stats.peer(uuid), labels) for labels, uuid in peers]
    lost = [(one.disconnects, labels) for one, labels in stats]
    yield _counter("peer_disconnects", "Connections to a member that were lost.", lost)
    if stats:
        trips = [(one.round_trip_seconds, labels) for one, labels in stats]
        yield _histogram("peer_round_trip_seconds", "Round trips of pings.", trips)
    rates = [(rate, labels) for one, labels in stats if (rate := one.clock.error()) is not None]
    text = "How much faster than this node's clock a member's runs, over the latest 10 minutes; none in the first."
    yield _gauge("clock_rate_error_ppm", text, [(rate.ppm, labels) for rate, labels in rates])
    text = "By how much clock_rate_error_ppm can be wrong."
    yield _gauge("clock_rate_doubt_ppm", text, [(rate.doubt_ppm, labels) for rate, labels in rates])


def _certificates(rotation: Rotation) -> Iterator[Metric]:
    text = "When a certificate in use ends, in Unix seconds."
    ends = [(at_s, {"kind": kind}) for kind, at_s in rotation.ends_s.items()]
    yield _gauge("certificate_expiry_timestamp_seconds", text, ends)
    text = "Whether the certificate files cannot be used as they are now; older ones are in use."
    yield _gauge("certificate_refused", text, int(rotation.is_refused))
    yield _counter("certificate_reloads", "Renewed certificates that were taken into use.", rotation.reloads)


def _leases(sessions: Sessions) -> Iterator[Metric]:
    driver = sessions.driver
    now_ms = driver.ports.now_ms()
    waiting = {key: len(home.waiters) for key, home in sessions.leases.homes.items() if home.waiters}
    known: list[tuple[str, Register]] = [
        (key, register)
        for key, register in driver.acceptor.registers.items()
        if key.startswith(LEASE) and (register.value is not None or key in waiting)
    ]
    vacant = [key for key, register in known if not register.is_live(now_ms)]
    states = [(len(known) - len(vacant), {"state": "held"}), (len(vacant), {"state": "vacant"})]
    yield _gauge("leases", "Leases that this node knows.", states)
    wanted = sum(key in waiting for key in vacant)
    yield _gauge("leases_wanted", "Vacant leases for which candidates wait at this node.", wanted)
    leaders, terms, candidates = [], [], []
    for key, register in islice(known, LEASE_SERIES_MAX):
        namespace, _, name = key[len(LEASE) :].partition("/")
        labels = {"namespace": namespace, "lease": name}
        leaders.append((int(register.is_live(now_ms)), labels))
        terms.append((register.value.term if register.value is not None else 0, labels))
        candidates.append((waiting.get(key, 0), labels))
    yield _gauge("has_leader", "Whether somebody holds the lease, as this node sees it.", leaders)
    yield _gauge("term", "Fencing token of the latest holder.", terms)
    yield _gauge("candidates_waiting", "Candidates of the lease that wait at this node.", candidates)
    dropped = max(0, len(known) - LEASE_SERIES_MAX)
    yield _gauge("lease_series_dropped", f"Leases above the {LEASE_SERIES_MAX} that have series.", dropped)


Samples = float | Sequence[tuple[float, dict[str, str]]]


def _gauge(name: str, text: str, samples: Samples) -> Metric:
    return _fill(GaugeMetricFamily, name, text, samples)


def _counter(name: str, text: str, samples: Samples) -> Metric:
    return _fill(CounterMetricFamily, name, text, samples)


def _histogram(name: str, text: str, samples: Sequence[tuple[Durations, dict[str, str]]]) -> Metric:
    metric = HistogramMetricFamily(PREFIX + name, text, labels=list(samples[0][1]))
    for durations, labels in samples:
        bounds = [*map(str, durations.bounds_s), "+Inf"]
        buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
        metric.add_metric(list(labels.values()), buckets, durations.sum_s)
    return metric


def _fill(
    family: Callable[..., GaugeMetricFamily | CounterMetricFamily], name: str, text: str, samples: Samples
) -> Metric:
    if isinstance(samples, int | float):
        return family(PREFIX + name, text, value=samples)
    metric = family(PREFIX + name, text, labels=list(samples[0][1]) if samples else [])
    for value, labels in samples:
        metric.add_metric(list(labels.values()), value)
    return metric
