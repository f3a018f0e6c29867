"""Grants, take-overs and the queue of one node (``node/leases.py``): who is told that it holds, and from when on."""

from typing import Any

import pytest

from leaderlease.node import leases
from leaderlease.node.driver import ATTEMPT_TIMEOUT_MS
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.paxos.messages import Accept, Accepted, Chosen, Peeked, Prepare, Promise, Renew
from leaderlease.wire.session import Denied, Failed, Granted, Kept, Lost
from support.core import ALICE, BOB, CHARLIE
from support.nodes import KEY, NAME, Client, Cluster, between, home_of, nowhere, of_kind


def _holding(cluster: Cluster, member: int = 1, duration_ms: int | None = 1_000) -> Client:
    client = cluster[member].client("alice")
    client.acquire(ALICE, duration_ms=duration_ms)
    cluster.run()
    assert client.got(Granted)[-1].term
    return client


def _refuse_renewals_at(cluster: Cluster, *members: int) -> None:
    for member in members:
        ballot = Ballot(cluster[member].register().accepted.counter + 5, "3", 1)
        cluster[member].driver.on_message("3", Prepare(1, KEY, ballot, ALICE.nonce))
    cluster.run()


# --- grants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_waiting", [True, False])
def test_h13_nobody_is_granted_what_no_majority_has_accepted(is_waiting: bool) -> None:
    """R6, R7: the Accepts were sent and one member took them; the time ran out, and that is no yes."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    cluster.loses = of_kind(Accept, source="1")
    alice.acquire(ALICE, is_waiting=is_waiting)
    cluster.run(3 * ATTEMPT_TIMEOUT_MS)
    assert cluster[1].holder() == "alice"
    assert not alice.got(Granted)


def test_h16_a_grant_names_the_message_before_its_round_and_not_a_later_one() -> None:
    """R6: her keepalive came while the acceptances were under way: no round followed it."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    cluster.holds = of_kind(Accepted, target="1")
    alice.acquire(ALICE)
    cluster.run(100)
    assert alice.keepalive() == 2
    cluster.run(100)
    cluster.let_through()
    cluster.run()
    assert [granted.seq for granted in alice.got(Granted)] == [1]


def test_h16_a_take_over_that_succeeds_at_once_names_the_keepalive_that_it_followed() -> None:
    """R6: and none that the client never sent."""
    cluster = Cluster()
    alice = _holding(cluster)
    _refuse_renewals_at(cluster, 2, 3)
    cluster[1].driver.proposer.observe(Ballot(50, "3", 1))
    seq = alice.keepalive()
    cluster.run()
    assert [kept.seq for kept in alice.got(Kept)] == [seq]


def test_h18_a_node_that_is_asked_to_go_on_with_a_term_grants_no_other() -> None:
    """R6, R7: Alice believed term 1 until it ran out; whoever asks for her with that term gets no second one."""
    cluster = Cluster()
    alice = _holding(cluster)
    alice.cut()
    cluster.run(2_000)
    bob = cluster[1].client("bob")
    bob.acquire(BOB)
    cluster.run(100)
    bob.release(BOB)
    cluster.run(100)
    late = cluster[2].client("alice, late")
    late.acquire(ALICE, goes_on=1)
    cluster.run(100)
    assert not late.got(Granted)
    assert late.got(Denied), "and however long it would have waited, it hears so"


def test_h18_a_take_over_wins_no_other_term() -> None:
    """R6, R7: Alice's node was cut off while her term ended and Bob's began and ended; it goes on for nobody."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.loses = between("12", "13")
    cluster.run(1_500)
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(100)
    assert bob.got(Granted)[0].term == 2
    bob.release(BOB)
    cluster.run(100)
    cluster.loses = of_kind(Chosen)
    alice.keepalive()
    cluster.run(1_000)
    assert [lost.nonce for lost in alice.got(Lost)] == [ALICE.nonce]
    assert not [accepted for accepted in (cluster[n].holder() for n in (2, 3)) if accepted == "alice"]


def test_h35_who_asks_for_its_own_lease_is_not_held_up_by_the_guard_of_its_own_node() -> None:
    """R1: Alice's connection was cut, and she asks again at the same node: the guard there is her own."""
    cluster = Cluster()
    _holding(cluster).cut()
    cluster[1].client("bob").acquire(BOB)
    again = cluster[1].client("alice, again")
    again.acquire(ALICE)
    cluster.run(10)
    assert [granted.term for granted in again.got(Granted)] == [1]


