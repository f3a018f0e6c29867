"""The operator: what watches and quorums tell becomes keys in a queue; workers observe, plan and apply.

Rule 1: level-triggered. A key says only that something may be different; the plan looks at all there is.
Rule 2: nothing is planned before every kind was listed once, for what is missing then would be taken for deleted.
Rule 3: every replica watches, only the one that leads plans. It looks at everything when it begins to lead.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from kubernetes.aio import client

from leaderlease.controller.actions import Action
from leaderlease.controller.api import Api, ApiError
from leaderlease.controller.apply import Applier, NotLeading
from leaderlease.controller.cache import WATCHED, Cache, Key
from leaderlease.controller.handlers import Watcher
from leaderlease.controller.keys import Handed, hand_over_keys
from leaderlease.controller.leadership import Leadership
from leaderlease.controller.metrics import Metrics, ReadCertificate
from leaderlease.controller.missed import GRACE_S, Missed
from leaderlease.controller.node_tls import NodeTls
from leaderlease.controller.observe import Observer, now_text
from leaderlease.controller.own_quorum import find_owner_uid, is_of_another, plan_own_quorum
from leaderlease.controller.plan import plan, plan_gone
from leaderlease.controller.queue import Queue
from leaderlease.controller.quorum_plan import plan_quorum
from leaderlease.controller.quorums import QuorumLink
from leaderlease.controller.resource import (
    CHILDREN,
    LABEL_LEASE,
    LEADER_LEASE,
    LEADER_QUORUM,
    POD,
    SOURCE,
    Json,
    Kind,
    quorum_spec,
)
from leaderlease.controller.settings import Settings
from leaderlease.controller.trust import Trust
from leaderlease.errors import ConfigError, LeaderLeaseError

WORKERS: Final = 8
"""Objects that are looked at, at a time."""
PASSES_MAX: Final = 3
"""Plans in a row for one look: a declaration changes what the next plan sees."""
LIST_RETRY_S: Final = 1.0
PROBE_S: Final = 1.0
"""How often an API server that did not answer is asked whether it is back."""
GAP_LISTS_S: Final = (0.0, 1.0, 4.0, 12.0)
"""When everything is listed after a gap. A deletion that falls between two watches is in no event, and kopf's watches
come back one by one, each within a few seconds."""
START_S: Final = 10.0
"""For how long listings of kopf belong to its start, and tell of no gap."""
KEYS_EVERY_S: Final = 60.0
"""How often the API server's public keys are read."""

logger = logging.getLogger("leaderlease.operator")

QueueKey = tuple[str, str, str]
"""(``lease``, ``quorum`` or ``pod``, namespace, name)."""


