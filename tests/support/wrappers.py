"""`leaderlease run` as a process, with a real child; and what is seen of both from outside."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import leaderlease
from leaderlease.cli.local import LocalQuorum
from support.sidecars import PATIENCE_S

WORKER = Path(__file__).with_name("working_command.py")
SHELL = ("bash", "-c")
"""For scripts with traps. dash loses a signal that comes while it starts a program, which shares its memory then."""


def worked(path: Path, term: int | None = None) -> list[tuple[int, float]]:
    """Return the (term, time) lines that workers have completed, of one term or of all."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    found = [(int(a), float(b)) for a, b in (line.split() for line in lines if line.count(" ") == 1)]
    return [line for line in found if term in (None, line[0])]


def children(pid: int) -> list[int]:
    """Return the pids of what a process started and has not waited for."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs or may run again: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Runs:
    """Wrappers of one test; their names, files and ends."""

    def __init__(self, quorum: LocalQuorum, lease: str, directory: Path) -> None:
        self.quorum = quorum
        self.lease = lease
        self.directory = directory
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *command: object, options: tuple[str, ...] = (), **attributes: Any) -> subprocess.Popen[str]:
        """Start a wrapper."""
        process = subprocess.Popen(
            [*(sys.executable, "-m", "leaderlease", "run", "--lease", self.lease), *options, "--", *map(str, command)],
            env={**os.environ, "LEADERLEASE_ENDPOINTS": ",".join(self.quorum.endpoints)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **attributes,
        )
        self.processes.append(process)
        return process

    def worker(self, path: Path, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start a wrapper whose CMD writes down when it works."""
        return self.start(sys.executable, "-S", WORKER, path, *words, options=options)

    def ask(self, work: Callable[[leaderlease.Client], Any]) -> Any:
        """Call the SDK once."""

        async def asked() -> Any:
            async with leaderlease.connect(self.quorum.endpoints) as client:
                return await work(client)

        return asyncio.run(asked())

    def holder(self) -> str:
        """Return who holds the lease of the test; empty when nobody does."""
        info = self.ask(lambda client: client.get(self.lease))
        return info.holder.name if info is not None and info.holder is not None and info.state == "held" else ""

    def close(self) -> None:
        """End what is left, also what is stopped."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate(timeout=PATIENCE_S)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait until a wrapper has ended; return its code, standard output and standard error."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def next_line(process: subprocess.Popen[str]) -> str:
    """Return CMD's next line; a wrapper that takes too long is killed, and the text says what it said."""
    assert process.stdout is not None
    timer = threading.Timer(PATIENCE_S, process.kill)
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    assert line, f"no line; standard error: {process.stderr.read() if process.stderr is not None else ''}"
    return line.rstrip("\n")


def signal_nodes(quorum: LocalQuorum, number: int) -> None:
    """Send a signal to every node."""
    for node in quorum.nodes:
        assert node.process is not None
        node.process.send_signal(number)
