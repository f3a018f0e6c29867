"""The real ports of a node (``node/world.py``): which clock guards a lease, and that a halt reaches the process."""

import asyncio
import time

from leaderlease.node import world
from leaderlease.node.world import World, raw_ms, raw_us


def test_h31_h32_an_acceptor_waits_by_the_clock_that_nobody_sets_or_slews() -> None:
    """R5, section 4: CLOCK_MONOTONIC_RAW, in whole milliseconds, rounded down; never the wall clock."""
    assert time.CLOCK_MONOTONIC_RAW == world.CLOCK
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    readings = (raw_ms() * 1_000_000, raw_us() * 1_000)
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    assert all(before - 1_000_000 <= reading <= after for reading in readings)


async def test_a_halt_reaches_whoever_stops_the_process_r9() -> None:
    """R9: proof of a bug ends this process, with its reason."""
    reasons: list[str] = []
    World(reasons.append).halt("two values under one ballot")
    assert reasons == ["two values under one ballot"]


async def test_a_timer_waits_its_whole_time() -> None:
    """R1: in milliseconds, and never less: a guard that is looked at too early still stands."""
    loop = asyncio.get_running_loop()
    timer = World(lambda reason: None).call_later(60_000, lambda: None)
    assert isinstance(timer, asyncio.TimerHandle)
    assert timer.when() - loop.time() > 59.0
    timer.cancel()
