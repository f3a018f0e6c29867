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
LIVES_MAX = 16
"""Starts before this one of which a disk keeps the boot nonce."""


class Life(msgspec.Struct, frozen=True, array_like=True):
    """A member from one start to the next, and which lives led to it (H24).

    Attributes:
        incarnation: Counts the starts, from 1; 0 is a disk that was only formatted.
        boot_nonce: Drawn at this start.
        earlier: Boot nonces of the starts before, the latest first; at most ``LIVES_MAX``.
    """

    incarnation: int
    boot_nonce: str
    earlier: tuple[str, ...] = ()

    def next(self, boot_nonce: str) -> "Life":
        """Return the life that begins when this disk is opened again."""
        earlier = (self.boot_nonce, *self.earlier)[:LIVES_MAX] if self.incarnation else ()
        return Life(self.incarnation + 1, boot_nonce, earlier)

    def contradicts(self, other: "Life") -> bool:
        """Tell whether these cannot both be lives of one disk that never went back in time.

        The later one names the boot nonce of the earlier one, or began too many starts after it to know.
        """
        older, newer = sorted((self, other), key=lambda life: life.incarnation)
        nonces = (newer.boot_nonce, *newer.earlier)
        starts = newer.incarnation - older.incarnation
        return starts < len(nonces) and nonces[starts] != older.boot_nonce


class Identity(msgspec.Struct, frozen=True):
    """Whose disk this is.

    Attributes:
        cluster: uuid; empty until the bootstrap.
        member: uuid, minted when the disk was formatted.
        life: Which life of the member this is.
    """

    cluster: str
    member: str
    life: Life


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

    def remember_peer(self, member: str, life: Life, on_durable: Durable) -> None:
        """Remember a peer's latest life, to recognise a rolled-back or cloned disk (H24)."""

    def peers(self) -> dict[str, Life]:
        """Return member uuid -> its latest life, as remembered."""

    def fsync_seconds(self) -> list[float]:
        """Return and forget the durations of the latest commits, in seconds; at most some thousands."""

    def oldest_pending_ms(self) -> float:
        """Return how long the oldest batch has been waiting for the disk; 0.0 when none does (H26)."""

    def close(self) -> None:
        """Finish what is queued, then close; no callback runs later."""
