"""The operator against a real API server and a real quorum of three processes."""

import time
from pathlib import Path

import pytest

from leaderlease.cli.local import LocalQuorum
from leaderlease.client.blocking import Client, connect
from support.apiserver import ApiServer
from support.mirror import (
    GROUP,
    LEASES,
    QUORUM,
    SERVICE,
    SLICES,
    World,
    declared,
    holder,
    renewals,
    series,
    start,
)
from support.operators import Replica, condition, eventually

SETTLE, ROUNDS = 10, 60
"""Renewals that go by without a write: before a stretch counts as idle, and in that stretch (about 15 s)."""
LOOKS = 3
"""How often everything is looked at again in a stretch, at least."""
STRETCH_MAX_S = 90.0
TAKEOVER_S = 3.0
REFUSALS_MAX = 10
"""Of one lease in a namespace that goes: the end of the namespace, the declaration, and what its quorum tells."""

pytestmark = pytest.mark.timeout(180)


def test_everything_follows_the_leader(world: World, operator: Replica, quorum: LocalQuorum) -> None:
    """Status, mirror Lease, Service, EndpointSlice, role labels and Events tell of an election and of its end."""
    uids = {name: world.pod(name, ip) for name, ip in (("billing-0", "10.0.0.10"), ("billing-1", "10.0.0.11"))}
    world.apply(leaderService=SERVICE, candidates={"podSelector": {"matchLabels": {"app": "billing"}}})
    eventually("declared", lambda: declared(world))
    assert condition(world.lease(), "LeaderElected") == ("False", "NoCandidate")
    name = f"{world.namespace}/billing"
    with (
        connect(quorum.endpoints, pod_uid=uids["billing-0"]) as first,
        connect(quorum.endpoints, pod_uid=uids["billing-1"]) as second,
    ):
        assert sorted(uids.values()) == sorted(first.declared(name)[name].pods or ())
        lease = first.acquire(name, "billing-0")
        eventually("billing-0 in the status", lambda: holder(world) == "billing-0")
        status = world.status()
        assert status["holder"] == {
            "identity": "billing-0",
            "podName": "billing-0",
            "podUID": uids["billing-0"],
            "nodeName": "node-1",
        }
        assert status["term"] == lease.term
        assert condition(world.lease(), "Ready") == ("True", "LeaderElected")
        eventually("traffic", lambda: world.addresses() == ["10.0.0.10"])
        eventually("roles", lambda: (world.role("billing-0"), world.role("billing-1")) == ("leader", "standby"))
        assert world.mirror()["holderIdentity"] == "billing-0"

        lease.release()
        eventually("no traffic", lambda: world.addresses() == [])
        eventually("vacant", lambda: not holder(world))
        assert "holderIdentity" not in world.mirror()
        lease = second.acquire(name, "billing-1")
        eventually("billing-1 in the status", lambda: holder(world) == "billing-1")
        assert world.addresses() == ["10.0.0.11"]
        assert (world.role("billing-0"), world.role("billing-1")) == ("standby", "leader")
        assert world.status()["transitions"] == 2
        history = world.status()["history"]
        assert [(one["term"], one["holder"], one.get("reason")) for one in history] == [
            (lease.term, "billing-1", None),
            (lease.term - 1, "billing-0", "Released"),
        ]
        assert world.reasons() == ["LeaderElected", "LeaderStepDown", "LeaderElected"]
        lease.release()


def test_leader_that_died_is_told_as_lost(world: World, operator: Replica, quorum: LocalQuorum) -> None:
    """A lease that ran out is Expired in the history and LeaderLost in the Events."""
    world.apply(leaseDuration="500ms", renewDeadline="300ms", retryPeriod="100ms")
    eventually("declared", lambda: declared(world))
    with connect(quorum.endpoints) as one:
        one.acquire(f"{world.namespace}/billing", "billing-0")
        eventually("billing-0 in the status", lambda: holder(world) == "billing-0")
    eventually("the end in the history", lambda: world.status()["history"][0].get("reason") == "Expired")
    assert not holder(world)
    assert world.reasons() == ["LeaderElected", "LeaderLost"]


def test_deletion_withdraws_and_the_term_goes_on(world: World, operator: Replica, client: Client) -> None:
    """Deletion never waits for the operator; a lease that is created again continues with higher terms."""
    name = f"{world.namespace}/billing"
    world.apply()
    eventually("declared", lambda: declared(world))
    client.acquire(name, "billing-0").release()
    eventually("history", lambda: world.status()["history"])
    world.delete()
    assert not world.lease()
    eventually("withdrawn", lambda: name not in client.declared(name))
    world.apply()
    eventually("declared again", lambda: name in client.declared(name))
    lease = client.acquire(name, "billing-1")
    assert lease.term == 2
    eventually("term 2", lambda: world.status().get("term") == 2)
    assert world.status()["transitions"] == 1
    lease.release()


