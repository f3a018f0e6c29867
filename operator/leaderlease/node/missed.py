"""What this member may not store, and has to know all the same: declarations and keys that were written without it.

Rule 1: a member that was restarted refuses every ballot up to its ceiling (R5), so also late copies of what was written
        while it was away. Of such a register it reads a majority instead, and takes note of what that says; its
        acceptor is not touched.
Rule 2: leases need none of this: their renewals move them to higher ballots.
"""

from typing import Final

from leaderlease.node.driver import Driver
from leaderlease.node.homes import LEASE
from leaderlease.node.reads import Reading, Reads, ReadState
from leaderlease.paxos.ballot import Ballot

READ_AFTER_MS: Final = 500
"""After this what was refused is looked for; by then it is chosen, if it ever is. Doubles with each further look."""
READS_MAX: Final = 6
"""Looks at a register; the next copy that is refused begins anew."""


class Missed:
    """Reads what this node's acceptor refused, and tells those that listen to ``driver.on_found``."""

    def __init__(self, driver: Driver, reads: Reads) -> None:
        self._driver = driver
        self._reads = reads
        self._refused: dict[str, Ballot] = {}
        driver.on_refused.append(self._on_refused)

    def _on_refused(self, key: str, ballot: Ballot) -> None:
        if key.startswith(LEASE):
            return
        is_new = key not in self._refused
        self._refused[key] = max(ballot, self._refused.get(key, ballot))
        if is_new:
            self._look_in(key, READ_AFTER_MS, READS_MAX)

    def _look_in(self, key: str, delay_ms: int, more: int) -> None:
        def look() -> None:
            if not self._driver.is_stopped:
                self._reads.read(key, lambda reading: self._found(key, reading, delay_ms, more))

        self._driver.ports.call_later(delay_ms, look)

    def _found(self, key: str, reading: Reading, delay_ms: int, more: int) -> None:
        if reading.state is not ReadState.UNAVAILABLE and reading.value is not None:
            for call in self._driver.on_found:
                call(key, reading.ballot, reading.value)
        if reading.ballot >= self._refused[key] or more == 1:
            del self._refused[key]
        else:
            self._look_in(key, 2 * delay_ms, more - 1)
