"""Every query of the dashboard and of the rules, asked of a real Prometheus that scraped real nodes and sidecars."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from support import dashboard
from support.alerts import CASES

WINDOW_S = 20

NO_API_SERVER = "the operator runs with an API server only"
NO_TLS = "this quorum runs without TLS"
NOT_YET = "told only after a minute of pings"
ALL_WELL = "nothing of that kind happened"
WITHOUT_DATA = {
    r"leaderlease_(reconcile|api|injections)_.*": NO_API_SERVER,
    r"leaderlease_certificate_.*": NO_TLS,
    r"leaderlease_clock_rate_.*": NOT_YET,
    r"leaderlease_requests_refused_total": ALL_WELL,
    r"ALERTS": ALL_WELL,
}
"""Metrics that cannot have data here, and why."""


def _expressions() -> Iterator[tuple[str, str]]:
    yield from dashboard.queries(WINDOW_S)
    for rule in dashboard.rules():
        yield rule.get("alert") or rule["record"], rule["expr"]


def _why_empty(metrics: set[str]) -> list[str]:
    return [why for name in sorted(metrics) for pattern, why in WITHOUT_DATA.items() if re.fullmatch(pattern, name)]


def test_every_query_is_answered_and_has_data(plant: Any) -> None:
    """No query is refused, and each has data unless it asks for what cannot be here."""
    empty = []
    for name, expression in _expressions():
        assert "$" not in expression, f"{name}: nobody fills in {expression}"
        series = plant.prometheus.query_range(expression, WINDOW_S)
        is_alert = name.startswith("LeaderLease") and "ALERTS" not in expression
        if not series and not is_alert and not _why_empty(dashboard.metrics_of(expression)):
            empty.append(f"{name}: {expression}")
    assert not empty, "\n" + "\n".join(empty)


def test_every_metric_that_is_asked_for_exists(plant: Any) -> None:
    """Also in alerts, which are empty while all is well: a misspelt metric would be silent for ever."""
    asked = {metric for _, expression in _expressions() for metric in dashboard.metrics_of(expression)}
    there = set(plant.prometheus.ask("label/__name__/values"))
    missing = {name for name in asked - there if not _why_empty({name})}
    assert not missing
    excused = [name for pattern in WITHOUT_DATA for name in there if re.fullmatch(pattern, name)]
    assert excused in ([], ["ALERTS"]), "an exception without need"


def test_the_rules_are_evaluated_without_errors(plant: Any) -> None:
    """Prometheus itself runs every rule on what it scraped, and no critical alert fires after one fail-over."""
    rules = [rule for group in plant.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(dashboard.rules())
    assert not [(rule["name"], rule["lastError"]) for rule in rules if rule.get("lastError")]
    assert not plant.prometheus.query('ALERTS{alertstate="firing", severity="critical"}')


def test_the_fail_over_is_in_the_metrics(plant: Any) -> None:
    """What people look for after an incident: who leads now, under which term, and that the first holder was lost."""
    query = plant.prometheus.query
    leaders = query("leaderlease_is_leader == 1")
    assert [(one["metric"]["pod"], one["metric"]["lease"]) for one in leaders] == [("billing-1", "billing")]
    assert [one["value"][1] for one in query("leaderlease:term:max")] == ["2"]
    assert query("max(leaderlease_expired_total) == 1")
    assert query("max(sum by (pod) (leaderlease_leader_changes_total)) == 2")
    assert query("max(leaderlease_failover_seconds_count) == 1")
    assert query("sum(leaderlease_candidates_waiting) == 0")


def test_labels_of_a_scrape_and_of_the_table_of_alerts_agree(plant: Any) -> None:
    """The series with which promtool tests the alerts have the labels of real ones."""
    for series in {series for case in CASES for series in case.series}:
        name, labels = series.split("{", 1)
        if _why_empty({name}):
            continue
        real = plant.prometheus.query(f"{{__name__='{name}'}}")
        assert real, name
        allowed = set(real[0]["metric"]) - {"__name__"}
        assert set(re.findall(r"(\w+)=", labels)) <= allowed, f"{name} has {sorted(allowed)}"


def test_the_dashboard_is_whole() -> None:
    """Fixed uid, variables for data source, quorum and namespace, ids once, and no panel over another."""
    whole = dashboard.dashboard()
    assert whole["uid"] == "leaderlease"
    variables = {one["name"]: one for one in whole["templating"]["list"]}
    assert set(variables) == {"datasource", "quorum", "namespace", "lease"}
    assert variables["datasource"]["type"] == "datasource"
    ids = [panel["id"] for panel in whole["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in whole["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])
        }  # fmt: skip
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    for panel in dashboard.panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


@pytest.mark.parametrize(
    "row",
    ["Quorum health", "Leases", "Latency", "Renewals and sessions", "Disk", "Peers", "Operator", "Sidecars"],
)
def test_the_dashboard_has_the_row(row: str) -> None:
    """People find each part of the system."""
    assert row in [panel["title"] for panel in dashboard.panels("row")]