def test_h35_who_asks_for_its_own_lease_passes_guards_that_its_node_has_only_heard_of() -> None:
    """R1: node 2 lost the Accept and heard who was chosen; Bob waits there, held off, and Alice need not."""
    cluster = Cluster()
    cluster.loses = of_kind(Accept, target="2")
    _holding(cluster, duration_ms=60_000).cut()
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(100)
    again = cluster[2].client("alice, again")
    cluster.loses = nowhere
    again.acquire(ALICE)
    cluster.run(10)
    assert [granted.term for granted in again.got(Granted)] == [1]
    assert not bob.got(Granted)


def test_the_holder_among_the_candidates_goes_first_when_a_majority_names_it_r1() -> None:
    """R1: its own node had not even heard of it: Bob's attempt there meets the guards, and names whom to ask for."""
    cluster = Cluster()
    cluster.loses = of_kind(Accept, Chosen, target="2")
    _holding(cluster, duration_ms=60_000).cut()
    bob, again = cluster[2].client("bob"), cluster[2].client("alice, again")
    cluster.loses = nowhere
    bob.acquire(BOB)
    again.acquire(ALICE)
    cluster.run(500)
    assert [granted.term for granted in again.got(Granted)] == [1]
    assert not bob.got(Granted)


def test_one_attempt_of_a_lease_at_a_time_r3() -> None:
    """R3: a second candidate, a keepalive and a timer while the first attempt is under way start no ballot."""
    cluster = Cluster()
    alice, bob = cluster[1].client("alice"), cluster[1].client("bob")
    cluster.holds = of_kind(Promise, target="1")
    alice.acquire(ALICE)
    cluster.run(10)
    bob.acquire(BOB)
    cluster[1].leases.wake_in(home_of(cluster), 1)
    cluster.run(100)
    assert cluster[1].driver.stats.ballots_started == 1


def test_one_take_over_of_a_lease_at_a_time_r3() -> None:
    """R3: the second keepalive finds it under way."""
    cluster = Cluster()
    alice = _holding(cluster)
    _refuse_renewals_at(cluster, 2, 3)
    cluster[1].driver.proposer.observe(Ballot(50, "3", 1))
    cluster.holds = of_kind(Accepted, target="1")
    alice.keepalive()
    cluster.run(10)
    before = cluster[1].driver.stats.ballots_started
    home = home_of(cluster)
    cluster[1].leases.take_over(home)
    cluster[1].leases.wake_in(home, 1)
    cluster.run(10)
    assert cluster[1].driver.stats.ballots_started == before


# --- losing ------------------------------------------------------------------------------------------------------


def test_a_take_over_that_meets_another_holder_is_a_loss_and_said_at_once_h18() -> None:
    """R6: three guards of Bob: this nonce will not hold again, so its client should not wait for its time to end."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster.loses = between("12", "13")
    cluster.run(1_500)
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(100)
    assert bob.got(Granted)
    cluster.loses = of_kind(Chosen)
    alice.keepalive()
    cluster.run(200)
    assert [lost.reason for lost in alice.got(Lost)] == ["another holder has it"]
    assert bob.got(Granted)
    assert not bob.got(Lost)


def test_a_node_learns_from_a_hint_that_its_holder_has_lost() -> None:
    """R6: another node had Bob chosen; Alice's node says so at once, and serves her no more."""
    cluster = Cluster()
    alice = _holding(cluster)
    home = home_of(cluster)
    cluster[1].driver.on_message("2", Chosen(1, KEY, Ballot(9, "2", 1), Value(2, BOB, 1_000), "acquired"))
    assert [lost.reason for lost in alice.got(Lost)] == ["another holder has it"]
    assert home.held is None


