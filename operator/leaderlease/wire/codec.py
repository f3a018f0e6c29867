"""Frames: messages to bytes and back, bounded and checked.

    frame = u32 length of the body | u8 FRAME_VERSION | u32 CRC32C of the body | body      (big endian)
    body  = msgpack array of at most MESSAGES_PER_FRAME_MAX tagged messages

Rule 1: whatever bytes arrive, the decoder returns messages that were sent, waits for more, or raises
``RemoteProtocolError``; nothing is stored or allocated on the word of a length field.
Rule 2: types are checked here; what they mean (ballots, names, durations) is checked by those who use them.
Rule 3: messages of one frame are in order but not atomic: a sender may split a list at any place.
"""

import struct
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Final, Generic, TypeVar, get_args

import google_crc32c
import msgspec

from leaderlease.errors import LocalProtocolError, RemoteProtocolError
from leaderlease.paxos.messages import Message
from leaderlease.wire.session import ClientMessage, Hello, NodeMessage, Refused

FRAME_VERSION: Final = 1
FRAME_BYTES_MAX: Final = 1 << 20
"""One frame with its header, in bytes."""
HEADER_BYTES: Final = 9
BODY_BYTES_MAX: Final = FRAME_BYTES_MAX - HEADER_BYTES
MESSAGES_PER_FRAME_MAX: Final = 4096

PeerMessage = Message | Hello | Refused
"""What members say to each other on a connection."""

_HEADER = struct.Struct(">IBI")
_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from
_crc32c = google_crc32c.value
_encode = msgspec.msgpack.Encoder().encode
_TLS_RECORDS = range(0x14, 0x19)

Sends = TypeVar("Sends")
Receives = TypeVar("Receives")


class Codec(Generic[Sends, Receives]):
    """One side's view of a connection: which messages it may send, and which it understands.

    Args:
        sends: Union of the messages that ``encode`` takes.
        receives: Union of the messages that decoders return.
    """

    def __init__(self, *, sends: UnionType, receives: UnionType) -> None:
        self._kinds = frozenset(get_args(sends))
        bounded = msgspec.Meta(max_length=MESSAGES_PER_FRAME_MAX)
        # A union that is known at run time only is no type to mypy.
        array: Any = Annotated[list[receives], bounded]  # type: ignore[valid-type]
        self._decode = msgspec.msgpack.Decoder(array).decode

    def encode(self, messages: Sequence[Sends]) -> bytes:
        """Return one frame with these messages, in order.

        Raises:
            LocalProtocolError: Too many messages, too many bytes, a message that is not in ``sends``, or a
                field that msgpack cannot hold.
        """
        if len(messages) > MESSAGES_PER_FRAME_MAX:
            raise LocalProtocolError(
                f"{len(messages)} messages for one frame, at most {MESSAGES_PER_FRAME_MAX}: use encode_many"
            )
        body = self._body(messages)
        if len(body) > BODY_BYTES_MAX:
            raise LocalProtocolError(
                f"{len(body)} bytes for the body of one frame, at most {BODY_BYTES_MAX}: use encode_many"
            )
        return _pack(len(body), FRAME_VERSION, _crc32c(body)) + body

    def encode_many(self, messages: Sequence[Sends]) -> bytes:
        """Return as many frames as these messages need, in order; no bytes for no messages.

        Raises:
            LocalProtocolError: As ``encode``, but for size only when one message alone is too big.
        """
        frames: list[bytes] = []
        for start in range(0, len(messages), MESSAGES_PER_FRAME_MAX):
            self._split(messages[start : start + MESSAGES_PER_FRAME_MAX], frames)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def decoder(self) -> "Decoder[Receives]":
        """Return the decoder for one direction of one connection."""
        return Decoder(self._decode)

    def _body(self, messages: Sequence[Sends]) -> bytes:
        kinds = self._kinds
        for message in messages:
            if type(message) not in kinds:
                raise LocalProtocolError(f"{type(message).__name__} is not in the vocabulary of this side")
        try:
            return _encode(messages)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise LocalProtocolError(f"a message cannot be encoded: {error}") from error

    def _split(self, messages: Sequence[Sends], frames: list[bytes]) -> None:
        body = self._body(messages)
        if len(body) <= BODY_BYTES_MAX:
            frames.append(_pack(len(body), FRAME_VERSION, _crc32c(body)) + body)
        elif len(messages) == 1:
            raise LocalProtocolError(
                f"one {type(messages[0]).__name__} takes {len(body)} bytes, a frame holds {BODY_BYTES_MAX}"
            )
        else:
            middle = len(messages) // 2
            self._split(messages[:middle], frames)
            self._split(messages[middle:], frames)


