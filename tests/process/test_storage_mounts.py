"""The disk in production on file systems that are full or read-only; each in a mount namespace of its own."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leaderlease.storage.inspect import inspect
from support.levels import require

WRITER = Path(__file__).parents[1] / "support" / "acknowledging_writer.py"
UNSHARE = ["unshare", "--mount", "--propagation", "private"]


@pytest.fixture
def mount_point(tmp_path: Path) -> Path:
    require("process", os.geteuid() == 0, "not root")
    require("process", shutil.which("unshare"), "no unshare")
    probe = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True)
    require("process", probe.returncode == 0, "mounting is not allowed")
    point = tmp_path / "disk"
    point.mkdir()
    return point


def _run(point: Path, *commands: str) -> str:
    """Run shell commands in a mount namespace where ``$D`` is the mount point and ``writer`` the test's writer."""
    writer = f"writer() {{ {shlex.quote(sys.executable)} {shlex.quote(str(WRITER))} $D/data 0 2>&1; }}"
    script = "\n".join(["set -e", f"D={shlex.quote(str(point))}", writer, *commands])
    return subprocess.run(
        [*UNSHARE, "sh", "-c", script], capture_output=True, text=True, check=True, timeout=100
    ).stdout


def test_disk_that_fills_up(mount_point: Path, tmp_path: Path) -> None:
    """R9: it starts without a full log, hears once, and after room is made all that was acknowledged is there."""
    copy = tmp_path / "copy"
    output = _run(
        mount_point, "mount -t tmpfs -o size=300k tmpfs $D", "writer", f"cp -r $D/data {shlex.quote(str(copy))}"
    )
    small, *lines, failed, closed = output.splitlines()
    assert "no room for a log of 8 MiB" in small
    assert failed.startswith(f"failed: {mount_point}/data: a write failed:")
    assert "Free or replace the disk" in failed
    assert closed == "closed"
    acknowledged = {key: int(counter) for key, counter in (line.split() for line in lines)}
    assert acknowledged

    found = inspect(copy)
    assert found.problems == ()
    stored = {one.key: one.accepted.counter for one in found.registers}
    assert all(stored[key] >= counter for key, counter in acknowledged.items())


def test_disk_that_is_full_from_the_start(mount_point: Path) -> None:
    """A directory that cannot even be formatted: one sentence, no half database."""
    output = _run(
        mount_point,
        "mount -t tmpfs -o size=16k tmpfs $D",
        "head -c 12k /dev/zero > $D/other",
        "writer || true",
        "ls $D/data",
    )
    assert f"DiskFailed: {mount_point}/data: " in output
    assert "leaderlease.db\n" not in output


def test_read_only_directory(mount_point: Path) -> None:
    """Whether blank or used: the text names the directory and the remedy."""
    output = _run(mount_point, "mount -t tmpfs tmpfs $D", "mkdir $D/data", "mount -o remount,ro $D", "writer || true")
    assert f"StorageError: {mount_point}/data: cannot be used: " in output
    assert "Read-only file system" in output
    assert "Mount it read-write" in output
