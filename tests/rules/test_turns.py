"""Whose turn it is at a node, and what wakes it (``node/leases.py``, ``preferences``, ``vacancies``)."""

from typing import Any

import pytest

from leaderlease.node import vacancies
from leaderlease.node.homes import Home
from leaderlease.node.leases import WINS_MAX, _free_in_ms
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.paxos.messages import Accept, Chosen, DigestReply, Live, Peeked, Prepare, SyncPage
from leaderlease.paxos.proposer import Acquire, Attempt, Outcome
from leaderlease.paxos.quorum import quorum_of
from leaderlease.wire.session import CancelRequest, Failed, Granted, Lost, Spec
from support.core import ALICE, BOB, CHARLIE
from support.nodes import KEY, NAME, Cluster, holding, home_of, nowhere, of_kind


def _ballots(cluster: Cluster) -> int:
    return sum(cluster[n].driver.stats.ballots_started for n in (1, 2, 3))


def _prefer(cluster: Cluster, duration_ms: int = 60_000) -> None:
    ends: list[Any] = []
    cluster[1].sessions.specs.declare(NAME, Spec(duration_ms, preference="Priority"), lambda *end: ends.append(end))
    cluster.run(100)
    assert ends


def test_what_waits_for_an_attempt_goes_on_one_at_a_time_r3() -> None:
    """R3: the first of two begins an attempt of its own, so the second waits for that."""
    cluster = Cluster()
    home = cluster[1].leases.home(KEY)
    done: list[int] = []

    def begin() -> None:
        done.append(1)
        home.is_busy = True

    home.is_busy = True
    cluster[1].leases.when_free(home, begin)
    cluster[1].leases.when_free(home, lambda: done.append(2))
    cluster[1].leases.free(home)
    assert done == [1]
    cluster[1].leases.free(home)
    assert done == [1, 2]
    assert cluster[1].leases.homes == {}, "and then nothing is kept"


def test_without_a_majority_no_ballot_is_started_for_a_declared_lease_either() -> None:
    """R6: its declaration is known here, so nobody has to be asked for that; nobody could win."""
    cluster = Cluster()
    _prefer(cluster)
    for member in "23":
        cluster[1].driver.peer_changed(member, False)
    before = _ballots(cluster)
    bob, alice = cluster[1].client("bob"), cluster[1].client("alice")
    bob.acquire(BOB, goes_on=1, is_waiting=False)
    cluster.run(300)
    alice.acquire(ALICE, is_waiting=False)
    cluster.run(300)
    assert _ballots(cluster) == before
    assert [[answer.code for answer in one.got(Failed)] for one in (bob, alice)] == [["quorum"], ["quorum"]]


def test_h35_a_restarted_node_knows_the_holder_by_its_disk() -> None:
    """R1: nobody has told it of Alice since; she asks there after Bob, and her own guard does not hold her up."""
    cluster = Cluster()
    holding(cluster).cut()
    cluster.restart(2)
    assert not cluster[2].driver.learner.views
    bob, again = cluster[2].client("bob"), cluster[2].client("alice, again")
    bob.acquire(BOB)
    cluster.run(10)
    again.acquire(ALICE)
    cluster.run(500)
    assert [granted.term for granted in again.got(Granted)] == [1]


def test_the_holder_among_the_candidates_goes_first_when_a_read_names_it_r1() -> None:
    """R1: where a preference is declared a majority is asked first; it names Alice, and she waits here."""
    cluster = Cluster()
    _prefer(cluster)
    cluster.loses = of_kind(Accept, Chosen, target="2")
    holding(cluster).cut()
    cluster.loses = of_kind(SyncPage)
    bob, again = cluster[2].client("bob"), cluster[2].client("alice, again")
    bob.acquire(BOB)
    again.acquire(ALICE)
    before = _ballots(cluster)
    cluster.run(300)
    assert [granted.term for granted in again.got(Granted)] == [1]
    assert _ballots(cluster) == before + 1, "and none for Bob"


def test_a_candidate_that_leaves_while_others_are_heard_is_not_asked_for() -> None:
    """Its place goes to the next one, and no term goes by."""
    cluster = Cluster()
    _prefer(cluster)
    cluster.holds = of_kind(Peeked)
    bob, charlie = cluster[1].client("bob"), cluster[1].client("charlie")
    request = bob.acquire(BOB)
    charlie.acquire(CHARLIE)
    cluster.run(10)
    bob.tell(CancelRequest(request))
    cluster.let_through()
    cluster.run(500)
    assert [granted.term for granted in charlie.got(Granted)] == [1]


