"""What clients may ask and are told (``node/sessions.py``, ``node/specs.py``): who is admitted, what is verified."""

from typing import Any

import pytest

from leaderlease.node import sessions, specs
from leaderlease.node.auth import Principal
from leaderlease.node.driver import ATTEMPT_TIMEOUT_MS
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.paxos.messages import Accept, Peeked, SyncPage
from leaderlease.wire.session import (
    AcquireRequest,
    DeclareRequest,
    Done,
    Failed,
    GetRequest,
    GoAway,
    Granted,
    KeepAlive,
    ListRequest,
    Spec,
    StepDownRequest,
    Transition,
    Verified,
    VerifyRequest,
    WatchRequest,
)
from leaderlease.wire.session import Leases as LeasesAnswer
from support.core import ALICE, BOB, CHARLIE
from support.nodes import KEY, NAME, Client, Cluster, holding, nowhere, of_kind


def _declare(cluster: Cluster, spec: Spec | None, member: int = 1) -> list[tuple[int, str]]:
    ends: list[tuple[int, str]] = []
    cluster[member].sessions.specs.declare(NAME, spec, lambda term, code, text: ends.append((term, code)))
    cluster.run(100)
    return ends


def _codes(client: Client) -> list[str]:
    return [answer.code for answer in client.got(Failed)]


def _strict(cluster: Cluster) -> None:
    """Let no node declare by itself."""
    for member in (1, 2, 3):
        cluster[member].sessions.specs.is_automatic = False


# --- tokens and reads --------------------------------------------------------------------------------------------


def _verify(cluster: Cluster, member: int, term: int) -> list[Any]:
    asker = cluster[member].client("resource")
    asker.tell(VerifyRequest(1, NAME, term))
    cluster.run(1_000)
    return asker.inbox


def test_h21_a_token_that_only_a_minority_has_accepted_is_not_current() -> None:
    """R7: Bob's Accept reached one node: his term was proposed, and never chosen; and Alice's is not known to be."""
    cluster = Cluster()
    holding(cluster)
    cluster[2].driver.on_message("2", Accept(1, KEY, Ballot(9, "2", 1), Value(2, BOB, 60_000)))
    cluster.run()
    cluster.crash(3)
    for term in (2, 1):
        (answer,) = _verify(cluster, 1, term)
        assert (type(answer), answer.is_current) == (Verified, False)


def test_h21_a_token_is_looked_at_again_while_the_lease_is_in_transition() -> None:
    """A take-over was half-way at the first look: the answer is that of a majority a moment later."""
    cluster = Cluster()
    holding(cluster)
    cluster.holds = of_kind(Accept)
    cluster[1].leases.take_over(cluster[1].leases.homes[KEY])
    cluster.run(10)
    held, cluster.held = cluster.held, []
    for source, target, message in held[:1]:
        cluster[target].driver.on_message(source, message)
    asker = cluster[3].client("resource")
    cluster.holds = lambda source, target, message: isinstance(message, Peeked) and source in "12" and source != target
    asker.tell(VerifyRequest(1, NAME, 1))
    cluster.run(1)
    answers, cluster.held = cluster.held, []
    cluster.holds = nowhere
    # The first look sees the old ballot at node 3 and the new one at another; then the rest of the Accepts arrive.
    cluster.held = [one for one in answers if one[2].accepted != cluster[3].register().accepted]
    assert cluster.held
    cluster[3].driver.peer_changed({"1": "2", "2": "1"}[cluster.held[0][0]], False)
    cluster.let_through()
    cluster.run(1)
    assert not asker.inbox
    cluster.held = held[1:]
    cluster.let_through()
    cluster.run(100)
    assert asker.inbox == [Verified(1, True, 1)]


def test_h21_a_token_that_nobody_holds_any_more_is_not_current() -> None:
    """R7: the tombstone of a lock without an end has the term of who let go."""
    cluster = Cluster()
    alice = holding(cluster, duration_ms=None)
    alice.release(ALICE)
    cluster.run(100)
    assert _verify(cluster, 2, 1) == [Verified(1, False, 1)]


def test_h21_without_a_majority_nobody_says_anything_about_a_token_or_a_holder() -> None:
    """One node's register is no answer."""
    cluster = Cluster()
    holding(cluster)
    cluster.crash(1)
    cluster.crash(3)
    assert [answer.code for answer in _verify(cluster, 2, 1)] == ["quorum"]
    asker = cluster[2].client("somebody")
    asker.tell(GetRequest(1, NAME))
    asker.tell(StepDownRequest(2, NAME, ""))
    cluster.run(1_000)
    assert _codes(asker) == ["quorum", "quorum"]


