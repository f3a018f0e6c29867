"""What the plan for one LeaderLease wants of the quorum and of its objects, branch by branch."""

from typing import Any

import msgspec
import pytest

from leaderlease.controller.actions import Apply, Declare, Delete, Label, PatchStatus, Post, Withdraw, covers
from leaderlease.controller.plan import Foreign, Observed, plan, plan_gone
from leaderlease.controller.resource import (
    ANNOTATION_HINT,
    ENDPOINT_SLICE,
    HINT,
    LEASE,
    POD,
    SERVICE,
    Pod,
    declaration,
    lease_spec,
    pod_of,
)
from leaderlease.wire.session import Spec
from support.observations import HEALTHY, SERVICE_SPEC, WORLDS, condition, done, ended, held, observed, of, pod

# --- nothing to do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", WORLDS.values(), ids=WORLDS)
def test_plan_settles(seen: Observed) -> None:
    """What was planned and done leaves nothing to do, also later: an idle cluster sees no writes."""
    after = done(seen)
    assert plan(after) == []


def test_server_defaults_are_no_difference() -> None:
    """What the server adds to an object does not make the plan write it again; what it lacks does."""
    assert covers({"a": 1, "b": [{"c": 1, "d": 2}]}, {"b": [{"c": 1}]})
    assert not covers({"b": [{"c": 1}, {"c": 2}]}, {"b": [{"c": 1}]})
    assert not covers({"b": []}, {"b": [{"c": 1}]})
    assert not covers(None, {"b": 1})


@pytest.mark.parametrize("observed", [{"b": None}, {}, {"b": []}], ids=["null", "left out", "empty"])
def test_empty_list_is_the_same_as_none(observed: Any) -> None:
    """So the server hands out what was applied as an empty list; a list that should be there, or a map, is missed."""
    assert covers(observed, {"b": []})
    assert not covers(observed, {"b": [1]})
    assert not covers(observed, {"b": {}})
    assert not covers({"b": [1]}, {"b": []})


def test_slice_of_a_vacant_lease_is_written_once() -> None:
    """The server hands its empty endpoints out as null, and an idle cluster sees no writes."""
    seen = done(observed(ended(), {"leaderService": SERVICE_SPEC}, pods=(pod(),)))
    assert isinstance(seen.endpoints, dict)
    assert plan(msgspec.structs.replace(seen, endpoints={**seen.endpoints, "endpoints": None})) == []


# --- declarations --------------------------------------------------------------------------------------------


def test_new_lease_is_declared() -> None:
    """The spec goes to the quorum that it names, marked as ours."""
    times = {"leaseDuration": "750ms", "renewDeadline": "500ms", "retryPeriod": "90ms", "lockDelay": "15s"}
    spec = {"quorum": "eu", "mode": "Paused", "preference": {"policy": "Ordinal", "noFailback": "24h"}, **times}
    (action,) = of(Declare, plan(observed(spec=spec, declared=None)))
    assert (action.quorum, action.name) == ("eu", "shop/billing")
    how = {"renew_deadline_ms": 500, "retry_period_ms": 90, "preference": "Ordinal", "no_failback_ms": 86_400_000}
    assert action.spec == Spec(750, 15_000, mode="Paused", source="kubernetes", **how)  # type: ignore[arg-type]


