"""What may be declared, in which bytes it is kept, and what of it goes with a grant."""

import msgspec
import pytest

from leaderlease.errors import ConfigError
from leaderlease.node.homes import SPEC
from leaderlease.node.specs import check_spec
from leaderlease.paxos.lease import Holder
from leaderlease.wire import session as wire
from support.nodes import NAME, Cluster

ALICE = Holder("alice", "", "a" * 32)
BEFORE = bytes.fromhex("97cd03e81991a5616c696365a650617573656491a762696c6c696e6791a57569642d31aa6b756265726e65746573")
"""A declaration as it was written before it had a deadline, a period and a preference."""


def test_older_declaration_is_read() -> None:
    """What lies on the disks of nodes from before decodes, with what was the rule then."""
    found = msgspec.msgpack.decode(BEFORE, type=wire.Spec)
    assert found == wire.Spec(1_000, 25, ("alice",), "Paused", ("billing",), ("uid-1",), "kubernetes")
    later = (found.renew_deadline_ms, found.retry_period_ms, found.preference, found.no_failback_ms)
    assert later == (0, 0, "None", 0)


def test_declaration_keeps_its_place_in_the_bytes() -> None:
    """New fields come last, so an older node reads of a newer declaration what it knows."""
    spec = wire.Spec(1_000, 25, ("alice",), "Paused", ("billing",), ("uid-1",), "kubernetes", 600, 150, "Ordinal", 5)
    written = msgspec.msgpack.encode(spec)
    assert written[1 : len(BEFORE)] == BEFORE[1:]
    assert written == b"\x9b" + BEFORE[1:] + bytes.fromhex("cd0258cc96a74f7264696e616c05")


def test_declaration_of_another_version_admits_nobody_and_stops_nothing() -> None:
    """A node that cannot read one starts all the same, pauses that lease alone, and takes the next declaration."""
    cluster = Cluster()
    done: list[str] = []
    cluster[1].sessions.specs.write(
        SPEC + NAME, msgspec.msgpack.encode(["of another age"]), lambda term, code, text: done.append(code)
    )
    cluster.run(100)
    assert done == [""]
    for member in (1, 2, 3):
        cluster.crash(member)
        cluster.restart(member)
    cluster.run(1_000)
    alice = cluster[1].client("alice")
    alice.acquire(ALICE, duration_ms=1_000)
    cluster.run(100)
    assert "is Paused: nobody new is admitted" in alice.got(wire.Failed)[0].text
    cluster[2].sessions.specs.declare(NAME, wire.Spec(1_000), lambda term, code, text: done.append(code))
    cluster.run(100)
    assert done == ["", ""]
    alice.acquire(ALICE, duration_ms=1_000)
    cluster.run(100)
    assert alice.got(wire.Granted)[0].term == 1


def test_older_messages_are_read() -> None:
    """Answers and requests of an older partner lack what was added last."""
    granted = msgspec.msgpack.encode(["G", 1, NAME, ALICE.nonce, 7, 3_000, 2, 1])
    assert msgspec.msgpack.decode(granted, type=wire.Granted) == wire.Granted(1, NAME, ALICE.nonce, 7, 3_000, 2, 1)
    asked = msgspec.msgpack.encode(["acq", 1, 2, NAME, ["alice", "", ALICE.nonce], 0, True, 7])
    assert msgspec.msgpack.decode(asked, type=wire.AcquireRequest) == wire.AcquireRequest(1, 2, NAME, ALICE, 0, True, 7)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (wire.Spec(3_000, renew_deadline_ms=3_000), "renew_deadline: 3000 ms must be at least 50 ms, and shorter than"),
        (wire.Spec(3_000, renew_deadline_ms=49), "renew_deadline: 49 ms must be at least 50 ms"),
        (wire.Spec(3_000, renew_deadline_ms=-1), "renew_deadline: -1 ms"),
        (wire.Spec(3_000, retry_period_ms=9), "retry_period: 9 ms must be at least 10 ms"),
        (wire.Spec(3_000, retry_period_ms=2_500), "shorter than the duration, which is 3000 ms"),
        (wire.Spec(3_000, 0, renew_deadline_ms=600, retry_period_ms=500), "the renew_deadline, which is 600 ms"),
        (wire.Spec(None, renew_deadline_ms=600), "must be 0 with duration never"),
        (wire.Spec(3_000, preference="Random"), "preference: 'Random' is none of None, Priority, Ordinal, Newest"),
        (wire.Spec(3_000, no_failback_ms=1), "no_failback: 1 ms has no effect with preference None"),
        (wire.Spec(3_000, preference="Ordinal", no_failback_ms=-1), "no_failback: -1 ms is outside [0, 87600h]"),
    ],
)
def test_nonsense_is_refused_by_name(spec: wire.Spec, words: str) -> None:
    """A declaration that cannot work is refused with the field, the value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        check_spec(spec)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        wire.Spec(3_000, renew_deadline_ms=2_000, retry_period_ms=500),
        wire.Spec(100, renew_deadline_ms=66, retry_period_ms=16),
        wire.Spec(3_000, retry_period_ms=10),
        wire.Spec(None, preference="Priority"),
    ],
)
def test_sense_is_taken(spec: wire.Spec) -> None:
    """What the schema of LeaderLeases allows, nodes allow, too."""
    check_spec(spec)


def test_deadline_and_period_go_with_the_grant() -> None:
    """A client hears what is declared when it is granted the lease, not before."""
    cluster = Cluster()
    cluster[1].sessions.specs.declare(
        NAME, wire.Spec(3_000, renew_deadline_ms=2_000, retry_period_ms=500), lambda *end: None
    )
    cluster.run(100)
    client = cluster[2].client()
    client.acquire(ALICE, duration_ms=0)
    cluster.run(100)
    (granted,) = client.got(wire.Granted)
    assert (granted.duration_ms, granted.renew_deadline_ms, granted.retry_period_ms) == (3_000, 2_000, 500)
