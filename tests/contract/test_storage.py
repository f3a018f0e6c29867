"""What every storage promises (``storage/base.py``), asked of the one in production and of its twin."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leaderlease.errors import InvariantViolated, StorageError, WrongDirectory
from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value
from leaderlease.storage.base import LIVES_MAX, Life, Storage
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from support.disks import CLUSTER, MEMBERS, OTHER_CLUSTER, Owner, configuration, record


class Bench:
    """One disk, and how to open it, run it and break it."""

    failures: list[StorageError]

    def open(self) -> Storage:
        raise NotImplementedError

    def until(self, condition: Callable[[], object]) -> None:
        """Let the disk work and the owner run until the condition holds."""
        raise NotImplementedError

    def run_rest(self) -> None:
        """Run what the owner was told already."""
        raise NotImplementedError

    def fail(self, storage: Storage) -> None:
        """Let every later write fail."""
        raise NotImplementedError


class SqliteBench(Bench):
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._owner = Owner()
        self.failures = self._owner.failures
        self.opened: list[Storage] = []

    def open(self) -> Storage:
        self.opened.append(self._owner.open(self._directory))
        return self.opened[-1]

    def until(self, condition: Callable[[], object]) -> None:
        self._owner.until(condition)

    def run_rest(self) -> None:
        self._owner.run_rest()

    def fail(self, storage: Storage) -> None:
        storage._connection.execute("PRAGMA query_only=ON")


class MemoryBench(Bench):
    def __init__(self) -> None:
        self._disk = MemoryDisk(MEMBERS[0])
        self.failures = []
        self.opened: list[Storage] = []

    def open(self) -> Storage:
        self.opened.append(MemoryStorage(self._disk, None, self.failures.append))
        return self.opened[-1]

    def until(self, condition: Callable[[], object]) -> None:
        for _ in range(100):
            if condition():
                return
            for storage in self.opened:
                storage.flush()
        pytest.fail("the condition never holds")

    def run_rest(self) -> None:
        for storage in self.opened:
            storage.deliver()

    def fail(self, storage: Storage) -> None:
        storage.fail()


@pytest.fixture(params=["sqlite", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = SqliteBench(tmp_path / "data") if request.param == "sqlite" else MemoryBench()
    yield made
    for storage in made.opened:
        storage.close()


def _reopen(bench: Bench, storage: Storage) -> Storage:
    storage.close()
    return bench.open()


def test_new_disk_is_blank_and_has_a_member(bench: Bench) -> None:
    """Rule 3: a formatted disk has a member uuid, its first incarnation, and nothing promised."""
    storage = bench.open()
    assert storage.identity.member
    assert storage.identity.life.boot_nonce
    assert (storage.identity.cluster, storage.identity.life.incarnation) == ("", 1)
    loaded = storage.load()
    assert (loaded.records, loaded.ceiling, loaded.configuration) == ((), 0, None)
    assert storage.peers() == {}


def test_every_opening_is_a_new_life_of_the_same_member(bench: Bench) -> None:
    """R3, H12, H24: the incarnation rises at each opening, the nonce is fresh, the earlier ones and the member stay."""
    storage = bench.open()
    identities = [storage.identity]
    for _ in range(LIVES_MAX + 2):
        storage = _reopen(bench, storage)
        identities.append(storage.identity)
    lives = [identity.life for identity in identities]
    nonces = [life.boot_nonce for life in lives]
    assert [life.incarnation for life in lives] == list(range(1, LIVES_MAX + 4))
    assert len(set(nonces)) == LIVES_MAX + 3
    assert [life.earlier for life in lives[:3]] == [(), (nonces[0],), (nonces[1], nonces[0])]
    assert lives[-1].earlier == tuple(reversed(nonces[2:-1]))
    assert len({identity.member for identity in identities}) == 1


def test_callbacks_run_in_order_and_never_inside_append(bench: Bench) -> None:
    """Rule 1: a callback means durable, so it cannot run before append returns; order is kept over batches."""
    storage = bench.open()
    done: list[int] = []
    for number in range(3000):
        storage.append(record(f"l/{number % 7}", number + 1), lambda number=number: done.append(number))
    assert done == []
    bench.until(lambda: len(done) == 3000)
    assert done == list(range(3000))


def test_what_was_announced_is_durable(bench: Bench) -> None:
    """Rule 1: once the callback ran, load returns the record, in this life and in the next."""
    storage = bench.open()
    done: list[int] = []
    storage.append(record("l/a", 1), lambda: done.append(1))
    bench.until(lambda: done)
    assert storage.load().records == (record("l/a", 1),)
    assert _reopen(bench, storage).load().records == (record("l/a", 1),)


@pytest.mark.parametrize(
    "sample",
    [
        record("l/default/web", 7),
        Record("l/promised-only", Ballot(2**63 - 1, MEMBERS[1], 2**40), ZERO, None),
        Record("l/ünï \0 'quoted\"", Ballot(1, MEMBERS[0], 1), ZERO, None),
        Record("m/body", Ballot(3, MEMBERS[0], 1), Ballot(2, MEMBERS[0], 1), Value(2, body=b"\0\xff" * 5000)),
        Record("l/never", Ballot(4, MEMBERS[0], 1), Ballot(4, MEMBERS[0], 1), Value(1, duration_ms=None)),
    ],
    ids=lambda sample: sample.key.split()[0],
)
def test_record_comes_back_as_it_was(bench: Bench, sample: Record) -> None:
    """Rule 4: equal in every field, whatever is in it."""
    storage = bench.open()
    storage.append(sample, lambda: None)
    assert _reopen(bench, storage).load().records == (sample,)


def test_later_record_of_a_register_replaces_the_earlier(bench: Bench) -> None:
    """Order: within one batch and over batches the last one stays."""
    storage = bench.open()
    for counter in range(1, 6):
        storage.append(record("l/a", counter), lambda: None)
    storage.append(Ceiling(100), lambda: None)
    storage.append(Ceiling(200), lambda: None)
    storage = _reopen(bench, storage)
    storage.append(record("l/a", 9), lambda: None)
    loaded = _reopen(bench, storage).load()
    assert loaded.records == (record("l/a", 9),)
    assert loaded.ceiling == 200


def test_many_records_come_back(bench: Bench) -> None:
    """More than one batch, each exactly as appended."""
    storage = bench.open()
    samples = [record(f"l/{number:05}", number + 1) for number in range(2500)]
    for sample in samples:
        storage.append(sample, lambda: None)
    loaded = _reopen(bench, storage).load()
    assert {one.key: one for one in loaded.records} == {one.key: one for one in samples}


def test_configuration_names_the_cluster(bench: Bench) -> None:
    """The identity has its cluster as soon as that is durable, and keeps it."""
    storage = bench.open()
    done: list[str] = []
    storage.configure(configuration(), lambda: done.append(storage.identity.cluster))
    assert storage.identity.cluster == ""
    bench.until(lambda: done)
    assert done == [CLUSTER]
    storage = _reopen(bench, storage)
    assert storage.identity.cluster == CLUSTER
    assert storage.load().configuration == configuration()


def test_member_never_changes_its_cluster(bench: Bench) -> None:
    """A configuration of another cluster is proof of a bug."""
    storage = bench.open()
    done: list[int] = []
    storage.configure(configuration(), lambda: done.append(1))
    bench.until(lambda: done)
    with pytest.raises(InvariantViolated, match=OTHER_CLUSTER):
        storage.configure(configuration(OTHER_CLUSTER), lambda: None)


def test_peers_are_remembered(bench: Bench) -> None:
    """H24: the latest life of every peer, over a restart; not before it is durable."""
    storage = bench.open()
    done: list[int] = []
    storage.remember_peer(MEMBERS[1], Life(3, "x"), lambda: done.append(1))
    storage.remember_peer(MEMBERS[2], Life(1, "y"), lambda: done.append(2))
    storage.remember_peer(MEMBERS[1], Life(4, "z", ("x",)), lambda: done.append(3))
    assert storage.peers() == {}
    bench.until(lambda: len(done) == 3)
    expected = {MEMBERS[1]: Life(4, "z", ("x",)), MEMBERS[2]: Life(1, "y")}
    assert storage.peers() == expected
    assert _reopen(bench, storage).peers() == expected


def test_failed_batch_is_never_announced(bench: Bench) -> None:
    """R9, H26, H27: callbacks of the failed batch and of all later ones never run; the owner hears once."""
    storage = bench.open()
    done: list[str] = []
    storage.append(record("l/before", 1), lambda: done.append("before"))
    bench.until(lambda: done)
    bench.fail(storage)
    storage.append(record("l/failed", 2), lambda: done.append("failed"))
    bench.until(lambda: bench.failures)
    storage.append(record("l/after", 3), lambda: done.append("after"))
    storage.configure(configuration(), lambda: done.append("configured"))
    storage.close()
    bench.run_rest()
    assert done == ["before"]
    assert len(bench.failures) == 1
    assert isinstance(bench.failures[0], StorageError)


def test_nothing_is_written_after_a_failure(bench: Bench) -> None:
    """Rule 2: the next life finds what was announced before, and nothing that came after."""
    storage = bench.open()
    done: list[int] = []
    storage.append(record("l/before", 1), lambda: done.append(1))
    bench.until(lambda: done)
    bench.fail(storage)
    storage.append(record("l/failed", 2), lambda: None)
    bench.until(lambda: bench.failures)
    storage.append(record("l/after", 3), lambda: None)
    keys = {one.key for one in _reopen(bench, storage).load().records}
    assert "l/before" in keys
    assert "l/after" not in keys


def test_close_finishes_what_is_queued_and_runs_no_callback_later(bench: Bench) -> None:
    """What was appended before close is durable; the owner is not called back by a closed storage."""
    storage = bench.open()
    done: list[int] = []
    storage.append(record("l/a", 1), lambda: done.append(1))
    storage.close()
    storage.close()
    bench.run_rest()
    assert done == []
    storage.append(record("l/late", 2), lambda: done.append(2))
    assert bench.open().load().records == (record("l/a", 1),)


def test_one_life_at_a_time(bench: Bench) -> None:
    """A disk that is in use is refused, and free again after close."""
    storage = bench.open()
    with pytest.raises(WrongDirectory, match="locked by another process"):
        bench.open()
    assert _reopen(bench, storage).identity.life.incarnation == 2


def test_nothing_pending_means_zero(bench: Bench) -> None:
    """H26: the age of the oldest batch is 0.0 as soon as nothing waits; durations are handed out once."""
    storage = bench.open()
    assert storage.oldest_pending_ms() == 0.0
    done: list[int] = []
    storage.append(record("l/a", 1), lambda: done.append(1))
    bench.until(lambda: done)
    storage.close()
    assert storage.oldest_pending_ms() == 0.0
    assert all(seconds >= 0 for seconds in storage.fsync_seconds())
    assert storage.fsync_seconds() == []
