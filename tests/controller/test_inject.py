"""The sidecar in a pod: pure, pod in and pod out."""

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from leaderlease.cli.sidecar import sidecar as sidecar_command
from leaderlease.controller.certificates import Certificate
from leaderlease.controller.inject import Injection, inject, patch
from leaderlease.controller.missed import plan_pod
from leaderlease.controller.parameters import FOREIGN, quantity, read_parameters
from leaderlease.controller.resource import pod_of, sidecar_state
from leaderlease.errors import ConfigError
from leaderlease.sidecar.config import PORT_API
from leaderlease.sidecar.config import PREFERENCES as SIDECAR_PREFERENCES

NOW = "2030-01-01T00:00:10.000Z"
CA = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
INJECTION = Injection(image="agent:1", endpoints=("node-0.nodes:7400", "node-1.nodes:7400"), ca=CA)
Pod = dict[str, Any]


def make(label: str | None = "billing", spec: Any = None, /, **annotations: str) -> Pod:
    """Return a pod as a Deployment makes it; in names of annotations, _ is -."""
    container = {"name": "app", "image": "app:1", "ports": [{"name": "http", "containerPort": 8080}]}
    return {
        "metadata": {
            "generateName": "billing-5d8f-",
            "labels": {"app": "billing", **({"leaderlease.dev/inject": label} if label is not None else {})},
            "annotations": {f"leaderlease.dev/{key.replace('_', '-')}": text for key, text in annotations.items()},
        },
        "spec": {"containers": [container], **(spec or {})},
    }


def sidecar(pod: Pod) -> dict[str, Any]:
    """Return the first init container."""
    found: dict[str, Any] = pod["spec"]["initContainers"][0]
    return found


def flags(pod: Pod) -> dict[str, list[str]]:
    """Return the sidecar's arguments by flag."""
    first, *rest = sidecar(pod)["args"]
    assert first == "sidecar"
    found: dict[str, list[str]] = {}
    for flag, value in zip(rest[::2], rest[1::2], strict=True):
        found.setdefault(flag, []).append(value)
    return found


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


# --- parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "flag", "values"),
    [
        (make("billing.reports"), "--lease", ["billing", "reports"]),
        (make("billing", lease="reports, carts"), "--lease", ["billing", "reports", "carts"]),
        (make("", lease="reports"), "--lease", ["reports"]),
        (make(port="5050"), "--listen", ["127.0.0.1:5050"]),
        (make(port="5050"), "--listen-pod", [":5051"]),
        (make(pod_port="6060"), "--listen-pod", [":6060"]),
        (make(log_level="debug"), "--log-level", ["debug"]),
        (make(), "--log-level", ["info"]),
        (make(), "--successor-preference", ["newest-replicaset"]),
        (make(successor_preference="lowest-ordinal"), "--successor-preference", ["lowest-ordinal"]),
        (make(health_http="8080/healthz?full=1"), "--health", ["http://127.0.0.1:8080/healthz?full=1"]),
        (make(health_http="http/healthz"), "--health", ["http://127.0.0.1:8080/healthz"]),
        (make(health_http="8080"), "--health", ["http://127.0.0.1:8080/"]),
        (make(health_tcp="http"), "--health", ["tcp://127.0.0.1:8080"]),
        (make(health_exec="test -e $(FILE)"), "--health", ["exec:test -e $$(FILE)"]),
        (make(health_tcp="1", health_period_seconds="0.25"), "--health-period", ["0.25"]),
        (make(health_tcp="1", health_timeout_seconds="0.1"), "--health-timeout", ["0.1"]),
        (make(health_tcp="1", health_failures="5"), "--health-failures", ["5"]),
        (make(health_tcp="1", health_successes="2"), "--health-successes", ["2"]),
        (make(step_down_grace_seconds="0"), "--step-down-grace", ["0"]),
        (make(stale_after_seconds="30"), "--stale-after", ["30"]),
        (make(drain="tcp:http"), "--drain", ["tcp://127.0.0.1:8080"]),
        (make(drain="tcp:http"), "--drain-timeout", ["25"]),
        (make("b", {"terminationGracePeriodSeconds": 12}, drain="tcp:1"), "--drain-timeout", ["7"]),
        (make("b", {"terminationGracePeriodSeconds": 0}, drain="tcp:1"), "--drain-timeout", ["0"]),
        (make(drain="health", health_tcp="1", drain_seconds="20"), "--drain-timeout", ["20"]),
    ],
)
def test_parameter_becomes_a_flag(pod: Pod, flag: str, values: list[str]) -> None:
    """Each annotation ends in what `leaderlease sidecar` understands."""
    found = inject(pod, INJECTION)
    assert flags(found)[flag] == values
    arguments = [argument.replace("$$(", "$(") for argument in sidecar(found)["args"][1:]]
    sidecar_command.make_context("sidecar", arguments)


