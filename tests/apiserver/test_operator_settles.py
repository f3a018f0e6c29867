"""What the API server keeps of a write is what the plan wanted: whoever looks again finds nothing to do.

It keeps an empty list as null, and fills in defaults. So each plan is carried out at a real one, and made once more of
what that tells then.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import trustme

from leaderlease.controller.actions import Action
from leaderlease.controller.api import Api, load_configuration
from leaderlease.controller.apply import Applier
from leaderlease.controller.cache import Cache
from leaderlease.controller.own_quorum import CLUSTER_ROLE, LABEL_OPERATOR, find_owner_uid, plan_own_quorum
from leaderlease.controller.plan import Foreign, Observed, plan, slice_name
from leaderlease.controller.quorum_plan import plan_quorum
from leaderlease.controller.resource import (
    ANNOTATION_CA,
    ANNOTATION_STATUS,
    ENDPOINT_SLICE,
    INJECTED,
    LEADER_LEASE,
    LEADER_QUORUM,
    LEASE,
    POD,
    SERVICE,
    Json,
    Kind,
    Pod,
    lease_spec,
    pod_of,
    quorum_spec,
)
from leaderlease.controller.trust import plan_trust
from leaderlease.controller.truth import Member, QuorumView, Truth
from support.apiserver import ApiServer
from support.mirror import World
from support.observations import HEALTHY, LATER, NOW, SERVICE_SPEC, WORLDS, ended, held, observed, pod

PORTS = [
    {"name": "dns", "port": 53, "protocol": "UDP"},
    {"name": "dns-tcp", "port": 53, "targetPort": 5353},
    {"name": "sctp", "port": 9, "protocol": "SCTP"},
]
ROUTED = {"leaderService": SERVICE_SPEC}
SEEN = {
    **WORLDS,
    "routed, and nobody asked": observed(spec=ROUTED),
    "routed, and nobody holds": observed(ended(), ROUTED, pods=(pod(),)),
    "routed, and the holder is in no pod": observed(held(), ROUTED),
    "routed to a pod that is not ready": observed(held(), ROUTED, pods=(pod(is_ready=False),)),
    "routed to a pod that goes": observed(held(), ROUTED, pods=(pod(is_terminating=True),)),
    "routed to IPv6, by several ports": observed(
        held(), {"leaderService": {"name": "dns", "ports": PORTS}}, pods=(pod(ip="2001:db8::1", node=""),)
    ),
}
CLUSTER = "11111111-2222-3333-4444-555555555555"
MEMBERS = tuple(Member(f"node-{n}", f"uid-{n}", "Healthy", "0.1.0" if n else "", n) for n in range(3))
WELL = msgspec.structs.replace(HEALTHY, cluster=CLUSTER, epoch=1, members=MEMBERS)
VIEWS = {
    "unreachable": QuorumView(),
    "well": WELL,
    "of one node": msgspec.structs.replace(WELL, healthy=1, total=1, can_lose=0, members=MEMBERS[:1]),
    "with a stranger": msgspec.structs.replace(WELL, strangers=(("node-0:7400", ""),)),
}


class Server:
    """The API server, as the operator writes to it and reads from it."""

    def __init__(self, api: Api) -> None:
        self.api = api
        cache = Cache(lambda key, is_urgent: None, lambda name: None)
        self._applier = Applier(api, cache, lambda quorum: None, lambda: True, lambda: True, "test")

    async def run(self, actions: Sequence[Action]) -> None:
        """Carry out what a plan wants."""
        await self._applier.run(actions)

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """Return an object that there is."""
        found = await self.api.get(kind, namespace, name)
        assert found is not None, f"no {kind.name} {name}"
        return found

    async def again(self, seen: Observed) -> Observed:
        """Return an observation with all objects as they are now."""
        namespace, name = seen.name.split("/")

        async def child(before: Any, kind: Kind, name: str) -> Any:
            return before if isinstance(before, Foreign) else await self.api.get(kind, namespace, name)

        async def latest(one: Pod) -> Pod:
            # A kubelet would say the rest of it.
            return msgspec.structs.replace(one, labels=pod_of(await self.get(POD, namespace, one.name)).labels)

        service = seen.spec.leader_service
        return msgspec.structs.replace(
            seen,
            body=await self.get(LEADER_LEASE, namespace, name),
            lease=await child(seen.lease, LEASE, name),
            service=await child(seen.service, SERVICE, service.name) if service else None,
            endpoints=await child(seen.endpoints, ENDPOINT_SLICE, slice_name(service)) if service else None,
            pods=tuple([await latest(one) for one in seen.pods]),
            now=LATER,
        )


@pytest_asyncio.fixture
async def server(api: ApiServer) -> AsyncIterator[Server]:
    """Whoever writes here is the operator."""
    client = Api(await load_configuration(str(api.kubeconfig)))
    yield Server(client)
    await client.close()


def placed(seen: Observed, world: World) -> Observed:
    """Create the LeaderLease and the pods of an observation; return it with what the API server made of them."""
    body = world.apply(**{"quorum": "default", **seen.body["spec"]})
    about = {"namespace": world.namespace, "version": ""}
    pods = tuple(msgspec.structs.replace(one, uid=world.pod(one.name, "10.0.0.10"), **about) for one in seen.pods)
    leads = seen.holder_pod.name if seen.holder_pod is not None else ""
    holder_pod = next((one for one in pods if one.name == leads), None)
    return msgspec.structs.replace(seen, body=body, spec=lease_spec(body), pods=pods, holder_pod=holder_pod)


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
async def test_second_look_at_a_lease_writes_nothing(server: Server, world: World, seen: Observed) -> None:
    """Service, EndpointSlice, Lease, labels and status say all that was wanted; so they do after the term has ended."""
    seen = placed(seen, world)
    await server.run(plan(seen))
    seen = await server.again(seen)
    assert plan(seen) == []
    if seen.truth.holder is not None and seen.is_quorum_available:
        truth = Truth((ended(term=seen.truth.term).terms[0], *seen.truth.terms[1:]))
        seen = msgspec.structs.replace(seen, truth=truth, holder_pod=None)
        await server.run(plan(seen))
        assert plan(await server.again(seen)) == []


async def test_second_look_after_an_edit_writes_nothing(server: Server, world: World) -> None:
    """Ports in another order, fewer, others: what was of the ones before is no difference for ever."""
    seen = placed(SEEN["routed to IPv6, by several ports"], world)
    await server.run(plan(seen))
    for ports in (PORTS[::-1], PORTS[1:], [{**PORTS[1], "targetPort": 54}], PORTS):
        body = world.apply(leaderService={"name": "dns", "ports": ports}, quorum="default")
        seen = msgspec.structs.replace(await server.again(seen), body=body, spec=lease_spec(body))
        await server.run(plan(seen))
        assert plan(await server.again(seen)) == []


@pytest.mark.parametrize("before", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("after", VIEWS.values(), ids=VIEWS)
async def test_second_look_at_a_quorum_writes_nothing(
    server: Server, namespace: str, before: QuorumView, after: QuorumView
) -> None:
    """The status of a LeaderQuorum, in whichever order its states come."""
    spec = {"endpoints": ["127.0.0.1:1"]}
    made = {"apiVersion": LEADER_QUORUM.api_version, "kind": LEADER_QUORUM.name, "metadata": {"name": namespace}}
    body = await server.api.apply(LEADER_QUORUM, {**made, "spec": spec})
    for view in (before, after):
        await server.run(plan_quorum(body, quorum_spec(body), view, NOW))
        body = await server.get(LEADER_QUORUM, "", namespace)
        assert plan_quorum(body, quorum_spec(body), view, LATER) == []


@pytest.mark.parametrize("is_owned", [True, False], ids=["owned by a ClusterRole", "without an owner"])
async def test_second_look_at_the_own_quorum_writes_nothing(server: Server, namespace: str, is_owned: bool) -> None:
    """The LeaderQuorum of the installation, as the chart writes it, and as somebody does who leaves out what he can."""
    metadata: Json = {"name": namespace}
    spec: Json = {"endpoints": ["127.0.0.1:1"]}
    if is_owned:
        role = {"apiVersion": CLUSTER_ROLE.api_version, "kind": CLUSTER_ROLE.name}
        await server.api.apply(CLUSTER_ROLE, {**role, "metadata": {"name": namespace}, "rules": []})
        metadata["ownerReferences"] = [{**role, "name": namespace, "blockOwnerDeletion": False}]
        metadata["labels"] = {LABEL_OPERATOR: namespace}
        spec |= {"replicas": 3, "clusterUID": CLUSTER}
    wanted = {
        "apiVersion": LEADER_QUORUM.api_version,
        "kind": LEADER_QUORUM.name,
        "metadata": metadata,
        "spec": spec,
    }
    uid = await find_owner_uid(server.api, wanted)
    await server.run(plan_own_quorum(wanted, None, uid))
    assert plan_own_quorum(wanted, await server.get(LEADER_QUORUM, "", namespace), uid) == []


async def test_second_look_at_a_pod_writes_nothing(server: Server, world: World) -> None:
    """A pod that was given authorities has them."""
    pem = trustme.CA().cert_pem.bytes().decode()
    world.pod("billing-0", "10.0.0.10")
    notes = {"annotations": {ANNOTATION_STATUS: INJECTED, ANNOTATION_CA: trustme.CA().cert_pem.bytes().decode()}}
    one = pod_of(await server.api.merge(POD, world.namespace, "billing-0", {"metadata": notes}))
    await server.run(plan_trust(one, pem, is_ours=True))
    assert plan_trust(pod_of(await server.get(POD, world.namespace, "billing-0")), pem, is_ours=True) == []
