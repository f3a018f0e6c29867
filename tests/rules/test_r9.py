"""R9: a failed write or fsync, or a checksum that does not hold, means leaving the quorum, never a second try."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from leaderlease.errors import CorruptRecord, InvariantViolated, RemoteProtocolError, StorageError
from leaderlease.node.config import NodeConfig
from leaderlease.node.driver import Driver
from leaderlease.node.node import Node
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Accepted, Peek, Peeked, Ping, Prepare, Promise
from leaderlease.storage.directory import DATABASE
from leaderlease.wire.codec import PEER
from leaderlease.wire.session import Granted
from support.core import ALICE, BOB, CHARLIE
from support.disks import Owner, record
from support.nodes import CLUSTER, KEY, Cluster

VALUE = Value(1, ALICE, 1_000)


def _break(cluster: Cluster, member: int) -> list[StorageError]:
    failures: list[StorageError] = []
    storage = cluster[member].storage
    storage._on_failure = failures.append
    storage.fail()
    return failures


def test_h26_h27_what_a_failed_write_held_is_never_answered() -> None:
    """The Accept whose batch failed has no acknowledgement, and the value is not there."""
    cluster = Cluster()
    failures = _break(cluster, 2)
    replies: list[object] = []
    cluster.holds = lambda source, target, message: bool(source == "2" and (replies.append(message) or True))
    ballot = Ballot(1, "1", 1)
    cluster[2].driver.on_message("1", Accept(1, KEY, ballot, VALUE))
    cluster[2].driver.on_message("1", Prepare(1, "l/shop/other", ballot, ALICE.nonce))
    cluster.run(1_000)
    assert len(failures) == 1
    assert not [reply for reply in replies if isinstance(reply, Accepted | Promise)]
    assert cluster[2].register().value is None
    assert KEY not in cluster[2].disk.records


def test_h26_the_write_is_not_tried_again() -> None:
    """A later fsync that succeeds would vouch for pages that the failed one has thrown away."""
    cluster = Cluster()
    failures = _break(cluster, 2)
    for counter in (1, 2, 3):
        cluster[2].driver.on_message("1", Accept(1, f"l/shop/{counter}", Ballot(counter, "1", 1), VALUE))
        cluster.run(100)
    cluster[2].storage._will_fail = False
    cluster[2].driver.on_message("1", Accept(1, "l/shop/later", Ballot(9, "1", 1), VALUE))
    cluster.run(100)
    assert len(failures) == 1
    assert cluster[2].disk.records == {}


def test_h26_the_others_go_on_without_it() -> None:
    """One disk of three has failed: a majority elects, and that disk's vote is in none of it."""
    cluster = Cluster()
    _break(cluster, 2)
    alice = cluster[1].client("alice")
    alice.acquire(ALICE)
    cluster.run(100)
    assert alice.got(Granted)
    assert cluster[2].holder() == ""


def test_a_stopped_driver_answers_nothing() -> None:
    """Whatever still arrives, and whatever the disk still announces."""
    cluster = Cluster()
    sent: list[object] = []
    driver = cluster[2].driver
    driver.on_message("1", Accept(1, KEY, Ballot(1, "1", 1), VALUE))
    driver.stop()
    cluster.holds = lambda source, target, message: bool(source == "2" and (sent.append(message) or True))
    driver.on_message("1", Ping(1, 1))
    driver.on_message("1", Prepare(1, KEY, Ballot(2, "1", 1), ALICE.nonce))
    cluster.run(100)
    assert sent == []


def test_h11_proof_of_a_bug_stops_the_node() -> None:
    """Two values under one ballot: the process halts with its reason, and answers nothing more."""
    cluster = Cluster()
    ballot = Ballot(1, "1", 1)
    node = cluster[2]
    node.driver.on_message("1", Accept(1, KEY, ballot, VALUE))
    cluster.run()
    node.driver.on_message("1", Accept(1, KEY, ballot, Value(1, BOB, 1_000)))
    assert "two values under ballot" in node.ports.halted
    assert node.driver.is_stopped


def test_h27_the_first_batch_that_fails_is_not_announced(tmp_path: Path) -> None:
    """The announcement follows the commit; before it there is nothing that could run."""
    owner = Owner()
    storage = owner.open(tmp_path / "data")
    storage._connection.execute("PRAGMA query_only=ON")
    storage.append(record("l/a", 1), lambda: pytest.fail("announced, and not durable"))
    owner.until(lambda: owner.failures)
    owner.run_rest()
    storage.close()


def test_h25_a_record_whose_checksum_fails_keeps_the_node_out(tmp_path: Path) -> None:
    """Never "what is readable": a lost record is amnesia."""
    owner = Owner()
    storage = owner.open(tmp_path / "data")
    owner.store(storage, record("l/a", 1), record("l/b", 2))
    storage.close()
    connection = sqlite3.connect(tmp_path / "data" / DATABASE)
    with connection:
        connection.execute("UPDATE entry SET crc = crc + 1 WHERE key = 'l/a'")
    connection.close()
    with pytest.raises(CorruptRecord):
        owner.open(tmp_path / "data")


