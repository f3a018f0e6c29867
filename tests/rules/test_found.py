"""What the simulator and chaos found, as directed traces: each was a seed first (``tests/sim/seeds.py``)."""

import asyncio

import pytest

from leaderlease.node.learner import Watch
from leaderlease.node.peers import Directory, Peers
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.paxos.messages import Prepare, SyncPage
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from leaderlease.wire.session import Done, Granted, Hello, KeptAlive, Lost, Refused, Transition
from support.nodes import NAME, Cluster

ALICE, BOB = Holder("alice", "", "a" * 32), Holder("bob", "", "b" * 32)


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
    assert directory.refusal(hello(4, "four again"))
    assert directory.refusal(hello(6, "six")), "it started twice more, and forgot what it promised in its life 5"
    storage.flush()
    storage.crash()
    directory, _ = _directory(disk)
    assert directory.refusal(hello(7, "seven")), "a restart of the peer that noticed changes nothing"


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
    """Node 3 was asked to go on for Alice, and is done when node 2 serves her: her lease stays, and she hears nothing.

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
