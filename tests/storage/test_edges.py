"""R9, H24, H25: what an opening must refuse even where every checksum holds, and what formatting must make durable."""

import sqlite3
from pathlib import Path

import pytest

from leaderlease.errors import CorruptRecord
from leaderlease.storage import directory as storage_directory
from leaderlease.storage import sqlite as storage_sqlite
from leaderlease.storage.directory import DATABASE, read_image
from leaderlease.storage.rows import SUM, Ledger
from leaderlease.storage.wal import HEADER_BYTES, read_wal
from support.disks import Owner, record


def _closed(path: Path) -> Path:
    owner = Owner()
    storage = owner.open(path)
    owner.store(storage, record("l/a", 1), record("l/b", 2))
    storage.close()
    return path / DATABASE


def _change(database: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    connection = sqlite3.connect(database)
    with connection:
        for statement, values in statements:
            connection.execute(statement, values)
    connection.close()


def test_h25_a_row_of_a_kind_that_this_version_does_not_know_keeps_the_node_out(tmp_path: Path) -> None:
    """R9: its checksum and the sum hold; what it promised or accepted must not be ignored all the same."""
    database = _closed(tmp_path / "data")
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT kind, key, body, crc FROM entry").fetchall()
    connection.close()
    ledger = Ledger()
    strange = ("vow", "l/a", b"\x93\x01\x02\x03")
    for kind, key, data, crc in rows:
        if kind != SUM:
            assert ledger.check(kind, key, data, crc) == ""
    crc = ledger._enter(*strange)
    insert = "INSERT OR REPLACE INTO entry VALUES (?,?,?,?)"
    _change(database, (insert, (*strange, crc)), (insert, ledger.sum_row()))
    with pytest.raises(CorruptRecord, match="unknown, or not in this format"):
        Owner().open(tmp_path / "data")


def test_h25_a_database_without_a_format_version_is_not_ours(tmp_path: Path) -> None:
    """R9: nothing in it is believed."""
    database = _closed(tmp_path / "data")
    _change(database, ("PRAGMA user_version=0", ()))
    with pytest.raises(CorruptRecord, match="no format version"):
        Owner().open(tmp_path / "data")


def test_h25_sqlite_must_recover_exactly_what_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R9: our own reading of the files came to another sum: nothing is written to them."""
    _closed(tmp_path / "data")

    def read_other(path: Path) -> object:
        contents = read_image(path)
        contents.sum_crc += 1
        return contents

    monkeypatch.setattr(storage_sqlite, "read_image", read_other)
    with pytest.raises(CorruptRecord, match="recovers something else"):
        Owner().open(tmp_path / "data")
    monkeypatch.undo()
    assert Owner().open(tmp_path / "data").identity.life.incarnation == 2, "the opening that failed was no life"


def _log(tmp_path: Path, transactions: int) -> bytes:
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE t (x)", "PRAGMA wal_checkpoint(TRUNCATE)"):
        connection.execute(statement).fetchall()
    for number in range(transactions):
        connection.execute("INSERT INTO t VALUES (?)", (number,))
    data = (tmp_path / "db-wal").read_bytes()
    connection.close()
    return data


@pytest.mark.parametrize("transactions", [1, 2])
def test_h25_a_damaged_header_of_the_log_is_no_empty_log(tmp_path: Path, transactions: int) -> None:
    """R9: a header with frames behind it was whole once: whichever bit is wrong, durable data is lost."""
    data = _log(tmp_path, transactions)
    path = tmp_path / "copy-wal"
    path.write_bytes(data)
    assert (read_wal(path).problem, read_wal(path).page_count > 0) == ("", True)
    for at in range(HEADER_BYTES):
        damaged = bytearray(data)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        assert read_wal(path).problem, f"byte {at}"
    path.write_bytes(data[:HEADER_BYTES])
    assert read_wal(path).problem == "", "a header alone holds nothing"


def test_h24_a_formatted_directory_is_durable_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R8: else a power loss takes the member with what it promised, and an empty directory is formatted anew."""
    synced: list[tuple[Path, bool]] = []
    place = tmp_path / "data"
    monkeypatch.setattr(
        storage_directory, "sync_directory", lambda path: synced.append((path, (place / DATABASE).exists()))
    )
    Owner().open(place).close()
    assert synced == [(place, True), (tmp_path, True)]
