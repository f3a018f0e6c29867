"""One attempt at the edges of its rules: decisions in every field, repeats, refusals, and evidence that comes late."""

import pytest

from leaderlease.errors import InvariantViolated
from leaderlease.paxos.ballot import COUNTER_JUMP_MAX, Ballot
from leaderlease.paxos.lease import Holder, Value, digest
from leaderlease.paxos.messages import Accept, Accepted, Evidence, Live, Nack, Prepare, Promise
from leaderlease.paxos.proposer import (
    Acquire,
    Attempt,
    Decision,
    HandOver,
    Intent,
    Outcome,
    Phase,
    Proposer,
    Vacate,
    Write,
    decide,
)
from leaderlease.paxos.quorum import quorum_of
from support.core import ALICE, BOB, CHARLIE, KEY, ballot_of

HELD = Value(4, ALICE, 1_000, 50, 77)
NEVER = Value(4, ALICE, None, 50, 77)
VACANT = Value(4, None, 1_000)


def _attempt(members: str = "123", number: int = 53, intent: Intent | None = None, nonce: str = BOB.nonce) -> Attempt:
    attempt = Attempt(KEY, ballot_of(number), 1, quorum_of(members), nonce, intent)
    attempt.start()
    return attempt


def _promise(attempt: Attempt, member: str, number: int = 0, value: Value | None = None) -> list[tuple[str, object]]:
    return list(attempt.on_promise(member, Promise(KEY, attempt.ballot, ballot_of(number), value)))


def _live(attempt: Attempt, member: str, number: int, who: Holder) -> list[tuple[str, object]]:
    live = Live(KEY, attempt.ballot, 500, ballot_of(number), Value(1, who, 1_000))
    return list(attempt.on_live(member, live))


# --- what phase 2 may propose -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intent", "seen", "expected"),
    [
        (Acquire(BOB, 2_000, 30, 99), None, Decision(Value(1, BOB, 2_000, 30, 99), True)),
        (Acquire(BOB, 2_000, 30, 99), HELD, Decision(Value(5, BOB, 2_000, 30, 99), True)),
        (Acquire(BOB, 2_000, 30, 99), VACANT, Decision(Value(5, BOB, 2_000, 30, 99), True)),
        (Acquire(BOB, 2_000, 30, 99), NEVER, Decision(NEVER, False)),
        (Acquire(ALICE, 2_000, 30, 99), HELD, Decision(HELD, True)),
        (Acquire(ALICE, 2_000, 30, 99), NEVER, Decision(NEVER, True)),
        (Acquire(ALICE, 2_000, 30, 99, goes_on=4), HELD, Decision(HELD, True)),
        (Acquire(ALICE, 2_000, 30, 99, goes_on=3), HELD, None),
        (Acquire(BOB, 2_000, 30, 99, goes_on=4), HELD, None),
        (HandOver(ALICE.nonce, BOB, 2_000, 30, 99), HELD, Decision(Value(5, BOB, 2_000, 30, 99), True)),
        (HandOver(ALICE.nonce, BOB, None, 30, 99), NEVER, Decision(Value(5, BOB, None, 30, 99), True)),
        (HandOver(CHARLIE.nonce, ALICE, 2_000, 30, 99), HELD, Decision(HELD, True)),
        (HandOver(CHARLIE.nonce, BOB, 2_000, 30, 99), HELD, None),
        (HandOver(ALICE.nonce, BOB, 2_000, 30, 99), None, None),
        (HandOver(ALICE.nonce, BOB, 2_000, 30, 99), VACANT, None),
        (Vacate(ALICE.nonce), NEVER, Decision(Value(4, None, None, 0, 0), True)),
        (Vacate(""), NEVER, Decision(Value(4, None, None, 0, 0), True)),
        (Vacate(""), HELD, Decision(Value(4, None, 1_000, 0, 0), True)),
        (Vacate(BOB.nonce), NEVER, Decision(NEVER, False)),
        (Vacate(BOB.nonce), HELD, None),
        (Vacate(ALICE.nonce), VACANT, None),
        (Vacate(""), VACANT, None),
        (Vacate(""), None, None),
        (Write(b"x"), None, Decision(Value(1, None, None, 0, 0, b"x"), True)),
        (Write(b"x"), Value(4, None, None, body=b"w"), Decision(Value(5, None, None, 0, 0, b"x"), True)),
        (Write(b"x", after=4), Value(4, None, None, body=b"w"), Decision(Value(5, None, None, 0, 0, b"x"), True)),
        (Write(b"x", after=3), Value(4, None, None, body=b"w"), Decision(Value(4, None, None, body=b"w"), False)),
        (Write(b"x", after=0), None, Decision(Value(1, None, None, 0, 0, b"x"), True)),
        (Write(b"x", after=1), None, None),
    ],
)
def test_every_decision_is_the_one_of_the_protocol_in_every_field_r7(
    intent: Intent, seen: Value | None, expected: Decision | None
) -> None:
    """R7, H13, H18, H19, H20: whose value, which term, which duration; and whether the caller gets what it wanted."""
    assert decide(intent, seen) == expected


