"""R7: the new term is that of the highest-ballot value seen, plus one; registers are never deleted; tokens rise."""

import itertools

import pytest

from leaderlease.errors import ConfigError, RemoteProtocolError
from leaderlease.paxos.acceptor import Acceptor, Record
from leaderlease.paxos.ballot import ZERO
from leaderlease.paxos.lease import TERM_MAX, Value, check_value
from leaderlease.paxos.messages import Accept, Accepted, Prepare, Promise
from leaderlease.paxos.proposer import Acquire, Attempt, Decision, HandOver, Outcome, Vacate, Write, decide
from leaderlease.paxos.quorum import quorum_of
from support.core import ALICE, BOB, CHARLIE, KEY, World, ballot_of, holder


def _term(attempt: Attempt) -> int:
    assert attempt.decision is not None
    return attempt.decision.value.term


@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("123")])
def test_h13_the_highest_ballot_counts_in_whatever_order_the_promises_come(order: str) -> None:
    """Not the first, not the last, not the one that most reported, and chosen or not: its term plus one."""
    reported = {
        "1": (ballot_of(11), Value(4, ALICE, 1_000)),
        "2": (ballot_of(35), Value(6, BOB, 1_000)),
        "3": (ballot_of(24), Value(5, ALICE, 1_000)),
        "4": (ballot_of(11), Value(4, ALICE, 1_000)),
    }
    attempt = Attempt(KEY, ballot_of(45), 1, quorum_of("12345"), CHARLIE.nonce, Acquire(CHARLIE, 1_000))
    attempt.start()
    for member in order:
        attempt.on_promise(member, Promise(KEY, ballot_of(45), *reported[member]))
    assert _term(attempt) == 7


def test_h13_nobody_finishes_a_timed_lease_for_another() -> None:
    """Bob's half-finished term is respected as a number, and given to nobody: Charlie's own comes after it."""
    decision = decide(Acquire(CHARLIE, 1_000), Value(2, BOB, 1_000))
    assert decision is not None
    assert (decision.value.term, decision.value.holder, decision.is_wanted) == (3, CHARLIE, True)


def test_the_first_term_is_1() -> None:
    """Zero is no token."""
    decision = decide(Acquire(ALICE, 1_000), None)
    assert decision is not None
    assert decision.value.term == 1


def test_h19_the_same_name_in_a_new_life_gets_a_new_term() -> None:
    """Holders are compared by nonce: another process of the same name is another holder."""
    decision = decide(Acquire(holder("alice", life=2), 1_000), Value(3, ALICE, 1_000))
    assert decision is not None
    assert decision.value.term == 4


def test_the_same_nonce_goes_on_under_the_same_term_and_value() -> None:
    """Also if it asks for another duration: what was agreed stays as it is (H20)."""
    value = Value(3, ALICE, 1_000)
    decision = decide(Acquire(ALICE, 9_000), value)
    assert decision is not None
    assert decision.value == value


def test_h22_a_tombstone_keeps_the_term() -> None:
    """A lock that was given back remembers how often it was granted."""
    decision = decide(Vacate(ALICE.nonce), Value(7, ALICE, None))
    assert decision is not None
    assert decision.value == Value(7, None, None)
    after = decide(Acquire(BOB, None), decision.value)
    assert after is not None
    assert after.value.term == 8


def test_a_hand_over_is_a_grant_and_raises_the_term() -> None:
    """The successor's token is above that of the one who let go."""
    decision = decide(HandOver(ALICE.nonce, BOB, 1_000), Value(7, ALICE, 1_000))
    assert decision is not None
    assert (decision.value.term, decision.value.holder) == (8, BOB)


def test_a_hand_over_from_somebody_who_does_not_hold_writes_nothing() -> None:
    """Charlie came in between."""
    assert decide(HandOver(ALICE.nonce, BOB, 1_000), Value(8, CHARLIE, 1_000)) is None
    assert decide(HandOver(ALICE.nonce, BOB, 1_000), None) is None


def test_a_release_of_somebody_who_does_not_hold_writes_nothing() -> None:
    """Only the nonce that holds can be let go; a classic lock of another is completed for that other."""
    assert decide(Vacate(ALICE.nonce), Value(8, BOB, 1_000)) is None
    decision = decide(Vacate(ALICE.nonce), Value(8, BOB, None))
    assert decision is not None
    assert (decision.value, decision.is_wanted) == (Value(8, BOB, None), False)


def test_generations_of_other_registers_rise_too() -> None:
    """A declaration that was withdrawn and written again is newer than before."""
    value = None
    for generation in (1, 2, 3):
        decision = decide(Write(b"" if generation == 2 else b"x"), value)
        assert decision is not None
        assert decision.value.term == generation
        value = decision.value


def test_a_write_that_expects_a_generation_fails_on_another() -> None:
    """``after`` names what it replaces."""
    decision = decide(Write(b"y", after=1), Value(2, None, None, body=b"x"))
    assert decision is not None
    assert (decision.is_wanted, decision.value.body) == (False, b"x")
    assert decide(Write(b"y", after=1), None) is None


