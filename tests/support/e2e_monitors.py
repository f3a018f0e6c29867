"""A real Prometheus that finds the pods of the cluster by the chart's PodMonitors, and evaluates its PrometheusRule.

The Prometheus operator is not there, so its part is done here: a PodMonitor becomes a scrape configuration. Nor has
every build of Prometheus the discovery of pods: a thread tells of them, with the labels that the discovery gives.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from support import e2e
from support.prometheus import SCRAPE, Prometheus

ENABLED = ("podMonitor", "prometheusRule")
LOOK_S = 1.0
"""Between two looks at the pods."""
META = "__meta_kubernetes"


@contextlib.contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus on this machine, which reaches the pods, with what the chart renders for it."""
    given = {**e2e.values(), "metrics": {name: {"enabled": True} for name in ENABLED}}
    bodies = e2e.template(e2e.CHART, given=given)
    rules, pods = folder / "rules.yaml", folder / "pods.json"
    rules.write_text(yaml.safe_dump(one(bodies, "PrometheusRule")["spec"]))
    write_pods(pods)
    jobs = [job for body in bodies if body["kind"] == "PodMonitor" for job in scrape_jobs(body, pods)]
    stop = threading.Event()
    discovery = threading.Thread(target=discover, args=(pods, stop), daemon=True)
    found = Prometheus(folder, {}, rules, jobs)
    discovery.start()
    try:
        yield found
    finally:
        stop.set()
        found.stop()
        discovery.join()


def one(bodies: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the only object of a kind."""
    (found,) = (body for body in bodies if body["kind"] == kind)
    return found


# --- pods ----------------------------------------------------------------------------------------------------


def discover(file: Path, stop: threading.Event) -> None:
    """Write down again and again which pods there are."""
    while not stop.wait(LOOK_S):
        with contextlib.suppress(AssertionError):  # kubectl had no answer: the pods stay as they were
            write_pods(file)


def write_pods(file: Path) -> None:
    """Write a target for each port of each container of each pod."""
    found = [target for pod in e2e.get("pods", "-A") for target in targets(pod)]
    new = file.with_suffix(".new")
    new.write_text(json.dumps(found))
    new.rename(file)


def targets(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the targets of a pod with an address, and what its discovery tells of them."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    about = {"namespace": metadata["namespace"], "pod_name": metadata["name"], "pod_phase": status["phase"]}
    for label, value in (metadata.get("labels") or {}).items():
        about[f"pod_label_{_safe(label)}"] = value
        about[f"pod_labelpresent_{_safe(label)}"] = "true"
    for container in (*spec["containers"], *spec.get("initContainers", ())) if status.get("podIP") else ():
        for port in container.get("ports", ()):
            names = {"pod_container_name": container["name"], "pod_container_port_name": port.get("name", "")}
            yield {
                "targets": [f"{status['podIP']}:{port['containerPort']}"],
                "labels": {f"{META}_{name}": value for name, value in {**about, **names}.items()},
            }


# --- monitors ------------------------------------------------------------------------------------------------


def scrape_jobs(monitor: Mapping[str, Any], pods: Path) -> Iterator[dict[str, Any]]:
    """Yield what the Prometheus operator makes of a PodMonitor, more often than it says."""
    spec, metadata = monitor["spec"], monitor["metadata"]
    is_any = (spec.get("namespaceSelector") or {}).get("any")
    for number, endpoint in enumerate(spec["podMetricsEndpoints"]):
        yield {
            "job_name": f"podMonitor/{metadata['namespace']}/{metadata['name']}/{number}",
            "honor_labels": endpoint.get("honorLabels", False),
            "metrics_path": endpoint["path"],
            "scrape_interval": SCRAPE,
            "file_sd_configs": [{"files": [str(pods)], "refresh_interval": f"{LOOK_S:.0f}s"}],
            "relabel_configs": [
                *([] if is_any else [keep("namespace", metadata["namespace"])]),
                keep("pod_phase", "Running"),
                *selected(spec["selector"]),
                keep("pod_container_port_name", endpoint["port"]),
                copy("namespace", "namespace"),
                copy("pod_container_name", "container"),
                copy("pod_name", "pod"),
                *({"target_label": r["targetLabel"], "replacement": r["replacement"]} for r in relabelled(endpoint)),
            ],
        }


def relabelled(endpoint: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the relabelings of an endpoint, of which the chart has constants only."""
    found: list[dict[str, str]] = endpoint.get("relabelings") or []
    assert all(rule.keys() == {"targetLabel", "replacement"} for rule in found), found
    return found


def selected(selector: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the relabelings of a label selector."""
    for label, value in (selector.get("matchLabels") or {}).items():
        yield keep(f"pod_label_{_safe(label)}", value)
    for expression in selector.get("matchExpressions") or ():
        assert expression["operator"] == "Exists", expression
        yield keep(f"pod_labelpresent_{_safe(expression['key'])}", "true")


def keep(source: str, value: str) -> dict[str, Any]:
    """Return the relabeling that drops all but those with this value."""
    return {"action": "keep", "source_labels": [f"{META}_{source}"], "regex": re.escape(value)}


def copy(source: str, label: str) -> dict[str, Any]:
    """Return the relabeling that makes a label."""
    return {"source_labels": [f"{META}_{source}"], "target_label": label}


def _safe(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)
