"""The tables of ``README.md`` are complete and name tests that exist; so do the mutants.

Together: each clause of each rule is left out by a mutant, and each test that must fail then names the rule.
"""

import ast
import re
from pathlib import Path

from mutants.around import BESIDES
from mutants.equivalent import EQUIVALENT
from mutants.patches import MUTANTS

TESTS = Path(__file__).parent.parent
README = (Path(__file__).parent / "README.md").read_text()
ROWS = dict(re.findall(r"^\| ([RH]\d+) \| (.*)$", README, re.MULTILINE))
CLAUSES = {
    clause: set(mutants.split("; "))
    for clause, mutants in re.findall(r"^\| (R\d[a-z]) \| [^|]+ \| ([^|]+) \|$", README, re.MULTILINE)
}
LATER = "later ("
WITHOUT_A_LINE = {
    "H7": "a budget for disruptions, which is the chart's",
    "H14": "a design that was not chosen",
    "H30": "a copy is an Accept like any other, and members do not join yet",
}
"""Holes whose rule is no line of the code."""


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
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 100


def test_every_rule_and_every_hole_is_left_out_by_a_mutant() -> None:
    """R1 to R9, and each hole whose rule is a line of the code."""
    left_out = {word for mutant in MUTANTS for word in mutant.rule.split()}
    assert set(ROWS) - left_out == set(WITHOUT_A_LINE)


def test_every_clause_of_every_rule_is_left_out_by_a_mutant_of_that_rule() -> None:
    """And each mutant of a rule is under one of its clauses, so a new one cannot be forgotten there."""
    rules = {mutant.name: set(mutant.rule.split()) for mutant in MUTANTS}
    assert {clause[:2] for clause in CLAUSES} == {f"R{n}" for n in range(1, 10)}
    for clause, names in CLAUSES.items():
        assert not [name for name in names if clause[:2] not in rules.get(name, ())], clause
    filed = {(clause[:2], name) for clause, names in CLAUSES.items() for name in names}
    assert {(rule, name) for name, words in rules.items() for rule in words if rule.startswith("R")} == filed


def _named_by(test: str) -> set[str]:
    """Return the rules and holes that a failure shows: in the name of the file or test, or in a docstring."""
    path, _, name = test.partition("::")
    tree = ast.parse((TESTS / path).read_text())
    shown = [path, name, ast.get_docstring(tree) or ""]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            shown.append(ast.get_docstring(node) or "")
    found = re.findall(r"(?<![a-z0-9])[rh]\d+(?![a-z0-9])", " ".join(shown).lower().replace("_", " "))
    return {word.upper() for word in found}


def test_each_test_that_fails_without_a_rule_names_it() -> None:
    """Whoever deletes a rule reads in red which one it was."""
    silent = [
        (mutant.name, test)
        for mutant in MUTANTS
        for test in mutant.tests
        if mutant.rule != BESIDES and not _named_by(test) & set(mutant.rule.split())
    ]
    assert silent == []


def test_changes_that_are_called_equivalent_are_changes_of_this_code() -> None:
    """The line that went is in the code, at the place that is named; each has a reason and is there once."""
    source = TESTS.parent / "operator" / "leaderlease" / "paxos"
    changes = [change for reason, changes in EQUIVALENT for change in changes if reason]
    for place, old, new in changes:
        text = " ".join((source / f"{place.partition('.')[0]}.py").read_text().split())
        assert f"def {place.rpartition('.')[2]}(" in text, place
        assert old in text, (place, old)
        assert new != old
    assert len(set(changes)) == len(changes) == sum(len(changes) for _, changes in EQUIVALENT)
