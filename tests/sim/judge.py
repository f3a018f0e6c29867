"""What members say to each other, judged against their disks and all that was said before; see ``referee.py``."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from leaderlease.client.campaign import Campaign
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
from leaderlease.paxos.proposer import Acquire
from sim.linearizability import Op
from support.checkers.history import Event, Violation

if TYPE_CHECKING:
    from sim.actor import Actor
    from sim.member import Node
    from sim.world import World


STALLED_MS = 2.0 * STALL_MS
"""A disk that long behind is not overlooked by accident: a read may have begun before the stall was noticed."""
REMEMBERED_TERMS = 4
"""A node remembers 16 transitions: the ends of this many terms at least."""


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


class MemberJudge:
    """The online checks of one run: here, what members send, propose, choose and keep.

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
            home = node.sessions.leases.homes.get(message.key)
            if home is None or home.held is None or home.held.holder.nonce != message.nonce:
                self.counts["a new owner was proposed on a stalled disk"] += 1
        duel = self._key(message.key).duel
        if duel and message.ballot <= duel[-1]:
            return
        if not duel or message.ballot.member != duel[-1].member:
            duel.append(message.ballot)
            self.counts["two proposers took each other's promises away"] += len(duel) == 4

    def must_promise(self, node: "Node", message: Prepare) -> bool | None:
        """Say whether a guard here must let a ballot pass that comes now (R1); None if no guard stands."""
        register = node.driver.acceptor.registers.get(message.key)
        if register is None or register.value is None or register.pending is not None or node.driver.is_stopped:
            return None
        value, accepted = register.value, register.accepted
        if message.ballot <= register.promised or not register.is_live(node.ports.now_ms()):
            return None
        if value.nonce == message.nonce:
            return True
        return any(accepted < pair.ballot < message.ballot and pair.nonce != value.nonce for pair in message.seen)

    def answered(self, node: "Node", message: Prepare, *, must: bool) -> None:
        """Compare what a member did with a ballot with what its guard had to do."""
        register = node.driver.acceptor.registers[message.key]
        pending = register.pending
        has_promised = register.promised == message.ballot or (pending is not None and pending[1] is message)
        if has_promised != must:
            did = "lets pass" if has_promised else "refuses"
            self.violated(f"belief: {node.name} {did} {message.ballot} of {message.key} against its guard (R1)")

    def _completes(self, node: "Node", message: Accept) -> None:
        """A lease without an end that was found half-finished is finished, for whoever that was (R7)."""
        running = node.driver.attempts.get(message.key)
        if running is None or running.attempt.ballot != message.ballot:
            return
        attempt, seen = running.attempt, running.attempt.seen()[1]
        if seen is None or seen.holder is None or not seen.is_never or attempt.nonce == seen.nonce:
            return
        if message.value != seen:
            self.violated(
                f"agreement: {node.name} found {seen.nonce[:8]} half-finished in {message.key}, for ever (R7)"
            )

    def hears(self, node: "Node", message: Any) -> None:
        """A member is told, or tells, what was chosen: then it knows who has held a lock without end and let go."""
        if type(message) is not Chosen:
            return
        ballot, term, nonce = node.heard.get(message.key, (ZERO, 0, ""))
        value = message.value
        if message.ballot <= ballot:
            return
        node.heard[message.key] = (message.ballot, value.term, value.nonce)
        if value.holder is None and value.term == term and message.reason == "released":
            node.let_go[message.key, nonce] = (term, node.ports.now_us())

    def _is_not_late(self, node: "Node", message: Accept) -> None:
        """A nonce that has believed gets no other term from a node that can know of it (H18); others may be late."""
        running, value = node.driver.attempts.get(message.key), message.value
        op = self._acquires.get(value.nonce)
        if running is None or running.attempt.ballot != message.ballot or op is None or not 0 < op.term < value.term:
            return
        self.counts["elected where it asked before it held elsewhere"] += 1
        intent, what = running.attempt.intent, f"{value.nonce[:8]} for term {value.term} of {message.key}"
        if isinstance(intent, Acquire) and intent.holder.nonce == value.nonce and intent.goes_on:
            self.violated(f"tokens: {node.name} proposes {what}, which goes on with term {intent.goes_on} (H18)")
        term, heard_us = node.let_go.get((message.key, value.nonce), (0, 0))
        if term and heard_us < running.start_us and value.term <= term + REMEMBERED_TERMS:
            self.violated(f"tokens: {node.name} proposes {what}, and has heard that it let term {term} go (H18)")

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
        if message.ballot <= before:
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
            register = node.driver.acceptor.registers.get(item.key)
            if register is not None and register.pending is not None:
                self.violated(f"promise: {node.name} renews {item.key} while a record of it is under way (R2)")
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
            waits_ms, due_ms = register.expires_ms - now_ms, value.duration_ms + value.lock_delay_ms
            if waits_ms < due_ms:
                self.violated(f"belief: {node.name} restarts and does not wait for the holder of {key} (R5)")
            if waits_ms > due_ms + 1:
                self.violated(f"belief: {node.name} restarts and waits longer than its disk says for {key} (R5)")

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
            self._completes(node, message)
            self._is_not_late(node, message)
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
        life = (node.member, node.storage.identity.life.incarnation, name)
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
        self.hears(node, message)
        if message.key.startswith(LEASE) and (value.term, value.nonce) not in self._key(message.key).chosen:
            self.violated(f"honesty: {node.name} says that term {value.term} of {message.key} is chosen, and it is not")
        if message.reason:
            self.counts[f"chosen: {message.reason}"] += 1

    def is_chosen(self, lease: str, term: int, nonce: str) -> bool:
        """Tell whether this nonce was ever chosen for this term."""
        return (term, nonce) in self._key(LEASE + lease).chosen

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
                end = link.connection._transport if link.connection is not None else None
                # A link may be up with a life that has lost power a moment ago.
                if peer is None or not link.is_up or end is None or end.other.process is not peer.process:
                    continue
                life = peer.storage.identity.life
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