def test_a_candidate_that_leaves_while_another_is_asked_for_is_not_the_next() -> None:
    """Alice's attempt was under way when Bob cancelled."""
    cluster = Cluster()
    alice, bob, charlie = (cluster[1].client(name) for name in ("alice", "bob", "charlie"))
    cluster.holds = of_kind(Accept)
    alice.acquire(ALICE)
    cluster.run(10)
    request = bob.acquire(BOB)
    charlie.acquire(CHARLIE)
    cluster.run(10)
    bob.tell(CancelRequest(request))
    cluster.let_through()
    cluster.run(10)
    alice.release(ALICE)
    cluster.run(100)
    assert [granted.term for granted in charlie.got(Granted)] == [2]


def test_a_node_whose_holder_went_elsewhere_takes_nothing_back_by_itself_r6() -> None:
    """R6: its take-over was to be tried again; then node 2 serves Alice, and only a keepalive of hers here matters."""
    cluster = Cluster()
    alice = holding(cluster)
    register = cluster[1].register()
    assert register.value is not None
    for member in (2, 3):
        ballot = Ballot(register.accepted.counter + 5, "3", 1)
        cluster[member].driver.on_message("3", Prepare(1, KEY, ballot, ALICE.nonce))
    cluster.loses = of_kind(Prepare, source="1")
    alice.keepalive()
    cluster.run(10)
    cluster[1].driver.on_message("2", Chosen(1, KEY, Ballot(80, "2", 1), register.value, ""))
    cluster.run(600)
    before = cluster[1].driver.stats.ballots_started
    cluster.run(5_000)
    assert cluster[1].driver.stats.ballots_started == before
    assert not alice.got(Lost)


def test_a_take_over_that_has_succeeded_is_not_repeated_r6() -> None:
    """R6: whatever wakes the node afterwards; and the others hear of the new ballot."""
    cluster = Cluster()
    alice = holding(cluster)
    told: list[Chosen] = []

    def listen(source: str, target: str, message: Any) -> bool:
        if isinstance(message, Chosen):
            told.append(message)
        return False

    cluster.holds = listen
    home = home_of(cluster)
    cluster[1].leases.take_over(home)
    cluster.run()
    assert [(hint.ballot, hint.value.term, hint.reason) for hint in told] == [(_held_ballot(home), 1, "")] * 2
    before = _ballots(cluster)
    for _ in range(3):
        cluster[1].leases.wake_in(home, 1)
        cluster.run(10)
    assert _ballots(cluster) == before
    assert not alice.got(Lost)


def _held_ballot(home: Home) -> Ballot:
    assert home.held is not None
    return home.held.ballot


def test_the_end_of_a_lock_without_an_end_wakes_candidates_at_other_nodes() -> None:
    """It is let go by a value that nobody holds, and Bob's node hears that it was chosen."""
    cluster = Cluster()
    alice = holding(cluster, duration_ms=None)
    bob = cluster[3].client("bob")
    bob.acquire(BOB, duration_ms=None)
    cluster.run(100)
    alice.release(ALICE)
    cluster.run(200)
    assert [granted.term for granted in bob.got(Granted)] == [2]


def test_a_lock_without_an_end_is_asked_for_from_time_to_time() -> None:
    """H21: Bob's node heard nothing of the release, and has no timer: it asks a majority."""
    cluster = Cluster()
    alice = holding(cluster, duration_ms=None)
    bob = cluster[3].client("bob")
    bob.acquire(BOB, duration_ms=None)
    cluster.run(100)
    cluster.loses = of_kind(Accept, Chosen, SyncPage, DigestReply, target="3")
    alice.release(ALICE)
    cluster.run(25_000)
    assert [granted.term for granted in bob.got(Granted)] == [2]


