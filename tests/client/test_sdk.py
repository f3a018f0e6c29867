"""The async SDK over real sockets: elections, losses, fail-over, questions; see ``support.fakenode``."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import leaderlease
from leaderlease.client.endpoints import parse_endpoints
from leaderlease.paxos.lease import Holder
from leaderlease.wire import session as wire
from support.fakenode import FakeQuorum, versions

NAME = "shop/billing"
BOB = Holder("bob", "", "b" * 32)


@pytest_asyncio.fixture
async def quorum() -> AsyncIterator[FakeQuorum]:
    made = FakeQuorum()
    yield made
    await made.close()


async def test_lead_grants_checks_and_releases(quorum: FakeQuorum) -> None:
    """The body runs under a term, and leaving it lets go."""
    node = await quorum.node()
    async with leaderlease.connect([node.endpoint]) as client:
        async with client.lead(NAME, identity="alice", duration="3s") as lease:
            assert lease.term == 1
            assert 2 < lease.remaining() < 3
            lease.check(need=0.5)
            with pytest.raises(leaderlease.LeaseLost, match=r"100\.000 s are needed"):
                lease.check(need=100)
            assert quorum.lease(NAME).holder is not None
        assert quorum.lease(NAME).holder is None
        assert lease.remaining() == 0
        with pytest.raises(leaderlease.LeaseLost, match="released"):
            lease.check()


async def test_lead_waits_until_elected(quorum: FakeQuorum) -> None:
    """A candidate is in the queue until the holder lets go."""
    node = await quorum.node()
    async with leaderlease.connect(node.endpoint) as alice, leaderlease.connect(node.endpoint) as bob:
        held = await alice.acquire(NAME, "alice")

        async def lead() -> int:
            async with bob.lead(NAME, "bob") as lease:
                return lease.term

        task = asyncio.create_task(lead())
        await quorum.received(wire.AcquireRequest, 2)
        await held.release()
        assert await task == 2


async def test_lost_lease_cancels_the_body(quorum: FakeQuorum) -> None:
    """When the quorum says that the lease is gone, the body is cancelled and the block raises LeaseLost."""
    node = await quorum.node()
    async with leaderlease.connect(node.endpoint) as client:
        was_cancelled = False
        leases = []

        async def work() -> None:
            nonlocal was_cancelled
            async with client.lead(NAME, "alice") as lease:
                leases.append(lease)
                node.push(wire.Lost(NAME, lease.nonce, "another holder has it"))
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    was_cancelled = True
                    raise

        with pytest.raises(leaderlease.LeaseLost, match="another holder has it"):
            await work()
        assert was_cancelled
        assert leases[0].lost.is_set()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_silent_nodes_cost_the_lease_before_it_expires(quorum: FakeQuorum) -> None:
    """Without acknowledged renewals the lease is given up while some validity remains; belief ends at once."""
    node = await quorum.node()
    node.silent.add(wire.KeepAlive)
    async with leaderlease.connect(node.endpoint) as client:
        leases = []

        async def work() -> None:
            async with client.lead(NAME, "alice", duration="200ms") as lease:
                leases.append(lease)
                node.silent.add(wire.AcquireRequest)
                await asyncio.Event().wait()

        with pytest.raises(leaderlease.LeaseLost, match="acknowledged"):
            await work()
        assert leases[0].remaining() == 0


async def test_cancellation_from_outside_stays_a_cancellation(quorum: FakeQuorum) -> None:
    """Only the block's own cancellation becomes LeaseLost; the lease is released either way."""
    node = await quorum.node()
    async with leaderlease.connect(node.endpoint) as client:
        started = asyncio.Event()

        async def work() -> None:
            async with client.lead(NAME, "alice"):
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert quorum.lease(NAME).holder is None


