"""What the storage tests share: sample records, and a queue in the place of the event loop."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from leaderlease.errors import StorageError
from leaderlease.paxos.acceptor import Record
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.paxos.membership import Configuration, first_configuration
from leaderlease.storage.sqlite import SqliteStorage, open_storage

CLUSTER = "c0c0c0c0-0000-4000-8000-000000000001"
OTHER_CLUSTER = "c0c0c0c0-0000-4000-8000-000000000002"
MEMBERS = [f"aaaaaaaa-0000-4000-8000-00000000000{digit}" for digit in range(3)]
PATIENCE_SECONDS = 60.0
"""Only so that a lost callback ends a test; nothing is measured by it."""


def record(key: str, counter: int) -> Record:
    """Return a register that a holder has, as an acceptor stores it."""
    ballot = Ballot(counter, MEMBERS[0], 1)
    holder = Holder(f"pod-{counter}", "", f"{counter:032x}")
    return Record(key, ballot, ballot, Value(counter, holder, 3000, 0, 1_700_000_000_000 + counter))


def configuration(cluster: str = CLUSTER) -> Configuration:
    """Return epoch 1 of three members."""
    return first_configuration(cluster, {uuid: (f"node-{uuid[-1]}", "127.0.0.1:1") for uuid in MEMBERS})


class Owner:
    """Stands for the thread and the loop that own a storage: runs closures when told to."""

    def __init__(self) -> None:
        self.closures: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.failures: list[StorageError] = []

    def open(self, directory: Path, expected_cluster: str | None = None) -> SqliteStorage:
        """Open the directory; its callbacks wait for ``until``."""
        return open_storage(directory, self.closures.put, self.failures.append, expected_cluster=expected_cluster)

    def until(self, condition: Callable[[], object]) -> None:
        """Run closures in order until the condition holds."""
        while not condition():
            self.closures.get(timeout=PATIENCE_SECONDS)()

    def run_rest(self) -> None:
        """Run what is waiting now."""
        while not self.closures.empty():
            self.closures.get()()

    def store(self, storage: SqliteStorage, *records: Record) -> None:
        """Make each record durable in a batch of its own."""
        for one in records:
            done: list[str] = []
            storage.append(one, lambda done=done, key=one.key: done.append(key))
            self.until(lambda done=done: done)
