"""Load that costs its generator little: sessions that speak the protocol without the SDK, many in one process.

What a node can do is measured with these, for a client library would be most of the bill on a machine that both
share. What an application sees is measured with the SDK (``load.py``).
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from leaderlease.paxos.lease import Holder
from leaderlease.wire.codec import CLIENT
from leaderlease.wire.session import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    AcquireRequest,
    Denied,
    Done,
    Failed,
    Granted,
    Hello,
    KeepAlive,
    KeptAlive,
    ReleaseRequest,
)

HELD_MS: Final = 60_000
"""Duration of leases that are to be held while something else is measured."""
BATCH: Final = 100
"""Acquires that are under way at once while leases are set up."""


class RawSession(asyncio.Protocol):
    """One connection; ``on_message`` gets whatever the node says after its hello.

    Attributes:
        ready: Ends with the hello of the node.
    """

    def __init__(self) -> None:
        self._decoder = CLIENT.decoder()
        self._out: list[Any] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._request = 0
        self.seq = 0
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.on_message: Callable[[Any], None] = lambda message: None

    @classmethod
    async def connect(cls, endpoint: str) -> "RawSession":
        """Open a session at ``host:port``."""
        host, _, port = endpoint.rpartition(":")
        session = cls()
        await asyncio.get_running_loop().create_connection(lambda: session, host.strip("[]"), int(port))
        session.send(Hello("client", PROTOCOL_MIN, PROTOCOL_MAX, name="bench"))
        await session.ready
        return session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on what came."""
        for message in self._decoder.feed(data):
            if self.ready.done():
                self.on_message(message)
            elif type(message) is Hello:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(ConnectionError(str(message)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever still waits for the hello."""
        self._transport = None
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("the node closed the connection"))

    def send(self, message: Any) -> None:
        """Send at the end of this tick."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(message)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(CLIENT.encode_many(out))

    def acquire(self, name: str, holder: Holder, duration_ms: int, *, is_waiting: bool = False) -> int:
        """Ask for a lease; return the number of the request."""
        self._request += 1
        self.seq += 1
        self.send(AcquireRequest(self._request, self.seq, name, holder, duration_ms, is_waiting))
        return self._request

    def release(self, name: str, holder: Holder) -> int:
        """Let a lease go; return the number of the request."""
        self._request += 1
        self.send(ReleaseRequest(self._request, name, holder.nonce))
        return self._request

    def keep_alive(self) -> None:
        """Renew everything."""
        self.seq += 1
        self.send(KeepAlive(self.seq))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def summary(latencies_s: Sequence[float]) -> dict[str, float]:
    """Return ``p50_ms`` and ``p99_ms`` of some durations in seconds."""
    return {"p50_ms": 1000 * quantile(latencies_s, 0.5), "p99_ms": 1000 * quantile(latencies_s, 0.99)}


def holder_named(name: str) -> Holder:
    """Return a holder with a nonce of its own."""
    return Holder(name, "", secrets.token_hex(16))


async def hold_many(session: RawSession, names: Sequence[str], duration_ms: int = HELD_MS) -> None:
    """Acquire all of these, many at a time.

    Raises:
        ConnectionError: One was refused.
    """
    todo = iter(names)
    left = len(names)
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _next() -> None:
        name = next(todo, None)
        if name is not None:
            session.acquire(name, holder_named("bench"), duration_ms, is_waiting=True)

    def _on_message(message: Any) -> None:
        nonlocal left
        if type(message) is Granted:
            left -= 1
            _next()
            if not left and not done.done():
                done.set_result(None)
        elif type(message) in (Denied, Failed) and not done.done():
            done.set_exception(ConnectionError(str(message)))

    session.on_message = _on_message
    for _ in range(min(BATCH, len(names))):
        _next()
    if names:
        await done


class _Cycler:
    """One client in a closed loop: acquire, release, again."""

    def __init__(self, session: RawSession, name: str, latencies: list[float]) -> None:
        self._session = session
        self._name = name
        self._latencies = latencies
        self._started = 0.0
        self._holder = holder_named("bench")
        self.cycles = 0
        self.failures = 0
        self.is_stopped = False
        session.on_message = self._on_message

    def start(self) -> None:
        """Begin the next cycle."""
        self._started = time.perf_counter()
        self._holder = holder_named("bench")
        self._session.acquire(self._name, self._holder, HELD_MS)

    def _on_message(self, message: Any) -> None:
        if type(message) is Granted:
            self._latencies.append(time.perf_counter() - self._started)
            self._session.release(self._name, self._holder)
        elif type(message) is Done:
            self.cycles += 1
            if not self.is_stopped:
                self.start()
        elif type(message) in (Denied, Failed):
            self.failures += 1
            if not self.is_stopped:
                self.start()


async def cycles(endpoints: Sequence[str], prefix: str, clients: int, seconds: float) -> dict[str, Any]:
    """Acquire and release in closed loops, every client on a connection and a lease of its own.

    Returns: ``per_second`` and all ``cycles``, ``cpu_s`` of this process for them, ``p50_ms`` and ``p99_ms`` of the
    acquires, ``failures``.
    """
    latencies: list[float] = []
    sessions = [await RawSession.connect(endpoints[i % len(endpoints)]) for i in range(clients)]
    cyclers = [_Cycler(session, f"bench/{prefix}-{i}", latencies) for i, session in enumerate(sessions)]
    for cycler in cyclers:
        cycler.start()
    await asyncio.sleep(seconds / 5)
    latencies.clear()
    print("ready", flush=True)
    before, started, cpu_s = sum(cycler.cycles for cycler in cyclers), time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    count = sum(cycler.cycles for cycler in cyclers) - before
    elapsed, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
    print("done", flush=True)
    for cycler in cyclers:
        cycler.is_stopped = True
    await asyncio.sleep(0.1)
    for session in sessions:
        session.close()
    failures = sum(cycler.failures for cycler in cyclers)
    return {
        "per_second": count / elapsed,
        "cycles": count,
        "cpu_s": cpu_s,
        **summary(latencies),
        "failures": failures,
    }


class _Keeper:
    """One session that renews its leases, in a closed loop or at a pace."""

    def __init__(self, session: RawSession, leases: int) -> None:
        self._session = session
        self._leases = leases
        self._sent: dict[int, float] = {}
        self.is_looping = False
        self.renewed = 0
        self.failures = 0
        self.latencies: list[float] = []
        session.on_message = self._on_message

    def send(self, due: float | None = None) -> None:
        """Renew; the latency counts from ``due``, so that a late generator does not flatter the node."""
        self._session.keep_alive()
        self._sent[self._session.seq] = time.perf_counter() if due is None else due

    def _on_message(self, message: Any) -> None:
        if type(message) is KeptAlive:
            self.latencies.append(time.perf_counter() - self._sent.pop(message.seq))
            self.renewed += self._leases - len(message.failed)
            self.failures += len(message.failed)
            if self.is_looping:
                self.send()


async def renewals(
    endpoints: Sequence[str], prefix: str, sessions: int, leases: int, seconds: float, pace: float
) -> dict[str, Any]:
    """Renew the leases of some sessions, ``leases`` each: as soon as the answer is there, then at a pace.

    Args:
        endpoints: Sessions are spread over them.
        prefix: Of the leases' names.
        sessions: How many.
        leases: Of each session.
        seconds: How long, each of the two.
        pace: Leases a second over all sessions, of the second part.

    Returns: ``per_second`` leases and ``renewed`` in all of the first part; ``p50_ms`` and ``p99_ms`` of the
    keepalives of the second; ``failures`` of both.
    """
    raw = [await RawSession.connect(endpoints[i % len(endpoints)]) for i in range(sessions)]
    for i, session in enumerate(raw):
        await hold_many(session, [f"bench/{prefix}-{i}-{j}" for j in range(leases)])
    # What was accepted last must be known everywhere before it can be renewed without a repair.
    await asyncio.sleep(0.5)
    keepers = [_Keeper(session, leases) for session in raw]
    print("ready", flush=True)
    started = time.perf_counter()
    for keeper in keepers:
        keeper.is_looping = True
        keeper.send()
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    renewed = sum(keeper.renewed for keeper in keepers)
    print("done", flush=True)
    for keeper in keepers:
        keeper.is_looping = False
    await asyncio.sleep(0.5)
    for keeper in keepers:
        keeper.latencies.clear()
    started, gap = time.perf_counter(), leases / pace
    for k in range(int(seconds / gap)):
        due = started + k * gap
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        keepers[k % sessions].send(due)
    await asyncio.sleep(0.5)
    for session in raw:
        session.close()
    return {
        "per_second": renewed / elapsed,
        "renewed": renewed,
        **summary([latency for keeper in keepers for latency in keeper.latencies]),
        "failures": sum(keeper.failures for keeper in keepers),
    }


async def hold(endpoints: Sequence[str], prefix: str, sessions: int, leases: int, duration_ms: int) -> None:
    """Hold leases until standard input ends, each session with ``leases`` of them, renewed every third of that."""
    raw = [await RawSession.connect(endpoints[i % len(endpoints)]) for i in range(sessions)]
    for i, session in enumerate(raw):
        await hold_many(session, [f"bench/{prefix}-{i}-{j}" for j in range(leases)], duration_ms)
    print("ready", flush=True)
    period = duration_ms / 3000
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    while not ended.is_set():
        for session in raw:
            session.keep_alive()
            # Spread over the period, as clients that know nothing of each other would be.
            try:
                async with asyncio.timeout(period / sessions):
                    await ended.wait()
                    break
            except TimeoutError:
                continue
    for session in raw:
        session.close()
