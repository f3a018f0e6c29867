"""What should be done about one LeaderQuorum. Pure: its status, and the Events about it."""

from leaderlease.controller.actions import Action, PatchStatus, Post
from leaderlease.controller.conditions import FALSE, TRUE, UNKNOWN, Condition, find, merge
from leaderlease.controller.history import event
from leaderlease.controller.resource import LEADER_QUORUM, Json, QuorumSpec
from leaderlease.controller.truth import QuorumView

AVAILABLE = "Available"
MEMBERSHIP_SETTLED = "MembershipSettled"
ACCEPTOR_AMNESIA = "AcceptorAmnesia"


def plan_quorum(body: Json, spec: QuorumSpec, view: QuorumView, now: str) -> list[Action]:
    """Return what should be done about a LeaderQuorum; nothing when its status says all already.

    Args:
        body: The LeaderQuorum.
        spec: Its spec.
        view: How the quorum is.
        now: A timestamp with milliseconds.
    """
    old = body.get("status") or {}
    status = _status(body, spec, view, old, now)
    if not _differs(status, old):
        return []
    metadata = body["metadata"]
    before, after = find(old, AVAILABLE), find(status, AVAILABLE)
    actions: list[Action] = []
    # The transition before names the change, so a second try tells it under the same name.
    key = "".join(c for c in before.get("lastTransitionTime", "") if c.isdigit())
    if before.get("status") == TRUE and after["status"] != TRUE:
        note = after["message"]
        actions.append(Post(event(body, "QuorumLost", "Watch", note, f"{key}.lost", now, kind="Warning")))
    elif before and before.get("status") != TRUE and after["status"] == TRUE:
        actions.append(Post(event(body, "QuorumRestored", "Watch", after["message"], f"{key}.restored", now)))
    return [*actions, PatchStatus(LEADER_QUORUM, "", metadata["name"], metadata["uid"], status)]


def _differs(status: Json, old: Json) -> bool:
    """The highest ballot rises with every election: alone it is no reason to write."""
    return {k: v for k, v in status.items() if k != "ballotHighest"} != {
        k: v for k, v in old.items() if k != "ballotHighest"
    }


def _status(body: Json, spec: QuorumSpec, view: QuorumView, old: Json, now: str) -> Json:
    generation = body["metadata"].get("generation", 1)
    status: Json = {"observedGeneration": generation}
    if view.is_known:
        status |= {
            "clusterUID": view.cluster,
            "epoch": view.epoch,
            "healthy": view.healthy,
            "total": view.total,
            "canLose": view.can_lose,
            "summary": view.summary,
            "ballotHighest": view.ballot_highest,
            "members": [
                {
                    "name": member.name,
                    "uid": member.uid,
                    "health": member.health,
                    **({"version": member.version} if member.version else {}),
                    **({"incarnation": member.incarnation} if member.incarnation else {}),
                }
                for member in view.members
            ],
        }
    else:
        kept = ("clusterUID", "epoch", "total", "ballotHighest")
        status |= {key: old[key] for key in kept if key in old}
        total = old.get("total", spec.replicas)
        status |= {"healthy": 0, "canLose": 0, "summary": f"0/{total}"}
        status["members"] = [{**member, "health": "Unknown"} for member in old.get("members") or ()]
    conditions = [_available(view), _settled(spec, view), _amnesia(view)]
    status["conditions"] = merge(old.get("conditions") or [], conditions, generation, now)
    return status


def _available(view: QuorumView) -> Condition:
    if not view.is_known:
        return Condition(AVAILABLE, FALSE, "Unreachable", f"no node answers: {view.error}")
    if not view.is_available:
        message = f"{view.healthy} of {view.total} nodes answer: nobody can be elected or renewed until more do"
        return Condition(AVAILABLE, FALSE, "NoMajority", message)
    message = f"{view.healthy} of {view.total} nodes answer; it can lose {view.can_lose} more"
    return Condition(AVAILABLE, TRUE, "MajorityAnswers", message)


def _settled(spec: QuorumSpec, view: QuorumView) -> Condition:
    if not view.is_known:
        return Condition(MEMBERSHIP_SETTLED, UNKNOWN, "Unreachable", "no node answers")
    if spec.cluster_uid and view.cluster != spec.cluster_uid:
        message = f"the nodes belong to cluster {view.cluster}, and clusterUID says {spec.cluster_uid}: check endpoints"
        return Condition(MEMBERSHIP_SETTLED, FALSE, "WrongCluster", message)
    if view.total != spec.replicas:
        message = f"{view.total} members, {spec.replicas} are wanted"
        return Condition(MEMBERSHIP_SETTLED, FALSE, "Resizing", message)
    return Condition(MEMBERSHIP_SETTLED, TRUE, "AsWanted", f"{view.total} members under epoch {view.epoch}")


def _amnesia(view: QuorumView) -> Condition:
    if view.strangers:
        who = ", ".join(f"{endpoint} ({uid or 'a blank disk'})" for endpoint, uid in view.strangers)
        message = f"{who}: its disk is not that of a member, so it does not vote (docs/operations.md)"
        return Condition(ACCEPTOR_AMNESIA, TRUE, "ForeignDisk", message)
    if not view.is_known:
        return Condition(ACCEPTOR_AMNESIA, UNKNOWN, "Unreachable", "no node answers")
    return Condition(ACCEPTOR_AMNESIA, FALSE, "NoneSeen", "every node that answers is a member")
