"""One installation for all scenarios; each scenario has a namespace and a folder of journals, and leaves nothing."""

import os
import subprocess
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import e2e
from support.e2e_findings import findings
from support.e2e_report import Report
from support.e2e_scheduler import keep
from support.levels import require

SCENARIO_TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A scenario may take longer than other tests."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SCENARIO_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what Kubernetes says at the moment of a failure, of a fixture, too."""
    report = yield
    if report.failed and not e2e.missing():
        try:
            found = findings()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            found = f"cannot be asked: {error}"
        report.sections.append(("the cluster", found))
    return report


@pytest.fixture(scope="session")
def report() -> Report:
    """Return where figures go."""
    return Report()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the control plane as whole as a real one keeps itself."""
    lacking = e2e.missing()
    require("e2e", not lacking, lacking)
    e2e.steady_bridges()
    keeper = keep(os.environ["KUBECONFIG"], tmp_path_factory.mktemp("scheduler") / "log")
    yield
    if keeper is not None:
        keeper.close()
        print(f"kube-scheduler was started again {keeper.starts} times")


@pytest.fixture(scope="session")
def images(cluster: None) -> None:
    """Build what is tested, once."""
    e2e.build_images()


@pytest.fixture(scope="session")
def installed(images: None) -> None:
    """Install the chart for all scenarios but the first."""
    e2e.install()
    e2e.settle()


@pytest.fixture(scope="session")
def spaces(images: None) -> Iterator[list[str]]:
    """Collect the namespaces of the scenarios; in the end none of them may be left."""
    names: list[str] = []
    yield names
    e2e.forget(names)


@pytest.fixture
def space(request: pytest.FixtureRequest, installed: None, spaces: list[str]) -> Iterator[str]:
    """Return a namespace for this scenario; afterwards everything is as before."""
    name = request.node.name.removeprefix("test_").replace("_", "-").split("[")[0][:40].strip("-")
    spaces.append(f"e2e-{name}-{int(time.time()) % 100_000}")
    with e2e.namespace(spaces[-1]) as made:
        yield made
    e2e.settle()


@pytest.fixture
def deploy(space: str, tmp_path: Path) -> Iterator[e2e.Deploy]:
    """Return a function that deploys an application; the checkers run over all that they wrote."""
    apps: list[e2e.App] = []

    def deploy_one(duration_s: float = 3.0, *, name: str = "app", **options: Any) -> e2e.App:
        apps.append(e2e.deploy(space, tmp_path / name, duration_s, name=name, **options))
        return apps[-1]

    yield deploy_one
    for app in apps:
        app.journal.check()
        assert app.journal.reigns(), f"nobody ever led {app.lease}: the checkers had nothing to check"
