"""Real nodes and real holders, on loopback or each machine in a network namespace of its own (``support.network``).

Rule 1: no process and no namespace outlives the test, however it ends.
Rule 2: a wait is for a condition, with a bound; the bound only ends a test that has failed already.
"""

import asyncio
import ctypes
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import leaderlease
from leaderlease.node.homes import LEASE
from leaderlease.storage.inspect import inspect
from support.checkers.history import Event, Kind, read_history, show

T = TypeVar("T")
TESTS = Path(__file__).parents[1]
PATIENCE_S = 30.0
"""Bound of a wait; nothing is measured by it."""
POLL_S = 0.01
HTTP_TIMEOUT_S = 1.0
STOP_TIMEOUT_S = 10.0
ALL_PORTS = (7400, 7401, 7402)
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def boot_ms() -> float:
    """Read the clock of all histories."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


def until(condition: Callable[[], T], what: str, timeout_s: float = PATIENCE_S) -> T:
    """Wait until a condition holds, and return what it returned."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(POLL_S)
    return found


@dataclass
class Place:
    """Where processes run: this machine's loopback, or a network namespace.

    Attributes:
        host: Address of the place.
        prefix: What runs a command there.
        enter: Moves the calling thread there, for good.
        thread: One that is there.
        environment: Variables of every process there.
    """

    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    enter: Callable[[], None] = lambda: None
    thread: ThreadPoolExecutor | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function whose sockets are of this place."""
        return function() if self.thread is None else self.thread.submit(function).result()

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a process here that dies with this one; its output is appended to ``log``."""
        parent = os.getpid()

        def before_exec() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        with log.open("ab") as output:
            return subprocess.Popen(
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=TESTS,
                env={**os.environ, **self.environment, **environment},
                start_new_session=True,
                preexec_fn=before_exec,
            )


