"""One quorum of real nodes for all tests of the command line, and the command line itself, run in this process."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderlease.cli import main
from leaderlease.cli.local import LocalQuorum
from support.commands import Cli, Ran


@pytest.fixture(scope="session")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQuorum]:
    """Three nodes that admit undeclared leases."""
    with LocalQuorum(tmp_path_factory.mktemp("quorum"), 3) as made:
        yield made


@pytest.fixture(scope="session")
def endpoints(quorum: LocalQuorum) -> str:
    """Where they serve clients, as ``--endpoints`` takes it."""
    return ",".join(quorum.endpoints)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the machine reaches the commands, and no command's log outlives its test."""
    for variable in list(os.environ):
        if variable.startswith("LEADERLEASE_"):
            monkeypatch.delenv(variable)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process; whatever it printed before is forgotten."""

    def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def ask(cli: Cli, endpoints: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command that finds the quorum."""
    monkeypatch.setenv("LEADERLEASE_ENDPOINTS", endpoints)
    return cli
