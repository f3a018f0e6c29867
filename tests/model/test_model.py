"""Level 5: TLC finds no fault in the rules, and finds one as soon as any of them is left out.

``docs/model.md`` says what the model holds and what it leaves out.
"""

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from model.configurations import CHECKS, LIVENESS, MUTANTS, RULES, SPARE, Check
from support import tlc
from support.levels import require
from support.tlc import Result

TIMEOUT_S = 600
"""Of one check; the longest takes half a minute of one quiet core."""
AT_ONCE = min(4, os.cpu_count() or 1)
"""Checks that run at once, each in a JVM with one worker: what is found first does not depend on a race."""


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Result]]]:
    """The checks that the chosen tests want, a few at a time, in their order."""
    require("model", not (lack := tlc.missing()), lack)
    mine = [item for item in request.session.items if item.path == request.path]
    wanted = dict.fromkeys(item.callspec.params["name"] for item in mine if hasattr(item, "callspec"))

    def run(check: Check) -> Result:
        configuration, mutant = check
        work = tmp_path_factory.mktemp("tlc")
        return tlc.run(configuration.module, configuration.text(mutant), work, timeout_s=TIMEOUT_S, workers=1)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(run, CHECKS[name]) for name in wanted}
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("name", RULES)
def test_the_rules_hold_in_every_reachable_state(name: str, results: dict[str, Future[Result]]) -> None:
    """Agreement, belief, tokens and continuity hold in all of them."""
    _holds(name, results[name].result())


@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("name", LIVENESS)
def test_a_candidate_gets_the_lease_once_the_holder_has_stopped(name: str, results: dict[str, Future[Result]]) -> None:
    """Under fairness, after the faults have stopped."""
    _holds(name, results[name].result())


@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_left_out_is_missed(name: str, results: dict[str, Future[Result]]) -> None:
    """TLC finds a schedule that breaks the invariant which the rule protects."""
    rule, what, _, violated = MUTANTS[name]
    result = results[name].result()
    print(f"\n{name} ({rule}: {what}): {violated} broken after {result.distinct} states")
    assert result.violated == violated, result.output[-4_000:]


@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("name", SPARE)
def test_a_clause_that_safety_does_not_need_is_not_missed(name: str, results: dict[str, Future[Result]]) -> None:
    """It is there for another reason; a model that says so would notice if that changed."""
    _holds(name, results[name].result())


def test_every_switch_of_the_model_has_a_test() -> None:
    """A switch that nobody turns proves nothing."""
    text = (tlc.SPEC / "Lease.tla").read_text()
    sets = re.findall(r"Mut \\cap \{([^}]*)\}", text)
    switches = set(re.findall(r'M\("(\w+)"\)', text)) | {word for one in sets for word in re.findall(r'"(\w+)"', one)}
    assert switches == MUTANTS.keys() | SPARE.keys()


def test_every_rule_has_a_switch_or_a_reason() -> None:
    """``docs/model.md`` says of every switch which clause it leaves out, and of clauses without one why."""
    text = (tlc.ROOT / "docs" / "model.md").read_text()
    assert not [name for name in MUTANTS.keys() | SPARE.keys() if f"`{name}`" not in text]
    named = {word for rule, *_ in MUTANTS.values() for word in re.findall(r"R\d", rule)}
    assert named >= {f"R{number}" for number in range(1, 10)}


def _holds(name: str, result: Result) -> None:
    print(f"\n{name}: {result.distinct} states of {result.generated} generated, depth {result.depth}")
    assert result.is_complete, result.output[-4_000:]
