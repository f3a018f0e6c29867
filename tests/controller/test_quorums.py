"""The operator's link to a quorum of real nodes."""

import asyncio
from collections.abc import Iterator

import pytest

import leaderlease
from leaderlease.cli.local import LocalQuorum
from leaderlease.controller.quorums import QuorumLink
from leaderlease.wire.session import Transition


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQuorum]:
    with LocalQuorum(tmp_path_factory.mktemp("quorum"), 1) as made:
        yield made


@pytest.mark.parametrize("kind", ["state", "resync"])
async def test_one_node_that_knows_no_holder_ends_no_term(quorum: LocalQuorum, kind: str) -> None:
    """A node that has just started says "nobody"; a majority is asked before anybody is told that a leader is lost."""
    name = f"shop/{kind}"
    changed: asyncio.Queue[str] = asyncio.Queue()
    link = QuorumLink("default", quorum.endpoints, {}, changed.put_nowait, changed.put_nowait)
    link.start()
    try:
        await link.connected.wait()
        async with leaderlease.connect(quorum.endpoints) as client:
            async with client.lead(name, "a", duration="5s") as lease:
                while link.truth(name).holder is None:
                    await changed.get()
                assert link.client is not None
                link._take(link.client, Transition(1, name, kind, lease.term, None, 1))
                await asyncio.gather(*link._reads.values())
                latest = link.truth(name).terms[0]
                assert (latest.term, latest.holder, latest.reason) == (lease.term, link.truth(name).holder, "")
                assert latest.holder is not None
            while link.truth(name).holder is not None:
                await changed.get()
            assert link.truth(name).terms[0].reason == "Released"
    finally:
        await link.stop()
