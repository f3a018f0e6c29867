"""Quorum reads: ask all, and say "chosen" only where a majority reports the same (ballot, value) (H21)."""

from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from leaderlease.node.driver import Driver
from leaderlease.node.ports import Timer
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Claim, Peek, Peeked
from leaderlease.paxos.quorum import Quorum, majority

READ_TIMEOUT_MS: Final = 300
"""After this, what has been answered must do."""


class ReadState(Enum):
    """What a quorum read found."""

    CHOSEN = "chosen"
    IN_TRANSITION = "in transition"
    UNAVAILABLE = "unavailable"


class Reading(msgspec.Struct, frozen=True):
    """Result of a quorum read.

    Attributes:
        value: The chosen value, None if nothing was ever; else the highest one that was reported.
        is_vacant: A majority would let another holder in now.
        remaining_ms: Until it would; None is never.
        answered: Members that did.
        claims: Who waits where, of a lease that prefers some.
    """

    state: ReadState
    ballot: Ballot
    value: Value | None
    is_vacant: bool
    remaining_ms: int | None
    answered: frozenset[str]
    claims: tuple[tuple[str, Claim], ...] = ()

    @property
    def waiting(self) -> list[Claim]:
        """Who waits, at any member that answered."""
        return [claim for _, claim in self.claims]

    def waiting_elsewhere(self, member: str) -> list[Claim]:
        """Return who waits at other members than this."""
        return [claim for at, claim in self.claims if at != member]


OnRead = Callable[[Reading], object]


class Read:
    """One read under way."""

    __slots__ = ("answers", "is_complete", "key", "on_read", "timer")

    def __init__(self, key: str, on_read: OnRead, is_complete: bool) -> None:
        self.key = key
        self.on_read = on_read
        self.is_complete = is_complete
        self.answers: dict[str, Peeked] = {}
        self.timer: Timer | None = None


class Reads:
    """All quorum reads of one node."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._reads: dict[int, Read] = {}
        # No answer to an earlier life of this node can name a read of this one.
        self._next = driver.proposer.incarnation << 40
        driver.route(Peeked, self._on_peeked)

    def read(self, key: str, on_read: OnRead, *, is_complete: bool = False) -> None:
        """Read a register from a majority, or with ``is_complete`` from all that answer; never writes or arms."""
        self._next += 1
        number, driver = self._next, self._driver
        read = self._reads[number] = Read(key, on_read, is_complete)
        read.timer = driver.ports.call_later(READ_TIMEOUT_MS, lambda: self._finish(number))
        for member in driver.quorum.ordered:
            driver.send(member, Peek(driver.epoch, key, number))

    def _on_peeked(self, origin: str, message: Peeked) -> None:
        self._driver.proposer.observe(message.promised)
        read = self._reads.get(message.request)
        if read is None or read.key != message.key or origin not in self._driver.quorum.members:
            return
        read.answers[origin] = message
        is_all = read.answers.keys() >= self._driver.connected
        if is_all or (not read.is_complete and weigh(read.answers, self._driver.quorum).state is ReadState.CHOSEN):
            self._finish(message.request)

    def _finish(self, number: int) -> None:
        read = self._reads.pop(number, None)
        if read is not None:
            if read.timer is not None:
                read.timer.cancel()
            reading = weigh(read.answers, self._driver.quorum)
            claims = tuple((at, claim) for at, answer in read.answers.items() for claim in answer.waiting)
            read.on_read(msgspec.structs.replace(reading, claims=claims) if claims else reading)


def weigh(answers: dict[str, Peeked], quorum: Quorum) -> Reading:
    """Say what a set of peeks amounts to. Pure.

    Args:
        answers: Member uuid -> what it reported.
        quorum: Whose majority counts.
    """
    groups: dict[Ballot, list[str]] = {}
    best: Peeked | None = None
    for member, answer in answers.items():
        groups.setdefault(answer.accepted, []).append(member)
        if best is None or answer.accepted > best.accepted:
            best = answer
    free_in_ms = _free_in_ms(answers, quorum)
    is_vacant = free_in_ms == 0
    answered = frozenset(answers)
    if best is None or not quorum.is_met(answers.keys()):
        ballot, value = (best.accepted, best.value) if best is not None else (ZERO, None)
        return Reading(ReadState.UNAVAILABLE, ballot, value, False, None, answered)
    for ballot, members in groups.items():
        if quorum.is_met(members):
            value = answers[members[0]].value
            if all(answers[member].value == value for member in members):
                return Reading(ReadState.CHOSEN, ballot, value, is_vacant, free_in_ms, answered)
    return Reading(ReadState.IN_TRANSITION, best.accepted, best.value, is_vacant, free_in_ms, answered)


def _free_in_ms(answers: dict[str, Peeked], quorum: Quorum) -> int | None:
    """Return when a majority of the answers will have let go; None if no time ends it."""
    endless = 1 << 62
    latest = 0
    for group in quorum.groups:
        waits = sorted(_guards_ms(answers, answers[member], endless) for member in group if member in answers)
        need = majority(len(group))
        latest = max(latest, waits[need - 1] if len(waits) >= need else endless)
    return None if latest == endless else latest


def _guards_ms(answers: dict[str, Peeked], answer: Peeked, endless: int) -> int:
    """Return for how long this answer's guard stands; none does that the other answers would lift in a Prepare (R1)."""
    if answer.value is not None and any(
        other.value is not None and answer.accepted < other.accepted and other.value.nonce != answer.value.nonce
        for other in answers.values()
    ):
        return 0
    return endless if answer.remaining_ms is None else answer.remaining_ms
