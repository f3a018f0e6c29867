"""A resource that checks the fencing token: it keeps the highest one and refuses smaller ones, under a lock."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import leaderlease


class FencedResource:
    """One file of accepted writes, shared by processes; the last line's token is the highest.

    Args:
        path: Of the file; its writes are ``Event`` lines of kind ``write``.
        lease: Whose terms are the tokens.
    """

    def __init__(self, path: str | Path, lease: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lease = lease

    def write(self, lease: "leaderlease.Lease") -> bool:
        """Check the lease, and write under its term; return whether the resource took it."""
        if lease.remaining() <= 0:
            return False
        return self.put(lease.nonce, lease.term)

    def put(self, nonce: str, term: int) -> bool:
        """Take a write unless a higher token was seen."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if term < self.highest():
                return False
            at_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6
            fields = {"at_ms": at_ms, "kind": "write", "lease": self._lease, "nonce": nonce, "term": term}
            os.write(self._fd, (json.dumps(fields) + "\n").encode())
            return True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def highest(self) -> int:
        """Return the highest token that was seen."""
        end = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, 4096, max(0, end - 4096)).decode().rstrip("\n").rpartition("\n")[2]
        return int(json.loads(tail)["term"]) if tail else 0