def test_candidates_become_uids() -> None:
    """Pods that the selector matches are admitted by uid, those that are over are not; no selector admits all."""
    selector = {"matchLabels": {"app": "billing"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}
    spec = lease_spec({"spec": {"candidates": {"podSelector": selector, "serviceAccountNames": ["b", "a"]}}})
    others = (
        pod("billing-2", labels={"app": "other"}),
        pod("billing-3", is_over=True),
        pod("billing-4", labels={"app": "billing", "x": ""}),
    )
    found = declaration(spec, [pod("billing-1"), pod("billing-0"), *others])
    assert found.pods == ("uid-billing-0", "uid-billing-1")
    assert found.service_accounts == ("a", "b")
    assert declaration(lease_spec({}), [pod()]).pods is None


@pytest.mark.parametrize(
    "changes", [{"is_declared_known": False}, {"quorum": None}, {"declare_error": "no"}], ids=lambda c: next(iter(c))
)
def test_nothing_is_declared_blindly(changes: Any) -> None:
    """Without knowing what is declared, without a quorum and right after a failure, nothing is written there."""
    assert of(Declare, plan(observed(declared=None, **changes))) == []


def test_gone_lease_is_withdrawn_and_its_roles_removed() -> None:
    """Only a declaration that this operator made is taken back."""
    ours, theirs = Spec(3000, source="kubernetes"), Spec(3000)
    assert plan_gone("q", "shop/billing", ours, (pod(role="leader"), pod("billing-1"))) == [
        Withdraw("q", "shop/billing"),
        Label(pod(role="leader"), None),
    ]
    assert plan_gone("q", "shop/billing", theirs, ()) == []
    assert plan_gone("q", "shop/billing", None, ()) == []


def test_declaration_comes_alone() -> None:
    """The status is written once, when the quorum has the spec or has refused it."""
    seen = observed(held(), declared=None)
    assert [type(action) for action in plan(seen)] == [Declare]
    refused = msgspec.structs.replace(seen, declare_error="too few nodes answer")
    assert condition(refused, "Reconciling") == ("True", "Declaring")
    assert plan(done(done(seen))) == []


def test_pod_is_read_from_the_server() -> None:
    """What we keep of a pod; one without a status has no address and is not ready."""
    metadata = {"namespace": "shop", "name": "a", "uid": "u", "resourceVersion": "5"}
    assert pod_of({"metadata": metadata}) == Pod("shop", "a", "u", {}, "", "", False, False, False, "5")
    assert POD.path("shop", "a") == "/api/v1/namespaces/shop/pods/a"


# --- traffic and decoration ----------------------------------------------------------------------------------


def endpoints(seen: Observed) -> list[Any]:
    """Return the endpoints that the plan wants."""
    (action,) = of(ENDPOINT_SLICE, plan(seen))
    return list(action.body["endpoints"])


def test_traffic_goes_before_everything_that_tells() -> None:
    """The EndpointSlice is written before labels, mirror, Events and status."""
    kinds = [
        action.kind.name if isinstance(action, Apply) else type(action).__name__
        for action in plan(observed(held(), {"leaderService": SERVICE_SPEC}, pods=(pod(),)))
    ]
    assert kinds == ["Service", "EndpointSlice", "Label", "Lease", "Post", "PatchStatus"]


@pytest.mark.parametrize(
    ("pods", "addresses", "is_ready"),
    [
        ((pod(),), ["10.0.0.0"], True),
        ((pod(is_ready=False),), ["10.0.0.0"], False),
        ((pod(is_terminating=True),), ["10.0.0.0"], False),
        ((pod(ip=""),), [], None),
        ((pod(is_over=True),), [], None),
        ((), [], None),
        ((pod(uid="uid-of-its-successor"),), [], None),
    ],
)
def test_traffic_goes_to_the_pod_of_the_holder(pods: Any, addresses: list[str], is_ready: bool | None) -> None:
    """By uid: a replacement of the same name gets nothing of it."""
    found = endpoints(observed(held(), {"leaderService": SERVICE_SPEC}, pods=pods))
    assert [one["addresses"][0] for one in found] == addresses
    assert [one["conditions"]["ready"] for one in found] == ([] if is_ready is None else [is_ready])


def test_vacant_lease_takes_traffic_away() -> None:
    """Nobody leads, nobody is served."""
    seen = done(observed(held(), {"leaderService": SERVICE_SPEC}, pods=(pod(),)))
    assert endpoints(msgspec.structs.replace(seen, truth=ended(), holder_pod=None)) == []


NO_MAJORITY = msgspec.structs.replace(HEALTHY, is_available=False)
SILENCES = [{"is_truth_known": False}, {"quorum": NO_MAJORITY}]


@pytest.mark.parametrize("changes", SILENCES, ids=lambda changes: next(iter(changes)))
def test_silent_quorum_leaves_traffic_alone(changes: Any) -> None:
    """Who led may well lead on; only the labels say that nobody knows."""
    seen = done(observed(held(), {"leaderService": SERVICE_SPEC}, pods=(pod(),)))
    actions = plan(msgspec.structs.replace(seen, truth=ended(), holder_pod=None, **changes))
    assert of(ENDPOINT_SLICE, actions) == of(LEASE, actions) == of(SERVICE, actions) == []
    assert [action.role for action in of(Label, actions)] == ["unknown"]


def test_old_leader_loses_its_label_first() -> None:
    """Two pods never carry the label of a leader at a time."""
    pods = (pod("billing-0", "standby"), pod("billing-1", "leader"), pod("billing-2", is_over=True))
    labels = of(Label, plan(observed(held("billing-0", 2), pods=pods)))
    assert [(one.pod.name, one.role) for one in labels] == [("billing-1", "standby"), ("billing-0", "leader")]


def test_observe_only_moves_nothing() -> None:
    """No Service, no EndpointSlice, no label; mirror and status go on."""
    actions = plan(observed(held(), {"mode": "ObserveOnly", "leaderService": SERVICE_SPEC}, pods=(pod(),)))
    assert {type(action) for action in actions} == {Apply, Post, PatchStatus}
    assert of(SERVICE, actions) == of(ENDPOINT_SLICE, actions) == []


def test_foreign_objects_are_never_written() -> None:
    """The lease is stalled with a sentence, except for a mere hint."""
    spec = {"leaderService": SERVICE_SPEC}
    seen = observed(held(), spec, service=Foreign(), endpoints=Foreign(), lease=Foreign())
    assert of(Apply, plan(seen)) == []
    assert condition(seen, "Stalled") == ("True", "NameTaken")
    assert condition(seen, "Ready") == ("False", "NameTaken")
    assert condition(observed(held(), lease=Foreign()), "Stalled") == ("", "")


def test_strays_are_deleted_by_uid() -> None:
    """What is not wanted any more goes."""
    stray = {"metadata": {"namespace": "shop", "name": "old", "uid": "u"}}
    assert of(Delete, plan(observed(strays=((SERVICE, stray),)))) == [Delete(SERVICE, "shop", "old", "u")]


def test_h37_the_mirror_says_that_it_is_a_hint_and_nothing_is_read_from_it() -> None:
    """H37: whatever somebody writes there is overwritten, and changes neither the status nor where traffic goes."""
    seen = done(observed(held(), {"leaderService": SERVICE_SPEC}, pods=(pod(),)))
    (mirror,) = of(LEASE, plan(observed(held(), pods=(pod(),))))
    assert mirror.body["metadata"]["annotations"][ANNOTATION_HINT] == HINT
    assert "moves no leader" in HINT
    forged = {**mirror.body, "spec": {**mirror.body["spec"], "holderIdentity": "billing-9"}}
    (again,) = plan(msgspec.structs.replace(seen, lease=forged))
    assert isinstance(again, Apply)
    assert again.kind is LEASE
    assert again.body["spec"]["holderIdentity"] == "billing-0"


def test_mirror_forgets_the_holder() -> None:
    """A vacant lease has no holderIdentity in the mirror."""
    seen = done(observed(held(), pods=(pod(),)))
    (before,) = of(LEASE, plan(observed(held(), pods=(pod(),))))
    assert before.body["spec"] == {
        "leaseTransitions": 1,
        "leaseDurationSeconds": 3,
        "holderIdentity": "billing-0",
        "acquireTime": "2026-01-01T00:00:00.000000Z",
    }
    (after,) = of(LEASE, plan(msgspec.structs.replace(seen, truth=ended(), holder_pod=None)))
    assert after.body["spec"] == {"leaseTransitions": 1, "leaseDurationSeconds": 3}
