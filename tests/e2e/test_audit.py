"""What the chart's ServiceAccounts ask of the API server, compared with the rights that the chart gives them."""

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from support import e2e, e2e_audit
from support.e2e import App, Deploy
from support.e2e_audit import Call, Right
from support.e2e_journal import boottime_ms
from support.e2e_report import Report
from support.levels import require

IDLE_S = 60.0
QUIET_S = 5.0
OPERATOR = f"{e2e.NAMESPACE}:leaderlease-operator"
PORTS = [{"name": "http", "port": 80, "targetPort": 8080}]
SECOND = "audited"
"""A release of its own, for what only a first installation asks: with one replica of each, certificates from a Job,
and an operator that has its rights in its own namespace alone."""
SECOND_VALUES: dict[str, Any] = {
    "fullnameOverride": SECOND,
    "images": e2e.values()["images"],
    "crds": {"enabled": False},
    "quorum": {"name": SECOND},
    "node": {"replicas": 1, "persistence": {"enabled": False}},
    "operator": {"replicas": 1},
    "tls": {"mode": "job"},
    "webhook": {"namespaceSelector": {"matchLabels": {"leaderlease.dev/webhook": "none-has-this"}}},
}


@dataclass(frozen=True)
class Audit:
    """Both releases, and what their accounts did."""

    accounts: set[str]
    rights: set[Right]
    calls: list[Call]


@pytest.fixture(scope="module")
def log(images: None) -> None:
    """Need the audit log."""
    lacking = e2e_audit.missing()
    require("e2e", not lacking, lacking)


@pytest.fixture(scope="module")
def audit(log: None, installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audit]:
    """Have the operator do all that it ever does, install a second release, and return the calls."""
    stamp = int(time.time()) % 100_000
    began = e2e_audit.now()
    with e2e.namespace(f"e2e-audit-{stamp}") as space:
        app = e2e.deploy(
            space, tmp_path_factory.mktemp("audit"), 3.0, spec={"leaderService": {"name": "first", "ports": PORTS}}
        )
        exercise(app)
        app.journal.check()
        bodies = e2e_audit.objects(e2e.RELEASE, e2e.NAMESPACE)
        accounts, rights = e2e_audit.accounts(bodies, e2e.NAMESPACE), e2e_audit.rights(bodies)
    with e2e.namespace(f"e2e-{SECOND}-{stamp}") as space:
        try:
            install_second(space)
            bodies = e2e_audit.objects(SECOND, space)
            accounts |= e2e_audit.accounts(bodies, space)
            rights |= e2e_audit.rights(bodies)
            calls = [call for call in e2e_audit.calls(began) if call.account in accounts]
        finally:
            e2e.run("helm", "uninstall", SECOND, "-n", space, "--ignore-not-found", "--wait")
    yield Audit(accounts, rights, calls)
    e2e.settle()


def exercise(app: App) -> None:
    """Elect, hand over, change, repair, restart the operator, delete."""
    leader = app.leader()
    e2e.until("the Service leads to the leader", lambda: traffic(app, "first") == [leader.uid])
    e2e.until("the leader is labelled", lambda: roles(app).get(leader.pod) == "leader")

    successor = next(pod["metadata"]["name"] for pod in app.pods() if pod["metadata"]["name"] != leader.pod)
    hand_over(app, leader.pod, successor)
    after = app.journal.next_reign(leader.term, 30)
    assert after.pod == successor
    e2e.until("the Service follows", lambda: traffic(app, "first") == [after.uid])

    app.patch({"leaderService": {"name": "first", "ports": [{**PORTS[0], "port": 81}]}, "leaseDuration": "4s"})
    e2e.until("the Service is changed", lambda: ports(app, "first") == [81])
    app.patch({"leaderService": {"name": "second", "ports": PORTS}})
    e2e.until("the other Service is there", lambda: traffic(app, "second") == [after.uid])
    e2e.until("the first one is gone", lambda: ports(app, "first") is None and not traffic(app, "first"))

    leave_stray(app)
    e2e.until("the stray is gone", lambda: e2e.get("lease", "stray", "-n", app.namespace) is None)

    old = writer()
    e2e.kubectl("delete", "pod", old, "-n", e2e.NAMESPACE)
    e2e.until("another replica writes", lambda: writer() not in ("", old))
    e2e.settle()

    e2e.kubectl("delete", "leaderlease", app.name, "-n", app.namespace, "--timeout=30s")
    e2e.until("no pod has a role", lambda: not any(roles(app).values()))
    e2e.until("its objects are gone", lambda: e2e.get("lease", app.name, "-n", app.namespace) is None)


def traffic(app: App, service: str) -> list[str]:
    """Return the pods to which a Service leads."""
    slices = e2e.get("endpointslices", "-n", app.namespace, "-l", f"kubernetes.io/service-name={service}") or []
    return [endpoint["targetRef"]["uid"] for one in slices for endpoint in one.get("endpoints") or []]


def ports(app: App, service: str) -> list[int] | None:
    """Return the ports of a Service; None without one."""
    found = e2e.get("service", service, "-n", app.namespace)
    return [port["port"] for port in found["spec"]["ports"]] if found else None


def roles(app: App) -> dict[str, str]:
    """Return the role labels of the pods."""
    return {pod["metadata"]["name"]: pod["metadata"]["labels"].get("leaderlease.dev/role", "") for pod in app.pods()}


def hand_over(app: App, pod: str, successor: str) -> None:
    """Have the sidecar of the leader transfer the lease, as its application would."""
    script = (
        "import sys, urllib.request as r; "
        "q = r.Request(f'http://127.0.0.1:4040/v1/leases/{sys.argv[1]}/transfer', sys.argv[2].encode(), "
        "{'Content-Type': 'application/json'}); print(r.urlopen(q, timeout=20).read())"
    )
    body = json.dumps({"successor": successor})
    e2e.kubectl("exec", pod, "-n", app.namespace, "-c", "app", "--", "python3", "-c", script, app.name, body)


