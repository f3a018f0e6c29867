"""What happened in this process since it started; ``metrics.py`` reads it when somebody scrapes."""

from collections import Counter, deque
from typing import Final

from leaderlease.node.durations import Durations
from leaderlease.node.peerstats import PeerStats

RECENT_MAX: Final = 1024
"""Latest commits that the percentile is taken over."""
FINE_S: Final = tuple(0.00025 * 2**n for n in range(14))
"""0.25 ms to 2 s, doubling."""
FSYNC_S: Final = tuple(0.001 * 2**n for n in range(14))
"""As etcd has them: 1 ms to 8 s, doubling."""
FAILOVER_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Stats:
    """Counters are plain integers; durations go into histograms that nobody has to empty.

    Labels that are known begin at 0: what Prometheus first sees as 1 did not rise, as far as it knows.
    """

    def __init__(self) -> None:
        self.ballots_started = 0
        self.ballots_rejected: Counter[str] = Counter(live=0, promised=0, epoch=0)
        self.proposals_committed = 0
        self.proposals_failed = 0
        self.renewals = 0
        self.renew_failures: Counter[str] = Counter(refused=0, quorum=0)
        self.expired = 0
        self.leader_changes: Counter[str] = Counter(acquired=0, transferred=0)
        self.protocol_errors: Counter[str] = Counter(peer=0, client=0)
        self.sessions_refused: Counter[str] = Counter(hello=0, identity=0)
        self.requests_refused: Counter[str] = Counter()
        self.leaderless_ms = 0
        self.phase_seconds = {name: Durations(FINE_S) for name in ("prepare", "accept")}
        self.failover_seconds = Durations(FAILOVER_S)
        self.fsync_seconds = Durations(FSYNC_S)
        self.peers: dict[str, PeerStats] = {}
        self._fsync_recent: deque[float] = deque(maxlen=RECENT_MAX)

    def peer(self, member: str) -> PeerStats:
        """Return what is known of another member, by uuid."""
        found = self.peers.get(member)
        if found is None:
            found = self.peers[member] = PeerStats()
        return found

    def committed(self, seconds: list[float]) -> None:
        """Take the durations of some commits."""
        for duration in seconds:
            self.fsync_seconds.observe(duration)
        self._fsync_recent.extend(seconds)

    def fsync_p99_ms(self) -> float:
        """Return the 99th percentile of the latest commits, in milliseconds; 0.0 when there were none."""
        ordered = sorted(self._fsync_recent)
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000 if ordered else 0.0
