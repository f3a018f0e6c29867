"""The chart of the version before is replaced by the present one, and comes back.

``charts/`` here holds it as `helm package charts/leaderlease` made it before its version rose. Its images were not
kept: both versions run the software of now. Every pod carries the version of its chart, so every pod is replaced.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import e2e
from support.e2e import App, Deploy
from support.e2e_journal import Line, boottime_ms
from support.e2e_report import Report

DEFINITIONS = ("leaderleases.leaderlease.dev", "leaderquorums.leaderlease.dev")
PARTS_MIN = 5
"""Pods of nodes and operator."""

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Chart:
    """A chart, and what it shows for."""

    path: Path
    version: str
    definitions: dict[str, Any]


def chart(path: Path) -> Chart:
    """Read a chart."""
    version = yaml.safe_load(e2e.run("helm", "show", "chart", str(path)))["version"]
    bodies = e2e.template(path, "-s", "templates/crds.yaml")
    return Chart(path, version, {body["metadata"]["name"]: schemas(body) for body in bodies})


def schemas(definition: Any) -> dict[str, Any]:
    """Return the schema of each version of a definition."""
    return {version["name"]: version["schema"] for version in definition["spec"]["versions"]}


@pytest.fixture(scope="module")
def previous(installed: None) -> Iterator[Chart]:
    """Install the version before, from nothing but what an uninstallation keeps; in the end the present one again."""
    (package,) = (Path(__file__).parent / "charts").glob("*.tgz")
    e2e.uninstall()
    try:
        e2e.install(package)
        e2e.settle()
        yield chart(package)
    finally:
        e2e.uninstall()
        e2e.install()
        e2e.settle()


def test_an_upgrade_and_the_way_back_keep_leases(previous: Chart, deploy: Deploy, report: Report) -> None:
    """Every pod is replaced twice, and the leader goes on in its term without a break."""
    present, before = chart(e2e.CHART), revision()
    assert present.version != previous.version
    assert_runs(previous)
    app = deploy(3.0)
    lease = app.leaderlease()

    leader, began = app.leader(), boottime_ms()
    upgrade_s = e2e.install()
    e2e.settle()
    assert_runs(present)
    assert_goes_on(app, leader, began)

    app.force_delete(leader.pod)
    after = app.journal.next_reign(leader.term, app.duration_s + 10)
    e2e.until("the status shows it", lambda: app.status().get("term") == after.term)
    app.wait_ready()

    leader, began = app.leader(), boottime_ms()
    rollback_s = e2e.roll_back(before)
    e2e.settle()
    assert_runs(previous)
    assert_goes_on(app, leader, began)
    kept = app.leaderlease()
    assert (kept["metadata"]["uid"], kept["spec"]) == (lease["metadata"]["uid"], lease["spec"])
    report.add(
        "upgrade",
        previous=previous.version,
        present=present.version,
        leases_lost=0,
        upgrade_s=round(upgrade_s, 1),
        rollback_s=round(rollback_s, 1),
    )


def revision() -> int:
    """Return the revision of the release."""
    return int(yaml.safe_load(e2e.run("helm", "status", e2e.RELEASE, "-n", e2e.NAMESPACE, "-o", "json"))["version"])


def assert_runs(expected: Chart) -> None:
    """Pods are of a chart, and definitions have its schemas."""
    mark = f"leaderlease-{expected.version}"
    found = e2e.get("pods", "-n", e2e.NAMESPACE, "-l", f"app.kubernetes.io/instance={e2e.RELEASE}")
    pods = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    assert len(pods) >= PARTS_MIN
    assert {pod["metadata"]["labels"]["helm.sh/chart"] for pod in pods} == {mark}
    for name in DEFINITIONS:
        definition = e2e.get("crd", name)
        assert definition["metadata"]["labels"]["helm.sh/chart"] == mark
        assert schemas(definition) == expected.definitions[name]


def assert_goes_on(app: App, leader: Line, since_ms: float) -> None:
    """The leader went on in its term, without a break."""
    now = app.leader()
    assert (now.uid, now.term) == (leader.uid, leader.term)
    assert app.journal.leaderless_ms(since_ms, boottime_ms() - 500) == []
    assert app.journal.terms(since_ms) == [leader.term]
