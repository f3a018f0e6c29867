"""What the simulator and chaos found, as directed traces: each was a seed first (``tests/sim/seeds.py``)."""

import asyncio

import pytest

from leaderlease.node.driver import ATTEMPT_TIMEOUT_MS
from leaderlease.node.learner import Watch
from leaderlease.node.leases import RECHECK_MS
from leaderlease.node.peers import Directory, Peers
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.paxos.messages import Accept, Chosen, Prepare, Release, SyncPage
from leaderlease.storage.base import LIVES_MAX, Life
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from leaderlease.wire.session import (
    Denied,
    Done,
    Failed,
    Granted,
    Hello,
    KeptAlive,
    Lost,
    Refused,
    RevokeRequest,
    Transition,
)
from support.nodes import KEY, NAME, Cluster

ALICE, BOB, CAROL = Holder("alice", "", "a" * 32), Holder("bob", "", "b" * 32), Holder("carol", "", "c" * 32)


def test_an_acquire_right_after_a_durable_release_is_answered() -> None:
    """What is planned for the vacancy belongs to a lease that was forgotten meanwhile: it displaces no attempt."""
    cluster = Cluster()
    alice, bob = cluster[1].client("alice"), cluster[1].client("bob")
    alice.acquire(ALICE, duration_ms=None)
    cluster.run(100)
    alice.release(ALICE)
    cluster.run()
    assert alice.got(Done)
    # Phase 1 in advance is planned for 25 ms later; then Bob's attempt is under way, for its answers are slow.
    cluster.run(20)
    cluster.holds = lambda source, target, message: source != "1"
    bob.acquire(BOB, duration_ms=None)
    cluster.run(10)
    cluster.let_through()
    cluster.run(100)
    assert bob.got(Granted)


def _directory(disk: MemoryDisk) -> tuple[Directory, MemoryStorage]:
    cluster = Cluster()
    storage = MemoryStorage(disk)
    own = Hello("peer", 1, 1, cluster.configuration.cluster, "1", 1, "1/1", 1, "1")
    return Directory(cluster.configuration, storage, lambda: own), storage


def test_h24_h33_a_disk_that_went_back_once_is_refused_for_good() -> None:
    """Each start raises its incarnation, so after some starts it would be above all that its peers remember."""
    disk = MemoryDisk("1")
    directory, storage = _directory(disk)
    cluster = directory.configuration.cluster

    def hello(incarnation: int, nonce: str) -> Hello:
        return Hello("peer", 1, 1, cluster, "2", incarnation, nonce, 1, "2")

    directory.remember(hello(5, "five"))
    assert directory.refusal(hello(5, "five again"))
    assert directory.refusal(hello(6, "six")), "it started once more, and forgot what it promised in its life 5"
    storage.flush()
    storage.crash()
    directory, _ = _directory(disk)
    assert directory.refusal(hello(7, "seven")), "a restart of the peer that noticed changes nothing"


def _hello(cluster: str, life: Life) -> Hello:
    return Hello("peer", 1, 1, cluster, "2", life.incarnation, life.boot_nonce, 1, "2", earlier=life.earlier)


def test_h24_the_hello_of_an_ended_life_that_comes_late_is_no_proof_of_a_rolled_back_disk() -> None:
    """The network may deliver it after that of the next life: refused, and the member is as welcome as before."""
    directory, _ = _directory(MemoryDisk("1"))
    cluster = directory.configuration.cluster

    first = Life(1, "one")
    second = first.next("two")
    third = second.next("three")
    assert not directory.refusal(_hello(cluster, second))
    directory.remember(_hello(cluster, second))
    assert "incarnation 1 of 2 has ended" in directory.refusal(_hello(cluster, first))
    assert not directory.refusal(_hello(cluster, second))
    assert not directory.refusal(_hello(cluster, third))
    directory.remember(_hello(cluster, third))
    assert "incarnation 1 of 2 has ended" in directory.refusal(_hello(cluster, first))
    assert "incarnation 2 of 2 has ended" in directory.refusal(_hello(cluster, second))
    assert not directory.refusal(_hello(cluster, third))