def test_sidecar_takes_its_settings() -> None:
    """What is made here is a configuration there, with everything set."""
    from leaderlease.cli.sidecar import configure

    every = {
        "log_level": "debug",
        "health_http": "http/healthz",
        "health_failures": "2",
        "drain": "health",
        "drain_seconds": "9",
        "stale_after_seconds": "5",
        "successor_preference": "lowest-ordinal",
    }
    arguments = sidecar(inject(make("billing.reports", None, **every), INJECTION))["args"][1:]
    settings = dict(sidecar_command.make_context("sidecar", arguments).params)
    settings.pop("log_level")
    config = configure(settings)
    assert config.leases == ("default/billing", "default/reports")
    assert (config.gate and config.gate.failures, config.drain, config.drain_timeout_s) == (2, "health", 9.0)
    assert config.preference == "lowest-ordinal"


def test_preferences_are_those_of_the_sidecar() -> None:
    """The two packages do not know each other; this keeps them together."""
    for preference in SIDECAR_PREFERENCES:
        read_parameters(make(successor_preference=preference))


@pytest.mark.parametrize(
    ("annotations", "requests", "limits"),
    [
        ({}, {"cpu": "10m", "memory": "32Mi"}, {"memory": "64Mi"}),
        ({"requests-memory": "100Mi"}, {"cpu": "10m", "memory": "100Mi"}, {"memory": "100Mi"}),
        ({"limits-memory": "24Mi"}, {"cpu": "10m", "memory": "24Mi"}, {"memory": "24Mi"}),
        ({"limits-cpu": "1"}, {"cpu": "10m", "memory": "32Mi"}, {"memory": "64Mi", "cpu": "1"}),
        ({"requests-cpu": "0.5"}, {"cpu": "0.5", "memory": "32Mi"}, {"memory": "64Mi"}),
    ],
)
def test_resources(annotations: dict[str, str], requests: dict[str, str], limits: dict[str, str]) -> None:
    """One of the two alone moves the default of the other, so that the API server takes both."""
    pod = make("billing", None, **{f"resources-{key}": value for key, value in annotations.items()})
    assert sidecar(inject(pod, INJECTION))["resources"] == {"requests": requests, "limits": limits}


def test_image_of_the_pod_wins() -> None:
    """Likewise its pull policy."""
    found = sidecar(inject(make(image="mine:2", image_pull_policy="Never"), INJECTION))
    assert (found["image"], found["imagePullPolicy"]) == ("mine:2", "Never")
    assert "imagePullPolicy" not in sidecar(inject(make(), INJECTION))


def test_quantities() -> None:
    """As Kubernetes counts."""
    assert quantity("1500m") == quantity("1.5")
    assert quantity("1Ki") == 1024
    assert quantity("1k") == 1000
    assert [quantity(text) for text in ("", "1 Mi", "Mi", "-1", "1mi")] == [None] * 5


