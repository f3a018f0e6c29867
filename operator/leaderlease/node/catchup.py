"""Catch-up: a member that was away copies what the others accepted (protocol, section 5).

Rule 1: what is copied is a late duplicate of its proposer's own Accept, with the same ballot and value, so taking it
        is always safe; it raises the promise as any Accept does and arms a full timer (R4, R5).
Rule 2: nobody waits for it. It makes the member useful for quorums again, and its own view fresh.
Rule 3: digests are compared from time to time; where they differ for long, the pages are read again, less and less
        often while they go on differing.
"""

from typing import Final

from leaderlease.node.driver import Driver
from leaderlease.paxos.acceptor import SYNC_PAGE_MAX
from leaderlease.paxos.ballot import ZERO
from leaderlease.paxos.messages import Accept, DigestReply, DigestRequest, SyncPage, SyncRequest

DIGEST_PERIOD_MS: Final = 10_000
"""How often digests are compared with one peer."""
MISMATCHES_BEFORE_SYNC: Final = 2
"""Comparisons in a row that differ, before pages are read; traffic alone makes one differ now and then."""
MISMATCHES_MAX: Final = 256
"""Bound of the comparisons before pages are read once more: it doubles with each reading, until digests agree."""
PAGE_TIMEOUT_MS: Final = 2_000
"""After this, the page is asked for again."""


class CatchUp:
    """Copies from each peer once when it comes up, and again where digests go on differing."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._request = 0
        self._waiting: dict[int, tuple[str, str]] = {}
        self._behind: set[str] = set(driver.quorum.members - {driver.member})
        self._mismatches: dict[str, int] = {}
        self._patience: dict[str, int] = {}
        self.copied = 0
        driver.route(SyncPage, self._on_page)
        driver.route(DigestReply, self._on_digest)
        driver.on_peer_change.append(self._on_peer_change)
        driver.ports.call_later(DIGEST_PERIOD_MS, self._compare)

    def is_caught_up(self) -> bool:
        """Tell whether this member has read what a majority, itself included, had accepted when it started."""
        return self._driver.quorum.is_met(self._driver.quorum.members - self._behind)

    def _on_peer_change(self, member: str, is_up: bool) -> None:
        if is_up and member in self._driver.quorum.members:
            self._ask(member, "")

    def _ask(self, member: str, after: str) -> None:
        self._request += 1
        request, driver = self._request, self._driver
        self._waiting[request] = (member, after)
        driver.send(member, SyncRequest(driver.epoch, request, after, SYNC_PAGE_MAX))
        driver.ports.call_later(PAGE_TIMEOUT_MS, lambda: self._ask_again(request))

    def _ask_again(self, request: int) -> None:
        waiting = self._waiting.pop(request, None)
        if waiting is not None and waiting[0] in self._driver.connected:
            self._ask(*waiting)

    def _on_page(self, origin: str, message: SyncPage) -> None:
        waiting = self._waiting.pop(message.request, None)
        if waiting is None or waiting[0] != origin:
            return
        driver = self._driver
        for entry in message.entries:
            register = driver.acceptor.registers.get(entry.key)
            accepted = register.accepted if register is not None else ZERO
            if entry.ballot > accepted:
                self.copied += 1
                driver.on_message("", Accept(driver.epoch, entry.key, entry.ballot, entry.value))
        if message.after:
            self._ask(origin, message.after)
        else:
            self._behind.discard(origin)

    def _compare(self) -> None:
        driver = self._driver
        if driver.is_stopped:
            return
        self._request += 1
        driver.broadcast(DigestRequest(driver.epoch, self._request))
        driver.ports.call_later(DIGEST_PERIOD_MS, self._compare)

    def _on_digest(self, origin: str, message: DigestReply) -> None:
        if message.digest == self._driver.acceptor.digest:
            self._mismatches.pop(origin, None)
            self._patience.pop(origin, None)
            return
        count = self._mismatches[origin] = self._mismatches.get(origin, 0) + 1
        patience = self._patience.get(origin, MISMATCHES_BEFORE_SYNC)
        if count >= patience:
            # Under load digests never agree, and what lies below the ceiling of a restart cannot be taken (R5).
            self._patience[origin] = min(2 * patience, MISMATCHES_MAX)
            self._mismatches[origin] = 0
            self._ask(origin, "")
