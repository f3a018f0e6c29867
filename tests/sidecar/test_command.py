"""`leaderlease run` against a real quorum, with real children."""

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leaderlease
from leaderlease.cli.local import LocalQuorum
from leaderlease.errors import ConfigError
from leaderlease.sidecar.command import (
    CommandNotExecutable,
    CommandNotFound,
    Order,
    check_order,
    kill_margin_ms,
)

WORKER = Path(__file__).parents[1] / "support" / "working_command.py"
TELLS_SIGNALS = """
import signal, sys
def tell(number, frame):
    print("got", signal.Signals(number).name.removeprefix("SIG"), flush=True)
for number in map(int, sys.argv[1:]):
    signal.signal(number, tell)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(5))
print("ready", flush=True)
while True:
    signal.pause()
"""
SHELL = ("bash", "-c")
"""For scripts with traps. dash loses a signal that comes while it starts a program, which shares its memory then."""
WAIT_S = 20.0
"""Bound of every wait; what is waited for takes much less."""
RSS_MAX_KIB = 32 * 1024
"""The budget of what runs beside the work (architecture)."""


def _until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.005)
    return value


def _boot_ms() -> float:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


def _work(path: Path, term: int | None = None) -> list[tuple[int, float]]:
    """Return the (term, time) lines that workers have completed, of one term or of all."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    work = [(int(a), float(b)) for a, b in (line.split() for line in lines if line.count(" ") == 1)]
    return [line for line in work if term in (None, line[0])]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQuorum]:
    with LocalQuorum(tmp_path_factory.mktemp("quorum")) as made:
        yield made


class Runs:
    """Wrappers of one test; their names, files and ends."""

    def __init__(self, quorum: LocalQuorum, lease: str, directory: Path) -> None:
        self.quorum = quorum
        self.lease = lease
        self.directory = directory
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *command: object, options: tuple[str, ...] = (), **attributes: Any) -> subprocess.Popen[str]:
        """Start a wrapper."""
        process = subprocess.Popen(
            [*(sys.executable, "-m", "leaderlease", "run", "--lease", self.lease), *options, "--", *map(str, command)],
            env={**os.environ, "LEADERLEASE_ENDPOINTS": ",".join(self.quorum.endpoints)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **attributes,
        )
        self.processes.append(process)
        return process

    def worker(self, path: Path, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start a wrapper whose CMD writes down when it works."""
        return self.start(sys.executable, "-S", WORKER, path, *words, options=options)

    def ask(self, work: Callable[[leaderlease.Client], Any]) -> Any:
        """Call the SDK once."""

        async def asked() -> Any:
            async with leaderlease.connect(self.quorum.endpoints) as client:
                return await work(client)

        return asyncio.run(asked())

    def holder(self) -> str:
        """Return who holds the lease of the test; empty when nobody does."""
        info = self.ask(lambda client: client.get(self.lease))
        return info.holder.name if info is not None and info.holder is not None and info.state == "held" else ""

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate(timeout=WAIT_S)


@pytest.fixture
def runs(quorum: LocalQuorum, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runs]:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.removeprefix("test_"))[:60].strip("-").lower()
    made = Runs(quorum, f"test/{name}", tmp_path)
    try:
        yield made
    finally:
        made.close()


def _end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def _line(process: subprocess.Popen[str]) -> str:
    """Return CMD's next line; a wrapper that takes too long is killed, and the text says what it said."""
    assert process.stdout is not None
    timer = threading.Timer(WAIT_S, process.kill)
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    assert line, f"no line; standard error: {process.stderr.read() if process.stderr is not None else ''}"
    return line.rstrip("\n")


def _stop_nodes(quorum: LocalQuorum, number: int) -> None:
    for node in quorum.nodes:
        assert node.process is not None
        node.process.send_signal(number)


@pytest.fixture
def paused(quorum: LocalQuorum) -> Iterator[Callable[[], None]]:
    """A function that pauses every node until the test ends."""
    yield lambda: _stop_nodes(quorum, signal.SIGSTOP)
    _stop_nodes(quorum, signal.SIGCONT)


# --- the plain course ----------------------------------------------------------------------------------------


def test_exit_code_is_that_of_the_command(runs: Runs) -> None:
    """Scripts see what they would see without the wrapper, and the lease is free again."""
    codes = {"exit 0": 0, "exit 7": 7, "kill -9 $$": 137}
    processes = {script: runs.start("sh", "-c", script) for script in codes}
    assert {script: _end(process)[0] for script, process in processes.items()} == codes
    assert runs.holder() == ""


