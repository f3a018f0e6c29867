"""Who this sidecar is across its restarts: the nonce of a lease that it believed, kept next to how long it may.

Rule 1: a record is written before anybody is told that the lease is held, and erased before anybody is told that it
        is not: a nonce on disk is one that was never said to be lost (H18).
Rule 2: a record counts only on the boot that wrote it and only while the validity in it lasts, by both clocks; then
        the nonce is dead and a new one is drawn (H18, H31). A lease without end has no such limits.
Rule 3: one process at a time uses a directory, so no two share a nonce (H19).

A renewal that was not recorded only makes the record end earlier than the lease.
"""

import contextlib
import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import Final

import msgspec

from leaderlease.client.clock import Clock, Instant
from leaderlease.errors import ConfigError
from leaderlease.paxos.lease import NONCE_HEX

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
SINCE: Final = "since"
"""The file that says when the first process of this directory began."""
RECORD_BYTES_MAX: Final = 4_096
FOREVER_MS: Final = 1e15
"""Stands for the end of a lease without end."""

log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True):
    """A nonce that may go on.

    Attributes:
        until_boot_ms: Reading of CLOCK_BOOTTIME at which its validity ends.
        until_raw_ms: Reading of CLOCK_MONOTONIC_RAW at which it ends; the earlier end counts.
        boot_id: Boot of the kernel whose clocks these are.
    """

    lease: str
    identity: str
    nonce: str
    term: int
    until_boot_ms: float
    until_raw_ms: float
    boot_id: str

    def remaining_ms(self, now: Instant) -> float:
        """Return for how long the nonce may still go on; at most 0 when it is dead."""
        return min(self.until_boot_ms - now.boot_ms, self.until_raw_ms - now.raw_ms)


def boot_id() -> str:
    """Return what tells this boot of the kernel from others; empty where the platform does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


class StateDir:
    """Records of all leases of one sidecar; with no path, nothing is kept.

    Raises:
        ConfigError: The directory cannot be used, or another process uses it.
    """

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._boot_id = boot_id()
        self._lock = -1
        if path is None:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--state-dir {path}: another sidecar uses it; give each one its own") from None
        except OSError as error:
            raise ConfigError(f"--state-dir {path}: {error.strerror}") from error

    def since(self) -> float:
        """Return when the first process with this directory began, by the wall clock in seconds: the pod's age.

        It tells a newer candidate from an older one, for leases that prefer it; nothing else is decided by it.
        """
        now_s = time.time()
        if self._path is None:
            return now_s
        path = self._path / SINCE
        try:
            return float(path.read_text()[:32])
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                write_atomically(path, b"%.3f" % now_s, 0o600)
            return now_s

    def load(self, lease: str, identity: str) -> Record | None:
        """Return the nonce that may go on; None when there is none, or it is dead (rule 2)."""
        if self._path is None or not self._boot_id:
            return None
        try:
            with self._file(lease).open("rb") as file:
                record = msgspec.json.decode(file.read(RECORD_BYTES_MAX), type=Record)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s: what an earlier process left cannot be read: %s", lease, error)
            self.erase(lease)
            return None
        is_sound = len(record.nonce) == NONCE_HEX and set(record.nonce) <= set("0123456789abcdef")
        is_endless = record.until_boot_ms >= FOREVER_MS
        is_mine = (record.lease, record.identity) == (lease, identity)
        is_mine = is_mine and (is_endless or record.boot_id == self._boot_id)
        if is_sound and is_mine and record.remaining_ms(self._clock()) > 0:
            return record
        self.erase(lease)
        return None

    def save(self, lease: str, identity: str, nonce: str, term: int, remaining_ms: float) -> None:
        """Write the record of a lease that is believed for ``remaining_ms`` from now on (rule 1)."""
        if self._path is None:
            return
        now = self._clock()
        left_ms = min(remaining_ms, FOREVER_MS)
        ends = (now.boot_ms + left_ms, now.raw_ms + left_ms)
        content = msgspec.json.encode(Record(lease, identity, nonce, term, *ends, self._boot_id))
        try:
            write_atomically(self._file(lease), content, 0o600)
        except OSError as error:
            log.warning("%s: a restart of this sidecar will lose the lease: %s", lease, error)
            self.erase(lease)

    def erase(self, lease: str) -> None:
        """Let the nonce of this lease end with this process, at the latest (rule 1)."""
        if self._path is None:
            return
        try:
            self._file(lease).unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: the record of its nonce cannot be removed: %s", lease, error)

    def close(self) -> None:
        """Let another process use the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _file(self, lease: str) -> Path:
        assert self._path is not None
        return self._path / f"{lease.replace('/', '_')}.nonce"


def write_atomically(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step: a reader sees the old content or the new one. It need not survive a power loss."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        if os.write(handle, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(handle)
    temporary.replace(path)
