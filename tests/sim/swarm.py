"""Run seeds: one with a readable trace, a range, or new ones for some minutes on all cores.

    python tests/sim/swarm.py --seed 51                 who sent what when, and the verdict
    python tests/sim/swarm.py --seeds 0:500             a range
    python tests/sim/swarm.py --minutes 2               new seeds; what fails is made smaller and printed

Ends with 1 if any seed failed.
"""

import argparse
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from sim.events import EVENTS  # noqa: E402  (after the path is set)
from sim.plan import make_plan  # noqa: E402
from sim.world import Result, World  # noqa: E402

SHRINKS_MAX = 60
"""Runs that are spent on making one failing seed smaller."""


def run_seed(
    seed: int,
    without: Iterable[str] = (),
    active_ms: float | None = None,
    trace: Callable[[str], None] | None = None,
) -> Result:
    """Run one seed."""
    return World(make_plan(seed, without=frozenset(without), active_ms=active_ms), trace).run()


def run_all(seeds: Iterable[int], until: float = float("inf"), workers: int | None = None) -> Iterator[Result]:
    """Run seeds on all cores until they, or the time, are used up; results come as they end."""
    workers = workers or os.cpu_count() or 1

    def wanted() -> Iterator[int]:
        for seed in seeds:
            if time.monotonic() >= until:
                return
            yield seed

    # Fresh interpreters: a run must not depend on what its parent has imported or drawn.
    with get_context("spawn").Pool(workers) as pool:
        pending = []
        for seed in wanted():
            pending.append(pool.apply_async(run_seed, (seed,)))
            while len(pending) >= 4 * workers:
                yield pending.pop(0).get()
        for result in pending:
            yield result.get()


def shrink(seed: int, violation: str) -> tuple[tuple[str, ...], float]:
    """Return which faults a failing seed can do without, and the shortest time in which it still fails alike."""
    kind = violation.partition(":")[0]
    without: tuple[str, ...] = ()
    active_ms = make_plan(seed).active_ms
    runs = 0

    def fails(faults: tuple[str, ...], limit_ms: float) -> bool:
        nonlocal runs
        runs += 1
        return runs <= SHRINKS_MAX and run_seed(seed, faults, limit_ms).violation.partition(":")[0] == kind

    for fault in make_plan(seed).faults:
        if fails((*without, fault), active_ms):
            without = (*without, fault)
    while active_ms > 1_000 and fails(without, active_ms / 2):
        active_ms /= 2
    return without, active_ms


def explain(result: Result) -> str:
    """Say what failed and how to see it."""
    without, active_ms = shrink(result.seed, result.violation)
    small = f" WITHOUT={','.join(without)}" if without else ""
    return (
        f"seed {result.seed}: {result.violation}\n"
        f"  all of it:    make sim SEED={result.seed}\n"
        f"  made smaller: make sim SEED={result.seed}{small} ACTIVE_MS={active_ms:.0f}"
    )


class Tally:
    """Sums over many runs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[Result] = []
        self.runs = 0
        self.simulated_ms = 0.0
        self.events = 0
        self._began = time.monotonic()

    def add(self, result: Result) -> None:
        """Take one run."""
        self.runs += 1
        self.counts.update(result.counts)
        self.simulated_ms += result.simulated_ms
        self.events += result.events
        if result.violation:
            self.failed.append(result)

    def missing(self) -> list[str]:
        """Return the events that never happened."""
        return [event for event in EVENTS if not self.counts[event]]

    def report(self) -> str:
        """Say how much was run, and how fast."""
        minutes = (time.monotonic() - self._began) / 60
        hours = self.simulated_ms / 3_600_000
        return (
            f"{self.runs} seeds, {hours:.2f} simulated cluster-hours in {minutes:.2f} minutes: {hours / minutes:.2f} "
            f"simulated hours a minute, {self.events / minutes / 60:.0f} events a second\n"
            f"{self.counts['granted']} grants, {self.counts['operations']} operations put in order, "
            f"{len(EVENTS) - len(self.missing())} of {len(EVENTS)} named events reached\n"
            f"{len(self.failed)} seeds failed"
        )


def _show(seed: int, without: tuple[str, ...], active_ms: float | None) -> int:
    plan = make_plan(seed, without=frozenset(without), active_ms=active_ms)
    print(f"seed {seed}: {plan.describe()}")
    result = run_seed(seed, without, active_ms, print)
    print(f"digest {result.digest}")
    print(f"seed {seed}: {result.violation or 'nothing is wrong'}")
    return int(bool(result.violation))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="replay one seed with its trace")
    parser.add_argument("--without", default="", help="faults to leave out of --seed, with commas")
    parser.add_argument("--active-ms", type=float, help="end the faults of --seed after this simulated time")
    parser.add_argument("--seeds", default="", help="FIRST:END")
    parser.add_argument("--minutes", type=float, default=0.0, help="run new seeds for so long")
    parser.add_argument("--first", action="store_true", help="stop at the first seed that fails, and do not shrink it")
    parser.add_argument("--digests", action="store_true", help="print the digest of every run")
    parser.add_argument("--workers", type=int, default=0, help="processes; default: one a core")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        without = tuple(fault for fault in options.without.split(",") if fault)
        return _show(options.seed, without, options.active_ms)
    first, _, end = options.seeds.partition(":")
    if options.minutes:
        begin = int(first) if first else secrets.randbelow(1 << 40)
        seeds, until = iter(range(begin, 1 << 62)), time.monotonic() + 60 * options.minutes
    else:
        seeds, until = iter(range(int(first or 0), int(end or 100))), float("inf")
    tally = Tally()
    for result in run_all(seeds, until, options.workers):
        tally.add(result)
        if options.digests:
            print(result.seed, result.digest)
        if result.violation:
            print(f"seed {result.seed}: {result.violation}" if options.first else explain(result), flush=True)
            if options.first:
                return 1
    print(tally.report())
    if missing := tally.missing():
        print(f"never reached: {'; '.join(missing)}")
    return int(bool(tally.failed))


if __name__ == "__main__":
    raise SystemExit(main())
