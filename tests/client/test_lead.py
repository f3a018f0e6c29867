"""``async with client.lead(...)``, at its edges: a lease that ended before the work began, and one that is left."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

import leaderlease
import leaderlease.errors
from leaderlease.client.events import Event, Won
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


async def test_h35_a_lease_that_is_granted_while_its_caller_leaves_is_let_go(quorum: FakeQuorum) -> None:
    """H23: nobody works under it: the cancellation and the grant came in one turn of the loop."""
    node = await quorum.node()
    async with leaderlease.connect([node.endpoint]) as client:
        asking: asyncio.Task[leaderlease.Lease]
        on_event = client._session._on_event

        def leave_when_won(event: Event) -> None:
            on_event(event)
            if isinstance(event, Won):
                asking.cancel()

        client._session._on_event = leave_when_won
        asking = asyncio.create_task(client.acquire(NAME, "alice"))
        with pytest.raises(asyncio.CancelledError):
            await asking
        await quorum.received(wire.ReleaseRequest)
        assert client._leases == {}
        assert quorum.lease(NAME).holder is None


async def test_an_answer_of_another_kind_is_an_error_of_the_node(quorum: FakeQuorum) -> None:
    """R9: a caller never gets something else than what it asked for, and nothing is kept for a question that ended."""
    node = await quorum.node()
    node.answers[wire.VerifyRequest] = lambda connection, message: connection.push(wire.Done(message.request, 1))
    node.silent.add(wire.StatusRequest)
    async with leaderlease.connect([node.endpoint], timeout=0.2) as client:
        with pytest.raises(leaderlease.errors.RemoteProtocolError):
            await client.verify(NAME, 1)
        with pytest.raises(leaderlease.OutcomeUnknown):
            await client.status()
        assert client._core._requests == {}
