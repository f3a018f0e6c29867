"""What is known of a lease, folded from transitions; and the plan for a LeaderQuorum."""

from typing import Any

import msgspec
import pytest

from leaderlease.controller.actions import Action, PatchStatus, Post
from leaderlease.controller.quorum_plan import plan_quorum
from leaderlease.controller.resource import QuorumSpec
from leaderlease.controller.truth import (
    NOTHING,
    TERMS_MAX,
    Member,
    QuorumView,
    Truth,
    fold,
    fold_info,
    timestamp,
    view_of,
)
from leaderlease.paxos.lease import Holder
from leaderlease.wire.session import LeaseInfo, NodeStatus, Transition

A, B = Holder("a", "", "a" * 32), Holder("b", "", "b" * 32)


def told(*transitions: tuple[str, int, Holder | None, int]) -> Truth:
    """Fold (kind, term, holder, at)."""
    truth = NOTHING
    for kind, term, holder, at_ms in transitions:
        truth = fold(truth, Transition(1, "shop/billing", kind, term, holder, at_ms))
    return truth


def terms(truth: Truth) -> list[tuple[int, str, int, int, str]]:
    """Return (term, holder, acquired, ended, reason), newest first."""
    return [(t.term, t.holder.name if t.holder else "", t.acquired_ms, t.ended_ms, t.reason) for t in truth.terms]


@pytest.mark.parametrize(
    ("transitions", "expected"),
    [
        ([("acquired", 1, A, 5)], [(1, "a", 5, 0, "")]),
        ([("acquired", 1, A, 5), ("released", 1, None, 9)], [(1, "a", 5, 9, "Released")]),
        ([("acquired", 1, A, 5), ("expired", 1, None, 9)], [(1, "a", 5, 9, "Expired")]),
        ([("acquired", 1, A, 5), ("revoked", 1, None, 9)], [(1, "a", 5, 9, "Revoked")]),
        ([("acquired", 1, A, 5), ("transferred", 2, B, 9)], [(2, "b", 9, 0, ""), (1, "a", 5, 9, "Transferred")]),
        ([("acquired", 1, A, 5), ("acquired", 3, B, 9)], [(3, "b", 9, 0, ""), (1, "a", 5, 9, "Unknown")]),
        ([("state", 4, A, 5)], [(4, "a", 0, 0, "")]),
        ([("state", 4, None, 5)], [(4, "", 0, 5, "Unknown")]),
        ([("acquired", 2, A, 5), ("released", 1, None, 9)], [(2, "a", 5, 0, "")]),
        ([("acquired", 1, A, 5), ("released", 1, None, 9), ("expired", 1, None, 11)], [(1, "a", 5, 9, "Released")]),
        ([("acquired", 1, A, 5), ("state", 1, A, 7)], [(1, "a", 5, 0, "")]),
        ([("state", 0, None, 5)], []),
    ],
    ids=lambda value: str(value)[:70],
)
def test_fold(transitions: Any, expected: Any) -> None:
    """Each kind of transition, gaps, repetitions and old news."""
    assert terms(told(*transitions)) == expected


def test_read_tells_when_it_was_granted_and_takes_an_expiry_back() -> None:
    """A quorum read knows more than a stream that began in the middle."""
    info = LeaseInfo("shop/billing", "held", A, 4, 3000, 2000, 123)
    assert terms(fold_info(told(("state", 4, A, 5)), info)) == [(4, "a", 123, 0, "")]
    assert fold_info(told(("acquired", 4, A, 5), ("expired", 4, None, 9)), info).holder == A
    in_transition = msgspec.structs.replace(info, state="in transition", term=9)
    assert fold_info(NOTHING, in_transition) == NOTHING
    vacant = msgspec.structs.replace(info, state="vacant", holder=None)
    assert terms(fold_info(told(("acquired", 4, A, 5)), vacant)) == [(4, "a", 5, 0, "Unknown")]


def test_the_same_term_by_another_nonce_is_of_another_quorum() -> None:
    """A quorum grants a term once: nothing of what was known is mixed into it."""
    truth = told(("acquired", 1, A, 5), ("released", 1, None, 9), ("acquired", 2, A, 10), ("acquired", 2, B, 60))
    assert terms(truth) == [(2, "b", 60, 0, "")]


def test_memory_of_terms_is_bounded() -> None:
    """As many as a status shows."""
    truth = told(*(("acquired", term, A, term) for term in range(1, 30)))
    assert [one.term for one in truth.terms] == list(range(29, 29 - TERMS_MAX, -1))


def test_timestamp() -> None:
    """As Kubernetes writes times, with milliseconds."""
    assert timestamp(1_767_225_600_007) == "2026-01-01T00:00:00.007Z"


# --- quorums -------------------------------------------------------------------------------------------------

