"""`leaderlease inject`: manifests in, manifests out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.commands import Cli, Ran
from support.pods import CA, flags, make

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


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Cli:
    """Run the command on a text."""

    def inject(text: str, *options: str) -> Ran:
        file = tmp_path / "in.yaml"
        file.write_text(text)
        return cli("inject", "-f", file, "--endpoints", "node:7400", *options)

    return inject


@pytest.mark.parametrize("kind", ["Pod", *WORKLOADS, "CronJob"])
def test_command_injects_every_workload(run: Cli, kind: str) -> None:
    """Pods, and the templates of whatever makes pods; a second run changes nothing."""
    code, out, err = run(yaml.safe_dump(workload(kind)))
    assert code == 0, err
    assert f"injected: {kind} default/" in err
    assert out.count("restartPolicy: Always") == 1
    assert run(out)[1] == out


def test_command_leaves_the_rest_as_it_was(run: Cli) -> None:
    """To the letter: comments, order, anchors; and what looks like a date stays a text."""
    other = "# who reads this\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {at: 2030-01-01}\n"
    body = "kind: Pod\nmetadata:\n  labels: {leaderlease.dev/inject: b}\nspec:\n  containers:\n"
    body += "  - name: app\n    args: [2030-01-01, 12:30, 'on']\n"
    code, out, err = run(f"{other}---\n{body}---\n{other}")
    assert code == 0, err
    first, middle, last = out.split("---\n")
    assert (first, last) == (other, other)
    assert yaml.safe_load(middle)["spec"]["containers"][0]["args"] == ["2030-01-01", "12:30", "on"]


def test_command_injects_lists(run: Cli) -> None:
    """`kubectl get -o yaml` and kustomize write them."""
    both = yaml.safe_dump({"kind": "List", "items": [workload("Deployment"), {"kind": "Service"}]})
    code, out, _ = run(both)
    assert code == 0
    assert [bool(one.get("spec")) for one in yaml.safe_load(out)["items"]] == [True, False]
    assert "restartPolicy: Always" in out


def test_command_labels_on_request(run: Cli) -> None:
    """--lease is for manifests that know nothing of us."""
    body = workload("Deployment")
    del body["spec"]["template"]["metadata"]["labels"]
    assert "no pod with the label" in run(json.dumps(body))[2]
    _, out, _ = run(json.dumps(body), "--lease", "carts")
    template = yaml.safe_load(out)["spec"]["template"]
    assert template["metadata"]["labels"] == {"leaderlease.dev/inject": "carts"}
    assert flags(template)["--lease"] == ["carts"]


def test_command_takes_the_authority(run: Cli, tmp_path: Path) -> None:
    """A file with a key is refused: the annotation is public."""
    (tmp_path / "ca.crt").write_text(CA)
    (tmp_path / "bad.crt").write_text(CA + "-----BEGIN PRIVATE KEY-----\n")
    text = yaml.safe_dump(workload("Deployment"))
    _, out, _ = run(text, "--tls-ca", str(tmp_path / "ca.crt"))
    assert yaml.safe_load(out)["spec"]["template"]["metadata"]["annotations"]["leaderlease.dev/ca"] == CA
    code, out, err = run(text, "--tls-ca", str(tmp_path / "bad.crt"))
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
def test_command_refuses_with_one_sentence_and_writes_nothing(run: Cli, text: str, sentence: str) -> None:
    """A stream that is refused must not be applied by halves."""
    code, out, err = run(f"kind: ConfigMap\n---\n{text}")
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