def test_a_hint_of_an_older_ballot_costs_no_lease() -> None:
    """R6: it comes late, from before Alice's grant."""
    cluster = Cluster()
    cluster[1].driver.proposer.observe(Ballot(7, "1", 1))
    alice = _holding(cluster)
    cluster[1].driver.on_message("2", Chosen(1, KEY, Ballot(1, "2", 1), Value(1, BOB, 1_000), "acquired"))
    assert not alice.got(Lost)
    assert home_of(cluster).held is not None


def test_h18_a_hint_of_another_term_of_the_same_nonce_is_a_loss() -> None:
    """R6: a nonce has one term that was ever believed."""
    cluster = Cluster()
    alice = _holding(cluster)
    cluster[1].driver.on_message("2", Chosen(1, KEY, Ballot(9, "2", 1), Value(3, ALICE, 1_000), "acquired"))
    assert [lost.reason for lost in alice.got(Lost)] == ["its term has ended"]


def test_hints_about_other_registers_change_no_lease() -> None:
    """H21: a configuration or a declaration that was chosen is nobody's lease."""
    cluster = Cluster()
    cluster[1].driver.on_message("2", Chosen(1, "s/shop/lock", Ballot(9, "2", 1), Value(2, BOB, 1_000), "acquired"))
    assert list(cluster[1].driver.learner.views) == []
    assert list(cluster[1].leases.homes) == []


def test_a_proposer_counts_on_from_a_hint_r3() -> None:
    """R3: what was chosen is a ballot that was seen."""
    cluster = Cluster()
    cluster[1].driver.on_message("2", Chosen(1, KEY, Ballot(70, "2", 1), Value(2, BOB, 1_000), "acquired"))
    assert cluster[1].driver.proposer.next_ballot().counter == 71


def test_a_grant_at_a_node_ends_what_it_kept_for_another_holder() -> None:
    """R6: Alice's timers ended unnoticed by her node, which then had Bob chosen: she is told before he is."""
    cluster = Cluster()
    alice, bob = _holding(cluster), cluster[1].client("bob")
    bob.acquire(BOB)
    cluster.run(1_200)
    assert bob.got(Granted)[0].term == 2
    assert [lost.nonce for lost in alice.got(Lost)] == [ALICE.nonce]
    assert alice.session.leases == {}


def test_h23_a_session_that_has_gone_is_renewed_and_taken_over_by_nobody() -> None:
    """R6: its leases live until they expire; a timer that still runs for one prolongs nothing."""
    cluster = Cluster()
    alice = _holding(cluster)
    home = home_of(cluster)
    _refuse_renewals_at(cluster, 2, 3)
    cluster.loses = of_kind(Prepare, source="1")
    alice.keepalive()
    cluster.run(100)
    alice.cut()
    cluster.loses = nowhere
    before = [cluster[n].register().expires_ms for n in (1, 2, 3)]
    cluster[1].leases.wake_in(home, 1)
    cluster.run(800)
    assert [cluster[n].register().expires_ms for n in (1, 2, 3)] == before
    assert home.held is None


def test_a_take_over_is_tried_again_for_one_duration_after_a_keepalive_r6() -> None:
    """R6: then nobody renews for a holder that says nothing."""
    cluster = Cluster()
    alice = _holding(cluster)
    _refuse_renewals_at(cluster, 2, 3)
    cluster.loses = of_kind(Prepare, source="1")
    alice.keepalive()
    cluster.run(1_600)
    before = cluster[1].driver.stats.ballots_started
    cluster.run(5_000)
    assert cluster[1].driver.stats.ballots_started == before
    assert before > 2, "it was tried again while it could help"


def test_a_keepalive_does_not_extend_the_time_of_a_take_over_that_another_began_r6() -> None:
    """R6: attempts that follow each other count from the keepalive that asked for the first."""
    cluster = Cluster()
    alice = _holding(cluster)
    _refuse_renewals_at(cluster, 2, 3)
    cluster.loses = of_kind(Prepare, source="1")
    alice.keepalive()
    cluster.run(10)
    held = home_of(cluster).held
    assert held is not None
    until_ms = held.take_over_until_ms
    cluster.run(900)
    assert held.take_over_until_ms == until_ms


