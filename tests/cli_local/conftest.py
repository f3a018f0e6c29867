"""Commands that start nodes of their own, run as people run them, and what they leave behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leaderlease.cli.local import LocalQuorum
from leaderlease.errors import ConfigError
from support.processes import until

WAIT_S = 20.0
"""For what takes a second or two."""


class Command:
    """One ``leaderlease`` command; its temporary files and those of its children are below ``folder``."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.folder = folder
        self.scratch = folder / "tmp"
        self.scratch.mkdir(exist_ok=True)
        self.output_file = folder / f"output-{len(list(folder.glob('output-*')))}"
        # Whatever the command starts inherits the mark, so that it can be found after its parent is gone.
        self.mark = f"LL_TEST_MARK={folder}"
        environment = {**os.environ, "TMPDIR": str(self.scratch), "LL_TEST_MARK": str(folder), **variables}
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "leaderlease", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it printed, on both streams."""
        return self.output_file.read_text()

    def processes(self) -> list[int]:
        """Return every process that it, or a child of it, started and that still runs."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def said(self, text: str) -> None:
        """Wait until it has printed a text."""
        until(lambda: text in self.output or self.process.poll() is not None, f"it prints {text!r}")
        assert text in self.output

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def leaves_nothing(self) -> None:
        """Make sure that no process runs and no temporary file is there."""
        until(lambda: not self.processes(), "its processes are gone", 5.0)
        assert list(self.scratch.iterdir()) == []


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start commands; kill what is left of them."""
    started: list[Command] = []

    def start(*arguments: str, **variables: str) -> Command:
        started.append(Command(tmp_path, *arguments, **variables))
        return started[-1]

    yield start
    for one in started:
        for pid in one.processes():
            os.kill(pid, signal.SIGKILL)
        one.process.wait(WAIT_S)


@pytest.fixture
def first_port(tmp_path: Path) -> int:
    """Return a port whose neighbours, as ``dev`` takes them, are free."""
    for _ in range(100):
        port = LocalQuorum(tmp_path / "unused", 1).nodes[0].client_port
        try:
            LocalQuorum(tmp_path / "unused", 3, first_port=port).check_ports()
        except ConfigError:
            continue
        return port
    raise AssertionError("no free ports")
