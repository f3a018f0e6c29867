"""R1: the guard, a live timer of another nonce, stands in Prepare and only there; evidence may lift it."""

import pytest

from leaderlease.paxos.acceptor import Acceptor, Persist, Respond
from leaderlease.paxos.ballot import ZERO
from leaderlease.paxos.lease import Holder, Value
from leaderlease.paxos.messages import Accept, Accepted, Evidence, Live, Nack, Peek, Prepare, Promise
from leaderlease.paxos.proposer import Acquire, Attempt, Outcome, Phase
from leaderlease.paxos.quorum import quorum_of
from support.core import ALICE, BOB, CHARLIE, DAVE, KEY, World, ballot_of, holder, number_of

VALUE = Value(1, ALICE, 1_000)


def _acceptor_with(value: Value = VALUE, number: int = 13, now_ms: int = 0) -> Acceptor:
    """Return an acceptor that has just accepted ``value`` under ``number``, durably."""
    acceptor = Acceptor(1, [], 0, now_ms)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(number), value), now_ms)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, now_ms)
    return acceptor


def _ask(acceptor: Acceptor, number: int, who: Holder, now_ms: int, seen: tuple[Evidence, ...] = ()) -> object:
    """Prepare, complete the disk, and return the reply."""
    effects = acceptor.handle("4", Prepare(1, KEY, ballot_of(number), who.nonce, seen), now_ms)
    while not isinstance(effects[0], Respond):
        assert isinstance(effects[0], Persist)
        effects = acceptor.persisted(effects[0].record, now_ms)
    return effects[0].reply


def test_h9_a_live_timer_of_another_nonce_refuses_a_higher_ballot() -> None:
    """A contender cannot raise the promise under a holder, however high its ballot."""
    acceptor = _acceptor_with()
    reply = _ask(acceptor, 24, BOB, now_ms=500)
    assert reply == Live(KEY, ballot_of(24), 501, ballot_of(13), VALUE)
    assert acceptor.registers[KEY].promised == ballot_of(13), "the holder's renewals go on being acknowledged"


def test_the_guard_ends_with_the_timer_and_not_a_millisecond_sooner() -> None:
    """Acceptors wait the whole duration, rounded up (H20)."""
    assert isinstance(_ask(_acceptor_with(), 24, BOB, now_ms=1_000), Live)
    assert isinstance(_ask(_acceptor_with(), 24, BOB, now_ms=1_001), Promise)


def test_the_lock_delay_is_waited_on_top() -> None:
    """After an unclean loss others wait the duration and the lock delay."""
    value = Value(1, ALICE, 1_000, lock_delay_ms=500)
    assert isinstance(_ask(_acceptor_with(value), 24, BOB, now_ms=1_500), Live)
    assert isinstance(_ask(_acceptor_with(value), 24, BOB, now_ms=1_501), Promise)


def test_the_holders_own_nonce_passes_the_guard() -> None:
    """Another node that serves the same holder may prepare at any time."""
    assert isinstance(_ask(_acceptor_with(), 24, ALICE, now_ms=1), Promise)


def test_the_guard_has_no_holder_to_protect_after_a_release() -> None:
    """A value that nobody holds guards nothing."""
    acceptor = _acceptor_with(Value(1, None, 1_000))
    assert isinstance(_ask(acceptor, 24, BOB, now_ms=1), Promise)


def test_a_prepare_for_nobody_meets_the_guard() -> None:
    """Phase 1 in advance, with an empty nonce, is a stranger to every holder (H14)."""
    assert isinstance(_ask(_acceptor_with(), 24, Holder("", "", ""), now_ms=1), Live)


def test_h15_the_guard_does_not_stand_in_accept() -> None:
    """A minority with a longer timer must not block what a majority of promises allowed."""
    acceptor = _acceptor_with()
    bob = Value(2, BOB, 1_000)
    (persist,) = acceptor.handle("4", Accept(1, KEY, ballot_of(24), bob), 1)
    assert isinstance(persist, Persist)
    assert acceptor.persisted(persist.record, 1) == [Respond("4", Accepted(KEY, ballot_of(24)))]


