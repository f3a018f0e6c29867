"""`leaderlease certificates` at a real API server: an authority is replaced step by step, and nothing is left over."""

import base64
import subprocess
import sys
import time

import pytest
from cryptography import x509

from support.apiserver import ApiServer

OVERLAP_S = 168 * 3600
MERGE = "application/merge-patch+json"

pytestmark = pytest.mark.timeout(300)


class Secrets:
    """The Secrets of one namespace, and the command that keeps them up to date."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/secrets"
        self._command = [
            *(sys.executable, "-m", "leaderlease", "certificates", "--kubeconfig", str(api.kubeconfig)),
            *("--namespace", namespace, "--prefix", "ll"),
        ]

    def run(self) -> str:
        """Run it; return what it says."""
        done = subprocess.run(self._command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def certificates(self, name: str, key: str = "tls.crt") -> list[x509.Certificate]:
        """Return what an entry of a Secret holds."""
        text = base64.b64decode(self._api.get(f"{self._path}/{name}")["data"][key])
        return x509.load_pem_x509_certificates(text)

    def keys(self, name: str) -> set[str]:
        """Return the entries of a Secret."""
        return set(self._api.get(f"{self._path}/{name}")["data"])

    def annotate(self, name: str, key: str, value: str) -> None:
        """Annotate a Secret, as `kubectl annotate` does."""
        body = {"metadata": {"annotations": {f"leaderlease.dev/{key}": value}}}
        self._api.request("PATCH", f"{self._path}/{name}", body, content=MERGE)

    def let_overlap_pass(self) -> None:
        """Have the overlap begin earlier."""
        self.annotate("ll-node-ca", "since", str(int(time.time()) - OVERLAP_S - 1))


def test_an_authority_is_replaced_by_runs_of_the_job(api: ApiServer, namespace: str) -> None:
    """Asked for by an annotation, done once, in three steps; the old private key is gone after the second."""
    secrets = Secrets(api, namespace)
    assert secrets.run().count(": written") == 4
    assert "nothing to do" in secrets.run()
    [old], [leaf] = secrets.certificates("ll-node-ca"), secrets.certificates("ll-node-tls")

    secrets.annotate("ll-node-ca", "rotate", "2026-11-25")
    assert secrets.run().count(": written") == 3
    assert "nothing to do" in secrets.run()
    [kept, new] = secrets.certificates("ll-node-tls", "ca.crt")
    assert (kept, secrets.certificates("ll-node-tls")) == (old, [leaf])

    secrets.let_overlap_pass()
    secrets.run()
    secrets.certificates("ll-node-tls")[0].verify_directly_issued_by(new)
    secrets.certificates("ll-operator-tls")[0].verify_directly_issued_by(new)
    assert secrets.certificates("ll-operator-tls", "ca.crt") == [new, old]
    assert secrets.keys("ll-node-ca") == {"tls.crt", "tls.key", "ca.crt", "previous.crt"}

    secrets.let_overlap_pass()
    secrets.run()
    assert secrets.certificates("ll-node-tls", "ca.crt") == [new]
    assert secrets.keys("ll-node-ca") == {"tls.crt", "tls.key", "ca.crt"}
    assert "nothing to do" in secrets.run()
