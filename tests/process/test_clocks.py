"""Wall clocks that are set while everything runs, and monotonic ones that start anew."""

import itertools
import os
import shutil
import subprocess
import time

import pytest

import leaderlease
from support.breaking import WallClock
from support.checkers.belief import check_belief
from support.checkers.history import Kind
from support.checkers.terms import check_tokens
from support.levels import require
from support.processes import Quorum, boot_ms

STEPS = {"+400d": 400, "-400d": -400, "+0": 0}
"""What the wall clock is set to, in the syntax of libfaketime, and in days from now."""
DAY_S = 86_400
_names = itertools.count()


def wall_clock(quorum: Quorum) -> WallClock:
    """Return the wall clock of every process of a quorum."""
    clock = WallClock(quorum.folder / "wall-clock")
    quorum.environment |= clock.environment
    return clock


def days_off(quorum: Quorum) -> int:
    """Let somebody acquire a lease, and return by how much its wall-clock time is off."""
    name = f"clock/now-{next(_names)}"

    async def ask(client: leaderlease.Client) -> int:
        assert await client.try_acquire(name, "somebody", duration="1s")
        found = await client.get(name)
        assert found is not None
        return round((found.acquired_at_ms / 1000 - time.time()) / DAY_S)

    return quorum.ask(ask)


def test_steps_of_the_wall_clock_change_nothing(own_quorum: Quorum) -> None:
    """Set forth and back by more than a year under nodes and holders: nobody loses, and nobody gets anything early."""
    clock = wall_clock(own_quorum)
    own_quorum.start()
    alice = own_quorum.hold("clock/step", "--duration", "3s")
    term = alice.wait(Kind.BELIEVE).term
    bob = own_quorum.hold("clock/step", "--duration", "3s", at=1)
    for step, days in STEPS.items():
        stepped_ms = boot_ms()
        clock.set(step)
        assert days_off(own_quorum) == days
        alice.wait(Kind.RENEWED, stepped_ms + 1000)
    assert Kind.UNBELIEVE not in alice.kinds()
    assert own_quorum.verify("clock/step", term)
    clock.set("+400d")
    alice.kill()
    assert bob.wait(Kind.BELIEVE).term == term + 1
    check_belief(own_quorum.history())


def test_step_while_a_holder_is_stopped(own_quorum: Quorum) -> None:
    """The wall clock says that no time has passed, the holder knows better."""
    clock = wall_clock(own_quorum)
    own_quorum.start()
    alice = own_quorum.hold("clock/back")
    alice.wait(Kind.BELIEVE)
    bob = own_quorum.hold("clock/back", at=1)
    alice.pause()
    bob.wait(Kind.BELIEVE)
    clock.set("-400d")
    on_ms = boot_ms()
    alice.go_on()
    woke = alice.wait(Kind.WOKE, on_ms)
    assert woke.until_ms == woke.at_ms
    check_belief(own_quorum.history())


def shifted(shift_s: int) -> tuple[str, ...]:
    """Return what runs a command whose monotonic clocks are off by so much."""
    return ("unshare", "--time", "--fork", "--kill-child", "--boottime", str(shift_s), "--monotonic", str(shift_s))


@pytest.mark.parametrize("is_later", [True, False], ids=["later", "earlier"])
def test_nodes_that_start_with_other_clocks(own_quorum: Quorum, is_later: bool) -> None:
    """R5, as after a reboot: monotonic clocks start anew, and every timer is armed for its whole duration."""
    require("process", os.geteuid() == 0, "not root")
    require("process", shutil.which("unshare"), "no unshare")
    probe = subprocess.run([*shifted(1), "true"], capture_output=True)
    require("process", probe.returncode == 0, "time namespaces are not allowed")
    own_quorum.start()
    lock = own_quorum.hold("clock/lock", "--duration", "never", at=1)
    kept = lock.wait(Kind.BELIEVE)
    alice = own_quorum.hold("clock/boot", "--duration", "3s")
    first = alice.wait(Kind.BELIEVE)
    for node in own_quorum.nodes:
        node.kill()
    alice.kill()
    for i, node in enumerate(own_quorum.nodes):
        node.wrapper = shifted((i + 1) * 10**8 if is_later else 100 * i - int(time.monotonic()) + 1)
    own_quorum.start()
    second = own_quorum.hold("clock/boot", at=1).wait(Kind.BELIEVE)
    assert second.term == first.term + 1
    assert own_quorum.verify("clock/lock", kept.term)
    check_belief(own_quorum.history())
    check_tokens(own_quorum.history())
