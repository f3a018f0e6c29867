"""What chaos does to a quorum: the table of faults.

A fault is a generator: it begins at its first step, goes on at each ``yield``, ends after the last one, and returns how
often it did what it is for: processes that were stopped, packets that were dropped, writes that failed.
"""

import random
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from leaderlease.errors import DiskFailed
from leaderlease.paxos.lease import RHO_PPM_DEFAULT
from support.breaking import FSYNC, Tracer, WallClock, clock_rate, fill
from support.network import Network
from support.processes import Holder, Node, Quorum

Steps = Generator[None, None, int]
Which = tuple[str, int]
"""A candidate: its lease and its machine."""

LEASES = {"chaos/short": "300ms", "chaos/second": "1s", "chaos/long": "3s"}
HOLD_S = ("0.2", "2.5")
"""How long a holder works before it lets go by itself."""

MOMENT_S = (0.05, 3.0)
WHILE_S = (1.0, 3.0)
"""How long a fault lasts: any time, or long enough for something to be written and sent."""
LONG_S = (3.0, 6.0)
ONCE = (1, 1)
OFTEN = (3, 8)
"""How many steps a fault has."""
LOSSY_SHARE = 0.15
SLOW_US = 150_000
STALLED_US = 900_000
"""What an fsync takes longer."""
STEPS = ("+400d", "-400d", "+3h", "-20m", "+0.9s")
RATE_PPM = int(0.9 * RHO_PPM_DEFAULT)