async def test_other_exceptions_of_the_body_go_through(quorum: FakeQuorum) -> None:
    """What the body raises is what the block raises, after the release."""
    node = await quorum.node()
    async with leaderlease.connect(node.endpoint) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.lead(NAME, "alice"):
                raise ZeroDivisionError
        assert quorum.lease(NAME).holder is None


async def test_step_down_cancels_the_body_and_names_the_successor(quorum: FakeQuorum) -> None:
    """A holder that is asked to let go does, and passes on who should be next."""
    node = await quorum.node()
    async with leaderlease.connect(node.endpoint) as client, leaderlease.connect(node.endpoint) as other:

        async def work() -> None:
            async with client.lead(NAME, "alice"):
                assert await other.step_down(NAME, "bob") == 1
                await asyncio.Event().wait()

        with pytest.raises(leaderlease.LeaseLost, match="step down in favour of bob"):
            await work()
        release = await quorum.received(wire.ReleaseRequest)
        assert release.successor == "bob"


async def test_try_acquire_takes_no_for_an_answer(quorum: FakeQuorum) -> None:
    """A held lease is denied with a hint, as a value that is false."""
    node = await quorum.node()
    quorum.take(NAME, BOB)
    async with leaderlease.connect(node.endpoint) as client:
        denied = await client.try_acquire(NAME, "alice")
        assert isinstance(denied, leaderlease.Denied)
        assert not denied
        assert (denied.holder, denied.term, denied.retry_after) == (BOB, 1, 1.5)


async def test_acquire_gives_up_in_time_and_leaves_the_queue(quorum: FakeQuorum) -> None:
    """A candidate that stops waiting says so."""
    node = await quorum.node()
    quorum.take(NAME, BOB)
    async with leaderlease.connect(node.endpoint) as client:
        with pytest.raises(TimeoutError, match=r"not granted within 0\.01 s"):
            await client.acquire(NAME, "alice", timeout=0.01)
        cancel = await quorum.received(wire.CancelRequest)
        assert cancel.request == (await quorum.received(wire.AcquireRequest)).request
        assert not quorum.lease(NAME).waiters


async def test_lease_goes_on_under_the_same_term_on_another_node(quorum: FakeQuorum) -> None:
    """The loss of a node costs nothing: the nonce asks again at the next."""
    first, second = await quorum.node(), await quorum.node()
    async with leaderlease.connect([first.endpoint, second.endpoint]) as client:
        async with client.lead(NAME, "alice") as lease:
            await first.stop()
            again = await quorum.received(wire.AcquireRequest, node=second)
            assert again.holder.nonce == lease.nonce
            assert again.is_waiting
            assert again.duration_ms == 3000
            await client.status()
            assert client.endpoint == second.endpoint
            assert (lease.term, lease.lost.is_set()) == (1, False)
        assert quorum.lease(NAME).holder is None


async def test_candidate_waits_on_at_another_node(quorum: FakeQuorum) -> None:
    """A node that leaves sends its candidates to another, where they queue under the same nonce."""
    first, second = await quorum.node(), await quorum.node()
    quorum.take(NAME, BOB)
    async with leaderlease.connect([first.endpoint, second.endpoint]) as client:
        task = asyncio.create_task(client.acquire(NAME, "alice"))
        asked = await quorum.received(wire.AcquireRequest, node=first)
        first.push(wire.GoAway("it is being upgraded"))
        again = await quorum.received(wire.AcquireRequest, node=second)
        assert again.holder == asked.holder
        quorum.lease(NAME).holder = None
        quorum.grant_next(NAME)
        assert (await task).term == 2


async def test_release_finds_another_node(quorum: FakeQuorum) -> None:
    """A release whose answer was lost is repeated on the next connection."""
    first, second = await quorum.node(), await quorum.node()
    async with leaderlease.connect([first.endpoint, second.endpoint]) as client:
        lease = await client.acquire(NAME, "alice")
        first.answers[wire.ReleaseRequest] = lambda connection, _: connection.transport.abort()
        assert await lease.release()
        assert (await quorum.received(wire.ReleaseRequest, node=second)).nonce == lease.nonce
        assert quorum.lease(NAME).holder is None


