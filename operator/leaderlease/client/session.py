"""The asyncio side of a session: one connection at a time, fail-over, timers; all decisions are the core's.

Endpoints are tried in the order of the list, which so says which node is nearest; ``spread`` starts anywhere. A
session stays where it is until that node fails it, then goes on to the next.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from leaderlease.client.clock import Clock
from leaderlease.client.core import SessionCore
from leaderlease.client.endpoints import Endpoint
from leaderlease.client.events import Ended, Event, Failure, Ready, Replied
from leaderlease.errors import ConnectionFailed, LocalProtocolError, RemoteProtocolError
from leaderlease.wire.codec import CLIENT
from leaderlease.wire.reasons import CLOSED, reason_of

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT_MS: Final = 1_000
CONNECT_MIN_MS: Final = 100
"""Bounds of one attempt to connect, within which it is a third of the shortest lease at stake."""
BACKOFF_FIRST_MS: Final = 50
BACKOFF_MAX_MS: Final = 2_000
"""Bounds of the random pause after all endpoints failed in a row; doubles with each such turn."""
STABLE_MS: Final = 1_000
"""A connection that lived for so long ends the row of failures."""
WRITE_BUFFER_MAX: Final = 8 << 20
"""Bytes that a node has not taken from this client; beyond it the connection is given up."""
CLOSE_TIMEOUT_S: Final = 1.0
"""How long closing waits for the connection to end."""
TIMER_MAX_S: Final = 3_600.0

logger = logging.getLogger("leaderlease.session")


class _Link(asyncio.Protocol):
    """One connection."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._decoder = CLIENT.decoder()
        self.transport: asyncio.Transport | None = None
        self.reason = ""
        self.has_heard = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        # A cast: uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self._session.linked(self)

    def data_received(self, data: bytes) -> None:
        """Hand on what these bytes complete; bytes that are no frames end the connection."""
        try:
            messages = self._decoder.feed(data)
        except RemoteProtocolError as error:
            self.drop(str(error))
            return
        self.has_heard = True
        self._session.received(self, messages)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the session, once."""
        text = reason_of(exc) if exc is not None else ""
        self.reason = self.reason or text or CLOSED
        self._session.unlinked(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def drop(self, reason: str) -> None:
        """End the connection now."""
        self.reason = self.reason or reason
        if self.transport is not None:
            self.transport.abort()


class Session:
    """Keeps one core connected to one of the endpoints.

    Args:
        on_event: Is given every event of the core but ``Ready``, ``Ended``, ``Replied`` and ``Failure``.
        token: Read for each connection, so that a token that was renewed is shown; ``OSError`` ends the attempt.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        core: SessionCore,
        clock: Clock,
        on_event: Callable[[Event], None],
        *,
        tls: "ssl.SSLContext | None" = None,
        spread: bool = False,
        token: Callable[[], str] | None = None,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.core = core
        self.clock = clock
        self._on_event = on_event
        self._tls = tls
        self._token = token
        self._at = random.randrange(len(self.endpoints)) if spread else 0
        self._link: _Link | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flush: asyncio.Handle | None = None
        self._reasons: dict[Endpoint, str] = {}
        self._first: asyncio.Future[bool] | None = None
        self._turns = asyncio.Event()
        self._is_closed = False
        self._is_pumping = False

    @property
    def is_started(self) -> bool:
        """Tell whether ``start`` was called."""
        return self._task is not None

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint of the present connection; None while there is none."""
        return self.endpoints[self._at] if self.core.is_ready else None

    async def start(self, wait_s: float = 0.0) -> None:
        """Connect to the first endpoint that takes this client, and stay connected from then on.

        Args:
            wait_s: Seconds to go on trying when no endpoint answers at first.

        Raises:
            ConnectionFailed: No endpoint answered; nothing goes on in the background.
        """
        loop = asyncio.get_running_loop()
        self._first = loop.create_future()
        give_up_at = loop.time() + wait_s
        self._task = loop.create_task(self._run(), name="leaderlease session")
        try:
            while not await asyncio.shield(self._first):
                if loop.time() >= give_up_at:
                    raise self.unreachable()
                self._first = loop.create_future()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the connection; requests that wait fail with ``ConnectionFailed``. May be called again."""
        self._is_closed = True
        link = self._link
        if self._flush is not None:
            self._write()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({self._task})
        if link is not None and link.transport is not None:
            link.transport.close()
        if self._ending:
            # Also those that were dropped a moment ago: over TLS an aborted transport takes some turns to end.
            await asyncio.wait(self._ending, timeout=CLOSE_TIMEOUT_S)
        if link is not None and not link.ended.done():
            link.drop("the client was closed")
            await asyncio.wait({link.ended})
        for handle in (self._timer, self._flush):
            if handle is not None:
                handle.cancel()

    def unreachable(self) -> ConnectionFailed:
        """Return the error that says which endpoints were tried, and what became of each."""
        names = ", ".join(str(endpoint) for endpoint in self.endpoints)
        reasons = {str(e): self._reasons.get(e, "not tried yet") for e in self.endpoints}
        if len(set(reasons.values())) == 1:
            why = next(iter(reasons.values()))
        else:
            why = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in reasons.items())
        if any("refuses" in reason or "versions" in reason for reason in reasons.values()):
            return ConnectionFailed(f"none of {names} takes this client: {why}", reasons)
        return ConnectionFailed(f"none of {names} answers: {why}; is a node running there?", reasons)

    def pump(self) -> None:
        """Take what the core wants done; to be called after every call of the core."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self.core.events:
                events, self.core.events = self.core.events, []
                for event in events:
                    self._handle(event)
        finally:
            self._is_pumping = False
        if self.core.outgoing and self._link is not None and self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self._write)
        self._arm()

    # --- what the link tells ---------------------------------------------------------------------------------

    def linked(self, link: _Link) -> None:
        """Take note that a connection stands."""
        if self._token is not None:
            try:
                self.core.use_token(self._token())
            except OSError as error:
                link.drop(f"the token cannot be read: {error.strerror}")
                return
        self._link = link
        self._ending.add(link.ended)
        link.ended.add_done_callback(self._ending.discard)
        self.core.open(self.clock())
        self.pump()

    def received(self, link: _Link, messages: Sequence[Any]) -> None:
        """Hand messages to the core, with the clock's reading of now."""
        if link is not self._link:
            return
        now = self.clock()
        for message in messages:
            self.core.receive(message, now)
        self.pump()

    def unlinked(self, link: _Link) -> None:
        """Take note that a connection is gone."""
        if link is self._link:
            self.core.close(link.reason, self.clock())
            self._link = None
            self.pump()

    # --- inside ----------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case Ready():
                logger.info("connected to %s", self.endpoint)
                self._reasons.clear()
                self._tell_first(True)
            case Ended():
                link, self._link = self._link, None
                if link is not None:
                    link.drop(event.reason)
            case Replied(request, message):
                if request.owner is not None and not request.owner.done():
                    request.owner.set_result(message)
            case Failure(request, error):
                if request.owner is not None and not request.owner.done():
                    request.owner.set_exception(error)
            case _:
                self._on_event(event)

    def _tell_first(self, is_ready: bool) -> None:
        if self._first is not None and not self._first.done():
            self._first.set_result(is_ready)

    def _write(self) -> None:
        self._flush = None
        link, messages = self._link, self.core.outgoing
        if link is None or link.transport is None or not messages:
            return
        self.core.outgoing = []
        try:
            link.transport.write(CLIENT.encode_many(messages))
        except LocalProtocolError as error:
            link.drop(str(error))
            return
        if link.transport.get_write_buffer_size() > WRITE_BUFFER_MAX:
            link.drop("the node takes no more bytes")

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self.core.due_ms(self.clock()) / 1000
        if due_s != float("inf"):
            delay_s = min(due_s, TIMER_MAX_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.core.tick(self.clock())
        self.pump()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            endpoint = self.endpoints[self._at]
            reason = await self._connect(endpoint)
            if self._reasons.get(endpoint) != reason:
                logger.info("%s: %s", endpoint, reason)
            self._reasons[endpoint] = reason
            self._at = (self._at + 1) % len(self.endpoints)
            failures = 1 if (loop.time() - began) * 1000 > STABLE_MS + CONNECT_TIMEOUT_MS else failures + 1
            if failures % len(self.endpoints) == 0:
                self._tell_first(False)
                turn = failures // len(self.endpoints)
                limit_ms = min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS << min(turn, 10))
                await asyncio.sleep(random.uniform(limit_ms / 2, limit_ms) / 1000)

    async def _connect(self, endpoint: Endpoint) -> str:
        """Use one endpoint for as long as it goes; return why it ended."""
        loop = asyncio.get_running_loop()
        link = _Link(self)
        limit_ms = min(CONNECT_TIMEOUT_MS, max(CONNECT_MIN_MS, self.core.pace.answer_ms))
        options: dict[str, Any] = {}
        if self._tls is not None:
            from leaderlease.wire.tls import server_name

            options = {"ssl": self._tls, "server_hostname": server_name(endpoint.host)}
        try:
            async with asyncio.timeout(limit_ms / 1000):
                await loop.create_connection(lambda: link, endpoint.host, endpoint.port, **options)
        except TimeoutError:
            link.drop("")
            return f"no connection within {limit_ms:.0f} ms"
        except (OSError, UnicodeError) as error:
            return reason_of(error)
        # Not awaited itself: a cancellation of this task would end the future, and closing waits for it.
        await asyncio.wait({link.ended})
        if not link.has_heard and link.reason == CLOSED:
            hint = "may want TLS" if self._tls is None else "may not take this client's certificate, or want one"
            return f"{CLOSED} before its hello: it {hint}"
        return link.reason
