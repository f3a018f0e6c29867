"""What the operator observes of one LeaderLease, and what the plan for it wants. Pure: no API server, no quorum."""

import copy
from typing import Any

import msgspec

from leaderlease.controller.actions import Action, Apply, Declare, Delete, Label, PatchStatus, Post
from leaderlease.controller.plan import Foreign, Observed, plan
from leaderlease.controller.resource import Kind, Pod, declaration, lease_spec
from leaderlease.controller.truth import NOTHING, QuorumView, Term, Truth
from leaderlease.paxos.lease import Holder

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
"""What may be observed, by name: the plan settles from each of them."""
