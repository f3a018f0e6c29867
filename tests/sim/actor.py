"""One client of a simulated quorum: production's session core on a simulated machine, and what it does with its leases.

The dialling is that of ``client/session.py``, on the engine instead of on asyncio.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from leaderlease.client.campaign import Campaign, Phase
from leaderlease.client.clock import Instant
from leaderlease.client.core import SessionCore
from leaderlease.client.events import Ended, Failure, Lapsed, Observed, Ready, Rejected, Replied, StepDown, Won
from leaderlease.client.session import (
    BACKOFF_FIRST_MS,
    BACKOFF_MAX_MS,
    CONNECT_MIN_MS,
    CONNECT_TIMEOUT_MS,
    STABLE_MS,
)
from leaderlease.errors import RemoteProtocolError
from leaderlease.paxos.lease import Holder
from leaderlease.wire import session as wire
from leaderlease.wire.codec import CLIENT
from sim.engine import Process, Timer
from sim.network import End

if TYPE_CHECKING:
    from sim.plan import Lease
    from sim.world import World


class _Link:
    """One connection."""

    def __init__(self, actor: "Actor") -> None:
        self._actor = actor
        self.end: End | None = None
        self.decoder = CLIENT.decoder()

    def connection_made(self, end: End) -> None:
        """Say hello."""
        self.end = end
        self._actor.linked(self)

    def data_received(self, data: bytes) -> None:
        """Hand on what these bytes complete."""
        try:
            messages = self.decoder.feed(data)
        except RemoteProtocolError as error:
            if not self._actor.counts["a bit flipped on the way"]:
                self._actor.world.referee.violated(f"codec: {self._actor.name} cannot read an honest node: {error}")
            assert self.end is not None
            self.end.abort()
            return
        self._actor.received(self, messages)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the actor, once."""
        self._actor.unlinked(self)


