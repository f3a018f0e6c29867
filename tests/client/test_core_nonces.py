"""What a session core does with messages that come late, twice or for a lease that it does not hold (R6, H18, H23)."""

import time
from typing import Any

import msgspec
import pytest

from leaderlease.client import core as client_core
from leaderlease.client.campaign import Campaign, Phase
from leaderlease.client.clock import Instant, system_clock
from leaderlease.client.core import RETRY_MAX_MS, SessionCore
from leaderlease.client.events import Ended, Lapsed, Replied, StepDown, Won
from leaderlease.errors import ConfigError, ConnectionFailed
from leaderlease.paxos.lease import RHO_PPM_WITHOUT_RAW_CLOCK, Holder, validity_ms
from leaderlease.wire import session as wire
from support.fakenode import HELLO

NAME = "shop/billing"
ALICE = Holder("alice", "", "a" * 32)
BOB = Holder("bob", "", "b" * 32)


class World:
    """One core and one clock."""

    def __init__(self, rho_ppm: int = 500) -> None:
        self.core = SessionCore(rho_ppm=rho_ppm)
        self.now = Instant(0.0, 0.0)
        self.events: list[Any] = []
        self.connect()

    def connect(self) -> list[Any]:
        self.core.open(self.now)
        messages = self.hear(HELLO)
        for keepalive in of(messages, wire.KeepAlive):
            self.hear(wire.KeptAlive(keepalive.seq, 0))
        return messages

    def cut(self) -> None:
        self.core.close("cut", self.now)
        self.sent()

    def sent(self) -> list[Any]:
        messages, self.core.outgoing = self.core.outgoing, []
        self.events += self.core.events
        self.core.events = []
        return messages

    def hear(self, message: Any) -> list[Any]:
        self.core.receive(message, self.now)
        return self.sent()

    def after(self, milliseconds: float) -> list[Any]:
        self.now = Instant(self.now.boot_ms + milliseconds, self.now.raw_ms + milliseconds)
        self.core.tick(self.now)
        return self.sent()

    def ask(self, duration_ms: int | None = 3_000, is_waiting: bool = False) -> tuple[Campaign, Any]:
        campaign = self.core.campaign(NAME, ALICE, duration_ms, is_waiting, self.now)
        return campaign, of(self.sent(), wire.AcquireRequest)[0]

    def hold(self, duration_ms: int | None = 3_000) -> Campaign:
        campaign, asked = self.ask(duration_ms)
        self.hear(granted(asked))
        assert campaign.phase is Phase.HELD
        return campaign

    def told(self, kind: type[Any]) -> list[Any]:
        return of(self.events, kind)


def of(messages: list[Any], kind: type[Any]) -> list[Any]:
    """Return those of one kind."""
    return [message for message in messages if isinstance(message, kind)]


def granted(asked: Any, *, term: int = 1, ordinal: int = 1, duration_ms: int | None = -1) -> wire.Granted:
    """Return the grant of a request."""
    duration = asked.duration_ms if duration_ms == -1 else duration_ms
    return wire.Granted(asked.request, asked.name, asked.holder.nonce, term, duration, asked.seq, ordinal)


@pytest.fixture
def world() -> World:
    return World()


# --- nonces ------------------------------------------------------------------------------------------------------


def test_h18_a_nonce_is_used_once_at_a_time(world: World) -> None:
    """R6: neither while it asks, nor while it holds, nor after a loss while its work may still be ending."""
    campaign, asked = world.ask()
    for _ in ("asking", "held", "lost"):
        with pytest.raises(ConfigError, match="is in use"):
            world.core.campaign("shop/other", ALICE, 3_000, True, world.now)
        if campaign.phase is Phase.ASKING:
            world.hear(granted(asked))
        else:
            world.after(2_900)
    assert campaign.phase is Phase.LOST


def test_h23_a_grant_for_a_lease_whose_work_is_ending_is_not_let_go_at_once(world: World) -> None:
    """R6: it was given up while node 2 was asked to go on; what that grants ends when the work has, and not before."""
    campaign = world.hold()
    world.cut()
    asked = of(world.connect(), wire.AcquireRequest)[0]
    world.after(campaign.remaining_ms(world.now) - campaign.give_up_ms + 1)
    assert campaign.phase is Phase.LOST
    assert of(world.hear(granted(asked)), wire.ReleaseRequest) == []
    world.core.release(campaign, "", world.now)
    assert [message.nonce for message in of(world.sent(), wire.ReleaseRequest)] == [ALICE.nonce]