# --- phase 1 ----------------------------------------------------------------------------------------------------


def test_nothing_is_named_before_it_is_proposed() -> None:
    """A digest names a value: there is none yet, and then it is that of the value and stays."""
    attempt = _attempt()
    assert (attempt.digest, attempt.decision, attempt.intent) == (b"", None, None)
    _promise(attempt, "1")
    _promise(attempt, "2")
    intent = Acquire(BOB, 1_000)
    attempt.propose(intent)
    assert attempt.intent == intent
    assert attempt.digest == digest(Value(1, BOB, 1_000))


def test_a_ballot_that_proposes_again_stops_r3() -> None:
    """R3, H11: in one sentence."""
    attempt = _attempt()
    with pytest.raises(InvariantViolated) as caught:
        attempt.propose(Acquire(BOB, 1_000))
    assert str(caught.value) == "a ballot proposes once, after its promises"


def test_a_member_that_promised_after_all_counts_as_no_guard_r1() -> None:
    """R1: its timer ended, or evidence lifted it; it is not among those that somebody must be waited for."""
    attempt = _attempt("12345")
    _live(attempt, "2", 13, ALICE)
    assert set(attempt.lives) == {"2"}
    _promise(attempt, "2", 13, Value(1, ALICE, 1_000))
    assert attempt.lives == {}
    _live(attempt, "2", 13, ALICE)
    assert attempt.lives == {}, "a late copy of the refusal takes the promise not back"


@pytest.mark.parametrize("what", ["ballot", "member"])
def test_a_guard_of_another_attempt_or_of_a_stranger_says_nothing_r6(what: str) -> None:
    """R6, R8: answers count for the attempt that they name, from members alone."""
    attempt = _attempt()
    ballot = ballot_of(43) if what == "ballot" else attempt.ballot
    live = Live(KEY, ballot, 500, ballot_of(13), Value(1, ALICE, 1_000))
    assert attempt.on_live("9" if what == "member" else "2", live) == []
    assert (attempt.lives, attempt.reported) == ({}, {})


def test_a_guard_that_is_heard_twice_may_still_be_lifted_r1() -> None:
    """R1: only a member that has weighed the evidence is unmoved by it, and a repeat before it has not."""
    attempt = _attempt("123")
    _live(attempt, "2", 13, ALICE)
    _live(attempt, "2", 13, ALICE)
    shown = Prepare(
        1, KEY, ballot_of(53), BOB.nonce, (Evidence(ballot_of(13), ALICE.nonce), Evidence(ballot_of(24), CHARLIE.nonce))
    )
    assert _live(attempt, "3", 24, CHARLIE) == [("2", shown)]
    assert attempt.outcome is None, "2 is asked again, and 1 has not answered"
    _promise(attempt, "1")
    assert attempt.outcome is None, "2 may still promise"


def test_a_guard_of_another_value_is_shown_the_evidence_again_r1() -> None:
    """R1: what stands there now was not weighed yet."""
    attempt = _attempt("123")
    _live(attempt, "2", 13, ALICE)
    (first,) = _live(attempt, "3", 35, CHARLIE)
    assert first[0] == "2"
    (again,) = _live(attempt, "2", 24, BOB)
    assert again == (
        "2",
        Prepare(
            1,
            KEY,
            ballot_of(53),
            BOB.nonce,
            (Evidence(ballot_of(24), BOB.nonce), Evidence(ballot_of(35), CHARLIE.nonce)),
        ),
    )
    assert (attempt.outcome, attempt.unmoved) == (None, set()), "not unmoved: asked again"
    assert _live(attempt, "2", 24, BOB) == []
    assert attempt.unmoved == {"2"}, "now it has weighed it"


