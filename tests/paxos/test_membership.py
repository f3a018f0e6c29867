"""The first configuration, and the value that holds it; who votes is ``rules/test_r8.py``."""

import pytest

from leaderlease.errors import ConfigError
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.membership import (
    MEMBERS_MAX,
    Configuration,
    Member,
    configuration_value,
    first_configuration,
    read_configuration,
)

ONE, TWO = ("node-1", "h:1"), ("node-2", "h:2")


def test_everybody_computes_the_same_first_configuration() -> None:
    """Epoch 1, members sorted by uuid, whatever the order in which they are named."""
    found = first_configuration("c", {"b": TWO, "a": ONE})
    assert found == first_configuration("c", {"a": ONE, "b": TWO})
    assert found == Configuration("c", 1, (Member("a", *ONE), Member("b", *TWO)))


@pytest.mark.parametrize("count", [0, MEMBERS_MAX + 1])
def test_no_member_or_too_many_are_refused(count: int) -> None:
    """The bound has a name."""
    with pytest.raises(ConfigError) as caught:
        first_configuration("c", {f"{number:02}": ONE for number in range(count)})
    assert str(caught.value) == f"members: {count} is outside [1, 15]"


def test_as_many_members_as_are_allowed_are_allowed() -> None:
    """Both bounds belong to it."""
    for count in (1, MEMBERS_MAX):
        assert len(first_configuration("c", {f"{number:02}": ONE for number in range(count)}).members) == count


def test_the_first_value_of_the_member_register_is_the_same_at_every_member() -> None:
    """R8: nobody proposed it: its ballot is below all that a life of a member can use, and it does not end."""
    configuration = first_configuration("c", {"b": TWO, "a": ONE})
    ballot, value = configuration_value(configuration)
    assert ballot == Ballot(1, "a", 0)
    assert value == Value(1, None, None, 0, 0, value.body)
    assert read_configuration(value) == configuration


def test_members_are_found_by_uuid_in_both_sets() -> None:
    """A stranger is nobody."""
    joint = Configuration("c", 2, (Member("a", *ONE),), (Member("b", *TWO),))
    assert joint.member("a") == Member("a", *ONE)
    assert joint.member("b") == Member("b", *TWO)
    assert joint.member("x") is None
