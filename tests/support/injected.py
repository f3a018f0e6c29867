"""Pods with a sidecar, as our webhook makes them: the sidecar is a process on this machine."""

import base64
import json
from typing import Any

from support.installation import Installation, Process, Volume


class InjectedPod:
    """A pod that our webhook admitted: its sidecar runs, with the files that a kubelet makes of the pod's volumes.

    Args:
        installation: Of the webhook, the operator and the nodes, all running.
        bundle: The authority by which the API server knows the webhook.
        namespace: Of the pod; has a service account.
        name: Of the pod; the label names the lease ``billing``.
    """

    def __init__(self, installation: Installation, bundle: bytes, namespace: str, name: str) -> None:
        self._installation, self._namespace, self.name = installation, namespace, name
        self._api, self._home = installation.api, installation.home
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        plain = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"leaderlease.dev/inject": "billing"}},
            "spec": {
                "serviceAccountName": "default",
                "nodeName": "node-1",
                "containers": [{"name": "app", "image": "app"}],
            },
        }
        answer = installation.review(plain, bundle)
        assert answer["allowed"], answer
        for one in json.loads(base64.b64decode(answer["patch"])):
            _, part, key = one["path"].split("/", 2)
            plain[part][key] = one["value"]  # type: ignore[index]
        body = self._api.request("POST", self._pods, plain)
        self.uid = body["metadata"]["uid"]
        self._identity = Volume(self._home / f"{name}-identity")
        self.sync()
        self.process = self._sidecar(body["spec"]["initContainers"][0])

    def _sidecar(self, container: dict[str, Any]) -> Process:
        moved = {
            "/var/run/secrets/leaderlease.dev": str(self._identity.path),
            "/var/lib/leaderlease": str(self._home / f"{self.name}-state"),
            "/leaderlease/": f"{self._home}/{self.name}-",
            "127.0.0.1:4040": "127.0.0.1:0",
            ":4041": "127.0.0.1:0",
        }
        arguments = []
        for argument in container["args"]:
            for path, real in moved.items():
                argument = argument.replace(path, real) if argument.startswith(path) else argument
            arguments.append(argument)
        environ = {"POD_NAME": self.name, "POD_NAMESPACE": self._namespace, "POD_UID": self.uid, "NODE_NAME": "node-1"}
        return self._installation.run(self.name, arguments, environ)

    def sync(self) -> None:
        """Bring what the pod's annotation and the API server say to the sidecar."""
        annotations = self._api.get(f"{self._pods}/{self.name}")["metadata"]["annotations"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": self.name, "uid": self.uid}
        spec = {"audiences": ["leaderlease"], "expirationSeconds": 3600, "boundObjectRef": bound}
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/default/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token = self._api.request("POST", path, body)["status"]["token"]
        self._identity.write({"ca.crt": annotations["leaderlease.dev/ca"].encode(), "token": token.encode()})

    def trusts(self) -> str:
        """Return what its annotation says."""
        return str(self._api.get(f"{self._pods}/{self.name}")["metadata"]["annotations"]["leaderlease.dev/ca"])

    def leader(self) -> dict[str, Any]:
        """Return what the file that the application reads says."""
        try:
            return dict(json.loads((self._home / f"{self.name}-leader.json").read_text()))
        except OSError:
            return {}