def test_guards_and_refusals_together_are_a_refusal() -> None:
    """Somebody else is ahead: waiting for the timers alone would not help."""
    attempt = _attempt("123")
    _live(attempt, "2", 13, ALICE)
    attempt.on_nack("3", Nack(KEY, attempt.ballot, ballot_of(64)))
    assert attempt.outcome is Outcome.PREEMPTED
    guards = _attempt("123")
    _live(guards, "2", 13, ALICE)
    _live(guards, "3", 13, ALICE)
    assert guards.outcome is Outcome.LIVE


def test_a_repeat_of_phase_1_asks_only_those_that_have_not_answered() -> None:
    """A promise, a guard and a refusal are answers; the question is the first one, byte for byte."""
    attempt = _attempt("1234567")
    _promise(attempt, "1")
    _live(attempt, "2", 13, ALICE)
    attempt.on_nack("3", Nack(KEY, attempt.ballot, ballot_of(64)))
    assert attempt.repeat() == [(member, Prepare(1, KEY, ballot_of(53), BOB.nonce)) for member in "4567"]


# --- refusals after phase 1 -------------------------------------------------------------------------------------


def test_a_prepared_ballot_is_lost_when_too_few_promises_are_left() -> None:
    """Phase 1 in advance: a higher ballot at one member of five leaves a majority, at three it does not."""
    attempt = _attempt("12345", nonce="")
    for member in "123":
        _promise(attempt, member)
    assert attempt.phase is Phase.PREPARED
    for member in "12":
        attempt.on_nack(member, Nack(KEY, attempt.ballot, ballot_of(64)))
        assert attempt.outcome is None
    attempt.on_nack("3", Nack(KEY, attempt.ballot, ballot_of(74)))
    assert (attempt.outcome, attempt.phase, attempt.preempted_by) == (Outcome.PREEMPTED, Phase.DONE, ballot_of(74))


def test_who_has_accepted_has_accepted_r6() -> None:
    """R6, H34: a refusal of a repeat, by a member that accepted before, takes its acceptance not back."""
    attempt = _attempt("123", intent=Acquire(BOB, 1_000))
    _promise(attempt, "1")
    _promise(attempt, "3")
    attempt.on_accepted("1", Accepted(KEY, attempt.ballot))
    for member in "12":
        attempt.on_nack(member, Nack(KEY, attempt.ballot, ballot_of(64)))
        assert attempt.outcome is None, "3 may still accept"
    attempt.on_accepted("3", Accepted(KEY, attempt.ballot))
    assert attempt.outcome is Outcome.CHOSEN


def test_an_accepting_ballot_is_lost_when_a_majority_refuses() -> None:
    """The highest ballot that was heard of is the one to go beyond."""
    attempt = _attempt("123", intent=Acquire(BOB, 1_000))
    _promise(attempt, "1")
    _promise(attempt, "3")
    attempt.on_nack("2", Nack(KEY, attempt.ballot, ballot_of(74)))
    assert attempt.outcome is None
    attempt.on_nack("1", Nack(KEY, attempt.ballot, ballot_of(64)))
    assert (attempt.outcome, attempt.preempted_by) == (Outcome.PREEMPTED, ballot_of(74))
    assert attempt.repeat() == []


def test_phase_2_goes_to_all_and_its_repeat_to_the_rest() -> None:
    """The same Accept, to members that have not accepted, whether they promised or not."""
    attempt = _attempt("123", intent=Acquire(BOB, 1_000))
    _promise(attempt, "1")
    sent = _promise(attempt, "3", 13, Value(6, ALICE, 1_000))
    accept = Accept(1, KEY, ballot_of(53), Value(7, BOB, 1_000))
    assert sent == [(member, accept) for member in "123"]
    attempt.on_accepted("2", Accepted(KEY, attempt.ballot))
    assert attempt.repeat() == [("1", accept), ("3", accept)]


# --- ballots ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "expected"),
    [(0, 8), (7, 8), (8, 9), (7 + COUNTER_JUMP_MAX, 8 + COUNTER_JUMP_MAX), (8 + COUNTER_JUMP_MAX, 8)],
)
def test_the_next_ballot_is_above_what_was_seen_unless_that_is_poison_r3(counter: int, expected: int) -> None:
    """R3, H12: never back, and no jump beyond the bound, which belongs to it."""
    proposer = Proposer("1", 3)
    proposer.counter = 7
    proposer.observe(Ballot(counter, "2", 1))
    assert proposer.next_ballot() == Ballot(expected, "1", 3)
