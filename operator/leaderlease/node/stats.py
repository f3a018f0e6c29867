"""Counters of one node: plain integers, read by ``metrics.py`` when somebody scrapes."""

from collections import Counter, deque

SAMPLES_MAX = 4096
"""Latest samples kept of each duration until the next scrape takes them."""


class Stats:
    """What happened in this process since it started."""

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
        self.sessions_refused = 0
        self.leaderless_ms = 0
        self.phase_seconds: dict[str, deque[float]] = {
            "prepare": deque(maxlen=SAMPLES_MAX),
            "accept": deque(maxlen=SAMPLES_MAX),
        }
        self.failover_seconds: deque[float] = deque(maxlen=SAMPLES_MAX)
