"""What a pod's annotations ask for: each becomes a flag of the sidecar, or is refused with a sentence."""

import pytest

from leaderlease.cli.sidecar import configure
from leaderlease.cli.sidecar import sidecar as sidecar_command
from leaderlease.controller.inject import inject
from leaderlease.controller.parameters import SUCCESSORS, quantity, read_parameters
from leaderlease.errors import ConfigError
from leaderlease.sidecar.config import PREFERENCES as SIDECAR_PREFERENCES
from support.pods import INJECTION, Pod, flags, make, sidecar


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
    assert SUCCESSORS == SIDECAR_PREFERENCES
    for preference in SIDECAR_PREFERENCES:
        assert flags(inject(make(successor_preference=preference), INJECTION))["--successor-preference"] == [preference]


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


@pytest.mark.parametrize("key", ["status", "ca", "role", "term", "hint"])
def test_annotations_for_others_are_no_parameters(key: str) -> None:
    """What the operator writes is not refused, and asks for nothing."""
    assert read_parameters(make(**{key: "7"})) == read_parameters(make())
