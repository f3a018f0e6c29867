"""A real Prometheus on loopback, which scrapes what a test names and evaluates the rules of the chart."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from leaderlease.cli.local import die_with_parent
from support.levels import require

SCRAPE = "500ms"
PATIENCE_S = 30.0
POLL_S = 0.1
T = TypeVar("T")


class Prometheus:
    """One server.

    Args:
        folder: Where it keeps everything.
        targets: port on 127.0.0.1, or host:port, -> labels that scraping adds.
        rules: File of rules to evaluate.
        jobs: Further scrape configurations.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[int | str, Mapping[str, str]],
        rules: Path,
        jobs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        require("process", shutil.which("prometheus"), "no prometheus (Debian: prometheus)")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        config = folder / "prometheus.yaml"
        static = [
            {"targets": [at if isinstance(at, str) else f"127.0.0.1:{at}"], "labels": dict(labels)}
            for at, labels in targets.items()
        ]
        content = {
            "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": "leaderlease", "honor_labels": True, "static_configs": static},
                *map(dict, jobs),
            ],
        }
        config.write_text(yaml.safe_dump(content))
        self._log = folder / "prometheus.log"
        command = [
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
            *(f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"),
        ]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent()
            )

    def ask(self, path: str, **parameters: str) -> Any:
        """Ask its API; return ``data``.

        Raises:
            AssertionError: It says that the question is wrong; the text is its own.
        """
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise  # it starts
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate now; return the series."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def query_range(self, expression: str, seconds: int) -> list[dict[str, Any]]:
        """Evaluate as a panel does, over the latest seconds."""
        now = time.time()
        found: list[dict[str, Any]] = self.ask(
            "query_range", query=expression, start=f"{now - seconds:.3f}", end=f"{now:.3f}", step="1"
        )["result"]
        return found

    def until(self, what: str, look: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
        """Look until there is something true."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                found = look()
            except (urllib.error.URLError, ConnectionError):
                found = None  # type: ignore[assignment]  # it does not listen yet
            if found:
                return found
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}\n{self._log.read_text()}"
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
