"""The node as a process (``node/node.py``, ``node/server.py``): which disk it takes, when it stops, whom it serves."""

import asyncio
from pathlib import Path

import pytest

from leaderlease.errors import InvariantViolated, WrongDirectory
from leaderlease.node import server as node_server
from leaderlease.node.auth import Authenticator
from leaderlease.node.config import NodeConfig
from leaderlease.node.node import Node
from leaderlease.node.server import Server
from leaderlease.paxos.messages import Ping
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Hello
from support.nodes import CLUSTER, Cluster

OTHER_CLUSTER = "00000000-0000-4000-8000-000000000002"
WAIT_S = 30.0


def _config(data: Path, name: str = "n1", cluster: str = CLUSTER) -> NodeConfig:
    return NodeConfig(
        name=name,
        data=data,
        peers=((name, "127.0.0.1:1"),),
        cluster=cluster,
        bootstrap=True,
        listen_client="127.0.0.1:0",
        listen_peer="127.0.0.1:0",
        listen_http="",
        auto_declare=True,
    )


async def _serving(config: NodeConfig) -> tuple[Node, asyncio.Task[None]]:
    node = Node(config)
    task = asyncio.create_task(node.serve())
    async with asyncio.timeout(WAIT_S):
        while not node.is_serving and not task.done():  # noqa: ASYNC110  (the node tells nobody)
            await asyncio.sleep(0.01)
    return node, task


async def _run_once(config: NodeConfig) -> None:
    node, task = await _serving(config)
    node.ask_to_stop()
    async with asyncio.timeout(WAIT_S):
        await task


async def test_h24_a_node_does_not_run_on_the_disk_of_another(tmp_path: Path) -> None:
    """R8: neither under another name, nor for another cluster; its own it takes again."""
    await _run_once(_config(tmp_path / "data"))
    with pytest.raises(WrongDirectory, match="this disk is the one of n1"):
        await _run_once(_config(tmp_path / "data", name="n2"))
    with pytest.raises(WrongDirectory, match="belongs to cluster"):
        await _run_once(_config(tmp_path / "data", cluster=OTHER_CLUSTER))
    await _run_once(_config(tmp_path / "data"))


async def test_a_rule_that_a_message_of_a_peer_breaks_ends_the_process_r9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: it is proof of a bug, and the connection to the peer must not swallow it."""
    node, task = await _serving(_config(tmp_path / "data"))
    assert node.sessions is not None
    driver = node.sessions.driver

    def break_a_rule(member: str, message: object) -> None:
        raise InvariantViolated("two values under one ballot")

    monkeypatch.setattr(driver, "on_message", break_a_rule)
    node._on_peer_message("n2", Ping(1, 2))
    assert driver.is_stopped, "at once, and not when it gets to clean up"
    with pytest.raises(InvariantViolated):
        async with asyncio.timeout(WAIT_S):
            await task


def _hello(role: str = "client", low: int = PROTOCOL_MIN, high: int = PROTOCOL_MAX, cluster: str = "") -> Hello:
    return Hello(role, low, high, cluster)


@pytest.mark.parametrize(
    ("hello", "is_served"),
    [
        (_hello(), True),
        (_hello(cluster=CLUSTER), True),
        (_hello(role="peer"), False),
        (_hello(cluster=OTHER_CLUSTER), False),
        (_hello(low=PROTOCOL_MAX + 1, high=PROTOCOL_MAX + 1), False),
        (_hello(low=0, high=PROTOCOL_MIN - 1), False),
    ],
)
async def test_h28_h36_whom_the_client_port_serves(hello: Hello, is_served: bool) -> None:
    """R8: clients of this cluster that speak this protocol; a member of the quorum has another port."""
    node = Cluster()[1]
    server = Server(node.sessions, lambda: _hello("node"), Authenticator(node.driver, "open"))
    connection = server.accept()
    server.on_hello(connection, hello)
    assert (connection.context is not None) == is_served
    assert len(node.sessions.open_sessions) == is_served
    server.on_closed(connection, "gone")
    assert not node.sessions.open_sessions


async def test_a_node_that_leaves_or_is_full_takes_no_new_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that it has are sent to others."""
    node = Cluster()[1]
    server = Server(node.sessions, lambda: _hello("node"), Authenticator(node.driver, "open"))
    monkeypatch.setattr(node_server, "CONNECTIONS_MAX", 2)
    connections = [server.accept() for _ in range(3)]
    for connection in connections:
        server.on_made(connection)
    server.on_hello(connections[0], _hello())
    assert connections[0].context is None, "three are open, and two are allowed"
    server.on_closed(connections[0], "refused")
    server.on_hello(connections[1], _hello())
    assert connections[1].context is not None
    assert server.leave()
    assert [type(message).__name__ for message in connections[1]._out] == ["Hello", "GoAway"]
    server.on_hello(connections[2], _hello())
    assert connections[2].context is None
