"""Every target for some seconds, from the seed ``FUZZ_SEED``: what breaks a property is printed with how to replay it.

``FUZZ_SECONDS`` is for frames, and for both HTTP servers together; the other targets have ``FUZZ_SHORT_SECONDS``.
Without the variables it is a short run from a seed that stays the same. Each target is a process of its own, for a
guided fuzzer takes the process that it runs in.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.run import HANG_S, INPUT_BYTES_MAX, TARGETS, load, mutate, run_blind
from fuzz.source import Source

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
SHORT_SECONDS = float(os.environ.get("FUZZ_SHORT_SECONDS", "4"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
SHARES = {"codec": 1.0, "http_node": 0.5, "http_sidecar": 0.5}
"""Of ``FUZZ_SECONDS``: bytes of anybody."""
START_S = 120
"""For imports, samples and an end on a busy machine."""
RUN = Path(__file__).with_name("run.py")


def _seconds(target: str) -> float:
    return SECONDS * SHARES[target] if target in SHARES else SHORT_SECONDS


@pytest.mark.timeout(max(SECONDS, SHORT_SECONDS) + START_S + HANG_S + 30)
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_a_property(target: str) -> None:
    """Never a wrong answer, a crash or a hang: what is refused is refused by name, what is taken survives."""
    seconds = _seconds(target)
    command = [sys.executable, str(RUN), target, "--seconds", f"{seconds:g}", "--seed", str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + START_S + HANG_S, check=False)
    print(done.stdout[-500:])
    assert done.returncode == 0, (done.stdout + done.stderr)[-6_000:]


class Broken:
    """A target that refuses nothing and breaks on a byte."""

    SAMPLES = (b"sound",)

    def one_input(self, data: bytes) -> None:
        """Break."""
        assert b"\xff" not in data, "the property"


def test_a_broken_property_is_found_and_printed_with_its_input(capsys: pytest.CaptureFixture[str]) -> None:
    """The line that is printed replays it."""
    with pytest.raises(AssertionError, match="the property"):
        run_blind("broken", Broken(), 60, 1)
    printed = capsys.readouterr().err
    assert "python tests/fuzz/run.py broken --replay " in printed
    assert b"\xff" in bytes.fromhex(printed.split("--replay ")[1].split()[0])


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_seed_makes_the_same_inputs(target: str) -> None:
    """Without atheris a failure is found again by its seed alone."""
    samples = load(target).SAMPLES
    first, second = ([mutate(random.Random(7), samples) for _ in range(50)] for _ in range(2))
    assert first == second
    assert all(0 < len(data) <= INPUT_BYTES_MAX for data in samples)


def test_an_input_that_has_run_out_reads_as_zero() -> None:
    """So every input is an input, and a shorter one is a simpler one."""
    source = Source(b"\x03")
    assert (source.whole(1, 10), source.whole(5, 9), source.take(4), source.text(3), source.chance(2)) == (
        4, 5, b"", "", False,
    )  # fmt: skip
    assert Source(b"").cuts(b"abc") == [b"abc"]
    assert b"".join(Source(bytes(range(40))).cuts(b"abcdefgh")) == b"abcdefgh"
