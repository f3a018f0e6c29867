"""The exec wrapper: CMD runs while the lease is held, and ends before the lease can end.

Rule 1: CMD gets SIGTERM as soon as the lease is given up, and SIGKILL ``kill_margin_ms`` before its validity ends.
        Both also come from the guard's own clock, from deadlines that are posted with every renewal.
Rule 2: a lease is released only when nothing that CMD started is left.
Rule 3: the wrapper's end is CMD's end: it exits with CMD's code, and a killed wrapper takes CMD with it.
"""

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leaderlease.client.election import LOST_PAUSE_S
from leaderlease.client.lease import Lease
from leaderlease.client.queries import Duration
from leaderlease.client.sdk import IDENTITY_CHARS_MAX, Client
from leaderlease.errors import ConfigError, ConnectionFailed, LeaderLeaseError, LeaseLost
from leaderlease.paxos.lease import parse_duration, parse_name
from leaderlease.sidecar.guard import GuardLink, boot_ms

KILL_MARGIN_SHARE: Final = 20
KILL_MARGIN_MIN_MS: Final = 25.0
"""SIGKILL comes one part in 20 of the duration before the validity ends, and at least this: time for CMD to die."""
GONE_GRACE_MS: Final = 1_000.0
"""Between SIGTERM and SIGKILL when a lease without end was revoked."""
POST_SHARE: Final = 6
POST_SHARE_LATE: Final = 20
POST_MIN_S: Final = 0.005
POST_MAX_S: Final = 1.0
"""How often renewals are looked for, to post the new deadline: 6 times per duration, 20 times while they are late."""
DEADLINE_STEP_MS: Final = 1.0
"""A deadline that moved by less is the same one, read again."""
CONNECT_PAUSE_S: Final = 0.5
"""Between two rounds over all endpoints while none answers."""
FORWARDED: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
)
ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Those that end a campaign. While CMD runs, only SIGTERM keeps the wrapper from another campaign."""


class NotElected(LeaderLeaseError):
    """Others held the lease for as long as this candidate wanted to wait."""

    exit_code = 75
    code = "not_elected"


class CommandNotFound(LeaderLeaseError):
    """There is no such program; the code is that of shells."""

    exit_code = 127
    code = "command"


class CommandNotExecutable(LeaderLeaseError):
    """The program is there but cannot be started; the code is that of shells."""

    exit_code = 126
    code = "command"


class GuardGone(LeaderLeaseError):
    """The guard was killed, and CMD with it. The lease is not released: it expires."""

    exit_code = 70
    code = "guard"


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, and under which lease.

    Attributes:
        argv: CMD and its arguments.
        wait_s: How long a campaign may take, the connection included; None is for ever.
        is_once: End after the first term, also when it was lost.
        status_file: Where the present deadline is written; None is nowhere.
        is_quiet: Say only what went wrong.
    """

    argv: tuple[str, ...]
    name: str
    identity: str
    duration: Duration = None
    wait_s: float | None = None
    is_once: bool = False
    status_file: Path | None = None
    is_quiet: bool = False


def kill_margin_ms(duration_s: float | None, give_up_s: float) -> float:
    """Return how long before the end of the validity SIGKILL is sent, in milliseconds.

    At most half of what SIGTERM has, so that leases of 100 ms leave time between the two.
    """
    if duration_s is None:
        return 0.0
    return min(max(duration_s * 1000 / KILL_MARGIN_SHARE, KILL_MARGIN_MIN_MS), give_up_s * 1000 / 2)


def check_order(order: Order) -> None:
    """Make sure that everything can work that is known before the election: nobody waits for a lease in vain.

    Raises:
        ConfigError: A setting cannot work; the text names it.
        CommandNotFound: CMD is neither a path nor found in PATH.
        CommandNotExecutable: It is there, but this user may not execute it.
    """
    parse_name(order.name)
    if order.duration is not None:
        parse_duration(order.duration, "--duration")
    if not 0 < len(order.identity) <= IDENTITY_CHARS_MAX:
        raise ConfigError(f"--identity: {order.identity!r} must have 1 to {IDENTITY_CHARS_MAX} characters")
    if order.status_file is not None:
        parent = order.status_file.absolute().parent
        if order.status_file.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(
                f"--status-file {order.status_file}: must be a file in a directory that can be written to"
            )
    name = order.argv[0]
    places = [Path(name)] if "/" in name else [Path(part or ".") / name for part in os.get_exec_path()]
    found = [place for place in places if place.is_file()]
    if not found:
        where = "at this path" if "/" in name else "in PATH"
        raise CommandNotFound(f"{name!r}: there is no such command {where}")
    if not any(os.access(place, os.X_OK) for place in found):
        raise CommandNotExecutable(f"{str(found[0])!r}: this user may not execute it")


def _post_s(lease: Lease) -> float | None:
    """Return after how many seconds to look for a renewal; None when there are none."""
    if lease.duration is None:
        return None
    share = POST_SHARE if lease.remaining() > lease.duration / 2 else POST_SHARE_LATE
    return min(max(lease.duration / share, POST_MIN_S), POST_MAX_S)


