"""What the chart renders to, over all value sets, and what it refuses."""

import importlib.util
import json
import re
import textwrap
from typing import Any

import pytest
import yaml

from chart.conftest import CHART, KUBE_VERSION, NAMESPACE, ROOT, VALUES, Helm, pick

_spec = importlib.util.spec_from_file_location("charts_render", ROOT / "charts" / "render.py")
assert _spec is not None
assert _spec.loader is not None
render = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(render)

CLUSTER_WIDE = re.compile("Cluster.*|CustomResourceDefinition|MutatingWebhookConfiguration")
"""Kinds of objects without a namespace; their names may have 253 characters."""
EVERY = pytest.mark.parametrize("title", VALUES)


def pods(objects: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, spec) of every pod that the objects are or make."""
    found = []
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if one["kind"] == "Pod":
            found.append((one["metadata"]["name"], spec))
        elif one["kind"] in ("StatefulSet", "Deployment", "Job", "CronJob"):
            found.append((f"{one['kind']} {one['metadata']['name']}", spec["template"]["spec"]))
    return found


@EVERY
def test_lint_finds_nothing(helm: Helm, title: str) -> None:
    """helm lint has no errors and no warnings for any value set."""
    found = helm.run("lint", "--strict", str(CHART), "--kube-version", KUBE_VERSION, values=VALUES[title])
    assert found.returncode == 0, found.stdout


@EVERY
def test_every_pod_is_restricted_and_has_no_token_by_itself(helm: Helm, title: str) -> None:
    """No pod mounts a token that it did not name, and all but the one that must be root meet `restricted`."""
    found = pods(helm.objects(title))
    assert found
    for name, spec in found:
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


@EVERY
def test_names_fit_their_places(helm: Helm, title: str) -> None:
    """Whatever people call things: labels and the names of services have at most 63 characters, hashes included."""
    for one in helm.objects(title):
        name = one["metadata"]["name"]
        if not CLUSTER_WIDE.fullmatch(one["kind"]):
            assert len(name) <= (52 if one["kind"] in ("StatefulSet", "CronJob") else 63), (one["kind"], name)
        for value in (one["metadata"].get("labels") or {}).values():
            assert len(value) <= 63, (name, value)


@EVERY
def test_every_object_is_labelled_and_in_the_namespace(helm: Helm, title: str) -> None:
    """Selectors of people and of other tools find everything that belongs to a release."""
    for one in helm.objects(title):
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "leaderlease", one["metadata"]["name"]
        if not CLUSTER_WIDE.fullmatch(one["kind"]):
            assert one["metadata"]["namespace"] in (NAMESPACE, "shop", "billing"), one["metadata"]["name"]


@pytest.mark.parametrize(("replicas", "majority"), [(3, 2), (5, 3), (7, 4), (9, 5)])
def test_a_drain_leaves_a_majority(helm: Helm, replicas: int, majority: int) -> None:
    """minAvailable follows the number of nodes."""
    objects = yaml.safe_load_all(helm.text({"node": {"replicas": replicas}}))
    budget = pick([one for one in objects if one], "PodDisruptionBudget", "-node")
    assert budget["spec"]["minAvailable"] == majority


def test_one_node_can_be_drained(helm: Helm) -> None:
    """A budget for one node would block every drain."""
    names = [one["metadata"]["name"] for one in helm.objects("one node") if one["kind"] == "PodDisruptionBudget"]
    assert names == ["leaderlease-operator"]


def test_nodes_start_together_and_find_each_other_before_they_are_ready(helm: Helm) -> None:
    """After a common crash one alone is never ready."""
    objects = helm.objects("defaults")
    nodes = pick(objects, "StatefulSet")["spec"]
    assert nodes["podManagementPolicy"] == "Parallel"
    service = next(
        one for one in objects if one["kind"] == "Service" and one["metadata"]["name"] == nodes["serviceName"]
    )
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["clusterIP"] == "None"


def test_definitions_are_the_source_and_are_kept(helm: Helm) -> None:
    """The chart's definitions say what manifests/crd says, and survive an uninstallation unless told otherwise."""
    rendered = {one["metadata"]["name"]: one for one in helm.objects("defaults") if "Definition" in one["kind"]}
    for path in sorted((ROOT / "manifests" / "crd").glob("*.yaml")):
        source = yaml.safe_load(path.read_text())
        one = rendered.pop(source["metadata"]["name"])
        assert one["spec"] == source["spec"]
        assert one["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not rendered
    gone = [one for one in helm.objects("definitions go") if "Definition" in one["kind"]]
    assert len(gone) == 2
    assert not any("annotations" in one["metadata"] for one in gone)


def test_the_quorum_that_the_operator_applies_has_the_nodes_uuid(helm: Helm) -> None:
    """Nodes and LeaderQuorum are told the same cluster, and it is the same in every rendering."""
    for _ in range(2):
        objects = [one for one in yaml.safe_load_all(helm.text({})) if one]
        quorum = yaml.safe_load(pick(objects, "ConfigMap")["data"]["quorum.yaml"])
        environ = {
            one["name"]: one.get("value")
            for one in pick(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        assert environ["LEADERLEASE_CLUSTER"] == quorum["spec"]["clusterUID"]
        assert environ["LEADERLEASE_BOOTSTRAP"] == "true"
        assert len(quorum["spec"]["endpoints"]) == 4, "the nodes, and the Service"


def test_the_webhook_is_asked_about_labelled_pods_alone(helm: Helm) -> None:
    """An operator that is down concerns nobody else, and never the nodes."""
    [webhook] = pick(helm.objects("defaults"), "MutatingWebhookConfiguration")["webhooks"]
    assert webhook["objectSelector"] == {"matchExpressions": [{"key": "leaderlease.dev/inject", "operator": "Exists"}]}
    assert webhook["namespaceSelector"]["matchExpressions"][0]["values"] == ["kube-system", NAMESPACE]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["clientConfig"]["service"]["path"] == "/mutate"
    assert webhook["clientConfig"]["caBundle"]


def test_the_webhooks_authority_is_not_the_nodes(helm: Helm) -> None:
    """Whoever shows a certificate of the nodes' authority is an administrator."""
    objects = helm.objects("defaults")
    node, webhook = (pick(objects, "Secret", f"-{name}-tls")["data"]["ca.crt"] for name in ("node", "webhook"))
    assert node != webhook
    assert pick(objects, "Secret", "-operator-tls")["data"]["ca.crt"] == node


def test_rights_are_given_in_watched_namespaces_only(helm: Helm) -> None:
    """With watchNamespaces the ClusterRole holds what has no namespace."""
    objects = helm.objects("two namespaces")
    roles = [one for one in objects if one["kind"] == "Role"]
    assert [one["metadata"]["namespace"] for one in roles] == ["shop", "billing"]
    rules = pick(objects, "ClusterRole", "-operator")["rules"]
    groups = {group for rule in rules for group in rule.get("apiGroups", ())}
    assert groups == {"leaderlease.dev", "rbac.authorization.k8s.io", "events.k8s.io"}
    assert not any("leaderleases" in rule.get("resources", ()) for rule in rules)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"node": {"replica": 3}}, "additional properties 'replica' not allowed"),
    "an unknown key at the top": ({"nodes": {}}, "additional properties 'nodes' not allowed"),
    "two nodes": ({"node": {"replicas": 2}}, "use 1, 3, 5, 7 or 9"),
    "eleven nodes": ({"node": {"replicas": 11}}, "/node/replicas"),
    "a budget of all": ({"node": {"podDisruptionBudget": {"minAvailable": 3}}}, "no Kubernetes node could ever be"),
    "a budget of a minority": ({"node": {"podDisruptionBudget": {"minAvailable": 1}}}, "are no majority"),
    "a word as mode": ({"tls": {"mode": "none"}}, "/tls/mode"),
    "secrets without names": ({"tls": {"mode": "existingSecret"}}, "name the Secrets of node and operator"),
    "no webhook secret": (
        {"tls": {"mode": "existingSecret", "existingSecret": {"node": "a", "operator": "b"}}},
        "give webhook, a Secret",
    ),
    "late renewal": ({"tls": {"selfSigned": {"renewBeforeDays": 365}}}, "must be less than certDays"),
    "two monitors": (
        {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
        "scraped twice",
    ),
    "a webhook nobody serves": (
        {"operator": {"replicas": 0}, "webhook": {"failurePolicy": "Fail"}},
        "keep every labelled pod from starting",
    ),
    "no uuid": ({"quorum": {"clusterUID": "mine"}}, "/quorum/clusterUID"),
    "a text as number": ({"operator": {"replicas": "2"}}, "/operator/replicas"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_values_that_cannot_work_are_refused(helm: Helm, title: str) -> None:
    """Helm's error names the value, and says what is allowed."""
    values, told = REFUSED[title]
    assert told in helm.error(values)


def test_every_value_is_documented_and_known_to_the_schema() -> None:
    """No value without a sentence, none that the schema does not know, none that nothing uses."""
    text = (CHART / "values.yaml").read_text()
    told = render.descriptions(text)
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    for path, _ in render.leaves(yaml.safe_load(text), told):
        assert path in told, f"{path} has no comment"
        assert re.search(rf"\.{path.rpartition('.')[2]}\b|toYaml .*(Probe|retention)", templates), f"{path} is not used"


def test_the_schema_is_closed_everywhere() -> None:
    """A misspelt key is refused at every depth; only maps that hold what people want are open."""

    def look(schema: dict[str, Any], path: str) -> None:
        for key, below in schema.get("properties", {}).items():
            look(below, f"{path}.{key}".removeprefix("."))
        if schema.get("properties") and path != "global":
            assert schema["additionalProperties"] is False, path

    look(json.loads((CHART / "values.schema.json").read_text()), "")


def test_what_is_rendered_is_up_to_date(helm: Helm) -> None:
    """`make manifests` would change nothing."""
    for path, text in render.outputs().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)}: run make manifests"


def test_notes_end_in_a_first_lease(helm: Helm) -> None:
    """The last thing that a person reads can be pasted, and is valid YAML."""
    text = (CHART / "templates" / "NOTES.txt").read_text()
    pasted = text.partition("<<'YAML'\n")[2].partition("  YAML\n")[0]
    pasted = textwrap.dedent(re.sub(r"{{.*?}}", "x", pasted))
    lease, deployment = yaml.safe_load_all(pasted)
    assert lease["kind"] == "LeaderLease"
    name = deployment["spec"]["template"]["metadata"]["labels"]["leaderlease.dev/inject"]
    assert name == lease["metadata"]["name"]


def test_the_example_elects_what_it_declares() -> None:
    """The label names the lease, and the lease admits the pods and their service account."""
    objects = list(yaml.safe_load_all((ROOT / "examples" / "billing.yaml").read_text()))
    lease, template = pick(objects, "LeaderLease"), pick(objects, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert labels["leaderlease.dev/inject"] == lease["metadata"]["name"]
    candidates = lease["spec"]["candidates"]
    assert candidates["podSelector"]["matchLabels"].items() <= labels.items()
    assert template["spec"]["serviceAccountName"] in candidates["serviceAccountNames"]