async def test_release_without_a_majority(quorum: FakeQuorum) -> None:
    """A lease that ends by time is let go quietly and expires; one without end is still held, and that is said."""
    node = await quorum.node()
    async with leaderlease.connect(node.endpoint) as client:
        timed = await client.acquire(NAME, "alice", duration="3s")
        lock = await client.acquire("shop/lock", "alice", duration="never")
        node.answers[wire.ReleaseRequest] = lambda connection, message: connection.push(
            wire.Failed(message.request, "quorum", "1 of 3 nodes answers, 2 are needed")
        )
        assert not await timed.release()
        assert timed.remaining() == 0
        with pytest.raises(leaderlease.QuorumUnavailable):
            await lock.release()


async def test_reads_are_repeated_and_commands_are_not(quorum: FakeQuorum) -> None:
    """A question is asked again after a loss; a command whose outcome is unknown says so."""
    first, second = await quorum.node(), await quorum.node()
    quorum.take(NAME, BOB)
    for kind in (wire.GetRequest, wire.RevokeRequest):
        first.answers[kind] = lambda connection, _: connection.transport.abort()
        second.answers[wire.RevokeRequest] = lambda connection, _: connection.transport.abort()
    async with leaderlease.connect([first.endpoint, second.endpoint]) as client:
        info = await client.get(NAME)
        assert info is not None
        assert info.holder == BOB
        with pytest.raises(leaderlease.OutcomeUnknown, match="lost before the answer"):
            await client.revoke(NAME, 1)


async def test_unanswered_request_is_unknown(quorum: FakeQuorum) -> None:
    """A node that stays silent leaves the outcome open."""
    node = await quorum.node()
    node.silent |= {wire.DeclareRequest, wire.AcquireRequest}
    async with leaderlease.connect(node.endpoint, timeout=0.01) as client:
        with pytest.raises(leaderlease.OutcomeUnknown):
            await client.declare(NAME)
        with pytest.raises(leaderlease.OutcomeUnknown):
            await client.try_acquire(NAME, "alice")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("quorum", leaderlease.QuorumUnavailable),
        ("refused", leaderlease.LeaseRefused),
        ("invalid", leaderlease.ConfigError),
        ("newer than this client", leaderlease.LeaderLeaseError),
    ],
)
async def test_failed_becomes_the_error_of_its_code(quorum: FakeQuorum, code: str, error: type) -> None:
    """Nodes name errors by code; the text is theirs."""
    node = await quorum.node()

    def fail(connection: Any, message: Any) -> None:
        connection.push(wire.Failed(message.request, code, "what went wrong"))

    node.answers[wire.AcquireRequest] = node.answers[wire.GetRequest] = fail
    async with leaderlease.connect(node.endpoint) as client:
        with pytest.raises(error, match="what went wrong"):
            await client.try_acquire(NAME, "alice")
        with pytest.raises(error, match="what went wrong"):
            await client.get(NAME)


async def test_reads_and_commands(quorum: FakeQuorum) -> None:
    """Every question has its answer."""
    node = await quorum.node()
    for number in range(5):
        quorum.take(f"shop/l{number}", BOB)
    async with leaderlease.connect(node.endpoint) as client:
        assert [info.name for info in await client.list("shop/")] == [f"shop/l{n}" for n in range(5)]
        assert await client.get("shop/none") is None
        assert await client.verify("shop/l1", 1)
        verdict = await client.verify("shop/l1", 7)
        assert (bool(verdict), verdict.term) == (False, 1)
        await client.declare(NAME, duration="750ms", identities=["alice"], mode="Paused")
        assert quorum.specs[NAME] == wire.Spec(750, 0, ("alice",), "Paused")
        await client.withdraw(NAME)
        assert quorum.specs[NAME] is None
        assert await client.revoke("shop/l1", 1) == 1
        await client.release("shop/l2", nonce=BOB.nonce)
        with pytest.raises(leaderlease.NotHolder):
            await client.release("shop/l2", nonce=BOB.nonce)
        with pytest.raises(leaderlease.ConfigError, match="mode"):
            await client.declare(NAME, mode="Nonsense")


