"""Frames carry every message of every vocabulary unchanged, however the bytes are cut, and within their bounds."""

import struct
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import google_crc32c
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderlease.errors import LocalProtocolError
from leaderlease.paxos import messages as peer
from leaderlease.wire import session
from leaderlease.wire.codec import (
    BODY_BYTES_MAX,
    CLIENT,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    MESSAGES_PER_FRAME_MAX,
    NODE,
    PEER,
    Codec,
    PeerMessage,
)

DIRECTIONS: dict[str, tuple[Codec[Any, Any], Codec[Any, Any], types.UnionType]] = {
    "peer": (PEER, PEER, PeerMessage),
    "client": (CLIENT, NODE, session.ClientMessage),
    "node": (NODE, CLIENT, session.NodeMessage),
}
KINDS = [
    pytest.param(sender, receiver, kind, id=f"{side}-{kind.__name__}")
    for side, (sender, receiver, union) in DIRECTIONS.items()
    for kind in get_args(union)
]
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(),
    bytes: st.binary(),
    type(None): st.none(),
}


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Build any value that the annotation allows and msgpack can hold."""
    if kind in SCALARS:
        return SCALARS[kind]
    if get_origin(kind) in (types.UnionType, Union):
        return st.one_of(*map(anything, get_args(kind)))
    if get_origin(kind) is tuple:
        first, *rest = get_args(kind)
        if rest == [...]:
            return st.lists(anything(first), max_size=3).map(tuple)
        return st.tuples(*map(anything, (first, *rest)))
    hints = get_type_hints(kind)
    return st.builds(kind, **{field: anything(hints[field]) for field in kind.__struct_fields__})


def pings(count: int) -> list[PeerMessage]:
    """Return this many small messages, all different."""
    return [peer.Ping(number, 0) for number in range(count)]


def frame_sizes(data: bytes) -> list[int]:
    """Walk the headers and return the size of each frame, header included."""
    sizes, start = [], 0
    while start < len(data):
        sizes.append(HEADER_BYTES + int.from_bytes(data[start : start + 4], "big"))
        start += sizes[-1]
    return sizes


@pytest.mark.parametrize(("sender", "receiver", "kind"), KINDS)
@given(st.data())
def test_every_message_arrives_as_it_was_sent(
    sender: Codec[Any, Any], receiver: Codec[Any, Any], kind: type[msgspec.Struct], data: st.DataObject
) -> None:
    """Every message type of every direction survives the round trip with any content."""
    messages = data.draw(st.lists(anything(kind), min_size=1, max_size=3))
    received = receiver.decoder().feed(sender.encode(messages))
    assert received == messages
    assert {type(message) for message in received} == {kind}


@pytest.mark.parametrize("side", DIRECTIONS)
@given(st.data())
def test_cuts_change_nothing(side: str, data: st.DataObject) -> None:
    """Many frames cut at any places give the messages of all frames, in order."""
    sender, receiver, union = DIRECTIONS[side]
    lists = data.draw(st.lists(st.lists(anything(union), max_size=2), max_size=4))
    stream = b"".join(map(sender.encode, lists))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder = receiver.decoder()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == [message for messages in lists for message in messages]
    assert decoder.pending_bytes == 0


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview])
def test_a_reused_read_buffer_is_not_kept(container: type) -> None:
    """What was fed may be overwritten at once, as a transport does with its read buffer."""
    messages = [peer.Renew(1, 2, "m", 3, (peer.RenewItem("k", 1, b"digest"),))]
    frame = PEER.encode(messages)
    decoder = PEER.decoder()
    received = []
    for part in (frame[:20], frame[20:] + frame):
        buffer = bytearray(part)
        received += decoder.feed(container(buffer))
        buffer[:] = bytes(len(buffer))
    assert received == messages * 2


def test_frame_layout() -> None:
    """The bytes of a frame are part of the protocol: version 1 looks like this for ever."""
    body = b"\x91\x93\xa1i\x05\x07"
    assert PEER.encode([peer.Ping(5, 7)]) == struct.pack(">IBI", 6, 1, google_crc32c.value(body)) + body


def test_fields_that_a_newer_version_appends_are_ignored() -> None:
    """Array encoding lets a newer speaker put fields at the end."""
    body = msgspec.msgpack.encode([["i", 5, 7, {"new": [1, None]}]])
    frame = struct.pack(">IBI", len(body), 1, google_crc32c.value(body)) + body
    assert PEER.decoder().feed(frame) == [peer.Ping(5, 7)]


def test_no_messages_take_no_bytes() -> None:
    """Nothing to say is no frame; an empty frame is allowed and says nothing."""
    assert PEER.encode_many([]) == b""
    assert PEER.decoder().feed(PEER.encode([])) == []
    assert PEER.decoder().feed(b"") == []


def test_the_largest_frame_passes() -> None:
    """A body of exactly BODY_BYTES_MAX goes through; one byte more is refused before it is sent."""
    overhead = len(PEER.encode([peer.Vacant("k" * 70_000, 1)])) - 70_000
    largest = peer.Vacant("k" * (FRAME_BYTES_MAX - overhead), 1)
    frame = PEER.encode([largest])
    assert len(frame) == FRAME_BYTES_MAX == BODY_BYTES_MAX + HEADER_BYTES
    assert PEER.decoder().feed(frame) == [largest]
    with pytest.raises(LocalProtocolError, match="use encode_many"):
        PEER.encode([peer.Vacant(largest.key + "k", 1)])


def test_the_fullest_frame_passes() -> None:
    """MESSAGES_PER_FRAME_MAX messages go through; one more is refused before it is sent."""
    fullest = pings(MESSAGES_PER_FRAME_MAX)
    assert PEER.decoder().feed(PEER.encode(fullest)) == fullest
    with pytest.raises(LocalProtocolError, match="use encode_many"):
        PEER.encode([*fullest, peer.Ping(0, 0)])


@pytest.mark.parametrize(
    "messages",
    [
        pings(3),
        pings(2 * MESSAGES_PER_FRAME_MAX + 1),
        [peer.Vacant(str(number) * 400_000, number) for number in range(7)],
        tuple(pings(MESSAGES_PER_FRAME_MAX + 1)),
    ],
    ids=["few", "many", "large", "tuple"],
)
def test_encode_many_splits_in_order(messages: Sequence[PeerMessage]) -> None:
    """A list of any length and size becomes frames within the bounds, with nothing lost or reordered."""
    stream = PEER.encode_many(messages)
    assert max(frame_sizes(stream)) <= FRAME_BYTES_MAX
    assert PEER.decoder().feed(stream) == list(messages)


def test_encode_many_uses_one_frame_where_one_is_enough() -> None:
    """Splitting is for lists that need it."""
    assert PEER.encode_many(pings(5)) == PEER.encode(pings(5))


def test_one_message_beyond_the_bound_is_refused() -> None:
    """No splitting helps a message that is too big by itself."""
    with pytest.raises(LocalProtocolError, match="one Vacant takes 1048584 bytes"):
        PEER.encode_many([peer.Ping(1, 1), peer.Vacant("k" * (FRAME_BYTES_MAX - 2), 1)])


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (CLIENT, session.KeptAlive(1, 1)),
        (NODE, session.KeepAlive(1)),
        (PEER, session.KeepAlive(1)),
        (CLIENT, peer.Ping(1, 1)),
        (PEER, {"tag": "i"}),
    ],
)
def test_only_this_sides_messages_are_sent(codec: Codec[Any, Any], message: object) -> None:
    """A message that the other side would refuse is a bug here, found here."""
    with pytest.raises(LocalProtocolError, match="not in the vocabulary"):
        codec.encode([message])


@pytest.mark.parametrize(
    "message", [peer.Ping(2**64, 0), peer.Ping(-(2**63) - 1, 0), peer.Vacant("\ud800", 1), peer.Vacant(object(), 1)]
)
def test_fields_that_msgpack_cannot_hold_are_refused(message: PeerMessage) -> None:
    """An integer beyond 64 bits, a lone surrogate, a foreign object: a bug here, with our error."""
    with pytest.raises(LocalProtocolError, match="cannot be encoded"):
        PEER.encode([message])
