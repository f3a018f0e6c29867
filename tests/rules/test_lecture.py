"""The story that the protocol is taught with, one test for each part, with its numbers (protocol, section 1).

Ballots read as counter times ten plus the member: ``Ballot(1, "3", ...)`` is 13, the first ballot of node 3,
and ``Ballot(2, "2", ...)`` is 22, the second of node 2. So they are unique and ordered, and each node has its own.
A node counts on from the highest ballot that it has seen: node 4, asked by 13 before, goes on with 24.
"""

from collections.abc import Callable, Iterator

import pytest

from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import (
    Accept,
    Accepted,
    Nack,
    Peek,
    Prepare,
    Promise,
    Renew,
    Renewed,
)
from leaderlease.paxos.proposer import Acquire, Attempt, Outcome, Phase, Vacate
from support.core import ALICE, BOB, CHARLIE, DAVE, KEY, World, ballot_of, number_of

NEVER = None
ANSWERS = (Promise, Nack, Accepted)


def _half_accepted(world: World, member: int, who: object, promise: set[int], accept: set[int]) -> Attempt:
    """Get promises from some, acceptances from fewer, and lose the rest."""
    attempt = world.ask(member, who)  # type: ignore[arg-type]
    world.deliver(Prepare, to=promise)
    world.drop(Prepare)
    world.deliver(ANSWERS)
    world.deliver(Accept, to=accept)
    world.drop()
    return attempt


def test_1_five_nodes_promise_13_and_accept_alice() -> None:
    """Node 3 gets promises for ballot 13, the counter 1 of member 3, then commits Alice on all five."""
    world = World(5)
    attempt = world.ask(3, ALICE)
    assert number_of(attempt.ballot) == 13
    assert world.deliver(Prepare) == 5
    assert [world[n].promised() for n in range(1, 6)] == [13] * 5
    assert [world[n].accepted() for n in range(1, 6)] == [(0, "")] * 5
    world.deliver(Promise)
    assert world.deliver(Accept) == 5
    assert [world[n].accepted() for n in range(1, 6)] == [(13, "alice")] * 5
    assert attempt.outcome is None, "accepted everywhere, but node 3 has not heard it yet"
    world.deliver(Accepted)
    assert attempt.outcome is Outcome.CHOSEN
    assert attempt.decision is not None
    assert (attempt.decision.value.holder, attempt.decision.value.term) == (ALICE, 1)
    assert world.believe(ALICE, attempt)


def test_2_node_5_wins_with_15_on_a_bare_majority() -> None:
    """Nodes 2 and 3 are down: three of five are enough, two would not be."""
    world = World(5)
    world.crash(2, 3)
    attempt = world.ask(5, ALICE)
    assert number_of(attempt.ballot) == 15
    world.deliver(Prepare)
    world.deliver(Promise, source=1)
    world.deliver(Promise, source=4)
    assert attempt.phase is Phase.PREPARING, "two promises of five are no majority"
    world.deliver(Promise, source=5)
    assert attempt.phase is Phase.ACCEPTING
    world.deliver(Accept)
    world.deliver(Accepted, source=1)
    world.deliver(Accepted, source=4)
    assert attempt.outcome is None, "two acceptances of five are no majority"
    world.deliver(Accepted, source=5)
    assert attempt.outcome is Outcome.CHOSEN
    assert [world[n].accepted() for n in (1, 4, 5)] == [(15, "alice")] * 3


def _nodes_2_and_3_come_back(duration_ms: int | None) -> tuple[World, Attempt]:
    world = World(5, duration_ms)
    world.crash(2, 3)
    alice = world.acquire(5, ALICE)
    assert world.believe(ALICE, alice)
    world.restart(2, 3)
    assert [world[n].accepted() for n in (2, 3)] == [(0, "")] * 2
    return world, alice


