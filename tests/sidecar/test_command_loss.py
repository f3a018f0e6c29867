"""`leaderlease run` when its lease ends or cannot be kept: CMD ends first, whatever is paused or killed."""

import contextlib
import json
import os
import signal
from collections.abc import Callable

import pytest

from leaderlease.sidecar.command import kill_margin_ms
from support.processes import boot_ms
from support.sidecars import until
from support.wrappers import SHELL, Runs, children, end, is_alive, next_line, signal_nodes, worked


@pytest.mark.parametrize("pauses", ["nodes", "wrapper", "everything"])
def test_command_is_killed_before_the_lease_ends(runs: Runs, paused: Callable[[], None], pauses: str) -> None:
    """CMD that ignores SIGTERM works until shortly before its deadline, and not longer.

    That holds when no node answers, and also when the wrapper is stopped: the guard needs neither. When everything
    was paused, CMD is killed before it does anything else.
    """
    path, file = runs.directory / "work", runs.directory / "status.json"
    options = ("--duration", "1s", "--once", "--status-file", str(file))
    process = runs.worker(path, "ignore-term", options=options)
    (guard,) = until(lambda: children(process.pid), "a guard")
    until(lambda: worked(path), "work")
    (command,) = children(guard)
    if pauses == "nodes":
        paused()
    else:
        process.send_signal(signal.SIGSTOP)
    if pauses == "everything":
        os.kill(guard, signal.SIGSTOP)
        os.kill(command, signal.SIGSTOP)
        until(lambda: boot_ms() > json.loads(file.read_text())["deadline_ms"], "the end of the lease")
        os.kill(guard, signal.SIGCONT)
    status = file.read_text()

    def _has_ended() -> bool:
        # Renewals that were under way may still come in; the file goes when the wrapper knows of the end.
        nonlocal status
        with contextlib.suppress(FileNotFoundError):
            status = file.read_text()
        return not is_alive(command)

    until(_has_ended, "the end of CMD")
    deadline_ms = json.loads(status)["deadline_ms"]
    process.send_signal(signal.SIGCONT)
    code, _, err = end(process)
    assert deadline_ms - 1000 < worked(path)[-1][1] < deadline_ms
    assert code == 76
    assert "term 1 is lost: " in err


def test_command_gets_sigterm_first(runs: Runs, paused: Callable[[], None]) -> None:
    """There is time to end in an orderly way, and with it another campaign."""
    script = "trap 'echo \"ended $LEASE_TERM\"; exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    process = runs.start(*SHELL, script, options=("--duration", "1s"))
    assert next_line(process) == "ready"
    paused()
    assert next_line(process) == "ended 1"
    signal_nodes(runs.quorum, signal.SIGCONT)
    assert next_line(process) == "ready"
    process.terminate()
    code, out, err = end(process)
    assert (code, out) == (9, "ended 2\n")
    assert "CMD has ended with 9; waiting for another term" in err


def test_stopped_wrapper_does_not_keep_sigterm_back(runs: Runs) -> None:
    """The guard sends it by its own clock; what CMD ends with then is a loss, not an exit of its own."""
    script = "trap 'echo ended; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    process = runs.start(*SHELL, script, options=("--duration", "1s", "--once"))
    assert next_line(process) == "ready"
    process.send_signal(signal.SIGSTOP)
    assert next_line(process) == "ended"
    process.send_signal(signal.SIGCONT)
    assert end(process)[0] == 76


def test_step_down_hands_over(runs: Runs) -> None:
    """A request to step down ends CMD in an orderly way, and the named candidate is next."""
    script = "echo $LEASE_TERM; sleep 60"
    first = runs.start("sh", "-c", script, options=("--once",))
    next_line(first)
    others = {name: runs.start("sh", "-c", script, options=("--identity", name)) for name in ("bob", "charlie")}
    until(lambda: len(runs.ask(lambda client: client.get(runs.lease)).candidates) == 2, "two candidates")
    runs.ask(lambda client: client.step_down(runs.lease, "charlie"))
    code, _, err = end(first)
    assert code == 76
    assert "term 1 is lost: asked to step down in favour of charlie" in err
    assert int(next_line(others["charlie"])) >= 2
    for process in others.values():
        process.terminate()


def test_never_ends_by_release_or_revoke(runs: Runs) -> None:
    """A lease without end has no deadline; when an operator revokes it, CMD ends all the same."""
    path = runs.directory / "work"
    code, out, _ = end(runs.start("sh", "-c", "echo $LEASE_DEADLINE", options=("--duration", "never")))
    assert (code, out) == (0, "never\n")
    assert runs.holder() == ""
    process = runs.worker(path, "ignore-term", options=("--duration", "never", "--once"))
    until(lambda: worked(path, 2), "work under term 2")
    runs.ask(lambda client: client.revoke(runs.lease, 2))
    assert end(process)[0] == 76


def test_killed_guard_takes_the_command_with_it(runs: Runs) -> None:
    """Nobody could end CMD in time any more, so it ends at once; the lease is left to expire."""
    path = runs.directory / "work"
    process = runs.worker(path, options=("--duration", "1s"))
    until(lambda: worked(path), "work")
    (guard,) = children(process.pid)
    (command,) = children(guard)
    # Stopped, so that it is the kernel that ends CMD.
    process.send_signal(signal.SIGSTOP)
    os.kill(guard, signal.SIGKILL)
    until(lambda: not is_alive(command), "the end of CMD")
    process.send_signal(signal.SIGCONT)
    code, _, err = end(process)
    assert code == 70
    assert "the guard process was killed, and CMD with it" in err


@pytest.mark.parametrize(
    ("duration_s", "give_up_s", "margin_ms"), [(0.1, 0.02, 10), (0.3, 0.06, 25), (3, 0.6, 150), (None, 0, 0)]
)
def test_margin_of_sigkill(duration_s: float | None, give_up_s: float, margin_ms: float) -> None:
    """One part in 20 of the duration, at least 25 ms, at most half of what SIGTERM has."""
    assert kill_margin_ms(duration_s, give_up_s) == margin_ms
