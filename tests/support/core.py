"""A tiny deterministic world around the pure core: every message and every fsync is a step that a test takes.

Members are called "1" to "5", so that ballots read like the story: ``Ballot(1, "3", 1)`` is 13, the counter
times ten plus the member (``number_of``). Nothing here is random and no clock is read: a test delivers, drops
and repeats messages, crashes nodes and lets time pass, one line each. A ``Referee`` watches every step of every test.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from leaderlease.paxos.acceptor import Acceptor, Ceiling, Effect, Halt, Persist, Record, Respond
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Holder, Value, digest
from leaderlease.paxos.messages import (
    Accept,
    Accepted,
    Chosen,
    Live,
    Nack,
    Peek,
    Peeked,
    Prepare,
    Promise,
    Release,
    Renew,
    Renewed,
    RenewItem,
    SyncPage,
    SyncRequest,
)
from leaderlease.paxos.proposer import Acquire, Attempt, Intent, Phase, Proposer
from leaderlease.paxos.quorum import Quorum, quorum_of
from support.referee import Referee

KEY = "l/shop/lock"
DURATION_MS = 1_000


def holder(name: str, life: int = 1) -> Holder:
    """Return a holder; every life of a name has a nonce of its own."""
    return Holder(name, "", hashlib.blake2b(f"{name} {life}".encode(), digest_size=16).hexdigest())


ALICE, BOB, CHARLIE, DAVE = map(holder, ("alice", "bob", "charlie", "dave"))


def number_of(ballot: Ballot) -> int:
    """Return how the story calls a ballot: 13 is counter 1 of member 3."""
    return ballot.counter * 10 + int(ballot.member or 0)


def ballot_of(number: int, incarnation: int = 1) -> Ballot:
    """Return the ballot that the story calls ``number``."""
    return Ballot(number // 10, str(number % 10), incarnation) if number else ZERO


@dataclass(eq=False)
class Envelope:
    """One message under way; ``hops`` counts the messages that led to it, itself included."""

    source: str
    target: str
    message: Any
    hops: int


@dataclass
class Disk:
    """What survives a crash, and the queue of what does not yet."""

    records: dict[str, Record] = field(default_factory=dict)
    ceiling: int = 0
    incarnation: int = 0
    queue: deque[tuple[Record | Ceiling, int]] = field(default_factory=deque)
    is_manual: bool = False

    def write(self, record: Record | Ceiling) -> None:
        """Make a record durable."""
        if isinstance(record, Ceiling):
            self.ceiling = max(self.ceiling, record.counter)
        else:
            self.records[record.key] = record


@dataclass
class Round:
    """One Renew, its answers by member, and the true time before it was sent."""

    renew: Renew
    sent_ms: int
    answers: dict[str, Renewed] = field(default_factory=dict)

    def acknowledged(self, position: int = 0) -> set[str]:
        """Return the members that acknowledged the item at ``position``."""
        return {
            member
            for member, answer in self.answers.items()
            if not answer.epoch and position not in answer.nacked + answer.unknown
        }


class Node:
    """One member: a disk, and one life of acceptor and proposer on it."""

    def __init__(self, world: "World", member: str) -> None:
        self.world = world
        self.member = member
        self.disk = Disk()
        self.rate = 1.0
        self.is_up = False
        self.boot()

    def boot(self) -> None:
        """Begin a life: the incarnation is durable first, and this machine's clock starts again near zero."""
        self.disk.incarnation += 1
        self.disk.queue.clear()
        self.booted_ms = self.world.now_ms
        self.acceptor = Acceptor(self.world.epoch, self.disk.records.values(), self.disk.ceiling, self.clock_ms())
        self.proposer = Proposer(self.member, self.disk.incarnation)
        self.attempts: dict[tuple[str, Ballot], Attempt] = {}
        self.rounds: dict[int, Round] = {}
        self.peeks: dict[str, Peeked] = {}
        self.learned: dict[str, Value] = {}
        self.halted = ""
        self.is_up = True

    def clock_ms(self) -> int:
        """Return this machine's own monotonic clock, in whole milliseconds."""
        return int((self.world.now_ms - self.booted_ms) * self.rate)

    def register(self, key: str = KEY) -> Any:
        """Return the acceptor's register."""
        return self.acceptor.registers[key]

    def promised(self, key: str = KEY) -> int:
        """Return what is promised, as the story's number."""
        return number_of(self.acceptor.registers[key].promised) if key in self.acceptor.registers else 0

    def accepted(self, key: str = KEY) -> tuple[int, str]:
        """Return the accepted ballot and the holder's name: ``(13, "alice")``."""
        register = self.acceptor.registers.get(key)
        if register is None or register.value is None:
            return (0, "")
        value = register.value
        return (number_of(register.accepted), value.holder.name if value.holder is not None else "")


