"""The pure core under any schedule that hypothesis thinks of: loss, reordering, duplicates, crashes, bent clocks.

The rules of the machine are steps of the world; what must never happen is watched by the referee of ``support``:
agreement, promise, durability, honesty, belief and tokens. A client here does what ``client/core.py`` promises: it
counts from before its own send, renews while it believes, and never believes again what it has once stopped believing.

Clocks run anywhere within ρ = 10 %, so that a missing margin shows. ``HYPOTHESIS_PROFILE=long`` looks further.
"""

import os
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leaderlease.paxos.lease import RHO_PPM_WITHOUT_RAW_CLOCK, Holder
from leaderlease.paxos.messages import Accept, Accepted, Live, Nack, Prepare, Promise, Renew, SyncRequest
from leaderlease.paxos.proposer import Acquire, Attempt, HandOver, Outcome, Phase, Vacate
from leaderlease.paxos.quorum import majority
from support.core import KEY, Round, World, holder

RHO = RHO_PPM_WITHOUT_RAW_CLOCK / 1e6
DURATION_MS = 1_000
TRIES = 3
WIRE_MAX = 80
"""Messages under way; the oldest are lost beyond that."""
NAMES = ("alice", "bob", "charlie")

_common = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
}
settings.register_profile("ci", max_examples=250, stateful_step_count=50, derandomize=True, **_common)
settings.register_profile("long", max_examples=5_000, stateful_step_count=80, **_common)

POINTS = st.integers(0, 1 << 20)
WHO = st.sampled_from(NAMES)
SUBSET = st.integers(0, 31)


@dataclass
class Client:
    """One life of a candidate: one nonce, and at most one term that it ever believes."""

    me: Holder
    rate: float
    attempts: list[tuple[int, Attempt]] = field(default_factory=list)
    held: tuple[int, Attempt] | None = None
    until_ms: float = float("-inf")
    rounds: list[tuple[Attempt, Round]] = field(default_factory=list)


