"""What a set of answers means, and how it is said; the rules that rest on it are in ``rules/``."""

import pytest

from leaderlease.errors import ConfigError
from leaderlease.paxos.quorum import Quorum, Tally, quorum_of


@pytest.mark.parametrize(
    ("yes", "no", "expected"),
    [
        ("", "", Tally.PENDING),
        ("12", "", Tally.PENDING),
        ("123", "45", Tally.WON),
        ("12", "34", Tally.PENDING),
        ("12", "345", Tally.LOST),
        ("", "123", Tally.LOST),
        ("", "12", Tally.PENDING),
        ("12", "123", Tally.PENDING),
        ("1", "xyz", Tally.PENDING),
        ("xyz", "", Tally.PENDING),
    ],
)
def test_a_tally_says_what_can_still_become_of_an_attempt(yes: str, no: str, expected: Tally) -> None:
    """R6, H34: who said yes once has said yes, and strangers say nothing."""
    assert quorum_of("12345").tally(yes, no) is expected


@pytest.mark.parametrize(
    ("yes", "no", "expected"),
    [("23", "", Tally.PENDING), ("2345", "", Tally.WON), ("", "12", Tally.LOST), ("", "56", Tally.PENDING),
     ("", "456", Tally.LOST)],
)  # fmt: skip
def test_a_joint_tally_is_lost_with_either_set(yes: str, no: str, expected: Tally) -> None:
    """R8, H29: both sets must yield a majority, so either can refuse."""
    assert quorum_of("123", "23456").tally(yes, no) is expected


@pytest.mark.parametrize(
    ("healthy", "groups", "expected"),
    [
        ("12345", ("12345",), 2),
        ("1234", ("12345",), 1),
        ("123", ("12345",), 0),
        ("12", ("12345",), -1),
        ("", ("12345",), -3),
        ("1xyz", ("1",), 0),
        ("1234", ("123", "3456"), -1),
        ("123456", ("123", "123456"), 1),
    ],
)
def test_how_many_may_still_fail(healthy: str, groups: tuple[str, ...], expected: int) -> None:
    """The set that is worse off decides."""
    assert quorum_of(*groups).can_lose(healthy) == expected


@pytest.mark.parametrize(
    ("answered", "groups", "text"),
    [
        ("12", ("12345",), "2 of 5 nodes answer, 3 are needed"),
        ("1", ("123",), "1 of 3 nodes answers, 2 are needed"),
        ("", ("123",), "0 of 3 nodes answer, 2 are needed"),
        ("x", ("1",), "0 of 1 nodes answer, 1 is needed"),
        ("12", ("123", "456"), "0 of 3 nodes answer, 2 are needed"),
        ("45", ("123", "456"), "0 of 3 nodes answer, 2 are needed"),
        ("1236", ("12345", "678"), "1 of 3 nodes answers, 2 are needed"),
        ("16", ("123", "67"), "1 of 3 nodes answers, 2 are needed"),
        ("12", ("1", "12345"), "2 of 5 nodes answer, 3 are needed"),
        ("12", ("12345", "1"), "2 of 5 nodes answer, 3 are needed"),
    ],
)
def test_what_is_missing_is_said_in_words(answered: str, groups: tuple[str, ...], text: str) -> None:
    """Of two sets the one that lacks more; one node answers, two answer; one is needed, two are."""
    assert quorum_of(*groups).missing(answered) == text


def test_members_are_listed_in_one_order_by_everybody() -> None:
    """Whatever the order and the number of the sets."""
    assert quorum_of("31", "42").ordered == tuple("1234")
    assert quorum_of("31", "42").members == frozenset("1234")


@pytest.mark.parametrize("groups", [(), ("",), ("123", "")])
def test_a_quorum_needs_a_member_in_each_set(groups: tuple[str, ...]) -> None:
    """Nobody is no majority of nobody."""
    with pytest.raises(ConfigError) as caught:
        quorum_of(*groups)
    assert str(caught.value) == "members: a quorum needs at least one member"


def test_a_majority_of_a_set_is_counted_within_it() -> None:
    """R6: strangers and members of the other set do not count."""
    joint: Quorum = quorum_of("123", "456")
    assert not joint.is_met("1245"[:3])
    assert not joint.is_met("123")
    assert joint.is_met("1245")
