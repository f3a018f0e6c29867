"""The holder's clocks: what was read before each send, and how much time has passed since (protocol, section 4).

Rule 1: elapsed time is the larger of what CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW say; never wall clock, never
        ``loop.time()`` (H31, H32).
Rule 2: validity counts from a reading of *before* the send; sharing an older reading only shortens it (R6).
"""

import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Final, NamedTuple

from leaderlease.paxos.lease import RHO_PPM_DEFAULT, RHO_PPM_WITHOUT_RAW_CLOCK

READINGS_MAX: Final = 4_096
"""Readings that are kept; older ones are forgotten, and a grant that names one of them is asked for again."""
READING_STEP_MS: Final = 1.0
"""Messages sent within this time share the first one's reading."""


class Instant(NamedTuple):
    """Both clocks, in milliseconds, read together."""

    boot_ms: float
    raw_ms: float


Clock = Callable[[], Instant]


def elapsed_ms(since: Instant, now: Instant) -> float:
    """Return how long ``since`` is ago at most, in milliseconds (rule 1)."""
    return max(now.boot_ms - since.boot_ms, now.raw_ms - since.raw_ms)


def system_clock() -> tuple[Clock, int]:
    """Return this platform's clock, and the bound on its rate error in parts per million.

    Without CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW it is the monotonic clock, which may be slewed by 10 %.
    """
    if hasattr(time, "CLOCK_BOOTTIME") and hasattr(time, "CLOCK_MONOTONIC_RAW"):
        boot, raw, read = time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC_RAW, time.clock_gettime_ns

        def both() -> Instant:
            return Instant(read(boot) / 1e6, read(raw) / 1e6)

        return both, RHO_PPM_DEFAULT

    def monotonic() -> Instant:
        reading = time.monotonic_ns() / 1e6
        return Instant(reading, reading)

    return monotonic, RHO_PPM_WITHOUT_RAW_CLOCK


class Readings:
    """What the clocks said before each numbered message of one connection."""

    def __init__(self) -> None:
        self._seqs: list[int] = []
        self._instants: list[Instant] = []

    def note(self, seq: int, now: Instant) -> None:
        """Remember ``now`` as a reading from before message ``seq`` was sent; ``seq`` only grows."""
        if self._instants and elapsed_ms(self._instants[-1], now) < READING_STEP_MS:
            return
        if len(self._seqs) >= READINGS_MAX:
            del self._seqs[: READINGS_MAX // 2], self._instants[: READINGS_MAX // 2]
        self._seqs.append(seq)
        self._instants.append(now)

    def get(self, seq: int) -> Instant | None:
        """Return a reading from before message ``seq`` was sent; None if it is forgotten or of another connection."""
        at = bisect_right(self._seqs, seq)
        return self._instants[at - 1] if at else None
