"""What ``leaderlease bench`` measures: each scenario runs load in processes of its own and returns numbers.

Rule 1: load never shares a process with what it measures; CPU and memory of nodes are what the kernel says of them.
Rule 2: a scenario says what failed instead of leaving it out: a number without its failures is no number.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from leaderlease.cli.load_raw import quantile
from leaderlease.cli.local import LocalNode, LocalQuorum
from leaderlease.errors import QuorumUnavailable

LOAD_TIMEOUT_S: Final = 120.0
"""One load process, from start to result."""
FSYNC_WRITES: Final = 400

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
CLIENT: Final = """
import asyncio, sys, leaderlease
async def main():
    async with leaderlease.connect(sys.argv[1].split(",")) as client:
        lease = await client.acquire(sys.argv[2], "bench", duration="3s")
        await asyncio.sleep(2)
        print(open("/proc/self/statm").read().split()[1], lease.term, flush=True)
        await lease.release()
asyncio.run(main())
"""
"""A program that does nothing but hold a lease: its memory is what the SDK costs an application."""


class Sizes(msgspec.Struct, frozen=True):
    """How much each scenario does; ``QUICK`` only shows that everything works."""

    acquires: int = 1500
    handovers: int = 100
    cycle_clients: int = 100
    cycle_s: float = 5.0
    renew_sessions: int = 30
    renew_leases: int = 400
    renew_s: float = 5.0
    renew_pace: float = 30_000
    crash_trials: int = 100
    crash_at_once: int = 10
    crash_ms: int = 1000
    node_kill_clients: int = 6
    node_kill_held: int = 10
    node_kill_s: float = 2.0
    leases: int = 10_000
    idle_leases: int = 100
    idle_s: float = 15.0


QUICK: Final = Sizes(
    acquires=40,
    handovers=5,
    cycle_clients=6,
    cycle_s=0.3,
    renew_sessions=3,
    renew_leases=50,
    renew_s=0.3,
    renew_pace=1_000,
    crash_trials=2,
    crash_at_once=2,
    crash_ms=500,
    node_kill_clients=3,
    node_kill_held=2,
    node_kill_s=0.5,
    leases=200,
    idle_leases=6,
    idle_s=0.5,
)


class Load:
    """One load process.

    Args:
        kind: See ``load.KINDS``.
        arguments: Of that function.
    """

    def __init__(self, kind: str, **arguments: Any) -> None:
        self._kind = kind
        # A file and no pipe: it is only read at the end, and must never fill up.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leaderlease.cli.load", kind, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def wait_for(self, word: str) -> None:
        """Wait until it prints this line.

        Raises:
            QuorumUnavailable: It ended instead.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise self._failure()

    def result(self) -> Any:
        """End its standard input, wait for it, and return what it measured.

        Raises:
            QuorumUnavailable: It failed.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        watchdog = threading.Timer(LOAD_TIMEOUT_S, self.process.kill)
        watchdog.start()
        try:
            output = self.process.stdout.read()
            code = self.process.wait()
        finally:
            watchdog.cancel()
        if code:
            raise self._failure()
        self._close()
        return json.loads(output.strip().splitlines()[-1])

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _failure(self) -> QuorumUnavailable:
        code = self.process.wait()
        self._errors.seek(0)
        why = (self._errors.read().strip().splitlines() or [f"it ended with code {code}"])[-1]
        self._close()
        return QuorumUnavailable(f"bench: the load {self._kind!r} failed: {why}")

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()


class Bench:
    """Something to measure.

    Args:
        endpoints: Where clients connect.
        quorum: The local one behind them; None if it runs elsewhere, and then what needs its processes is left out.
        sizes: How much to do.
    """

    def __init__(self, endpoints: Sequence[str], quorum: LocalQuorum | None, sizes: Sizes) -> None:
        self.endpoints = list(endpoints)
        self.quorum = quorum
        self.sizes = sizes

    @property
    def nodes(self) -> list[LocalNode]:
        """The local nodes that run."""
        return [node for node in self.quorum.nodes if node.is_running] if self.quorum is not None else []

    def run(self, kind: str, **arguments: Any) -> Any:
        """Run one load process against the endpoints and return its result."""
        return Load(kind, endpoints=self.endpoints, **arguments).result()


def acquire(bench: Bench) -> dict[str, float]:
    """One client that acquires and releases a lease, both phases each time."""
    result = bench.run("acquire", prefix=fresh("acquire"), count=bench.sizes.acquires)
    return {"p50": result["p50_ms"], "p99": result["p99_ms"]}


def prepared(bench: Bench) -> dict[str, float]:
    """One client that acquires leases whose vacancy its node has prepared."""
    result = bench.run("prepared", prefix=fresh("prepared"), count=bench.sizes.acquires)
    return {"p50": result["p50_ms"], "p99": result["p99_ms"]}


def _finished(bench: Bench, load: Load) -> tuple[dict[str, Any], float]:
    """Let a load run from its "ready" to its "done"; return its result, and the CPU seconds of all nodes meanwhile."""
    load.wait_for("ready")
    before = cpu_seconds(bench.nodes)
    load.wait_for("done")
    spent = cpu_seconds(bench.nodes) - before
    return load.result(), spent


def cycles(bench: Bench) -> dict[str, float]:
    """Many clients in closed loops, each on a lease of its own."""
    sizes = bench.sizes
    load = Load("cycles", endpoints=bench.endpoints, prefix=fresh("cycle"), clients=sizes.cycle_clients,
                seconds=sizes.cycle_s)  # fmt: skip
    result, spent = _finished(bench, load)
    measured = {
        "per_second": result["per_second"],
        "p50": result["p50_ms"],
        "p99": result["p99_ms"],
        "failures": result["failures"],
        "load_cpu_s_per_1000": 1000 * result["cpu_s"] / max(1, result["cycles"]),
    }
    if bench.nodes:
        measured["cpu_s_per_1000"] = 1000 * spent / max(1, result["cycles"])
    return measured


def renewals(bench: Bench) -> dict[str, float]:
    """Sessions with many leases: as fast as it goes, then paced at half of the aim."""
    sizes = bench.sizes
    load = Load("renewals", endpoints=bench.endpoints, prefix=fresh("renew"), sessions=sizes.renew_sessions,
                leases=sizes.renew_leases, seconds=sizes.renew_s, pace=sizes.renew_pace)  # fmt: skip
    result, spent = _finished(bench, load)
    measured = {
        "per_second": result["per_second"],
        "half_p99": result["p99_ms"],
        "failures": result["failures"],
    }
    if bench.nodes:
        measured["cpu_s_per_1000"] = 1000 * spent / max(1, result["renewed"])
    return measured


def crash(bench: Bench) -> dict[str, float]:
    """SIGKILL of a process that holds a lease, until a waiting candidate has it; on top of the duration."""
    sizes = bench.sizes
    delays: list[float] = []
    for start in range(0, sizes.crash_trials, sizes.crash_at_once):
        count = min(sizes.crash_at_once, sizes.crash_trials - start)
        delays += _crash_wave(bench, fresh("crash"), count)
    extra = [delay - sizes.crash_ms for delay in delays]
    return {"p50": quantile(extra, 0.5), "p99": quantile(extra, 0.99), "trials": len(extra)}


def _crash_wave(bench: Bench, prefix: str, count: int) -> list[float]:
    endpoints, duration_ms = bench.endpoints, bench.sizes.crash_ms
    names = [f"bench/{prefix}-{i}" for i in range(count)]
    holders = [Load("holder", endpoints=endpoints, name=name, duration_ms=duration_ms) for name in names]
    killed: dict[str, float] = {}
    try:
        for one in holders:
            one.wait_for("ready")
        rotated = [*endpoints[1:], *endpoints[:1]]
        waiting = Load("candidates", endpoints=rotated, names=names, duration_ms=duration_ms)
        waiting.wait_for("ready")
        for name, one in zip(names, holders, strict=True):
            # At any moment between two keepalives, which come every third of the duration.
            time.sleep(random.uniform(0, duration_ms / 3000))
            killed[name] = time.monotonic()
            one.kill()
    finally:
        for one in holders:
            one.kill()
    granted = waiting.result()["granted"]
    return [1000 * (granted[name] - killed[name]) for name in names]


def release(bench: Bench) -> dict[str, float]:
    """From one holder's release to the start of a candidate that waits at another node."""
    result = bench.run("handover", prefix=fresh("release"), count=bench.sizes.handovers)
    return {"p50": result["p50_ms"], "p99": result["p99_ms"]}


