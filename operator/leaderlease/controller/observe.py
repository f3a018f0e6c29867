"""Gathers what a plan looks at."""

import time
from collections.abc import Callable

import msgspec

from leaderlease.controller.api import Api, ApiError
from leaderlease.controller.apply import find_child, owner_uid
from leaderlease.controller.cache import Cache, Entry, Key
from leaderlease.controller.plan import Child, Foreign, Observed, slice_name
from leaderlease.controller.quorums import QuorumLink
from leaderlease.controller.resource import (
    ENDPOINT_SLICE,
    LEASE,
    POD,
    SERVICE,
    Json,
    Kind,
    LeaseSpec,
    Pod,
    declaration,
    pod_of,
)
from leaderlease.controller.truth import NOTHING, timestamp
from leaderlease.paxos.lease import Holder


def now_text() -> str:
    """Return the wall clock, as timestamps are written."""
    return timestamp(time.time_ns() // 1_000_000)


class Observer:
    """Looks at one LeaderLease and everything around it.

    Args:
        link: Finds a quorum by its name.
    """

    def __init__(self, api: Api, cache: Cache, link: Callable[[str], QuorumLink | None]) -> None:
        self._api = api
        self._cache = cache
        self._link = link
        self._fetched: dict[str, Pod] = {}

    async def observe(self, key: Key, entry: Entry, spec: LeaseSpec, declare_error: str) -> Observed:
        """Return what a plan about a LeaderLease looks at.

        Raises:
            ApiError: Something had to be asked for, and there was no answer.
            ConfigError: A duration that the schema should have refused.
        """
        namespace, name = key
        link = self._link(spec.quorum)
        pods = self._cache.pods(namespace)
        seen = Observed(
            body=entry.body,
            spec=spec,
            wanted=declaration(spec, pods),
            declared=(link.declared or {}).get(f"{namespace}/{name}") if link is not None else None,
            is_declared_known=link is not None and link.declared is not None,
            declare_error=declare_error,
            truth=link.truth(f"{namespace}/{name}") if link is not None else NOTHING,
            is_truth_known=link is not None and link.is_truth_known,
            quorum=link.settled_view if link is not None else None,
            now=now_text(),
        )
        if seen.must_declare:
            return seen  # the plan looks no further, so nothing is asked for
        wanted, strays = await self._children(key, entry, spec)
        return msgspec.structs.replace(
            seen,
            pods=tuple(pod for pod in pods if self._cache.owner_of(pod) == name),
            holder_pod=await self._holder_pod(namespace, seen.truth.holder),
            lease=wanted[LEASE, name],
            service=_child(wanted, SERVICE),
            endpoints=_child(wanted, ENDPOINT_SLICE),
            strays=strays,
        )

    async def _children(
        self, key: Key, entry: Entry, spec: LeaseSpec
    ) -> tuple[dict[tuple[Kind, str], Child], tuple[tuple[Kind, Json], ...]]:
        """Return the objects that are wanted, as they are now, and those of ours that are not wanted any more."""
        namespace, name = key
        uid = entry.body["metadata"]["uid"]
        service = spec.leader_service
        wanted: dict[tuple[Kind, str], Child] = {(LEASE, name): None}
        if service is not None and spec.mode != "ObserveOnly":
            wanted |= {(SERVICE, service.name): None, (ENDPOINT_SLICE, slice_name(service)): None}
        strays = []
        for kind, child in wanted:
            found = await find_child(self._api, self._cache, kind, namespace, child)
            if found is None or owner_uid(found) == uid:
                wanted[kind, child] = found
                continue
            wanted[kind, child] = Foreign()
            if owner_uid(found):  # of an earlier object of our name: away with it, then ours comes
                strays.append((kind, found))
        if spec.mode != "ObserveOnly":
            strays += [
                (kind, body)
                for kind, body in self._cache.children(key)
                if (kind, body["metadata"]["name"]) not in wanted and owner_uid(body) == uid
            ]
        return wanted, tuple(strays)

    async def _holder_pod(self, namespace: str, holder: Holder | None) -> Pod | None:
        """Find the holder's pod: by its uid, or by its name where the holder did not say a uid."""
        if holder is None:
            return None
        pod = self._cache.pod(namespace, holder.name)
        if pod is None or (holder.pod_uid and pod.uid != holder.pod_uid):
            pod = next((p for p in self._cache.pods(namespace) if holder.pod_uid and p.uid == holder.pod_uid), None)
        if pod is not None or not holder.pod_uid:
            return pod
        # A pod that we do not watch, because it lacks the label: asked for once a term.
        if holder.nonce not in self._fetched:
            if len(self._fetched) >= FETCHED_MAX:
                self._fetched.clear()
            body = await self._get_pod(namespace, holder.name)
            if body is None or body["metadata"]["uid"] != holder.pod_uid:
                return None
            found = pod_of(body)
            if not found.ip:
                return found
            self._fetched[holder.nonce] = found
        return self._fetched[holder.nonce]

    async def _get_pod(self, namespace: str, name: str) -> Json | None:
        try:
            return await self._api.get(POD, namespace, name)
        except ApiError as error:
            if error.status == 400:  # an identity that is no name of a pod
                return None
            raise


FETCHED_MAX = 4_096
"""Pods of holders that were asked for."""


def _child(wanted: dict[tuple[Kind, str], Child], kind: Kind) -> Child:
    return next((child for (one, _), child in wanted.items() if one is kind), None)
