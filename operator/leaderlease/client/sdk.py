"""The SDK: a client of the quorum, its leases, and everything else that nodes answer."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import leaderlease
from leaderlease.client.campaign import Campaign
from leaderlease.client.clock import Clock, system_clock
from leaderlease.client.core import SessionCore
from leaderlease.client.endpoints import parse_endpoints
from leaderlease.client.events import Event, Lapsed, Observed, Rejected, StepDown, Won
from leaderlease.client.lease import Denied, Lead, Lease
from leaderlease.client.queries import Duration, Queries
from leaderlease.client.session import Session
from leaderlease.errors import (
    ConfigError,
    ConnectionFailed,
    LeaderLeaseError,
    LeaseLost,
    NotHolder,
    OutcomeUnknown,
    QuorumUnavailable,
)
from leaderlease.paxos.lease import NONCE_HEX, PRIORITY_MAX, Holder, parse_duration, parse_name
from leaderlease.wire import session as wire

if TYPE_CHECKING:
    import ssl

TIMEOUT_S: Final = 10.0
"""How long a request waits for its answer unless told, over all connections."""
RELEASE_TIMEOUT_S: Final = 2.0
"""How long a release waits for its answer, over all connections; then the lease just expires."""
IDENTITY_CHARS_MAX: Final = 253


def connect(
    endpoints: str | Sequence[str] | None = None,
    *,
    tls: "ssl.SSLContext | tuple[str | None, str | None, str] | None" = None,
    token: str | Callable[[], str] = "",
    name: str = "",
    spread: bool = False,
    wait: float = 0.0,
    timeout: float = TIMEOUT_S,
    pod_uid: str = "",
    priority: int = 0,
    since: float = 0.0,
) -> "Client":
    """Return a client, to be entered with ``async with``: entering connects, leaving disconnects.

    Args:
        endpoints: ``host:port`` each, nearest first; None takes ``LEADERLEASE_ENDPOINTS``, else 127.0.0.1:7400.
        tls: A context, or the paths of certificate, key and CA (the first two may be None).
        token: Bearer token, or what returns it for each connection; ``OSError`` from there ends that attempt.
        name: Shown in the nodes' logs; the host's name unless told.
        spread: Start at a random endpoint instead of the first.
        wait: Seconds to go on trying when no endpoint answers at first.
        timeout: Seconds that a request waits for its answer.
        pod_uid: The Kubernetes pod, to be shown with the holder.
        priority: Of this process's campaigns, for leases that prefer the highest.
        since: Wall clock, in seconds, at which this process began to run, for leases that prefer the newest; 0 does
            not say.

    Raises:
        ConfigError: An argument cannot work; the text names it.
    """
    who: dict[str, Any] = {"name": name, "pod_uid": pod_uid, "priority": priority, "since": since}
    return Client(endpoints, tls=tls, token=token, spread=spread, wait=wait, timeout=timeout, **who)


class Client(Queries):
    """A session with the quorum; see :func:`connect`. Not to be shared between event loops or threads."""

    def __init__(
        self,
        endpoints: str | Sequence[str] | None = None,
        *,
        tls: "ssl.SSLContext | tuple[str | None, str | None, str] | None" = None,
        token: str | Callable[[], str] = "",
        name: str = "",
        spread: bool = False,
        wait: float = 0.0,
        timeout: float = TIMEOUT_S,
        pod_uid: str = "",
        priority: int = 0,
        since: float = 0.0,
    ) -> None:
        if abs(priority) > PRIORITY_MAX:
            raise ConfigError(f"priority: {priority} is outside [-{PRIORITY_MAX}, {PRIORITY_MAX}]")
        self._clock: Clock
        self._clock, rho_ppm = system_clock()
        self._endpoints = parse_endpoints(endpoints)
        self._tls = _context(tls)
        self._token = token
        self._pod_uid = pod_uid
        self._wait = wait
        self._timeout = timeout
        self._core = SessionCore(
            name=name or socket.gethostname(),
            token=token if isinstance(token, str) else "",
            rho_ppm=rho_ppm,
            software=f"leaderlease-python/{leaderlease.__version__}",
            priority=priority,
            since_ms=int(since * 1000),
        )
        self._session = Session(
            *(self._endpoints, self._core, self._clock, self._on_event),
            tls=self._tls,
            spread=spread,
            token=None if isinstance(token, str) else token,
        )
        self._leases: dict[str, Lease] = {}
        self._waiting: set[asyncio.Future[Any]] = set()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        await self._session.start(self._wait)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect. Leases that were not released are lost here, and expire; those without end stay held."""
        if self._is_closed:
            return
        self._is_closed = True
        self._core.give_up("the client was closed", self._clock())
        self._session.pump()
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(ConnectionFailed("the client was closed"))
                future.exception()
        await self._session.close()

    @property
    def endpoint(self) -> str:
        """The endpoint of the present connection; empty while there is none."""
        return str(self._session.endpoint or "")

    # --- leases ----------------------------------------------------------------------------------------------

    def lead(self, name: str, identity: str, *, duration: Duration = None, timeout: float | None = None) -> Lead:
        """Return an ``async with`` block that waits until elected and runs its body while the lease is held.

        When the lease is lost, in time before its validity ends, or when the holder is asked to step down, the body
        is cancelled and the block raises ``LeaseLost``. Leaving the block releases the lease: to the successor that
        the request to step down named, if any. Raises besides what :meth:`acquire` raises.

        Args:
            name: ``namespace/name``.
            identity: Who holds, for people; it may repeat.
            duration: See ``Duration``.
            timeout: Seconds to wait for the election; None waits for ever.
        """
        return Lead(self, name, identity, {"duration": duration, "timeout": timeout})

    async def acquire(
        self,
        name: str,
        identity: str,
        *,
        duration: Duration = None,
        timeout: float | None = None,
        nonce: str | None = None,
    ) -> Lease:
        """Wait in the queue until the lease is granted, through the loss of connections.

        Args:
            name: ``namespace/name``.
            identity: Who holds, for people; it may repeat.
            duration: See ``Duration``.
            timeout: Seconds; None waits for ever.
            nonce: Continue an earlier attempt whose outcome is unknown; a new one is drawn unless told.

        Raises:
            TimeoutError: Not granted in time. Should it be granted all the same, it is released.
            LeaseRefused: The lease is not declared, or does not admit this identity.
            ConfigError: An argument cannot work.
        """
        campaign = self._campaign(name, identity, duration, True, nonce)
        answer = await self._outcome(campaign, timeout)
        assert isinstance(answer, Lease)
        return answer

    async def try_acquire(
        self,
        name: str,
        identity: str,
        *,
        duration: Duration = None,
        timeout: float | None = None,
        nonce: str | None = None,
    ) -> Lease | Denied:
        """Ask for the lease and take no for an answer; arguments are those of :meth:`acquire`.

        Returns: The lease, or who holds it. ``Denied`` is false.

        Raises:
            OutcomeUnknown: No answer within ``timeout``, the client's unless told.
            QuorumUnavailable: Too few nodes answer.
            ConnectionFailed: No endpoint answered within ``timeout``.
            LeaseRefused: The lease is not declared, or does not admit this identity.
            ConfigError: An argument cannot work.
        """
        campaign = self._campaign(name, identity, duration, False, nonce)
        try:
            return await self._outcome(campaign, self._timeout if timeout is None else timeout)
        except TimeoutError:
            if not self._core.is_ready:
                raise self._session.unreachable() from None
            raise OutcomeUnknown(f"{name}: no answer in time; should it be granted, it is released") from None

    async def release(
        self,
        lease: Lease | str,
        *,
        nonce: str = "",
        successor: str = "",
        timeout: float | None = None,
    ) -> bool:
        """Stop believing, then let go; the work under the lease must have ended (H23).

        A lease of this client that is lost or released already is left alone. When no node confirms in time, a lease
        of this client just expires; one without end, or one that is only named, raises.

        Returns: False when no node confirmed in time, so that the lease has to expire.

        Args:
            lease: The lease, or a name together with the ``nonce`` of its holder.
            successor: Identity of the candidate that should be next.
            timeout: Seconds; 2 unless told.

        Raises:
            NotHolder: Nobody holds the named lease under this nonce.
            OutcomeUnknown: No node confirmed in time.
            QuorumUnavailable: Too few nodes answer.
            ConnectionFailed: No endpoint answered in time.
        """
        limit_s = RELEASE_TIMEOUT_S if timeout is None else timeout
        own = lease if isinstance(lease, Lease) else self._leases.get(nonce)
        if own is None:
            assert isinstance(lease, str)
            parse_name(lease)
            _check_nonce(nonce)
            await self._ask(wire.ReleaseRequest(0, lease, nonce, successor), True, wire.Done, limit_s)
            return True
        self._leases.pop(own.nonce, None)
        request = self._core.release(own._campaign, successor, self._clock())
        self._session.pump()
        if request is None:
            return True
        try:
            await self._answer(request, wire.Done, limit_s)
        except NotHolder:
            return True
        except (OutcomeUnknown, ConnectionFailed, QuorumUnavailable):
            if own.duration is None:
                raise
            return False
        return True

    def _campaign(self, name: str, identity: str, duration: Duration, is_waiting: bool, nonce: str | None) -> Campaign:
        parse_name(name)
        if not identity or len(identity) > IDENTITY_CHARS_MAX:
            raise ConfigError(f"identity: {identity!r} must have 1 to {IDENTITY_CHARS_MAX} characters")
        duration_ms = 0 if duration is None else parse_duration(duration)
        if nonce is None:
            nonce = secrets.token_hex(NONCE_HEX // 2)
        _check_nonce(nonce)
        self._check_open()
        holder = Holder(identity, self._pod_uid, nonce)
        return self._core.campaign(name, holder, duration_ms, is_waiting, self._clock())

    async def _outcome(self, campaign: Campaign, timeout: float | None) -> Lease | Denied:
        campaign.owner = future = self._future()
        self._session.pump()
        try:
            async with asyncio.timeout(timeout):
                return await future  # type: ignore[no-any-return]
        except BaseException as error:
            # Nobody will work under this lease, be it granted a moment ago or still to come.
            self._leases.pop(campaign.holder.nonce, None)
            self._core.abandon(campaign, self._clock())
            self._core.release(campaign, "", self._clock())
            self._session.pump()
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"{campaign.name}: not granted within {timeout:g} s") from None
            raise
        finally:
            self._waiting.discard(future)

    async def status_all(self, timeout: float = 2.0) -> dict[str, wire.NodeStatus | LeaderLeaseError]:
        """Ask every endpoint at the same time, over a connection of its own.

        Args:
            timeout: Seconds for each of them.

        Returns: By endpoint, in list order, what it answered or why it did not.
        """

        async def one(endpoint: str) -> wire.NodeStatus | LeaderLeaseError:
            other = Client(endpoint, tls=self._tls, token=self._token, timeout=timeout)
            try:
                async with asyncio.timeout(timeout), other:
                    return await other.status()
            except TimeoutError:
                return ConnectionFailed(f"{endpoint}: no answer within {timeout:g} s")
            except LeaderLeaseError as error:
                return error

        names = [str(endpoint) for endpoint in self._endpoints]
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    # --- inside ----------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case Won(campaign):
                future = campaign.owner
                if future is None or future.done():
                    # Its caller gave up between two turns of the loop: nobody works under this lease.
                    self._core.release(campaign, "", self._clock())
                    return
                lease = Lease(campaign, self, self._clock)
                self._leases[lease.nonce] = lease
                campaign.owner = lease
                future.set_result(lease)
            case Rejected(campaign, denied, error):
                self._rejected(campaign, denied, error)
            case Lapsed(campaign):
                self._leases.pop(campaign.holder.nonce, None)
                if isinstance(campaign.owner, Lease):
                    campaign.owner.announce(campaign.owner.lost)
            case StepDown(campaign):
                if isinstance(campaign.owner, Lease):
                    campaign.owner.announce(campaign.owner.step_down_requested)
            case Observed(watch, error):
                self._observed(watch, error)

    def _rejected(self, campaign: Campaign, denied: wire.Denied | None, error: LeaderLeaseError | None) -> None:
        future = campaign.owner
        if future is None or future.done():
            return
        if denied is None:
            future.set_exception(error or LeaseLost(campaign.name))
            return
        retry_after = None if denied.retry_after_ms is None else denied.retry_after_ms / 1000
        future.set_result(Denied(denied.name, denied.holder, denied.term, retry_after))


def _check_nonce(nonce: str) -> None:
    if len(nonce) != NONCE_HEX or not all(digit in "0123456789abcdef" for digit in nonce):
        raise ConfigError(f"nonce: {nonce!r} must be {NONCE_HEX} lower-case hexadecimal digits")


def _context(tls: "ssl.SSLContext | tuple[str | None, str | None, str] | None") -> "ssl.SSLContext | None":
    if not isinstance(tls, tuple):
        return tls
    from leaderlease.wire.tls import client_context

    cert, key, ca = (Path(path) if path else None for path in tls)
    if ca is None:
        raise ConfigError("tls: the path of the CA is missing")
    return client_context(cert, key, ca)
