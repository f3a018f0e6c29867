"""A real Prometheus scrapes the real nodes, operators and sidecars, and answers every query of the dashboard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import dashboard, e2e_monitors
from support.e2e import Deploy
from support.e2e_report import Report
from support.prometheus import Prometheus

WINDOW_S = 30
SCRAPES = 20
"""Of everything after the fail-over, so that every rate has something to be made of."""
CLOCKS_S = 180.0
"""Nodes tell of each other's clocks after a minute of pings."""
PARTS = {"leaderlease_quorum_available": 3, "leaderlease_reconcile_is_active": 2, "leaderlease_is_leader": 3}
"""A metric of nodes, of operators, of sidecars, and how many pods serve it."""
HEALTHY = {"leaderlease.dev/health-http": "8080/healthz"}
PORTS = [{"name": "http", "port": 80, "targetPort": 8080}]
EMPTY_IN_HEALTH = "leaderlease_requests_refused_total"
"""Its labels tell what was refused: without series while nothing was."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def watched(deploy: Deploy, tmp_path: Path) -> Iterator[Prometheus]:
    """All that there is: elections, a fail-over, a change of a LeaderLease, health checks, a leader Service."""
    with e2e_monitors.prometheus(tmp_path) as prometheus:
        app = deploy(1.0, annotations=HEALTHY, spec={"leaderService": {"name": "app-leader", "ports": PORTS}})
        for metric, count in PARTS.items():
            prometheus.until(f"{count} pods with {metric}", lambda m=metric, c=count: seen(prometheus, m, c), 60)
        app.crash(app.leader())
        app.patch({"lockDelay": "1s"})
        app.wait_ready()
        prometheus.until("clock rates", lambda: prometheus.query("leaderlease_clock_rate_error_ppm"), CLOCKS_S)
        for metric, count in PARTS.items():
            often = f"count(count_over_time({metric}[{WINDOW_S}s]) >= {SCRAPES}) >= {count}"
            prometheus.until(f"{SCRAPES} scrapes of {metric}", lambda q=often: prometheus.query(q), 60)
        yield prometheus


def seen(prometheus: Prometheus, metric: str, count: int) -> list[dict[str, Any]]:
    """Return something when so many pods serve a metric."""
    return prometheus.query(f"count(count by (pod) ({metric})) >= {count}")


def test_every_query_of_the_dashboard_has_data(watched: Prometheus, report: Report) -> None:
    """Each has data, or asks for what went wrong while nothing did; then its metric is served, without series."""
    served = set(watched.ask("metadata"))
    queries = {f"{title}: {query}": query for title, query in dashboard.queries(WINDOW_S) if "ALERTS" not in query}
    empty = {name: query for name, query in queries.items() if not watched.query_range(query, WINDOW_S)}
    report.add("dashboard", queries=len(queries), empty_in_health=sorted(empty))
    for name, query in empty.items():
        metrics = dashboard.metrics_of(query)
        assert metrics <= served, f"{name}: nobody serves {metrics - served}"
        assert metrics == {EMPTY_IN_HEALTH}, name
    assert_rules_are_loaded(watched)


def assert_rules_are_loaded(prometheus: Prometheus) -> None:
    """The PrometheusRule holds every alert, each is evaluated without an error, and none that is critical fires."""
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(dashboard.rules())
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    assert prometheus.query('ALERTS{alertstate="firing", severity="critical"}') == []
    assert all("RUNBOOKS" not in str(rule.get("annotations")) for rule in rules)
