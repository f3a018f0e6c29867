"""One lease of the sidecar (``sidecar/candidate.py``): what it says and writes down, in which order, what it lets go.

The candidate, its client and its directory are the real ones; the quorum is ``support.fakenode``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import leaderlease
from leaderlease.client.clock import system_clock
from leaderlease.paxos.lease import Holder
from leaderlease.sidecar.candidate import Candidate
from leaderlease.sidecar.config import GateConfig, SidecarConfig
from leaderlease.sidecar.health import Gate
from leaderlease.sidecar.identity import StateDir
from leaderlease.sidecar.view import View
from leaderlease.wire import session as wire
from support.fakenode import FakeQuorum

NAME, ME = "shop/billing", "pod-a"


@pytest_asyncio.fixture
async def quorum() -> AsyncIterator[FakeQuorum]:
    made = FakeQuorum()
    await made.node()
    yield made
    await made.close()


class Life:
    """One candidate, and what it said: kind of the event, whether it led then, whether its nonce was on disk."""

    def __init__(self, quorum: FakeQuorum, client: leaderlease.Client, directory: Path, gate: Gate) -> None:
        self.quorum = quorum
        self.directory = directory
        clock, _ = system_clock()
        self.view = View(NAME, ME, 10_000, clock)
        self.said: list[tuple[str, bool, bool]] = []
        self.changed = asyncio.Event()
        self.state = StateDir(directory, clock)
        config = SidecarConfig((NAME,), ME, duration="30s", step_down_grace_s=0.05)
        self.candidate = Candidate(
            *(self.view, client, config, self.state, gate, clock), publish=self.publish, refresh=lambda: None
        )
        self.task = asyncio.create_task(self.candidate.run())

    def publish(self, view: View, kind: str) -> None:
        """Take an event."""
        self.said.append((kind, view.is_leader(), any(self.directory.glob("*.nonce"))))
        self.changed.set()

    async def has_said(self, kind: str, count: int = 1) -> tuple[str, bool, bool]:
        """Wait until it said that."""
        while len(found := [one for one in self.said if one[0] == kind]) < count:
            self.changed.clear()
            async with asyncio.timeout(20):
                await self.changed.wait()
        return found[count - 1]


@asynccontextmanager
async def living(quorum: FakeQuorum, directory: Path, gate: Gate | None = None) -> AsyncIterator[Life]:
    """Run a candidate; at the end its process is gone, without an orderly end."""
    async with leaderlease.connect([quorum.nodes[0].endpoint]) as client:
        life = Life(quorum, client, directory, gate or Gate(None))
        try:
            yield life
        finally:
            life.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await life.task
            if life.view.lease is not None:
                # A process that is killed takes note of nothing any more.
                life.view.lease.on_change = None
            life.state.close()


def _releases(quorum: FakeQuorum) -> int:
    return sum(isinstance(message, wire.ReleaseRequest) for _, message in quorum.log)


async def test_h18_a_nonce_is_written_before_it_leads_and_erased_before_it_stops(
    quorum: FakeQuorum, tmp_path: Path
) -> None:
    """R6: whenever this process ends, a nonce on disk is one that was never said to be lost."""
    async with living(quorum, tmp_path) as life:
        assert await life.has_said("elected") == ("elected", True, True)
        life.candidate.step_down("", "asked")
        assert await life.has_said("stopping") == ("stopping", False, False)
        assert await life.has_said("released") == ("released", False, False)
        assert await life.has_said("elected", 2) == ("elected", True, True)
        lease = life.view.lease
        assert lease is not None
        quorum.nodes[0].push(wire.Lost(NAME, lease.nonce, "another holder has it"))
        assert await life.has_said("lost") == ("lost", False, False)


async def test_h23_it_stops_leading_before_the_release_leaves(quorum: FakeQuorum, tmp_path: Path) -> None:
    """R6: at the moment at which a node hears of the release, nobody is told here that this process leads."""
    leading: list[bool] = []
    async with living(quorum, tmp_path) as life:
        await life.has_said("elected")
        node = quorum.nodes[0]

        def release(connection: Any, message: wire.ReleaseRequest) -> None:
            leading.append(life.view.is_leader())
            connection.answer(message)

        node.answers[wire.ReleaseRequest] = release
        released = await life.candidate.release()
        assert released is not None
        assert (released.term, released.problem) == (1, "")
    assert leading == [False]


async def test_h23_a_holder_whose_application_did_not_end_is_left_to_expire(quorum: FakeQuorum, tmp_path: Path) -> None:
    """R6: the work may go on, so nobody else may begin: no release leaves, and this process stops leading."""
    async with living(quorum, tmp_path) as life:
        await life.has_said("elected")
        await life.candidate.retire(False)
        assert life.said[-1] == ("stopped", False, False)
        assert quorum.lease(NAME).holder is not None
        assert _releases(quorum) == 0


async def test_a_holder_whose_application_has_ended_lets_go_for_good(quorum: FakeQuorum, tmp_path: Path) -> None:
    """H23: the work is over."""
    async with living(quorum, tmp_path) as life:
        await life.has_said("elected")
        await life.candidate.retire(True)
        await life.task
        assert quorum.lease(NAME).holder is None
        assert life.view.state == "stopped"


async def _leave_a_nonce(quorum: FakeQuorum, directory: Path) -> str:
    """Lead, and be killed: the nonce stays on disk."""
    async with living(quorum, directory) as life:
        await life.has_said("elected")
        assert life.view.lease is not None
        return life.view.lease.nonce


async def test_h18_a_restart_goes_on_with_the_same_nonce_and_term(quorum: FakeQuorum, tmp_path: Path) -> None:
    """R7: the quorum confirms both."""
    nonce = await _leave_a_nonce(quorum, tmp_path)
    async with living(quorum, tmp_path) as life:
        assert await life.has_said("elected") == ("elected", True, True)
        assert life.view.lease is not None
        assert (life.view.lease.nonce, life.view.lease.term) == (nonce, 1)


async def test_h18_a_nonce_that_was_inherited_takes_no_other_term(quorum: FakeQuorum, tmp_path: Path) -> None:
    """R6, R7: somebody else held in between: the grant is let go, and a new nonce is drawn."""
    nonce = await _leave_a_nonce(quorum, tmp_path)
    quorum.take(NAME, Holder("pod-b", "", "b" * 32))
    quorum.lease(NAME).holder = None
    async with living(quorum, tmp_path) as life:
        await life.has_said("elected")
        assert life.view.lease is not None
        assert life.view.lease.nonce != nonce
        assert life.view.lease.term == 4, "term 3 was granted to the old nonce, and let go"


async def test_an_unhealthy_application_is_no_candidate_and_no_leader(quorum: FakeQuorum, tmp_path: Path) -> None:
    """Its gate has said nothing yet: it does not ask; healthy, it leads; unhealthy, it steps down and lets go."""
    gate = Gate(GateConfig("tcp", "127.0.0.1", 1, failures=1, successes=1))
    async with living(quorum, tmp_path, gate) as life:
        async with asyncio.timeout(20):
            while life.view.state == "starting":  # noqa: ASYNC110  (it tells nobody that it waits)
                await asyncio.sleep(0.01)
        assert life.view.state == "unhealthy"
        assert not [message for _, message in quorum.log if isinstance(message, wire.AcquireRequest)]
        gate.note("")
        life.candidate.gate_changed()
        assert await life.has_said("elected") == ("elected", True, True)
        gate.note("connection refused")
        life.candidate.gate_changed()
        assert await life.has_said("stopping") == ("stopping", False, False)
        await life.has_said("released")
        assert life.view.lease is None
        await quorum.received(wire.ReleaseRequest)
        assert quorum.lease(NAME).holder is None


async def test_h23_a_release_that_a_majority_does_not_confirm_is_not_called_done(
    quorum: FakeQuorum, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H21: the node said "done", and a majority still guards the term; or nobody answered at all."""
    async with living(quorum, tmp_path) as life:
        await life.has_said("elected")
        released = await life.candidate.release()
        assert released is not None
        node = quorum.nodes[0]
        for is_current, expected in ((True, "a majority still guards it"), (False, "")):
            node.answers[wire.VerifyRequest] = lambda connection, message, is_current=is_current: connection.push(
                wire.Verified(message.request, is_current, 1)
            )
            assert await life.candidate.confirm_release(released) == expected
        assert await life.candidate.confirm_release(released._replace(problem="no node")) == "no node"


