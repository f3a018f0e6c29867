"""``leaderlease demo`` as people run it."""

import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from support.processes import until

Start = Callable[..., Any]
WAIT_S = 40.0


def test_piped_demo_tells_the_whole_story_in_plain_text(command: Start) -> None:
    """It ends by itself with 0, tells every step, prints no escape codes, and leaves nothing."""
    demo = command("demo")
    assert demo.process.wait(WAIT_S) == 0, demo.output
    assert "\x1b" not in demo.output
    leaders = re.findall(r"(\w+) leads, term|(\w+) took over after \d+ ms|(\w+) leads [\d.]+ ms later", demo.output)
    names = ["".join(groups) for groups in leaders]
    assert sorted(names) == ["alice", "bob", "charlie"]
    assert "SIGKILL to node-" in demo.output
    assert f"later {names[1]} still leads" in demo.output
    rows = re.findall(r"^ +[\d.]+ +(acquired|transferred) +(\d+) +(\w+)", demo.output, re.MULTILINE)
    assert [row[2] for row in rows] == names
    terms = [int(row[1]) for row in rows]
    assert terms == sorted(set(terms))
    assert "leaderlease dev" in demo.output
    demo.leaves_nothing()


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        ("A quorum starts", signal.SIGINT, 130),
        ("A leader is elected", signal.SIGTERM, 143),
        ("SIGKILL to node-", signal.SIGINT, 130),
    ],
)
def test_interrupted_demo_leaves_nothing(command: Start, stage: str, number: int, code: int) -> None:
    """Ctrl-C and SIGTERM at any time end every process and remove every file."""
    demo = command("demo")
    demo.said(stage)
    assert demo.end(number) == code
    assert "Traceback" not in demo.output
    demo.leaves_nothing()


def test_killed_demo_leaves_no_process(command: Start) -> None:
    """Nodes and candidates do not outlive a demo that was killed."""
    demo = command("demo")
    demo.said("A leader is elected")
    demo.end(signal.SIGKILL)
    until(lambda: not demo.processes(), "its processes are gone", 5.0)


def test_duration_that_no_demo_can_show_is_refused(command: Start) -> None:
    """One sentence names the option, the value and what is allowed."""
    demo = command("demo", "--duration", "50ms")
    assert demo.process.wait(WAIT_S) == 2
    assert "--duration" in demo.output
    assert "50" in demo.output
