"""A whole quorum with its clients, from a plan: how it starts, what clients do, and how it ends.

Two phases, as in VOPR and Paxos Made Live: first safety under every fault that the plan drew; then the faults stop, and
every lease that somebody wants must be held again within ``PROGRESS_MS`` and its own duration.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leaderlease.client.campaign import Campaign
from leaderlease.client.keepalive import IDLE_PERIOD_MS
from leaderlease.errors import CorruptRecord
from leaderlease.node.leases import RECHECK_MS
from leaderlease.paxos.membership import first_configuration
from leaderlease.storage.base import Life
from leaderlease.wire import session as wire
from sim.actor import Actor
from sim.disk import Platter, Rows
from sim.engine import Clock, Engine
from sim.faults import Faults
from sim.linearizability import is_linearizable
from sim.member import Node
from sim.network import Network
from sim.plan import Lease, Plan
from sim.referee import Referee
from support.checkers.belief import check_belief
from support.checkers.history import Violation
from support.checkers.progress import check_progress
from support.checkers.reports import check_agreement, check_honesty
from support.checkers.terms import check_durability, check_fence, check_tokens

PROGRESS_MS = 15_000.0
"""What a lease may take on top of its duration and lock delay to be held again after the faults."""
CLUSTER = "6f1c1a52-6a3c-4b0f-8a0b-2f0c7d9e1a11"
CHECKED_EVERY_MS = 1_000.0
LOOK_MS = 500.0
RESTART_MS = 500.0
"""Until a node that could not start is started again."""
HEALED_LATENCY_SHARE = 30
"""The shortest lease over the typical delay once the faults have ended: a slow network is a fault, too."""
OPERATIONS_MAX = 10_000
"""Operations of one lease that are searched for an order."""


@dataclass
class Result:
    """What one run was."""

    seed: int
    digest: str
    counts: "Counter[str]"
    simulated_ms: float
    events: int
    violation: str = ""
    faults: tuple[int, ...] = ()
    """Numbers of the faults that came."""


class World:
    """One run.

    Args:
        plan: What it is like.
        trace: Takes readable lines, or None.
    """

    def __init__(self, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.engine = Engine(f"run {plan.seed}", trace)
        chance = self.engine.random
        self.clocks = {host: Clock(*plan.rates[host], -1e6 * chance.random()) for host in plan.hosts}
        self.wall_rates = {name: chance.choice([1.0, 2.0, -1.0]) for name in plan.node_names}
        self.platters = {name: Platter(plan.fsync_ms) for name in plan.node_names}
        self.network = Network(self.engine, plan.weather, self.counts)
        self.referee = Referee(self)
        self.faults = Faults(self)
        self.is_rolling = False
        self.is_healed = False
        self.pause_ms: float | None = None
        """How long nodes stay down that die now; None leaves it to chance."""
        self.refuses_to_start: set[str] = set()
        self.lost_disks: set[str] = set()
        self.flaps: dict[str, list[int]] = {}
        """After how many events of its own each of a node's next lives ends."""
        self.backups: dict[str, list[Rows]] = {}
        members = {f"{number:08x}-member": (name, f"{name}/peer") for number, name in enumerate(plan.node_names)}
        self.configuration = first_configuration(CLUSTER, members)
        self.disks = {member.name: Rows(member.uuid) for member in self.configuration.members}
        for disk in self.disks.values():
            disk.format(self.configuration)
        self.images: dict[str, Rows] = {}
        """What disks held before they were rolled back: what was lost is no fault of the protocol."""
        self.nodes: dict[str, Node] = {}
        self.actors: dict[str, Actor] = {}
        self.leases = {lease.name: lease for lease in plan.leases}
        self._lives = Counter[str]()
        if trace is not None:
            self.network.on_write = self._show_write

    # --- the run -------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run both phases and every check."""
        violation = ""
        logger = logging.getLogger("leaderlease")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            self._run()
        except Violation as error:
            violation = str(error)
        except Exception as error:  # a bug that shows as an exception is a find like any other
            violation = f"exception: {type(error).__name__}: {error}"
            if self.engine.trace is not None:
                raise
        finally:
            logger.setLevel(level)
        engine = self.engine
        happened = tuple(self.faults.happened)
        return Result(self.plan.seed, engine.digest(), self.counts, engine.now, engine.events, violation, happened)

    def _run(self) -> None:
        plan, engine = self.plan, self.engine
        for name in plan.node_names:
            self.start_node(name)
        self.operator = self._operator()
        for lease in plan.leases if plan.is_declared else ():
            self._tell(lease, wire.Spec(lease.duration_ms, lease.lock_delay_ms))
        engine.run(500.0 + 20 * plan.weather.latency_ms)
        for name in plan.client_names:
            self.start_client(name)
        self._plan_reads()
        self.faults.begin()
        engine.run(plan.active_ms)
        healed_ms = self.heal()
        wait_ms = max(self._patience_ms(lease) for lease in plan.leases) + PROGRESS_MS
        self._run_until_held(healed_ms, healed_ms + wait_ms)
        self._check(healed_ms)

    def _run_until_held(self, healed_ms: float, until_ms: float) -> None:
        """End early: when every lease has been held since the faults stopped, waiting longer proves nothing more."""
        while self.engine.now < until_ms:
            self.engine.run(min(until_ms, self.engine.now + CHECKED_EVERY_MS))
            believing = self.referee._believing
            if all(
                any(self.referee.believes(actor, campaign) for actor, campaign in believing.get(name, {}).values())
                for name in self.leases
            ):
                return

    def _check(self, healed_ms: float) -> None:
        history = self.referee.history
        check_belief(history)
        check_tokens(history)
        check_fence(history)
        check_agreement(history)
        # What may come too late, and what may not, the referee has watched as it was proposed.
        check_honesty(history, may_be_late=True)
        wanted = {lease.name: self._patience_ms(lease) for lease in self.plan.leases}
        check_progress(history, healed_ms, wanted, PROGRESS_MS)
        check_durability(history, self.referee.disks())
        self.referee.check_lives()
        self.referee.check_disks()
        for name, operations in self.referee.operations.items():
            self.counts["operations"] += len(operations)
            if not is_linearizable(operations[:OPERATIONS_MAX]):
                self.referee.violated(f"linearizability: no order explains the answers about {name}")

    def _patience_ms(self, lease: Lease) -> float:
        """Return what a lease may take on top of ``PROGRESS_MS``; what is never renewed is missed late."""
        own_ms = IDLE_PERIOD_MS + RECHECK_MS if lease.duration_ms is None else lease.duration_ms
        return float(own_ms + lease.lock_delay_ms)

    def heal(self) -> float:
        """End all faults; return when."""
        self.engine.say("net", "ALL FAULTS END")
        self.is_healed = True
        self.flaps.clear()
        self.faults.heal()
        weather = self.network.weather
        weather.loss = weather.doubled = weather.spike = 0.0
        durations_ms = [lease.duration_ms for lease in self.plan.leases if lease.duration_ms is not None]
        weather.latency_ms = min(weather.latency_ms, min(durations_ms, default=1_000) / HEALED_LATENCY_SHARE)
        self.network.hosts_down.clear()
        for platter in self.platters.values():
            platter.fsync_ms = min(platter.fsync_ms, 2.0)
            platter.stalled_until = 0.0
            platter.is_full = platter.fails_next_start = False
        for name in sorted(self.lost_disks):
            # A member whose disk lies is replaced by people; until then it is out.
            self.refuses_to_start.add(name)
            self.nodes[name].die("is taken out of service")
        for node in list(self.nodes.values()):
            node.process.on_countdown = None
            node.storage.heal()
            if node.process.is_dead:
                self.start_node(node.name)
        for name in self.plan.client_names:
            if self.actors[name].process.is_dead:
                self.start_client(name)
        for lease in self.plan.leases:
            if self.plan.is_declared:
                self._tell(lease, wire.Spec(lease.duration_ms, lease.lock_delay_ms))
            for actor in self.actors.values():
                actor.want(lease, True)
        for actor in self.actors.values():
            actor.may_go_to(self.plan.node_names)
        self._look_for_dead_locks()
        return self.engine.now

    def _look_for_dead_locks(self) -> None:
        """After the faults the operator looks at every lease without end until somebody who lives has it."""
        for lease in self.plan.leases:
            if lease.duration_ms is None and lease.name not in self.operator.is_asking:
                self.operator.ask(wire.GetRequest(0, lease.name))
        self.engine.later(LOOK_MS, self._look_for_dead_locks)

    # --- nodes ---------------------------------------------------------------------------------------------------

    def start_node(self, name: str) -> None:
        """Begin a life of a node on what its disk holds."""
        if name in self.refuses_to_start or (name in self.nodes and not self.nodes[name].process.is_dead):
            return
        self.network.hosts_down.discard(name)
        disk = self.disks[name]
        if not self._opens(name, disk):
            return
        if disk.ceiling and self._lives[name]:
            self.counts["a restart below a ceiling"] += 1
        self._lives[name] += 1
        member = next(member for member in self.configuration.members if member.name == name)
        backups = self.backups.setdefault(name, [])
        backups.append(disk.copy())
        node = self.nodes[name] = Node(self, self.configuration, member, disk)
        self.engine.say(name, f"starts: incarnation {disk.life.incarnation}, {len(disk.records)} records")
        node.start()
        if self.flaps.get(name):
            self.counts["a life that was cut short"] += 1
            node.process.left = self.flaps[name].pop()
            node.process.on_countdown = lambda: node.die("killed again")

    def _opens(self, name: str, disk: Rows) -> bool:
        """Read the disk and write the first thing of this life, or find out why not."""
        believed, platter = disk.records, self.platters[name]
        try:
            disk.open()
        except CorruptRecord as error:
            if not disk.damage:
                self.referee.violated(f"durability: {name} calls a whole disk damaged: {error} (R9)")
            self.engine.say(name, f"does not start, for good: {error}")
            self.counts[f"{disk.damage} on a disk, found at the start"] += 1
            self.refuses_to_start.add(name)
            return False
        if disk.damage:
            self.referee.violated(f"durability: {name} starts on a disk with {disk.damage} (R9)")
        if disk.records != believed:
            self.referee.violated(f"durability: {name} reads something else than was written (R9)")
        if not (platter.is_full or platter.fails_next_start):
            return True
        self.counts["a full disk kept a node out" if platter.is_full else "fsync failed at a start"] += 1
        if not platter.is_full:
            disk.begin("")
        platter.fails_next_start = False
        self.engine.say(name, "does not start: its first write fails")
        self.engine.later(RESTART_MS, lambda: self.start_node(name))
        return False

    def node_died(self, node: Node) -> None:
        """Plan its next life."""
        dead = sum(other.process.is_dead for other in self.nodes.values())
        if dead > self.plan.nodes // 2:
            self.counts["a majority was down"] += 1
        if node.name in self.images and not self.would_be_recognised(node.name, node.disk):
            return
        pause_ms = self.pause_ms or self.engine.random.choice([5.0, 100.0, 500.0, 2_000.0])
        if self.flaps.get(node.name):
            pause_ms = 5.0
        self.engine.later(pause_ms, lambda: self.start_node(node.name))

    def honest_disks(self) -> list[Rows]:
        """Return the disks, those that were rolled back as they were before."""
        return [self.images.get(name, disk) for name, disk in self.disks.items()]

    def would_be_recognised(self, name: str, disk: Rows) -> bool:
        """Tell whether every member with an honest disk knows, durably, a life that its next one contradicts.

        One that has not met the life that was lost takes a disk that went back for a new life; that is not promised.
        """
        known = (theirs.peers.get(disk.member, Life(0, "")) for other, theirs in self._honest(name))
        return all(life.contradicts(disk.life.next("")) for life in known)

    def _honest(self, name: str) -> list[tuple[str, Rows]]:
        return [(other, disk) for other, disk in self.disks.items() if other != name and other not in self.lost_disks]

    def roll_back(self, name: str, backup: Rows) -> None:
        """Put a backup in place of a disk; it is started once and its peers must refuse it."""
        self.images[name] = self.disks[name]
        self.disks[name] = backup.copy()

    # --- clients -------------------------------------------------------------------------------------------------

    def some_duration_ms(self) -> float:
        """Return the duration of one of the leases, 1 000 ms for one without end."""
        return float(self.engine.random.choice(self.plan.leases).duration_ms or 1_000)

    def _operator(self) -> Actor:
        return Actor(self, "op", self.plan.node_names, is_admin=True)

    def _tell(self, lease: Lease, spec: wire.Spec) -> None:
        """Have a lease declared; what fails is asked for again."""
        request = self.operator.core.ask(wire.DeclareRequest(0, lease.name, spec), is_repeatable=True)

        def answered(message: Any, error: Any) -> None:
            self.counts["declared" if error is None else "a declaration failed"] += 1
            if error is None and self.referee.is_held_with_another(lease.name, spec.duration_ms):
                self.counts["another duration was declared while somebody held"] += 1
            if error is not None:
                self.operator.elsewhere(error)
                self.operator.process.later(200.0, lambda: self._tell(lease, spec))

        request.owner = answered
        self.operator.pump()

    def start_client(self, name: str) -> None:
        """Begin a life of a client: it wants every lease, some at once and some by and by."""
        chance = self.engine.random
        nodes = list(self.plan.node_names)
        chance.shuffle(nodes)
        if chance.random() < 0.15 and not self.is_healed:
            nodes = nodes[:1]
        self._lives[name] += 1
        actor = self.actors[name] = Actor(self, f"{name}", nodes)
        for lease in self.plan.leases:
            self._want_in(actor, lease, chance.random() * 200)
        if chance.random() < 0.5:
            actor.watch(chance.choice(self.plan.leases).name)

    def client_died(self, actor: Actor) -> None:
        """Plan its next life, with new nonces."""
        self.engine.later(100 + 2_000 * self.engine.random.random(), lambda: self._again(actor))

    def _again(self, actor: Actor) -> None:
        if self.actors[actor.name] is actor:
            self.start_client(actor.name)

    def _want_in(self, actor: Actor, lease: Lease, delay_ms: float) -> None:
        is_waiting = self.is_healed or self.engine.random.random() < self.plan.patience
        actor.process.later(delay_ms, lambda: actor.want(lease, is_waiting or self.is_healed))

    def wants_again(self, actor: Actor, campaign: Campaign) -> None:
        """A campaign has ended: the next one begins by and by."""
        self._want_in(actor, campaign.owner, 1 + self.engine.random.expovariate(1 / (1 + self.plan.hold_ms / 2)))

    def plans_for(self, actor: Actor, campaign: Campaign) -> None:
        """A lease was won: work, and perhaps let it go again."""
        chance, lease = self.engine.random, campaign.owner
        actor.process.later(0.0, lambda: self._work(actor, campaign))
        if self.is_healed:
            return
        hold_ms = chance.expovariate(1 / self.plan.hold_ms)
        if chance.random() < 0.8:
            actor.process.later(hold_ms, lambda: self._let_go(actor, campaign, lease))

    def _let_go(self, actor: Actor, campaign: Campaign, lease: Lease) -> None:
        if actor.campaigns.get(lease.name) is not campaign or self.is_healed:
            return
        chance = self.engine.random
        successor = chance.choice(self.plan.client_names) if chance.random() < self.plan.handovers else ""
        actor.let_go(lease.name, successor)
        self._want_in(actor, lease, chance.expovariate(1 / (1 + self.plan.hold_ms / 2)))

    def _work(self, actor: Actor, campaign: Campaign) -> None:
        """Write with the token while it believes; a write is on its way for as long as it likes."""
        if not self.referee.believes(actor, campaign):
            return
        name, nonce, term = campaign.name, campaign.holder.nonce, campaign.term
        chance = self.engine.random
        delay_ms = self.plan.weather.latency_ms * (1 + chance.random() * chance.choice([1, 1, 50]))
        self.engine.later(delay_ms, lambda: self.referee.write(name, nonce, term))
        actor.process.later(50 + chance.random() * self.plan.hold_ms, lambda: self._work(actor, campaign))

    # --- questions -----------------------------------------------------------------------------------------------

    def _plan_reads(self) -> None:
        self.engine.later(self.engine.random.expovariate(1 / self.plan.reads_every_ms), self._ask_something)

    def _ask_something(self) -> None:
        chance = self.engine.random
        lease = chance.choice(self.plan.leases)
        living = [actor for actor in self.actors.values() if not actor.process.is_dead and not actor.process.is_stopped]
        kind = chance.choice(["get", "get", "verify", "step down", "declare", "revoke", "abandon", "list"])
        if kind == "declare":
            self._declare(lease)
        elif kind == "revoke":
            self.operator.ask(wire.GetRequest(0, lease.name))
        elif living:
            actor = chance.choice(living)
            if kind == "get":
                actor.ask(wire.GetRequest(0, lease.name))
            elif kind == "verify":
                term = max(1, self.referee._terms.get(lease.name, (1, 0, ""))[0] - chance.choice([0, 0, 1]))
                actor.ask(wire.VerifyRequest(0, lease.name, term))
            elif kind == "list":
                actor.ask(wire.ListRequest(0))
            elif kind == "abandon" and not self.is_healed:
                actor.abandon(lease.name)
                self._want_in(actor, lease, chance.random() * 500)
            elif kind == "step down" and chance.random() < 0.2 and not self.is_healed:
                actor.ask(wire.StepDownRequest(0, lease.name), is_repeatable=False)
        self._plan_reads()

    def _declare(self, lease: Lease) -> None:
        """Change what is declared under load: twice as long, or back."""
        if not self.plan.is_declared or self.is_healed:
            return
        duration_ms = lease.duration_ms
        if duration_ms is not None and self.engine.random.random() < 0.5:
            duration_ms *= 2
        self._tell(lease, wire.Spec(duration_ms, lease.lock_delay_ms))

    def was_read(self, actor: Actor, info: wire.LeaseInfo) -> None:
        """The operator revokes a lease without end whose holder is certainly gone."""
        if actor is not self.operator or info.duration_ms is not None or info.holder is None:
            return
        if not self.referee.is_wanted(info.holder.nonce):
            actor.ask(wire.RevokeRequest(0, info.name, info.term))

    # --- the trace -----------------------------------------------------------------------------------------------

    def _show_write(self, end: Any, data: bytes) -> None:
        """Say who sends what to whom."""
        from leaderlease.wire.codec import CLIENT, NODE, PEER

        if end.is_peers:
            codec = PEER
        else:
            codec = NODE if end.process.name in self.plan.node_names else CLIENT
        reader = CLIENT if codec is NODE else NODE if codec is CLIENT else PEER
        for message in reader.decoder().feed(data):
            if type(message).__name__ not in ("Ping", "Pong"):
                assert self.engine.trace is not None
                self.engine.trace(
                    f"{self.engine.now:13.3f} {end.process.name:5} -> {end.other.process.name:4} {_short(message)}"
                )


