"""What should be done about one LeaderLease. Pure: everything it looks at is in ``Observed``.

Rule 1: nothing is written that already says what is wanted, so an idle cluster sees no writes.
Rule 2: traffic first: the EndpointSlice goes before everything that only tells of the change. The status goes last,
        because the Events are told apart by it.
Rule 3: while the quorum does not answer, nothing that moves traffic is touched: who led may well lead on.
Rule 4: an object that is not ours is never written, even if it has the name that we want.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from leaderlease.controller.actions import (
    Action,
    Apply,
    Declare,
    Delete,
    Label,
    PatchStatus,
    Post,
    Withdraw,
    covers,
)
from leaderlease.controller.conditions import FALSE, TRUE, UNKNOWN, Condition, merge
from leaderlease.controller.history import events, holder_of, merged, transitions
from leaderlease.controller.resource import (
    ANNOTATION_HINT,
    API_VERSION,
    ENDPOINT_SLICE,
    GROUP,
    HINT,
    LABEL_LEASE,
    LABEL_MANAGED,
    LEADER_LEASE,
    LEASE,
    SERVICE,
    SOURCE,
    Json,
    Kind,
    LeaderService,
    LeaseSpec,
    Pod,
)
from leaderlease.controller.truth import QuorumView, Truth
from leaderlease.paxos.lease import format_duration
from leaderlease.wire.session import Spec

READY: Final = "Ready"
LEADER_ELECTED: Final = "LeaderElected"
QUORUM_AVAILABLE: Final = "QuorumAvailable"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"


class Foreign(msgspec.Struct, frozen=True):
    """In the place of an object: there is one of this name, and it is not ours."""


Child = Json | Foreign | None
"""An object that belongs to a LeaderLease; None if there is none."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a plan looks at.

    Attributes:
        body: The LeaderLease.
        spec: Its spec.
        wanted: What should be declared to the quorum.
        declared: What is; None if nothing is.
        is_declared_known: The declarations of the quorum were read; else ``declared`` means nothing.
        declare_error: Why the last declaration failed.
        truth: What the quorum decided.
        is_truth_known: Its leases were read; else ``truth`` means nothing.
        quorum: How it is; None if there is no such quorum.
        pods: Those whose role label is this lease's to write.
        holder_pod: The pod of the holder, if it is known.
        lease: The mirror Lease.
        service: The Service of ``leaderService``.
        endpoints: The EndpointSlice of ``leaderService``.
        strays: Our objects of this lease that nobody wants any more.
        now: A timestamp with milliseconds.
    """

    body: Json
    spec: LeaseSpec
    wanted: Spec
    declared: Spec | None = None
    is_declared_known: bool = True
    declare_error: str = ""
    truth: Truth = Truth()
    is_truth_known: bool = True
    quorum: QuorumView | None = None
    pods: tuple[Pod, ...] = ()
    holder_pod: Pod | None = None
    lease: Child = None
    service: Child = None
    endpoints: Child = None
    strays: tuple[tuple[Kind, Json], ...] = ()
    now: str = ""

    @property
    def name(self) -> str:
        """``namespace/name``, as the quorum knows it."""
        metadata = self.body["metadata"]
        return f"{metadata['namespace']}/{metadata['name']}"

    @property
    def must_declare(self) -> bool:
        """The quorum has another declaration than is wanted, and did not just refuse it."""
        is_possible = self.is_declared_known and self.quorum is not None and not self.declare_error
        return is_possible and self.declared != self.wanted

    @property
    def is_quorum_available(self) -> bool:
        """A majority answers, and we heard what it decided."""
        return self.quorum is not None and self.quorum.is_available and self.is_truth_known


def plan(seen: Observed) -> list[Action]:
    """Return what should be done about a LeaderLease, in this order; nothing when all is as it should be.

    A declaration comes alone: when it was made, or was refused, the next plan sees that and writes one status.
    """
    actions: list[Action] = []
    if seen.must_declare:
        return [Declare(seen.spec.quorum, seen.name, seen.wanted)]
    if seen.spec.mode != "ObserveOnly":
        actions += _routing(seen)
        actions += _roles(seen)
    if seen.is_quorum_available:
        actions += _mirror(seen)
    for kind, stray in seen.strays:
        metadata = stray["metadata"]
        actions.append(Delete(kind, metadata["namespace"], metadata["name"], metadata["uid"]))
    status = _status(seen)
    old = seen.body.get("status") or {}
    if status != old:
        pods = {pod.name: pod for pod in (*seen.pods, *((seen.holder_pod,) if seen.holder_pod else ()))}
        actions += [Post(event) for event in events(seen.body, status["history"], pods, seen.now)]
        metadata = seen.body["metadata"]
        where = (metadata["namespace"], metadata["name"], metadata["uid"])
        actions.append(PatchStatus(LEADER_LEASE, *where, status, metadata.get("resourceVersion", "")))
    return actions


def plan_gone(quorum: str, name: str, declared: Spec | None, pods: tuple[Pod, ...]) -> list[Action]:
    """Return what should be done about a LeaderLease that is not there (any more).

    Its children go by their owner references. A declaration that people made with the command line is theirs.

    Args:
        pods: Those that carry a role of this lease.
    """
    actions: list[Action] = []
    if declared is not None and declared.source == SOURCE:
        actions.append(Withdraw(quorum, name))
    actions += [Label(pod, None) for pod in pods if pod.role]
    return actions


# --- traffic -------------------------------------------------------------------------------------------------


def _routing(seen: Observed) -> Iterator[Action]:
    service = seen.spec.leader_service
    if service is None or isinstance(seen.service, Foreign):
        return
    wanted = _service(seen, service)
    if not covers(seen.service, wanted):
        yield Apply(SERVICE, wanted)
    if not seen.is_quorum_available or isinstance(seen.endpoints, Foreign):
        return
    endpoints = _endpoint_slice(seen, service)
    if not covers(seen.endpoints, endpoints):
        yield Apply(ENDPOINT_SLICE, endpoints)


def _metadata(seen: Observed, name: str, labels: dict[str, str]) -> Json:
    owner = seen.body["metadata"]
    return {
        "name": name,
        "namespace": owner["namespace"],
        "labels": {LABEL_LEASE: owner["name"], LABEL_MANAGED: "leaderlease", **labels},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": LEADER_LEASE.name,
                "name": owner["name"],
                "uid": owner["uid"],
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def _service(seen: Observed, service: LeaderService) -> Json:
    ports = [
        {"name": p.name, "port": p.port, "targetPort": p.target_port or p.port, "protocol": p.protocol}
        for p in service.ports
    ]
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.name,
        "metadata": _metadata(seen, service.name, {}),
        "spec": {"ports": ports},
    }


def slice_name(service: LeaderService) -> str:
    """Return the name of the one EndpointSlice of a leader Service."""
    return f"{service.name}-leader"


def _endpoint_slice(seen: Observed, service: LeaderService) -> Json:
    pod = seen.holder_pod
    endpoints = []
    if pod is not None and pod.ip and not pod.is_over:
        endpoints.append(
            {
                "addresses": [pod.ip],
                "conditions": {
                    "ready": pod.is_ready and not pod.is_terminating,
                    "serving": pod.is_ready,
                    "terminating": pod.is_terminating,
                },
                "targetRef": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
                **({"nodeName": pod.node} if pod.node else {}),
            }
        )
    is_v6 = bool(endpoints) and ":" in endpoints[0]["addresses"][0]  # type: ignore[index]
    before = seen.endpoints.get("addressType") if isinstance(seen.endpoints, dict) else None
    family = "IPv6" if is_v6 else "IPv4"
    labels = {"kubernetes.io/service-name": service.name, "endpointslice.kubernetes.io/managed-by": GROUP}
    return {
        "apiVersion": ENDPOINT_SLICE.api_version,
        "kind": ENDPOINT_SLICE.name,
        "metadata": _metadata(seen, slice_name(service), labels),
        "addressType": family if endpoints else before or family,
        "endpoints": endpoints,
        "ports": [{"name": p.name, "port": p.target_port or p.port, "protocol": p.protocol} for p in service.ports],
    }


# --- decoration ----------------------------------------------------------------------------------------------


def _roles(seen: Observed) -> list[Label]:
    """Old leader first, so that two pods never carry the label of a leader."""
    changes = []
    for pod in seen.pods:
        if pod.is_over:
            continue
        if not seen.is_quorum_available:
            role = "unknown"
        elif seen.holder_pod is not None and pod.uid == seen.holder_pod.uid:
            role = "leader"
        else:
            role = "standby"
        if pod.role != role:
            changes.append(Label(pod, role))
    return sorted(changes, key=lambda change: change.role == "leader")


def _mirror(seen: Observed) -> Iterator[Action]:
    if isinstance(seen.lease, Foreign):
        return
    status = seen.body.get("status") or {}
    holder = seen.truth.holder
    spec: Json = {"leaseTransitions": transitions(seen.truth, status)}
    if seen.wanted.duration_ms is not None:
        spec["leaseDurationSeconds"] = max(1, -(-seen.wanted.duration_ms // 1000))
    if holder is not None:
        spec["holderIdentity"] = holder.name
        if acquired := _latest(seen).get("acquireTime"):
            spec["acquireTime"] = acquired.replace("Z", "000Z")
    metadata = _metadata(seen, seen.body["metadata"]["name"], {})
    metadata["annotations"] = {ANNOTATION_HINT: HINT, f"{GROUP}/term": str(seen.truth.term)}
    wanted = {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata, "spec": spec}
    if not covers(seen.lease, wanted) or (seen.lease is not None and seen.lease.get("spec", {}).keys() != spec.keys()):
        yield Apply(LEASE, wanted)


# --- status --------------------------------------------------------------------------------------------------


def _latest(seen: Observed) -> Json:
    """Return the history's entry of the present term: what it holds already wins over what was heard again."""
    history = merged(seen.truth, (seen.body.get("status") or {}).get("history") or [])
    return next((entry for entry in history if entry["term"] == seen.truth.term), {})


