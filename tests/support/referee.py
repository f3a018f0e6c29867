"""The referee: watches the core from outside and refuses what must never happen (testing, "what is checked").

It knows true time and every disk. It is told of each durable record, each answer and each grant; it never
looks into an acceptor, so no mistake of the core can hide in what the core says about itself.
"""

from typing import Any, NamedTuple

from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import RHO_PPM_DEFAULT, Value, digest, validity_ms
from leaderlease.paxos.messages import Accepted, Promise
from leaderlease.paxos.quorum import Quorum


class Violation(AssertionError):
    """Something happened that the protocol excludes."""


class Belief(NamedTuple):
    """Until when, in true time, a nonce believes that it holds a register."""

    nonce: str
    term: int
    until_ms: float


class Referee:
    """Agreement, promise, durability, belief and tokens, for all registers.

    Args:
        quorum: Whose majorities choose. Counted here by sets and sizes alone, not by ``Quorum`` itself.
    """

    def __init__(self, quorum: Quorum) -> None:
        self.groups = quorum.groups
        self.rho_ppm = RHO_PPM_DEFAULT
        self.values: dict[tuple[str, Ballot], bytes] = {}
        self.accepted_by: dict[tuple[str, Ballot], set[str]] = {}
        self.chosen: dict[tuple[str, int], str] = {}
        self.promised: dict[tuple[str, str], Ballot] = {}
        self.beliefs: dict[str, Belief] = {}
        self.terms: dict[str, int] = {}

    def is_majority(self, members: set[str]) -> bool:
        """Tell whether these members are more than half of every group."""
        return all(2 * len(group & members) > len(group) for group in self.groups)

    def durable(self, member: str, record: Record | Ceiling) -> None:
        """A record reached a disk. Agreement: one value for a ballot; one holder for a (register, term)."""
        if isinstance(record, Ceiling) or record.value is None:
            return
        key = (record.key, record.accepted)
        if record.accepted < self.promised.get((member, record.key), ZERO) and member not in self.accepted_by.get(
            key, ()
        ):
            raise Violation(f"promise: {member} accepted {record.accepted} below what it had promised")
        if self.values.setdefault(key, digest(record.value)) != digest(record.value):
            raise Violation(f"agreement: two values under ballot {record.accepted}")
        members = self.accepted_by.setdefault(key, set())
        members.add(member)
        if self.is_majority(members) and record.value.holder is not None:
            first = self.chosen.setdefault((record.key, record.value.term), record.value.nonce)
            if first != record.value.nonce:
                raise Violation(f"agreement: two holders chosen for term {record.value.term}")

    def answered(self, member: str, reply: Any, disk: Any) -> None:
        """An acceptor answered. Durability: what the answer rests on is on its disk already."""
        if isinstance(reply, Promise):
            record = disk.records.get(reply.key)
            if disk.ceiling < reply.ballot.counter and (record is None or record.promised < reply.ballot):
                raise Violation(f"durability: {member} promised {reply.ballot} without a record")
            before = self.promised.get((member, reply.key), ZERO)
            self.promised[member, reply.key] = max(before, reply.ballot)
        elif isinstance(reply, Accepted):
            record = disk.records.get(reply.key)
            if record is None or record.accepted < reply.ballot:
                raise Violation(f"durability: {member} accepted {reply.ballot} without a record")

    def is_really_chosen(self, key: str, ballot: Ballot, value: Value) -> None:
        """A proposer says that this was chosen. Honesty: a majority did accept exactly this."""
        members = self.accepted_by.get((key, ballot), set())
        if not self.is_majority(members) or self.values[key, ballot] != digest(value):
            raise Violation(f"honesty: {ballot} was reported as chosen, but {sorted(members)} accepted it")

    def believe(self, nonce: str, key: str, value: Value, sent_ms: float, now_ms: float, rate: float) -> bool:
        """A holder takes a grant. Belief: nobody else believes now. Tokens: another holder's term is higher.

        Args:
            sent_ms: True time before the holder sent this attempt.
            now_ms: True time at which the answer reached it.
            rate: Of the holder's clock, against true time.

        Returns: False if the answer came too late to be believed (R6).
        """
        until_ms = sent_ms + validity_ms(value.duration_ms, self.rho_ppm) / rate
        if until_ms <= now_ms:
            return False
        before = self.beliefs.get(key)
        if before is not None and before.nonce != nonce:
            if before.until_ms > now_ms:
                raise Violation(f"belief: {nonce} and {before.nonce} both believe at {now_ms}")
            if value.term <= self.terms[key]:
                raise Violation(f"tokens: term {value.term} after {self.terms[key]}")
        if value.term < self.terms.get(key, 0):
            raise Violation(f"tokens: term {value.term} after {self.terms[key]}")
        if before is not None and before.nonce == nonce:
            until_ms = max(until_ms, before.until_ms)
        self.beliefs[key] = Belief(nonce, value.term, until_ms)
        self.terms[key] = value.term
        return True

    def let_go(self, nonce: str, key: str) -> None:
        """A holder stopped believing by itself."""
        before = self.beliefs.get(key)
        if before is not None and before.nonce == nonce:
            self.beliefs[key] = before._replace(until_ms=float("-inf"))
