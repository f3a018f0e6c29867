"""The operator behind a proxy that disturbs it: expired watches, conflicts, throttling, an API server that goes away.

After each disturbance the mirror is right again, without hands, without a storm of writes, and the metrics tell of it.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderlease.client.blocking import Client
from support.apiproxy import ApiProxy, Seen
from support.apiserver import ApiServer
from support.mirror import (
    GROUP,
    LEASES,
    SERVICE,
    SLICES,
    World,
    declared,
    holder,
    series,
    start,
)
from support.operators import Replica, condition, eventually

WORKERS = 8
"""Objects that the operator looks at, at a time."""
WRITES_MAX = 30
"""Of a change of one lease and its return: status, mirror, slice, labels, Events, each a few times."""
THROTTLED = 20
"""LeaderLeases that all want to be written while the API server refuses."""
PAUSE_S = 2
FOR_LONG = 1_000_000

pytestmark = pytest.mark.timeout(400)


def is_write(method: str, path: str) -> bool:
    """It is no read."""
    return method != "GET"


def patches(world: World, part: str) -> Any:
    """Return what wants patches of paths with this part, in one namespace."""
    return lambda method, path: method == "PATCH" and f"/{world.namespace}/" in path and part in path


def written(proxy: ApiProxy, world: World, since: int) -> list[Seen]:
    """Return the writes in one namespace; what earlier tests left in theirs may be told once more."""
    return [one for one in proxy.seen[since:] if one.is_write and f"/{world.namespace}/" in one.path]


@pytest.fixture
def proxy(api: ApiServer, tmp_path: Path) -> Iterator[ApiProxy]:
    """A proxy of this test."""
    one = ApiProxy(api, tmp_path / "proxy", f"proxied-{tmp_path.name.replace('_', '-')[-20:]}".rstrip("-"))
    yield one
    one.stop()


@pytest.fixture
def proxied(api: ApiServer, replicas: list[Replica], proxy: ApiProxy, tmp_path: Path) -> Iterator[Replica]:
    """One replica that writes, through the proxy; nothing that it does is a periodic resync."""
    replica = start(api, replicas, tmp_path, "--resync", "86400", kubeconfig=proxy.kubeconfig)
    eventually("it writes", lambda: replica.is_active)
    yield replica
    replica.stop()  # before the proxy


def led(world: World, client: Client, **spec: Any) -> Any:
    """Have billing-0 lead, and wait until the mirror says so."""
    world.pod("billing-0", "10.0.0.10")
    world.apply(leaderService=SERVICE, **spec)
    eventually("declared", lambda: declared(world))
    lease = client.acquire(f"{world.namespace}/billing", "billing-0")
    eventually("the mirror tells", lambda: is_told(world, "billing-0", "10.0.0.10"))
    return lease


def is_told(world: World, name: str, address: str) -> bool:
    """Everything says that this pod leads."""
    told = (holder(world), world.mirror().get("holderIdentity", ""), world.role(name), world.addresses())
    return told == (name, name, "leader", [address])


def counted(operator: Replica, code: str) -> float:
    """Return how many requests of the operator ended with a code, by its metrics."""
    lines = re.findall(rf'^leaderlease_api_requests_total{{code="{code}",.*}} (\S+)$', operator.http("/metrics"), re.M)
    return sum(map(float, lines))


def gaps(operator: Replica) -> float:
    """Return how often it listed everything because a watch may have missed something."""
    return series(operator.http("/metrics"), "leaderlease_reconcile_gaps_total")


def test_watches_that_are_too_old_begin_anew(
    world: World, api: ApiServer, proxied: Replica, proxy: ApiProxy, client: Client
) -> None:
    """410 Gone: what happened while no watch passed is found by listing, a deletion and a creation too."""
    lease = led(world, client)
    world.apply("gone")
    eventually("declared", lambda: declared(world, "gone"))
    gone, late = f"{world.namespace}/gone", f"{world.namespace}/late"
    proxy.cut_watches()
    world.delete("gone")
    world.apply("late")
    world.apply(leaderService=SERVICE, leaseDuration="9s")
    api.request("DELETE", f"{SLICES.format(world.namespace)}/billing-leader-leader")
    api.compact()
    api.kill_api()
    api.start_api()
    before, since = gaps(proxied), len(proxy.seen)
    proxy.mend_watches()
    eventually("a watch is refused as too old", lambda: proxy.gone > 0)
    eventually("withdrawn", lambda: gone not in client.declared(gone))
    eventually("the new one is declared", lambda: late in client.declared(late) and declared(world, "late"))
    eventually("the change is declared", lambda: client.declared()[f"{world.namespace}/billing"].duration_ms == 9_000)
    eventually("the slice again", lambda: is_told(world, "billing-0", "10.0.0.10"))
    eventually("counted", lambda: gaps(proxied) > before)
    assert len(written(proxy, world, since)) < WRITES_MAX, written(proxy, world, since)
    # The watches live: the next change arrives by them, for the next resync is a day away.
    world.apply("later")
    eventually("declared", lambda: declared(world, "later"))
    assert proxied.process.poll() is None
    lease.release()


def test_a_watch_that_ends_in_an_error_begins_anew(
    world: World, proxied: Replica, proxy: ApiProxy, client: Client
) -> None:
    """An API server that cannot go on with a watch ends it with another code than 410; the operator lives on."""
    lease = led(world, client)
    proxy.send_error(500)
    world.apply("late")
    eventually("the new one is declared", lambda: declared(world, "late"))
    lease.release()
    eventually("the end is told", lambda: not holder(world))
    assert proxied.process.poll() is None


def test_a_conflict_is_tried_again(world: World, proxied: Replica, proxy: ApiProxy, client: Client) -> None:
    """409 because somebody wrote the same object at the same time: the write is repeated, with pauses."""
    world.pod("billing-0", "10.0.0.10")
    world.apply(leaderService=SERVICE)
    eventually("declared", lambda: declared(world))
    eventually("all is written", lambda: world.role("billing-0") == "standby" and world.mirror())
    since = len(proxy.seen)
    parts = ("/leaderleases/billing/status", "/endpointslices/", "/leases/billing", "/pods/")
    refusals = [proxy.refuse(1, 409, patches(world, part)) for part in parts]
    lease = client.acquire(f"{world.namespace}/billing", "billing-0")
    eventually("the mirror tells", lambda: is_told(world, "billing-0", "10.0.0.10"))
    assert [one.left for one in refusals] == [0] * len(parts)
    assert counted(proxied, "409") >= len(parts)
    assert len(written(proxy, world, since)) < WRITES_MAX, written(proxy, world, since)
    lease.release()


def test_an_object_that_is_made_anew_meanwhile_gets_its_own_status(
    world: World, proxied: Replica, proxy: ApiProxy, client: Client
) -> None:
    """Between the look and the write the LeaderLease is deleted and created again: the API server answers 409."""
    world.apply()
    eventually("declared", lambda: declared(world))
    old = world.lease()["metadata"]["uid"]

    def make_anew() -> None:
        world.delete()
        world.apply()

    since = len(proxy.seen)
    proxy.before(patches(world, "/leaderleases/billing/status"), make_anew)
    lease = client.acquire(f"{world.namespace}/billing", "billing-0")
    eventually("the new object tells", lambda: holder(world) == "billing-0" and declared(world))
    assert world.lease()["metadata"]["uid"] != old
    assert 409 in {one.status for one in written(proxy, world, since) if "leaderleases/billing/status" in one.path}
    assert len(written(proxy, world, since)) < WRITES_MAX, written(proxy, world, since)
    lease.release()


def test_a_pod_that_is_made_anew_meanwhile_gets_its_own_role(
    world: World, api: ApiServer, proxied: Replica, proxy: ApiProxy, client: Client
) -> None:
    """A pod of a StatefulSet comes back under its name: the role of the one before is not written to it."""
    world.apply()
    eventually("declared", lambda: declared(world))
    uids = []

    def make_anew() -> None:
        api.request("DELETE", f"/api/v1/namespaces/{world.namespace}/pods/billing-0?gracePeriodSeconds=0")
        uids.append(world.pod("billing-0", "10.0.0.20"))

    proxy.before(patches(world, "/pods/billing-0"), make_anew)
    world.pod("billing-0", "10.0.0.10")
    eventually("made anew", lambda: uids)
    eventually("the new pod has a role", lambda: world.role("billing-0") == "standby")
    assert proxied.process.poll() is None


def test_fields_that_another_writer_takes_are_taken_back(
    world: World, api: ApiServer, proxied: Replica, proxy: ApiProxy, client: Client
) -> None:
    """Traffic goes where the quorum says, whoever writes the slice; one repair for each such write."""
    lease = led(world, client)
    slices, leases = SLICES.format(world.namespace), LEASES.format(world.namespace)
    since = len(proxy.seen)
    theirs = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": []}
    endpoints = [{"addresses": ["10.9.9.9"]}]
    api.apply({**theirs, "metadata": {"name": "billing-leader-leader"}, "endpoints": endpoints}, slices, "thief")
    mirror = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "billing"}}
    api.apply({**mirror, "spec": {"holderIdentity": "thief"}}, leases, "thief")
    status = {"holder": {"identity": "thief"}, "term": 99}
    body = {"apiVersion": "leaderlease.dev/v1alpha1", "kind": "LeaderLease", "metadata": {"name": "billing"}}
    path = f"{GROUP}/namespaces/{world.namespace}/leaderleases/billing/status"
    api.request("PATCH", f"{path}?fieldManager=thief&force=true", {**body, "status": status}, content=APPLY)
    eventually("all is taken back", lambda: is_told(world, "billing-0", "10.0.0.10"))
    assert world.status()["term"] == lease.term
    assert len(written(proxy, world, since)) < WRITES_MAX, written(proxy, world, since)
    lease.release()


APPLY = "application/apply-patch+yaml"


def test_throttling_is_obeyed(world: World, proxied: Replica, proxy: ApiProxy, client: Client) -> None:
    """429 with Retry-After: in each pause one request of each worker at most, however much there is to write."""
    names = [f"lease-{i}" for i in range(THROTTLED)]
    for name in names:
        world.apply(name)
    eventually("declared", lambda: all(declared(world, name) for name in names))
    began, since = time.monotonic(), len(proxy.seen)
    refusal = proxy.refuse(FOR_LONG, 429, is_write, {"Retry-After": str(PAUSE_S)})
    leases = [client.acquire(f"{world.namespace}/{name}", "billing-0") for name in names]
    eventually("three rounds are refused", lambda: FOR_LONG - refusal.left > 2 * WORKERS)
    refused, took_s = FOR_LONG - refusal.left, time.monotonic() - began
    refusal.left = 0
    assert refused <= WORKERS * (took_s / PAUSE_S + 2), f"{refused} in {took_s:.1f} s"
    eventually("all is told", lambda: all(holder(world, name) == "billing-0" for name in names))
    assert counted(proxied, "429") >= refused
    writes = [one for one in written(proxy, world, since) if one.status != 429]
    assert len(writes) < 5 * THROTTLED, "one status, one mirror and one Event of each, and little more"
    for lease in leases:
        lease.release()


def test_throttled_watches_and_lists_come_back(world: World, proxied: Replica, proxy: ApiProxy, client: Client) -> None:
    """429 for reads: the watches, which were cut, wait as long as they are told, and all is listed again."""
    lease = led(world, client)
    proxy.cut_watches()
    world.delete()
    refusal = proxy.refuse(12, 429, lambda method, path: method == "GET", {"Retry-After": "1"})
    proxy.mend_watches()
    eventually("withdrawn", lambda: f"{world.namespace}/billing" not in client.declared(world.namespace))
    world.apply("late")
    eventually("declared", lambda: declared(world, "late"))
    eventually("all were refused", lambda: refusal.left == 0)
    assert proxied.process.poll() is None
    lease.release()


def test_what_was_deleted_while_the_operator_was_down(
    world: World, api: ApiServer, replicas: list[Replica], tmp_path: Path, client: Client
) -> None:
    """No event ever tells of it: a LeaderLease, a child, a pod, and the label of a role."""
    first = start(api, replicas, tmp_path)
    eventually("it writes", lambda: first.is_active)
    lease = led(world, client, candidates={"podSelector": {"matchLabels": {"app": "billing"}}})
    other = world.pod("billing-1", "10.0.0.11")
    world.apply("gone", leaderService={**SERVICE, "name": "gone-leader"})
    name, gone = f"{world.namespace}/billing", f"{world.namespace}/gone"
    eventually("two pods are admitted", lambda: other in (client.declared(name)[name].pods or ()))
    eventually("declared", lambda: declared(world, "gone"))
    assert first.stop() == 0
    world.delete("gone")
    pods = f"/api/v1/namespaces/{world.namespace}/pods"
    api.request("DELETE", f"{pods}/billing-1?gracePeriodSeconds=0")
    api.request("DELETE", f"{SLICES.format(world.namespace)}/billing-leader-leader")
    api.request("DELETE", f"{LEASES.format(world.namespace)}/billing")
    none = {"metadata": {"labels": {"leaderlease.dev/role": None}}}
    api.request("PATCH", f"{pods}/billing-0", none, content="application/merge-patch+json")
    second = start(api, replicas, tmp_path)
    eventually("withdrawn", lambda: gone not in client.declared(gone))
    eventually("everything is back", lambda: is_told(world, "billing-0", "10.0.0.10"))
    eventually("one pod is admitted", lambda: other not in (client.declared(name)[name].pods or ()))
    writes = [write for write in second.writes(api) if f"/namespaces/{world.namespace}/" in write[1]]
    assert len(writes) < WRITES_MAX, writes
    lease.release()


def test_an_api_server_that_is_away_is_not_stormed(
    world: World, api: ApiServer, proxied: Replica, proxy: ApiProxy, client: Client
) -> None:
    """Requests without an answer are counted; after its return one list of each kind and few writes make all right."""
    lease = led(world, client)
    before = gaps(proxied)
    api.kill_api()
    try:
        began = time.monotonic()
        for _ in range(5):
            lease.release()
            lease = client.acquire(f"{world.namespace}/billing", "billing-0")
        eventually("it knows", lambda: "does not answer" in proxied.http("/readyz?verbose"))
        eventually("it has asked some times", lambda: counted(proxied, "none") > 3)
        unanswered, took_s = counted(proxied, "none"), time.monotonic() - began
    finally:
        api.start_api()
    # A probe a second, and of the one lease that has changed a try after each pause, which doubles.
    assert unanswered <= 20 + 4 * took_s, f"{unanswered} in {took_s:.1f} s"
    since = len(proxy.seen)
    eventually("the latest term", lambda: world.status().get("term") == lease.term)
    eventually("the mirror tells", lambda: is_told(world, "billing-0", "10.0.0.10"))
    assert condition(world.lease(), "Ready") == ("True", "LeaderElected")
    eventually("counted", lambda: gaps(proxied) > before)
    assert len(written(proxy, world, since)) < WRITES_MAX, written(proxy, world, since)
    lease.release()
