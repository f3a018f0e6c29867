"""The data directory: its lock, its format, and errors that say what to do.

Rule 1: one process at a time. The kernel drops the lock with the process, however it ends.
Rule 2: a database appears under its name only when it is whole, so one that is there is never formatted again: an
        emptied disk must come back as a new member (H24).
Rule 3: a directory of another format is refused before anything in it is believed.
"""

import errno
import fcntl
import logging
import os
import sqlite3
from pathlib import Path
from typing import Final

from leaderlease.errors import CorruptRecord, DiskFailed, StorageError, WrongDirectory
from leaderlease.storage.base import FORMAT
from leaderlease.storage.rows import MEMBER, SCHEMA, Contents, Ledger, Self, read_contents
from leaderlease.storage.wal import image, read_wal

DATABASE: Final = "leaderlease.db"
LOCK: Final = "leaderlease.lock"
LOG_BYTES: Final = 8 << 20
"""Of the log, written ahead: what single commits need between two checkpoints."""
logger = logging.getLogger("leaderlease.storage")
_DISK_ERRORS: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_DAMAGES: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSALS: Final = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_REBUILD: Final = (
    "Move the directory away, and do not restore an old copy: this member is lost, and the others go on without it "
    "(docs/operations.md)"
)


class DirectoryLock:
    """An exclusive lock on a directory, until ``release``.

    Args:
        directory: Must exist.
        is_required: Make the lock file; else a directory without one is simply not locked.

    Raises:
        WrongDirectory: Another process has it.
        StorageError: The lock file cannot be made or opened.
    """

    def __init__(self, directory: Path, *, is_required: bool = True) -> None:
        self._fd = -1
        path = directory / LOCK
        if not is_required and not path.exists():
            return
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT if is_required else os.O_RDONLY, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise locked(directory) from None
        except OSError as error:
            self.release()
            raise explain(directory, error) from error

    def release(self) -> None:
        """Let go; more than once does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def explain(directory: Path, error: Exception) -> StorageError:
    """Return the error that names the directory, what is wrong with it, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, StorageError):
        return error
    if code == sqlite3.SQLITE_BUSY:
        # Not one of our nodes, which would have the lock: somebody looks with another program.
        return locked(directory)
    if code in _DAMAGES or (type(error) is sqlite3.DatabaseError and not code):
        return corrupt(directory, [str(error)])
    if code in _DISK_ERRORS:
        return DiskFailed(f"{directory}: a write failed: {error}. Free or replace the disk, then start the node again")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return DiskFailed(f"{directory}: {error}. Free or replace the disk, then start the node again")
    if isinstance(error, OSError) or code in _REFUSALS:
        reason, advice = str(error), "Mount it read-write and let this user read and write it"
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        if isinstance(error, NotADirectoryError | FileExistsError):
            advice = "Name a directory, or a path at which one can be made"
        return StorageError(f"{directory}: cannot be used: {reason}. {advice}")
    return DiskFailed(f"{directory}: a write failed: {error!r}. The node leaves; start it again")


def locked(directory: Path) -> WrongDirectory:
    """Return the error for a directory that is in use."""
    return WrongDirectory(
        f"{directory}: locked by another process. Stop the node that runs on it, or choose another directory"
    )


def corrupt(directory: Path, problems: list[str]) -> CorruptRecord:
    """Return the error for a database that is not what was written."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return CorruptRecord(f"{directory}: the data is damaged: {problems[0]}{more}. {_REBUILD}")


def prepare_directory(directory: Path) -> None:
    """Make the directory if there is none.

    Raises:
        StorageError: It is something else, or cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise explain(directory, error) from error


def check_format(directory: Path, connection: sqlite3.Connection) -> None:
    """Refuse what another version wrote (rule 3).

    Raises:
        WrongDirectory: A newer format.
        CorruptRecord: No format at all.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > FORMAT:
        raise WrongDirectory(
            f"{directory}: written by a newer LeaderLease (format {found}, this one reads up to {FORMAT}). "
            "Start a version at least as new as the one that wrote it"
        )
    if found < 1:
        raise corrupt(directory, ["the database has no format version"])


def format_directory(directory: Path, member: str) -> None:
    """Write a database that holds nothing but a member, and give it its name when it is whole (rule 2).

    Raises:
        CorruptRecord: A log without its database: somebody removed one of the two.
    """
    target, scratch = directory / DATABASE, directory / f"{DATABASE}.new"
    if wal_of(target).exists():
        raise corrupt(directory, [f"{wal_of(target).name} is there, but {DATABASE} is missing"])
    for leftover in directory.glob(f"{scratch.name}*"):
        leftover.unlink()
    ledger = Ledger()
    connection = sqlite3.connect(scratch, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN")
        connection.execute(SCHEMA)
        connection.execute("INSERT INTO entry VALUES (?,?,?,?)", ledger.row(MEMBER, "", Self(member, 0, "")))
        connection.execute("INSERT INTO entry VALUES (?,?,?,?)", ledger.sum_row())
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    finally:
        connection.close()
    scratch.rename(target)
    for path in (directory, directory.parent):
        sync_directory(path)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def wal_of(database: Path) -> Path:
    """Return where SQLite keeps the log of a database."""
    return database.with_name(f"{database.name}-wal")


def reserve_log(database: Path) -> None:
    """Fill the empty log with zeros, durably, so that commits overwrite a file that keeps its size.

    One that grows takes twice as long with each fdatasync, for the file system has to commit the new size as well.
    SQLite and ``read_wal`` end at a frame without the salts of the header, so zeros are as good as the end of the file.
    Where there is no room for it the log stays empty, and commits take their time.

    Raises:
        OSError: The disk fails.
    """
    with wal_of(database).open("r+b", buffering=0) as log:
        try:
            left = LOG_BYTES
            while left:
                left -= log.write(bytes(min(left, 1 << 16)))
            os.fsync(log.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.truncate(0)
            logger.warning("%s: no room for a log of %d MiB, so each commit takes longer", database, LOG_BYTES >> 20)


def read_image(directory: Path) -> Contents:
    """Read everything without writing a byte: the database and its log are put together in memory.

    Returns: The contents; damage is among their problems.

    Raises:
        WrongDirectory: No database, or a newer format.
        CorruptRecord: Too damaged to read on.
    """
    path = directory / DATABASE
    if not path.is_file():
        raise WrongDirectory(f"{directory}: holds no LeaderLease data. Name the data directory of a node")
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        wal = read_wal(wal_of(path))
        data = image(path, wal)
        if not data:
            raise corrupt(directory, [f"{DATABASE} is empty"])
        connection.deserialize(data)
        check_format(directory, connection)
        contents = read_contents(connection)
    except sqlite3.Error as error:
        # In memory, so not the disk: whatever SQLite objects to is in the data.
        raise corrupt(directory, [str(error)]) from error
    except OSError as error:
        raise explain(directory, error) from error
    finally:
        connection.close()
    if wal.problem:
        contents.problems.append(wal.problem)
    return contents
