"""``async with client.lead(...)``, at its edges: a lease that ended before the work began, and one that is left."""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

import leaderlease
from leaderlease.wire import session as wire
from support.fakenode import FakeConnection, FakeQuorum

NAME = "shop/billing"


@pytest_asyncio.fixture
async def quorum() -> AsyncIterator[FakeQuorum]:
    made = FakeQuorum()
    yield made
    await made.close()


@pytest.mark.parametrize(
    "message",
    [
        lambda nonce: wire.Lost(NAME, nonce, "another holder has it"),
        lambda nonce: wire.StepDownAsked(NAME, nonce, "bob"),
    ],
    ids=["lost", "asked to step down"],
)
async def test_no_work_begins_under_a_lease_that_has_ended_already(
    quorum: FakeQuorum, monkeypatch: pytest.MonkeyPatch, message: Callable[[str], object]
) -> None:
    """R6, H23: the end comes in the same breath as the grant: the body must not run, and nothing is held on."""
    grant = FakeConnection.grant

    def grant_and_end(self: FakeConnection, request: wire.AcquireRequest) -> None:
        grant(self, request)
        self.push(message(request.holder.nonce))

    monkeypatch.setattr(FakeConnection, "grant", grant_and_end)
    node = await quorum.node()
    async with leaderlease.connect([node.endpoint]) as client:
        with pytest.raises(leaderlease.LeaseLost, match="before the work began"):
            async with client.lead(NAME, identity="alice", duration="3s"):
                pytest.fail("the work began")


async def test_leaving_the_block_of_a_lease_lets_go_of_it(quorum: FakeQuorum) -> None:
    """H23: its work has ended with the block."""
    node = await quorum.node()
    async with leaderlease.connect([node.endpoint]) as client:
        async with await client.acquire(NAME, "alice") as lease:
            assert quorum.lease(NAME).holder is not None
        assert lease.is_released
        assert quorum.lease(NAME).holder is None
