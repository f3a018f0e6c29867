"""Well-formed messages with any content, from peers and clients, at a whole node: refused, or weighed by the rules.

The node is production code from its driver to its sessions; ``support.nodes`` stands for the network and the disk. A
member that lies can take the quorum's time (this is no Byzantine agreement), but no message may end in an exception
other than ``RemoteProtocolError``, and whatever comes: promises and accepted ballots of a register never go back, and
no value changes without a higher ballot (R3, R4).
"""

from typing import Any

import msgspec

from fuzz.codec import CLIENT_MESSAGES, PEER_MESSAGES, changed, framed, said
from fuzz.source import Source
from leaderlease.errors import RemoteProtocolError
from leaderlease.wire.codec import NODE, PEER, Codec
from leaderlease.wire.session import Hello, Refused
from support.nodes import NAME, Client, Cluster, Node

STEPS_MAX = 12
REFUSALS_MAX = 100
"""Within one step, of 5 s at the most: a member that took a lie for a ballot asks on, twice a second."""
NAMES = (f"l/{NAME}", "l/shop/other")
"""Registers of leases. What the others hold are bodies that only members write, and members do not lie."""
_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.decode


def _taken(codec: Codec[Any, Any], body: bytes) -> list[Any]:
    """Return what the codec takes out of a body."""
    try:
        return codec.decoder().feed(framed(body))
    except RemoteProtocolError:
        return []


def _message(source: Source, codec: Codec[Any, Any], samples: tuple[Any, ...]) -> Any:
    """Return a message that the codec takes: a sample, mostly about our register, with parts changed."""
    tree = _decode(_encode(source.choice(samples[1:])))
    if len(tree) > 2:
        for at in (1, 2):
            if tree[at] == "l/a" or tree[at] == "shop/lock":
                tree[at] = source.choice(NAMES) if codec is PEER else source.choice((NAME, "shop/other", "", "x"))
    for at, part in enumerate(tree):
        if isinstance(part, list) and part and isinstance(part[0], int) and source.chance(2):
            tree[at] = [source.whole(0, 20), source.choice(("1", "2", "3", "")), source.whole(0, 2), *part[3:]][
                : len(part)
            ]
    for _ in range(source.whole(0, 2)):
        tree = changed(source, tree)
    found = _taken(codec, _encode([tree]))
    return found[0] if found else None


def _image(node: Node) -> dict[str, tuple[Any, Any, Any]]:
    return {key: (one.promised, one.accepted, one.value) for key, one in node.driver.acceptor.registers.items()}


def _check(node: Node, before: dict[str, tuple[Any, Any, Any]]) -> None:
    after = _image(node)
    for key, (promised, accepted, value) in before.items():
        promised_now, accepted_now, value_now = after[key]
        assert promised_now >= promised, f"{key}: a promise went back"
        assert accepted_now >= accepted, f"{key}: what was accepted went back"
        assert accepted_now <= promised_now, f"{key}: accepted above the promise"
        assert value_now == value or accepted_now > accepted, f"{key}: another value under one ballot"


def _run(cluster: Cluster, elapsed_ms: int) -> None:
    """Let time pass; honest members may refuse what they are told because of a lie, as a connection would end."""
    end_ms = cluster.now_ms + elapsed_ms
    for _ in range(REFUSALS_MAX):
        try:
            cluster.run(end_ms - cluster.now_ms)
        except RemoteProtocolError:
            continue
        return
    raise AssertionError("no end of refusals")


def one_input(data: bytes) -> None:
    """Some messages to the first of three nodes, with time in between."""
    source = Source(data)
    cluster = Cluster()
    node = cluster[1]
    client: Client = node.client("client")
    for _ in range(STEPS_MAX):
        if not source.left:
            break
        before = _image(node)
        try:
            if source.chance(2):
                message = _message(source, PEER, PEER_MESSAGES)
                if message is None or isinstance(message, Hello | Refused):
                    continue
                node.driver.on_message(source.choice(("2", "3")), message)
            else:
                message = _message(source, NODE, CLIENT_MESSAGES)
                if message is None or isinstance(message, Hello | Refused):
                    continue
                client.tell(message)
        except RemoteProtocolError as error:
            said(error)
            client.cut()
            client = node.client("client")
        _run(cluster, source.choice((0, 0, 1, 40, 600, 5_000)))
        if node.ports.halted:
            # R3: a rule and no fault. Nothing more is expected of this node.
            assert "two values under ballot" in node.ports.halted, node.ports.halted
            return
        _check(node, before)


SAMPLES = (
    *(bytes([1, 0, number, *[3] * 8]) for number in range(len(PEER_MESSAGES) - 1)),
    *(bytes([0, number, *[3] * 8]) for number in range(len(CLIENT_MESSAGES) - 1)),
    bytes(range(200)),
    bytes(reversed(range(200))),
)
