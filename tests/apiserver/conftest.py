"""One control plane for all tests of this level; every test works in a namespace of its own."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import yaml

from leaderlease.cli.local import LocalQuorum
from leaderlease.client.blocking import Client, connect
from support.apiserver import ApiServer, binary
from support.levels import require
from support.mirror import QUORUM, World, serving, start
from support.operators import Replica, eventually

ROOT = Path(__file__).parents[2]
CRDS = sorted((ROOT / "manifests" / "crd").glob("*.yaml"))
_numbers = count(1)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A running API server that knows our resources."""
    missing = [name for name in ("kube-apiserver", "etcd") if binary(name) is None]
    require("apiserver", not missing, f"no {' and no '.join(missing)}")
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        install_crds(server)
        yield server
    finally:
        server.stop()


def install_crds(server: ApiServer) -> None:
    """Apply every CRD and wait until it is served."""
    import time

    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for file in CRDS:
        server.apply(yaml.safe_load(file.read_text()), path)
    deadline = time.monotonic() + 30
    while True:
        found = server.request("GET", path)["items"]
        conditions = [c for crd in found for c in crd.get("status", {}).get("conditions") or ()]
        if sum(c["type"] == "Established" and c["status"] == "True" for c in conditions) == len(CRDS):
            break
        assert time.monotonic() < deadline, conditions
        time.sleep(0.1)


@pytest.fixture
def namespace(api: ApiServer) -> str:
    """A fresh namespace."""
    name = f"shop-{next(_numbers)}"
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, "/api/v1/namespaces")
    return name


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory, api: ApiServer) -> Iterator[LocalQuorum]:
    """Three nodes, and the LeaderQuorum that tells of them."""
    with serving(LocalQuorum(tmp_path_factory.mktemp("quorum"), auto_declare=False), api, QUORUM) as nodes:
        yield nodes


@pytest.fixture
def replicas(api: ApiServer, quorum: LocalQuorum, tmp_path: Path) -> Iterator[list[Replica]]:
    """Operator processes of one test; start more with ``start``."""
    running: list[Replica] = []
    yield running
    for replica in running:
        if replica.process.poll() is None:
            replica.stop()


@pytest.fixture
def operator(api: ApiServer, replicas: list[Replica], tmp_path: Path) -> Replica:
    """One replica that writes."""
    replica = start(api, replicas, tmp_path)
    eventually("it writes", lambda: replica.is_active)
    return replica


@pytest.fixture
def client(quorum: LocalQuorum) -> Iterator[Client]:
    """A client of the quorum."""
    with connect(quorum.endpoints) as one:
        yield one


@pytest.fixture
def world(api: ApiServer, namespace: str) -> World:
    """A fresh namespace."""
    return World(api, namespace)
