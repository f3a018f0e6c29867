"""The numbered messages of one session: their clock readings, and which keepalives still wait for an answer."""

from collections import deque
from typing import Final

from leaderlease.client.clock import Instant, Readings, elapsed_ms
from leaderlease.wire.session import KeepAlive

IDLE_PERIOD_MS: Final = 10_000
"""Longest period of keepalives: it is how an idle session notices that its node is gone."""
RENEWALS_PER_DURATION: Final = 3
ANSWER_MIN_MS: Final = 100
ANSWER_MAX_MS: Final = 5_000
"""A keepalive waits for its answer one period, within these bounds; then the connection is given up."""


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

    def due_ms(self, shortest_ms: float, now: Instant) -> float:
        """Return after how many milliseconds the next keepalive is due; ``shortest_ms`` is the shortest duration."""
        return 0.0 if self._sent is None else _period_ms(shortest_ms) - elapsed_ms(self._sent, now)

    def patience_ms(self, shortest_ms: float, now: Instant) -> float:
        """Return for how many more milliseconds the oldest answer may stay out; infinity when none does."""
        if not self._unanswered:
            return float("inf")
        return answer_ms(shortest_ms) - elapsed_ms(self._unanswered[0][1], now)


def answer_ms(shortest_ms: float) -> float:
    """Return for how long a keepalive may stay unanswered, in milliseconds."""
    return min(max(_period_ms(shortest_ms), ANSWER_MIN_MS), ANSWER_MAX_MS)


def _period_ms(shortest_ms: float) -> float:
    return min(shortest_ms / RENEWALS_PER_DURATION, IDLE_PERIOD_MS)