async def test_status_of_all_endpoints(quorum: FakeQuorum) -> None:
    """Each endpoint answers for itself, or is listed with its error."""
    node, dead = await quorum.node(), await quorum.node()
    await dead.stop()
    async with leaderlease.connect([node.endpoint, dead.endpoint]) as client:
        found = await client.status_all()
    assert list(found) == [node.endpoint, dead.endpoint]
    assert isinstance(found[node.endpoint], wire.NodeStatus)
    assert isinstance(found[dead.endpoint], leaderlease.ConnectionFailed)


async def test_watch_goes_on_after_a_loss_without_repeating_itself(quorum: FakeQuorum) -> None:
    """The next node is asked from the last term on, and what was seen is not told again."""
    first, second = await quorum.node(), await quorum.node()
    quorum.take(NAME, BOB)
    async with leaderlease.connect([first.endpoint, second.endpoint]) as client:
        stream = client.watch(NAME)
        assert (await anext(stream)).kind == "state"
        quorum.lease(NAME).holder = None
        quorum.publish(NAME, "released")
        assert (await anext(stream)).kind == "released"
        await first.stop()
        again = await quorum.received(wire.WatchRequest, node=second)
        assert again.since == 1
        quorum.take(NAME, BOB)
        quorum.publish(NAME, "acquired")
        transition = await anext(stream)
        assert (transition.kind, transition.term) == ("acquired", 2)
        await stream.aclose()
        await quorum.received(wire.UnwatchRequest, node=second)


async def test_watch_says_where_transitions_may_be_missing(quorum: FakeQuorum) -> None:
    """A jump of the term after a new subscription comes as resync."""
    first, second = await quorum.node(), await quorum.node()
    quorum.take(NAME, BOB)
    async with leaderlease.connect([first.endpoint, second.endpoint]) as client:
        stream = client.watch("shop/")
        assert (await anext(stream)).term == 1
        quorum.take(NAME, BOB)
        quorum.take(NAME, BOB)
        await first.stop()
        transition = await anext(stream)
        assert (transition.kind, transition.term) == ("resync", 3)
        await stream.aclose()


async def test_elect_runs_the_work_again_after_a_loss(quorum: FakeQuorum) -> None:
    """Callbacks: started, stopped on loss, started again, and done when the work is."""
    node = await quorum.node()
    calls: list[Any] = []
    async with leaderlease.connect(node.endpoint) as client:

        async def started(lease: leaderlease.Lease) -> None:
            calls.append(("started", lease.term))
            if lease.term == 1:
                quorum.lease(NAME).holder = None
                node.push(wire.Lost(NAME, lease.nonce, "gone"))
                await asyncio.Event().wait()
            await seen.wait()

        def new_leader(identity: str, term: int) -> None:
            calls.append((identity, term))
            if term == 2:
                seen.set()

        seen = asyncio.Event()
        await leaderlease.elect(
            client,
            NAME,
            "alice",
            on_started=started,
            on_stopped=lambda: calls.append("stopped"),
            on_new_leader=new_leader,
        )
    assert [c for c in calls if c[0] != "alice"] == [("started", 1), "stopped", ("started", 2), "stopped"]
    assert ("alice", 2) in calls


async def test_nobody_answers(quorum: FakeQuorum) -> None:
    """The error names the endpoints, what became of them, and what to look at."""
    dead = await quorum.node()
    await dead.stop()
    expected = f"none of {dead.endpoint} answers: connection refused; is a node running there?"
    with pytest.raises(leaderlease.ConnectionFailed) as caught:
        async with leaderlease.connect(dead.endpoint):
            pass
    assert str(caught.value) == expected


