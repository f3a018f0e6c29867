"""What waits for a slow reader is bounded (``node/connection.py``), over real sockets."""

import asyncio

import pytest

from leaderlease.node import connection as node_connection
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept
from leaderlease.wire.codec import PEER
from support.caller import Caller, call, until

MESSAGE = Accept(1, "s/shop/lock", Ballot(1, "b", 1), Value(1, None, None, body=bytes(512 << 10)))
MESSAGES_MAX = 256
"""128 MiB: more than any kernel keeps for one connection."""


async def test_who_reads_nothing_is_dropped_when_too_much_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it costs its node is bounded; what is under the bound waits for it."""
    monkeypatch.setattr(node_connection, "WRITE_BUFFER_BYTES_MAX", 4 << 20)
    loop = asyncio.get_running_loop()
    owner = Caller(PEER)
    listening = await loop.create_server(lambda: owner.connection, "127.0.0.1", 0)
    reader = await call(listening, PEER)
    try:
        assert reader.connection._transport is not None
        reader.connection._transport.pause_reading()
        sent = 0
        await until(lambda: owner.connection.is_open)
        assert owner.connection._transport is not None
        waiting = owner.connection._transport.get_write_buffer_size
        while owner.connection.is_open and sent < MESSAGES_MAX:
            assert waiting() <= 4 << 20
            owner.connection.push(MESSAGE)
            await asyncio.sleep(0)
            sent += 1
        assert sent > (4 << 20) // len(MESSAGE.value.body)
        assert await owner.next() == "4 MiB wait unread"
    finally:
        listening.close()
        for end in (reader, owner):
            end.connection.drop("the test has ended")
        await until(lambda: reader.connection._transport is owner.connection._transport is None)
