"""A quorum that was made anew while its LeaderLeases stayed: its terms begin at 1, and the mirror follows."""

import shutil
from pathlib import Path

import pytest

from leaderlease.cli.local import LocalQuorum
from leaderlease.client.blocking import connect
from support.apiserver import ApiServer
from support.mirror import World, declared, holder, serving, start
from support.operators import Replica, eventually

QUORUM = "anew"
TERMS = 3

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("is_watching", [True, False], ids=["the operator sees it", "the operator was away"])
def test_a_quorum_that_was_made_anew_begins_its_history_anew(
    api: ApiServer, namespace: str, tmp_path: Path, is_watching: bool
) -> None:
    """Its term 1 is another grant than the one before: other times, its own Events, and nothing of the old terms."""
    world = World(api, namespace, QUORUM)
    name = f"{namespace}/billing"
    replicas: list[Replica] = []
    nodes = LocalQuorum(tmp_path / "quorum", auto_declare=False)
    with serving(nodes, api, QUORUM):
        try:
            replica = start(api, replicas, tmp_path, quorum=QUORUM)
            eventually("it writes", lambda: replica.is_active)
            world.apply()
            eventually("declared", lambda: declared(world))
            with connect(nodes.endpoints) as client:
                for _ in range(TERMS):
                    client.acquire(name, "billing-0").release()
            eventually("all terms are told", lambda: len(world.status().get("history") or ()) == TERMS)
            eventually("the end is told", lambda: not holder(world))
            first = {entry["term"]: entry for entry in world.status()["history"]}
            told = len(world.reasons())
            if not is_watching:
                replica.stop()
            make_anew(nodes)
            if not is_watching:
                replica = start(api, replicas, tmp_path, quorum=QUORUM)
            eventually("it writes", lambda: replica.is_active)
            with connect(nodes.endpoints) as client:
                eventually("declared again", lambda: name in client.declared(name))
                lease = client.acquire(name, "billing-1")
                assert lease.term == 1
                eventually("billing-1 in the status", lambda: holder(world) == "billing-1")
                status = world.status()
                assert [entry["term"] for entry in status["history"]] == [1]
                assert status["acquireTime"] > first[TERMS]["acquireTime"] >= first[1]["acquireTime"]
                assert (status["term"], status["transitions"]) == (1, TERMS + 1)
                assert world.mirror()["acquireTime"][:19] == status["acquireTime"][:19]
                lease.release()
            eventually("the end is told", lambda: world.status()["history"][0].get("reason") == "Released")
            assert world.reasons()[told:] == ["LeaderElected", "LeaderStepDown"]
        finally:
            for one in replicas:
                one.stop()


def make_anew(nodes: LocalQuorum) -> None:
    """Empty all disks; the cluster's uuid stays, as it does with the chart."""
    nodes.stop()
    for node in nodes.nodes:
        shutil.rmtree(node.data)
    nodes.start()
