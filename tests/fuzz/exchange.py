"""Real sockets inside one process: bytes go to a server, what comes back is read to its end, logged errors count."""

import asyncio
import logging
import re
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from leaderlease.node.config import NodeConfig
from leaderlease.node.node import Node

T = TypeVar("T")
CLUSTER = "6f1c1a52-6a3c-4b0f-8a0b-2f0c7d9e1a11"
HANG_S = 45.0
"""For one exchange: only so that a server that never answers is seen."""
METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE", "get", "X")
TEMPLATES: tuple[bytes, ...] = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /none\r\n\r\n",
    b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n",
    b"HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /readyz?verbose HTTP/1.0\r\n\r\n",
    b"GET /v1/leases?prefix=shop/&after=a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /v1/leases/shop/billing HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    b"GET /v1/leases/first/verify?term=1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: a\r\nLast-Event-ID: shop/first=1\r\n\r\n",
    b'POST /v1/leases/first/transfer HTTP/1.1\r\nHost: a\r\nContent-Length: 21\r\n\r\n{"successor": "pod-b"}',
    b"POST /v1/leases/first/step-down HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%ff%00%2e%2e/?a=1&a=2&=&%zz HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200 + b"\r\n\r\n",
)
_STATUS = re.compile(rb"(?:\A|\n)HTTP/1\.1 (\d{3}) ")
"""A status line."""


class Errors(logging.Handler):
    """Keeps what was logged as an error: nothing that a client sends is one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text and the exception, unless it is that a client has left."""
        if record.exc_info and isinstance(record.exc_info[1], ConnectionError):
            return
        self.found.append(logging.Formatter().format(record))


class World:
    """A loop that runs while an input is tried, and a node of its own on it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.errors = Errors()
        logging.getLogger().addHandler(self.errors)
        self.loop.set_exception_handler(lambda loop, context: self.errors.found.append(repr(context)))
        self._scratch = tempfile.TemporaryDirectory(prefix="fuzz-node-")
        self.node: Node = self.run(self._node())

    async def _node(self) -> Node:
        node = Node(
            NodeConfig(
                name="node-0",
                data=Path(self._scratch.name),
                peers=(("node-0", "127.0.0.1:1"),),
                cluster=CLUSTER,
                bootstrap=True,
                listen_client="127.0.0.1:0",
                listen_peer="127.0.0.1:0",
                listen_http="127.0.0.1:0",
                auto_declare=True,
            )
        )
        await node.start()
        return node

    @property
    def client_port(self) -> int:
        """Where the node serves clients."""
        port: int = self.node._listening[1].sockets[0].getsockname()[1]
        return port

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run until this has ended; a server that hangs is an error."""
        return self.loop.run_until_complete(asyncio.wait_for(work, HANG_S))

    def check(self) -> None:
        """Expect that nothing was logged as an error."""
        assert not self.errors.found, self.errors.found[0]


async def answer_to(port: int, pieces: list[bytes]) -> bytes:
    """Send pieces, close that half, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        if writer.can_write_eof():
            writer.write_eof()
        while data := await reader.read(1 << 16):
            found += data
    except (ConnectionError, OSError):
        # Refused in the middle: what came before is the answer.
        return found
    finally:
        writer.close()
    return found


async def answer_to_request(port: int, data: bytes) -> tuple[int, bytes]:
    """Send one sound request and read its answer; a stream is read up to its headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)
        has_body = not data.startswith(b"HEAD") and length is not None
        body = await reader.readexactly(int(length[1])) if has_body and length is not None else b""
        return status, body
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """Return the status of every answer in what came back."""
    return [int(status) for status in _STATUS.findall(answer)]


def check_answers(answer: bytes, allowed: frozenset[int]) -> None:
    """Expect HTTP or nothing, and no status that tells of a bug."""
    assert not answer or _STATUS.match(answer), f"no HTTP came back: {answer[:80]!r}"
    found = statuses(answer)
    assert allowed.issuperset(found), f"{found}: {answer[:300]!r}"


def sound_request(method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
    """Write a request as a client does."""
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def quoted(text: str) -> str:
    """Write a part of a path."""
    return quote(text, safe="")
