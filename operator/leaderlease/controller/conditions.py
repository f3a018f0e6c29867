"""Conditions as Kubernetes wants them: a status, a reason for programs, a sentence for people."""

from collections.abc import Iterable, Sequence

import msgspec

from leaderlease.controller.resource import Json

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"


class Condition(msgspec.Struct, frozen=True):
    """What a condition should say."""

    type: str
    status: str
    reason: str
    message: str


def merge(old: Sequence[Json], wanted: Iterable[Condition], generation: int, now: str) -> list[Json]:
    """Return conditions for a status; ``lastTransitionTime`` moves only where the status changes.

    Args:
        old: Conditions of the present status. Types that are not wanted disappear.
        wanted: In the order in which people read them.
        generation: Of the spec that they are based on.
        now: A timestamp.
    """
    known = {condition["type"]: condition for condition in old}
    merged = []
    for condition in wanted:
        before = known.get(condition.type)
        is_same = before is not None and before.get("status") == condition.status
        since = before["lastTransitionTime"] if before is not None and is_same else now
        merged.append(
            {
                "type": condition.type,
                "status": condition.status,
                "observedGeneration": generation,
                "lastTransitionTime": since,
                "reason": condition.reason,
                "message": condition.message,
            }
        )
    return merged


def find(status: Json, kind: str) -> Json:
    """Return one condition of a status; empty if it has none."""
    found: Json = next((c for c in status.get("conditions") or () if c["type"] == kind), {})
    return found