def _status(seen: Observed) -> Json:
    old = seen.body.get("status") or {}
    generation = seen.body["metadata"].get("generation", 1)
    is_declared = seen.is_declared_known and seen.declared == seen.wanted
    status: Json = {"observedGeneration": generation if is_declared else old.get("observedGeneration", 0)}
    if seen.is_truth_known:
        status["term"] = seen.truth.term
        status["transitions"] = transitions(seen.truth, old)
        status["history"] = merged(seen.truth, old.get("history") or [])
        holder = holder_of(seen.truth, seen.holder_pod, old.get("holder") or {})
        if holder is not None:
            status["holder"] = holder
            if acquired := _latest(seen).get("acquireTime"):
                status["acquireTime"] = acquired
    else:
        status |= {k: old[k] for k in ("term", "transitions", "holder", "acquireTime") if k in old}
        status["history"] = old.get("history") or []
    view = seen.quorum
    if view is not None and view.is_known:
        numbers = {"healthy": view.healthy, "total": view.total, "canLose": view.can_lose}
        status["quorum"] = {**numbers, "summary": view.summary}
    elif "quorum" in old:
        status["quorum"] = old["quorum"]
    conditions = _conditions(seen, is_declared)
    status["conditions"] = merge(old.get("conditions") or [], conditions, generation, seen.now)
    return status