def test_command_knows_its_lease(runs: Runs) -> None:
    """Name, token and deadline are in the environment; standard input and output are those of the wrapper."""
    script = 'read line; echo "$line $LEASE_NAME $LEASE_TERM $LEASE_DEADLINE $1"'
    process = runs.start("sh", "-c", script, "sh", "--once", options=("--duration", "2s"), stdin=subprocess.PIPE)
    before_ms = _boot_ms()
    out, err = process.communicate("hello\n", timeout=WAIT_S)
    word, name, term, deadline, argument = out.split()
    assert (word, name, term, argument) == ("hello", runs.lease, "1", "--once"), err
    assert before_ms < int(deadline) < _boot_ms() + 2000


def test_status_file_follows_the_renewals(runs: Runs) -> None:
    """The file has the present deadline, later with each renewal, and goes when CMD has ended."""
    file = runs.directory / "status.json"
    process = runs.start("sleep", "60", options=("--duration", "400ms", "--status-file", str(file), "--quiet"))
    first = json.loads(_until(file.exists, "a status file") and file.read_text())
    identity = f"{os.uname().nodename}-{process.pid}"
    deadline_ms = first["deadline_ms"]
    assert first == {"name": runs.lease, "term": 1, "identity": identity, "deadline_ms": deadline_ms}
    _until(lambda: json.loads(file.read_text())["deadline_ms"] > deadline_ms + 400, "renewals")
    process.terminate()
    code, _, err = _end(process)
    assert (code, err) == (143, "")
    assert not file.exists()


def test_signals_reach_the_command(runs: Runs) -> None:
    """SIGHUP, SIGUSR1 and the like are CMD's business; none of them ends the wrapper."""
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH]
    # No shell: one that starts a program at this moment may lose the signal, or end with that program.
    process = runs.start(sys.executable, "-c", TELLS_SIGNALS, *(str(int(number)) for number in numbers))
    assert _line(process) == "ready"
    for number in numbers:
        process.send_signal(number)
        assert _line(process) == f"got {number.name.removeprefix('SIG')}"
    process.terminate()
    assert _end(process)[0] == 5


def test_memory_stays_within_its_budget(runs: Runs) -> None:
    """The wrapper runs in every pod."""
    process = runs.start("sh", "-c", "echo ready; sleep 60", options=("--duration", "300ms"))
    _line(process)
    for pid in (process.pid, *_children(process.pid)):
        status = Path(f"/proc/{pid}/status").read_text()
        rss_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert rss_kib < RSS_MAX_KIB


# --- one after the other -------------------------------------------------------------------------------------


def test_next_one_starts_only_after_a_killed_one(runs: Runs) -> None:
    """SIGKILL of the wrapper takes CMD and its daemons with it, before anybody else is elected."""
    path = runs.directory / "work"
    first = runs.worker(path, "ignore-term", "daemon", options=("--duration", "500ms"))
    _until(lambda: _work(path), "work under term 1")
    second = runs.worker(path, options=("--duration", "500ms"))
    _until(lambda: len(_work(path, 1)) > 200, "more work under term 1")
    first.kill()
    _until(lambda: _work(path, 2), "work under term 2")
    second.terminate()
    _end(second)
    assert max(_work(path, 1))[1] < min(_work(path, 2))[1]
    assert {term for term, _ in _work(path)} == {1, 2}


def test_release_comes_after_the_command_has_ended(runs: Runs) -> None:
    """On SIGTERM CMD takes its time, and the next one waits for it, and for what it started."""
    path = runs.directory / "work"
    trap = f"trap '{sys.executable} -S {WORKER} {path} & sleep 0.3; exit 3' TERM"
    first = runs.start(*SHELL, f"{trap}; echo ready; while :; do sleep 0.01; done")
    _line(first)
    second = runs.worker(path)
    first.terminate()
    assert _end(first)[0] == 3
    _until(lambda: _work(path, 2), "work under term 2")
    assert _work(path, 1)[-1][1] < _work(path, 2)[0][1]
    second.terminate()
    _end(second)


def test_leftovers_end_with_the_command(runs: Runs) -> None:
    """What CMD started does not work on without the lease, not even in a session of its own."""
    path = runs.directory / "work"
    script = f"{sys.executable} -S {WORKER} {path} ignore-term daemon & while [ ! -s {path} ]; do sleep 0.01; done"
    assert _end(runs.start("sh", "-c", script))[0] == 0
    assert runs.holder() == ""
    count = len(_work(path))
    time.sleep(0.1)
    assert len(_work(path)) == count