async def test_client_waits_for_a_quorum_that_starts_later(quorum: FakeQuorum) -> None:
    """With ``wait`` a client goes on trying."""
    node = await quorum.node()
    await node.stop()
    async with asyncio.TaskGroup() as group:
        client = leaderlease.connect(node.endpoint, wait=30)
        entering = group.create_task(client.__aenter__())
        group.create_task(node.start())
        await entering
    await client.status()
    await client.close()


async def test_other_versions_and_refusals_are_told(quorum: FakeQuorum) -> None:
    """A node that cannot work with this client says why, in one sentence."""
    node = await quorum.node()
    node.hello = versions(7, 9)
    with pytest.raises(leaderlease.ConnectionFailed, match="speaks versions 7 to 9"):
        async with leaderlease.connect(node.endpoint):
            pass
    node.hello = wire.Refused("refused", "the token is not known")
    with pytest.raises(leaderlease.ConnectionFailed, match=r"takes this client.*the token is not known"):
        async with leaderlease.connect(node.endpoint, token="wrong"):
            pass


async def test_closing_the_client_ends_what_waits(quorum: FakeQuorum) -> None:
    """Leases are lost, waiting calls fail, and a closed client says so."""
    node = await quorum.node()
    quorum.take("shop/other", BOB)
    client = leaderlease.connect(node.endpoint)
    with pytest.raises(leaderlease.ConnectionFailed, match="inside its `async with`"):
        await client.get(NAME)
    async with client:
        lease = await client.acquire(NAME, "alice")
        forever = await client.acquire("shop/forever", "alice", duration="never")
        waiting = asyncio.create_task(client.acquire("shop/other", "alice"))
        await quorum.received(wire.AcquireRequest, 3)
    assert lease.lost.is_set()
    assert forever.remaining() == float("inf")
    with pytest.raises(leaderlease.ConnectionFailed, match="closed"):
        await waiting


async def test_arguments_are_checked_before_anything_is_sent(quorum: FakeQuorum) -> None:
    """The text names the field and the value."""
    node = await quorum.node()
    async with leaderlease.connect(node.endpoint) as client:
        for call, field in (
            (client.acquire("noslash", "alice"), "lease name"),
            (client.acquire(NAME, ""), "identity"),
            (client.acquire(NAME, "alice", duration="5y"), "duration"),
            (client.acquire(NAME, "alice", nonce="x"), "nonce"),
            (client.release(NAME), "nonce"),
        ):
            with pytest.raises(leaderlease.ConfigError, match=field):
                await call
    assert {type(message) for _, message in quorum.log} == {wire.Hello, wire.KeepAlive}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ["a:7400"]),
        ("a:1,b", ["a:1", "b:7400"]),
        ("[::1]", ["[::1]:7400"]),
        ("[fe80::1]:80, a", ["[fe80::1]:80", "a:7400"]),
    ],
)
def test_endpoints(text: str, expected: list[str]) -> None:
    """Hosts, addresses, and ports that default to 7400."""
    assert [str(endpoint) for endpoint in parse_endpoints(text)] == expected


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:b", "a:0", "a:65536", "::1", "[::1", "[a]:1", "http://a", "a b"])
def test_bad_endpoints(text: str) -> None:
    """What is no endpoint is named."""
    with pytest.raises(leaderlease.ConfigError, match="endpoint"):
        parse_endpoints(text)


def test_endpoints_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, else the local node."""
    monkeypatch.setenv("LEADERLEASE_ENDPOINTS", "x:1,y:2")
    assert [str(e) for e in parse_endpoints(None)] == ["x:1", "y:2"]
    monkeypatch.delenv("LEADERLEASE_ENDPOINTS")
    assert [str(e) for e in parse_endpoints(None)] == ["127.0.0.1:7400"]
