"""R3: a ballot is used for one value, ever; the incarnation is durable first; Prepare needs strictly greater."""

import pytest

from leaderlease.errors import InvariantViolated, RemoteProtocolError
from leaderlease.paxos.acceptor import Acceptor, Halt, Persist, Respond
from leaderlease.paxos.ballot import COUNTER_JUMP_MAX, COUNTER_MAX, ZERO, Ballot, ceiling_ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Accepted, Nack, Prepare, Promise
from leaderlease.paxos.proposer import Acquire, Outcome, Phase, Proposer
from support.core import ALICE, BOB, KEY, World, ballot_of

VALUE = Value(1, ALICE, 1_000)


def _prepare(acceptor: Acceptor, ballot: Ballot, nonce: str = "") -> object:
    effects = acceptor.handle(ballot.member, Prepare(1, KEY, ballot, nonce), 0)
    for effect in effects:
        if isinstance(effect, Respond):
            return effect.reply
        assert isinstance(effect, Persist)
        for later in acceptor.persisted(effect.record, 0):
            assert isinstance(later, Respond)
            return later.reply
    raise AssertionError("no reply")


def test_ballots_are_ordered_by_counter_then_member_then_incarnation() -> None:
    """A total order, so that any two attempts of any two lives can be told apart."""
    ordered = [ZERO, Ballot(1, "1", 9), Ballot(1, "2", 1), Ballot(1, "2", 2), Ballot(2, "1", 1)]
    assert sorted(set(ordered)) == ordered
    assert len(set(ordered)) == 5


def test_h12_a_prepare_with_an_equal_ballot_is_refused() -> None:
    """Strictly greater: a ballot that came back after a restart must not open a second attempt."""
    acceptor = Acceptor(1, [], 0, 0)
    assert isinstance(_prepare(acceptor, ballot_of(13)), Promise)
    assert _prepare(acceptor, ballot_of(13)) == Nack(KEY, ballot_of(13), ballot_of(13))
    assert isinstance(_prepare(acceptor, ballot_of(14)), Promise)
    assert _prepare(acceptor, ballot_of(13)) == Nack(KEY, ballot_of(13), ballot_of(14))


def test_h12_the_repeat_of_an_own_ballot_is_no_refusal_of_it() -> None:
    """A duplicated Prepare is answered by a NACK that names this very ballot: the attempt goes on."""
    world = World(3)
    attempt = world.ask(1, ALICE)
    for envelope in list(world.wire):
        world.deliver_one(envelope, keep=True)
    world.settle()
    assert attempt.outcome is Outcome.CHOSEN


def test_h12_two_lives_of_one_member_never_share_a_ballot() -> None:
    """Counters begin again after a restart; the incarnation keeps them apart."""
    lives = [Proposer("3", incarnation) for incarnation in (1, 2)]
    first, second = ([life.next_ballot() for _ in range(3)] for life in lives)
    assert [ballot.counter for ballot in first] == [ballot.counter for ballot in second]
    assert not set(first) & set(second)


def test_h12_a_new_life_with_the_same_counter_does_not_decide_beside_the_old_one() -> None:
    """Alice's 11 is on node 1 alone; node 1 restarts and proposes Bob: the referee sees no ballot twice."""
    world = World(3)
    world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    world.deliver(Accept, to={1})
    world.drop()
    world.restart(1)
    for _ in range(3):
        world.acquire(1, BOB)
    world.advance(1_002)
    bob = world.acquire(1, BOB)
    assert bob.outcome is Outcome.CHOSEN
    assert bob.ballot.incarnation == 2


def test_a_proposer_counts_on_from_the_highest_ballot_that_it_saw() -> None:
    """And never back: an older ballot that arrives late changes nothing."""
    proposer = Proposer("2", 1)
    proposer.observe(ballot_of(75))
    proposer.observe(ballot_of(13))
    assert proposer.next_ballot() == ballot_of(82)
    assert proposer.next_ballot() == ballot_of(92)


def test_h11_a_ballot_proposes_once() -> None:
    """A second value under the same ballot cannot be asked for: it raises instead of sending."""
    world = World(3)
    attempt = world.prepare_ahead(1)
    world.settle()
    assert attempt.phase is Phase.PREPARED
    world.propose(1, attempt, Acquire(ALICE, 1_000))
    with pytest.raises(InvariantViolated):
        world.propose(1, attempt, Acquire(BOB, 1_000))


