"""R4: accept raises the promise in one record; replies leave only after it is durable, in per-register order."""

import pytest

from leaderlease.errors import InvariantViolated
from leaderlease.paxos.acceptor import DEFERRED_MAX, Acceptor, Ceiling, Persist, Record, Respond
from leaderlease.paxos.ballot import ZERO
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Accepted, Nack, Peek, Peeked, Prepare, Promise
from leaderlease.paxos.proposer import Outcome
from support.core import ALICE, BOB, CHARLIE, KEY, World, ballot_of

VALUE = Value(1, ALICE, 1_000)


def _accepted(number: int = 13, value: Value = VALUE) -> Acceptor:
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(number), value), 0)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 0)
    return acceptor


def test_h27_an_accept_is_answered_only_by_the_commit_of_its_record() -> None:
    """Before that there is one effect, the record, and nothing that could be sent."""
    acceptor = Acceptor(1, [], 0, 0)
    effects = acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    record = Record(KEY, ballot_of(13), ballot_of(13), VALUE)
    assert effects == [Persist(record)]
    assert acceptor.registers[KEY].value is None, "what is not durable does not exist"
    assert acceptor.persisted(record, 0) == [Respond("3", Accepted(KEY, ballot_of(13)))]
    assert acceptor.registers[KEY].value == VALUE


def test_h5_a_promise_above_the_ceiling_is_answered_only_by_the_commit_of_its_record() -> None:
    """A promise that a restart forgets lets two majorities decide."""
    acceptor = Acceptor(1, [], 0, 0)
    effects = acceptor.handle("3", Prepare(1, KEY, ballot_of(13), ALICE.nonce), 0)
    assert not any(isinstance(effect, Respond) for effect in effects)
    record = Record(KEY, ballot_of(13), ZERO, None)
    assert effects[0] == Persist(record)
    assert acceptor.registers[KEY].promised == ZERO
    assert acceptor.persisted(record, 0) == [
        Respond("3", Promise(KEY, ballot_of(13), ZERO, None)),
    ]
    assert acceptor.registers[KEY].promised == ballot_of(13)


def test_h10_an_accept_raises_the_promise_in_the_same_record() -> None:
    """After 14 was accepted, without a Prepare of its own here, nothing below 14 is."""
    acceptor = _accepted(14)
    assert acceptor.registers[KEY].promised == ballot_of(14)
    assert acceptor.handle("3", Prepare(1, KEY, ballot_of(13), ALICE.nonce), 0) == [
        Respond("3", Nack(KEY, ballot_of(13), ballot_of(14)))
    ]
    assert acceptor.handle("3", Accept(1, KEY, ballot_of(13), Value(1, BOB, 1_000)), 0) == [
        Respond("3", Nack(KEY, ballot_of(13), ballot_of(14)))
    ]


def test_h10_an_accept_below_the_promise_is_refused() -> None:
    """A node that promised 14 accepts nothing under 13, even if it has accepted nothing yet."""
    acceptor = Acceptor(1, [], 0, 0)
    persist = acceptor.handle("4", Prepare(1, KEY, ballot_of(14), BOB.nonce), 0)[0]
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 0)
    assert acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0) == [
        Respond("3", Nack(KEY, ballot_of(13), ballot_of(14)))
    ]
    (persist,) = acceptor.handle("4", Accept(1, KEY, ballot_of(14), VALUE), 0)
    assert isinstance(persist, Persist), "the ballot that was promised is accepted"


def test_h10_a_higher_accept_that_overtook_its_prepare_closes_the_lower_ballot() -> None:
    """Node 3 accepts 12 for Bob without having heard its Prepare; Alice's late 11 must not undo it there."""
    world = World(3)
    alice = world.ask(1, ALICE)
    world.deliver(Prepare, to={1, 3})
    world.drop(Prepare)
    world.deliver(Promise)
    held_back = [e for e in world.wire if isinstance(e.message, Accept)]
    world.wire.clear()
    bob = world.ask(2, BOB)
    world.deliver(Prepare, to={1, 2})
    world.drop(Prepare)
    world.deliver(Promise)
    world.deliver(Accept, to={2, 3})
    world.drop(Accept)
    world.deliver(Accepted)
    assert bob.outcome is Outcome.CHOSEN
    world.wire += held_back
    world.settle()
    assert alice.outcome is not Outcome.CHOSEN
    assert world[3].accepted() == (12, "bob")


def test_h4_a_prepare_waits_behind_an_accept_that_is_not_yet_durable() -> None:
    """Answered at once it would report "nothing accepted", and then the accept would be acknowledged."""
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    assert isinstance(persist, Persist)
    assert acceptor.handle("4", Prepare(1, KEY, ballot_of(24), ALICE.nonce), 0) == []
    effects = acceptor.persisted(persist.record, 0)
    assert effects[0] == Respond("3", Accepted(KEY, ballot_of(13)))
    later = effects[1]
    assert isinstance(later, Persist)
    assert isinstance(later.record, Record)
    assert acceptor.persisted(later.record, 0) == [Respond("4", Promise(KEY, ballot_of(24), ballot_of(13), VALUE))], (
        "the promise reports what became durable before it"
    )