def test_h24_h33_a_disk_that_went_back_and_was_started_often_meanwhile_is_refused() -> None:
    """Its incarnation is above all that its peers met, but it does not know the life that they met."""
    directory, _ = _directory(MemoryDisk("1"))
    cluster = directory.configuration.cluster

    backup = Life(1, "one").next("two")
    met = backup.next("three").next("four")
    directory.remember(_hello(cluster, met))
    again = backup
    for number in range(LIVES_MAX):
        again = again.next(f"again {number}")
    assert again.incarnation > met.incarnation
    assert "rolled back" in directory.refusal(_hello(cluster, again))
    assert "stays out" in directory.refusal(_hello(cluster, met.next("five"))), "it lied once: refused for good"


def test_a_watch_says_where_it_has_missed_the_term_whose_end_it_hears_of() -> None:
    """Node 3 heard of term 1 and then of the end of term 2: who watches there is told to look again."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    alice.acquire(ALICE, duration_ms=None)
    cluster.run(100)
    seen: list[Transition] = []
    cluster[3].driver.learner.subscribe(Watch(1, NAME, True, seen.append), 0)
    cluster.loses = lambda source, target, message: target == "3"
    alice.release(ALICE)
    cluster.run()
    alice.acquire(BOB, duration_ms=None)
    cluster.run(100)
    cluster.loses = lambda source, target, message: False
    alice.release(BOB)
    cluster.run(1_000)
    assert [(transition.kind, transition.term) for transition in seen] == [("state", 1), ("resync", 2)]
    assert seen[-1].holder is None


def test_a_watch_that_goes_on_at_a_restarted_node_says_where_it_has_missed_a_term() -> None:
    """A node that starts knows the term on its disk, and not when it began: of term 2 it can only tell the end."""
    cluster = Cluster()
    learner = cluster[3].driver.learner
    learner.restore(NAME, Ballot(5, "1", 1), Value(2, BOB, 1_000))
    learner.ended(NAME, 2, "expired")
    seen: list[Transition] = []
    learner.subscribe(Watch(1, NAME, True, seen.append), 1)
    assert [(transition.kind, transition.term, transition.holder) for transition in seen] == [("resync", 2, None)]


@pytest.mark.parametrize("duration_ms", [1_000, None], ids=["ends", "never"])
def test_an_attempt_for_a_connection_that_is_gone_takes_no_lease_from_its_holder(duration_ms: int | None) -> None:
    """Node 3 was asked to go on for Alice, and is done when node 2 serves her: she holds on and hears of nothing (R7).

    Chaos, seed 868: a lock without end was lost to this, and nobody could release it any more.
    """
    cluster = Cluster()
    first, late, last = cluster[1].client(), cluster[3].client(), cluster[2].client()
    first.acquire(ALICE, duration_ms=duration_ms)
    cluster.run(20)
    first.cut()
    cluster.holds = lambda source, target, message: source == "3" and isinstance(message, Prepare)
    late.acquire(ALICE, duration_ms=duration_ms, goes_on=1)
    cluster.run(20)
    late.cut()
    last.acquire(ALICE, duration_ms=duration_ms, goes_on=1)
    cluster.run(20)
    assert [granted.term for granted in last.got(Granted)] == [1]
    cluster.let_through()
    cluster.run(20)
    assert cluster[1].register().accepted.member == "3", "the late attempt has a higher ballot, and was chosen"
    for _ in range(20):
        last.keepalive()
        cluster.run(100)
    assert not last.got(Lost)
    assert not last.got(KeptAlive)[-1].failed
    assert cluster[1].holder() == "alice"
    last.release(ALICE)
    cluster.run(20)
    assert last.got(Done)
    bob = cluster[1].client()
    bob.acquire(BOB, duration_ms=duration_ms)
    cluster.run(2_000)
    assert [granted.term for granted in bob.got(Granted)] == [2]


def test_who_dialled_and_cannot_read_the_answer_may_say_so() -> None:
    """A frame that broke on the way ends its connection with a refusal; that is no message out of place."""

    async def refuse() -> list[object]:
        directory, _ = _directory(MemoryDisk("1"))
        taken: list[object] = []
        peers = Peers(
            directory,
            "1",
            on_message=lambda member, message: taken.append(message),
            on_change=lambda member, is_up: None,
            on_refused=lambda member, refused: None,
            now_us=lambda: 0,
            client_tls=None,
        )
        connection = peers.accept()
        connection.member = "2"
        peers.on_message(connection, Refused("protocol", "a frame of 90 bytes does not match its checksum"))
        return taken

    assert asyncio.run(refuse()) == []


def test_who_holds_for_ever_is_not_stuck_behind_a_candidate_whose_attempts_run_out_of_time() -> None:
    """Node 2 lacks the value, node 3 is gone: Bob's attempts there get one promise and one guard, and no end. Alice,
    whose lock it is, asks at node 2 after him, and passes her own guard."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    cluster.loses = lambda source, target, message: target == "2"
    alice.acquire(ALICE, duration_ms=None)
    cluster.run(100)
    assert alice.got(Granted)
    cluster.crash(3)
    alice.cut()
    cluster.loses = lambda source, target, message: isinstance(message, SyncPage)
    bob, again = cluster[2].client("bob"), cluster[2].client("alice")
    bob.acquire(BOB, duration_ms=None)
    cluster.run(10)
    again.acquire(ALICE, duration_ms=None)
    cluster.run(5_000)
    assert [granted.term for granted in again.got(Granted)] == [1]
    assert not bob.got(Granted)


