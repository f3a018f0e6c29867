"""Carries out what a plan wants: the only place that writes to the API server and to quorums.

Rule 1: before each write the replica looks whether it may still write.
Rule 2: the answer to a write goes into the cache, so the next plan sees it before the watch tells of it.
Rule 3: what is gone needs no write, and neither does another object of the same name. Every other refusal is raised, so
        that it is tried again: also a conflict with somebody who wrote the same object at the same time.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from leaderlease.controller.actions import Action, Annotate, Apply, Declare, Delete, Label, PatchStatus, Post, Withdraw
from leaderlease.controller.api import CONFLICT, NOT_FOUND, Api, ApiError
from leaderlease.controller.cache import Cache
from leaderlease.controller.quorums import QuorumLink
from leaderlease.controller.resource import (
    API_VERSION,
    EVENT,
    LABEL_LEASE,
    LABEL_ROLE,
    LEADER_LEASE,
    LEADER_QUORUM,
    POD,
    Json,
    Kind,
    Pod,
)
from leaderlease.errors import LeaderLeaseError

logger = logging.getLogger("leaderlease.operator.apply")

TELLING: Final = (Post, PatchStatus)
"""What may be written while nobody can lead."""


class NotLeading(LeaderLeaseError):
    """This replica may not write (any more): the other one will."""


class Applier:
    """Applies actions.

    Args:
        api: The API server.
        cache: Is given the answers.
        link: Finds a quorum by its name.
        may_write: This replica leads.
        may_tell: This replica may write statuses and Events.
        instance: Name of this replica, in Events.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        link: Callable[[str], QuorumLink | None],
        may_write: Callable[[], bool],
        may_tell: Callable[[], bool],
        instance: str,
    ) -> None:
        self._api = api
        self._cache = cache
        self._link = link
        self._may_write = may_write
        self._may_tell = may_tell
        self._instance = instance

    async def run(self, actions: Sequence[Action]) -> None:
        """Carry out actions in their order.

        Raises:
            NotLeading: Another replica writes; the rest was not done.
            ApiError: The API server refused, or did not answer.
            LeaderLeaseError: The quorum did not take a declaration.
        """
        for action in actions:
            if not (self._may_tell() if isinstance(action, TELLING) else self._may_write()):
                raise NotLeading("another replica writes")
            await self._one(action)

    async def _one(self, action: Action) -> None:
        match action:
            case Declare(quorum, name, spec):
                link = self._link(quorum)
                if link is not None:
                    await link.declare(name, spec)
                    logger.info("%s: declared at quorum %s", name, quorum)
            case Withdraw(quorum, name):
                link = self._link(quorum)
                if link is not None:
                    await link.withdraw(name)
                    logger.info("%s: withdrawn from quorum %s", name, quorum)
            case Apply(kind, body):
                self._cache.put(kind, await self._api.apply(kind, body))
            case Delete(kind, namespace, name, uid):
                await self._api.delete(kind, namespace, name, uid)
                found = self._cache.get(kind, namespace, name)
                if found is not None and found["metadata"]["uid"] == uid:
                    self._cache.remove(kind, namespace, name, int(found["metadata"]["resourceVersion"]))
            case Label(pod, role):
                await self._mark(pod, {"labels": {LABEL_ROLE: role}})
            case Annotate(pod, name, value):
                await self._mark(pod, {"annotations": {name: value}})
            case Post(body):
                await self._post(body)
            case PatchStatus():
                await self._patch_status(action)

    async def _mark(self, pod: Pod, changes: Json) -> None:
        body = {"metadata": {"uid": pod.uid, **changes}}
        try:
            self._cache.put(POD, await self._api.merge(POD, pod.namespace, pod.name, body))
        except ApiError as error:
            if not await self._is_gone(error, POD, pod.namespace, pod.name, pod.uid):
                raise

    async def _post(self, body: Json) -> None:
        try:
            await self._api.create(EVENT, {**body, "reportingInstance": self._instance})
        except ApiError as error:
            # CONFLICT: told before. NOT_FOUND: the namespace has gone.
            if error.status not in (CONFLICT, NOT_FOUND):
                raise

    async def _patch_status(self, action: PatchStatus) -> None:
        metadata = {"name": action.name, "uid": action.uid}
        if action.namespace:
            metadata["namespace"] = action.namespace
        if action.version:
            metadata["resourceVersion"] = action.version
        body = {"apiVersion": API_VERSION, "kind": action.kind.name, "metadata": metadata, "status": action.status}
        try:
            self._cache.put(action.kind, await self._api.apply(action.kind, body, "status"))
        except ApiError as error:
            if not await self._is_gone(error, action.kind, action.namespace, action.name, action.uid):
                raise
            # Deleted, and perhaps created again: its own event brings it here.
            logger.info("%s/%s: gone before its status was written", action.namespace, action.name)

    async def _is_gone(self, error: ApiError, kind: Kind, namespace: str, name: str, uid: str) -> bool:
        """Tell whether a refusal means that the object with this uid is not there any more (rule 3)."""
        # LeaderQuorums cannot be read one by one: a right that is hardly ever used is not given.
        if error.status != CONFLICT or kind is LEADER_QUORUM:
            return error.status == NOT_FOUND
        found = await self._api.get(kind, namespace, name)
        if found is not None:
            self._cache.put(kind, found)
        return found is None or found["metadata"]["uid"] != uid


async def find_child(api: Api, cache: Cache, kind: Kind, namespace: str, name: str) -> Json | None:
    """Return an object that a lease wants to own: from the cache, else from the API server, for it may be somebody's.

    Raises:
        ApiError: The API server does not say.
    """
    found = cache.get(kind, namespace, name)
    return found if found is not None else await api.get(kind, namespace, name)


def owner_uid(body: Json) -> str:
    """Return the uid of the LeaderLease that an object carries the label and the owner reference of; or nothing."""
    metadata = body["metadata"]
    if LABEL_LEASE not in (metadata.get("labels") or {}):
        return ""
    owners = metadata.get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner["kind"] == LEADER_LEASE.name), "")
