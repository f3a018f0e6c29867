"""`tls.mode: existingSecret` for real: what the chart renders runs, and its authority is replaced under a lease.

The Secrets hold what mode `certManager` asks cert-manager for; cert-manager itself runs in tests/certmanager.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.conftest import NAMESPACE, Helm, pick
from support.apiserver import ApiServer
from support.injected import InjectedPod
from support.installation import Installation, can_have_hosts
from support.issuer import Authority, secret
from support.levels import require
from support.operators import eventually

SPACE = "shop"
LEASE_S = 30
"""Longer than any pause of a busy machine: that nobody loses it must be owed to the rotation alone."""
LEAVES = ("node", "operator", "webhook")
LEASES = f"/apis/leaderlease.dev/v1alpha1/namespaces/{SPACE}/leaderleases"

pytestmark = pytest.mark.timeout(500)


def asked(helm: Helm) -> dict[str, dict[str, Any]]:
    """Return what mode certManager asks for: leaf -> spec of its Certificate."""
    found = {
        one["spec"]["secretName"]: one["spec"] for one in helm.objects("cert-manager") if one["kind"] == "Certificate"
    }
    return {leaf: found[f"leaderlease-{leaf}-tls"] for leaf in LEAVES}


class Site:
    """An installation whose certificates come from Secrets that somebody else makes."""

    def __init__(self, helm: Helm, api: ApiServer, home: Path) -> None:
        require("apiserver", can_have_hosts(), "no mount namespaces")
        self.api, self.home = api, home
        self.specs = asked(helm)
        self.nodes, self.hook = Authority("corporate nodes"), Authority("corporate webhooks")
        self.issue(self.nodes, self.nodes)
        bundle = self.hook.pem.decode()
        names = {leaf: f"corporate-{leaf}" for leaf in LEAVES}
        values: dict[str, Any] = {
            "operator": {"replicas": 1, "logLevel": "debug"},
            "tls": {"mode": "existingSecret", "existingSecret": {**names, "webhookCABundle": bundle}},
        }
        self.objects = [one for one in yaml.safe_load_all(helm.text(values)) if one]
        self.installation = Installation(api, self.objects, home / "site", NAMESPACE)

    def issue(self, signer: Authority, *trusted: Authority) -> None:
        """Write all Secrets: new certificates of one authority, and those that are to be trusted."""
        for leaf in ("node", "operator"):
            self.write(leaf, self.specs[leaf], signer, *trusted)
        self.write("webhook", self.specs["webhook"], self.hook, self.hook)

    def trust(self, *trusted: Authority) -> None:
        """Write other authorities to the Secrets of nodes and operator; the certificates stay."""
        for leaf in ("node", "operator"):
            path = f"/api/v1/namespaces/{NAMESPACE}/secrets/corporate-{leaf}"
            pem = base64.b64encode(b"".join(one.pem for one in trusted)).decode()
            self.api.request("PATCH", path, {"data": {"ca.crt": pem}}, content="application/merge-patch+json")

    def write(self, leaf: str, spec: dict[str, Any], signer: Authority, *trusted: Authority) -> None:
        """Write one Secret."""
        body = secret(f"corporate-{leaf}", signer.issue(spec), *trusted)
        self.api.apply(body, f"/api/v1/namespaces/{NAMESPACE}/secrets")


@contextmanager
def running(site: Site) -> Iterator[None]:
    """Run an installation."""
    try:
        site.installation.start()
        yield
    finally:
        site.installation.stop()


@pytest.fixture
def account(api: ApiServer) -> None:
    """The service account of the pods: nobody makes one by itself here."""
    path = f"/api/v1/namespaces/{SPACE}/serviceaccounts"
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, path)


def test_an_authority_is_replaced_under_a_lease(helm: Helm, api: ApiServer, tmp_path: Path, account: None) -> None:
    """Three steps, each brought to everybody; all nodes restart at the end of each; the leader keeps its term."""
    site = Site(helm, api, tmp_path)
    with running(site):
        spec = {"leaseDuration": f"{LEASE_S}s", "renewDeadline": "20s", "retryPeriod": "1s"}
        body = {"apiVersion": "leaderlease.dev/v1alpha1", "kind": "LeaderLease", "spec": spec}
        api.apply({**body, "metadata": {"name": "billing", "namespace": SPACE}}, LEASES)
        pod = InjectedPod(site.installation, site.hook.pem, SPACE, "billing-0")
        try:
            pod.process.start()
            eventually(f"it leads: {pod.process.tail()}", lambda: pod.leader().get("is_leader"))
            eventually("told", lambda: (api.get(f"{LEASES}/billing").get("status") or {}).get("holder"))
            first = pod.leader()
            replace_authority(site, pod)
            after = pod.leader()
            assert (after["is_leader"], after["term"]) == (True, first["term"])
            status = api.get(f"{LEASES}/billing")["status"]
            assert (status["term"], status["transitions"]) == (first["term"], 1), "nobody ever lost the lease"
        finally:
            pod.process.stop()
    for node in site.installation.nodes:
        assert "Traceback" not in node.log.read_text()


def replace_authority(site: Site, pod: InjectedPod) -> None:
    """Do what docs/operations.md says, step by step."""
    old, new = site.nodes, Authority("corporate nodes, the next ones")
    operator = site.installation.operator

    def is_behind() -> bool:
        return operator.metric(7403, "leaderlease_reconcile_pods_behind") > 0

    def bring_to_pods(*trusted: Authority) -> None:
        pem = b"".join(one.pem for one in trusted).decode()
        eventually("the operator has told the pod", lambda: pod.trusts() == pem)
        eventually("none is behind", lambda: not is_behind())
        taken = pod.process.log.read_text().count("renewed certificates are in use")
        pod.sync()
        eventually(
            "the sidecar trusts them",
            lambda: pod.process.log.read_text().count("renewed certificates are in use") > taken,
        )

    site.trust(old, new)
    site.installation.renew()
    bring_to_pods(old, new)
    site.issue(new, new, old)
    site.installation.renew()
    site.installation.restart_nodes()
    assert not is_behind(), "pods trust both already"
    site.trust(new)
    site.installation.renew()
    bring_to_pods(new)
    site.installation.restart_nodes()
    operator.stop()
    operator.start()
    eventually("the operator is back", lambda: "role: writes" in operator.get(7403, "/readyz?verbose"))


@pytest.mark.parametrize(
    ("leaf", "changes", "told"),
    [
        ("node", {"usages": ["client auth", "digital signature"]}, "its certificate is not trusted"),
        ("node", {"dnsNames": ["elsewhere.example"]}, "its certificate is not trusted"),
        ("operator", {"usages": ["server auth", "digital signature"]}, "it may not take this client's certificate"),
    ],
    ids=["a node that is no server", "a node of another name", "an operator that is no client"],
)
def test_what_the_certificates_must_have(
    helm: Helm, api: ApiServer, tmp_path: Path, leaf: str, changes: dict[str, Any], told: str
) -> None:
    """With other names or usages than the chart asks cert-manager for nothing works: all of them are needed."""
    site = Site(helm, api, tmp_path)
    site.write(leaf, {**site.specs[leaf], **changes}, site.nodes, site.nodes)
    site.installation.sync()
    nodes = site.installation.nodes
    looked_at = nodes[0] if leaf == "node" else site.installation.operator
    try:
        for process in nodes:
            process.start()
        if leaf == "operator":
            for node in nodes:
                site.installation.until_ready(node)
            looked_at.start()
        eventually("it says so", lambda: told in looked_at.log.read_text())
    finally:
        site.installation.stop()


def test_cert_manager_is_asked_for_what_the_pods_mount(helm: Helm) -> None:
    """Each Secret that a workload mounts is written by one Certificate, and nothing else is asked for."""
    objects = helm.objects("cert-manager")
    asked_for = {one["spec"]["secretName"] for one in objects if one["kind"] == "Certificate"}
    mounted = {
        volume["secret"]["secretName"]
        for one in objects
        if one["kind"] in ("StatefulSet", "Deployment")
        for volume in one["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    }
    issuers = [one for one in objects if one["kind"] == "Issuer"]
    signing = {one["spec"]["ca"]["secretName"] for one in issuers if "ca" in one["spec"]}
    assert asked_for == mounted | signing
    assert signing.isdisjoint(mounted), "no pod has the key of an authority"
    hooks = pick(objects, "MutatingWebhookConfiguration")
    certificate = pick(objects, "Certificate", "-webhook")
    where = hooks["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert where == f"{NAMESPACE}/{certificate['metadata']['name']}"
    assert hooks["webhooks"][0]["clientConfig"]["service"]["name"] in certificate["spec"]["dnsNames"][0]


@pytest.mark.parametrize("title", ["cert-manager", "cert-manager of others"])
def test_certificates_of_cert_manager_are_signed_by_whom_they_should(helm: Helm, title: str) -> None:
    """Nodes and operator have one authority, the webhook another; with an issuer of others all have that one."""
    objects = helm.objects(title)
    issuers = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "Issuer"}
    specs = {one["spec"]["secretName"]: one["spec"] for one in objects if one["kind"] == "Certificate"}
    by = {leaf: specs[f"leaderlease-{leaf}-tls"]["issuerRef"]["name"] for leaf in LEAVES}
    if title == "cert-manager of others":
        assert (set(by.values()), issuers) == ({"corporate"}, {})
        return
    assert by["node"] == by["operator"] != by["webhook"]
    for kind in ("node", "webhook"):
        authority = specs[issuers[by[kind]]["ca"]["secretName"]]
        assert (authority["isCA"], authority["privateKey"]["rotationPolicy"]) == (True, "Never")
        assert "selfSigned" in issuers[authority["issuerRef"]["name"]]
    assert {leaf: set(specs[f"leaderlease-{leaf}-tls"]["usages"]) - {"digital signature"} for leaf in LEAVES} == {
        "node": {"server auth", "client auth"},
        "operator": {"client auth"},
        "webhook": {"server auth"},
    }
