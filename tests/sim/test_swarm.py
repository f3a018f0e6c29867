"""Whole quorums under every fault: no seed may fail, every interesting state must be reached, and runs repeat exactly.

``SIM_SEEDS`` says how many fixed seeds (default 80; CI takes 500), ``SIM_MINUTES`` for how long new ones (default 0).
"""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.events import EVENTS
from sim.plan import FAULTS, Cut, Lease, make_plan
from sim.seeds import FOUND
from sim.swarm import Tally, explain, run_all, run_seed
from sim.world import World

SEEDS = int(os.environ.get("SIM_SEEDS", "80"))
MINUTES = float(os.environ.get("SIM_MINUTES", "0"))
WITHOUT_LIMIT = pytest.mark.timeout(60 + 6 * SEEDS + 120 * MINUTES)


@pytest.fixture(scope="module")
def tally() -> Tally:
    """The fixed seeds, those that once found something first; then new ones."""
    fixed = [*FOUND, *(seed for seed in range(SEEDS) if seed not in FOUND)]
    total = Tally()
    for result in run_all(fixed):
        total.add(result)
    if MINUTES:
        begin = secrets.randbelow(1 << 40)
        for result in run_all(iter(range(begin, 1 << 62)), time.monotonic() + 60 * MINUTES):
            total.add(result)
    print(total.report())
    return total


@WITHOUT_LIMIT
def test_no_seed_breaks_a_rule(tally: Tally) -> None:
    """Belief, tokens, agreement, promise, durability, honesty, progress and linearizability hold in every run."""
    assert not tally.failed, "\n".join(explain(result) for result in tally.failed[:3])


@WITHOUT_LIMIT
def test_every_interesting_state_is_reached(tally: Tally) -> None:
    """A corner that no schedule comes to any more is a corner that nobody checks."""
    assert len(EVENTS) >= 40
    assert not tally.missing()


@WITHOUT_LIMIT
def test_every_kind_of_fault_is_drawn(tally: Tally) -> None:
    """Each of them happens, or a renamed one would be missed by nobody."""
    assert not [fault for fault in FAULTS if not tally.counts[f"fault: {fault}"]]


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
