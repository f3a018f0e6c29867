"""Quorums of real nodes for the tests of the sidecar; sidecars and wrappers that end with their test."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leaderlease.cli.local import LocalQuorum
from support.sidecars import Sidecars
from support.wrappers import Runs, signal_nodes


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQuorum]:
    """Three nodes that nobody harms."""
    with LocalQuorum(tmp_path_factory.mktemp("sidecar-quorum"), 3) as made:
        yield made


@pytest.fixture
def sidecars(nodes: LocalQuorum, tmp_path: Path) -> Iterator[Sidecars]:
    """Sidecars of one test."""
    made = Sidecars(tmp_path, nodes.endpoints)
    yield made
    made.close()


@pytest.fixture(scope="module")
def own_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQuorum]:
    """Three nodes of one file of tests, which may pause them."""
    with LocalQuorum(tmp_path_factory.mktemp("quorum"), 3) as made:
        yield made


@pytest.fixture
def runs(own_nodes: LocalQuorum, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runs]:
    """Wrappers of one test, with a lease of its name."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.removeprefix("test_"))[:60].strip("-").lower()
    made = Runs(own_nodes, f"test/{name}", tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def paused(own_nodes: LocalQuorum) -> Iterator[Callable[[], None]]:
    """A function that pauses every node until the test ends."""
    yield lambda: signal_nodes(own_nodes, signal.SIGSTOP)
    signal_nodes(own_nodes, signal.SIGCONT)
