"""R2: a renewal is a phase-2 message, acknowledged only for the durable value under an unbroken promise."""

import pytest

from leaderlease.paxos.acceptor import Acceptor, Persist
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value, digest
from leaderlease.paxos.messages import (
    Accept,
    Accepted,
    Prepare,
    Release,
    Renew,
    Renewed,
    RenewItem,
)
from leaderlease.paxos.proposer import Outcome
from support.core import ALICE, BOB, KEY, World, ballot_of

VALUE = Value(1, ALICE, 1_000)


def _accept(acceptor: Acceptor, ballot: Ballot, value: Value, now_ms: int = 0, key: str = KEY) -> None:
    (persist,) = acceptor.handle(ballot.member, Accept(1, key, ballot, value), now_ms)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, now_ms)


def _renew(ballot: Ballot, value: Value, attempt: int = 7, epoch: int = 1) -> Renew:
    item = RenewItem(KEY, ballot.counter, digest(value))
    return Renew(epoch, attempt, ballot.member, ballot.incarnation, (item,))


def _holding() -> Acceptor:
    acceptor = Acceptor(1, [], 0, 0)
    _accept(acceptor, ballot_of(13), VALUE)
    return acceptor


def test_a_renewal_of_what_is_durable_restarts_the_timer_and_writes_nothing() -> None:
    """The answer is at once; the whole duration runs again from now."""
    acceptor = _holding()
    assert acceptor.renew(_renew(ballot_of(13), VALUE), 600) == Renewed(7)
    assert acceptor.registers[KEY].remaining_ms(600) == 1_001


def test_a_renewal_never_shortens_a_timer() -> None:
    """A clock that is read late on another path cannot take time away."""
    acceptor = _holding()
    acceptor.renew(_renew(ballot_of(13), VALUE), 600)
    acceptor.renew(_renew(ballot_of(13), VALUE), 500)
    assert acceptor.registers[KEY].remaining_ms(600) == 1_001


def test_h1_a_renewal_below_a_newer_promise_is_refused() -> None:
    """Once a node has promised 24 to another, Alice's 13 must not restart its timer."""
    acceptor = _holding()
    _prepare_and_promise(acceptor, 24, BOB.nonce, 1_001)
    assert acceptor.renew(_renew(ballot_of(13), VALUE), 1_001) == Renewed(7, nacked=(0,))
    assert not acceptor.registers[KEY].is_live(1_001), "nothing was restarted"


def _prepare_and_promise(acceptor: Acceptor, number: int, nonce: str, now_ms: int) -> None:
    effects = acceptor.handle("4", Prepare(1, KEY, ballot_of(number), nonce), now_ms)
    for effect in effects:
        if isinstance(effect, Persist):
            acceptor.persisted(effect.record, now_ms)
    assert acceptor.registers[KEY].promised == ballot_of(number)


def test_h1_a_promise_to_the_holder_itself_refuses_renewals_of_its_old_ballot_too() -> None:
    """Whoever decides next does so under the new ballot: the old one is over."""
    acceptor = _holding()
    _prepare_and_promise(acceptor, 24, ALICE.nonce, 10)
    assert acceptor.renew(_renew(ballot_of(13), VALUE), 20) == Renewed(7, nacked=(0,))


def test_h1_in_full_alice_renews_where_bob_was_promised_and_does_not_get_through() -> None:
    """Node 2 promised Bob, Alice renews at 1 and 2, node 3 lets go: both would believe at the same instant."""
    world = World(3)
    alice = world.acquire(1, ALICE)
    world.advance(600)
    sent_ms = world.now_ms
    world.renew(1, alice)
    world.settle(among={1, 3})
    assert world.believe(ALICE, alice, sent_ms)
    world.advance(402)
    bob = world.ask(2, BOB)
    assert world.deliver(Prepare, to={2}) == 1
    assert world[2].promised() == 22, "the timer of node 2 was not renewed, so it lets Bob in"
    world.advance(498)
    round_ = world.renew(1, alice)
    world.deliver(Renew, to={1, 2})
    world.drop(Renew)
    world.deliver(Renewed)
    assert round_.acknowledged() == {"1"}, "no majority: Alice stops when her last renewal ends"
    world.advance(102)
    world.deliver(Prepare, to={3})
    world.settle(among={2, 3})
    assert bob.outcome is Outcome.CHOSEN
    assert world.believe(BOB, bob)


