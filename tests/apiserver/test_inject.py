"""The webhook of a real operator, called by a real API server."""

import base64
import copy
import http.client
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from leaderlease.cli.local import LocalQuorum
from support.apiserver import ApiError, ApiServer
from support.mirror import announce
from support.operators import Replica, eventually

GROUP = "/apis/leaderlease.dev/v1alpha1"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
QUORUM = "injectors"
TAKEN_S = 30.0
"""Bound of the wait until a new webhook configuration is in use by the API server, and a new certificate by us."""

pytestmark = pytest.mark.timeout(180)
_numbers = count()


class Injector:
    """An operator with its webhook, and what the API server is told about it."""

    def __init__(self, api: ApiServer, home: Path) -> None:
        self.api = api
        self.home = home
        self.authority = trustme.CA()
        self.port = _free_port()
        self.replica: Replica | None = None
        self._starts = 0

    def start(self) -> Replica:
        """Start the operator and wait until it is ready."""
        self._starts += 1
        self.replica = Replica(self.api, self.home, f"injector-{self._starts}", self.options())
        eventually("the operator is ready", lambda: self.replica is not None and self.replica.http("/readyz") == "ok\n")
        return self.replica

    def options(self) -> tuple[str, ...]:
        """Return the operator's flags."""
        files = ("--webhook-cert", str(self.home / "tls.crt"), "--webhook-key", str(self.home / "tls.key"))
        listen = ("--webhook-listen", f"127.0.0.1:{self.port}")
        return ("--lease-quorum", QUORUM, *listen, *files, "--inject-image", "agent:1", "--resync", "5")

    def issue(self, **options: Any) -> bytes:
        """Write a certificate of the present authority as a renewed Secret would come; return it."""
        issued = self.authority.issue_cert("127.0.0.1", **options)
        for name, blob in (("tls.crt", issued.cert_chain_pems[0]), ("tls.key", issued.private_key_pem)):
            blob.write_to_path(self.home / f"{name}.new")
            (self.home / f"{name}.new").replace(self.home / name)
        return issued.cert_chain_pems[0].bytes()

    def register(self) -> None:
        """Tell the API server of the webhook, as the chart does."""
        webhook = {
            "name": "inject.leaderlease.dev",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": 5,
            "reinvocationPolicy": "IfNeeded",
            "objectSelector": {"matchExpressions": [{"key": "leaderlease.dev/inject", "operator": "Exists"}]},
            "namespaceSelector": {"matchLabels": {"injection": "tested"}},
            "rules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]},
            ],
            "clientConfig": {
                "url": f"https://127.0.0.1:{self.port}/mutate",
                "caBundle": base64.b64encode(self.authority.cert_pem.bytes()).decode(),
            },
        }
        body = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "leaderlease"},
            "webhooks": [webhook],
        }
        self.api.apply(body, WEBHOOKS)

    def served(self) -> bytes:
        """Return the certificate that the webhook shows now."""
        return ssl.get_server_certificate(("127.0.0.1", self.port), timeout=5).encode()

    def post(self, body: bytes) -> tuple[int, str]:
        """Send a body to the webhook as the API server would."""
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        try:
            connection.request("POST", "/mutate", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def injector(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    """A quorum, an operator, and a webhook that the API server calls."""
    home = tmp_path_factory.mktemp("injector")
    found = Injector(api, home)
    found.issue()
    nodes = LocalQuorum(tmp_path_factory.mktemp("quorum"), auto_declare=False)
    try:
        nodes.start()
        announce(nodes, api, QUORUM)
        found.start()
        found.register()
        yield found
    finally:
        if found.replica is not None:
            found.replica.stop()
        nodes.stop()
        for path in (f"{WEBHOOKS}/leaderlease", f"{GROUP}/leaderquorums/{QUORUM}"):
            if api.is_running and api.get(path) is not None:
                api.request("DELETE", path)


@pytest.fixture
def shop(api: ApiServer, injector: Injector) -> str:
    """A fresh namespace of the Pod Security level `restricted`, in which the API server calls the webhook."""
    name = f"injected-{next(_numbers)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "injection": "tested"}
    api.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}, "/api/v1/namespaces"
    )
    eventually(
        "the API server calls the webhook here",
        lambda: "initContainers" in create(api, name, pod("probe"), "?dryRun=All")["spec"],
        TAKEN_S,
    )
    return name


def pod(label: str | None = "billing", **annotations: str) -> dict[str, Any]:
    """Return a pod that the level `restricted` admits, as a Deployment makes it."""
    context = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    app = {
        "name": "app",
        "image": "app:1",
        "securityContext": context,
        "ports": [{"name": "http", "containerPort": 80}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "billing-",
            "labels": {"app": "billing", **({"leaderlease.dev/inject": label} if label is not None else {})},
            "annotations": {f"leaderlease.dev/{key.replace('_', '-')}": text for key, text in annotations.items()},
        },
        # The API servers of these tests fill in no service account.
        "spec": {"serviceAccountName": "default", "containers": [app]},
    }


