"""Directed traces through whole nodes: what the driver and the lease logic make of the rules of the core."""

import contextlib

from leaderlease.errors import RemoteProtocolError
from leaderlease.node.learner import Watch
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Chosen, Prepare, Renew, Renewed
from leaderlease.wire.session import Failed, GoAway, Granted, KeptAlive, Lost, Spec, Transition
from support.core import ALICE, BOB, CHARLIE
from support.nodes import KEY, NAME, Client, Cluster


def _holding(cluster: Cluster, member: int = 1, duration_ms: int = 1_000) -> Client:
    client = cluster[member].client("alice")
    client.acquire(ALICE, duration_ms=duration_ms)
    cluster.run()
    (granted,) = client.got(Granted)
    assert granted.term == 1
    return client


def _refuse_renewals_at(cluster: Cluster, *members: int) -> None:
    """Let these members promise a higher ballot of the holder's own nonce, so that they refuse its renewals."""
    for member in members:
        ballot = Ballot(cluster[member].register().accepted.counter + 5, "3", 1)
        cluster[member].driver.on_message("3", Prepare(1, KEY, ballot, ALICE.nonce))
    cluster.run()


def _take_over_under_way(cluster: Cluster) -> Client:
    """Alice holds at node 1, whose renewal was refused; its take-over has sent the Accepts to the others."""
    alice = _holding(cluster)
    _refuse_renewals_at(cluster, 2, 3)
    cluster.run(300)
    cluster.holds = lambda source, target, message: isinstance(message, Accept) and target != "1"
    alice.keepalive()
    cluster.run(200)
    assert cluster.held, "the take-over is in phase 2"
    return alice


def test_h23_a_take_over_that_outlives_its_connection_releases_nothing() -> None:
    """R6, H17: Alice lost the connection and not her belief: nobody gets in before her time has run out."""
    cluster = Cluster()
    alice = _take_over_under_way(cluster)
    alice.cut()
    cluster.let_through()
    cluster.run()
    assert [cluster[n].is_live() for n in (1, 2, 3)] == [True] * 3
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(500)
    assert not bob.got(Granted), "Alice was last renewed 500 ms ago and believes for 1 s"
    cluster.run(3_000)
    assert bob.got(Granted)[0].term == 2


def test_h23_a_take_over_that_another_node_overtook_releases_nothing() -> None:
    """Alice went to node 2, which serves her under another ballot; what node 1 still finishes is no release."""
    cluster = Cluster()
    _take_over_under_way(cluster)
    at_two = cluster[2].client("alice, again")
    cluster.holds = lambda source, target, message: source == "1" or target == "1"
    at_two.acquire(ALICE)
    cluster.run()
    assert at_two.got(Granted)
    cluster.let_through()
    cluster.run()
    assert sum(cluster[n].is_live() for n in (1, 2, 3)) >= 2
    bob = cluster[3].client("bob")
    bob.acquire(BOB)
    cluster.run(500)
    assert not bob.got(Granted)


def test_h23_a_release_during_a_take_over_frees_the_lease_when_that_has_ended() -> None:
    """Alice lets go while her node moves to a higher ballot: what is accepted a moment later does not outlive that."""
    cluster = Cluster()
    alice = _take_over_under_way(cluster)
    alice.release(ALICE)
    cluster.let_through()
    cluster.run()
    assert [cluster[n].is_live() for n in (1, 2, 3)] == [False] * 3
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(50)
    assert bob.got(Granted)[0].term == 2


def test_a_holder_that_is_silent_is_not_taken_over_without_a_message_of_its_own() -> None:
    """R6: its process is paused, the connection is open: the node does not prolong on its own what nobody asks for.

    A candidate elsewhere has raised the promise, which looks like a lease that must be taken over.
    """
    cluster = Cluster()
    _holding(cluster)
    dave = cluster[1].client("bob")
    dave.acquire(BOB)
    cluster.run(500)
    # Node 3's candidate asks at the very moment at which the timers end; its Accepts are slow.
    charlie = cluster[3].client("charlie")
    charlie.acquire(CHARLIE)
    cluster.holds = lambda source, target, message: source == "3" and isinstance(message, Accept)
    before = cluster[1].register().accepted
    cluster.run(800)
    assert all(
        register.value is None or register.value.nonce != ALICE.nonce or register.accepted == before
        for register in (cluster[n].register() for n in (1, 2, 3))
    ), "nobody accepted Alice again"
    cluster.let_through()
    cluster.run(500)
    assert len(dave.got(Granted)) + len(charlie.got(Granted)) >= 1


