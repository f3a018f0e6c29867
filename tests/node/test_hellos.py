"""R8, H24, H28: who is talked to, checked on both ends of a connection between members (``node/peers.py``)."""

import asyncio
from typing import Any

import msgspec
import pytest

from leaderlease.errors import RemoteProtocolError
from leaderlease.node import connection as node_connection
from leaderlease.node import peers as node_peers
from leaderlease.node.connection import Connection
from leaderlease.node.peers import Directory, Peers
from leaderlease.paxos.membership import Configuration, Member
from leaderlease.paxos.messages import Ping, Pong, Renew, Renewed
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from leaderlease.wire.codec import PEER
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Refused

CONFIGURATION = Configuration("cluster", 1, tuple(Member(name, f"node-{name}", "127.0.0.1:1") for name in "abc"))


def hello_of(member: str, incarnation: int = 1, cluster: str = "cluster") -> Hello:
    """Return what a member says."""
    life = f"{member}/{incarnation}"
    return Hello("peer", PROTOCOL_MIN, PROTOCOL_MAX, cluster, member, incarnation, life, 1, f"node-{member}")


class End:
    """Member a, without sockets, and what it heard."""

    def __init__(self) -> None:
        self.storage = MemoryStorage(MemoryDisk("a"))
        self.heard: list[tuple[str, Any]] = []
        self.changes: list[tuple[str, bool]] = []
        self.peers = Peers(
            Directory(CONFIGURATION, self.storage, lambda: hello_of("a")),
            "a",
            on_message=lambda member, message: self.heard.append((member, message)),
            on_change=lambda member, is_up: self.changes.append((member, is_up)),
            on_refused=lambda member, refused: None,
            now_us=lambda: 0,
            client_tls=None,
        )

    def remembered(self) -> dict[str, int]:
        """Return the incarnations that are durable."""
        self.storage.flush()
        return {member: life.incarnation for member, life in self.storage.peers().items()}


def _sent(connection: Connection) -> list[Any]:
    return [*connection._urgent, *connection._out]


STRANGERS = pytest.mark.parametrize(
    "hello",
    [hello_of("b", cluster="another"), hello_of("z"), hello_of("c"), hello_of("a")],
    ids=["another cluster", "z", "c", "a"],
)


@STRANGERS
async def test_h28_whom_this_member_dialled_is_checked_before_it_can_be_asked(hello: Hello) -> None:
    """R8: another cluster, a stranger, another member than the one that was dialled, and a copy of this one's disk."""
    end = End()
    link = end.peers.links["b"]
    connection = Connection(asyncio.get_running_loop(), PEER, link)
    link.on_hello(connection, hello)
    link.on_message(connection, Pong(1, 2, 3))
    assert (link.is_up, end.changes, end.heard, end.remembered()) == (False, [], [], {})


async def test_h24_whom_this_member_dialled_is_remembered_durably_and_can_be_asked() -> None:
    """R8: and once its connection is lost it cannot, which is told once."""
    end = End()
    link = end.peers.links["b"]
    connection = link.connection = Connection(asyncio.get_running_loop(), PEER, link)
    end.peers.send("b", Ping(1, 2))
    assert _sent(connection) == [], "nothing goes to a member that has not said who it is"
    link.on_hello(connection, hello_of("b", 3))
    assert (link.is_up, end.changes, end.remembered()) == (True, [("b", True)], {"b": 3})
    for message in (Ping(1, 2), Renew(1, 1, "a", 1, ())):
        end.peers.send("b", message)
    assert [type(message) for message in _sent(connection)] == [Renew, Ping], "renewals wait for nobody"
    link.on_message(connection, Pong(1, 2, 3))
    assert end.heard == [("b", Pong(1, 2, 3))]
    for _ in range(2):
        link.on_closed(connection, "gone")
    assert end.changes == [("b", True), ("b", False)]
    link.on_hello(connection, hello_of("b", 2))
    assert not link.is_up, "its disk went back in time"


@pytest.mark.parametrize("hello", [hello_of("b", cluster="another"), hello_of("z"), hello_of("a")])
async def test_h28_who_dials_is_checked_before_it_is_heard(hello: Hello) -> None:
    """R8: what it asks is not weighed, and nothing is remembered of it."""
    end = End()
    connection = end.peers.accept()
    end.peers.on_hello(connection, hello)
    end.peers.on_message(connection, Ping(1, 2))
    assert (connection.member, end.heard, end.remembered(), end.peers.is_asked()) == ("", [], {}, False)


async def test_h24_who_dials_is_remembered_and_answered_on_its_latest_connection() -> None:
    """R8: the end of an earlier one changes nothing."""
    end = End()
    first, second = end.peers.accept(), end.peers.accept()
    for connection in (first, second):
        end.peers.on_hello(connection, hello_of("b", 4))
    assert end.remembered() == {"b": 4}
    end.peers.on_closed(first, "dialled again")
    end.peers.on_message(second, Ping(1, 2))
    assert end.heard == [("b", Ping(1, 2))]
    for message in (Pong(1, 2, 3), Renewed(1)):
        end.peers.reply("b", message)
    assert [type(message) for message in _sent(second)] == [Renewed, Hello, Pong]
    end.peers.on_closed(second, "gone")
    assert not end.peers.is_asked()