# --- loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pauses", ["nodes", "wrapper", "everything"])
def test_command_is_killed_before_the_lease_ends(runs: Runs, paused: Callable[[], None], pauses: str) -> None:
    """CMD that ignores SIGTERM works until shortly before its deadline, and not longer.

    That holds when no node answers, and also when the wrapper is stopped: the guard needs neither. When everything
    was paused, CMD is killed before it does anything else.
    """
    path, file = runs.directory / "work", runs.directory / "status.json"
    options = ("--duration", "1s", "--once", "--status-file", str(file))
    process = runs.worker(path, "ignore-term", options=options)
    (guard,) = _until(lambda: _children(process.pid), "a guard")
    _until(lambda: _work(path), "work")
    (command,) = _children(guard)
    if pauses == "nodes":
        paused()
    else:
        process.send_signal(signal.SIGSTOP)
    if pauses == "everything":
        os.kill(guard, signal.SIGSTOP)
        os.kill(command, signal.SIGSTOP)
        _until(lambda: _boot_ms() > json.loads(file.read_text())["deadline_ms"], "the end of the lease")
        os.kill(guard, signal.SIGCONT)
    status = file.read_text()

    def _has_ended() -> bool:
        # Renewals that were under way may still come in; the file goes when the wrapper knows of the end.
        nonlocal status
        with contextlib.suppress(FileNotFoundError):
            status = file.read_text()
        return not _is_alive(command)

    _until(_has_ended, "the end of CMD")
    deadline_ms = json.loads(status)["deadline_ms"]
    process.send_signal(signal.SIGCONT)
    code, _, err = _end(process)
    assert deadline_ms - 1000 < _work(path)[-1][1] < deadline_ms
    assert code == 76
    assert "term 1 is lost: " in err


def test_command_gets_sigterm_first(runs: Runs, paused: Callable[[], None]) -> None:
    """There is time to end in an orderly way, and with it another campaign."""
    script = "trap 'echo \"ended $LEASE_TERM\"; exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    process = runs.start(*SHELL, script, options=("--duration", "1s"))
    assert _line(process) == "ready"
    paused()
    assert _line(process) == "ended 1"
    _stop_nodes(runs.quorum, signal.SIGCONT)
    assert _line(process) == "ready"
    process.terminate()
    code, out, err = _end(process)
    assert (code, out) == (9, "ended 2\n")
    assert "CMD has ended with 9; waiting for another term" in err


def test_stopped_wrapper_does_not_keep_sigterm_back(runs: Runs) -> None:
    """The guard sends it by its own clock; what CMD ends with then is a loss, not an exit of its own."""
    script = "trap 'echo ended; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    process = runs.start(*SHELL, script, options=("--duration", "1s", "--once"))
    assert _line(process) == "ready"
    process.send_signal(signal.SIGSTOP)
    assert _line(process) == "ended"
    process.send_signal(signal.SIGCONT)
    assert _end(process)[0] == 76


def test_step_down_hands_over(runs: Runs) -> None:
    """A request to step down ends CMD in an orderly way, and the named candidate is next."""
    script = "echo $LEASE_TERM; sleep 60"
    first = runs.start("sh", "-c", script, options=("--once",))
    _line(first)
    others = {name: runs.start("sh", "-c", script, options=("--identity", name)) for name in ("bob", "charlie")}
    _until(lambda: len(runs.ask(lambda client: client.get(runs.lease)).candidates) == 2, "two candidates")
    runs.ask(lambda client: client.step_down(runs.lease, "charlie"))
    code, _, err = _end(first)
    assert code == 76
    assert "term 1 is lost: asked to step down in favour of charlie" in err
    assert int(_line(others["charlie"])) >= 2
    for process in others.values():
        process.terminate()


def test_never_ends_by_release_or_revoke(runs: Runs) -> None:
    """A lease without end has no deadline; when an operator revokes it, CMD ends all the same."""
    path = runs.directory / "work"
    code, out, _ = _end(runs.start("sh", "-c", "echo $LEASE_DEADLINE", options=("--duration", "never")))
    assert (code, out) == (0, "never\n")
    assert runs.holder() == ""
    process = runs.worker(path, "ignore-term", options=("--duration", "never", "--once"))
    _until(lambda: _work(path, 2), "work under term 2")
    runs.ask(lambda client: client.revoke(runs.lease, 2))
    assert _end(process)[0] == 76


def test_killed_guard_takes_the_command_with_it(runs: Runs) -> None:
    """Nobody could end CMD in time any more, so it ends at once; the lease is left to expire."""
    path = runs.directory / "work"
    process = runs.worker(path, options=("--duration", "1s"))
    _until(lambda: _work(path), "work")
    (guard,) = _children(process.pid)
    (command,) = _children(guard)
    # Stopped, so that it is the kernel that ends CMD.
    process.send_signal(signal.SIGSTOP)
    os.kill(guard, signal.SIGKILL)
    _until(lambda: not _is_alive(command), "the end of CMD")
    process.send_signal(signal.SIGCONT)
    code, _, err = _end(process)
    assert code == 70
    assert "the guard process was killed, and CMD with it" in err


# --- no start ------------------------------------------------------------------------------------------------


