"""What the plan for one LeaderLease wants, branch by branch. Pure: no API server, no quorum."""

import copy
from typing import Any

import msgspec
import pytest

from leaderlease.controller.actions import Action, Apply, Declare, Delete, Label, PatchStatus, Post, Withdraw, covers
from leaderlease.controller.plan import Foreign, Observed, plan, plan_gone
from leaderlease.controller.resource import (
    ANNOTATION_HINT,
    ENDPOINT_SLICE,
    HINT,
    LEASE,
    POD,
    SERVICE,
    Kind,
    Pod,
    declaration,
    lease_spec,
    pod_of,
)
from leaderlease.controller.truth import QuorumView, Term, Truth
from leaderlease.paxos.lease import Holder
from leaderlease.wire.session import Spec

NOW = "2026-01-01T00:00:10.000Z"
LATER = "2026-01-01T00:01:00.000Z"
AT_MS = 1_767_225_600_000
HEALTHY = QuorumView(is_known=True, error="", healthy=3, total=3, can_lose=1, is_available=True)
SERVICE_SPEC = {"name": "billing-leader", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}


def holder(name: str = "billing-0") -> Holder:
    """Return a holder in the pod of its name."""
    return Holder(name, f"uid-{name}", name.encode().hex().ljust(32, "0")[:32])


def pod(name: str = "billing-0", role: str = "", **changes: Any) -> Pod:
    """Return a running pod."""
    labels = {"app": "billing", "leaderlease.dev/inject": "billing", **({"leaderlease.dev/role": role} if role else {})}
    found = Pod("shop", name, f"uid-{name}", labels, f"10.0.0.{name[-1]}", "node-1", True, False, False, "1")
    return msgspec.structs.replace(found, **changes)


def held(name: str = "billing-0", term: int = 1, *older: Term) -> Truth:
    """Return what the quorum says while somebody holds."""
    return Truth((Term(term, holder(name), AT_MS), *older))


def ended(reason: str = "Released", name: str = "billing-0", term: int = 1) -> Truth:
    """Return what the quorum says after a term."""
    return Truth((Term(term, holder(name), AT_MS, AT_MS + 5000, reason),))


NOTHING = Truth()


def observed(truth: Truth = NOTHING, spec: Any = None, **changes: Any) -> Observed:
    """Return an observation in which everything is declared and nothing was written yet."""
    body = {
        "apiVersion": "leaderlease.dev/v1alpha1",
        "kind": "LeaderLease",
        "metadata": {"namespace": "shop", "name": "billing", "uid": "11111111-2222", "generation": 3},
        "spec": spec or {},
    }
    wanted = declaration(lease_spec(body), changes.get("pods", ()))
    found = {"declared": wanted, "quorum": HEALTHY, "now": NOW, "truth": truth, "wanted": wanted, **changes}
    if "holder_pod" not in changes and truth.holder is not None:
        pods = changes.get("pods", ())
        found["holder_pod"] = next((p for p in pods if p.uid == truth.holder.pod_uid), None)
    return Observed(body=body, spec=lease_spec(body), **found)


def done(seen: Observed) -> Observed:
    """Carry out what the plan wants, in memory; return what is observed then."""
    pods = {one.uid: one for one in seen.pods}
    for action in plan(seen):
        match action:
            case Declare(_, _, spec):
                seen = msgspec.structs.replace(seen, declared=spec)
            case Apply(kind, body):
                field = {"Lease": "lease", "Service": "service", "EndpointSlice": "endpoints"}[kind.name]
                seen = msgspec.structs.replace(seen, **{field: copy.deepcopy(body)})
            case Label(one, role):
                labels = {**one.labels, "leaderlease.dev/role": role or ""}
                pods[one.uid] = msgspec.structs.replace(one, labels=labels)
            case PatchStatus():
                seen = msgspec.structs.replace(seen, body={**seen.body, "status": copy.deepcopy(action.status)})
            case Delete():
                seen = msgspec.structs.replace(seen, strays=())
    return msgspec.structs.replace(seen, pods=tuple(pods.values()), now=LATER)


def of(kind: type[Action] | Kind, actions: list[Action]) -> list[Any]:
    """Return the actions of a type, or those that apply a kind of object."""
    if isinstance(kind, Kind):
        return [action for action in actions if isinstance(action, Apply) and action.kind is kind]
    return [action for action in actions if isinstance(action, kind)]  # type: ignore[arg-type]


def status(seen: Observed) -> dict[str, Any]:
    """Return the status that the plan wants."""
    (patch,) = of(PatchStatus, plan(seen))
    return dict(patch.status)


