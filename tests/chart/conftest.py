"""Helm from PATH, and the value sets that every check of the chart runs over."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import certmanager
from support.apiserver import ApiServer, binary
from support.levels import require

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "leaderlease"
NAMESPACE = "leaderlease-system"
KUBE_VERSION = "1.37.0"

VALUES: Mapping[str, dict[str, Any]] = {
    "defaults": {},
    "one node": {"node": {"replicas": 1}},
    "seven nodes": {"node": {"replicas": 7, "podDisruptionBudget": {"minAvailable": 5}}},
    "nodes only": {"operator": {"replicas": 0}},
    "one operator": {"operator": {"replicas": 1}},
    "two namespaces": {"operator": {"watchNamespaces": ["shop", "billing"]}},
    "no disks": {"node": {"persistence": {"enabled": False}}},
    "root disks": {"node": {"persistence": {"fixOwner": True, "size": "10Gi", "storageClassName": "fast"}}},
    "claims go": {"node": {"persistence": {"retention": {"whenDeleted": "Delete", "whenScaled": "Delete"}}}},
    "canary": {"node": {"updateStrategy": {"partition": 2}, "minReadySeconds": 0, "preStopSleepSeconds": 0}},
    "on delete": {"node": {"updateStrategy": {"type": "OnDelete"}}},
    "job certificates": {"tls": {"mode": "job"}},
    "cert-manager": {"tls": {"mode": "certManager"}},
    "cert-manager of others": {"tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "corporate"}}}},
    "own certificates": {
        "tls": {
            "mode": "existingSecret",
            "existingSecret": {"node": "n", "operator": "o", "webhook": "w", "webhookCABundle": "PEM"},
        }
    },
    "no webhook": {"webhook": {"enabled": False}},
    "strict webhook": {"webhook": {"failurePolicy": "Fail", "namespaceSelector": {"matchLabels": {"team": "a"}}}},
    "egress": {
        "networkPolicy": {
            "egress": True,
            "clientsFrom": [{"namespaceSelector": {"matchLabels": {"leases": "yes"}}}],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        }
    },
    "no policies": {"networkPolicy": {"enabled": False}, "rbac": {"create": False}, "tests": {"enabled": False}},
    "pod monitors": {
        "metrics": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True, "annotations": {"folder": "Leases"}},
        }
    },
    "service monitor": {"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"sidecars": False}}},
    "everything told": {
        "commonLabels": {"team": "platform"},
        "fullnameOverride": "elections",
        "images": {
            "agent": {"repository": "registry.example/agent", "digest": f"sha256:{'a' * 64}"},
            "operator": {"tag": "1.2.3"},
            "pullSecrets": [{"name": "pull"}],
        },
        "quorum": {"name": "main", "bootstrap": False, "clusterUID": "11111111-2222-4333-8444-555555555555"},
        "node": {
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "topologySpread": {"host": "DoNotSchedule", "zone": ""},
            "podLabels": {"tier": "quorum"},
            "podAnnotations": {"note": "x"},
            "service": {"annotations": {"note": "y"}},
        },
        "operator": {"affinity": {"nodeAffinity": {}}, "resources": {}, "logLevel": "debug"},
    },
    "open, without definitions": {"auth": {"mode": "open"}, "crds": {"enabled": False}},
    "definitions go": {"crds": {"keep": False}},
    "a long name": {"fullnameOverride": "a-name-that-somebody-chose-who-does-not-like-short-names"},
}
"""Title -> values. All of them must render, and be taken by a real API server."""


class Helm:
    """Runs Helm on our chart."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._rendered: dict[str, list[dict[str, Any]]] = {}

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run Helm to its end."""
        path = self._home / "values.json"
        path.write_text(json.dumps(values or {}))
        # Helm's own directories, so that nothing of the person who runs the tests is read or written.
        environ = {
            "PATH": "",
            "HOME": str(self._home),
            "HELM_CACHE_HOME": str(self._home),
            "HELM_CONFIG_HOME": str(self._home),
        }
        command = [str(shutil.which("helm")), *arguments, "--values", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)

    def upgrade(self, api: ApiServer, name: str, namespace: str, values: Mapping[str, Any]) -> None:
        """Install a release at an API server, or upgrade it; nobody waits for pods, which no one would start."""
        where = ("--namespace", namespace, "--kubeconfig", str(api.kubeconfig))
        found = self.run("upgrade", "--install", name, str(CHART), *where, values=values)
        assert found.returncode == 0, found.stderr

    def _template(self, values: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        where = ("--namespace", NAMESPACE, "--kube-version", KUBE_VERSION)
        return self.run("template", "leaderlease", str(CHART), *where, values=values)

    def text(self, values: Mapping[str, Any]) -> str:
        """Return what the chart renders to."""
        found = self._template(values)
        assert found.returncode == 0, found.stderr
        return found.stdout

    def objects(self, title: str) -> list[dict[str, Any]]:
        """Return the objects of one of ``VALUES``, rendered once."""
        if title not in self._rendered:
            self._rendered[title] = [one for one in yaml.safe_load_all(self.text(VALUES[title])) if one]
        return self._rendered[title]

    def error(self, values: Mapping[str, Any]) -> str:
        """Return what Helm says about values that it must refuse."""
        found = self._template(values)
        assert found.returncode != 0, "these values were taken"
        return found.stderr


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm, where there is one."""
    require("apiserver", shutil.which("helm"), "no helm")
    return Helm(tmp_path_factory.mktemp("helm"))


def pick(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """Return the only object of a kind, or the one whose name ends so."""
    found = [one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(name)]
    assert len(found) == 1, [one["metadata"]["name"] for one in found]
    return found[0]


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server that knows our definitions, and the names of others that the chart can use."""
    missing = [name for name in ("kube-apiserver", "etcd", "kubectl") if binary(name) is None]
    require("apiserver", not missing, f"no {' and no '.join(missing)}")
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        kubectl(server, "apply", "--server-side", "-f", str(ROOT / "manifests" / "crd"))
        kubectl(server, "apply", "-f", "-", stdin=yaml.safe_dump_all(map(_others, OTHERS)))
        for name in (NAMESPACE, "shop", "billing"):
            kubectl(server, "create", "namespace", name)
        kubectl(server, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield server
    finally:
        server.stop()


OTHERS = (
    ("cert-manager.io", "Certificate"),
    ("cert-manager.io", "Issuer"),
    ("monitoring.coreos.com", "PodMonitor"),
    ("monitoring.coreos.com", "ServiceMonitor"),
    ("monitoring.coreos.com", "PrometheusRule"),
)


def _others(one: tuple[str, str]) -> dict[str, Any]:
    group, kind = one
    plural = f"{kind.lower()}s"
    any_fields = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    schema = certmanager.schema(kind) if kind in certmanager.SPECS else any_fields
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def kubectl(server: ApiServer, *arguments: str, stdin: str = "") -> str:
    """Run kubectl as an administrator; return what it says."""
    command = [str(binary("kubectl")), "--kubeconfig", str(server.kubeconfig), *arguments]
    found = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout + found.stderr
