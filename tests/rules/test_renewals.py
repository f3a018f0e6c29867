"""What a node makes of the answers to its renewals (``node/renewals.py``): who is told what, and who is taken over."""

import pytest

from leaderlease.node import renewals
from leaderlease.node.homes import Held
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.messages import Accept, Accepted, Chosen, Prepare, Renew, Renewed
from leaderlease.wire.session import Granted, Kept, KeptAlive, Lost
from support.core import ALICE, BOB
from support.nodes import KEY, NAME, Client, Cluster

NAMES = [f"shop/lease-{number}" for number in range(5)]


def _holding(cluster: Cluster, *names: str, member: int = 1) -> Client:
    client = cluster[member].client("alice")
    for number, name in enumerate(names or (NAME,)):
        client.acquire(ALICE if not number else type(ALICE)("alice", "", f"{number:032x}"), name=name)
        cluster.run()
    assert len(client.got(Granted)) == len(names or (NAME,))
    return client


def _held(cluster: Cluster, member: int = 1) -> Held:
    held = cluster[member].leases.homes[KEY].held
    assert held is not None
    return held


def _promise_another(cluster: Cluster, *members: int, name: str = NAME, nonce: str = ALICE.nonce) -> None:
    """Let these members promise a higher ballot of the holder's own nonce, so that they refuse its renewals."""
    for member in members:
        register = cluster[member].register(f"l/{name}")
        ballot = Ballot(register.accepted.counter + 5, "3", 1)
        assert register.value is not None
        cluster[member].driver.on_message("3", Prepare(1, f"l/{name}", ballot, register.value.nonce))
    cluster.run()


