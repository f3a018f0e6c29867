"""Everything that must hold, watched while it happens; and what happened, for the checkers that look at it afterwards.

Rule 1: belief is asked of the clients' own clocks at the instant at which another nonce begins to believe: exact, also
        for processes that are stopped, and without any tolerance.
Rule 2: what a member sends is compared with what is on its disk in that moment (R4), with what it promised before, and
        with all that was ever proposed; so a broken rule is found where it breaks, not when two holders come of it.
Rule 3: an observer never changes the run.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from leaderlease.client.campaign import Campaign, Phase
from leaderlease.errors import LeaderLeaseError
from leaderlease.node.driver import STALL_MS
from leaderlease.node.homes import LEASE
from leaderlease.paxos.acceptor import Record
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value, digest
from leaderlease.paxos.messages import (
    Accept,
    Accepted,
    Chosen,
    Live,
    Nack,
    Peeked,
    Prepare,
    Promise,
    Release,
    Renew,
    Renewed,
    SyncPage,
)
from leaderlease.wire import session as wire
from sim.linearizability import Op
from support.checkers.history import Event, Kind, Violation

if TYPE_CHECKING:
    from sim.actor import Actor
    from sim.member import Node
    from sim.world import World


STALLED_MS = 2.0 * STALL_MS
"""A disk that long behind is not overlooked by accident: a read may have begun before the stall was noticed."""


class _Key:
    """What is known of one register."""

    __slots__ = ("accepts", "acks", "chosen", "duel", "owners", "top", "top_value")

    def __init__(self) -> None:
        self.accepts: dict[Ballot, Value] = {}
        self.acks: dict[Ballot, set[str]] = {}
        self.chosen: set[tuple[int, str]] = set()
        self.duel: list[Ballot] = []
        """Ballots that were prepared since something was chosen, where proposers took turns."""
        self.owners: dict[int, str] = {}
        self.top = ZERO
        self.top_value: Value | None = None


class Referee:
    """The online checks of one run.

    Attributes:
        history: For ``support.checkers``.
        operations: For the linearizability checker, by lease.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.counts: Counter[str] = world.counts
        self.history: list[Event] = []
        self.operations: dict[str, list[Op]] = {}
        self._keys: dict[str, _Key] = {}
        self._promised: dict[tuple[str, str], Ballot] = {}
        self._renews: dict[tuple[str, int], Renew] = {}
        self._specs: dict[tuple[str, int, str], Ballot] = {}
        self._shown: set[tuple[str, str, Ballot]] = set()
        self._believing: dict[str, dict[str, tuple[Actor, Campaign]]] = {}
        self._terms: dict[str, tuple[int, int | None, str]] = {}
        self._ended: dict[str, str] = {}
        self._acquires: dict[str, Op] = {}
        self._acknowledged: dict[str, int] = {}
        self._fence: dict[str, tuple[int, str]] = {}
        self.live_nonces: dict[str, Actor] = {}
        self._armed: dict[tuple[str, str], dict[str, float]] = {}

    def violated(self, text: str) -> None:
        """Stop the run: something happened that must not.

        Raises:
            Violation: Always.
        """
        self.world.engine.say("!", text)
        raise Violation(text)

    def _key(self, key: str) -> _Key:
        found = self._keys.get(key)
        if found is None:
            found = self._keys[key] = _Key()
        return found

    # --- what members send ---------------------------------------------------------------------------------------

    def sent(self, node: "Node", target: str, message: Any) -> None:
        """Judge what a member is about to say to another."""
        kind = type(message)
        counts = self.counts
        if kind is Renew:
            if (node.member, message.attempt) not in self._renews:
                self._renews[node.member, message.attempt] = message
                counts["a renewal of a hundred leases"] += len(message.items) >= 100
                self._renews_itself(node, message)
        elif kind is Renewed:
            self._renewed(node, target, message)
        elif kind is Prepare:
            self._prepare(node, message)
            if message.seen:
                self._shown.add((target, message.key, message.ballot))
                counts["evidence shown"] += 1
        elif kind is Promise:
            self._promise(node, message)
        elif kind is Accept:
            self._accept(node, message)
        elif kind is Accepted:
            self._accepted(node, message)
        elif kind is Live:
            counts["a guard refused a ballot"] += 1
        elif kind is Nack:
            counts["a promise refused a ballot"] += 1
        elif kind is Release:
            counts["timers stopped by a release"] += 1
        elif kind is Chosen:
            self._chosen(node, message)
        elif kind is SyncPage:
            self._count_missed(target, message)
        elif kind is Peeked and message.value is not None:
            self._on_disk(node, message.key, message.accepted, "reports in a peek")

    def _prepare(self, node: "Node", message: Prepare) -> None:
        if message.nonce and node.storage.oldest_pending_ms() > STALLED_MS and message.key.startswith(LEASE):
            register = node.driver.acceptor.registers.get(message.key)
            if register is None or register.value is None or register.value.nonce != message.nonce:
                self.violated(
                    f"durability: {node.name} proposes for a new owner of {message.key} on a stalled disk (R9)"
                )
        duel = self._key(message.key).duel
        if duel and message.ballot <= duel[-1]:
            return
        if not duel or message.ballot.member != duel[-1].member:
            duel.append(message.ballot)
            self.counts["two proposers took each other's promises away"] += len(duel) == 4

    def _count_missed(self, target: str, page: SyncPage) -> None:
        disk = next(disk for disk in self.world.disks.values() if disk.member == target)
        for entry in page.entries:
            record = disk.records.get(entry.key)
            if record is None or record.accepted < entry.ballot:
                self.counts["a node was sent what it had missed"] += 1

    def _on_disk(self, node: "Node", key: str, ballot: Ballot, what: str) -> Record | None:
        record = node.disk.records.get(key)
        if record is None or record.accepted < ballot:
            self.violated(f"durability: {node.name} {what} {key} under {ballot}, which is not on its disk (R4)")
        return record

    def _promise(self, node: "Node", message: Promise) -> None:
        record = node.disk.records.get(message.key)
        promised = record.promised if record is not None else ZERO
        self.counts["a promise that only the ceiling has on a disk"] += promised < message.ballot
        if promised < message.ballot and node.disk.ceiling < message.ballot.counter:
            self.violated(f"durability: {node.name} promises {message.ballot} of {message.key}, which no disk has (R5)")
        accepted = record.accepted if record is not None else ZERO
        if message.accepted != accepted:
            self.violated(
                f"promise: {node.name} reports {message.accepted} as accepted for {message.key}, its disk {accepted}"
            )
        before = self._promised.get((node.member, message.key), ZERO)
        if message.ballot < before:
            self.violated(f"promise: {node.name} promises {message.ballot} of {message.key} after {before} (R3)")
        self._promised[node.member, message.key] = message.ballot
        if (node.member, message.key, message.ballot) in self._shown:
            self.counts["evidence lifted a guard"] += 1

    def _accepted(self, node: "Node", message: Accepted) -> None:
        record = self._on_disk(node, message.key, message.ballot, "has accepted")
        if record is not None and record.value is not None and record.accepted == message.ballot:
            self._arm(message.key, record.value.nonce, node.member)
        before = self._promised.get((node.member, message.key), ZERO)
        if message.ballot < before:
            self.violated(f"promise: {node.name} accepts {message.ballot} of {message.key} after promising {before}")
        self._promised[node.member, message.key] = message.ballot

    def _renewed(self, node: "Node", target: str, message: Renewed) -> None:
        renew = self._renews.get((target, message.attempt))
        if node.platter.stalled_until > self.world.engine.now and not message.epoch:
            self.counts["a renewal while the disk stalls"] += 1
        if message.nacked:
            self.counts["a promise broken between two renewals"] += 1
        if message.unknown:
            self.counts["NEED_VALUE: a renewal of what is not there"] += 1
        if renew is None or message.epoch:
            return
        refused = {*message.nacked, *message.unknown}
        for position, item in enumerate(renew.items):
            if position in refused:
                continue
            ballot = Ballot(item.counter, renew.member, renew.incarnation)
            record = node.disk.records.get(item.key)
            if record is None or record.accepted != ballot or record.value is None:
                self.violated(f"durability: {node.name} renews {item.key} under {ballot}, which its disk lacks (R2)")
            else:
                self._arm(item.key, record.value.nonce, node.member)
            if record is not None and record.value is not None and digest(record.value) != item.digest:
                self.violated(f"durability: {node.name} renews {item.key} with another value than its disk has (R2)")
            before = self._promised.get((node.member, item.key), ZERO)
            if ballot < before:
                self.violated(f"promise: {node.name} renews {item.key} under {ballot} after promising {before} (R2)")

    def began(self, node: "Node") -> None:
        """A life begins: it stands by what earlier ones promised, and waits for whoever may still believe (R5)."""
        if node.name in self.world.images:
            return
        acceptor, now_ms = node.driver.acceptor, node.ports.now_ms()
        for (member, key), before in self._promised.items():
            if member == node.member:
                register = acceptor.registers.get(key)
                promised = register.promised if register is not None else acceptor._floor
                if promised < before:
                    self.violated(f"promise: {node.name} promised {before} of {key} and restarts at {promised} (R5)")
        for key, register in acceptor.registers.items():
            value = register.value
            if value is None or value.holder is None or value.duration_ms is None:
                continue
            if register.expires_ms - now_ms < value.duration_ms + value.lock_delay_ms:
                self.violated(f"belief: {node.name} restarts and does not wait for the holder of {key} (R5)")

    def _renews_itself(self, node: "Node", message: Renew) -> None:
        for item in message.items:
            register = node.driver.acceptor.registers.get(item.key)
            ballot = Ballot(item.counter, message.member, message.incarnation)
            if register is None or register.value is None or register.pending is not None:
                continue
            if register.promised == register.accepted == ballot:
                self._arm(item.key, register.value.nonce, node.member)

    def _arm(self, key: str, nonce: str, member: str) -> None:
        """A member guards for this nonce, for a whole duration from now on."""
        self._armed.setdefault((key, nonce), {})[member] = self.world.engine.now

    def _is_guarded(self, actor: "Actor", campaign: Campaign) -> None:
        """What a client counts from lies before the instants at which a majority armed for it (R6)."""
        belief = campaign.belief
        assert belief is not None
        clock = actor.process.clock
        basis_ms = clock.since_ms + (belief.basis.boot_ms - 1_000.0) / clock.rates[1]
        armed = self._armed.get((LEASE + campaign.name, campaign.holder.nonce), {})
        guards = {member for member, at_ms in armed.items() if at_ms >= basis_ms - 0.001}
        if not self.world.configuration.quorum().is_met(guards):
            self.violated(
                f"honesty: {actor.name} counts {campaign.name} term {campaign.term} from {basis_ms:.3f}, and since "
                f"then {len(guards)} members have armed a timer for it (R6)"
            )

    # --- what is proposed and chosen -----------------------------------------------------------------------------

    def _accept(self, node: "Node", message: Accept) -> None:
        key, ballot, value = self._key(message.key), message.ballot, message.value
        before = key.accepts.get(ballot)
        if before is not None:
            if before != value:
                self.violated(f"agreement: two values of {message.key} under {ballot}: {before} and {value} (R3)")
            return
        key.accepts[ballot] = value
        if message.key.startswith(LEASE):
            self._specs_grow(node, message.key[len(LEASE) :])
        if ballot > key.top:
            self._follows(message.key, key.top_value, value, ballot)
            self._count_adoption(key, ballot, value)

    def _follows(self, name: str, chosen: Value | None, later: Value, ballot: Ballot) -> None:
        """A value proposed above a chosen one continues its term, ends it, or begins the next."""
        if chosen is None or later.term > chosen.term or later == chosen:
            return
        is_end = later.term == chosen.term and later.holder is None and not later.body
        if not is_end:
            self.violated(
                f"agreement: {name}: term {chosen.term} of {chosen.nonce[:8]} was chosen, and {ballot} proposes "
                f"term {later.term} of {later.nonce[:8]}"
            )

    def _specs_grow(self, node: "Node", name: str) -> None:
        """What one life of a node knows to be declared never goes back to an older ballot."""
        known = node.sessions.specs._ballots.get(name, ZERO)
        life = (node.member, node.storage.identity.incarnation, name)
        if known < self._specs.get(life, ZERO):
            self.violated(f"honesty: {node.name} goes back to an older declaration of {name}")
        self._specs[life] = known

    def _count_adoption(self, key: _Key, ballot: Ballot, value: Value) -> None:
        for earlier, theirs in list(key.accepts.items()):
            if earlier >= ballot or (theirs.term, theirs.nonce) in key.chosen:
                continue
            if theirs == value:
                self.counts["a value of a minority completed"] += 1
                return
            if theirs.holder is not None and value.term == theirs.term + 1 and value.holder is not None:
                self.counts["a value of a minority counted as a term"] += 1
                return

    def installed(self, node: "Node", record: Record) -> None:
        """A record is durable and installed: perhaps this makes its value chosen."""
        if record.value is None:
            return
        key = self._key(record.key)
        key.accepts.setdefault(record.accepted, record.value)
        acks = key.acks.setdefault(record.accepted, set())
        acks.add(node.member)
        self._arm(record.key, record.value.nonce, node.member)
        if not node.configuration.quorum().is_met(acks):
            return
        value, ballot = record.value, record.accepted
        key.chosen.add((value.term, value.nonce))
        if value.holder is not None:
            owner = key.owners.setdefault(value.term, value.nonce)
            if owner != value.nonce:
                self.violated(f"agreement: term {value.term} of {record.key} is of {owner} and of {value.nonce}")
        if ballot > key.top:
            self._follows(record.key, key.top_value, value, ballot)
            for later, theirs in key.accepts.items():
                if later > ballot:
                    self._follows(record.key, value, theirs, later)
            key.top, key.top_value = ballot, value
            key.duel.clear()
            # Not the acknowledgements: an earlier ballot may get its last one after a later ballot was chosen.
            for old in [b for b in key.accepts if b < ballot]:
                del key.accepts[old]

    def _chosen(self, node: "Node", message: Chosen) -> None:
        value = message.value
        if message.key.startswith(LEASE) and (value.term, value.nonce) not in self._key(message.key).chosen:
            self.violated(f"honesty: {node.name} says that term {value.term} of {message.key} is chosen, and it is not")
        if message.reason:
            self.counts[f"chosen: {message.reason}"] += 1

    def is_chosen(self, lease: str, term: int, nonce: str) -> bool:
        """Tell whether this nonce was ever chosen for this term."""
        return (term, nonce) in self._key(LEASE + lease).chosen

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
        """Return the true instant at which this belief ends by itself, if the machine is not suspended before."""
        belief = campaign.belief
        assert belief is not None
        now, clock = self.world.engine.now, actor.process.clock
        if belief.validity_ms == float("inf"):
            return float("inf")
        reading = actor.clock()
        left_boot = belief.validity_ms - (reading.boot_ms - belief.basis.boot_ms)
        left_raw = belief.validity_ms - (reading.raw_ms - belief.basis.raw_ms)
        return now + min(left_boot / clock.rates[1], left_raw / clock.rates[0])

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

    # --- disks ---------------------------------------------------------------------------------------------------

    def disks(self) -> list[dict[str, int]]:
        """Return what is durable: lease -> term, for each member that has not lost its disk."""
        return [
            {
                key[len(LEASE) :]: record.value.term
                for key, record in disk.records.items()
                if key.startswith(LEASE) and record.value is not None
            }
            for disk in self.world.honest_disks()
        ]

    def check_lives(self) -> None:
        """Refuse a member that talks to another and has not that one's life on its disk: it may go back (H24)."""
        living = {node.member: node for node in self.world.nodes.values() if not node.process.is_dead}
        for node in living.values():
            if node.storage.queued:
                continue
            for uuid, link in node.peers.links.items():
                peer = living.get(uuid)
                if peer is None or not link.is_up:
                    continue
                life = (peer.storage.identity.incarnation, peer.storage.identity.boot_nonce)
                if node.disk.peers.get(uuid) != life:
                    self.violated(
                        f"durability: {node.name} talks to {peer.name} and has not kept which life it is (R8)"
                    )

    def check_disks(self, name: str | None = None) -> None:
        """Refuse disks of which no majority has what was acknowledged."""
        majority = len(self.world.disks) // 2 + 1
        names = [name] if name is not None else list(self._acknowledged)
        for lease in names:
            term, key, count = self._acknowledged.get(lease, 0), LEASE + lease, 0
            for disk in self.world.honest_disks():
                record = disk.records.get(key)
                count += record is not None and record.value is not None and record.value.term >= term
            if count < majority:
                self.violated(f"durability: term {term} of {lease} was acknowledged, and {count} disks have it")
