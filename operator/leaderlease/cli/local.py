"""A quorum of real node processes on this machine: for ``dev``, ``demo``, ``bench`` and the tests.

Rule 1: a node process never outlives the thread that started it, however that ends: start nodes in the main thread.
Rule 2: the nodes of a new quorum are bootstrapped together; a data directory that holds one already is only started,
        on the ports that it has had from the start: members know each other by them.
Rule 3: what fails leaves nothing running.
"""

import asyncio
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
from typing import Final, Self

from leaderlease.errors import ConfigError, QuorumUnavailable

PORT_FIRST: Final = 7400
PORT_STEP: Final = 10
"""Node i of ``leaderlease dev`` serves clients at 7400 + 10 i, peers one above, HTTP two above."""
READY_TIMEOUT_S: Final = 30.0
READY_POLL_S: Final = 0.02
STOP_TIMEOUT_S: Final = 5.0
FREE_PORT_MIN: Final = 15_000
FREE_PORT_MAX: Final = 32_000
"""Free ports are taken from here: below those that the kernel gives to outgoing connections, which could take the port
of a node between two of its lives."""
_PR_SET_PDEATHSIG: Final = 1
_VARIABLES: Final = "LEADERLEASE_"
_COMPLAINT: Final = "leaderlease: "
_WARNING: Final = "leaderlease: warning:"


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

    @property
    def log(self) -> Path:
        """Where its standard output and standard error go."""
        return self.data.with_suffix(".log")

    def is_ready(self) -> bool:
        """Ask ``/readyz``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=1.0)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def log_tail(self, lines: int = 5) -> str:
        """Return the end of its log, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def complaint(self) -> str:
        """Return the sentence with which its latest life ended; the end of its log when there is none."""
        tail = self.log_tail(20)
        for line in reversed(tail.splitlines()):
            if line.startswith(_COMPLAINT) and not line.startswith(_WARNING):
                return line.removeprefix(_COMPLAINT)
        return "\n".join(tail.splitlines()[-5:])

    def check_started(self) -> None:
        """Make sure that it has not ended.

        Raises:
            QuorumUnavailable: It has; the text says what it said last.
        """
        if not self.is_running:
            raise QuorumUnavailable(f"{self.name} ended at its start: {self.complaint()}")