def test_what_people_declared_is_left_to_them(
    world: World, api: ApiServer, replicas: list[Replica], tmp_path: Path, client: Client
) -> None:
    """A lease without an object that the command line declared stays; one that an operator declared is withdrawn."""
    mine, gone = f"{world.namespace}/mine", f"{world.namespace}/gone"
    client.declare(mine, duration="1s")
    client.declare(gone, duration="1s", source="kubernetes")
    operator = start(api, replicas, tmp_path)
    eventually("it writes", lambda: operator.is_active)
    eventually("withdrawn", lambda: gone not in client.declared(world.namespace))
    assert mine in client.declared(world.namespace)


def test_edits_reach_the_quorum(world: World, operator: Replica, client: Client) -> None:
    """Duration, mode and candidates are declared anew; a pod that comes or goes changes who is admitted."""
    name = f"{world.namespace}/billing"
    world.apply()
    eventually("declared", lambda: declared(world))
    service_accounts = {"serviceAccountNames": ["billing"], "podSelector": {"matchLabels": {"app": "billing"}}}
    world.apply(leaseDuration="10s", lockDelay="15s", mode="Paused", candidates=service_accounts)
    eventually("declared", lambda: declared(world))
    spec = client.declared(name)[name]
    assert (spec.duration_ms, spec.lock_delay_ms, spec.mode) == (10_000, 15_000, "Paused")
    assert (spec.service_accounts, spec.pods) == (("billing",), ())
    assert condition(world.lease(), "LeaderElected") == ("False", "Paused")
    uid = world.pod("billing-0", "10.0.0.10")
    eventually("admitted", lambda: client.declared(name)[name].pods == (uid,))
    world.api.request("DELETE", f"/api/v1/namespaces/{world.namespace}/pods/billing-0?gracePeriodSeconds=0")
    eventually("not admitted", lambda: client.declared(name)[name].pods == ())


def test_foreign_objects_are_left_alone(world: World, operator: Replica, client: Client) -> None:
    """A Service of the wanted name that is somebody else's stalls the lease with a sentence; a Lease is just kept."""
    path = f"/api/v1/namespaces/{world.namespace}/services"
    theirs = {"metadata": {"name": "billing-leader"}, "spec": {"ports": [{"port": 1}], "selector": {"app": "x"}}}
    world.api.request("POST", path, {"apiVersion": "v1", "kind": "Service", **theirs})
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "billing"}}
    world.api.request("POST", LEASES.format(world.namespace), {**lease, "spec": {"holderIdentity": "me"}})
    world.apply(leaderService=SERVICE)
    eventually("stalled", lambda: condition(world.lease(), "Stalled") == ("True", "NameTaken"))
    held = client.acquire(f"{world.namespace}/billing", "billing-0")
    eventually("billing-0 in the status", lambda: holder(world) == "billing-0")
    assert world.api.get(f"{path}/billing-leader")["spec"]["selector"] == {"app": "x"}
    assert world.mirror() == {"holderIdentity": "me"}
    held.release()


def test_children_that_somebody_deleted_come_back(world: World, operator: Replica, client: Client) -> None:
    """The operator is level-triggered: it repairs what was taken away, and removes what is not wanted any more."""
    world.pod("billing-0", "10.0.0.10")
    world.apply(leaderService=SERVICE)
    eventually("declared", lambda: declared(world))
    held = client.acquire(f"{world.namespace}/billing", "billing-0")
    # The status is written last: nothing is on its way any more that would bring a child back.
    eventually("billing-0 in the status", lambda: holder(world) == "billing-0")
    services = f"/api/v1/namespaces/{world.namespace}/services"
    mirror, one_slice = LEASES.format(world.namespace), SLICES.format(world.namespace)
    for path in (f"{one_slice}/billing-leader-leader", f"{services}/billing-leader", f"{mirror}/billing"):
        uid = world.api.get(path)["metadata"]["uid"]
        world.api.request("DELETE", path)
        again = eventually(f"{path} again", lambda: world.api.get(path))  # noqa: B023
        assert again["metadata"]["uid"] != uid
    assert world.addresses() == ["10.0.0.10"]
    assert world.mirror()["holderIdentity"] == "billing-0"
    world.apply(leaderService={**SERVICE, "name": "other"})
    eventually("the other Service", lambda: world.api.get(f"{services}/other"))
    eventually("the old one is gone", lambda: world.api.get(f"{services}/billing-leader") is None)
    held.release()