def leave_stray(app: App) -> None:
    """Make an object that says to be the LeaderLease's, as an earlier version may have left it."""
    body = app.leaderlease()
    owner = {"apiVersion": body["apiVersion"], "kind": body["kind"], "name": app.name, "uid": body["metadata"]["uid"]}
    labels = {"leaderlease.dev/lease": app.name}
    metadata = {"name": "stray", "namespace": app.namespace, "labels": labels, "ownerReferences": [owner]}
    e2e.apply({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata})


def writer() -> str:
    """Return the replica of the operator that writes; empty while none does."""
    for pod in e2e.get("pods", "-n", e2e.NAMESPACE, "-l", e2e.OPERATOR_LABELS):
        address = (pod.get("status") or {}).get("podIP")
        try:
            url = f"http://{address}:7403/readyz?verbose"
            with urllib.request.urlopen(url, timeout=2) as answer:
                if address and b"writes, under term" in answer.read():
                    return str(pod["metadata"]["name"])
        except OSError:
            continue
    return ""


def install_second(space: str) -> None:
    """Install the second release, elect in it, and have its certificates looked at again."""
    values = {**SECOND_VALUES, "operator": {"replicas": 1, "watchNamespaces": [space]}}
    e2e.run(
        *("helm", "install", SECOND, str(e2e.CHART), "-n", space, "--wait", "--timeout", "180s", "-f", "-"),
        stdin=yaml.safe_dump(values),
    )
    e2e.until("the second LeaderQuorum is whole", lambda: (e2e.get("leaderquorum", SECOND) or {}).get("status"))
    e2e.run("helm", "test", SECOND, "-n", space, "--timeout", "120s")
    e2e.kubectl("create", "job", "again", "--from", f"cronjob/{SECOND}-certificates", "-n", space)
    e2e.kubectl("wait", "--for=condition=Complete", "job/again", "-n", space, "--timeout=120s")


def test_no_call_lacks_a_right(audit: Audit) -> None:
    """Nothing is answered 403."""
    assert [str(call) for call in audit.calls if call.is_forbidden] == []


def test_every_call_is_one_of_the_chart_s(audit: Audit) -> None:
    """Whatever is asked is within a rule of the chart, not within one that this cluster happens to have.

    The exception is the list of what the API server serves, which Kubernetes shows to everybody who has a name.
    """
    foreign = {
        str(call)
        for call in audit.calls
        for verb in call.verbs
        if not any(right.allows(call, verb) for right in audit.rights)
        and not (call.verb == "get" and not call.resource and '"system:discovery"' in call.reason)
    }
    assert sorted(foreign) == []


def test_no_right_is_unused(audit: Audit, report: Report) -> None:
    """Each verb of each rule was used by an account of this kind, in one of the releases."""
    used = {kind(right) for right in audit.rights for call in audit.calls for v in call.verbs if right.allows(call, v)}
    unused = sorted({kind(right) for right in audit.rights} - used)
    report.add("RBAC", calls=len(audit.calls), rights=len({kind(right) for right in audit.rights}), unused=unused)
    assert unused == []


def kind(right: Right) -> tuple[str, str, str]:
    """Return what a right is in every release: the part of the installation, the target and the verb."""
    return right.account.rpartition("-")[2], right.target, right.verb


def test_nodes_and_sidecars_ask_nothing(audit: Audit) -> None:
    """Leases live without the API server, so nodes have no rights and make no calls, and neither does `helm test`."""
    nodes = {account for account in audit.accounts if account.endswith("-node")}
    assert len(nodes) == 2
    assert [str(call) for call in audit.calls if call.account in nodes] == []
    assert [right for right in audit.rights if right.account in nodes] == []


def test_nothing_is_written_while_nothing_changes(log: None, deploy: Deploy, report: Report) -> None:
    """A lease that is held and renewed for a minute costs the API server no write, and its pods ask nothing at all."""
    app = deploy(3.0, spec={"leaderService": {"name": "app-leader", "ports": PORTS}})
    leader = app.leader()
    e2e.until("the Service leads to the leader", lambda: traffic(app, "app-leader") == [leader.uid])
    e2e.until("all pods have a role", lambda: sorted(roles(app).values()) == ["leader", "standby", "standby"])
    quiet(QUIET_S)

    began, since = e2e_audit.now(), boottime_ms()
    e2e.sleep_until(since + IDLE_S * 1000)
    calls = e2e_audit.calls(began)
    now = app.leader()
    assert (now.uid, now.term) == (leader.uid, leader.term)
    assert app.journal.leaderless_ms(since, boottime_ms() - 500) == []
    ours = [call for call in calls if call.account == OPERATOR]
    report.add("idle", seconds=IDLE_S, writes=len(writes(calls)), reads=len(ours) - len(writes(ours)))
    assert [str(call) for call in writes(calls)] == []
    assert [str(call) for call in calls if call.account.startswith(f"{app.namespace}:")] == []


def writes(calls: list[Call]) -> list[Call]:
    """Return the calls of our accounts that change something."""
    return [call for call in calls if call.verb not in e2e_audit.READS and call.account.startswith(e2e.NAMESPACE)]


def quiet(seconds: float) -> None:
    """Wait until what went before has been told."""

    def is_quiet() -> bool:
        began = e2e_audit.now()
        time.sleep(seconds)
        return not writes(e2e_audit.calls(began))

    e2e.until("the operator has told all that happened before", is_quiet, 60.0)