def test_r1_a_half_finished_release_of_a_lock_without_end_does_not_wait_for_an_operator() -> None:
    """Node 1 guards Alice, whose end node 2 has accepted with node 3, which is gone for good; what lies below the
    ceiling of its restart node 1 cannot copy. Bob waits at node 1: the majority that is left proves that the guard
    protects nothing, and an attempt shows it (R1)."""
    cluster = Cluster()
    alice = cluster[2].client("alice")
    alice.acquire(ALICE, duration_ms=None)
    cluster.run(100)
    cluster.loses = lambda source, target, message: "1" in (source, target)
    alice.release(ALICE)
    cluster.run()
    assert alice.got(Done)
    cluster.crash(3)
    cluster.loses = lambda source, target, message: False
    cluster.restart(1)
    bob = cluster[1].client("bob")
    bob.acquire(BOB, duration_ms=None)
    cluster.run(5_000)
    assert (cluster[1].holder(), cluster[2].holder()) == ("alice", ""), "in transition, and nothing there ends it"
    cluster.run(RECHECK_MS)
    assert [granted.term for granted in bob.got(Granted)] == [2]


def _half_released() -> Cluster:
    """Return five nodes: 1, 2 and 4 guard Alice without end, 3 has accepted her end and is slow, 5 knows nothing."""
    cluster = Cluster(5)
    alice = cluster[3].client("alice")
    cluster.loses = lambda source, target, message: target == "5"
    alice.acquire(ALICE, duration_ms=None)
    cluster.run(100)
    cluster.loses = lambda source, target, message: source == "3" != target and not isinstance(message, Prepare)
    alice.release(ALICE)
    cluster.run()
    cluster.restart(3)
    cluster.run(5_000)
    assert ["".join(node.holder() for node in cluster.nodes.values())] == ["alice" * 3]
    assert (cluster[3].holder(), cluster[5].holder()) == ("", "")
    # What lies below the ceilings of restarted nodes is not copied; here nothing is.
    cluster.loses = lambda source, target, message: isinstance(message, SyncPage)
    cluster.holds = lambda source, target, message: source == "3" and getattr(message, "key", "") == KEY
    return cluster


