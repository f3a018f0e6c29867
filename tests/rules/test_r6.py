"""R6: a quorum is counted per attempt and by member uuid; validity runs from the holder's own send; late is dead."""

from typing import Any

import pytest

from leaderlease.client.campaign import Campaign, Phase
from leaderlease.client.clock import Instant
from leaderlease.client.core import SessionCore
from leaderlease.paxos.ballot import ZERO
from leaderlease.paxos.lease import RHO_PPM_DEFAULT, RHO_PPM_WITHOUT_RAW_CLOCK, validity_ms
from leaderlease.paxos.messages import Accept, Accepted, Nack, Prepare, Promise, Renew, Renewed
from leaderlease.paxos.proposer import Acquire, Attempt, Outcome
from leaderlease.paxos.proposer import Phase as AttemptPhase
from leaderlease.paxos.quorum import Tally, quorum_of
from leaderlease.wire import session as wire
from leaderlease.wire.session import Granted
from support.core import ALICE, BOB, KEY, World, ballot_of
from support.nodes import Cluster

DURATION_MS = 1_000
VALIDITY_MS = validity_ms(DURATION_MS)


# --- quorums per attempt, by uuid ---------------------------------------------------------------------------------


def _attempt(members: str = "12345") -> Attempt:
    attempt = Attempt(KEY, ballot_of(13), 1, quorum_of(members), ALICE.nonce, Acquire(ALICE, DURATION_MS))
    attempt.start()
    return attempt


def test_h34_the_same_members_answer_is_counted_once() -> None:
    """Three copies of one member's promise, then of its acceptance, are one vote of five."""
    attempt = _attempt()
    for _ in range(3):
        assert attempt.on_promise("1", Promise(KEY, ballot_of(13), ZERO, None)) == []
    assert attempt.phase is AttemptPhase.PREPARING
    for member in "23":
        attempt.on_promise(member, Promise(KEY, ballot_of(13), ZERO, None))
    assert attempt.phase is AttemptPhase.ACCEPTING
    for _ in range(3):
        attempt.on_accepted("1", Accepted(KEY, ballot_of(13)))
    assert attempt.outcome is None
    for member in "23":
        attempt.on_accepted(member, Accepted(KEY, ballot_of(13)))
    assert attempt.outcome is Outcome.CHOSEN


@pytest.mark.parametrize("other", [ballot_of(12), ballot_of(23)], ids=["earlier", "later"])
def test_h16_answers_that_name_another_ballot_count_for_nothing(other: Any) -> None:
    """Each attempt has its ballot; what an earlier or later one was answered is not for this one."""
    attempt = _attempt("123")
    for member in "123":
        assert attempt.on_promise(member, Promise(KEY, other, ZERO, None)) == []
        assert attempt.on_nack(member, Nack(KEY, other, ballot_of(99))) == []
    assert attempt.phase is AttemptPhase.PREPARING
    for member in "123":
        attempt.on_promise(member, Promise(KEY, ballot_of(13), ZERO, None))
        attempt.on_accepted(member, Accepted(KEY, other))
    assert attempt.outcome is None


