"""A real Kubernetes cluster that may be broken: kubectl, helm, the faults, and one scenario at a time.

The cluster comes from KUBECONFIG, its faults from the program that LEADERLEASE_CLUSTER names: ``build CONTEXT TAG
--target T``, ``node kill|start|partition|heal NAME``, ``api stop|start``.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from support.e2e_journal import Journal, Line, boottime_ms

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "leaderlease"
CLUSTER_VARIABLE = "LEADERLEASE_CLUSTER"
NAMESPACE = "leaderlease-system"
RELEASE = "leaderlease"
QUORUM = "statefulset/leaderlease-node"
QUORUM_LABELS = "app.kubernetes.io/component=node"
OPERATOR = "deployment/leaderlease-operator"
OPERATOR_LABELS = "app.kubernetes.io/component=operator"
IMAGES = {target: f"localhost/leaderlease/{target}" for target in ("agent", "operator")}
TAG = "e2e"
INSTALL_TIMEOUT_S = 300.0
"""An upgrade replaces three nodes, one after the other."""
KUBE_VERSION = "1.37.0"
"""For what is only rendered."""
COMMAND_TIMEOUT_S = 180.0
READY_TIMEOUT_S = 120.0
POLL_S = 0.1
T = TypeVar("T")


def missing() -> str:
    """Say what this machine lacks for these tests; empty if it has all."""
    if not os.environ.get(CLUSTER_VARIABLE):
        return f"{CLUSTER_VARIABLE} names no program that breaks a cluster"
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    return next((f"no {tool}" for tool in ("kubectl", "helm") if not shutil.which(tool)), "")


def run(*command: str, stdin: str = "", timeout_s: float = COMMAND_TIMEOUT_S, is_checked: bool = True) -> str:
    """Run a command and return what it printed.

    Raises:
        AssertionError: It failed; the text is its own.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s)
    shown = f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    assert done.returncode == 0 or not is_checked, shown
    return done.stdout if is_checked else done.stdout + done.stderr


def kubectl(*arguments: str, stdin: str = "", timeout_s: float = COMMAND_TIMEOUT_S, is_checked: bool = True) -> str:
    """Run kubectl."""
    return run("kubectl", *arguments, stdin=stdin, timeout_s=timeout_s, is_checked=is_checked)


def get(*arguments: str) -> Any:
    """Return an object, or the items of a list; None where there is nothing."""
    text = kubectl("get", *arguments, "-o", "json", "--ignore-not-found")
    found = json.loads(text) if text.strip() else None
    return found.get("items", found) if isinstance(found, dict) else found


def apply(*bodies: Mapping[str, Any]) -> None:
    """Apply objects."""
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all([dict(body) for body in bodies]))


def until(what: str, look: Callable[[], T], timeout_s: float = READY_TIMEOUT_S, poll_s: float = POLL_S) -> T:
    """Look until there is something true, and return it.

    Raises:
        AssertionError: Nothing was in time; the text has what was seen last.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}; last seen: {found}"
        time.sleep(poll_s)
    return found


def sleep_until(at_ms: float) -> None:
    """Let a fault last until a time of CLOCK_BOOTTIME."""
    time.sleep(max(0.0, at_ms - boottime_ms()) / 1000)


# --- faults --------------------------------------------------------------------------------------------------


def fault(*arguments: str) -> None:
    """Have the cluster program do something."""
    run(os.environ[CLUSTER_VARIABLE], *arguments, timeout_s=600)
    if arguments[:2] == ("node", "start"):
        steady_bridges()


def steady_bridges() -> None:
    """Give the bridges of pods that live in network namespaces of this machine addresses of their own.

    A bridge without one takes the lowest of its ports. When that pod goes, the address changes, and no other pod of
    its node reaches its gateway until it asks again: seconds without a network, which no scenario names.
    """
    for line in run("ip", "netns", "list").splitlines() if shutil.which("ip") else ():
        inside = ("ip", "netns", "exec", line.split()[0])
        found = run(*inside, "ip", "-json", "link", "show", "type", "bridge", is_checked=False)
        # Namespaces of other tests go meanwhile, and then this is a complaint.
        for link in json.loads(found) if found.startswith("[") else ():
            run(*inside, "ip", "link", "set", link["ifname"], "address", link["address"], is_checked=False)


@contextlib.contextmanager
def broken(arguments: Sequence[str], undo: Sequence[str]) -> Iterator[float]:
    """Break something, yield when that began, and mend it, whatever happens."""
    began = boottime_ms()
    try:
        fault(*arguments)
        yield began
    finally:
        fault(*undo)


@contextlib.contextmanager
def operators_away() -> Iterator[float]:
    """Kill all replicas of the operator at once, let none come back meanwhile, and yield when that began."""
    replicas = get("deployment", "leaderlease-operator", "-n", NAMESPACE)["spec"]["replicas"]
    began = boottime_ms()
    kubectl("scale", OPERATOR, "-n", NAMESPACE, "--replicas=0")
    try:
        for pod in get("pods", "-n", NAMESPACE, "-l", OPERATOR_LABELS):
            kill_processes(pod["metadata"]["uid"])
        yield began
    finally:
        kubectl("scale", OPERATOR, "-n", NAMESPACE, f"--replicas={replicas}")


def processes_of(uid: str) -> list[int]:
    """Return the processes of a pod; the nodes of the cluster run on this kernel."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"pod{uid}" in (entry / "cgroup").read_text():
                    found.append(int(entry.name))
    return found