class Core(RuleBasedStateMachine):
    """Acceptors, proposers and holders, and a network that may do anything but lie."""

    @initialize(
        size=st.sampled_from([3, 3, 3, 5]),
        is_never=st.sampled_from([False, False, False, True]),
        rates=st.lists(st.sampled_from([1 - RHO, 1.0, 1 + RHO]), min_size=8, max_size=8),
    )
    def begin(self, size: int, is_never: bool, rates: list[float]) -> None:
        self.size = size
        self.duration_ms = None if is_never else DURATION_MS
        self.world = World(size, self.duration_ms)
        self.world.referee.rho_ppm = RHO_PPM_WITHOUT_RAW_CLOCK
        for number, node in enumerate(self.world.nodes.values()):
            node.rate = rates[number]
        self.rates = dict(zip(NAMES, rates[5:], strict=True))
        self.lives = dict.fromkeys(NAMES, 1)
        self.clients = {name: Client(holder(name), self.rates[name]) for name in NAMES}
        self.prepared: list[tuple[int, Attempt]] = []

    # --- what is picked -----------------------------------------------------------------------------------------

    def _member(self, point: int) -> int:
        return point % self.size + 1

    def _some(self, subset: int, member: int) -> set[int]:
        """Return a majority at least, mostly just that, with ``member`` in it."""
        others = [number for number in range(1, self.size + 1) if number != member]
        start = subset % len(others)
        turned = others[start:] + others[:start]
        return {member, *turned[: majority(self.size) - 1 + (subset > 24)]}

    def _heal(self, members: set[int]) -> None:
        """Start what is down and let slow disks finish: else most stories would end with the first crash."""
        for member in members:
            if not self.world[member].is_up:
                self.world.restart(member)
            self.world[member].disk.is_manual = False
            self._sync(member, is_one=False)

    def _new_life(self, name: str) -> None:
        self.lives[name] += 1
        self.clients[name] = Client(holder(name, self.lives[name]), self.rates[name])

    # --- proposing ----------------------------------------------------------------------------------------------

    @rule(point=POINTS, who=WHO)
    def ask(self, point: int, who: str) -> None:
        member = self._member(point)
        if self.world[member].is_up:
            client = self.clients[who]
            client.attempts.append((member, self.world.ask(member, client.me)))

    @rule(point=POINTS, who=WHO, subset=SUBSET, elapsed_ms=st.sampled_from([0, 0, 250, 950, 1_112, 1_250]))
    def ask_a_majority(self, point: int, who: str, subset: int, elapsed_ms: int) -> None:
        """As a node does it: again under a higher ballot after a refusal, and with nobody else disturbing."""
        self.world.advance(elapsed_ms)
        member = self._member(point)
        client = self.clients[who]
        some = self._some(subset, member)
        self._heal(some)
        kept, self.world.wire = self.world.wire, []
        for _ in range(TRIES):
            attempt = self.world.ask(member, client.me)
            client.attempts.append((member, attempt))
            self.world.settle(among=some)
            self._take(client)
            if attempt.outcome is not Outcome.PREEMPTED:
                break
        self.world.wire = kept + self.world.wire

    @rule(point=POINTS, who=WHO, subset=SUBSET, accepting=SUBSET)
    def ask_and_stop_half_way(self, point: int, who: str, subset: int, accepting: int) -> None:
        member = self._member(point)
        if not self.world[member].is_up:
            return
        client = self.clients[who]
        kept, self.world.wire = self.world.wire, []
        client.attempts.append((member, self.world.ask(member, client.me)))
        self.world.deliver(Prepare, to=self._some(subset, member))
        self.world.deliver((Promise, Nack, Live))
        self.world.deliver(Accept, to={accepting % self.size + 1})
        self.world.wire = kept + self.world.wire

    @rule(point=POINTS)
    def prepare_ahead(self, point: int) -> None:
        member = self._member(point)
        if self.world[member].is_up:
            self.prepared.append((member, self.world.prepare_ahead(member)))

    @rule(point=POINTS, who=WHO)
    def propose(self, point: int, who: str) -> None:
        ready = [
            (member, attempt)
            for member, attempt in self.prepared
            if attempt.phase is Phase.PREPARED and (KEY, attempt.ballot) in self.world[member].attempts
        ]
        if ready:
            member, attempt = ready[point % len(ready)]
            client = self.clients[who]
            self.world.propose(member, attempt, Acquire(client.me, self.duration_ms))
            client.attempts.append((member, attempt))

    @rule(who=WHO, point=POINTS)
    def repeat(self, who: str, point: int) -> None:
        attempts = self.clients[who].attempts
        if attempts:
            member, attempt = attempts[point % len(attempts)]
            if (KEY, attempt.ballot) in self.world[member].attempts:
                self.world.repeat(member, attempt)

    # --- holding ------------------------------------------------------------------------------------------------

    @rule(who=WHO)
    def take_grants(self, who: str) -> None:
        self._take(self.clients[who])

    def _take(self, client: Client) -> None:
        for member, attempt in client.attempts:
            decision = attempt.decision
            if attempt.outcome is not Outcome.CHOSEN or decision is None or decision.value.nonce != client.me.nonce:
                continue
            if client.held is not None:
                assert client.held[1].decision is not None
                if decision.value.term != client.held[1].decision.value.term:
                    continue
            self._believe(client, (member, attempt), self.world.started_ms[attempt.ballot])
        client.attempts = [(m, a) for m, a in client.attempts if a.outcome is None]

    def _believe(self, client: Client, grant: tuple[int, Attempt], sent_ms: int) -> None:
        world = self.world
        if client.held is not None and client.until_ms <= world.now_ms:
            return  # R6: dead for this term.
        if world.believe(client.me, grant[1], sent_ms, client.rate):
            client.held = grant
            client.until_ms = world.referee.beliefs[KEY].until_ms

    @precondition(lambda self: self.duration_ms is not None and self._believers())
    @rule(
        point=POINTS,
        subset=SUBSET,
        elapsed_ms=st.sampled_from([0, 250, 500]),
        is_settled=st.sampled_from([True, True, False]),
    )
    def renew(self, point: int, subset: int, elapsed_ms: int, is_settled: bool) -> None:
        world = self.world
        world.advance(elapsed_ms)
        believers = self._believers()
        if not believers:
            return
        who = believers[point % len(believers)]
        client = self.clients[who]
        assert client.held is not None
        member, attempt = client.held
        node = world[member]
        if not node.is_up or node.disk.incarnation != attempt.ballot.incarnation:
            return
        client.rounds.append((attempt, world.renew(member, attempt)))
        if is_settled:
            some = self._some(subset, member)
            for other in some:
                self._sync(other, is_one=False)
            world.deliver(Renew, to=some)
            world.drop(Renew)
            self._take_renewals(self.clients[who])

    def _believers(self) -> list[str]:
        return [who for who, client in self.clients.items() if client.held and client.until_ms > self.world.now_ms]

    @rule(who=WHO)
    def take_renewals(self, who: str) -> None:
        self._take_renewals(self.clients[who])

    def _take_renewals(self, client: Client) -> None:
        for attempt, round_ in client.rounds:
            if self.world.referee.is_majority(self._answered(round_)) and client.held is not None:
                self._believe(client, client.held, round_.sent_ms)
            assert attempt.decision is not None

    def _answered(self, round_: Round) -> set[str]:
        world = self.world
        for envelope in list(world.wire):
            # Answers to renewals arrive at once or never: what matters is when their requests did.
            if (
                getattr(envelope.message, "attempt", None) == round_.renew.attempt
                and envelope.message.__class__ is not Renew
            ):
                world.deliver_one(envelope)
        return round_.acknowledged()

    @rule(who=WHO, at=POINTS)
    def repair(self, who: str, at: int) -> None:
        client = self.clients[who]
        if client.held is not None and client.held[1].decision is not None:
            member, attempt = client.held
            accept = Accept(1, KEY, attempt.ballot, client.held[1].decision.value)
            self.world.send(str(member), str(self._member(at)), accept)

    @rule(who=WHO, point=POINTS)
    def release(self, who: str, point: int) -> None:
        client, world = self.clients[who], self.world
        if client.held is None:
            return
        member, attempt = client.held
        world.referee.let_go(client.me.nonce, KEY)
        at = self._member(point)
        if self.duration_ms is not None:
            world.release(member, attempt)
        elif world[at].is_up:
            world.ask(at, client.me, intent=Vacate(client.me.nonce))
        self._new_life(who)

    @rule(who=WHO, to=WHO, point=POINTS)
    def hand_over(self, who: str, to: str, point: int) -> None:
        client, world = self.clients[who], self.world
        at = self._member(point)
        if client.held is None or to == who or self.clients[to].held is not None or not world[at].is_up:
            return
        world.referee.let_go(client.me.nonce, KEY)
        intent = HandOver(client.me.nonce, self.clients[to].me, self.duration_ms)
        self.clients[to].attempts.append((at, world.ask(at, client.me, intent=intent)))
        self._new_life(who)

    @rule(who=WHO)
    def die(self, who: str) -> None:
        """Its process is gone, and with it its belief; the lease stays."""
        client = self.clients[who]
        self.world.referee.let_go(client.me.nonce, KEY)
        if self.duration_ms is not None:
            self._new_life(who)

    # --- network, disks and time --------------------------------------------------------------------------------

    @rule(point=POINTS, is_kept=st.sampled_from([False, False, True]))
    def deliver(self, point: int, is_kept: bool) -> None:
        wire = self.world.wire
        if wire:
            self.world.deliver_one(wire[point % len(wire)], keep=is_kept)

    @rule(subset=SUBSET, point=POINTS)
    def settle(self, subset: int, point: int) -> None:
        """Let everything arrive among a majority; the rest stays under way."""
        world = self.world
        some = {str(member) for member in self._some(subset, self._member(point))}
        for _ in range(200):
            inside = [e for e in world.wire if e.source in some and e.target in some]
            if not inside:
                return
            world.deliver_one(inside[0])

    @rule(kind=st.sampled_from([Prepare, Promise, Accept, Accepted, Renew]), point=POINTS, is_lost=st.booleans())
    def one_kind(self, kind: type, point: int, is_lost: bool) -> None:
        """Deliver or lose what is under way of one kind to one member."""
        (self.world.drop if is_lost else self.world.deliver)(kind, to={self._member(point)})

    @rule(point=POINTS, how=st.sampled_from(["crash", "restart", "restart", "restart all", "restart all"]))
    def crash(self, point: int, how: str) -> None:
        if how == "crash":
            self.world.crash(self._member(point))
        else:
            self.world.restart(*([self._member(point)] if how == "restart" else range(1, self.size + 1)))

    @rule(point=POINTS, is_manual=st.booleans())
    def disk(self, point: int, is_manual: bool) -> None:
        """Complete one record of a disk that is slow from now on, or all of one that is not."""
        self.world[self._member(point)].disk.is_manual = is_manual
        self._sync(self._member(point), is_manual)

    def _sync(self, member: int, is_one: bool) -> None:
        node = self.world[member]
        while node.is_up and node.disk.queue:
            self.world.fsync(member)
            if is_one:
                return

    @rule(point=POINTS, to=POINTS)
    def catch_up(self, point: int, to: int) -> None:
        self.world.send(str(self._member(point)), str(self._member(to)), SyncRequest(1, 0, "", 10))

    @rule(elapsed_ms=st.sampled_from([1, 90, 250, 500, 700, 799, 911, 1_112]))
    def advance(self, elapsed_ms: int) -> None:
        self.world.advance(elapsed_ms)

    @rule(point=POINTS)
    def advance_to_the_end_of_a_timer(self, point: int) -> None:
        """The moment at which an acceptor lets go, and not a millisecond later."""
        node = self.world[self._member(point)]
        register = node.acceptor.registers.get(KEY)
        if register is not None and register.value is not None:
            left_ms = register.remaining_ms(node.clock_ms())
            if left_ms:
                self.world.advance(int(left_ms / node.rate) + 1)

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def no_proof_of_a_bug(self) -> None:
        if hasattr(self, "world"):
            assert not [node.halted for node in self.world.nodes.values() if node.halted]
            del self.world.wire[:-WIRE_MAX]


class Stories(Core):
    """The same with the large steps only: fewer schedules, and each goes further."""

    ask = propose = prepare_ahead = repeat = take_grants = take_renewals = repair = None  # type: ignore[assignment]
    deliver = settle = one_kind = disk = catch_up = die = None  # type: ignore[assignment]


TestCore = Core.TestCase
TestStories = Stories.TestCase
TestCore.settings = TestStories.settings = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
