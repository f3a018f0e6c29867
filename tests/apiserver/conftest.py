"""One control plane for all tests of this level; every test works in a namespace of its own."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import yaml

from support.apiserver import ApiServer, binary
from support.levels import require

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
