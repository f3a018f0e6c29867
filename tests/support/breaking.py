"""Disks and clocks that are broken under processes that run: full ones, slow ones, failing ones, and wrong ones."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.levels import require
from support.processes import Node, Process, until

FSYNC = "fsync,fdatasync"
CHUNK = b"\0" * (1 << 20)


@contextlib.contextmanager
def tmpfs(point: Path, size: str) -> Iterator[None]:
    """Mount a file system of a bounded size."""
    require("process", os.geteuid() == 0, "not root")
    point.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point)], capture_output=True)
    require("process", mounted.returncode == 0, "mounting is not allowed")
    try:
        yield
    finally:
        subprocess.run(["umount", str(point)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free; return the file to delete."""
    chunk = CHUNK
    path = folder / "filler"
    with path.open("wb", buffering=0) as filler:
        while chunk:
            try:
                filler.write(chunk)
            except OSError:
                chunk = chunk[: len(chunk) // 2]
    return path


class Tracer:
    """strace on the threads of a running process that touch its disk, until ``detach``.

    Args:
        node: Whose; its event loop is not slowed down.
        calls: System calls, with commas.
        injection: What is done to each of them, as ``strace -e inject`` has it: ``error=EIO``, ``delay_enter=20000``.
        log: A file that strace writes.
    """

    def __init__(self, node: Node, calls: str, injection: str, log: Path) -> None:
        require("process", os.geteuid() == 0, "not root")
        require("process", shutil.which("strace"), "no strace")
        self._log = log
        self._tasks = _disk_threads(node)
        options = [option for task in self._tasks for option in ("-p", task.name)]
        inject = f"inject={calls}:{injection}"
        self._tracer = Process(node.place, log.with_suffix(".strace"))
        command = ["strace", "-qq", "-o", str(log), "-e", f"trace={calls}", "-e", inject, *options]
        self._tracer.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._is_attached, "strace is attached")

    def _is_attached(self) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in self._tasks)
        return True  # a thread has ended

    @property
    def count(self) -> int:
        """How many calls were tampered with until now."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return text.count("(INJECTED)") + text.count("(DELAYED)")

    def detach(self) -> int:
        """Let the process run as it is, and return ``count``."""
        if self._tracer.is_running:
            self._tracer.terminate()
            self._tracer.exit_code()
        return self.count


def _disk_threads(node: Node) -> list[Path]:
    """Wait until the process has a thread of Python besides its event loop, and return those."""
    assert node.popen is not None
    pid = node.popen.pid

    def others() -> list[Path]:
        assert node.is_running, f"{node.name} ended:\n{node.log_tail()}"
        tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)]
        return [task for task in tasks if (task / "comm").read_text() != "libuv-worker\n"]

    return until(others, f"{node.name} has a thread for its disk")


class WallClock:
    """The wall clock of processes, and no other clock of them.

    Args:
        file: Where the difference to true time is kept.
        delay_s: Within how many seconds a step reaches the processes; with 0 they read the file at each look.

    Attributes:
        environment: Variables of processes that shall have this clock.
    """

    def __init__(self, file: Path, delay_s: int = 0) -> None:
        self._file = file
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": _libfaketime(),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            **({"FAKETIME_CACHE_DURATION": str(delay_s)} if delay_s else {"FAKETIME_NO_CACHE": "1"}),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, step: str) -> None:
        """Set it, for processes that run already, too: ``+400d``, ``-3s``, or ``+0`` for the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{step}\n")
        new.rename(self._file)


def clock_rate(ppm: int) -> dict[str, str]:
    """Return variables of a process all of whose clocks run too fast by so much, from its start on."""
    rate = f"+0 x{1 + ppm / 1e6:.6f}"
    return {"LD_PRELOAD": _libfaketime(), "FAKETIME": rate, "FAKETIME_DONT_FAKE_MONOTONIC": "0", "NO_FAKE_STAT": "1"}


def _libfaketime() -> str:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    require("process", library, "no libfaketime (Debian: faketime)")
    return str(library)
