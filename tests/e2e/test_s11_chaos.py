"""Hundreds of leases, sixty sessions, and random faults.

``E2E_SECONDS`` says how long (60), ``E2E_SEED`` which faults (0: any); a run of 600 s is for the night.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from support import e2e
from support.e2e_journal import boottime_ms
from support.e2e_many import DURATION_S, LEASES, POLL_S, Crowd, gather
from support.e2e_report import Report

SECONDS = float(os.environ.get("E2E_SECONDS", "60"))
SEED = int(os.environ.get("E2E_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
FAULT_S = 5.0
RECOVERY_S = 10.0
"""How long after a fault its leaderless time is counted; then the next fault begins."""


def node_loses_power(crowd: Crowd, dice: random.Random) -> None:
    """A Kubernetes node with everything on it."""
    name = dice.choice(e2e.nodes())
    with e2e.broken(("node", "kill", name), ("node", "start", name)) as began:
        e2e.sleep_until(began + FAULT_S * 1000)


def node_is_cut_off(crowd: Crowd, dice: random.Random) -> None:
    """A Kubernetes node with everything on it."""
    name = dice.choice(e2e.nodes())
    with e2e.broken(("node", "partition", name), ("node", "heal", name)) as began:
        e2e.sleep_until(began + FAULT_S * 1000)


def api_server_is_away(crowd: Crowd, dice: random.Random) -> None:
    """With etcd and everything else as before."""
    with e2e.broken(("api", "stop"), ("api", "start")) as began:
        e2e.sleep_until(began + FAULT_S * 1000)


def clients_are_killed(crowd: Crowd, dice: random.Random) -> None:
    """All sessions of one pod; the kubelet starts it again."""
    e2e.kill_processes(dice.choice(e2e.get("pods", "-n", crowd.namespace, "-l", "app=crowd"))["metadata"]["uid"])


def quorum_node_is_killed(crowd: Crowd, dice: random.Random) -> None:
    """One of three; the kubelet starts it again."""
    e2e.kill_processes(dice.choice(e2e.get("pods", "-n", e2e.NAMESPACE, "-l", e2e.QUORUM_LABELS))["metadata"]["uid"])


def operators_are_killed(crowd: Crowd, dice: random.Random) -> None:
    """Both replicas; the kubelet starts them again."""
    for pod in e2e.get("pods", "-n", e2e.NAMESPACE, "-l", e2e.OPERATOR_LABELS):
        e2e.kill_processes(pod["metadata"]["uid"])


FAULTS: tuple[Callable[[Crowd, random.Random], None], ...] = (
    node_loses_power,
    node_is_cut_off,
    api_server_is_away,
    clients_are_killed,
    quorum_node_is_killed,
    operators_are_killed,
)


@pytest.mark.timeout(SECONDS + 420)
def test_random_faults(space: str, tmp_path: Path, report: Report) -> None:
    """Nobody believes at the same time, terms only rise, and afterwards every lease is held."""
    print(f"E2E_SEED={SEED}")
    dice = random.Random(SEED)
    crowd = gather(space, tmp_path / "crowd")
    began = boottime_ms()
    faults: list[dict[str, object]] = []
    while boottime_ms() < began + SECONDS * 1000:
        # Every kind once before any comes again.
        if len(faults) % len(FAULTS) == 0:
            order = dice.sample(FAULTS, len(FAULTS))
        fault, at = order[len(faults) % len(FAULTS)], boottime_ms()
        fault(crowd, dice)
        end = boottime_ms() + RECOVERY_S * 1000
        e2e.sleep_until(end)
        e2e.settle()
        lost = crowd.leaderless_ms(at, end)
        faults.append(
            {
                "fault": fault.__name__.replace("_", " "),
                "leaderless_s_all": round(sum(lost) / 1000, 1),
                "leases": sum(one > 1000 for one in lost),
                "longest_s": round(max(lost) / 1000, 2),
            }
        )
        print(faults[-1])
    e2e.until("every lease is held", lambda: crowd.held(boottime_ms()) == LEASES, 4 * DURATION_S + 30, POLL_S)
    grants = crowd.check()
    report.add("11 random faults", seed=SEED, seconds=SECONDS, leases=LEASES, grants=grants, faults=faults)