@pytest.mark.parametrize(
    ("pod", "sentence"),
    [
        (make(""), "label leaderlease.dev/inject: '' names no lease"),
        (make("true"), "'true' must be the name of a LeaderLease"),
        (make("Billing"), "label leaderlease.dev/inject: 'Billing' is no name of a LeaderLease: at most 63"),
        (make(lease="other/billing"), "annotation leaderlease.dev/lease: 'other/billing': write the name alone"),
        (make(lease="a_b"), "annotation leaderlease.dev/lease: 'a_b' is no name"),
        (make(lease=" ".join(f"l{n}" for n in range(64))), "annotation leaderlease.dev/lease: 65 leases, at most 64"),
        (make(quorum="A"), "annotation leaderlease.dev/quorum: 'A' must be the name of a LeaderQuorum"),
        (make(image=""), "annotation leaderlease.dev/image: '' must be a container image"),
        (make(image_pull_policy="always"), "'always' must be Always, IfNotPresent or Never"),
        (make(port="0"), "annotation leaderlease.dev/port: '0' must be a whole number from 1 to 65534"),
        (make(port="http"), "annotation leaderlease.dev/port: 'http' must be a whole number"),
        (make(port="8080"), "annotation leaderlease.dev/port: 8080 is a port of a container of this pod, too"),
        (make(pod_port="8080"), "annotation leaderlease.dev/pod-port: 8080 is a port of a container"),
        (make(pod_port="4040"), "annotation leaderlease.dev/pod-port: 4040 must differ from leaderlease.dev/port"),
        (make(log_level="loud"), "annotation leaderlease.dev/log-level: 'loud' must be debug, info, warning or error"),
        (make(health_http="web/x"), "'web/x' must be a port from 1 to 65535, or a port's name (this pod names: http)"),
        (make(health_http="8080/a b"), "annotation leaderlease.dev/health-http: '8080/a b' must be PORT/PATH"),
        (make(health_tcp="70000"), "annotation leaderlease.dev/health-tcp: '70000' must be a port"),
        (make(health_exec=" "), "annotation leaderlease.dev/health-exec: ' ' must be a command"),
        (make(health_tcp="1", health_exec="x"), "health-tcp and leaderlease.dev/health-exec: choose one of them"),
        (make(health_failures="2"), "annotation leaderlease.dev/health-failures: has no effect without"),
        (make(health_tcp="1", health_failures="0"), "'0' must be a whole number from 1 to 100"),
        (make(health_tcp="1", health_period_seconds="1s"), "'1s' must be seconds from 0.05 to 3600, for example 2.5"),
        (make(stale_after_seconds="0.1"), "'0.1' must be seconds from 0.5 to 3600"),
        (make(drain="yes"), "annotation leaderlease.dev/drain: 'yes' must be none, health or tcp:PORT"),
        (make(drain="health"), "annotation leaderlease.dev/drain: 'health' must be none or tcp:PORT; health needs"),
        (make(drain_seconds="3"), "annotation leaderlease.dev/drain-seconds: has no effect without"),
        (make(drain="tcp:1", drain_seconds="30"), "below the pod's terminationGracePeriodSeconds, which is 30"),
        (make(token_seconds="60"), "'60' must be a whole number from 600 to 86400"),
        (
            make(run_as_user="0"),
            "annotation leaderlease.dev/run-as-user: '0' must be a whole number from 1 to 2147483647",
        ),
        (make(run_as_user="root"), "or pod"),
        (make(host_network="yes"), "annotation leaderlease.dev/host-network: 'yes' must be true or false"),
        (make(successor_preference="oldest"), "'oldest' must be none, newest-replicaset or lowest-ordinal"),
        (make(**{"resources-limits-memory": "64MB"}), "'64MB' must be a quantity, for example 20m of cpu"),
        (
            make(**{"resources-limits-cpu": "1", "resources-requests-cpu": "2"}),
            "'2' must be at most leaderlease.dev/resources-limits-cpu, which is 1",
        ),
        (make(prot="4040"), "annotation leaderlease.dev/prot: there is no such parameter; did you mean"),
        (make(zzz="1"), "annotation leaderlease.dev/zzz: there is no such parameter; there are drain, "),
        (make("b", {"volumes": [{"name": "leaderlease"}]}), "volume 'leaderlease': the sidecar has a volume of this"),
        (
            make("b", {"containers": [{"name": "app", "volumeMounts": [{"mountPath": "/leaderlease/"}]}]}),
            "container 'app': mountPath /leaderlease is where the sidecar's file comes",
        ),
    ],
)
def test_refusal_names_field_value_and_what_is_allowed(pod: Pod, sentence: str) -> None:
    """One sentence, that a person can act on."""
    with pytest.raises(ConfigError) as error:
        inject(pod, INJECTION)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", FOREIGN)
def test_annotations_for_others_are_no_parameters(key: str) -> None:
    """A priority, or what the operator writes, is not refused."""
    read_parameters(make(**{key: "7"}))


# --- Events --------------------------------------------------------------------------------------------------


def events(pod: Pod, *existing: str, namespace: str = "shop", is_injecting: bool = True) -> list[tuple[str, str]]:
    """Return reason and note of the Events about a pod."""
    pod = copy.deepcopy(pod)
    pod["metadata"] |= {"namespace": namespace, "name": "billing-0", "uid": "12345678-abc", "resourceVersion": "1"}
    posts = plan_pod(
        pod_of(pod), existing, is_injecting=is_injecting, own_namespace="leaderlease-system", now=NOW
    )  # fmt: skip
    for post in posts:
        regarding = post.body["regarding"]
        assert (regarding["apiVersion"], regarding["kind"], regarding["namespace"]) == ("v1", "Pod", namespace)
        assert post.body["type"] == "Warning"
    return [(post.body["reason"], post.body["note"]) for post in posts]


