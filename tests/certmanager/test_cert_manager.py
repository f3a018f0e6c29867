"""`tls.mode: certManager` with cert-manager's own controllers: they issue what the chart asks for, and renew it.

The controllers run as one process beside a real API server; what the chart renders runs beside it, too.
"""

import base64
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from chart.conftest import NAMESPACE, ROOT, Helm, kubectl
from support.apiserver import ApiServer, binary, die_with_parent
from support.injected import InjectedPod
from support.installation import Installation, can_have_hosts
from support.levels import require
from support.operators import eventually

BUILT = ROOT / "build" / "cert-manager"
SPACE = "shop"
LEASE_S = 30
"""Longer than any pause of a busy machine: that nobody loses it must be owed to the renewals alone."""
CERTIFICATES = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates"
LEASE = f"/apis/leaderlease.dev/v1alpha1/namespaces/{SPACE}/leaderleases/billing"
VALUES = {"operator": {"replicas": 1, "logLevel": "debug"}, "tls": {"mode": "certManager"}}

pytestmark = pytest.mark.timeout(500)


class CertManager:
    """The controllers that make certificates inside of a cluster."""

    def __init__(self, api: ApiServer, home: Path) -> None:
        self._api = api
        self._log = home / "cert-manager.log"
        command = [str(BUILT / "controllers"), "--kubeconfig", str(api.kubeconfig)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)

    def stop(self) -> None:
        """End them."""
        self._process.terminate()
        self._process.wait(20)

    def revisions(self) -> dict[str, int]:
        """Return how often each certificate was issued; 0 while it is not as it was asked for."""
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        found = {}
        for one in self._api.get(CERTIFICATES)["items"]:
            status = one.get("status") or {}
            conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
            is_issued = conditions.get("Ready") == "True" and conditions.get("Issuing", "False") == "False"
            found[one["metadata"]["name"]] = status.get("revision", 0) if is_issued else 0
        return found

    def renew(self, name: str) -> None:
        """Have a certificate issued anew, as `cmctl renew` does, and wait for it."""
        before = self.revisions()[name]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = f"{CERTIFICATES}/{name}/status"
        conditions = self._api.get(f"{CERTIFICATES}/{name}")["status"]["conditions"]
        asked = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "asked for by a test"}
        body = {"status": {"conditions": [*conditions, {**asked, "lastTransitionTime": now}]}}
        self._api.request("PATCH", path, body, content="application/merge-patch+json")
        eventually(f"{name} is renewed", lambda: self.revisions()[name] == before + 1)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    """A real API server with our definitions and those of cert-manager."""
    require("certmanager", (BUILT / "pinned").exists(), "no controllers")
    missing = [name for name in ("kube-apiserver", "etcd", "kubectl") if binary(name) is None]
    require("certmanager", not missing, f"no {' and no '.join(missing)}")
    require("certmanager", can_have_hosts(), "no mount namespaces")
    home = tmp_path / "apiserver"
    home.mkdir()
    server = ApiServer(home)
    try:
        server.start()
        for folder in (ROOT / "manifests" / "crd", BUILT / "crds"):
            kubectl(server, "apply", "--server-side", "-f", str(folder))
        for name in (NAMESPACE, SPACE):
            kubectl(server, "create", "namespace", name)
        kubectl(server, "create", "serviceaccount", "default", "--namespace", SPACE)
        kubectl(server, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield server
    finally:
        server.stop()


@pytest.fixture
def cert_manager(api: ApiServer, tmp_path: Path) -> Iterator[CertManager]:
    """The controllers, running."""
    made = CertManager(api, tmp_path)
    yield made
    made.stop()


def secret(api: ApiServer, name: str, key: str) -> bytes:
    """Return one entry of a Secret of the release."""
    return base64.b64decode(api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")["data"][key])


def test_a_leader_leads_through_every_renewal(
    helm: Helm, api: ApiServer, cert_manager: CertManager, tmp_path: Path
) -> None:
    """All five are issued as the chart asks; each is renewed under a lease, the authorities too; the term stays."""
    objects: list[dict[str, Any]] = [one for one in yaml.safe_load_all(helm.text(VALUES)) if one]
    asked = [one for one in objects if one["kind"] in ("Issuer", "Certificate")]
    kubectl(api, "apply", "--server-side", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(asked))
    names = {one["metadata"]["name"] for one in asked if one["kind"] == "Certificate"}
    assert len(names) == 5
    eventually("all are issued", lambda: cert_manager.revisions() == dict.fromkeys(names, 1))
    installation = Installation(api, objects, tmp_path / "site", NAMESPACE)
    try:
        installation.start()
        spec = {"leaseDuration": f"{LEASE_S}s", "renewDeadline": "20s", "retryPeriod": "1s"}
        body = {"apiVersion": "leaderlease.dev/v1alpha1", "kind": "LeaderLease", "spec": spec}
        api.apply({**body, "metadata": {"name": "billing", "namespace": SPACE}}, LEASE.rpartition("/")[0])
        pod = InjectedPod(installation, secret(api, "leaderlease-webhook-tls", "ca.crt"), SPACE, "billing-0")
        try:
            pod.process.start()
            eventually(f"it leads: {pod.process.tail()}", lambda: pod.leader().get("is_leader"))
            eventually("told", lambda: (api.get(LEASE).get("status") or {}).get("holder"))
            first = pod.leader()
            old = x509.load_pem_x509_certificate(secret(api, "leaderlease-node-tls", "tls.crt"))
            for name in sorted(names, key=lambda name: not name.endswith("-ca")):
                cert_manager.renew(name)
            new = x509.load_pem_x509_certificate(secret(api, "leaderlease-node-tls", "tls.crt"))
            assert new.serial_number != old.serial_number
            installation.renew()
            installation.restart_nodes()
            eventually(
                "the operator writes", lambda: "role: writes" in installation.operator.get(7403, "/readyz?verbose")
            )
            eventually("it hears who leads", lambda: pod.leader().get("is_leader"))
            assert pod.leader()["term"] == first["term"]
            status = api.get(LEASE)["status"]
            assert (status["term"], status["transitions"]) == (first["term"], 1), "nobody ever lost the lease"
        finally:
            pod.process.stop()
        second = InjectedPod(installation, secret(api, "leaderlease-webhook-tls", "ca.crt"), SPACE, "billing-1")
        assert second.trusts() == secret(api, "leaderlease-node-tls", "ca.crt").decode()
    finally:
        installation.stop()
