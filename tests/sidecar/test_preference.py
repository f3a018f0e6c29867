"""What a lease declares beyond its duration, with real nodes and sidecars: who is preferred, when a holder stops."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import leaderlease
from leaderlease.cli.local import LocalQuorum
from support.sidecars import PATIENCE_S, Sidecar, Sidecars, until

GRACE = ("--step-down-grace", "0.1")
GIVES_UP_S = 46.0
"""A holder of a lease of 60 s without a declared deadline goes on for longer than this after its last renewal."""


def _declare(endpoints: Sequence[str], lease: str, **fields: Any) -> None:
    async def declared() -> None:
        async with leaderlease.connect(endpoints) as client:
            await client.declare(f"test/{lease}", **fields)

    asyncio.run(declared())


def _at(nodes: LocalQuorum, number: int) -> tuple[str, ...]:
    """Return the options of a sidecar whose nearest node is this one."""
    endpoints = nodes.endpoints[number:] + nodes.endpoints[:number]
    return ("--endpoints", ",".join(endpoints), *GRACE)


def _waits(sidecar: Sidecar, leader: str) -> None:
    until(lambda: sidecar.document()["leader"] == leader, f"{sidecar.identity} is connected and knows who leads")


def test_highest_priority_follows_a_crash(nodes: LocalQuorum, sidecars: Sidecars) -> None:
    """The leader is killed: of those that wait at different nodes, the one with the highest priority leads."""
    _declare(nodes.endpoints, "crash", duration="1s", preference="Priority")
    first = sidecars.start("pod-a", "crash", *_at(nodes, 0), "--priority", "9")
    term = first.until_leader()["term"]
    for name, at, priority in (("pod-b", 1, "1"), ("pod-c", 2, "5"), ("pod-d", 0, "-3")):
        latest = sidecars.start(name, "crash", *_at(nodes, at), "--priority", priority)
        _waits(latest, "pod-a")
        if name == "pod-c":
            best = latest
    first.kill()
    assert best.until_leader()["term"] == term + 1


def test_lowest_ordinal_takes_its_place_back(nodes: LocalQuorum, sidecars: Sidecars) -> None:
    """The lowest of a StatefulSet leads again when it is back, and the one that leads meanwhile steps down for it."""
    _declare(nodes.endpoints, "ordinal", duration="30s", preference="Ordinal")
    second = sidecars.start("db-1", "ordinal", *_at(nodes, 0))
    term = second.until_leader()["term"]
    sidecars.start("db-2", "ordinal", *_at(nodes, 2))
    first = sidecars.start("db-0", "ordinal", *_at(nodes, 1))
    assert first.until_leader()["term"] == term + 1
    assert "asked to step down in favour of db-0" in second.log.read_text()


def test_working_leader_is_left_alone_for_so_long(nodes: LocalQuorum, sidecars: Sidecars) -> None:
    """With noFailback the better one waits; when the declaration allows it, it leads. Nobody restarts anything."""
    _declare(nodes.endpoints, "patience", duration="30s", preference="Ordinal", no_failback="24h")
    second = sidecars.start("db-1", "patience", *_at(nodes, 0))
    term = second.until_leader()["term"]
    first = sidecars.start("db-0", "patience", *_at(nodes, 1))
    _waits(first, "db-1")
    assert second.document()["term"] == term
    _declare(nodes.endpoints, "patience", duration="30s", preference="Ordinal")
    assert first.until_leader()["term"] == term + 1


def test_rollout_moves_to_the_newest_replicaset(nodes: LocalQuorum, sidecars: Sidecars) -> None:
    """The first pod of a later template takes the lease over; one of the old template that is replaced later waits."""
    _declare(nodes.endpoints, "rollout2", duration="30s", preference="NewestReplicaSet")
    old = sidecars.start("app-old11-aaaaa", "rollout2", *_at(nodes, 0))
    old.until_leader()
    other = sidecars.start("app-old11-bbbbb", "rollout2", *_at(nodes, 1))
    _waits(other, "app-old11-aaaaa")
    new = sidecars.start("app-new22-ccccc", "rollout2", *_at(nodes, 2))
    term = new.until_leader()["term"]
    replaced = sidecars.start("app-old11-ddddd", "rollout2", *_at(nodes, 1))
    _waits(replaced, "app-new22-ccccc")
    assert new.document()["term"] == term
    assert new.terminate() == 0
    until(lambda: any(one.is_leader() for one in (old, other, replaced)), "an old one leads, for nobody else can")


def test_age_of_a_pod_outlives_its_sidecar(sidecars: Sidecars) -> None:
    """A sidecar that is started again says the age of its pod, not its own."""
    sidecar = sidecars.start("pod-a", "age")
    since = (sidecar.state / "since").read_text()
    sidecar.kill()
    sidecar.start()
    assert (sidecar.state / "since").read_text() == since


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[LocalQuorum]:
    """A quorum of one node, which its test will kill."""
    with LocalQuorum(tmp_path / "quorum", 1) as made:
        yield made


@pytest.fixture
def its_sidecars(alone: LocalQuorum, tmp_path: Path) -> Iterator[Sidecars]:
    """Sidecars at that node."""
    made = Sidecars(tmp_path, alone.endpoints)
    yield made
    made.close()


def test_leader_stops_at_the_declared_deadline(alone: LocalQuorum, its_sidecars: Sidecars) -> None:
    """No node answers: with renewDeadline 1s, sidecar and command stop long before a lease of a minute would end."""
    for lease in ("deadline", "command"):
        _declare(alone.endpoints, lease, duration="60s", renew_deadline="1s", retry_period="200ms")
    leader = its_sidecars.start("pod-a", "deadline")
    leader.until_leader()
    script = "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    options = ["run", "--once", "--lease", "test/command", "--endpoints", alone.endpoints[0]]
    words = [sys.executable, "-m", "leaderlease", *options, "--", "bash", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as command:
        try:
            assert command.stdout is not None
            assert command.stdout.readline() == "up\n"
            alone.kill(alone.nodes[0])
            killed_s = time.monotonic()
            left = until(lambda: (d := leader.document())["state"] != "leading" and d, "the sidecar stops leading")
            assert not left["is_leader"]
            assert not json.loads(leader.file.read_text())["is_leader"]
            assert command.stdout.readline() == "term\n"
            assert command.wait(PATIENCE_S) == 76
            assert time.monotonic() < killed_s + GIVES_UP_S
        finally:
            command.kill()


def test_release_says_what_is_true(alone: LocalQuorum, its_sidecars: Sidecars) -> None:
    """200 when a majority has let go; when nobody can say, 202 if time ends the lease, and 504 if nothing does."""
    for lease, duration in (("short", "60s"), ("endless", "never")):
        _declare(alone.endpoints, lease, duration=duration)
    sidecar = its_sidecars.start("pod-a", "short", "--lease", "endless")
    for lease in ("short", "endless"):
        until(lambda: sidecar.document(lease)["is_leader"], lease)  # noqa: B023
        released = sidecar.ask("POST", f"/v1/leases/{lease}/release")
        assert (released.status, released.json) == (200, {"lease": f"test/{lease}", "released": True, "term": 1})
        assert sidecar.ask("GET", f"/v1/leases/{lease}/verify?term=1").status == 409
    for lease in ("short", "endless"):
        until(lambda: sidecar.document(lease)["is_leader"], f"{lease}, again")  # noqa: B023
    alone.kill(alone.nodes[0])
    timed = sidecar.ask("POST", "/v1/leases/short/release")
    assert (timed.status, timed.json["released"], timed.json["term"]) == (202, False, 2)
    assert "it expires by itself 60 s after its last renewal" in timed.json["reason"]
    endless = sidecar.ask("POST", "/v1/leases/endless/release")
    assert (endless.status, endless.json["released"], endless.json["term"]) == (504, False, 2)
    assert "leaderlease release test/endless --revoke --term 2" in endless.json["error"]
    assert not sidecar.document("short")["is_leader"]
    assert not sidecar.document("endless")["is_leader"]