def test_h11_nothing_is_proposed_before_a_majority_has_promised() -> None:
    """An attempt that is still preparing has no right to a value."""
    world = World(3)
    attempt = world.prepare_ahead(1)
    world.deliver(Prepare, to={1})
    world.deliver(Promise)
    with pytest.raises(InvariantViolated):
        world.propose(1, attempt, Acquire(ALICE, 1_000))


def test_h11_a_repeated_accept_is_the_same_byte_for_byte() -> None:
    """After a timeout the same bytes go again, and only to those that did not answer."""
    world = World(3)
    attempt = world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    first = {e.target: e.message for e in world.wire if isinstance(e.message, Accept)}
    world.deliver(Accept, to={2})
    world.drop(Accept)
    world.deliver(Accepted)
    assert dict(attempt.repeat()) == {member: first[member] for member in ("1", "3")}
    world.repeat(1, attempt)
    world.settle()
    assert attempt.outcome is Outcome.CHOSEN


def test_a_repeated_prepare_goes_to_those_that_have_not_answered() -> None:
    """Under the same ballot, with nothing new in it."""
    world = World(3)
    attempt = world.ask(1, ALICE)
    world.deliver(Prepare, to={2})
    world.drop(Prepare)
    world.deliver(Promise)
    assert [member for member, _ in attempt.repeat()] == ["1", "3"]
    world.repeat(1, attempt)
    world.settle()
    assert attempt.outcome is Outcome.CHOSEN
    assert attempt.repeat() == []


def test_h11_two_values_under_one_ballot_stop_the_acceptor() -> None:
    """It is proof of a bug: the process halts instead of choosing one of them."""
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 0)
    (effect,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), Value(1, BOB, 1_000)), 0)
    assert isinstance(effect, Halt)
    assert "two values under ballot" in effect.reason
    assert acceptor.registers[KEY].value == VALUE


def test_h11_other_members_of_the_value_count_too() -> None:
    """H20: the same holder with another duration is another value."""
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 0)
    (effect,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), Value(1, ALICE, 2_000)), 0)
    assert isinstance(effect, Halt)


@pytest.mark.parametrize(
    "ballot",
    [
        Ballot(COUNTER_JUMP_MAX + 1, "3", 1),
        Ballot(COUNTER_MAX + 1, "3", 1),
        Ballot(0, "3", 1),
        Ballot(-1, "3", 1),
        Ballot(1, "", 1),
    ],
    ids=["jump", "overflow", "zero", "negative", "nobody"],
)
def test_h12_a_poisoned_ballot_is_refused_and_leaves_no_trace(ballot: Ballot) -> None:
    """A counter that runs ahead of everything seen would end all counting; it is the peer's error."""
    acceptor = Acceptor(1, [], 0, 0)
    for message in (Prepare(1, KEY, ballot, ""), Accept(1, KEY, ballot, VALUE)):
        with pytest.raises(RemoteProtocolError):
            acceptor.handle("3", message, 0)
    assert acceptor.registers == {}
    assert acceptor.counter_max == 0


def test_the_jump_is_measured_from_the_highest_counter_seen() -> None:
    """Honest counters go on however far the cluster has come."""
    acceptor = Acceptor(1, [], 0, 0)
    _prepare(acceptor, Ballot(COUNTER_JUMP_MAX, "3", 1))
    assert isinstance(_prepare(acceptor, Ballot(2 * COUNTER_JUMP_MAX, "3", 1)), Promise)
    with pytest.raises(RemoteProtocolError):
        _prepare(acceptor, Ballot(3 * COUNTER_JUMP_MAX + 1, "3", 1))


def test_after_a_restart_the_jump_is_measured_from_the_ceiling() -> None:
    """What was promised below the ceiling is not forgotten here either."""
    ceiling = 5 * COUNTER_JUMP_MAX
    acceptor = Acceptor(1, [], ceiling, 0)
    assert isinstance(_prepare(acceptor, Ballot(ceiling + COUNTER_JUMP_MAX, "3", 1)), Promise)


def test_the_ceiling_stands_above_every_ballot_of_its_counter() -> None:
    """Also above the last member's last incarnation, and below the next counter of anybody."""
    assert Ballot(7, "~" * 36, 1 << 40) < ceiling_ballot(7) < Ballot(8, "0", 1)
    assert ceiling_ballot(0) == ZERO


def test_two_proposers_of_one_instant_get_different_ballots() -> None:
    """The member is part of the ballot: both count 1, and one of them wins."""
    world = World(3)
    alice, bob = world.ask(1, ALICE), world.ask(2, BOB)
    assert alice.ballot.counter == bob.ballot.counter == 1
    world.settle()
    outcomes = [alice.outcome, bob.outcome]
    assert outcomes.count(Outcome.CHOSEN) == 1
