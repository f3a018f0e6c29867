"""``leaderlease bench``: it runs, and every row of the table has a number. What the numbers are is for people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from leaderlease.cli.bench import ROWS, Row
from leaderlease.cli.load_raw import quantile
from leaderlease.cli.measure import SCENARIOS


def _bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "leaderlease", "bench", *arguments], capture_output=True, text=True, timeout=110
    )


def test_quick_run_fills_every_row(tmp_path: Path) -> None:
    """All scenarios run against real nodes; each row has a median, and nothing that was measured had failed."""
    path = tmp_path / "bench.json"
    ran = _bench("--quick", "--json", str(path))
    assert ran.returncode == 0, ran.stderr
    report = json.loads(path.read_text())
    assert [(row["scenario"], row["field"]) for row in report["rows"]] == [(row.scenario, row.field) for row in ROWS]
    assert all(isinstance(row["median"], int | float) for row in report["rows"])
    counts = {row["text"]: row["median"] for row in report["rows"] if row["aim"] == 0}
    assert counts == dict.fromkeys(counts, 0)
    assert {"machine", "fsync_ms", "runs"} <= report.keys()
    assert all(row.text.strip() in ran.stdout for row in ROWS)


def test_named_scenario_runs_alone() -> None:
    """Naming a scenario leaves the others out, and JSON goes to standard output."""
    ran = _bench("--quick", "acquire", "-o", "json")
    assert ran.returncode == 0, ran.stderr
    assert {row["scenario"] for row in json.loads(ran.stdout)["rows"]} == {"acquire"}


def test_unknown_scenario_is_one_line_that_names_those_there_are() -> None:
    """A misspelt scenario is a usage error."""
    ran = _bench("speed")
    assert ran.returncode == 2
    assert len(ran.stderr.strip().splitlines()) == 1
    assert "renewals" in ran.stderr


def test_no_quorum_at_the_endpoints_is_one_line() -> None:
    """A bench of nobody says that nobody answers."""
    ran = _bench("acquire", "--quick", "--endpoints", "127.0.0.1:9")
    assert ran.returncode != 0
    assert "none of 127.0.0.1:9 answers" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_every_row_is_fed_by_a_scenario() -> None:
    """A row that no scenario fills would stay empty without a word."""
    assert {row.scenario for row in ROWS} == set(SCENARIOS)


@pytest.mark.parametrize(
    ("values", "share", "expected"), [([3, 1, 2], 0.5, 2), (range(1, 101), 0.99, 99), ([7], 0.99, 7), ([1, 2], 0.5, 1)]
)
def test_quantile_is_the_smallest_value_that_covers_its_share(values: list[int], share: float, expected: int) -> None:
    """The nearest-rank quantile: always a value that was measured."""
    assert quantile(values, share) == expected


def test_aim_is_a_ceiling_unless_it_is_a_floor() -> None:
    """Throughputs are to be at least, times at most, what is aimed at."""
    assert Row("a", "b", "c", "ms", 5.0).is_met(5.0)
    assert not Row("a", "b", "c", "ms", 5.0).is_met(5.1)
    assert Row("a", "b", "c", "/s", 5.0, is_at_least=True).is_met(6.0)
