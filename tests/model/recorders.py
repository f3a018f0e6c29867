"""Worlds that write down what they did: the simulator's whole nodes, and the pure core of the directed tests."""

from typing import Any

from leaderlease.client.campaign import Campaign
from leaderlease.node.homes import LEASE
from leaderlease.paxos.messages import Accept, Release, Renew
from leaderlease.paxos.proposer import HandOver, Vacate
from model.traces import Trace
from model.watching import Watcher
from sim.actor import Actor
from sim.member import Node
from sim.plan import Plan
from sim.referee import Referee
from sim.world import Result
from sim.world import World as SimWorld
from support.core import KEY
from support.core import World as CoreWorld

LEASES_MAX = 2
"""Leases of one simulated run that are written down."""


class RecordingReferee(Referee):
    """The simulator's referee, which also writes down the first leases of the run."""

    def __init__(self, world: SimWorld) -> None:
        super().__init__(world)
        plan = world.plan
        keys = [LEASE + lease.name for lease in plan.leases[:LEASES_MAX]]
        self.traces = {
            key: Trace(f"seed {plan.seed}, {key}", plan.node_names, rho=plan.rho_ppm / 1_000_000) for key in keys
        }
        self.watcher = Watcher(self.traces, lambda: world.engine.now)

    def began(self, node: Node) -> None:
        """A life of a node begins: watch its acceptor and what its driver sends."""
        super().began(node)
        driver, watcher = node.driver, self.watcher
        watcher.began(node.name, driver.acceptor, node.ports.now_ms, node.process.clock.rates[0])
        start, send, broadcast = driver.start, driver.send, driver.broadcast

        def watched_start(key: str, nonce: str, *args: Any) -> Any:
            attempt = start(key, nonce, *args)
            watcher.begins(key, attempt.ballot, nonce)
            return attempt

        def watched_send(member: str, message: Any) -> None:
            if type(message) is Accept:
                running = driver.attempts.get(message.key)
                intent = running.attempt.intent if running is not None else None
                watcher.proposes(message, intent, lambda nonce: not self._is_believed(message.key, nonce))
            send(member, message)

        def watched_broadcast(message: Any) -> None:
            if type(message) is Renew:
                watcher.renews(message)
            elif type(message) is Release:
                self._released(message)
            broadcast(message)

        driver.start = watched_start  # type: ignore[method-assign]
        driver.send = watched_send  # type: ignore[method-assign]
        driver.broadcast = watched_broadcast  # type: ignore[method-assign]

    def won(self, actor: Actor, campaign: Campaign) -> None:
        """A nonce begins to believe."""
        super().won(actor, campaign)
        self._believes(actor, campaign)

    def renewed(self, actor: Actor, campaign: Campaign) -> None:
        """A belief was prolonged."""
        super().renewed(actor, campaign)
        self._believes(actor, campaign)

    def stopped(self, actor: Actor, campaign: Campaign, how: str) -> None:
        """A nonce believes no more."""
        super().stopped(actor, campaign, how)
        self.watcher.lets_go(LEASE + campaign.name, campaign.holder.nonce)

    def _believes(self, actor: Actor, campaign: Campaign) -> None:
        left_ms = self._until(actor, campaign) - self.world.engine.now
        self.watcher.believes(LEASE + campaign.name, campaign.holder.nonce, campaign.term, left_ms)

    def _is_believed(self, key: str, nonce: str) -> bool:
        found = self._believing.get(key[len(LEASE) :], {}).get(nonce)
        return found is not None and not found[0].process.is_dead and self.believes(*found)

    def _released(self, message: Release) -> None:
        trace = self.traces.get(message.key)
        value = trace.values.get(message.ballot) if trace is not None else None
        if value is not None and not self._is_believed(message.key, value.nonce):
            self.watcher.lets_go(message.key, value.nonce)


def record(plan: Plan) -> tuple[Result, list[Trace]]:
    """Run a plan and return what was found, and what its first leases went through."""
    world = SimWorld(plan)
    referee = world.referee = RecordingReferee(world)
    result = world.run()
    return result, [trace for trace in referee.traces.values() if trace.events]


class RecordingWorld(CoreWorld):
    """A world of the directed tests that writes down the register ``KEY``."""

    made: list["RecordingWorld"]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trace = Trace("", sorted(self.quorum.members), margin=False)
        self.watcher = Watcher({KEY: self.trace}, lambda: float(self.now_ms))
        for name in self.nodes:
            self._watch(name)
        type(self).made.append(self)

    def _watch(self, name: str) -> None:
        node = self[name]
        self.watcher.began(name, node.acceptor, node.clock_ms, node.rate)

    def send(self, source: str, target: str, message: Any, hops: int = 0) -> None:
        """Write down what is proposed, renewed and let go, in the order in which it is sent."""
        super().send(source, target, message, hops)
        match message:
            case Accept():
                attempt = self[source].attempts.get((message.key, message.ballot))
                intent = attempt.intent if attempt is not None else None
                if intent is None or not isinstance(intent, Vacate | HandOver):
                    intent = None
                self.watcher.proposes(message, intent, lambda nonce: True)
            case Renew():
                self.watcher.renews(message)
            case Release() if message.ballot in self.trace.values:
                self.watcher.lets_go(message.key, self.trace.values[message.ballot].nonce)

    def begin(self, member: Any, nonce: str, intent: Any, key: str = KEY) -> Any:
        """Remember for whom the ballot is."""
        attempt = super().begin(member, nonce, intent, key)
        self.watcher.begins(key, attempt.ballot, nonce)
        return attempt

    def restart(self, *members: Any) -> None:
        """Watch each new life."""
        super().restart(*members)
        for member in map(str, members):
            self._watch(member)

    def believe(self, who: Any, attempt: Any, sent_ms: int | None = None, rate: float = 1.0) -> bool:
        """Write down that a holder takes its grant."""
        is_taken = super().believe(who, attempt, sent_ms, rate)
        if is_taken and attempt.decision is not None:
            self.watcher.believes(attempt.key, who.nonce, attempt.decision.value.term, 0)
        return is_taken
