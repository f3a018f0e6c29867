"""Catch-up (``node/catchup.py``): a member that was away copies all that the others accepted, from whom it asked."""

from typing import Any

import pytest

from leaderlease.node import catchup
from leaderlease.node.catchup import DIGEST_PERIOD_MS, PAGE_TIMEOUT_MS
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, DigestRequest, SyncEntry, SyncPage, SyncRequest
from leaderlease.wire.session import Granted
from support.core import ALICE, BOB
from support.nodes import KEY, Cluster, of_kind

NAMES = [f"shop/lease-{number}" for number in range(5)]


def _with_leases(cluster: Cluster, away: int = 3) -> None:
    """Let node 1 hold five leases of which one member never heard, and that member come back."""
    cluster.crash(away)
    client = cluster[1].client("alice")
    for number, name in enumerate(NAMES):
        client.acquire(type(ALICE)("alice", "", f"{number:032x}"), name=name, duration_ms=600_000)
    cluster.run()
    assert len(client.got(Granted)) == len(NAMES)


def _known(cluster: Cluster, member: int = 3) -> int:
    return sum(bool(cluster[member].holder(f"l/{name}")) for name in NAMES)


def test_pages_are_read_to_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: it is caught up when it has read what a majority, itself included, had accepted; not with the first page."""
    monkeypatch.setattr(catchup, "SYNC_PAGE_MAX", 2)
    cluster = Cluster()
    _with_leases(cluster)
    cluster.holds = of_kind(SyncPage)
    cluster.restart(3)
    cluster.run(10)
    assert not cluster[3].catchup.is_caught_up()
    assert _known(cluster) == 0
    for _ in range(2):
        held, cluster.held = cluster.held, []
        for source, target, message in held:
            cluster[target].driver.on_message(source, message)
        cluster.run(10)
        assert not cluster[3].catchup.is_caught_up()
    cluster.let_through()
    cluster.run(10)
    assert _known(cluster) == 5
    assert cluster[3].catchup.is_caught_up()


def test_a_page_that_is_lost_is_asked_for_again() -> None:
    """From who is there; who has gone is asked when it comes back."""
    cluster = Cluster()
    _with_leases(cluster)
    cluster.loses = of_kind(SyncPage)
    cluster.restart(3)
    cluster.run(10)
    cluster.loses = lambda source, target, message: False
    cluster.run(PAGE_TIMEOUT_MS)
    assert _known(cluster) == 5
    cluster.crash(1)
    asked: list[str] = []

    def listen(source: str, target: str, message: Any) -> bool:
        if isinstance(message, SyncRequest) and source == "3":
            asked.append(target)
        return isinstance(message, SyncPage)

    cluster.loses = listen
    cluster[3].catchup._ask("1", "")
    cluster.run(3 * PAGE_TIMEOUT_MS)
    assert asked == ["1"]


def test_a_page_of_somebody_who_was_not_asked_is_not_taken() -> None:
    """R8, H16: nor one that was asked of another, nor one under a number that is not asked for any more."""
    cluster = Cluster()
    cluster.loses = of_kind(SyncRequest, DigestRequest)
    cluster[3].catchup._ask("1", "")
    number = cluster[3].catchup._request
    page = SyncPage(number, (SyncEntry(KEY, Ballot(3, "2", 1), Value(1, BOB, 1_000)),), "")
    cluster[3].driver.on_message("2", page)
    cluster[3].driver.on_message("1", SyncPage(number + 7, page.entries, ""))
    cluster.run()
    assert cluster[3].holder() == ""
    assert not cluster[3].catchup.copied


def test_what_is_copied_again_moves_no_timer() -> None:
    """R2: a page with what this member has already is no renewal: a dead holder is not kept alive by it."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    alice.acquire(ALICE)
    cluster.run(500)
    before = cluster[3].register().expires_ms
    cluster[3].catchup._ask("1", "")
    cluster.run(10)
    assert cluster[3].register().expires_ms == before
    assert cluster[3].catchup.copied == 0


def test_a_member_that_comes_up_is_copied_from_and_a_stranger_is_not() -> None:
    """R8: only who votes."""
    cluster = Cluster()
    asked: list[str] = []

    def listen(source: str, target: str, message: Any) -> bool:
        if isinstance(message, SyncRequest):
            asked.append(target)
        return True

    cluster.loses = listen
    cluster[1].driver.peer_changed("2", True)
    cluster[1].driver.peer_changed("9", True)
    assert asked == ["2"]


def test_digests_that_differ_for_long_let_the_pages_be_read_again() -> None:
    """R5: an Accept that was lost long ago arrives in the end, and nothing is copied while digests agree."""
    cluster = Cluster()
    cluster.loses = of_kind(Accept, source="1")
    cluster.loses = lambda source, target, message: target == "3" and not isinstance(message, DigestRequest)
    client = cluster[1].client("alice")
    client.acquire(ALICE, duration_ms=600_000)
    cluster.run(100)
    assert cluster[3].holder() == ""
    cluster.loses = lambda source, target, message: False
    cluster.run(DIGEST_PERIOD_MS)
    assert cluster[3].holder() == "", "one difference may be traffic"
    cluster.run(2 * DIGEST_PERIOD_MS)
    assert cluster[3].holder() == "alice"
    copied = cluster[3].catchup.copied
    cluster.run(20 * DIGEST_PERIOD_MS)
    assert cluster[3].catchup.copied == copied
    assert cluster[3].catchup._mismatches == {}
    assert cluster[3].catchup._patience == {}


def test_a_stopped_node_compares_nothing_r9() -> None:
    """R9: it answers nothing and asks nothing."""
    cluster = Cluster()
    sent: list[Any] = []
    cluster[1].driver.stop()
    cluster.loses = lambda source, target, message: bool(source == "1" and (sent.append(message) or 1))
    cluster.run(3 * DIGEST_PERIOD_MS)
    assert sent == []
