"""What the driver adds to the core: what it gives it at a start, and what it carries out in which order."""

from typing import Any

import pytest

from leaderlease.errors import RemoteProtocolError
from leaderlease.node.driver import ATTEMPT_TIMEOUT_MS
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Accepted, Nack, Prepare, Promise
from leaderlease.wire.session import Denied, Granted, KeepAlive
from support.core import ALICE, BOB
from support.nodes import KEY, NAME, Cluster

OTHER = "l/shop/other"
VALUE = Value(1, ALICE, 1_000)


def _replies(cluster: Cluster, member: str) -> list[Any]:
    """Return a list that fills with what this member sends, none of which arrives."""
    sent: list[Any] = []
    cluster.loses = lambda source, target, message: source == member and (sent.append(message) or True)
    return sent


def test_h5_a_restarted_node_counts_every_ballot_up_to_its_durable_ceiling_as_promised() -> None:
    """R5: the promise for 6 was below the ceiling and on no disk; a lower ballot must not be promised after it."""
    cluster = Cluster()
    for counter in (5, 6):
        cluster[2].driver.on_message("1", Prepare(1, OTHER, Ballot(counter, "1", 1), ALICE.nonce))
        cluster.run()
    assert cluster[2].disk.records[OTHER].promised.counter == 5, "the promise for 6 was given without a record"
    cluster.restart(2)
    sent = _replies(cluster, "2")
    cluster[2].driver.on_message("3", Prepare(1, OTHER, Ballot(6, "0", 1), BOB.nonce))
    cluster.run()
    assert [type(reply) for reply in sent if isinstance(reply, Nack | Promise)] == [Nack]


def test_h6_a_restarted_node_guards_from_the_moment_of_its_start_on() -> None:
    """R5: timers run for the whole duration from the clock's reading at the start, not from some other time."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    alice.acquire(ALICE)
    cluster.run(5_000)
    cluster.restart(2)
    assert cluster[2].is_live()
    cluster.run(1_000)
    assert cluster[2].is_live()
    cluster.run(1)
    assert not cluster[2].is_live()


def test_a_restarted_node_asks_under_ballots_above_all_that_its_disk_has_promised_r3() -> None:
    """R3: it has seen its own disk; a first ballot below that would be refused by itself."""
    cluster = Cluster()
    cluster[1].driver.on_message("2", Prepare(1, OTHER, Ballot(900, "2", 1), ALICE.nonce))
    cluster.run()
    cluster.restart(1)
    assert cluster[1].driver.proposer.next_ballot().counter > cluster[1].disk.ceiling


def test_what_follows_the_proof_of_a_bug_is_not_answered_r9() -> None:
    """R9: it waited behind the same record, and would have been refused in the same breath."""
    cluster = Cluster()
    sent = _replies(cluster, "2")
    ballot, driver = Ballot(5, "1", 1), cluster[2].driver
    driver.on_message("1", Accept(1, KEY, ballot, VALUE))
    driver.on_message("1", Accept(1, KEY, ballot, Value(1, BOB, 1_000)))
    driver.on_message("3", Prepare(1, KEY, Ballot(1, "3", 1), BOB.nonce))
    cluster.run()
    assert cluster[2].ports.halted
    assert [type(reply) for reply in sent] == [Accepted]


def test_what_a_node_that_stops_has_told_itself_is_not_heard_any_more_r9() -> None:
    """R9: the first of its own messages is the proof of a bug; the second must not be promised."""
    cluster = Cluster()
    ballot, driver = Ballot(5, "1", 1), cluster[2].driver
    driver.on_message("1", Accept(1, KEY, ballot, VALUE))
    cluster.run()
    driver.send("2", Accept(1, KEY, ballot, Value(1, BOB, 1_000)))
    driver.send("2", Prepare(1, OTHER, Ballot(6, "2", 1), BOB.nonce))
    cluster.run()
    assert cluster[2].ports.halted
    assert OTHER not in driver.acceptor.registers


def test_what_no_member_sends_ends_its_connection() -> None:
    """R8: a message of another vocabulary is an error of the peer, never skipped."""
    with pytest.raises(RemoteProtocolError):
        Cluster()[1].driver.on_message("2", KeepAlive(1))


def test_h18_who_goes_on_with_a_term_that_has_ended_hears_it_at_once_where_phase_1_was_done_in_advance() -> None:
    """R6: the prepared attempt fails when it is asked to propose, and nobody waits for its time to run out."""
    cluster = Cluster()
    client = cluster[1].client()
    client.acquire(ALICE)
    cluster.run(50)
    client.release(ALICE)
    cluster.run(50)
    assert cluster[1].leases.homes[KEY].prepared is not None
    client.acquire(BOB, goes_on=7)
    cluster.run()
    assert [answer.name for answer in client.got(Denied)] == [NAME]


def test_h16_answers_that_come_after_an_attempt_has_run_out_of_time_decide_nothing() -> None:
    """R6: Bob's acceptances arrive when his attempt has been given up and the next one runs: they are not for that."""
    cluster = Cluster()
    bob = cluster[1].client("bob")
    cluster.holds = lambda source, target, message: isinstance(message, Accepted) and target == "1"
    bob.acquire(BOB, is_waiting=False)
    cluster.run(ATTEMPT_TIMEOUT_MS + 1)
    late, cluster.held = cluster.held, []
    assert len(late) >= 2
    cluster.loses = lambda source, target, message: isinstance(message, Prepare | Accept | Promise)
    bob.acquire(BOB)
    cluster.run(300)
    cluster.held = late
    cluster.let_through()
    cluster.run(1)
    assert not bob.got(Granted)
