"""The part of a status that tells of terms: holder, term, transitions, history; and the Events about them."""

from collections.abc import Iterator

from leaderlease.controller.resource import API_VERSION, MANAGER, Json, Pod
from leaderlease.controller.truth import TERMS_MAX, Term, Truth, timestamp

NOTE_CHARS_MAX = 1024
"""What an Event's note may have."""


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
    if truth.term >= before:
        return int(counted + truth.term - before)
    return int(counted + 1)


def merged(truth: Truth, old: list[Json]) -> list[Json]:
    """Return ``status.history``: what it holds already wins over what was heard again, so nothing is rewritten.

    Args:
        truth: What the quorum says.
        old: The present history, newest first.
    """
    entries = {entry["term"]: dict(entry) for entry in old}
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

    A name is made of lease, term and reason, so the same change never gets a second Event. An object without a
    status is new to us: only who holds now is told.
    """
    status = body.get("status") or {}
    seen_term = status.get("term")
    ended = {entry["term"] for entry in status.get("history") or () if entry.get("reason")}
    for entry in reversed(history):
        term = entry["term"]
        if seen_term is None and entry.get("reason"):
            continue
        if seen_term is None or term > seen_term:
            note = f"{entry.get('holder', 'somebody')} leads under term {term}"
            yield event(body, "LeaderElected", "Elect", note, f"{term}.elected", now, pods.get(entry.get("holder", "")))
        if entry.get("reason") and term not in ended and seen_term is not None and term >= seen_term:
            yield _end_event(body, entry, pods, now)


def _end_event(body: Json, entry: Json, pods: dict[str, Pod], now: str) -> Json:
    holder, term, reason = entry.get("holder", "somebody"), entry["term"], entry["reason"]
    pod = pods.get(holder)
    if reason in ("Released", "Transferred"):
        verb = "let go" if reason == "Released" else "handed over"
        return event(body, "LeaderStepDown", "StepDown", f"{holder} {verb} of term {term}", f"{term}.ended", now, pod)
    how = {"Expired": "it was not renewed", "Revoked": "it was revoked"}.get(reason, "nobody watched how")
    note = f"{holder} lost term {term}: {how}"
    return event(body, "LeaderLost", "Lose", note, f"{term}.ended", now, pod, "Warning")


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
