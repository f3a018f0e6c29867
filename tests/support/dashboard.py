"""The questions that the chart's dashboard and rules ask a Prometheus."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART_FILES = Path(__file__).parents[2] / "charts/leaderlease/files"
METRIC = re.compile(r"\b(leaderlease[_:][a-z0-9_:]+|process_[a-z_]+|ALERTS)\b")


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads((CHART_FILES / "dashboard.json").read_text())
    return found


def panels(kind: str = "") -> list[dict[str, Any]]:
    """Return its panels, or its rows."""
    return [panel for panel in dashboard()["panels"] if (panel["type"] == "row") == (kind == "row")]


def queries(window_s: int) -> Iterator[tuple[str, str]]:
    """Yield the title and the expression of every query of every panel.

    Args:
        window_s: What rates are made of, in seconds.
    """
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", filled(target["expr"], window_s)


def rules() -> list[dict[str, Any]]:
    """Return alerts and records."""
    groups = yaml.safe_load((CHART_FILES / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def filled(expression: str, window_s: int) -> str:
    """Put in what Grafana puts in for "All"."""
    made = expression.replace("$__rate_interval", f"{window_s}s")
    return re.sub(r"\$(quorum|namespace|lease)\b", ".*", made)


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that an expression asks for."""
    return set(METRIC.findall(expression))
