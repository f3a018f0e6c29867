"""What people get wrong on a real cluster, and the sentence that they are shown, in the place where they look first.

Told elsewhere: values that cannot work (tests/chart/test_render.py), bad labels and annotations and a webhook
certificate that ran out (tests/apiserver/test_inject.py), LeaderLeases that the schema refuses
(tests/apiserver/test_crd.py), an expired token, which no cluster signs on request (tests/node/test_auth.py).
"""

import base64
import json
import re
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa

import leaderlease
from leaderlease.errors import LeaderLeaseError
from support import e2e
from support.e2e import App, Deploy

AUDIENCE = "leaderlease"
CLIENTS = f"leaderlease.{e2e.NAMESPACE}.svc:7400"
WRONG_DIRECTORY = 78
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


# --- pods ----------------------------------------------------------------------------------------------------


def pod(space: str, name: str, lease: str) -> dict[str, Any]:
    """Return a pod that only waits."""
    app = {
        "name": "app",
        "image": f"{e2e.IMAGES['agent']}:{e2e.TAG}",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", "import time; time.sleep(3600)"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": space, "labels": {"leaderlease.dev/inject": lease}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [app]},
    }


def authority(tmp_path: Path) -> Path:
    """Return a file with the authority of the nodes."""
    file = tmp_path / "ca.crt"
    secret = e2e.get("secret", "leaderlease-node-ca", "-n", e2e.NAMESPACE)
    file.write_bytes(base64.b64decode(secret["data"]["tls.crt"]))
    return file


def answer(space: str, name: str) -> dict[str, Any]:
    """Return what the sidecar of a pod tells its application."""
    script = (
        "import urllib.request as r, urllib.error as e\n"
        "try: print(r.urlopen('http://127.0.0.1:4040/', timeout=5).read().decode())\n"
        "except e.HTTPError as error: print(error.read().decode())"
    )
    text = e2e.kubectl("exec", name, "-n", space, "-c", "app", "--", "python3", "-c", script, is_checked=False)
    return dict(json.loads(text)) if text.startswith("{") else {}


def test_label_that_names_no_lease(space: str) -> None:
    """`kubectl describe pod` shows which LeaderLease is missing, and its creation is all it takes."""
    e2e.apply(pod(space, "typo", "biling"))
    text = e2e.until("an Event tells", lambda: described(space, "typo", "LeaseNotFound"), 60)
    assert f"{space}/biling: there is no such LeaderLease" in text
    assert "correct the label" in text
    found = e2e.until("the sidecar tells the application", lambda: answer(space, "typo").get("reason"), 30)
    assert f"{space}/biling" in found

    e2e.apply(
        {
            "apiVersion": "leaderlease.dev/v1alpha1",
            "kind": "LeaderLease",
            "metadata": {"name": "biling", "namespace": space},
            "spec": {},
        }
    )
    e2e.until("the pod leads", lambda: answer(space, "typo").get("is_leader"), 60)


def described(space: str, name: str, reason: str) -> str:
    """Return the line of `kubectl describe pod` with this reason."""
    lines = e2e.kubectl("describe", "pod", name, "-n", space).splitlines()
    return next((line for line in lines if reason in line), "")


def test_lease_of_another_namespace(space: str, deploy: Deploy, tmp_path: Path) -> None:
    """A sidecar that was sent to another namespace's lease says why it never leads: in its log and to its application.

    Neither label nor annotation can name another namespace, so somebody wrote it into the container's arguments.
    """
    app = deploy(3.0)
    leader = app.leader()
    with e2e.namespace(f"{space}-other") as other:
        by_hand = e2e.run(
            *(sys.executable, "-m", "leaderlease", "inject", "--endpoints", CLIENTS),
            *("--tls-ca", str(authority(tmp_path)), "--image", f"{e2e.IMAGES['agent']}:{e2e.TAG}"),
            *("--pull-policy", "Never"),
            stdin=yaml.safe_dump(pod(other, "intruder", app.name)),
        )
        body = yaml.safe_load(by_hand)
        body["spec"]["initContainers"][0]["args"] += ["--namespace", space]
        e2e.apply(body)
        refused = f"{app.lease}: {other}/intruder (default) may touch leases of its own namespace only"

        def log() -> str:
            return e2e.kubectl("logs", "intruder", "-n", other, "-c", "leaderlease", is_checked=False)

        e2e.until("the log tells", lambda: refused in log(), 60)
        e2e.until("the application is told", lambda: refused in answer(other, "intruder").get("reason", ""), 30)
        assert answer(other, "intruder")["is_leader"] is False
    assert app.journal.terms() == [leader.term]


# --- tokens --------------------------------------------------------------------------------------------------


