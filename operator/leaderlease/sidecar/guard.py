"""The guard of ``leaderlease run``: a small process between the wrapper and CMD that ends CMD in time.

Rule 1: deadlines stand until they are replaced. To kill in time the guard needs nothing from the wrapper: not its
        event loop, not its being alive, not its being awake.
Rule 2: nothing that CMD started goes on when CMD has ended, when the lease may end, or when the wrapper is gone.
Rule 3: the end of CMD is reported only when nothing that it started is left, so a release always comes later.

All times are CLOCK_BOOTTIME milliseconds: every process of the machine can compare them, and they go on in a suspend.
"""

import contextlib
import ctypes
import gc
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from leaderlease.errors import ConfigError

MESSAGE_BYTES_MAX: Final = 65_536
"""Bound of one message between wrapper and guard; its longest part are the variables of CMD."""
REAP_POLL_S: Final = 0.002
"""Pause between two looks for processes that SIGKILL has not ended yet."""
IGNORED: Final = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE),
)
"""What the terminal or a supervisor may send to everybody: the guard ends with the wrapper, and in no other way."""
CHANGED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores them; CMD gets them back as they usually are."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_TFD_TIMER_ABSTIME: Final = 1
_TFD_CLOEXEC: Final = os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else 0


def boot_ms() -> float:
    """Read CLOCK_BOOTTIME, in milliseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class GuardLink:
    """The wrapper's end: messages of text fields, both ways.

    To the guard: ``start soft hard K=V...``, ``deadline soft hard``, ``stop hard``, ``signal n``.
    From the guard: ``started pid``, ``failed errno``, ``late`` (by its own clock CMD must end now), ``exited code``;
    a code is negative after a signal.
    """

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.socket = sock
        self.pid = pid

    def send(self, *fields: object) -> None:
        """Tell the guard something. A guard that takes no more keeps the deadlines that it has (rule 1)."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self.socket.send("\0".join(map(str, fields)).encode(errors="surrogateescape"))

    def receive(self) -> list[str] | None:
        """Return the fields of the next message, an empty list when there is none yet, None when the guard is gone."""
        try:
            data = self.socket.recv(MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            return None
        return data.decode(errors="surrogateescape").split("\0") if data else None

    def close(self) -> None:
        """Let the guard go, and wait until it and everything below it has ended. May be called again."""
        self.socket.close()
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0


def fork_guard(argv: Sequence[str]) -> GuardLink:
    """Start the guard; to be called early, while this process is small and has no other thread.

    Args:
        argv: CMD and its arguments.

    Raises:
        ConfigError: This platform is not Linux.
    """
    if sys.platform != "linux":
        raise ConfigError("run: needs Linux, whose kernel ends CMD when this process is killed")
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    # Pages that neither side writes to stay shared: a collection would touch every object.
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            gc.disable()
            mine.close()
            _Guard(theirs, argv).serve()
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    mine.setblocking(False)
    return GuardLink(mine, pid)


class _Guard:
    def __init__(self, link: socket.socket, argv: Sequence[str]) -> None:
        self._link = link
        self._argv = list(argv)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._pid = os.getpid()
        self._child = 0
        self._report = -1
        self._pending: list[int] = []
        self._soft_ms = self._hard_ms = math.inf
        self._is_stopping = False
        self._wrapper_group = os.getpgrp()
        self._terminal = self._foreground_terminal()
        # A group of its own: what is sent to the wrapper's group must not end the one that cleans up.
        os.setpgid(0, 0)
        self._libc.prctl(_PR_SET_NAME, b"ll-guard", 0, 0, 0)
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._kept = [sig for sig in IGNORED if signal.getsignal(sig) is signal.SIG_IGN and sig != signal.SIGPIPE]
        for sig in IGNORED:
            signal.signal(sig, signal.SIG_IGN)
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._timer = self._libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_CLOEXEC)
        self._poll = select.poll()
        for fd in (self._link.fileno(), self._woken, self._timer):
            self._poll.register(fd, select.POLLIN)

    def serve(self) -> None:
        """Do what the wrapper says and what the clock says, until the wrapper is gone."""
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        try:
            while self._turn({fd for fd, _ in self._poll.poll()}):
                pass
        finally:
            self._end_all()

    def _turn(self, ready: set[int]) -> bool:
        # The clock first: after a pause of this process every deadline that has passed is acted upon at once.
        self._check_time()
        if self._report in ready:
            self._executed()
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        if self._child:
            self._look_after_child()
        if self._link.fileno() in ready:
            message = self._receive()
            if not message:
                return False
            self._obey(message)
        self._check_time()
        return True

    def _receive(self) -> list[str]:
        try:
            data = self._link.recv(MESSAGE_BYTES_MAX)
        except ConnectionResetError:
            return []
        return data.decode(errors="surrogateescape").split("\0") if data else []

    def _tell(self, *fields: object) -> None:
        # A wrapper that has just gone is noticed at the next receive.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._link.send("\0".join(map(str, fields)).encode())

    def _obey(self, message: list[str]) -> None:
        match message:
            case ["start", soft, hard, *variables]:
                self._soft_ms, self._hard_ms = float(soft), float(hard)
                if boot_ms() >= self._soft_ms:
                    self._tell("late")
                    self._tell("exited", -signal.SIGTERM)
                    return
                self._spawn(dict(variable.split("=", 1) for variable in variables))
            case _ if not self._child:
                # It crossed the report of the end.
                return
            case ["deadline", soft, hard]:
                self._soft_ms, self._hard_ms = float(soft), float(hard)
            case ["stop", hard]:
                self._hard_ms = min(self._hard_ms, float(hard))
                self._terminate()
            case ["signal", number]:
                self._pass_on(int(number))

    # --- time ------------------------------------------------------------------------------------------------

    def _check_time(self) -> None:
        if not self._child:
            self._arm(math.inf)
            return
        now_ms = boot_ms()
        is_late = now_ms >= min(self._soft_ms, self._hard_ms) and not self._is_stopping
        if is_late:
            self._tell("late")
        if now_ms >= self._hard_ms:
            # No SIGTERM and SIGCONT before it: a CMD that is stopped must not run again.
            self._end_all()
            self._arm(math.inf)
            return
        if is_late:
            self._terminate()
        self._arm(self._hard_ms if self._is_stopping else min(self._soft_ms, self._hard_ms))

    def _arm(self, due_ms: float) -> None:
        """Set the timer to an absolute time: it also fires after a suspend in which that passed."""
        due_ns = 0 if due_ms == math.inf else max(1, math.floor(due_ms * 1e6))
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(*divmod(due_ns, 1_000_000_000)))
        self._libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None)

    # --- CMD -------------------------------------------------------------------------------------------------

    def _spawn(self, variables: dict[str, str]) -> None:
        self._is_stopping = False
        self._pending.clear()
        self._report, report = os.pipe2(os.O_CLOEXEC)
        self._poll.register(self._report, select.POLLIN)
        try:
            self._child = os.fork()
        except OSError as error:
            os.close(report)
            self._close_report()
            self._tell("failed", error.errno)
            return
        if self._child == 0:
            self._become(report, {**os.environ, **variables})
        os.close(report)
        with contextlib.suppress(OSError):
            # The child does it, too; whoever comes first. It fails once CMD runs.
            os.setpgid(self._child, self._child)

    def _become(self, report: int, environment: dict[str, str]) -> NoReturn:
        """Turn the forked child into CMD."""
        try:
            signal.set_wakeup_fd(-1)
            os.setpgid(0, 0)
            if self._terminal >= 0:
                os.tcsetpgrp(self._terminal, os.getpid())
            for sig in (*IGNORED, *CHANGED_BY_PYTHON, signal.SIGCHLD):
                if sig not in self._kept:
                    signal.signal(sig, signal.SIG_DFL)
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == self._pid:
                os.execvpe(self._argv[0], self._argv, environment)
        except OSError as error:
            os.write(report, str(error.errno).encode())
        finally:
            os._exit(127)

    def _executed(self) -> None:
        """Take what the child wrote before it became CMD: nothing, or why it could not."""
        failed = os.read(self._report, 16)
        self._close_report()
        if failed:
            os.waitpid(self._child, 0)
            self._child = 0
            self._take_terminal()
            self._tell("failed", failed.decode())
        else:
            self._tell("started", self._child)
            for number in self._pending:
                self._signal(number)

    def _close_report(self) -> None:
        self._poll.unregister(self._report)
        os.close(self._report)
        self._report = -1

    def _look_after_child(self) -> None:
        """Take note of a child that stopped or ended, and reap the orphans that CMD left to us."""
        if self._report >= 0:
            return
        # WNOWAIT: while its leader is not reaped, the number of CMD's group cannot become another's.
        what = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if os.waitid(os.P_PID, self._child, what) is not None:
            self._end_all()
            return
        if self._terminal >= 0:
            stopped = os.waitid(os.P_PID, self._child, os.WSTOPPED | os.WNOHANG)
            if stopped is not None and stopped.si_status == signal.SIGTSTP:
                # Ctrl-Z: nobody could bring it back, and a stopped holder is of no use.
                self._signal(signal.SIGCONT)
        for pid in _children(self._pid):
            if pid != self._child:
                os.waitpid(pid, os.WNOHANG)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, number)

    def _pass_on(self, number: int) -> None:
        """Signal CMD; a child that is not CMD yet would ignore it."""
        if self._report >= 0:
            self._pending.append(number)
        else:
            self._signal(number)

    def _terminate(self) -> None:
        self._is_stopping = True
        self._pass_on(signal.SIGTERM)
        self._pass_on(signal.SIGCONT)

    def _end_all(self) -> None:
        """SIGKILL CMD and all that it started, daemons too; report when nothing of it is left (rules 2 and 3)."""
        if not self._child:
            return
        code = None
        self._signal(signal.SIGKILL)
        while True:
            killable = [pid for pid in _descendants(self._pid) if _kill(pid)]
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == self._child:
                code = os.waitstatus_to_exitcode(status)
            if code is not None and not killable:
                # What is left runs as somebody else, and this process may not end it.
                break
            if pid == 0:
                time.sleep(REAP_POLL_S)
        self._child = 0
        if self._report >= 0:
            self._close_report()
        self._take_terminal()
        self._tell("exited", -signal.SIGKILL if code is None else code)

    # --- the terminal ----------------------------------------------------------------------------------------

    def _foreground_terminal(self) -> int:
        """Return the terminal that CMD may have; -1 if it is not ours alone (a pipeline, a job in the background)."""
        try:
            is_ours = os.isatty(0) and os.isatty(1) and os.tcgetpgrp(0) == self._wrapper_group
        except OSError:
            return -1
        return 0 if is_ours else -1

    def _take_terminal(self) -> None:
        if self._terminal >= 0:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._terminal, self._wrapper_group)


def _kill(pid: int) -> bool:
    """Send SIGKILL; tell whether that was allowed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)
