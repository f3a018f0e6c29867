"""A real kube-apiserver with its etcd, on loopback: for tests that need an API and no pods."""

import base64
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

READY_TIMEOUT_S = 90.0
POLL_S = 0.1
ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def binary(name: str) -> str | None:
    """Return the path of one of the control plane's binaries: from KUBEBUILDER_ASSETS, else from PATH."""
    folder = os.environ.get(ASSETS_VARIABLE)
    return shutil.which(name, path=folder) if folder else shutil.which(name)


class ApiError(Exception):
    """An answer that is not 2xx.

    Attributes:
        status: HTTP code; 0 when there was no answer.
        message: What the API server says.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class ApiServer:
    """One control plane below ``home``: certificates, etcd, API server, audit log."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.audit_log = home / "audit.log"
        self.kubeconfig = home / "kubeconfig"
        self._etcd_port, self._etcd_peer_port, self._port = _free_ports(3)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._authority = trustme.CA()
        self._write_files()
        self._tls = ssl.create_default_context(cafile=str(home / "ca.crt"))
        self._tls.load_cert_chain(home / "admin.pem")

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def is_running(self) -> bool:
        """The API server lives."""
        process = self._processes.get("kube-apiserver")
        return process is not None and process.poll() is None

    def start(self) -> None:
        """Start both and wait until the API server is ready."""
        self._run(
            "etcd",
            *("--data-dir", str(self.home / "etcd"), "--unsafe-no-fsync", "--log-level", "error"),
            *("--listen-client-urls", f"http://127.0.0.1:{self._etcd_port}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{self._etcd_port}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{self._etcd_peer_port}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{self._etcd_peer_port}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{self._etcd_peer_port}"),
        )
        self.start_api()

    def start_api(self) -> None:
        """Start the API server, and wait until it is ready."""
        home = self.home
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            *("--bind-address=127.0.0.1", f"--secure-port={self._port}", "--service-cluster-ip-range=10.96.0.0/16"),
            *(f"--client-ca-file={home}/ca.crt", f"--tls-cert-file={home}/server.crt"),
            *(f"--tls-private-key-file={home}/server.key", f"--cert-dir={home}", "--authorization-mode=RBAC"),
            *(f"--service-account-key-file={home}/sa.key", f"--service-account-signing-key-file={home}/sa.key"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--disable-admission-plugins=ServiceAccount",  # nobody makes the accounts here
            *(f"--audit-policy-file={home}/audit-policy.json", f"--audit-log-path={self.audit_log}"),
            *("--audit-log-mode=blocking", "--endpoint-reconciler-type=none"),
        )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._is_ready():
            process = self._processes["kube-apiserver"]
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the API server does not come up:\n{self.log_tail('kube-apiserver')}")
            time.sleep(POLL_S)

    def kill_api(self) -> None:
        """End the API server at once; etcd keeps what it had."""
        self._end("kube-apiserver")

    def compact(self) -> None:
        """Forget all older versions in etcd; the API server keeps what it has in memory until it starts anew."""
        revision = self._ask_etcd("kv/range", {"key": base64.b64encode(b"none").decode()})["header"]["revision"]
        self._ask_etcd("kv/compaction", {"revision": revision, "physical": True})

    def stop(self) -> None:
        """End everything."""
        for name in list(self._processes):
            self._end(name)

    def log_tail(self, name: str, lines: int = 20) -> str:
        """Return the end of a process's log."""
        return "\n".join((self.home / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    # --- requests --------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json", accept: str = ""
    ) -> Any:
        """Send one request as an administrator and return the decoded answer.

        Raises:
            ApiError: Not 2xx.
        """
        headers = {"Content-Type": content, "Accept": accept or "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=30) as answer:
                raw = answer.read()
                return json.loads(raw) if answer.headers.get_content_type() == "application/json" else raw.decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                text = json.loads(text)["message"]
            raise ApiError(error.code, text) from None
        except OSError as error:
            raise ApiError(0, str(error)) from None

    def get(self, path: str) -> Any:
        """Return one object, or None when there is none."""
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def apply(self, body: Mapping[str, Any], path: str, manager: str = "test") -> Any:
        """Apply an object on the server's side; ``path`` is that of the collection."""
        name = body["metadata"]["name"]
        return self.request("PATCH", f"{path}/{name}?fieldManager={manager}&force=true", dict(body), content=APPLY)

    def audit(self) -> list[dict[str, Any]]:
        """Return all requests so far that were answered."""
        with self.audit_log.open() as lines:
            entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return [entry for entry in entries if entry["stage"] == "ResponseComplete"]

    # --- inside ----------------------------------------------------------------------------------------------

    def _ask_etcd(self, path: str, body: Mapping[str, Any]) -> Any:
        url = f"http://127.0.0.1:{self._etcd_port}/v3/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10) as answer:
            return json.loads(answer.read())

    def _is_ready(self) -> bool:
        try:
            return bool(self.request("GET", "/readyz") == "ok")
        except ApiError:
            return False

    def _run(self, name: str, *arguments: str) -> None:
        path = binary(name)
        assert path is not None, f"{name} is neither in ${ASSETS_VARIABLE} nor on PATH"
        with (self.home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def _write_files(self) -> None:
        home = self.home
        self._authority.cert_pem.write_to_path(home / "ca.crt")
        server = self._authority.issue_cert("127.0.0.1", "localhost")
        server.private_key_pem.write_to_path(home / "server.key")
        for blob in server.cert_chain_pems:
            blob.write_to_path(home / "server.crt", append=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (home / "sa.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata"}],
        }
        (home / "audit-policy.json").write_text(json.dumps(policy))
        self.write_kubeconfig(self.kubeconfig, "admin", "system:masters")

    def write_kubeconfig(self, path: Path, user: str, group: str = "") -> Path:
        """Write a kubeconfig with a client certificate of ``user``, and ``USER.pem`` beside it."""
        certificate = self._authority.issue_cert(
            f"{user}@example.com", common_name=user, organization_name=group or None
        )
        pem = path.parent / f"{user}.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(pem)
        data = base64.b64encode(pem.read_bytes()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.home / "ca.crt")}}
            ],
            "users": [{"name": user, "user": {"client-certificate-data": data, "client-key-data": data}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        }
        path.write_text(json.dumps(config))
        return path


def die_with_parent() -> None:
    """Have the kernel end this process with the one that started it, however that ends; for ``preexec_fn``."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
