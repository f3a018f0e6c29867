"""The twin of the disk: what only a simulator asks of it."""

from collections.abc import Callable

import pytest

from leaderlease.storage.memory import BATCH_MAX, MemoryDisk, MemoryStorage
from support.disks import MEMBERS, record


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(MEMBERS[0])


def test_crash_loses_what_was_not_flushed(disk: MemoryDisk) -> None:
    """No record, no callback, and the next life may open at once."""
    storage = MemoryStorage(disk)
    storage.append(record("l/a", 1), lambda: pytest.fail("announced"))
    storage.crash()
    storage.flush()
    assert MemoryStorage(disk).load().records == ()


def test_crash_between_commit_and_announcement(disk: MemoryDisk) -> None:
    """Durable, and nobody was told: both ways there."""
    first = MemoryStorage(disk)
    first.append(record("l/a", 1), lambda: pytest.fail("announced"))
    first.commit()
    first.crash()
    first.deliver()
    second = MemoryStorage(disk)
    second.append(record("l/b", 2), lambda: pytest.fail("announced"))
    second.crash(batches=1)
    assert MemoryStorage(disk).load().records == (record("l/a", 1), record("l/b", 2))


def test_crash_respects_batches(disk: MemoryDisk) -> None:
    """Rule 2: all of a batch or nothing of it."""
    storage = MemoryStorage(disk)
    for number in range(2 * BATCH_MAX):
        storage.append(record(f"l/{number:05}", 1), lambda: None)
    storage.crash(batches=1)
    assert len(MemoryStorage(disk).load().records) == BATCH_MAX


def test_dead_life_does_not_unlock_the_next_one(disk: MemoryDisk) -> None:
    """A late close of a crashed life must not let a third one in."""
    first = MemoryStorage(disk)
    first.crash()
    MemoryStorage(disk)
    first.close()
    assert disk.is_locked


def test_announced_batch_before_a_failed_one_still_arrives(disk: MemoryDisk) -> None:
    """A failure takes back nothing that is durable."""
    failures: list[Exception] = []
    done: list[str] = []
    storage = MemoryStorage(disk, None, failures.append)
    storage.append(record("l/a", 1), lambda: done.append("a"))
    storage.commit()
    storage.fail()
    storage.append(record("l/b", 1), lambda: done.append("b"))
    storage.commit()
    storage.deliver()
    assert (done, len(failures)) == (["a"], 1)


def test_flush_is_scheduled_once_per_batch(disk: MemoryDisk) -> None:
    """The simulator decides when; what is appended by a callback gets a flush of its own."""
    planned: list[Callable[[], None]] = []
    done: list[str] = []
    storage = MemoryStorage(disk, planned.append)
    storage.append(record("l/a", 1), lambda: storage.append(record("l/c", 1), lambda: done.append("c")))
    storage.append(record("l/b", 1), lambda: done.append("b"))
    assert len(planned) == 1
    planned.pop()()
    assert (done, len(planned)) == (["b"], 1)
    planned.pop()()
    assert (done, len(planned)) == (["b", "c"], 0)


def test_stalled_disk_shows_its_age() -> None:
    """H26: by the clock that was given, since the oldest entry was queued."""
    now_ms = [100.0]
    storage = MemoryStorage(MemoryDisk(MEMBERS[0]), now_ms=lambda: now_ms[0])
    storage.append(record("l/a", 1), lambda: None)
    now_ms[0] = 350.0
    storage.append(record("l/b", 1), lambda: None)
    assert storage.oldest_pending_ms() == 250.0
    storage.flush()
    assert storage.oldest_pending_ms() == 0.0


def test_copied_disk_is_another_disk(disk: MemoryDisk) -> None:
    """H24: a clone has the same member and goes its own way."""
    clone = disk.copy()
    storage = MemoryStorage(disk)
    storage.append(record("l/a", 1), lambda: None)
    storage.flush()
    twin = MemoryStorage(clone)
    assert twin.load().records == ()
    assert (twin.identity.member, twin.identity.life) == (disk.member, disk.life)
