"""Ballots at their edges; their rule is R3 (``rules/test_r3.py``)."""

import pytest

from leaderlease.errors import RemoteProtocolError
from leaderlease.paxos.ballot import COUNTER_JUMP_MAX, COUNTER_MAX, ZERO, Ballot, ceiling_ballot, check_ballot


def test_a_ballot_is_written_short() -> None:
    """Eight characters of a uuid are enough for people."""
    assert str(Ballot(7, "0123456789abcdef", 2)) == "7.01234567.2"


def test_a_ceiling_stands_between_two_counters() -> None:
    """R5: above every ballot with its counter, below every ballot with the next; 0 is no ceiling at all."""
    assert ceiling_ballot(0) == ZERO
    assert ceiling_ballot(7) == Ballot(8, "", 0)
    assert Ballot(7, "~", 2**63) < ceiling_ballot(7) < Ballot(8, "0", 0)


@pytest.mark.parametrize("counter", [1, COUNTER_JUMP_MAX + 5])
def test_counters_within_the_jump_are_taken(counter: int) -> None:
    """R3: both ends belong to it."""
    check_ballot(Ballot(counter, "1", 1), 5)


def test_the_largest_counter_is_taken_where_it_is_no_jump() -> None:
    """R3: the bound of the format."""
    check_ballot(Ballot(COUNTER_MAX, "1", 1), COUNTER_MAX - 1)
    with pytest.raises(RemoteProtocolError):
        check_ballot(Ballot(COUNTER_MAX + 1, "1", 1), COUNTER_MAX)


@pytest.mark.parametrize(
    "ballot", [Ballot(0, "1", 1), Ballot(-1, "1", 1), Ballot(COUNTER_JUMP_MAX + 6, "1", 1), Ballot(3, "", 1)]
)
def test_what_no_member_sends_is_refused_in_one_sentence(ballot: Ballot) -> None:
    """R3, H12: the ballot, and what it may be."""
    with pytest.raises(RemoteProtocolError) as caught:
        check_ballot(ballot, 5)
    assert str(caught.value) == f"ballot {ballot}: the counter must lie in [1, 5 + 2^32] and a member must be named"