@pytest.mark.parametrize(
    ("ballot", "value"),
    [
        (ballot_of(13), Value(1, ALICE, 2_000)),
        (ballot_of(13), Value(1, BOB, 1_000)),
        (ballot_of(23), VALUE),
        (ballot_of(14), VALUE),
        (Ballot(1, "3", 2), VALUE),
    ],
    ids=["other duration", "other holder", "other counter", "other member", "other incarnation"],
)
def test_h2_a_renewal_of_anything_but_the_durable_value_is_not_acknowledged(ballot: Ballot, value: Value) -> None:
    """H2, H20: ballot, holder and duration must all be what is on the disk: NEED_VALUE, and no timer moves."""
    acceptor = _holding()
    assert acceptor.renew(_renew(ballot, value), 600) == Renewed(7, unknown=(0,))
    assert acceptor.registers[KEY].remaining_ms(600) == 401


def test_h2_a_member_that_never_had_the_value_asks_for_it_and_counts_only_after_it_is_durable() -> None:
    """Alice is held by nodes 1 and 2; node 3 says NEED_VALUE, gets the Accept, and then acknowledges."""
    world = World(3)
    alice = world.ask(1, ALICE)
    world.settle(among={1, 2})
    round_ = world.renew(1, alice)
    world.settle()
    assert round_.acknowledged() == {"1", "2"}
    assert round_.answers["3"].unknown == (0,)
    assert world[3].accepted() == (0, ""), "a renewal stores nothing"
    assert alice.decision is not None
    world.send("1", "3", Accept(1, KEY, alice.ballot, alice.decision.value))
    world.settle()
    round_ = world.renew(1, alice)
    world.settle()
    assert round_.acknowledged() == {"1", "2", "3"}


def test_h2_a_renewal_cannot_bring_a_value_to_a_disk_that_restarts_without_it() -> None:
    """Alice is held at 1 and 2 and renews at 2 and 3; node 3 restarts with nothing and elects Bob with node 1."""
    world = World(3)
    alice = world.ask(1, ALICE)
    world.settle(among={1, 2})
    assert world.believe(ALICE, alice)
    world.advance(900)
    round_ = world.renew(1, alice)
    world.deliver(Renew, to={2, 3})
    world.drop(Renew)
    world.deliver(Renewed)
    assert not world.quorum.is_met(round_.acknowledged())
    world.restart(3)
    world.advance(200)
    for _ in range(2):
        bob = world.ask(3, BOB)
        world.settle(among={1, 3})
    assert bob.outcome is Outcome.CHOSEN
    assert world.believe(BOB, bob)


def test_h3_a_renewal_is_not_acknowledged_while_a_record_of_the_register_is_under_way() -> None:
    """Only the durable image counts: before the fsync the new value does not exist, nor is the old one safe."""
    acceptor = _holding()
    acceptor.handle("4", Accept(1, KEY, ballot_of(24), Value(1, ALICE, 1_000)), 10)
    assert acceptor.renew(_renew(ballot_of(24), VALUE), 20) == Renewed(7, unknown=(0,))
    assert acceptor.renew(_renew(ballot_of(13), VALUE), 20) == Renewed(7, unknown=(0,))
    assert acceptor.registers[KEY].remaining_ms(20) == 981


def test_h3_a_renewal_before_the_first_fsync_finds_nothing() -> None:
    """An Accept whose fsync is still running is not held."""
    acceptor = Acceptor(1, [], 0, 0)
    acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    assert acceptor.renew(_renew(ballot_of(13), VALUE), 1) == Renewed(7, unknown=(0,))


