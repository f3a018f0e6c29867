"""What the chart renders, as processes on this machine: names, environment and mounted Secrets are those of the chart.

A hosts file in a mount namespace is the cluster's DNS, and ``Kubelet`` keeps the files of mounted Secrets up to date.
"""

import base64
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from support.apiserver import ApiServer, die_with_parent
from support.mirror import series
from support.operators import eventually

READY_S = 120.0
STOP_S = 20.0
_networks = itertools.count(os.getpid())
_versions = itertools.count(1)


def _namespaces() -> list[str]:
    return ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))]


def can_have_hosts() -> bool:
    """Tell whether processes can have a hosts file of their own here."""
    return subprocess.run([*_namespaces(), "true"], capture_output=True, check=False).returncode == 0


class Volume:
    """A directory that is renewed as a kubelet does it: all files at once, by the rename of a link."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content: dict[str, bytes] = {}

    def write(self, content: Mapping[str, bytes]) -> bool:
        """Bring the files up to date; return whether anything was different."""
        if self._content == dict(content):
            return False
        self._content = dict(content)
        version = self.path / f"..{next(_versions)}"
        version.mkdir(parents=True)
        for name, value in content.items():
            (version / name).write_bytes(value)
        link = self.path / "..tmp"
        link.symlink_to(version.name)
        link.rename(self.path / "..data")
        for name in content:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        return True


class Process:
    """One container.

    Attributes:
        address: Of its pod.
    """

    def __init__(self, name: str, home: Path, address: str, command: list[str], environ: Mapping[str, str]) -> None:
        self.name, self.address = name, address
        self.log = home / f"{name}.log"
        self._command, self._environ = command, dict(environ)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LEADERLEASE_", "KUBE"))}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited, **self._environ},
                preexec_fn=die_with_parent,
            )

    def stop(self) -> None:
        """End it in an orderly way."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def get(self, port: int, path: str) -> str:
        """Ask an HTTP port; empty while there is no answer."""
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} ended:\n{self.tail()}"
        try:
            with urllib.request.urlopen(f"http://{self.address}:{port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def metric(self, port: int, name: str) -> float:
        """Return the value of a series."""
        return series(self.get(port, "/metrics"), name)

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Installation:
    """Nodes and one replica of the operator.

    Args:
        api: The API server that has the Secrets.
        objects: What the chart renders.
        home: For everything.
        namespace: Of the release.
    """

    def __init__(self, api: ApiServer, objects: list[dict[str, Any]], home: Path, namespace: str) -> None:
        self.api, self.home, self.namespace = api, home, namespace
        self._objects = objects
        # A network of loopback of this run alone, so that ports of the chart are free in it.
        number = next(_networks) % 60_000
        self._prefix = f"127.{2 + number // 250}.{1 + number % 250}"
        self._mounts: dict[str, Volume] = {}
        home.mkdir(parents=True, exist_ok=True)
        self.hosts = home / "hosts"
        self._wrap = [*_namespaces(), "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self.hosts)]
        nodes = self._one("StatefulSet")
        self.nodes = [self._node(nodes, i) for i in range(nodes["spec"]["replicas"])]
        service = nodes["spec"]["serviceName"]
        lines = ["127.0.0.1 localhost"]
        lines += [f"{node.address} {node.name}.{service}.{namespace}.svc" for node in self.nodes]
        lines += [f"{self.nodes[0].address} {service.removesuffix('-node')}.{namespace}.svc"]
        self.hosts.write_text("\n".join([*lines, ""]))
        self.operator = self._operator(self._one("Deployment"))

    def start(self) -> None:
        """Start everything, and wait until all is ready."""
        self.sync()
        for process in (*self.nodes, self.operator):
            process.start()
        for node in self.nodes:
            self.until_ready(node)
        eventually(
            f"the operator is ready: {self.operator.tail()}", lambda: self.operator.get(7403, "/readyz"), READY_S
        )

    def stop(self) -> None:
        """End everything."""
        for process in (self.operator, *self.nodes):
            process.stop()

    def until_ready(self, node: Process) -> None:
        """Wait until a node is ready."""
        eventually(f"{node.name} is ready: {node.tail()}", lambda: node.get(7402, "/readyz"), READY_S)

    def sync(self) -> None:
        """Bring the Secrets to the processes, as kubelets do within a minute or two."""
        for name, volume in self._mounts.items():
            body = self.api.request("GET", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")
            volume.write({key: base64.b64decode(value) for key, value in body["data"].items()})

    def renew(self) -> None:
        """Bring the Secrets to the processes, and wait until all use them."""
        processes = [(node, 7402) for node in self.nodes]
        before = [node.metric(port, "leaderlease_certificate_reloads_total") for node, port in processes]
        self.sync()
        for (node, port), count in zip(processes, before, strict=True):
            eventually(
                f"{node.name} uses the new files",
                lambda node=node, port=port, count=count: (
                    node.metric(port, "leaderlease_certificate_reloads_total") > count
                ),
            )

    def restart_nodes(self) -> None:
        """Restart one node after another, each when the last one is ready."""
        for node in self.nodes:
            node.stop()
            node.start()
            self.until_ready(node)

    def run(self, name: str, arguments: list[str], environ: Mapping[str, str]) -> Process:
        """Return a process of the agent's image, which knows the names of the cluster; not started."""
        return Process(name, self.home, "127.0.0.1", self._command(arguments), environ)

    def review(self, pod: Mapping[str, Any], bundle: bytes) -> dict[str, Any]:
        """Ask the webhook about a pod, as the API server does, which knows it by this bundle; return the answer."""
        name = f"{self._one('MutatingWebhookConfiguration')['webhooks'][0]['clientConfig']['service']['name']}"
        kind = {"group": "", "version": "v1", "kind": "Pod"}
        asked = {"uid": "1", "kind": kind, "operation": "CREATE", "namespace": pod["metadata"]["namespace"]}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "request": {**asked, "object": dict(pod)}}).encode()
        context = ssl.create_default_context(cadata=bundle.decode())
        head = f"POST /mutate HTTP/1.1\r\nHost: {name}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with (
            socket.create_connection((self.operator.address, 9443), 10) as raw,
            context.wrap_socket(raw, server_hostname=f"{name}.{self.namespace}.svc") as connection,
        ):
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        return dict(json.loads(answer.partition(b"\r\n\r\n")[2])["response"])

    # --- inside ----------------------------------------------------------------------------------------------

    def _one(self, kind: str) -> dict[str, Any]:
        (found,) = [one for one in self._objects if one["kind"] == kind]
        return dict(found)

    def _command(self, arguments: list[str]) -> list[str]:
        return [*self._wrap, sys.executable, "-m", "leaderlease", *arguments]

    def _container(self, workload: Mapping[str, Any], pod: str, address: str, paths: dict[str, str]) -> Process:
        spec = workload["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        secrets = {one["name"]: one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one}
        for mount in container["volumeMounts"]:
            if mount["name"] in secrets:
                name = secrets[mount["name"]]
                volume = self._mounts.setdefault(name, Volume(self.home / "secrets" / name))
                paths[mount["mountPath"]] = str(volume.path)
        environ = {}
        for one in container["env"]:
            value = one.get("value", "")
            if "valueFrom" in one:
                field = one["valueFrom"]["fieldRef"]["fieldPath"]
                value = {"metadata.name": pod, "metadata.namespace": self.namespace}[field]
            for path, real in paths.items():
                if value.startswith(f"{path}/"):
                    value = real + value.removeprefix(path)
            environ[one["name"]] = value.replace("0.0.0.0", address)
        return Process(pod, self.home, address, self._command(container["args"]), environ)

    def _node(self, workload: Mapping[str, Any], ordinal: int) -> Process:
        pod, disk = f"{workload['metadata']['name']}-{ordinal}", self.home / f"disk-{ordinal}"
        disk.mkdir()
        return self._container(workload, pod, f"{self._prefix}.{10 + ordinal}", {"/var/lib/leaderlease": str(disk)})

    def _operator(self, workload: Mapping[str, Any]) -> Process:
        config = self.home / "config"
        config.mkdir()
        for name, text in self._one("ConfigMap")["data"].items():
            (config / name).write_text(text)
        made = self._container(workload, "operator", f"{self._prefix}.5", {"/etc/leaderlease/config": str(config)})
        made._environ["LEADERLEASE_KUBECONFIG"] = str(self.api.kubeconfig)
        roles = [one for one in self._objects if one["kind"] == "ClusterRole"]
        for role in roles:
            self.api.apply(role, "/apis/rbac.authorization.k8s.io/v1/clusterroles")
        assert yaml.safe_load((config / "quorum.yaml").read_text())["kind"] == "LeaderQuorum"
        return made
