"""How members find each other, over real sockets."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from leaderlease.node.peers import Directory, Peers
from leaderlease.paxos.membership import Configuration, Member
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Hello

NAMES = ("a", "b", "c")
OLD_ADDRESS = "127.255.255.254"
"""Where nobody listens: an answer of the DNS from before a restart."""
WAIT_S = 20.0


@dataclass
class End:
    """One member: its connections, and who of the others it can ask."""

    name: str
    peers: Peers
    server: asyncio.Server
    up: set[str] = field(default_factory=set)

    async def stop(self) -> None:
        """Close everything."""
        self.server.close()
        await self.peers.stop()


async def listen() -> tuple[asyncio.Server, int, list[Any]]:
    """Listen anywhere; what is put into the list makes the protocols."""
    makers: list[Any] = []
    server = await asyncio.get_running_loop().create_server(lambda: makers[0](), "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], makers


async def members(old: str = "") -> list[End]:
    """Make three members that do not dial yet; ``old`` is one whose name leads nowhere."""
    listening = {name: await listen() for name in NAMES}
    hosts = {name: OLD_ADDRESS if name == old else "127.0.0.1" for name in NAMES}
    found = tuple(Member(name, f"node-{name}", f"{hosts[name]}:{listening[name][1]}") for name in NAMES)
    configuration = Configuration("cluster", 1, found)
    ends = []
    for name, (server, _, makers) in listening.items():
        ends.append(End(name, make_peers(configuration, name), server))
        ends[-1].peers.on_change = follow(ends[-1])
        makers.append(ends[-1].peers.accept)
    return ends


def make_peers(configuration: Configuration, name: str) -> Peers:
    """Make the connections of one member."""
    storage = MemoryStorage(MemoryDisk(name), boot_nonce=f"boot-{name}")
    hello = Hello("peer", PROTOCOL_MIN, PROTOCOL_MAX, "cluster", name, 1, f"boot-{name}", 1, name)
    return Peers(
        Directory(configuration, storage, lambda: hello),
        name,
        on_message=lambda member, message: None,
        on_change=lambda member, is_up: None,
        on_refused=lambda member, refused: None,
        now_us=lambda: 0,
        client_tls=None,
    )


def follow(end: End) -> Any:
    """Return what keeps the set of an end up to date."""
    return lambda member, is_up: end.up.add(member) if is_up else end.up.discard(member)


async def until(is_so: Any) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110 (sockets have no event to wait for)
            await asyncio.sleep(0.01)


async def test_a_member_whose_name_is_out_of_date_is_dialled_where_it_came_from() -> None:
    """Its own dialling is enough (rule 4): both others can ask it, though its address leads nowhere."""
    ends = await members(old="c")
    try:
        for end in ends:
            end.peers.start()
        await until(lambda: all(len(end.up) == 2 for end in ends))
    finally:
        await asyncio.gather(*(end.stop() for end in ends))


async def test_a_member_is_joined_when_all_others_talk_with_it_both_ways() -> None:
    """To be able to ask everybody is not enough: who cannot ask it would lose it as a vote."""
    ends = await members()
    a, b, c = ends
    try:
        assert not a.peers.is_joined()
        a.peers.start()
        await until(lambda: a.up == {"b", "c"})
        assert not a.peers.is_joined()
        b.peers.start()
        await until(lambda: "a" in b.up)
        assert not a.peers.is_joined()
        c.peers.start()
        await until(a.peers.is_joined)
    finally:
        await asyncio.gather(*(end.stop() for end in ends))


async def test_a_member_that_nobody_can_ask_need_not_stay_to_vote() -> None:
    """It is asked as soon as one member has dialled it."""
    ends = await members()
    a, b, _ = ends
    try:
        assert not a.peers.is_asked()
        b.peers.start()
        await until(a.peers.is_asked)
    finally:
        await asyncio.gather(*(end.stop() for end in ends))