@pytest.mark.parametrize("duration_ms", [NEVER, 1_000])
def test_3_bob_at_node_2_is_refused_with_12_and_learns_with_22_that_it_is_alices(
    duration_ms: int | None,
) -> None:
    """All that promised 15 refuse 12 and none of them accepts it; 22 finds Alice and takes nothing."""
    world, _ = _nodes_2_and_3_come_back(duration_ms)
    first = world.ask(2, BOB)
    assert first.ballot == ballot_of(12, incarnation=2)
    world.deliver(Prepare)
    refusals = [(e.source, number_of(e.message.promised)) for e in world.wire if isinstance(e.message, Nack)]
    assert refusals == [("1", 15), ("4", 15), ("5", 15)]
    world.settle()
    assert first.outcome is Outcome.PREEMPTED
    assert number_of(first.preempted_by) == 15
    assert first.decision is None, "nothing was proposed under 12, so nobody can have accepted it"
    assert [world[n].promised() for n in (1, 4, 5)] == [15] * 3

    second = world.ask(2, BOB)
    assert second.ballot == ballot_of(22, incarnation=2)
    world.settle()
    assert second.outcome is Outcome.LIVE
    ballot, value = second.seen()
    assert number_of(ballot) == 15
    assert value is not None
    assert value.holder == ALICE
    assert [world[n].accepted() for n in (1, 4, 5)] == [(15, "alice")] * 3, "nothing was taken"


def test_3_the_nodes_that_were_away_learn_that_it_is_alices() -> None:
    """Node 3 learns it by asking a majority; nodes 2 and 3 store it when Alice's own node writes next."""
    world, alice = _nodes_2_and_3_come_back(1_000)
    for _ in range(2):
        world.acquire(2, BOB)
    for target in world.nodes:
        world.send("3", target, Peek(world.epoch, KEY, 1))
    world.settle()
    same = [m for m, peeked in world[3].peeks.items() if (number_of(peeked.accepted), peeked.value) ==
            (15, alice.decision.value)]  # type: ignore[union-attr]  # fmt: skip
    assert same == ["1", "4", "5"], "a majority says the same: node 3 knows that it is chosen"
    # Alice's keepalive: 2 and 3 promised 22 since, so they refuse; her node writes again under 35, for her.
    round_ = world.renew(5, alice)
    world.settle()
    assert round_.acknowledged() == {"1", "4", "5"}
    again = world.acquire(5, ALICE)
    assert number_of(again.ballot) == 35
    assert again.outcome is Outcome.CHOSEN
    assert [world[n].accepted() for n in range(1, 6)] == [(35, "alice")] * 5
    assert again.decision is not None
    assert again.decision.value.term == 1, "the same nonce, the same term"
    assert world.believe(ALICE, again)


def test_4_promised_but_nothing_accepted_lets_bob_win() -> None:
    """Node 3 had promises for 13 and died before it proposed: nothing was accepted, so Bob is free to win."""
    world = World(5, NEVER)
    world.ask(3, ALICE)
    world.deliver(Prepare)
    world.crash(3)
    world.drop()
    bob = world.acquire(4, BOB)
    assert number_of(bob.ballot) == 24
    assert bob.outcome is Outcome.CHOSEN
    assert bob.decision is not None
    assert (bob.decision.value.holder, bob.decision.value.term) == (BOB, 1)
    assert [world[n].accepted() for n in (1, 2, 4, 5)] == [(24, "bob")] * 4


def test_5_of_three_half_finished_values_the_highest_counts_is_completed_and_told_to_everybody() -> None:
    """R1 ``seen``, R7, H13: Alice, Bob and Charlie were accepted by one node each, under 13, 14, 15: it is Charlie's.

    Every guard stands for ever. What the others report as accepted proves that Alice and Bob were let go.
    """
    world = World(5, NEVER)
    _half_accepted(world, 3, ALICE, promise={1, 2, 3}, accept={1})
    _half_accepted(world, 4, BOB, promise={2, 3, 4}, accept={2})
    _half_accepted(world, 5, CHARLIE, promise={3, 4, 5}, accept={3})
    assert [world[n].accepted()[1] for n in range(1, 6)] == ["alice", "bob", "charlie", "", ""]

    dave = world.acquire(1, DAVE)
    assert number_of(dave.ballot) == 21
    assert dave.outcome is Outcome.COMPLETED, "not Dave's: he completes what he found"
    assert [world[n].accepted() for n in range(1, 6)] == [(21, "charlie")] * 5
    world.announce(1, dave)
    world.settle()
    assert [world[n].learned[KEY].holder for n in range(1, 6)] == [CHARLIE] * 5
    assert world.acquire(2, CHARLIE).outcome is Outcome.CHOSEN, "Charlie, who asks again, is told that it is his"


