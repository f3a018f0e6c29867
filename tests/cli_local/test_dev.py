"""``leaderlease dev`` as people run it, piped."""

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import leaderlease

Start = Callable[..., Any]
LEASE = "shop/billing"


def _endpoint(port: int, node: int = 0) -> str:
    return f"127.0.0.1:{port + 10 * node}"


def _term(port: int) -> int:
    """Acquire and release the lease once; return the term."""
    with leaderlease.blocking.connect(_endpoint(port)) as client:
        lease = client.acquire(LEASE, "alice", duration="1s", timeout=10)
        lease.release()
        return int(lease.term)


def test_terms_survive_a_restart_with_data(command: Start, tmp_path: Path, first_port: int) -> None:
    """The second quorum on the same directory goes on with the next term, on the same ports without being told."""
    data = str(tmp_path / "kept")
    first = command("dev", "--nodes", "1", "--port", str(first_port), "--data", data)
    first.said("In another terminal")
    assert _term(first_port) == 1
    assert first.end() == 0
    second = command("dev", "--data", data)
    second.said(f"node-0   clients {_endpoint(first_port)}")
    assert _term(first_port) == 2
    assert second.end(signal.SIGINT) == 0
    assert "\x1b" not in second.output
    assert "a quorum of 1 node survives no failure" in second.output
    assert re.search(rf"{LEASE} +acquired +2 +alice", second.output)
    second.leaves_nothing()


def test_killed_node_is_started_again_and_sigterm_leaves_nothing(command: Start, first_port: int) -> None:
    """It says which signal ended the node and that it runs again; then SIGTERM ends all of it."""
    dev = command("dev", "--port", str(first_port))
    dev.said("In another terminal")
    nodes = [pid for pid in dev.processes() if b"node-1" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    os.kill(nodes[0], signal.SIGKILL)
    dev.said("node-1 was ended by SIGKILL")
    dev.said("node-1 was started again")
    with leaderlease.blocking.connect(_endpoint(first_port, 1), wait=10) as client:
        assert client.acquire(LEASE, "alice", timeout=10).term == 1
    assert dev.end() == 0
    dev.leaves_nothing()


def test_killed_dev_leaves_no_node(command: Start, tmp_path: Path, first_port: int) -> None:
    """The kernel ends the nodes when the command is killed."""
    dev = command("dev", "--port", str(first_port), "--data", str(tmp_path / "kept"))
    dev.said("In another terminal")
    dev.end(signal.SIGKILL)
    dev.leaves_nothing()


def test_port_in_use_is_one_sentence(command: Start, first_port: int) -> None:
    """It names the port and the option, and nothing was started."""
    with socket.create_server(("127.0.0.1", first_port + 11)):
        dev = command("dev", "--port", str(first_port))
        assert dev.process.wait(20) == 2
    assert dev.output.count("\n") == 1
    assert f"port {first_port + 11}" in dev.output
    assert "--port" in dev.output
    dev.leaves_nothing()


def test_json_is_one_transition_a_line(command: Start, first_port: int) -> None:
    """Programs get transitions on standard output as JSON; what is for people goes elsewhere."""
    dev = command("dev", "--nodes", "1", "--port", str(first_port), "-o", "json")
    dev.said("In another terminal")
    assert _term(first_port) == 1
    dev.said('"kind":"released"')
    assert dev.end() == 0
    transitions = [json.loads(line) for line in dev.output.splitlines() if line.startswith("{")]
    assert [(one["kind"], one["term"]) for one in transitions] == [("acquired", 1), ("released", 1)]


def test_directory_of_another_size_is_refused(command: Start, tmp_path: Path, first_port: int) -> None:
    """A quorum cannot change its size by being started with another one."""
    data = tmp_path / "kept"
    data.mkdir()
    (data / "cluster").write_text(f"5f0c9a1e-7c49-4f37-9f8b-2f2f2f2f2f2f {first_port}\n")
    dev = command("dev", "--data", str(data), "--nodes", "3")
    assert dev.process.wait(20) == 2
    assert "holds a quorum of 1 nodes, not of 3" in dev.output
