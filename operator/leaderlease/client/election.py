"""Callbacks around a lease, for programs that are built that way."""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from leaderlease.client.lease import Lease
from leaderlease.errors import LeaseLost

if TYPE_CHECKING:
    from leaderlease.client.queries import Duration
    from leaderlease.client.sdk import Client

LOST_PAUSE_S: Final = 0.05
"""Pause before the next campaign after a loss, so that others come first."""


async def elect(
    client: "Client",
    name: str,
    identity: str,
    *,
    on_started: Callable[[Lease], Awaitable[None]],
    on_stopped: Callable[[], Awaitable[None] | None] | None = None,
    on_new_leader: Callable[[str, int], Awaitable[None] | None] | None = None,
    duration: "Duration" = None,
) -> None:
    """Take part in the election of a leader until the work is done.

    While elected, ``on_started`` runs; it is cancelled when the lease is lost or given away, and then this candidate
    runs again. When it returns by itself, the lease is released and ``elect`` returns.

    Args:
        client: Connected.
        name: ``namespace/name``.
        identity: This candidate, for people.
        on_started: The work, with its lease.
        on_stopped: Called each time the work has ended, however it did; the lease is still not given to others.
        on_new_leader: Called with identity and term of every leader, this candidate included. A hint.
        duration: As for ``Client.acquire``.

    Raises:
        LeaderLeaseError: The election cannot go on; not for a lost lease. What ``on_started`` raises goes through.
    """
    async with contextlib.AsyncExitStack() as stack:
        if on_new_leader is not None:
            observer = asyncio.create_task(_observe(client, name, on_new_leader))
            stack.push_async_callback(_end, observer)
        while True:
            try:
                async with client.lead(name, identity, duration=duration) as lease:
                    try:
                        await on_started(lease)
                    finally:
                        if on_stopped is not None:
                            await _call(on_stopped())
                return
            except LeaseLost:
                await asyncio.sleep(LOST_PAUSE_S)


async def _observe(client: "Client", name: str, on_new_leader: Callable[[str, int], Awaitable[None] | None]) -> None:
    known = 0
    async for transition in client.watch(name):
        if transition.holder is not None and transition.term > known:
            known = transition.term
            await _call(on_new_leader(transition.holder.name, transition.term))


async def _call(result: Awaitable[None] | None) -> None:
    if inspect.isawaitable(result):
        await result


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
