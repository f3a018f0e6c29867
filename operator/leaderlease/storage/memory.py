"""The deterministic twin of the disk, for tests and the simulator.

Rule 1: ``MemoryDisk`` is what survives; ``MemoryStorage`` is one life on it. Nothing happens by itself: no thread, no
        clock, no randomness.
Rule 2: a batch is as atomic as in ``sqlite``: after a crash all of it is there or nothing.
Rule 3: ``commit`` and ``deliver`` are apart, because a process may die between them: durable, and nobody told.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from leaderlease.errors import DiskFailed, StorageError, WrongDirectory, invariant
from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.membership import Configuration
from leaderlease.storage.base import Durable, Identity, Loaded

BATCH_MAX: Final = 1023
"""Entries in one batch, as in ``writer``."""

Schedule = Callable[[Callable[[], None]], None]


class MemoryDisk:
    """What is durable. Copy it to clone a disk or to roll one back (H24).

    Args:
        member: uuid; minted by whoever formats a real disk.
    """

    def __init__(self, member: str) -> None:
        self.member = member
        self.incarnation = 0
        self.boot_nonce = ""
        self.records: dict[str, Record] = {}
        self.ceiling = 0
        self.configuration: Configuration | None = None
        self.peers: dict[str, tuple[int, str]] = {}
        self.is_locked = False

    def copy(self) -> "MemoryDisk":
        """Return this disk as it is now, unlocked."""
        twin = MemoryDisk(self.member)
        twin.incarnation, twin.boot_nonce = self.incarnation, self.boot_nonce
        twin.records, twin.peers = dict(self.records), dict(self.peers)
        twin.ceiling, twin.configuration = self.ceiling, self.configuration
        return twin

    def read(self) -> Loaded:
        """Return everything that is durable, by key."""
        records = tuple(self.records[key] for key in sorted(self.records))
        return Loaded(records, self.ceiling, self.configuration)


Write = Callable[[MemoryDisk], None]


class MemoryStorage:
    """One life of a member on its disk; see ``base.Storage``.

    Args:
        disk: Opening it raises its incarnation.
        schedule: Called with ``flush`` when something is queued and no flush is on its way; may run it at any later
            time, never at once. Without it the owner calls ``flush``.
        on_failure: Runs once, after a write failed.
        boot_nonce: Of this life; made from member and incarnation if empty.
        now_ms: Monotonic; for ``oldest_pending_ms`` alone.

    Raises:
        WrongDirectory: Another life is open on this disk.
    """

    def __init__(
        self,
        disk: MemoryDisk,
        schedule: Schedule | None = None,
        on_failure: Callable[[StorageError], None] | None = None,
        *,
        boot_nonce: str = "",
        now_ms: Callable[[], float] = lambda: 0.0,
    ) -> None:
        if disk.is_locked:
            raise WrongDirectory(f"disk of {disk.member}: locked by another process. Close that life first")
        disk.is_locked = True
        disk.incarnation += 1
        disk.boot_nonce = boot_nonce or f"{disk.member}/{disk.incarnation}"
        cluster = disk.configuration.cluster if disk.configuration is not None else ""
        self.identity = Identity(cluster, disk.member, disk.incarnation, disk.boot_nonce)
        self._disk = disk
        self._schedule = schedule
        self._on_failure = on_failure
        self._now_ms = now_ms
        self._queue: deque[tuple[Write, Durable, float]] = deque()
        self._committed: deque[Durable] = deque()
        self._peers = dict(disk.peers)
        self._is_scheduled = False
        self._will_fail = False
        self._is_over = self._has_ended = False

    def load(self) -> Loaded:
        """Return everything that is durable."""
        return self._disk.read()

    def append(self, record: Record | Ceiling, on_durable: Durable) -> None:
        """Queue one record; ``on_durable`` runs when its batch is flushed."""

        def _write(disk: MemoryDisk) -> None:
            if type(record) is Record:
                disk.records[record.key] = record
            elif type(record) is Ceiling:
                disk.ceiling = record.counter

        self._enqueue(_write, on_durable)

    def configure(self, configuration: Configuration, on_durable: Durable) -> None:
        """Make the configuration, and with it the cluster, durable."""
        mine = self.identity
        invariant(
            mine.cluster in ("", configuration.cluster),
            f"member {mine.member} of cluster {mine.cluster} was given a configuration of {configuration.cluster}",
        )

        def _write(disk: MemoryDisk) -> None:
            disk.configuration = configuration

        def _durable() -> None:
            self.identity = Identity(configuration.cluster, mine.member, mine.incarnation, mine.boot_nonce)
            on_durable()

        self._enqueue(_write, _durable)

    def remember_peer(self, member: str, incarnation: int, boot_nonce: str, on_durable: Durable) -> None:
        """Remember a peer's latest life."""
        life = (incarnation, boot_nonce)

        def _write(disk: MemoryDisk) -> None:
            disk.peers[member] = life

        def _durable() -> None:
            self._peers[member] = life
            on_durable()

        self._enqueue(_write, _durable)

    def peers(self) -> dict[str, tuple[int, str]]:
        """Return member uuid -> (incarnation, boot nonce), as remembered."""
        return dict(self._peers)

    def fsync_seconds(self) -> list[float]:
        """Return nothing: this disk takes no time of its own."""
        return []

    def oldest_pending_ms(self) -> float:
        """Return how long the oldest entry has been waiting for a flush; 0.0 when none does."""
        return self._now_ms() - self._queue[0][2] if self._queue else 0.0

    def flush(self) -> None:
        """Commit one batch and run its callbacks; schedule the next if more is queued."""
        self._is_scheduled = False
        self.commit()
        self.deliver()
        if self._queue and not self._is_over:
            self._ask()

    def commit(self) -> None:
        """Make the next batch durable; its callbacks wait for ``deliver`` (rule 3)."""
        if self._is_over or not self._queue:
            return
        if self._will_fail:
            self._is_over = True
            if self._on_failure is not None:
                self._on_failure(DiskFailed(f"disk of {self._disk.member}: a write failed. The node leaves"))
            return
        for _ in range(min(len(self._queue), BATCH_MAX)):
            write, on_durable, _ = self._queue.popleft()
            write(self._disk)
            self._committed.append(on_durable)

    def deliver(self) -> None:
        """Run the callbacks of what was committed, in order; also after a later batch has failed."""
        while self._committed:
            self._committed.popleft()()

    def fail(self) -> None:
        """Let the next commit fail, and with it all that follow."""
        self._will_fail = True

    def crash(self, *, batches: int = 0) -> None:
        """End this life at once: no callback runs any more, what is queued is lost.

        Args:
            batches: How many of the queued batches reach the disk all the same, unannounced.
        """
        for _ in range(batches):
            self.commit()
        self._end()

    def close(self) -> None:
        """Finish what is queued, then close; no callback runs later."""
        while self._queue and not self._is_over:
            self.commit()
        self._end()

    def _end(self) -> None:
        self._queue.clear()
        self._committed.clear()
        # Only by the life that has the lock, and once: the next life may be open already.
        if not self._has_ended:
            self._disk.is_locked = False
        self._has_ended = self._is_over = True

    def _enqueue(self, write: Write, on_durable: Durable) -> None:
        if self._is_over:
            return
        self._queue.append((write, on_durable, self._now_ms()))
        self._ask()

    def _ask(self) -> None:
        if self._schedule is not None and not self._is_scheduled:
            self._is_scheduled = True
            self._schedule(self.flush)
