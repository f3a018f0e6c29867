"""What the code did is a behaviour of the model, step by step: the directed tests, and whole nodes in the simulator.

All traces of a kind are checked in one run of TLC. A trace in which one step was changed is refused at that step.
"""

import importlib
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from model import recorders
from model.forgeries import FORGERIES
from model.traces import RULES, Trace, Verdict, check
from sim.plan import Plan, make_plan
from sim.world import World
from support import tlc
from support.levels import require

TIMEOUT_S = 400
SEEDS = (*range(30), 35, 41)
"""The last two have hand-overs."""
ACTIVE_MS = 2_000
"""How long the faults of a recorded run go on."""
OUTSIDE = {"old_disk"}
"""Faults that the model knows nothing of: a disk that goes back in time is refused by the peers."""
STORIES = ("test_lecture", "test_r1", "test_r2", "test_r5", "test_r7", "test_release")

Case = tuple[str, str, int | None]
"""Module in ``tests/rules``, test, duration."""


def _cases() -> list[Case]:
    """Return the tests of those files that take no fixture, with the values of their parameters."""
    cases: list[Case] = []
    for file in STORIES:
        for name, function in inspect.getmembers(importlib.import_module(f"rules.{file}"), inspect.isfunction):
            if not name.startswith("test_") or "world" not in inspect.getsource(function):
                continue
            parameters = list(inspect.signature(function).parameters)
            if not parameters:
                cases.append((file, name, -1))
            elif parameters == ["duration_ms"]:
                cases += [(file, name, None), (file, name, 1_000)]
    return cases


CASES = _cases()


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require("model", not (lack := tlc.missing()), lack)


def _plan(seed: int) -> Plan:
    plan = make_plan(seed)
    plan.faults = tuple(fault for fault in plan.faults if fault not in OUTSIDE)
    plan.active_ms = min(plan.active_ms, ACTIVE_MS)
    return plan


def _play(case: Case) -> list[Trace]:
    """Run a directed test in recording worlds."""
    file, name, duration_ms = case
    module = importlib.import_module(f"rules.{file}")
    recorders.RecordingWorld.made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "World", recorders.RecordingWorld, raising=False)
        story: Callable[..., None] = getattr(module, name)
        story(**({} if duration_ms == -1 else {"duration_ms": duration_ms}))
    traces = [world.trace for world in recorders.RecordingWorld.made if world.trace.events]
    for trace in traces:
        trace.name = name
    return traces


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, list[Verdict]]:
    """What TLC says of the directed tests."""
    played = {case: _play(case) for case in CASES}
    verdicts = iter(check([t for traces in played.values() for t in traces], tmp_path_factory.mktemp("t"), TIMEOUT_S))
    return {case: [next(verdicts) for _ in traces] for case, traces in played.items()}


@pytest.fixture(scope="module")
def runs() -> dict[int, tuple[Counter[str], list[Trace]]]:
    """Seed -> what happened in the whole run, and traces of its first leases."""
    found = {}
    for seed in SEEDS:
        # What the simulator's own checkers say is for the swarm to judge; here every step up to there counts.
        result, traces = recorders.record(_plan(seed))
        found[seed] = (result.counts, traces)
    return found


@pytest.fixture(scope="module")
def verdicts(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Verdict]]:
    """What TLC says of the simulated runs."""
    found = iter(check([t for _, traces in runs.values() for t in traces], tmp_path_factory.mktemp("t"), TIMEOUT_S))
    return {seed: [next(found) for _ in traces] for seed, (_, traces) in runs.items()}


@pytest.fixture(scope="module")
def forged(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """What TLC says of the forgeries: of each, the first that some simulated run has a place for."""
    true = [trace for _, traces in runs.values() for trace in traces]
    made = {
        name: next((one for trace in true if (one := forge(trace))), None) for name, (_, forge) in FORGERIES.items()
    }
    assert None not in made.values(), made
    found = check([trace for trace in made.values() if trace is not None], tmp_path_factory.mktemp("t"), TIMEOUT_S)
    return dict(zip(made, found, strict=True))


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[2]}" if case[2] != -1 else case[1])
def test_what_a_directed_test_did_is_a_behaviour_of_the_model(case: Case, stories: dict[Case, list[Verdict]]) -> None:
    """Each step of each acceptor, proposal, renewal and belief is one that the model allows."""
    assert stories[case]
    assert not [verdict.refused for verdict in stories[case] if not verdict.is_allowed]


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_simulated_nodes_did_is_a_behaviour_of_the_model(seed: int, verdicts: dict[int, list[Verdict]]) -> None:
    """Whole nodes on the production driver, under every fault: kills, restarts, partitions, bad disks and clocks."""
    assert not [verdict.refused for verdict in verdicts[seed] if not verdict.is_allowed]


def test_the_simulated_runs_have_something_of_everything(runs: dict[int, tuple[Counter[str], list[Trace]]]) -> None:
    """Traces in which nothing happens would be allowed by any model."""
    traces = [trace for _, found in runs.values() for trace in found]
    kinds = Counter(event["kind"] for trace in traces for event in trace.events)
    values = [value for trace in traces for value in trace.values.values()]
    counts = sum((counts for counts, _ in runs.values()), Counter[str]())
    print(f"\n{len(runs)} seeds, {len(traces)} leases, {sum(kinds.values())} steps: {dict(kinds)}")
    assert len(traces) >= 20
    assert not RULES.keys() - kinds.keys()
    assert any(value.is_never for value in values)
    assert any(value.holder is None for value in values), "nothing was vacated durably"
    wanted = {"chosen: transferred", "granted for ever", "evidence shown", "NEED_VALUE: a renewal of what is not there"}
    wanted |= {f"fault: {kind}" for kind in ("kill", "power", "split", "isolate", "one_way", "suspend_client")}
    assert not {event for event in wanted if not counts[event]}


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_trace_with_one_step_changed_is_refused_at_that_step(name: str, forged: dict[str, Verdict]) -> None:
    """A check that accepts everything would prove nothing; the refusal names the step and its rules."""
    kind, verdict = FORGERIES[name][0], forged[name]
    assert (verdict.kind, verdict.steps) == (kind, verdict.total - 1), verdict
    assert RULES[kind] in verdict.refused


def test_recording_changes_nothing() -> None:
    """What is recorded is the run that the swarm runs."""
    assert recorders.record(_plan(1))[0].digest == World(_plan(1)).run().digest