def node_kill(bench: Bench) -> dict[str, float]:
    """SIGKILL of one of the nodes while clients of all of them acquire, release and hold."""
    sizes, quorum = bench.sizes, bench.quorum
    assert quorum is not None
    load = Load("steady", endpoints=bench.endpoints, prefix=fresh("steady"), clients=sizes.node_kill_clients,
                held=sizes.node_kill_held)  # fmt: skip
    load.wait_for("ready")
    time.sleep(sizes.node_kill_s / 2)
    quorum.kill(quorum.nodes[0])
    time.sleep(sizes.node_kill_s)
    # Longer than the leases, so that one that nobody renews is missed.
    time.sleep(3.5)
    result = load.result()
    quorum.start_node(quorum.nodes[0])
    quorum.wait_ready()
    pauses = {int(at): pause for at, pause in result["pauses_ms"].items()}
    return {
        "lost": result["lost"],
        "failed": result["failed"],
        "pause_others": max(pause for at, pause in pauses.items() if at),
        "pause_own": pauses[0],
    }


def capacity(bench: Bench) -> dict[str, float]:
    """Memory of a node and the time of a scrape while many leases are held; memory of a client with one."""
    sizes = bench.sizes
    sessions = len(bench.endpoints)
    load = Load("hold", endpoints=bench.endpoints, prefix=fresh("hold"), sessions=sessions,
                leases=sizes.leases // sessions, duration_ms=60_000)  # fmt: skip
    load.wait_for("ready")
    node_mib = max(rss_mib(node) for node in bench.nodes)
    scrapes = [_scrape_ms(node) for node in bench.nodes for _ in range(3)]
    load.result()
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, ",".join(bench.endpoints), f"bench/{fresh('client')}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=LOAD_TIMEOUT_S,
    )
    client_mib = int(client.stdout.split()[0]) * _PAGE / 2**20
    return {"node_mib": node_mib, "client_mib": client_mib, "scrape_ms": max(scrapes)}


