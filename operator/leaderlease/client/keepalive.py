"""The numbered messages of one session: their clock readings, and which keepalives still wait for an answer."""

from collections import deque
from typing import Final, NamedTuple

from leaderlease.client.clock import Instant, Readings, elapsed_ms
from leaderlease.paxos.lease import RETRY_PERIOD_MIN_MS
from leaderlease.wire.session import KeepAlive

IDLE_PERIOD_MS: Final = 10_000
"""Longest period of keepalives: it is how an idle session notices that its node is gone."""
RENEWALS_PER_DURATION: Final = 3
ANSWER_MIN_MS: Final = 100
ANSWER_MAX_MS: Final = 5_000
"""A keepalive waits for its answer a third of the duration, within these bounds; then the connection is given up."""


class Pace(NamedTuple):
    """How often a session renews, and how long it waits for each answer before it goes to another node."""

    period_ms: float
    answer_ms: float


IDLE: Final = Pace(IDLE_PERIOD_MS, ANSWER_MAX_MS)


def pace_of(duration_ms: int | None, renew_deadline_ms: int = 0, retry_period_ms: int = 0) -> Pace:
    """Return the pace that one lease needs.

    Args:
        duration_ms: None is never.
        renew_deadline_ms: Of its declaration; a hung node is left when two thirds of what lies between a renewal and
            this deadline have passed, if that comes sooner. 0 is none.
        retry_period_ms: Of its declaration; a third of the duration is the longest that is used. 0 is none.
    """
    if duration_ms is None:
        return IDLE
    third_ms = duration_ms / RENEWALS_PER_DURATION
    period_ms = min(third_ms, IDLE_PERIOD_MS)
    if retry_period_ms:
        period_ms = min(period_ms, max(retry_period_ms, RETRY_PERIOD_MIN_MS))
    answer_ms = third_ms
    if renew_deadline_ms:
        answer_ms = min(answer_ms, (renew_deadline_ms - period_ms) * 2 / 3)
    return Pace(period_ms, min(max(answer_ms, ANSWER_MIN_MS), ANSWER_MAX_MS))


class KeepAlives:
    """Numbers grow over all connections; readings and unanswered keepalives are those of the present one."""

    def __init__(self) -> None:
        self._seq = 0
        self._readings = Readings()
        self._sent: Instant | None = None
        self._unanswered: deque[tuple[int, Instant]] = deque()

    def reset(self) -> None:
        """Forget the connection: no message of the next one can follow what was sent on it."""
        self._readings = Readings()
        self._sent = None
        self._unanswered.clear()

    def number(self, now: Instant) -> int:
        """Return the next message's number; ``now`` was read before its send."""
        self._seq += 1
        self._readings.note(self._seq, now)
        return self._seq

    def basis(self, seq: int) -> Instant | None:
        """Return a reading from before message ``seq`` was sent (R6); None when there is none to count from."""
        return self._readings.get(seq) if seq <= self._seq else None

    def message(self, now: Instant) -> KeepAlive:
        """Return the next keepalive."""
        seq = self.number(now)
        self._sent = now
        self._unanswered.append((seq, now))
        return KeepAlive(seq)

    def answered(self, seq: int) -> None:
        """Take note of an answer to keepalive ``seq``; earlier ones count as answered too."""
        while self._unanswered and self._unanswered[0][0] <= seq:
            self._unanswered.popleft()

    def due_ms(self, pace: Pace, now: Instant) -> float:
        """Return after how many milliseconds the next keepalive is due."""
        return 0.0 if self._sent is None else pace.period_ms - elapsed_ms(self._sent, now)

    def patience_ms(self, pace: Pace, now: Instant) -> float:
        """Return for how many more milliseconds the oldest answer may stay out; infinity when none does."""
        if not self._unanswered:
            return float("inf")
        return pace.answer_ms - elapsed_ms(self._unanswered[0][1], now)
