"""A quorum of real node processes on this machine: for ``dev``, ``demo``, ``bench`` and the tests.

Rule 1: a node process never outlives this one, however this one ends.
Rule 2: the nodes of a new quorum are bootstrapped together; a data directory that holds one already is only started.
"""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from leaderlease.errors import ConfigError, QuorumUnavailable

PORT_FIRST: Final = 7400
PORT_STEP: Final = 10
"""Node i of ``leaderlease dev`` serves clients at 7400 + 10 i, peers one above, HTTP two above."""
READY_TIMEOUT_S: Final = 30.0
READY_POLL_S: Final = 0.02
STOP_TIMEOUT_S: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1


class LocalNode:
    """One node process.

    Attributes:
        process: The latest life; None before the first.
    """

    def __init__(self, name: str, data: Path, ports: tuple[int, int, int]) -> None:
        self.name = name
        self.data = data
        self.client_port, self.peer_port, self.http_port = ports
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it serves clients."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def is_running(self) -> bool:
        """Tell whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def is_ready(self) -> bool:
        """Ask ``/readyz``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=1.0)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def log_tail(self, lines: int = 5) -> str:
        """Return the end of its log, for an error message."""
        path = self.data.with_suffix(".log")
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


class LocalQuorum:
    """Some nodes on 127.0.0.1, each with a directory and a log below ``data``.

    Args:
        data: Made if it is missing.
        size: How many nodes.
        first_port: Of node 0's clients; 0 takes free ports.
        auto_declare: Leases that nobody declared may be acquired.
        environment: Variables on top of this process's.
        options: Further arguments of every node.
    """

    def __init__(
        self,
        data: Path,
        size: int = 3,
        *,
        first_port: int = 0,
        auto_declare: bool = True,
        environment: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.data = data
        self.nodes = [
            LocalNode(f"node-{i}", data / f"node-{i}", ports) for i, ports in enumerate(_ports(size, first_port))
        ]
        self._auto_declare = auto_declare
        self._environment = dict(environment or {})
        self._options = options
        self._cluster = ""

    @property
    def endpoints(self) -> list[str]:
        """Where clients connect."""
        return [node.endpoint for node in self.nodes]

    def start(self) -> None:
        """Start every node and wait until all serve.

        Raises:
            QuorumUnavailable: One ended, or they were not ready in time; the text has the end of its log.
            ConfigError: The directory holds a quorum of another size.
        """
        self.data.mkdir(parents=True, exist_ok=True)
        self._cluster = self._cluster_uuid()
        for node in self.nodes:
            self.start_node(node)
        self.wait_ready()

    def start_node(self, node: LocalNode) -> None:
        """Start one node; its log goes on where an earlier life of it ended."""
        peers = ",".join(f"{other.name}=127.0.0.1:{other.peer_port}" for other in self.nodes)
        command = [
            *(sys.executable, "-m", "leaderlease", "node"),
            *("--name", node.name, "--data", str(node.data), "--peers", peers),
            *("--cluster", self._cluster, "--bootstrap"),
            *("--listen-client", node.endpoint),
            *("--listen-peer", f"127.0.0.1:{node.peer_port}"),
            *("--listen-http", f"127.0.0.1:{node.http_port}"),
            *(["--auto-declare"] if self._auto_declare else []),
            *self._options,
        ]
        with node.data.with_suffix(".log").open("ab") as log:
            node.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every running node is ready.

        Raises:
            QuorumUnavailable: One ended, or it took longer.
        """
        deadline = time.monotonic() + timeout_s
        for node in [node for node in self.nodes if node.process is not None]:
            while not node.is_ready():
                if not node.is_running:
                    raise QuorumUnavailable(f"{node.name} ended at its start:\n{node.log_tail()}")
                if time.monotonic() > deadline:
                    raise QuorumUnavailable(f"{node.name} is not ready after {timeout_s:g} s:\n{node.log_tail()}")
                time.sleep(READY_POLL_S)

    def kill(self, node: LocalNode) -> None:
        """End a node as a power loss would."""
        if node.process is not None:
            node.process.kill()
            node.process.wait()

    def stop(self) -> None:
        """End all nodes in an orderly way; those that do not leave in time are killed."""
        running = [node for node in self.nodes if node.is_running]
        for node in running:
            assert node.process is not None
            node.process.send_signal(signal.SIGCONT)
            node.process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for node in running:
            assert node.process is not None
            try:
                node.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(node)

    def _cluster_uuid(self) -> str:
        path = self.data / "cluster"
        if not path.exists():
            path.write_text(f"{uuid.uuid4()} {len(self.nodes)}\n")
        cluster, size = path.read_text().split()
        if int(size) != len(self.nodes):
            raise ConfigError(f"{self.data}: holds a quorum of {size} nodes, not of {len(self.nodes)}")
        return cluster


def _ports(size: int, first_port: int) -> list[tuple[int, int, int]]:
    if first_port:
        return [(first_port + PORT_STEP * i, first_port + PORT_STEP * i + 1, first_port + PORT_STEP * i + 2)
                for i in range(size)]  # fmt: skip
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3 * size)]
    free = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return [(free[3 * i], free[3 * i + 1], free[3 * i + 2]) for i in range(size)]


def _die_with_parent(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec
