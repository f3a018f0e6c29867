"""A look at a data directory whose node is stopped, for ``leaderlease`` on the command line.

Rule 1: nothing is written and the incarnation stays; also a read-only copy can be inspected.
Rule 2: damage is reported and never repaired; what is shown beside it may be incomplete.
"""

from pathlib import Path

import msgspec

from leaderlease.paxos.acceptor import Record
from leaderlease.paxos.membership import Configuration
from leaderlease.storage.base import FORMAT, Identity, Life
from leaderlease.storage.directory import DirectoryLock, read_image


class Inspection(msgspec.Struct, frozen=True):
    """What a data directory holds.

    Attributes:
        directory: Where.
        format: Of the data.
        identity: None if it cannot be read.
        configuration: None before the bootstrap.
        ceiling: Every ballot up to this counter counts as promised.
        registers: In order of their keys.
        peers: Member uuid -> its latest life, as seen.
        checked: Rows whose checksum was compared.
        problems: One sentence each; empty if the data is whole.
    """

    directory: str
    format: int
    identity: Identity | None
    configuration: Configuration | None
    ceiling: int
    registers: tuple[Record, ...]
    peers: dict[str, Life]
    checked: int
    problems: tuple[str, ...]

    @property
    def epoch(self) -> int:
        """Number of the configuration; 0 before the bootstrap."""
        return self.configuration.epoch if self.configuration is not None else 0


def inspect(directory: Path) -> Inspection:
    """Read and check a data directory.

    Raises:
        WrongDirectory: It holds no data, a newer format, or a running node has it.
        CorruptRecord: Too damaged to show anything.
        StorageError: It cannot be read.
    """
    lock = DirectoryLock(directory, is_required=False)
    try:
        contents = read_image(directory)
    finally:
        lock.release()
    return Inspection(
        str(directory),
        FORMAT,
        contents.identity if contents.mine is not None else None,
        contents.configuration,
        contents.ceiling,
        tuple(contents.records),
        contents.peers,
        contents.checked,
        tuple(contents.problems),
    )
