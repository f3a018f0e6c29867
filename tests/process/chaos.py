"""Everything at once: real nodes and candidates live through a schedule of faults that a seed alone decides.

What the machine makes of it differs from run to run. ``test_chaos.py`` runs it: ``make chaos MINUTES=5 SEED=7``.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leaderlease
from leaderlease.paxos.lease import parse_duration
from leaderlease.wire.session import LeaseInfo
from process.faults import KINDS, LEASES, Field, Kind, Steps, Which
from support.breaking import WallClock, tmpfs
from support.checkers import history as facts
from support.checkers.belief import check_belief
from support.checkers.history import Event
from support.checkers.linear import check_linearizable
from support.checkers.progress import check_progress
from support.checkers.reports import check_agreement, check_honesty, late_grants
from support.checkers.terms import check_durability, check_fence, check_tokens
from support.network import Network
from support.plot import Picture, Span, Track
from support.processes import Holder, Node, Quorum, boot_ms, until

LOCK = "chaos/lock"
"""Held for ever by one process that is never killed."""
CANDIDATES = 3
"""Of each lease; on as many machines."""
IN_USE = 0.8
"""Not every kind of fault in each run, and not each as often as the other: what one hides, another seed shows."""
WEIGHTS = (1, 3, 9)
PAUSE_S = (0.05, 1.5)
"""Between the beginnings of two faults."""
FIVE_NODES = 0.25
"""The share of runs with five nodes; the others have three."""
AT_ONCE = {3: (1, 2, 3), 5: (2, 3, 4)}
"""How many faults last at the same time at most, for so many nodes; one of these is drawn."""
PROGRESS_BOUND_MS, PROGRESS_MAX_S = 15_000.0, 180.0
"""After the faults, on top of a duration: nodes start, peers and clients reconnect (silence and back-off, 2 s each)."""
ALONE_S, ALONE_TRIES = 3.0, 5
"""A kind of fault that has had no effect is tried alone, for so long and so often, before the run fails."""
OBSERVE_PERIOD_S = 0.05
DISK_SIZE = "8m"
"""No room for a log of its full size: one that has it is not noticed to be full for long."""
OFF_MS = 60_000.0


@dataclass(frozen=True)
class Planned:
    """A fault that is to come; ``touches`` no other one may touch meanwhile."""

    begin_s: float
    end_s: float
    kind: Kind
    target: Any
    touches: frozenset[str]
    beats: int

    def moments(self) -> list[float]:
        """Return when its steps are: the first, those between, the last."""
        return [self.begin_s + (self.end_s - self.begin_s) * beat / self.beats for beat in range(self.beats + 1)]


@dataclass(frozen=True)
class Schedule:
    """What a seed decides."""

    seed: int
    nodes: int
    faults: list[Planned]

    @property
    def kinds(self) -> list[Kind]:
        """Those that were drawn."""
        names = {fault.kind.name for fault in self.faults}
        return [kind for kind in KINDS if kind.name in names]

    @property
    def candidates(self) -> list[Which]:
        """Who runs for what on which machine."""
        return [(lease, machine) for lease in LEASES for machine in range(CANDIDATES)]


def plan(seed: int, seconds: float) -> Schedule:
    """Draw a schedule: each kind that is in use once, then by weight."""
    chance = random.Random(seed)
    nodes = 5 if chance.random() < FIVE_NODES else 3
    at_once = chance.choice(AT_ONCE[nodes])
    schedule = Schedule(seed, nodes, [])
    kinds = [kind for kind in KINDS if chance.random() < IN_USE] or list(KINDS)
    weights = [chance.choice(WEIGHTS) for _ in kinds]
    first = chance.sample(kinds, len(kinds))
    at_s = 0.0
    while at_s < seconds:
        active = [fault for fault in schedule.faults if fault.end_s >= at_s]
        kind = first[-1] if first else chance.choices(kinds, weights)[0]
        target, touches = _target(chance, kind, schedule)
        span_s, beats = chance.uniform(*kind.span_s), chance.randint(*kind.beats)
        if len(active) < at_once and not any(touches & fault.touches for fault in active):
            del first[-1:]
            schedule.faults.append(Planned(at_s, at_s + span_s, kind, target, touches, beats))
        at_s += chance.uniform(*PAUSE_S)
    return schedule


def _target(chance: random.Random, kind: Kind, schedule: Schedule) -> tuple[Any, frozenset[str]]:
    """Draw what a fault hits, and name what it touches."""
    number = chance.randrange(schedule.nodes)
    match kind.target:
        case "nodes":
            return number, frozenset(f"node {i}" for i in range(schedule.nodes))
        case "pair":
            one, other = chance.sample(range(schedule.nodes), 2)
            return (one, other), frozenset((f"machine {one}", f"machine {other}"))
        case "holder":
            which = chance.choice(schedule.candidates)
            return which, frozenset((f"holder {which}",))
    return number, frozenset((f"{kind.target} {number}",))


class Chaos:
    """Carries a schedule out.

    Attributes:
        counts: How many faults of each kind began.
        effects: How often those of each kind did what they are for.
        spans: When each lasted, for the picture.
    """

    def __init__(self, field: Field, schedule: Schedule) -> None:
        self._field = field
        self.schedule = schedule
        self.counts: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.spans: list[Span] = []

    def run(self) -> None:
        """Break and mend all that is planned; then each kind that has had no effect, alone."""
        self._carry_out(self.schedule.faults)
        chance = random.Random(self.schedule.seed)
        for kind in self.schedule.kinds:
            for _ in range(ALONE_TRIES):
                if not self.effects[kind.name]:
                    self._field.quorum.wait_ready()
                    target, touches = _target(chance, kind, self.schedule)
                    self._carry_out([Planned(0.0, ALONE_S, kind, target, touches, kind.beats[1])])

    def _carry_out(self, faults: Sequence[Planned]) -> None:
        """Take each step of each fault at its time, or as soon as the steps before it are taken."""
        moments = sorted((at_s, number) for number, fault in enumerate(faults) for at_s in fault.moments())
        running: dict[int, tuple[Steps, Span]] = {}
        start_s = time.monotonic()
        try:
            for at_s, number in moments:
                time.sleep(max(0.0, start_s + at_s - time.monotonic()))
                if number not in running:
                    running[number] = self._begin(faults[number])
                self._step(faults[number].kind, *running[number])
        finally:
            for steps, _ in running.values():
                steps.close()

    def _begin(self, fault: Planned) -> tuple[Steps, Span]:
        self.counts[fault.kind.name] += 1
        span = Span(fault.kind.name, sorted(fault.touches), boot_ms())
        self.spans.append(span)
        return fault.kind.run(self._field, fault.target, fault.beats), span

    def _step(self, kind: Kind, steps: Steps, span: Span) -> None:
        try:
            next(steps)
        except StopIteration as end:
            self.effects[kind.name] += end.value
            span.end_ms = boot_ms()


# --- who lives through it --------------------------------------------------------------------------------------------


@contextmanager
def built(folder: Path, schedule: Schedule) -> Iterator[Field]:
    """Make machines with a disk and a wall clock each, start nodes and candidates, and end it all."""
    with ExitStack() as stack:
        network = Network(schedule.nodes)
        stack.callback(network.close)
        disks = [folder / f"disk-{i}" for i in range(schedule.nodes)]
        for disk in disks:
            stack.enter_context(tmpfs(disk, DISK_SIZE))
        clocks = [WallClock(folder / f"clock-{i}", delay_s=1) for i in range(schedule.nodes)]
        for place, clock in zip(network.places, clocks, strict=True):
            place.environment |= clock.environment
        quorum = Quorum(folder, network.places, network.own)
        stack.callback(quorum.close)
        for node, disk in zip(quorum.nodes, disks, strict=True):
            node.data = disk / "data"
        quorum.start()
        yield Field(quorum, network, disks, clocks, schedule.seed)


def start_candidates(field: Field, schedule: Schedule) -> None:
    """Start the candidates, one that does not wait, and one that keeps a lock."""
    for which in schedule.candidates:
        field.hold(which)
    field.quorum.hold("chaos/second", "--duration", "1s", "--hold", "0", "0.5", "--ask", at=2)
    field.quorum.hold(LOCK, "--duration", "never", at=1).wait(facts.Kind.BELIEVE)


class Observer(threading.Thread):
    """Asks one node again and again who holds what."""

    def __init__(self, node: Node, field: Field) -> None:
        super().__init__(daemon=True)
        self.events: list[Event] = []
        self.stop = threading.Event()
        self._node = node
        self._field = field
        self._seen: set[tuple[str, int]] = set()

    def run(self) -> None:
        self._node.place.enter()
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        async with leaderlease.connect(self._node.endpoint, timeout=1.0, wait=60.0) as client:
            while not self.stop.is_set():
                for lease in (*LEASES, LOCK):
                    began_ms = boot_ms()
                    with suppress(leaderlease.LeaderLeaseError):
                        self._note(began_ms, await client.get(lease))
                await asyncio.sleep(OBSERVE_PERIOD_S)

    def _note(self, began_ms: float, found: LeaseInfo | None) -> None:
        if found is None or found.state != "held" or found.holder is None:
            return
        what = (facts.Kind.CHOSEN, found.name, found.holder.nonce, found.term)
        self.events.append(Event(boot_ms(), *what, node=self._node.name, began_ms=began_ms))
        if (found.name, found.term) not in self._seen:
            self._seen.add((found.name, found.term))
            self._field.off += abs(found.acquired_at_ms - time.time() * 1000) > OFF_MS


@contextmanager
def observed(field: Field) -> Iterator[list[Observer]]:
    """Watch every node meanwhile."""
    observers = [Observer(node, field) for node in field.nodes]
    for observer in observers:
        observer.start()
    try:
        yield observers
    finally:
        for observer in observers:
            observer.stop.set()
        for observer in observers:
            observer.join()


# --- what came of it -------------------------------------------------------------------------------------------------


def wait_for_progress(field: Field) -> tuple[float, float]:
    """Wait until every lease was granted once more, or the bound has passed.

    Time in which a process waited for a processor does not count: a machine that is too busy promises nothing.

    Returns: When the wait began, and within how many milliseconds leases have to be held.
    """
    healed_ms = boot_ms()
    processes = [*field.nodes, *field.quorum.holders]
    before_ms = sum(process.starved_ms() for process in processes)

    def bound_ms() -> float:
        return PROGRESS_BOUND_MS + sum(process.starved_ms() for process in processes) - before_ms

    def missing() -> set[str]:
        events = field.quorum.history()
        return LEASES.keys() - {e.lease for e in events if e.kind is facts.Kind.BELIEVE and e.at_ms > healed_ms}

    until(lambda: not missing() or boot_ms() > healed_ms + bound_ms(), "leases are held again", PROGRESS_MAX_S)
    waited_s = (boot_ms() - healed_ms) / 1000
    print(
        f"{waited_s:.1f} s after the faults these are not held again: {missing() or 'none'}; bound {bound_ms():.0f} ms"
    )
    return healed_ms, bound_ms()


def nonces(lives: Sequence[Holder]) -> set[str]:
    """Return under which nonces the lives of a candidate asked."""
    return {event.nonce for life in lives for event in life.history()}


def check_all(history: Sequence[Event], healed_ms: float, bound_ms: float, disks: Sequence[dict[str, int]]) -> None:
    """Run every checker."""
    check_belief(history)
    check_tokens(history)
    check_fence(history)
    check_agreement(history)
    check_honesty(history, may_be_late=True)
    print(f"{len(late_grants(history))} grants came too late for a candidate that another node had served")
    check_durability(history, disks)
    check_linearizable(history)
    wanted = {lease: float(parse_duration(duration) or 0) for lease, duration in LEASES.items()}
    check_progress(history, healed_ms, wanted, bound_ms)


def picture(title: str, field: Field, history: Sequence[Event], spans: Sequence[Span]) -> Picture:
    """Return what the run looked like, from its first fault or belief on."""
    tracks = [
        Track(lease, f"client {machine}", nonces(lives), f"holder {(lease, machine)}")
        for (lease, machine), lives in field.holders.items()
    ]
    known = {nonce for track in tracks for nonce in track.nonces}
    others: dict[str, set[str]] = {}
    for event in history:
        if event.kind is facts.Kind.BELIEVE and event.nonce not in known:
            others.setdefault(event.lease, set()).add(event.nonce)
    tracks += [Track(lease, "asks, never waits", found) for lease, found in others.items() if lease != LOCK]
    tracks += [Track(lease, "keeps it", found) for lease, found in others.items() if lease == LOCK]
    tracks.sort(key=lambda track: [*LEASES, LOCK].index(track.lease))
    times = [event.at_ms for event in history] or [boot_ms()]
    notes = {lease: f"ends {duration} after its last renewal" for lease, duration in LEASES.items()}
    return Picture(title, history, tracks, spans, min(times), max(times), {**notes, LOCK: "never ends"})
