"""`leaderlease run` against a real quorum, with real children."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from leaderlease.errors import ConfigError
from leaderlease.sidecar.command import CommandNotExecutable, CommandNotFound, Order, check_order
from support.processes import boot_ms
from support.sidecars import PATIENCE_S, until
from support.wrappers import SHELL, WORKER, Runs, children, end, next_line, worked

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
RSS_MAX_KIB = 32 * 1024
"""The budget of what runs beside the work (architecture)."""


# --- the plain course ----------------------------------------------------------------------------------------


def test_exit_code_is_that_of_the_command(runs: Runs) -> None:
    """Scripts see what they would see without the wrapper, and the lease is free again."""
    codes = {"exit 0": 0, "exit 7": 7, "kill -9 $$": 137}
    processes = {script: runs.start("sh", "-c", script) for script in codes}
    assert {script: end(process)[0] for script, process in processes.items()} == codes
    assert runs.holder() == ""


def test_command_knows_its_lease(runs: Runs) -> None:
    """Name, token and deadline are in the environment; standard input and output are those of the wrapper."""
    script = 'read line; echo "$line $LEASE_NAME $LEASE_TERM $LEASE_DEADLINE $1"'
    process = runs.start("sh", "-c", script, "sh", "--once", options=("--duration", "2s"), stdin=subprocess.PIPE)
    before_ms = boot_ms()
    out, err = process.communicate("hello\n", timeout=PATIENCE_S)
    word, name, term, deadline, argument = out.split()
    assert (word, name, term, argument) == ("hello", runs.lease, "1", "--once"), err
    assert before_ms < int(deadline) < boot_ms() + 2000


def test_status_file_follows_the_renewals(runs: Runs) -> None:
    """The file has the present deadline, later with each renewal, and goes when CMD has ended."""
    file = runs.directory / "status.json"
    process = runs.start("sleep", "60", options=("--duration", "400ms", "--status-file", str(file), "--quiet"))
    first = json.loads(until(file.exists, "a status file") and file.read_text())
    identity = f"{os.uname().nodename}-{process.pid}"
    deadline_ms = first["deadline_ms"]
    assert first == {"name": runs.lease, "term": 1, "identity": identity, "deadline_ms": deadline_ms}
    until(lambda: json.loads(file.read_text())["deadline_ms"] > deadline_ms + 400, "renewals")
    process.terminate()
    code, _, err = end(process)
    assert (code, err) == (143, "")
    assert not file.exists()


def test_signals_reach_the_command(runs: Runs) -> None:
    """SIGHUP, SIGUSR1 and the like are CMD's business; none of them ends the wrapper."""
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH]
    # No shell: one that starts a program at this moment may lose the signal, or end with that program.
    process = runs.start(sys.executable, "-c", TELLS_SIGNALS, *(str(int(number)) for number in numbers))
    assert next_line(process) == "ready"
    for number in numbers:
        process.send_signal(number)
        assert next_line(process) == f"got {number.name.removeprefix('SIG')}"
    process.terminate()
    assert end(process)[0] == 5


def test_memory_stays_within_its_budget(runs: Runs) -> None:
    """The wrapper runs in every pod."""
    process = runs.start("sh", "-c", "echo ready; sleep 60", options=("--duration", "300ms"))
    next_line(process)
    for pid in (process.pid, *children(process.pid)):
        status = Path(f"/proc/{pid}/status").read_text()
        rss_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert rss_kib < RSS_MAX_KIB


# --- one after the other -------------------------------------------------------------------------------------


def test_next_one_starts_only_after_a_killed_one(runs: Runs) -> None:
    """SIGKILL of the wrapper takes CMD and its daemons with it, before anybody else is elected."""
    path = runs.directory / "work"
    first = runs.worker(path, "ignore-term", "daemon", options=("--duration", "500ms"))
    until(lambda: worked(path), "work under term 1")
    second = runs.worker(path, options=("--duration", "500ms"))
    until(lambda: len(worked(path, 1)) > 200, "more work under term 1")
    first.kill()
    until(lambda: worked(path, 2), "work under term 2")
    second.terminate()
    end(second)
    assert max(worked(path, 1))[1] < min(worked(path, 2))[1]
    assert {term for term, _ in worked(path)} == {1, 2}


def test_release_comes_after_the_command_has_ended(runs: Runs) -> None:
    """On SIGTERM CMD takes its time, and the next one waits for it, and for what it started."""
    path = runs.directory / "work"
    trap = f"trap '{sys.executable} -S {WORKER} {path} & sleep 0.3; exit 3' TERM"
    first = runs.start(*SHELL, f"{trap}; echo ready; while :; do sleep 0.01; done")
    next_line(first)
    second = runs.worker(path)
    first.terminate()
    assert end(first)[0] == 3
    until(lambda: worked(path, 2), "work under term 2")
    assert worked(path, 1)[-1][1] < worked(path, 2)[0][1]
    second.terminate()
    end(second)


def test_leftovers_end_with_the_command(runs: Runs) -> None:
    """What CMD started does not work on without the lease, not even in a session of its own."""
    path = runs.directory / "work"
    script = f"{sys.executable} -S {WORKER} {path} ignore-term daemon & while [ ! -s {path} ]; do sleep 0.01; done"
    assert end(runs.start("sh", "-c", script))[0] == 0
    assert runs.holder() == ""
    count = len(worked(path))
    time.sleep(0.1)
    assert len(worked(path)) == count


# --- no start ------------------------------------------------------------------------------------------------


def test_command_that_cannot_start(runs: Runs) -> None:
    """Codes are those of shells; what only shows after the election gives the lease back at once."""
    script = runs.directory / "script"
    script.write_text("#!/nowhere/sh\n")
    code, _, err = end(runs.start(script))
    assert code == 126
    assert f"{str(script)!r}: this user may not execute it" in err
    script.chmod(0o755)
    code, _, err = end(runs.start(script))
    assert code == 127
    assert f"{script}: cannot be started: No such file or directory" in err
    assert runs.holder() == ""


def test_campaign_ends(runs: Runs) -> None:
    """By time with one code, by a signal with another; CMD never ran."""
    first = runs.start("sh", "-c", "echo ready; sleep 60")
    next_line(first)
    code, out, err = end(runs.start("echo", "ran", options=("--wait", "0.3")))
    assert (code, out) == (75, "")
    assert "not elected within 0.3 s" in err
    waiting = runs.start("echo", "ran", options=("--identity", "bob"))
    # Signals are caught before the first request, so wait for the guard and for its wrapper's session.
    until(lambda: children(waiting.pid), "a guard")
    until(lambda: sockets(waiting.pid), "a session")
    waiting.terminate()
    assert end(waiting)[:2] == (143, "")


def sockets(pid: int) -> bool:
    """Tell whether a process has a TCP connection."""
    own = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    tcp = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(f"socket:[{line.split()[9]}]" in own and line.split()[3] == "01" for line in tcp)


def test_no_node_answers(runs: Runs) -> None:
    """The sentence says who was asked; with --wait it is the end."""
    code, _, err = end(runs.start("true", options=("--endpoints", "127.0.0.1:1", "--wait", "0.2")))
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
    until(lambda: _sees(b"got one"), "the first line")
    os.write(leader, b"\x1atwo\n")
    until(lambda: _sees(b"got two"), "a line after Ctrl-Z")
    os.write(leader, b"\x03")
    assert process.wait(PATIENCE_S) == 130
    os.close(leader)


# --- without processes ---------------------------------------------------------------------------------------


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
