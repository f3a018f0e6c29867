"""The chart of the version before is replaced by the present one, and comes back.

``charts/`` here holds it as `helm package charts/leaderlease` made it before its version rose. Its images were not
kept: both versions run the software of now, under two tags, so that every pod is replaced.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import e2e
from support.e2e import App, Deploy
from support.e2e_journal import Line, boottime_ms
from support.e2e_report import Report

PREVIOUS_TAG, PRESENT_TAG = e2e.TAG, "e2e-next"
DEFINITIONS = ("leaderleases.leaderlease.dev", "leaderquorums.leaderlease.dev")
PARTS_MIN = 5
"""Pods of nodes and operator."""


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
    e2e.build_images(PRESENT_TAG)
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
    present = chart(e2e.CHART)
    assert present.version != previous.version
    assert_runs(previous, PREVIOUS_TAG)
    app = deploy(3.0)
    leader = app.leader()
    lease = app.leaderlease()
    steps: tuple[tuple[str, Callable[[], float], Chart, str], ...] = (
        ("upgrade", partial(e2e.install, present.path, PRESENT_TAG), present, PRESENT_TAG),
        ("rollback", partial(e2e.roll_back, revision()), previous, PREVIOUS_TAG),
    )
    figures = {}
    for name, step, expected, tag in steps:
        began = boottime_ms()
        figures[f"{name}_s"] = round(step(), 1)
        e2e.settle()
        assert_runs(expected, tag)
        assert_goes_on(app, leader, began)
        assert app.leaderlease()["metadata"]["uid"] == lease["metadata"]["uid"]
        assert app.leaderlease()["spec"] == lease["spec"]
    report.add("upgrade", previous=previous.version, present=present.version, leases_lost=0, **figures)

    app.force_delete(leader.pod)
    after = app.journal.next_reign(leader.term, app.duration_s + 10)
    e2e.until("the status shows it", lambda: app.status().get("term") == after.term)


def revision() -> int:
    """Return the revision of the release."""
    return int(yaml.safe_load(e2e.run("helm", "status", e2e.RELEASE, "-n", e2e.NAMESPACE, "-o", "json"))["version"])


def assert_runs(expected: Chart, tag: str) -> None:
    """Pods have the images, and definitions the schemas, of a chart."""
    pods = e2e.get("pods", "-n", e2e.NAMESPACE, "-l", f"app.kubernetes.io/instance={e2e.RELEASE}")
    images = [container["image"] for pod in pods for container in pod["spec"]["containers"]]
    assert len(images) >= PARTS_MIN
    assert {image.rpartition(":")[2] for image in images} == {tag}
    for name in DEFINITIONS:
        definition = e2e.get("crd", name)
        assert definition["metadata"]["labels"]["helm.sh/chart"] == f"leaderlease-{expected.version}"
        assert schemas(definition) == expected.definitions[name]


def assert_goes_on(app: App, leader: Line, since_ms: float) -> None:
    """The leader went on in its term, without a break."""
    now = app.leader()
    assert (now.uid, now.term) == (leader.uid, leader.term)
    assert app.journal.leaderless_ms(since_ms, boottime_ms() - 500) == []
    assert app.journal.terms(since_ms) == [leader.term]
