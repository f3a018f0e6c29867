"""Prometheus metrics of a node, read from its state when somebody scrapes (etcd's words where etcd has one).

Rule 1: a scrape changes nothing and costs nothing between scrapes.
Rule 2: series for single leases stop at ``LEASE_SERIES_MAX``; ``lease_series_dropped`` says how many have none.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from leaderlease import __version__
from leaderlease.node.homes import LEASE
from leaderlease.node.node import Node
from leaderlease.node.sessions import Sessions
from leaderlease.node.stats import Durations

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
        yield _gauge("build_info", "Which software runs.", [(1, {"version": __version__})])
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
    peers = [m for m in driver.configuration.members if m.uuid != driver.member]
    connected = [(int(m.uuid in healthy), {"peer": m.name}) for m in peers]
    yield _gauge("peer_connected", "Whether a member can be asked.", connected)
    trips = driver.round_trip_ms
    round_trips = [(trips[m.uuid] / 1000, {"peer": m.name}) for m in peers if m.uuid in trips]
    yield _gauge("peer_round_trip_seconds", "Latest round trip of a ping.", round_trips)


def _leases(sessions: Sessions) -> Iterator[Metric]:
    driver = sessions.driver
    now_ms = driver.ports.now_ms()
    keys = [key for key, register in driver.acceptor.registers.items() if key.startswith(LEASE) and register.value]
    held = sum(driver.acceptor.registers[key].is_live(now_ms) for key in keys)
    yield _gauge(
        "leases", "Leases that this node knows.", [(held, {"state": "held"}), (len(keys) - held, {"state": "vacant"})]
    )
    leaders, terms = [], []
    for key in islice(keys, LEASE_SERIES_MAX):
        register = driver.acceptor.registers[key]
        namespace, _, name = key[len(LEASE) :].partition("/")
        labels = {"namespace": namespace, "lease": name}
        leaders.append((int(register.is_live(now_ms)), labels))
        terms.append((register.value.term if register.value is not None else 0, labels))
    yield _gauge("has_leader", "Whether somebody holds the lease, as this node sees it.", leaders)
    yield _gauge("term", "Fencing token of the latest holder.", terms)
    dropped = max(0, len(keys) - LEASE_SERIES_MAX)
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
