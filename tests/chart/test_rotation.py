"""A new authority by `helm upgrade`, at a real API server: trusted before it signs, and the old one as long after."""

import base64
import time
from typing import Any

import pytest
from cryptography import x509

from chart.conftest import Helm, kubectl
from support.apiserver import ApiServer

NAMESPACE = "rotated"
OVERLAP_S = 168 * 3600
VALUES: dict[str, Any] = {"crds": {"enabled": False}, "quorum": {"name": "rotated"}}

pytestmark = pytest.mark.timeout(400)


class Release:
    """One release, and what its Secrets hold."""

    def __init__(self, helm: Helm, api: ApiServer) -> None:
        self._helm = helm
        self._api = api

    def upgrade(self) -> None:
        """Install it, or upgrade it."""
        self._helm.upgrade(self._api, "leaderlease", NAMESPACE, VALUES)

    def certificates(self, secret: str, key: str) -> list[x509.Certificate]:
        """Return the certificates in an entry of a Secret; none without it."""
        body = self._api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/leaderlease-{secret}")
        text = base64.b64decode(body["data"].get(key, ""))
        return x509.load_pem_x509_certificates(text) if text else []

    def leaves(self) -> dict[str, x509.Certificate]:
        """Return the certificates that are in use."""
        return {leaf: self.certificates(f"{leaf}-tls", "tls.crt")[0] for leaf in ("node", "operator", "webhook")}

    def trusted(self, leaf: str) -> list[x509.Certificate]:
        """Return the authorities that the owner of a leaf is to trust."""
        return self.certificates(f"{leaf}-tls", "ca.crt")

    def bundle(self) -> list[x509.Certificate]:
        """Return the authorities by which the API server knows the webhook."""
        path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/leaderlease-rotated"
        text = self._api.request("GET", path)["webhooks"][0]["clientConfig"]["caBundle"]
        return x509.load_pem_x509_certificates(base64.b64decode(text))

    def annotate(self, kind: str, name: str, value: str) -> None:
        """Annotate the Secret of an authority."""
        what = (f"leaderlease-{kind}-ca", f"leaderlease.dev/{name}={value}")
        kubectl(self._api, "annotate", "secret", "-n", NAMESPACE, "--overwrite", *what)

    def let_overlap_pass(self, kind: str) -> None:
        """Have the overlap begin earlier."""
        self.annotate(kind, "since", str(int(time.time()) - OVERLAP_S - 1))


def is_signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether an authority signed a certificate."""
    try:
        leaf.verify_directly_issued_by(authority)
    except Exception:  # whatever it is that does not fit
        return False
    return True


@pytest.fixture
def release(helm: Helm, api: ApiServer) -> Release:
    """A release in a namespace of its own."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    api.apply(body, "/api/v1/namespaces")
    found = Release(helm, api)
    found.upgrade()
    return found


def test_an_authority_is_replaced_with_an_overlap(release: Release) -> None:
    """At each step everybody trusts whoever anybody shows a certificate of, and nothing is issued without need."""
    first, [old] = release.leaves(), release.trusted("node")
    release.upgrade()
    assert release.leaves() == first, "an upgrade in between issues nothing"

    release.annotate("node", "rotate", "first")
    release.upgrade()
    assert release.leaves() == first, "the new authority signs nothing yet"
    [kept, new] = release.trusted("node")
    assert (kept, release.trusted("operator")) == (old, [old, new])
    assert release.trusted("webhook") == release.bundle()
    assert len(release.bundle()) == 1, "the webhook's authority is another"
    release.upgrade()
    assert (release.leaves(), release.trusted("node")) == (first, [old, new])

    release.let_overlap_pass("node")
    release.upgrade()
    second = release.leaves()
    assert all(is_signed(second[leaf], new) for leaf in ("node", "operator"))
    assert second["webhook"] == first["webhook"]
    assert release.trusted("node") == release.trusted("operator") == [new, old], "old leaves are still in use"
    release.upgrade()
    assert (release.leaves(), release.trusted("node")) == (second, [new, old])

    release.let_overlap_pass("node")
    release.upgrade()
    assert (release.leaves(), release.trusted("node"), release.trusted("operator")) == (second, [new], [new])
    release.upgrade()
    assert (release.leaves(), release.trusted("node")) == (second, [new]), "what was asked for was done once"


def test_an_authority_that_ends_is_replaced_by_itself(release: Release) -> None:
    """When it would end before what it signs; the API server trusts both authorities of the webhook meanwhile."""
    [old], first = release.trusted("webhook"), release.leaves()
    release.annotate("webhook", "ends-at", str(int(time.time()) + 300 * 86_400))
    release.upgrade()
    [kept, new] = release.bundle()
    assert (kept, release.leaves()) == (old, first)
    release.let_overlap_pass("webhook")
    release.upgrade()
    assert is_signed(release.leaves()["webhook"], new)
    assert release.bundle() == [new, old]
