"""R5: after a restart every timer runs anew before anything is answered; a ceiling stands in for promises."""

from leaderlease.paxos.acceptor import CEILING_BLOCK, NEVER, Acceptor, Ceiling, Persist, Record, Respond
from leaderlease.paxos.ballot import ZERO, Ballot, ceiling_ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import (
    Accept,
    Live,
    Nack,
    Peek,
    Peeked,
    Prepare,
    Promise,
    Renewed,
)
from leaderlease.paxos.proposer import Outcome
from support.core import ALICE, BOB, CHARLIE, KEY, World, ballot_of

VALUE = Value(1, ALICE, 1_000)


def _restarted(value: Value | None, now_ms: int = 5_000, promised: Ballot | None = None) -> Acceptor:
    record = Record(KEY, promised or ballot_of(13), ballot_of(13), value)
    return Acceptor(1, [record], 0, now_ms)


def test_h6_a_restarted_node_guards_what_is_on_its_disk_for_the_whole_duration() -> None:
    """It cannot know when it last heard from the holder, so it waits as if that were now."""
    acceptor = _restarted(VALUE)
    assert acceptor.registers[KEY].remaining_ms(5_000) == 1_001
    (reply,) = acceptor.handle("4", Prepare(1, KEY, ballot_of(24), BOB.nonce), 6_000)
    assert isinstance(reply, Respond)
    assert isinstance(reply.reply, Live)


def test_h6_the_duration_is_the_one_on_the_disk_with_its_lock_delay() -> None:
    """Never one from a configuration, which may have changed since."""
    acceptor = _restarted(Value(1, ALICE, 700_000, lock_delay_ms=300))
    assert acceptor.registers[KEY].remaining_ms(5_000) == 700_301


def test_h6_timers_are_armed_also_where_a_newer_promise_stands() -> None:
    """The promise to Bob says nothing about when Alice stops."""
    acceptor = _restarted(VALUE, promised=ballot_of(24))
    assert acceptor.registers[KEY].is_live(5_500)
    (reply,) = acceptor.handle("5", Prepare(1, KEY, ballot_of(35), CHARLIE.nonce), 5_500)
    assert isinstance(reply, Respond)
    assert isinstance(reply.reply, Live)


def test_h6_a_lock_without_an_end_has_none_after_a_restart_either() -> None:
    """The classic lock outlives every restart."""
    acceptor = _restarted(Value(1, ALICE, None))
    assert acceptor.registers[KEY].expires_ms == NEVER
    assert acceptor.registers[KEY].remaining_ms(1 << 50) is None
    assert acceptor.registers[KEY].is_live(1 << 50)


def test_a_register_that_nobody_holds_is_free_after_a_restart() -> None:
    """A tombstone has no timer."""
    acceptor = _restarted(Value(4, None, 1_000))
    assert not acceptor.registers[KEY].is_live(5_000)
    assert acceptor.registers[KEY].remaining_ms(5_000) == 0


def test_h6_in_full_all_nodes_restart_and_bob_waits_a_whole_duration() -> None:
    """Alice believes until her time is up; Bob is not let in before, though every timer was lost."""
    world = World(3)
    alice = world.acquire(1, ALICE)
    assert world.believe(ALICE, alice)
    world.advance(500)
    world.restart(1, 2, 3)
    for _ in range(2):
        bob = world.acquire(2, BOB)
        if bob.outcome is not None and bob.outcome.is_chosen:
            world.believe(BOB, bob)
    assert bob.outcome is Outcome.LIVE
    world.advance(1_001)
    bob = world.acquire(2, BOB)
    assert bob.outcome is Outcome.CHOSEN
    assert world.believe(BOB, bob)


def test_clocks_that_start_again_at_zero_make_no_timer_longer_or_shorter() -> None:
    """No clock reading is stored: after a reboot the duration is counted on the new clock."""
    world = World(1)
    world.acquire(1, ALICE)
    assert world[1].register().expires_ms > 1_000
    world.restart(1)
    assert world[1].clock_ms() == 0
    assert world[1].register().expires_ms == 1_001