def test_h25_a_frame_whose_checksum_fails_ends_the_connection() -> None:
    """Damaged bytes never become a message."""
    frame = bytearray(PEER.encode_many([Ping(1, 2)]))
    frame[-1] ^= 1
    with pytest.raises(RemoteProtocolError):
        PEER.decoder().feed(bytes(frame))


def _single(tmp_path: Path) -> NodeConfig:
    return NodeConfig(
        name="n1",
        data=tmp_path / "data",
        peers=(("n1", "127.0.0.1:1"),),
        cluster=CLUSTER,
        bootstrap=True,
        listen_client="127.0.0.1:0",
        listen_peer="127.0.0.1:0",
        listen_http="",
        auto_declare=True,
    )


async def _serving(node: Node) -> asyncio.Task[None]:
    task = asyncio.create_task(node.serve())
    async with asyncio.timeout(30):
        while not node.is_serving and not task.done():  # noqa: ASYNC110  (the node tells nobody)
            await asyncio.sleep(0.01)
    return task


async def test_h26_a_disk_that_fails_ends_the_process_with_its_reason(tmp_path: Path) -> None:
    """The real node on a real disk: its driver stops at once, and ``serve`` raises what the exit code is made of."""
    node = Node(_single(tmp_path))
    task = await _serving(node)
    assert node.storage is not None
    assert node.sessions is not None
    driver = node.sessions.driver
    node.storage._connection.execute("PRAGMA query_only=ON")  # type: ignore[attr-defined]
    node.storage.append(record("l/a", 1), lambda: pytest.fail("announced"))
    with pytest.raises(StorageError):
        async with asyncio.timeout(30):
            await task
    assert driver.is_stopped


async def test_h26_a_node_stops_answering_in_the_moment_in_which_its_disk_fails(tmp_path: Path) -> None:
    """Not a moment later, when ``serve`` gets to clean up: another message may be next."""
    node = Node(_single(tmp_path))
    task = await _serving(node)
    assert node.sessions is not None
    node._disk_failed(StorageError("a write failed"))
    assert node.sessions.driver.is_stopped
    with pytest.raises(StorageError):
        await task


async def test_a_broken_rule_in_a_callback_ends_the_process(tmp_path: Path) -> None:
    """Logged and forgotten by the event loop, it would leave a node that runs on with half a batch answered."""
    node = Node(_single(tmp_path))
    task = await _serving(node)
    assert node.sessions is not None
    driver: Driver = node.sessions.driver

    def break_a_rule() -> None:
        raise InvariantViolated("persisted out of order")

    asyncio.get_running_loop().call_soon(break_a_rule)
    with pytest.raises(InvariantViolated):
        async with asyncio.timeout(30):
            await task
    assert driver.is_stopped


def test_h26_a_stalled_disk_stops_new_owners_and_no_renewals() -> None:
    """The commit hangs: this node proposes for nobody new, and goes on acknowledging what is durable."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    alice.acquire(ALICE)
    cluster.run()
    storage = cluster[1].storage
    storage.oldest_pending_ms = lambda: 60_000.0  # type: ignore[method-assign]
    alice.keepalive()
    cluster.run()
    assert cluster[1].register().remaining_ms(cluster.now_ms) == 1_001
    bob = cluster[1].client("bob")
    bob.acquire(BOB, name="shop/other")
    cluster.run(1_000)
    assert not bob.got(Granted)
    del storage.oldest_pending_ms  # type: ignore[attr-defined]
    cluster.run(1_000)
    assert bob.got(Granted)


def test_h26_a_disk_that_stalls_while_a_majority_is_asked_proposes_for_nobody_new() -> None:
    """Node 1 has missed a term, so it asks; when it hears that the lease is free, its commits no longer come back."""
    cluster = Cluster()
    alice, charlie, bob = cluster[2].client("alice"), cluster[3].client("charlie"), cluster[1].client("bob")
    alice.acquire(ALICE)
    cluster.run()
    cluster.loses = lambda source, target, message: target == "1" != source
    alice.release(ALICE)
    cluster.run()
    charlie.acquire(CHARLIE)
    cluster.run()
    charlie.release(CHARLIE)
    cluster.run()
    assert cluster[1].holder() == "alice"
    assert cluster[1].is_live(), "node 1 has not heard of the releases"
    looks: list[object] = []
    cluster.loses = lambda source, target, message: bool(isinstance(message, Peek) and looks.append(message))
    cluster.holds = lambda source, target, message: isinstance(message, Peeked) and message.key == KEY
    bob.acquire(BOB, is_waiting=False)
    cluster.run()
    assert looks
    storage = cluster[1].storage
    storage.oldest_pending_ms = lambda: 60_000.0  # type: ignore[method-assign]
    looks.clear()
    cluster.let_through()
    cluster.run(2_000)
    assert cluster[2].holder() == "charlie"
    assert len(looks) <= 20, "it asks again without end"
    assert not bob.inbox
    del storage.oldest_pending_ms  # type: ignore[attr-defined]
    cluster.run(1_000)
    assert bob.got(Granted)
