"""The writer thread: group commit, one transaction and one fsync for all that is waiting.

Rule 1: a batch is one SQL statement. ``sqlite3`` gives the interpreter lock away once per statement and has to win it
        back from a busy event loop; once per row would cost a switch interval (5 ms) each.
Rule 2: the queue is handed over without a lock that the appending thread could wait for.
Rule 3: callbacks go to the owner's thread after the commit, one closure per batch, in order (H27).
Rule 4: the first failure is the last write (R9, H26).
"""

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from queue import SimpleQueue
from typing import Final

from leaderlease.errors import StorageError
from leaderlease.storage.base import Durable
from leaderlease.storage.rows import Body, Ledger

BATCH_MAX: Final = 1023
"""Rows in one transaction; with the row that sums them up, a power of two."""
CHECKPOINT_ROWS: Final = 4000
"""Rows written between two checkpoints. A row costs about one page, so the log stays below some 25 MB."""
FSYNCS_MAX: Final = 4096
"""Durations kept until somebody fetches them."""

Entry = tuple[str, str, Body, Durable, int]
"""Kind, key, body, callback, and when it was queued (monotonic, ns)."""


class Writer:
    """Owns the connection while it runs.

    Args:
        connection: In autocommit mode; used under ``mutex`` alone.
        ledger: The sum over what the database holds already.
        notify: Runs a closure in the owner's thread.
        on_failure: Runs there once, with what went wrong.
        explain: Turns any failure into the error that says what to do.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        ledger: Ledger,
        notify: Callable[[Callable[[], None]], object],
        on_failure: Callable[[StorageError], None],
        explain: Callable[[Exception], StorageError],
    ) -> None:
        self.mutex = threading.Lock()
        self._connection = connection
        self._ledger = ledger
        self._notify = notify
        self._on_failure = on_failure
        self._explain = explain
        self._queue: deque[Entry] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_idle = False
        self._is_closing = False
        self._has_failed = False
        self._writing_since_ns = 0
        self._since_checkpoint = 0
        self._fsyncs: deque[float] = deque(maxlen=FSYNCS_MAX)
        # A daemon: a disk that hangs must not keep a process alive that wants to leave.
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._thread.start()

    def append(self, kind: str, key: str, body: Body, on_durable: Durable) -> None:
        """Queue one row. After a failure or ``close`` it is dropped: its callback never runs."""
        if self._has_failed or self._is_closing:
            return
        self._queue.append((kind, key, body, on_durable, time.monotonic_ns()))
        if self._is_idle:
            self._is_idle = False
            self._wake.put(None)

    def fsync_seconds(self) -> list[float]:
        """Return and forget the durations of the latest commits."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._fsyncs.popleft())
        return taken

    def oldest_pending_ms(self) -> float:
        """Return the age of the oldest row that is not durable yet; 0.0 if there is none."""
        since_ns = self._writing_since_ns
        if not since_ns:
            try:
                since_ns = self._queue[0][4]
            except IndexError:
                return 0.0
        return (time.monotonic_ns() - since_ns) / 1e6

    def close(self) -> None:
        """Write what is queued and end; nothing is announced any more."""
        self._is_closing = True
        self._wake.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._write(batch)
                self._notify(lambda batch=batch: self._deliver(batch))  # type: ignore[misc]
                self._writing_since_ns = 0
                # After the announcement: nobody waits for a checkpoint, except who comes next.
                if self._since_checkpoint >= CHECKPOINT_ROWS:
                    self._checkpoint()
        except Exception as error:
            # R9: whatever it was, from here on this disk is not trusted. Encoding errors count: a record is lost.
            self._has_failed = True
            failure = self._explain(error)
            # RuntimeError: the owner's loop is closed; there is nobody left to tell.
            with contextlib.suppress(RuntimeError):
                self._notify(lambda: self._on_failure(failure))

    def _next_batch(self) -> list[Entry]:
        """Wait for rows; return none only when closing."""
        while not self._queue:
            if self._is_closing:
                return []
            self._is_idle = True
            # Looked at again after saying so: whoever appended before did not see it and sent no token.
            if not self._queue and not self._is_closing:
                self._wake.get()
            self._is_idle = False
        self._writing_since_ns = self._queue[0][4]
        return [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]

    def _write(self, batch: list[Entry]) -> None:
        encode = self._ledger.row
        values: list[object] = []
        for kind, key, body, _, _ in batch:
            values += encode(kind, key, body)
        summed = self._ledger.sum_row()
        # Filled up to a power of two by repeating the last row: few statements, all of them prepared once.
        count = 1 << len(batch).bit_length()
        for _ in range(count - len(batch)):
            values += summed
        with self.mutex:
            started = time.perf_counter()
            self._connection.execute(_statement(count), values)
            self._fsyncs.append(time.perf_counter() - started)
        self._since_checkpoint += len(batch) + 1

    def _checkpoint(self) -> None:
        with self.mutex:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._since_checkpoint = 0

    def _deliver(self, batch: list[Entry]) -> None:
        if self._is_closing:
            return
        for entry in batch:
            entry[3]()


@lru_cache
def _statement(count: int) -> str:
    return "INSERT OR REPLACE INTO entry VALUES " + ",".join(["(?,?,?,?)"] * count)
