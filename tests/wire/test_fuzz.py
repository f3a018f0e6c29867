"""Bytes from anybody: messages that were sent, or waiting, or ``RemoteProtocolError``; never anything else."""

import struct
import tracemalloc
from collections.abc import Iterable

import google_crc32c
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leaderlease.errors import RemoteProtocolError
from leaderlease.paxos import messages as peer
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.wire.codec import (
    BODY_BYTES_MAX,
    HEADER_BYTES,
    MESSAGES_PER_FRAME_MAX,
    NODE,
    PEER,
    Decoder,
    PeerMessage,
)

BALLOT = Ballot(300, "member-1", 7)
FRAMES: list[list[PeerMessage]] = [
    [peer.Ping(1, 2)],
    [peer.Accept(1, "default/lease", BALLOT, Value(3, Holder("pod", "uid", "0" * 32), None, 5, 6, b"body"))],
    [],
    [peer.Accepted("a", BALLOT), peer.Renewed(9, (1, 2), (300,)), peer.Vacant("ключ", 2**53)],
    [peer.Renew(1, 2, "member-1", 3, tuple(peer.RenewItem(f"k{i}", i, bytes([i])) for i in range(20)))],
]
STREAM = b"".join(map(PEER.encode, FRAMES))
SENT = [message for frame in FRAMES for message in frame]


def framed(body: bytes, version: int = 1) -> bytes:
    """Put any body into a frame whose header is right."""
    return struct.pack(">IBI", len(body), version, google_crc32c.value(body)) + body


def ping_then(rest: bytes) -> bytes:
    """Begin a body of one Ping, correct but for what follows its two fields, as if the array had one more."""
    return b"\x91\x94\xa1i\x01\x02" + rest


def renew_with(items: bytes) -> bytes:
    """Begin a body of one Renew whose items are given raw."""
    return b"\x91\x96\xa1r\x01\x02\xa1m\x03" + items


def feed_all(decoder: Decoder[PeerMessage], chunks: Iterable[bytes]) -> list[PeerMessage]:
    """Feed all and return what came out."""
    return [message for chunk in chunks for message in decoder.feed(chunk)]


def fed(chunks: Iterable[bytes]) -> tuple[list[PeerMessage], str]:
    """Feed all; return what came out before an error, and the sentence of the error or nothing."""
    decoder = PEER.decoder()
    received: list[PeerMessage] = []
    for chunk in chunks:
        try:
            received += decoder.feed(chunk)
        except RemoteProtocolError as error:
            return received, str(error)
    return received, ""


def single_bytes(data: bytes) -> list[bytes]:
    """Cut after every byte."""
    return [data[i : i + 1] for i in range(len(data))]


def assert_refused(data: bytes, sentence: str) -> None:
    """Check that the data is refused with this sentence, at once and byte by byte."""
    for chunks in ([data], single_bytes(data)):
        decoder = PEER.decoder()
        with pytest.raises(RemoteProtocolError, match=sentence):
            feed_all(decoder, chunks)
        with pytest.raises(RemoteProtocolError, match=sentence):
            decoder.feed(PEER.encode([peer.Ping(1, 2)]))
        assert decoder.pending_bytes == 0


def test_a_cut_stream_waits() -> None:
    """Any prefix yields the messages of its whole frames and waits for the rest, which then completes it."""
    ends = [sum(len(PEER.encode(frame)) for frame in FRAMES[:count]) for count in range(len(FRAMES) + 1)]
    for size in range(len(STREAM) + 1):
        decoder = PEER.decoder()
        received = decoder.feed(STREAM[:size])
        whole = max(count for count, end in enumerate(ends) if end <= size)
        assert received == [message for frame in FRAMES[:whole] for message in frame]
        assert decoder.pending_bytes == size - ends[whole]
        assert received + decoder.feed(STREAM[size:]) == SENT
        assert decoder.pending_bytes == 0


def test_byte_by_byte_equals_at_once() -> None:
    """The cuts of the network mean nothing."""
    assert fed(single_bytes(STREAM)) == fed([STREAM]) == (SENT, "")


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_never_makes_a_message(bit: int) -> None:
    """Wherever a bit flips, only messages that were sent come out; the damaged frame and those behind give none."""
    for position in range(len(STREAM)):
        damaged = bytearray(STREAM)
        damaged[position] ^= 1 << bit
        received, failure = fed(single_bytes(bytes(damaged)))
        assert received == SENT[: len(received)], position
        assert len(received) < len(SENT), position
        at_once, failure_at_once = fed([bytes(damaged)])
        assert bool(failure) == bool(failure_at_once), position
        assert at_once == ([] if failure else received), position


@given(st.binary(max_size=200), st.booleans())
@example(b"", False)
@example(bytes(HEADER_BYTES), True)
@example(bytes(4) + b"\x01" + bytes(4), True)
def test_random_bytes_never_make_a_message(data: bytes, after_a_frame: bool) -> None:
    """Bytes without the right checksum are refused or wait, also behind a good frame."""
    good = PEER.encode(FRAMES[0]) if after_a_frame else b""
    received, failure = fed(single_bytes(good + data))
    assert received == (FRAMES[0] if after_a_frame else [])
    assert bool(fed([good + data])[1]) == bool(failure)