# --- the queue ---------------------------------------------------------------------------------------------------


def test_h8_a_majority_that_guards_another_is_a_no() -> None:
    """R1: who takes no for an answer gets it from a majority, and no ballot is spent on it."""
    cluster = Cluster()
    _holding(cluster)
    before = sum(cluster[n].driver.stats.ballots_started for n in (1, 2, 3))
    bob = cluster[2].client("bob")
    bob.acquire(BOB, is_waiting=False)
    cluster.run(100)
    (answer,) = bob.got(Denied)
    assert (answer.holder.name, answer.term) == ("alice", 1)
    assert 0 < answer.retry_after_ms <= 1_001
    assert sum(cluster[n].driver.stats.ballots_started for n in (1, 2, 3)) == before


def test_a_live_guard_of_the_own_node_spares_ballots() -> None:
    """H8: a candidate that waits behind a holder starts none; it would only be refused."""
    cluster = Cluster()
    _holding(cluster, duration_ms=60_000)
    cluster[2].client("bob").acquire(BOB)
    cluster.run(5_000)
    assert cluster[2].driver.stats.ballots_started == 0


def test_guards_that_refused_an_attempt_are_waited_for() -> None:
    """H8: node 2 knew nothing of Alice; after one refusal it starts no ballot before her guards may have ended."""
    cluster = Cluster()
    cluster.loses = lambda source, target, message: target == "2"
    _holding(cluster, duration_ms=5_000)
    cluster.loses = of_kind(Renew, Chosen, target="2")
    bob = cluster[2].client("bob")
    bob.acquire(BOB)
    cluster.run(4_000)
    assert cluster[2].driver.stats.ballots_started == 1
    cluster.run(3_000)
    assert bob.got(Granted)


def test_a_ballot_that_was_preempted_is_tried_again_after_a_pause() -> None:
    """R3: another's higher promise is no answer to the candidate, and no reason to ask without a pause."""
    cluster = Cluster()
    for member in (2, 3):
        cluster[member].driver.on_message("3", Prepare(1, KEY, Ballot(30, "3", 1), ""))
    cluster.run()
    alice = cluster[1].client("alice")
    alice.acquire(ALICE)
    cluster.run()
    assert not alice.got(Granted)
    cluster.run(100)
    assert [granted.term for granted in alice.got(Granted)] == [1]
    assert cluster[1].driver.stats.ballots_started == 2


def test_h35_who_does_not_wait_hears_that_the_outcome_is_unknown() -> None:
    """R6: its Accepts may have been taken: neither yes nor no, and the queue forgets the request."""
    cluster = Cluster()
    alice = cluster[1].client("alice")
    cluster.loses = of_kind(Accepted, target="1")
    alice.acquire(ALICE, is_waiting=False)
    cluster.run(ATTEMPT_TIMEOUT_MS + 1)
    assert [answer.code for answer in alice.got(Failed)] == ["unknown"]
    assert alice.session.waits == {}


def test_without_a_majority_no_ballot_is_started_and_who_does_not_wait_hears_so() -> None:
    """R6: nobody could win it."""
    cluster = Cluster()
    for member in "23":
        cluster[1].driver.peer_changed(member, False)
    alice = cluster[1].client("alice")
    alice.acquire(ALICE, is_waiting=False)
    cluster.run(100)
    assert [answer.code for answer in alice.got(Failed)] == ["quorum"]
    assert cluster[1].driver.stats.ballots_started == 0


def test_a_lock_without_an_end_that_was_completed_is_announced_r7() -> None:
    """R7: the lecture's Charlie: whoever finishes it for him tells everybody, his own node too."""
    cluster = Cluster()
    for member, who in (("1", ALICE), ("3", CHARLIE)):
        ballot = Ballot(int(member), member, 1)
        cluster[member].driver.on_message(member, Accept(1, KEY, ballot, Value(1, who, None)))
    cluster.run()
    heard: list[tuple[str, Value]] = []

    def listen(source: str, target: str, message: Any) -> bool:
        if isinstance(message, Chosen):
            heard.append((target, message.value))
        return False

    cluster.holds = listen
    bob = cluster[2].client("bob")
    bob.acquire(BOB, duration_ms=None)
    cluster.run(100)
    assert not bob.got(Granted)
    assert heard == [("1", Value(1, CHARLIE, None)), ("3", Value(1, CHARLIE, None))]
    assert cluster[2].driver.learner.views[NAME].holder == CHARLIE


