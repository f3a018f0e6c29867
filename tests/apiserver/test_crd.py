"""What the API server itself refuses, fills in and prints for our resources."""

import copy
import os
import subprocess
from typing import Any

import pytest

from support.apiserver import TABLE, ApiError, ApiServer, binary
from support.levels import require

GROUP = "/apis/leaderlease.dev/v1alpha1"
QUORUMS = f"{GROUP}/leaderquorums"
SERVICE = {"name": "billing-leader", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
OTHER_UUID = "ffffffff-7f0a-4d5e-8a57-2f6f5c1f9a11"
UUID = "0b5f1b0e-7f0a-4d5e-8a57-2f6f5c1f9a11"


def lease(spec: Any, name: str = "billing") -> dict[str, Any]:
    """Return a LeaderLease of this spec."""
    return {
        "apiVersion": "leaderlease.dev/v1alpha1",
        "kind": "LeaderLease",
        "metadata": {"name": name},
        "spec": spec,
    }


def quorum(spec: Any, name: str = "default") -> dict[str, Any]:
    """Return a LeaderQuorum of this spec."""
    return {
        "apiVersion": "leaderlease.dev/v1alpha1",
        "kind": "LeaderQuorum",
        "metadata": {"name": name},
        "spec": spec,
    }


def service(**changes: Any) -> dict[str, Any]:
    """Return a spec whose leaderService differs from a good one."""
    return {"leaderService": {**SERVICE, **changes}}


def port(**changes: Any) -> dict[str, Any]:
    """Return a spec whose only port differs from a good one."""
    return service(ports=[{"name": "http", "port": 80, **changes}])


def expression(**requirement: Any) -> dict[str, Any]:
    """Return a spec with one requirement on labels."""
    return {"candidates": {"podSelector": {"matchExpressions": [requirement]}}}


BAD_LEASES: list[tuple[Any, str]] = [
    ({"leaseDuration": "2s"}, "renewDeadline 2s must be shorter than leaseDuration 2s"),
    ({"leaseDuration": "1s"}, "lower renewDeadline (two thirds of leaseDuration works well) or raise leaseDuration"),
    ({"renewDeadline": "5s"}, "renewDeadline 5s must be shorter than leaseDuration 3s"),
    ({"retryPeriod": "1700ms"}, "retryPeriod 1700ms times 1.2 must be shorter than renewDeadline 2s"),
    ({"retryPeriod": "2s"}, "lower retryPeriod (a sixth of leaseDuration works well) or raise renewDeadline"),
    ({"leaseDuration": "50ms", "renewDeadline": "40ms", "retryPeriod": "10ms"}, "50ms is outside 100ms to 1h"),
    ({"leaseDuration": "2h"}, "leaseDuration 2h is outside 100ms to 1h"),
    ({"leaseDuration": "three seconds"}, 'leaseDuration "three seconds" is no duration: write for example 750ms'),
    ({"leaseDuration": ""}, 'leaseDuration "" is no duration'),
    ({"leaseDuration": "3"}, 'leaseDuration "3" is no duration'),
    ({"leaseDuration": 3}, "must be of type string"),
    ({"leaseDuration": "-3s"}, 'leaseDuration "-3s" is no duration'),
    ({"leaseDuration": "1d"}, 'leaseDuration "1d" is no duration'),
    ({"leaseDuration": "never"}, 'leaseDuration "never" is no duration'),
    ({"leaseDuration": "00000000000000003s"}, "may not be more than 16"),
    ({"renewDeadline": "2 s"}, 'renewDeadline "2 s" is no duration'),
    ({"retryPeriod": "often"}, 'retryPeriod "often" is no duration'),
    ({"retryPeriod": "1ms"}, "retryPeriod 1ms is too short: at least 10ms"),
    ({"renewDeadline": "49ms", "retryPeriod": "10ms"}, "renewDeadline 49ms is too short: at least 50ms"),
    ({"lockDelay": "2h"}, "lockDelay 2h must be 0s, or 100ms to 1h"),
    ({"lockDelay": "5ms"}, "lockDelay 5ms must be 0s, or 100ms to 1h"),
    ({"lockDelay": "a while"}, 'lockDelay "a while" is no duration'),
    ({"holders": 0}, "holders must be 1"),
    ({"holders": 3}, "create one LeaderLease for each slot"),
    ({"mode": "Off"}, 'supported values: "Active", "Paused", "ObserveOnly"'),
    ({"quorum": ""}, 'quorum "" is no name'),
    ({"quorum": "Main_Quorum"}, 'quorum "Main_Quorum" is no name: use lower-case letters'),
    ({"quorum": "q" * 64}, "may not be more than 63"),
    ({"preference": {"policy": "Random"}}, 'supported values: "None", "Priority", "Ordinal", "NewestReplicaSet"'),
    ({"preference": {"noFailback": "10m"}}, "noFailback has no effect with policy None"),
    ({"preference": {"policy": "Ordinal", "noFailback": "soon"}}, 'noFailback "soon" is no duration'),
    ({"preference": {"policy": "Ordinal", "noFailback": "87601h"}}, "noFailback 87601h is too long: at most 87600h"),
    ({"candidates": {"serviceAccountNames": ["a", "a"]}}, "Duplicate value"),
    ({"candidates": {"serviceAccountNames": ["system:serviceaccount:shop:billing"]}}, "write only the name"),
    ({"candidates": {"serviceAccountNames": "billing"}}, "must be of type array"),
    (expression(key="app", operator="In"), 'operator In of key "app" needs at least one value'),
    (expression(key="app", operator="NotIn", values=[]), 'operator NotIn of key "app" needs at least one value'),
    (expression(key="app", operator="Exists", values=["x"]), 'operator Exists of key "app" takes no values: remove'),
    (expression(key="app", operator="Equals", values=["x"]), 'supported values: "In", "NotIn", "Exists",'),
    (expression(operator="Exists"), "key: Required value"),
    ({"leaderService": {"name": "billing-leader"}}, "ports: Required value"),
    ({"leaderService": {"ports": SERVICE["ports"]}}, "name: Required value"),
    (service(name="Billing_Leader"), 'leaderService.name "Billing_Leader" is no Service name'),
    (service(name="1st"), "beginning with a letter"),
    (service(ports=[]), "should have at least 1 items"),
    (port(port=0), "should be greater than or equal to 1"),
    (port(port=70000), "should be less than or equal to 65535"),
    (port(targetPort="http"), "must be of type integer"),
    (port(protocol="HTTP"), 'supported values: "TCP", "UDP", "SCTP"'),
    (port(name="HTTP"), 'port name "HTTP" is no name'),
    (service(ports=[{"name": "a", "port": 80}, {"name": "a", "port": 81}]), "Duplicate value"),
    (service(ports=[{"name": "a", "port": 80}, {"name": "b", "port": 80}]), "two ports have the same number"),
    (None, "spec"),
]  # fmt: skip

BAD_NAMES = [
    ("billing." + "x", 'metadata.name "billing.x" must not contain dots'),
    ("b" * 53, "metadata.name has more than 52 characters: choose a shorter name"),
]

ENDPOINTS = ["a:7400"]
BAD_QUORUMS: list[tuple[Any, str]] = [
    ({}, "endpoints: Required value"),
    ({"endpoints": []}, "should have at least 1 items"),
    ({"endpoints": ["a"]}, 'endpoint "a" must be host:port, for example'),
    ({"endpoints": ["http://a:7400"]}, "must be host:port"),
    ({"endpoints": ["a:0"]}, 'endpoint "a:0" must be host:port'),
    ({"endpoints": ["a:70000"]}, 'endpoint "a:70000" must be host:port'),
    ({"endpoints": ["a:1", "a:1"]}, "Duplicate value"),
    ({"endpoints": ENDPOINTS, "replicas": 4}, "replicas must be 1, 3, 5, 7 or 9: an even number"),
    ({"endpoints": ENDPOINTS, "replicas": 0}, "replicas must be 1, 3, 5, 7 or 9"),
    ({"endpoints": ENDPOINTS, "replicas": 11}, "replicas must be 1, 3, 5, 7 or 9"),
    ({"endpoints": ENDPOINTS, "clusterUID": "main"}, 'clusterUID "main" is no uuid'),
]


def refusal(api: ApiServer, path: str, body: dict[str, Any]) -> str:
    """Return what the API server says; fail if it takes the object."""
    with pytest.raises(ApiError) as caught:
        api.request("POST", f"{path}?fieldValidation=Strict", body)
    assert caught.value.status == 422, caught.value
    print(caught.value.message)
    return caught.value.message


def test_there_are_enough_bad_objects() -> None:
    """The table below is long enough to mean something."""
    assert len(BAD_LEASES) + len(BAD_NAMES) + len(BAD_QUORUMS) >= 40


@pytest.mark.parametrize(("spec", "text"), BAD_LEASES, ids=lambda value: str(value)[:60])
def test_bad_lease_is_refused_with_a_sentence(api: ApiServer, namespace: str, spec: Any, text: str) -> None:
    """The API server names the field, the value and the way out."""
    assert text in refusal(api, f"{GROUP}/namespaces/{namespace}/leaderleases", lease(spec))


@pytest.mark.parametrize(("name", "text"), BAD_NAMES, ids=lambda value: str(value)[:30])
def test_bad_lease_name_is_refused(api: ApiServer, namespace: str, name: str, text: str) -> None:
    """Names that the quorum or child objects could not carry are refused at once."""
    assert text in refusal(api, f"{GROUP}/namespaces/{namespace}/leaderleases", lease({}, name))


@pytest.mark.parametrize(("spec", "text"), BAD_QUORUMS, ids=lambda value: str(value)[:60])
def test_bad_quorum_is_refused_with_a_sentence(api: ApiServer, spec: Any, text: str) -> None:
    """As for leases."""
    assert text in refusal(api, QUORUMS, quorum(spec, "bad"))


def test_quorum_name_with_a_dot_is_refused(api: ApiServer) -> None:
    """LeaderLeases could not name it."""
    assert "because LeaderLeases name it" in refusal(api, QUORUMS, quorum({"endpoints": ENDPOINTS}, "a.b"))


def test_unknown_field_is_refused(api: ApiServer, namespace: str) -> None:
    """A typing error is not dropped silently when validation is strict, as kubectl asks for."""
    path = f"{GROUP}/namespaces/{namespace}/leaderleases?fieldValidation=Strict"
    with pytest.raises(ApiError, match=r'unknown field "spec.leaseDurationSeconds"'):
        api.request("POST", path, lease({"leaseDurationSeconds": 3}))


def changed(api: ApiServer, path: str, body: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Create an object; return it with a changed spec, to be put back."""
    found = api.request("POST", path, body)
    found = copy.deepcopy(found)
    found["spec"].update(spec)
    return dict(found)


def test_quorum_of_a_lease_is_immutable(api: ApiServer, namespace: str) -> None:
    """The message says why, and what to do instead."""
    path = f"{GROUP}/namespaces/{namespace}/leaderleases"
    body = changed(api, path, lease({}), quorum="other")
    with pytest.raises(ApiError, match=r'quorum cannot be changed from "default" to "other".*delete this LeaderLease'):
        api.request("PUT", f"{path}/billing", body)


def test_cluster_of_a_quorum_is_immutable(api: ApiServer) -> None:
    """A quorum with other disks is another quorum; the uuid can be added later, but not changed or taken away."""
    body = changed(api, QUORUMS, quorum({"endpoints": ENDPOINTS}, "fixed"), clusterUID=UUID)
    body = api.request("PUT", f"{QUORUMS}/fixed", body)
    with pytest.raises(ApiError, match="clusterUID cannot be changed"):
        api.request("PUT", f"{QUORUMS}/fixed", {**body, "spec": {**body["spec"], "clusterUID": OTHER_UUID}})
    with pytest.raises(ApiError, match="clusterUID cannot be removed"):
        api.request("PUT", f"{QUORUMS}/fixed", {**body, "spec": {"endpoints": ENDPOINTS}})


def test_empty_spec_gets_every_default(api: ApiServer, namespace: str) -> None:
    """Defaults are in the schema, so that everybody sees them."""
    found = api.request("POST", f"{GROUP}/namespaces/{namespace}/leaderleases", lease({}))
    assert found["spec"] == {
        "quorum": "default",
        "leaseDuration": "3s",
        "renewDeadline": "2s",
        "retryPeriod": "500ms",
        "lockDelay": "0s",
        "holders": 1,
        "mode": "Active",
        "candidates": {},
        "preference": {"policy": "None"},
    }


GOOD = [
    {"leaseDuration": "100ms", "renewDeadline": "66ms", "retryPeriod": "16ms"},
    {"leaseDuration": "1h", "renewDeadline": "30m"},
    {"leaseDuration": "1m30s", "renewDeadline": "1m", "retryPeriod": "49999ms"},
    {"leaseDuration": "1.5s", "renewDeadline": "1s", "retryPeriod": "250ms"},
    {"lockDelay": "15s", "mode": "Paused", "quorum": "eu-1"},
    {"preference": {"policy": "Ordinal", "noFailback": "10m"}},
    {"preference": {"policy": "Priority", "noFailback": "87600h"}},
    {"candidates": {"podSelector": {"matchLabels": {"app": "billing"}}, "serviceAccountNames": ["billing"]}},
    expression(key="app.kubernetes.io/name", operator="In", values=["billing"]),
    expression(key="app", operator="Exists"),
    {"leaderService": SERVICE},
    service(ports=[{"name": "dns", "port": 53}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]),
]


@pytest.mark.parametrize("spec", GOOD, ids=str)
def test_good_lease_is_taken(api: ApiServer, namespace: str, spec: Any) -> None:
    """A rule that refuses good objects would be in everybody's way."""
    api.request("POST", f"{GROUP}/namespaces/{namespace}/leaderleases", lease(spec))


@pytest.mark.parametrize("endpoint", ["10.0.0.1:7400", "[fd00::1]:7400", "leaderlease-0.leaderlease.x.svc:7400"])
def test_good_endpoint_is_taken(api: ApiServer, endpoint: str) -> None:
    """Names and addresses, with a port."""
    api.request("POST", f"{QUORUMS}?dryRun=All", quorum({"endpoints": [endpoint]}, "good"))


def columns(api: ApiServer, path: str) -> list[tuple[str, int]]:
    """Return the names and priorities of a resource's columns."""
    table = api.request("GET", path, accept=TABLE)
    return [(column["name"], column["priority"]) for column in table["columnDefinitions"]]


def test_columns(api: ApiServer, namespace: str) -> None:
    """`kubectl get ll` shows who leads, under which term, since when; `-o wide` says why."""
    assert columns(api, f"{GROUP}/namespaces/{namespace}/leaderleases") == [
        *(("Name", 0), ("Holder", 0), ("Term", 0), ("Ready", 0), ("Since", 0), ("Age", 0), ("Reason", 1), ("Quorum", 1))
    ]
    assert columns(api, QUORUMS) == [
        *(("Name", 0), ("Healthy", 0), ("Can Lose", 0), ("Available", 0), ("Epoch", 0), ("Age", 0)),
        *(("Reason", 1), ("Cluster", 1)),
    ]


def test_columns_show_the_status(api: ApiServer, namespace: str) -> None:
    """A row reads the mirror that the operator wrote, and a list can be narrowed to one quorum."""
    path = f"{GROUP}/namespaces/{namespace}/leaderleases"
    api.request("POST", path, lease({"quorum": "eu"}))
    now = "2026-01-01T00:00:00Z"
    ready = {"type": "Ready", "status": "True", "reason": "LeaderElected", "message": "", "lastTransitionTime": now}
    status = {"holder": {"identity": "billing-1"}, "term": 7, "acquireTime": now, "conditions": [ready]}
    body = {**lease({}), "status": {**status, "quorum": {"summary": "3/3"}}}
    del body["spec"]
    api.request("PATCH", f"{path}/billing/status?fieldManager=t", body, content="application/apply-patch+yaml")
    rows = api.request("GET", f"{path}?fieldSelector=spec.quorum%3Deu", accept=TABLE)["rows"]
    assert [rows[0]["cells"][i] for i in (0, 1, 2, 3, 6, 7)] == [
        "billing",
        "billing-1",
        7,
        "True",
        "LeaderElected",
        "3/3",
    ]
    assert not api.request("GET", f"{path}?fieldSelector=spec.quorum%3Ddefault", accept=TABLE)["rows"]


def test_short_names_and_category(api: ApiServer) -> None:
    """ll, lq, `kubectl get leadership` for both; nothing is added to the category `all`.

    A category must not be the name of a resource: `kubectl get leaderlease billing` would be refused.
    """
    found = {r["name"]: r for r in api.request("GET", GROUP)["resources"] if "/" not in r["name"]}
    assert {name: (r["shortNames"], r["categories"], r["namespaced"]) for name, r in found.items()} == {
        "leaderleases": (["ll"], ["leadership"], True),
        "leaderquorums": (["lq"], ["leadership"], False),
    }


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("leaderlease", "LeaderLease declares a lease that one of its candidates holds at a time"),
        ("leaderlease.spec.renewDeadline", "A holder that hears of no renewal for so long stops leading"),
        ("leaderlease.status.term", "It is the fencing token"),
        ("leaderquorum.spec.endpoints", "Where the nodes serve clients"),
    ],
)
def test_explain_reads_well(api: ApiServer, field: str, text: str) -> None:
    """`kubectl explain` says what a field means."""
    kubectl = binary("kubectl")
    require("apiserver", kubectl, "no kubectl")
    assert kubectl is not None
    environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig), "HOME": str(api.home)}
    result = subprocess.run([kubectl, "explain", field], capture_output=True, text=True, env=environment, timeout=60)
    assert result.returncode == 0, result.stderr
    assert text in " ".join(result.stdout.split())


def test_every_field_is_explained(api: ApiServer) -> None:
    """No field of either resource is without a description."""
    found = api.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]

    def bare(path: str, schema: dict[str, Any]) -> list[str]:
        offenders = [] if schema.get("description") or path.count(".") < 2 else [path]
        for name, child in schema.get("properties", {}).items():
            offenders += bare(f"{path}.{name}", child)
        items = schema.get("items", {})
        return offenders + [
            o for name, child in items.get("properties", {}).items() for o in bare(f"{path}.{name}", child)
        ]

    for crd in found:
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert bare(crd["spec"]["names"]["kind"], schema) == []