def test_h23_a_lost_lease_is_let_go_when_its_validity_has_run_out(world: World) -> None:
    """R6: nobody told that the work has ended, so the time says it; the core wakes up for that by itself."""
    campaign = world.hold()
    world.after(campaign.remaining_ms(world.now) - campaign.give_up_ms + 1)
    assert campaign.phase is Phase.LOST
    keepalive = of(world.after(0), wire.KeepAlive)
    assert world.core.due_ms(world.now) <= campaign.give_up_ms
    assert keepalive == []
    released = of(world.after(campaign.give_up_ms), wire.ReleaseRequest)
    assert [message.nonce for message in released] == [ALICE.nonce]


def test_what_the_node_has_taken_away_is_not_released_there(world: World) -> None:
    """R6: the node said "lost"; there is nothing of this session any more that a keepalive could prolong."""
    campaign = world.hold()
    world.hear(wire.Lost(NAME, ALICE.nonce, "another holder has it"))
    assert campaign.phase is Phase.LOST
    assert of(world.after(5_000), wire.ReleaseRequest) == []


@pytest.mark.parametrize("duration_ms", [3_000, None])
def test_h18_a_grant_of_another_term_or_duration_is_a_loss(world: World, duration_ms: int | None) -> None:
    """R6, R7: and a lock without an end is given back, for no time does that."""
    for change in ({"term": 2}, {"duration_ms": 9_000 if duration_ms else 3_000}):
        again = World()
        campaign = again.hold(duration_ms)
        again.cut()
        asked = of(again.connect(), wire.AcquireRequest)[0]
        sent = again.hear(granted(asked, **change))
        assert campaign.phase is Phase.LOST
        assert campaign.remaining_ms(again.now) == 0
        is_endless = change.get("duration_ms", duration_ms) is None
        assert len(of(sent, wire.ReleaseRequest)) == is_endless


def test_abandoning_what_is_held_and_releasing_what_is_not_do_nothing(world: World) -> None:
    """R6: a caller that gives up a moment too late does not end a lease that somebody works under."""
    campaign, asked = world.ask()
    assert world.core.release(campaign, "", world.now) is None
    assert (campaign.phase, world.sent()) == (Phase.ASKING, [])
    world.hear(granted(asked))
    world.core.abandon(campaign, world.now)
    assert (campaign.phase, world.sent()) == (Phase.HELD, [])


# --- messages that are for nothing here --------------------------------------------------------------------------


def test_who_only_asks_has_nothing_to_lose_and_nothing_to_step_down_from(world: World) -> None:
    """R6: what a node says about an earlier life of this nonce ends no candidacy."""
    campaign, _ = world.ask(is_waiting=True)
    world.hear(wire.Lost(NAME, ALICE.nonce, "another holder has it"))
    world.hear(wire.StepDownAsked(NAME, ALICE.nonce, "bob"))
    assert campaign.phase is Phase.ASKING
    assert world.told(Lapsed) == world.told(StepDown) == []


def test_a_grant_that_came_too_late_is_not_lost_before_it_was_won(world: World) -> None:
    """H17: it is asked for again; the keepalives of this session cover it at the node, and say nothing here."""
    campaign, asked = world.ask()
    world.now = Instant(2_900.0, 2_900.0)
    world.hear(granted(asked))
    assert campaign.phase is Phase.ASKING
    seq = of(world.after(10_000), wire.KeepAlive)[0].seq
    world.hear(wire.KeptAlive(seq, 1))
    assert campaign.phase is Phase.ASKING
    assert world.told(Lapsed) == world.told(Won) == []


def test_what_comes_after_the_end_of_a_connection_is_not_heard(world: World) -> None:
    """R6: the rest of the batch in which a node sent its clients away."""
    campaign = world.hold()
    world.hear(wire.GoAway("leaving"))
    world.hear(wire.Lost(NAME, ALICE.nonce, "too late"))
    assert campaign.phase is Phase.HELD
    assert world.told(Lapsed) == []


