"""The disk in production: directories that must be refused, damage that must be seen, deaths that must not matter."""

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from leaderlease.errors import (
    CorruptRecord,
    DiskFailed,
    LocalProtocolError,
    StorageError,
    WrongDirectory,
)
from leaderlease.paxos.acceptor import Ceiling
from leaderlease.storage.base import FORMAT, Life
from leaderlease.storage.directory import DATABASE, LOCK, LOG_BYTES, read_image, wal_of
from leaderlease.storage.inspect import inspect
from leaderlease.storage.sqlite import SqliteStorage, open_storage
from leaderlease.storage.wal import FRAME_HEADER_BYTES, HEADER_BYTES
from support.disks import CLUSTER, MEMBERS, OTHER_CLUSTER, Owner, configuration, record

WRITER = Path(__file__).parents[1] / "support" / "acknowledging_writer.py"
FRAME_BYTES = FRAME_HEADER_BYTES + 4096
"""Of the log: one page."""
FLIPS = 150
"""Places that each damage test tries."""


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def storage(owner: Owner, directory: Path) -> Iterator[SqliteStorage]:
    opened = owner.open(directory)
    yield opened
    opened.close()


@pytest.fixture
def filled(owner: Owner, directory: Path) -> Path:
    """A closed directory of one cluster with 40 registers, a ceiling and a peer."""
    storage = owner.open(directory)
    done: list[int] = []
    storage.configure(configuration(), lambda: done.append(1))
    storage.append(Ceiling(65_536), lambda: done.append(2))
    storage.remember_peer(MEMBERS[1], Life(3, "nonce"), lambda: done.append(3))
    owner.until(lambda: len(done) == 3)
    owner.store(storage, *(record(f"l/{number}", number + 1) for number in range(40)))
    storage.close()
    return directory


def _edit(directory: Path, statement: str, *values: object) -> None:
    """Change the database as no LeaderLease does."""
    connection = sqlite3.connect(directory / DATABASE, isolation_level=None)
    assert connection.execute(statement, values).rowcount != 0
    connection.close()


def _flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def test_other_cluster_is_refused_by_both_names(owner: Owner, filled: Path) -> None:
    """A directory that was mixed up: the text names it, both clusters and what to do."""
    with pytest.raises(WrongDirectory) as caught:
        owner.open(filled, OTHER_CLUSTER)
    assert str(caught.value) == (
        f"{filled}: belongs to cluster {CLUSTER}, not to {OTHER_CLUSTER}. "
        "Name the directory of this cluster's member, or an empty one"
    )
    owner.open(filled, CLUSTER).close()


def test_blank_directory_fits_any_cluster(owner: Owner, directory: Path) -> None:
    """Before the bootstrap there is nothing to contradict."""
    owner.open(directory).close()
    owner.open(directory, CLUSTER).close()


def test_newer_format_is_refused_untouched(owner: Owner, filled: Path) -> None:
    """A downgrade: refused by number, and the incarnation stays for the version that can read it."""
    _edit(filled, f"PRAGMA user_version={FORMAT + 1}")
    before = (filled / DATABASE).read_bytes()
    with pytest.raises(WrongDirectory, match=rf"newer LeaderLease \(format {FORMAT + 1}, .* up to {FORMAT}\)"):
        owner.open(filled)
    assert (filled / DATABASE).read_bytes() == before


def test_locked_directory_is_refused_by_every_way_in(storage: SqliteStorage, owner: Owner, directory: Path) -> None:
    """Two nodes on one disk would be one member twice (H24)."""
    for way_in in (owner.open, inspect, _open_read_only):
        with pytest.raises(WrongDirectory, match=f"{directory}: locked by another process"):
            way_in(directory)
    assert storage.identity.life.incarnation == 1