def reasons(seen: Observed) -> list[str]:
    """Return the reasons of the Events that the plan wants."""
    return [post.body["reason"] for post in of(Post, plan(seen))]


def condition(seen: Observed, kind: str) -> tuple[str, str]:
    """Return (status, reason) of a condition that the plan wants; empty without it."""
    return next(((c["status"], c["reason"]) for c in status(seen)["conditions"] if c["type"] == kind), ("", ""))


# --- nothing to do -------------------------------------------------------------------------------------------

WORLDS = {
    "nobody asked": observed(),
    "held": observed(held(), pods=(pod(), pod("billing-1"))),
    "held from outside": observed(Truth((Term(4, Holder("laptop", "", "0" * 32), AT_MS),))),
    "released": observed(ended(), pods=(pod(),)),
    "routed": observed(held(), {"leaderService": SERVICE_SPEC}, pods=(pod(), pod("billing-1"))),
    "paused": observed(held(), {"mode": "Paused"}, pods=(pod(),)),
    "observed only": observed(held(), {"mode": "ObserveOnly", "leaderService": SERVICE_SPEC}, pods=(pod(),)),
    "no quorum": observed(quorum=None, is_declared_known=False, is_truth_known=False),
    "quorum unreachable": observed(quorum=QuorumView(), is_declared_known=False, is_truth_known=False),
    "no majority": observed(held(), quorum=msgspec.structs.replace(HEALTHY, healthy=1, is_available=False)),
    "name taken": observed(held(), {"leaderService": SERVICE_SPEC}, service=Foreign(), lease=Foreign()),
    "declaration failed": observed(declared=None, declare_error="too few nodes answer"),
    "undated": observed(Truth((Term(2, holder(), 0), Term(1, None, 0, 0, "Unknown")))),
}


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


# --- status --------------------------------------------------------------------------------------------------


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


# --- events --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Released", "LeaderStepDown"),
        ("Transferred", "LeaderStepDown"),
        ("Expired", "LeaderLost"),
        ("Revoked", "LeaderLost"),
        ("Unknown", "LeaderLost"),
    ],
)
def test_end_of_a_term_is_one_event(reason: str, told: str) -> None:
    """Named by what happened."""
    seen = done(observed(held(), pods=(pod(),)))
    after = msgspec.structs.replace(seen, truth=ended(reason), holder_pod=None)
    assert reasons(after) == [told]
    (post,) = of(Post, plan(after))
    assert post.body["type"] == ("Warning" if told == "LeaderLost" else "Normal")
    assert post.body["related"]["name"] == "billing-0"
    assert post.body["regarding"]["uid"] == "11111111-2222"


def test_events_of_several_terms_come_in_order() -> None:
    """What happened between two looks is told, oldest first, each under its own name."""
    seen = done(observed(held()))
    older = (Term(2, holder("billing-1"), AT_MS, AT_MS, "Released"), Term(1, holder(), AT_MS, AT_MS, "Expired"))
    after = msgspec.structs.replace(seen, truth=held("billing-2", 3, *older))
    assert reasons(after) == ["LeaderLost", "LeaderElected", "LeaderStepDown", "LeaderElected"]
    names = [post.body["metadata"]["name"].split(".") for post in of(Post, plan(after))]
    assert [(name[:2], name[2], name[4]) for name in names] == [
        (["billing", "11111111"], *change)
        for change in (("1", "ended"), ("2", "elected"), ("2", "ended"), ("3", "elected"))
    ]
    assert len({name[3] for name in names}) == 3, "each grant has its own name, also of a term that comes twice"


def test_first_visit_tells_only_of_the_present() -> None:
    """An object that was created over an old register does not tell its past."""
    assert reasons(observed(held("billing-1", 9, Term(8, holder(), AT_MS, AT_MS, "Released")))) == ["LeaderElected"]
    assert reasons(observed(ended())) == []


def test_same_change_has_the_same_name() -> None:
    """A second try, or another replica, cannot tell it twice."""
    seen = observed(held())
    again = msgspec.structs.replace(seen, now=LATER)
    assert [p.body["metadata"]["name"] for p in of(Post, plan(seen))] == [
        p.body["metadata"]["name"] for p in of(Post, plan(again))
    ]


def test_pod_is_read_from_the_server() -> None:
    """What we keep of a pod; one without a status has no address and is not ready."""
    metadata = {"namespace": "shop", "name": "a", "uid": "u", "resourceVersion": "5"}
    assert pod_of({"metadata": metadata}) == Pod("shop", "a", "u", {}, "", "", False, False, False, "5")
    assert POD.path("shop", "a") == "/api/v1/namespaces/shop/pods/a"