class Actor:
    """One life of a client process.

    Args:
        nodes: Names, in the order in which it tries them.
        is_admin: It declares and revokes, and holds nothing.
    """

    def __init__(self, world: "World", name: str, nodes: list[str], *, is_admin: bool = False) -> None:
        self.world = world
        self.name = name
        self.is_admin = is_admin
        self.engine, self.counts, self.referee = world.engine, world.counts, world.referee
        self.process = Process(self.engine, name, name.partition("/")[0], world.clocks[name.partition("/")[0]])
        self.core = SessionCore(name=name, rho_ppm=world.plan.rho_ppm, software="sim")
        self.campaigns: dict[str, Campaign] = {}
        self.node = ""
        self.times_asked: Counter[str] = Counter()
        self.watched_terms: dict[str, int] = {}
        self.is_asking: Counter[str] = Counter()
        """Leases that it has asked about, or asked to revoke, and has no answer yet."""
        self.asked_at: dict[str, set[str]] = {}
        self._nodes = nodes
        self._at = 0
        self._failures = 0
        self._began = 0.0
        self._link: _Link | None = None
        self._timer: Timer | None = None
        self._dialling: Timer | None = None
        self._flush_planned = False
        self._nonces = 0
        self._held_at: dict[str, str] = {}
        self._seqs: dict[str, int] = {}
        self.process.soon(self._dial)

    def may_go_to(self, nodes: list[str]) -> None:
        """Let it use all of these nodes, if it knew but one."""
        if len(self._nodes) == 1:
            self._nodes = nodes

    def clock(self) -> Instant:
        """Read both clocks of this machine."""
        clock, now = self.process.clock, self.engine.now
        return Instant(clock.boot_ms(now), clock.raw_ms(now))

    # --- what it does --------------------------------------------------------------------------------------------

    def want(self, lease: "Lease", is_waiting: bool) -> None:
        """Begin a campaign, unless this process has one for the lease."""
        if lease.name in self.campaigns:
            return
        self._nonces += 1
        nonce = f"{self.engine.random.getrandbits(128):032x}"
        holder = Holder(self.name.partition("/")[0], "", nonce)
        duration_ms = 0 if self.world.plan.is_declared else lease.duration_ms
        campaign = self.core.campaign(lease.name, holder, duration_ms, is_waiting, self.clock())
        campaign.owner = lease
        self.campaigns[lease.name] = campaign
        self.referee.asked(self, campaign)
        self.pump()

    def let_go(self, name: str, successor: str) -> None:
        """Release, if it holds."""
        campaign = self.campaigns.get(name)
        if campaign is None or campaign.phase is not Phase.HELD:
            return
        del self.campaigns[name]
        self.referee.stopped(self, campaign, "released")
        request = self.core.release(campaign, successor, self.clock())
        if request is not None:
            request.owner = self.referee.releasing(self, campaign, successor)
        self.pump()

    def abandon(self, name: str) -> None:
        """Stop asking."""
        campaign = self.campaigns.get(name)
        if campaign is not None and campaign.phase is Phase.ASKING:
            del self.campaigns[name]
            self.core.abandon(campaign, self.clock())
            self.referee.gave_up(self, campaign)
            self.pump()

    def ask(self, message: Any, is_repeatable: bool = True) -> None:
        """Send a request; the referee judges the answer."""
        request = self.core.ask(message, is_repeatable=is_repeatable)
        judge, name = self.referee.reading(self, message), getattr(message, "name", "")
        self.is_asking[name] += 1

        def answered(answer: Any, error: Any) -> None:
            self.is_asking -= Counter([name])
            if judge is not None:
                judge(answer, error)

        request.owner = answered
        self.pump()

    def watch(self, name: str) -> None:
        """Follow a lease."""
        self.watched_terms[name] = 0
        self.core.watch(name, True, 0)
        self.pump()

    def elsewhere(self, error: Exception) -> None:
        """Go to another node, as people do, where this one says that it reaches no majority."""
        if getattr(error, "code", "") == "quorum" and self.core.is_open:
            self.core.close("the node reaches no majority", self.clock())
            self.pump()

    def die(self, how: str) -> None:
        """End this process; what it believed, it believes no more."""
        if self.process.is_dead:
            return
        self.engine.say(self.name, f"dies: {how}")
        for campaign in self.campaigns.values():
            if campaign.phase is Phase.HELD:
                self.referee.stopped(self, campaign, "died")
            else:
                self.referee.gave_up(self, campaign)
        self.process.is_dead = True
        self.world.network.process_died(self.process, is_silent=self.engine.random.random() < 0.3)

    # --- the session ---------------------------------------------------------------------------------------------

    def linked(self, link: _Link) -> None:
        """Take note that a connection stands."""
        self._link = link
        self.core.open(self.clock())
        self.pump()

    def received(self, link: _Link, messages: list[Any]) -> None:
        """Hand messages to the core."""
        if link is not self._link:
            return
        now = self.clock()
        for message in messages:
            if link is not self._link:
                return
            self.referee.heard(self, message)
            self.core.receive(message, now)
            if type(message) is wire.Granted:
                self._granted(message)
            if type(message) in (wire.KeptAlive, wire.Kept, wire.Granted):
                self._look_at_beliefs()
            if self.core.events:
                self._take_events()
        self.pump()

    def unlinked(self, link: _Link) -> None:
        """Take note that a connection is gone."""
        if link is self._link:
            self._link = None
            self.core.close("the connection was lost", self.clock())
            self.pump()

    def pump(self) -> None:
        """Take what the core wants done."""
        self._take_events()
        if self.core.outgoing and self._link is not None and not self._flush_planned:
            self._flush_planned = True
            self.process.soon(self._write)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ms = self.core.due_ms(self.clock())
        if due_ms != float("inf"):
            # A floor, as a real loop has: a clock that runs faster than timers do would have it turn for ever.
            self._timer = self.process.later(due_ms + 0.01, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.core.tick(self.clock())
        self.pump()

    def _write(self) -> None:
        self._flush_planned = False
        messages = self.core.outgoing
        if self._link is None or self._link.end is None or not messages:
            return
        for message in messages:
            if type(message) is wire.AcquireRequest:
                self.times_asked[message.holder.nonce] += 1
                self.asked_at.setdefault(message.holder.nonce, set()).add(self.node)
        self.core.outgoing = []
        self._link.end.write(CLIENT.encode_many(messages))

    def _granted(self, message: wire.Granted) -> None:
        campaign = self.core._campaigns.get(message.nonce)
        if campaign is None:
            self.counts["granted to a nonce that nobody wants any more"] += 1
        elif campaign.phase is Phase.ASKING:
            self.counts["granted too late to be believed"] += 1
        elif self._held_at.get(message.nonce, self.node) != self.node:
            self.counts["a held lease moved to another node, same term"] += 1
            self.engine.say(self.name, f"goes on with {message.name} term {message.term} at {self.node}")
        self._held_at[message.nonce] = self.node

    def _look_at_beliefs(self) -> None:
        for campaign in self.campaigns.values():
            belief = campaign.belief
            if campaign.phase is Phase.HELD and belief is not None:
                nonce = campaign.holder.nonce
                if nonce in self._seqs and self._seqs[nonce] != belief.seq:
                    self._seqs[nonce] = belief.seq
                    self.referee.renewed(self, campaign)

    def _take_events(self) -> None:
        while self.core.events:
            events, self.core.events = self.core.events, []
            for event in events:
                self._on_event(event)

    def _on_event(self, event: Any) -> None:
        match event:
            case Won(campaign):
                assert campaign.belief is not None
                self._seqs[campaign.holder.nonce] = campaign.belief.seq
                self._held_at[campaign.holder.nonce] = self.node
                self.referee.won(self, campaign)
                self.world.plans_for(self, campaign)
            case Lapsed(campaign, reason):
                self.campaigns.pop(campaign.name, None)
                self.referee.stopped(self, campaign, f"lost: {reason}")
                self.world.wants_again(self, campaign)
                # Its work ends a moment later; then the rest is let go (H23).
                if self.engine.random.random() < 0.5:
                    work_ms = self.engine.random.random() * 50
                    self.process.later(work_ms, lambda: self._work_ended(campaign))
            case Rejected(campaign, denied, error):
                self.campaigns.pop(campaign.name, None)
                self.referee.rejected(self, campaign, denied, error)
                self.world.wants_again(self, campaign)
            case StepDown(campaign, successor):
                self.counts["a holder was asked to step down"] += 1
                self.process.soon(lambda: self.let_go(campaign.name, successor))
            case Replied(request, message):
                if request.owner is not None:
                    request.owner(message, None)
            case Failure(request, error):
                if request.owner is not None:
                    request.owner(None, error)
            case Observed(watch):
                for transition in watch.buffer:
                    self.referee.watched(self, transition)
                watch.buffer.clear()
            case Ready(hello):
                self.node = hello.name
            case Ended(reason):
                self._ended(reason)

    def _work_ended(self, campaign: Campaign) -> None:
        self.core.release(campaign, "", self.clock())
        self.pump()

    # --- dialling ------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        link = _Link(self)
        node = self._nodes[self._at]
        self._began = self.engine.now
        limit_ms = min(CONNECT_TIMEOUT_MS, max(CONNECT_MIN_MS, self.core.pace.answer_ms))
        timer = self._dialling = self.process.later(limit_ms, lambda: self._ended("no connection in time"))

        def on_result(end: End | None, error: str) -> None:
            if timer.call is None or self._dialling is not timer:
                if end is not None:
                    end.abort()
            elif end is None:
                self._ended(error)
            else:
                timer.cancel()

        self.world.network.connect(self.process, f"{node}/client", link, on_result)

    def _ended(self, reason: str) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        link, self._link = self._link, None
        if link is not None and link.end is not None:
            link.end.abort()
        self._at = (self._at + 1) % len(self._nodes)
        is_stable = self.engine.now - self._began > STABLE_MS + CONNECT_TIMEOUT_MS
        self._failures = 1 if is_stable else self._failures + 1
        pause_ms = 0.0
        if self._failures % len(self._nodes) == 0:
            limit_ms = min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS << min(self._failures // len(self._nodes), 10))
            pause_ms = limit_ms * (0.5 + self.engine.random.random() / 2)
        self.process.later(pause_ms, self._dial)