_SHORTER = tuple(
    (re.compile(pattern), short)
    for pattern, short in (
        (r"Ballot\(counter=0, member='', incarnation=0\)", "none"),
        (r"Ballot\(counter=(\d+), member='0*(\d)-member', incarnation=(\d+)\)", r"\1.n\2.\3"),
        (r"Ballot\(counter=(\d+), member='', incarnation=\d+\)", r"up to \1"),
        (r"'?\b([0-9a-f]{8})[0-9a-f]{24}'?", r"\1"),
        (r"Holder\(name='(\w*)', pod_uid='', nonce=(\w+)\)", r"\1/\2"),
        (r", lock_delay_ms=0|, acquired_at_ms=\d+|, body=b''|epoch=\d+, |, seen=\(\)|, \w+=''|, \w+_ms=0\b", ""),
        (r"Value\(term=(\d+), holder=([^,]+), duration_ms=(\w+)\)", r"(term \1, \2, \3 ms)"),
        (r"member='0*(\d)-member', incarnation=(\d+)", r"n\1.\2"),
    )
)
LINE_MAX = 260


def _short(message: Any) -> str:
    """Say a message in one line: ballots as counter.member.incarnation, nonces by their first digits."""
    text = repr(message)
    for pattern, short in _SHORTER:
        text = pattern.sub(short, text)
    return text if len(text) < LINE_MAX else text[: LINE_MAX - 3] + "..."