def test_database_that_another_program_holds_is_refused(owner: Owner, filled: Path) -> None:
    """Somebody who looks with the sqlite3 shell and forgets it: refused at once, not waited for."""
    with closing(sqlite3.connect(filled / DATABASE, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(WrongDirectory, match="locked by another process"):
            owner.open(filled)
    owner.open(filled).close()


def test_failed_opening_leaves_no_lock(owner: Owner, filled: Path) -> None:
    """Whoever was refused can be replaced by whoever fits."""
    with pytest.raises(WrongDirectory):
        owner.open(filled, OTHER_CLUSTER)
    owner.open(filled).close()


def test_file_in_the_place_of_the_directory(owner: Owner, tmp_path: Path) -> None:
    """Not a directory: one sentence, no traceback of the operating system."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"{tmp_path / 'file'}: cannot be used"):
        owner.open(tmp_path / "file")


def test_emptied_directory_is_a_new_member(owner: Owner, filled: Path) -> None:
    """H24: a member uuid belongs to a disk's content; without content it is a stranger."""
    before = inspect(filled).identity
    shutil.rmtree(filled)
    storage = owner.open(filled)
    storage.close()
    assert before is not None
    assert storage.identity.member != before.member


def test_half_a_formatting_is_started_again(owner: Owner, directory: Path) -> None:
    """A crash while formatting leaves a scratch file and no database; nobody has heard of that member."""
    directory.mkdir()
    (directory / f"{DATABASE}.new").write_bytes(b"half")
    (directory / f"{DATABASE}.new-journal").write_bytes(b"half")
    owner.open(directory).close()
    assert sorted(path.name for path in directory.iterdir()) == [DATABASE, LOCK]


@pytest.mark.parametrize("content", [b"", b"no database", b"\0" * 8192], ids=["empty", "text", "zeros"])
def test_database_that_is_none_is_never_formatted_again(owner: Owner, filled: Path, content: bytes) -> None:
    """H24: what lost its content on the disk must not come back as a blank voter."""
    (filled / DATABASE).write_bytes(content)
    with pytest.raises(CorruptRecord, match="do not restore an old copy"):
        owner.open(filled)


def test_log_without_its_database_is_refused(owner: Owner, directory: Path) -> None:
    """Somebody removed one of two files that belong together."""
    directory.mkdir()
    wal_of(directory / DATABASE).write_bytes(b"x" * 100)
    with pytest.raises(CorruptRecord, match=f"{DATABASE} is missing"):
        owner.open(directory)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE entry SET body = CAST(x'00' || substr(body, 2) AS BLOB) WHERE key = 'l/7'",
            "'l/7': the checksum does not hold",
        ),
        ("UPDATE entry SET key = 'l/moved' WHERE key = 'l/7'", "'l/moved': the checksum does not hold"),
        ("UPDATE entry SET crc = crc + 1 WHERE kind = 'ceiling'", "ceiling '': the checksum does not hold"),
        ("UPDATE entry SET crc = 0 WHERE kind = 'configuration'", "configuration '': the checksum"),
        ("UPDATE entry SET crc = 0 WHERE kind = 'peer'", "the checksum does not hold"),
        ("UPDATE entry SET crc = 0 WHERE kind = 'sum'", "the sum over all rows: the checksum does not hold"),
        ("DELETE FROM entry WHERE key = 'l/7'", "a row is missing or went back"),
        ("DELETE FROM entry WHERE kind = 'sum'", "the sum over all rows is missing"),
        ("DELETE FROM entry WHERE kind = 'member'", "the identity is missing"),
        ("DROP TABLE entry", "no such table"),
    ],
)
def test_every_kind_of_row_is_protected(owner: Owner, filled: Path, statement: str, problem: str) -> None:
    """Rule 4: changed, moved or missing, whichever row it is; the node refuses and inspection says the same."""
    _edit(filled, statement)
    with pytest.raises(CorruptRecord, match=problem) as caught:
        owner.open(filled)
    assert str(filled) in str(caught.value)
    if "DROP" not in statement:
        assert any(problem in found for found in inspect(filled).problems)


def test_row_that_went_back_to_an_older_version_is_seen(owner: Owner, filled: Path) -> None:
    """H25: a lost write leaves an old row with a good checksum of its own."""
    with closing(sqlite3.connect(filled / DATABASE)) as connection:
        old = connection.execute("SELECT * FROM entry WHERE key = 'l/7'").fetchone()
    storage = owner.open(filled)
    owner.store(storage, record("l/7", 1000))
    storage.close()
    _edit(filled, "UPDATE entry SET body = ?, crc = ? WHERE key = 'l/7'", old[2], old[3])
    with pytest.raises(CorruptRecord, match="went back to an older version"):
        owner.open(filled)