def test_h22_terms_rise_over_releases_restarts_of_all_nodes_and_changes_of_the_proposer() -> None:
    """Nothing in band resets a register: the fifth grant has term 5, whatever happened between."""
    world = World(3)
    terms = []
    for round_, who in enumerate((ALICE, BOB, CHARLIE, ALICE, BOB)):
        member = round_ % 3 + 1
        me = holder(who.name, life=round_)
        for _ in range(3):
            attempt = world.acquire(member, me)
            if attempt.outcome is Outcome.CHOSEN:
                break
        assert attempt.outcome is Outcome.CHOSEN
        assert world.believe(me, attempt)
        terms.append(_term(attempt))
        if round_ % 2:
            world.referee.let_go(me.nonce, KEY)
            world.release(member, attempt)
            world.settle()
        else:
            world.advance(1_002)
            world.restart(1, 2, 3)
            world.advance(1_002)
    assert terms == [1, 2, 3, 4, 5]


def test_h22_a_vacated_lock_keeps_its_term_when_every_node_restarts() -> None:
    """The tombstone is on the disks."""
    world = World(3, duration_ms=None)
    world.acquire(1, ALICE)
    assert world.acquire(1, ALICE, intent=Vacate(ALICE.nonce)).outcome is Outcome.CHOSEN
    world.restart(1, 2, 3)
    for _ in range(2):
        bob = world.acquire(2, BOB)
    assert _term(bob) == 2


def test_h22_a_delayed_accept_does_not_bring_back_what_came_before_a_tombstone() -> None:
    """Alice's Accept reaches node 3 after her lock was given back: it is below the promise."""
    world = World(3, duration_ms=None)
    world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    late = [e for e in world.wire if isinstance(e.message, Accept) and e.target == "3"]
    world.drop(Accept, to={3})
    world.settle()
    assert world.acquire(2, ALICE, intent=Vacate(ALICE.nonce)).outcome is Outcome.CHOSEN
    world.wire += late
    world.settle()
    assert world[3].accepted() == (22, "")


def test_a_term_leaves_the_proposer_only_after_a_majority_has_accepted() -> None:
    """Until then there is no outcome that could be told to anybody (H13)."""
    world = World(3)
    alice = world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    world.deliver(Accept, to={1})
    world.drop(Accept)
    world.deliver(Accepted)
    assert alice.outcome is None
    bob = world.ask(2, BOB)
    world.settle(among={2, 3})
    assert bob.outcome is Outcome.CHOSEN
    assert _term(bob) == _term(alice) == 1, "the term of a value that was never chosen may be given again"


def test_an_accept_cannot_carry_a_term_that_an_integer_field_cannot_hold() -> None:
    """A token must survive JSON: at most 2^53 - 1, and never negative."""
    for term in (-1, TERM_MAX + 1):
        with pytest.raises(ConfigError, match="term"):
            check_value(Value(term, ALICE, 1_000))
    check_value(Value(TERM_MAX, ALICE, 1_000))


@pytest.mark.parametrize("value", [Value(TERM_MAX + 1, ALICE, 1_000), Value(1, ALICE, 99), Value(1, ALICE, 1_000, -1)])
def test_h20_an_accept_outside_the_bounds_is_refused_and_leaves_no_trace(value: Value) -> None:
    """R7, H20: term, duration and lock delay are part of what is agreed, so no acceptor stores what none may hold."""
    acceptor = Acceptor(1, [], 0, 0)
    with pytest.raises(RemoteProtocolError, match=f"accept {KEY} under"):
        acceptor.handle("3", Accept(1, KEY, ballot_of(13), value), 0)
    assert acceptor.registers == {}


def test_a_register_that_restarts_has_the_term_of_its_disk() -> None:
    """And the acceptor has nothing with which it could lower or delete one."""
    acceptor = Acceptor(1, [Record(KEY, ballot_of(13), ballot_of(13), Value(9, None, 1_000))], 0, 0)
    value = acceptor.registers[KEY].value
    assert value is not None
    assert value.term == 9
    assert acceptor.registers[KEY].accepted > ZERO
    assert not [name for name in dir(acceptor) if any(word in name for word in ("delete", "purge", "reset", "drop_"))]


@pytest.mark.parametrize("seen", [None, Value(7, BOB, 1_000), Value(7, None, 1_000), Value(7, ALICE, 1_000)])
def test_h18_who_goes_on_holding_gets_its_own_term_or_nothing(seen: Value | None) -> None:
    """A nonce that believed one term is dead for every other, so a late take-over must not win it the next one."""
    assert decide(Acquire(ALICE, 1_000, goes_on=6), seen) is None
    mine = Value(6, ALICE, 1_000)
    assert decide(Acquire(ALICE, 1_000, goes_on=6), mine) == Decision(mine, True)
