"""The table of ``README.md`` is complete and names tests that exist; so do the mutants."""

import ast
import re
from pathlib import Path

from mutants.patches import MUTANTS

TESTS = Path(__file__).parent.parent
ROWS = dict(re.findall(r"^\| ([RH]\d+) \| (.*)$", (Path(__file__).parent / "README.md").read_text(), re.MULTILINE))
LATER = "Kubernetes: later ("


def _tests_of(path: str) -> set[str]:
    tree = ast.parse((TESTS / path).read_text())
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in tree.body if isinstance(node, functions) and node.name.startswith("test_")}


def _missing(names: list[str]) -> list[str]:
    missing = []
    for name in names:
        path, _, test = name.partition("::")
        if not (TESTS / path).is_file() or (test and test not in _tests_of(path)):
            missing.append(name)
    return missing


def test_every_rule_and_every_hole_has_a_row() -> None:
    """R1 to R9 and H1 to H37; a hole without a test says what it waits for."""
    assert list(ROWS) == [f"R{n}" for n in range(1, 10)] + [f"H{n}" for n in range(1, 38)]
    for name, row in ROWS.items():
        assert "`" in row or LATER in row, f"{name} names no test and no reason"


def test_the_tests_of_the_table_exist() -> None:
    """A renamed test must not leave a hole behind that looks guarded."""
    names = [name for row in ROWS.values() for name in re.findall(r"`([a-z]+/test_\w+\.py(?:::\w+)?)`", row)]
    assert len(names) > 60
    assert _missing(names) == []


def test_the_tests_of_the_mutants_exist_and_their_texts_are_in_the_code() -> None:
    """Only the run of them tells whether they are killed; this keeps them from rotting in between."""
    assert _missing([test for mutant in MUTANTS for test in mutant.tests]) == []
    source = TESTS.parent / "operator" / "leaderlease"
    stale = [m.name for m in MUTANTS if (source / m.file).read_text().count(m.old) != 1]
    assert stale == []
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30


def test_every_rule_is_left_out_by_a_mutant() -> None:
    """R1 to R9, and each hole whose rule is code of the quorum."""
    left_out = {word for mutant in MUTANTS for word in mutant.rule.split()}
    assert {f"R{n}" for n in range(1, 10)} <= left_out
    holes = {name for name, row in ROWS.items() if name.startswith("H") and LATER not in row}
    assert sorted(holes - left_out) == ["H14"], "H14 is a design that was not chosen: there is no line to leave out"
