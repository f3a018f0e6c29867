"""The quorum's side: one session per quorum, what it decided, what is declared, and how it is.

Rule 1: transitions come by one watch stream, never by polling. What a stream may have missed is read again.
Rule 2: how the nodes are is asked once a second; LeaderLeases hear of it when two answers in a row agree.
Rule 3: a quorum that has no member of those that were known was made anew, and its terms begin at 1: what the one
        before decided is forgotten. Member uuids tell, for the cluster's uuid is that of the installation.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

import leaderlease
from leaderlease.client.sdk import Client
from leaderlease.controller.truth import NOTHING, Member, QuorumView, Truth, fold, fold_info, view_of
from leaderlease.errors import LeaderLeaseError
from leaderlease.paxos.lease import parse_name
from leaderlease.wire.session import NodeStatus, Spec, Transition

POLL_S: Final = 1.0
"""How often the nodes are asked how they are."""
POLL_TIMEOUT_S: Final = 1.5
MISSES_MAX: Final = 2
"""Unanswered questions in a row after which a quorum counts as unreachable."""
MEMBERS_EVERY: Final = 30
"""Every so many polls each node is asked for its version, and whether it is a member."""
RETRY_S: Final = 1.0
"""Pause before connecting or watching again."""
READS_MAX: Final = 16
"""Leases that are read again at a time."""

logger = logging.getLogger("leaderlease.operator.quorum")


class _MadeAnew(Exception):
    """The quorum has no member of those that were known (rule 3)."""


class QuorumLink:
    """One quorum.

    Args:
        name: Of the LeaderQuorum.
        endpoints: Where its nodes serve clients.
        options: Further arguments of ``leaderlease.connect``.
        on_lease: Called with a lease's name when something was decided about it.
        on_view: Called with our name when the quorum's health has changed.

    Attributes:
        view: How it is now.
        settled_view: What two answers in a row agreed on.
        declared: What is declared, by lease name; None until it was read.
        is_truth_known: All leases were read.
        members: Uuids of its members; empty until they were told.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[str],
        options: dict[str, Any],
        on_lease: Callable[[str], None],
        on_view: Callable[[str], None],
    ) -> None:
        self.name = name
        self.endpoints = tuple(endpoints)
        self.view = self.settled_view = QuorumView()
        self.declared: dict[str, Spec] | None = None
        self.is_truth_known = False
        self.client: Client | None = None
        self.connected = asyncio.Event()
        self._options = options
        self._on_lease = on_lease
        self._on_view = on_view
        self._truths: dict[str, Truth] = {}
        self.members: frozenset[str] = frozenset()
        self._reading = asyncio.Semaphore(READS_MAX)
        self._reads: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"quorum {self.name}")

    async def stop(self) -> None:
        """Disconnect."""
        tasks = [task for task in (self._task, *self._reads.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def truth(self, name: str) -> Truth:
        """Return what was decided about a lease."""
        return self._truths.get(name, NOTHING)

    # --- declarations ----------------------------------------------------------------------------------------

    async def refresh_declared(self) -> None:
        """Read again what is declared; another replica may have written.

        Raises:
            LeaderLeaseError: No answer.
        """
        if self.client is not None:
            self.declared = await self.client.declared()

    async def declare(self, name: str, spec: Spec) -> None:
        """Write a declaration.

        Raises:
            LeaderLeaseError: It may not have been written.
        """
        client = self._connected()
        await client.declare(
            name,
            duration="never" if spec.duration_ms is None else spec.duration_ms / 1000,
            lock_delay=spec.lock_delay_ms / 1000,
            identities=spec.identities,
            mode=spec.mode,
            service_accounts=spec.service_accounts,
            pods=spec.pods,
            source=spec.source,
            renew_deadline=spec.renew_deadline_ms / 1000,
            retry_period=spec.retry_period_ms / 1000,
            preference=spec.preference,
            no_failback=spec.no_failback_ms / 1000,
        )
        if self.declared is not None:
            self.declared[name] = spec

    async def withdraw(self, name: str) -> None:
        """Take a declaration back; raises as :meth:`declare`."""
        await self._connected().withdraw(name)
        if self.declared is not None:
            self.declared.pop(name, None)

    def _connected(self) -> Client:
        if self.client is None:
            raise LeaderLeaseError(f"quorum {self.name!r}: not connected: {self.view.error}")
        return self.client

    # --- inside ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                async with leaderlease.connect(self.endpoints, **self._options) as client:
                    self.client = client
                    self.connected.set()
                    logger.info("quorum %s: connected to %s", self.name, client.endpoint)
                    await self._serve(client)
            except LeaderLeaseError as error:
                self._lost(str(error))
            finally:
                self.client = None
                self.connected.clear()
            await asyncio.sleep(RETRY_S)

    async def _serve(self, client: Client) -> None:
        """Follow a quorum until it is found to be another one; then everything is asked for by a new client."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(client))
                group.create_task(self._poll(client))
        except* _MadeAnew:
            logger.warning("quorum %s: made anew, no member is one of before: terms begin at 1", self.name)

    async def _follow(self, client: Client) -> None:
        while True:
            try:
                self._know(await client.status())
                await self._read_all(client)
                async with contextlib.aclosing(client.watch("")) as transitions:
                    async for transition in transitions:
                        self._take(client, transition)
            except LeaderLeaseError as error:
                logger.warning("quorum %s: the watch ended: %s", self.name, error)
            await asyncio.sleep(RETRY_S)

    def _know(self, status: NodeStatus) -> None:
        """Take note of the members (rule 3)."""
        before = self.members
        self.members = frozenset({status.member, *(uid for _, uid, _, _ in status.peers)})
        if before and not before & self.members:
            self._truths.clear()
            self.is_truth_known = False
            raise _MadeAnew

    async def _read_all(self, client: Client) -> None:
        self.declared = await client.declared()
        for info in await client.list():
            before = self.truth(info.name)
            if before.holder is not None and info.holder is None:
                self._doubt(client, info.name)
            else:
                self._truths[info.name] = fold_info(before, info)
        self.is_truth_known = True
        self._on_view(self.name)

    def _take(self, client: Client, transition: Transition) -> None:
        name = transition.name
        before = self.truth(name)
        if transition.kind in ("state", "resync") and transition.holder is None and before.holder is not None:
            # One node that knows of no holder may have just started: a majority is asked before anybody is told.
            self._doubt(client, name)
            return
        after = fold(before, transition)
        # "expired" may come too early and be taken back silently; after a gap the time of the grant is unknown.
        if transition.kind in ("expired", "resync") or (after.holder and not after.terms[0].acquired_ms):
            self._doubt(client, name)
        if after != before:
            self._truths[name] = after
            self._on_lease(name)

    def _doubt(self, client: Client, name: str) -> None:
        if name not in self._reads:
            task = asyncio.get_running_loop().create_task(self._read(client, name))
            self._reads[name] = task
            task.add_done_callback(lambda _: self._reads.pop(name, None))

    async def _read(self, client: Client, name: str) -> None:
        """Read one lease from a majority."""
        async with self._reading:
            try:
                parse_name(name)
                info = await client.get(name)
            except LeaderLeaseError as error:
                logger.info("quorum %s: %s was not read again: %s", self.name, name, error)
                return
        if info is not None:
            before = self.truth(name)
            after = fold_info(before, info)
            if after != before:
                self._truths[name] = after
                self._on_lease(name)

    async def _poll(self, client: Client) -> None:
        misses, polls, latest = 0, 0, QuorumView()
        while True:
            try:
                async with asyncio.timeout(POLL_TIMEOUT_S):
                    status = await client.status()
                    self._know(status)
            except (LeaderLeaseError, TimeoutError) as error:
                misses += 1
                if misses >= MISSES_MAX:
                    self._lost(str(error) or "no answer in time")
                    latest = self.view
            else:
                misses = 0
                view = view_of(status, self.view)
                if polls % MEMBERS_EVERY == 0 or view.members != self.view.members:
                    view = await self._with_members(client, view)
                polls += 1
                self._see(view, is_settled=view.numbers == latest.numbers or not self.settled_view.is_known)
                latest = view
            await asyncio.sleep(POLL_S)

    async def _with_members(self, client: Client, view: QuorumView) -> QuorumView:
        answers = await client.status_all(timeout=POLL_TIMEOUT_S)
        known = {one.member: one for one in answers.values() if isinstance(one, NodeStatus)}
        members = []
        for member in view.members:
            status = known.get(member.uid)
            told = (status.version, status.incarnation) if status else (member.version, member.incarnation)
            members.append(Member(member.name, member.uid, member.health, *told))
        uids = {member.uid for member in members}
        strangers = tuple(
            (endpoint, one.member)
            for endpoint, one in answers.items()
            if isinstance(one, NodeStatus) and one.member not in uids
        )
        return msgspec.structs.replace(view, members=tuple(members), strangers=strangers)

    def _lost(self, why: str) -> None:
        self._see(msgspec.structs.replace(self.view, is_known=False, is_available=False, error=why), is_settled=True)

    def _see(self, view: QuorumView, *, is_settled: bool) -> None:
        is_news = view != self.view or (is_settled and view.numbers != self.settled_view.numbers)
        self.view = view
        if is_settled and view.numbers != self.settled_view.numbers:
            self.settled_view = view
        if is_news:
            self._on_view(self.name)