def kill_processes(uid: str) -> int:
    """Kill what runs in a pod, at once; return how many processes that were."""
    pids = processes_of(uid)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def is_node_ready(name: str) -> bool:
    """Tell what Kubernetes says about one of its nodes."""
    conditions = get("node", name)["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


# --- the installation ----------------------------------------------------------------------------------------


def build_images() -> None:
    """Build both images and load them into every node."""
    for target, name in IMAGES.items():
        fault("build", str(ROOT), f"{name}:{TAG}", "--target", target)


def values() -> dict[str, Any]:
    """Return the values of every installation: the images that every Kubernetes node has."""
    return {
        "images": {
            **{target: {"repository": name, "tag": TAG} for target, name in IMAGES.items()},
            "pullPolicy": "Never",
        },
        "node": {"persistence": {"fixOwner": True}},  # the volumes are directories of root's
    }


def install(chart: Path = CHART) -> float:
    """Install or upgrade the chart, wait until it is ready, and return the seconds that it took."""
    return helm("upgrade", "--install", RELEASE, str(chart), "--create-namespace", "-f", "-", given=values())


def roll_back(revision: int) -> float:
    """Go back to an earlier revision of the release, wait until it is ready, and return the seconds that it took."""
    return helm("rollback", RELEASE, str(revision))


def helm(*arguments: str, given: Mapping[str, Any] | None = None) -> float:
    """Have helm change the installation; return the seconds that it took until all was ready."""
    began = time.monotonic()
    run(
        *("helm", *arguments, "-n", NAMESPACE, "--wait", "--timeout", f"{INSTALL_TIMEOUT_S:.0f}s"),
        stdin=yaml.safe_dump(dict(given or {})),
        timeout_s=INSTALL_TIMEOUT_S + 30,
    )
    return time.monotonic() - began


def template(chart: Path, *arguments: str, given: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the objects that a chart renders to, without asking the cluster."""
    text = run(
        *("helm", "template", RELEASE, str(chart), "-n", NAMESPACE, "--kube-version", KUBE_VERSION, "-f", "-"),
        *arguments,
        stdin=yaml.safe_dump(dict(given or {})),
    )
    return [body for body in yaml.safe_load_all(text) if body]


def uninstall() -> None:
    """Remove the installation, if there is one, and wait until its pods are gone."""
    run("helm", "uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--ignore-not-found", "--timeout", "120s")
    kubectl("wait", "pod", "--all", "-n", NAMESPACE, "--for=delete", "--timeout=60s", is_checked=False)


def all_objects(selector: str) -> set[tuple[str, str]]:
    """Return kind and name of every object with some labels, Events apart."""
    kinds = kubectl("api-resources", "--verbs=list", "-o", "name").split()
    wanted = ",".join(kind for kind in kinds if not kind.startswith("events"))
    items = json.loads(kubectl("get", wanted, "-A", "-l", selector, "-o", "json"))["items"]
    return {(item["kind"], item["metadata"]["name"]) for item in items}


def nodes() -> list[str]:
    """Return the names of the Kubernetes nodes."""
    return [node["metadata"]["name"] for node in get("nodes")]


def settle() -> None:
    """Wait until nodes, quorum and operator are as they should be."""
    kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
    for workload in (QUORUM, OPERATOR):
        kubectl("rollout", "status", workload, "-n", NAMESPACE, "--timeout=120s")
    until("the quorum is whole", lambda: quorum_condition("Available") == "True" and quorum_healthy() == 3)


def quorum_condition(kind: str) -> str:
    """Return the status of a condition of the LeaderQuorum."""
    status = (get("leaderquorum", "default") or {}).get("status") or {}
    return next((str(c["status"]) for c in status.get("conditions") or () if c["type"] == kind), "")


def quorum_healthy() -> int:
    """Return how many members the LeaderQuorum calls healthy."""
    return int(((get("leaderquorum", "default") or {}).get("status") or {}).get("healthy", 0))


# --- one scenario --------------------------------------------------------------------------------------------


class App:
    """A LeaderLease and a Deployment of pods that write down what they believe."""

    def __init__(self, namespace: str, name: str, folder: Path, duration_s: float) -> None:
        self.namespace = namespace
        self.name = name
        self.lease = f"{namespace}/{name}"
        self.duration_s = duration_s
        self.journal = Journal(folder)

    def leaderlease(self) -> Any:
        """Return the LeaderLease."""
        return get("ll", self.name, "-n", self.namespace)

    def status(self) -> dict[str, Any]:
        """Return its status."""
        return (self.leaderlease() or {}).get("status") or {}

    def pods(self) -> list[Any]:
        """Return the pods that live."""
        pods = get("pods", "-n", self.namespace, "-l", f"app={self.name}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def leader(self, timeout_s: float = 60.0) -> Line:
        """Wait until somebody believes, and return the answer."""
        return until(f"somebody leads {self.lease}", self.journal.leader, timeout_s)

    def wait_ready(self, replicas: int = 3) -> None:
        """Wait until all pods are ready and answered under the present leader."""
        kubectl("rollout", "status", f"deployment/{self.name}", "-n", self.namespace, "--timeout=120s")
        leader = self.leader()

        def agreed() -> bool:
            self.journal.read()
            now = boottime_ms()
            fresh = [one for one in self.journal.latest.values() if one.kind == "answer" and one.at > now - 1000]
            return sum(one.leader == leader.pod or one.believes for one in fresh) >= replicas

        until(f"{replicas} pods know who leads {self.lease}", agreed, 60.0)

    def force_delete(self, pod: str) -> None:
        """Remove a pod as people do when a node is gone."""
        kubectl("delete", "pod", pod, "-n", self.namespace, "--force", "--grace-period=0", "--wait=false")

    def crash(self, leader: Line) -> tuple[Line, float]:
        """Kill what runs in the leader's pod until somebody else leads; return its first answer, and the time since.

        Again and again, because a pod that is back in time goes on in its old term, as it may.
        """
        killed = boottime_ms()
        while True:
            kill_processes(leader.uid)
            found = self.journal.leader()
            if found is not None and found.term > leader.term:
                return found, (found.at - killed) / 1000
            assert boottime_ms() < killed + (self.duration_s + 10) * 1000, f"nobody followed {leader}"
            time.sleep(POLL_S / 5)

    def patch(self, spec: Mapping[str, Any]) -> None:
        """Change the LeaderLease."""
        body = json.dumps({"spec": spec})
        kubectl("patch", "ll", self.name, "-n", self.namespace, "--type=merge", "-p", body)

    def mark(self, name: str, is_sick: bool) -> None:
        """Have the application of a pod, or of ``all``, fail its health check from now on, or pass it again."""
        file = self.journal.folder / f"{name}.sick"
        if is_sick:
            file.touch()
        else:
            file.unlink(missing_ok=True)


Deploy = Callable[..., App]
"""What the fixture ``deploy`` is."""


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """Make a namespace for one scenario, and order its end; the end of the run waits until it is gone."""
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
        kubectl("delete", "pods", "--all", "-n", name, "--force", "--grace-period=0", "--wait=false")


def forget(names: Sequence[str]) -> None:
    """Wait until namespaces that were deleted are gone.

    Raises:
        AssertionError: One is still there, so something in it cannot be deleted.
    """
    for name in names:
        kubectl("wait", f"namespace/{name}", "--for=delete", "--timeout=120s")


def deploy(
    space: str,
    folder: Path,
    duration_s: float = 3.0,
    *,
    name: str = "app",
    replicas: int = 3,
    annotations: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> App:
    """Apply a LeaderLease and its candidates, and wait until one of them leads and all know it."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    app = App(space, name, folder, duration_s)
    apply(*objects(app, replicas, annotations or {}, spec or {}))
    app.wait_ready(replicas)
    return app


def objects(
    app: App, replicas: int, annotations: Mapping[str, str], spec: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield what ``deploy`` applies."""
    space, name = app.namespace, app.name
    ms = round(app.duration_s * 1000)
    times = {"leaseDuration": f"{ms}ms", "renewDeadline": f"{ms * 2 // 3}ms", "retryPeriod": f"{ms // 6}ms"}
    script = (Path(__file__).parent / "e2e_app.py").read_text()
    metadata = {"name": name, "namespace": space}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"app.py": script}}
    yield {
        "apiVersion": "leaderlease.dev/v1alpha1",
        "kind": "LeaderLease",
        "metadata": metadata,
        "spec": {**times, "candidates": {"podSelector": {"matchLabels": {"app": name}}}, **spec},
    }
    fields = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", "NODE_NAME": "spec.nodeName"}
    labels = {"app": name, "leaderlease.dev/inject": name}
    container = {
        "name": "app",
        "image": f"{IMAGES['agent']}:{TAG}",
        "imagePullPolicy": "Never",
        "command": ["python3", "-u", "/app/app.py"],
        "env": [
            {"name": "JOURNAL", "value": "/journal"},
            *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()),
        ],
        "volumeMounts": [
            {"name": "app", "mountPath": "/app", "readOnly": True},
            {"name": "journal", "mountPath": "/journal"},
        ],
    }
    pod = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        # A pod on a node without power is not replaced elsewhere: the tests mend the node.
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": name}},
            }
        ],
        "containers": [container],
        "volumes": [
            {"name": "app", "configMap": {"name": name}},
            {"name": "journal", "hostPath": {"path": str(app.journal.folder), "type": "Directory"}},
        ],
    }
    yield {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels, "annotations": dict(annotations)}, "spec": pod},
        },
    }
