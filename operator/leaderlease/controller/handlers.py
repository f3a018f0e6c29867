"""kopf, embedded: it watches, and hands every event to our own loop. Nothing else is done here.

Rule 1: ``on.event`` only. Every other kind of handler makes kopf write to the objects: finalizers, annotations.
Rule 2: kopf has a thread and a loop of its own, because on its way out it cancels every task of its loop.
Rule 3: a watch that the API server ends in an error, other than 410, is gone for good, and kopf goes on without it. So
        the end of a watch ends kopf, which is started anew. Only if that happens again and again the operator ends.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import kopf
from kubernetes.aio import client

from leaderlease.controller.resource import CHILDREN, LABEL_LEASE, LEADER_LEASE, LEADER_QUORUM, POD, Json, Kind

WATCH_S: Final = 300
"""How long one watch request lasts."""
REQUEST_TIMEOUT_S: Final = 30
CONNECT_TIMEOUT_S: Final = 5
STOP_TIMEOUT_S: Final = 5.0
BACKOFF_MAX_S: Final = 2.0
"""The longest pause before a watch is tried again."""
WATCH_TASKS: Final = "watcher for "
"""How kopf calls the tasks of its watches; a test fails if it calls them otherwise one day."""
RESTART_S: Final = 1.0
"""Pause before kopf is started anew."""
STEADY_S: Final = 60.0
"""A run that lasted so long counts as one that went well."""
FAILURES_MAX: Final = 5
"""Runs in a row that did not."""

logger = logging.getLogger("leaderlease.operator.watches")

Sink = Callable[[Kind, str | None, Json], None]
"""Called in kopf's thread with (kind, type, object); the type is None in an initial listing."""


class Watcher:
    """kopf in its thread.

    Args:
        configuration: Where the API server is, and the credentials.
        sink: Is given every event.
        namespaces: Empty for all.
        pod_selector: Label selector of the pods to be watched; empty for all.
        on_end: Called in kopf's thread when it ended for good, without being asked to.
        on_gap: Called in kopf's thread when it begins anew.
    """

    def __init__(
        self,
        configuration: client.Configuration,
        sink: Sink,
        namespaces: Sequence[str],
        pod_selector: str,
        on_end: Callable[[str], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._configuration = configuration
        self._sink = sink
        self._namespaces = tuple(namespaces)
        self._pod_selector = pod_selector
        self._on_end = on_end
        self._on_gap = on_gap
        self._stop, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    @property
    def is_alive(self) -> bool:
        """kopf runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to watch."""
        logging.getLogger("kopf").setLevel(logging.WARNING)
        self._thread.start()

    async def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._end.set()
        await asyncio.to_thread(self._thread.join, STOP_TIMEOUT_S)

    def _run(self) -> None:
        """Run kopf, and run it anew when it ends (rule 3)."""
        failures = 0
        while True:
            began = time.monotonic()
            why = self._once()
            if self._stop.is_set():
                return
            failures = failures + 1 if time.monotonic() - began < STEADY_S else 1
            if failures >= FAILURES_MAX:
                self._on_end(why)
                return
            if self._stop.wait(RESTART_S):
                return
            self._on_gap()

    def _once(self) -> str:
        """Run kopf until it ends; return why it did."""
        self._end = threading.Event()
        try:
            asyncio.run(self._main(self._end))
        except Exception as error:
            # Whatever it is: it is said, and the operator ends if it comes again and again.
            logger.exception("kopf ended")
            return str(error)
        return "a watch ended"

    async def _main(self, end: threading.Event) -> None:
        if self._stop.is_set():
            return
        asyncio.get_running_loop().set_task_factory(self._make_task)
        await kopf.operator(
            registry=self._registry(),
            settings=self._settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=end,
        )

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=loop, **options)
        task.add_done_callback(self._on_task_end)
        return task

    def _on_task_end(self, task: "asyncio.Task[Any]") -> None:
        """Have kopf end when one of its watches has (rule 3)."""
        if task.cancelled() or not task.get_name().startswith(WATCH_TASKS) or self._end.is_set():
            return
        logger.warning("the %s ended: all watches begin anew: %s", task.get_name(), task.exception())
        self._end.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        for kind in (LEADER_LEASE, LEADER_QUORUM, POD, *CHILDREN):
            self._watch(registry, kind)

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await _connection_info(self._configuration)

        return registry

    def _watch(self, registry: kopf.OperatorRegistry, kind: Kind) -> None:
        @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)
        async def on_event(event: Any, **_: Any) -> None:
            self._sink(kind, event["type"], dict(event["object"]))

    def _settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.watching.server_timeout = WATCH_S
        settings.watching.connect_timeout = CONNECT_TIMEOUT_S
        settings.networking.request_timeout = REQUEST_TIMEOUT_S
        settings.networking.connect_timeout = CONNECT_TIMEOUT_S
        settings.networking.error_backoffs = _Backoffs()
        if self._pod_selector:
            settings.watching.label_selectors[POD.group, POD.version, POD.plural] = self._pod_selector
        for kind in CHILDREN:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = LABEL_LEASE
        return settings


class _Backoffs:
    """Pauses without an end: an operator waits for its API server for as long as it takes."""

    def __iter__(self) -> Any:
        pause_s = 0.25
        while True:
            yield pause_s
            pause_s = min(BACKOFF_MAX_S, pause_s * 1.5)


async def _connection_info(configuration: client.Configuration) -> kopf.ConnectionInfo:
    auth = (await configuration.auth_settings()).get("BearerToken", {})
    scheme, _, token = str(auth.get("value", "")).partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme or None,
        token=token or None,
    )
