"""The status that the plan for one LeaderLease wants: holder, conditions, and the history of terms."""

from typing import Any

import msgspec
import pytest

from leaderlease.controller.plan import Observed, plan
from leaderlease.controller.resource import LEASE
from leaderlease.controller.truth import NOTHING, Term, Truth
from support.observations import (
    AT_MS,
    NOW,
    WORLDS,
    condition,
    done,
    ended,
    held,
    holder,
    observed,
    of,
    pod,
    reasons,
    status,
)


def test_status_of_a_holder() -> None:
    """Who, under which term, since when, on which node."""
    found = status(observed(held(term=7), pods=(pod(),)))
    assert found["holder"] == {
        "identity": "billing-0",
        "podName": "billing-0",
        "podUID": "uid-billing-0",
        "nodeName": "node-1",
    }
    assert (found["term"], found["acquireTime"], found["observedGeneration"]) == (7, "2026-01-01T00:00:00.000Z", 3)
    assert found["quorum"] == {"healthy": 3, "total": 3, "canLose": 1, "summary": "3/3"}


ELECTED, ANSWERS = ("True", "LeaderElected"), ("True", "MajorityAnswers")
NOBODY_KNOWS = ("Unknown", "QuorumNotAvailable")
NOT_FOUND, UNREACHABLE = ("False", "QuorumNotFound"), ("False", "Unreachable")


@pytest.mark.parametrize(
    ("seen", "ready", "elected", "available"),
    [
        (WORLDS["held"], ELECTED, ELECTED, ANSWERS),
        (WORLDS["nobody asked"], ("False", "NoCandidate"), ("False", "NoCandidate"), ANSWERS),
        (WORLDS["released"], ("False", "NoLeader"), ("False", "NoLeader"), ANSWERS),
        (observed(spec={"mode": "Paused"}), ("False", "Paused"), ("False", "Paused"), ANSWERS),
        (WORLDS["no quorum"], NOT_FOUND, NOBODY_KNOWS, NOT_FOUND),
        (WORLDS["quorum unreachable"], UNREACHABLE, NOBODY_KNOWS, UNREACHABLE),
        (WORLDS["no majority"], ("False", "NoMajority"), NOBODY_KNOWS, ("False", "NoMajority")),
        (observed(is_truth_known=False), ("Unknown", "NotReadYet"), NOBODY_KNOWS, ("Unknown", "NotReadYet")),
        (WORLDS["declaration failed"], ("False", "NotDeclared"), ("False", "NoCandidate"), ANSWERS),
    ],
)
def test_conditions(seen: Observed, ready: Any, elected: Any, available: Any) -> None:
    """Three conditions from the first visit on; Ready sums them up."""
    found = [condition(seen, kind) for kind in ("Ready", "LeaderElected", "QuorumAvailable")]
    assert found == [ready, elected, available]


def test_abnormal_conditions_are_there_only_while_true() -> None:
    """Reconciling until the quorum has the spec; Stalled where hands are needed."""
    assert condition(WORLDS["declaration failed"], "Reconciling") == ("True", "Declaring")
    assert condition(WORLDS["no quorum"], "Stalled") == ("True", "QuorumNotFound")
    for kind in ("Reconciling", "Stalled"):
        assert condition(WORLDS["held"], kind) == ("", "")


def test_generation_is_observed_when_the_quorum_has_it() -> None:
    """Not before."""
    assert status(WORLDS["declaration failed"])["observedGeneration"] == 0


def test_condition_keeps_its_time_while_its_status_stays() -> None:
    """A hand-over within one look changes the message, not the transition time."""
    seen = done(observed(held(), pods=(pod(), pod("billing-1"))))
    next_term = held("billing-1", 2, Term(1, holder(), AT_MS, AT_MS, "Transferred"))
    found = status(msgspec.structs.replace(seen, truth=next_term, holder_pod=pod("billing-1")))
    assert {c["lastTransitionTime"] for c in found["conditions"]} == {NOW}