class Manager:
    """One replica of the operator."""

    def __init__(self, settings: Settings, configuration: client.Configuration) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.api = Api(configuration, self._on_request)
        self.cache = Cache(self._on_lease, self._on_quorum)
        self.queue: Queue[QueueKey] = Queue()
        self.links: dict[str, QuorumLink] = {}
        self._node_tls = NodeTls(*settings.tls) if settings.tls is not None else None
        self.leadership = Leadership(
            lambda: self.links.get(settings.lease_quorum),
            f"{settings.namespace}/operator",
            settings.identity,
            self._on_leadership,
        )
        self.is_synced = False
        self.last_event_at: dict[str, float] = {}
        self._delivered: set[tuple[str, str, str]] = set()
        """What watches told of before: if it is listed again, a watch began anew."""
        self._observer = Observer(self.api, self.cache, self.links.get)
        self._applier = Applier(
            *(self.api, self.cache, self.links.get),
            lambda: self.leadership.is_held,
            self.leadership.may_tell,
            settings.identity,
        )
        self._resync = asyncio.Event()
        self._missed = Missed(
            *(self.cache, self._apply), is_injecting=settings.is_injecting, own_namespace=settings.namespace
        )
        self.more_checks: dict[str, Callable[[], str]] = {}
        """What else ``/readyz`` asks: name -> returns ``ok``, or what is missing."""
        self.certificates: list[ReadCertificate] = []
        """Those in use, for the metrics."""
        if self._node_tls is not None and (rotation := self._node_tls.rotation) is not None:
            self.certificates.append(lambda: (rotation.ends_s, rotation.is_refused))
        self._trust = None
        if settings.tls is not None:
            self._trust = Trust(*(settings.tls[2], settings.namespace, self.cache, self._apply), self._on_authorities)
        self._was_away = False
        self._gap_at = self._started_at = float("-inf")
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self.watcher = Watcher(
            *(configuration, self._sink, settings.watch_namespaces, settings.pod_selector),
            self._on_watcher_end,
            self._on_watcher_restart,
        )
        self.metrics.gauges(self._gauges)
        self.metrics.certificates(self.certificates)

    # --- life ------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set.

        Raises:
            LeaderLeaseError: Something that the operator cannot do without has ended.
        """
        for name, endpoints in self.settings.quorums.items():
            self._link(name, endpoints)
        tasks = [asyncio.create_task(work) for work in (self._sync(), self._probe(), self._hand_over_keys())]
        tasks += [asyncio.create_task(self.queue.work(self._look)) for _ in range(WORKERS)]
        if self._node_tls is not None:
            tasks.append(asyncio.create_task(self._node_tls.run()))
        if self._trust is not None:
            tasks.append(asyncio.create_task(self._trust.run()))
        leading = asyncio.create_task(self.leadership.run())
        stopping = asyncio.create_task(stop.wait())
        try:
            waits: set[asyncio.Future[Any]] = {stopping, self._ended, leading, *tasks}
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done - {stopping}:
                # Whatever ended by itself did so by a bug, or is kopf.
                raise LeaderLeaseError(one.result() if one is self._ended else f"a task ended: {one.exception()!r}")
        finally:
            self.queue.stop()
            await _cancel([*tasks, stopping])
            # The lease goes last, when this replica writes no more.
            await _cancel([leading])
            await self.watcher.stop()
            await asyncio.gather(*(link.stop() for link in self.links.values()))
            await self.api.close()

    def _on_watcher_end(self, why: str) -> None:
        """Take note that kopf is gone; called in its thread."""
        self._loop.call_soon_threadsafe(self._end, f"kopf ended: {why}")

    def _on_watcher_restart(self) -> None:
        """Take note that kopf begins anew; called in its thread."""
        self._loop.call_soon_threadsafe(self._suspect_gap)

    def _end(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_result(why)

    # --- what comes in ---------------------------------------------------------------------------------------

    def _sink(self, kind: Kind, change: str | None, body: Json) -> None:
        """Take an event of a watch; called in kopf's thread."""
        self._loop.call_soon_threadsafe(self._on_event, kind, change, body)

    def _on_event(self, kind: Kind, change: str | None, body: Json) -> None:
        self.metrics.watched.labels(kind.name).inc()
        metadata = body["metadata"]
        key = (kind.name, metadata.get("namespace", ""), metadata["name"])
        if change is None and (key in self._delivered or time.monotonic() > self._started_at + START_S):
            self._suspect_gap()
        (self._delivered.discard if change == "DELETED" else self._delivered.add)(key)
        self.last_event_at[kind.name] = time.monotonic()
        if change == "DELETED":
            self.cache.remove(kind, metadata.get("namespace", ""), metadata["name"], int(metadata["resourceVersion"]))
            return
        self.cache.put(kind, body)
        if kind is POD:
            self._on_pod(metadata["namespace"], metadata["name"])

    def _suspect_gap(self) -> None:
        """List everything some times: a watch began anew, or the API server was away."""
        now = time.monotonic()
        if now > self._gap_at + GAP_LISTS_S[1]:
            self._gap_at = now
            self.metrics.gaps.inc()
            for delay_s in GAP_LISTS_S:
                self._loop.call_later(delay_s, self._resync.set)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            if not self.api.is_reachable:
                with contextlib.suppress(ApiError):
                    await self.api.request("GET", "list", LEADER_QUORUM, LEADER_QUORUM.path(), query=[("limit", "1")])

    def _on_pod(self, namespace: str, name: str) -> None:
        pod = self.cache.pod(namespace, name)
        if pod is not None and pod.sidecar != "off":
            self.queue.add_later(("pod", namespace, name), GRACE_S)

    def _on_authorities(self) -> None:
        for pod in self.cache.all_pods():
            if pod.authorities:
                self.queue.add(("pod", pod.namespace, pod.name))

    def _on_lease(self, key: Key, is_urgent: bool) -> None:
        self.queue.add(("lease", *key), is_urgent=is_urgent)

    def _on_quorum(self, name: str) -> None:
        self._follow_quorum(name)
        self.queue.add(("quorum", "", name))

    def _on_decided(self, quorum: str, name: str) -> None:
        namespace, _, short = name.partition("/")
        entry = self.cache.lease((namespace, short))
        if entry is not None and entry.spec is not None and entry.spec.quorum == quorum:
            self.queue.add(("lease", namespace, short))

    def _on_view(self, quorum: str) -> None:
        link = self.links.get(quorum)
        if link is None:
            return
        self.queue.add(("quorum", "", quorum))
        if quorum == self.settings.lease_quorum:
            pause_s = self.leadership.quorum_changed(link.view.is_available)
            if pause_s:
                self._loop.call_later(pause_s + 0.1, self._on_view, quorum)
        for key in self.cache.keys(LEADER_LEASE):
            entry = self.cache.lease(key)
            if entry is not None and entry.spec is not None and entry.spec.quorum == quorum:
                self.queue.add(("lease", *key))

    def _on_leadership(self) -> None:
        if self.leadership.is_held:
            self._resync.set()

    def _on_request(self, verb: str, kind: str, code: int) -> None:
        self.metrics.requests.labels(verb, kind, str(code or "none")).inc()
        if code == 0:
            self._was_away = True
        elif self._was_away:
            self._was_away = False
            self._suspect_gap()

    # --- quorums ---------------------------------------------------------------------------------------------

    def _link(self, name: str, endpoints: Sequence[str]) -> None:
        options: dict[str, Any] = {"name": f"operator {self.settings.identity}", "spread": True, "timeout": 5.0}
        if self._node_tls is not None:
            options["tls"] = self._node_tls.context
        link = QuorumLink(name, endpoints, options, lambda lease: self._on_decided(name, lease), self._on_view)
        self.links[name] = link
        link.start()

    def _follow_quorum(self, name: str) -> None:
        """Connect to the quorum that a LeaderQuorum tells of; connect elsewhere when its endpoints have changed."""
        if name in self.settings.quorums:
            return
        body = self.cache.get(LEADER_QUORUM, "", name)
        is_ours = body is not None and not is_of_another(body, self.settings.namespace)
        endpoints = quorum_spec(body).endpoints if body is not None and is_ours else ()
        link = self.links.get(name)
        if link is not None and link.endpoints != endpoints:
            del self.links[name]
            task = asyncio.create_task(link.stop())
            task.add_done_callback(lambda _: None)
            link = None
        if link is None and endpoints:
            try:
                self._link(name, endpoints)
            except ConfigError as error:
                logger.error("LeaderQuorum %s: %s", name, error)

    # --- lists -----------------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        """List everything: at the start, when this replica begins to lead, after a gap, and from time to time."""
        while True:
            self._resync.clear()
            try:
                await self._list_all()
            except (LeaderLeaseError, ConfigError) as error:
                logger.warning("the objects cannot be listed: %s", error)
                await asyncio.sleep(max(LIST_RETRY_S, self.api.pause_s))
                continue
            if not self.is_synced:
                self.is_synced = True
                self._started_at = time.monotonic()
                self.watcher.start()
                logger.info("all objects are listed: %d LeaderLeases", len(self.cache.keys(LEADER_LEASE)))
            self._add_all()
            try:
                async with asyncio.timeout(self.settings.resync_s):
                    await self._resync.wait()
            except TimeoutError:
                logger.debug("periodic resync")

    async def _list_all(self) -> None:
        for kind in WATCHED:
            selector = LABEL_LEASE if kind in CHILDREN else self.settings.pod_selector if kind is POD else ""
            for namespace in self.settings.watch_namespaces or ("",):
                bodies, version = await self.api.list(kind, namespace, selector)
                is_all = len(self.settings.watch_namespaces) <= 1
                self.cache.replace(kind, bodies, version if is_all else 0)
        for link in self.links.values():
            try:
                await link.refresh_declared()
            except LeaderLeaseError as error:
                logger.warning("quorum %s: the declarations cannot be read: %s", link.name, error)

    def _add_all(self) -> None:
        for namespace, name in self.cache.keys(LEADER_LEASE):
            self.queue.add(("lease", namespace, name))
        for pod in self.cache.all_pods():
            self._on_pod(pod.namespace, pod.name)
        for _, name in self.cache.keys(LEADER_QUORUM):
            self.queue.add(("quorum", "", name))
        if self.settings.own_quorum is not None:
            self.queue.add(("quorum", "", self.settings.own_quorum["metadata"]["name"]))
        for link in self.links.values():
            for lease, spec in (link.declared or {}).items():
                if spec.source == SOURCE:
                    namespace, _, name = lease.partition("/")
                    self.queue.add(("lease", namespace, name))

    async def _hand_over_keys(self) -> None:
        handed: Handed = {}
        while True:
            if self.leadership.is_held and self.settings.audience:
                await hand_over_keys(self.api, list(self.links.values()), self.settings.audience, handed)
                await asyncio.sleep(KEYS_EVERY_S)
            else:
                handed.clear()
                await asyncio.sleep(1.0)

    # --- looking ---------------------------------------------------------------------------------------------

    async def _look(self, key: QueueKey) -> float | None:
        await asyncio.sleep(self.api.pause_s)
        if (rest_s := self.api.pause_s) > 0:
            return rest_s
        if not self.is_synced or not self.leadership.may_tell():
            return None
        kind, namespace, name = key
        began = time.perf_counter()
        result, pause_s = "ok", None
        try:
            if kind == "quorum":
                await self._look_at_quorum(name)
            elif kind == "pod":
                await self._missed.look(namespace, name, now_text())
                if self._trust is not None:
                    await self._trust.look_at(namespace, name)
            else:
                pause_s = await self._look_at_lease((namespace, name))
                result = "ok" if pause_s is None else "again"
        except NotLeading:
            result = "not_leading"
        except ApiError as error:
            # In a namespace that goes nothing is tried again: the deletion of what is in it brings it here.
            result, pause_s = ("ending", None) if error.is_ending else ("error", error.retry_after_s)
            logger.log(logging.INFO if error.is_ending else logging.WARNING, "%s/%s: %s", namespace, name, error)
        except LeaderLeaseError as error:
            result, pause_s = "error", 0.0
            logger.warning("%s/%s: %s", namespace, name, error)
        except Exception:
            # A bug: loud, counted, and tried again with back-off; the other objects go on.
            result, pause_s = "bug", 1.0
            logger.exception("%s/%s: cannot be reconciled", namespace, name)
        self.metrics.reconciles.labels(kind, result).inc()
        self.metrics.seconds.labels(kind).observe(time.perf_counter() - began)
        return pause_s

    async def _look_at_quorum(self, name: str) -> None:
        await self._apply_own_quorum(name)
        body = self.cache.get(LEADER_QUORUM, "", name)
        link = self.links.get(name)
        if body is not None and link is not None:
            await self._apply(plan_quorum(body, quorum_spec(body), link.view, now_text()))

    async def _apply_own_quorum(self, name: str) -> None:
        wanted = self.settings.own_quorum
        if wanted is None or wanted["metadata"]["name"] != name or not self.leadership.is_held:
            return
        found = self.cache.get(LEADER_QUORUM, "", name)
        if plan_own_quorum(wanted, found, ""):
            await self._apply(plan_own_quorum(wanted, found, await find_owner_uid(self.api, wanted)))

    async def _look_at_lease(self, key: Key) -> float | None:
        entry = self.cache.lease(key)
        if entry is None or "deletionTimestamp" in entry.body["metadata"]:
            await self._look_at_gone(key)
            return None
        if entry.spec is None:
            raise LeaderLeaseError(f"spec cannot be read, is the CRD of another version? {entry.error}")
        name = "/".join(key)
        for link in self.links.values():
            declared = (link.declared or {}).get(name)
            if link.name != entry.spec.quorum and declared is not None and declared.source == SOURCE:
                await self._apply(plan_gone(link.name, name, declared, ()))
        if is_of_another(self.cache.get(LEADER_QUORUM, "", entry.spec.quorum), self.settings.namespace):
            return None
        error, pause_s = "", None
        for _ in range(PASSES_MAX):
            entry = self.cache.lease(key)
            if entry is None or entry.spec is None:
                return 0.0
            actions = plan(await self._observer.observe(key, entry, entry.spec, error))
            if not actions:
                return pause_s
            try:
                await self._apply(actions)
            except (ApiError, NotLeading):
                raise
            except LeaderLeaseError as refusal:
                # The status tells it; the declaration is tried again later.
                error, pause_s = str(refusal), 0.0
        return pause_s

    async def _look_at_gone(self, key: Key) -> None:
        namespace, name = key
        pods = tuple(pod for pod in self.cache.pods(namespace) if name in pod.injected)
        for pod in pods:
            self._on_pod(namespace, pod.name)
        for link in list(self.links.values()):
            actions = plan_gone(
                link.name, f"{namespace}/{name}", (link.declared or {}).get(f"{namespace}/{name}"), pods
            )
            if not actions:
                continue
            found = await self.api.get(LEADER_LEASE, namespace, name)
            if found is not None and "deletionTimestamp" not in found["metadata"]:
                self.cache.put(LEADER_LEASE, found)
                return
            await self._apply(actions)

    async def _apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            self.metrics.actions.labels(type(action).__name__).inc()
        await self._applier.run(actions)

    def _gauges(self) -> dict[str, tuple[str, float]]:
        now = time.monotonic()
        oldest = max((now - at for at in self.last_event_at.values()), default=0.0)
        return {
            "leaderlease_reconcile_queue_depth": ("Objects that wait for a look.", float(len(self.queue))),
            "leaderlease_reconcile_watch_age_seconds": ("Time since the least recent watch delivered.", oldest),
            "leaderlease_reconcile_is_active": ("This replica writes.", float(self.leadership.is_held)),
            "leaderlease_reconcile_leases": ("LeaderLeases.", float(len(self.cache.keys(LEADER_LEASE)))),
            "leaderlease_reconcile_pods_behind": (
                "Injected pods that do not have the authorities of the nodes as they are now.",
                float(self._trust.behind() if self._trust is not None else 0),
            ),
        }

    def checks(self) -> dict[str, str]:
        """Return what ``/readyz?verbose`` shows: ``ok``, or what is missing."""
        link = self.links.get(self.settings.lease_quorum)
        missing = "" if link is not None else f"no quorum {self.settings.lease_quorum!r} is known"
        return {
            "objects": "ok" if self.is_synced else "not listed yet",
            "watches": "ok" if self.watcher.is_alive else "kopf does not run",
            "quorum": missing or ("ok" if link is not None and link.client is not None else "not connected"),
            **{name: check() for name, check in self.more_checks.items()},
        }

    def notes(self) -> dict[str, str]:
        """Return what ``/readyz?verbose`` shows besides, for people."""
        return {
            "role": f"writes, under term {self.leadership.term}" if self.leadership.is_held else "stands by",
            "api server": "answers" if self.api.is_reachable else "does not answer",
        }


async def _cancel(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
