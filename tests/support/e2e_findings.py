"""What Kubernetes says when a scenario has failed: for whoever reads the output and has no cluster any more."""

from typing import Any

from support import e2e

EVENTS_MAX = 12
"""Of each pod that is not ready, the latest ones."""
LOG_LINES = 15


def findings() -> str:
    """Return all machines, all pods, and of each pod that is not ready its Events and the end of its logs."""
    parts = [e2e.kubectl("get", "nodes,pods", "-A", "-o", "wide", is_checked=False)]
    for pod in e2e.get("pods", "-A") or ():
        if not is_ready(pod):
            parts += of_pod(pod["metadata"]["namespace"], pod["metadata"]["name"])
    return "\n".join(parts)


def is_ready(pod: Any) -> bool:
    """Tell whether Kubernetes calls a pod ready."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def of_pod(namespace: str, name: str) -> list[str]:
    """Return the Events and the logs of a pod, of the container before, too."""
    named = ("-n", namespace, f"--field-selector=involvedObject.name={name}", "--sort-by=.lastTimestamp")
    events = e2e.kubectl("get", "events", *named, is_checked=False).splitlines()[-EVENTS_MAX:]
    log = ("logs", name, "-n", namespace, "--all-containers", "--prefix", f"--tail={LOG_LINES}")
    before = e2e.kubectl(*log, "--previous", is_checked=False)
    return [f"--- {namespace}/{name}", *events, "--- its logs, those of the container before first", before,
            e2e.kubectl(*log, is_checked=False)]  # fmt: skip
