"""Hundreds of leases, sixty sessions, an application with sidecars, and random faults of every kind.

``E2E_SECONDS`` says how long (60; CI takes 600), ``E2E_SEED`` which faults (0: any).
"""

import os
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import e2e
from support.e2e import App, Deploy
from support.e2e_journal import boottime_ms
from support.e2e_many import LEASES, Crowd, Gap, gather, until_held
from support.e2e_report import Report

SECONDS = float(os.environ.get("E2E_SECONDS", "60"))
SEED = int(os.environ.get("E2E_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
ALL_KINDS_S = 300.0
"""A run of so many seconds goes on until each kind of fault was there."""
FAULT_S = (4.0, 12.0)
"""How long a fault lasts, at random: longer than a lease."""
RECOVERY_S = 8.0
"""How long after a fault its leaderless time is counted."""
HELD_AGAIN_S = 60.0
"""Within which every lease is held again when all pods are ready: a lease's duration, and a busy machine."""
LONG_MS = 500.0
"""Leases that had no leader for longer are counted; hand-overs take less while all is well."""


@dataclass
class Scene:
    """What is broken."""

    crowd: Crowd
    app: App
    dice: random.Random

    def last(self, began_ms: float) -> None:
        """Let a fault last for a while."""
        e2e.sleep_until(began_ms + self.dice.uniform(*FAULT_S) * 1000)

    def some_pod(self, labels: str, namespace: str) -> Any:
        """Return any pod that lives."""
        pods = [pod for pod in e2e.get("pods", "-n", namespace, "-l", labels) if is_alive(pod)]
        return self.dice.choice(sorted(pods, key=lambda pod: str(pod["metadata"]["name"])))

    def clients(self) -> Any:
        """Return a pod with a third of the sessions."""
        return self.some_pod("app=crowd", self.crowd.namespace)

    def leader_uid(self) -> str:
        """Return the pod of the application that leads, if any does."""
        leader = self.app.journal.leader()
        return leader.uid if leader else "nobody"


def is_alive(pod: Any) -> bool:
    """Tell whether nobody has deleted it."""
    return "deletionTimestamp" not in pod["metadata"]


# --- faults --------------------------------------------------------------------------------------------------


def leaders_are_deleted_by_force(scene: Scene) -> None:
    """The application's leader, and a pod of clients; others come in their place."""
    clients = scene.clients()["metadata"]["name"]
    leader = scene.app.leader().pod
    scene.app.force_delete(leader)
    e2e.kubectl(*("delete", "pod", clients, "-n", scene.crowd.namespace, "--force", "--grace-period=0", "--wait=false"))


def leaders_are_killed(scene: Scene) -> None:
    """All processes of the application's leader, and of a pod of clients; the kubelet starts them again."""
    clients = scene.clients()["metadata"]["uid"]
    for uid in (scene.app.leader().uid, clients):
        e2e.kill_processes(uid)


def node_loses_power(scene: Scene) -> None:
    """A Kubernetes node with everything on it, a node of the quorum included."""
    name = scene.dice.choice(e2e.nodes())
    with e2e.broken(("node", "kill", name), ("node", "start", name)) as began:
        scene.last(began)


def node_is_cut_off(scene: Scene) -> None:
    """A Kubernetes node with everything on it, a node of the quorum included."""
    name = scene.dice.choice(e2e.nodes())
    with e2e.broken(("node", "partition", name), ("node", "heal", name)) as began:
        scene.last(began)


def api_server_is_away_and_leaders_are_killed(scene: Scene) -> None:
    """Nobody is there to ask while those who hold die."""
    clients = scene.clients()["metadata"]["uid"]
    with e2e.broken(("api", "stop"), ("api", "start")) as began:
        for uid in (scene.leader_uid(), clients):
            e2e.kill_processes(uid)
        scene.last(began)


def quorum_node_is_killed(scene: Scene) -> None:
    """One of three; the kubelet starts it again."""
    e2e.kill_processes(scene.some_pod(e2e.QUORUM_LABELS, e2e.NAMESPACE)["metadata"]["uid"])


def quorum_is_restarted(scene: Scene) -> None:
    """One node after the other."""
    e2e.kubectl("rollout", "restart", e2e.QUORUM, "-n", e2e.NAMESPACE)
    e2e.kubectl("rollout", "status", e2e.QUORUM, "-n", e2e.NAMESPACE, "--timeout=180s", timeout_s=200)


def application_is_rolled_out(scene: Scene) -> None:
    """One pod after the other; the leader hands over."""
    deployment = f"deployment/{scene.app.name}"
    e2e.kubectl("rollout", "restart", deployment, "-n", scene.app.namespace)
    e2e.kubectl("rollout", "status", deployment, "-n", scene.app.namespace, "--timeout=120s")


def operators_are_away(scene: Scene) -> None:
    """Both replicas are killed, and none comes back for a while."""
    with e2e.operators_away() as began:
        scene.last(began)


FAULTS: tuple[Callable[[Scene], None], ...] = (
    leaders_are_deleted_by_force,
    leaders_are_killed,
    node_loses_power,
    node_is_cut_off,
    api_server_is_away_and_leaders_are_killed,
    quorum_node_is_killed,
    quorum_is_restarted,
    application_is_rolled_out,
    operators_are_away,
)


def nothing_happens(scene: Scene) -> None:
    """What the others are to be compared with: leases are handed over all the time."""
    scene.last(boottime_ms())


# --- measures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wound:
    """What one fault did.

    Attributes:
        fault: Its name.
        gaps: The longest time without a leader of each lease, while it was felt.
        all_s: Leaderless seconds of all leases together.
        app_s: The longest time without a leader of the application.
    """

    fault: str
    gaps: tuple[Gap, ...]
    all_s: float
    app_s: float


def strike(scene: Scene, fault: Callable[[Scene], None]) -> Wound:
    """Do one fault, wait until all is well, and return what it did."""
    began = boottime_ms()
    fault(scene)
    end = boottime_ms() + RECOVERY_S * 1000
    e2e.sleep_until(end)
    settle(scene)
    gaps = scene.crowd.gaps(began, end)
    return Wound(
        fault=fault.__name__.replace("_", " "),
        gaps=tuple(max(found, key=lambda gap: gap.length_ms) for found in gaps.values() if found),
        all_s=sum(gap.length_ms for found in gaps.values() for gap in found) / 1000,
        app_s=max((length for _, length in scene.app.journal.leaderless_ms(began, end)), default=0.0) / 1000,
    )


def settle(scene: Scene) -> None:
    """Wait until everything is as before.

    A container that died several times is started late, which tests the kubelet alone: its pod is replaced.
    """
    for namespace in (e2e.NAMESPACE, scene.crowd.namespace):
        for pod in e2e.get("pods", "-n", namespace):
            if is_alive(pod) and waits_for_its_next_start(pod):
                name = pod["metadata"]["name"]
                e2e.kubectl("delete", "pod", name, "-n", namespace, "--force", "--grace-period=0", "--wait=false")
    e2e.settle()
    e2e.kubectl("rollout", "status", "statefulset/crowd", "-n", scene.crowd.namespace, "--timeout=120s")
    scene.app.wait_ready()
    until_held(scene.crowd, HELD_AGAIN_S)


def waits_for_its_next_start(pod: Any) -> bool:
    """Tell whether the kubelet holds a container back because it ended too often."""
    status = pod.get("status") or {}
    states = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return any((one["state"].get("waiting") or {}).get("reason") == "CrashLoopBackOff" for one in states)


def summary(wounds: list[Wound]) -> dict[str, dict[str, float]]:
    """Return the figures of each kind of fault."""
    found = {}
    for name in dict.fromkeys(wound.fault for wound in wounds):
        mine = [wound for wound in wounds if wound.fault == name]
        long = [gap for wound in mine for gap in wound.gaps if gap.length_ms > LONG_MS]
        found[name] = {
            "times": len(mine),
            "leases": round(len(long) / len(mine)),
            "of_them_lost": round(sum(gap.is_lost for gap in long) / len(mine)),
            "p50_s": round(statistics.median(gap.length_ms for gap in long) / 1000, 2) if long else 0.0,
            "max_s": round(max((gap.length_ms for gap in long), default=0.0) / 1000, 2),
            "all_leases_s": round(sum(wound.all_s for wound in mine) / len(mine), 1),
            "app_max_s": round(max(wound.app_s for wound in mine), 2),
        }
    return found


@pytest.mark.timeout(SECONDS + 600)
def test_random_faults(space: str, deploy: Deploy, tmp_path: Path, report: Report) -> None:
    """Nobody believes at the same time, terms only rise, and after each fault every lease is held."""
    print(f"E2E_SEED={SEED}")
    scene = Scene(gather(space, tmp_path / "crowd"), deploy(3.0), random.Random(SEED))
    began = boottime_ms()
    wounds = [strike(scene, nothing_happens)]
    order: list[Callable[[Scene], None]] = []
    while boottime_ms() < began + SECONDS * 1000 or (SECONDS >= ALL_KINDS_S and len(wounds) <= len(FAULTS)):
        # Every kind once before any comes again.
        order = order or scene.dice.sample(FAULTS, len(FAULTS))
        wounds.append(strike(scene, order.pop()))
        print(f"{(boottime_ms() - began) / 1000:.0f} s:", summary(wounds[-1:]))
    seconds = round((boottime_ms() - began) / 1000)
    grants = scene.crowd.check()
    report.add("11 random faults", seed=SEED, seconds=seconds, leases=LEASES, grants=grants, faults=summary(wounds))
