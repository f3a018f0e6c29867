"""The member's disk in production: one SQLite database, written by one thread (protocol, section 7).

Rule 1: opening reads and checks everything before it writes anything; what fails a check is left as it is (R9, H25).
Rule 2: then the log is copied into the database. After a failed fsync the page cache shows what the disk may not
        hold; copying writes and fsyncs it again, so what this life starts from is durable (H26).
Rule 3: then the incarnation goes up, durably. Only then does anybody learn who this member is (R3, H24).
"""

import contextlib
import secrets
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from leaderlease.errors import LocalProtocolError, StorageError, WrongDirectory, invariant
from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.membership import Configuration
from leaderlease.storage.base import Durable, Identity, Life, Loaded
from leaderlease.storage.directory import (
    DATABASE,
    DirectoryLock,
    corrupt,
    explain,
    format_directory,
    prepare_directory,
    read_image,
    reserve_log,
)
from leaderlease.storage.rows import (
    CEILING,
    CONFIGURATION,
    MEMBER,
    PEER,
    RECORD,
    SUM,
    Contents,
    Self,
    read_contents,
)
from leaderlease.storage.writer import Writer

CACHE_KIB: Final = 4_096
"""Of the page cache inside SQLite."""

Notify = Callable[[Callable[[], None]], object]


class SqliteStorage:
    """One member's disk; see ``base.Storage``. Made by ``open_storage``.

    Attributes:
        identity: Whose disk this is; the cluster changes when ``configure`` is durable.
    """

    def __init__(self, lock: DirectoryLock, contents: Contents) -> None:
        self.identity = contents.identity
        self._lock = lock
        self._loaded: Loaded | None = contents.loaded()
        self._peers = dict(contents.peers)
        self._reread: Callable[[], Contents] | None = None
        self._connection: sqlite3.Connection | None = None
        self._writer: Writer | None = None

    def start(self, connection: sqlite3.Connection, writer: Writer, reread: Callable[[], Contents]) -> None:
        """Begin to write; without it the storage only reads."""
        self._connection, self._writer, self._reread = connection, writer, reread

    def load(self) -> Loaded:
        """Return everything that is durable.

        Raises:
            CorruptRecord: A checksum does not hold.
        """
        # Opening has read it all; kept once, for the start, and not for a lifetime.
        if self._loaded is not None:
            loaded = self._loaded
            if self._reread is not None:
                self._loaded = None
            return loaded
        assert self._reread is not None
        return self._reread().loaded()

    def append(self, record: Record | Ceiling, on_durable: Durable) -> None:
        """Queue one record; ``on_durable`` runs when its batch is durable. Never blocks."""
        self._loaded = None
        if type(record) is Record:
            self._open_writer().append(RECORD, record.key, record, on_durable)
        else:
            self._open_writer().append(CEILING, "", record, on_durable)

    def configure(self, configuration: Configuration, on_durable: Durable) -> None:
        """Make the configuration, and with it the cluster, durable."""
        mine = self.identity
        invariant(
            mine.cluster in ("", configuration.cluster),
            f"member {mine.member} of cluster {mine.cluster} was given a configuration of {configuration.cluster}",
        )
        identity = Identity(configuration.cluster, mine.member, mine.life)

        def _durable() -> None:
            self.identity = identity
            on_durable()

        self._loaded = None
        self._open_writer().append(CONFIGURATION, "", configuration, _durable)

    def remember_peer(self, member: str, life: Life, on_durable: Durable) -> None:
        """Remember a peer's latest life, to recognise a rolled-back or cloned disk (H24)."""

        def _durable() -> None:
            self._peers[member] = life
            on_durable()

        self._open_writer().append(PEER, member, life, _durable)

    def peers(self) -> dict[str, Life]:
        """Return member uuid -> its latest life, as remembered."""
        return dict(self._peers)

    def fsync_seconds(self) -> list[float]:
        """Return and forget the durations of the latest commits, in seconds."""
        return self._writer.fsync_seconds() if self._writer is not None else []

    def oldest_pending_ms(self) -> float:
        """Return how long the oldest batch has been waiting for the disk; 0.0 when none does (H26)."""
        return self._writer.oldest_pending_ms() if self._writer is not None else 0.0

    def close(self) -> None:
        """Finish what is queued, then close; no callback runs later."""
        try:
            if self._writer is not None:
                self._writer.close()
            if self._connection is not None:
                # After a failure this copies only what was committed, and fsynced, before it.
                self._connection.close()
                self._connection = None
        finally:
            self._reread = _closed
            self._lock.release()

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise LocalProtocolError("a storage that was opened read-only cannot be written")
        return self._writer


