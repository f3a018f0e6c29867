"""Letting go through whole nodes (``node/releases.py``): who may, of what, and what is told when it is not known."""

from typing import Any

import pytest

from leaderlease.node import leases
from leaderlease.node.driver import ATTEMPT_TIMEOUT_MS
from leaderlease.node.learner import Watch
from leaderlease.node.releases import SUCCESSOR_GRACE_MS, VACATE_RETRIES_MAX
from leaderlease.paxos.messages import Accept, Accepted, Prepare, Promise, Release
from leaderlease.wire.session import Done, Failed, Granted, KeptAlive, Lost, ReleaseRequest, RevokeRequest
from support.core import ALICE, BOB, CHARLIE
from support.nodes import KEY, NAME, Client, Cluster, holding, nowhere, of_kind

DURATIONS = pytest.mark.parametrize("duration_ms", [60_000, None], ids=["ends", "never"])


def _holders(cluster: Cluster) -> list[str]:
    """Return who is guarded, by member; empty where nobody is."""
    return [cluster[n].holder() if cluster[n].is_live() else "" for n in (1, 2, 3)]


def _codes(client: Client) -> list[str]:
    return [answer.code for answer in client.got(Failed)]


@DURATIONS
@pytest.mark.parametrize("member", [1, 2], ids=["its own node", "another node"])
def test_h19_nobody_lets_go_of_the_lease_of_another(member: int, duration_ms: int | None) -> None:
    """R7: by nonce alone: Bob may be told of Alice's lease, and cannot release it, at her node or another."""
    cluster = Cluster()
    holding(cluster, duration_ms=duration_ms)
    bob = cluster[member].client("bob")
    bob.tell(ReleaseRequest(1, NAME, BOB.nonce))
    bob.tell(ReleaseRequest(2, NAME, ""))
    cluster.run(1_000)
    assert _codes(bob) == ["not_holder", "not_holder"]
    assert _holders(cluster) == ["alice"] * 3


@DURATIONS
def test_h23_a_release_at_another_node_lets_go(duration_ms: int | None) -> None:
    """R2: its own node may be gone; a lock without an end is let go durably there, too."""
    cluster = Cluster()
    holding(cluster, duration_ms=duration_ms)
    other = cluster[2].client("alice, elsewhere")
    other.release(ALICE)
    cluster.run(100)
    assert other.got(Done)
    for member in (1, 2, 3):
        if duration_ms is None:
            cluster.restart(member)
    assert _holders(cluster) == [""] * 3


@DURATIONS
def test_h23_what_was_released_is_not_renewed(duration_ms: int | None) -> None:
    """R2: a keepalive that follows the release restarts no timer."""
    cluster = Cluster()
    alice = holding(cluster, duration_ms=duration_ms)
    alice.release(ALICE)
    alice.keepalive()
    cluster.run(100)
    alice.keepalive()
    cluster.run(100)
    assert _holders(cluster) == [""] * 3
    assert [answer.failed for answer in alice.got(KeptAlive)] == [(), ()]
    assert alice.session.leases == {}


@pytest.mark.parametrize("ask", ["release", "revoke"])
def test_h21_without_a_majority_nobody_knows_whether_it_was_let_go(ask: str) -> None:
    """R6: one node's own register is no answer: neither "not yours" nor "done"."""
    cluster = Cluster()
    holding(cluster, duration_ms=None)
    cluster.crash(1)
    cluster.crash(3)
    other = cluster[2].client("alice, elsewhere")
    other.tell(ReleaseRequest(1, NAME, ALICE.nonce) if ask == "release" else RevokeRequest(1, NAME, 1))
    cluster.run(1_000)
    assert _codes(other) == ["quorum"]
    assert cluster[2].is_live()


def test_a_revoke_names_the_term_that_it_ends_r7() -> None:
    """R7: a command that comes late does not end the lock of the next holder."""
    cluster = Cluster()
    holding(cluster, duration_ms=None)
    operator = cluster[2].client("operator")
    operator.tell(RevokeRequest(1, NAME, 2))
    cluster.run(100)
    assert _codes(operator) == ["not_holder"]
    assert _holders(cluster) == ["alice"] * 3


