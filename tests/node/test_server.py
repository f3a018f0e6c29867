"""The client port over real sockets (``node/server.py``): who has gone without a word is let go of."""

import asyncio

from leaderlease.node.auth import Authenticator
from leaderlease.node.server import SILENCE_CHECK_S, SILENCE_MAX_S, Server
from leaderlease.wire.codec import CLIENT
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Hello
from support.caller import Caller, call, until
from support.nodes import Cluster

PERIOD_MS = 1_000 * SILENCE_CHECK_S


async def _client(listening: asyncio.Server, name: str) -> Caller:
    client = await call(listening, CLIENT)
    client.connection.push(Hello("client", PROTOCOL_MIN, PROTOCOL_MAX, name=name))
    assert isinstance(await client.next(), Hello)
    return client


async def test_a_client_that_is_silent_is_dropped_and_its_session_ends() -> None:
    """Or its candidates would be elected when it has gone; the others stay, and each look is followed by the next."""
    cluster = Cluster()
    node = cluster[1]
    hello = Hello("node", PROTOCOL_MIN, PROTOCOL_MAX)
    server = Server(node.sessions, lambda: hello, Authenticator(node.driver, "open"))
    listening = await asyncio.get_running_loop().create_server(server.accept, "127.0.0.1", 0)
    try:
        for name in ("first", "second"):
            silent, talking = await _client(listening, name), await _client(listening, "talking")
            theirs = next(iter(server._connections))
            cluster.run(PERIOD_MS)
            assert len(node.sessions.open_sessions) == 2, "neither has been silent for long"
            theirs._last_heard_s -= SILENCE_MAX_S + 1
            cluster.run(PERIOD_MS)
            assert not theirs.is_open
            await silent.next()
            assert [session.name for session in node.sessions.open_sessions] == ["talking"]
            talking.connection.drop("the test goes on")
            await talking.next()
            await until(lambda: not server._connections)
            cluster.run(PERIOD_MS)
    finally:
        listening.close()
        server.close()
        await until(lambda: not server._connections)
