"""A quorum, two sidecars, a fail-over between them, and a Prometheus that saw all of it."""

import contextlib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from leaderlease.cli.local import LocalQuorum
from support.prometheus import Prometheus
from support.sidecars import Sidecars

RULES = Path(__file__).parents[2] / "charts/leaderlease/files/rules.yaml"
SCRAPES = 4
"""Before and after the fail-over, so that every rate has something to be made of."""


@dataclass
class Plant:
    """What is observed.

    Attributes:
        node: A scrape of one node, as text.
        sidecar: A scrape of one sidecar.
    """

    prometheus: Prometheus
    node: str
    sidecar: str


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def _see(prometheus: Prometheus, count: int, selector: str) -> None:
    expression = f"min(count_over_time({selector}[5m])) >= {count}"
    prometheus.until(f"{count} scrapes of {selector}", lambda: prometheus.query(expression))


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """The holder is killed once; the other sidecar leads then."""
    folder = tmp_path_factory.mktemp("observed")
    with (
        LocalQuorum(folder / "quorum", 3) as quorum,
        contextlib.closing(Sidecars(folder, quorum.endpoints)) as sidecars,
        contextlib.ExitStack() as stack,
    ):
        health = ("--health", f"http://127.0.0.1:{quorum.nodes[0].http_port}/livez", "--duration", "1s")
        first = sidecars.start("billing-0", "billing", *health)
        first.until_leader()
        second = sidecars.start("billing-1", "billing", *health)
        second.until_state("waiting")
        targets = {
            node.http_port: {"quorum": "default", "namespace": "leaderlease-system", "pod": node.name}
            for node in quorum.nodes
        }
        targets |= {one.port: {"namespace": "test", "pod": one.identity} for one in (first, second)}
        prometheus = Prometheus(folder, targets, RULES)
        stack.callback(prometheus.stop)
        _see(prometheus, SCRAPES, "leaderlease_has_leader")
        _see(prometheus, SCRAPES, "leaderlease_is_leader")
        first.kill()
        second.until_leader()
        _see(prometheus, 3 * SCRAPES, "leaderlease_has_leader")
        prometheus.until("rules", lambda: prometheus.query("leaderlease:term:max == 2"))
        yield Plant(prometheus, _scrape(quorum.nodes[0].http_port), _scrape(second.port))