def create(api: ApiServer, namespace: str, body: dict[str, Any], query: str = "") -> dict[str, Any]:
    """Create a pod and return it as the API server has it."""
    return dict(api.request("POST", f"/api/v1/namespaces/{namespace}/pods{query}", body))


def declare(api: ApiServer, namespace: str, name: str = "billing", **spec: Any) -> None:
    """Apply a LeaderLease."""
    body = {
        "apiVersion": "leaderlease.dev/v1alpha1",
        "kind": "LeaderLease",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"quorum": QUORUM, **spec},
    }
    api.apply(body, f"{GROUP}/namespaces/{namespace}/leaderleases")


def reasons(api: ApiServer, namespace: str) -> dict[str, str]:
    """Return reason -> note of the Events about pods."""
    found = api.request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
    return {event["reason"]: event["note"] for event in found if event["regarding"]["kind"] == "Pod"}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


# --- what the API server makes of it -------------------------------------------------------------------------


def test_pod_is_injected_and_passes_restricted(api: ApiServer, shop: str, injector: Injector) -> None:
    """The sidecar comes first, stays while the application runs, and knows the nodes of the lease's quorum."""
    declare(api, shop)
    found = create(api, shop, pod())
    [first] = found["spec"]["initContainers"]
    assert (first["name"], first["restartPolicy"], first["image"]) == ("leaderlease", "Always", "agent:1")
    quorum = api.get(f"{GROUP}/leaderquorums/{QUORUM}")
    assert ",".join(quorum["spec"]["endpoints"]) in first["args"]
    assert found["metadata"]["annotations"]["leaderlease.dev/status"] == "injected"
    env = {one["name"]: one.get("value") for one in found["spec"]["containers"][0]["env"]}
    assert env["LEADERLEASE_URL"] == "http://127.0.0.1:4040"


def test_level_is_really_enforced(api: ApiServer, shop: str) -> None:
    """The namespace refuses an application that is not restricted, so the test before says something."""
    body = pod()
    del body["spec"]["containers"][0]["securityContext"]
    with pytest.raises(ApiError, match="violates PodSecurity") as error:
        create(api, shop, body)
    assert "leaderlease" not in error.value.message.partition("violates")[2]


@pytest.mark.parametrize(
    "annotations",
    [
        {"health_http": "http/healthz", "health_failures": "2", "drain": "health"},
        {"run_as_user": "1000", "resources_limits_memory": "48Mi", "resources_requests_cpu": "5m"},
        {"lease": "reports,carts", "port": "5050", "token_seconds": "600", "image_pull_policy": "Never"},
    ],
)
def test_parameters_make_valid_pods(api: ApiServer, shop: str, annotations: dict[str, str]) -> None:
    """Whatever parameters may say, the API server takes the pod."""
    found = create(api, shop, pod(**annotations))
    assert found["spec"]["initContainers"][0]["name"] == "leaderlease"


def test_user_of_the_pod_is_admitted(api: ApiServer, shop: str) -> None:
    """With `run-as-user: pod` the sidecar runs as what the pod says."""
    body = pod(run_as_user="pod")
    body["spec"]["securityContext"] = {"runAsUser": 4242}
    first = create(api, shop, body)["spec"]["initContainers"][0]
    assert "runAsUser" not in first["securityContext"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (pod(port="http"), "annotation leaderlease.dev/port: 'http' must be a whole number from 1 to 65534"),
        (pod(""), "label leaderlease.dev/inject: '' names no lease"),
        (pod(prot="1"), "annotation leaderlease.dev/prot: there is no such parameter; did you mean"),
        (pod(quorum="nowhere"), "annotation leaderlease.dev/quorum names quorum 'nowhere': there is no LeaderQuorum"),
    ],
)
def test_refusal_reaches_whoever_creates_the_pod(
    api: ApiServer, shop: str, body: dict[str, Any], sentence: str
) -> None:
    """With field, value and what is allowed; Ignore is for a webhook that fails, and not for a pod that is wrong."""
    with pytest.raises(ApiError) as error:
        create(api, shop, body)
    assert sentence in error.value.message
    assert "\n" not in error.value.message


def test_leases_of_different_quorums_are_refused(api: ApiServer, shop: str, injector: Injector) -> None:
    """One sidecar asks one quorum; and an annotation that contradicts the LeaderLease is a mistake."""
    declare(api, shop)
    other = {
        "apiVersion": "leaderlease.dev/v1alpha1",
        "kind": "LeaderQuorum",
        "metadata": {"name": "second"},
        "spec": {"endpoints": ["127.0.0.1:1"]},
    }
    api.apply(other, f"{GROUP}/leaderquorums")
    declare(api, shop, "reports", quorum="second")

    def refusal(body: dict[str, Any]) -> str:
        try:
            create(api, shop, body, "?dryRun=All")
        except ApiError as error:
            return error.message
        return ""

    try:
        eventually("known", lambda: "the leases are of several quorums" in refusal(pod("billing.reports")))
        assert "'second', but LeaderLease" in refusal(pod("billing", quorum="second"))
    finally:
        api.request("DELETE", f"{GROUP}/leaderquorums/second")


