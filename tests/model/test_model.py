"""Level 5: TLC finds no fault in the rules, and finds one as soon as any of them is left out.

``docs/model.md`` says what the model holds and what it leaves out.
"""

import os
from pathlib import Path

import pytest

from support import tlc
from support.levels import require
from support.tlc import Configuration

TIMEOUT_S = 400
WORKERS = min(2, os.cpu_count() or 1)

RULES = {
    "time, renewals, restarts": Configuration("B12", 2, steps="tick restart renew", holders="1 2"),
    "a longer lease, renewed": Configuration("B12", 2, 3, steps="tick renew"),
    "evidence, four ballots": Configuration("B1212", 4),
    "phase 1 in advance": Configuration("B102", 3),
    "release": Configuration("B123", 3, steps="release", clients="1 2 3"),
    "hand-over": Configuration("B112", 3, steps="handover renew", holders="1 2"),
    "never, vacated": Configuration("B112", 3, steps="restart vacate", never="1 2"),
    "a set that shrinks": Configuration("B12", 2, new="a1"),
    "a member replaced": Configuration("B12", 2, steps="tick", old="a1", new="a2"),
}
"""Every one is exhaustive: all states that these constants allow, however long it goes on."""

SMALL = Configuration("B12", 2)
TIMED = Configuration("B12", 2, steps="tick")
RENEWED = Configuration("B12", 2, 3, steps="tick renew")
FOUR = Configuration("B1212", 4)
SHRINKS = Configuration("B12", 2, new="a1")
REPLACED = Configuration("B12", 2, old="a1", new="a2")

MUTANTS = {
    "noguard": ("R1", "the guard in Prepare", TIMED, "Belief"),
    "seenpromise": ("R1", "evidence is what was accepted, not what was promised", FOUR, "Belief"),
    "seenlower": ("R1", "evidence lies above the accepted ballot", FOUR, "Belief"),
    "seensame": ("R1", "evidence is of another nonce", FOUR, "Belief"),
    "renewnopromise": ("R2", "a renewal needs an unbroken promise", RENEWED, "Belief"),
    "renewvolatile": ("R2", "a renewal needs the durable value", Configuration("B12", 2, steps="tick restart renew"),
                      "Belief"),
    "twovalues": ("R3", "one value for a ballot", TIMED, "Agreement"),
    "noraise": ("R4", "Accept raises the promise", Configuration("B121", 3, steps="tick"), "Belief"),
    "amnesia": ("R4, R8", "what is acknowledged is on the disk", Configuration("B12", 2, steps="restart"), "Belief"),
    "notfresh": ("R5", "timers are armed after a restart", Configuration("B12", 2, steps="restart"), "Belief"),
    "volpromise": ("R5", "promises are durable", Configuration("B12", 2, steps="tick restart"),
                   "Belief"),
    "fromreply": ("R6", "validity counts from the own send", Configuration("B12", 2, 3, steps="tick"), "Belief"),
    "byarrival": ("R6", "quorums are counted by member", SMALL, "Tokens"),
    "mixatt": ("R6", "acknowledgements are counted for each attempt", RENEWED, "Belief"),
    "resurrect": ("R6", "what ended stays ended", Configuration("B11", 2, 3, steps="tick", clients="1"), "Continuity"),
    "nomargin": ("section 4", "the holder's margin", TIMED, "Belief"),
    "name": ("R7", "holders are compared by nonce", SMALL, "Belief"),
    "anyvalue": ("R7", "the highest ballot decides", TIMED, "Agreement"),
    "sameterm": ("R7", "a new holder has a new term", TIMED, "Agreement"),
    "tombstone": ("R7", "a tombstone keeps the term", Configuration("B112", 3, steps="vacate"), "Agreement"),
    "letgolast": ("section 5", "a holder stops believing before it says so",
                  Configuration("B12", 2, steps="release"), "Belief"),
    "releaseany": ("section 3", "a release is for exactly one value",
                   Configuration("B123", 3, steps="release", clients="1 2 3"), "Belief"),
    "epochblind": ("R8", "messages count in their own epoch", REPLACED, "Belief"),
    "nojoint": ("R8", "the joint epoch", REPLACED, "Belief"),
    "jointone": ("R8", "while joint, majorities of both sets", SHRINKS, "Belief"),
    "nocopy": ("R8", "a new member copies before it votes", REPLACED, "Belief"),
    "copyearly": ("R8", "it copies from members that have left the old epoch", REPLACED, "Belief"),
    "notimercopy": ("R8", "it arms full timers", Configuration("B12", 2, steps="tick", old="a1", new="a2"), "Belief"),
    "stayers": ("R8", "a member of both sets copies, too", SHRINKS, "Belief"),
    "noseen": ("R1", "evidence lifts a guard that guards nothing",
               Configuration("B123", 3, never="1 2", clients="1 2 3", is_liveness=True), "temporal"),
}  # fmt: skip
"""Switch in Lease.tla -> rule, what it leaves out, where TLC looks, and what is violated then."""

LIVENESS = {
    "a timed lease runs out": Configuration("B112", 3, steps="tick restart", is_liveness=True),
    "half-finished leases without an end": Configuration(
        "B123", 3, never="1 2", clients="1 2 3", is_liveness=True
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _tools() -> None:
    require("model", not (lack := tlc.missing()), lack)


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("name", RULES)
def test_the_rules_hold_in_every_reachable_state(name: str, tmp_path: Path) -> None:
    """Agreement, belief, tokens and continuity hold in all of them."""
    _holds(name, RULES[name], tmp_path)


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("name", LIVENESS)
def test_a_candidate_gets_the_lease_once_the_holder_has_stopped(name: str, tmp_path: Path) -> None:
    """Under fairness, after the faults have stopped."""
    _holds(name, LIVENESS[name], tmp_path)


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_that_is_left_out_is_missed(mutant: str, tmp_path: Path) -> None:
    """TLC finds a schedule that breaks the invariant which the rule protects."""
    rule, what, configuration, violated = MUTANTS[mutant]
    result = tlc.run(configuration.module, configuration.text(mutant), tmp_path, timeout_s=TIMEOUT_S, workers=WORKERS)
    print(f"\n{mutant} ({rule}: {what}): {violated} broken after {result.distinct} states")
    assert result.violated == violated, result.output[-4_000:]


def test_every_switch_of_the_model_has_a_test() -> None:
    """A switch that nobody turns proves nothing."""
    import re

    text = (tlc.SPEC / "Lease.tla").read_text()
    sets = re.findall(r"Mut \\cap \{([^}]*)\}", text)
    switches = set(re.findall(r'M\("(\w+)"\)', text)) | {word for one in sets for word in re.findall(r'"(\w+)"', one)}
    assert switches == MUTANTS.keys()


def _holds(name: str, configuration: Configuration, work: Path) -> None:
    result = tlc.run(configuration.module, configuration.text(), work, timeout_s=TIMEOUT_S, workers=WORKERS)
    print(f"\n{name}: {result.distinct} states of {result.generated} generated, depth {result.depth}")
    assert result.is_complete, result.output[-4_000:]
