"""HTTP/1.1 on asyncio and h11: bounded in everything that a client can make grow.

Rule 1: bytes that are no HTTP get one answer with a sentence, and the connection ends; nobody else notices.
Rule 2: a request that needs the quorum runs as a task; a connection has at most one, and reads nothing meanwhile.
Rule 3: a stream is written to until the client leaves or does not keep up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote

import h11
import msgspec

HEADER_BYTES_MAX: Final = 8 << 10
"""Request line and headers together."""
BODY_BYTES_MAX: Final = 4 << 10
CONNECTIONS_MAX: Final = 128
"""Connections at a time; further ones are answered 503 and closed."""
STREAMS_MAX: Final = 32
"""Streams at a time, within the bound of connections."""
STREAM_BUFFER_BYTES_MAX: Final = 64 << 10
"""What a client has not read of its stream; beyond it the stream ends."""
REQUEST_TIMEOUT_S: Final = 5.0
"""A request must be complete so soon after its first byte."""
IDLE_TIMEOUT_S: Final = 75.0
"""A connection between two requests."""
SWEEP_S: Final = 1.0
STREAM_COMMENT_S: Final = 15.0
"""A quiet stream gets a comment so often, for proxies, and to notice clients that have left."""
QUERY_FIELDS_MAX: Final = 16

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Request:
    """One request, complete."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Response:
    """One answer; ``content_type`` is JSON unless told."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class Stream:
    """An answer without an end: ``start`` is called with what writes to it, ``stop`` when the client has left."""

    start: Callable[[Callable[[bytes], None]], None]
    stop: Callable[[], None]


Answer = Response | Stream
Handler = Callable[[Request], Answer | Awaitable[Answer]]


class HttpError(Exception):
    """A request that gets an answer with a sentence about what is wrong."""

    def __init__(self, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or []


def json_response(status: int, content: Any, headers: list[tuple[bytes, bytes]] | None = None) -> Response:
    """Make an answer of anything that JSON can say."""
    return Response(status, msgspec.json.encode(content) + b"\n", headers=headers or [])


def error_response(error: HttpError) -> Response:
    """Say what is wrong with a request."""
    return json_response(error.status, {"error": str(error), "status": error.status}, error.headers)


class Server:
    """Listens on one address.

    Attributes:
        counts: Answers by status.
        streams: Streams that are open.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.counts: dict[int, int] = {}
        self.streams = 0
        self.connections: set[_Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int) -> int:
        """Begin; an empty host is every address. Returns the port.

        Raises:
            OSError: The address cannot be used.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self, loop), host or None, port)
        self._servers.append(server)
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_S, self._sweep)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def close(self) -> None:
        """Stop listening and end all connections."""
        for server in self._servers:
            server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            connection.close()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)
        now = loop.time()
        for connection in list(self.connections):
            connection.sweep(now)


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._stream: Stream | None = None
        self._deadline = loop.time() + REQUEST_TIMEOUT_S
        self._is_idle = True

    # --- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many."""
        # A cast: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if len(self._server.connections) >= CONNECTIONS_MAX:
            self._refuse(HttpError(503, f"{CONNECTIONS_MAX} connections are open already"))
            return
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes; what comes during a stream, or after an error, is of no interest."""
        if self._stream is not None or self._transport is None or self._http.our_state is h11.ERROR:
            return
        if self._is_idle:
            self._is_idle = False
            self._deadline = self._loop.time() + REQUEST_TIMEOUT_S
        try:
            self._http.receive_data(data)
            self._advance()
        except h11.RemoteProtocolError as error:
            self._refuse(HttpError(error.error_status_hint, f"this is no HTTP/1.1 request: {error}"))

    def eof_received(self) -> bool:
        """A client that sends no more still gets its answer, if one is being made."""
        return self._task is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        self._transport = None
        self._server.connections.discard(self)
        self._end_stream()
        if self._task is not None:
            self._task.cancel()

    def sweep(self, now: float) -> None:
        """End what takes too long; keep quiet streams open."""
        if self._stream is not None:
            if now >= self._deadline:
                self._write(b": still here\n\n")
        elif self._task is None and now >= self._deadline:
            if self._is_idle:
                self.close()
            else:
                self._refuse(HttpError(408, f"the request was not complete within {REQUEST_TIMEOUT_S:g} s"))

    def close(self) -> None:
        """End the connection after what is written."""
        self._end_stream()
        if self._transport is not None:
            self._transport.close()

    # --- one request after the other -------------------------------------------------------------------------

    def _advance(self) -> None:
        while self._task is None and self._stream is None and self._transport is not None:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                return
            if isinstance(event, h11.Request):
                self._head = event
                self._body.clear()
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > BODY_BYTES_MAX:
                    self._refuse(HttpError(413, f"the body is larger than {BODY_BYTES_MAX} bytes"))
                    return
            elif isinstance(event, h11.EndOfMessage):
                self._answer()
            else:
                # PAUSED: the answer closes the connection; ConnectionClosed: the client has gone.
                self.close()
                return

    def _answer(self) -> None:
        assert self._head is not None
        if self._head.http_version not in (b"1.0", b"1.1"):
            self._refuse(HttpError(505, f"HTTP/{self._head.http_version.decode()} is not served; use HTTP/1.1"))
            return
        try:
            answer = self._server.handler(_request(self._head, bytes(self._body)))
        except HttpError as error:
            answer = error_response(error)
        if isinstance(answer, Response | Stream):
            self._respond(answer)
            return
        assert self._transport is not None
        self._transport.pause_reading()
        self._task = self._loop.create_task(self._finish(answer))

    async def _finish(self, answering: Awaitable[Answer]) -> None:
        try:
            answer = await answering
        except HttpError as error:
            answer = error_response(error)
        except Exception:
            # A bug here must not take the lease with it.
            log.exception("a request failed")
            answer = error_response(HttpError(500, "this server failed to answer; its log says more"))
        self._task = None
        if self._transport is None:
            return
        self._transport.resume_reading()
        self._respond(answer)
        try:
            self._advance()
        except h11.RemoteProtocolError as error:
            self._refuse(HttpError(error.error_status_hint, f"this is no HTTP/1.1 request: {error}"))

    def _respond(self, answer: Answer) -> None:
        if isinstance(answer, Stream):
            if self._server.streams < STREAMS_MAX:
                self._open_stream(answer)
                return
            answer = error_response(HttpError(503, f"{STREAMS_MAX} streams are open already"))
        self._server.counts[answer.status] = self._server.counts.get(answer.status, 0) + 1
        is_head = self._head is not None and self._head.method == b"HEAD"
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(answer.body)),
            (b"cache-control", b"no-store"),
            *answer.headers,
        ]
        events: list[Any] = [h11.Response(status_code=answer.status, headers=headers, reason=_reason(answer.status))]
        if not is_head:
            events.append(h11.Data(data=answer.body))
        self._send(*events, h11.EndOfMessage())
        self._is_idle = True
        self._deadline = self._loop.time() + IDLE_TIMEOUT_S
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.close()

    def _open_stream(self, stream: Stream) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        self._server.counts[200] = self._server.counts.get(200, 0) + 1
        self._send(h11.Response(status_code=200, headers=headers, reason=b"OK"))
        self._stream = stream
        self._server.streams += 1
        stream.start(self._write)

    def _write(self, data: bytes) -> None:
        if self._stream is None or self._transport is None:
            return
        self._deadline = self._loop.time() + STREAM_COMMENT_S
        self._send(h11.Data(data=data))
        if self._transport.get_write_buffer_size() > STREAM_BUFFER_BYTES_MAX:
            self._end_stream()
            self._transport.abort()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._server.streams -= 1
            stream.stop()

    def _refuse(self, error: HttpError) -> None:
        """Answer what is no request, and end the connection (rule 1)."""
        if self._transport is None:
            return
        answer = error_response(error)
        self._server.counts[error.status] = self._server.counts.get(error.status, 0) + 1
        head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
        lines = (b"content-type: application/json", b"content-length: %d" % len(answer.body), b"connection: close")
        self._transport.write(head + b"\r\n".join(lines) + b"\r\n\r\n" + answer.body)
        self.close()
        self._transport = None

    def _send(self, *events: Any) -> None:
        if self._transport is None:
            return
        parts = [data for event in events if (data := self._http.send(event))]
        self._transport.write(b"".join(parts))


def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()


def _request(head: h11.Request, body: bytes) -> Request:
    path, _, query = head.target.decode("ascii").partition("?")
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise HttpError(400, f"the query {query[:80]!r} must have at most {QUERY_FIELDS_MAX} fields") from None
    if len(dict(fields)) < len(fields):
        raise HttpError(400, f"the query {query[:80]!r} names a field twice")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("ascii"), unquote(path), dict(fields), headers, body)