class Decoder(Generic[Receives]):
    """Bytes of one direction of one connection, as they come, to messages.

    Holds at most one incomplete frame. An error is final: where the next frame begins is unknown.
    """

    __slots__ = ("_buffer", "_decode", "_failure", "_needed")

    def __init__(self, decode: Any) -> None:
        self._decode = decode
        self._buffer = bytearray()
        self._needed = 0
        self._failure = ""

    @property
    def pending_bytes(self) -> int:
        """Bytes of an incomplete frame; not 0 at the end of a stream means that the stream was cut."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Receives]:
        """Take the next bytes and return the messages that they complete.

        Args:
            data: Any number of bytes, however they were cut on the way. Not kept.

        Returns:
            Messages in the order in which they were sent, of all frames that are complete now.

        Raises:
            RemoteProtocolError: These bytes are no frames. Messages that this call found before the bad frame
                are lost with the connection.
        """
        if self._failure:
            raise RemoteProtocolError(self._failure)
        if self._buffer:
            self._buffer += data
            # Between two looks at the header only this length is compared: many small reads stay cheap.
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        elif type(data) is not bytes:
            data = bytes(data)
        try:
            return self._frames(data)
        except RemoteProtocolError as error:
            self._failure = str(error)
            self._buffer.clear()
            raise

    def _frames(self, data: bytes) -> list[Receives]:
        messages: list[Receives] = []
        start, size = 0, len(data)
        while size - start >= HEADER_BYTES:
            length, version, checksum = _unpack_from(data, start)
            if version != FRAME_VERSION or length > BODY_BYTES_MAX:
                raise RemoteProtocolError(_why_not_a_header(data[start : start + HEADER_BYTES]))
            body_start = start + HEADER_BYTES
            end = body_start + length
            if end > size:
                self._keep(data, start, HEADER_BYTES + length)
                return messages
            body = data[body_start:end]
            if _crc32c(body) != checksum:
                raise RemoteProtocolError(f"a frame of {length} bytes does not match its checksum")
            decoded = self._messages(body)
            if end == size and not start:
                return decoded
            messages += decoded
            start = end
        if start < size:
            # No length reaches 2^24, so a first byte other than 0 tells at once; a TLS alert has but 7 bytes.
            if data[start]:
                raise RemoteProtocolError(_why_not_a_header(data[start:]))
            self._keep(data, start, HEADER_BYTES)
        return messages

    def _keep(self, data: bytes, start: int, needed: int) -> None:
        self._buffer += data[start:] if start else data
        self._needed = needed

    def _messages(self, body: bytes) -> list[Receives]:
        try:
            # msgspec allocates for elements that are there, never for those that a length announces.
            decoded: list[Receives] = self._decode(body)
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"a frame holds what this side does not take: {error}") from error
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
            raise RemoteProtocolError(f"the body of a frame is not valid msgpack: {error}") from error
        return decoded


def _why_not_a_header(head: bytes) -> str:
    if len(head) == HEADER_BYTES:
        length, version, _ = _unpack_from(head)
        if version == FRAME_VERSION:
            return f"a frame of {length} bytes was announced, at most {BODY_BYTES_MAX} are allowed"
        if not head[0]:
            return f"frame version {version} is not spoken here, only {FRAME_VERSION}"
    if head[0] in _TLS_RECORDS and head[1:2] in (b"", b"\x03"):
        return "the other side speaks TLS, and this side does not: check the TLS settings of both"
    return f"the other side does not speak this protocol: its bytes begin with {head!r}"


PEER: Codec[PeerMessage, PeerMessage] = Codec(sends=PeerMessage, receives=PeerMessage)
"""Between members, both ways."""
CLIENT: Codec[ClientMessage, NodeMessage] = Codec(sends=ClientMessage, receives=NodeMessage)
"""The client's end of a session."""
NODE: Codec[NodeMessage, ClientMessage] = Codec(sends=NodeMessage, receives=ClientMessage)
"""The node's end of a session."""