def test_a_grant_to_a_connection_that_has_gone_stays_until_it_expires() -> None:
    """H35: its outcome is unknown to the client, who may ask again with the same nonce anywhere and learns it."""
    cluster = Cluster()
    gone = cluster[1].client("alice")
    cluster.holds = lambda source, target, message: isinstance(message, Accept) and target != "1"
    gone.acquire(ALICE)
    cluster.run()
    gone.cut()
    cluster.let_through()
    cluster.run()
    assert not gone.got(Granted)
    assert [cluster[n].is_live() for n in (1, 2, 3)] == [True] * 3
    again = cluster[2].client("alice, again")
    again.acquire(ALICE)
    cluster.run()
    assert again.got(Granted)[0].term == 1


def test_a_cancelled_grant_is_let_go_unless_another_connection_holds_it() -> None:
    """The candidate left the queue while its accepts were under way: the lease is free at once."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    cluster.holds = lambda source, target, message: isinstance(message, Accept) and target != "1"
    request = alice.acquire(ALICE)
    cluster.run()
    home, waiter = alice.session.waits[request]
    cluster[1].leases.cancel(waiter, home)
    cluster.let_through()
    cluster.run()
    assert not alice.got(Granted)
    assert [cluster[n].is_live() for n in (1, 2, 3)] == [False] * 3


def test_h12_a_poisoned_ballot_does_not_poison_the_proposer_of_the_node_that_refuses_it() -> None:
    """Refused as an acceptor, and not remembered as a proposer either: the node goes on electing."""
    cluster = Cluster()
    poison = Ballot(1 << 62, "2", 1)
    for message in (
        Prepare(1, KEY, poison, ""),
        Accept(1, KEY, poison, Value(1, BOB)),
        Chosen(1, KEY, poison, Value(1, BOB), "acquired"),
    ):
        with contextlib.suppress(RemoteProtocolError):
            cluster[1].driver.on_message("2", message)
    assert cluster[1].driver.proposer.counter < 1 << 32
    alice = cluster[1].client("alice")
    alice.acquire(ALICE)
    cluster.run(1_000)
    assert alice.got(Granted)


def test_h16_answers_to_an_earlier_life_count_for_no_renewal_of_the_next() -> None:
    """Attempt numbers differ between two lives of a node, as ballots do."""
    cluster = Cluster()
    attempts: list[int] = []

    def note(source: str, target: str, message: object) -> bool:
        if isinstance(message, Renew) and source == "1":
            attempts.append(message.attempt)
        return False

    cluster.holds = note
    for life in range(2):
        if life:
            cluster.restart(1)
            cluster.run(2_000)
        alice = cluster[1].client("alice")
        alice.acquire(ALICE)
        cluster.run(2_000)
        alice.keepalive()
        cluster.run()
        assert alice.got(KeptAlive)
    assert len(attempts) == 4
    assert len(set(attempts)) == 2, "two peers, two lives"


def test_h16_a_keepalive_counts_once_a_majority_of_members_acknowledged_it_in_this_attempt() -> None:
    """One member's answer to this attempt and another's to the one before are no majority."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.holds = lambda source, target, message: isinstance(message, Renew | Renewed)
    # Of the first attempt node 2 hears, and its answer stays under way; of the second nobody does.
    alice.keepalive()
    cluster.run(10)
    first = [m for m in cluster.held if m[1] == "2"]
    cluster.held = []
    alice.keepalive()
    cluster.run(10)
    second = list(cluster.held)
    assert second
    cluster.held = []
    for source, target, message in first:
        cluster[target].driver.on_message(source, message)
    answers = [m for m in cluster.held if isinstance(m[2], Renewed)]
    cluster.held = []
    for source, target, message in answers:
        cluster[target].driver.on_message(source, message)
    cluster.run()
    assert [kept.seq for kept in alice.got(KeptAlive) if not kept.failed] == [2]


def test_h34_a_keepalive_names_what_a_majority_did_not_acknowledge() -> None:
    """R6, H17: two leases, one refused at two members: the answer renews one, names the other, and takes it over."""
    cluster = Cluster()
    alice = _holding(cluster)
    other = "shop/other"
    alice.acquire(BOB, name=other)
    cluster.run()
    _refuse_renewals_at(cluster, 2, 3)
    seq = alice.keepalive()
    cluster.run()
    assert alice.got(KeptAlive) == [KeptAlive(seq, 2, (NAME,))]
    assert not alice.got(Lost), "its take-over went through under a higher ballot"