def test_h16_nothing_of_the_next_connection_counts_from_a_reading_of_the_last(world: World) -> None:
    """R6: a grant that names a message of an earlier connection has no basis here."""
    campaign, asked = world.ask(is_waiting=True)
    world.cut()
    again = of(world.connect(), wire.AcquireRequest)[0]
    late = msgspec.structs.replace(granted(again), seq=asked.seq)
    world.hear(late)
    assert campaign.phase is Phase.ASKING


def test_after_a_reconnect_each_campaign_asks_once(world: World) -> None:
    """H35: also the one that was to be asked for again after a pause, and nothing is remembered of earlier requests."""
    _, asked = world.ask(is_waiting=True)
    world.hear(wire.Failed(asked.request, "unknown", "no answer"))
    world.cut()
    assert world.core._asks == {}
    assert len(of(world.connect(), wire.AcquireRequest)) == 1
    assert of(world.after(2_000), wire.AcquireRequest) == []
    assert len(world.core._asks) == 1


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_holder_that_is_denied_has_lost_and_hears_so(is_waiting: bool) -> None:
    """R6: it asked another node to go on, and somebody else has it."""
    world = World()
    campaign, asked = world.ask(is_waiting=is_waiting)
    world.hear(granted(asked))
    world.cut()
    again = of(world.connect(), wire.AcquireRequest)[0]
    world.hear(wire.Denied(again.request, NAME, BOB, 2, 1_000))
    assert campaign.phase is Phase.LOST
    assert [lapsed.campaign for lapsed in world.told(Lapsed)] == [campaign]


@pytest.mark.parametrize("code", ["quorum", "unknown"])
def test_a_holder_is_not_lost_because_a_node_reaches_no_majority(code: str) -> None:
    """R6: it believes until its time has run out, and asks again meanwhile."""
    world = World()
    campaign = world.hold()
    world.cut()
    again = of(world.connect(), wire.AcquireRequest)[0]
    world.hear(wire.Failed(again.request, code, "1 of 3 nodes answers"))
    assert campaign.phase is Phase.HELD
    assert of(world.after(100), wire.AcquireRequest)


def test_pauses_between_two_questions_grow_and_stay_bounded(world: World) -> None:
    """The first is at once; no later one comes early, and none is put off for longer than the bound."""
    _, asked = world.ask(is_waiting=True)
    pauses = []
    for _ in range(14):
        world.hear(wire.Failed(asked.request, "unknown", "no answer"))
        waited = 0
        while not (found := of(world.after(0), wire.AcquireRequest)):
            waited += 10
            assert waited <= RETRY_MAX_MS
            found = of(world.after(10), wire.AcquireRequest)
            if found:
                break
            for seq in range(200):
                world.core._keepalives.answered(seq)
        asked = found[0]
        pauses.append(waited)
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == RETRY_MAX_MS


def test_who_is_abandoned_between_two_questions_asks_no_more(world: World) -> None:
    """H35: nobody waits for it any more."""
    campaign, asked = world.ask(is_waiting=True)
    for _ in range(3):
        world.hear(wire.Failed(asked.request, "unknown", "no answer"))
        again = of(world.after(0), wire.AcquireRequest)
        asked = again[0] if again else asked
    world.hear(wire.Failed(asked.request, "unknown", "no answer"))
    world.core.abandon(campaign, world.now)
    assert of(world.after(2_000), wire.AcquireRequest) == []


def test_what_is_declared_sets_the_pace_from_the_grant_on(world: World) -> None:
    """R6: nobody asked for 300 ms, so the first keepalive after the grant must not come at the default's third."""
    campaign, asked = world.ask(0)
    assert world.core.pace.period_ms > 900
    world.hear(granted(asked, duration_ms=300))
    assert campaign.phase is Phase.HELD
    assert world.core.pace.period_ms <= 100
    assert campaign.remaining_ms(world.now) == validity_ms(300)


