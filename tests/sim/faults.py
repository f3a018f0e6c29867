"""What is done to a simulated quorum: one function for each kind of fault in ``plan.FAULTS``.

Rule 1: every fault ends by itself, and all that goes on is ended by ``World.heal``; then the quorum must come back.
Rule 2: of disks that lie, at most a minority: the protocol promises nothing for more (H24, H25).
Rule 3: each fault has a number, an instant and a random source of its own, so that leaving others out changes neither
        when it comes nor what it is.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from leaderlease.node.homes import LEASE
from sim.actor import Actor
from sim.disk import DAMAGES
from sim.engine import Process
from sim.member import Node
from sim.stranger import KINDS, Stranger

if TYPE_CHECKING:
    from sim.world import World

ROLLOUT_GAP_MAX_MS = 3_000.0


class Faults:
    """Draws one fault after another."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.engine = world.engine
        self.chance = self._schedule = random.Random(f"faults {world.plan.seed}")
        self.count = 0
        self.happened: list[int] = []
        """Numbers of those that came, in order."""
        self._undo: dict[int, Callable[[], None]] = {}
        self._count = 0
        self.is_over = False

    def begin(self) -> None:
        """Plan the first fault."""
        if self.world.plan.drawn:
            self._plan()

    def _plan(self) -> None:
        pause_ms = self._schedule.expovariate(1 / self.world.plan.fault_every_ms)
        self.engine.later(pause_ms, self._next)

    def _next(self) -> None:
        if self.is_over:
            return
        plan = self.world.plan
        kind = self._schedule.choice(plan.drawn)
        self.count += 1
        if kind in plan.faults and (plan.only is None or self.count in plan.only):
            self.happened.append(self.count)
            self.world.counts[f"fault: {kind}"] += 1
            self.engine.say("fault", f"number {self.count}: {kind}")
            self.chance = random.Random(f"fault {plan.seed} {self.count}")
            getattr(self, f"_{kind}")()
        self._plan()

    def heal(self) -> None:
        """End everything that goes on."""
        self.is_over = True
        for number in list(self._undo):
            self._end(number)

    def _for(self, duration_ms: float, undo: Callable[[], None]) -> None:
        self._count += 1
        number = self._count
        self._undo[number] = undo
        self.engine.later(duration_ms, lambda: self._end(number))

    def _end(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    # --- what is drawn -------------------------------------------------------------------------------------------

    def _span_ms(self) -> float:
        """Draw how long: mostly about a lease, sometimes a moment, sometimes for long."""
        lease_ms = self.world.some_duration_ms()
        return self.chance.choice([0.05, 0.3, 0.6, 1.0, 1.1, 1.5, 4.0]) * lease_ms * (0.8 + 0.4 * self.chance.random())

    def _node(self) -> Node | None:
        nodes = [node for node in self.world.nodes.values() if not node.process.is_dead]
        return self.chance.choice(nodes) if nodes else None

    def _client(self) -> Actor | None:
        clients = [actor for actor in self.world.actors.values() if not actor.process.is_dead]
        holders = [
            actor for actor in clients if any(self.world.referee.believes(actor, c) for c in actor.campaigns.values())
        ]
        if holders and self.chance.random() < 0.6:
            clients = holders
        return self.chance.choice(clients) if clients else None

    # --- nodes ---------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        if (node := self._node()) is not None:
            node.die("killed")

    def _kill_soon(self) -> None:
        """Between two events of its own, perhaps in the middle of a broadcast."""
        node = self._node()
        if node is not None and node.process.on_countdown is None:
            node.process.left = 1 + int(60 * self.chance.random() ** 2)
            node.process.on_countdown = lambda: node.die("killed between two events")

    def _flap(self) -> None:
        """It dies soon after each of its next starts, perhaps on a disk that takes long: lives without a write."""
        if (node := self._node()) is not None:
            lives = self.chance.choice([2, 4])
            self.world.flaps[node.name] = [1 + int(200 * self.chance.random() ** 2) for _ in range(lives)]
            if self.chance.random() < 0.5:
                node.platter.stalled_until = self.engine.now + 500 + self._span_ms()
            node.die("killed, for the first time")

    def _haste(self) -> None:
        """Nodes begin attempts at the wrong moment, for candidates and holders: what they know is but a hint (R1)."""
        key = LEASE + self.chance.choice(self.world.plan.leases).name
        span_ms = self._span_ms()
        for _ in range(self.chance.choice([1, 3, 6, 10])):
            node = self._node()
            if node is not None:
                is_takeover = self.chance.random() < 0.3
                at_ms = span_ms * self.chance.random()
                self.engine.later(
                    at_ms,
                    lambda node=node, is_takeover=is_takeover: self._hurry(node, key, is_takeover),  # type: ignore[misc]
                    node.process,
                )

    def _hurry(self, node: Node, key: str, is_takeover: bool) -> None:
        leases = node.sessions.leases
        home = leases.homes.get(key)
        if home is None or home.is_busy or self.is_over or node.driver.is_disk_stalled():
            return
        if is_takeover and home.held is not None:
            self.world.counts["a holder was prepared for once more, without need"] += 1
            leases.take_over(home)
            return
        leases._drop_cancelled(home)
        if home.waiters:
            self.world.counts["an attempt at the wrong moment"] += 1
            leases._attempt(home, home.waiters[0])

    def _power(self) -> None:
        if (node := self._node()) is not None:
            self.world.network.hosts_down.add(node.name)
            node.die("its machine has lost power", is_silent=True)

    def _outage(self) -> None:
        if self.chance.random() < 0.5:
            return self._kill()
        self.world.counts["all nodes died at once"] += 1
        self.world.pause_ms = self.chance.choice([5.0, 5.0, 500.0])
        for node in list(self.world.nodes.values()):
            node.die("all machines have lost power", is_silent=True)
        self.world.pause_ms = None
        return None

    def _rollout(self) -> None:
        if self.world.is_rolling:
            return
        self.world.is_rolling = True
        gap_ms = 500.0 + min(self._span_ms(), ROLLOUT_GAP_MAX_MS)
        names = list(self.world.nodes)
        held = self.world.referee.held()
        for position, name in enumerate(names):
            self.engine.later(position * gap_ms, lambda name=name: self._roll(name))  # type: ignore[misc]
        self.engine.later(len(names) * gap_ms, lambda: self._rolled(held))

    def _roll(self, name: str) -> None:
        if not self.is_over:
            self.world.nodes[name].leave()

    def _rolled(self, held: set[tuple[str, str]]) -> None:
        self.world.is_rolling = False
        if not self.is_over:
            self.world.counts["a roll-out ended"] += 1
            self.world.counts["a lease was held through a whole roll-out"] += len(held & self.world.referee.held())

    def _pause(self, process: Process, what: str) -> None:
        if process.is_stopped or process.is_dead:
            return
        self.engine.say(process.name, what)
        process.stop()
        self._for(self._span_ms(), lambda: self._go_on(process))

    def _go_on(self, process: Process) -> None:
        self.engine.say(process.name, "goes on")
        process.go_on()

    def _suspend(self, process: Process) -> None:
        clock = process.clock
        if process.is_stopped or process.is_dead or clock.suspended_since is not None:
            return
        self.engine.say(process.name, "is suspended: CLOCK_MONOTONIC_RAW stands still")
        clock.suspended_since = self.engine.now
        process.stop()
        self.world.referee.suspended(process)
        self._for(self._span_ms(), lambda: self._wake(process))

    def _wake(self, process: Process) -> None:
        clock = process.clock
        assert clock.suspended_since is not None
        clock.suspended_ms += self.engine.now - clock.suspended_since
        clock.suspended_since = None
        self._go_on(process)

    def _pause_node(self) -> None:
        if (node := self._node()) is not None:
            self._pause(node.process, "is stopped")

    def _suspend_node(self) -> None:
        if (node := self._node()) is not None:
            self._suspend(node.process)

    # --- network -------------------------------------------------------------------------------------------------

    def _cut(self, pairs: list[tuple[str, str]], text: str, span_ms: float | None = None) -> None:
        network = self.world.network
        self.engine.say("net", f"cut: {text}")
        for source, target in pairs:
            network.block(source, target)

        def undo() -> None:
            self.engine.say("net", f"healed: {text}")
            for source, target in pairs:
                network.unblock(source, target)

        self._for(self._span_ms() if span_ms is None else span_ms, undo)

    def _others(self, name: str) -> list[str]:
        return [other for other in self.world.plan.node_names if other != name]

    def _isolate(self) -> None:
        """One node from all others; its clients stay with it, or not."""
        name = self.chance.choice(self.world.plan.node_names)
        others = self._others(name)
        if self.chance.random() < 0.4:
            others += self.world.plan.client_names
        self._cut([pair for other in others for pair in ((name, other), (other, name))], f"{name} from {others}")

    def _one_way(self) -> None:
        """One direction only: it hears and is not heard, or the other way round."""
        name = self.chance.choice(self.world.plan.node_names)
        others = self._others(name)
        others = others[: 1 + int(self.chance.random() * len(others))]
        if self.chance.random() < 0.5:
            self._cut([(name, other) for other in others], f"what {name} says to {others}")
        else:
            self._cut([(other, name) for other in others], f"what {others} say to {name}")

    def _split(self) -> None:
        """Two groups of any sizes, clients among them."""
        hosts = [*self.world.plan.node_names, *self.world.plan.client_names]
        left = [host for host in hosts if self.chance.random() < 0.5]
        right = [host for host in hosts if host not in left]
        pairs = [pair for a in left for b in right for pair in ((a, b), (b, a))]
        self._cut(pairs, f"{left} from {right}")

    def _swizzle(self) -> None:
        """Cut off some nodes one by one, and bring them back in another order."""
        names = [name for name in self.world.plan.node_names if self.chance.random() < 0.5]
        for name in names:
            others = self._others(name)
            pairs = [pair for other in others for pair in ((name, other), (other, name))]
            begin_ms, span_ms = self._span_ms(), self._span_ms()
            self.engine.later(
                begin_ms,
                lambda pairs=pairs, name=name, span_ms=span_ms: self._swizzled(pairs, name, span_ms),  # type: ignore[misc]
            )

    def _swizzled(self, pairs: list[tuple[str, str]], name: str, span_ms: float) -> None:
        if not self.is_over:
            self._cut(pairs, f"{name} (swizzle)", span_ms)

    def _cut_client(self) -> None:
        """A client from its node, or from all; one way or both."""
        actor = self._client()
        if actor is None:
            return
        host = actor.process.host
        nodes = [actor.node] if actor.node and self.chance.random() < 0.5 else self.world.plan.node_names
        way = self.chance.choice(["up", "down", "both"])
        pairs = [(host, node) for node in nodes] if way != "down" else []
        pairs += [(node, host) for node in nodes] if way != "up" else []
        self._cut(pairs, f"{host} and {nodes}, {way}")

    def _slow_link(self) -> None:
        names = self.world.plan.hosts
        pair = (self.chance.choice(names), self.chance.choice(names))
        slow = self.world.network.slow
        slow[pair] = self.chance.choice([3.0, 10.0, 60.0])
        self.engine.say("net", f"{pair[0]} to {pair[1]} is {slow[pair]:g} times slower")
        self._for(self._span_ms(), lambda: slow.pop(pair, None) and None)

    def _reset(self) -> None:
        self.world.network.reset_one(self.chance.choice)

    def _noise(self) -> None:
        """Bits flip on the way: a frame that does not match its checksum ends its connection."""
        network = self.world.network
        network.noise = self.chance.choice([0.002, 0.01, 0.05])
        self._for(self._span_ms(), lambda: setattr(network, "noise", 0.0))

    def _stranger(self) -> None:
        nodes = [node for node in self.world.nodes.values() if not node.process.is_dead]
        if len(nodes) > 1:
            target, model = self.chance.sample(nodes, 2)
            Stranger(self.world, self.chance.choice(KINDS), target, model)

    # --- disks ---------------------------------------------------------------------------------------------------

    def _slow_disk(self) -> None:
        platter = self.world.platters[self.chance.choice(self.world.plan.node_names)]
        stall_ms = self.chance.choice([self._span_ms() * 0.6, self._span_ms(), 3_000.0, 6_000.0])
        platter.stalled_until = self.engine.now + stall_ms
        self._for(stall_ms, lambda: setattr(platter, "stalled_until", 0.0))

    def _fsync_error(self) -> None:
        """The next write fails, or the first of the next life; what it wrote may be there all the same."""
        if (node := self._node()) is None:
            return
        if self.chance.random() < 0.25:
            node.platter.fails_next_start = True
            node.die("killed before a disk that fails")
        else:
            node.storage.fail(sticks=self.chance.random() < 0.4)

    def _full_disk(self) -> None:
        """Nothing can be written for a while: the node leaves, and comes back when there is room again."""
        platter = self.world.platters[self.chance.choice(self.world.plan.node_names)]
        platter.is_full = True
        self._for(self._span_ms() + self.chance.choice([0.0, 3_000.0]), lambda: setattr(platter, "is_full", False))

    def _bad_disk(self) -> None:
        """What its disk holds is damaged: the next start must find it, and the node stays out."""
        if (name := self._may_lose_a_disk()) is None:
            return
        node = self.world.nodes[name]
        if self.chance.random() < 0.4 and not node.process.is_dead:
            chance = self.chance
            node.storage.on_write = lambda: self._damage(name, chance, "half a transaction")
        else:
            self._damage(name, self.chance)

    def _damage(self, name: str, chance: random.Random, *kinds: str) -> None:
        node = self.world.nodes[name]
        disk, under_way = self.world.disks[name], [] if node.process.is_dead else node.storage.under_way
        node.die("its machine has lost power over its disk", is_silent=True, loses_write=True)
        tried = [*kinds, *(chance.choice(DAMAGES) for _ in range(5))]
        if any(disk.hurt(kind, under_way, chance) for kind in tried):
            self.engine.say(name, f"its disk is damaged: {disk.damage}")
        else:
            self.world.lost_disks.discard(name)

    def _old_disk(self) -> None:
        """Its disk goes back to what it was some lives ago: its peers must not listen to it."""
        world = self.world
        name = self._may_lose_a_disk()
        if name is None:
            return
        backups = [disk for disk in world.backups[name] if world.would_be_recognised(name, disk)]
        # Nor may its own memory be all that earlier ones are recognised by.
        are_others_known = all(world.would_be_recognised(other, world.disks[other]) for other in world.images)
        if not backups or not are_others_known:
            world.lost_disks.discard(name)
            return
        world.counts["a disk was rolled back"] += 1
        backup = self.chance.choice(backups)
        world.nodes[name].die("its disk is put back to a backup")
        world.roll_back(name, backup)

    def _may_lose_a_disk(self) -> str | None:
        world = self.world
        if len(world.lost_disks) + 1 > (world.plan.nodes - 1) // 2:
            return None
        left = [name for name in world.plan.node_names if name not in world.lost_disks]
        name = self.chance.choice(left)
        world.lost_disks.add(name)
        return name

    # --- clients -------------------------------------------------------------------------------------------------

    def _kill_client(self) -> None:
        if (actor := self._client()) is not None:
            actor.die("killed")
            self.world.client_died(actor)

    def _pause_client(self) -> None:
        if (actor := self._client()) is not None:
            self._pause(actor.process, "is stopped")

    def _suspend_client(self) -> None:
        if (actor := self._client()) is not None:
            self._suspend(actor.process)