def _conditions(seen: Observed, is_declared: bool) -> list[Condition]:
    quorum, elected, stalled = _quorum_condition(seen), _elected_condition(seen), _stalled_condition(seen)
    if stalled is not None:
        ready = Condition(READY, FALSE, stalled.reason, stalled.message)
    elif quorum.status != TRUE:
        ready = Condition(READY, quorum.status, quorum.reason, quorum.message)
    elif not is_declared:
        ready = Condition(READY, FALSE, "NotDeclared", seen.declare_error or "the quorum does not have this spec yet")
    else:
        ready = Condition(READY, elected.status, elected.reason, elected.message)
    found = [ready, elected, quorum]
    if not is_declared and stalled is None:
        found.append(Condition(RECONCILING, TRUE, "Declaring", ready.message))
    if stalled is not None:
        found.append(stalled)
    return found


def _quorum_condition(seen: Observed) -> Condition:
    view, name = seen.quorum, seen.spec.quorum
    if view is None:
        message = f"there is no LeaderQuorum {name!r}, and the operator was given no endpoints for one of this name"
        return Condition(QUORUM_AVAILABLE, FALSE, "QuorumNotFound", message)
    if not view.is_known:
        return Condition(QUORUM_AVAILABLE, FALSE, "Unreachable", f"no node of quorum {name!r} answers: {view.error}")
    if not view.is_available:
        message = f"{view.healthy} of {view.total} nodes answer: nobody can be elected or renewed until more do"
        return Condition(QUORUM_AVAILABLE, FALSE, "NoMajority", message)
    if not seen.is_truth_known:
        return Condition(QUORUM_AVAILABLE, UNKNOWN, "NotReadYet", f"the leases of quorum {name!r} were not read yet")
    message = f"{view.healthy} of {view.total} nodes answer; it can lose {view.can_lose} more"
    return Condition(QUORUM_AVAILABLE, TRUE, "MajorityAnswers", message)


def _elected_condition(seen: Observed) -> Condition:
    if not seen.is_quorum_available:
        message = "the quorum does not answer, so nobody here can tell who leads"
        return Condition(LEADER_ELECTED, UNKNOWN, "QuorumNotAvailable", message)
    truth = seen.truth
    if truth.holder is not None:
        return Condition(LEADER_ELECTED, TRUE, "LeaderElected", f"{truth.holder.name} leads under term {truth.term}")
    if seen.spec.mode != "Active":
        return Condition(
            LEADER_ELECTED, FALSE, seen.spec.mode, f"nobody leads, and mode {seen.spec.mode} admits nobody"
        )
    if not truth.terms:
        return Condition(LEADER_ELECTED, FALSE, "NoCandidate", "nobody has asked for this lease yet")
    reason = _latest(seen).get("reason", "")
    how = {"Released": "was released", "Expired": "expired", "Revoked": "was revoked"}.get(reason, "ended")
    message = f"term {truth.term} {how}, and no candidate has taken the lease since"
    if reason == "Expired" and seen.wanted.lock_delay_ms:
        message += f"; lockDelay {format_duration(seen.wanted.lock_delay_ms)} may still run"
    return Condition(LEADER_ELECTED, FALSE, "NoLeader", message)


def _stalled_condition(seen: Observed) -> Condition | None:
    """What will not get better without somebody's hands."""
    if seen.quorum is None:
        found = _quorum_condition(seen)
        return Condition(STALLED, TRUE, found.reason, found.message)
    service = seen.spec.leader_service
    if service is None:
        return None
    for child, kind, name in (
        (seen.service, "Service", service.name),
        (seen.endpoints, "EndpointSlice", slice_name(service)),
    ):
        if isinstance(child, Foreign):
            message = f"{kind} {name!r} exists and does not belong to this LeaderLease: delete it, or choose another"
            return Condition(STALLED, TRUE, "NameTaken", f"{message} leaderService.name")
    return None
