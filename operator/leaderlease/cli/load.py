"""Load on a quorum, in a process of its own: ``python -m leaderlease.cli.load KIND '{"argument": ...}'``.

It prints lines that begin with a word for the process that steers it, and last of all one line of JSON: the result.
Times are readings of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import leaderlease
from leaderlease.cli import load_raw
from leaderlease.client.lease import Lease
from leaderlease.errors import LeaderLeaseError

PREPARED: Final = 40
"""Leases that are released together, left alone until they are prepared, then acquired one after the other."""
PREPARED_PAUSE_S: Final = 0.08
"""Longer than a node waits before it does phase 1 in advance (25 ms)."""


async def acquire(endpoints: Sequence[str], prefix: str, count: int) -> dict[str, Any]:
    """Acquire and release one lease through the SDK, at once again: every acquire takes both phases."""
    latencies = []
    async with leaderlease.connect(endpoints) as client:
        for i in range(-count // 10, count):
            started = time.perf_counter()
            lease = await client.acquire(f"bench/{prefix}", "bench", duration="60s")
            if i >= 0:
                latencies.append(time.perf_counter() - started)
            await lease.release()
    return load_raw.summary(latencies)


async def prepared(endpoints: Sequence[str], prefix: str, count: int) -> dict[str, Any]:
    """Acquire leases that were released a while ago at this node, so that phase 1 is done."""
    latencies: list[float] = []
    async with leaderlease.connect(endpoints) as client:
        for turn in range(1 + -(-count // PREPARED)):
            leases = []
            for i in range(PREPARED):
                started = time.perf_counter()
                leases.append(await client.acquire(f"bench/{prefix}-{i}", "bench", duration="60s"))
                if turn:
                    latencies.append(time.perf_counter() - started)
            for lease in leases:
                await lease.release()
            await asyncio.sleep(PREPARED_PAUSE_S)
    return load_raw.summary(latencies)


async def handover(endpoints: Sequence[str], prefix: str, count: int) -> dict[str, Any]:
    """Two candidates at two nodes: from the release by one to the start of the other."""
    latencies = []
    rotated = [*endpoints[1:], *endpoints[:1]]
    async with leaderlease.connect(endpoints) as a, leaderlease.connect(rotated) as b:
        clients = itertools.cycle([b, a])
        lease = await a.acquire(f"bench/{prefix}", "bench", duration="3s")
        for client in itertools.islice(clients, count):
            waiting = asyncio.create_task(client.acquire(f"bench/{prefix}", "bench", duration="3s"))
            await asyncio.sleep(0.02)
            started = time.perf_counter()
            _, (lease, granted) = await asyncio.gather(lease.release(), _stamped(waiting))
            latencies.append(granted - started)
        await lease.release()
    return load_raw.summary(latencies)


async def _stamped(task: "asyncio.Task[Lease]") -> tuple[Lease, float]:
    lease = await task
    return lease, time.perf_counter()


async def holder(endpoints: Sequence[str], name: str, duration_ms: int) -> None:
    """Hold one lease until killed, or until standard input ends."""
    async with leaderlease.connect(endpoints) as client:
        lease = await client.acquire(name, "holder", duration=duration_ms / 1000)
        print("ready", flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, ended.set)
        await ended.wait()
        await lease.release()


async def candidates(endpoints: Sequence[str], names: Sequence[str], duration_ms: int) -> dict[str, Any]:
    """Wait for each of these leases; say when each was granted."""
    granted: dict[str, float] = {}

    async def one(client: leaderlease.Client, name: str) -> None:
        lease = await client.acquire(name, "candidate", duration=duration_ms / 1000)
        granted[name] = time.monotonic()
        await lease.release()

    async with leaderlease.connect(endpoints) as client:
        tasks = [asyncio.create_task(one(client, name)) for name in names]
        # A round trip after the requests were sent: then all are queued.
        await client.status()
        print("ready", flush=True)
        await asyncio.gather(*tasks)
    return {"granted": granted}


async def steady(endpoints: Sequence[str], prefix: str, clients: int, held: int) -> dict[str, Any]:
    """Keep clients of every node busy until standard input ends: each holds leases, and acquires and releases another.

    Returns: ``pauses_ms``: by index of the first endpoint, the longest time between two successes of one client;
    ``lost`` leases, ``failed`` acquires, ``cycles``.
    """
    ended = asyncio.Event()
    pauses = dict.fromkeys(range(len(endpoints)), 0.0)
    counts = {"lost": 0, "failed": 0, "cycles": 0}
    reasons: list[str] = []
    have_begun = asyncio.Semaphore(0)

    async def one(number: int) -> None:
        at = number % len(endpoints)
        async with leaderlease.connect([*endpoints[at:], *endpoints[:at]]) as client:
            names = [f"bench/{prefix}-{number}-{j}" for j in range(held)]
            leases = [await client.acquire(name, "bench", duration="3s") for name in names]
            have_begun.release()
            latest = time.perf_counter()
            while not ended.is_set():
                try:
                    lease = await client.acquire(f"bench/{prefix}-{number}", "bench", duration="3s", timeout=5)
                except (LeaderLeaseError, TimeoutError) as error:
                    counts["failed"] += 1
                    reasons.append(str(error))
                    continue
                now = time.perf_counter()
                pauses[at] = max(pauses[at], now - latest)
                latest = now
                counts["cycles"] += 1
                await lease.release()
                await asyncio.sleep(0.002)
            counts["lost"] += sum(lease.lost.is_set() or lease.remaining() <= 0 for lease in leases)
            reasons.extend(lease.reason for lease in leases if lease.lost.is_set())

    tasks = [asyncio.create_task(one(number)) for number in range(clients)]
    for _ in tasks:
        await have_begun.acquire()
    print("ready", flush=True)
    asyncio.get_running_loop().add_reader(0, ended.set)
    await asyncio.gather(*tasks)
    return {**counts, "pauses_ms": {at: 1000 * pause for at, pause in pauses.items()}, "reasons": reasons[:10]}


KINDS: Final[dict[str, Callable[..., Awaitable[dict[str, Any] | None]]]] = {
    "acquire": acquire,
    "prepared": prepared,
    "handover": handover,
    "holder": holder,
    "candidates": candidates,
    "steady": steady,
    "cycles": load_raw.cycles,
    "renewals": load_raw.renewals,
    "hold": load_raw.hold,
}


async def _run(kind: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    return await KINDS[kind](**arguments)


def main() -> None:
    """Run one kind of load and print its result."""
    import uvloop

    kind, arguments = sys.argv[1], json.loads(sys.argv[2])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(_run(kind, arguments))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
