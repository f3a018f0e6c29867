"""The session core under a virtual clock: one directed trace for each rule of the client (R6, H16 to H18, H23, H35)."""

from typing import Any

import msgspec
import pytest

from leaderlease.client.campaign import Campaign, Phase
from leaderlease.client.clock import READINGS_MAX, Instant, Readings
from leaderlease.client.core import HELLO_TIMEOUT_MS, SessionCore
from leaderlease.client.events import Ended, Failure, Lapsed, Ready, Rejected, Replied, StepDown, Won
from leaderlease.client.keepalive import ANSWER_MAX_MS, IDLE, IDLE_PERIOD_MS, Pace, pace_of
from leaderlease.client.requests import WATCH_BUFFER_MAX
from leaderlease.errors import OutcomeUnknown
from leaderlease.paxos.lease import Holder, validity_ms
from leaderlease.wire import session as wire
from support.fakenode import HELLO, versions

NAME = "shop/billing"
ALICE = Holder("alice", "", "a" * 32)
BOB = Holder("bob", "", "b" * 32)
VALIDITY_MS = validity_ms(3_000)


class World:
    """One core, two clocks, and what came out."""

    def __init__(self) -> None:
        self.core = SessionCore(rho_ppm=500)
        self.now = Instant(0.0, 0.0)
        self.events: list[Any] = []

    def connect(self) -> list[Any]:
        self.core.open(self.now)
        assert isinstance(self.sent()[0], wire.Hello)
        messages = self.hear(HELLO)
        keepalive = next(message for message in messages if isinstance(message, wire.KeepAlive))
        assert not self.hear(wire.KeptAlive(keepalive.seq, 0))
        return messages

    def sent(self, kind: type[Any] = object) -> list[Any]:
        messages, self.core.outgoing = self.core.outgoing, []
        self.events += self.core.events
        self.core.events = []
        return [message for message in messages if isinstance(message, kind)]

    def hear(self, message: Any) -> list[Any]:
        self.core.receive(message, self.now)
        return self.sent()

    def after(self, milliseconds: float) -> list[Any]:
        """Let time pass and tick once."""
        self.pause(milliseconds)
        self.core.tick(self.now)
        return self.sent()

    def pause(self, milliseconds: float) -> None:
        """Let time pass unnoticed."""
        self.now = Instant(self.now.boot_ms + milliseconds, self.now.raw_ms + milliseconds)

    def ask(
        self, duration_ms: int | None = 3_000, is_waiting: bool = True, holder: Holder = ALICE
    ) -> tuple[Campaign, Any]:
        campaign = self.core.campaign(NAME, holder, duration_ms, is_waiting, self.now)
        return campaign, self.sent(wire.AcquireRequest)[0]

    def hold(self, duration_ms: int | None = 3_000, term: int = 1) -> Campaign:
        campaign, asked = self.ask(duration_ms, is_waiting=False)
        self.hear(granted(asked, asked.seq, term=term))
        assert campaign.phase is Phase.HELD
        return campaign

    def last(self, kind: type[Any]) -> Any:
        return [event for event in self.events if isinstance(event, kind)][-1]


def granted(asked: Any, seq: int, *, term: int = 1, ordinal: int = 1, duration_ms: int | None = -1) -> wire.Granted:
    duration = asked.duration_ms if duration_ms == -1 else duration_ms
    return wire.Granted(asked.request, asked.name, asked.holder.nonce, term, duration, seq, ordinal)


@pytest.fixture
def world() -> World:
    made = World()
    made.connect()
    return made


def test_validity_counts_from_the_send_never_from_the_reply(world: World) -> None:
    """An answer that took 400 ms leaves 400 ms less to believe."""
    campaign, asked = world.ask()
    world.pause(400)
    world.hear(granted(asked, asked.seq))
    assert campaign.remaining_ms(world.now) == VALIDITY_MS - 400
    assert world.last(Won).campaign is campaign


def test_renewal_counts_from_the_send_of_the_keepalive_it_names(world: World) -> None:
    """Of two keepalives under way, the answer to the first extends from the first."""
    campaign = world.hold(240)
    validity = validity_ms(240)
    first = world.after(80)[0]
    second = world.after(80)[0]
    world.hear(wire.KeptAlive(first.seq, 1))
    assert campaign.remaining_ms(world.now) == validity - 80
    world.hear(wire.KeptAlive(second.seq, 1))
    assert campaign.remaining_ms(world.now) == validity
    world.hear(wire.KeptAlive(first.seq, 1))
    assert campaign.remaining_ms(world.now) == validity