def test_a_renewal_of_an_unknown_register_says_so() -> None:
    """It neither fails nor makes a register."""
    acceptor = Acceptor(1, [], 0, 0)
    assert acceptor.renew(_renew(ballot_of(13), VALUE), 1) == Renewed(7, unknown=(0,))
    assert acceptor.registers == {}


def test_h34_each_item_of_a_batch_has_an_answer_of_its_own() -> None:
    """One refused item among three is named; the two others are renewed."""
    acceptor = Acceptor(1, [], 0, 0)
    for key in ("l/a/a", "l/a/b"):
        _accept(acceptor, ballot_of(13), VALUE, key=key)
    items = tuple(RenewItem(key, 1, digest(VALUE)) for key in ("l/a/a", "l/a/missing", "l/a/b"))
    assert acceptor.renew(Renew(1, 9, "3", 1, items), 500) == Renewed(9, unknown=(1,))
    assert [acceptor.registers[key].remaining_ms(500) for key in ("l/a/a", "l/a/b")] == [1_001] * 2


def test_h23_a_late_copy_of_a_renewal_after_a_release_costs_time_and_nothing_else() -> None:
    """The duplicate restarts the timer; the next holder waits a duration more, and safety is untouched."""
    world = World(3)
    alice = world.acquire(1, ALICE)
    world.renew(1, alice)
    late = [e for e in world.wire if isinstance(e.message, Renew)]
    world.settle()
    world.referee.let_go(ALICE.nonce, KEY)
    world.release(1, alice)
    world.settle()
    for envelope in late:
        world.deliver_one(envelope)
    world.drop(Renewed)
    assert world.acquire(2, BOB).outcome is Outcome.LIVE
    world.advance(1_002)
    bob = world.acquire(2, BOB)
    assert bob.outcome is Outcome.CHOSEN
    assert world.believe(BOB, bob)


def test_h23_a_release_stops_only_the_timer_of_exactly_this_value() -> None:
    """A release that comes late, after the holder changed, does not touch the new one."""
    acceptor = _holding()
    bob = Value(2, BOB, 1_000)
    _accept(acceptor, ballot_of(24), bob)
    assert not acceptor.release(Release(1, KEY, ballot_of(13), digest(VALUE)))
    assert not acceptor.release(Release(1, KEY, ballot_of(24), digest(VALUE)))
    assert not acceptor.release(Release(2, KEY, ballot_of(24), digest(bob))), "another epoch"
    assert acceptor.registers[KEY].is_live(10)
    assert acceptor.release(Release(1, KEY, ballot_of(24), digest(bob)))
    assert not acceptor.registers[KEY].is_live(10)


def test_a_volatile_release_does_not_end_a_lock_without_an_end() -> None:
    """It would come back with a restart: such a lock is given back by a durable write."""
    acceptor = Acceptor(1, [], 0, 0)
    value = Value(1, ALICE, None)
    _accept(acceptor, ballot_of(13), value)
    assert not acceptor.release(Release(1, KEY, ballot_of(13), digest(value)))
    assert acceptor.registers[KEY].is_live(1 << 50)


def test_an_exact_repeat_of_an_accept_restarts_the_timer_without_the_disk() -> None:
    """A repeated Accept is a renewal with the value in it."""
    acceptor = _holding()
    (reply,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 600)
    assert getattr(reply, "reply", None) == Accepted(KEY, ballot_of(13))
    assert acceptor.registers[KEY].remaining_ms(600) == 1_001


def test_promises_of_phase_1_are_not_renewals() -> None:
    """A Promise to the holder's own new ballot arms nothing."""
    acceptor = _holding()
    _prepare_and_promise(acceptor, 24, ALICE.nonce, 600)
    assert acceptor.registers[KEY].remaining_ms(600) == 401
