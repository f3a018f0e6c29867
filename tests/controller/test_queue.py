"""The queue of keys: each once, never two at a time for the same, failures later."""

import asyncio

from leaderlease.controller.queue import BACKOFF_FIRST_S, BACKOFF_MAX_S, Queue


async def settle() -> None:
    """Let every task run until it waits for something that is not there."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_key_is_handed_out_once() -> None:
    """Ten changes before anybody looks are one look."""
    queue: Queue[str] = Queue()
    looks: list[str] = []

    async def look(key: str) -> float | None:
        looks.append(key)
        return None

    for _ in range(10):
        queue.add("a")
        queue.add("b")
    worker = asyncio.create_task(queue.work(look))
    await settle()
    assert not worker.done()
    worker.cancel()
    assert looks == ["a", "b"]


async def test_change_during_a_look_is_looked_at_again_and_never_at_the_same_time() -> None:
    """With several workers a key stays with one, and nothing is lost."""
    queue: Queue[str] = Queue()
    busy, looks, gate = 0, 0, asyncio.Event()

    async def look(key: str) -> float | None:
        nonlocal busy, looks
        busy, looks = busy + 1, looks + 1
        assert busy == 1
        await gate.wait()
        busy -= 1
        return None

    workers = [asyncio.create_task(queue.work(look)) for _ in range(3)]
    queue.add("a")
    await settle()
    queue.add("a")
    await asyncio.sleep(0)
    gate.set()
    await settle()
    for worker in workers:
        assert not worker.done()
        worker.cancel()
    assert looks == 2


async def test_urgent_key_goes_before_all_that_wait() -> None:
    """Also one that waits already, and one that becomes urgent during its own look; nothing is looked at twice."""
    queue: Queue[str] = Queue()
    looks: list[str] = []
    gate = asyncio.Event()

    async def look(key: str) -> float | None:
        looks.append(key)
        await gate.wait()
        return None

    worker = asyncio.create_task(queue.work(look))
    for key in "abcd":
        queue.add(key)
    await settle()
    assert looks == ["a"]
    queue.add("a", is_urgent=True)
    queue.add("c", is_urgent=True)
    queue.add("e", is_urgent=True)
    queue.add("e")
    gate.set()
    await settle()
    assert not worker.done()
    worker.cancel()
    assert looks == ["a", "a", "c", "e", "b", "d"]


async def test_failure_comes_again_later_and_a_change_cuts_the_pause_short() -> None:
    """Pauses double up to a bound; success ends the row."""
    queue: Queue[str] = Queue()
    pauses = [queue._backoff_s("a") for _ in range(20)]
    assert BACKOFF_FIRST_S / 2 <= pauses[0] <= BACKOFF_FIRST_S
    assert BACKOFF_MAX_S / 2 <= pauses[-1] <= BACKOFF_MAX_S
    looks = 0

    async def look(key: str) -> float | None:
        nonlocal looks
        looks += 1
        return 1000.0 if looks == 1 else None

    worker = asyncio.create_task(queue.work(look))
    queue.add("a")
    await settle()
    assert len(queue) == 1
    queue.add("a")
    await settle()
    assert "a" not in queue._failures
    worker.cancel()
    queue.stop()
