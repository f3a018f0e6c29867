"""The proposer: one attempt is one ballot, from Prepare to a majority or to a reason why not.

Rule 1: a ballot is bound to one value, ever. Once an Accept was sent it can only be repeated (R3, H11).
Rule 2: answers are kept by member, and the quorum is asked about the set (R6, H34).
Rule 3: the highest-ballot value seen decides, whether it was chosen or not (R7, H13).
Rule 4: what may be accepted next is decided by ``decide``, a pure function of the intent and that value.
"""

from enum import Enum

import msgspec

from leaderlease.errors import invariant
from leaderlease.paxos.ballot import COUNTER_JUMP_MAX, ZERO, Ballot
from leaderlease.paxos.lease import Holder, Value, digest
from leaderlease.paxos.messages import Accept, Accepted, Evidence, Live, Nack, Prepare, Promise
from leaderlease.paxos.quorum import Quorum, Tally


class Acquire(msgspec.Struct, frozen=True):
    """Intent: ``holder`` wants the lease, or wants to go on holding it under a new ballot.

    Attributes:
        goes_on: The term that it holds and wants to keep; it gets no other (H18). 0 for a candidate.
    """

    holder: Holder
    duration_ms: int | None
    lock_delay_ms: int = 0
    acquired_at_ms: int = 0
    goes_on: int = 0


class Vacate(msgspec.Struct, frozen=True):
    """Intent: nobody shall hold; ``nonce`` says whose hold ends, empty means whoever's (revoke)."""

    nonce: str


class HandOver(msgspec.Struct, frozen=True):
    """Intent: ``nonce`` has let go, and ``to`` is next."""

    nonce: str
    to: Holder
    duration_ms: int | None
    lock_delay_ms: int = 0
    acquired_at_ms: int = 0


class Write(msgspec.Struct, frozen=True):
    """Intent: a new body for a register that is no lease; ``after`` is the generation it replaces, if it matters."""

    body: bytes
    after: int | None = None


Intent = Acquire | Vacate | HandOver | Write


class Decision(msgspec.Struct, frozen=True):
    """What phase 2 proposes. ``is_wanted`` is False when another's value is completed and the caller gets nothing."""

    value: Value
    is_wanted: bool


def decide(intent: Intent, seen: Value | None) -> Decision | None:
    """Choose what phase 2 may propose, from the intent and the highest-ballot value seen.

    Args:
        intent: What the caller wants.
        seen: The value of the highest ballot that any member reported, or None.

    Returns: The value to propose, or None where nothing has to be written and the intent has failed.
    Source: R7; section 4 on *never*; H13, H19.
    """
    term = seen.term if seen is not None else 0
    nonce = seen.nonce if seen is not None else ""
    match intent:
        case Acquire(holder, duration_ms, lock_delay_ms, acquired_at_ms, goes_on):
            if seen is not None and nonce == holder.nonce:
                # Its own, perhaps by a retry or through another node: the same value, the same term.
                return Decision(seen, True) if goes_on in (0, term) else None
            if seen is not None and seen.is_never:
                # Half-finished or not, a classic lock is completed for whom it names.
                return Decision(seen, False)
            if goes_on:
                # H18: its term has ended, and a nonce that believed one is dead for every other.
                return None
            return Decision(Value(term + 1, holder, duration_ms, lock_delay_ms, acquired_at_ms), True)
        case HandOver(from_nonce, to, duration_ms, lock_delay_ms, acquired_at_ms):
            if seen is not None and nonce == to.nonce:
                return Decision(seen, True)
            if seen is None or nonce != from_nonce:
                return None
            return Decision(Value(term + 1, to, duration_ms, lock_delay_ms, acquired_at_ms), True)
        case Vacate(of):
            if seen is None or seen.holder is None:
                return None
            if of and nonce != of:
                return Decision(seen, False) if seen.is_never else None
            return Decision(Value(term, None, seen.duration_ms, 0, 0), True)
        case Write(body, after):
            if after is not None and after != term:
                return Decision(seen, False) if seen is not None else None
            return Decision(Value(term + 1, None, None, 0, 0, body), True)


class Outcome(Enum):
    """How an attempt ended."""

    CHOSEN = "chosen"
    COMPLETED = "completed"
    """A majority accepted, but another's value: the highest one seen had to be respected."""
    LIVE = "live"
    """Too many guards stand: somebody holds."""
    PREEMPTED = "preempted"
    """A higher ballot was promised; ``Attempt.preempted_by`` says which."""
    FAILED = "failed"
    """Phase 1 succeeded and the value seen forbids the intent."""

    @property
    def is_chosen(self) -> bool:
        """Tell whether a majority accepted a value under this ballot."""
        return self in (Outcome.CHOSEN, Outcome.COMPLETED)