@pytest.mark.parametrize(("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_h34_a_majority_is_more_than_half(size: int, needed: int) -> None:
    """Also of an even number: two halves of four are no two quorums."""
    members = [str(number) for number in range(size)]
    quorum = quorum_of(members)
    assert not quorum.is_met(members[: needed - 1])
    assert quorum.is_met(members[:needed])
    assert quorum.tally(members[: needed - 1], []) is Tally.PENDING
    assert quorum.tally([], members[: size - needed + 1]) is Tally.LOST


def test_h16_acknowledgements_of_two_renewals_do_not_add_up() -> None:
    """Node 2 answered the first renewal and node 3 the second: neither has a majority of others behind it."""
    world = World(5)
    alice = world.acquire(1, ALICE)
    first = world.renew(1, alice)
    world.deliver(Renew, to={1, 2})
    world.drop(Renew)
    world.deliver(Renewed)
    world.advance(800)
    second = world.renew(1, alice)
    world.deliver(Renew, to={3})
    world.drop(Renew)
    world.deliver(Renewed)
    assert first.acknowledged() == {"1", "2"}
    assert second.acknowledged() == {"3"}
    assert not any(world.quorum.is_met(round_.acknowledged()) for round_ in (first, second))
    assert world.believe(ALICE, alice)
    world.advance(202)
    bob = world.ask(4, BOB)
    world.settle(among={4, 5, 2})
    assert bob.outcome is Outcome.CHOSEN, "a majority has let go, so nothing may extend Alice to the second send"
    assert world.believe(BOB, bob)


def test_h16_a_late_answer_to_an_earlier_renewal_does_not_stand_for_a_later_one() -> None:
    """In full: the mixed majority would let Alice believe from the second send, while nodes 2 and 3 let Bob in."""
    world = World(3)
    alice = world.acquire(1, ALICE)
    assert world.believe(ALICE, alice)
    world.renew(1, alice)
    world.deliver(Renew, to={2})
    world.drop(Renew)
    world.advance(900)
    second = world.renew(1, alice)
    world.deliver(Renew, to={1})
    world.drop(Renew)
    world.deliver(Renewed)
    assert second.acknowledged() == {"1"}
    world.advance(102)
    bob = world.ask(2, BOB)
    world.settle(among={2, 3})
    assert bob.outcome is Outcome.CHOSEN
    assert world.believe(BOB, bob)


# --- validity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho_ppm", [0, RHO_PPM_DEFAULT, RHO_PPM_WITHOUT_RAW_CLOCK])
@pytest.mark.parametrize("duration_ms", [100, 101, 333, 1_000, 3_000, 59_999, 3_600_000])
def test_h31_the_slowest_holder_stops_before_the_fastest_acceptor_lets_go(rho_ppm: int, duration_ms: int) -> None:
    """Section 4: with every clock within ρ the holder's time, stretched, ends inside the acceptor's, compressed."""
    holder_ms = validity_ms(duration_ms, rho_ppm) / (1 - rho_ppm / 1e6)
    acceptor_ms = duration_ms / (1 + rho_ppm / 1e6)
    assert holder_ms <= acceptor_ms - max(duration_ms // 50, 20) * 0.99


def test_a_lock_without_an_end_is_valid_without_an_end() -> None:
    """Nothing is renewed and no clock ends it."""
    assert validity_ms(None) == float("inf")


class Process:
    """One client process: its session core, its clocks, and nothing else."""

    def __init__(self) -> None:
        self.core = SessionCore(rho_ppm=RHO_PPM_DEFAULT)
        self.now = Instant(0.0, 0.0)
        self.core.open(self.now)
        self.core.outgoing.clear()
        self.hear(wire.Hello("node", wire.PROTOCOL_MIN, wire.PROTOCOL_MAX, cluster="c"))
        self.core.outgoing.clear()

    def wait(self, milliseconds: float) -> None:
        """Let time pass on both clocks."""
        self.now = Instant(self.now.boot_ms + milliseconds, self.now.raw_ms + milliseconds)

    def hear(self, message: Any) -> None:
        """Take a message of the node."""
        self.core.receive(message, self.now)

    def ask(self) -> tuple[Campaign, wire.AcquireRequest]:
        """Ask for the lease."""
        campaign = self.core.campaign("shop/lock", ALICE, DURATION_MS, True, self.now)
        return campaign, next(m for m in self.core.outgoing if isinstance(m, wire.AcquireRequest))

    def keepalive(self) -> int:
        """Send the next keepalive."""
        message = self.core._keepalives.message(self.now)
        return message.seq


def _held() -> tuple[Process, Campaign]:
    process = Process()
    campaign, asked = process.ask()
    process.hear(Granted(asked.request, asked.name, ALICE.nonce, 1, DURATION_MS, asked.seq, 1))
    assert campaign.remaining_ms(process.now) == VALIDITY_MS
    return process, campaign


def test_h16_a_grant_counts_from_the_reading_before_its_request() -> None:
    """The answer took 300 ms: those are gone, whoever was slow."""
    process = Process()
    campaign, asked = process.ask()
    process.wait(300)
    process.hear(Granted(asked.request, asked.name, ALICE.nonce, 1, DURATION_MS, asked.seq, 1))
    assert campaign.remaining_ms(process.now) == VALIDITY_MS - 300


def test_h16_a_renewal_counts_from_the_reading_before_its_keepalive() -> None:
    """The answer to the keepalive of 200 ms ago extends to its own send, and no further."""
    process, campaign = _held()
    process.wait(100)
    seq = process.keepalive()
    process.wait(200)
    process.hear(wire.KeptAlive(seq, 1))
    assert campaign.remaining_ms(process.now) == VALIDITY_MS - 200


def test_h16_a_round_that_carries_an_older_message_extends_only_from_that() -> None:
    """``Kept`` of a take-over names the last message that the node had when it began."""
    process, campaign = _held()
    process.wait(100)
    first = process.keepalive()
    process.wait(100)
    process.keepalive()
    process.wait(50)
    process.hear(wire.Kept("shop/lock", ALICE.nonce, first))
    assert campaign.remaining_ms(process.now) == VALIDITY_MS - 150


def test_h16_a_keepalive_does_not_cover_a_lease_that_was_granted_after_it() -> None:
    """The node counted its grants when it sent the round: this one, number 1, was not among them."""
    process, campaign = _held()
    process.wait(100)
    seq = process.keepalive()
    process.hear(wire.KeptAlive(seq, 0))
    assert campaign.remaining_ms(process.now) == VALIDITY_MS - 100


def test_h32_validity_is_computed_when_it_is_asked_for() -> None:
    """No event has to arrive: a process that slept through its lease finds zero."""
    process, campaign = _held()
    process.wait(VALIDITY_MS - 1)
    assert campaign.remaining_ms(process.now) == 1
    process.wait(1)
    assert campaign.remaining_ms(process.now) == 0
    assert campaign.phase is Phase.HELD, "nobody has told it yet, and still it does not believe"


@pytest.mark.parametrize("clock", ["boot", "raw"])
def test_h31_h32_the_clock_that_ran_further_decides(clock: str) -> None:
    """A suspend stops the raw clock, a slew bends the other: neither makes a lease longer."""
    _, campaign = _held()
    now = Instant(VALIDITY_MS, 0.0) if clock == "boot" else Instant(0.0, VALIDITY_MS)
    assert campaign.remaining_ms(now) == 0


@pytest.mark.parametrize("kind", ["KeptAlive", "Kept", "Granted"])
def test_h18_after_expiry_no_late_answer_revives_the_term(kind: str) -> None:
    """The acknowledgement was waiting in the socket while the process was stopped: the nonce is dead."""
    process, campaign = _held()
    process.wait(900)
    seq = process.keepalive()
    process.wait(VALIDITY_MS - 900)
    late = {
        "KeptAlive": wire.KeptAlive(seq, 1),
        "Kept": wire.Kept("shop/lock", ALICE.nonce, seq),
        "Granted": Granted(9, "shop/lock", ALICE.nonce, 1, DURATION_MS, seq, 2),
    }[kind]
    process.hear(late)
    assert campaign.phase is Phase.LOST
    assert campaign.remaining_ms(process.now) == 0


def test_h17_whoever_holds_already_and_asks_again_gets_a_real_round() -> None:
    """The answer is never taken from a read: a majority accepts again, and so restarts its timers."""
    cluster = Cluster()
    cluster[1].client("alice").acquire(ALICE)
    cluster.run()
    cluster.run(700)
    again = cluster[2].client("alice")
    again.acquire(ALICE)
    cluster.run()
    (granted,) = again.got(Granted)
    assert granted.term == 1
    assert granted.seq == 1, "counted from the second request"
    remaining = [cluster[n].register().remaining_ms(cluster.now_ms) for n in (1, 2, 3)]
    assert sum(left == 1_001 for left in remaining if left is not None) >= 2


def test_h35_an_attempt_whose_answers_are_lost_is_neither_yes_nor_no() -> None:
    """The value is chosen and nobody was told: the same nonce asks again and learns it, under the same term."""
    world = World(3)
    alice = world.ask(1, ALICE)
    world.deliver(Prepare)
    world.deliver(Promise)
    world.deliver(Accept)
    world.drop(Accepted)
    assert alice.outcome is None
    again = world.acquire(2, ALICE)
    assert again.outcome is Outcome.CHOSEN
    assert again.decision is not None
    assert alice.decision is not None
    assert again.decision.value == alice.decision.value