class LocalQuorum:
    """Some nodes on 127.0.0.1, each with a directory and a log below ``data``; they run inside of a ``with``.

    Args:
        data: Made if it is missing.
        size: How many nodes.
        first_port: Of node 0's clients; 0 takes those that the directory had, else free ones.
        auto_declare: Leases that nobody declared may be acquired.
        environment: Variables on top of this process's, of which no ``LEADERLEASE_*`` reaches the nodes.
        options: Further arguments of every node.

    Raises:
        ConfigError: The directory holds a quorum of another size or on other ports, or there are no such ports.
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
        ports = _choose_ports(data, size, first_port)
        self.nodes = [LocalNode(f"node-{i}", data / f"node-{i}", (p, p + 1, p + 2)) for i, p in enumerate(ports)]
        self._auto_declare = auto_declare
        self._environment = dict(environment or {})
        self._options = options
        self._cluster = ""

    @property
    def endpoints(self) -> list[str]:
        """Where clients connect."""
        return [node.endpoint for node in self.nodes]

    def __enter__(self) -> Self:
        """As :meth:`start`."""
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        """As :meth:`stop`."""
        self.stop()

    def start(self) -> None:
        """Start every node and wait until all serve.

        Raises:
            QuorumUnavailable: One ended, or they were not ready in time; the text says why. Nothing is left running.
            ConfigError: The directory cannot be used, or a port is in use.
        """
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def launch(self) -> None:
        """Start every node; they serve some time later. Raises ConfigError as :meth:`start`."""
        self.check_ports()
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            self._cluster = self._cluster_uuid()
            for node in self.nodes:
                self.start_node(node)
        except OSError as error:
            self.stop()
            raise ConfigError(f"{self.data}: cannot be used as the data directory: {error.strerror}") from error

    def check_ports(self) -> None:
        """Make sure that nobody listens where the nodes are to listen.

        Raises:
            ConfigError: Somebody does; the text names the port.
        """
        for node in self.nodes:
            for port, use in ((node.client_port, "clients"), (node.peer_port, "peers"), (node.http_port, "HTTP")):
                if not _is_free(port):
                    raise ConfigError(
                        f"port {port} of 127.0.0.1 ({use} of {node.name}) is in use: "
                        "end what listens there, or take other ports (leaderlease dev --port N)"
                    )

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
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_VARIABLES)}
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited, **self._environment},
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every node that was started is ready.

        Raises:
            QuorumUnavailable: One ended, or it took longer.
        """
        deadline = time.monotonic() + timeout_s
        for node in [node for node in self.nodes if node.process is not None]:
            while not node.is_ready():
                node.check_started()
                if time.monotonic() > deadline:
                    raise QuorumUnavailable(f"{node.name} is not ready after {timeout_s:g} s:\n{node.log_tail()}")
                time.sleep(READY_POLL_S)

    async def until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """As :meth:`wait_ready`, for programs with an event loop: can be cancelled at any time."""
        for node in self.nodes:
            try:
                async with asyncio.timeout(timeout_s):
                    while not node.is_ready():
                        node.check_started()
                        await asyncio.sleep(READY_POLL_S)
            except TimeoutError:
                text = f"{node.name} is not ready after {timeout_s:g} s:\n{node.log_tail()}"
                raise QuorumUnavailable(text) from None

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
        remembered = remembered_quorum(self.data)
        if remembered is not None:
            return remembered[0]
        cluster = str(uuid.uuid4())
        ports = " ".join(str(node.client_port) for node in self.nodes)
        (self.data / "cluster").write_text(f"{cluster} {ports}\n")
        return cluster


def remembered_quorum(data: Path) -> tuple[str, list[int]] | None:
    """Return the cluster's uuid and its nodes' client ports; None when the directory holds no quorum.

    Raises:
        ConfigError: The file that says it cannot be read.
    """
    path = data / "cluster"
    try:
        if not path.exists():
            return None
        cluster, *ports = path.read_text().split()
        return str(uuid.UUID(cluster)), [int(port) for port in ports]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: does not say which quorum is here ({error})") from error


def die_with_parent() -> Callable[[], None]:
    """Return what a child has to do before its ``exec`` so that the kernel kills it when the calling thread ends."""
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


def _choose_ports(data: Path, size: int, first_port: int) -> list[int]:
    wanted = [first_port + PORT_STEP * i for i in range(size)] if first_port else []
    if wanted and wanted[-1] + 2 > 65_535:
        raise ConfigError(f"port {first_port}: {size} nodes need ports up to {wanted[-1] + 2}, the last one is 65535")
    remembered = remembered_quorum(data)
    if remembered is None:
        return wanted or [_free_ports() for _ in range(size)]
    ports = remembered[1]
    if len(ports) != size:
        raise ConfigError(f"{data}: holds a quorum of {len(ports)} nodes, not of {size}")
    if wanted and wanted != ports:
        raise ConfigError(f"{data}: holds a quorum whose first port is {ports[0]}, not {first_port}; it cannot move")
    return ports


_next_port = FREE_PORT_MIN + 32 * os.getpid() % (FREE_PORT_MAX - FREE_PORT_MIN)
"""Each process begins elsewhere and goes round, so that two that start at the same time do not pick the same ports."""


def _free_ports() -> int:
    """Return the first of three free ports in a row."""
    global _next_port
    for _ in range((FREE_PORT_MAX - FREE_PORT_MIN) // 3):
        first, _next_port = _next_port, _next_port + 3
        if _next_port > FREE_PORT_MAX:
            _next_port = FREE_PORT_MIN
        if all(_is_free(port) for port in range(first, first + 3)):
            return first
    raise ConfigError(f"no three ports in a row are free between {FREE_PORT_MIN} and {FREE_PORT_MAX} of 127.0.0.1")


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
