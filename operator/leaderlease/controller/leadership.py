"""Which replica writes: the holder of the operator's own lease, in our own quorum.

Rule 1: a replica writes while its lease may be believed, computed at each write.
Rule 2: while that quorum has no majority nobody can hold, and somebody must say so: then statuses and Events, which
        every replica would write alike, may be written by the one that led last, or after a pause by any.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from leaderlease.client.lease import Lease
from leaderlease.controller.quorums import QuorumLink
from leaderlease.errors import LeaderLeaseError, LeaseRefused
from leaderlease.wire.session import Spec

LEASE_DURATION_MS: Final = 2_000
"""Of the operator's own lease: a replica that died is followed after this."""
SOURCE: Final = "operator"
RETRY_S: Final = 0.5
"""Pause before asking again after a refusal."""
ORPHAN_PAUSE_S: Final = 2.0
"""How long a replica that did not lead waits before it tells that the quorum is lost."""
RELEASE_TIMEOUT_S: Final = 2.0

logger = logging.getLogger("leaderlease.operator.leadership")


class Leadership:
    """The operator's own lease.

    Args:
        link: The quorum that decides it; None where there is none yet.
        name: ``namespace/name``.
        identity: Of this replica.
        on_change: Called in the loop when this replica begins or stops to lead.
    """

    def __init__(
        self, link: Callable[[], QuorumLink | None], name: str, identity: str, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self._link = link
        self._identity = identity
        self._on_change = on_change
        self._lease: Lease | None = None
        self._led_last = False
        self._tell_at: float | None = None

    @property
    def is_held(self) -> bool:
        """This replica leads, by its clocks, now."""
        return self._lease is not None and self._lease.remaining() > 0

    @property
    def term(self) -> int:
        """The term that this replica leads under; 0 while it does not."""
        return self._lease.term if self._lease is not None else 0

    def may_tell(self) -> bool:
        """Tell whether this replica may write statuses and Events: it leads, or nobody can (rule 2)."""
        if self.is_held:
            return True
        return self._tell_at is not None and asyncio.get_running_loop().time() >= self._tell_at

    async def run(self) -> None:
        """Campaign for ever; leaving releases the lease."""
        try:
            while True:
                link = self._link()
                if link is None:
                    await asyncio.sleep(RETRY_S)
                    continue
                await link.connected.wait()
                try:
                    await self._hold(link)
                except LeaseRefused:
                    # Another quorum than before, or somebody withdrew it.
                    await self._declare(link)
                except LeaderLeaseError as error:
                    logger.info("%s: %s", self.name, error)
                await asyncio.sleep(RETRY_S)
        finally:
            if self._lease is not None:
                lease, self._lease = self._lease, None
                try:
                    async with asyncio.timeout(RELEASE_TIMEOUT_S):
                        await lease.release()
                except (LeaderLeaseError, TimeoutError) as error:
                    logger.info("%s: not released, it will expire: %s", self.name, error)

    async def _declare(self, link: QuorumLink) -> None:
        try:
            await link.declare(self.name, Spec(LEASE_DURATION_MS, source=SOURCE))
        except LeaderLeaseError as error:
            logger.warning("%s: cannot be declared: %s", self.name, error)

    async def _hold(self, link: QuorumLink) -> None:
        client = link.client
        if client is None:
            return
        lease = await client.acquire(self.name, self._identity)
        self._lease, self._led_last = lease, True
        logger.info("%s: this replica writes, under term %d", self.name, lease.term)
        self._on_change()
        waits = [asyncio.ensure_future(event.wait()) for event in (lease.lost, lease.step_down_requested)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not lease.lost.is_set():
                await lease.release(lease.successor)
        finally:
            for wait in waits:
                wait.cancel()
            if lease.lost.is_set() or lease.is_released:
                self._lease = None
        logger.info("%s: this replica does not write any more: %s", self.name, lease.reason or "released")
        self._on_change()

    def quorum_changed(self, is_available: bool) -> float:
        """Take note whether a majority answers; returns after how many seconds this replica may tell of it."""
        if is_available:
            self._tell_at = None
            return 0.0
        if self._tell_at is None:
            pause_s = 0.0 if self._led_last else ORPHAN_PAUSE_S
            self._tell_at = asyncio.get_running_loop().time() + pause_s
        return max(0.0, self._tell_at - asyncio.get_running_loop().time())
