"""H21: reads never write and never touch a timer; they say "chosen" only where a majority reports the same."""

import pytest

from leaderlease.node.reads import Reading, ReadState, weigh
from leaderlease.paxos.acceptor import Acceptor, Persist, Respond
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Peek, Peeked, Prepare, Promise
from leaderlease.paxos.quorum import quorum_of
from leaderlease.wire.session import Granted, Verified, VerifyRequest
from support.core import ALICE, BOB, KEY, World, ballot_of
from support.nodes import NAME, Cluster

VALUE = Value(1, ALICE, 1_000)
OTHER = Value(2, BOB, 1_000)


def _peeked(ballot: Ballot, value: Value | None, remaining_ms: int | None = 500) -> Peeked:
    return Peeked(KEY, 1, ballot, ballot, value, remaining_ms)


def test_h21_a_peek_changes_neither_ballots_nor_timers_nor_the_disk() -> None:
    """However often a dashboard looks, a dead holder is not kept alive and a live one is not disturbed."""
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 0)
    for now_ms, left in ((600, 401), (999, 2), (1_500, 0)):
        assert acceptor.handle("4", Peek(1, KEY, 1), now_ms) == [
            Respond("4", Peeked(KEY, 1, ballot_of(13), ballot_of(13), VALUE, left))
        ]
    assert acceptor.registers[KEY].promised == ballot_of(13)
    acceptor.handle("4", Peek(1, "l/shop/unheard-of", 1), 0)
    assert list(acceptor.registers) == [KEY]


def test_h21_a_majority_with_one_ballot_and_value_is_chosen() -> None:
    """And so linearizable: whatever was chosen before the read began shows in one of any two majorities."""
    answers = {"1": _peeked(ballot_of(13), VALUE), "2": _peeked(ballot_of(13), VALUE)}
    reading = weigh(answers, quorum_of("123"))
    assert (reading.state, reading.value, reading.is_vacant) == (ReadState.CHOSEN, VALUE, False)


@pytest.mark.parametrize(
    "second",
    [_peeked(ballot_of(24), OTHER), _peeked(ballot_of(24), VALUE), _peeked(ZERO, None, 0)],
    ids=["another value", "another ballot", "nothing yet"],
)
def test_h21_two_that_differ_are_in_transition(second: Peeked) -> None:
    """The highest one is shown as a hint; nothing says that it was chosen (B4)."""
    reading = weigh({"1": _peeked(ballot_of(13), VALUE), "2": second}, quorum_of("123"))
    assert reading.state is ReadState.IN_TRANSITION


def test_one_of_three_answers_is_no_reading() -> None:
    """Too few nodes answer, whatever the one says."""
    assert weigh({"1": _peeked(ballot_of(13), VALUE)}, quorum_of("123")).state is ReadState.UNAVAILABLE


def test_a_majority_must_have_let_go_before_a_lease_counts_as_vacant() -> None:
    """One lapsed timer of three is not enough; the second one is."""
    lapsed, live = _peeked(ballot_of(13), VALUE, 0), _peeked(ballot_of(13), VALUE, 300)

    def read(*answers: Peeked) -> Reading:
        return weigh({str(number): answer for number, answer in enumerate(answers, 1)}, quorum_of("123"))

    assert not read(lapsed, live, live).is_vacant
    assert read(lapsed, live, live).remaining_ms == 300
    assert read(lapsed, lapsed, live).is_vacant


def test_h13_h21_what_only_a_minority_accepted_is_not_reported_as_chosen() -> None:
    """Node 1 alone has accepted Alice: a read of 1 and 2 says "in transition"."""
    world = World(3)
    world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    world.deliver(Accept, to={1})
    world.drop()
    for target in ("1", "2"):
        world.send("3", target, Peek(1, KEY, 1))
    world.settle()
    reading = weigh(world[3].peeks, world.quorum)
    assert (reading.state, reading.value is not None) == (ReadState.IN_TRANSITION, True)


def test_h21_a_token_is_verified_by_a_majority_and_fails_once_the_lease_has_run_out() -> None:
    """The holder was stopped past its lease: nobody else has it yet, and still its token is refused."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    alice.acquire(ALICE)
    cluster.run()
    term = alice.got(Granted)[0].term
    asker = cluster[3].client("resource")
    for request, (elapsed_ms, token) in enumerate(((0, term), (0, term + 1), (1_001, term)), 1):
        cluster.run(elapsed_ms)
        asker.tell(VerifyRequest(request, NAME, token))
        cluster.run(400)
    assert [answer.is_current for answer in asker.got(Verified)] == [True, False, False]
