"""The SDK for programs without an event loop: the same names and types, run by a thread with a loop of its own.

Leases are renewed by that thread, whatever the program's own threads do. Nothing can interrupt the body of a
``with client.lead(...)`` block: it asks ``lease.check()`` before each act, waits on ``lease.lost``, or passes
``on_lost``. Ctrl-C leaves a call at once; what it asked for is taken back.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from leaderlease.client import sdk
from leaderlease.client.lease import Denied, Verification
from leaderlease.client.lease import Lease as AsyncLease
from leaderlease.client.queries import Duration
from leaderlease.errors import ConnectionFailed, LeaderLeaseError, LeaseLost
from leaderlease.paxos.lease import PREFERENCES
from leaderlease.wire import session as wire

T = TypeVar("T")
STOP_TIMEOUT_S: Final = 5.0
"""How long closing waits for the thread; it is a daemon, so it never keeps the process."""


class Lease:
    """As :class:`leaderlease.Lease`; the events are ``threading.Event`` objects, and calls block."""

    def __init__(self, inner: AsyncLease, client: "Client", on_lost: Callable[[], None] | None = None) -> None:
        self._inner = inner
        self._client = client
        self._on_lost = on_lost
        self.lost = threading.Event()
        self.step_down_requested = threading.Event()

    def __repr__(self) -> str:
        return repr(self._inner)

    name = property(lambda self: self._inner.name, doc="``namespace/name``.")
    identity = property(lambda self: self._inner.identity, doc="The holder's name, for people.")
    nonce = property(lambda self: self._inner.nonce, doc="What tells this holder from all others.")
    term = property(lambda self: self._inner.term, doc="The fencing token: greater with every grant.")
    duration = property(lambda self: self._inner.duration, doc="Seconds; None is never.")
    successor = property(lambda self: self._inner.successor, doc="Who should be next; may be empty.")
    reason = property(lambda self: self._inner.reason, doc="Why the lease was lost; may be empty.")
    is_released = property(lambda self: self._inner.is_released, doc="Whether this process let go.")

    def remaining(self) -> float:
        """As ``leaderlease.Lease.remaining``, computed in the calling thread."""
        return self._inner.remaining()

    def check(self, need: float = 0.0) -> None:
        """As ``leaderlease.Lease.check``, computed in the calling thread."""
        self._inner.check(need)

    def release(self, successor: str = "") -> bool:
        """As ``leaderlease.Lease.release``."""
        return self._client.release(self, successor=successor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release(self.successor)

    def _follow(self) -> None:
        """Hand on what happened, in the thread of the loop."""
        if self._inner.step_down_requested.is_set():
            self.step_down_requested.set()
        if self._inner.lost.is_set() and not self.lost.is_set():
            self.lost.set()
            if self._on_lost is not None:
                # A thread of its own: a callback that blocks must not stop renewals of other leases.
                threading.Thread(target=self._on_lost, name="leaderlease on_lost", daemon=True).start()


class Client:
    """As :class:`leaderlease.Client`, with blocking calls; see :func:`connect`. Any thread may call it."""

    def __init__(self, endpoints: str | Sequence[str] | None = None, **options: Any) -> None:
        self._inner = sdk.Client(endpoints, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="leaderlease", daemon=True)
        self._thread.start()
        try:
            self._call(self._inner.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. Leases that were not released are lost here, and expire; those without end stay held."""
        if self._loop is None:
            return
        try:
            self._call(self._inner.close())
        finally:
            self._stop()

    @property
    def endpoint(self) -> str:
        """The endpoint of the present connection; empty while there is none."""
        return self._inner.endpoint

    # --- leases ----------------------------------------------------------------------------------------------

    @contextmanager
    def lead(
        self,
        name: str,
        identity: str,
        *,
        duration: Duration = None,
        timeout: float | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> Iterator[Lease]:
        """Wait until elected, run the body, release.

        The body is not interrupted; when the lease was lost meanwhile, leaving raises ``LeaseLost``.

        Args:
            name: ``namespace/name``.
            identity: Who holds, for people.
            duration: As for ``leaderlease.Client.acquire``.
            timeout: Seconds to wait for the election; None waits for ever.
            on_lost: Called in a thread of its own as soon as the lease is lost.

        Raises: As ``leaderlease.Client.lead``.
        """
        lease = self.acquire(name, identity, duration=duration, timeout=timeout, on_lost=on_lost)
        try:
            yield lease
        finally:
            is_lost = lease.lost.is_set() or lease.remaining() <= 0
            self.release(lease, successor=lease.successor)
        if is_lost:
            raise LeaseLost(f"{name}: term {lease.term} is lost: {lease.reason or 'its validity has run out'}")

    def acquire(
        self,
        name: str,
        identity: str,
        *,
        duration: Duration = None,
        timeout: float | None = None,
        nonce: str | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> Lease:
        """As ``leaderlease.Client.acquire``."""
        asked = self._inner.acquire(name, identity, duration=duration, timeout=timeout, nonce=nonce)
        lease = self._granted(asked, on_lost)
        assert isinstance(lease, Lease)
        return lease

    def try_acquire(
        self,
        name: str,
        identity: str,
        *,
        duration: Duration = None,
        timeout: float | None = None,
        nonce: str | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> Lease | Denied:
        """As ``leaderlease.Client.try_acquire``."""
        asked = self._inner.try_acquire(name, identity, duration=duration, timeout=timeout, nonce=nonce)
        return self._granted(asked, on_lost)

    def release(
        self, lease: Lease | str, *, nonce: str = "", successor: str = "", timeout: float | None = None
    ) -> bool:
        """As ``leaderlease.Client.release``."""
        inner = lease._inner if isinstance(lease, Lease) else lease
        return self._call(self._inner.release(inner, nonce=nonce, successor=successor, timeout=timeout))

    # --- the rest --------------------------------------------------------------------------------------------

    def get(self, name: str) -> wire.LeaseInfo | None:
        """As ``leaderlease.Client.get``."""
        return self._call(self._inner.get(name))

    def list(self, prefix: str = "") -> "list[wire.LeaseInfo]":
        """As ``leaderlease.Client.list``."""
        return self._call(self._inner.list(prefix))

    def watch(self, name: str = "", since: int = 0) -> Iterator[wire.Transition]:
        """As ``leaderlease.Client.watch``; each step blocks until there is a transition."""
        stream = self._inner.watch(name, since)
        try:
            while True:
                try:
                    transition = self._call(_next(stream))
                except StopAsyncIteration:
                    return
                yield transition
        finally:
            with suppress(ConnectionFailed, RuntimeError):
                self._call(stream.aclose())

    def verify(self, name: str, term: int) -> Verification:
        """As ``leaderlease.Client.verify``."""
        return self._call(self._inner.verify(name, term))

    def status(self) -> wire.NodeStatus:
        """As ``leaderlease.Client.status``."""
        return self._call(self._inner.status())

    def status_all(self, timeout: float = 2.0) -> dict[str, wire.NodeStatus | LeaderLeaseError]:
        """As ``leaderlease.Client.status_all``."""
        return self._call(self._inner.status_all(timeout))

    def declare(
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
        """As ``leaderlease.Client.declare``."""
        spec: dict[str, Any] = {
            "duration": duration,
            "lock_delay": lock_delay,
            "identities": identities,
            "mode": mode,
            "service_accounts": service_accounts,
            "pods": pods,
            "source": source,
            "renew_deadline": renew_deadline,
            "retry_period": retry_period,
            "preference": preference,
            "no_failback": no_failback,
        }
        return self._call(self._inner.declare(name, **spec))

    def declared(self, prefix: str = "") -> dict[str, wire.Spec]:
        """As ``leaderlease.Client.declared``."""
        return self._call(self._inner.declared(prefix))

    def set_keys(self, issuer: str, audience: str, jwks: bytes) -> int:
        """As ``leaderlease.Client.set_keys``."""
        return self._call(self._inner.set_keys(issuer, audience, jwks))

    def withdraw(self, name: str) -> int:
        """As ``leaderlease.Client.withdraw``."""
        return self._call(self._inner.withdraw(name))

    def step_down(self, name: str, successor: str = "") -> int:
        """As ``leaderlease.Client.step_down``."""
        return self._call(self._inner.step_down(name, successor))

    def revoke(self, name: str, term: int) -> int:
        """As ``leaderlease.Client.revoke``."""
        return self._call(self._inner.revoke(name, term))

    # --- inside ----------------------------------------------------------------------------------------------

    def _granted(
        self, asked: Coroutine[Any, Any, AsyncLease | Denied], on_lost: Callable[[], None] | None
    ) -> Lease | Denied:
        granted: list[Lease] = []

        async def ask() -> Lease | Denied:
            answer = await asked
            if isinstance(answer, Denied):
                return answer
            lease = Lease(answer, self, on_lost)
            granted.append(lease)
            answer.on_change = lease._follow
            lease._follow()
            return lease

        async def take_back() -> None:
            for lease in granted:
                await self._inner.release(lease._inner)

        try:
            return self._call(ask())
        except BaseException:
            # Granted in the very moment of an interrupt: nobody will work under it.
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(take_back(), self._loop)
            raise

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the loop's thread and wait; an interrupt of this thread takes it back."""
        if self._loop is None:
            work.close()
            raise ConnectionFailed("the client is not connected: use it inside its `with` block")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(STOP_TIMEOUT_S)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _next(stream: Any) -> Any:
    return await anext(stream)


def connect(
    endpoints: str | Sequence[str] | None = None,
    *,
    tls: Any = None,
    token: str = "",
    name: str = "",
    spread: bool = False,
    wait: float = 0.0,
    timeout: float = sdk.TIMEOUT_S,
    pod_uid: str = "",
) -> Client:
    """Return a client, to be entered with ``with``; arguments are those of ``leaderlease.connect``."""
    return Client(
        endpoints, tls=tls, token=token, name=name, spread=spread, wait=wait, timeout=timeout, pod_uid=pod_uid
    )
