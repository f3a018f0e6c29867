"""Operator replicas as real processes, and what their writes look like in the audit log."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from support.apiserver import ApiServer, die_with_parent

POLL_S = 0.05
PATIENCE_S = 60.0
"""Bound of a wait on a busy machine; nothing is measured by it."""
READS = ("get", "list", "watch")
Found = TypeVar("Found")


def eventually(what: str, look: Callable[[], Found], timeout_s: float = PATIENCE_S) -> Found:
    """Look until there is something true; fail with ``what`` and the latest answer after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}; latest: {found!r}"
        time.sleep(POLL_S)


class Replica:
    """One operator process; ``user`` is who it is for the API server, unless a kubeconfig says another."""

    def __init__(
        self, api: ApiServer, home: Path, name: str, options: Sequence[str], kubeconfig: Path | None = None
    ) -> None:
        self.name = name
        self.user = f"operator-{name}"
        self.log = home / f"{name}.log"
        self._port = _free_port()
        kubeconfig = kubeconfig or api.write_kubeconfig(home / f"{name}.kubeconfig", self.user, "system:masters")
        command = [
            *(sys.executable, "-m", "leaderlease", "operator", "--identity", name, "--kubeconfig", str(kubeconfig)),
            *("--listen-http", f"127.0.0.1:{self._port}", *options),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "KUBECONFIG": ""},
                preexec_fn=die_with_parent,
            )

    def http(self, path: str) -> str:
        """Return what its HTTP port answers, errors included; empty while it does not listen."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.read().decode())
        except OSError:
            return ""

    @property
    def is_active(self) -> bool:
        """It says that it writes."""
        return "role: writes" in self.http("/readyz?verbose")

    def writes(self, api: ApiServer, since: int = 0) -> list[tuple[str, str, int]]:
        """Return its requests that are no reads, from the ``since``th request of the audit log on."""
        return [
            (entry["verb"], entry["requestURI"], entry["responseStatus"]["code"])
            for entry in api.audit()[since:]
            if entry["user"]["username"] == self.user and entry["verb"] not in READS
        ]

    def kill(self) -> None:
        """End it as a power loss would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it in an orderly way; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} does not stop:\n{self.tail()}") from None

    def tail(self, lines: int = 30) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def condition(body: dict[str, Any] | None, kind: str) -> tuple[str, str]:
    """Return (status, reason) of a condition; empty without one."""
    conditions = ((body or {}).get("status") or {}).get("conditions") or ()
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == kind), ("", ""))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