def test_h5_the_ceiling_is_asked_for_with_the_first_promise_and_before_it_is_used_up() -> None:
    """Reserved in blocks, early enough that promises need not wait for it."""
    acceptor = Acceptor(1, [], 0, 0)
    effects = acceptor.handle("3", Prepare(1, KEY, ballot_of(13), ""), 0)
    assert effects[1:] == [Persist(Ceiling(1 + CEILING_BLOCK))]
    for effect in effects:
        assert isinstance(effect, Persist)
        acceptor.persisted(effect.record, 0)
    nearly = Ballot(CEILING_BLOCK // 2 + 2, "3", 1)
    effects = acceptor.handle("3", Prepare(1, KEY, nearly, ""), 0)
    assert isinstance(effects[0], Respond), "below the ceiling a promise needs no fsync"
    assert effects[1:] == [Persist(Ceiling(nearly.counter + CEILING_BLOCK))]


def test_h5_a_ceiling_that_is_not_durable_yet_covers_nothing() -> None:
    """Until its commit every promise has a record of its own."""
    acceptor = Acceptor(1, [], 0, 0)
    acceptor.handle("3", Prepare(1, KEY, ballot_of(13), ""), 0)
    effects = acceptor.handle("3", Prepare(1, "l/shop/other", ballot_of(23), ""), 0)
    assert [type(effect) for effect in effects] == [Persist]


def test_h5_after_a_restart_every_register_counts_as_promised_up_to_the_ceiling() -> None:
    """Also the ones that the disk has never heard of, and the ballot that the ceiling names."""
    acceptor = Acceptor(1, [Record(KEY, ballot_of(13), ballot_of(13), VALUE)], 100, 5_000)
    for key in (KEY, "l/shop/unheard-of"):
        top = Ballot(100, "9", 7)
        assert acceptor.handle("9", Prepare(1, key, top, ALICE.nonce), 5_000) == [
            Respond("9", Nack(key, top, ceiling_ballot(100)))
        ]
        low = Ballot(99, "9", 7)
        assert acceptor.handle("9", Accept(1, key, low, VALUE), 5_000) == [
            Respond("9", Nack(key, low, ceiling_ballot(100)))
        ]
        effects = acceptor.handle("9", Prepare(1, key, Ballot(101, "1", 1), ALICE.nonce), 5_000)
        assert isinstance(effects[0], Persist)
    assert acceptor.handle("9", Peek(1, "l/shop/never", 1), 5_000) == [
        Respond("9", Peeked("l/shop/never", 1, ceiling_ballot(100), ZERO, None, 0))
    ]


def test_h5_renewals_below_the_ceiling_are_refused_after_a_restart() -> None:
    """A promise to somebody else may have been forgotten; the holder comes back under a higher ballot."""
    world = World(3)
    alice = world.acquire(1, ALICE)
    assert world.believe(ALICE, alice)
    world.restart(2, 3)
    round_ = world.renew(1, alice)
    world.settle()
    assert round_.acknowledged() == {"1"}
    assert round_.answers["2"] == Renewed(round_.renew.attempt, nacked=(0,))
    again = world.acquire(1, ALICE)
    if again.outcome is Outcome.PREEMPTED:
        again = world.acquire(1, ALICE)
    assert again.outcome is Outcome.CHOSEN
    assert again.decision == alice.decision, "the same nonce: the same value and the same term"


def test_h5_in_full_a_forgotten_promise_does_not_let_two_ballots_decide() -> None:
    """Alice prepared at A and B, Bob at B and C; B restarts, and Alice's accepts come late: one of them wins."""
    world = World(3)
    world.prepare_ahead(3, "l/shop/other")
    world.settle()  # Every node has a ceiling now, so that promises below it are volatile.
    alice = world.ask(1, ALICE)
    world.deliver(Prepare, to={1, 2})
    world.drop(Prepare)
    world.deliver(Promise)
    late = [e for e in world.wire if isinstance(e.message, Accept)]
    world.wire.clear()
    bob = world.ask(3, BOB)
    world.deliver(Prepare, to={2, 3})
    world.drop(Prepare)
    world.deliver(Promise)
    world.restart(2)
    world.wire, kept = late, world.wire
    world.settle(among={1, 2})
    world.wire = kept
    world.settle(among={2, 3})
    assert alice.outcome is not Outcome.CHOSEN
    assert bob.outcome is not Outcome.CHOSEN, "the ceiling refuses both, and both may ask again"
    assert world[2].accepted() == (0, "")


def test_a_restart_while_a_promise_was_on_its_way_to_the_disk_forgets_it_harmlessly() -> None:
    """Nobody was told."""
    world = World(3)
    world[2].disk.is_manual = True
    alice = world.ask(1, ALICE)
    world.deliver(Prepare)
    world.restart(2)
    assert not world[2].acceptor.registers
    world[2].disk.is_manual = False
    world.settle()
    assert alice.outcome is Outcome.CHOSEN
    assert alice.promises == {"1", "3"}


def test_nothing_that_arrives_before_the_first_fsync_of_a_new_life_finds_an_open_door() -> None:
    """The first messages after a restart, Prepares of a stranger: a low ballot meets the ceiling, a high one the guard.

    Its disk does nothing in this life, so whatever is answered stood before the first message.
    """
    world = World(3)
    world.acquire(1, ALICE)
    world.advance(5_000)
    world.restart(3)
    world[3].disk.is_manual = True
    low = world.ask(2, BOB)
    world.deliver(Prepare, to={3})
    world.deliver(Nack, source=3)
    assert low.preempted_by == ceiling_ballot(world[3].disk.ceiling)
    high = world.ask(2, BOB)
    assert high.ballot > low.preempted_by
    world.deliver(Prepare, to={3})
    world.deliver((Live, Promise), source=3)
    assert high.lives["3"].value.holder == ALICE
    assert high.lives["3"].remaining_ms == 1_001
    assert not high.promises
    assert not world[3].disk.queue, "nothing was written for a stranger"