def test_a_stranger_acknowledges_no_renewal() -> None:
    """R8: answers count by member uuid, and this one is of no member."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.loses = lambda source, target, message: isinstance(message, Renew)
    alice.keepalive()
    cluster.run(1)
    attempt = next(iter(cluster[1].sessions.renewals._rounds))
    cluster[1].driver.on_message("9", Renewed(attempt))
    cluster.run(10)
    assert not alice.got(KeptAlive)


def test_a_member_that_lacks_the_value_is_sent_it_r2() -> None:
    """R2, H2: NEED_VALUE at the first renewal; the Accept follows at once, and the next renewal counts there."""
    cluster = Cluster()
    cluster.loses = lambda source, target, message: target == "3" and isinstance(message, Accept | Chosen)
    alice = _holding(cluster)
    assert cluster[3].holder() == ""
    cluster.loses = lambda source, target, message: False
    alice.keepalive()
    cluster.run()
    assert cluster[3].holder() == "alice"
    answers: list[Renewed] = []
    cluster.loses = lambda source, target, message: (
        source == "3" and isinstance(message, Renewed) and (answers.append(message) is not None)
    )
    alice.keepalive()
    cluster.run()
    assert [(answer.nacked, answer.unknown) for answer in answers] == [((), ())]


def test_another_epoch_acknowledges_no_renewal() -> None:
    """R8: a member of another configuration says so, and nothing was renewed there."""
    cluster = Cluster()
    alice = _holding(cluster)
    for member in (2, 3):
        cluster[member].driver.acceptor.epoch = 2
    seq = alice.keepalive()
    cluster.run(1_000)
    assert alice.got(KeptAlive) == [KeptAlive(seq, 1, (NAME,))]


def test_phase_1_in_advance_meets_the_guard_of_a_holder_whose_timer_lapsed_at_one_node_only() -> None:
    """Node 3 heard no renewal and prepares for nobody: it is promised its own, and the others' guards stand."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.loses = lambda source, target, message: target == "3" and isinstance(message, Renew)
    for _ in range(5):
        cluster.run(300)
        alice.keepalive()
        cluster.run()
    home = cluster[3].leases.home(KEY)
    cluster[3].leases.wake_in(home, 1)
    cluster.run(50)
    assert home.prepared is None
    alice.keepalive()
    cluster.run()
    assert alice.got(KeptAlive)[-1].failed == ()
    assert not alice.got(Lost)


def test_waiting_candidates_outlast_the_loss_of_the_quorum() -> None:
    """Nobody is told anything while too few nodes answer; with the quorum back the candidate is served."""
    cluster = Cluster()
    _holding(cluster, 2).cut()
    bob = cluster[1].client("bob")
    bob.acquire(BOB)
    cluster.run()
    cluster.crash(2)
    cluster.crash(3)
    cluster.run(5_000)
    assert bob.inbox == []
    cluster.restart(2)
    cluster.run(2_000)
    assert bob.got(Granted)


def test_a_read_that_comes_back_late_does_not_undo_a_newer_declaration() -> None:
    """H21: the newer one was installed here while the read was under way."""
    cluster = Cluster()
    outcomes: list[object] = []
    first, second = Spec(1_000), Spec(2_000)
    cluster.loses = lambda source, target, message: "1" in (source, target)
    cluster[2].sessions.specs.declare(NAME, first, lambda *end: outcomes.append(end))
    cluster.run(100)
    cluster.loses = lambda source, target, message: False
    assert outcomes == [(1, "", "")]
    cluster.holds = lambda source, target, message: target == "1" and type(message).__name__ == "Peeked"
    cluster[1].sessions.specs.look_up(NAME, lambda spec, text: outcomes.append(spec))
    cluster.run(10)
    held, cluster.held = cluster.held, []
    cluster[2].sessions.specs.declare(NAME, second, lambda *end: outcomes.append(end))
    cluster.run(10)
    assert cluster[1].sessions.specs.declared[NAME] == second
    cluster.holds = lambda source, target, message: False
    cluster.held = held
    cluster.let_through()
    cluster.run(400)
    assert cluster[1].sessions.specs.declared[NAME] == second