class Process:
    """A process that can be stopped, continued, ended and killed.

    Attributes:
        popen: The latest life; None before the first.
        log: Where its output goes.
    """

    def __init__(self, place: Place, log: Path) -> None:
        self.place = place
        self.log = log
        self.popen: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Tell whether it lives, also while it is stopped."""
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.popen is not None
        self.popen.send_signal(number)

    def pause(self) -> None:
        """Stop it, and return when it no longer runs."""
        assert self.popen is not None
        self.signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.popen.pid}/task")

        def is_stopped() -> bool:
            assert self.is_running, f"it ended by itself:\n{self.log_tail()}"
            return all(_state(task) in "Tt" for task in tasks.iterdir())

        until(is_stopped, "a stopped process")

    def go_on(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power loss would."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()

    def terminate(self) -> None:
        """Ask it to end, and do not wait."""
        self.signal(signal.SIGTERM)

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        self.terminate()
        return self.exit_code()

    def exit_code(self) -> int:
        """Wait for its end."""
        assert self.popen is not None
        return self.popen.wait(STOP_TIMEOUT_S)

    def starved_ms(self) -> float:
        """Return for how long its main thread had to wait for a processor in this life; 0 where nobody counts."""
        assert self.popen is not None
        try:
            return int(Path(f"/proc/{self.popen.pid}/schedstat").read_text().split()[1]) / 1e6
        except (OSError, IndexError):
            return 0.0

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of its output."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class Node(Process):
    """One member.

    Attributes:
        wrapper: What its command is run by, from the next start on.
        environment: Its own variables, likewise.
    """

    def __init__(self, name: str, data: Path, place: Place, ports: tuple[int, int, int]) -> None:
        super().__init__(place, data.with_suffix(".log"))
        self.name = name
        self.data = data
        self.client_port, self.peer_port, self.http_port = ports
        self.wrapper: tuple[str, ...] = ()
        self.environment: dict[str, str] = {}

    @property
    def endpoint(self) -> str:
        """Where it serves clients."""
        return f"{self.place.host}:{self.client_port}"

    @property
    def peer_address(self) -> str:
        """Where it serves the other members."""
        return f"{self.place.host}:{self.peer_port}"

    def get(self, path: str) -> tuple[int, Any]:
        """Ask its HTTP port, from its own place; (0, None) if nobody answers in time."""

        def ask() -> tuple[int, Any]:
            connection = http.client.HTTPConnection(self.place.host, self.http_port, timeout=HTTP_TIMEOUT_S)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
                return answer.status, json.loads(body) if path.startswith("/v1") and answer.status == 200 else body
            except (OSError, http.client.HTTPException):
                return 0, None
            finally:
                connection.close()

        return self.place.call(ask)

    def is_ready(self) -> bool:
        """Ask ``/readyz``."""
        if not self.is_running:
            raise AssertionError(f"{self.name} ended:\n{self.log_tail()}")
        return self.get("/readyz")[0] == 200

    def knows(self, text: str) -> bool:
        """Tell whether its output has this text."""
        return self.log.exists() and text in self.log.read_text(errors="replace")

    def terms(self) -> dict[str, int]:
        """Return what its disk holds while it is stopped: lease -> term."""
        found = inspect(self.data)
        assert found.problems == ()
        registers = {one.key: one.value for one in found.registers if one.value is not None}
        return {key.removeprefix(LEASE): value.term for key, value in registers.items()}


class Holder(Process):
    """A candidate in a process of its own; see ``support.holder``."""

    def __init__(self, place: Place, folder: Path, number: int) -> None:
        super().__init__(place, folder / f"holder-{number}.log")
        self.events = folder / f"holder-{number}.jsonl"

    def history(self) -> list[Event]:
        """Return what it recorded until now."""
        return read_history([self.events]) if self.events.exists() else []

    def wait(self, kind: Kind, since_ms: float = 0.0, what: str = "") -> Event:
        """Wait for the first event of a kind from ``since_ms`` on."""

        def found() -> Event | None:
            is_running = self.is_running
            first = next((e for e in self.history() if e.kind is kind and e.at_ms >= since_ms), None)
            if first is None and not is_running:
                raise AssertionError("the holder has ended")
            return first

        try:
            event = until(found, what or f"{kind} of {self.events.stem}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{show(self.history())}\n{self.log_tail()}") from None
        assert event is not None
        return event

    def kinds(self, since_ms: float = 0.0) -> set[Kind]:
        """Return what happened from ``since_ms`` on."""
        return {event.kind for event in self.history() if event.at_ms >= since_ms}


@dataclass
class Quorum:
    """Some nodes, their holders, and a place from which the test asks them.

    Attributes:
        places: Of the nodes; one each.
        own: Where the test's own client runs.
        environment: Variables of every process.
        folder: For data and logs.
    """

    folder: Path
    places: Sequence[Place]
    own: Place = field(default_factory=Place)
    nodes: list[Node] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    cluster: str = field(default_factory=lambda: str(uuid.uuid4()))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = _free_ports(3 * len(self.places))
        for i, place in enumerate(self.places):
            ports = ALL_PORTS if place.prefix else (free[3 * i], free[3 * i + 1], free[3 * i + 2])
            self.nodes.append(Node(f"node-{i}", self.folder / f"node-{i}", place, ports))

    def endpoints(self, *first: int) -> str:
        """Return where clients connect; the nodes that are named come first."""
        order = [*first, *(i for i in range(len(self.nodes)) if i not in first)]
        return ",".join(self.nodes[i].endpoint for i in order)

    def command(self, node: Node, *options: str) -> list[str]:
        """Return the command of one node."""
        peers = ",".join(f"{other.name}={other.peer_address}" for other in self.nodes)
        return [
            *node.wrapper,
            *(sys.executable, "-m", "leaderlease", "node", "--name", node.name, "--data", str(node.data)),
            *("--peers", peers, "--cluster", self.cluster, "--bootstrap", "--auto-declare"),
            *("--listen-client", node.endpoint, "--listen-peer", node.peer_address),
            *("--listen-http", f"{node.place.host}:{node.http_port}", *options),
        ]

    def start(self, *nodes: Node) -> None:
        """Start nodes, all unless told, and wait until every running one is ready."""
        for node in nodes or self.nodes:
            self.launch(node)
        self.wait_ready()

    def launch(self, node: Node) -> None:
        """Start one node, and do not wait."""
        node.popen = node.place.start(self.command(node), node.log, {**self.environment, **node.environment})

    def wait_ready(self) -> None:
        """Wait until every running node can be asked."""
        for node in [node for node in self.nodes if node.is_running]:
            until(node.is_ready, f"{node.name} is ready")

    def hold(self, lease: str, *options: str, at: int = 0, others: bool = True) -> Holder:
        """Start a holder at a node's place that connects to it first, to the others only if told."""
        holder = Holder(self.places[at], self.folder, next(self._numbers))
        endpoints = self.endpoints(at) if others else self.nodes[at].endpoint
        command = [
            *(sys.executable, "-m", "support.holder", "--endpoints", endpoints, "--lease", lease),
            *("--log", str(holder.events), "--identity", holder.events.stem, *options),
        ]
        holder.popen = holder.place.start(command, holder.log, self.environment)
        self.holders.append(holder)
        return holder

    def ask(self, question: Callable[[leaderlease.Client], Awaitable[T]], *first: int) -> T:
        """Ask something with a client of its own."""

        async def ask() -> T:
            async with leaderlease.connect(self.endpoints(*first), wait=PATIENCE_S) as client:
                return await question(client)

        return self.own.call(lambda: asyncio.run(ask()))

    def verify(self, lease: str, term: int) -> bool:
        """Ask a majority whether a token is current."""
        return bool(self.ask(lambda client: client.verify(lease, term)))

    def serving(self, holder: Holder) -> Node:
        """Return the node whose session the holder's process has, by its connection."""
        assert holder.popen is not None
        command = [*holder.place.prefix, "ss", "-tnpH", "state", "established"]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            if f"pid={holder.popen.pid}," in line:
                for node in self.nodes:
                    if node.endpoint in line.split()[3]:
                        return node
        raise AssertionError("the holder has no connection")

    def history(self) -> list[Event]:
        """Return what all holders recorded until now, and the resources that they wrote to."""
        files = [holder.events for holder in self.holders if holder.events.exists()]
        return read_history([*files, *self.folder.glob("*.writes.jsonl")])

    def close(self) -> None:
        """End everything."""
        for process in (*self.holders, *self.nodes):
            process.kill()


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def enter_network(namespace: Path) -> None:
    """Move the calling thread to a network namespace, for good."""
    with namespace.open("rb") as file:
        if _libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter network namespace {namespace.name}")
