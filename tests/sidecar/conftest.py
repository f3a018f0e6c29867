"""One quorum of real nodes for the tests of the sidecar, and sidecars that end with their test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderlease.cli.local import LocalQuorum
from support.sidecars import Sidecars


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