@pytest.mark.parametrize(("boot", "raw"), [(700.0, 100.0), (100.0, 700.0)])
def test_the_clock_that_ran_further_counts(world: World, boot: float, raw: float) -> None:
    """A suspend stops one clock, a slew bends one: the larger elapsed time is believed (H31)."""
    campaign = world.hold()
    now = Instant(world.now.boot_ms + boot, world.now.raw_ms + raw)
    assert campaign.remaining_ms(now) == VALIDITY_MS - 700


def test_late_acknowledgement_is_dropped_after_expiry(world: World) -> None:
    """The process slept through its validity: an answer that waited in the socket revives nothing (H18)."""
    campaign = world.hold()
    keepalive = world.after(1_000)[0]
    world.pause(VALIDITY_MS)
    assert campaign.remaining_ms(world.now) == 0
    world.hear(wire.KeptAlive(keepalive.seq, 1))
    assert campaign.phase is Phase.LOST
    assert campaign.remaining_ms(world.now) == 0
    assert "acknowledged" in world.last(Lapsed).reason


def test_lease_is_given_up_while_time_remains_to_stop(world: World) -> None:
    """At 20 % of the duration the loss is announced, and it is final."""
    campaign = world.hold()
    keepalive = world.after(1_000)[0]
    world.core.close("cut", world.now)
    world.pause(VALIDITY_MS - 1_000 - 601)
    world.core.tick(world.now)
    assert campaign.phase is Phase.HELD
    assert world.core.due_ms(world.now) == pytest.approx(1)
    world.after(1)
    assert campaign.phase is Phase.LOST
    world.hear(wire.KeptAlive(keepalive.seq, 1))
    assert campaign.remaining_ms(world.now) == 0


def test_keepalive_renews_up_to_its_ordinal_only(world: World) -> None:
    """A lease granted after the node counted is not in that keepalive; nor is one in ``failed``."""
    first = world.hold()
    campaign, asked = world.ask(holder=BOB)
    world.hear(granted(asked, asked.seq, ordinal=2))
    keepalive = world.after(1_000)[0]
    world.hear(wire.KeptAlive(keepalive.seq, 1))
    assert first.remaining_ms(world.now) == VALIDITY_MS
    assert campaign.remaining_ms(world.now) == VALIDITY_MS - 1_000
    keepalive = world.after(1_000)[0]
    world.hear(wire.KeptAlive(keepalive.seq, 2, (NAME,)))
    assert first.remaining_ms(world.now) == VALIDITY_MS - 1_000


def test_numbers_that_were_never_sent_extend_nothing(world: World) -> None:
    """What the node names must be a message of this connection."""
    campaign = world.hold()
    world.after(1_000)
    world.hear(wire.KeptAlive(99, 1))
    world.hear(wire.Kept(NAME, ALICE.nonce, 99))
    world.hear(wire.KeptAlive(0, 1))
    assert campaign.remaining_ms(world.now) == VALIDITY_MS - 1_000


def test_round_of_its_own_renews_one_lease(world: World) -> None:
    """``Kept`` extends from the message it names."""
    campaign = world.hold()
    keepalive = world.after(1_000)[0]
    world.pause(100)
    world.hear(wire.Kept(NAME, ALICE.nonce, keepalive.seq))
    assert campaign.remaining_ms(world.now) == VALIDITY_MS - 100


def test_grant_that_waited_too_long_is_proved_again(world: World) -> None:
    """A grant whose basis is too old was never believed: the same nonce asks for a fresh round (H17)."""
    campaign, asked = world.ask(0)
    world.pause(VALIDITY_MS - 600)
    world.hear(granted(asked, asked.seq, duration_ms=3_000))
    assert campaign.phase is Phase.ASKING
    again = next(m for m in world.after(0) if isinstance(m, wire.AcquireRequest))
    assert (again.holder, again.duration_ms) == (ALICE, 3_000)
    world.hear(granted(again, again.seq, ordinal=2))
    assert campaign.remaining_ms(world.now) == VALIDITY_MS


