"""A release reaches the value that it names, also where the disk is slower than that of the others."""

from leaderlease.paxos.acceptor import Acceptor, Persist, Respond
from leaderlease.paxos.lease import Value, digest
from leaderlease.paxos.messages import Accept, Prepare, Promise, Release
from support.core import ALICE, BOB, KEY, ballot_of


def _release(number: int, value: Value) -> Release:
    return Release(1, KEY, ballot_of(number), digest(value))


def test_release_of_a_value_that_waits_behind_another_record_leaves_no_guard() -> None:
    """Two grants and their releases overtake a slow disk: once it is done, the next candidate is let in."""
    first, second = Value(1, ALICE, 60_000), Value(2, BOB, 60_000)
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), first), 0)
    assert isinstance(persist, Persist)
    assert acceptor.release(_release(13, first)) == first
    assert acceptor.handle("3", Accept(1, KEY, ballot_of(14), second), 0) == []
    assert acceptor.release(_release(14, second)) == second

    effects = acceptor.persisted(persist.record, 0)
    (later,) = (effect for effect in effects if isinstance(effect, Persist))
    assert not acceptor.registers[KEY].is_live(0), "the first was released"
    acceptor.persisted(later.record, 0)
    assert acceptor.registers[KEY].value == second
    assert not acceptor.registers[KEY].is_live(0), "the second was released while it waited"


def test_release_of_the_first_value_does_not_free_the_second() -> None:
    """A release names one ballot; whoever was accepted after it keeps the guard."""
    first, second = Value(1, ALICE, 60_000), Value(2, BOB, 60_000)
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), first), 0)
    assert isinstance(persist, Persist)
    acceptor.handle("3", Accept(1, KEY, ballot_of(14), second), 0)
    acceptor.release(_release(13, first))
    for effect in acceptor.persisted(persist.record, 0):
        if isinstance(effect, Persist):
            acceptor.persisted(effect.record, 0)
    assert acceptor.registers[KEY].is_live(0)


def test_release_is_not_held_up_by_a_prepare_that_is_on_its_way_to_the_disk() -> None:
    """The value that the Prepare found is released at once, and the promise is given as asked."""
    value = Value(1, ALICE, 60_000)
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), value), 0)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 0)
    asked = acceptor.handle("3", Prepare(1, KEY, ballot_of(14), ALICE.nonce), 0)
    assert acceptor.release(_release(13, value)) == value
    (reply,) = acceptor.persisted(asked[0].record, 0)  # type: ignore[union-attr]
    assert isinstance(reply, Respond)
    assert isinstance(reply.reply, Promise)
    assert not acceptor.registers[KEY].is_live(0)
