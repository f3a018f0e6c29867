"""A member's own timers (``node/expiries.py``): each end is noticed once, in time, and told only by who can know."""

from leaderlease.node.learner import Watch
from leaderlease.paxos.messages import Chosen, Renew
from leaderlease.wire.session import Granted, Transition
from support.core import ALICE, BOB
from support.nodes import NAME, Client, Cluster


def _holding(cluster: Cluster, name: str = NAME, duration_ms: int = 1_000) -> Client:
    client = cluster[1].client("alice")
    client.acquire(ALICE, name=name, duration_ms=duration_ms)
    cluster.run()
    assert client.got(Granted)
    return client


def _watching(cluster: Cluster, member: int, name: str = NAME) -> list[Transition]:
    seen: list[Transition] = []
    cluster[member].driver.learner.subscribe(Watch(1, name, True, seen.append), 1)
    return seen


def _kinds(seen: list[Transition]) -> list[str]:
    return [transition.kind for transition in seen if transition.kind != "state"]


def test_h6_a_node_that_was_restarted_notices_the_end_of_what_its_disk_held() -> None:
    """R5: the timer that was armed at the start ends without a message of anybody."""
    cluster = Cluster()
    _holding(cluster).cut()
    cluster.restart(3)
    cluster[3].driver.learner.restore(NAME, *_accepted(cluster, 3))
    seen = _watching(cluster, 3)
    cluster.run(2_000)
    assert _kinds(seen) == ["expired"]


def _accepted(cluster: Cluster, member: int) -> tuple:  # type: ignore[type-arg]
    register = cluster[member].register()
    return register.accepted, register.value


def test_a_node_without_a_majority_does_not_tell_its_isolation_for_an_end() -> None:
    """H21: Alice is renewed by the others all the time; with a majority again, an end is told when there is one."""
    cluster = Cluster()
    alice = _holding(cluster)
    seen = _watching(cluster, 3)
    cluster.loses = lambda source, target, message: "3" in (source, target) and source != target
    for member in "12":
        cluster[3].driver.peer_changed(member, False)
    for _ in range(10):
        alice.keepalive()
        cluster.run(300)
    assert _kinds(seen) == []
    cluster.loses = lambda source, target, message: False
    for member in "12":
        cluster[3].driver.peer_changed(member, True)
    alice.cut()
    cluster.run(3_000)
    assert _kinds(seen) == ["expired"]


def test_a_renewed_lease_has_not_ended() -> None:
    """H21: the timer that was set at the grant comes up, and the lease lives on; nobody is woken."""
    cluster = Cluster()
    alice = _holding(cluster)
    seen = _watching(cluster, 2)
    for _ in range(10):
        cluster.run(300)
        alice.keepalive()
    cluster.run()
    assert _kinds(seen) == []


def test_a_short_lease_is_noticed_before_a_long_one_that_was_there_before() -> None:
    """The one timer of the event loop goes by the first end, not by the first lease."""
    cluster = Cluster()
    _holding(cluster, "shop/long", 60_000)
    _holding(cluster, duration_ms=1_000)
    seen = _watching(cluster, 2)
    cluster.run(1_100)
    assert _kinds(seen) == ["expired"]


def test_a_register_has_one_entry_however_often_it_changes_hands() -> None:
    """Memory goes by leases, not by grants; and what ends is told once."""
    cluster = Cluster()
    client = cluster[1].client()
    for _ in range(10):
        for who in (ALICE, BOB):
            client.acquire(who)
            cluster.run(30)
            client.release(who)
            cluster.run(30)
    assert len(cluster[1].expiries._heap) <= 1


def test_a_released_lease_does_not_expire_as_well() -> None:
    """H21: it ended when it was let go."""
    cluster = Cluster()
    alice = _holding(cluster)
    seen = _watching(cluster, 2)
    alice.release(ALICE)
    cluster.run(3_000)
    assert _kinds(seen) == ["released"]


def test_candidates_are_woken_by_the_end_at_their_own_node() -> None:
    """H8: they wait for no message: the one that would tell them may be lost with the holder."""
    cluster = Cluster()
    _holding(cluster).cut()
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.loses = lambda source, target, message: isinstance(message, Chosen | Renew)
    cluster.run(1_100)
    assert [granted.term for granted in bob.got(Granted)] == [2]
