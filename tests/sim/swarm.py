"""Run seeds: one with a readable trace, a range, or new ones for some minutes on all cores.

    python tests/sim/swarm.py --seed 51                 who sent what when, and the verdict
    python tests/sim/swarm.py --seeds 0:500             a range
    python tests/sim/swarm.py --minutes 2               new seeds; what fails is made smaller and printed

Ends with 1 if any seed failed.
"""

import argparse
import os
import re
import secrets
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from sim.events import EVENTS  # noqa: E402  (after the path is set)
from sim.plan import NOTHING, Cut, make_plan  # noqa: E402
from sim.world import Result, World  # noqa: E402

STORE = TESTS.parent / "build" / "sim"
"""Where the traces of failed seeds are kept."""
SHRINKS_MAX = 150
"""Runs that are spent on making one failing seed smaller."""
TAIL_LINES_MAX = 400
"""Lines of a story: its end is what matters."""


def run_seed(seed: int, cut: Cut = NOTHING, trace: Callable[[str], None] | None = None) -> Result:
    """Run one seed."""
    return World(make_plan(seed, cut), trace).run()


def run_all(seeds: Iterable[int], until: float = float("inf"), workers: int | None = None) -> Iterator[Result]:
    """Run seeds on all cores until they, or the time, are used up; results come as they end."""
    workers = workers or os.cpu_count() or 1

    def wanted() -> Iterator[int]:
        for seed in seeds:
            if time.monotonic() >= until:
                return
            yield seed

    if workers == 1:
        yield from map(run_seed, wanted())
        return
    # Fresh interpreters: a run must not depend on what its parent has imported or drawn.
    with get_context("spawn").Pool(workers) as pool:
        pending = []
        for seed in wanted():
            pending.append(pool.apply_async(run_seed, (seed,)))
            while len(pending) >= 4 * workers:
                yield pending.pop(0).get()
        for result in pending:
            yield result.get()


class Shrinker:
    """Takes away what a failing seed does not need to fail alike: time, leases, clients, faults one by one.

    Args:
        failed: What to begin with.
    """

    def __init__(self, failed: Result) -> None:
        self.seed = failed.seed
        self.runs = 0
        self.cut, self.result = NOTHING, failed
        self._kind = failed.violation.partition(":")[0]

    def run(self) -> Cut:
        """Return the smallest that was found in ``SHRINKS_MAX`` runs."""
        self._end_sooner()
        leases = make_plan(self.seed).leases
        named = tuple(lease.name for lease in leases if re.search(rf"{lease.name}\b", self.result.violation))
        if len(leases) > 1 and named:
            self._try(replace(self.cut, leases=named[:1]))
        for clients in range(1, make_plan(self.seed, self.cut).clients):
            if self._try(replace(self.cut, clients=clients)):
                break
        self._leave_faults_out()
        self._end_sooner()
        return self.cut

    def _try(self, cut: Cut) -> bool:
        if self.runs >= SHRINKS_MAX:
            return False
        self.runs += 1
        result = run_seed(self.seed, cut)
        if result.violation.partition(":")[0] != self._kind:
            return False
        self.cut, self.result = cut, result
        return True

    def _end_sooner(self) -> None:
        """What failed while faults went on fails in the same instant when they end just then; else halve."""
        active_ms = make_plan(self.seed, self.cut).active_ms
        if self.result.simulated_ms < active_ms:
            self._try(replace(self.cut, active_ms=self.result.simulated_ms + 1))
            return
        while active_ms > 1_000 and self._try(replace(self.cut, active_ms=active_ms / 2)):
            active_ms /= 2

    def _leave_faults_out(self) -> None:
        """Zeller's delta debugging: drop chunks of faults, smaller and smaller ones."""
        chunk = len(self.result.faults)
        while chunk:
            kept = self.result.faults
            for start in range(0, len(kept), chunk):
                dropped = set(kept[start : start + chunk])
                self._try(replace(self.cut, only=tuple(one for one in self.result.faults if one not in dropped)))
            chunk //= 2


def explain(failed: Result, store: Path = STORE) -> str:
    """Make a failed run smaller, keep its story, and say how to see it again."""
    shrinker = Shrinker(failed)
    cut = shrinker.run()
    path = store / f"seed-{failed.seed}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(story(shrinker.result, cut))
    return (
        f"seed {failed.seed}: {failed.violation}\n"
        f"  all of it:    make sim SEED={failed.seed}\n"
        f"  made smaller: make sim SEED={failed.seed} {cut.variables()}\n"
        f"  after {shrinker.runs} runs, {len(shrinker.result.faults)} of {len(failed.faults)} faults: {path}\n"
        f"  for tests/sim/seeds.py: {failed.seed}: {shrinker.result.violation[:90]!r},"
    )