def test_output_of_the_command_is_left_as_it_is(api: ApiServer, shop: str, tmp_path: Path) -> None:
    """`leaderlease inject` makes what the API server takes and the webhook does not touch again."""
    body = pod()
    body["metadata"]["name"] = body["metadata"].pop("generateName").rstrip("-")
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump(body))
    command = [sys.executable, "-m", "leaderlease", "inject", "-f", str(file), "--endpoints", "node:7400"]
    wanted = yaml.safe_load(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    found = create(api, shop, wanted)
    assert len(found["spec"]["initContainers"]) == 1
    assert found["spec"]["initContainers"][0]["args"] == wanted["spec"]["initContainers"][0]["args"]


# --- who hears of it -----------------------------------------------------------------------------------------


def test_unknown_lease_is_told_by_an_event(api: ApiServer, shop: str) -> None:
    """The pod is injected all the same: its LeaderLease may come later, and then all is well."""
    declare(api, shop)
    create(api, shop, pod("billing"))
    waiting = create(api, shop, pod("carts"))
    assert "initContainers" in waiting["spec"]
    note = eventually("LeaseNotFound", lambda: reasons(api, shop).get("LeaseNotFound"))
    assert f"{shop}/carts" in note
    assert "billing," not in note


def test_deleted_lease_is_told_by_an_event(api: ApiServer, shop: str) -> None:
    """Its pods wait for something that does not exist any more."""
    declare(api, shop)
    create(api, shop, pod())
    path = f"{GROUP}/namespaces/{shop}/leaderleases/billing"
    eventually("declared", lambda: (api.get(path).get("status") or {}).get("observedGeneration"))
    api.request("DELETE", path)
    assert f"{shop}/billing" in eventually("LeaseNotFound", lambda: reasons(api, shop).get("LeaseNotFound"))


def test_pods_start_without_the_webhook_and_the_operator_tells(api: ApiServer, shop: str, injector: Injector) -> None:
    """failurePolicy Ignore: while nothing answers, pods come as they are; afterwards an Event says which."""
    declare(api, shop)
    assert injector.replica is not None
    injector.replica.stop()
    try:
        body = pod()
        found = create(api, shop, copy.deepcopy(body))
        assert "initContainers" not in found["spec"]
        assert found["spec"]["containers"][0].get("env") is None
    finally:
        injector.start()
    note = eventually("InjectionMissed", lambda: reasons(api, shop).get("InjectionMissed"))
    assert "delete the pod" in note
    assert "initContainers" in create(api, shop, pod())["spec"]


# --- certificates --------------------------------------------------------------------------------------------


def test_renewed_certificate_is_served_without_a_restart(api: ApiServer, shop: str, injector: Injector) -> None:
    """Another certificate, then another authority: pods are injected all the while."""
    assert injector.replica is not None
    process = injector.replica.process.pid
    renewed = injector.issue()
    eventually("the renewed certificate", lambda: _same(injector.served(), renewed), TAKEN_S)
    assert "initContainers" in create(api, shop, pod())["spec"]
    injector.authority = trustme.CA()
    renewed = injector.issue()
    injector.register()
    eventually("that of the new authority", lambda: _same(injector.served(), renewed), TAKEN_S)
    eventually(
        "the API server trusts it", lambda: "initContainers" in create(api, shop, pod(), "?dryRun=All")["spec"], TAKEN_S
    )
    assert injector.replica.process.pid == process


def _same(one: bytes, other: bytes) -> bool:
    return b"".join(one.split()) == b"".join(other.split())


def test_certificate_that_ran_out_is_told_by_readiness(api: ApiServer, injector: Injector, tmp_path: Path) -> None:
    """The API server says only that a webhook failed, so the operator says why: in its log and by /readyz."""
    other = Injector(api, tmp_path)
    other.issue(not_after=datetime(2020, 1, 1, tzinfo=UTC))
    replica = Replica(api, tmp_path, "ran-out", other.options())
    try:
        text = eventually("it says why", lambda: "ran out" in (text := replica.http("/readyz")) and text)
        assert "webhook: the certificate" in text
        assert "2020-01-01 00:00 UTC" in text
        eventually("in the log, too", lambda: "renew its Secret" in replica.tail())
    finally:
        replica.stop()


# --- what may come in ----------------------------------------------------------------------------------------


def test_webhook_bounds_what_it_reads(injector: Injector) -> None:
    """No review, half a review, too much: a status for each, and the next pod is injected."""
    assert injector.post(b"")[0] == 400
    assert injector.post(b"[]")[0] == 400
    assert injector.post(b'{"request": "\xd4"}')[0] == 400
    assert injector.post(b"[" * 100_000)[0] == 400
    assert injector.post(b'{"request": {"uid": "1", "namespace": "a", "object": null}}')[0] == 400
    began = time.monotonic()
    status, text = injector.post(b" " * (5 << 20))
    assert (status, "larger than" in text) == (413, True)
    assert time.monotonic() - began < 30


def test_results_are_counted(api: ApiServer, shop: str, injector: Injector) -> None:
    """By result, for an alert."""
    assert injector.replica is not None
    create(api, shop, pod())
    assert 'leaderlease_injections_total{result="injected"}' in injector.replica.http("/metrics")