def test_unknown_quorum_is_told(world: World, operator: Replica) -> None:
    """A LeaderLease that names no quorum says so."""
    world.apply(quorum="elsewhere")
    eventually("stalled", lambda: condition(world.lease(), "Ready") == ("False", "QuorumNotFound"))


def test_idle_operator_writes_nothing(
    world: World, api: ApiServer, replicas: list[Replica], tmp_path: Path, client: Client, quorum: LocalQuorum
) -> None:
    """While nothing changes there is not one write, although leases are renewed and looked at again all the time.

    One of them is held, one was let go of, and one was never asked for.
    """
    operator, second = (start(api, replicas, tmp_path, "--resync", "1") for _ in range(2))
    world.pod("billing-0", "10.0.0.10")
    for name in ("billing", "let-go", "new"):
        world.apply(name, leaderService={**SERVICE, "name": f"{name}-leader"})
        eventually("declared", lambda: declared(world, name))  # noqa: B023
    held, gone = (client.acquire(f"{world.namespace}/{name}", "billing-0") for name in ("billing", "let-go"))
    eventually("the whole status", lambda: holder(world) == "billing-0" and world.role("billing-0") == "leader")
    eventually("both are routed", lambda: world.addresses() == world.addresses("let-go-leader") == ["10.0.0.10"])
    gone.release()
    eventually("the end is told", lambda: world.status("let-go")["history"][0].get("reason") == "Released")
    assert world.addresses("let-go-leader") == world.addresses("new-leader") == []

    def writes(since: int) -> list[tuple[str, str, int]]:
        return [
            write
            for write in (*operator.writes(api, since), *second.writes(api, since))
            # What earlier tests left in other namespaces, pods without a sidecar, is told once more by a new replica.
            if "/namespaces/" not in write[1] or f"/namespaces/{world.namespace}/" in write[1]
        ]

    def looks() -> float:
        """How often each lease was looked at, on average, by whichever replica writes."""
        scrapes = [one.http("/metrics") for one in (operator, second)]
        total = sum(series(text, 'leaderlease_reconcile_total{kind="lease",result="ok"}') for text in scrapes)
        return total / series(scrapes[0], "leaderlease_reconcile_leases")

    def stretch(rounds: int) -> list[tuple[str, str, int]]:
        since, began, looked = len(api.audit()), renewals(quorum), looks()
        eventually("leases are renewed", lambda: renewals(quorum) >= began + rounds, STRETCH_MAX_S)
        eventually("leases are looked at", lambda: looks() >= looked + LOOKS, STRETCH_MAX_S)
        return writes(since)

    eventually("what the start had to do has ended", lambda: not stretch(SETTLE), STRETCH_MAX_S)
    assert stretch(ROUNDS) == []
    assert held.remaining() > 0
    held.release()


def test_other_replica_takes_over(
    world: World, api: ApiServer, operator: Replica, replicas: list[Replica], tmp_path: Path, client: Client
) -> None:
    """After a SIGKILL of the replica that writes, the other one reconciles within 3 s."""
    second = start(api, replicas, tmp_path)
    world.apply()
    eventually("declared", lambda: declared(world))
    assert not second.is_active
    assert second.writes(api) == []
    assert operator.writes(api)
    held = client.acquire(f"{world.namespace}/billing", "billing-0")
    eventually("billing-0 in the status", lambda: holder(world) == "billing-0")
    operator.kill()
    began = time.monotonic()
    held.release()
    eventually("the end of the term in the status", lambda: not holder(world), TAKEOVER_S)
    print(f"took over after {time.monotonic() - began:.2f} s")
    assert second.is_active
    assert world.reasons() == ["LeaderElected", "LeaderStepDown"]


def test_api_server_that_was_away(world: World, api: ApiServer, operator: Replica, client: Client) -> None:
    """Elections go on without the API server; what happened meanwhile is told after its return, deletions too."""
    name = f"{world.namespace}/billing"
    world.apply()
    eventually("declared", lambda: declared(world))
    client.acquire(name, "billing-0").release()
    eventually("term 1", lambda: world.status().get("term") == 1 and not holder(world))
    api.kill_api()
    try:
        terms = []
        for _ in range(3):
            held = client.acquire(name, "billing-1")
            terms.append(held.term)
            held.release()
        held = client.acquire(name, "billing-2")
    finally:
        api.start_api()
    eventually("the latest term", lambda: world.status().get("term") == held.term)
    assert [one["term"] for one in world.status()["history"]] == [5, 4, 3, 2, 1]
    assert [one.get("reason") for one in world.status()["history"]] == [None, *["Released"] * 4]
    world.delete()
    eventually("withdrawn", lambda: name not in client.declared(name))
    assert operator.process.poll() is None
    held.release()