class Wrapper:
    """Campaigns, runs CMD, and ends it in time.

    Args:
        connect: Makes a client, not entered yet; called again when no node answered.
        guard: Started for ``order.argv``.
    """

    def __init__(self, connect: Callable[[], Client], guard: GuardLink, order: Order) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._guard = guard
        self._order = order
        self._wake = asyncio.Event()
        self._unreachable: ConnectionFailed | None = None
        self._ended_by = 0
        self._is_running = False
        self._is_late = False
        self._code: int | None = None
        self._errno = 0
        self._group = 0
        self._is_guard_gone = False
        self._deadline_ms = 0.0

    async def run(self) -> int:
        """Campaign and run CMD until it exits by itself.

        Returns: CMD's exit code; 128 + n when signal n ended CMD, or this wrapper while it did not run.

        Raises:
            NotElected: Not elected in time.
            ConnectionFailed: No node could be reached in time.
            LeaseRefused: The lease is not declared, or does not admit this identity.
            LeaseLost: With ``is_once``, the lease was lost, or given away on request, while CMD ran.
            CommandNotFound: CMD cannot be started; so ``CommandNotExecutable``.
        """
        loop = asyncio.get_running_loop()
        for number in FORWARDED:
            # What was ignored when this process began, as by nohup, stays so, for CMD too.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._signalled, number)
        loop.add_reader(self._guard.socket.fileno(), self._heard)
        try:
            return await self._campaigns()
        finally:
            loop.remove_reader(self._guard.socket.fileno())
            # CMD, if it runs still, ends here: before the session does, and with it the lease.
            self._guard.close()
            if self._client is not None:
                await self._client.close()

    async def _campaigns(self) -> int:
        while True:
            lease = await self._elected()
            if lease is None:
                return 128 + self._ended_by
            self._say(f"elected, term {lease.term}")
            lost = await self._under(lease)
            error = await self._release(lease)
            if self._errno:
                raise self._not_started()
            code = self._exit_code()
            if not lost or self._ended_by:
                return code or (error.exit_code if error is not None else 0)
            if self._order.is_once:
                raise LeaseLost(f"{self._order.name}: term {lease.term} is lost: {lost}")
            self._say(f"term {lease.term} is lost: {lost}; CMD has ended with {code}; waiting for another term")
            await asyncio.sleep(LOST_PAUSE_S)

    # --- before CMD ------------------------------------------------------------------------------------------

    async def _elected(self) -> Lease | None:
        """Wait for the lease; None when a signal ended the campaign."""
        task = asyncio.create_task(self._campaign())
        task.add_done_callback(lambda _task: self._wake.set())
        while not task.done() and not self._ended_by and not self._is_guard_gone:
            await self._wake.wait()
            self._wake.clear()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, LeaderLeaseError):
                await task
        if self._is_guard_gone:
            raise GuardGone("the guard process was killed")
        if self._ended_by:
            if not task.cancelled() and task.exception() is None:
                await self._release(task.result())
            return None
        return task.result()

    async def _campaign(self) -> Lease:
        order = self._order
        try:
            async with asyncio.timeout(order.wait_s):
                client = self._client or await self._connected()
                return await client.acquire(order.name, order.identity, duration=order.duration)
        except TimeoutError:
            if self._unreachable is not None:
                raise self._unreachable from None
            raise NotElected(f"{order.name}: not elected within {order.wait_s:g} s") from None

    async def _connected(self) -> Client:
        """Connect, trying on; say once why that does not work yet."""
        while True:
            client = self._connect()
            try:
                self._client = await client.__aenter__()
            except ConnectionFailed as error:
                if self._unreachable is None and self._order.wait_s is None:
                    _complain(f"{error} It is tried again until one does (--wait SECONDS gives up).")
                self._unreachable = error
                await asyncio.sleep(CONNECT_PAUSE_S)
            else:
                self._unreachable = None
                return self._client

    # --- CMD -------------------------------------------------------------------------------------------------

    async def _under(self, lease: Lease) -> str:
        """Run CMD under a lease until it has ended; return why the lease was lost, or nothing."""
        self._code, self._errno, self._group, self._is_late, self._deadline_ms = None, 0, 0, False, 0.0
        lease.on_change = self._wake.set
        self._start(lease)
        is_asked = is_stopped = False
        while self._is_running and not self._is_guard_gone:
            if self._is_late or lease.lost.is_set():
                if not is_stopped:
                    is_stopped = True
                    self._guard.send("stop", boot_ms() + self._grace_ms(lease))
            else:
                self._post(lease)
                if lease.step_down_requested.is_set() and not is_asked:
                    is_asked = True
                    self._guard.send("stop", math.inf)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if is_stopped else _post_s(lease)):
                    await self._wake.wait()
            self._wake.clear()
        lease.on_change = None
        if self._order.status_file is not None:
            self._order.status_file.unlink(missing_ok=True)
        if self._is_guard_gone:
            # The kernel has killed CMD itself; this is for what it started.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if self._group:
                    os.killpg(self._group, signal.SIGKILL)
            raise GuardGone("the guard process was killed, and CMD with it; the lease is not released, it expires")
        if is_stopped or self._is_late:
            return lease.reason or "this process was too late to see a renewal"
        if is_asked:
            return "asked to step down" + (f" in favour of {lease.successor}" if lease.successor else "")
        return ""

    def _start(self, lease: Lease) -> None:
        deadline_ms = self._write_deadline(lease)
        variables = {
            "LEASE_NAME": lease.name,
            "LEASE_TERM": str(lease.term),
            "LEASE_DEADLINE": "never" if lease.duration is None else str(math.floor(deadline_ms)),
        }
        if self._order.status_file is not None:
            variables["LEASE_STATUS_FILE"] = str(self._order.status_file.absolute())
        self._is_running = True
        self._guard.send("start", *self._times(lease, deadline_ms), *(f"{k}={v}" for k, v in variables.items()))

    def _post(self, lease: Lease) -> None:
        """Tell the guard of a renewal."""
        before_ms = self._deadline_ms
        deadline_ms = self._write_deadline(lease)
        if deadline_ms > before_ms:
            self._guard.send("deadline", *self._times(lease, deadline_ms))

    def _write_deadline(self, lease: Lease) -> float:
        """Return until when the lease may be believed, and write it down if that has moved.

        The clock is read before the lease is asked, so the answer is early rather than late.
        """
        deadline_ms = boot_ms() + lease.remaining() * 1000
        if deadline_ms < self._deadline_ms + DEADLINE_STEP_MS or self._deadline_ms == math.inf:
            return self._deadline_ms
        self._deadline_ms = deadline_ms
        if self._order.status_file is not None:
            _write_status(self._order.status_file, lease, deadline_ms)
        return deadline_ms

    def _times(self, lease: Lease, deadline_ms: float) -> tuple[float, float]:
        """Return when the guard sends SIGTERM and SIGKILL by itself, in CLOCK_BOOTTIME milliseconds.

        Its SIGTERM lies half-way between the one that ``lease.lost`` brings and SIGKILL: it sees renewals later.
        """
        margin_ms = kill_margin_ms(lease.duration, lease.give_up)
        return deadline_ms - (lease.give_up * 1000 + margin_ms) / 2, deadline_ms - margin_ms

    def _grace_ms(self, lease: Lease) -> float:
        """Return how long CMD may take after SIGTERM, however the lease was lost; posted deadlines may come first."""
        if lease.duration is None:
            return GONE_GRACE_MS
        return lease.give_up * 1000 - kill_margin_ms(lease.duration, lease.give_up)

    # --- after CMD -------------------------------------------------------------------------------------------

    async def _release(self, lease: Lease) -> LeaderLeaseError | None:
        """Give the lease back; what cannot be given back and does not expire is told, and returned."""
        try:
            await lease.release(lease.successor)
        except LeaderLeaseError as error:
            _complain(
                f"{lease.name}: term {lease.term} was not given back, it is held on by nonce {lease.nonce}: {error}"
            )
            return error
        return None

    def _exit_code(self) -> int:
        code = self._code or 0
        return 128 - code if code < 0 else code

    def _not_started(self) -> LeaderLeaseError:
        text = f"{self._order.argv[0]}: cannot be started: {os.strerror(self._errno)}"
        is_missing = FileNotFoundError is type(OSError(self._errno, ""))
        return CommandNotFound(text) if is_missing else CommandNotExecutable(text)

    # --- what comes in ---------------------------------------------------------------------------------------

    def _signalled(self, number: signal.Signals) -> None:
        if self._is_running:
            self._guard.send("signal", int(number))
        if number is signal.SIGTERM or (number in ENDING and not self._is_running):
            self._ended_by = self._ended_by or int(number)
        self._wake.set()

    def _heard(self) -> None:
        while fields := self._guard.receive():
            match fields:
                case ["started", pid]:
                    self._group = int(pid)
                case ["late"]:
                    self._is_late = True
                case ["failed", errno]:
                    self._errno, self._is_running = int(errno), False
                case ["exited", code]:
                    self._code, self._is_running = int(code), False
        if fields is None:
            self._is_guard_gone = True
            asyncio.get_running_loop().remove_reader(self._guard.socket.fileno())
        self._wake.set()

    def _say(self, text: str) -> None:
        if not self._order.is_quiet:
            _complain(f"{self._order.name}: {text}")


def _write_status(path: Path, lease: Lease, deadline_ms: float) -> None:
    """Replace the status file. One that cannot be written keeps an earlier deadline, which is safe."""
    content: dict[str, Any] = {
        "name": lease.name,
        "term": lease.term,
        "identity": lease.identity,
        "deadline_ms": None if deadline_ms == math.inf else math.floor(deadline_ms),
    }
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(content) + "\n")
        fresh.replace(path)
    except OSError as error:
        _complain(f"--status-file {path}: cannot be written: {error.strerror}")


def _complain(text: str) -> None:
    # Standard error may be closed; that must not end the supervision.
    with contextlib.suppress(OSError, ValueError):
        print(f"leaderlease: {text}", file=sys.stderr, flush=True)
