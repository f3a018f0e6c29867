"""What we know of the API server's objects: filled by lists, watches and the answers to our own writes.

Rule 1: an older version of an object never replaces a newer one, whichever way it came; nor does it bring back one that
        is gone, when the answer to a write of ours comes after the watch has told of the deletion.
Rule 2: a list removes only what it is newer than.
Rule 3: what decides who may lead is urgent: a pod, or the spec of a LeaderLease. A candidate that waits to be admitted
        must not wait until all that has happened is told.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from leaderlease.controller.resource import (
    CHILDREN,
    LABEL_LEASE,
    LEADER_LEASE,
    LEADER_QUORUM,
    POD,
    Json,
    Kind,
    LeaseSpec,
    Pod,
    lease_spec,
    pod_of,
)

WATCHED: Final = (LEADER_LEASE, LEADER_QUORUM, POD, *CHILDREN)
DELETED_MAX: Final = 4_096
"""Deletions that are remembered, the latest; an answer that is late by more is corrected by the next list."""

Key = tuple[str, str]
"""(namespace, name)."""


class Entry(msgspec.Struct):
    """One object.

    Attributes:
        spec: Of a LeaderLease; None where it cannot be read.
    """

    body: Json
    version: int
    spec: LeaseSpec | None = None
    error: str = ""


class Cache:
    """Objects by kind.

    Args:
        on_lease: Called with the key of a LeaderLease that may want a look, and whether that is urgent.
        on_quorum: Called with the name of a LeaderQuorum that has changed or gone.
    """

    def __init__(self, on_lease: Callable[[Key, bool], None], on_quorum: Callable[[str], None]) -> None:
        self._on_lease = on_lease
        self._on_quorum = on_quorum
        self._objects: dict[str, dict[Key, Entry]] = {
            kind.name: {} for kind in (LEADER_LEASE, LEADER_QUORUM, *CHILDREN)
        }
        self._pods: dict[str, dict[str, Pod]] = {}
        self._children: dict[Key, set[tuple[Kind, str]]] = {}
        self._names: dict[str, set[str]] = {}
        self._deleted: dict[tuple[str, str, str], int] = {}
        """Kind, namespace and name -> the version of a deletion."""

    # --- reading ---------------------------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """Return an object; None if we know of none."""
        entry = self._objects[kind.name].get((namespace, name))
        return entry.body if entry is not None else None

    def lease(self, key: Key) -> Entry | None:
        """Return a LeaderLease."""
        return self._objects[LEADER_LEASE.name].get(key)

    def keys(self, kind: Kind) -> list[Key]:
        """Return the keys of all objects of a kind."""
        return list(self._objects[kind.name])

    def pods(self, namespace: str) -> list[Pod]:
        """Return the pods of a namespace that we know."""
        return list(self._pods.get(namespace, {}).values())

    def all_pods(self) -> list[Pod]:
        """Return all pods that we know."""
        return [pod for pods in self._pods.values() for pod in pods.values()]

    def pod(self, namespace: str, name: str) -> Pod | None:
        """Return a pod by its name."""
        return self._pods.get(namespace, {}).get(name)

    def children(self, key: Key) -> list[tuple[Kind, Json]]:
        """Return all objects that carry the label of this LeaderLease."""
        found = ((kind, self.get(kind, key[0], name)) for kind, name in self._children.get(key, ()))
        return [(kind, body) for kind, body in found if body is not None]

    def owner_of(self, pod: Pod) -> str:
        """Return the LeaderLease that writes this pod's role: one alone, so that two never fight over the label."""
        existing = self._names.get(pod.namespace, set())
        if pod.injected:
            return min(pod.injected & existing, default="")
        return min((name for name, spec in self._specs(pod.namespace) if _selects(spec, pod)), default="")

    def _specs(self, namespace: str) -> Iterator[tuple[str, LeaseSpec]]:
        for name in self._names.get(namespace, ()):
            entry = self.lease((namespace, name))
            if entry is not None and entry.spec is not None:
                yield name, entry.spec

    # --- writing ---------------------------------------------------------------------------------------------

    def put(self, kind: Kind, body: Json) -> None:
        """Take an object as the API server has it."""
        metadata = body["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        version = int(metadata["resourceVersion"])
        if version <= self._deleted.get((kind.name, *key), 0):
            return
        if kind is POD:
            self._put_pod(pod_of(body))
            return
        metadata.pop("managedFields", None)  # half of the memory, and nobody reads it
        before = self._objects[kind.name].get(key)
        if before is not None and before.version >= version:
            return
        entry = Entry(body, version)
        if kind is LEADER_LEASE:
            self._names.setdefault(key[0], set()).add(key[1])
            try:
                entry.spec = lease_spec(body)
            except msgspec.ValidationError as error:
                entry.error = str(error)
        self._objects[kind.name][key] = entry
        if kind in CHILDREN:
            self._index_child(kind, key, before, body)
        self._announce(kind, key, body, is_urgent=before is None or _generation(before) != _generation(entry))

    def remove(self, kind: Kind, namespace: str, name: str, version: int) -> None:
        """Forget an object that was deleted, unless a newer one of its name is known."""
        self._remember_deletion((kind.name, namespace, name), version)
        if kind is POD:
            pod = self.pod(namespace, name)
            if pod is not None and int(pod.version or 0) <= version:
                del self._pods[namespace][name]
                self._announce_pod(pod)
            return
        entry = self._objects[kind.name].get((namespace, name))
        if entry is None or entry.version > version:
            return
        del self._objects[kind.name][namespace, name]
        if kind is LEADER_LEASE:
            self._names[namespace].discard(name)
        if kind in CHILDREN:
            self._index_child(kind, (namespace, name), entry, None)
        self._announce(kind, (namespace, name), entry.body, is_urgent=True)

    def replace(self, kind: Kind, bodies: Iterable[Json], version: int) -> None:
        """Take a whole list of a kind."""
        seen = set()
        for body in bodies:
            metadata = body["metadata"]
            seen.add((metadata.get("namespace", ""), metadata["name"]))
            self.put(kind, body)
        if kind is POD:
            known: list[Key] = [(space, name) for space, pods in self._pods.items() for name in pods]
        else:
            known = self.keys(kind)
        for namespace, name in known:
            if (namespace, name) not in seen:
                self.remove(kind, namespace, name, version)

    # --- inside ----------------------------------------------------------------------------------------------

    def _remember_deletion(self, what: tuple[str, str, str], version: int) -> None:
        version = max(version, self._deleted.pop(what, 0))
        if len(self._deleted) >= DELETED_MAX:
            del self._deleted[next(iter(self._deleted))]
        self._deleted[what] = version

    def _put_pod(self, pod: Pod) -> None:
        pods = self._pods.setdefault(pod.namespace, {})
        before = pods.get(pod.name)
        if before is not None and int(before.version or 0) >= int(pod.version or 0):
            return
        pods[pod.name] = pod
        if before is None or msgspec.structs.replace(before, version=pod.version) != pod:
            self._announce_pod(pod)

    def _index_child(self, kind: Kind, key: Key, before: Entry | None, body: Json | None) -> None:
        for known, is_there in ((before.body if before else None, False), (body, True)):
            if known is None:
                continue
            owner = (known["metadata"].get("labels") or {}).get(LABEL_LEASE, "")
            children = self._children.setdefault((key[0], owner), set())
            (children.add if is_there else children.discard)((kind, key[1]))
            if not children:
                del self._children[key[0], owner]

    def _announce(self, kind: Kind, key: Key, body: Json, *, is_urgent: bool) -> None:
        if kind is LEADER_QUORUM:
            self._on_quorum(key[1])
        elif kind is LEADER_LEASE:
            self._on_lease(key, is_urgent)
        elif owner := (body["metadata"].get("labels") or {}).get(LABEL_LEASE):
            self._on_lease((key[0], owner), False)

    def _announce_pod(self, pod: Pod) -> None:
        names = pod.injected & self._names.get(pod.namespace, set())
        names |= {name for name, spec in self._specs(pod.namespace) if _selects(spec, pod)}
        for name in self._names.get(pod.namespace, ()):
            entry = self.lease((pod.namespace, name))
            holder = ((entry.body.get("status") or {}) if entry else {}).get("holder") or {}
            if holder.get("podUID") == pod.uid:
                names |= {name}
        for name in names:
            self._on_lease((pod.namespace, name), True)


def _generation(entry: Entry) -> int:
    return int(entry.body["metadata"].get("generation", 0))


def _selects(spec: LeaseSpec, pod: Pod) -> bool:
    selector = spec.candidates.pod_selector
    return selector is not None and selector.matches(pod.labels)