SPEC = QuorumSpec(endpoints=("a:1",), replicas=3, cluster_uid="c")
MEMBERS = tuple(Member(f"node-{i}", f"u{i}", "Healthy", "1.0", 1) for i in range(3))
WELL = QuorumView(True, "", "c", 1, 3, 3, 1, True, 8, MEMBERS)
ONE_LEFT = msgspec.structs.replace(WELL, healthy=1, can_lose=0, is_available=False)
AWAY = msgspec.structs.replace(WELL, is_known=False, is_available=False, error="refused")
NOW, LATER = "2026-01-01T00:00:10.000Z", "2026-01-01T00:01:00.000Z"


def body(status: Any = None) -> dict[str, Any]:
    """Return a LeaderQuorum."""
    metadata = {"name": "default", "uid": "11111111-2222", "generation": 2}
    found: dict[str, Any] = {"kind": "LeaderQuorum", "metadata": metadata}
    return found | ({"status": status} if status else {})


def patched(actions: list[Action]) -> dict[str, Any]:
    """Return the status that the plan wants."""
    (patch,) = [action for action in actions if isinstance(action, PatchStatus)]
    return dict(patch.status)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return (status, reason) by type."""
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def test_first_status_of_a_quorum() -> None:
    """Members, numbers and three conditions; a second look has nothing to do, also when ballots have risen."""
    status = patched(plan_quorum(body(), SPEC, WELL, NOW))
    assert (status["summary"], status["canLose"], status["epoch"], len(status["members"])) == ("3/3", 1, 1, 3)
    assert conditions(status) == {
        "Available": ("True", "MajorityAnswers"),
        "MembershipSettled": ("True", "AsWanted"),
        "AcceptorAmnesia": ("False", "NoneSeen"),
    }
    busier = msgspec.structs.replace(WELL, ballot_highest=99)
    assert plan_quorum(body(status), SPEC, busier, LATER) == []


@pytest.mark.parametrize(
    ("spec", "view", "kind", "expected"),
    [
        (SPEC, ONE_LEFT, "Available", ("False", "NoMajority")),
        (SPEC, AWAY, "Available", ("False", "Unreachable")),
        (SPEC, AWAY, "MembershipSettled", ("Unknown", "Unreachable")),
        (QuorumSpec(replicas=5), WELL, "MembershipSettled", ("False", "Resizing")),
        (QuorumSpec(cluster_uid="x"), WELL, "MembershipSettled", ("False", "WrongCluster")),
        (SPEC, msgspec.structs.replace(WELL, strangers=(("a:1", "u9"),)), "AcceptorAmnesia", ("True", "ForeignDisk")),
    ],
)
def test_conditions_of_a_quorum(spec: QuorumSpec, view: QuorumView, kind: str, expected: tuple[str, str]) -> None:
    """What people look at first."""
    assert conditions(patched(plan_quorum(body(), spec, view, NOW)))[kind] == expected


def test_loss_and_return_are_one_event_each() -> None:
    """Under names that a second try repeats."""

    def reasons(actions: list[Action]) -> list[tuple[str, str]]:
        return [(a.body["reason"], a.body["metadata"]["name"]) for a in actions if isinstance(a, Post)]

    well = patched(plan_quorum(body(), SPEC, WELL, NOW))
    lost = plan_quorum(body(well), SPEC, ONE_LEFT, LATER)
    assert reasons(lost) == [("QuorumLost", "default.11111111.20260101000010000.lost")]
    assert reasons(plan_quorum(body(well), SPEC, ONE_LEFT, "2026-01-01T00:05:00.000Z")) == reasons(lost)
    restored = plan_quorum(body(patched(lost)), SPEC, WELL, LATER)
    assert [reason for reason, _ in reasons(restored)] == ["QuorumRestored"]
    assert reasons(plan_quorum(body(), SPEC, ONE_LEFT, NOW)) == []


def test_quorum_out_of_sight_keeps_its_members() -> None:
    """Nobody answers: what was known stays, marked as unknown."""
    status = patched(plan_quorum(body(patched(plan_quorum(body(), SPEC, WELL, NOW))), SPEC, AWAY, LATER))
    assert [member["health"] for member in status["members"]] == ["Unknown"] * 3
    assert status["summary"] == "0/3"


def test_view_of_a_node() -> None:
    """One node's answer makes the whole view; versions that others told before are kept."""
    status = NodeStatus(
        *(1, "node-0", "u0", "c", 4, 2, "1.1", 77, 1.0, 5, 6, 3, 2, 0, True),
        peers=(("node-1", "u1", True, 0.2), ("node-2", "u2", False, -1.0)),
    )
    view = view_of(status, WELL)
    assert [(m.name, m.health, m.version) for m in view.members] == [
        ("node-0", "Healthy", "1.1"),
        ("node-1", "Healthy", "1.0"),
        ("node-2", "Unreachable", "1.0"),
    ]
    assert (view.summary, view.can_lose, view.epoch, view.is_known) == ("2/3", 0, 2, True)