def test_flipped_bit_in_the_database_is_seen_or_harmless(filled: Path) -> None:
    """Rule 4: wherever one bit flips, what can be read is exactly what was written."""
    whole = read_image(filled)
    path = filled / DATABASE
    randomness = random.Random(1)
    seen = 0
    for _ in range(FLIPS):
        position, bit = randomness.randrange(path.stat().st_size), randomness.randrange(8)
        _flip(path, position, bit)
        try:
            found = read_image(filled)
        except StorageError:
            seen += 1
        else:
            seen += bool(found.problems)
            assert found.problems or found.loaded() == whole.loaded(), f"byte {position} bit {bit}"
        _flip(path, position, bit)
    assert seen > 0
    assert read_image(filled).loaded() == whole.loaded()


def _crashed_copy(storage: SqliteStorage, directory: Path, target: Path) -> Path:
    """Return what a crash would leave: the log not yet in the database."""
    target.mkdir()
    for name in (DATABASE, wal_of(directory / DATABASE).name):
        shutil.copy(directory / name, target / name)
    return target


def _written(log: Path) -> int:
    """Return how many bytes of a log are header and frames, and not its blank rest."""
    used = len(log.read_bytes().rstrip(b"\0"))
    return HEADER_BYTES + -(-max(0, used - HEADER_BYTES) // FRAME_BYTES) * FRAME_BYTES


def test_flipped_bit_in_the_log_loses_at_most_the_last_transaction(
    storage: SqliteStorage, owner: Owner, directory: Path, tmp_path: Path
) -> None:
    """H25: SQLite alone would silently go back to the frame before the damage."""
    samples = [record("l/0", number) for number in range(1, 16)]
    owner.store(storage, *samples)
    crashed = _crashed_copy(storage, directory, tmp_path / "crashed")
    log = wal_of(crashed / DATABASE)
    randomness = random.Random(2)
    for _ in range(FLIPS):
        position, bit = randomness.randrange(_written(log)), randomness.randrange(8)
        _flip(log, position, bit)
        try:
            found = read_image(crashed)
        except StorageError:
            pass
        else:
            assert found.problems or found.records[0] in samples[-3:], f"byte {position} bit {bit}"
        _flip(log, position, bit)
    assert read_image(crashed).records == [samples[-1]]


def test_damaged_log_stays_as_it_is(storage: SqliteStorage, owner: Owner, directory: Path, tmp_path: Path) -> None:
    """A refusal is no repair: the next start must be refused as well."""
    owner.store(storage, *(record("l/0", number) for number in range(1, 6)))
    crashed = _crashed_copy(storage, directory, tmp_path / "crashed")
    log = wal_of(crashed / DATABASE)
    _flip(log, 32 + 24 + 100, 0)
    before = log.read_bytes()
    for _ in range(2):
        with pytest.raises(CorruptRecord, match="damaged before its end"):
            owner.open(crashed)
    assert log.read_bytes() == before


def test_torn_last_write_is_no_damage(storage: SqliteStorage, owner: Owner, directory: Path, tmp_path: Path) -> None:
    """A crash in the middle of a write: all that was acknowledged before it is there."""
    owner.store(storage, record("l/0", 1))
    size = _written(wal_of(directory / DATABASE))
    owner.store(storage, record("l/0", 2))
    crashed = _crashed_copy(storage, directory, tmp_path / "crashed")
    with wal_of(crashed / DATABASE).open("r+b") as log:
        log.seek(size + 1000)
        log.write(bytes(FRAME_BYTES - 1000))
    opened = owner.open(crashed)
    opened.close()
    assert opened.load().records == (record("l/0", 1),)


def test_log_keeps_its_size(storage: SqliteStorage, owner: Owner, directory: Path) -> None:
    """Commits overwrite: a log that grows makes each fdatasync take twice as long."""
    log = wal_of(directory / DATABASE)
    assert log.stat().st_size == LOG_BYTES
    written = _written(log)
    owner.store(storage, record("l/0", 1))
    assert log.stat().st_size == LOG_BYTES
    assert _written(log) > written


def test_blank_log_holds_nothing(owner: Owner, filled: Path) -> None:
    """What a crash in the middle of a start leaves: all that was durable before it is there."""
    before = read_image(filled).loaded()
    for size in (1 << 20, LOG_BYTES):
        wal_of(filled / DATABASE).write_bytes(bytes(size))
        opened = owner.open(filled)
        opened.close()
        assert opened.load() == before


def test_header_that_was_lost_is_damage(storage: SqliteStorage, owner: Owner, directory: Path, tmp_path: Path) -> None:
    """H25: without its header SQLite takes the log for an empty one, and would forget what stands behind it."""
    owner.store(storage, record("l/0", 1))
    crashed = _crashed_copy(storage, directory, tmp_path / "crashed")
    with wal_of(crashed / DATABASE).open("r+b") as log:
        log.write(bytes(HEADER_BYTES))
    with pytest.raises(CorruptRecord, match="the header of the write-ahead log is damaged"):
        owner.open(crashed)


def test_crashed_copy_opens_with_all_of_it(
    storage: SqliteStorage, owner: Owner, directory: Path, tmp_path: Path
) -> None:
    """The log is put into the database at the next start, whatever its length, over several restarts of the log."""
    samples = [record(f"l/{number % 900}", number + 1) for number in range(9000)]
    done: list[int] = []
    for sample in samples:
        storage.append(sample, lambda: done.append(1))
    owner.until(lambda: len(done) == len(samples))
    owner.store(storage, record("l/last", 1))
    crashed = _crashed_copy(storage, directory, tmp_path / "crashed")
    expected = {sample.key: sample for sample in [*samples, record("l/last", 1)]}
    opened = owner.open(crashed)
    loaded = opened.load()
    opened.close()
    assert {one.key: one for one in loaded.records} == expected
    assert inspect(crashed).problems == ()


def test_start_makes_durable_what_it_starts_from(
    storage: SqliteStorage, owner: Owner, directory: Path, tmp_path: Path
) -> None:
    """H26: a failed fsync may leave a log that only the page cache knows; opening writes it all to the database."""
    owner.store(storage, record("l/0", 1))
    crashed = _crashed_copy(storage, directory, tmp_path / "crashed")
    opened = owner.open(crashed)
    database_alone = tmp_path / "alone"
    database_alone.mkdir()
    shutil.copy(crashed / DATABASE, database_alone)
    opened.close()
    assert inspect(database_alone).registers == (record("l/0", 1),)


def test_commit_means_fsync(storage: SqliteStorage) -> None:
    """H26: with less than FULL, SQLite does not fsync the commits of a write-ahead log."""
    assert storage._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert storage._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_write_that_fails_tells_the_owner_once(storage: SqliteStorage, owner: Owner, directory: Path) -> None:
    """R9: a sentence that names the directory, and an age that keeps growing: nothing is durable any more."""
    storage._connection.execute("PRAGMA max_page_count=1")
    for number in range(200):
        storage.append(record(f"l/{number}" + "x" * 500, 1), lambda: pytest.fail("announced"))
    owner.until(lambda: owner.failures)
    owner.run_rest()
    (failure,) = owner.failures
    assert isinstance(failure, DiskFailed)
    assert str(failure).startswith(f"{directory}: a write failed: database or disk is full.")
    assert storage.oldest_pending_ms() > 0


def test_body_that_cannot_be_encoded_is_a_failure_too(storage: SqliteStorage, owner: Owner) -> None:
    """A record that is lost without a word would be amnesia."""
    storage.append(record("l/a", 2**70), lambda: pytest.fail("announced"))
    owner.until(lambda: owner.failures)


def test_owner_that_is_gone_ends_the_writer(directory: Path) -> None:
    """A closed event loop refuses closures; close still works, and what was written stays."""

    def _refuse(_: object) -> None:
        raise RuntimeError("Event loop is closed")

    storage = open_storage(directory, _refuse, lambda _: None)
    storage.append(record("l/a", 1), lambda: None)
    storage.close()
    assert inspect(directory).registers == (record("l/a", 1),)


def test_read_only_opening_changes_nothing(filled: Path) -> None:
    """The incarnation stays, no file is made or changed, and writing is a bug."""
    (filled / LOCK).unlink()
    before = {path.name: path.read_bytes() for path in filled.iterdir()}
    storage = _open_read_only(filled)
    assert storage.identity.life.incarnation == 1
    assert len(storage.load().records) == len(storage.load().records) == 40
    assert storage.peers() == {MEMBERS[1]: Life(3, "nonce")}
    assert (storage.oldest_pending_ms(), storage.fsync_seconds()) == (0.0, [])
    with pytest.raises(LocalProtocolError, match="read-only"):
        storage.append(record("l/a", 1), lambda: None)
    storage.close()
    assert {path.name: path.read_bytes() for path in filled.iterdir()} == before


def test_inspection_shows_everything_and_writes_nothing(filled: Path) -> None:
    """What the command line prints; also of a directory that was copied without its lock."""
    before = {path.name: path.read_bytes() for path in filled.iterdir()}
    found = inspect(filled)
    assert found.identity is not None
    assert (found.identity.cluster, found.identity.life.incarnation) == (CLUSTER, 1)
    assert (found.format, found.epoch, found.configuration) == (FORMAT, 1, configuration())
    assert (found.ceiling, found.peers, found.problems) == (65_536, {MEMBERS[1]: Life(3, "nonce")}, ())
    assert {one.key: one for one in found.registers} == {
        f"l/{number}": record(f"l/{number}", number + 1) for number in range(40)
    }
    assert found.checked == 45
    assert {path.name: path.read_bytes() for path in filled.iterdir()} == before


@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "missing"])
def test_inspection_of_nothing(directory: Path, is_there: bool) -> None:
    """A typing error in the path must not look like a blank node, and must not make one."""
    if is_there:
        directory.mkdir()
    for look in (inspect, _open_read_only):
        with pytest.raises(WrongDirectory, match=f"{directory}: holds no LeaderLease data"):
            look(directory)
    assert directory.exists() is is_there
    assert not is_there or list(directory.iterdir()) == []


