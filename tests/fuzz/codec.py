"""Frames from anybody: typed messages that survive a round trip, or waiting, or a refusal with a sentence."""

import struct
from typing import Any

import google_crc32c
import msgspec

from fuzz.source import Source
from leaderlease.errors import RemoteProtocolError
from leaderlease.paxos import messages as peer
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.wire import session
from leaderlease.wire.codec import CLIENT, FRAME_BYTES_MAX, FRAME_VERSION, HEADER_BYTES, NODE, PEER, Codec, Decoder

BALLOT = Ballot(300, "member-1", 7)
HOLDER = Holder("pod", "uid", "0" * 32)
VALUE = Value(3, HOLDER, 3_000, 5, 6, b"body")
ENDS: tuple[tuple[Codec[Any, Any], Codec[Any, Any]], ...] = ((PEER, PEER), (NODE, CLIENT), (CLIENT, NODE))
"""Who reads, and who writes what is read there."""

PEER_MESSAGES: tuple[Any, ...] = (
    session.Hello("peer", 1, 1, "cluster", "member-1", 1, "nonce", 1, "node-1", "h:1", "0.1", "", b"x"),
    peer.Prepare(1, "l/a", BALLOT, "n", (peer.Evidence(BALLOT, "n"),)),
    peer.Promise("l/a", BALLOT, BALLOT, VALUE),
    peer.Live("l/a", BALLOT, None, BALLOT, VALUE),
    peer.Accept(1, "l/a", BALLOT, VALUE),
    peer.Accepted("l/a", BALLOT),
    peer.Nack("l/a", BALLOT, BALLOT),
    peer.WrongEpoch("l/a", BALLOT, 2),
    peer.Renew(1, 2, "member-1", 3, (peer.RenewItem("l/a", 300, b"0" * 16),)),
    peer.Renewed(9, (1, 2), (300,), 0),
    peer.Release(1, "l/a", BALLOT, b"0" * 16, "next"),
    peer.Peek(1, "l/a", 4),
    peer.Peeked("l/a", 4, BALLOT, BALLOT, None, 0),
    peer.Chosen(1, "l/a", BALLOT, VALUE, "acquired"),
    peer.Vacant("l/a", 2**53 - 1),
    peer.StepDown("l/a", "next"),
    peer.SyncRequest(1, 2, "l/", 256),
    peer.SyncPage(2, (peer.SyncEntry("l/a", BALLOT, VALUE),), ""),
    peer.DigestRequest(1, 2),
    peer.DigestReply(2, 3, 4),
    peer.Ping(1, 2),
    peer.Pong(1, 2, 3),
)
CLIENT_MESSAGES: tuple[Any, ...] = (
    session.Hello("client", 1, 1),
    session.KeepAlive(1),
    session.AcquireRequest(1, 2, "shop/lock", HOLDER, 3_000, True, 1, 2, 3),
    session.CancelRequest(1),
    session.ReleaseRequest(1, "shop/lock", HOLDER.nonce, "next"),
    session.StepDownRequest(1, "shop/lock"),
    session.RevokeRequest(1, "shop/lock", 1),
    session.GetRequest(1, "shop/lock"),
    session.ListRequest(1),
    session.WatchRequest(1, "shop/", False, 3),
    session.VerifyRequest(1, "shop/lock", 1),
    session.DeclareRequest(1, "shop/lock", session.Spec(3_000, 0, ("a",), pods=("u",))),
    session.SpecsRequest(1),
    session.KeysRequest(1, "issuer", "audience", b"{}"),
    session.StatusRequest(1),
)


def framed(body: bytes) -> bytes:
    """Put any body into a frame whose header is right."""
    return struct.pack(">IBI", len(body), FRAME_VERSION, google_crc32c.value(body)) + body


def said(error: Exception) -> str:
    """Return the sentence of a refusal."""
    assert str(error), "a refusal has a sentence"
    return str(error)


def _expect_failed_for_good(decoder: Decoder[Any], chunks: list[bytes]) -> None:
    assert decoder.pending_bytes == 0, "nothing is kept of what was refused"
    for chunk in chunks:
        try:
            decoder.feed(chunk)
        except RemoteProtocolError:
            continue
        raise AssertionError("a decoder that has failed goes on")


