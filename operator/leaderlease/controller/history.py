"""The part of a status that tells of terms: holder, term, transitions, history; and the Events about them.

Rule 1: what the history holds already wins over what was heard again, so nothing is rewritten.
Rule 2: a grant is known by its nonce, of which the history keeps a digest. Another grant of a term that the history has
        is of a quorum that was made anew: what the history holds is of the one before, and goes.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

from leaderlease.controller.resource import API_VERSION, MANAGER, Json, Pod
from leaderlease.controller.truth import TERMS_MAX, Term, Truth, timestamp

NOTE_CHARS_MAX: Final = 1024
"""What an Event's note may have."""
GRANT_CHARS: Final = 16
"""Digits of a grant's digest: 64 of its 256 bits. The nonce has 128, so nobody finds it by them."""
GRANT_NAME_CHARS: Final = 8
"""How many of them are in the name of an Event."""


def holder_of(truth: Truth, pod: Pod | None, old: Json) -> Json | None:
    """Return ``status.holder``; None while nobody holds.

    Args:
        truth: What the quorum says.
        pod: The holder's pod, if it is known.
        old: The present ``status.holder``, or empty. The node of a pod that has gone is kept from it.
    """
    holder = truth.holder
    if holder is None:
        return None
    found: Json = {"identity": holder.name}
    uid = holder.pod_uid or (pod.uid if pod is not None else "")
    if uid:
        found |= {"podName": pod.name if pod is not None else holder.name, "podUID": uid}
        node = pod.node if pod is not None else old.get("nodeName") if old.get("podUID") == uid else ""
        if node:
            found["nodeName"] = node
    return found


def transitions(truth: Truth, status: Json) -> int:
    """Count the grants since the object was created; those that nobody watched are counted by their terms."""
    before, counted = status.get("term"), status.get("transitions", 0)
    if before is None:
        return int(truth.holder is not None)
    if is_anew(truth, status.get("history") or []):
        return int(counted + truth.term)
    if truth.term >= before:
        return int(counted + truth.term - before)
    # A term that is lower is of a quorum that was made anew, and perhaps nobody has held there yet.
    return int(counted) + int(truth.holder is not None)


def grant_of(term: Term) -> str:
    """Return what tells this grant from every other: a digest of the holder's nonce; empty if that is unknown."""
    if term.holder is None:
        return ""
    return hashlib.sha256(f"leaderlease grant {term.holder.nonce}".encode()).hexdigest()[:GRANT_CHARS]


def is_anew(truth: Truth, old: list[Json]) -> bool:
    """Tell whether the history is of another quorum than the one that decides now (rule 2)."""
    known = {entry["term"]: entry.get("grant", "") for entry in old}
    return any(known.get(term.term) and known[term.term] != grant_of(term) for term in truth.terms if term.holder)


def merged(truth: Truth, old: list[Json]) -> list[Json]:
    """Return ``status.history`` (rules 1 and 2).

    Args:
        truth: What the quorum says.
        old: The present history, newest first.
    """
    entries = {entry["term"]: dict(entry) for entry in (old if not is_anew(truth, old) else ())}
    told = {term.term for term in truth.terms}
    for term in truth.terms:
        if term.holder is not None or term.term in entries:
            entries[term.term] = _entry(term, entries.get(term.term, {}))
    for number, entry in entries.items():
        if number not in told and not entry.get("reason") and number != truth.term:
            entry["reason"] = "Unknown"
    return [entries[number] for number in sorted(entries, reverse=True)][:TERMS_MAX]


def _entry(term: Term, old: Json) -> Json:
    entry: Json = {"term": term.term}
    if grant := old.get("grant") or grant_of(term):
        entry["grant"] = grant
    if holder := old.get("holder") or (term.holder.name if term.holder is not None else ""):
        entry["holder"] = holder
    if acquired := old.get("acquireTime") or (timestamp(term.acquired_ms) if term.acquired_ms else ""):
        entry["acquireTime"] = acquired
    if term.reason:
        known = old.get("reason", "")
        if known not in ("", "Unknown"):
            entry |= {key: old[key] for key in ("endTime", "reason") if key in old}
        else:
            if term.ended_ms:
                entry["endTime"] = timestamp(term.ended_ms)
            elif "endTime" in old:
                entry["endTime"] = old["endTime"]
            entry["reason"] = term.reason
    return entry


def events(body: Json, history: list[Json], pods: dict[str, Pod], now: str) -> Iterator[Json]:
    """Yield one Event for every change between the present status and the next history, oldest first.

    A name is made of lease, term, grant and reason, so the same change never gets a second Event. An object without a
    status is new to us: only who holds now is told. Of a quorum that was made anew all is told.
    """
    status = body.get("status") or {}
    seen_term, old = status.get("term"), status.get("history") or []
    grants = {entry["term"]: entry.get("grant") for entry in history}
    if any(entry.get("grant") and grants.get(entry["term"], entry["grant"]) != entry["grant"] for entry in old):
        seen_term, old = 0, []
    ended = {entry["term"] for entry in old if entry.get("reason")}
    for entry in reversed(history):
        term = entry["term"]
        if seen_term is None and entry.get("reason"):
            continue
        if seen_term is None or term > seen_term:
            note = f"{entry.get('holder', 'somebody')} leads under term {term}"
            pod = pods.get(entry.get("holder", ""))
            yield event(body, "LeaderElected", "Elect", note, f"{_key(entry)}.elected", now, pod)
        if entry.get("reason") and term not in ended and seen_term is not None and term >= seen_term:
            yield _end_event(body, entry, pods, now)


def _key(entry: Json) -> str:
    return ".".join(filter(None, (str(entry["term"]), entry.get("grant", "")[:GRANT_NAME_CHARS])))


def _end_event(body: Json, entry: Json, pods: dict[str, Pod], now: str) -> Json:
    holder, term, reason = entry.get("holder", "somebody"), entry["term"], entry["reason"]
    pod, key = pods.get(holder), f"{_key(entry)}.ended"
    if reason in ("Released", "Transferred"):
        verb = "let go" if reason == "Released" else "handed over"
        return event(body, "LeaderStepDown", "StepDown", f"{holder} {verb} of term {term}", key, now, pod)
    how = {"Expired": "it was not renewed", "Revoked": "it was revoked"}.get(reason, "nobody watched how")
    note = f"{holder} lost term {term}: {how}"
    return event(body, "LeaderLost", "Lose", note, key, now, pod, "Warning")


def event(
    body: Json, reason: str, action: str, note: str, key: str, now: str, pod: Pod | None = None, kind: str = "Normal"
) -> Json:
    """Return an Event (events.k8s.io/v1) about one of our objects; objects without namespace are told in ``default``.

    Args:
        key: Names the change; with the object's name and uid it makes the Event's name.
        now: A timestamp with milliseconds.
        pod: Related to it.
    """
    metadata = body["metadata"]
    namespace = metadata.get("namespace", "default")
    regarding = {
        "apiVersion": API_VERSION,
        "kind": body["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    if "namespace" in metadata:
        regarding["namespace"] = namespace
    found: Json = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{metadata['uid'][:8]}.{key}", "namespace": namespace},
        "eventTime": now.replace("Z", "000Z"),
        "reportingController": f"leaderlease.dev/{MANAGER}",
        "action": action,
        "reason": reason,
        "regarding": regarding,
        "note": note[:NOTE_CHARS_MAX],
        "type": kind,
    }
    if pod is not None:
        found["related"] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        }
    return found