def test_kill_at_any_time_loses_nothing_that_was_acknowledged(owner: Owner, directory: Path) -> None:
    """Rule 1, with SIGKILL: three lives, each killed while it writes; every life finds all of the ones before."""
    acknowledged: dict[str, int] = {}
    randomness = random.Random(3)
    first = 0
    for life in range(1, 4):
        with subprocess.Popen(
            [sys.executable, str(WRITER), str(directory), str(first)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(randomness.randrange(200, 2000)):
                _note(acknowledged, process.stdout.readline())
            process.kill()
            for line in process.stdout:
                _note(acknowledged, line)
        found = inspect(directory)
        assert found.problems == ()
        assert found.identity is not None
        assert found.identity.life.incarnation == life
        stored = {one.key: one.accepted.counter for one in found.registers}
        assert all(stored[key] >= counter for key, counter in acknowledged.items())
        assert all(one == record(one.key, one.accepted.counter) for one in found.registers)
        first = max(stored.values())
    storage = owner.open(directory)
    assert storage.identity.life.incarnation == 4
    storage.close()


def test_full_disk_is_final(directory: Path) -> None:
    """R9, with a real write error: one failure, then silence although there is room again; what was said holds."""
    process = subprocess.run(
        [sys.executable, str(WRITER), str(directory), "0", "400000"], capture_output=True, text=True, check=True
    )
    *lines, failed, closed = process.stdout.splitlines()
    assert failed.startswith(f"failed: {directory}: a write failed")
    assert closed == "closed"
    acknowledged: dict[str, int] = {}
    for line in lines:
        _note(acknowledged, line)
    assert acknowledged
    found = inspect(directory)
    assert found.problems == ()
    stored = {one.key: one.accepted.counter for one in found.registers}
    assert all(stored[key] >= counter for key, counter in acknowledged.items())


def _note(acknowledged: dict[str, int], line: str) -> None:
    key, counter = line.split()
    acknowledged[key] = int(counter)


def _open_read_only(directory: Path) -> SqliteStorage:
    return open_storage(directory, lambda _: None, lambda _: None, read_only=True)
