"""What happened in this process since it started; ``metrics.py`` reads it when somebody scrapes."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

RECENT_MAX: Final = 1024
"""Latest commits that the percentile is taken over."""
FINE_S: Final = tuple(0.00025 * 2**n for n in range(14))
"""0.25 ms to 2 s, doubling."""
FSYNC_S: Final = tuple(0.001 * 2**n for n in range(14))
"""As etcd has them: 1 ms to 8 s, doubling."""
FAILOVER_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Durations:
    """A histogram that costs one search and two additions for each duration; ``metrics.py`` words it.

    Args:
        bounds_s: Upper bounds, included, ascending; one more bucket takes what is longer.
    """

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self.bounds_s = tuple(bounds_s)
        self.counts = [0] * (len(self.bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds


class Stats:
    """Counters are plain integers; durations go into histograms that nobody has to empty."""

    def __init__(self) -> None:
        self.ballots_started = 0
        self.ballots_rejected: Counter[str] = Counter()
        self.proposals_committed = 0
        self.proposals_failed = 0
        self.renewals = 0
        self.renew_failures: Counter[str] = Counter()
        self.expired = 0
        self.leader_changes: Counter[str] = Counter()
        self.protocol_errors: Counter[str] = Counter()
        self.sessions_refused: Counter[str] = Counter()
        self.requests_refused: Counter[str] = Counter()
        self.leaderless_ms = 0
        self.phase_seconds = {name: Durations(FINE_S) for name in ("prepare", "accept")}
        self.failover_seconds = Durations(FAILOVER_S)
        self.fsync_seconds = Durations(FSYNC_S)
        self._fsync_recent: deque[float] = deque(maxlen=RECENT_MAX)

    def committed(self, seconds: list[float]) -> None:
        """Take the durations of some commits."""
        for duration in seconds:
            self.fsync_seconds.observe(duration)
        self._fsync_recent.extend(seconds)

    def fsync_p99_ms(self) -> float:
        """Return the 99th percentile of the latest commits, in milliseconds; 0.0 when there were none."""
        ordered = sorted(self._fsync_recent)
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000 if ordered else 0.0