def _fed(codec: Codec[Any, Any], chunks: list[bytes]) -> tuple[list[Any], str]:
    decoder = codec.decoder()
    received: list[Any] = []
    for number, chunk in enumerate(chunks):
        try:
            received += decoder.feed(chunk)
        except RemoteProtocolError as error:
            _expect_failed_for_good(decoder, chunks[number + 1 :])
            return received, said(error)
        assert decoder.pending_bytes <= FRAME_BYTES_MAX, "more is kept than one frame"
    return received, ""


def _has_a_broken_frame(stream: bytes) -> bool:
    """Read frames once more, as the format says and by other code."""
    while len(stream) >= HEADER_BYTES:
        length, version, checksum = struct.unpack(">IBI", stream[:HEADER_BYTES])
        body, stream = stream[HEADER_BYTES : HEADER_BYTES + length], stream[HEADER_BYTES + length :]
        if version != FRAME_VERSION or length > FRAME_BYTES_MAX - HEADER_BYTES:
            return True
        if len(body) == length and google_crc32c.value(body) != checksum:
            return True
        if len(body) < length:
            return False
    return False


def changed(source: Source, tree: Any) -> Any:
    """Return a tree of arrays with one thing in it changed: a value, its type, or the number of elements."""
    if isinstance(tree, list) and tree and not source.chance(4):
        at = source.whole(0, len(tree) - 1)
        if source.chance(8):
            return tree[:at] + tree[at + 1 :]
        if source.chance(8):
            return [*tree[:at], tree[at], *tree[at:]]
        return [*tree[:at], changed(source, tree[at]), *tree[at + 1 :]]
    match source.whole(0, 6):
        case 0:
            return source.number()
        case 1:
            return source.text(8)
        case 2:
            return source.take(source.whole(0, 16))
        case 3:
            return None
        case 4:
            return [tree] * source.whole(0, 3)
        case 5:
            return source.choice((True, False, 0.5, float("nan"), {}, {"a": 1}, []))
        case _:
            return max(-tree, -(2**63)) if isinstance(tree, int) else tree


def structured(source: Source, samples: tuple[Any, ...]) -> bytes:
    """Return a body of some samples of which parts were changed."""
    body = [msgspec.msgpack.decode(msgspec.msgpack.encode(source.choice(samples))) for _ in range(source.whole(1, 3))]
    tree: Any = body
    for _ in range(source.whole(0, 3)):
        tree = changed(source, tree)
    return msgspec.msgpack.encode(tree)


def one_input(data: bytes) -> None:
    """A stream, a body under a right checksum, or a message with parts changed; at one of the three kinds of end."""
    source = Source(data)
    reader, writer = source.choice(ENDS)
    kind = source.whole(0, 2)
    if kind == 0:
        cut = Source(source.take(6))
        stream = source.rest()
        pieces = cut.cuts(stream)
    else:
        samples = CLIENT_MESSAGES if reader is NODE else PEER_MESSAGES
        stream = framed(source.rest() if kind == 1 else structured(source, samples))
        pieces = [stream[: len(stream) // 2], stream[len(stream) // 2 :]]
    received, failure = _fed(reader, [stream])
    assert failure or not _has_a_broken_frame(stream), "a frame that nobody sent was taken"
    in_pieces, failure_in_pieces = _fed(reader, pieces)
    assert bool(failure) == bool(failure_in_pieces), "the cuts of the network decide what is refused"
    # At once, messages in front of a damaged frame are lost with it; in pieces they may have come out before.
    assert received == in_pieces[: len(received)]
    assert failure or received == in_pieces, "the cuts of the network decide what is received"
    if in_pieces:
        assert reader.decoder().feed(writer.encode(in_pieces)) == in_pieces, "what was taken does not survive"


def _stream(codec: Codec[Any, Any], messages: tuple[Any, ...]) -> bytes:
    return b"".join(codec.encode([message]) for message in messages)


SAMPLES = (
    b"\x00\x00" + bytes(6) + _stream(PEER, PEER_MESSAGES),
    b"\x01\x00" + bytes(6) + _stream(CLIENT, CLIENT_MESSAGES),
    *(b"\x00\x01" + msgspec.msgpack.encode([message]) for message in PEER_MESSAGES),
    *(b"\x01\x01" + msgspec.msgpack.encode([message]) for message in CLIENT_MESSAGES),
    *(bytes([0, 2, 0, number, 3]) + bytes(range(40)) for number in range(len(PEER_MESSAGES))),
    *(bytes([1, 2, 0, number, 3]) + bytes(range(40)) for number in range(len(CLIENT_MESSAGES))),
)
