"""When this member's own timers run out: candidates are woken and watchers are told.

Rule 1: one entry a register in a heap. A renewal does not touch it: what was renewed is put back when it comes up.
Rule 2: without a majority this node cannot tell an expiry from its own isolation, so it says nothing and looks later.
"""

import heapq
from typing import Final

from leaderlease.node.driver import Driver
from leaderlease.node.homes import LEASE
from leaderlease.node.leases import Leases
from leaderlease.node.ports import Timer
from leaderlease.paxos.acceptor import NEVER, Record

EXPIRIES_PER_TURN: Final = 128
"""Timers looked at before others have their turn: a client with many leases may have died."""
ISOLATED_RECHECK_MS: Final = 500
"""How often a node without a majority looks whether it has one again."""


class Expiries:
    """The timers of all leases, one timer of the event loop."""

    def __init__(self, driver: Driver, leases: Leases) -> None:
        self._driver = driver
        self._leases = leases
        self._heap: list[tuple[int, str]] = []
        self._queued: set[str] = set()
        self._timer: Timer | None = None
        self._timer_at_ms = 0
        driver.on_installed.append(self._on_installed)
        for key in driver.acceptor.registers:
            self._watch(key)

    def _on_installed(self, record: Record) -> None:
        self._watch(record.key)

    def _watch(self, key: str) -> None:
        if key in self._queued or not key.startswith(LEASE):
            return
        expires_ms = self._driver.acceptor.registers[key].expires_ms
        if 0 < expires_ms < NEVER:
            self._push(key, expires_ms)

    def _push(self, key: str, at_ms: int) -> None:
        self._queued.add(key)
        heapq.heappush(self._heap, (at_ms, key))
        self._arm()

    def _arm(self) -> None:
        if not self._heap:
            return
        at_ms = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at_ms <= at_ms:
                return
            self._timer.cancel()
        self._timer_at_ms = at_ms
        delay_ms = max(0, at_ms - self._driver.ports.now_ms())
        self._timer = self._driver.ports.call_later(delay_ms, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now_ms = self._driver.ports.now_ms()
        for _ in range(EXPIRIES_PER_TURN):
            if not self._heap or self._heap[0][0] > now_ms:
                break
            _, key = heapq.heappop(self._heap)
            self._queued.discard(key)
            self._look(key, now_ms)
        self._arm()

    def _look(self, key: str, now_ms: int) -> None:
        register = self._driver.acceptor.registers[key]
        expires_ms = register.expires_ms
        if expires_ms <= 0 or expires_ms >= NEVER or register.value is None:
            return
        if now_ms < expires_ms:
            self._push(key, expires_ms)
        elif not self._driver.is_quorum_connected():
            self._push(key, now_ms + ISOLATED_RECHECK_MS)
        else:
            self._driver.learner.ended(key[len(LEASE) :], register.value.term, "expired")
            self._leases.expired(key)
