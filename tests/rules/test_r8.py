"""R8: every request carries the epoch; votes are counted by registered uuid; a disk that is unknown does not vote."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from leaderlease.errors import ConfigError, WrongDirectory
from leaderlease.node.bootstrap import decide_configuration
from leaderlease.node.config import NodeConfig
from leaderlease.node.peers import Directory
from leaderlease.paxos.acceptor import Acceptor, Persist, Respond
from leaderlease.paxos.ballot import ZERO
from leaderlease.paxos.lease import Value, digest
from leaderlease.paxos.membership import (
    Configuration,
    Member,
    configuration_value,
    first_configuration,
    read_configuration,
)
from leaderlease.paxos.messages import (
    Accept,
    Accepted,
    Chosen,
    Peek,
    Prepare,
    Promise,
    Release,
    Renew,
    Renewed,
    RenewItem,
    SyncRequest,
    WrongEpoch,
)
from leaderlease.paxos.proposer import Acquire, Attempt, Outcome, Phase
from leaderlease.paxos.quorum import quorum_of
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Granted, Hello
from support.core import ALICE, BOB, KEY, World, ballot_of
from support.nodes import Cluster
from support.referee import Violation

VALUE = Value(1, ALICE, 1_000)
CLUSTER = "6f1c1a52-6a3c-4b0f-8a0b-2f0c7d9e1a11"
NAMES = {"u1": "n1", "u2": "n2", "u3": "n3"}
CONFIGURATION = first_configuration(CLUSTER, {uuid: (name, f"{name}:7401") for uuid, name in NAMES.items()})


# --- epochs -------------------------------------------------------------------------------------------------------


def _holding(epoch: int = 1) -> Acceptor:
    acceptor = Acceptor(epoch, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(epoch, KEY, ballot_of(13), VALUE), 0)
    assert isinstance(persist, Persist)
    acceptor.persisted(persist.record, 0)
    return acceptor


@pytest.mark.parametrize("epoch", [0, 1, 3], ids=["none", "older", "newer"])
def test_h28_requests_of_another_epoch_change_nothing_and_are_told_ours(epoch: int) -> None:
    """Prepare, Accept, Peek, Renew, Release and catch-up alike."""
    acceptor = _holding(2)
    item = RenewItem(KEY, 1, digest(VALUE))
    assert acceptor.handle("4", Prepare(epoch, KEY, ballot_of(24), ALICE.nonce), 10) == [
        Respond("4", WrongEpoch(KEY, ballot_of(24), 2))
    ]
    assert acceptor.handle("4", Accept(epoch, KEY, ballot_of(24), VALUE), 10) == [
        Respond("4", WrongEpoch(KEY, ballot_of(24), 2))
    ]
    assert acceptor.handle("4", Peek(epoch, KEY, 7), 10) == [Respond("4", WrongEpoch(KEY, ZERO, 2))]
    assert acceptor.renew(Renew(epoch, 7, "3", 1, (item,)), 500) == Renewed(7, epoch=2)
    assert acceptor.release(Release(epoch, KEY, ballot_of(13), digest(VALUE))) is None
    assert acceptor.sync("4", SyncRequest(epoch, 1, "", 10)) == [Respond("4", WrongEpoch("", ZERO, 2))]
    register = acceptor.registers[KEY]
    assert (register.promised, register.accepted, register.remaining_ms(500)) == (ballot_of(13), ballot_of(13), 501)


def test_h28_an_answer_of_another_epoch_is_no_vote() -> None:
    """Two of three members moved on: the proposer of the old epoch gets nothing through."""
    world = World(3)
    for member in (2, 3):
        world[member].acceptor.epoch = 2
    alice = world.acquire(1, ALICE)
    assert alice.outcome is None
    assert alice.promises == {"1"}


def test_h28_hints_of_another_epoch_are_not_learned() -> None:
    """A node of an old configuration cannot tell this one who leads."""
    cluster = Cluster()
    cluster[1].driver.on_message("2", Chosen(2, KEY, ballot_of(12), VALUE, "acquired"))
    assert not cluster[1].driver.learner.views


def test_every_request_that_an_acceptor_weighs_has_a_field_for_the_epoch() -> None:
    """One without it could not be told apart from one of another configuration."""
    for kind in (Prepare, Accept, Renew, Release, Peek, Chosen, SyncRequest):
        assert "epoch" in kind.__struct_fields__, kind.__name__


# --- members ------------------------------------------------------------------------------------------------------


def test_h24_a_stranger_has_no_vote_in_either_phase() -> None:
    """Only registered uuids count; two addresses of one member are one (H34)."""
    attempt = Attempt(KEY, ballot_of(13), 1, quorum_of("123"), ALICE.nonce, Acquire(ALICE, 1_000))
    assert {member for member, _ in attempt.start()} == {"1", "2", "3"}
    for member in ("8", "9"):
        attempt.on_promise(member, Promise(KEY, ballot_of(13), ballot_of(12), Value(9, BOB, 1_000)))
    assert attempt.phase is Phase.PREPARING
    assert attempt.seen() == (ZERO, None), "nor does what a stranger reports"
    attempt.on_promise("1", Promise(KEY, ballot_of(13), ZERO, None))
    attempt.on_promise("2", Promise(KEY, ballot_of(13), ZERO, None))
    assert attempt.phase is Phase.ACCEPTING
    for member in ("1", "8", "9"):
        attempt.on_accepted(member, Accepted(KEY, ballot_of(13)))
    assert attempt.outcome is None


def test_h24_an_emptied_disk_under_the_old_uuid_would_break_agreement() -> None:
    """Why a lost disk is a new member: with node 2 wiped, its old uuid would let Bob in beside Alice.

    The referee sees it, so this is also a test of the referee.
    """
    world = World(3, duration_ms=None)
    alice = world.ask(1, ALICE)
    world.settle(among={1, 2})
    assert world.believe(ALICE, alice)
    world[2].disk.records.clear()
    world[2].disk.ceiling = 0
    world.restart(2)
    bob = world.ask(3, BOB)
    with pytest.raises(Violation, match="agreement: two holders chosen for term 1"):
        world.settle(among={2, 3})
    assert bob.seen() == (ZERO, None), "nobody told Bob of Alice"


def test_h29_a_joint_configuration_needs_a_majority_of_both_sets_in_both_phases() -> None:
    """A majority of the old set alone decides nothing, nor does one of the new set."""
    joint = quorum_of({"1", "2", "3"}, {"1", "4", "5"})
    assert not joint.is_met({"2", "3"})
    assert not joint.is_met({"4", "5"})
    assert joint.is_met({"2", "3", "4", "5"})
    assert joint.is_met({"1", "2", "5"})
    world = World(5, quorum=joint)
    alice = world.ask(1, ALICE)
    world.settle(among={1, 2, 3})
    assert alice.phase is Phase.PREPARING
    world = World(5, quorum=joint)
    alice = world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    world.settle(among={1, 2, 3})
    assert alice.outcome is None
    world = World(5, quorum=joint)
    alice = world.ask(1, ALICE)
    world.settle(among={1, 2, 4})
    assert alice.outcome is Outcome.CHOSEN


def test_the_configuration_is_a_register_with_the_same_content_on_every_member() -> None:
    """Whoever computes it first: members are sorted by uuid, and the epoch is the term."""
    backwards = first_configuration(CLUSTER, {uuid: (NAMES[uuid], f"{NAMES[uuid]}:7401") for uuid in reversed(NAMES)})
    assert configuration_value(CONFIGURATION) == configuration_value(backwards)
    _, value = configuration_value(CONFIGURATION)
    assert read_configuration(value) == CONFIGURATION
    assert value.term == CONFIGURATION.epoch == 1


# --- bootstrap ----------------------------------------------------------------------------------------------------


def _config(*, is_bootstrap: bool = True) -> NodeConfig:
    peers = tuple((name, f"{name}:7401") for name in NAMES.values())
    return NodeConfig(name="n1", data=Path("data"), peers=peers, cluster=CLUSTER, bootstrap=is_bootstrap)


def _hello(uuid: str, **changes: Any) -> Hello:
    name = NAMES.get(uuid, uuid)
    hello = Hello("peer", PROTOCOL_MIN, PROTOCOL_MAX, member=uuid, incarnation=1, boot_nonce=f"{uuid}/1", name=name,
                  address=f"{name}:7401")  # fmt: skip
    return msgspec.structs.replace(hello, **changes)


def _running(uuid: str, configuration: Configuration = CONFIGURATION, **changes: Any) -> Hello:
    encoded = msgspec.msgpack.encode(configuration)
    known = {"cluster": configuration.cluster, "epoch": configuration.epoch, "configuration": encoded}
    return _hello(uuid, **(known | changes))


def test_h24_an_empty_directory_alone_never_starts_a_cluster() -> None:
    """All others are blank, too, and without the flag nothing begins."""
    blank = {"n2": _hello("u2"), "n3": _hello("u3")}
    assert decide_configuration(_config(is_bootstrap=False), _hello("u1"), blank) is None


def test_a_cluster_starts_when_all_initial_members_answer_and_are_blank() -> None:
    """One that is missing is waited for: it may have a disk that knows more."""
    own = _hello("u1")
    assert decide_configuration(_config(), own, {"n2": _hello("u2")}) is None
    blank = {"n2": _hello("u2"), "n3": _hello("u3")}
    assert decide_configuration(_config(), own, blank) == CONFIGURATION


def test_a_blank_member_takes_the_configuration_that_lists_it() -> None:
    """Another one was a moment faster."""
    answers = {"n2": _running("u2")}
    assert decide_configuration(_config(), _hello("u1"), answers) == CONFIGURATION


def test_h24_a_lost_disk_does_not_come_back_as_the_member_that_it_was() -> None:
    """Its new uuid is in no configuration: it may not vote, whatever flags it is given."""
    for is_bootstrap in (True, False):
        with pytest.raises(WrongDirectory, match="a lost disk is a new member"):
            decide_configuration(_config(is_bootstrap=is_bootstrap), _hello("u1-new"), {"n2": _running("u2")})


def test_a_copied_disk_is_no_second_member() -> None:
    """Two initial members with one uuid would be one vote counted as two."""
    with pytest.raises(ConfigError, match="same uuid"):
        decide_configuration(_config(), _hello("u1"), {"n2": _hello("u2"), "n3": _hello("u2", name="n3")})


def test_a_member_of_another_cluster_is_named() -> None:
    """Nothing is taken from it."""
    other = msgspec.structs.replace(CONFIGURATION, cluster="0" * 36)
    with pytest.raises(ConfigError, match="n2 is of cluster"):
        decide_configuration(_config(), _hello("u1"), {"n2": _running("u2", other)})


# --- hellos -------------------------------------------------------------------------------------------------------


def _directory(disk: MemoryDisk | None = None) -> Directory:
    return Directory(CONFIGURATION, MemoryStorage(disk or MemoryDisk("u1")), lambda: _running("u1"))


def test_a_member_with_the_same_configuration_is_talked_to() -> None:
    """Also as who was dialled, and again after a reconnect of the same life."""
    directory = _directory()
    assert directory.refusal(_running("u2"), expected="u2") == ""
    directory.remember(_running("u2"))
    assert directory.refusal(_running("u2")) == ""
    assert directory.refusal(_running("u2", incarnation=2, boot_nonce="u2/2")) == ""


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (_running("u2", cluster="0" * 36), "is of cluster"),
        (_hello("u2"), "none yet"),
        (_running("u9"), "is no member under epoch 1"),
        (_running("u1", incarnation=9), "cloned disk"),
        (_running("u3"), "where u2 was expected"),
        (_running("u2", role="client"), "members of the quorum"),
        (_running("u2", version_min=PROTOCOL_MAX + 1, version_max=PROTOCOL_MAX + 1), "upgrade the older one"),
        (
            _running("u2", first_configuration(CLUSTER, {"u1": ("n1", "n1:7401"), "u2": ("n2", "n2:7401")})),
            "other members under epoch 1",
        ),
    ],
    ids=["cluster", "blank", "stranger", "clone of this one", "unexpected", "client", "version", "other members"],
)
def test_h28_h36_who_does_not_belong_here_is_refused_in_one_sentence(hello: Hello, reason: str) -> None:
    """Cluster, membership, version and identity are settled before the first request."""
    refusal = _directory().refusal(hello, expected="u2")
    assert reason in refusal
    assert "\n" not in refusal


def test_h24_h33_a_disk_that_went_back_in_time_is_refused() -> None:
    """A peer remembers the highest incarnation; what was promised since is lost."""
    directory = _directory()
    directory.remember(_running("u2", incarnation=5, boot_nonce="u2/5", earlier=("u2/4",)))
    assert "rolled back" in directory.refusal(_running("u2", incarnation=4, boot_nonce="u2/4 again"))


def test_h24_h33_two_lives_with_one_incarnation_are_a_copied_disk() -> None:
    """Same number, another boot nonce: one of them is a clone."""
    directory = _directory()
    directory.remember(_running("u2", incarnation=5, boot_nonce="one"))
    assert "runs twice" in directory.refusal(_running("u2", incarnation=5, boot_nonce="other"))


def test_h24_lives_of_peers_are_remembered_over_a_restart() -> None:
    """Durably, or a restart of the observer would hide the rollback of the other."""
    disk = MemoryDisk("u1")
    storage = MemoryStorage(disk)
    directory = Directory(CONFIGURATION, storage, lambda: _running("u1"))
    directory.remember(_running("u2", incarnation=5, boot_nonce="u2/5", earlier=("u2/4",)))
    storage.flush()
    storage.crash()
    assert "rolled back" in _directory(disk).refusal(_running("u2", incarnation=4, boot_nonce="u2/4 again"))


def test_h24_a_life_that_has_ended_is_refused_but_proves_nothing() -> None:
    """Older than any nonce that is kept, it is late, or its disk was rolled back: it does not vote either way."""
    directory = _directory()
    directory.remember(_running("u2", incarnation=50, boot_nonce="u2/50", earlier=("u2/49",)))
    assert "has ended" in directory.refusal(_running("u2", incarnation=3, boot_nonce="u2/3"))
    assert directory.refusal(_running("u2", incarnation=51, boot_nonce="u2/51", earlier=("u2/50", "u2/49"))) == ""


def test_member_uuids_are_looked_up_in_both_sets_while_joint() -> None:
    """Who is joining may be asked already."""
    joint = msgspec.structs.replace(CONFIGURATION, joining=(Member("u4", "n4", "n4:7401"),))
    assert joint.member("u4") is not None
    assert joint.quorum().groups == (frozenset(NAMES), frozenset({"u4"}))


def test_a_node_whose_epoch_differs_wins_nothing() -> None:
    """The whole node: its candidate waits, the others go on electing."""
    cluster = Cluster()
    cluster[1].driver.epoch = 7
    alice = cluster[1].client("alice")
    alice.acquire(ALICE)
    cluster.run(2_000)
    assert not alice.got(Granted)
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(2_000)
    assert bob.got(Granted)