def test_a_lease_that_ends_by_itself_is_not_revoked_h23() -> None:
    """R6: its holder believes until its time has run out, and no command can tell it."""
    cluster = Cluster()
    alice = holding(cluster)
    operator = cluster[2].client("operator")
    operator.tell(RevokeRequest(1, NAME, 1))
    cluster.run(100)
    assert _codes(operator) == ["refused"]
    assert _holders(cluster) == ["alice"] * 3
    assert not alice.got(Lost)


def test_a_holder_whose_lock_was_revoked_at_its_node_hears_so() -> None:
    """R6: it has no clock that would tell it; the command came to the very node that serves it."""
    cluster = Cluster()
    alice, operator = holding(cluster, duration_ms=None), cluster[1].client("operator")
    operator.tell(RevokeRequest(1, NAME, 1))
    cluster.run(100)
    assert operator.got(Done)
    assert [lost.reason for lost in alice.got(Lost)] == ["it was revoked"]
    bob = cluster[2].client("bob")
    bob.acquire(BOB, duration_ms=None)
    cluster.run(100)
    assert [granted.term for granted in bob.got(Granted)] == [2]


@DURATIONS
def test_h13_a_successor_is_granted_only_what_a_majority_has_accepted(duration_ms: int | None) -> None:
    """R6, R7: the hand-over's Accepts reach nobody: Bob hears nothing of it, and gets the lease in the usual way."""
    cluster = Cluster()
    alice, bob = holding(cluster, duration_ms=duration_ms), cluster[1].client("bob")
    bob.acquire(BOB, duration_ms=duration_ms)
    cluster.run()
    cluster.loses = of_kind(Accept, source="1")
    alice.release(ALICE, successor="bob")
    cluster.run(ATTEMPT_TIMEOUT_MS - 1)
    assert not alice.got(Done)
    cluster.run(1)
    assert not bob.got(Granted)
    cluster.loses = nowhere
    cluster.run(2_000)
    assert len(alice.got(Done)) + _codes(alice).count("not_holder") == 1
    assert len(bob.got(Granted)) == 1
    assert _holders(cluster) == ["bob"] * 3


def test_a_lock_without_an_end_whose_hand_over_failed_is_let_go_durably_r2() -> None:
    """R2: the successor has gone meanwhile, and "done" means that nobody is guarded, also after a restart of all."""
    cluster = Cluster()
    alice, bob = holding(cluster, duration_ms=None), cluster[1].client("bob")
    bob.acquire(BOB, duration_ms=None)
    cluster.run()
    cluster.loses = of_kind(Promise)
    alice.release(ALICE, successor="bob")
    cluster.run(100)
    bob.cut()
    cluster.run(ATTEMPT_TIMEOUT_MS)
    assert not alice.got(Done)
    cluster.loses = nowhere
    cluster.run(2_000)
    assert alice.got(Done)
    for member in (1, 2, 3):
        cluster.restart(member)
    assert _holders(cluster) == [""] * 3


def test_a_release_that_no_majority_answers_is_unknown_after_some_ballots() -> None:
    """R6: it is not tried for ever, and not called done."""
    cluster = Cluster()
    alice = holding(cluster, duration_ms=None)
    before = cluster[1].driver.stats.ballots_started
    cluster.loses = of_kind(Promise)
    alice.release(ALICE)
    cluster.run(60_000)
    assert _codes(alice) == ["unknown"]
    assert cluster[1].driver.stats.ballots_started - before == VACATE_RETRIES_MAX + 1


def test_a_release_whose_first_ballot_was_preempted_is_tried_again() -> None:
    """R2: somebody prepared; the release of a lock without an end still goes through."""
    cluster = Cluster()
    alice = holding(cluster, duration_ms=None)
    for member in ("2", "3"):
        ballot = cluster[member].register().accepted
        higher = type(ballot)(ballot.counter + 20, "3", 1)
        cluster[member].driver.on_message("3", Prepare(1, KEY, higher, ALICE.nonce))
    cluster.run()
    alice.release(ALICE)
    cluster.run(1_000)
    assert alice.got(Done)
    assert _holders(cluster) == [""] * 3


