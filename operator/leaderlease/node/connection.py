"""One TCP connection: frames in, messages out, one write in a tick of the event loop.

Rule 1: the first message of each side is a hello; nothing else is looked at before it, and it has a time limit.
Rule 2: bytes that break the protocol end this connection, are counted, and cost nobody else anything.
Rule 3: what a slow reader leaves unread is bounded: beyond that the connection is dropped.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from leaderlease.errors import RemoteProtocolError
from leaderlease.wire.codec import Codec
from leaderlease.wire.reasons import reason_of
from leaderlease.wire.session import Hello, Refused

HELLO_TIMEOUT_S: Final = 5.0
"""How long a connection may stay without a hello."""
WRITE_BUFFER_BYTES_MAX: Final = 16 << 20
"""Bytes that may wait for a slow reader."""


class Owner(Protocol):
    """Who gets the messages of a connection."""

    def on_hello(self, connection: "Connection", hello: Hello | Refused) -> None:
        """Take the other side's first message; set ``member`` or ``session``, or call ``refuse``."""

    def on_message(self, connection: "Connection", message: Any) -> None:
        """Take a later message.

        Raises:
            RemoteProtocolError: The connection must go.
        """

    def on_closed(self, connection: "Connection", reason: str) -> None:
        """The connection has gone; called once, and only if it was ever made."""


class Connection(asyncio.Protocol):
    """The transport side of a session or of a peer; knows nothing of leases.

    Args:
        on_made: Called when the connection stands. A TLS handshake that fails calls neither this nor ``on_closed``.

    Attributes:
        host: Address of the other side, without its port; empty until the connection stands.
        member: Peer's uuid, once its hello was taken.
        context: What the owner keeps with this connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        codec: Codec[Any, Any],
        owner: Owner,
        on_made: "Callable[[Connection], object] | None" = None,
    ) -> None:
        self._on_made = on_made
        self._loop = loop
        self._codec = codec
        self._decoder = codec.decoder()
        self._owner = owner
        self._out: list[Any] = []
        self._urgent: list[Any] = []
        self._is_flush_planned = False
        self._transport: asyncio.Transport | None = None
        self._hello_timer: asyncio.TimerHandle | None = None
        self._reason = "closed by the other side"
        self.remote = ""
        self.host = ""
        self.has_hello = False
        self.member = ""
        self.context: Any = None
        self._last_heard_s = loop.time()

    @property
    def silent_s(self) -> float:
        """For how many seconds nothing has been heard."""
        return self._loop.time() - self._last_heard_s

    # --- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the other side has a bounded time for its hello."""
        # A cast: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if self._on_made is not None:
            self._on_made(self)
        peer = transport.get_extra_info("peername")
        self.remote = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer)
        self.host = str(peer[0]) if isinstance(peer, tuple) else ""
        self._hello_timer = self._loop.call_later(
            HELLO_TIMEOUT_S, lambda: self.drop(f"no hello in {HELLO_TIMEOUT_S:g} s")
        )
        if self._out:
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Decode and hand on; a broken frame ends the connection (rule 2)."""
        self._last_heard_s = self._loop.time()
        try:
            for message in self._decoder.feed(data):
                if self._transport is None:
                    return
                if self.has_hello:
                    self._owner.on_message(self, message)
                elif isinstance(message, Hello | Refused):
                    self.has_hello = True
                    if self._hello_timer is not None:
                        self._hello_timer.cancel()
                    self._owner.on_hello(self, message)
                else:
                    raise RemoteProtocolError(f"{type(message).__name__} before any hello")
        except RemoteProtocolError as error:
            self.refuse(error.code, str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """End; told to the owner once."""
        self._transport = None
        self._out.clear()
        self._urgent.clear()
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        if exc is not None:
            self._reason = reason_of(exc)
        self._owner.on_closed(self, self._reason)

    # --- sending ---------------------------------------------------------------------------------------------

    def push(self, message: Any) -> None:
        """Queue a message for the end of this tick."""
        self._out.append(message)
        if not self._is_flush_planned:
            self._plan_flush()

    def push_urgent(self, message: Any) -> None:
        """Queue a message before all that was queued by ``push`` in this tick: renewals wait for nobody."""
        self._urgent.append(message)
        if not self._is_flush_planned:
            self._plan_flush()

    def _plan_flush(self) -> None:
        if self._transport is not None:
            self._is_flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_planned = False
        transport = self._transport
        if transport is None or not (self._out or self._urgent):
            return
        out, self._out = self._out, []
        if self._urgent:
            out, self._urgent = self._urgent + out, []
        transport.write(self._codec.encode_many(out))
        if transport.get_write_buffer_size() > WRITE_BUFFER_BYTES_MAX:
            self.drop(f"{WRITE_BUFFER_BYTES_MAX >> 20} MiB wait unread")

    @property
    def has_certificate(self) -> bool:
        """Tell whether the other side showed a certificate, which TLS has verified."""
        return self._transport is not None and bool(self._transport.get_extra_info("peercert"))

    # --- ending ----------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Tell whether messages can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def refuse(self, code: str, text: str) -> None:
        """Say why, in one sentence, and close."""
        if self.is_open:
            self._out.append(Refused(code, text))
            self._flush()
        self.close(text)

    def close(self, reason: str) -> None:
        """Close after what is queued was written."""
        self._reason = reason
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def drop(self, reason: str) -> None:
        """Close at once; the first reason stays."""
        if self._transport is not None:
            if not self._transport.is_closing():
                self._reason = reason
            self._transport.abort()
