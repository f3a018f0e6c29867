"""Leases that prefer some candidates: who gets a vacancy, and which holder is asked to make room."""

from typing import Any

import pytest

from leaderlease.node.preferences import ASK_AGAIN_MS, FAILBACK_CHECK_MS, STAND_BACK_MS, better_than, ranking
from leaderlease.paxos.lease import Holder
from leaderlease.paxos.messages import Claim
from leaderlease.wire import session as wire
from support.nodes import KEY, NAME, Client, Cluster

DURATION_MS = 1_000
NONCES = {name: digit * 32 for name, digit in zip(("pod-0", "pod-1", "pod-2", "pod-3"), "0123", strict=True)}


@pytest.fixture
def cluster() -> Cluster:
    """Three members, connected, blank."""
    return Cluster()


def declare(cluster: Cluster, **fields: Any) -> None:
    """Declare the lease, and let everybody know."""
    ended: list[Any] = []
    cluster[1].sessions.specs.declare(NAME, wire.Spec(DURATION_MS, **fields), lambda *end: ended.append(end))
    cluster.run(100)
    assert ended[0][1] == ""


def ask(client: Client, name: str, priority: int = 0, since_ms: int = 0) -> Holder:
    """Campaign with what a candidate says of itself."""
    who = Holder(name, "", NONCES.get(name) or f"{abs(hash(name)):032x}"[:32])
    request = 1 + len(client.session.waits) + len(client.inbox)
    client.tell(wire.AcquireRequest(request, 1, NAME, who, 0, True, 0, priority, since_ms))
    return who