def test_h4_in_full_bob_hears_of_an_accept_that_was_still_in_the_queue() -> None:
    """Alice's accept waits for the disks of a majority when Bob prepares: he must not miss it."""
    world = World(3, duration_ms=None)
    world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    for node in world.nodes.values():
        node.disk.is_manual = True
    world.deliver(Accept)
    bob = world.ask(2, BOB)
    world.deliver(Prepare)
    for member in (1, 2, 3):
        while world[member].disk.queue:
            world.fsync(member)
    for node in world.nodes.values():
        node.disk.is_manual = False
    world.settle()
    assert bob.outcome is Outcome.LIVE
    assert [world[n].accepted() for n in (1, 2, 3)] == [(11, "alice")] * 3


def test_messages_of_one_register_are_answered_in_the_order_in_which_they_came() -> None:
    """Whatever waited behind a record goes on in order, each behind the record of the one before."""
    acceptor = Acceptor(1, [], 0, 0)
    effects = acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    waiting = [
        ("4", Accept(1, KEY, ballot_of(24), Value(2, BOB, 1_000))),
        ("5", Prepare(1, KEY, ballot_of(15), CHARLIE.nonce)),
        ("5", Accept(1, KEY, ballot_of(35), Value(3, CHARLIE, 1_000))),
    ]
    for origin, message in waiting:
        assert acceptor.handle(origin, message, 0) == []
    replies = []
    while effects:
        effect = effects.pop(0)
        if isinstance(effect, Respond):
            replies.append(effect.reply)
        elif isinstance(effect, Persist):
            assert not any(isinstance(other, Persist) for other in effects)
            effects += acceptor.persisted(effect.record, 0)
    assert replies == [
        Accepted(KEY, ballot_of(13)),
        Accepted(KEY, ballot_of(24)),
        Nack(KEY, ballot_of(15), ballot_of(24)),
        Accepted(KEY, ballot_of(35)),
    ]
    assert acceptor.registers[KEY].deferred is None


def test_one_registers_record_does_not_hold_up_another_register() -> None:
    """Order is kept per register; renewals and reads elsewhere never wait for this disk."""
    acceptor = Acceptor(1, [], 0, 0)
    acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    effects = acceptor.handle("3", Accept(1, "l/shop/other", ballot_of(23), VALUE), 0)
    assert isinstance(effects[0], Persist)
    assert acceptor.handle("3", Peek(1, KEY, 5), 0) == [
        Respond("3", Peeked(KEY, 5, ZERO, ZERO, None, 0)),
    ], "a peek shows the durable image, at once"


def test_h27_records_are_taken_as_durable_in_their_order_or_not_at_all() -> None:
    """A completion that nobody waits for is a bug of the driver, and stops the process."""
    acceptor = Acceptor(1, [], 0, 0)
    acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    with pytest.raises(InvariantViolated):
        acceptor.persisted(Record(KEY, ballot_of(24), ballot_of(24), VALUE), 0)
    acceptor = _accepted()
    with pytest.raises(InvariantViolated):
        acceptor.persisted(Record(KEY, ballot_of(13), ballot_of(13), VALUE), 0)


def test_h27_what_a_crash_took_from_the_queue_was_never_acknowledged() -> None:
    """Two disks lose Alice's accept before the fsync: she was never told, and Bob may have the term."""
    world = World(3)
    alice = world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    for member in (2, 3):
        world[member].disk.is_manual = True
    world.settle()
    assert alice.outcome is None
    world.restart(2, 3)
    for member in (2, 3):
        world[member].disk.is_manual = False
    for _ in range(4):
        bob = world.ask(2, BOB)
        world.settle(among={2, 3})
    assert bob.outcome is Outcome.CHOSEN
    assert bob.decision is not None
    assert bob.decision.value.term == 1
    assert world.believe(BOB, bob)


def test_what_waits_behind_one_record_is_bounded() -> None:
    """A stalled disk costs a bounded queue; what is beyond it is lost as on a network, and counted."""
    acceptor = Acceptor(1, [], 0, 0)
    acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    for _ in range(DEFERRED_MAX + 7):
        assert acceptor.handle("4", Prepare(1, KEY, ballot_of(14), BOB.nonce), 0) == []
    assert acceptor.deferred_dropped == 7


def test_the_commit_of_a_ceiling_answers_nobody() -> None:
    """It only lets later promises go without a record."""
    acceptor = Acceptor(1, [], 0, 0)
    assert acceptor.persisted(Ceiling(100), 0) == []
    assert acceptor.ceiling == 100


def test_the_timer_is_armed_when_the_record_is_durable() -> None:
    """Later than the Accept came, so the acceptor waits a little longer, never less."""
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 700)
    assert acceptor.registers[KEY].remaining_ms(700) == 1_001


def test_a_shorter_duration_of_the_same_holder_does_not_end_its_running_timer() -> None:
    """H20: the holder may not have heard of the shorter one yet, and counts on the longer."""
    acceptor = _accepted()
    (persist,) = acceptor.handle("4", Accept(1, KEY, ballot_of(24), Value(1, ALICE, 100)), 10)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 10)
    assert acceptor.registers[KEY].remaining_ms(10) == 991


def test_a_new_holder_does_not_inherit_the_timer_of_the_old_one() -> None:
    """Bob's short lease ends when it ends."""
    acceptor = _accepted()
    (persist,) = acceptor.handle("4", Accept(1, KEY, ballot_of(24), Value(2, BOB, 100)), 10)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 10)
    assert acceptor.registers[KEY].remaining_ms(10) == 101
