"""One connection after the other (``client/session.py``): what an earlier one still says is not heard."""

from collections.abc import AsyncIterator

import pytest_asyncio

import leaderlease
from leaderlease.client.clock import system_clock
from leaderlease.client.core import SessionCore
from leaderlease.client.endpoints import parse_endpoints
from leaderlease.client.session import Session, _Link
from leaderlease.wire import session as wire
from support.fakenode import HELLO, FakeQuorum

NAME = "shop/billing"


@pytest_asyncio.fixture
async def quorum() -> AsyncIterator[FakeQuorum]:
    made = FakeQuorum()
    yield made
    await made.close()


async def test_h16_what_an_earlier_connection_says_or_does_is_nothing_to_the_present_one() -> None:
    """R6: its messages name readings of another connection, and its end is not this one's."""
    clock, rho_ppm = system_clock()
    core = SessionCore(rho_ppm=rho_ppm)
    session = Session(parse_endpoints("127.0.0.1:1"), core, clock, lambda event: None)
    earlier, present = _Link(session), _Link(session)
    session._link = present
    core.open(clock())
    session.received(earlier, [HELLO])
    assert not core.is_ready
    session.received(present, [HELLO])
    assert core.is_ready
    session.unlinked(earlier)
    assert core.is_ready
    assert session._link is present
    session.unlinked(present)
    await session.close()


async def test_h25_bytes_that_are_no_frames_end_the_connection(quorum: FakeQuorum) -> None:
    """R9: the client goes on with a new one, on which it asks again for what it holds."""
    node = await quorum.node()
    async with leaderlease.connect([node.endpoint]) as client:
        lease = await client.acquire(NAME, "alice")
        node.connections[0].transport.write(b"these are no frames of ours")
        await quorum.received(wire.AcquireRequest, 2)
        assert lease.remaining() > 0
        assert not lease.lost.is_set()
