"""A lease is declared anew while candidates wait for it: they wait under the new declaration, or not any more."""

import asyncio
from collections.abc import Iterator

import pytest

import leaderlease
from leaderlease.cli.local import LocalQuorum
from leaderlease.errors import LeaderLeaseError

LEASE = "shop/billing"
WAIT_S = 10.0


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQuorum]:
    """Three nodes that do not declare by themselves."""
    with LocalQuorum(tmp_path_factory.mktemp("quorum"), auto_declare=False) as found:
        yield found


async def waiting(client: leaderlease.Client, name: str) -> None:
    """Wait until the client's node says that this candidate waits."""
    async with asyncio.timeout(WAIT_S):
        while True:
            info = await client.get(LEASE)
            if info is not None and name in info.candidates:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mode": "Paused"}, "is Paused: nobody new is admitted"),
        ({"identities": ["alice"]}, "admits alice, and not bob"),
        (None, "is not declared"),
    ],
)
async def test_candidate_that_is_not_admitted_any_more_waits_no_longer(
    quorum: LocalQuorum, change: dict[str, object] | None, reason: str
) -> None:
    """It is refused at once, and not elected when the holder goes; the holder goes on."""
    async with (
        leaderlease.connect(quorum.endpoints[0]) as first,
        leaderlease.connect(quorum.endpoints[1]) as second,
        leaderlease.connect(quorum.endpoints[2]) as admin,
    ):
        await admin.declare(LEASE, duration="2s")
        lease = await first.acquire(LEASE, "alice")
        bob = asyncio.create_task(second.acquire(LEASE, "bob"))
        await waiting(second, "bob")
        if change is None:
            await admin.withdraw(LEASE)
        else:
            await admin.declare(LEASE, duration="2s", **change)  # type: ignore[arg-type]
        with pytest.raises(LeaderLeaseError, match=reason):
            await asyncio.wait_for(bob, WAIT_S)
        assert await admin.verify(LEASE, lease.term)
        await lease.release()


async def test_candidate_that_waits_is_granted_the_new_duration(quorum: LocalQuorum) -> None:
    """What was declared last counts, not what was declared when it began to wait."""
    async with (
        leaderlease.connect(quorum.endpoints[0]) as first,
        leaderlease.connect(quorum.endpoints[1]) as second,
        leaderlease.connect(quorum.endpoints[2]) as admin,
    ):
        await admin.declare(LEASE, duration="2s")
        lease = await first.acquire(LEASE, "alice")
        bob = asyncio.create_task(second.acquire(LEASE, "bob"))
        await waiting(second, "bob")
        await admin.declare(LEASE, duration="1s")
        await lease.release()
        granted = await asyncio.wait_for(bob, WAIT_S)
        assert granted.duration == 1.0
        await granted.release()
