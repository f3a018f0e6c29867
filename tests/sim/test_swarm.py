"""Whole quorums under every fault: no seed may fail, every interesting state must be reached, and runs repeat exactly.

``SIM_SEEDS`` says how many fixed seeds (default 80; CI takes 500), ``SIM_MINUTES`` for how long new ones (default 0),
``SIM_FIRST`` which is the first of those (default: any; CI takes one that it makes of the tree that it tests).
"""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from leaderlease.paxos.acceptor import Acceptor
from leaderlease.paxos.messages import Renew, Renewed
from sim.events import EVENTS, RARE, RARE_FROM_SEEDS
from sim.plan import FAULTS, Cut, Lease, make_plan
from sim.seeds import FOUND
from sim.swarm import Shrinker, Tally, explain, run_all, run_seed
from sim.world import World

SEEDS = int(os.environ.get("SIM_SEEDS", "80"))
MINUTES = float(os.environ.get("SIM_MINUTES", "0"))
FIRST = int(os.environ.get("SIM_FIRST") or secrets.randbelow(1 << 40))
WITHOUT_LIMIT = pytest.mark.timeout(120 + 6 * SEEDS + 180 * MINUTES)


@pytest.fixture(scope="module")
def fixed() -> Tally:
    """The fixed seeds, those that once found something first."""
    total = Tally()
    for result in run_all([*FOUND, *(seed for seed in range(SEEDS) if seed not in FOUND)]):
        total.add(result)
    print(f"fixed seeds: {total.report()}")
    return total


def _explained(tally: Tally) -> str:
    return "\n".join(explain(result) for result in tally.failed[:3])


@WITHOUT_LIMIT
def test_no_fixed_seed_breaks_a_rule(fixed: Tally) -> None:
    """Belief, tokens, agreement, promise, durability, honesty, progress and linearizability hold in every run."""
    assert not fixed.failed, _explained(fixed)


@WITHOUT_LIMIT
@pytest.mark.skipif(not MINUTES, reason="new seeds: set SIM_MINUTES, or use make sim-swarm")
def test_no_new_seed_breaks_a_rule() -> None:
    """Nor in runs that nobody has seen before; what fails is printed, made smaller and stored."""
    new = Tally()
    for result in run_all(iter(range(FIRST, 1 << 62)), time.monotonic() + 60 * MINUTES):
        new.add(result)
    print(f"new seeds from {FIRST} on: {new.report()}")
    assert not new.failed, _explained(new)


@WITHOUT_LIMIT
def test_every_interesting_state_is_reached(fixed: Tally) -> None:
    """A corner that no schedule comes to any more is a corner that nobody checks."""
    assert len(EVENTS) >= 40
    assert set(EVENTS) >= RARE
    assert set(fixed.missing()) <= (RARE if SEEDS < RARE_FROM_SEEDS else set())


@WITHOUT_LIMIT
def test_every_kind_of_fault_is_drawn(fixed: Tally) -> None:
    """Each of them happens, or a renamed one would be missed by nobody."""
    assert not [fault for fault in FAULTS if not fixed.counts[f"fault: {fault}"]]


def test_a_run_is_the_same_under_any_hash_seed() -> None:
    """Same seed, same run: an order that a set decides would be seen here."""
    script = Path(__file__).parent / "swarm.py"
    command = [sys.executable, str(script), "--seeds", "0:5", "--digests", "--workers", "1"]
    runs = [
        subprocess.run(
            command, env=dict(os.environ, PYTHONHASHSEED=hash_seed), capture_output=True, text=True, check=True
        ).stdout.splitlines()[:5]
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 5


def test_a_trace_changes_nothing_and_says_who_sent_what() -> None:
    """Looking at a run is not taking part in it."""
    lines: list[str] = []
    traced = run_seed(1, trace=lines.append)
    assert traced.digest == run_seed(1).digest
    assert any("-> " in line and "Prepare(" in line for line in lines)
    assert any("BELIEVES" in line for line in lines)


def test_a_plan_without_a_fault_draws_all_else_alike() -> None:
    """What shrinking takes away is that fault and nothing else."""
    plan = make_plan(3)
    smaller = make_plan(3, Cut(without=plan.faults[:1], active_ms=1_000))
    assert smaller.faults == plan.faults[1:]
    assert (smaller.rates, smaller.leases, smaller.weather) == (plan.rates, plan.leases, plan.weather)


def test_a_fault_that_is_left_out_by_its_number_leaves_the_others_as_they_were() -> None:
    """Every fault has an instant and a random source of its own, so what is left keeps its number and its time."""

    def faults(cut: Cut) -> list[str]:
        lines: list[str] = []
        run_seed(3, cut, lines.append)
        return [line for line in lines if " fault " in line]

    every = faults(Cut(active_ms=10_000))
    assert len(every) > 2
    assert faults(Cut(active_ms=10_000, only=(1, 2))) == every[:2]


def test_a_seed_that_fails_is_made_smaller_and_its_story_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With R2 broken, fewer faults and less time still show it, and a story to read is kept."""
    renew = Acceptor.renew

    def renew_whatever_was_promised(acceptor: Acceptor, msg: Renew, now_ms: int) -> Renewed:
        return msgspec.structs.replace(renew(acceptor, msg, now_ms), nacked=())

    monkeypatch.setattr(Acceptor, "renew", renew_whatever_was_promised)
    failed = next(result for result in map(run_seed, range(100)) if result.violation)
    said = explain(failed, tmp_path)
    story = (tmp_path / f"seed-{failed.seed}.txt").read_text()
    shrinker = Shrinker(failed)
    cut = shrinker.run()
    again = run_seed(failed.seed, cut)
    assert again.violation == shrinker.result.violation
    assert again.violation.partition(":")[0] == failed.violation.partition(":")[0]
    assert cut.active_ms is not None
    assert cut.active_ms < make_plan(failed.seed).active_ms
    assert len(again.faults) <= len(failed.faults)
    assert f"make sim SEED={failed.seed} {cut.variables()}" in said
    assert again.violation in story
    assert "Renew(" in story


def test_clocks_beyond_the_bound_are_noticed() -> None:
    """Holders whose clocks run far slower than those of nodes believe for too long: the checker must see it."""
    violations = []
    for seed in range(20):
        plan = make_plan(seed)
        plan.faults = plan.drawn = ("cut_client",)
        plan.leases = [Lease("sim/l0", 500)]
        plan.rates = {host: (1.3,) * 3 if host.startswith("n") else (0.7,) * 3 for host in plan.hosts}
        violations.append(World(plan).run().violation)
    assert any(violation.startswith("belief") for violation in violations), violations
