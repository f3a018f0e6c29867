"""Everything that must hold, watched while it happens; and what happened, for the checkers that look at it afterwards.

Rule 1: belief is asked of the clients' own clocks at the instant at which another nonce begins to believe: exact, also
        for processes that are stopped, and without any tolerance.
Rule 2: what a member sends is compared with what is on its disk in that moment (R4), with what it promised before, and
        with all that was ever proposed; so a broken rule is found where it breaks, not when two holders come of it.
Rule 3: an observer never changes the run.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from leaderlease.client.campaign import Campaign, Phase
from leaderlease.errors import LeaderLeaseError
from leaderlease.node.homes import LEASE
from leaderlease.wire import session as wire
from sim.judge import MemberJudge
from sim.linearizability import Op
from support.checkers.history import Event, Kind

if TYPE_CHECKING:
    from sim.actor import Actor
    from sim.engine import Process


class Referee(MemberJudge):
    """The online checks of one run: here, what clients hear and believe."""

    # --- what clients hear ---------------------------------------------------------------------------------------

    def heard(self, actor: "Actor", message: Any) -> None:
        """Judge what a node says to a client."""
        counts = self.counts
        match message:
            case wire.Granted():
                if not self.is_chosen(message.name, message.term, message.nonce):
                    self.violated(f"honesty: {actor.name} is granted {message.name} term {message.term}, not chosen")
            case wire.KeptAlive():
                counts["a renewal was refused to a client" if message.failed else "a keepalive renewed"] += 1
            case wire.Kept():
                counts["a lease was taken over under a higher ballot"] += 1
            case wire.Lost():
                counts[f"lost: {message.reason}"] += 1
            case wire.GoAway():
                counts["a client was sent elsewhere"] += 1
            case wire.Failed():
                counts[f"failed: {message.code}"] += 1
            case wire.Refused():
                counts["a client was refused"] += 1
            case wire.Verified():
                counts["a token was verified" if message.is_current else "a stale token was recognised"] += 1

    def _event(self, kind: Kind, lease: str, nonce: str, term: int, until_ms: float = 0.0, node: str = "") -> None:
        self.history.append(Event(self.world.engine.now, kind, lease, nonce, term, until_ms, node))

    def _until(self, actor: "Actor", campaign: Campaign) -> float:
        """Return the true instant at which this belief ends by itself, if the machine is not suspended before.

        While it is, only one of its clocks goes on: ``suspended`` says what is true then.
        """
        belief = campaign.belief
        assert belief is not None
        now, clock = self.world.engine.now, actor.process.clock
        if belief.validity_ms == float("inf"):
            return float("inf")
        reading = actor.clock()
        left_boot = belief.validity_ms - (reading.boot_ms - belief.basis.boot_ms)
        left_raw = belief.validity_ms - (reading.raw_ms - belief.basis.raw_ms)
        ends_raw = float("inf") if clock.suspended_since is not None else now + left_raw / clock.rates[0]
        return min(now + left_boot / clock.rates[1], ends_raw)

    def suspended(self, process: "Process") -> None:
        """A machine sleeps: what its holder believes now ends by the clock that goes on (section 4), perhaps later.

        It may wake and count by both clocks again, and end sooner: then it says so itself.
        """
        for name, believing in self._believing.items():
            for nonce, (actor, campaign) in believing.items():
                if actor.process is process and self.believes(actor, campaign):
                    self._event(Kind.RENEWED, name, nonce, campaign.term, self._until(actor, campaign))

    def asked(self, actor: "Actor", campaign: Campaign) -> None:
        """A campaign begins."""
        nonce = campaign.holder.nonce
        self.live_nonces[nonce] = actor
        op = Op("acquire", nonce, self.world.engine.now)
        self._acquires[nonce] = op
        self.operations.setdefault(campaign.name, []).append(op)

    def won(self, actor: "Actor", campaign: Campaign) -> None:
        """A nonce begins to believe."""
        now, name, nonce = self.world.engine.now, campaign.name, campaign.holder.nonce
        self.world.engine.say(actor.name, f"BELIEVES {name} term {campaign.term}, nonce {nonce[:8]}")
        for other, (owner, theirs) in self._believing.setdefault(name, {}).items():
            if other != nonce and theirs.remaining_ms(owner.clock()) > 0 and not owner.process.is_dead:
                self.violated(
                    f"belief: {actor.name} believes term {campaign.term} of {name} now, while {owner.name} believes "
                    f"term {theirs.term} for another {theirs.remaining_ms(owner.clock()):.1f} ms of its clock"
                )
        self._is_guarded(actor, campaign)
        self._count_win(actor, campaign)
        self._believing[name][nonce] = (actor, campaign)
        self._event(Kind.BELIEVE, name, nonce, campaign.term, self._until(actor, campaign))
        before = self._terms.get(name)
        if before is not None and campaign.term <= before[0]:
            self.violated(f"tokens: term {campaign.term} of {name} is granted after term {before[0]}")
        self._terms[name] = (campaign.term, campaign.duration_ms, nonce)
        self._acknowledged[name] = max(self._acknowledged.get(name, 0), campaign.term)
        op = self._acquires[nonce]
        op.returned, op.term = now, campaign.term
        self.check_disks(name)

    def _count_win(self, actor: "Actor", campaign: Campaign) -> None:
        counts, before = self.counts, self._terms.get(campaign.name)
        counts["granted"] += 1
        counts["granted for ever"] += campaign.duration_ms is None
        counts["granted by another node than it first asked"] += len(actor.asked_at[campaign.holder.nonce]) > 1
        if before is None:
            return
        term, duration_ms, nonce = before
        counts["a new term has another duration"] += duration_ms != campaign.duration_ms
        counts["terms were skipped"] += campaign.term > term + 1
        how = self._ended.get(nonce, "")
        owner = self.live_nonces.get(nonce)
        if how == "released":
            counts["taken after a release"] += 1
        elif how == "died":
            counts["taken after its holder died"] += 1
        elif owner is not None and not owner.process.is_dead:
            counts["taken after expiry, the old holder alive"] += 1
            if owner.process.is_stopped:
                counts["taken while the old holder was stopped"] += 1
        lease = campaign.owner
        if how and how != "released" and lease is not None and lease.lock_delay_ms:
            counts["taken after a lock delay"] += 1

    def renewed(self, actor: "Actor", campaign: Campaign) -> None:
        """A belief was prolonged."""
        if campaign.duration_ms is not None:
            self._is_guarded(actor, campaign)
        self._event(Kind.RENEWED, campaign.name, campaign.holder.nonce, campaign.term, self._until(actor, campaign))

    def stopped(self, actor: "Actor", campaign: Campaign, how: str) -> None:
        """A nonce believes no more, by its own word."""
        nonce = campaign.holder.nonce
        self.world.engine.say(actor.name, f"no longer believes {campaign.name} term {campaign.term}: {how}")
        if self._believing.get(campaign.name, {}).pop(nonce, None) is not None:
            self._event(Kind.UNBELIEVE, campaign.name, nonce, campaign.term)
        self._ended[nonce] = how
        if how.startswith("lost: no renewal"):
            self.counts["a belief ended by its own clock"] += 1

    def rejected(self, actor: "Actor", campaign: Campaign, denied: Any, error: LeaderLeaseError | None) -> None:
        """A campaign is over without a lease."""
        nonce = campaign.holder.nonce
        op = self._acquires[nonce]
        if denied is not None and actor.times_asked[nonce] > 1:
            # What it asked for elsewhere may still be granted there: this answer is about one node's queue only.
            self.counts["denied after it had asked elsewhere"] += 1
        elif denied is not None:
            self.counts["denied"] += 1
            self._event(Kind.DENIED, campaign.name, nonce, 0)
            op.kind, op.returned = "denied", self.world.engine.now
        else:
            self.counts[f"rejected: {getattr(error, 'code', '')}"] += 1
            self._event(Kind.UNKNOWN, campaign.name, nonce, 0)

    def gave_up(self, actor: "Actor", campaign: Campaign) -> None:
        """A campaign was abandoned; the outcome stays unknown."""
        self._event(Kind.UNKNOWN, campaign.name, campaign.holder.nonce, 0)
        self.counts["abandoned while it asked"] += 1

    def is_wanted(self, nonce: str) -> bool:
        """Tell whether a living process asks for, or holds, a lease with this nonce."""
        actor = self.live_nonces.get(nonce)
        return (
            actor is not None
            and not actor.process.is_dead
            and any(campaign.holder.nonce == nonce for campaign in actor.campaigns.values())
        )

    # --- requests ------------------------------------------------------------------------------------------------

    def releasing(self, actor: "Actor", campaign: Campaign, successor: str) -> Callable[[Any, Any], None]:
        """A release was sent; return who takes the answer."""
        op = Op("release", campaign.holder.nonce, self.world.engine.now)
        if campaign.duration_ms is None:
            self.operations[campaign.name].append(op)

        def answered(message: Any, error: Any) -> None:
            if error is None:
                op.returned = self.world.engine.now
                self.counts["released"] += 1
            else:
                self.counts[f"release answered {error.code}"] += 1

        return answered

    def reading(self, actor: "Actor", message: Any) -> Callable[[Any, Any], None] | None:
        """A question was asked; return who takes the answer."""
        match message:
            case wire.GetRequest(_, name):
                began = self.world.engine.now
                return lambda answer, error: self._read(actor, name, began, answer, error)
            case wire.VerifyRequest(_, name, term):
                asked_ms = self.world.engine.now
                guards = self._guards(LEASE + name)
                return lambda answer, error: self._verified(actor, name, term, asked_ms, guards, answer)
            case wire.RevokeRequest(_, name, _):
                op = Op("revoke", "", self.world.engine.now, term=message.term)
                self.operations.setdefault(name, []).append(op)

                def revoked(answer: Any, error: Any) -> None:
                    if error is None:
                        op.returned = self.world.engine.now
                        self.counts["revoked"] += 1

                return revoked
            case wire.DeclareRequest():
                return lambda answer, error: self.counts.update(["declared" if error is None else "declaring failed"])
            case _:
                return None

    def _read(self, actor: "Actor", name: str, began: float, answer: Any, error: Any) -> None:
        if error is not None and actor.is_admin:
            actor.elsewhere(error)
        if error is not None or not answer.items:
            return
        info = answer.items[0]
        if info.state == "in transition":
            self.counts["read as in transition"] += 1
            self.world.was_read(actor, info)
        elif info.state == "held":
            nonce = info.holder.nonce
            if not self.is_chosen(name, info.term, nonce):
                self.violated(f"honesty: a read says that term {info.term} of {name} is {nonce[:8]}'s, not chosen")
            self._event(Kind.CHOSEN, name, nonce, info.term, node=actor.node)
            op = Op("read", nonce, began, self.world.engine.now, info.term)
            self.operations.setdefault(name, []).append(op)
            self.world.was_read(actor, info)
        else:
            self.counts[f"read as {info.state}"] += 1

    def _guards(self, key: str) -> set[int]:
        """Return the terms for which a timer of a living member runs in this instant."""
        terms = set()
        for node in self.world.nodes.values():
            register = node.driver.acceptor.registers.get(key)
            if register is not None and register.value is not None and register.is_live(node.ports.now_ms()):
                terms.add(register.value.term)
        return terms

    def _verified(self, actor: "Actor", name: str, term: int, asked_ms: float, guards: set[int], answer: Any) -> None:
        """A token is current only where somebody still waits for its holder, at some time while it was asked for."""
        if answer is None or not answer.is_current or term in guards or term in self._guards(LEASE + name):
            return
        key = LEASE + name
        if any(at_ms >= asked_ms for (k, _), armed in self._armed.items() if k == key for at_ms in armed.values()):
            return
        self.violated(f"honesty: term {term} of {name} is called current, and no timer ran since {asked_ms:.3f}")

    def watched(self, actor: "Actor", transition: wire.Transition) -> None:
        """A watch told of a transition; where it missed terms it says so."""
        self.counts[f"watched: {transition.kind}"] += 1
        before, term = actor.watched_terms.get(transition.name, 0), transition.term
        has_missed = term > before + 1 or (term > before and transition.holder is None)
        if before and has_missed and transition.kind not in ("resync", "state"):
            self.violated(f"honesty: {actor.name} watches {transition.name}: {transition.kind} {term} after {before}")
        actor.watched_terms[transition.name] = term

    def write(self, lease: str, nonce: str, term: int) -> None:
        """A write with a token reaches the resource, which keeps the highest."""
        highest, writer = self._fence.get(lease, (0, ""))
        if term < highest:
            self.counts["an old token was fenced off"] += 1
            return
        if term == highest and writer != nonce:
            self.violated(f"tokens: {lease} gets writes of {writer[:8]} and {nonce[:8]} under term {term}")
        self._fence[lease] = (term, nonce)
        self._event(Kind.WRITE, lease, nonce, term)

    def held(self) -> set[tuple[str, str]]:
        """Return lease and nonce of everybody who believes in this instant."""
        return {
            (name, nonce)
            for name, believing in self._believing.items()
            for nonce, (actor, campaign) in believing.items()
            if not actor.process.is_dead and self.believes(actor, campaign)
        }

    def is_held_with_another(self, name: str, duration_ms: int | None) -> bool:
        """Tell whether somebody believes that it holds this lease, for another duration than this."""
        return any(
            self.believes(actor, campaign) and campaign.duration_ms != duration_ms
            for actor, campaign in self._believing.get(name, {}).values()
        )

    def believes(self, actor: "Actor", campaign: Campaign) -> bool:
        """Tell whether it believes in this instant."""
        return campaign.phase is Phase.HELD and campaign.remaining_ms(actor.clock()) > 0