def test_fail_over_asks_again_for_the_same_nonce(world: World) -> None:
    """Held leases first, then candidates; the same term goes on, and from the new send (H35)."""
    held = world.hold()
    waiting, _ = world.ask(holder=BOB, is_waiting=True)
    world.core.close("cut", world.now)
    world.pause(500)
    again, other = (m for m in world.connect() if isinstance(m, wire.AcquireRequest))
    assert (again.holder, again.is_waiting, again.duration_ms) == (ALICE, True, 3_000)
    assert other.holder == BOB
    assert held.remaining_ms(world.now) == VALIDITY_MS - 500
    # A keepalive of the new connection renews nothing that this node has not granted yet.
    world.pause(100)
    world.hear(wire.KeptAlive(other.seq + 1, 5))
    assert held.remaining_ms(world.now) == VALIDITY_MS - 600
    world.hear(granted(again, again.seq))
    assert held.remaining_ms(world.now) == VALIDITY_MS - 100
    assert waiting.phase is Phase.ASKING


def test_messages_of_the_old_connection_are_no_basis_on_the_new_one(world: World) -> None:
    """A number from before the connection was lost extends nothing."""
    held = world.hold()
    world.core.close("cut", world.now)
    world.pause(500)
    again = next(m for m in world.connect() if isinstance(m, wire.AcquireRequest))
    world.hear(granted(again, again.seq - 1))
    assert held.phase is Phase.HELD
    assert held.remaining_ms(world.now) == VALIDITY_MS - 500
    assert isinstance(world.after(0)[0], wire.AcquireRequest)


def test_another_term_for_a_believed_nonce_is_a_loss(world: World) -> None:
    """Between the terms somebody else may have held (H18); what was granted is let go when the validity has run out."""
    held = world.hold()
    world.core.close("cut", world.now)
    again = next(m for m in world.connect() if isinstance(m, wire.AcquireRequest))
    world.hear(granted(again, again.seq, term=2))
    assert held.phase is Phase.LOST
    assert held.remaining_ms(world.now) == 0
    releases = [m for m in world.after(VALIDITY_MS) if isinstance(m, wire.ReleaseRequest)]
    assert [release.nonce for release in releases] == [ALICE.nonce]


def test_lost_lease_is_let_go_when_its_work_has_ended(world: World) -> None:
    """Keepalives of the session would else prolong at the node what nobody uses; belief is over meanwhile."""
    held = world.hold()
    world.after(VALIDITY_MS - 600)
    assert held.phase is Phase.LOST
    assert world.core.release(held, "", world.now) is None
    assert [m.nonce for m in world.sent(wire.ReleaseRequest)] == [ALICE.nonce]
    assert world.core.release(held, "", world.now) is None
    assert not world.sent(wire.ReleaseRequest)


def test_release_ends_belief_before_anything_is_sent(world: World) -> None:
    """An acknowledgement under way activates nothing again (H23)."""
    held = world.hold()
    keepalive = world.after(1_000)[0]
    request = world.core.release(held, "bob", world.now)
    assert held.remaining_ms(world.now) == 0
    release = world.sent(wire.ReleaseRequest)[0]
    assert (release.nonce, release.successor) == (ALICE.nonce, "bob")
    world.hear(wire.KeptAlive(keepalive.seq, 1))
    assert held.remaining_ms(world.now) == 0
    world.hear(wire.Done(release.request, 1))
    assert world.last(Replied).request is request


def test_release_is_repeated_on_the_next_connection(world: World) -> None:
    """Until it is answered or dropped."""
    held = world.hold()
    request = world.core.release(held, "", world.now)
    world.core.close("cut", world.now)
    assert [m.nonce for m in world.connect() if isinstance(m, wire.ReleaseRequest)] == [ALICE.nonce]
    assert request is not None
    world.core.drop(request)
    world.core.close("cut", world.now)
    assert not [m for m in world.connect() if isinstance(m, wire.ReleaseRequest)]


def test_grant_that_nobody_wants_any_more_is_released(world: World) -> None:
    """The candidate left the queue; the grant crossed its message."""
    campaign, asked = world.ask()
    world.core.abandon(campaign, world.now)
    assert world.sent(wire.CancelRequest)[0].request == asked.request
    assert [type(m) for m in world.hear(granted(asked, asked.seq))] == [wire.ReleaseRequest]


def test_grant_that_came_too_late_is_released_when_its_campaign_is_given_up(world: World) -> None:
    """The node serves it, and every keepalive of this session would renew it for nobody (simulator, seed 404)."""
    campaign, asked = world.ask(is_waiting=True)
    world.pause(3_000)
    world.hear(granted(asked, asked.seq))
    assert campaign.phase is Phase.ASKING
    world.core.abandon(campaign, world.now)
    assert [m.nonce for m in world.sent(wire.ReleaseRequest)] == [ALICE.nonce]