async def test_h24_a_member_whose_disk_was_copied_is_neither_asked_nor_heard_nor_answered() -> None:
    """R8: from the moment of the proof on, also on the connections of its other copy that are open already."""
    end = End()
    link, dialled_us, copy = end.peers.links["b"], end.peers.accept(), end.peers.accept()
    dialled = link.connection = Connection(asyncio.get_running_loop(), PEER, link)
    end.peers._accepted |= {dialled_us, copy}
    link.on_hello(dialled, hello_of("b"))
    end.peers.on_hello(dialled_us, hello_of("b"))
    assert (link.is_up, end.peers.is_asked()) == (True, True)
    end.peers.on_hello(copy, msgspec.structs.replace(hello_of("b"), boot_nonce="another"))
    assert end.changes == [("b", True), ("b", False)]
    link.on_message(dialled, Pong(1, 2, 3))
    for connection in (dialled_us, copy):
        end.peers.on_message(connection, Ping(1, 2))
    end.peers.send("b", Ping(1, 2))
    end.peers.reply("b", Pong(1, 2, 3))
    assert end.heard == []
    assert [_sent(connection) for connection in (dialled, copy)] == [[], []]
    assert [type(message) for message in _sent(dialled_us)] == [Hello]
    assert (link.is_up, end.peers.is_asked(), end.remembered()) == (False, False, {"b": node_peers.QUARANTINED})


@pytest.mark.parametrize("is_dialled", [False, True], ids=["it dials", "it is dialled"])
async def test_h24_the_life_before_is_neither_asked_nor_heard_when_the_next_one_is_met(is_dialled: bool) -> None:
    """R8: a disk that is copied while its node runs begins as that node's next life, and contradicts nothing."""
    end = End()
    link, dialled_us, again = end.peers.links["b"], end.peers.accept(), end.peers.accept()
    dialled = link.connection = Connection(asyncio.get_running_loop(), PEER, link)
    end.peers._accepted |= {dialled_us, again}
    if not is_dialled:
        link.on_hello(dialled, hello_of("b", 1))
    end.peers.on_hello(dialled_us, hello_of("b", 1))
    if is_dialled:
        link.on_hello(dialled, hello_of("b", 2))
    else:
        end.peers.on_hello(again, hello_of("b", 2))
        link.on_message(dialled, Pong(1, 2, 3))
    end.peers.on_message(dialled_us, Ping(1, 2))
    assert (end.heard, link.is_up, end.peers.is_asked()) == ([], is_dialled, not is_dialled)


async def test_connections_of_others_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is one too many is refused, member or not; one that has gone leaves its place."""
    monkeypatch.setattr(node_peers, "INBOUND_MAX", 1)
    end = End()
    first, second = end.peers.accept(), end.peers.accept()
    end.peers._accepted |= {first, second}
    end.peers.on_hello(first, hello_of("b"))
    assert first.member == ""
    end.peers.on_closed(first, "refused")
    end.peers.on_hello(second, hello_of("b"))
    assert second.member == "b"


class Ears:
    """Takes what a connection hands on."""

    def __init__(self) -> None:
        self.hellos: list[Any] = []
        self.messages: list[Any] = []
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_hello(self, connection: Connection, hello: Hello | Refused) -> None:
        """Take the hello; a refusal ends the test's connection."""
        self.hellos.append(hello)
        if isinstance(hello, Refused):
            connection.close(hello.text)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Take a message; one of them closes."""
        self.messages.append(message)
        if message == Ping(9, 9):
            connection.close("asked to")
        if message == Ping(8, 8):
            raise RemoteProtocolError("nobody sends that")

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Take the end."""
        self.closed.set_result(reason)


async def _pair() -> tuple[Ears, Connection, asyncio.Server]:
    """Return the listening end's ears, and a connection to it that says nothing by itself."""
    loop = asyncio.get_running_loop()
    listening, dialling = Ears(), Ears()
    server = await loop.create_server(lambda: Connection(loop, PEER, listening), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = Connection(loop, PEER, dialling)
    await loop.create_connection(lambda: connection, "127.0.0.1", port)
    return listening, connection, server


@pytest.mark.parametrize(
    ("messages", "hellos", "heard", "reason"),
    [
        ([Ping(1, 1), hello_of("b"), Ping(9, 9)], 0, [], "Ping before any hello"),
        ([hello_of("b"), Ping(1, 1), Ping(8, 8), Ping(2, 2)], 1, [Ping(1, 1), Ping(8, 8)], "nobody sends that"),
        ([], 0, [], "no hello in 0.05 s"),
    ],
    ids=["no hello first", "a message that nobody sends", "no hello in time"],
)
async def test_a_connection_that_breaks_the_protocol_ends(
    monkeypatch: pytest.MonkeyPatch, messages: list[Any], hellos: int, heard: list[Any], reason: str
) -> None:
    """R8: nothing before the hello is looked at, and nothing after the breach is handed on."""
    monkeypatch.setattr(node_connection, "HELLO_TIMEOUT_S", 0.05 if not messages else 60.0)
    ears, connection, server = await _pair()
    try:
        for message in messages:
            connection.push(message)
        async with asyncio.timeout(20):
            assert await ears.closed == reason
        assert (len(ears.hellos), ears.messages) == (hellos, heard)
    finally:
        connection.drop("the test has ended")
        server.close()


async def test_h26_a_peer_that_says_nothing_counts_as_gone() -> None:
    """R6: whatever TCP says of its connection; what is heard meanwhile puts that off."""
    end = End()
    link = end.peers.links["b"]
    ears, connection, server = await _pair()
    try:
        link._ping(connection)
        assert connection.is_open
        connection._last_heard_s -= node_peers.SILENCE_MAX_S + 1
        connection.data_received(PEER.encode_many([hello_of("b")]))
        link._ping(connection)
        assert connection.is_open
        connection._last_heard_s -= node_peers.SILENCE_MAX_S + 1
        link._ping(connection)
        async with asyncio.timeout(20):
            await ears.closed
    finally:
        connection.drop("the test has ended")
        server.close()
