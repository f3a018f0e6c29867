"""The sidecar in a pod: pure, pod in and pod out."""

import copy

import pytest

from leaderlease.controller.inject import Injection, inject, patch
from leaderlease.controller.resource import sidecar_state
from leaderlease.sidecar.config import PORT_API
from support.pods import CA, INJECTION, Pod, flags, make, sidecar

# --- what is put in ------------------------------------------------------------------------------------------


def test_sidecar_is_a_native_one_and_the_first() -> None:
    """It answers before the application's own init containers run."""
    pod = inject(make("billing", {"initContainers": [{"name": "migrate", "image": "app:1"}]}), INJECTION)
    assert [one["name"] for one in pod["spec"]["initContainers"]] == ["leaderlease", "migrate"]
    assert sidecar(pod)["restartPolicy"] == "Always"
    assert sidecar(pod)["image"] == "agent:1"


def test_ready_asks_whether_the_api_answers() -> None:
    """Never whether this pod leads: a roll-out would wait for ever. And it asks where the kubelet can reach it."""
    pod = inject(make(), INJECTION)
    for probe in ("startupProbe", "readinessProbe"):
        assert sidecar(pod)[probe]["httpGet"] == {"path": "/readyz", "port": "leaderlease"}
    assert sidecar(pod)["ports"] == [{"name": "leaderlease", "containerPort": 4041, "protocol": "TCP"}]
    assert flags(pod)["--listen-pod"] == [":4041"]
    assert flags(pod)["--listen"] == [f"127.0.0.1:{PORT_API}"]
    assert "livenessProbe" not in sidecar(pod)


def test_application_gets_address_and_file() -> None:
    """Every other container; read only."""
    spec = {"initContainers": [{"name": "migrate", "image": "app:1"}]}
    pod = inject(make("billing", spec, port="5050"), INJECTION)
    for container in (pod["spec"]["initContainers"][1], *pod["spec"]["containers"]):
        env = {one["name"]: one["value"] for one in container["env"]}
        assert env == {"LEADERLEASE_URL": "http://127.0.0.1:5050", "LEADERLEASE_FILE": "/leaderlease/leader.json"}
        assert container["volumeMounts"] == [{"name": "leaderlease", "mountPath": "/leaderlease", "readOnly": True}]
    assert flags(pod)["--file"] == ["/leaderlease/leader.json"]


def test_nonce_is_out_of_the_applications_reach() -> None:
    """Whoever reads the nonce can release the lease, so the state has a volume of its own."""
    pod = inject(make(), INJECTION)
    mounts = {one["mountPath"]: one["name"] for one in sidecar(pod)["volumeMounts"]}
    private = mounts[flags(pod)["--state-dir"][0]]
    assert private not in {one["name"] for one in pod["spec"]["containers"][0]["volumeMounts"]}


def test_variable_of_the_application_stays() -> None:
    """A container that sets LEADERLEASE_URL itself knows why."""
    env = [{"name": "LEADERLEASE_URL", "value": "http://elsewhere"}]
    pod = make()
    pod["spec"]["containers"][0]["env"] = env
    found = inject(pod, INJECTION)["spec"]["containers"][0]["env"]
    assert [one["value"] for one in found if one["name"] == "LEADERLEASE_URL"] == ["http://elsewhere"]


def test_identity_comes_from_a_token_for_our_audience() -> None:
    """And the nodes' authority from an annotation, so that the namespace needs no ConfigMap."""
    pod = inject(make(token_seconds="600"), INJECTION)
    volume = next(one for one in pod["spec"]["volumes"] if one["name"] == "leaderlease-identity")
    token, authority = volume["projected"]["sources"]
    assert token["serviceAccountToken"] == {"audience": "leaderlease", "expirationSeconds": 600, "path": "token"}
    [item] = authority["downwardAPI"]["items"]
    assert item == {"path": "ca.crt", "fieldRef": {"fieldPath": "metadata.annotations['leaderlease.dev/ca']"}}
    assert pod["metadata"]["annotations"]["leaderlease.dev/ca"] == CA
    assert flags(pod)["--tls-ca"] == ["/var/run/secrets/leaderlease.dev/ca.crt"]
    assert flags(pod)["--token-file"] == ["/var/run/secrets/leaderlease.dev/token"]


def test_open_quorum_needs_no_identity() -> None:
    """Without an authority and an audience there is no volume, and no flag."""
    pod = inject(make(), Injection(image="agent:1", endpoints=("node:7400",), audience=""))
    assert {one["name"] for one in pod["spec"]["volumes"]} == {"leaderlease", "leaderlease-state"}
    assert not {"--tls-ca", "--token-file"} & flags(pod).keys()


def test_downward_api_tells_the_sidecar_who_it_is() -> None:
    """Name, namespace, uid and node."""
    env = {one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"] for one in sidecar(inject(make(), INJECTION))["env"]}
    assert env == {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_UID": "metadata.uid",
        "NODE_NAME": "spec.nodeName",
    }


def test_sidecar_is_restricted() -> None:
    """All that the Pod Security level `restricted` asks of a container, and a read-only root file system."""
    assert sidecar(inject(make(), INJECTION))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    context = sidecar(inject(make(run_as_user="pod"), INJECTION))["securityContext"]
    assert "runAsUser" not in context
    assert context["runAsNonRoot"] is True


# --- when ----------------------------------------------------------------------------------------------------


def test_second_injection_changes_nothing() -> None:
    """The marker tells, so a webhook that is called again, or after `leaderlease inject`, does nothing."""
    once = inject(make(), INJECTION)
    assert once["metadata"]["annotations"]["leaderlease.dev/status"] == "injected"
    assert inject(once, INJECTION) is once
    assert patch(once, once) == []


def test_input_is_not_changed() -> None:
    """A pod goes in, another comes out."""
    pod = make()
    before = copy.deepcopy(pod)
    inject(pod, INJECTION)
    assert pod == before


@pytest.mark.parametrize(
    ("state", "pod"),
    [
        ("off", make(None)),
        ("off", make("false")),
        ("host network", make("billing", {"hostNetwork": True})),
        ("own", make("billing", {"initContainers": [{"name": "leaderlease", "image": "mine"}]})),
        ("own", make("billing", {"containers": [{"name": "leaderlease", "image": "mine"}]})),
        ("injected", make(status="injected")),
    ],
)
def test_pod_is_left_alone(state: str, pod: Pod) -> None:
    """No label, a hand-written sidecar, the host's network, or injected already."""
    assert sidecar_state(pod) == state
    assert inject(pod, INJECTION) is pod


def test_host_network_on_request() -> None:
    """Who asks for it gets a sidecar that listens at the host's ports."""
    pod = make("billing", {"hostNetwork": True}, host_network="true")
    assert sidecar(inject(pod, INJECTION))["name"] == "leaderlease"


def test_patch_leads_from_one_pod_to_the_other() -> None:
    """Members of metadata and spec are replaced as a whole; nothing else is touched."""
    before = make()
    del before["metadata"]["annotations"]
    after = inject(before, INJECTION)
    result = copy.deepcopy(before)
    for change in patch(before, after):
        _, part, key = change["path"].split("/")
        assert change["op"] == "add"
        result[part][key] = change["value"]
    assert result == after
