"""docs/metrics.md tells every metric as it is, and a scrape stays small and quick whatever a node knows."""

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import trustme
from prometheus_client import Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from leaderlease.controller.metrics import Metrics
from leaderlease.node.metrics import LEASE_SERIES_MAX, registry_of
from leaderlease.node.node import Node
from leaderlease.node.peerstats import SPAN_MIN_US
from leaderlease.node.rotation import Rotation
from leaderlease.paxos.lease import Holder
from leaderlease.wire import tls
from support.levels import require
from support.nodes import NAME, Client, Cluster

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.+) \|$", re.MULTILINE)
LEASES = 10_000
SCRAPE_MAX_S = 0.2
MISNAMED = "leaderlease_acceptors_total"
"""A gauge that ends like a counter: etcd's users look for such a name, and promtool complains."""


class Told(NamedTuple):
    """One row of the page."""

    kind: str
    labels: frozenset[str]


def _page() -> dict[str, dict[str, Told]]:
    sections = re.split(r"^## (\w+)$", (ROOT / "docs/metrics.md").read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        rows = ROW.findall(text)
        assert len(rows) == text.count("\n| `"), f"a row of {title} is malformed"
        found[title] = {name: Told(kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    return found


def _scraped(text: str) -> dict[str, Told]:
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        found[name] = Told(family.type, labels)
    return found


def _disagreements(told: Mapping[str, Told], real: Mapping[str, Told], absent: set[str]) -> list[str]:
    lines = [f"{name} is not on the page" for name in real if name not in told]
    lines += [f"{name} does not exist" for name in told if name not in real and name not in absent]
    for name in told.keys() & real.keys():
        if told[name].kind != real[name].kind:
            lines.append(f"{name} is a {real[name].kind}")
        if real[name].labels and told[name].labels != real[name].labels:
            lines.append(f"{name} has labels {sorted(real[name].labels)}")
    return lines


def _served(node: Any, rotation: Rotation | None = None) -> str:
    """Scrape a node of the simulated cluster as the HTTP port would."""
    parts = SimpleNamespace(sessions=node.sessions, catchup=node.catchup, rotation=rotation)
    return generate_latest(registry_of(cast(Node, parts))).decode()


def _holder(number: int) -> Holder:
    return Holder(f"app-{number}", "", f"{number:032x}")


def test_the_page_tells_what_nodes_and_sidecars_serve(plant: Any) -> None:
    """Names, types and labels of real scrapes; what needs TLS is checked below."""
    page = _page()
    needs_tls = {name for name in page["Node"] if "_certificate_" in name}
    assert not _disagreements(page["Node"], _scraped(plant.node), needs_tls)
    assert not _disagreements(page["Sidecar"], _scraped(plant.sidecar), set())


def test_the_page_tells_what_the_operator_serves() -> None:
    """Its own registry, and the gauges that it reads when it is scraped."""
    metrics = Metrics()
    source = (ROOT / "operator/leaderlease/controller/manager.py").read_text()
    gauges = re.findall(r'"(leaderlease_\w+)": \(', source)
    metrics.gauges(lambda: dict.fromkeys(gauges, ("", 0.0)))
    metrics.certificates([lambda: ({"leaf": 1.0, "webhook": 2.0}, False)])
    for one in vars(metrics).values():
        if isinstance(one, Counter | Histogram) and one._labelnames:
            one.labels(*["x"] * len(one._labelnames))
    assert not _disagreements(_page()["Operator"], _scraped(generate_latest(metrics.registry).decode()), set())


def test_promtool_finds_nothing_to_complain_of(plant: Any) -> None:
    """Names, units and help texts follow the conventions, with one exception."""
    require("process", shutil.which("promtool"), "no promtool (Debian: prometheus)")
    for text in (plant.node, plant.sidecar):
        command = ["promtool", "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
        complaints = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(MISNAMED)]
        assert not complaints


def test_a_scrape_of_many_leases_is_small_and_quick() -> None:
    """Series of single leases stop at the cap, the rest is counted, and 10 000 leases take no 200 ms."""
    cluster = Cluster(1)
    node = cluster[1]
    client = node.client()
    for number in range(LEASES):
        client.acquire(_holder(number), duration_ms=3_600_000, name=f"shop/lease-{number}")
        if number % 500 == 499:
            cluster.run()
    text, took_s = "", []
    for _ in range(5):
        began_s = time.perf_counter()
        text = _served(node)
        took_s.append(time.perf_counter() - began_s)
    assert text.count("\nleaderlease_has_leader{") == LEASE_SERIES_MAX
    assert text.count("\nleaderlease_term{") == LEASE_SERIES_MAX
    assert text.count("\nleaderlease_candidates_waiting{") == LEASE_SERIES_MAX
    assert f"\nleaderlease_lease_series_dropped {LEASES - LEASE_SERIES_MAX}.0\n" in text
    assert f'\nleaderlease_leases{{state="held"}} {LEASES}.0\n' in text
    assert min(took_s) < SCRAPE_MAX_S


def test_who_waits_for_what_nobody_holds_is_seen() -> None:
    """A lease that a majority cannot decide: nobody leads, a candidate waits, and both are in the metrics."""
    cluster = Cluster()
    held = cluster[1].client()
    held.acquire(_holder(1))
    cluster.run()
    waiting = Client(cluster[1], "another")
    waiting.acquire(_holder(2))
    cluster.run()
    labels = '{lease="lock",namespace="shop"}'
    assert NAME == "shop/lock"
    text = _served(cluster[1])
    assert f"leaderlease_has_leader{labels} 1.0" in text
    assert f"leaderlease_candidates_waiting{labels} 1.0" in text
    assert "leaderlease_leases_wanted 0.0" in text
    cluster.crash(2)
    cluster.crash(3)
    held.cut()
    cluster.run(5_000)
    text = _served(cluster[1])
    assert f"leaderlease_has_leader{labels} 0.0" in text
    assert f"leaderlease_candidates_waiting{labels} 1.0" in text
    assert "leaderlease_leases_wanted 1.0" in text
    assert "leaderlease_quorum_available 0.0" in text
    assert 'leaderlease_peer_disconnects_total{peer="2"} 1.0' in text


def test_clock_rates_of_peers_are_served() -> None:
    """What pings have told over minutes is a gauge for each peer that was asked for long enough."""
    cluster = Cluster()
    driver = cluster[1].driver
    assert "\nleaderlease_clock_rate_error_ppm{" not in _served(cluster[1])
    for sent_us in range(0, 2 * SPAN_MIN_US, 500_000):
        driver.stats.peer("2").answered(sent_us, sent_us + 200, int((sent_us + 100) * 1.0003))
    served = _served(cluster[1])
    rate = re.search(r'\nleaderlease_clock_rate_error_ppm{peer="2"} (\S+)\n', served)
    doubt = re.search(r'\nleaderlease_clock_rate_doubt_ppm{peer="2"} (\S+)\n', served)
    assert rate is not None
    assert doubt is not None
    assert float(rate[1]) == pytest.approx(300, abs=float(doubt[1]))


def _issue(authority: trustme.CA, directory: Path) -> tuple[Path, Path, Path]:
    leaf = authority.issue_cert("127.0.0.1")
    files = (directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    for path, blob in zip(files, (chain, leaf.private_key_pem.bytes(), authority.cert_pem.bytes()), strict=True):
        path.with_suffix(".new").write_bytes(blob)
        path.with_suffix(".new").rename(path)
    return files


def test_ends_of_certificates_are_those_in_use(tmp_path: Path) -> None:
    """Files that cannot be used change nothing but say so; good ones count."""
    authority = trustme.CA()
    files = _issue(authority, tmp_path)
    context = tls.server_context(*files, require_client=True)
    rotation = Rotation(files, (context,))
    node = Cluster()[1]
    found = _scraped(_served(node, rotation))
    told = {name: one for name, one in _page()["Node"].items() if "_certificate_" in name}
    assert {name: found[name] for name in told} == told
    before = dict(rotation.ends_s)
    assert all(end_s > time.time() for end_s in before.values())
    files[1].write_text("no key")
    assert not rotation.look()
    assert "\nleaderlease_certificate_refused 1.0\n" in _served(node, rotation)
    assert rotation.ends_s == before
    _issue(authority, tmp_path)
    assert rotation.look()
    text = _served(node, rotation)
    assert "\nleaderlease_certificate_refused 0.0\n" in text
    assert "\nleaderlease_certificate_reloads_total 1.0\n" in text