def idle(bench: Bench) -> dict[str, float]:
    """CPU of each node while leases of 3 s are held: by one session at each node, and by a session for each lease."""
    sizes = bench.sizes
    nodes = len(bench.endpoints)
    return {
        "node_percent": _idle_percent(bench, nodes, sizes.idle_leases // nodes),
        "many_percent": _idle_percent(bench, sizes.idle_leases, 1),
    }


def _idle_percent(bench: Bench, sessions: int, leases: int) -> float:
    sizes = bench.sizes
    load = Load("hold", endpoints=bench.endpoints, prefix=fresh("idle"), sessions=sessions,
                leases=leases, duration_ms=3000)  # fmt: skip
    load.wait_for("ready")
    time.sleep(min(2.0, sizes.idle_s))
    before, started = [cpu_seconds([node]) for node in bench.nodes], time.monotonic()
    time.sleep(sizes.idle_s)
    elapsed = time.monotonic() - started
    shares = [cpu_seconds([node]) - b for node, b in zip(bench.nodes, before, strict=True)]
    load.result()
    return 100 * max(shares) / elapsed


SCENARIOS: Final[Mapping[str, Callable[[Bench], dict[str, float]]]] = {
    "acquire": acquire,
    "prepared": prepared,
    "cycles": cycles,
    "renewals": renewals,
    "release": release,
    "crash": crash,
    "capacity": capacity,
    "idle": idle,
    "node-kill": node_kill,
}
LOCAL_ONLY: Final = frozenset({"capacity", "idle", "node-kill"})
"""Scenarios that need the processes of the nodes."""


def fresh(kind: str) -> str:
    """Return a prefix of lease names that nobody has used."""
    return f"{kind}-{uuid.uuid4().hex[:8]}"


def cpu_seconds(nodes: Sequence[LocalNode]) -> float:
    """Return user and system time of these processes so far."""
    total = 0
    for node in nodes:
        assert node.process is not None
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def rss_mib(node: LocalNode) -> float:
    """Return the resident memory of a node."""
    assert node.process is not None
    return int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[1]) * _PAGE / 2**20


def _scrape_ms(node: LocalNode) -> float:
    started = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=10) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - started)


def fsync_ms(directory: Path) -> dict[str, float]:
    """Measure appends of 4 KiB with fdatasync in this directory."""
    path = directory / f"fsync-{uuid.uuid4().hex}"
    took = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for _ in range(FSYNC_WRITES):
            started = time.perf_counter()
            os.write(descriptor, b"\0" * 4096)
            os.fdatasync(descriptor)
            took.append(1000 * (time.perf_counter() - started))
    finally:
        os.close(descriptor)
        path.unlink()
    return {"p50": quantile(took, 0.5), "p99": quantile(took, 0.99), "mean": statistics.mean(took)}