def test_h21_what_is_read_is_held_in_transition_or_vacant_and_names_no_holder_of_the_past() -> None:
    """From a majority; a vacant lease has the term and no holder, and nobody can be asked to step down from it."""
    cluster = Cluster()
    alice, asker = holding(cluster), cluster[3].client("somebody")

    def read() -> tuple[str, Holder | None, int]:
        asker.inbox.clear()
        asker.tell(GetRequest(1, NAME))
        cluster.run(1_000)
        ((info,),) = (answer.items for answer in asker.got(LeasesAnswer))
        return info.state, info.holder, info.term

    assert read() == ("held", ALICE, 1)
    value = cluster[1].register().value
    assert value is not None
    for member in ("2", "3"):
        cluster[member].driver.on_message(member, Accept(1, KEY, Ballot(20 + int(member), member, 1), value))
    cluster.run()
    assert read() == ("in transition", ALICE, 1)
    cluster[1].leases.take_over(cluster[1].leases.homes[KEY])
    cluster.run(1_000)
    assert read() == ("held", ALICE, 1)
    alice.release(ALICE)
    cluster.run()
    assert read() == ("vacant", None, 1)
    asker.tell(StepDownRequest(2, NAME, ""))
    cluster.run(1_000)
    assert _codes(asker) == ["not_holder"]


def test_nobody_is_shown_the_nonce_of_another_h19() -> None:
    """H19: not in an answer, a list or a watch: it is all that tells a holder from a stranger."""
    cluster = Cluster()
    alice = holding(cluster)
    pod = Client(cluster[2], "pod")
    pod.session.principal = Principal(False, "shop", "sa", "pod-1", "uid-1")
    pod.tell(GetRequest(1, NAME))
    pod.tell(ListRequest(2, "shop/"))
    pod.tell(WatchRequest(3, NAME, True))
    pod.tell(AcquireRequest(4, 1, NAME, Holder("pod-1", "uid-1", "f" * 32), 60_000, False))
    cluster.run(1_000)
    alice.release(ALICE)
    alice.acquire(BOB)
    cluster.run(1_000)
    answers = [one.holder for answer in pod.got(LeasesAnswer) for one in answer.items]
    events = [one.holder for one in pod.got(Transition) if one.holder is not None]
    denied = [one.holder for one in pod.inbox if type(one).__name__ == "Denied"]
    assert [len(answers), len(events), len(denied)] == [2, 2, 1]
    assert {(holder.name in ("alice", "bob"), holder.nonce) for holder in answers + events + denied} == {(True, "")}


# --- who is admitted ---------------------------------------------------------------------------------------------


def test_a_lease_that_nobody_declared_is_given_to_nobody() -> None:
    """Not the first time that it is asked for, and not while that answer is remembered."""
    cluster = Cluster()
    _strict(cluster)
    alice = cluster[1].client("alice")
    for _ in range(2):
        alice.acquire(ALICE)
        cluster.run(100)
    assert _codes(alice) == ["refused", "refused"]
    assert not alice.got(Granted)


def test_a_declaration_counts_when_a_majority_has_accepted_it() -> None:
    """R6, H21: its Accepts were lost: the node that wrote it does not believe it, and says that it is unknown."""
    cluster = Cluster()
    _strict(cluster)
    cluster.loses = of_kind(Accept)
    ends: list[str] = []
    cluster[1].sessions.specs.declare(NAME, Spec(1_000), lambda term, code, text: ends.append(code))
    cluster.run(ATTEMPT_TIMEOUT_MS + 10)
    assert ends == []
    cluster.run(60_000)
    assert ends == ["unknown"]


def test_a_second_declaration_at_the_same_time_is_turned_away_r3() -> None:
    """R3: one attempt a register at a time; and without a majority none is begun."""
    cluster = Cluster()
    ends: list[tuple[int, str]] = []
    for _ in range(2):
        cluster[1].sessions.specs.declare(NAME, Spec(1_000), lambda term, code, text: ends.append((term, code)))
    for _ in range(2):
        cluster[1].sessions.specs.write("a/keys", b"x", lambda term, code, text: ends.append((term, code)))
    assert ends == [(0, "unknown"), (0, "unknown")]
    cluster.run(1_000)
    assert ends[2:] == [(1, ""), (1, "")]
    for member in "23":
        cluster[1].driver.peer_changed(member, False)
    assert _declare(cluster, Spec(2_000)) == [(0, "quorum")]