@given(st.binary(max_size=200))
def test_random_bodies_with_a_right_checksum_are_refused_or_typed(body: bytes) -> None:
    """A checksum proves nothing about the sender: the types are checked, and no foreign exception escapes."""
    for codec in (PEER, NODE):
        try:
            received = codec.decoder().feed(framed(body))
        except RemoteProtocolError:
            continue
        assert codec.decoder().feed(framed(msgspec.msgpack.encode(received))) == received


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.binary(max_size=8)
        | st.sampled_from("parRPLAnexXkKcvdsSgGiI"),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    )
)
def test_random_structures_are_refused_or_typed(body: object) -> None:
    """Well-formed msgpack with known tags in wrong shapes is refused, or it is a message with the right types."""
    try:
        received = PEER.decoder().feed(framed(msgspec.msgpack.encode(body)))
    except RemoteProtocolError:
        return
    assert PEER.decoder().feed(PEER.encode(received)) == received


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(framed(b"\x90", version=2), "frame version 2 is not spoken here, only 1", id="newer version"),
        pytest.param(framed(b"\x90", version=0), "frame version 0", id="version 0"),
        pytest.param(b"\x00\x00\x00\x01\x01\x00\x00\x00\x00\x90", "checksum", id="wrong CRC"),
        pytest.param(framed(b""), "not valid msgpack", id="empty body"),
        pytest.param(framed(b"\x91"), "not valid msgpack", id="truncated body"),
        pytest.param(framed(b"\x90\x90"), "not valid msgpack.*trailing", id="two values"),
        pytest.param(framed(b"\xc1"), "not valid msgpack", id="unused code"),
        pytest.param(framed(b"\x91\x93\xa1v\xa1\xff\x01"), "not valid msgpack.*(?i:utf-8)", id="not UTF-8"),
        pytest.param(framed(b"\x80"), "does not take: Expected `array`", id="map"),
        pytest.param(framed(b"\x91\xc0"), "does not take: Expected `array`", id="null message"),
        pytest.param(framed(b"\x91\x90"), "does not take.*length 1", id="message without a tag"),
        pytest.param(framed(b"\x91\x92\xa2??\x01"), "does not take: Invalid value", id="unknown tag"),
        pytest.param(framed(b"\x91\x92\xa1i\x01"), "does not take.*length 3, got 2", id="field missing"),
        pytest.param(framed(b"\x91\x93\xa1i\xa11\x02"), "Expected `int`, got `str`", id="wrong type"),
        pytest.param(framed(b"\x91\x92\xa2ka\x01"), "does not take: Invalid value", id="client's message to a peer"),
        pytest.param(
            framed(msgspec.msgpack.encode([["i", 1, 1]] * (MESSAGES_PER_FRAME_MAX + 1))),
            f"length <= {MESSAGES_PER_FRAME_MAX}",
            id="too many messages",
        ),
        pytest.param(framed(ping_then(b"\x91" * 100_000)), "not valid msgpack", id="deep nesting, cut"),
        pytest.param(framed(ping_then(b"\x91" * 100_000 + b"\x01")), "not valid msgpack", id="deep nesting"),
        pytest.param(framed(ping_then(b"\x81\x01" * 50_000 + b"\x01")), "not valid msgpack", id="deep maps"),
    ],
)
def test_bad_frames_are_refused_for_good(data: bytes, sentence: str) -> None:
    """Each kind of damage has its sentence, and the decoder stays failed, also for good frames."""
    assert_refused(data, sentence)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak this protocol: its bytes begin with b'G"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "speaks TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "speaks TLS"),
        (b"\xff" * 3, "does not speak this protocol"),
    ],
    ids=["HTTP", "TLS client", "TLS alert", "noise"],
)
def test_other_protocols_are_named(data: bytes, sentence: str) -> None:
    """Who connects to the wrong port, or forgets TLS, is told so; a TLS alert is shorter than a header."""
    assert_refused(data, sentence)


@pytest.mark.parametrize("length", [BODY_BYTES_MAX + 1, 2**24 - 1, 2**24, 2**32 - 1])
def test_oversized_frames_are_refused_before_their_body(length: int) -> None:
    """The header alone is enough: nothing of the body is awaited or kept."""
    decoder = PEER.decoder()
    with pytest.raises(RemoteProtocolError, match=f"frame of {length} bytes was announced"):
        decoder.feed(struct.pack(">IBI", length, 1, 0))
    assert decoder.pending_bytes == 0


def test_the_largest_length_is_awaited() -> None:
    """A length of exactly the bound is no error."""
    decoder = PEER.decoder()
    assert decoder.feed(struct.pack(">IBI", BODY_BYTES_MAX, 1, 0)) == []
    assert decoder.pending_bytes == HEADER_BYTES


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\xff\xff\xff\xff",
        renew_with(b"\xdd\xff\xff\xff\xff"),
        renew_with(b"\xdd\x00\xff\xff\xff\x93"),
        ping_then(b"\xdf\xff\xff\xff\xff"),
        b"\x91\x93\xa1v\xdb\xff\xff\xff\xff",
        b"\x91\x93\xa1v\xdb\x7f\xff\xff\xff",
    ],
)
def test_announced_sizes_inside_a_body_allocate_nothing(body: bytes) -> None:
    """A few bytes that announce gigabytes cost a few bytes."""
    decoder = PEER.decoder()
    data = framed(body)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decoder.feed(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20
