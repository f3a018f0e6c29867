"""What is wrong with a pod's injection: a pure plan, and what remembers which Events were posted.

Rule 1: a pod that wants a sidecar and has none was created while the webhook did not answer, or is one of those that
        are never injected: somebody must hear of it, for it can never lead.
Rule 2: a pod that names a LeaderLease which does not exist runs, and never leads: likewise.
Rule 3: a pod gets each of these Events once, and not before ``GRACE_S``: it may well be created just before its
        LeaderLease.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from leaderlease.controller.actions import Action, Post
from leaderlease.controller.cache import Cache
from leaderlease.controller.history import event
from leaderlease.controller.inject import NAMESPACES_NEVER
from leaderlease.controller.parameters import PREFIX
from leaderlease.controller.resource import LABEL_INJECT, POD, Pod

GRACE_S: Final = 5.0
TOLD_MAX: Final = 4_096
"""Events that are remembered, so that they are not posted again."""
NAME_CHARS_MAX: Final = 200
"""Of a pod's name in an Event's; a name has at most 253."""


def plan_pod(pod: Pod, existing: Collection[str], *, is_injecting: bool, own_namespace: str, now: str) -> list[Post]:
    """Return the Events about one pod; none when all is well.

    Args:
        pod: It is neither over nor going.
        existing: Names of the LeaderLeases of its namespace.
        is_injecting: This operator serves the webhook; else nobody missed anything.
        own_namespace: The operator's, in which nothing is injected.
        now: A timestamp with milliseconds.
    """
    found = []
    if is_injecting and pod.sidecar in ("wanted", "host network"):
        if pod.sidecar == "host network":
            why = f"it uses its host's network; annotate {PREFIX}host-network: 'true' to have it injected all the same"
        elif pod.namespace in (*NAMESPACES_NEVER, own_namespace):
            why = f"pods of namespace {pod.namespace} are never injected"
        else:
            why = "the webhook did not answer when it was created; delete the pod, and its successor gets one"
        note = f"the pod has the label {LABEL_INJECT} and no sidecar, so it never leads: {why}"
        found.append(_post(pod, "InjectionMissed", "Inject", note, "missed", now))
    missing = sorted(pod.injected - set(existing)) if pod.sidecar in ("injected", "own") else []
    if missing:
        names = ", ".join(f"{pod.namespace}/{name}" for name in missing)
        note = f"the pod asks for {names}: there is no such LeaderLease, so it waits; create it, or correct the label"
        found.append(_post(pod, "LeaseNotFound", "Elect", note, f"{'.'.join(missing)[:40].rstrip('-.')}.notfound", now))
    return found


class Missed:
    """Looks at pods, and posts what there is to say about them.

    Args:
        cache: Has the pods and the LeaderLeases.
        apply: Carries out actions.
        is_injecting: As for :func:`plan_pod`; likewise ``own_namespace``.
    """

    def __init__(
        self,
        cache: Cache,
        apply: Callable[[Sequence[Action]], Awaitable[None]],
        *,
        is_injecting: bool,
        own_namespace: str,
    ) -> None:
        self._cache = cache
        self._apply = apply
        self._is_injecting = is_injecting
        self._own_namespace = own_namespace
        self._told: set[str] = set()

    async def look(self, namespace: str, name: str, now: str) -> None:
        """Look at one pod, and post what was not told before.

        Raises:
            LeaderLeaseError: The API server did not take it, or another replica writes.
        """
        pod = self._cache.pod(namespace, name)
        if pod is None or pod.is_over or pod.is_terminating:
            return
        existing = [one for one in pod.injected if self._cache.lease((namespace, one)) is not None]
        is_injecting, own = self._is_injecting, self._own_namespace
        for post in plan_pod(pod, existing, is_injecting=is_injecting, own_namespace=own, now=now):
            told = post.body["metadata"]["name"]
            if told not in self._told:
                await self._apply([post])
                if len(self._told) >= TOLD_MAX:
                    self._told.clear()
                self._told.add(told)


def _post(pod: Pod, reason: str, action: str, note: str, key: str, now: str) -> Post:
    metadata = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
    body = event({"kind": POD.name, "metadata": metadata}, reason, action, note, key, now, None, "Warning")
    body["regarding"]["apiVersion"] = POD.api_version
    body["metadata"]["name"] = f"{pod.name[:NAME_CHARS_MAX].rstrip('-.')}.{pod.uid[:8]}.{key}"
    return Post(body)