def test_unknown_outcome_is_asked_for_again_under_the_same_nonce(world: World) -> None:
    """Unknown is neither yes nor no (H35); other errors end the campaign."""
    campaign, asked = world.ask(is_waiting=False)
    world.hear(wire.Failed(asked.request, "unknown", "no majority answered in time"))
    again = world.after(0)[0]
    assert (again.holder, again.is_waiting) == (ALICE, False)
    assert again.request != asked.request
    world.hear(wire.Failed(again.request, "refused", "not declared"))
    assert campaign.phase is Phase.ENDED
    assert str(world.last(Rejected).error) == "not declared"


def test_denied_ends_a_campaign_that_does_not_wait(world: World) -> None:
    """The hint is handed on."""
    campaign, asked = world.ask(is_waiting=False)
    world.hear(wire.Denied(asked.request, NAME, BOB, 4, 900))
    assert campaign.phase is Phase.ENDED
    assert world.last(Rejected).denied.term == 4


def test_lost_is_believed_at_once_and_only_for_its_nonce(world: World) -> None:
    """The node knows of another holder, or of no majority."""
    held = world.hold()
    world.hear(wire.Lost(NAME, BOB.nonce, "not mine"))
    assert held.phase is Phase.HELD
    world.hear(wire.StepDownAsked(NAME, ALICE.nonce, "bob"))
    assert world.last(StepDown).successor == "bob"
    world.hear(wire.Lost(NAME, ALICE.nonce, "revoked"))
    assert world.last(Lapsed).reason == "revoked"
    assert held.remaining_ms(world.now) == 0


def test_keepalive_period_is_a_third_of_the_shortest_duration(world: World) -> None:
    """Candidates count too, for their grant counts from the last message; leases without end need none."""
    assert world.core.due_ms(world.now) == IDLE_PERIOD_MS
    forever = world.hold(None)
    assert world.core.due_ms(world.now) == IDLE_PERIOD_MS
    assert forever.remaining_ms(world.now) == float("inf")
    campaign, _ = world.ask(600, holder=BOB)
    assert world.core.due_ms(world.now) == 200
    world.core.abandon(campaign, world.now)
    assert world.core.due_ms(world.now) == IDLE_PERIOD_MS


def test_silent_node_is_left(world: World) -> None:
    """A keepalive that is not answered within a period ends the connection."""
    world.hold(600)
    world.after(200)
    world.after(199)
    assert world.core.is_open
    world.after(1)
    assert not world.core.is_open
    assert "keepalive was not answered within 200 ms" in world.last(Ended).reason


def test_node_without_a_hello_is_left() -> None:
    """So is one that speaks before its hello, other versions, or for another cluster."""
    world = World()
    world.core.open(world.now)
    assert world.core.due_ms(world.now) == HELLO_TIMEOUT_MS
    world.after(HELLO_TIMEOUT_MS)
    assert "no hello" in world.last(Ended).reason
    for message, reason in (
        (wire.KeptAlive(1, 1), "did not say hello first"),
        (versions(2, 3), "speaks versions 2 to 3"),
        (wire.Refused("refused", "no"), "refuses"),
    ):
        world.core.open(world.now)
        world.hear(message)
        assert reason in world.last(Ended).reason
    world.connect()
    assert world.last(Ready).hello is HELLO
    world.core.close("cut", world.now)
    world.core.open(world.now)
    world.hear(wire.Hello("peer", 1, 1, cluster="c2"))
    assert "belongs to cluster c2" in world.last(Ended).reason


def test_command_under_way_is_unknown_when_the_connection_is_lost(world: World) -> None:
    """A question is asked again; a command that may have been carried out is not."""
    read = world.core.ask(wire.GetRequest(0, NAME), is_repeatable=True)
    command = world.core.ask(wire.RevokeRequest(0, NAME, 1), is_repeatable=False)
    world.sent()
    unsent = SessionCore(rho_ppm=500)
    unsent.ask(wire.RevokeRequest(0, NAME, 1), is_repeatable=False)
    world.core.close("cut", world.now)
    again = world.connect()
    assert world.last(Failure).request is command
    assert isinstance(world.last(Failure).error, OutcomeUnknown)
    assert read.message in again


