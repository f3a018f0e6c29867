"""Real sidecar processes, and what is asked of their local API."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE_S = 20.0
"""Bound of a wait; nothing is measured by it."""
POLL_S = 0.01
STOP_TIMEOUT_S = 10.0


def until(condition: Callable[[], T], what: str) -> T:
    """Wait until a condition holds, and return what it returned."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(POLL_S)
    return found


@dataclass
class Reply:
    """One answer of the API."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, as JSON."""
        return json.loads(self.body)


def ask(port: int, method: str, path: str, body: str | bytes | None = None, **headers: str) -> Reply:
    """Send one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Sidecar:
    """One sidecar: a process after the other, with the same directories."""

    def __init__(self, directory: Path, identity: str, options: Sequence[str]) -> None:
        self.directory = directory
        self.identity = identity
        self.options = list(options)
        self.state = directory / f"{identity}.state"
        self.file = directory / f"{identity}.json"
        self.log = directory / f"{identity}.log"
        self.port = 0
        self.pod_port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Sidecar":
        """Start it and wait until its API answers."""
        command = [sys.executable, "-m", "leaderlease", "sidecar", "--identity", self.identity]
        command += ["--listen", "127.0.0.1:0", "--state-dir", str(self.state), "--file", str(self.file), *self.options]
        began_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("LEADERLEASE_", "POD_"))}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        process = self.process

        def bound() -> dict[str, int]:
            lines = self.log.read_text()[began_at:].splitlines()
            ports = {
                line.split("(")[1].rstrip(")"): int(line.rpartition(" (")[0].rpartition(":")[2])
                for line in lines
                if ": listening on " in line
            }
            if process.poll() is not None:
                raise AssertionError(f"{self.identity} ended at its start:\n" + "\n".join(lines))
            complete = "--listen" in ports and ("--listen-pod" in ports) == ("--listen-pod" in self.options)
            return ports if complete else {}

        ports = until(bound, f"{self.identity} listens")
        self.port, self.pod_port = ports["--listen"], ports.get("--listen-pod", 0)
        return self

    def ask(self, method: str, path: str, body: str | bytes | None = None, **headers: str) -> Reply:
        """Send one request to its API."""
        return ask(self.port, method, path, body, **headers)

    def document(self, lease: str = "") -> dict[str, Any]:
        """Ask what it knows."""
        found: dict[str, Any] = self.ask("GET", f"/?lease={lease}" if lease else "/").json
        return found

    def is_leader(self) -> bool:
        """Ask whether it leads."""
        return bool(self.document()["is_leader"])

    def until_leader(self) -> dict[str, Any]:
        """Wait until it leads; return what it says then."""
        return until(lambda: (d := self.document())["is_leader"] and d, f"{self.identity} leads: {self.tail()}")

    def until_state(self, state: str) -> dict[str, Any]:
        """Wait until it is in a state; return what it says then."""
        return until(lambda: (d := self.document())["state"] == state and d, f"{self.identity} is {state}")

    def tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text().splitlines()[-10:])

    def kill(self) -> None:
        """End it as a power loss would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """End it as Kubernetes does; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)


class Sidecars:
    """All sidecars of a test."""

    def __init__(self, directory: Path, endpoints: Sequence[str]) -> None:
        self.directory = directory
        self.endpoints = ",".join(endpoints)
        self._all: list[Sidecar] = []

    def make(self, identity: str, lease: str, *options: str) -> Sidecar:
        """Make one for ``test/<lease>``, not started."""
        fixed = ("--namespace", "test", "--lease", lease, "--endpoints", self.endpoints)
        made = Sidecar(self.directory, identity, [*fixed, *options])
        self._all.append(made)
        return made

    def start(self, identity: str, lease: str, *options: str) -> Sidecar:
        """Make one, start it, and wait until its API answers."""
        return self.make(identity, lease, *options).start()

    def close(self) -> None:
        """End them all."""
        for sidecar in self._all:
            if sidecar.process is not None and sidecar.process.poll() is None:
                sidecar.kill()