def open_storage(
    directory: Path,
    notify: Notify,
    on_failure: Callable[[StorageError], None],
    *,
    expected_cluster: str | None = None,
    read_only: bool = False,
) -> SqliteStorage:
    """Open a member's disk; format it if the directory is empty.

    Args:
        directory: Made if it is missing, unless ``read_only``.
        notify: Runs a closure in the thread that owns the node: ``loop.call_soon_threadsafe``.
        on_failure: Runs there once, after a write failed; the process must leave (R9).
        expected_cluster: Refuse a directory that belongs to another one; a blank one belongs to none.
        read_only: Only look: nothing is written, the incarnation stays, and appending is refused.

    Raises:
        WrongDirectory: Locked, of another cluster, or of a newer format.
        CorruptRecord: Not what was written.
        StorageError: The directory or the disk cannot be used.
    """
    if not read_only:
        prepare_directory(directory)
    lock = DirectoryLock(directory, is_required=not read_only)
    try:
        with _explained(directory):
            if read_only:
                contents = read_image(directory)
                _check(directory, contents, expected_cluster)
                return SqliteStorage(lock, contents)
            return _open_to_write(directory, lock, notify, on_failure, expected_cluster)
    except BaseException:
        lock.release()
        raise


def _open_to_write(
    directory: Path,
    lock: DirectoryLock,
    notify: Notify,
    on_failure: Callable[[StorageError], None],
    expected_cluster: str | None,
) -> SqliteStorage:
    if not (directory / DATABASE).exists():
        format_directory(directory, str(uuid.uuid4()))
    contents = read_image(directory)
    before = _check(directory, contents, expected_cluster)
    connection = _connect(directory, contents)
    try:
        life = before.life.next(secrets.token_hex(16))
        contents.mine = Self(before.member, life.incarnation, life.boot_nonce, life.earlier)
        mine = contents.ledger.row(MEMBER, "", contents.mine)
        summed = contents.ledger.sum_row()
        connection.execute("INSERT OR REPLACE INTO entry VALUES (?,?,?,?),(?,?,?,?)", [*mine, *summed])
    except BaseException:
        connection.close()
        raise
    storage = SqliteStorage(lock, contents)
    writer = Writer(connection, contents.ledger, notify, on_failure, lambda error: explain(directory, error))

    def _reread() -> Contents:
        with writer.mutex, _explained(directory):
            again = read_contents(connection)
        _check(directory, again, None)
        return again

    storage.start(connection, writer, _reread)
    return storage


def _connect(directory: Path, contents: Contents) -> sqlite3.Connection:
    """Let SQLite take over what was read and checked."""
    path = directory / DATABASE
    connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (
            # First: the lock on the directory makes SQLite's own, and the file that shares them, superfluous.
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            "synchronous=FULL",
            "wal_autocheckpoint=0",
            f"cache_size=-{CACHE_KIB}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchone()
        (found,) = connection.execute("SELECT crc FROM entry WHERE kind = ?", (SUM,)).fetchone()
        if found != contents.sum_crc:
            raise corrupt(directory, ["SQLite recovers something else than what was checked"])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        reserve_log(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(directory: Path, contents: Contents, expected_cluster: str | None) -> Identity:
    """Return whose directory this is, if it is whole and the expected one."""
    if contents.problems:
        raise corrupt(directory, contents.problems)
    found = contents.cluster
    if expected_cluster and found and found != expected_cluster:
        raise WrongDirectory(
            f"{directory}: belongs to cluster {found}, not to {expected_cluster}. "
            "Name the directory of this cluster's member, or an empty one"
        )
    return contents.identity


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explain(directory, error) from error


def _closed() -> Contents:
    raise LocalProtocolError("the storage is closed")