def test_candidates_of_one_lease_and_what_waits_for_its_attempt_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """R9: a stalled lease costs a bounded queue, and who is one too many hears so."""
    monkeypatch.setattr(leases, "WAITERS_MAX", 2)
    monkeypatch.setattr(leases, "TODO_MAX", 1)
    cluster = Cluster()
    alice = _holding(cluster)
    names = [cluster[1].client(f"candidate {number}") for number in range(3)]
    for number, client in enumerate(names):
        client.acquire(Holder(f"c{number}", "", f"{number:032x}"))
    cluster.run()
    assert [len(client.got(Failed)) for client in names] == [0, 0, 1]
    home = home_of(cluster)
    home.is_busy = True
    assert [cluster[1].leases.when_free(home, lambda: None) for _ in range(2)] == [True, False]
    assert not alice.got(Lost)


def test_a_candidate_that_left_is_not_asked_for() -> None:
    """H8: it cancelled while it waited: the next one gets the lease, and no term goes by."""
    cluster = Cluster()
    alice = _holding(cluster)
    bob, charlie = cluster[1].client("bob"), cluster[1].client("charlie")
    request = bob.acquire(BOB)
    charlie.acquire(CHARLIE)
    home, waiter = bob.session.waits[request]
    cluster[1].leases.cancel(waiter, home)
    assert [waiter.holder.name for waiter in home.waiters] == ["charlie"]
    alice.release(ALICE)
    cluster.run(100)
    assert [granted.term for granted in charlie.got(Granted)] == [2]


def test_a_candidate_whose_connection_is_cut_does_not_wait_any_more() -> None:
    """H35: nobody would hear of the grant."""
    cluster = Cluster()
    alice = _holding(cluster)
    bob, charlie = cluster[1].client("bob"), cluster[1].client("charlie")
    bob.acquire(BOB)
    charlie.acquire(CHARLIE)
    bob.cut()
    alice.release(ALICE)
    cluster.run(100)
    assert [granted.term for granted in charlie.got(Granted)] == [2]


def test_a_prepared_vacancy_that_another_ballot_overtook_is_dropped() -> None:
    """R3: its promises are worth nothing any more."""
    cluster = Cluster()
    alice = _holding(cluster)
    alice.release(ALICE)
    cluster.run(100)
    assert home_of(cluster).prepared is not None
    cluster[2].client("bob").acquire(BOB)
    cluster.run(100)
    home = cluster[1].leases.homes.get(KEY)
    assert home is None or home.prepared is None


def test_a_lock_without_an_end_is_looked_at_again_from_time_to_time() -> None:
    """H21: the node missed the release, and no timer of its own ends: the candidate is served all the same."""
    cluster = Cluster()
    alice = _holding(cluster, duration_ms=None)
    bob = cluster[2].client("bob")
    bob.acquire(BOB, duration_ms=None)
    cluster.run(100)
    cluster.loses = lambda source, target, message: target == "2"
    alice.release(ALICE)
    cluster.run(1_000)
    cluster.loses = nowhere
    cluster.run(2 * leases.RECHECK_MS)
    assert [granted.term for granted in bob.got(Granted)] == [2]


def test_no_peek_and_no_ballot_follows_an_answer_that_came_too_late() -> None:
    """H16: a read that was given up counts for nothing when its answers come."""
    cluster = Cluster()
    _holding(cluster)
    bob = cluster[2].client("bob")
    cluster.holds = of_kind(Peeked, target="2")
    bob.acquire(BOB, is_waiting=False)
    cluster.run(600)
    assert [type(answer) for answer in bob.inbox] == [Failed]
    cluster.let_through()
    cluster.run(10)
    assert [type(answer) for answer in bob.inbox] == [Failed]