def test_missed_pod_gets_an_event() -> None:
    """It says what to do; whoever does not inject has missed nothing."""
    [(reason, note)] = events(make(), "billing")
    assert reason == "InjectionMissed"
    assert "delete the pod" in note
    assert events(make(), "billing", is_injecting=False) == []


@pytest.mark.parametrize(
    ("pod", "namespace", "why"),
    [
        (make("billing", {"hostNetwork": True}), "shop", "leaderlease.dev/host-network: 'true'"),
        (make(), "kube-system", "pods of namespace kube-system are never injected"),
        (make(), "leaderlease-system", "pods of namespace leaderlease-system are never injected"),
    ],
)
def test_pod_that_is_never_injected_is_told_why(pod: Pod, namespace: str, why: str) -> None:
    """Deleting it would not help."""
    [(reason, note)] = events(pod, "billing", namespace=namespace)
    assert reason == "InjectionMissed"
    assert why in note


def test_unknown_lease_gets_an_event() -> None:
    """Of several leases, those that do not exist are named; all may be there."""
    pod = inject(make("billing.carts", lease="reports"), INJECTION)
    [(reason, note)] = events(pod, "billing")
    assert reason == "LeaseNotFound"
    assert "shop/carts, shop/reports" in note
    assert events(pod, "billing", "carts", "reports") == []


def test_pod_without_wishes_gets_no_event() -> None:
    """No label, or `false`."""
    assert events(make(None)) == events(make("false")) == []


# --- the certificate -----------------------------------------------------------------------------------------


def write_certificate(home: Path, authority: trustme.CA, **options: Any) -> tuple[Path, Path]:
    """Write a certificate and its key, as a renewed Secret would come."""
    issued = authority.issue_cert("127.0.0.1", **options)
    cert, key = home / "tls.crt", home / "tls.key"
    for path, content in ((cert, issued.cert_chain_pems[0]), (key, issued.private_key_pem)):
        fresh = path.with_suffix(".new")
        content.write_to_path(fresh)
        fresh.replace(path)
    return cert, key


def test_renewed_certificate_is_taken(tmp_path: Path) -> None:
    """Once for each state of the files; files that do not fit together leave the old one in use."""
    authority = trustme.CA()
    certificate = Certificate(*write_certificate(tmp_path, authority))
    assert certificate.look() is False
    write_certificate(tmp_path, authority)
    assert (certificate.look(), certificate.look(), certificate.reloads) == (True, False, 1)
    trustme.CA().issue_cert("other").private_key_pem.write_to_path(tmp_path / "tls.key")
    assert (certificate.look(), certificate.reloads) == (False, 1)
    write_certificate(tmp_path, authority)
    assert certificate.look() is True


def test_certificate_that_ran_out_is_told(tmp_path: Path) -> None:
    """The sentence names file, time and the way out."""
    from datetime import UTC, datetime

    ended = datetime(2030, 1, 1, tzinfo=UTC)
    certificate = Certificate(*write_certificate(tmp_path, trustme.CA(), not_after=ended))
    assert certificate.check(ended.timestamp() - 1) == "ok"
    text = certificate.check(ended.timestamp())
    assert "tls.crt ran out at 2030-01-01 00:00 UTC" in text
    assert "renew its Secret" in text
    assert certificate.ends_at_s == ended.timestamp() > time.time()


def test_certificate_is_refused_by_its_own_flag(tmp_path: Path) -> None:
    """The sentence speaks of the webhook's flags."""
    with pytest.raises(ConfigError, match=f"--webhook-cert {os.fspath(tmp_path)}/no.crt cannot be read"):
        Certificate(tmp_path / "no.crt", tmp_path / "no.key")


# --- the command ---------------------------------------------------------------------------------------------

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")


def workload(kind: str) -> dict[str, Any]:
    """Return an object with a pod template."""
    template = make()
    del template["metadata"]["generateName"]
    spec: dict[str, Any] = {"template": template}
    if kind == "CronJob":
        spec = {"schedule": "@daily", "jobTemplate": {"spec": spec}}
    body = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "billing"}, "spec": spec}
    return {**body, **template, "kind": "Pod"} if kind == "Pod" else body


