"""A holder's session moves to another node: what that node has told others must not delay the holder."""

import asyncio
from pathlib import Path

import leaderlease
from leaderlease.cli.local import LocalQuorum

LEASE = "shop/billing"


async def test_holder_is_not_delayed_by_a_denial_at_its_new_node(tmp_path: Path) -> None:
    """A candidate was denied at node 1 for the rest of the lease; the holder that moves there keeps its lease."""
    with LocalQuorum(tmp_path) as quorum:
        first, second, third = quorum.endpoints
        async with leaderlease.connect([first, second, third]) as holder, leaderlease.connect([second]) as other:
            lease = await holder.acquire(LEASE, "alice", duration="2s")
            # The candidate in the queue is what the node is busy with when the holder arrives.
            waiting = asyncio.create_task(other.acquire(LEASE, "bob", duration="2s"))
            assert not await other.try_acquire(LEASE, "charlie", duration="2s")
            quorum.kill(quorum.nodes[0])
            async with asyncio.timeout(10):
                while holder.endpoint != second:  # noqa: ASYNC110 (a client sets no event)
                    await asyncio.sleep(0.01)
            # Longer than the lease lasts without a renewal.
            _, pending = await asyncio.wait({asyncio.create_task(lease.lost.wait()), waiting}, timeout=2.5)
            for task in pending:
                task.cancel()
            assert not lease.lost.is_set(), lease.reason
            assert len(pending) == 2
            assert await other.verify(LEASE, lease.term)
