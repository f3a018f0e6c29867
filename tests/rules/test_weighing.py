"""H21, H34: what a quorum read counts (``node/reads.py``), and what a set of answers amounts to."""

from typing import Any

import pytest

from leaderlease.node.reads import READ_TIMEOUT_MS, Reading, ReadState, weigh
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Peek, Peeked
from leaderlease.paxos.quorum import quorum_of
from support.core import ALICE, BOB, ballot_of
from support.nodes import KEY, Cluster

VALUE = Value(1, ALICE, 1_000)
FOREVER = Value(1, ALICE, None)


def _peeked(number: int, value: Value | None, remaining_ms: int | None = 500, *, request: int = 1) -> Peeked:
    ballot = ballot_of(number)
    return Peeked(KEY, request, ballot, ballot, value, remaining_ms)


def _read(cluster: Cluster, member: int = 1) -> tuple[int, list[Reading]]:
    """Begin a read that nobody answers; return its number, and a list that gets the reading."""
    numbers: list[int] = []

    def ask(source: str, target: str, message: Any) -> bool:
        if isinstance(message, Peek):
            numbers.append(message.request)
        return isinstance(message, Peek)

    cluster.loses = ask
    readings: list[Reading] = []
    cluster[member].sessions.reads.read(KEY, readings.append)
    return numbers[0], readings


def test_h34_an_answer_of_no_member_counts_for_no_read() -> None:
    """Nor does one that names another register, or another read: with its own, node 1 has one answer of three."""
    cluster = Cluster()
    number, readings = _read(cluster)
    answer = _peeked(13, VALUE, request=number)
    for origin, message in (
        ("9", answer),
        ("8", answer),
        ("2", Peeked("l/shop/other", number, answer.promised, answer.accepted, VALUE, 500)),
        ("2", _peeked(13, VALUE, request=number + 1)),
    ):
        cluster[1].driver.on_message(origin, message)
    cluster.run(READ_TIMEOUT_MS)
    assert [(reading.state, reading.answered) for reading in readings] == [(ReadState.UNAVAILABLE, frozenset("1"))]


def test_h21_a_read_that_not_all_answer_ends_with_what_it_has() -> None:
    """Two of three say the same, and the third hangs: that is a majority; one alone is none, when its time is up."""
    cluster = Cluster()
    number, readings = _read(cluster)
    cluster.run(READ_TIMEOUT_MS - 1)
    assert readings == []
    cluster.run(1)
    assert [reading.state for reading in readings] == [ReadState.UNAVAILABLE]
    cluster[1].driver.on_message("2", _peeked(13, VALUE, request=number))
    cluster[1].driver.on_message("3", _peeked(13, VALUE, request=number))
    assert len(readings) == 1, "what comes later is for nobody"


def test_h16_answers_to_reads_of_an_earlier_life_are_for_no_read_of_the_next() -> None:
    """Numbers differ between two lives of a node, as attempts do."""
    cluster = Cluster()
    first, _ = _read(cluster)
    cluster.restart(1)
    second, _ = _read(cluster)
    assert first != second


def test_a_proposer_counts_on_from_what_a_read_has_shown_r3() -> None:
    """R3: the next ballot is above the promise that some member reported, so it is not refused there."""
    cluster = Cluster()
    number, _ = _read(cluster)
    cluster[1].driver.on_message("2", Peeked(KEY, number, Ballot(70, "3", 1), ZERO, None, 0))
    assert cluster[1].driver.proposer.next_ballot().counter > 70


def test_h21_one_ballot_with_two_values_is_not_chosen() -> None:
    """It is proof of a bug, and no reading."""
    answers = {"1": _peeked(13, VALUE), "2": _peeked(13, Value(1, BOB, 1_000))}
    assert weigh(answers, quorum_of("123")).state is ReadState.IN_TRANSITION


def test_h21_in_transition_the_highest_one_is_shown() -> None:
    """In whatever order the answers came."""
    low, high = _peeked(13, VALUE), _peeked(24, Value(2, BOB, 1_000))
    for answers in ({"1": low, "2": high}, {"1": high, "2": low}):
        assert weigh(answers, quorum_of("123")).value == Value(2, BOB, 1_000)


@pytest.mark.parametrize("remaining_ms", [None, 0])
def test_a_lock_without_an_end_is_vacant_only_when_it_was_let_go(remaining_ms: int | None) -> None:
    """H21: no time ends it, so nothing remaining is known; that is not nothing remaining."""
    answers = {"1": _peeked(13, FOREVER, remaining_ms), "2": _peeked(13, FOREVER, remaining_ms)}
    reading = weigh(answers, quorum_of("123"))
    assert (reading.is_vacant, reading.remaining_ms) == (remaining_ms == 0, remaining_ms)


def test_h29_while_joint_both_sets_must_have_let_go_before_a_lease_counts_as_vacant() -> None:
    """R8: the old members have, two of the three new ones guard: in either order of the sets."""
    answers = {member: _peeked(13, VALUE, 0) for member in "123"}
    answers |= {member: _peeked(13, VALUE, 400) for member in "456"}
    for groups in (("123", "456"), ("456", "123")):
        reading = weigh(answers, quorum_of(*groups))
        assert (reading.is_vacant, reading.remaining_ms) == (False, 400)


def test_h21_too_few_answers_make_no_lease_vacant() -> None:
    """While joint a majority of both sets is needed, also for a no."""
    answers = {member: _peeked(13, VALUE, 0) for member in "12"}
    reading = weigh(answers, quorum_of("123", "456"))
    assert (reading.state, reading.is_vacant) == (ReadState.UNAVAILABLE, False)
