"""The alerts of the chart: each fires when it must and is quiet when it must be, and has a page of what to do."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.alerts import CASES, Case, Series
from support.levels import require

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts/leaderlease/files/rules.yaml"
RUNBOOKS = ROOT / "docs/runbooks"
PREFIX = "LeaderLease"
SECTIONS = ("What it means", "What users feel", "How to look", "What to do", "What never to do")


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS = [rule for rule in _rules() if "alert" in rule]
NAMES = sorted({rule["alert"].removeprefix(PREFIX) for rule in ALERTS})


def _promtool(*arguments: str) -> None:
    require("process", shutil.which("promtool"), "no promtool (Debian: prometheus)")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _expected(case: Case) -> list[dict[str, Any]]:
    expected = []
    for severity in case.severities:
        rule = next(r for r in ALERTS if r["alert"] == PREFIX + case.alert and r["labels"]["severity"] == severity)
        annotations = {**rule["annotations"], "summary": case.summary}
        expected.append({"exp_labels": {**case.labels, "severity": severity}, "exp_annotations": annotations})
    return expected


def _unit_test(case: Case, series: Series, expected: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return {
        "name": name,
        "interval": "15s",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": PREFIX + case.alert, "exp_alerts": expected}],
    }


def test_promtool_accepts_the_rules() -> None:
    """Every expression parses, and no rule is there twice."""
    _promtool("check", "rules", str(RULES))


def test_every_alert_fires_with_its_series_and_is_quiet_with_others(tmp_path: Path) -> None:
    """Expressions, hold times, labels and texts are as the table says, by promtool's own evaluation."""
    tests = []
    for case in CASES:
        tests.append(_unit_test(case, case.series, _expected(case), f"{case.alert} fires"))
        tests += [_unit_test(case, series, [], f"{case.alert}: {why}") for why, series in case.quiet.items()]
    file = tmp_path / "unit-tests.yaml"
    content = {"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    _promtool("test", "rules", str(file))


def test_the_table_knows_every_alert_and_severity() -> None:
    """A new alert needs series with which it fires, and some with which it does not."""
    known = {(PREFIX + case.alert, severity) for case in CASES for severity in case.severities}
    assert known == {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}
    assert all(case.quiet for case in CASES)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_alert_says_what_people_need(rule: dict[str, Any]) -> None:
    """Severity, a summary, a description, and the page of this very alert."""
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"RUNBOOKS/{rule['alert'].removeprefix(PREFIX)}.md"
    assert rule["alert"].startswith(PREFIX)


@pytest.mark.parametrize("name", NAMES)
def test_runbook_has_every_section(name: str) -> None:
    """Who is woken finds what it means, what users feel, how to look, what to do, and what never to do."""
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {PREFIX}{name}\n")
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == SECTIONS


def test_no_runbook_is_without_its_alert() -> None:
    """Pages of alerts that are gone would only mislead."""
    assert sorted(page.stem for page in RUNBOOKS.glob("*.md") if page.stem != "README") == NAMES
    index = (RUNBOOKS / "README.md").read_text()
    assert sorted(re.findall(r"\]\((\w+)\.md\)", index)) == NAMES