@pytest.mark.parametrize("asked", [1, 5], ids=["look", "attempt"])
def test_r1_the_member_that_knows_of_the_end_of_a_lock_is_waited_for(asked: int) -> None:
    """Those that guard are a majority; the one that is slower proves that they protect nothing."""
    cluster = _half_released()
    bob = cluster[asked].client("bob")
    bob.acquire(BOB, duration_ms=None)
    for _ in range(RECHECK_MS // 10 + 1):
        if not cluster.held:
            cluster.run(10)
    assert cluster.held, "the one that knows was asked"
    cluster.let_through()
    cluster.run(100)
    assert [granted.term for granted in bob.got(Granted)] == [2]


def test_r1_whoever_asks_often_puts_off_no_look_at_a_lock() -> None:
    """An operator goes on revoking, and finds nobody to revoke; Bob waits at a node that guards Alice without end."""
    cluster = _half_released()
    cluster.let_through()
    bob, operator = cluster[1].client("bob"), cluster[1].client("operator")
    bob.acquire(BOB, duration_ms=None)
    for number in range(5):
        cluster.run(RECHECK_MS / 4)
        operator.tell(RevokeRequest(number, NAME, 1))
    cluster.run()
    assert [granted.term for granted in bob.got(Granted)] == [2]


def test_r1_who_is_connected_and_does_not_answer_hides_no_holder() -> None:
    """Nobody proves anything in time: who does not want to wait is told who holds."""
    cluster = Cluster(5)
    alice, bob = cluster[1].client("alice"), cluster[5].client("bob")
    cluster.loses = lambda source, target, message: target == "5"
    alice.acquire(ALICE, duration_ms=None)
    cluster.run(20)
    cluster.loses = lambda source, target, message: source == "4"
    bob.acquire(BOB, duration_ms=None, is_waiting=False)
    cluster.run(ATTEMPT_TIMEOUT_MS)
    assert [(denied.holder.name, denied.term) for denied in bob.got(Denied)] == [("alice", 1)]


def _is_end(message: object) -> bool:
    return isinstance(message, Release) or (isinstance(message, Accept | Chosen) and message.value.holder is None)


@pytest.mark.parametrize("duration_ms", [1_000, None], ids=["ends", "never"])
def test_h18_who_has_held_and_let_go_is_not_elected_where_it_asked_before(duration_ms: int | None) -> None:
    """Alice left node 3 while she waited there, and node 3 does not know; she held by way of node 2, and let go."""
    cluster = Cluster()
    bob, left, alice = cluster[1].client("bob"), cluster[3].client("alice"), cluster[2].client("alice")
    bob.acquire(BOB, duration_ms=duration_ms)
    cluster.run(20)
    left.acquire(ALICE, duration_ms=duration_ms)
    alice.acquire(ALICE, duration_ms=duration_ms)
    cluster.run(20)
    cluster.loses = lambda source, target, message: target == "3" and _is_end(message)
    bob.release(BOB)
    cluster.run(20)
    assert [granted.term for granted in alice.got(Granted)] == [2]
    cluster.loses = lambda source, target, message: False
    alice.release(ALICE)
    cluster.run(5_000)
    assert (cluster[1].is_live(), left.got(Granted)) == (False, []), "held for nobody, a lock without end for ever"
    carol = cluster[3].client("carol")
    carol.acquire(CAROL, duration_ms=duration_ms)
    cluster.run(20)
    assert [granted.term for granted in carol.got(Granted)] == [3]


def test_h18_a_request_that_comes_after_its_holder_has_let_go_elects_nobody() -> None:
    """What Alice said to node 3 was on its way for longer than she held by way of node 2: she gets one term."""
    cluster = Cluster()
    alice, late = cluster[2].client("alice"), cluster[3].client("alice")
    alice.acquire(ALICE, duration_ms=None)
    cluster.run(20)
    alice.release(ALICE)
    cluster.run(20)
    late.acquire(ALICE, duration_ms=None)
    cluster.run(100)
    assert [failed.code for failed in late.got(Failed)] == ["refused"]
    assert not cluster[1].is_live()