def keep(cluster: Cluster, client: Client, elapsed_ms: int) -> None:
    """Let time pass while a client renews."""
    for _ in range(elapsed_ms // 100):
        client.keepalive()
        cluster.run(100)


@pytest.mark.parametrize(
    ("preference", "claims", "order"),
    [
        ("Priority", [Claim("a", 1), Claim("b", 5), Claim("c", -1)], ["b", "a", "c"]),
        ("Priority", [Claim("a", 1), Claim("b", 1)], ["a", "b"]),
        ("Priority", [Claim("x-old-1", 1, 10), Claim("x-new-1", 1, 20)], ["x-new-1", "x-old-1"]),
        ("Ordinal", [Claim("db-10"), Claim("other"), Claim("db-9")], ["db-9", "db-10", "other"]),
        ("NewestReplicaSet", [Claim("x-old-1", 0, 10), Claim("x-new-1", 0, 20)], ["x-new-1", "x-old-1"]),
        # One old pod that was replaced in the middle of a roll-out does not make its ReplicaSet the newest.
        (
            "NewestReplicaSet",
            [Claim("x-old-1", 0, 10), Claim("x-old-2", 0, 30), Claim("x-new-1", 0, 20)],
            ["x-new-1", "x-old-1", "x-old-2"],
        ),
        ("NewestReplicaSet", [Claim("alice", 0, 30), Claim("x-new-1", 0, 20)], ["x-new-1", "alice"]),
        ("None", [Claim("a", 1), Claim("b", 5)], ["a", "b"]),
    ],
)
def test_rank_follows_what_is_declared(preference: str, claims: list[Claim], order: list[str]) -> None:
    """Each policy puts candidates in its order, and leaves equal ones in theirs."""
    assert [claim.name for claim in sorted(claims, key=ranking(preference, claims))] == order


@pytest.mark.parametrize(
    ("preference", "present", "others", "better"),
    [
        ("Priority", Claim("a", 5), [Claim("b", 5), Claim("c", 4)], None),
        ("Priority", Claim("a", 5), [Claim("b", 6), Claim("c", 7)], "c"),
        ("Priority", Claim("x-old-1", 5, 10), [Claim("x-new-1", 5, 20)], None),
        ("Ordinal", Claim("db-1"), [Claim("db-0"), Claim("db-2")], "db-0"),
        ("Ordinal", Claim("db-1"), [Claim("db-1")], None),
        ("NewestReplicaSet", Claim("x-new-1", 0, 20), [Claim("x-new-2", 0, 30), Claim("x-old-1", 0, 10)], None),
        ("NewestReplicaSet", Claim("x-old-1", 0, 10), [Claim("x-new-2", 0, 30)], "x-new-2"),
        ("None", Claim("a", 0), [Claim("b", 9)], None),
    ],
)
def test_equal_candidates_never_replace_each_other(
    preference: str, present: Claim, others: list[Claim], better: str | None
) -> None:
    """Only one that ranks before the holder by what is declared is better, not by the tie-break of the queue."""
    found = better_than(preference, present, others)
    assert (found.name if found is not None else None) == better


def test_best_of_one_queue_is_next(cluster: Cluster) -> None:
    """A released lease goes to the candidate with the highest priority, not to the one that waited longest."""
    declare(cluster, preference="Priority")
    first, second, third = (cluster[1].client() for _ in range(3))
    holder = ask(first, "pod-0", 9)
    cluster.run(10)
    ask(second, "pod-1", 1)
    cluster.run(10)
    ask(third, "pod-2", 5)
    cluster.run(10)
    first.release(holder)
    cluster.run(50)
    assert third.got(wire.Granted)
    assert not second.got(wire.Granted)


@pytest.mark.parametrize("best_at", [1, 2, 3])
def test_best_of_all_nodes_is_next(cluster: Cluster, best_at: int) -> None:
    """Wherever the best candidate waits, the other nodes leave the vacancy to it."""
    declare(cluster, preference="Ordinal")
    holding = cluster[1].client()
    holder = ask(holding, "pod-0")
    cluster.run(10)
    waiting = {member: cluster[member].client() for member in (1, 2, 3)}
    for member, client in waiting.items():
        ask(client, "pod-1" if member == best_at else f"pod-{member + 1}")
        cluster.run(10)
    holding.release(holder)
    cluster.run(100)
    assert [member for member, client in waiting.items() if client.got(wire.Granted)] == [best_at]


@pytest.mark.parametrize(("low_at", "high_at"), [(1, 3), (3, 1), (1, 2)])
def test_best_of_all_nodes_follows_a_crash(cluster: Cluster, low_at: int, high_at: int) -> None:
    """A holder that is not heard of any more is followed by the best candidate, within a moment."""
    declare(cluster, preference="Priority")
    ask(cluster[2].client(), "pod-0", 9)
    cluster.run(10)
    low, high = cluster[low_at].client(), cluster[high_at].client()
    ask(low, "pod-1", 1)
    ask(high, "pod-2", 2)
    cluster.run(DURATION_MS + 100)
    assert high.got(wire.Granted)
    assert not low.got(wire.Granted)


def test_better_one_that_does_not_come_is_not_waited_for(cluster: Cluster) -> None:
    """A node stands back once: when the better candidate has not taken the lease, the next one does."""
    declare(cluster, preference="Priority")
    holding = cluster[1].client()
    holder = ask(holding, "pod-0", 9)
    cluster.run(10)
    low, high = cluster[1].client(), cluster[3].client()
    ask(low, "pod-1", 1)
    ask(high, "pod-2", 2)
    cluster.run(10)
    # It is heard of, but reaches nobody with its own ballots.
    cluster.loses = lambda source, target, message: source == "3" and type(message).__name__ == "Prepare"
    holding.release(holder)
    cluster.run(STAND_BACK_MS // 2)
    assert not low.got(wire.Granted)
    cluster.run(STAND_BACK_MS)
    assert low.got(wire.Granted)


def test_named_successor_comes_before_rank(cluster: Cluster) -> None:
    """Whoever the holder names is next, at this node or another, though a better one waits."""
    declare(cluster, preference="Priority")
    holding = cluster[1].client()
    holder = ask(holding, "pod-0", 9)
    cluster.run(10)
    named, best = cluster[2].client(), cluster[1].client()
    ask(named, "pod-1", 1)
    ask(best, "pod-2", 5)
    cluster.run(10)
    holding.release(holder, "pod-1")
    cluster.run(100)
    assert named.got(wire.Granted)
    assert not best.got(wire.Granted)


def test_without_a_preference_nobody_is_asked(cluster: Cluster) -> None:
    """A lease that prefers nobody tells nobody who waits, and costs no read."""
    declare(cluster)
    holding = cluster[1].client()
    ask(holding, "pod-0")
    ask(cluster[1].client(), "pod-1", 5)
    cluster.run(10)
    assert cluster[1].driver.claims(KEY) == ()
    reads: list[Any] = []
    cluster.holds = lambda source, target, message: type(message).__name__ == "Peek" and bool(reads.append(message))
    keep(cluster, holding, 3 * FAILBACK_CHECK_MS)
    assert not reads


def test_better_candidate_is_named_to_the_holder(cluster: Cluster) -> None:
    """A holder is asked to step down in favour of a better one of another node; once, not with each look."""
    declare(cluster, preference="Priority")
    holding = cluster[1].client()
    holder = ask(holding, "pod-0", 1)
    cluster.run(10)
    ask(cluster[2].client(), "pod-1", 1)
    keep(cluster, holding, 3 * FAILBACK_CHECK_MS)
    assert not holding.got(wire.StepDownAsked), "an equal one is no reason"
    ask(cluster[3].client(), "pod-2", 2)
    keep(cluster, holding, 3 * FAILBACK_CHECK_MS)
    assert holding.got(wire.StepDownAsked) == [wire.StepDownAsked(NAME, holder.nonce, "pod-2")]
    keep(cluster, holding, ASK_AGAIN_MS)
    assert len(holding.got(wire.StepDownAsked)) == 2


def test_holder_is_left_alone_for_the_declared_time(cluster: Cluster) -> None:
    """With noFailback a better candidate waits until the holder has led for so long."""
    declare(cluster, preference="Ordinal", no_failback_ms=10_000)
    holding = cluster[1].client()
    ask(holding, "pod-1")
    cluster.run(10)
    ask(cluster[2].client(), "pod-0")
    keep(cluster, holding, 9_000)
    assert not holding.got(wire.StepDownAsked)
    keep(cluster, holding, 3_000)
    assert holding.got(wire.StepDownAsked)


def test_preference_that_is_declared_later_counts(cluster: Cluster) -> None:
    """A holder and a queue that were there before the preference follow it, too."""
    declare(cluster)
    holding = cluster[1].client()
    ask(holding, "pod-0", 1)
    cluster.run(10)
    ask(cluster[1].client(), "pod-1", 1)
    ask(cluster[1].client(), "pod-2", 2)
    cluster.run(10)
    declare(cluster, preference="Priority")
    assert [claim.name for claim in cluster[1].driver.claims(KEY)] == ["pod-2", "pod-1"]
    keep(cluster, holding, 2 * FAILBACK_CHECK_MS)
    assert [asked.successor for asked in holding.got(wire.StepDownAsked)] == ["pod-2"]


def test_priority_out_of_bounds_is_refused_by_name(cluster: Cluster) -> None:
    """A priority that no annotation allows is refused with its bounds."""
    client = cluster[1].client()
    ask(client, "pod-0", 1_000_001)
    (failed,) = client.got(wire.Failed)
    assert failed.text == "priority: 1000001 is outside [-1000000, 1000000]"
