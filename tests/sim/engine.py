"""Virtual time: one heap of events, one random source, one trace.

Rule 1: everything that happens is an event, and events of one instant run in the order in which they were planned; so
        a seed decides a run, on any machine and under any hash seed.
Rule 2: an event belongs to a process, or to the world. A dead process runs nothing; a stopped one runs everything that
        came meanwhile when it goes on, in order.
Rule 3: a process may be told to die after so many more events of its own: between any two of them.
"""

import hashlib
import random
from collections.abc import Callable
from heapq import heappop as _pop
from heapq import heappush as _push
from typing import Any

Call = Callable[[], None]


class Clock:
    """The three clocks of one machine, in milliseconds; each has a rate of its own.

    Args:
        raw: Rate of CLOCK_MONOTONIC_RAW: true time times this.
        boot: Rate of CLOCK_BOOTTIME, which goes on while the machine is suspended.
        mono: Rate of what the event loop sleeps by, which nothing is decided by.
        since_ms: When the machine was started.
    """

    def __init__(self, raw: float, boot: float, mono: float, since_ms: float) -> None:
        self.rates = (raw, boot, mono)
        self.since_ms = since_ms
        self.suspended_ms = 0.0
        self.suspended_since: float | None = None

    def _awake_ms(self, now: float) -> float:
        if self.suspended_since is None:
            return now - self.since_ms - self.suspended_ms
        return self.suspended_since - self.since_ms - self.suspended_ms

    def raw_ms(self, now: float) -> float:
        """Return CLOCK_MONOTONIC_RAW."""
        return 1_000.0 + self._awake_ms(now) * self.rates[0]

    def boot_ms(self, now: float) -> float:
        """Return CLOCK_BOOTTIME."""
        return 1_000.0 + (now - self.since_ms) * self.rates[1]

    def mono_ms(self, now: float) -> float:
        """Return what timers count by."""
        return 1_000.0 + self._awake_ms(now) * self.rates[2]


class Timer:
    """A planned call; also what production's ``call_later`` returns."""

    __slots__ = ("call", "process")

    def __init__(self, call: Call | None, process: "Process | None") -> None:
        self.call = call
        self.process = process

    def cancel(self) -> None:
        """Forget the call."""
        self.call = None


class Process:
    """One life of a node or of a client."""

    __slots__ = ("_engine", "backlog", "clock", "host", "is_dead", "is_stopped", "left", "name", "on_countdown")

    def __init__(self, engine: "Engine", name: str, host: str, clock: Clock) -> None:
        self._engine = engine
        self.name = name
        self.host = host
        self.clock = clock
        self.is_dead = False
        self.is_stopped = False
        self.backlog: list[Timer] = []
        self.left = 0
        self.on_countdown: Call | None = None

    def stop(self) -> None:
        """Freeze it, as SIGSTOP or a suspended machine does."""
        self.is_stopped = True

    def go_on(self) -> None:
        """Run what has waited, in order."""
        self.is_stopped = False
        backlog, self.backlog = self.backlog, []
        for timer in backlog:
            self._engine.plan(0.0, timer)

    def later(self, delay_ms: float, call: Call) -> Timer:
        """Call after this long on this machine's timer clock."""
        return self._engine.later(delay_ms / self.clock.rates[2] if delay_ms > 0 else 0.0, call, self)

    def soon(self, call: Call) -> None:
        """Call after everything that is planned for now."""
        self._engine.later(0.0, call, self)


class Loop:
    """What ``node/connection.py`` needs of an event loop."""

    def __init__(self, engine: "Engine", process: Process) -> None:
        self._engine = engine
        self._process = process

    def time(self) -> float:
        """Return the timer clock in seconds."""
        return self._process.clock.mono_ms(self._engine.now) / 1000

    def call_soon(self, call: Callable[..., Any], *args: Any) -> None:
        """Call in the next turn."""
        self._process.soon(lambda: call(*args))

    def call_later(self, delay_s: float, call: Callable[..., Any], *args: Any) -> Timer:
        """Call later."""
        return self._process.later(delay_s * 1000, lambda: call(*args))


class Engine:
    """The heap of events.

    Args:
        seed: Decides everything.
        trace: Takes readable lines, or None.
    """

    def __init__(self, seed: str, trace: Callable[[str], None] | None = None) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.trace = trace
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def plan(self, delay_ms: float, timer: Timer) -> None:
        """Put a timer into the heap."""
        self._count += 1
        _push(self._heap, (self.now + delay_ms, self._count, timer))

    def later(self, delay_ms: float, call: Call, process: Process | None = None) -> Timer:
        """Call after ``delay_ms`` of true time."""
        return self.at(self.now + delay_ms, call, process)

    def at(self, at_ms: float, call: Call, process: Process | None = None) -> Timer:
        """Call at this instant. A difference to now is rounded, and may turn round what is planned for one instant."""
        timer = Timer(call, process)
        self._count = count = self._count + 1
        _push(self._heap, (at_ms, count, timer))
        return timer

    def say(self, who: str, text: str) -> None:
        """Note what happened, for the digest and, when it is wanted, for people."""
        self._hash.update(f"{self.now:.6f} {who} {text}\n".encode())
        if self.trace is not None:
            self.trace(f"{self.now:13.3f} {who:5} {text}")

    def note(self, data: bytes) -> None:
        """Take bytes into the digest."""
        self._hash.update(data)

    def digest(self) -> str:
        """Return what names this run up to now: equal for equal runs."""
        return self._hash.hexdigest()

    def run(self, until_ms: float) -> None:
        """Let everything happen up to this instant."""
        heap = self._heap
        while heap and heap[0][0] <= until_ms:
            self.now, _, timer = _pop(heap)
            call, process = timer.call, timer.process
            if call is None:
                continue
            if process is not None:
                if process.is_dead:
                    continue
                if process.is_stopped:
                    process.backlog.append(timer)
                    continue
                if process.on_countdown is not None:
                    process.left -= 1
                    if process.left <= 0:
                        die, process.on_countdown = process.on_countdown, None
                        die()
                        continue
            self.events += 1
            call()
        self.now = max(self.now, until_ms)
