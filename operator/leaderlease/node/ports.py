"""What the driver needs from the world. Production gives it sockets and clocks, the simulator its own.

The driver calls nothing else that has an effect, so whoever implements these ports decides every interleaving.
"""

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Forget the call; a second time does nothing."""


class Ports(Protocol):
    """Clock, timers, network and randomness of one node."""

    def now_ms(self) -> int:
        """Return CLOCK_MONOTONIC_RAW in whole milliseconds, rounded down."""

    def now_us(self) -> int:
        """Return the same clock in microseconds, for measurements."""

    def wall_ms(self) -> int:
        """Return the wall clock, for people only; nothing is decided by it."""

    def call_later(self, delay_ms: float, call: Callable[[], None]) -> Timer:
        """Call once, after at least this long."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call once, after everything that is being handled now: the end of the tick."""

    def send(self, member: str, message: Any) -> None:
        """Queue a request or notice for a peer; it may be lost, and never blocks."""

    def reply(self, member: str, message: Any) -> None:
        """Queue an answer for a peer, on the connection that it asked on."""

    def random(self) -> float:
        """Return a number in [0, 1)."""

    def halt(self, reason: str) -> None:
        """Stop this process: it must not answer anything any more (R3, R9)."""
