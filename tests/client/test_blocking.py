"""The blocking twin, called from a thread that has no event loop; the fake nodes run in the test's loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

import leaderlease
from leaderlease.client import blocking
from leaderlease.paxos.lease import Holder
from leaderlease.wire import session as wire
from support.fakenode import FakeNode, FakeQuorum

NAME = "shop/billing"
BOB = Holder("bob", "", "b" * 32)


@pytest_asyncio.fixture
async def quorum() -> AsyncIterator[FakeQuorum]:
    made = FakeQuorum()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def node(quorum: FakeQuorum) -> FakeNode:
    return await quorum.node()


async def test_lead_and_release(quorum: FakeQuorum, node: FakeNode) -> None:
    """The same names as the async SDK, as plain context managers."""

    def program() -> None:
        with leaderlease.blocking.connect(node.endpoint) as client:
            with client.lead(NAME, identity="alice", duration="3s") as lease:
                assert (lease.term, lease.name, lease.identity, lease.duration) == (1, NAME, "alice", 3)
                lease.check(need=0.5)
                info = client.get(NAME)
                assert info is not None
                assert info.state == "held"
                assert client.verify(NAME, 1)
            assert lease.remaining() == 0
            assert client.endpoint == node.endpoint

    await asyncio.to_thread(program)
    assert quorum.lease(NAME).holder is None


async def test_denied_and_errors_are_the_same_types(quorum: FakeQuorum, node: FakeNode) -> None:
    """Values and exceptions come through the thread as they are."""
    quorum.take(NAME, BOB)

    def program() -> None:
        with blocking.connect(node.endpoint) as client:
            denied = client.try_acquire(NAME, "alice")
            assert isinstance(denied, leaderlease.Denied)
            with pytest.raises(TimeoutError):
                client.acquire(NAME, "alice", timeout=0.01)
            with pytest.raises(leaderlease.NotHolder):
                client.release(NAME, nonce="c" * 32)
            assert [i.name for i in client.list()] == [NAME]
            assert client.declare(NAME, duration="never") == client.withdraw(NAME) == 1
            assert client.step_down(NAME) == 1
            assert client.revoke(NAME, 1) == 1
            assert client.status().name == "n"
            assert list(client.status_all()) == [node.endpoint]
        with pytest.raises(leaderlease.ConnectionFailed, match="inside its `with`"):
            client.get(NAME)

    await asyncio.to_thread(program)


async def test_loss_is_told_and_raised_when_the_block_ends(quorum: FakeQuorum, node: FakeNode) -> None:
    """The body goes on until it looks; ``on_lost`` is called in a thread of its own."""
    lost = threading.Event()

    def program() -> None:
        with blocking.connect(node.endpoint) as client, client.lead(NAME, "alice", on_lost=lost.set) as lease:
            loop.call_soon_threadsafe(node.push, wire.Lost(NAME, lease.nonce, "another holder has it"))
            assert lease.lost.wait(30)
            assert lost.wait(30)
            assert lease.remaining() == 0

    loop = asyncio.get_running_loop()
    with pytest.raises(leaderlease.LeaseLost, match="another holder has it"):
        await asyncio.to_thread(program)


async def test_watch_is_an_iterator(quorum: FakeQuorum, node: FakeNode) -> None:
    """Each step waits for the next transition; leaving the loop ends the subscription."""
    quorum.take(NAME, BOB)

    def program() -> list[str]:
        with blocking.connect(node.endpoint) as client:
            kinds: list[str] = []
            for transition in (stream := client.watch(NAME)):
                kinds.append(transition.kind)
                if len(kinds) == 2:
                    break
                client.release(NAME, nonce=BOB.nonce)
            stream.close()  # type: ignore[attr-defined]
            return kinds

    assert await asyncio.to_thread(program) == ["state", "released"]
    await quorum.received(wire.UnwatchRequest)


@pytest.mark.parametrize("call", [lambda c: c.acquire(NAME, "alice"), lambda c: c.try_acquire(NAME, "alice")])
async def test_interrupt_takes_back_what_was_asked(
    quorum: FakeQuorum, node: FakeNode, monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], Any]
) -> None:
    """Ctrl-C leaves the call at once, and the candidate leaves the queue."""
    quorum.take(NAME, BOB)
    node.silent.add(wire.AcquireRequest)
    submit = asyncio.run_coroutine_threadsafe

    class Interrupted:
        def __init__(self, future: Any) -> None:
            self.cancel = future.cancel
            asked = submit(quorum.received(wire.AcquireRequest), test_loop)
            asked.result(30)

        def result(self) -> None:
            raise KeyboardInterrupt

    test_loop = asyncio.get_running_loop()

    def program() -> str:
        with blocking.connect(node.endpoint) as client:
            with monkeypatch.context() as patch:
                patch.setattr(asyncio, "run_coroutine_threadsafe", lambda w, loop: Interrupted(submit(w, loop)))
                try:
                    call(client)
                except KeyboardInterrupt:
                    return "interrupted"
            return "went on"

    assert await asyncio.to_thread(program) == "interrupted"
    await quorum.received(wire.CancelRequest)


def test_nobody_answers_and_the_thread_ends() -> None:
    """A client that cannot connect leaves nothing behind."""
    before = threading.active_count()
    with pytest.raises(leaderlease.ConnectionFailed, match="is a node running there"):
        blocking.connect("127.0.0.1:1").__enter__()
    assert threading.active_count() == before
