"""Everything at once: nodes and holders die, stop and restart, machines are cut off, at random, under all checkers.

``make chaos SECONDS=600 SEED=7`` runs it for longer, or again. A seed decides which faults come in which order; what
the machine makes of them differs from run to run.
"""

import asyncio
import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

import leaderlease
from leaderlease.paxos.lease import parse_duration
from leaderlease.wire.session import LeaseInfo
from support.checkers.belief import check_belief
from support.checkers.history import Event, Kind, show
from support.checkers.progress import check_progress
from support.checkers.reports import check_agreement, check_honesty
from support.checkers.terms import check_durability, check_fence, check_tokens
from support.processes import Holder, Network, Node, Quorum, boot_ms, until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or secrets.randbelow(1 << 32)
LEASES = {"chaos/short": "300ms", "chaos/second": "1s", "chaos/long": "3s"}
LOCK = "chaos/lock"
"""Held for ever by one process that is never killed."""
HOLD_S = ("0.2", "2.5")
"""How long a holder works before it lets go by itself."""
FAULTS_MAX = 3
"""Faults that last at the same time; two nodes may be away, and then nobody gets anything."""
FAULT_S = (0.05, 3.0)
PAUSE_S = (0.02, 0.8)
"""Bounds of how long a fault lasts, and of the time between two."""
PROGRESS_BOUND_MS = 10_000.0
"""After the faults, for reconnects of peers (silence 2 s, back-off 2 s) and clients (back-off 2 s), and for noise."""
OBSERVE_PERIOD_S = 0.05