def test_a_withdrawn_declaration_is_withdrawn_everywhere_and_after_a_restart() -> None:
    """R7: a tombstone: the generation goes on rising, and no disk brings the old one back."""
    cluster = Cluster()
    _strict(cluster)
    assert _declare(cluster, Spec(1_000)) == [(1, "")]
    cluster.restart(2)
    assert cluster[2].sessions.specs.declared == {NAME: Spec(1_000)}
    assert _declare(cluster, None) == [(2, "")]
    cluster.restart(3)
    cluster.run(1_000)
    assert [cluster[n].sessions.specs.declared for n in (1, 2, 3)] == [{}] * 3
    assert _declare(cluster, Spec(2_000)) == [(3, "")]


def test_what_was_remembered_as_undeclared_is_forgotten_when_it_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing remembers more than some names."""
    monkeypatch.setattr(specs, "UNDECLARED_MAX", 2)
    cluster = Cluster()
    _strict(cluster)
    client = cluster[2].client()
    for number in range(5):
        client.acquire(ALICE, name=f"shop/lease-{number}")
        cluster.run(10)
        assert len(cluster[2].sessions.specs._undeclared_until_ms) <= 2
    client.acquire(ALICE)
    cluster.run(10)
    _declare(cluster, Spec(1_000))
    assert NAME not in cluster[2].sessions.specs._undeclared_until_ms
    client.inbox.clear()
    client.acquire(ALICE)
    cluster.run(100)
    assert client.got(Granted)


@pytest.mark.parametrize(
    ("spec", "is_admitted"),
    [
        (Spec(1_000), True),
        (Spec(1_000, identities=("bob",)), True),
        (Spec(1_000, identities=("alice", "charlie")), False),
        (Spec(1_000, mode="Paused"), False),
        (Spec(1_000, mode="ObserveOnly"), False),
    ],
)
def test_who_is_admitted_is_what_was_declared(spec: Spec, is_admitted: bool) -> None:
    """By name and mode; its duration and delay are the declared ones, whatever was asked for."""
    cluster = Cluster()
    _declare(cluster, spec)
    bob = cluster[1].client("bob")
    bob.acquire(BOB, duration_ms=77_000)
    cluster.run(100)
    assert [granted.duration_ms for granted in bob.got(Granted)] == ([1_000] if is_admitted else [])
    assert _codes(bob) == ([] if is_admitted else ["refused"])


def test_who_holds_goes_on_whatever_is_declared_meanwhile_h19() -> None:
    """By nonce: Alice may ask again although nobody new is admitted; another process of her name may not."""
    cluster = Cluster()
    holding(cluster).cut()
    _declare(cluster, Spec(60_000, mode="Paused"))
    again, twin = cluster[2].client("alice, again"), cluster[2].client("alice's twin")
    again.acquire(ALICE, goes_on=1)
    twin.acquire(Holder("alice", "", "9" * 32))
    cluster.run(100)
    assert [granted.term for granted in again.got(Granted)] == [1]
    assert _codes(twin) == ["refused"]


def test_who_waits_when_something_else_is_declared_waits_under_that_or_not_any_more() -> None:
    """Charlie is not admitted any more; Bob's grant has the new duration, and Alice, who holds, is left alone."""
    cluster = Cluster()
    _declare(cluster, Spec(60_000))
    alice = holding(cluster)
    bob, charlie, again = (cluster[1].client(name) for name in ("bob", "charlie", "alice, again"))
    bob.acquire(BOB)
    charlie.acquire(CHARLIE)
    cluster[1].leases.homes[KEY].is_busy = True
    again.acquire(ALICE)
    _declare(cluster, Spec(2_000, 500, ("bob",)), member=2)
    assert _codes(charlie) == ["refused"]
    assert _codes(again) == []
    cluster[1].leases.free(cluster[1].leases.homes[KEY])
    cluster.run(100)
    again.release(ALICE)
    alice.release(ALICE)
    cluster.run(100)
    assert not charlie.got(Granted)
    (granted,) = bob.got(Granted)
    assert granted.duration_ms == 2_000
    register = cluster[2].register()
    assert register.value is not None
    assert register.value.lock_delay_ms == 500