class Phase(Enum):
    """Where an attempt stands."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    ACCEPTING = "accepting"
    DONE = "done"


Send = tuple[str, Prepare | Accept]


class Attempt:
    """One ballot of one register. Feed it replies; it returns what to send, and ``outcome`` says how it ended.

    Args:
        key: The register.
        ballot: Fresh, and used by this attempt alone.
        epoch: Of the configuration that ``quorum`` belongs to.
        quorum: Whose promises and acceptances count.
        nonce: For whom; empty when a vacancy is prepared in advance.
        intent: None to stop after phase 1 and wait for ``propose``: phase 1 in advance.
        awaited: Who can be asked: guards that no time ends refuse this attempt only when all of these have answered.
    """

    __slots__ = (
        "accepted", "awaited", "ballot", "decision", "digest", "epoch", "intent", "is_repeat", "key", "lives", "nacks",
        "nonce", "outcome", "phase", "preempted_by", "promises", "quorum", "reported", "resent", "unmoved",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        ballot: Ballot,
        epoch: int,
        quorum: Quorum,
        nonce: str,
        intent: Intent | None,
        awaited: frozenset[str] = frozenset(),
    ) -> None:
        self.key = key
        self.ballot = ballot
        self.epoch = epoch
        self.quorum = quorum
        self.nonce = nonce
        self.intent = intent
        self.awaited = awaited
        self.phase = Phase.PREPARING
        self.promises: set[str] = set()
        self.lives: dict[str, Live] = {}
        self.nacks: set[str] = set()
        self.reported: dict[str, tuple[Ballot, Value | None]] = {}
        self.accepted: set[str] = set()
        self.resent: set[str] = set()
        self.unmoved: set[str] = set()
        self.preempted_by = ZERO
        self.decision: Decision | None = None
        self.digest = b""
        self.outcome: Outcome | None = None

    def start(self) -> list[Send]:
        """Phase 1(a) to every member."""
        prepare = Prepare(self.epoch, self.key, self.ballot, self.nonce)
        return [(member, prepare) for member in self.quorum.ordered]

    def seen(self) -> tuple[Ballot, Value | None]:
        """Return the highest-ballot value that any member reported in this attempt."""
        best: tuple[Ballot, Value | None] = (ZERO, None)
        for ballot, value in self.reported.values():
            if value is not None and ballot > best[0]:
                best = (ballot, value)
        return best

    def on_promise(self, member: str, msg: Promise) -> list[Send]:
        """Phase 1(b). A majority of promises ends phase 1; phase 2 follows at once if there is an intent."""
        if self.phase is not Phase.PREPARING or msg.ballot != self.ballot or member not in self.quorum.members:
            return []
        self.promises.add(member)
        self.lives.pop(member, None)
        self.reported[member] = (msg.accepted, msg.value)
        return self._after_phase_1_answer()

    def on_live(self, member: str, msg: Live) -> list[Send]:
        """The guard of one acceptor stands; evidence from others may lift it (R1)."""
        if self.phase is not Phase.PREPARING or msg.ballot != self.ballot or member not in self.quorum.members:
            return []
        if member in self.promises:
            return []
        if (before := self.lives.get(member)) is not None and member in self.resent:
            # It has weighed the evidence. Only another value there makes asking once more worth while.
            self.unmoved.add(member)
            if before.accepted != msg.accepted:
                self.resent.discard(member)
                self.unmoved.discard(member)
        self.lives[member] = msg
        self.reported[member] = (msg.accepted, msg.value)
        return self._after_phase_1_answer()

    def on_nack(self, member: str, msg: Nack) -> list[Send]:
        """A higher ballot is promised there. A repeat of our own ballot is no refusal."""
        if self.phase is Phase.DONE or msg.ballot != self.ballot or msg.promised <= self.ballot:
            return []
        self.nacks.add(member)
        self.preempted_by = max(self.preempted_by, msg.promised)
        if self.phase is Phase.PREPARING:
            return self._after_phase_1_answer()
        yes = self.accepted if self.phase is Phase.ACCEPTING else self.promises - self.nacks
        if self.quorum.tally(yes, self.nacks) is Tally.LOST:
            self._finish(Outcome.PREEMPTED)
        return []

    def on_accepted(self, member: str, msg: Accepted) -> list[Send]:
        """Phase 2(b). A majority of members, counted by uuid, chooses the value."""
        if self.phase is not Phase.ACCEPTING or msg.ballot != self.ballot:
            return []
        self.accepted.add(member)
        if self.quorum.is_met(self.accepted):
            assert self.decision is not None
            self._finish(Outcome.CHOSEN if self.decision.is_wanted else Outcome.COMPLETED)
        return []

    def propose(self, intent: Intent) -> list[Send]:
        """Phase 2(a): propose on the strength of the promises; once, for a ballot has one value (R3).

        Raises:
            InvariantViolated: Phase 1 has not ended, or a value was already proposed under this ballot.
        """
        invariant(self.phase is Phase.PREPARED, "a ballot proposes once, after its promises")
        self.intent = intent
        self.decision = decide(intent, self.seen()[1])
        if self.decision is None:
            self._finish(Outcome.FAILED)
            return []
        self.phase = Phase.ACCEPTING
        self.digest = digest(self.decision.value)
        return self.repeat()

    def repeat(self) -> list[Send]:
        """Return what to send again, byte for byte, to the members that have not answered."""
        if self.phase is Phase.PREPARING:
            prepare = Prepare(self.epoch, self.key, self.ballot, self.nonce)
            return [(member, prepare) for member in self.quorum.ordered if member not in self._answered()]
        if self.phase is not Phase.ACCEPTING:
            return []
        assert self.decision is not None
        accept = Accept(self.epoch, self.key, self.ballot, self.decision.value)
        return [(member, accept) for member in self.quorum.ordered if member not in self.accepted]

    def _after_phase_1_answer(self) -> list[Send]:
        if self.quorum.is_met(self.promises):
            self.phase = Phase.PREPARED
            return self.propose(self.intent) if self.intent is not None else []
        again = self._show_evidence()
        if again:
            return again
        if not self._may_be_lifted():
            self.end_if_refused()
        return []

    def end_if_refused(self) -> None:
        """End phase 1 where those that have answered leave no majority, whatever the others say."""
        if self.phase is not Phase.PREPARING:
            return
        asked_again = self.resent - self.unmoved
        stuck = self.nacks | (self.lives.keys() - asked_again)
        if self.quorum.tally(self.promises, stuck) is Tally.LOST:
            self._finish(Outcome.LIVE if self.lives and not self.nacks else Outcome.PREEMPTED)

    def _may_be_lifted(self) -> bool:
        """Tell whether no time ends a guard, and the evidence of a member that has not answered yet may (R1)."""
        is_endless = any(live.remaining_ms is None for live in self.lives.values())
        return is_endless and not self.nacks and not self.awaited <= self._answered()

    def _answered(self) -> set[str]:
        return self.promises | self.lives.keys() | self.nacks

    def _evidence(self) -> tuple[Evidence, ...]:
        return tuple(
            Evidence(ballot, value.nonce) for _, (ballot, value) in sorted(self.reported.items()) if value is not None
        )

    def _is_lifted(self, live: Live, evidence: tuple[Evidence, ...]) -> bool:
        return any(live.accepted < pair.ballot < self.ballot and pair.nonce != live.value.nonce for pair in evidence)

    def _show_evidence(self) -> list[Send]:
        """Ask again where what others accepted proves that a guard protects nothing any more (R1)."""
        evidence = self._evidence()
        targets = [
            member
            for member, live in sorted(self.lives.items())
            if member not in self.resent and self._is_lifted(live, evidence)
        ]
        self.resent.update(targets)
        prepare = Prepare(self.epoch, self.key, self.ballot, self.nonce, evidence)
        return [(member, prepare) for member in targets]

    def _finish(self, outcome: Outcome) -> None:
        self.phase = Phase.DONE
        self.outcome = outcome


class Proposer:
    """Hands out this member's ballots; every attempt of one process gets its own (R3).

    Args:
        member: This member's uuid.
        incarnation: Durable before this object is made.
    """

    def __init__(self, member: str, incarnation: int) -> None:
        self.member = member
        self.incarnation = incarnation
        self.counter = 0

    def next_ballot(self) -> Ballot:
        """Return a ballot above everything this proposer has seen or used."""
        self.counter += 1
        return Ballot(self.counter, self.member, self.incarnation)

    def observe(self, ballot: Ballot) -> None:
        """Remember a ballot seen anywhere; never goes back (a fast-forward by assignment would reuse ballots).

        A counter that runs ahead by more than ``COUNTER_JUMP_MAX`` is poison and is not taken over (R3, H12).
        """
        if self.counter < ballot.counter <= self.counter + COUNTER_JUMP_MAX:
            self.counter = ballot.counter