def story(failed: Result, cut: Cut) -> str:
    """Tell a failed run so that a person can follow it: what was done, and who said what about its lease."""
    lines: list[str] = []
    try:
        run_seed(failed.seed, cut, lines.append)
    except Exception:  # the find itself: with a trace it is not caught, so that people see where it came from
        lines.append(f" ! {traceback.format_exc()}")
    named = re.search(r"sim/l\d+", failed.violation)
    lease = re.compile(rf"{named[0]}\b") if named else re.compile("")
    words = "fault|net|dies|starts|leaves|refuses|goes on|is stopped|is suspended|its disk|does not"
    is_told = re.compile(rf" ! | ({words})\b")
    told = [line for line in lines if is_told.search(line[:60]) or lease.search(line)]
    told = _broadcasts(told)
    left_out = len(told) - TAIL_LINES_MAX
    head = [
        f"seed {failed.seed}: {failed.violation}",
        f"make sim SEED={failed.seed} {cut.variables()}",
        f"{make_plan(failed.seed, cut).describe()}",
        f"The whole trace has {len(lines)} lines. Here: faults, and what names {named[0] if named else 'anything'}.",
        "",
    ]
    if left_out > 0:
        head += [*(line for line in told[:left_out] if " fault " in line), f"... {left_out} lines before ..."]
    return "\n".join([*head, *told[-TAIL_LINES_MAX:], ""])


def _broadcasts(lines: list[str]) -> list[str]:
    """Put what one process says to several in one instant on one line."""
    merged: list[str] = []
    instant, at = "", dict[str, int]()
    for line in lines:
        found = re.match(r"( *[\d.]+ \w+ *-> )(\w+) +(.*)", line)
        if found is None or found[1] != instant:
            instant, at = found[1] if found else "", {}
        if found and found[3] in at:
            place = at[found[3]]
            merged[place] = merged[place].replace(f" {found[3]}", f" {found[2]} {found[3]}")
        else:
            at[found[3] if found else ""] = len(merged)
            merged.append(line)
    return merged


class Tally:
    """Sums over many runs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seeds: Counter[str] = Counter()
        """By what happened: in how many runs it did."""
        self.failed: list[Result] = []
        self.runs = 0
        self.simulated_ms = 0.0
        self.events = 0
        self._began = time.monotonic()

    def add(self, result: Result) -> None:
        """Take one run."""
        self.runs += 1
        self.counts.update(result.counts)
        self.seeds.update(name for name, count in result.counts.items() if count)
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
        rare = sorted(EVENTS, key=lambda event: self.seeds[event])[:3]
        return (
            f"{self.runs} seeds, {hours:.2f} simulated cluster-hours in {minutes:.2f} minutes: {hours / minutes:.2f} "
            f"simulated hours a minute, {self.events / minutes / 60:.0f} events a second\n"
            f"{self.counts['granted']} grants, {self.counts['operations']} operations put in order, "
            f"{len(EVENTS) - len(self.missing())} of {len(EVENTS)} named events reached; "
            f"the rarest: {', '.join(f'{event} (in {self.seeds[event]} seeds)' for event in rare)}\n"
            f"{len(self.failed)} seeds failed"
        )


def _show(seed: int, cut: Cut) -> int:
    print(f"seed {seed}: {make_plan(seed, cut).describe()}")
    result = run_seed(seed, cut, print)
    print(f"digest {result.digest}")
    print(f"seed {seed}: {result.violation or 'nothing is wrong'}")
    return int(bool(result.violation))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="replay one seed with its trace")
    parser.add_argument("--without", default="", help="faults to leave out of --seed, with commas")
    parser.add_argument("--only", default="", help="numbers of the faults of --seed that happen; 0 is none")
    parser.add_argument("--active-ms", type=float, help="end the faults of --seed after this simulated time")
    parser.add_argument("--clients", type=int, help="so many clients in --seed, at most")
    parser.add_argument("--leases", default="", help="leases that are left in --seed, with commas")
    parser.add_argument("--seeds", default="", help="FIRST:END")
    parser.add_argument("--minutes", type=float, default=0.0, help="run new seeds for so long")
    parser.add_argument("--first", action="store_true", help="stop at the first seed that fails, and do not shrink it")
    parser.add_argument("--digests", action="store_true", help="print the digest of every run")
    parser.add_argument("--workers", type=int, default=0, help="processes; default: one a core")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        only = tuple(int(number) for number in _names(options.only)) or None
        leases = _names(options.leases) or None
        return _show(options.seed, Cut(_names(options.without), only, options.active_ms, options.clients, leases))
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