def test_candidates_of_every_node_have_their_turn() -> None:
    """A node with a long queue stands back for the others after some grants in a row."""
    cluster = Cluster()
    busy = cluster[1].client("busy")
    names = [Holder("busy", "", f"{number:032x}") for number in range(1, 20)]
    for who in names:
        busy.acquire(who)
    cluster.run(10)
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(10)
    while not bob.got(Granted) and len(busy.got(Granted)) <= WINS_MAX + 1:
        busy.release(Holder("busy", "", busy.got(Granted)[-1].nonce))
        cluster.run(20)
    assert [granted.term for granted in bob.got(Granted)] == [WINS_MAX + 1]


def test_one_node_prepares_a_vacancy() -> None:
    """The one whose ballot it was; a ballot of each would preempt those of the others."""
    cluster = Cluster()
    holding(cluster, duration_ms=1_000).cut()
    before = _ballots(cluster)
    cluster.run(3_000)
    assert _ballots(cluster) == before + 1


def test_vacancies_are_prepared_a_few_at_a_time_and_not_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands may become free at once; those who ask go first, and what is prepared takes memory."""
    for bound, value in (("PREPARING_MAX", 2), ("PREPARED_MAX", 3)):
        monkeypatch.setattr(vacancies, bound, value)
    cluster = Cluster()
    node = cluster[1]
    cluster.holds = of_kind(Prepare, target="2")
    homes = [node.leases.home(f"l/shop/lease-{number}") for number in range(9)]
    cluster.loses = of_kind(Prepare, source="1")
    for home in homes:
        node.leases._vacancies.prepare(home)
    cluster.run()
    assert node.driver.stats.ballots_started == 2
    assert len(node.leases._vacancies._queue) == 3
    cluster.loses = nowhere
    cluster.let_through()
    cluster.run(3_000)
    prepared = [home for home in homes if home.prepared is not None]
    assert len(prepared) == 3
    node.leases._vacancies.take(prepared[0])
    node.leases._vacancies.prepare(homes[8])
    cluster.run(10)
    assert sum(home.prepared is not None for home in homes) == 3


@pytest.mark.parametrize("why", ["held", "waited for", "busy", "prepared", "guarded"])
def test_a_lease_that_is_not_vacant_is_not_prepared(why: str) -> None:
    """R1: a ballot in advance is for nobody; it must not disturb who holds or is being asked for."""
    cluster = Cluster()
    node = cluster[1]
    alice = holding(cluster, 2 if why == "guarded" else 1)
    if why not in ("held", "guarded"):
        alice.release(ALICE)
        cluster.run(100 if why == "prepared" else 0)
    home = node.leases.home(KEY)
    home.is_busy = why == "busy"
    if why == "waited for":
        cluster.loses = of_kind(Prepare)
        node.client("bob").acquire(BOB)
        home.is_busy = False
    before = node.driver.stats.ballots_started
    node.leases._vacancies.prepare(home)
    assert node.driver.stats.ballots_started == before


def test_a_phase_1_in_advance_that_was_refused_is_not_kept() -> None:
    """R3: what is resumed later must have its promises."""
    cluster = Cluster()
    for member in (2, 3):
        cluster[member].driver.on_message("3", Prepare(1, KEY, Ballot(50, "3", 1), ""))
    cluster.run()
    home = cluster[1].leases.home(KEY)
    cluster[1].leases._vacancies.prepare(home)
    cluster.run(10)
    assert home.prepared is None


def _refused_by(*remaining: int | None) -> Attempt:
    attempt = Attempt(KEY, Ballot(9, "1", 1), 1, quorum_of("12345"), BOB.nonce, Acquire(BOB, 1_000))
    for member, remaining_ms in enumerate(remaining, 1):
        attempt.lives[str(member)] = Live(KEY, attempt.ballot, remaining_ms, Ballot(1, "1", 1), Value(1, ALICE, 1_000))
    attempt.outcome = Outcome.LIVE
    return attempt


def test_who_was_refused_waits_until_enough_guards_have_ended_and_no_longer() -> None:
    """R1: three of five must have let go: with five guards the third to end counts, with three the first."""
    assert _free_in_ms(_refused_by(500, 100, 300, 200, 400)) == 300
    assert _free_in_ms(_refused_by(300, 100, 200)) == 100
    assert _free_in_ms(_refused_by(None, 100, None, 200, None)) is None
    assert _free_in_ms(_refused_by(None, None, None)) is None
    completed = _refused_by(100, 100, 100)
    completed.outcome = Outcome.COMPLETED
    assert _free_in_ms(completed) is None