def run_inject(tmp_path: Path, text: str, *options: str) -> tuple[int, str, str]:
    """Run the command on a file."""
    import contextlib
    import io

    from leaderlease.cli import main

    file = tmp_path / "in.yaml"
    file.write_text(text)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["inject", "-f", str(file), "--endpoints", "node:7400", *options])
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("kind", ["Pod", *WORKLOADS, "CronJob"])
def test_command_injects_every_workload(tmp_path: Path, kind: str) -> None:
    """Pods, and the templates of whatever makes pods; a second run changes nothing."""
    code, out, err = run_inject(tmp_path, yaml.safe_dump(workload(kind)))
    assert code == 0, err
    assert f"injected: {kind} default/" in err
    assert out.count("restartPolicy: Always") == 1
    assert run_inject(tmp_path, out)[1] == out


def test_command_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    """To the letter: comments, order, anchors; and what looks like a date stays a text."""
    other = "# who reads this\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {at: 2030-01-01}\n"
    body = "kind: Pod\nmetadata:\n  labels: {leaderlease.dev/inject: b}\nspec:\n  containers:\n"
    body += "  - name: app\n    args: [2030-01-01, 12:30, 'on']\n"
    code, out, err = run_inject(tmp_path, f"{other}---\n{body}---\n{other}")
    assert code == 0, err
    first, middle, last = out.split("---\n")
    assert (first, last) == (other, other)
    assert yaml.safe_load(middle)["spec"]["containers"][0]["args"] == ["2030-01-01", "12:30", "on"]


def test_command_injects_lists(tmp_path: Path) -> None:
    """`kubectl get -o yaml` and kustomize write them."""
    both = yaml.safe_dump({"kind": "List", "items": [workload("Deployment"), {"kind": "Service"}]})
    code, out, _ = run_inject(tmp_path, both)
    assert code == 0
    assert [bool(one.get("spec")) for one in yaml.safe_load(out)["items"]] == [True, False]
    assert "restartPolicy: Always" in out


def test_command_labels_on_request(tmp_path: Path) -> None:
    """--lease is for manifests that know nothing of us."""
    body = workload("Deployment")
    del body["spec"]["template"]["metadata"]["labels"]
    assert "no pod with the label" in run_inject(tmp_path, json.dumps(body))[2]
    _, out, _ = run_inject(tmp_path, json.dumps(body), "--lease", "carts")
    template = yaml.safe_load(out)["spec"]["template"]
    assert template["metadata"]["labels"] == {"leaderlease.dev/inject": "carts"}
    assert flags(template)["--lease"] == ["carts"]


def test_command_takes_the_authority(tmp_path: Path) -> None:
    """A file with a key is refused: the annotation is public."""
    (tmp_path / "ca.crt").write_text(CA)
    (tmp_path / "bad.crt").write_text(CA + "-----BEGIN PRIVATE KEY-----\n")
    text = yaml.safe_dump(workload("Deployment"))
    _, out, _ = run_inject(tmp_path, text, "--tls-ca", str(tmp_path / "ca.crt"))
    assert yaml.safe_load(out)["spec"]["template"]["metadata"]["annotations"]["leaderlease.dev/ca"] == CA
    code, out, err = run_inject(tmp_path, text, "--tls-ca", str(tmp_path / "bad.crt"))
    assert (code, out) == (2, "")
    assert "and no key" in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "the input is no valid YAML: "),
        ("a: " + "[" * 5_000, "the input is no valid YAML: "),
        ("a: 0b_", "the input is no valid YAML: "),
        ("kind: List\nitems: 5\n", "a List whose items are no list"),
        ("kind: Pod\nmetadata: 2.5\n", "Pod: Expected `object | null`, got `float` - at `$.metadata`"),
        (
            "kind: Pod\nmetadata: {name: a, labels: [x]}\nspec: {containers: [{name: a}]}\n",
            "Pod: Expected `object | null`, got `array` - at `$.metadata.labels`",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, ports: [80]}]}\n",
            "Pod default/a: Expected `object`, got `int` - at `$.spec.containers[0].ports[0]`",
        ),
        ("kind: Deployment\nmetadata: {name: b}\nspec: {}\n", "spec.template.spec.containers is missing"),
        (yaml.safe_dump({**workload("Job"), "spec": {"template": make(port="0")}}), "Job default/billing: annotation "),
    ],
)
def test_command_refuses_with_one_sentence_and_writes_nothing(tmp_path: Path, text: str, sentence: str) -> None:
    """A stream that is refused must not be applied by halves."""
    code, out, err = run_inject(tmp_path, f"kind: ConfigMap\n---\n{text}")
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