def _node_3_dies_after_two_accepted(duration_ms: int | None = NEVER) -> World:
    world = World(5, duration_ms)
    world.ask(3, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    assert world.deliver(Accept, to={1, 2}) == 2
    world.crash(3)
    world.drop()
    return world


def test_6_node_4_finds_out_about_alice_and_does_not_give_it_away() -> None:
    """Node 3 died after two of five accepted: Bob gets nothing, and Alice learns at node 4 that it is hers."""
    world = _node_3_dies_after_two_accepted()
    bob = world.acquire(4, BOB)
    assert number_of(bob.ballot) == 24
    assert not (bob.outcome is not None and bob.outcome.is_chosen)
    ballot, value = bob.seen()
    assert number_of(ballot) == 13
    assert value is not None
    assert value.holder == ALICE
    assert bob.decision is None, "node 4 proposed nothing for Bob"

    alice = world.acquire(4, ALICE)
    assert number_of(alice.ballot) == 34
    assert alice.outcome is Outcome.CHOSEN
    assert alice.decision is not None
    assert (alice.decision.value.holder, alice.decision.value.term) == (ALICE, 1)
    assert [world[n].accepted() for n in (1, 2, 4, 5)] == [(34, "alice")] * 4


def test_7_with_two_more_nodes_lost_nobody_gets_anything_and_nothing_is_taken() -> None:
    """Two of five answer: the text says what is missing, and Alice keeps what she has."""
    world = _node_3_dies_after_two_accepted()
    alice = world.acquire(4, ALICE)
    assert world.believe(ALICE, alice)
    world.crash(1, 2)
    for member, who in ((4, BOB), (5, CHARLIE), (4, ALICE)):
        attempt = world.acquire(member, who)
        assert attempt.outcome is None or not attempt.outcome.is_chosen
        answered = attempt.promises | attempt.lives.keys() | attempt.nacks
        assert answered == {"4", "5"}
        assert attempt.quorum.missing(answered) == "2 of 5 nodes answer, 3 are needed"
    assert [world[n].accepted() for n in (4, 5)] == [(24, "alice")] * 2
    world.restart(1)
    back = _until_decided(world, 5, ALICE)
    assert back.outcome is Outcome.CHOSEN
    assert back.decision is not None
    assert (back.decision.value.holder, back.decision.value.term) == (ALICE, 1)


def test_8_alice_returns_a_timed_lock_and_bob_gets_the_next_term() -> None:
    """A release stops the timers, nobody waits, and Bob's grant is term 2."""
    world = World(5, 1_000)
    alice = world.acquire(3, ALICE)
    assert world.believe(ALICE, alice)
    assert world.acquire(4, BOB).outcome is Outcome.LIVE
    world.referee.let_go(ALICE.nonce, KEY)
    world.release(3, alice)
    world.settle()
    bob = world.acquire(4, BOB)
    assert bob.outcome is Outcome.CHOSEN
    assert bob.decision is not None
    assert (bob.decision.value.holder, bob.decision.value.term) == (BOB, 2)
    assert world.believe(BOB, bob)


def test_8_alice_returns_a_classic_lock_by_a_durable_write_and_bob_gets_the_next_term() -> None:
    """A lock without an end is given back by a Paxos write, which outlives a restart of every node."""
    world = World(5, NEVER)
    world.acquire(3, ALICE)
    assert world.acquire(4, BOB).outcome is Outcome.LIVE
    returned = world.ask(3, ALICE, intent=Vacate(ALICE.nonce))
    world.settle()
    if returned.outcome is Outcome.PREEMPTED:
        returned = world.acquire(3, ALICE, intent=Vacate(ALICE.nonce))
    assert returned.outcome is Outcome.CHOSEN
    world.restart(*world.nodes)
    bob = _until_decided(world, 4, BOB)
    assert bob.outcome is Outcome.CHOSEN
    assert bob.decision is not None
    assert (bob.decision.value.holder, bob.decision.value.term) == (BOB, 2)


def test_9_with_phase_1_done_in_advance_an_acquire_takes_one_round_trip() -> None:
    """Two messages from asking to knowing: Accept and Accepted. A Prepare is not sent again."""
    world = World(5)
    prepared = world.prepare_ahead(3)
    world.settle()
    assert prepared.phase is Phase.PREPARED
    world.sent.clear()
    world.propose(3, prepared, Acquire(ALICE, 1_000))
    world.settle()
    assert prepared.outcome is Outcome.CHOSEN
    assert world.hops_at_end[prepared.ballot] == 2
    assert world.sent == {Accept: 5, Accepted: 5}
    assert world.believe(ALICE, prepared)


def test_9_without_phase_1_in_advance_an_acquire_takes_two_round_trips() -> None:
    """Four messages from asking to knowing: Prepare, Promise, Accept, Accepted."""
    world = World(5)
    attempt = world.acquire(3, ALICE)
    assert attempt.outcome is Outcome.CHOSEN
    assert world.hops_at_end[attempt.ballot] == 4
    assert world.sent == {Prepare: 5, Promise: 5, Accept: 5, Accepted: 5}


def test_9_a_renewal_takes_one_round_trip_and_no_fsync() -> None:
    """Nothing is written: no disk has anything to do."""
    world = World(5)
    attempt = world.acquire(3, ALICE)
    for node in world.nodes.values():
        node.disk.is_manual = True
    world.sent.clear()
    round_ = world.renew(3, attempt)
    world.settle()
    assert round_.acknowledged() == set(world.nodes)
    assert world.sent == {Renew: 5, Renewed: 5}
    assert not any(node.disk.queue for node in world.nodes.values())


# --- (10) every node is restarted at every point -----------------------------------------------------------


def _until_decided(world: World, member: int, who: object, **options: object) -> Attempt:
    """Ask as a client does: again with the same identity, until the answer is a yes or a no."""
    for _ in range(20):
        attempt = world.acquire(member, who, **options)  # type: ignore[arg-type]
        if attempt.outcome in (Outcome.CHOSEN, Outcome.COMPLETED, Outcome.LIVE, Outcome.FAILED):
            return attempt
    raise AssertionError("no answer in twenty attempts")


def _value(attempt: Attempt) -> tuple[str, int]:
    assert attempt.decision is not None
    value: Value = attempt.decision.value
    return (value.holder.name if value.holder is not None else "", value.term)


def _story(world: World) -> Iterator[tuple[str, int]]:
    """Alice gets the lock at node 3; Bob at node 4 does not; Alice returns it at node 5; then Bob gets it."""
    yield _value(_until_decided(world, 3, ALICE))
    refused = _until_decided(world, 4, BOB)
    assert refused.outcome in (Outcome.LIVE, Outcome.COMPLETED)
    seen = refused.seen()[1]
    assert seen is not None
    yield (seen.holder.name if seen.holder is not None else "", seen.term)
    # FAILED says that a first try, of which no answer came, had already ended the hold.
    _until_decided(world, 5, ALICE, intent=Vacate(ALICE.nonce))
    yield _value(_until_decided(world, 4, BOB))


def _steps_of_the_story() -> int:
    world, count = World(5, NEVER), 0

    def step() -> None:
        nonlocal count
        count += 1

    world.on_step = step
    assert list(_story(world)) == [("alice", 1), ("alice", 1), ("bob", 2)]
    return count


def _restart_at(world: World, point: int, victims: tuple[int, ...]) -> Callable[[], None]:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == point:
            world.restart(*victims)

    return step


@pytest.mark.parametrize("victims", [(1,), (2,), (3,), (4,), (5,), (1, 2, 3, 4, 5)], ids=str)
def test_10_restarting_at_any_point_of_the_story_does_not_change_its_outcome(
    victims: tuple[int, ...],
) -> None:
    """After every single message and every single fsync, once each: Alice, Alice, then Bob with term 2."""
    points = _steps_of_the_story()
    assert points > 50
    for point in range(1, points + 1):
        world = World(5, NEVER)
        world.on_step = _restart_at(world, point, victims)
        assert list(_story(world)) == [("alice", 1), ("alice", 1), ("bob", 2)], f"restarted after step {point}"
