"""The sidecar: one session with the quorum, some candidates, a local API, a file, and an orderly end.

Order of the end, on SIGTERM: stop campaigning; wait until the application has ended, as far as told how to see that;
release, and name a successor; leave. An application that does not end in time keeps its lease until that expires:
a release would let another lead while it still works (H23).
"""

import asyncio
import logging
import random
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from leaderlease.client.clock import system_clock
from leaderlease.client.sdk import Client
from leaderlease.errors import ConfigError, LeaderLeaseError
from leaderlease.paxos.lease import parse_name
from leaderlease.sidecar.api import Api
from leaderlease.sidecar.authority import Authority
from leaderlease.sidecar.candidate import Candidate
from leaderlease.sidecar.config import GateConfig, SidecarConfig
from leaderlease.sidecar.feed import Entry, Feed
from leaderlease.sidecar.file import LeaderFile
from leaderlease.sidecar.health import Gate, check
from leaderlease.sidecar.identity import StateDir
from leaderlease.sidecar.view import View
from leaderlease.wire.http import Handler, Server

TOKEN_BYTES_MAX: Final = 16 << 10
CONFIRMATIONS: Final = 3
"""How often a lease that others hold is read from a majority, within the time after which it would be stale."""
WATCH_RETRY_S: Final = 1.0
WITHDRAW_TIMEOUT_S: Final = 1.0
DRAIN_POLL_S: Final = 0.1
DRAIN_CHECK_S: Final = 0.5
"""How often, and for how long each time, the application is looked at while the sidecar waits for its end."""
CHOSEN_KINDS: Final = frozenset({"acquired", "transferred", "released", "revoked"})
"""Transitions that a majority has decided; all others are one node's opinion, and only a reason to ask."""

log = logging.getLogger(__name__)


