"""What a client asks besides leases: reading, and operating the quorum."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from leaderlease.client.core import SessionCore
from leaderlease.client.lease import Verification
from leaderlease.client.requests import Watch
from leaderlease.client.session import Session
from leaderlease.errors import ConfigError, ConnectionFailed, LeaderLeaseError, OutcomeUnknown, RemoteProtocolError
from leaderlease.paxos.lease import (
    DURATION_MAX_MS,
    MODES,
    NO_FAILBACK_MAX_MS,
    PREFERENCES,
    RENEW_DEADLINE_MIN_MS,
    RETRY_PERIOD_MIN_MS,
    parse_duration,
    parse_name,
    parse_span,
)
from leaderlease.wire import session as wire

PAGE_ITEMS: Final = 1_000
PAGES_MAX: Final = 10_000
"""Bounds of a list: leases on a page, and pages."""

Duration = str | int | float | None
"""``"750ms"``, ``"3s"``, ``"never"``; numbers are seconds; None takes what was declared for the lease."""


class Queries:
    """The part of a client that asks one question and takes one answer, or a stream of them."""

    _core: SessionCore
    _session: Session
    _timeout: float
    _waiting: "set[asyncio.Future[Any]]"
    _is_closed: bool

    # --- reading ---------------------------------------------------------------------------------------------

    async def get(self, name: str) -> wire.LeaseInfo | None:
        """Read one lease from a majority; None when nobody ever held or declared it.

        Raises:
            QuorumUnavailable: Too few nodes answer.
            ConnectionFailed: No endpoint answered in time.
            OutcomeUnknown: No answer in time.
        """
        parse_name(name)
        answer = await self._ask(wire.GetRequest(0, name), True, wire.Leases)
        return answer.items[0] if answer.items else None

    async def list(self, prefix: str = "") -> "list[wire.LeaseInfo]":
        """Read what the connected node knows of all leases whose name begins with ``prefix``, in name order."""
        items: list[wire.LeaseInfo] = []
        after = ""
        for _ in range(PAGES_MAX):
            page = await self._ask(wire.ListRequest(0, prefix, after, PAGE_ITEMS), True, wire.Leases)
            items += page.items
            if not page.after or page.after == after:
                break
            after = page.after
        return items

    async def watch(self, name: str = "", since: int = 0) -> AsyncGenerator[wire.Transition, None]:
        """Iterate over transitions, through the loss of connections; begins with the state at that time.

        None is delivered twice. Where some may be missing, ``resync`` comes instead: read the lease again.

        Args:
            name: A lease; or a prefix, when it is empty or ends with ``/`` or ``*``.
            since: The last term that was seen, of one lease.

        Raises:
            ConfigError: ``name`` is neither a name nor a prefix.
            LeaderLeaseError: The node refused to go on.
        """
        is_exact = bool(name) and name[-1] not in "/*"
        if is_exact:
            parse_name(name)
        self._check_open()
        watch = self._core.watch(name.removesuffix("*"), is_exact, since)
        self._session.pump()
        try:
            while True:
                taken, watch.buffer = deque(watch.buffer), []
                while taken:
                    yield taken.popleft()
                if watch.buffer:
                    continue
                if watch.error is not None:
                    raise watch.error
                watch.owner = self._future()
                try:
                    await watch.owner
                finally:
                    self._waiting.discard(watch.owner)
        finally:
            self._core.unwatch(watch)
            self._session.pump()

    async def verify(self, name: str, term: int) -> Verification:
        """Ask a majority whether ``term`` is the current token of a lease; the answer is true when it is.

        Raises: As :meth:`get`.
        """
        parse_name(name)
        answer = await self._ask(wire.VerifyRequest(0, name, term), True, wire.Verified)
        return Verification(answer.is_current, answer.term)

    async def status(self) -> wire.NodeStatus:
        """Ask the connected node how it and the quorum are."""
        answer: wire.NodeStatus = await self._ask(wire.StatusRequest(0), True, wire.NodeStatus)
        return answer

    # --- operating -------------------------------------------------------------------------------------------

    async def declare(
        self,
        name: str,
        *,
        duration: Duration = "3s",
        lock_delay: str | int | float = 0,
        identities: Sequence[str] = (),
        mode: str = "Active",
        service_accounts: Sequence[str] = (),
        pods: Sequence[str] | None = None,
        source: str = "",
        renew_deadline: str | int | float = 0,
        retry_period: str | int | float = 0,
        preference: str = PREFERENCES[0],
        no_failback: str | int | float = 0,
    ) -> int:
        """Declare a lease, or change what was declared; returns the generation that this left.

        Args:
            name: ``namespace/name``.
            duration: ``"never"`` and None are never.
            lock_delay: Pause before a new holder after an unclean loss; 0 is none.
            identities: Who may hold; empty admits everybody.
            mode: ``Active``, ``Paused`` (nobody new) or ``ObserveOnly``.
            service_accounts: Of pods that may hold; empty admits all. For a quorum that verifies tokens.
            pods: uids of pods that may hold; None admits all. Likewise.
            source: Who declares it; empty for people.
            renew_deadline: A holder stops when no renewal was confirmed for so long; 0 leaves it to the client.
            retry_period: Between two renewals; 0 likewise. Both count from the next grant on.
            preference: ``None``, ``Priority``, ``Ordinal`` or ``NewestReplicaSet``: who is first where several could.
            no_failback: How long a holder must have led before a preferred candidate takes its place; 0 is at once.

        Raises: As :meth:`get`, and ConfigError for an argument that cannot work.
        """
        parse_name(name)
        if mode not in MODES:
            raise ConfigError(f"mode: {mode!r} is none of {', '.join(MODES)}")
        is_none = lock_delay in (0, "0", "0s", "")
        lock_delay_ms = 0 if is_none else parse_duration(lock_delay, "lock_delay")
        if lock_delay_ms is None:
            raise ConfigError("lock_delay: cannot be never")
        if preference not in PREFERENCES:
            raise ConfigError(f"preference: {preference!r} is none of {', '.join(PREFERENCES)}")
        admitted = None if pods is None else tuple(pods)
        who = (tuple(identities), mode, tuple(service_accounts), admitted, source)
        how = (
            parse_span(renew_deadline, "renew_deadline", RENEW_DEADLINE_MIN_MS, DURATION_MAX_MS),
            parse_span(retry_period, "retry_period", RETRY_PERIOD_MIN_MS, DURATION_MAX_MS),
            preference,
            parse_span(no_failback, "no_failback", 1, NO_FAILBACK_MAX_MS),
        )
        spec = wire.Spec(parse_duration(duration), lock_delay_ms, *who, *how)
        answer = await self._ask(wire.DeclareRequest(0, name, spec), True, wire.Done)
        return int(answer.term)

    async def declared(self, prefix: str = "") -> dict[str, wire.Spec]:
        """Read what the connected node knows to be declared, by lease name.

        Raises: As :meth:`get`, and LeaseRefused for all but administrators.
        """
        found: dict[str, wire.Spec] = {}
        after = ""
        for _ in range(PAGES_MAX):
            page = await self._ask(wire.SpecsRequest(0, prefix, after), True, wire.DeclaredSpecs)
            found.update(page.items)
            if not page.after or page.after == after:
                break
            after = page.after
        return found

    async def set_keys(self, issuer: str, audience: str, jwks: bytes) -> int:
        """Write the public keys that the quorum verifies ServiceAccount tokens with; returns the generation.

        Args:
            issuer: What ``iss`` of every token must be.
            audience: What ``aud`` must contain.
            jwks: JSON web key set (RFC 7517).

        Raises: As :meth:`get`, ConfigError for keys that cannot work, LeaseRefused for all but administrators.
        """
        answer = await self._ask(wire.KeysRequest(0, issuer, audience, jwks), True, wire.Done)
        return int(answer.term)

    async def withdraw(self, name: str) -> int:
        """Take a declaration back: nobody new may hold; returns the generation that this left."""
        parse_name(name)
        answer = await self._ask(wire.DeclareRequest(0, name, None), True, wire.Done)
        return int(answer.term)

    async def step_down(self, name: str, successor: str = "") -> int:
        """Ask the holder, whoever it is, to let go; ``successor`` names who should be next. Returns its term.

        Raises: As :meth:`get`, and OutcomeUnknown when the connection was lost before the answer.
        """
        parse_name(name)
        answer = await self._ask(wire.StepDownRequest(0, name, successor), False, wire.Done)
        return int(answer.term)

    async def revoke(self, name: str, term: int) -> int:
        """End a lease that never expires without its holder, who is told; returns the term that this left.

        Raises: As :meth:`step_down`.
        """
        parse_name(name)
        answer = await self._ask(wire.RevokeRequest(0, name, term), False, wire.Done)
        return int(answer.term)

    # --- inside --------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed or not self._session.is_started:
            raise ConnectionFailed("the client is not connected: use it inside its `async with` block")

    def _future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        return future

    async def _ask(self, message: Any, is_repeatable: bool, kind: type[Any], timeout: float | None = None) -> Any:
        self._check_open()
        request = self._core.ask(message, is_repeatable=is_repeatable)
        return await self._answer(request, kind, self._timeout if timeout is None else timeout)

    async def _answer(self, request: Any, kind: type[Any], timeout: float) -> Any:
        request.owner = future = self._future()
        self._session.pump()
        try:
            async with asyncio.timeout(timeout):
                answer = await future
        except TimeoutError:
            if not self._core.is_ready:
                raise self._session.unreachable() from None
            raise OutcomeUnknown(f"no answer within {timeout:g} s") from None
        finally:
            self._waiting.discard(future)
            self._core.drop(request)
        if not isinstance(answer, kind):
            raise RemoteProtocolError(f"the node answered with {type(answer).__name__}, not {kind.__name__}")
        return answer

    def _observed(self, watch: Watch, error: LeaderLeaseError | None) -> None:
        watch.error = error
        if watch.owner is not None and not watch.owner.done():
            watch.owner.set_result(None)
