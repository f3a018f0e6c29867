"""How members find each other, and when they part, over real sockets."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from leaderlease.node.peers import Directory, Peers
from leaderlease.paxos.membership import Configuration, Member
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Hello
from support.caller import until

NAMES = ("a", "b", "c")
OLD_ADDRESS = "127.255.255.254"
"""Where nobody listens: an answer of the DNS from before a restart."""


@dataclass
class End:
    """One member: its connections, and who of the others it can ask."""

    name: str
    peers: Peers
    server: asyncio.Server
    makers: list[Any]
    """The first makes the protocols of those who dial this member's address."""
    up: set[str] = field(default_factory=set)


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
        ends.append(End(name, make_peers(configuration, name), server, makers))
        ends[-1].peers.on_change = follow(ends[-1])
        makers.append(ends[-1].peers.accept)
    return ends


def make_peers(configuration: Configuration, name: str, boot_nonce: str = "boot") -> Peers:
    """Make the connections of one member."""
    storage = MemoryStorage(MemoryDisk(name), boot_nonce=boot_nonce)
    hello = Hello("peer", PROTOCOL_MIN, PROTOCOL_MAX, "cluster", name, 1, boot_nonce, 1, name)
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


async def part(ends: list[End], *copies: Peers) -> None:
    """Close everything, also what was accepted in the last moment."""
    everybody = [*copies, *(end.peers for end in ends)]
    for end in ends:
        end.server.close()
    for _ in range(2):
        await asyncio.gather(*(peers.stop() for peers in everybody))
        await until(lambda: len(asyncio.all_tasks()) == 1)
    await until(lambda: not any(peers._accepted for peers in everybody))


async def test_a_member_whose_name_is_out_of_date_is_dialled_where_it_came_from() -> None:
    """Its own dialling is enough (rule 4): both others can ask it, though its address leads nowhere."""
    ends = await members(old="c")
    try:
        for end in ends:
            end.peers.start()
        await until(lambda: all(len(end.up) == 2 for end in ends))
    finally:
        await part(ends)


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
        await part(ends)


async def test_a_member_that_nobody_can_ask_need_not_stay_to_vote() -> None:
    """It is asked as soon as one member has dialled it."""
    ends = await members()
    a, b, _ = ends
    try:
        assert not a.peers.is_asked()
        b.peers.start()
        await until(a.peers.is_asked)
    finally:
        await part(ends)


async def test_h24_a_copy_that_dials_ends_what_is_open_with_its_original() -> None:
    """R8: of two copies of a disk none is known to be the right one, so neither is asked, heard or answered again."""
    ends = await members()
    a, b, c = ends
    copy = make_peers(a.peers.directory.configuration, "b", "boot of the copy")
    refused_by: set[str] = set()
    copy.on_refused = lambda member, refused: refused_by.add(member.uuid)
    try:
        for end in ends:
            end.peers.start()
        await until(lambda: all(end.peers.is_joined() for end in ends))
        copy.start()
        await until(lambda: refused_by == {"a", "c"})
        assert (a.up, c.up) == ({"c"}, {"a"})
        await until(lambda: not b.up and not b.peers.is_asked())
        assert (a.up, c.up, copy.is_asked()) == ({"c"}, {"a"}, False)
    finally:
        await part(ends, copy)


async def test_h24_a_copy_that_answers_ends_what_its_original_has_dialled() -> None:
    """R8: whoever stands at the address of a member is the one that is met first, or not."""
    ends = await members()
    a, b, _ = ends
    copy = make_peers(a.peers.directory.configuration, "b", "boot of the copy")
    try:
        b.peers.start()
        await until(lambda: "a" in b.up)
        b.makers[0] = copy.accept
        a.peers.start()
        await until(lambda: "runs twice" in a.peers.links["b"].last_error)
        assert not a.peers.is_asked()
        await until(lambda: "a" not in b.up)
    finally:
        await part(ends, copy)