def test_missed_terms_are_counted() -> None:
    """Transitions follow the terms that nobody watched; the first visit counts from there on."""
    seen = done(observed(held(term=5)))
    assert seen.body["status"]["transitions"] == 1
    found = status(msgspec.structs.replace(seen, truth=held("billing-1", 9)))
    assert (found["term"], found["transitions"]) == (9, 5)
    assert [(one["term"], one.get("reason")) for one in found["history"]] == [(9, None), (5, "Unknown")]


def test_history_is_bounded() -> None:
    """Ten terms, newest first."""
    seen = observed()
    for term in range(1, 14):
        seen = done(msgspec.structs.replace(seen, truth=held(term=term)))
    assert [one["term"] for one in seen.body["status"]["history"]] == list(range(13, 3, -1))


def test_times_in_the_history_are_never_rewritten() -> None:
    """Another replica heard the same from another node, a little later by that node's clock."""
    seen = done(observed(ended()))
    other = Truth((Term(1, holder(), AT_MS + 7, AT_MS + 5011, "Unknown"),))
    assert plan(msgspec.structs.replace(seen, truth=other)) == []


def test_a_quorum_that_was_made_anew_begins_its_history_anew() -> None:
    """Term 1 of another quorum is another grant: its own times, its own Events, and nothing of the terms before."""
    older = Term(1, holder(), AT_MS, AT_MS + 5, "Released")
    seen = done(observed(held("billing-1", 2, older), pods=(pod(), pod("billing-1"))))
    assert [one["term"] for one in seen.body["status"]["history"]] == [2, 1]
    nobody = msgspec.structs.replace(seen, truth=NOTHING, holder_pod=None)
    assert (status(nobody)["term"], status(nobody)["transitions"]) == (0, 1), "no grant there yet"
    anew = Truth((Term(1, msgspec.structs.replace(holder(), nonce="f" * 32), AT_MS + 60_000),))
    seen = msgspec.structs.replace(seen, truth=anew, holder_pod=pod())
    found = status(seen)
    assert found["acquireTime"] == "2026-01-01T00:01:00.000Z"
    assert [(one["term"], one["acquireTime"], one.get("reason")) for one in found["history"]] == [
        (1, found["acquireTime"], None)
    ]
    assert (found["term"], found["transitions"]) == (1, 2)
    (mirror,) = of(LEASE, plan(seen))
    assert mirror.body["spec"]["acquireTime"] == "2026-01-01T00:01:00.000000Z"
    assert reasons(seen) == ["LeaderElected"]
    assert plan(done(seen)) == []


def test_the_history_does_not_tell_the_nonce() -> None:
    """Whoever knows it could release the lease; the digest is for comparing alone."""
    (entry,) = status(observed(held()))["history"]
    assert len(entry["grant"]) == 16
    assert entry["grant"] not in holder().nonce
    assert holder().nonce not in str(status(observed(held())))


def test_expiry_that_is_taken_back_disappears() -> None:
    """The holder was renewed by others: it leads on under the same term."""
    seen = done(observed(ended("Expired"), pods=(pod(),)))
    found = status(msgspec.structs.replace(seen, truth=held(), holder_pod=pod()))
    assert found["holder"]["identity"] == "billing-0"
    assert "reason" not in found["history"][0]


def test_node_of_a_pod_that_went_is_kept() -> None:
    """The holder's pod was deleted, its lease still runs: the status is not rewritten for that."""
    seen = done(observed(held(), pods=(pod(),)))
    assert plan(msgspec.structs.replace(seen, holder_pod=None, pods=())) == []


def test_silent_quorum_keeps_what_was_known() -> None:
    """Holder and history stay; the conditions say that nobody knows."""
    seen = done(observed(held(), pods=(pod(),)))
    found = status(msgspec.structs.replace(seen, is_truth_known=False, truth=Truth()))
    assert found["holder"]["identity"] == "billing-0"
    assert found["history"] == seen.body["status"]["history"]