class Observer(threading.Thread):
    """Asks one node again and again who holds what."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self.events: list[Event] = []
        self.stop = threading.Event()
        self._node = node

    def run(self) -> None:
        self._node.place.enter()
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        async with leaderlease.connect(self._node.endpoint, timeout=1.0, wait=60.0) as client:
            while not self.stop.is_set():
                for lease in (*LEASES, LOCK):
                    with suppress(leaderlease.LeaderLeaseError):
                        self._note(await client.get(lease))
                await asyncio.sleep(OBSERVE_PERIOD_S)

    def _note(self, found: LeaseInfo | None) -> None:
        if found is not None and found.state == "held" and found.holder is not None:
            event = Event(boot_ms(), Kind.CHOSEN, found.name, found.holder.nonce, found.term, node=self._node.name)
            self.events.append(event)


@dataclass
class Fault:
    """Something that is broken until ``mend`` is called.

    Attributes:
        touches: Nodes, holders and machines that no other fault may touch meanwhile.
    """

    name: str
    touches: frozenset[object]
    until_s: float
    mend: Callable[[], None]


class Chaos:
    """Breaks things and mends them.

    Args:
        seed: Decides what, and how often each.
    """

    def __init__(self, quorum: Quorum, network: Network, seed: int) -> None:
        self._quorum = quorum
        self._network = network
        self._chance = random.Random(seed)
        self._faults: list[Fault] = []
        self._holders: dict[tuple[str, int], Holder] = {}
        self.counts: Counter[str] = Counter()
        kinds = (self._kill_node, self._restart_node, self._pause_node, self._kill_holder, self._pause_holder,
                 self._isolate, self._cut_pair, self._deafen)  # fmt: skip
        # Not all faults at once, and not each as often as the other: what one hides, another seed shows.
        self._kinds = [kind for kind in kinds if self._chance.random() < 0.8] or list(kinds)
        self._weights = [self._chance.choice((1, 3, 9)) for _ in self._kinds]

    @property
    def holders(self) -> list[Holder]:
        """The candidates that should be running when nothing is broken."""
        return list(self._holders.values())

    def start(self) -> None:
        """Start the candidates: one of each lease on each machine, one that does not wait, one that keeps a lock."""
        for lease in LEASES:
            for machine in range(len(self._quorum.nodes)):
                self._hold(lease, machine)
        self._quorum.hold("chaos/second", "--duration", "1s", "--hold", "0", "0.5", "--ask", at=2)
        self._quorum.hold(LOCK, "--duration", "never", at=1).wait(Kind.BELIEVE)

    def run(self, seconds: float) -> None:
        """Break and mend for so long, then mend the rest."""
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            for fault in [fault for fault in self._faults if fault.until_s <= now_s]:
                self._mend(fault)
            if len(self._faults) < FAULTS_MAX:
                self._chance.choices(self._kinds, self._weights)[0]()
            time.sleep(self._chance.uniform(*PAUSE_S))
        for fault in list(self._faults):
            self._mend(fault)

    def _hold(self, lease: str, machine: int) -> None:
        options = ("--duration", LEASES[lease], "--hold", *HOLD_S, "--seed", str(self._chance.getrandbits(32)))
        resource = self._quorum.folder / f"{lease.replace('/', '-')}.writes.jsonl"
        self._holders[lease, machine] = self._quorum.hold(lease, *options, "--resource", str(resource), at=machine)

    def _mend(self, fault: Fault) -> None:
        self._faults.remove(fault)
        fault.mend()

    def _break(self, name: str, touches: set[object], start: Callable[[], None], mend: Callable[[], None]) -> None:
        if any(touches & fault.touches for fault in self._faults):
            return
        self.counts[name] += 1
        start()
        until_s = time.monotonic() + self._chance.uniform(*FAULT_S)
        self._faults.append(Fault(name, frozenset(touches), until_s, mend))

    # --- nodes and holders -----------------------------------------------------------------------------------

    def _kill_node(self) -> None:
        node = self._chance.choice(self._quorum.nodes)
        self._break("node killed", {node}, node.kill, lambda: self._quorum.launch(node))

    def _restart_node(self) -> None:
        node = self._chance.choice(self._quorum.nodes)

        def mend() -> None:
            # One that has only just been started may not have its handler for SIGTERM yet.
            assert node.exit_code() in (0, -signal.SIGTERM), node.log_tail()
            self._quorum.launch(node)

        self._break("node restarted", {node}, node.terminate, mend)

    def _pause_node(self) -> None:
        node = self._chance.choice(self._quorum.nodes)
        self._break("node stopped", {node}, node.pause, node.go_on)

    def _kill_holder(self) -> None:
        which = self._chance.choice(list(self._holders))
        self._break("holder killed", {which}, self._holders[which].kill, lambda: self._hold(*which))

    def _pause_holder(self) -> None:
        which = self._chance.choice(list(self._holders))
        holder = self._holders[which]
        self._break("holder stopped", {which}, holder.pause, holder.go_on)

    # --- the network -----------------------------------------------------------------------------------------

    def _isolate(self) -> None:
        alone = self._chance.randrange(len(self._quorum.nodes))
        others = [i for i in range(len(self._quorum.nodes)) if i != alone]
        self._break("machine isolated", {"network"}, lambda: self._network.cut([alone], others), self._network.heal)

    def _cut_pair(self) -> None:
        one, other = self._chance.sample(range(len(self._quorum.nodes)), 2)
        self._break("pair cut", {"network"}, lambda: self._network.cut([one], [other]), self._network.heal)

    def _deafen(self) -> None:
        one, other = self._chance.sample(range(len(self._quorum.nodes)), 2)
        start = lambda: self._network.cut_one_way([one], [other])  # noqa: E731
        self._break("one-way cut", {"network"}, start, self._network.heal)


@contextmanager
def observed(quorum: Quorum) -> Iterator[list[Observer]]:
    """Watch every node meanwhile."""
    observers = [Observer(node) for node in quorum.nodes]
    for observer in observers:
        observer.start()
    try:
        yield observers
    finally:
        for observer in observers:
            observer.stop.set()
        for observer in observers:
            observer.join()


def check_all(history: list[Event], healed_ms: float, disks: list[dict[str, int]]) -> None:
    """Run every checker."""
    check_belief(history)
    check_tokens(history)
    check_fence(history)
    check_agreement(history)
    check_honesty(history)
    check_durability(history, disks)
    wanted = {lease: float(parse_duration(duration) or 0) for lease, duration in LEASES.items()}
    check_progress(history, healed_ms, wanted, PROGRESS_BOUND_MS)


@pytest.mark.timeout(SECONDS + 120)
def test_chaos(network: Network, split_quorum: Quorum) -> None:
    """However nodes, holders and the network fail: no two believe, no term repeats, nothing is lost, all goes on."""
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}; logs and histories: {split_quorum.folder}")
    chaos = Chaos(split_quorum, network, SEED)
    with observed(split_quorum) as observers:
        chaos.start()
        chaos.run(SECONDS)
        network.heal()
        healed_ms = boot_ms()
        limit_ms = healed_ms + PROGRESS_BOUND_MS + 3000

        def is_held_again() -> bool:
            events = [e for e in split_quorum.history() if e.kind in (Kind.BELIEVE, Kind.RENEWED)]
            return LEASES.keys() <= {e.lease for e in events if e.at_ms > healed_ms} or boot_ms() > limit_ms

        until(is_held_again, "the bound has passed")
    split_quorum.wait_ready()
    for holder in chaos.holders:
        assert holder.is_running, f"{holder.log} says why a holder ended by itself:\n{holder.log_tail()}"
    kept = [event for event in split_quorum.history() if event.lease == LOCK]
    assert {event.kind for event in kept} <= {Kind.BELIEVE, Kind.RENEWED}
    assert split_quorum.verify(LOCK, kept[0].term)
    for process in (*split_quorum.holders, *split_quorum.nodes):
        process.kill()
    history = split_quorum.history() + [event for observer in observers for event in observer.events]
    counts = Counter(event.kind.value for event in history)
    print(f"faults: {dict(chaos.counts)}; events: {dict(counts)}")
    try:
        check_all(history, healed_ms, [node.terms() for node in split_quorum.nodes])
    except AssertionError:
        print(show(history, last=200))
        raise
    assert all(counts[kind] for kind in ("believe", "renewed", "unbelieve", "write", "chosen", "denied"))
