"""The deterministic twin of the disk, for tests and the simulator.

Rule 1: ``MemoryDisk`` is what survives; ``MemoryStorage`` is one life on it. Nothing happens by itself: no thread, no
        clock, no randomness.
Rule 2: a batch is as atomic as in ``sqlite``: after a crash all of it is there or nothing.
Rule 3: ``commit`` and ``deliver`` are apart, because a process may die between them: durable, and nobody told.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from leaderlease.errors import DiskFailed, StorageError, WrongDirectory, invariant
from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.membership import Configuration
from leaderlease.storage.base import Durable, Identity, Life, Loaded

BATCH_MAX: Final = 1023
"""Entries in one batch, as in ``writer``."""

Schedule = Callable[[Callable[[], None]], None]
Body = Record | Ceiling | Configuration | Life


class MemoryDisk:
    """What is durable. Copy it to clone a disk or to roll one back (H24).

    Args:
        member: uuid; minted by whoever formats a real disk.
    """

    def __init__(self, member: str) -> None:
        self.member = member
        self.life = Life(0, "")
        self.records: dict[str, Record] = {}
        self.ceiling = 0
        self.configuration: Configuration | None = None
        self.peers: dict[str, Life] = {}
        self.is_locked = False

    def copy(self) -> "MemoryDisk":
        """Return this disk as it is now, unlocked."""
        twin = type(self)(self.member)
        twin.life = self.life
        twin.records, twin.peers = dict(self.records), dict(self.peers)
        twin.ceiling, twin.configuration = self.ceiling, self.configuration
        return twin

    def read(self) -> Loaded:
        """Return everything that is durable, by key."""
        records = tuple(self.records[key] for key in sorted(self.records))
        return Loaded(records, self.ceiling, self.configuration)

    def begin(self, boot_nonce: str) -> None:
        """Begin the next life, durably; an empty nonce is made from member and incarnation."""
        self.life = self.life.next(boot_nonce or f"{self.member}/{self.life.incarnation + 1}")

    def write(self, batch: Sequence[tuple[str, Body]]) -> None:
        """Take one transaction of keys and bodies, whole."""
        for key, body in batch:
            match body:
                case Record():
                    self.records[key] = body
                case Ceiling():
                    self.ceiling = body.counter
                case Configuration():
                    self.configuration = body
                case Life():
                    self.peers[key] = body


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
        disk.begin(boot_nonce)
        cluster = disk.configuration.cluster if disk.configuration is not None else ""
        self.identity = Identity(cluster, disk.member, disk.life)
        self._disk = disk
        self._schedule = schedule
        self._on_failure = on_failure
        self._now_ms = now_ms
        self._queue: deque[tuple[str, Body, Durable, float]] = deque()
        self._committed: deque[Durable] = deque()
        self._peers = dict(disk.peers)
        self._is_scheduled = False
        self._will_fail = self._will_stick = False
        self._is_over = self._has_ended = False

    def load(self) -> Loaded:
        """Return everything that is durable."""
        return self._disk.read()

    def append(self, record: Record | Ceiling, on_durable: Durable) -> None:
        """Queue one record; ``on_durable`` runs when its batch is flushed."""
        self._enqueue(record.key if type(record) is Record else "", record, on_durable)

    def configure(self, configuration: Configuration, on_durable: Durable) -> None:
        """Make the configuration, and with it the cluster, durable."""
        mine = self.identity
        invariant(
            mine.cluster in ("", configuration.cluster),
            f"member {mine.member} of cluster {mine.cluster} was given a configuration of {configuration.cluster}",
        )

        def _durable() -> None:
            self.identity = Identity(configuration.cluster, mine.member, mine.life)
            on_durable()

        self._enqueue("", configuration, _durable)

    def remember_peer(self, member: str, life: Life, on_durable: Durable) -> None:
        """Remember a peer's latest life."""

        def _durable() -> None:
            self._peers[member] = life
            on_durable()

        self._enqueue(member, life, _durable)

    def peers(self) -> dict[str, Life]:
        """Return member uuid -> its latest life, as remembered."""
        return dict(self._peers)

    def fsync_seconds(self) -> list[float]:
        """Return nothing: this disk takes no time of its own."""
        return []

    def oldest_pending_ms(self) -> float:
        """Return how long the oldest entry has been waiting for a flush; 0.0 when none does."""
        return self._now_ms() - self._queue[0][3] if self._queue else 0.0

    def flush(self) -> None:
        """Commit one batch and run its callbacks; schedule the next if more is queued."""
        self._is_scheduled = False
        self.commit()
        self.deliver()
        if self._queue and not self._is_over:
            self._ask()

    def commit(self, entries: int = BATCH_MAX) -> None:
        """Make the next batch, of this many entries at most, durable; its callbacks wait for ``deliver`` (rule 3)."""
        if self._is_over or not self._queue:
            return
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), entries, BATCH_MAX))]
        if not self._will_fail or self._will_stick:
            self._disk.write([(key, body) for key, body, _, _ in batch])
        if not self._will_fail:
            self._committed.extend(on_durable for _, _, on_durable, _ in batch)
            return
        self._is_over = True
        if self._on_failure is not None:
            self._on_failure(DiskFailed(f"disk of {self._disk.member}: a write failed. The node leaves"))

    def deliver(self) -> None:
        """Run the callbacks of what was committed, in order; also after a later batch has failed."""
        while self._committed:
            self._committed.popleft()()

    def fail(self, *, sticks: bool = False) -> None:
        """Let the next commit fail, and with it all that follow.

        Args:
            sticks: What it writes is on the disk all the same: after a failed fsync it may be.
        """
        self._will_fail, self._will_stick = True, sticks

    def crash(self, *, batches: int = 0, entries: int = BATCH_MAX) -> None:
        """End this life at once: no callback runs any more, what is queued is lost.

        Args:
            batches: How many of the queued batches reach the disk all the same, unannounced.
            entries: Size of such a batch at most.
        """
        for _ in range(batches):
            self.commit(entries)
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

    def _enqueue(self, key: str, body: Body, on_durable: Durable) -> None:
        if self._is_over:
            return
        self._queue.append((key, body, on_durable, self._now_ms()))
        self._ask()

    def _ask(self) -> None:
        if self._schedule is not None and not self._is_scheduled:
            self._is_scheduled = True
            self._schedule(self.flush)