def test_a_watch_says_where_it_has_missed_a_term() -> None:
    """H21: node 3 heard of term 1 and then of term 3: its watchers are told to look again."""
    cluster = Cluster()
    alice = _holding(cluster)
    seen: list[Transition] = []
    cluster[3].driver.learner.subscribe(Watch(1, NAME, True, seen.append), 0)
    cluster.loses = lambda source, target, message: target == "3"
    alice.release(ALICE)
    cluster.run()
    alice.acquire(BOB)
    cluster.run(100)
    alice.release(BOB)
    cluster.run()
    cluster.loses = lambda source, target, message: False
    alice.acquire(CHARLIE)
    cluster.run(1_000)
    assert [(transition.kind, transition.term) for transition in seen] == [("state", 1), ("resync", 3)]


def test_digests_that_never_agree_are_compared_less_and_less_often() -> None:
    """A restarted node may not take what lies below its ceiling: pages that bring nothing are not read for ever."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.crash(3)
    alice.release(ALICE)
    cluster.run()
    alice.acquire(BOB)
    cluster.run(100)
    alice.release(BOB)
    pages = [0]

    def count(source: str, target: str, message: object) -> bool:
        pages[0] += type(message).__name__ == "SyncRequest" and source == "3"
        return False

    cluster.holds = count
    cluster.restart(3)
    cluster.run(3_600_000)
    assert pages[0] < 60


def test_a_copy_of_a_released_lease_arms_a_full_timer_and_costs_time_only() -> None:
    """Catch-up cannot know of the release; a majority has let go, so the next holder does not wait for the copy."""
    cluster = Cluster(5)
    cluster.crash(5)
    alice = _holding(cluster)
    alice.release(ALICE)
    cluster.run()
    cluster.restart(5)
    cluster.run(10)
    assert cluster[5].holder() == "alice"
    assert cluster[5].is_live()
    bob = cluster[1].client("bob")
    bob.acquire(BOB)
    cluster.run(50)
    assert bob.got(Granted)[0].term == 2


def test_an_orderly_release_waits_for_no_lock_delay() -> None:
    """The delay is for holders that were lost; one that let go has stopped its work."""
    cluster = Cluster()
    ended: list[object] = []
    cluster[1].sessions.specs.declare(NAME, Spec(1_000, lock_delay_ms=60_000), lambda *end: ended.append(end))
    cluster.run(100)
    alice = _holding(cluster)
    assert cluster[2].register().remaining_ms(cluster.now_ms) == 61_001
    alice.release(ALICE)
    cluster.run()
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(100)
    assert bob.got(Granted)[0].term == 2


def test_a_node_that_reaches_no_majority_sends_holders_and_candidates_to_others() -> None:
    """The nearest node is cut off from the others, not from its clients: Alice keeps her term through another node."""
    cluster = Cluster()
    alice, bob = _holding(cluster, duration_ms=3_000), cluster[1].client("bob")
    bob.acquire(BOB)
    cluster.run(1_000)
    cluster.holds = lambda source, target, message: "1" in (source, target) and source != target
    alice.keepalive()
    cluster.run(600)
    assert [answer.failed for answer in alice.got(KeptAlive)] == [("shop/lock",)]
    assert len(alice.got(GoAway)) == 1
    for member in "23":
        cluster[1].driver.peer_changed(member, False)
    bob.keepalive()
    cluster.run(1)
    assert len(bob.got(GoAway)) == 1, "he holds nothing, and would wait here in vain"
    at_two = cluster[2].client("alice, again")
    at_two.acquire(ALICE, duration_ms=3_000)
    cluster.run(1)
    assert at_two.got(Granted)[0].term == 1


def test_a_session_that_has_just_come_is_not_sent_away() -> None:
    """Where no node reaches a majority clients would run in circles."""
    cluster = Cluster()
    cluster.run(5_000)
    for member in "23":
        cluster[1].driver.peer_changed(member, False)
    bob = cluster[1].client("bob")
    bob.acquire(BOB)
    cluster.run(500)
    assert [answer.code for answer in bob.got(Failed)] == ["quorum"]
    assert not bob.got(GoAway)
    cluster.run(500)
    bob.acquire(BOB)
    cluster.run(500)
    assert bob.got(GoAway)


def test_what_one_restarted_member_refuses_is_taken_over_before_another_one_is_lost() -> None:
    """R5: a restart refuses older ballots. Two keepalives later every member acknowledges, so any one may go."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.restart(2)
    for _ in range(2):
        alice.keepalive()
        cluster.run(300)
    cluster.crash(3)
    alice.keepalive()
    cluster.run(300)
    assert [message.failed for message in alice.got(KeptAlive)] == [(), (), ()]
    assert not alice.got(Lost)