def test_a_refusal_by_an_old_copy_is_asked_of_a_majority() -> None:
    """H21: node 3 missed that Bob was admitted: a refusal is final for a client, so a majority makes it."""
    cluster = Cluster()
    _declare(cluster, Spec(1_000, identities=("alice",)))
    cluster.loses = lambda source, target, message: target == "3"
    _declare(cluster, Spec(1_000, identities=("alice", "bob")))
    cluster.loses = of_kind(SyncPage, target="3")
    bob = cluster[3].client("bob")
    bob.acquire(BOB)
    cluster.run(200)
    assert _codes(bob) == []
    assert bob.got(Granted)


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "no-slash"}, "no-slash"),
        ({"holder": Holder("bob", "", "short")}, "nonce"),
        ({"holder": Holder("", "", "b" * 32)}, "name"),
        ({"duration_ms": 99}, "duration"),
        ({"duration_ms": -1}, "duration"),
        ({"priority": 1 << 40}, "priority"),
    ],
)
def test_a_request_that_cannot_work_costs_no_ballot(change: dict[str, Any], says: str) -> None:
    """R7, H19, H20: it is answered with a sentence about what is wrong, before anything is written."""
    cluster = Cluster()
    client = cluster[1].client()
    fields = {"request": 1, "seq": 1, "name": NAME, "holder": BOB, "duration_ms": 1_000, "is_waiting": True}
    client.tell(AcquireRequest(**{**fields, **change}))
    cluster.run(1_000)
    (answer,) = client.inbox
    assert (answer.code, says in answer.text) == ("invalid", True)
    assert cluster[1].driver.stats.ballots_started == 0


@pytest.mark.parametrize(
    "spec",
    [
        Spec(99),
        Spec(1_000, lock_delay_ms=-1),
        Spec(1_000, lock_delay_ms=1 << 40),
        Spec(1_000, mode="Sometimes"),
        Spec(1_000, identities=("",)),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(spec: Spec) -> None:
    """H20: what every grant would be made with is checked when it is written, not when somebody waits for it."""
    cluster = Cluster()
    client = cluster[1].client()
    client.tell(DeclareRequest(1, NAME, spec))
    cluster.run(1_000)
    assert _codes(client) == ["invalid"]
    assert not client.got(Done)


def test_what_one_session_keeps_open_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, never queued; and a request number that is open already is no second request."""
    for bound, value in (("WAITS_MAX", 2), ("WATCHES_MAX", 1), ("PAGE_MAX", 2)):
        monkeypatch.setattr(sessions, bound, value)
    cluster = Cluster()
    holding(cluster)
    client = cluster[1].client()
    first = client.acquire(BOB)
    cluster.run(10)
    client.tell(AcquireRequest(first, 9, NAME, CHARLIE, 1_000, True))
    client.acquire(CHARLIE)
    cluster.run(10)
    client.acquire(Holder("dave", "", "d" * 32))
    for number in (50, 51):
        client.tell(WatchRequest(number, "shop/", False))
    cluster.run(10)
    refused = [(answer.request, answer.code) for answer in client.got(Failed)]
    assert refused == [(1, "invalid"), (3, "invalid"), (51, "invalid")]
    other = cluster[1].client("other")
    for number in range(3):
        other.acquire(Holder("o", "", f"{number:032x}"), name=f"shop/other-{number}")
        cluster.run(10)
    other.tell(ListRequest(60, "shop/", "", 1_000))
    assert [(len(answer.items), answer.after) for answer in other.got(LeasesAnswer)] == [(2, "shop/other-0")]


def test_a_request_of_a_connection_that_is_gone_waits_for_nothing() -> None:
    """H35: it was cut while its declaration was looked up."""
    cluster = Cluster()
    cluster.holds = of_kind(Peeked)
    gone = cluster[1].client("gone")
    gone.acquire(ALICE)
    cluster.run(10)
    gone.cut()
    cluster.let_through()
    cluster.run(500)
    assert gone.session.waits == {}
    assert cluster[1].driver.stats.ballots_started == 0


def test_the_watches_of_a_connection_end_with_it() -> None:
    """Nobody is told through a connection that is gone, and nothing is kept for it."""
    cluster = Cluster()
    client = cluster[1].client()
    client.tell(WatchRequest(1, NAME, True))
    client.cut()
    assert cluster[1].driver.learner._watches == []


def test_h16_a_grant_and_a_take_over_count_from_the_last_message_that_the_node_has_read() -> None:
    """R6: a keepalive moves that on, and it never goes back."""
    cluster = Cluster()
    client = cluster[1].client()
    client.tell(KeepAlive(7))
    client.tell(KeepAlive(3))
    assert client.session.last_seq == 7
    client.tell(AcquireRequest(1, 9, NAME, ALICE, 1_000, True))
    cluster.run()
    assert [granted.seq for granted in client.got(Granted)] == [9]
    client.tell(AcquireRequest(2, 5, "shop/other", BOB, 1_000, True))
    assert client.session.last_seq == 9


def test_nothing_is_pushed_to_a_session_that_is_gone_and_a_young_one_is_not_sent_away() -> None:
    """H35: what it would have heard is lost with its connection."""
    cluster = Cluster()
    client = cluster[1].client()
    client.session.send_away(cluster.now_ms + 999)
    client.session.send_away(cluster.now_ms + 1_000)
    assert len(client.got(GoAway)) == 1
    client.cut()
    client.session.push(Done(1, 1))
    assert len(client.inbox) == 1
