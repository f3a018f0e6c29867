"""Who should be next: a preference among the candidates that the node knows of.

A candidate is known by its identity only, which is its pod's name. That is enough for two preferences:

``newest-replicaset``: pods of a Deployment are called ``app-<template hash>-<suffix>``. A pod that is being ended
in a roll-out belongs to the ReplicaSet that goes away, so a candidate of another template hash is of the one that
stays.
``lowest-ordinal``: pods of a StatefulSet are called ``app-<ordinal>``.
"""

from collections.abc import Iterable


def choose_successor(preference: str, identity: str, candidates: Iterable[str]) -> str:
    """Return the candidate that should be next; empty leaves it to the quorum.

    Args:
        preference: ``none``, ``newest-replicaset`` or ``lowest-ordinal``.
        identity: Who lets go.
        candidates: Those that wait, in the order of their queue.
    """
    others = [name for name in candidates if name != identity]
    if preference == "lowest-ordinal":
        numbered = [(int(tail), name) for name in others if (tail := name.rpartition("-")[2]).isdecimal()]
        return min(numbered)[1] if numbered else ""
    if preference == "newest-replicaset":
        app, own_hash = _deployment(identity)
        for name in others:
            their_app, their_hash = _deployment(name)
            if own_hash and their_hash and their_app == app and their_hash != own_hash:
                return name
    return ""


def _deployment(pod: str) -> tuple[str, str]:
    """Return Deployment and template hash of a pod's name; empty where it has another form."""
    parts = pod.rsplit("-", 2)
    return (parts[0], parts[1]) if len(parts) == 3 else ("", "")
