"""Phase 1 in advance: a lease that nobody wants is prepared, and the next acquire here is one round trip.

Rule 1: this is a favour to whoever comes next, so it never holds up those who are there: few at a time.
Rule 2: what is prepared is a ballot like any other; a higher one makes it worthless, and then it is dropped.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from leaderlease.node.driver import Driver
from leaderlease.node.homes import Home
from leaderlease.paxos.proposer import Attempt, Phase

PREPARED_MAX: Final = 10_000
"""Vacancies that this node keeps prepared."""
PREPARING_MAX: Final = 32
"""Vacancies for which phase 1 is under way; thousands become free at once when a client with many leases has died."""


class Vacancies:
    """The prepared vacancies of one node.

    Args:
        driver: Of this node.
        home: Returns what is kept for a lease; made on first use.
        free: Called when the attempt of a lease has ended.
    """

    def __init__(self, driver: Driver, home: Callable[[str], Home], free: Callable[[Home], None]) -> None:
        self._driver = driver
        self._home = home
        self._free = free
        self._prepared = 0
        self._preparing = 0
        self._queue: deque[str] = deque()

    def prepare(self, home: Home) -> None:
        """Do phase 1 while nobody asks, now or in its turn."""
        if not self._is_free(home):
            return
        if self._preparing >= PREPARING_MAX:
            if len(self._queue) < PREPARED_MAX:
                self._queue.append(home.key)
            return
        home.is_busy = True
        self._preparing += 1

        def on_end(attempt: Attempt) -> None:
            self._preparing -= 1
            if attempt.phase is Phase.PREPARED:
                home.prepared = attempt
                self._prepared += 1
            self._free(home)
            self._next()

        self._driver.start(home.key, "", None, on_end)

    def take(self, home: Home) -> Attempt | None:
        """Return the prepared attempt of a lease, which is kept no longer; None if there is none."""
        prepared, home.prepared = home.prepared, None
        if prepared is not None:
            self._prepared -= 1
        return prepared

    def _is_free(self, home: Home) -> bool:
        driver = self._driver
        register = driver.acceptor.registers.get(home.key)
        return not (
            home.is_busy
            or home.waiters
            or home.prepared is not None
            or home.held is not None
            or self._prepared >= PREPARED_MAX
            or not driver.is_quorum_connected()
            or (register is not None and register.is_live(driver.ports.now_ms()))
        )

    def _next(self) -> None:
        while self._queue and self._preparing < PREPARING_MAX:
            home = self._home(self._queue.popleft())
            if self._is_free(home):
                self.prepare(home)
            elif not home.is_busy:
                self._free(home)