def test_leases_and_requests_of_one_session_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused with a sentence."""
    monkeypatch.setattr(client_core, "LEASES_MAX", 1)
    monkeypatch.setattr(client_core, "REQUESTS_MAX", 1)
    world.ask()
    with pytest.raises(ConfigError, match="at most 1 leases"):
        world.core.campaign("shop/other", BOB, 3_000, True, world.now)
    world.core.ask(wire.StatusRequest(0), is_repeatable=True)
    with pytest.raises(ConnectionFailed, match="1 requests wait"):
        world.core.ask(wire.StatusRequest(0), is_repeatable=True)


# --- time --------------------------------------------------------------------------------------------------------


def test_h31_the_bound_on_the_rate_of_this_platforms_clock_counts() -> None:
    """R6: with a clock that may run 10 % wrong the same lease is believed for less, and given up sooner."""
    exact, rough = World(), World(RHO_PPM_WITHOUT_RAW_CLOCK)
    for world, rho_ppm in ((exact, 500), (rough, RHO_PPM_WITHOUT_RAW_CLOCK)):
        campaign = world.hold(3_000)
        assert campaign.remaining_ms(world.now) == validity_ms(3_000, rho_ppm)
        short = Campaign("shop/short", BOB, 150, False, rho_ppm)
        assert short.give_up_ms == validity_ms(150, rho_ppm) / 4


def test_h31_a_platform_without_a_raw_clock_gets_the_rough_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """R6: its monotonic clock may be slewed."""
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    clock, rho_ppm = system_clock()
    assert rho_ppm == RHO_PPM_WITHOUT_RAW_CLOCK
    reading = clock()
    assert reading.boot_ms == reading.raw_ms


@pytest.mark.parametrize(
    ("duration_ms", "give_up_ms"),
    [(None, 0.0), (10_000, 2_000.0), (1_000, 200.0), (240, 50.0), (100, validity_ms(100) / 4)],
)
def test_a_lease_is_given_up_in_time_to_stop_the_work(duration_ms: int | None, give_up_ms: float) -> None:
    """H23: a fifth of the duration, at least 50 ms, and never so much that no renewal could come in time."""
    assert Campaign(NAME, ALICE, duration_ms, False, 500).give_up_ms == give_up_ms


# --- the next node -----------------------------------------------------------------------------------------------


def test_h18_a_holder_tells_the_next_node_the_term_that_it_wants_to_keep(world: World) -> None:
    """R6: it waits there, goes before those that only ask, and is given no other term."""
    other = world.core.campaign("shop/other", BOB, 3_000, False, world.now)
    world.sent()
    campaign, asked = world.ask()
    world.hear(granted(asked, term=7))
    world.cut()
    first, second = of(world.connect(), wire.AcquireRequest)
    assert (first.holder, first.term, first.is_waiting) == (ALICE, 7, True)
    assert (second.holder, second.term, second.is_waiting) == (BOB, 0, False)
    assert (campaign.phase, other.phase) == (Phase.HELD, Phase.ASKING)


def test_h28_a_node_of_another_cluster_is_left_and_not_remembered(world: World) -> None:
    """R8: its terms are of another history; the session goes on with the cluster that it began with."""
    campaign = world.hold()
    mine = world.core._cluster
    assert mine
    for _ in range(2):
        world.cut()
        world.core.open(world.now)
        world.hear(msgspec.structs.replace(HELLO, cluster="another"))
        assert not world.core.is_ready
        assert "cluster another" in world.told(Ended)[-1].reason
    world.core.open(world.now)
    world.hear(msgspec.structs.replace(HELLO, cluster=""))
    world.hear(msgspec.structs.replace(HELLO, cluster="another"))
    assert world.core.is_ready, "a second hello is nothing"
    assert world.core._cluster == mine
    assert campaign.phase is Phase.HELD


def test_a_request_is_sent_once_a_connection_and_answered_once(world: World) -> None:
    """H35: the answer that comes twice is for nobody."""
    request = world.core.ask(wire.StatusRequest(0), is_repeatable=True)
    assert len(of(world.sent(), wire.StatusRequest)) == 1
    world.core._send(request)
    assert world.sent() == []
    for _ in range(2):
        world.hear(wire.Done(request.id, 1))
    assert len(world.told(Replied)) == 1
    world.cut()
    assert of(world.connect(), wire.StatusRequest) == []
