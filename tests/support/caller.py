"""One end of a real connection, held by a test: what it hears it keeps, in order, and nothing answers by itself."""

import asyncio
from collections.abc import Callable
from typing import Any

from leaderlease.node.connection import Connection
from leaderlease.wire.codec import Codec
from leaderlease.wire.session import Hello, Refused

WAIT_S = 20.0
"""For what comes by itself; a test that waits so long has failed."""


async def until(is_so: Callable[[], object]) -> None:
    """Wait for what nobody tells."""
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110  (sockets have no event to wait for)
            await asyncio.sleep(0.005)


class Caller:
    """The owner of a connection (``node/connection.py``).

    Attributes:
        connection: Its own end.
    """

    def __init__(self, codec: Codec[Any, Any]) -> None:
        loop = asyncio.get_running_loop()
        self.connection = Connection(loop, codec, self)
        self._heard: asyncio.Queue[Any] = asyncio.Queue()

    async def next(self) -> Any:
        """Return what is heard next: a message, or as a string why the connection has ended."""
        async with asyncio.timeout(WAIT_S):
            return await self._heard.get()

    def on_hello(self, connection: Connection, hello: Hello | Refused) -> None:
        """Keep it."""
        self._heard.put_nowait(hello)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Keep it."""
        self._heard.put_nowait(message)

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Keep the reason."""
        self._heard.put_nowait(reason)


async def call(server: asyncio.Server, codec: Codec[Any, Any]) -> Caller:
    """Connect to whoever listens there."""
    caller = Caller(codec)
    host, port = server.sockets[0].getsockname()[:2]
    await asyncio.get_running_loop().create_connection(lambda: caller.connection, host, port)
    return caller