def test_command_that_cannot_start(runs: Runs) -> None:
    """Codes are those of shells; what only shows after the election gives the lease back at once."""
    script = runs.directory / "script"
    script.write_text("#!/nowhere/sh\n")
    code, _, err = _end(runs.start(script))
    assert code == 126
    assert f"{str(script)!r}: this user may not execute it" in err
    script.chmod(0o755)
    code, _, err = _end(runs.start(script))
    assert code == 127
    assert f"{script}: cannot be started: No such file or directory" in err
    assert runs.holder() == ""


def test_campaign_ends(runs: Runs) -> None:
    """By time with one code, by a signal with another; CMD never ran."""
    first = runs.start("sh", "-c", "echo ready; sleep 60")
    _line(first)
    code, out, err = _end(runs.start("echo", "ran", options=("--wait", "0.3")))
    assert (code, out) == (75, "")
    assert "not elected within 0.3 s" in err
    waiting = runs.start("echo", "ran", options=("--identity", "bob"))
    # Signals are caught before the first request, so wait for the guard and for its wrapper's session.
    _until(lambda: _children(waiting.pid), "a guard")
    _until(lambda: _sockets(waiting.pid), "a session")
    waiting.terminate()
    assert _end(waiting)[:2] == (143, "")


def _sockets(pid: int) -> bool:
    """Tell whether a process has a TCP connection."""
    own = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    tcp = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(f"socket:[{line.split()[9]}]" in own and line.split()[3] == "01" for line in tcp)


def test_no_node_answers(runs: Runs) -> None:
    """The sentence says who was asked; with --wait it is the end."""
    code, _, err = _end(runs.start("true", options=("--endpoints", "127.0.0.1:1", "--wait", "0.2")))
    assert code == 69
    assert "none of 127.0.0.1:1 answers: connection refused" in err


# --- the terminal --------------------------------------------------------------------------------------------


def test_terminal_belongs_to_the_command(runs: Runs) -> None:
    """CMD may read from the terminal; Ctrl-Z does not suspend it, Ctrl-C ends it, and its code is ours."""
    leader, terminal = os.openpty()
    shell = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    run = [sys.executable, "-m", "leaderlease", "run", "--quiet", "--lease", runs.lease, "--"]
    process = subprocess.Popen(
        [sys.executable, "-c", shell, *run, "sh", "-c", "while read line; do echo got $line; done"],
        env={**os.environ, "LEADERLEASE_ENDPOINTS": ",".join(runs.quorum.endpoints)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        text=True,
    )
    runs.processes.append(process)
    os.close(terminal)
    seen = b""

    def _sees(text: bytes) -> bool:
        nonlocal seen
        if select.select([leader], [], [], 0.01)[0]:
            seen += os.read(leader, 4096)
        return text in seen

    os.write(leader, b"one\n")
    _until(lambda: _sees(b"got one"), "the first line")
    os.write(leader, b"\x1atwo\n")
    _until(lambda: _sees(b"got two"), "a line after Ctrl-Z")
    os.write(leader, b"\x03")
    assert process.wait(WAIT_S) == 130
    os.close(leader)


# --- without processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration_s", "give_up_s", "margin_ms"), [(0.1, 0.02, 10), (0.3, 0.06, 25), (3, 0.6, 150), (None, 0, 0)]
)
def test_margin_of_sigkill(duration_s: float | None, give_up_s: float, margin_ms: float) -> None:
    """One part in 20 of the duration, at least 25 ms, at most half of what SIGTERM has."""
    assert kill_margin_ms(duration_s, give_up_s) == margin_ms


@pytest.mark.parametrize(
    ("attributes", "error", "text"),
    [
        ({"name": "shop"}, ConfigError, "write namespace/name"),
        ({"duration": "1"}, ConfigError, "--duration: '1' is no duration"),
        ({"identity": "x" * 254}, ConfigError, "--identity: "),
        ({"status_file": Path("/nowhere/file")}, ConfigError, "--status-file /nowhere/file: must be a file"),
        ({"argv": ("no-such-command",)}, CommandNotFound, "'no-such-command': there is no such command in PATH"),
        ({"argv": ("./no/such",)}, CommandNotFound, "'./no/such': there is no such command at this path"),
        ({"argv": ("/etc/passwd",)}, CommandNotExecutable, "'/etc/passwd': this user may not execute it"),
    ],
)
def test_what_cannot_work_is_refused_before_the_election(
    attributes: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Nobody waits for a lease in vain."""
    sound: dict[str, Any] = {"argv": ("true",), "name": "shop/billing", "identity": "alice"}
    check_order(Order(**sound))
    with pytest.raises(error, match=text.replace("(", r"\(")):
        check_order(Order(**{**sound, **attributes}))
