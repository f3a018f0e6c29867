"""How a node leaves (``node/node.py``, rule 3): clients first, and a vote for what they ask elsewhere."""

import asyncio
from pathlib import Path

import pytest

from leaderlease.node import node as node_module
from leaderlease.node.bootstrap import store_configuration
from leaderlease.node.config import NodeConfig
from leaderlease.node.node import Node
from leaderlease.paxos.membership import first_configuration
from leaderlease.paxos.messages import Ping, Pong
from leaderlease.storage.sqlite import open_storage
from leaderlease.wire.codec import CLIENT, PEER
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, GoAway, Hello
from support.caller import WAIT_S, Caller, call, until
from support.nodes import CLUSTER

FAR_S = 1_000_000.0
"""Longer than any test: whatever waits for it waits until the clock is set."""
ADDRESS = "127.0.0.1:1"


async def _serving(data: Path) -> tuple[Node, "asyncio.Task[None]"]:
    """Start the first of three members; the others are not there."""
    loop = asyncio.get_running_loop()
    storage = open_storage(data, loop.call_soon_threadsafe, lambda error: None)
    names = {storage.identity.member: ("n1", ADDRESS), "u2": ("n2", ADDRESS), "u3": ("n3", ADDRESS)}
    await store_configuration(storage, first_configuration(CLUSTER, names))
    await asyncio.to_thread(storage.close)
    anywhere = "127.0.0.1:0"
    node = Node(
        NodeConfig(
            name="n1",
            data=data,
            peers=(("n1", ADDRESS), ("n2", ADDRESS), ("n3", ADDRESS)),
            cluster=CLUSTER,
            listen_client=anywhere,
            listen_peer=anywhere,
            listen_http="",
        )
    )
    task = asyncio.create_task(node.serve())
    await until(lambda: node.is_serving or task.done())
    return node, task


async def _greeted(listening: asyncio.Server, *, is_peer: bool) -> Caller:
    caller = await call(listening, PEER if is_peer else CLIENT)
    member = Hello("peer", PROTOCOL_MIN, PROTOCOL_MAX, CLUSTER, "u2", 1, "life", 1, "n2")
    caller.connection.push(member if is_peer else Hello("client", PROTOCOL_MIN, PROTOCOL_MAX))
    assert isinstance(await caller.next(), Hello)
    return caller


async def _is_told_to_leave(node: Node, client: Caller) -> None:
    node.ask_to_stop()
    assert isinstance(await client.next(), GoAway)
    client.connection.drop("it goes to another node")
    await until(lambda: node.server is not None and not node.server._connections)


async def test_a_node_that_leaves_answers_members_when_its_clients_have_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They ask others for their leases, which may need its vote; it goes when its time is up."""
    monkeypatch.setattr(node_module, "LINGER_S", FAR_S)
    loop = asyncio.get_running_loop()
    node, task = await _serving(tmp_path / "data")
    peers, clients = node._listening
    client, peer = await _greeted(clients, is_peer=False), await _greeted(peers, is_peer=True)
    await _is_told_to_leave(node, client)
    for number in range(1, 11):
        peer.connection.push(Ping(number, 0))
        answer = await peer.next()
        assert (type(answer), getattr(answer, "request", answer)) == (Pong, number)
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + FAR_S)
    async with asyncio.timeout(WAIT_S):
        await task
    assert await peer.next() == "closed by the other side"


async def test_a_node_that_leaves_and_that_nobody_can_ask_stays_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No member has dialled it: nobody would hear its vote."""
    monkeypatch.setattr(node_module, "LINGER_S", FAR_S)
    node, task = await _serving(tmp_path / "data")
    client = await _greeted(node._listening[1], is_peer=False)
    await _is_told_to_leave(node, client)
    async with asyncio.timeout(WAIT_S):
        await task