class Sidecar:
    """All parts of one process; make it inside the event loop that runs it."""

    def __init__(self, config: SidecarConfig) -> None:
        self._config = config
        self._clock, _ = system_clock()
        self._state = StateDir(config.state_dir, self._clock)
        self._authority = Authority(config.tls) if config.tls is not None else None
        self.client = Client(
            config.endpoints,
            tls=self._authority.context if self._authority is not None else None,
            token=self._token if config.token_file is not None else "",
            name=config.identity,
            timeout=max(1.0, config.stale_after_s / CONFIRMATIONS),
            wait=float("inf"),
            pod_uid=config.pod_uid,
            priority=config.priority,
            since=self._state.since(),
        )
        self.gate = Gate(config.gate)
        self.feed = Feed(config.leases)
        views = [View(name, config.identity, config.stale_after_s * 1000, self._clock) for name in config.leases]
        self._file = LeaderFile(config.file, views, self._clock)
        self._doubts: dict[str, asyncio.Event] = {view.name: asyncio.Event() for view in views}
        self.candidates = {
            parse_name(view.name)[1]: Candidate(
                *(view, self.client, config, self._state, self.gate, self._clock),
                publish=self._publish,
                refresh=self._refresh,
            )
            for view in views
        }
        self.servers: list[Server] = []
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._campaigns: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    @property
    def views(self) -> list[View]:
        """What is known, lease by lease."""
        return [candidate.view for candidate in self.candidates.values()]

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, and end in order; a second signal ends the waiting.

        Raises:
            ConfigError: An address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            await self._listen()
            self._start(self._connect())
            if self._authority is not None:
                self._start(self._authority.run())
            self._start(self.gate.run(self._gate_changed))
            for candidate in self.candidates.values():
                self._campaigns.add(self._start(candidate.run()))
                self._start(self._follow(candidate.view))
                self._start(self._confirm(candidate.view))
            await self._stop.wait()
            if self._failure is None:
                await self._drain()
        finally:
            for server in self.servers:
                server.close()
            for task in list(self._tasks):
                task.cancel()
            await self.client.close()
            self._file.remove()
            self._state.close()
        if self._failure is not None:
            raise self._failure

    # --- parts -----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        config = self._config
        addresses = [("--listen", config.listen, Api(self, is_local=True))]
        if config.listen_pod is not None:
            addresses.append(("--listen-pod", config.listen_pod, Api(self, is_local=False)))
        for flag, address, api in addresses:
            handler: Handler = api.handle
            server = Server(handler)
            try:
                port = await server.listen(address.host, address.port)
            except OSError as error:
                raise ConfigError(f"{flag} {address}: {error.strerror or error}") from error
            self.servers.append(server)
            log.info("listening on %s:%d (%s)", address.host or "*", port, flag)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part that fails takes the process with it: a restart is better than a sidecar that is half alive."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the sidecar must end: %s", error, exc_info=error)
            self._failure = self._failure or error
            self._stop.set()

    async def _connect(self) -> None:
        await self.client.__aenter__()

    def _token(self) -> str:
        assert self._config.token_file is not None
        with self._config.token_file.open(encoding="ascii", errors="replace") as file:
            return file.read(TOKEN_BYTES_MAX).strip()

    def _gate_changed(self) -> None:
        for candidate in self.candidates.values():
            candidate.gate_changed()

    # --- what is known ---------------------------------------------------------------------------------------

    def _publish(self, view: View, kind: str) -> None:
        document = view.document()
        self.feed.publish(Entry(view.name, document.term, kind, msgspec.json.encode(document)))
        if kind in ("lost", "released"):
            self._doubts[view.name].set()
        self._refresh()

    def _refresh(self) -> None:
        # What an earlier process left says more than "starting".
        if all(view.state != "starting" for view in self.views):
            self._file.write()

    async def _follow(self, view: View) -> None:
        """Take transitions as they come."""
        while True:
            try:
                async for transition in self.client.watch(view.name):
                    if transition.kind not in CHOSEN_KINDS:
                        self._doubts[view.name].set()
                        continue
                    leader = transition.holder.name if transition.holder is not None else ""
                    if view.observe(leader, transition.term):
                        self._publish(view, transition.kind)
            except LeaderLeaseError as error:
                log.warning("%s: the watch ended: %s", view.name, error)
            await asyncio.sleep(WATCH_RETRY_S)

    async def _confirm(self, view: View) -> None:
        """Ask a majority from time to time, and whenever something is not understood."""
        doubt = self._doubts[view.name]
        period_s = self._config.stale_after_s / CONFIRMATIONS
        while True:
            doubt.clear()
            asked = self._clock()
            if not view.is_leader():
                try:
                    info = await self.client.get(view.name)
                    view.trouble = ""
                except LeaderLeaseError as error:
                    view.trouble = str(error)
                    log.info("%s: no majority confirms who leads: %s", view.name, error)
                    await asyncio.sleep(min(WATCH_RETRY_S, period_s))
                    continue
                is_settled = info is None or info.state != "in transition"
                leader = info.holder.name if info is not None and info.holder is not None else ""
                if is_settled and view.confirm(leader, info.term if info is not None else 0, asked):
                    self._publish(view, "observed")
                elif is_settled:
                    self._refresh()
            try:
                async with asyncio.timeout(period_s * random.uniform(0.8, 1.0)):
                    await doubt.wait()
            except TimeoutError:
                continue

    # --- the end ---------------------------------------------------------------------------------------------

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _drain(self) -> None:
        log.info("asked to end: no more campaigns")
        for candidate in self.candidates.values():
            candidate.stop_campaigning()
        has_ended = True
        if self._config.drain != "none":
            has_ended = await self._until(self._has_ended, self._config.drain_timeout_s)
        await asyncio.gather(*(candidate.retire(has_ended) for candidate in self.candidates.values()))
        # Whoever was waiting says at the node that it does not any more.
        await asyncio.wait(self._campaigns, timeout=WITHDRAW_TIMEOUT_S)

    async def _has_ended(self) -> bool:
        """Tell whether the application has ended, or has let go of all its leases itself."""
        if all(view.lease is None for view in self.views):
            return True
        at, gate = self._config.drain_at, self._config.gate
        if at is not None:
            return bool(await check(GateConfig("tcp", at.host, at.port, timeout_s=DRAIN_CHECK_S)))
        return gate is not None and bool(await check(gate))

    async def _until(self, is_done: Callable[[], Coroutine[Any, Any, bool]], limit_s: float) -> bool:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + limit_s
        while not await is_done():
            left_s = give_up_at - loop.time()
            if left_s <= 0 or self._hurry.is_set():
                return False
            try:
                async with asyncio.timeout(min(DRAIN_POLL_S, left_s)):
                    await self._hurry.wait()
            except TimeoutError:
                continue
        return True