def test_h34_a_lease_whose_ballot_is_about_to_change_is_not_said_to_be_renewed() -> None:
    """R6: its take-over is under way, so no Renew carried it; the answer to the keepalive must not cover it."""
    cluster = Cluster()
    alice = _holding(cluster)
    _promise_another(cluster, 2, 3)
    cluster.holds = lambda source, target, message: isinstance(message, Accept) and target != "1"
    alice.keepalive()
    cluster.run(200)
    assert cluster[1].leases.homes[KEY].is_busy, "the take-over is in phase 2"
    seq = alice.keepalive()
    cluster.run()
    assert alice.got(KeptAlive)[-1] == KeptAlive(seq, 1, (NAME,))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_h34_a_keepalive_that_needs_several_messages_is_answered_when_all_have_ended(
    monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """R6: five leases, two in a message; one of the three messages is lost: what it carried is named."""
    monkeypatch.setattr(renewals, "RENEW_ITEMS_MAX", 2)
    cluster = Cluster()
    alice = _holding(cluster, *NAMES)
    sent: list[int] = []

    def loses(source: str, target: str, message: object) -> bool:
        if not isinstance(message, Renew):
            return False
        if message.attempt not in sent:
            sent.append(message.attempt)
        return sent.index(message.attempt) == lost

    cluster.loses = loses
    seq = alice.keepalive()
    cluster.run(100)
    assert not alice.got(KeptAlive)
    cluster.run(500)
    assert alice.got(KeptAlive) == [KeptAlive(seq, 5, tuple(NAMES[2 * lost : 2 * lost + 2]))]


def test_what_a_majority_refuses_is_taken_over_however_much_it_is_r5(monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: two of three were restarted: every lease needs a new ballot now, and the bound is for favours alone."""
    monkeypatch.setattr(renewals, "MENDS_MAX", 0)
    cluster = Cluster()
    alice = _holding(cluster)
    _promise_another(cluster, 2, 3)
    seq = alice.keepalive()
    cluster.run(200)
    assert alice.got(Kept) == [Kept(NAME, ALICE.nonce, seq)]
    assert cluster[2].register().accepted == cluster[2].register().promised == _held(cluster).ballot


def test_what_one_member_refuses_is_taken_over_a_few_at_a_time_r5(monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: one of three was restarted, and refuses all; nobody is in need, so nobody is held up."""
    monkeypatch.setattr(renewals, "MENDS_MAX", 2)
    cluster = Cluster()
    alice = _holding(cluster, *NAMES)
    for name in NAMES:
        _promise_another(cluster, 2, name=name)
    before = cluster[1].driver.stats.ballots_started
    alice.keepalive()
    cluster.run()
    assert cluster[1].driver.stats.ballots_started - before == 2
    for _ in range(8):
        alice.keepalive()
        cluster.run(200)
    registers = [cluster[2].register(f"l/{name}") for name in NAMES]
    assert all(register.promised == register.accepted for register in registers)
    assert {answer.failed for answer in alice.got(KeptAlive)} == {()}


def test_a_member_that_lacks_values_is_sent_a_few_at_a_time_r2(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2: it gets the rest with the next keepalives, and nobody starts a ballot for it."""
    monkeypatch.setattr(renewals, "REPAIRS_MAX", 2)
    cluster = Cluster()
    cluster.loses = lambda source, target, message: target == "3" and isinstance(message, Accept | Chosen)
    alice = _holding(cluster, *NAMES)
    cluster.loses = lambda source, target, message: False
    before = cluster[1].driver.stats.ballots_started
    for count in (2, 4, 5):
        alice.keepalive()
        cluster.run()
        assert sum(bool(cluster[3].holder(f"l/{name}")) for name in NAMES) == count
    assert cluster[1].driver.stats.ballots_started == before


def test_an_answer_about_the_holder_before_prolongs_nobody_r6() -> None:
    """R6: node 2 refused Alice's renewal; when that arrives Bob holds, silent: nothing is done in his name."""
    cluster = Cluster()
    alice, bob = _holding(cluster), cluster[1].client("bob")
    bob.acquire(BOB)
    cluster.loses = lambda source, target, message: isinstance(message, Renew | Renewed)
    alice.keepalive()
    cluster.run(1)
    (attempt,) = cluster[1].sessions.renewals._rounds
    alice.release(ALICE)
    cluster.run(100)
    assert bob.got(Granted)
    ballot, expires_ms = _held(cluster).ballot, cluster[2].register().expires_ms
    cluster.run(50)
    cluster[1].driver.on_message("3", Renewed(attempt, (), (0,)))
    cluster[1].driver.on_message("2", Renewed(attempt, (0,)))
    cluster.run(600)
    assert _held(cluster).ballot == ballot
    assert cluster[2].register().expires_ms == cluster[3].register().expires_ms == expires_ms


def test_positions_that_a_renewal_did_not_have_are_no_harm() -> None:
    """R2: what a peer answers is not trusted: the renewal counts where it was acknowledged, and the node goes on."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.loses = lambda source, target, message: isinstance(message, Renew)
    seq = alice.keepalive()
    cluster.run(1)
    (attempt,) = cluster[1].sessions.renewals._rounds
    cluster[1].driver.on_message("3", Renewed(attempt, (7,), (8,)))
    cluster[1].driver.on_message("2", Renewed(attempt))
    cluster.run()
    assert alice.got(KeptAlive) == [KeptAlive(seq, 1)]


def test_a_renewal_that_nobody_answered_takes_nothing_over_r6() -> None:
    """R6: without a majority no ballot could win either: the answer names the lease, and no ballot is started."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.loses = lambda source, target, message: isinstance(message, Renew)
    before = cluster[1].driver.stats.ballots_started
    alice.keepalive()
    cluster.run(600)
    assert [answer.failed for answer in alice.got(KeptAlive)] == [(NAME,)]
    assert cluster[1].driver.stats.ballots_started == before
    assert not alice.got(Lost)


def test_a_renewal_does_not_wait_for_a_member_that_has_gone() -> None:
    """R6: node 2 refuses, node 3 hangs and then loses its connection: there is nobody left to wait for."""
    cluster = Cluster()
    alice = _holding(cluster)
    _promise_another(cluster, 2)
    cluster.loses = lambda source, target, message: target == "3"
    alice.keepalive()
    cluster.run(10)
    assert not alice.got(KeptAlive)
    cluster[1].driver.peer_changed("3", False)
    cluster.run()
    assert [answer.failed for answer in alice.got(KeptAlive)] == [(NAME,)]


def test_an_ended_renewal_leaves_nothing_behind() -> None:
    """R6: what comes for it later has no attempt to count for, and no memory is kept for it."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.loses = lambda source, target, message: source == "3" and isinstance(message, Renewed)
    for _ in range(3):
        alice.keepalive()
        cluster.run(600)
    assert len(alice.got(KeptAlive)) == 3
    assert cluster[1].sessions.renewals._rounds == {}


def test_a_lock_without_an_end_is_not_renewed() -> None:
    """R2: nothing of it runs out, so a keepalive of its holder sends nothing to anybody."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    alice.acquire(ALICE, duration_ms=None)
    cluster.run()
    renewed: list[object] = []
    cluster.holds = lambda source, target, message: bool(isinstance(message, Renew) and (renewed.append(message) or 1))
    seq = alice.keepalive()
    cluster.run(100)
    assert alice.got(KeptAlive) == [KeptAlive(seq, 1)]
    assert renewed == []


def test_h16_a_take_over_counts_from_the_message_before_it() -> None:
    """R6: a keepalive that comes while it runs has its own clock reading, which no acceptance followed."""
    cluster = Cluster()
    alice = _holding(cluster)
    _promise_another(cluster, 2, 3)
    cluster.holds = lambda source, target, message: isinstance(message, Accepted)
    first = alice.keepalive()
    cluster.run(200)
    alice.keepalive()
    cluster.run(100)
    cluster.let_through()
    cluster.run()
    assert [answer.seq for answer in alice.got(Kept)] == [first]
