"""Quorums that tests share: each test finds all nodes running and connected, and no holders but its own."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support.checkers.history import show
from support.network import Network
from support.processes import Place, Quorum


@pytest.fixture(scope="session")
def _shared_quorum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quorum]:
    yield from _running(Quorum(tmp_path_factory.mktemp("quorum"), loopback()))


@pytest.fixture
def quorum(_shared_quorum: Quorum) -> Iterator[Quorum]:
    """Three nodes on loopback; tests may end, stop and kill them, and leave their disks alone."""
    yield _shared_quorum
    _revive(_shared_quorum)


@pytest.fixture
def own_quorum(tmp_path: Path) -> Iterator[Quorum]:
    """Three nodes on loopback that are not started, for tests that break what cannot be mended."""
    made = Quorum(tmp_path / "quorum", loopback())
    yield made
    made.close()


@pytest.fixture(scope="session")
def _shared_network() -> Iterator[Network]:
    network = Network(3)
    yield network
    network.close()


@pytest.fixture(scope="session")
def _shared_split_quorum(_shared_network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quorum]:
    folder = tmp_path_factory.mktemp("split")
    yield from _running(Quorum(folder, _shared_network.places, _shared_network.own))


@pytest.fixture
def network(_shared_network: Network) -> Iterator[Network]:
    """Three machines that can be cut off from each other."""
    yield _shared_network
    _shared_network.heal()


@pytest.fixture
def split_quorum(_shared_split_quorum: Quorum, network: Network) -> Iterator[Quorum]:
    """One node on each of the three machines of ``network``."""
    yield _shared_split_quorum
    network.heal()
    _revive(_shared_split_quorum)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes of a failed test recorded and logged, and where all of it is."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for quorum in {id(value): value for value in item.funcargs.values() if isinstance(value, Quorum)}.values():
            report.sections.append(("history", show(quorum.history())))
            for process in (*quorum.nodes, *quorum.holders):
                if tail := process.log_tail():
                    report.sections.append((str(process.log), tail))
    return report


def loopback() -> list[Place]:
    """Return three places on loopback."""
    return [Place(), Place(), Place()]


def _running(quorum: Quorum) -> Iterator[Quorum]:
    try:
        quorum.start()
        yield quorum
    finally:
        quorum.close()


def _revive(quorum: Quorum) -> None:
    for holder in quorum.holders:
        holder.kill()
    quorum.holders.clear()
    for node in quorum.nodes:
        if node.is_running:
            node.go_on()
        else:
            quorum.launch(node)
    quorum.wait_ready()