def test_readings_are_bounded_and_never_later_than_the_send() -> None:
    """Old readings are forgotten; a shared one is the earlier."""
    readings = Readings()
    for seq in range(1, 3 * READINGS_MAX):
        readings.note(seq, Instant(seq * 0.7, seq * 0.7))
    assert readings.get(1) is None
    for seq in range(3 * READINGS_MAX - 1000, 3 * READINGS_MAX):
        reading = readings.get(seq)
        assert reading is not None
        assert 0 <= seq * 0.7 - reading.raw_ms < 1.4


def test_watch_drops_the_oldest_and_says_so(world: World) -> None:
    """Nobody takes: the buffer stays within its bound, and a resync tells of the gap."""
    watch = world.core.watch("shop/", False, 0)
    for term in range(1, WATCH_BUFFER_MAX + 2):
        world.hear(wire.Transition(watch.id, NAME, "acquired", term, ALICE, 0))
    assert [t.kind for t in watch.buffer] == ["resync"]


@pytest.mark.parametrize(
    ("declared", "pace"),
    [
        ((None, 0, 0), IDLE),
        ((3_000, 0, 0), Pace(1_000, 1_000)),
        ((3_000, 2_000, 500), Pace(500, 1_000)),
        ((3_000, 0, 10), Pace(10, 1_000)),
        # Slower than a third of the duration would leave no time for another node.
        ((3_000, 2_000, 1_600), Pace(1_000, 2_000 / 3)),
        ((3_600_000, 0, 0), Pace(IDLE_PERIOD_MS, ANSWER_MAX_MS)),
        ((3_600_000, 0, 20_000), Pace(IDLE_PERIOD_MS, ANSWER_MAX_MS)),
        ((3_000, 60, 20), Pace(20, 100)),
    ],
)
def test_pace_keeps_within_its_bounds(declared: tuple[int | None, int, int], pace: Pace) -> None:
    """The declared period renews, within a third of the duration; a hung node is left before the deadline."""
    assert pace_of(*declared) == pytest.approx(pace)


def held_as_declared(world: World, renew_deadline_ms: int, retry_period_ms: int) -> Campaign:
    """Hold a lease of 3 s that was declared so."""
    campaign, asked = world.ask()
    answer = granted(asked, asked.seq)
    fields = {"renew_deadline_ms": renew_deadline_ms, "retry_period_ms": retry_period_ms}
    world.hear(msgspec.structs.replace(answer, **fields))
    assert campaign.phase is Phase.HELD
    return campaign


def test_holder_renews_as_often_as_declared(world: World) -> None:
    """With retryPeriod 500ms the next keepalive is due after 500 ms, and not a third of the duration."""
    held_as_declared(world, 2_000, 500)
    assert world.core.due_ms(world.now) == 500
    assert [type(message) for message in world.after(500)] == [wire.KeepAlive]


@pytest.mark.parametrize(
    ("deadline_ms", "gives_up_after_ms"),
    [(2_000, 2_000), (700, 700), (2_900, VALIDITY_MS - 600), (0, VALIDITY_MS - 600)],
)
def test_lease_is_given_up_at_the_declared_deadline(world: World, deadline_ms: int, gives_up_after_ms: float) -> None:
    """So long after the last acknowledged renewal was sent, and never later than without a declaration."""
    campaign = held_as_declared(world, deadline_ms, 0)
    world.core.close("cut", world.now)
    world.after(gives_up_after_ms - 1)
    assert campaign.phase is Phase.HELD
    assert campaign.remaining_ms(world.now) > 600
    world.after(1)
    assert campaign.phase is Phase.LOST


def test_late_grant_is_not_believed_past_the_deadline(world: World) -> None:
    """A grant that took longer than the deadline is proved by another round before anybody is told (H17)."""
    campaign, asked = world.ask()
    world.pause(800)
    late = msgspec.structs.replace(granted(asked, asked.seq), renew_deadline_ms=700)
    assert [type(message) for message in world.hear(late) + world.after(1)].count(wire.AcquireRequest) == 1
    assert campaign.phase is Phase.ASKING


def test_candidate_says_what_it_is_preferred_by() -> None:
    """Priority and age go with each campaign."""
    world = World()
    world.core = SessionCore(rho_ppm=500, priority=7, since_ms=1_234)
    world.connect()
    _, asked = world.ask()
    assert (asked.priority, asked.since_ms) == (7, 1_234)
