"""What the rows of the database are, and whether they are what was written.

Rule 1: every row carries the CRC32C of its kind, key and body; a row in the wrong place fails like a wrong one.
Rule 2: one row sums up all the others and is written with every batch. A row that went missing or went back to an
        older version has a good CRC of its own, but fails the sum (H25).
Rule 3: reading judges and never repairs.
"""

import sqlite3
from typing import Final

import msgspec
from google_crc32c import value as crc32c

from leaderlease.errors import invariant
from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.membership import Configuration
from leaderlease.storage.base import Identity, Life, Loaded

SCHEMA: Final = """
CREATE TABLE entry (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL,
PRIMARY KEY (kind, key)) WITHOUT ROWID
"""
INTEGRITY_PROBLEMS_MAX: Final = 20

RECORD: Final = "record"
CEILING: Final = "ceiling"
CONFIGURATION: Final = "configuration"
MEMBER: Final = "member"
PEER: Final = "peer"
SUM: Final = "sum"


class Self(msgspec.Struct, frozen=True, array_like=True):
    """Who this is. The cluster is the configuration's, so that the two cannot differ.

    Attributes:
        incarnation, boot_nonce, earlier: See ``Life``; a row that was written without the last reads as none.
    """

    member: str
    incarnation: int
    boot_nonce: str
    earlier: tuple[str, ...] = ()

    @property
    def life(self) -> Life:
        """Which life of the member this is."""
        return Life(self.incarnation, self.boot_nonce, self.earlier)


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """Of all rows but itself; ``sequence`` counts the batches."""

    sequence: int
    total: int


Body = Record | Ceiling | Configuration | Self | Life | Sum
Row = tuple[str, str, bytes, int]

_encode = msgspec.msgpack.Encoder().encode
_decoders: dict[str, msgspec.msgpack.Decoder[Body]] = {
    kind: msgspec.msgpack.Decoder(body)
    for kind, body in {
        RECORD: Record,
        CEILING: Ceiling,
        CONFIGURATION: Configuration,
        MEMBER: Self,
        PEER: Life,
        SUM: Sum,
    }.items()
}


class Ledger:
    """The running sum over all rows (rule 2).

    Squares, because a CRC is linear: the same change in two rows would cancel out of a plain sum too often.
    """

    def __init__(self) -> None:
        self._crcs: dict[str, int] = {}
        self._total = 0
        self.sequence = 0

    @property
    def total(self) -> int:
        """The sum, in 64 bits."""
        return self._total & 0xFFFFFFFFFFFFFFFF

    def row(self, kind: str, key: str, body: Body) -> Row:
        """Encode one row and take it into the sum."""
        data = _encode(body)
        return kind, key, data, self._enter(kind, key, data)

    def sum_row(self) -> Row:
        """Encode the sum itself, once per batch, after its rows."""
        self.sequence += 1
        data = _encode(Sum(self.sequence, self.total))
        return SUM, "", data, crc32c(f"{SUM}\0\0".encode() + data)

    def check(self, kind: str, key: str, data: bytes, crc: int) -> str:
        """Take a row that was read into the sum; return what is wrong with it, or nothing."""
        return "" if self._enter(kind, key, data) == crc else f"{kind} {key!r}: the checksum does not hold"

    def _enter(self, kind: str, key: str, data: bytes) -> int:
        name = f"{kind}\0{key}"
        crc: int = crc32c(name.encode() + data)
        before = self._crcs.get(name, 0)
        self._crcs[name] = crc
        self._total += crc * crc - before * before
        return crc


class Contents:
    """Everything that a database holds, and what is wrong with it."""

    def __init__(self) -> None:
        self.mine: Self | None = None
        self.configuration: Configuration | None = None
        self.ceiling = 0
        self.records: list[Record] = []
        self.peers: dict[str, Life] = {}
        self.ledger = Ledger()
        self.sum_crc = 0
        self.checked = 0
        self.problems: list[str] = []

    def loaded(self) -> Loaded:
        """Return the part that the acceptor starts from."""
        return Loaded(tuple(self.records), self.ceiling, self.configuration)

    @property
    def cluster(self) -> str:
        """uuid of the cluster; empty until the bootstrap."""
        return self.configuration.cluster if self.configuration is not None else ""

    @property
    def identity(self) -> Identity:
        """Whose disk this is; asked for only when there are no problems."""
        invariant(self.mine is not None, "a database without an identity was taken for a whole one")
        assert self.mine is not None
        return Identity(self.cluster, self.mine.member, self.mine.life)

    def _place(self, key: str, body: Body) -> None:
        match body:
            case Record():
                self.records.append(body)
            case Ceiling():
                self.ceiling = body.counter
            case Configuration():
                self.configuration = body
            case Self():
                self.mine = body
            case Life():
                self.peers[key] = body
            case Sum():
                self.ledger.sequence = body.sequence

    def _read(self, kind: str, key: str, data: bytes, crc: int) -> Body | None:
        self.checked += 1
        if kind == SUM:
            is_whole = crc32c(f"{SUM}\0\0".encode() + data) == crc
            self.sum_crc = crc
            problem = "" if is_whole else "the sum over all rows: the checksum does not hold"
        else:
            problem = self.ledger.check(kind, key, data, crc)
        if problem:
            self.problems.append(problem)
            return None
        try:
            body = _decoders[kind].decode(data)
        except (KeyError, msgspec.MsgspecError):
            self.problems.append(f"{kind} {key!r}: unknown, or not in this format")
            return None
        self._place(key, body)
        return body


def read_contents(connection: sqlite3.Connection) -> Contents:
    """Read and check everything (rule 3).

    Raises:
        sqlite3.DatabaseError: So damaged that SQLite cannot read on.
    """
    contents = Contents()
    for (line,) in connection.execute(f"PRAGMA integrity_check({INTEGRITY_PROBLEMS_MAX})").fetchall():
        if line != "ok":
            contents.problems.append(str(line))
    expected: Sum | None = None
    for kind, key, data, crc in connection.execute("SELECT kind, key, body, crc FROM entry"):
        if type(data) is not bytes or type(kind) is not str or type(key) is not str:
            contents.problems.append(f"{kind!r} {key!r}: not what was written")
            continue
        body = contents._read(kind, key, data, crc)
        if type(body) is Sum:
            expected = body
    if contents.mine is None:
        contents.problems.append("the identity is missing")
    if expected is None:
        contents.problems.append("the sum over all rows is missing")
    elif expected.total != contents.ledger.total and not contents.problems:
        contents.problems.append("a row is missing or went back to an older version")
    return contents