@dataclass
class Field:
    """What can be broken.

    Attributes:
        disks: Of each node, a file system of its own.
        clocks: The wall clock of each machine.
        holders: The candidates that are wanted, by lease and machine; all lives of each, the latest is the last.
        seed: Of what candidates draw.
        off: How often a grant was seen whose time was off by minutes: what steps of wall clocks come to.
    """

    quorum: Quorum
    network: Network
    disks: list[Path]
    clocks: list[WallClock]
    seed: int
    holders: dict[Which, list[Holder]] = field(default_factory=dict)
    off: int = 0

    @property
    def nodes(self) -> list[Node]:
        """Of all machines, in order."""
        return self.quorum.nodes

    def launch(self, *nodes: Node) -> None:
        """Start nodes that have ended."""
        for node in nodes:
            assert not node.is_running
            self.quorum.launch(node)

    def hold(self, which: Which) -> None:
        """Start a candidate that holds and writes for a while, lets go and runs again; or another life of it."""
        lease, machine = which
        lives = self.holders.setdefault(which, [])
        seed = random.Random(f"{self.seed} {which} {len(lives)}").getrandbits(32)
        resource = self.quorum.folder / f"{lease.replace('/', '-')}.writes.jsonl"
        options = ("--duration", LEASES[lease], "--hold", *HOLD_S, "--seed", str(seed), "--resource", str(resource))
        lives.append(self.quorum.hold(lease, *options, at=machine))


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        name: For people, in the past tense.
        target: What is drawn: a "node", all "nodes", a "machine" (its link), a "pair" of them, a "clock", a "holder".
        run: Breaks and mends: (field, target, beats) -> steps.
        span_s: Between the first step and the last.
        beats: How many steps lie between them, and one more.
    """

    name: str
    target: str
    run: Callable[[Field, Any, int], Steps]
    span_s: tuple[float, float] = MOMENT_S
    beats: tuple[int, int] = ONCE


# --- processes -------------------------------------------------------------------------------------------------------


def kill_node(f: Field, i: int, beats: int) -> Steps:
    """SIGKILL; what was not synced is not lost by it, what was not sent is."""
    f.nodes[i].kill()
    yield
    f.launch(f.nodes[i])
    return 1


def restart_node(f: Field, i: int, beats: int) -> Steps:
    """SIGTERM, and it leaves in order."""
    node = f.nodes[i]
    node.terminate()
    yield
    # One that has only just been started may not have its handler for SIGTERM yet.
    assert node.exit_code() in (0, -signal.SIGTERM), node.log_tail()
    f.launch(node)
    return 1


def stop_node(f: Field, i: int, beats: int) -> Steps:
    """SIGSTOP: it hangs with its connections open."""
    f.nodes[i].pause()
    yield
    f.nodes[i].go_on()
    return 1


def stutter(f: Field, i: int, beats: int) -> Steps:
    """Stopped and continued, as on a machine that is far too busy."""
    for beat in range(beats):
        if beat % 2 == 0:
            f.nodes[i].pause()
        else:
            f.nodes[i].go_on()
        yield
    f.nodes[i].go_on()
    return (beats + 1) // 2


def storm(f: Field, i: int, beats: int) -> Steps:
    """Killed and started again and again, also while it starts."""
    for _ in range(beats):
        f.nodes[i].kill()
        f.launch(f.nodes[i])
        yield
    return beats


def kill_all(f: Field, i: int, beats: int) -> Steps:
    """All nodes at once: only their disks remember."""
    for node in f.nodes:
        node.kill()
    yield
    f.launch(*f.nodes)
    return len(f.nodes)


def kill_holder(f: Field, which: Which, beats: int) -> Steps:
    """Its belief goes on until its validity ends."""
    f.holders[which][-1].kill()
    yield
    f.hold(which)
    return 1


def stop_holder(f: Field, which: Which, beats: int) -> Steps:
    """When it goes on it must know by itself that its lease has ended."""
    f.holders[which][-1].pause()
    yield
    f.holders[which][-1].go_on()
    return 1


# --- network ---------------------------------------------------------------------------------------------------------


def _cut(f: Field, pairs: list[tuple[int, int]], share: float = 1.0) -> Steps:
    f.network.count()
    before = sum(f.network.dropped[pair] for pair in pairs)
    for source, target in pairs:
        f.network.cut_one_way([source], [target], share)
    yield
    for source, target in pairs:
        f.network.mend([source], [target])
    return sum(f.network.dropped[pair] for pair in pairs) - before


def isolate(f: Field, i: int, beats: int) -> Steps:
    """A machine and all others hear nothing of each other."""
    others = [other for other in range(len(f.nodes)) if other != i]
    return _cut(f, [*((i, other) for other in others), *((other, i) for other in others)])


def cut_pair(f: Field, pair: tuple[int, int], beats: int) -> Steps:
    """Two machines hear nothing of each other, and everything of the others."""
    return _cut(f, [pair, pair[::-1]])


def deafen(f: Field, pair: tuple[int, int], beats: int) -> Steps:
    """One machine hears nothing of another, which hears it."""
    return _cut(f, [pair])


def mute(f: Field, i: int, beats: int) -> Steps:
    """Nobody hears a machine that hears everybody."""
    return _cut(f, [(i, other) for other in range(len(f.nodes)) if other != i])


def lose_some(f: Field, i: int, beats: int) -> Steps:
    """Of what a machine sends and should hear, a random share is lost."""
    others = [other for other in range(len(f.nodes)) if other != i]
    return _cut(f, [*((i, other) for other in others), *((other, i) for other in others)], LOSSY_SHARE)


def flap(f: Field, i: int, beats: int) -> Steps:
    """A cable is pulled and put back, again and again."""
    before = f.network.unplugged(i)
    for beat in range(beats):
        if beat % 2 == 0:
            f.network.unplug(i)
        else:
            f.network.plug(i)
        yield
    f.network.plug(i)
    return f.network.unplugged(i) - before


def slow_link(f: Field, i: int, beats: int) -> Steps:
    """A link on which packets wait in a queue, and are dropped when it is full."""
    f.network.slow_down(i)
    yield
    return f.network.speed_up(i)


# --- disks -----------------------------------------------------------------------------------------------------------


def _trace(f: Field, i: int, calls: str, injection: str) -> Generator[None, None, Tracer]:
    tracer = Tracer(f.nodes[i], calls, injection, f.quorum.folder / f"strace-{i}.log")
    try:
        yield
    finally:
        tracer.detach()
    return tracer


def fail_call(f: Field, i: int, beats: int, calls: str, injection: str) -> Steps:
    """One failure is enough: the node must leave with the code of a failed disk (R9)."""
    node = f.nodes[i]
    tracer = yield from _trace(f, i, calls, injection)
    if tracer.count:
        assert node.exit_code() == DiskFailed.exit_code, node.log_tail()
        f.launch(node)
    return tracer.count


def fill_disk(f: Field, i: int, beats: int) -> Steps:
    """No byte is left free; if it did not have to write, the node leaves in order."""
    node = f.nodes[i]
    filler = fill(f.disks[i])
    yield
    filler.unlink()
    if node.is_running:
        node.terminate()
    code = node.exit_code()
    assert code in (0, -signal.SIGTERM, DiskFailed.exit_code), node.log_tail()
    f.launch(node)
    return int(code == DiskFailed.exit_code)


def slow_disk(f: Field, i: int, beats: int, delay_us: int) -> Steps:
    """Each fsync takes longer by so much."""
    tracer = yield from _trace(f, i, FSYNC, f"delay_enter={delay_us}")
    return tracer.count


# --- clocks ----------------------------------------------------------------------------------------------------------


def step_wall_clock(f: Field, i: int, beats: int) -> Steps:
    """Set forth and back; nothing may come of it but the times that people are shown."""
    before = f.off
    for beat in range(beats):
        f.clocks[i].set(STEPS[(i + beat) % len(STEPS)])
        yield
    f.clocks[i].set("+0")
    return f.off - before


def change_rate(f: Field, i: int, beats: int, ppm: int) -> Steps:
    """All clocks of a node run too fast or too slow, by less than ρ; from a start to the next."""
    node = f.nodes[i]
    node.kill()
    node.environment = clock_rate(ppm)
    f.launch(node)
    yield
    assert node.popen is not None
    is_wrong = "libfaketime" in Path(f"/proc/{node.popen.pid}/maps").read_text()
    node.kill()
    node.environment = {}
    f.launch(node)
    return int(is_wrong)


KINDS = (
    Kind("node killed", "node", kill_node),
    Kind("node restarted", "node", restart_node),
    Kind("node stopped", "node", stop_node),
    Kind("node stutters", "node", stutter, beats=OFTEN),
    Kind("restart storm", "node", storm, WHILE_S, OFTEN),
    Kind("all nodes killed", "nodes", kill_all, (0.05, 0.5)),
    Kind("holder killed", "holder", kill_holder),
    Kind("holder stopped", "holder", stop_holder),
    Kind("machine isolated", "machine", isolate, WHILE_S),
    Kind("machine mute", "machine", mute, WHILE_S),
    Kind("pair cut", "pair", cut_pair, WHILE_S),
    Kind("one-way cut", "pair", deafen, WHILE_S),
    Kind("lossy link", "machine", lose_some, WHILE_S),
    Kind("slow link", "machine", slow_link, WHILE_S),
    Kind("link flaps", "machine", flap, WHILE_S, OFTEN),
    Kind("slow disk", "node", partial(slow_disk, delay_us=SLOW_US), WHILE_S),
    Kind("stalled disk", "node", partial(slow_disk, delay_us=STALLED_US), WHILE_S),
    Kind("fsync fails", "node", partial(fail_call, calls=FSYNC, injection="error=EIO"), WHILE_S),
    Kind("write fails", "node", partial(fail_call, calls="pwrite64", injection="error=ENOSPC:when=2+"), WHILE_S),
    Kind("disk full", "node", fill_disk, WHILE_S),
    Kind("wall clock steps", "clock", step_wall_clock, LONG_S, (2, 4)),
    Kind("clock too fast", "node", partial(change_rate, ppm=RATE_PPM), LONG_S),
    Kind("clock too slow", "node", partial(change_rate, ppm=-RATE_PPM), LONG_S),
)
"""All that can be drawn. ``docs/correctness.md`` counts them."""