def test_quorum_without_majority_is_told(
    world: World, api: ApiServer, operator: Replica, quorum: LocalQuorum, client: Client
) -> None:
    """When two of three nodes are gone nobody can lead, the operator included; it says so all the same."""
    world.apply()
    eventually("declared", lambda: declared(world))

    def health() -> tuple[str, str]:
        return condition(api.get(f"{GROUP}/leaderquorums/{QUORUM}"), "Available")

    eventually("available", lambda: health() == ("True", "MajorityAnswers"))
    gone = quorum.nodes[:2]
    for node in gone:
        quorum.kill(node)
    try:
        eventually("no majority", lambda: health()[0] == "False")
        eventually("on the lease", lambda: condition(world.lease(), "Ready")[0] == "False")
    finally:
        for node in gone:
            quorum.start_node(node)
        quorum.wait_ready()
    eventually("available again", lambda: health() == ("True", "MajorityAnswers"))
    events = api.request("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    told = [one["reason"] for one in events if one["regarding"]["name"] == QUORUM]
    assert {"QuorumLost", "QuorumRestored"} <= set(told)
    eventually("it writes again", lambda: operator.is_active)


def test_restart_writes_nothing(
    world: World, api: ApiServer, operator: Replica, replicas: list[Replica], tmp_path: Path, client: Client
) -> None:
    """A replica that finds everything as it should be leaves it so; its first write tells of a change."""
    world.pod("billing-0", "10.0.0.10")
    world.apply(leaderService=SERVICE)
    eventually("declared", lambda: declared(world))
    held = client.acquire(f"{world.namespace}/billing", "billing-0")
    eventually("the whole status", lambda: holder(world) == "billing-0" and world.role("billing-0") == "leader")
    operator.stop()
    second = start(api, replicas, tmp_path)
    eventually("it writes", lambda: second.is_active)
    held.release()
    eventually("it writes what is new", lambda: not holder(world))
    # Everything before this is older than the release: the restart itself wrote nothing about any object.
    # Other tests may have left something to be told in their namespaces.
    writes = [write for write in second.writes(api) if f"/namespaces/{world.namespace}/" in write[1]]
    assert "endpointslices" in writes[0][1], writes


def test_namespace_that_goes_is_left_alone(world: World, api: ApiServer, operator: Replica, client: Client) -> None:
    """What cannot be made any more is not tried again and again: 300 leases would ask thousands of times in vain."""
    world.apply()
    eventually("declared", lambda: declared(world))
    api.request("DELETE", f"/api/v1/namespaces/{world.namespace}")  # it stays so: nobody here removes its finalizer
    lease = client.acquire(f"{world.namespace}/billing", "billing-0")
    refusals = 'leaderlease_reconcile_total{kind="lease",result="ending"}'
    eventually("told that it goes", lambda: refusals in operator.http("/metrics"))

    depth = "leaderlease_reconcile_queue_depth"
    eventually("nothing waits to be tried again", lambda: series(operator.http("/metrics"), depth) == 0)
    metrics = operator.http("/metrics")
    assert 'kind="lease",result="error"' not in metrics
    assert series(metrics, refusals) < REFUSALS_MAX
    lease.release()


def test_health_and_metrics(operator: Replica) -> None:
    """The HTTP port tells probes and people how the operator is."""
    assert operator.http("/livez") == "ok\n"
    text = operator.http("/readyz?verbose")
    assert "[+] objects: ok" in text
    assert "[ ] role: writes, under term" in text
    metrics = operator.http("/metrics")
    for name in ("reconcile_total", "reconcile_duration_seconds", "reconcile_queue_depth", "api_requests_total"):
        assert f"leaderlease_{name}" in metrics


def test_orderly_stop_hands_over_at_once(
    api: ApiServer, operator: Replica, replicas: list[Replica], tmp_path: Path
) -> None:
    """SIGTERM releases the operator's own lease, and ends with code 0."""
    second = start(api, replicas, tmp_path)
    assert operator.stop() == 0
    eventually("the other writes", lambda: second.is_active)