def test_h8_a_peek_is_no_promise_the_decision_is_made_in_prepare() -> None:
    """Bob peeks and sees a lease that has run out; Alice renews; his Prepare is refused all the same."""
    world = World(3)
    alice = world.acquire(1, ALICE)
    world.advance(1_002)
    for target in world.nodes:
        world.send("2", target, Peek(1, KEY, 1))
    world.settle()
    assert [peeked.remaining_ms for peeked in world[2].peeks.values()] == [0, 0, 0]
    # The timers have run out, yet nobody else came: a late renewal still restarts them.
    sent_ms = world.now_ms
    assert world.renew(1, alice)
    world.settle()
    assert world.believe(ALICE, alice, sent_ms)
    assert world.acquire(2, BOB).outcome is Outcome.LIVE


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (Evidence(ballot_of(24), ALICE.nonce), "the holder's own higher ballot: it prepared again and lives on"),
        (Evidence(ballot_of(12), BOB.nonce), "a ballot below the accepted one proves nothing"),
        (Evidence(ballot_of(13), BOB.nonce), "nor does the same ballot"),
        (Evidence(ballot_of(35), BOB.nonce), "nor does the asking ballot itself"),
        (Evidence(ballot_of(45), BOB.nonce), "nor does one above the asking ballot"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_evidence_that_proves_nothing_lifts_no_guard(pair: Evidence, why: str) -> None:
    """Each of these readings breaks exclusion (checked with TLC: ``seensame``, ``seenlower``)."""
    assert isinstance(_ask(_acceptor_with(), 35, CHARLIE, 1, (pair,)), Live), why


def test_a_higher_accepted_ballot_of_another_nonce_lifts_the_guard() -> None:
    """Bob's 24 could only be accepted after a majority had let go of Alice's 13."""
    pair = Evidence(ballot_of(24), BOB.nonce)
    assert isinstance(_ask(_acceptor_with(), 35, CHARLIE, 1, (pair,)), Promise)


def test_two_half_finished_attempts_do_not_block_each_other() -> None:
    """Alice's 11 on one node, Bob's 12 on another, timers running: Charlie gets in, with the next term.

    Without ``seen``, two of three nodes would refuse until the timers end, and for ever if the locks never do.
    """
    world = _two_half_finished(1_000)
    charlie = world.acquire(3, CHARLIE)
    assert charlie.outcome is Outcome.CHOSEN
    assert charlie.decision is not None
    assert (charlie.decision.value.holder, charlie.decision.value.term) == (CHARLIE, 2)


def test_two_half_finished_classic_locks_do_not_block_each_other_for_ever() -> None:
    """The highest one is completed for whom it names; the one who asked gets nothing."""
    world = _two_half_finished(None)
    charlie = world.acquire(3, CHARLIE)
    assert charlie.outcome is Outcome.COMPLETED
    assert [world[n].accepted()[1] for n in (1, 2, 3)] == ["bob"] * 3


def _two_half_finished(duration_ms: int | None) -> World:
    world = World(3, duration_ms)
    for member, who, promise in ((1, ALICE, {1, 3}), (2, BOB, {2, 3})):
        world.ask(member, who)
        world.deliver(Prepare, to=promise)
        world.drop(Prepare)
        world.deliver((Promise, Nack))
        world.deliver(Accept, to={member})
        world.drop()
    assert [world[n].accepted()[1] for n in (1, 2, 3)] == ["alice", "bob", ""]
    return world


def test_the_evidence_that_a_proposer_shows_is_what_was_accepted_and_not_what_was_promised() -> None:
    """A promise alone proves nothing (checked with TLC: ``seenpromise``)."""
    attempt = Attempt(KEY, ballot_of(35), 1, quorum_of("12345"), DAVE.nonce, Acquire(DAVE, 1_000))
    attempt.start()
    attempt.on_promise("5", Promise(KEY, ballot_of(35), ZERO, None))
    again = attempt.on_live("1", Live(KEY, ballot_of(35), 900, ballot_of(13), VALUE))
    assert again == [], "there is nothing that would move node 1"
    again = attempt.on_live("2", Live(KEY, ballot_of(35), 900, ballot_of(24), Value(1, BOB, 1_000)))
    assert again == [
        (
            "1",
            Prepare(
                1,
                KEY,
                ballot_of(35),
                DAVE.nonce,
                (Evidence(ballot_of(13), ALICE.nonce), Evidence(ballot_of(24), BOB.nonce)),
            ),
        )
    ]


def test_guards_without_end_refuse_when_all_that_can_be_asked_have_answered() -> None:
    """The last one may be the one that lifts them; without it the attempt ends at once."""
    attempt = Attempt(KEY, ballot_of(35), 1, quorum_of("123"), DAVE.nonce, Acquire(DAVE, None), frozenset("123"))
    attempt.start()
    endless = Value(1, ALICE, None)
    for member, outcome in (("1", None), ("2", None), ("3", Outcome.LIVE)):
        assert attempt.on_live(member, Live(KEY, ballot_of(35), None, ballot_of(13), endless)) == []
        assert attempt.outcome is outcome


def test_evidence_is_shown_once_and_then_the_refusals_count() -> None:
    """A guard that weighed the evidence and stands is an answer: the attempt ends instead of asking for ever."""
    ballot = ballot_of(35)
    attempt = Attempt(KEY, ballot, 1, quorum_of("123"), DAVE.nonce, Acquire(DAVE, 1_000))
    attempt.start()
    assert attempt.on_live("1", Live(KEY, ballot, 900, ballot_of(11), VALUE)) == []
    assert len(attempt.on_live("2", Live(KEY, ballot, 900, ballot_of(22), Value(1, BOB, 1_000)))) == 1
    assert attempt.phase is Phase.PREPARING
    assert attempt.on_live("1", Live(KEY, ballot, 800, ballot_of(11), VALUE)) == []
    assert attempt.outcome is Outcome.LIVE


def test_a_live_holder_on_a_majority_ends_the_attempt_at_once() -> None:
    """Nothing is proposed and the caller learns who holds, and for how long yet."""
    world = World(5)
    world.acquire(3, ALICE)
    world.advance(400)
    bob = world.acquire(4, BOB)
    assert bob.outcome is Outcome.LIVE
    assert {live.remaining_ms for live in bob.lives.values()} == {601}
    assert [world[n].promised() for n in range(1, 6)] == [13] * 5


def test_a_holder_that_prepared_again_is_still_guarded_at_the_others() -> None:
    """Alice's second ballot reached one node only; at the other two her first lease lives on, and Bob waits.

    Her own higher ballot, taken as evidence, would let Bob in beside her.
    """
    world = World(3)
    alice = world.acquire(1, ALICE)
    assert world.believe(ALICE, alice)
    world.ask(2, ALICE)
    world.deliver(Prepare, to={2, 3})
    world.drop(Prepare)
    world.deliver(Promise)
    world.deliver(Accept, to={2})
    world.drop()
    assert world[2].accepted() == (22, "alice")
    bob = world.acquire(3, BOB)
    assert bob.outcome is Outcome.LIVE
    assert number_of(bob.seen()[0]) == 22


def test_a_name_is_no_identity_h19() -> None:
    """R7, H19: a new process of the same name has another nonce and meets the guard like any stranger."""
    world = World(3)
    world.acquire(1, ALICE)
    assert world.acquire(2, holder("alice", life=2)).outcome is Outcome.LIVE
