"""The keeper of the scheduler, with a real process that listens."""

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from support.e2e_scheduler import Keeper, keep, listens

LISTENER = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("pid", os.getpid(), flush=True)
while True:
    server.accept()[0].close()
"""
DEADLINE_S = 30.0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _until_said(log: Path, times: int) -> list[int]:
    deadline = time.monotonic() + DEADLINE_S
    while len(found := re.findall(r"pid (\d+)", log.read_text() if log.exists() else "")) < times:
        assert time.monotonic() < deadline, f"started {len(found)} times, not {times}"
        time.sleep(0.05)
    return [int(pid) for pid in found]


def test_what_ends_is_started_again_and_ended_at_the_end(tmp_path: Path) -> None:
    """Whoever listened first; what the keeper has started, it ends."""
    port, log = _free_port(), tmp_path / "log"
    keeper = Keeper((sys.executable, "-c", LISTENER, str(port)), port, log)
    try:
        (first,) = _until_said(log, 1)
        os.kill(first, signal.SIGKILL)
        _until_said(log, 2)
        assert listens(port)
    finally:
        keeper.close()
    assert not listens(port)
    assert keeper.starts == 2


def test_nothing_is_kept_where_the_scheduler_is_somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control plane of containers has its own kubelet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert keep("no kubeconfig", tmp_path / "log") is None
