"""One lease of the sidecar: campaign, hold, let go.

Rule 1: whoever lets go stops saying "leader" first, then waits for the application, then releases (H23).
Rule 2: a nonce is written down before the lease is announced and erased before its end is (see ``identity``).
Rule 3: a nonce that was inherited goes on only if the quorum confirms it before the inherited validity ends (H18).
Rule 4: a candidate whose application is not healthy does not ask.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from leaderlease.client.clock import Clock
from leaderlease.client.lease import Lease
from leaderlease.client.sdk import Client
from leaderlease.errors import LeaderLeaseError
from leaderlease.sidecar.config import SidecarConfig
from leaderlease.sidecar.health import Gate
from leaderlease.sidecar.identity import StateDir
from leaderlease.sidecar.successor import choose_successor
from leaderlease.sidecar.view import View

PAUSE_AFTER_YIELD_S: Final = 1.0
"""How long a sidecar that let go leaves the lease to others before it asks again."""
PAUSE_AFTER_LOSS_S: Final = 0.05
RETRY_FIRST_S: Final = 0.25
RETRY_MAX_S: Final = 5.0
"""Pause after a refusal, for example of a lease that is not declared yet; doubles, and is random by half."""
RECORD_MIN_S: Final = 0.02
RECORD_MAX_S: Final = 1.0
RECORDS_PER_DURATION: Final = 12
"""How often the validity of a held lease is looked at, to be written to the record and to ``leader.json``."""
SUCCESSOR_TIMEOUT_S: Final = 0.3
"""How long a sidecar that lets go looks for a successor."""


CONFIRM_TIMEOUT_S: Final = 2.0
"""How long a majority may take to say that a released term has ended."""

log = logging.getLogger(__name__)


class Released(NamedTuple):
    """A term that this process does not believe in any more.

    Attributes:
        duration: Of the lease, in seconds; None is never.
        problem: Why no node confirmed the release; empty if one did.
    """

    term: int
    duration: float | None
    problem: str


class Candidate:
    """The life of one lease in this sidecar.

    Args:
        publish: Called after each change with the kind of the event.
        refresh: Called when only the validity has changed.
    """

    def __init__(
        self,
        view: View,
        client: Client,
        config: SidecarConfig,
        state: StateDir,
        gate: Gate,
        clock: Clock,
        publish: Callable[[View, str], None],
        refresh: Callable[[], None],
    ) -> None:
        self.view = view
        self._client = client
        self._config = config
        self._state = state
        self._gate = gate
        self._clock = clock
        self._publish = publish
        self._refresh = refresh
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._step_down_at = 0.0
        self._successor = ""
        self._pause_s = 0.0

    # --- what others ask of it -------------------------------------------------------------------------------

    def stop_campaigning(self) -> None:
        """Never ask for the lease again; one that is held stays held."""
        self._is_stopping = True
        self._wake.set()

    def gate_changed(self) -> None:
        """Look at the application's health again."""
        if self._gate.is_healthy is False and self.view.lease is not None:
            self.step_down("", f"the application fails its health check: {self._gate.reason}")
        self._wake.set()

    def step_down(self, successor: str, reason: str) -> bool:
        """Stop leading, and release when the application has acknowledged it or the grace is over (rule 1).

        Returns: False if this process does not hold the lease.
        """
        view = self.view
        if view.lease is None:
            return False
        if successor:
            self._successor = successor
        if not view.is_stepping_down:
            self._state.erase(view.name)
            view.is_stepping_down = True
            view.state, view.reason = "stepping_down", reason
            self._step_down_at = asyncio.get_running_loop().time() + self._config.step_down_grace_s
            log.info("%s: stepping down from term %d: %s", view.name, view.lease.term, reason)
            self._publish(view, "stopping")
        self._wake.set()
        return True

    async def release(self, successor: str = "", reason: str = "the application let go") -> Released | None:
        """Stop leading and release; the work must have ended.

        Returns: None if this process does not hold the lease.
        """
        lease = self.view.lease
        if lease is None:
            return None
        successor = successor or self._successor
        self._end("released", reason)
        self._pause_s = PAUSE_AFTER_YIELD_S
        self._wake.set()
        return Released(lease.term, lease.duration, await self._let_go(lease, successor))

    async def confirm_release(self, released: Released) -> str:
        """Ask a majority whether the term has ended; return what it says instead, empty if it has."""
        if released.problem:
            return released.problem
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                is_current = bool(await self._client.verify(self.view.name, released.term))
        except TimeoutError:
            return f"no majority confirmed it within {CONFIRM_TIMEOUT_S:g} s"
        except LeaderLeaseError as error:
            return str(error)
        return "a majority still guards it" if is_current else ""

    async def retire(self, has_ended: bool) -> None:
        """Let go for good at the end of the process; where the work may go on, the lease has to expire instead."""
        self.stop_campaigning()
        view = self.view
        if view.lease is None:
            return
        if has_ended or view.is_stepping_down:
            await self.release(await self._find_successor(), "the sidecar ends")
        else:
            term = view.lease.term
            self._end("stopped", "the application did not end in time, so the lease expires by itself")
            log.warning("%s: term %d is left to expire: the application did not end in time", view.name, term)

    # --- its life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Campaign and hold, again and again, until told to stop campaigning."""
        retry_s = RETRY_FIRST_S
        lease = await self._resume()
        while not self._is_stopping:
            try:
                lease = lease or await self._campaign()
            except LeaderLeaseError as error:
                self._say("waiting", str(error))
                log.warning("%s: %s", self.view.name, error)
                await self._pause(retry_s * random.uniform(0.5, 1.0))
                retry_s = min(RETRY_MAX_S, retry_s * 2)
                continue
            if lease is not None:
                retry_s = RETRY_FIRST_S
                await self._hold(lease)
                await self._pause(self._pause_s)
            lease = None
        if lease is not None:
            await self._let_go(lease)
        if self.view.lease is None:
            self._say("stopped", "")

    async def _resume(self) -> Lease | None:
        """Go on with the nonce of an earlier process, if it is still alive (rule 3)."""
        view = self.view
        record = self._state.load(view.name, view.identity)
        if record is None:
            self._say("waiting", "")
            return None
        left_s = record.remaining_ms(self._clock()) / 1000
        try:
            lease = await self._acquire(record.nonce, None if left_s > 1e9 else left_s)
        except LeaderLeaseError as error:
            log.warning("%s: %s", view.name, error)
            lease = None
        if lease is not None and (record.remaining_ms(self._clock()) <= 0 or lease.term != record.term):
            await self._let_go(lease)
            lease = None
        if lease is None:
            self._state.erase(view.name)
            self._say("waiting", "")
            log.info("%s: term %d of an earlier process could not go on", view.name, record.term)
            return None
        log.info("%s: goes on with term %d of an earlier process", view.name, lease.term)
        return lease

    async def _campaign(self) -> Lease | None:
        if not self._gate.is_healthy:
            self._say("unhealthy", self._gate.reason or "the health check has not passed yet")
            self._wake.clear()
            await self._wake.wait()
            return None
        self._say("waiting", "")
        return await self._acquire(None, None)

    async def _acquire(self, nonce: str | None, timeout_s: float | None) -> Lease | None:
        """Wait for the lease; None when it came too late, or is not wanted any more (rule 4)."""
        view = self.view
        asking = asyncio.ensure_future(
            self._client.acquire(
                view.name, view.identity, duration=self._config.duration, timeout=timeout_s, nonce=nonce
            )
        )
        try:
            while not asking.done():
                self._wake.clear()
                waking = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait({asking, waking}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                is_unwanted = self._is_stopping or self._gate.is_healthy is False
                if is_unwanted and not asking.done():
                    return None
        finally:
            if not asking.done():
                # Let it say at the node that it does not wait any more, before anybody closes the connection.
                asking.cancel()
                await asyncio.wait({asking})
        try:
            lease = asking.result()
        except TimeoutError:
            return None
        if self._is_stopping or self._gate.is_healthy is False or lease.lost.is_set():
            await self._let_go(lease)
            return None
        return lease

    async def _hold(self, lease: Lease) -> None:
        view = self.view
        self._remember(lease)
        view.lease, view.is_stepping_down = lease, False
        view.elected += 1
        view.observe(view.identity, lease.term)
        view.state, view.reason = "leading", ""
        self._successor = ""
        self._pause_s = PAUSE_AFTER_LOSS_S
        lease.on_change = self._lease_changed
        log.info("%s: elected, term %d", view.name, lease.term)
        self._publish(view, "elected")
        self._lease_changed()
        pulse_s = RECORD_MAX_S if lease.duration is None else lease.duration / RECORDS_PER_DURATION
        pulse_s = min(max(pulse_s, RECORD_MIN_S), RECORD_MAX_S)
        loop = asyncio.get_running_loop()
        left_ms, read_at = lease.remaining() * 1000, loop.time()
        while view.lease is lease:
            limit_s = pulse_s
            if view.is_stepping_down:
                limit_s = min(pulse_s, max(0.0, self._step_down_at - loop.time()))
            await _wait(self._wake.wait(), limit_s)
            self._wake.clear()
            if view.lease is not lease:
                break
            if view.is_stepping_down:
                if loop.time() >= self._step_down_at:
                    await self.release(self._successor or await self._find_successor(), view.reason)
                continue
            now_ms, now = lease.remaining() * 1000, loop.time()
            if now_ms > left_ms - (now - read_at) * 1000 + 1:
                self._remember(lease)
                self._refresh()
                left_ms, read_at = now_ms, now

    def _lease_changed(self) -> None:
        lease = self.view.lease
        if lease is None:
            return
        if lease.lost.is_set():
            self.view.lost += 1
            self.view.doubt()
            self._end("lost", lease.reason)
            log.warning("%s: term %d is lost: %s", self.view.name, lease.term, lease.reason)
        elif lease.step_down_requested.is_set():
            favour = f" in favour of {lease.successor}" if lease.successor else ""
            self.step_down(lease.successor, f"asked to step down{favour}")
        self._wake.set()

    def _end(self, kind: str, reason: str) -> None:
        """Stop saying "leader", at once and everywhere (rule 2)."""
        view, lease = self.view, self.view.lease
        assert lease is not None
        self._state.erase(view.name)
        lease.on_change = None
        view.lease, view.is_stepping_down = None, False
        view.state = "stopped" if self._is_stopping else "pausing"
        view.reason = reason
        view.observe("", lease.term)
        self._publish(view, kind)

    async def _let_go(self, lease: Lease, successor: str = "") -> str:
        """Release; return why no node confirmed it, empty if one did."""
        try:
            problem = "" if await lease.release(successor) else "no node confirmed it in time"
        except LeaderLeaseError as error:
            problem = str(error)
        if problem:
            log.warning("%s: the release of term %d is not confirmed: %s", lease.name, lease.term, problem)
        return problem

    def _remember(self, lease: Lease) -> None:
        self._state.save(self.view.name, self.view.identity, lease.nonce, lease.term, lease.remaining() * 1000)

    def _say(self, state: str, reason: str) -> None:
        if (self.view.state, self.view.reason) != (state, reason):
            self.view.state, self.view.reason = state, reason
            self._refresh()

    async def _pause(self, seconds: float) -> None:
        give_up_at = asyncio.get_running_loop().time() + seconds
        while not self._is_stopping and (left_s := give_up_at - asyncio.get_running_loop().time()) > 0:
            self._wake.clear()
            await _wait(self._wake.wait(), left_s)

    async def _find_successor(self) -> str:
        """Name who should be next, if the node knows candidates and the configuration prefers some."""
        view = self.view
        if self._config.preference == "none":
            return ""
        try:
            async with asyncio.timeout(SUCCESSOR_TIMEOUT_S):
                info = await self._client.get(view.name)
        except (TimeoutError, LeaderLeaseError):
            return ""
        if info is not None and info.preference != "None":
            # The nodes know all candidates and what the lease prefers.
            return ""
        names = info.candidates if info is not None else ()
        return choose_successor(self._config.preference, view.identity, names)


async def _wait(awaitable: Awaitable[object], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        return