async def test_h23_a_holder_that_is_asked_to_step_down_stops_leading_and_lets_go(
    quorum: FakeQuorum, tmp_path: Path
) -> None:
    """R6: whoever asks, by way of the quorum: first it does not lead any more, then the lease is free."""
    async with living(quorum, tmp_path) as life:
        await life.has_said("elected")
        assert life.view.lease is not None
        quorum.nodes[0].push(wire.StepDownAsked(NAME, life.view.lease.nonce, "pod-b"))
        assert await life.has_said("stopping") == ("stopping", False, False)
        release = await quorum.received(wire.ReleaseRequest)
        assert release.successor == "pod-b"


@pytest.mark.parametrize("why", ["it ends", "unhealthy"])
async def test_a_grant_that_is_not_wanted_any_more_is_let_go(quorum: FakeQuorum, tmp_path: Path, why: str) -> None:
    """H23: the sidecar was told to end, or its application failed, while it waited: it never says that it leads."""
    quorum.take(NAME, Holder("pod-b", "", "b" * 32))
    gate = Gate(GateConfig("tcp", "127.0.0.1", 1, failures=1, successes=1))
    gate.note("")
    async with living(quorum, tmp_path, gate) as life:
        await quorum.received(wire.AcquireRequest)
        if why == "it ends":
            life.candidate.stop_campaigning()
        else:
            gate.note("connection refused")
            life.candidate.gate_changed()
        await quorum.received(wire.CancelRequest)
        assert life.said == []
