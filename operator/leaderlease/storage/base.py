"""What durable means, for every storage (protocol, section 7; R4, R8, R9).

Rule 1: ``append`` takes records in order and makes a batch of them durable at once; the callbacks of a batch run in
        order, after all of it is durable, in the thread that owns the node. A failed batch runs none of them.
Rule 2: after a failure nothing is written any more: ``on_failure`` runs once, and the process leaves (R9).
Rule 3: opening a formatted directory raises the incarnation and makes it durable before it returns (R3).
Rule 4: a record comes back exactly as it was appended, or opening fails: never "what is readable".
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.membership import Configuration

FORMAT = 1
"""Of what is written to disk; a newer one is refused."""


class Identity(msgspec.Struct, frozen=True):
    """Whose disk this is.

    Attributes:
        cluster: uuid; empty until the bootstrap.
        member: uuid, minted when the disk was formatted.
        incarnation: Which life of the member this is, from 1.
        boot_nonce: Drawn at every opening.
    """

    cluster: str
    member: str
    incarnation: int
    boot_nonce: str


class Loaded(msgspec.Struct, frozen=True):
    """All that was durable when the storage was opened."""

    records: tuple[Record, ...]
    ceiling: int
    configuration: Configuration | None


Durable = Callable[[], None]


class Storage(Protocol):
    """One member's disk."""

    identity: Identity

    def load(self) -> Loaded:
        """Return everything that is durable.

        Raises:
            CorruptRecord: A checksum does not hold.
        """

    def append(self, record: Record | Ceiling, on_durable: Durable) -> None:
        """Queue one record; ``on_durable`` runs when its batch is durable (rule 1). Never blocks."""

    def configure(self, configuration: Configuration, on_durable: Durable) -> None:
        """Make the configuration, and with it the cluster, durable."""

    def remember_peer(self, member: str, incarnation: int, boot_nonce: str, on_durable: Durable) -> None:
        """Remember a peer's latest life, to recognise a rolled-back or cloned disk (H24)."""

    def peers(self) -> dict[str, tuple[int, str]]:
        """Return member uuid -> (incarnation, boot nonce), as remembered."""

    def fsync_seconds(self) -> list[float]:
        """Return and forget the durations of the latest commits, in seconds; at most some thousands."""

    def oldest_pending_ms(self) -> float:
        """Return how long the oldest batch has been waiting for the disk; 0.0 when none does (H26)."""

    def close(self) -> None:
        """Finish what is queued, then close; no callback runs later."""