def issued(app: App, audience: str = AUDIENCE, *, is_bound: bool = True) -> str:
    """Have the cluster sign a token of the application's service account."""
    metadata = app.pods()[0]["metadata"]
    bound = (
        "--bound-object-kind=Pod",
        f"--bound-object-name={metadata['name']}",
        f"--bound-object-uid={metadata['uid']}",
    )
    return e2e.kubectl(
        *("create", "token", app.name, "-n", app.namespace, f"--audience={audience}"), *(bound if is_bound else ())
    ).strip()


def forged(genuine: str, kid: str) -> str:
    """Return what another cluster with the same issuer would have signed with its own key."""
    claims = jwt.decode(genuine, options={"verify_signature": False})
    return jwt.encode(claims, OTHER, "RS256", headers={"kid": kid})


def nodes() -> list[str]:
    """Return the addresses of the quorum's pods, which the host reaches."""
    pods = e2e.get("pods", "-n", e2e.NAMESPACE, "-l", e2e.QUORUM_LABELS)
    return [f"{one['status']['podIP']}:7400" for one in pods]


async def refusal(ca: Path, token: str, lease: str) -> dict[str, str]:
    """Return what each node says to somebody who wants to read a lease with a token; empty where it answers."""
    said = {}
    for node in nodes():
        try:
            async with leaderlease.connect([node], tls=(None, None, str(ca)), token=token, timeout=10) as client:
                await client.get(lease)
            said[node] = ""
        except LeaderLeaseError as error:
            said[node] = str(error)
    return said


async def test_tokens_that_are_not_for_us(deploy: Deploy, tmp_path: Path) -> None:
    """Every node refuses a token of another audience, of another cluster or of no pod, and says which it is."""
    app, ca = deploy(3.0), authority(tmp_path)
    genuine = issued(app)
    kid = str(jwt.get_unverified_header(genuine)["kid"])
    assert set((await refusal(ca, genuine, app.lease)).values()) == {""}, "a good token is refused"

    cases = {
        "another audience": (issued(app, "https://kubernetes.default.svc"), "token: Audience doesn't match"),
        "no pod": (issued(app, is_bound=False), "token: not bound to a pod; it must be a projected ServiceAccount"),
        "another cluster": (forged(genuine, "their-key"), "token: signed with key 'their-key', which this node does"),
        "our key's name": (forged(genuine, kid), "token: Signature verification failed"),
        "no token": ("", "this quorum wants a ServiceAccount token, or a client certificate"),
    }
    for title, (token, sentence) in cases.items():
        for node, text in (await refusal(ca, token, app.lease)).items():
            assert sentence in text, f"{title}, {node}: {text}"
            assert "\n" not in text
    for text in (await refusal(ca, genuine, f"{e2e.NAMESPACE}/anything")).values():
        assert "may touch leases of its own namespace only" in text


# --- disks ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_disk_of_another_cluster() -> None:
    """A node on a claim that another cluster wrote ends with its own code, and `kubectl describe pod` shows why."""
    with e2e.namespace(f"e2e-moved-{int(time.time()) % 100_000}") as space:
        first, second = str(uuid.uuid4()), str(uuid.uuid4())
        release(space, first, "--wait")
        e2e.run("helm", "uninstall", "moved", "-n", space, "--wait")
        # Helm does not wait for the pods of a StatefulSet, and the one that goes has the name of the next.
        e2e.kubectl("wait", "pod", "--all", "-n", space, "--for=delete", "--timeout=60s", is_checked=False)
        e2e.until("the pod is gone", lambda: not e2e.get("pods", "-n", space), 60)
        try:
            release(space, second)
            ended = e2e.until("the node gives up", lambda: termination(space), 60)
            assert ended["exitCode"] == WRONG_DIRECTORY
            told = f"belongs to cluster {first}, not to {second}"
            assert told in ended["message"]
            assert told in re.sub(r"\s+", " ", e2e.kubectl("describe", "pod", "moved-node-0", "-n", space))
        finally:
            e2e.run("helm", "uninstall", "moved", "-n", space, "--wait")


def release(space: str, cluster: str, *extra: str) -> None:
    """Install a quorum of one node without an operator."""
    values = {
        **e2e.values(),
        "fullnameOverride": "moved",
        "crds": {"enabled": False},
        "quorum": {"name": "moved", "clusterUID": cluster},
        "node": {**e2e.values()["node"], "replicas": 1},
        "operator": {"replicas": 0},
    }
    e2e.run(
        *("helm", "install", "moved", str(e2e.CHART), "-n", space, "--timeout", "120s", "-f", "-", *extra),
        stdin=yaml.safe_dump(values),
    )


def termination(space: str) -> dict[str, Any]:
    """Return how the node's container ended."""
    found = e2e.get("pod", "moved-node-0", "-n", space) or {}
    for status in (found.get("status") or {}).get("containerStatuses") or ():
        for state in (status.get("state") or {}, status.get("lastState") or {}):
            if "terminated" in state:
                return dict(state["terminated"])
    return {}
