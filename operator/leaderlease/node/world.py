"""The real world behind the driver's ports: clocks, timers, sockets and chance."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from leaderlease.node.ports import Timer

if TYPE_CHECKING:
    from leaderlease.node.peers import Peers

CLOCK: Final = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)
"""Never the wall clock: steps of it change nothing (section 4). Where there is no raw clock, the monotonic one."""


def raw_ms() -> int:
    """Return the acceptor's clock in whole milliseconds."""
    return time.clock_gettime_ns(CLOCK) // 1_000_000


def raw_us() -> int:
    """Return the same clock in microseconds."""
    return time.clock_gettime_ns(CLOCK) // 1_000


class World:
    """Ports on asyncio. ``peers`` is set once the connections exist.

    Args:
        on_halt: Called with the reason when this process must stop.
    """

    def __init__(self, on_halt: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.peers: Peers | None = None
        self.halt = on_halt
        self.now_ms = raw_ms
        self.now_us = raw_us
        self.random = random.random

    def wall_ms(self) -> int:
        """Return the wall clock, for people."""
        return time.time_ns() // 1_000_000

    def call_later(self, delay_ms: float, call: Callable[[], None]) -> Timer:
        """Call once, after at least this long."""
        return self._loop.call_later(delay_ms / 1000, call)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call at the end of this tick."""
        self._loop.call_soon(call)

    def send(self, member: str, message: Any) -> None:
        """Send a request to a peer."""
        if self.peers is not None:
            self.peers.send(member, message)

    def reply(self, member: str, message: Any) -> None:
        """Answer a peer."""
        if self.peers is not None:
            self.peers.reply(member, message)