class World:
    """Members, the messages between them, and true time.

    Args:
        size: Members "1" to str(size).
        duration_ms: Of leases that ``ask`` wants; None is never.
        quorum: Another quorum system than one majority of all, for joint configurations.
    """

    def __init__(self, size: int = 5, duration_ms: int | None = DURATION_MS, quorum: Quorum | None = None) -> None:
        self.now_ms = 1_000_000
        self.epoch = 1
        self.duration_ms = duration_ms
        names = [str(number) for number in range(1, size + 1)]
        self.quorum = quorum or quorum_of(names)
        self.referee = Referee(self.quorum)
        self.wire: list[Envelope] = []
        self.sent: Counter[type] = Counter()
        self.hops_at_end: dict[Ballot, int] = {}
        self.started_ms: dict[Ballot, int] = {}
        self.on_step: Callable[[], None] = lambda: None
        self._next_round = 0
        self.nodes = {name: Node(self, name) for name in names}

    def __getitem__(self, member: int | str) -> Node:
        return self.nodes[str(member)]

    # --- proposing ----------------------------------------------------------------------------------------

    def ask(
        self,
        member: int | str,
        who: Holder,
        *,
        intent: Intent | None = None,
        key: str = KEY,
        duration_ms: int | None = -1,
    ) -> Attempt:
        """Start an attempt at a member: by default ``who`` acquires. Its Prepares are on the wire then."""
        wanted = self.duration_ms if duration_ms == -1 else duration_ms
        return self.begin(member, who.nonce, intent or Acquire(who, wanted), key)

    def prepare_ahead(self, member: int | str, key: str = KEY) -> Attempt:
        """Do phase 1 while nobody asks."""
        return self.begin(member, "", None, key)

    def begin(self, member: int | str, nonce: str, intent: Intent | None, key: str = KEY) -> Attempt:
        """Start an attempt under a fresh ballot of this member."""
        node = self[member]
        attempt = Attempt(key, node.proposer.next_ballot(), self.epoch, self.quorum, nonce, intent)
        self.started_ms[attempt.ballot] = self.now_ms
        self._run(node, attempt, attempt.start(), 0)
        return attempt

    def propose(self, member: int | str, attempt: Attempt, intent: Intent) -> None:
        """Phase 2 of an attempt that was prepared ahead; the holder's clock is read now."""
        self.started_ms[attempt.ballot] = self.now_ms
        self._run(self[member], attempt, attempt.propose(intent), 0)

    def repeat(self, member: int | str, attempt: Attempt) -> None:
        """Send again what was not answered."""
        self._run(self[member], attempt, attempt.repeat(), 0)

    def _run(self, node: Node, attempt: Attempt, sends: Iterable[tuple[str, Any]], hops: int) -> None:
        node.attempts[attempt.key, attempt.ballot] = attempt
        for target, message in sends:
            self.send(node.member, target, message, hops)

    def acquire(self, member: int | str, who: Holder, **options: Any) -> Attempt:
        """Ask and let every message arrive."""
        attempt = self.ask(member, who, **options)
        self.settle()
        return attempt

    def announce(self, member: int | str, attempt: Attempt) -> None:
        """Tell everybody what was chosen: a hint to learners."""
        assert attempt.decision is not None
        chosen = Chosen(self.epoch, attempt.key, attempt.ballot, attempt.decision.value, "acquired")
        for target in self.nodes:
            self.send(self[member].member, target, chosen)

    def renew(self, member: int | str, attempt: Attempt) -> Round:
        """Send one Renew for the value that ``attempt`` had chosen."""
        self._next_round += 1
        node, ballot = self[member], attempt.ballot
        item = RenewItem(attempt.key, ballot.counter, attempt.digest)
        renew = Renew(self.epoch, self._next_round, ballot.member, ballot.incarnation, (item,))
        node.rounds[renew.attempt] = Round(renew, self.now_ms)
        for target in sorted(self.quorum.members):
            self.send(node.member, target, renew)
        return node.rounds[renew.attempt]

    def release(self, member: int | str, attempt: Attempt) -> None:
        """Tell everybody that the holder has let go."""
        assert attempt.decision is not None
        message = Release(self.epoch, attempt.key, attempt.ballot, digest(attempt.decision.value))
        for target in self.nodes:
            self.send(self[member].member, target, message)

    def believe(self, who: Holder, attempt: Attempt, sent_ms: int | None = None, rate: float = 1.0) -> bool:
        """Let a holder take its grant or renewal; return False if it came too late. The referee compares."""
        assert attempt.decision is not None
        sent = self.started_ms[attempt.ballot] if sent_ms is None else sent_ms
        return self.referee.believe(who.nonce, attempt.key, attempt.decision.value, sent, self.now_ms, rate)

    # --- messages and disks -------------------------------------------------------------------------------

    def send(self, source: str, target: str, message: Any, hops: int = 0) -> None:
        """Put a message on the wire."""
        self.sent[type(message)] += 1
        self.wire.append(Envelope(source, target, message, hops + 1))

    def deliver(
        self,
        kind: type | tuple[type, ...] = object,
        to: Collection[int | str] | None = None,
        source: int | str | None = None,
    ) -> int:
        """Deliver, in order, what is on the wire now and matches; return how many messages that were."""
        chosen = self._matching(kind, to, source)
        for envelope in chosen:
            if envelope in self.wire:  # A restart on the way may have emptied the wire.
                self.deliver_one(envelope)
        return len(chosen)

    def deliver_one(self, envelope: Envelope, *, keep: bool = False) -> None:
        """Deliver one message; with ``keep`` it stays on the wire as a duplicate."""
        if not keep:
            self.wire = [other for other in self.wire if other is not envelope]
        node = self.nodes.get(envelope.target)
        if node is not None and node.is_up:
            self._receive(node, envelope)
            self.on_step()

    def drop(
        self,
        kind: type | tuple[type, ...] = object,
        to: Collection[int | str] | None = None,
        source: int | str | None = None,
    ) -> int:
        """Lose what is on the wire now and matches; return how many messages that were."""
        chosen = self._matching(kind, to, source)
        self.wire = [envelope for envelope in self.wire if not any(envelope is lost for lost in chosen)]
        return len(chosen)

    def settle(self, among: Collection[int | str] | None = None) -> None:
        """Deliver until nothing is under way; with ``among``, messages to or from other members are lost."""
        names = {str(member) for member in among} if among is not None else set(self.nodes)
        while self.wire:
            envelope = self.wire[0]
            if envelope.source in names and envelope.target in names:
                self.deliver_one(envelope)
            else:
                self.wire.pop(0)

    def fsync(self, member: int | str, count: int = 1) -> None:
        """Complete the oldest records of a disk; their replies go out."""
        node = self[member]
        for _ in range(count):
            record, hops = node.disk.queue.popleft()
            node.disk.write(record)
            self.referee.durable(node.member, record)
            self._carry_out(node, node.acceptor.persisted(record, node.clock_ms()), hops)
            self.on_step()
            if not node.disk.queue:
                return

    def _matching(
        self, kind: type | tuple[type, ...], to: Collection[int | str] | None, source: int | str | None
    ) -> list[Envelope]:
        targets = None if to is None else {str(member) for member in to}
        return [
            envelope
            for envelope in self.wire
            if isinstance(envelope.message, kind)
            and (targets is None or envelope.target in targets)
            and (source is None or envelope.source == str(source))
        ]

    # --- faults and time ----------------------------------------------------------------------------------

    def advance(self, elapsed_ms: int) -> None:
        """Let true time pass."""
        self.now_ms += elapsed_ms

    def crash(self, *members: int | str) -> None:
        """Stop members: what is not on their disks is gone."""
        for member in members:
            node = self[member]
            node.is_up = False
            node.disk.queue.clear()

    def restart(self, *members: int | str) -> None:
        """Begin new lives from the disks alone."""
        for member in members:
            self.crash(member)
            self[member].boot()

    # --- what the driver does -----------------------------------------------------------------------------

    def _carry_out(self, node: Node, effects: Iterable[Effect], hops: int) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                node.disk.queue.append((effect.record, hops))
            elif isinstance(effect, Respond):
                self.referee.answered(node.member, effect.reply, node.disk)
                if effect.origin:
                    self.send(node.member, effect.origin, effect.reply, hops)
            elif isinstance(effect, Halt):
                node.halted, node.is_up = effect.reason, False
                return
        while node.disk.queue and not node.disk.is_manual and node.is_up:
            self.fsync(node.member)

    def _receive(self, node: Node, envelope: Envelope) -> None:
        message, source, hops = envelope.message, envelope.source, envelope.hops
        now_ms = node.clock_ms()
        match message:
            case Prepare() | Accept():
                node.proposer.observe(message.ballot)
                self._carry_out(node, node.acceptor.handle(source, message, now_ms), hops)
            case Peek():
                self._carry_out(node, node.acceptor.handle(source, message, now_ms), hops)
            case SyncRequest():
                self._carry_out(node, node.acceptor.sync(source, message), hops)
            case Renew():
                self.send(node.member, source, node.acceptor.renew(message, now_ms), hops)
            case Release():
                node.acceptor.release(message)
            case Promise() | Live() | Nack() | Accepted():
                self._answer(node, source, message, hops)
            case Renewed():
                if (round_ := node.rounds.get(message.attempt)) is not None:
                    round_.answers[source] = message
            case Peeked():
                node.peeks[source] = message
            case Chosen():
                node.learned[message.key] = message.value
            case SyncPage():
                for entry in message.entries:
                    late_copy = Accept(self.epoch, entry.key, entry.ballot, entry.value)
                    self._carry_out(node, node.acceptor.handle("", late_copy, now_ms), hops)

    def _answer(self, node: Node, source: str, message: Promise | Live | Nack | Accepted, hops: int) -> None:
        if isinstance(message, Nack):
            node.proposer.observe(message.promised)
        attempt = node.attempts.get((message.key, message.ballot))
        if attempt is None:
            return
        was_done = attempt.phase is Phase.DONE
        match message:
            case Promise():
                sends = attempt.on_promise(source, message)
            case Live():
                sends = attempt.on_live(source, message)
            case Nack():
                sends = attempt.on_nack(source, message)
            case Accepted():
                sends = attempt.on_accepted(source, message)
        for target, send in sends:
            self.send(node.member, target, send, hops)
        if attempt.phase is Phase.DONE and not was_done:
            self.hops_at_end[attempt.ballot] = hops
            if attempt.outcome is not None and attempt.outcome.is_chosen:
                assert attempt.decision is not None
                self.referee.is_really_chosen(attempt.key, attempt.ballot, attempt.decision.value)