def test_a_release_that_cannot_even_wait_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """R6: too much waits for this lease at this node; whoever asked hears that it may ask again."""
    monkeypatch.setattr(leases, "TODO_MAX", 0)
    cluster = Cluster()
    alice = holding(cluster)
    cluster[1].leases.homes[KEY].is_busy = True
    alice.release(ALICE)
    assert _codes(alice) == ["unknown"]


def test_h23_a_release_reaches_what_a_take_over_left_behind() -> None:
    """R2: her node's last ballot was accepted, and nobody heard so; the release names that one."""
    cluster = Cluster()
    alice = holding(cluster)
    home = cluster[1].leases.homes[KEY]
    cluster.loses = of_kind(Accepted)
    cluster[1].leases.take_over(home)
    cluster.run(ATTEMPT_TIMEOUT_MS)
    assert home.held is not None
    assert home.held.ballot < cluster[2].register().accepted
    assert not home.is_busy
    cluster.loses = nowhere
    alice.release(ALICE)
    cluster.run(10)
    assert _holders(cluster) == [""] * 3


def test_a_successor_that_waits_elsewhere_is_left_a_moment() -> None:
    """Rule 3: Charlie, who waits at the holder's node, stands back for the one that was named."""
    cluster = Cluster()
    alice = holding(cluster)
    bob, charlie = cluster[2].client("bob"), cluster[1].client("charlie")
    charlie.acquire(CHARLIE)
    bob.acquire(BOB)
    cluster.run(10)
    alice.release(ALICE, successor="bob")
    cluster.run(100)
    assert [granted.term for granted in bob.got(Granted)] == [2]
    assert not charlie.got(Granted)


def test_a_successor_that_does_not_come_holds_nobody_up() -> None:
    """Rule 3: after the grace the lease is anybody's."""
    cluster = Cluster()
    alice, charlie = holding(cluster), cluster[1].client("charlie")
    charlie.acquire(CHARLIE)
    cluster.run(10)
    alice.release(ALICE, successor="nobody")
    cluster.run(SUCCESSOR_GRACE_MS - 10)
    assert not charlie.got(Granted)
    cluster.run(100)
    assert [granted.term for granted in charlie.got(Granted)] == [2]


def test_a_release_is_told_to_those_who_watch_and_to_those_who_wait() -> None:
    """H21: at every node, and once."""
    cluster = Cluster()
    alice, bob = holding(cluster), cluster[3].client("bob")
    bob.acquire(BOB)
    cluster.run(10)
    told: list[list[Any]] = [[], [], []]
    for number, inbox in enumerate(told, 1):
        cluster[number].driver.learner.subscribe(Watch(1, NAME, True, inbox.append), 1)
    alice.release(ALICE)
    cluster.run(100)
    kinds = [[(transition.kind, transition.term) for transition in inbox] for inbox in told]
    assert kinds == [[("state", 1), ("released", 1), ("acquired", 2)]] * 3
    assert bob.got(Granted)


def test_a_late_copy_of_a_release_wakes_and_tells_nobody() -> None:
    """H23: Bob holds; the release of Alice's value that was repeated on the network stops nothing."""
    cluster = Cluster()
    copies: list[Release] = []

    def listen(source: str, target: str, message: Any) -> bool:
        if isinstance(message, Release):
            copies.append(message)
        return False

    cluster.holds = listen
    alice = holding(cluster)
    alice.release(ALICE)
    cluster.run()
    holding(cluster, who=BOB)
    told: list[Any] = []
    cluster[2].driver.learner.ended = lambda *end: told.append(end)
    cluster[2].driver.on_message("1", copies[0])
    cluster.run(100)
    assert _holders(cluster) == ["bob"] * 3
    assert told == []
