"""The write-ahead log, read by us before SQLite reads it.

SQLite ends recovery at the first frame whose checksum fails and calls the rest an unfinished write. For a flipped bit
in the middle of the log that forgets what was acknowledged, without a word (H25). The rules here:

Rule 1: a transaction enters the log only after the one before it was fsynced. So a crash can tear one transaction,
        the last; frames of this log *behind* the torn one's commit prove that the disk lost durable data.
Rule 2: nothing is written. ``image`` applies the log to a copy in memory; the files keep every bit of evidence.

What this cannot see: damage to exactly the last transaction looks like a torn write, a file that was cut short like
one that never grew.

Source: sqlite.org/fileformat2.html, section 4 "The Write-Ahead Log".
"""

import struct
from pathlib import Path
from typing import Final

import msgspec

HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
MAGIC: Final = 0x377F0682
"""Its lowest bit tells that the checksums read big-endian words."""


class Wal(msgspec.Struct, frozen=True):
    """What a log holds.

    Attributes:
        pages: Page number -> content, of committed transactions only.
        page_count: Size of the database after the last of them; 0 if there is none.
        problem: Why durable data is lost; empty if none is.
    """

    pages: dict[int, bytes]
    page_count: int
    problem: str = ""


def read_wal(path: Path) -> Wal:
    """Read and check a log; one that is absent, or blank behind its header, holds nothing."""
    data = path.read_bytes() if path.exists() else b""
    frames = data[HEADER_BYTES:]
    if frames == bytes(len(frames)):
        return Wal({}, 0)
    magic, _, page_bytes, _, _, _, sum1, sum2 = struct.unpack(">8I", data[:HEADER_BYTES])
    order = ">" if magic & 1 else "<"
    running = _checksum(data[:24], order, (0, 0))
    if magic & ~1 != MAGIC or running != (sum1, sum2):
        # SQLite fsyncs the header before the first frame, so a header with frames behind it was whole once.
        return Wal({}, 0, "the header of the write-ahead log is damaged")
    salts = data[16:24]
    frame_bytes = FRAME_HEADER_BYTES + page_bytes
    starts = range(HEADER_BYTES, len(data) - frame_bytes + 1, frame_bytes)
    pages: dict[int, bytes] = {}
    unfinished: dict[int, bytes] = {}
    page_count = committed = 0
    for index, start in enumerate(starts):
        number, size = struct.unpack_from(">2I", data, start)
        if data[start + 8 : start + 16] != salts:
            break
        page = data[start + FRAME_HEADER_BYTES : start + frame_bytes]
        running = _checksum(page, order, _checksum(data[start : start + 8], order, running))
        if running != struct.unpack_from(">2I", data, start + 16):
            break
        unfinished[number] = page
        if size:
            pages |= unfinished
            unfinished.clear()
            page_count, committed = size, index + 1
    if _continues_behind_a_commit(data, starts[committed:], salts):
        return Wal(pages, page_count, "the write-ahead log is damaged before its end")
    return Wal(pages, page_count)


def image(database: Path, wal: Wal) -> bytes:
    """Return the database with the log applied, as one that needs no log."""
    data = bytearray(database.read_bytes())
    if len(data) < 100:
        return bytes(data)
    page_bytes = int.from_bytes(data[16:18], "big")
    page_bytes = 65_536 if page_bytes == 1 else page_bytes
    if wal.page_count and page_bytes:
        data = data[: wal.page_count * page_bytes].ljust(wal.page_count * page_bytes, b"\0")
        for number, page in wal.pages.items():
            data[(number - 1) * page_bytes : number * page_bytes] = page
    # Read and write version 1: a database in memory has no place for a log.
    data[18:20] = b"\1\1"
    return bytes(data)


def _continues_behind_a_commit(data: bytes, starts: range, salts: bytes) -> bool:
    """Tell whether this log goes on after the transaction that recovery would drop (rule 1)."""
    is_behind_commit = False
    for start in starts:
        # Other salts: left over from before the log was last restarted, and long in the database.
        if data[start + 8 : start + 16] != salts:
            continue
        if is_behind_commit:
            return True
        is_behind_commit = data[start + 4 : start + 8] != b"\0\0\0\0"
    return False


def _checksum(data: bytes, order: str, before: tuple[int, int]) -> tuple[int, int]:
    first, second = before
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
