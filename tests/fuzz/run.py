"""Feed one target with what no honest program sends: ``python tests/fuzz/run.py TARGET --seconds 60 --seed 1``.

With atheris the inputs follow the branches that earlier ones reached; without it (no wheel for this Python) they are
mutations of the target's samples, drawn from the seed. What breaks a property is printed as hexadecimal digits, and
``--replay`` takes them. Ends with 0 only if every input kept every property.
"""

import argparse
import contextlib
import faulthandler
import importlib
import importlib.util
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

TESTS = Path(__file__).resolve().parent.parent
TARGETS = ("codec", "messages", "http_node", "http_sidecar", "settings", "disk")
INPUT_BYTES_MAX = 4_096
HANG_S = 60
"""For one input: a machine may be slow, but an input that takes a minute is one without an end."""
INSTRUMENTED = ("leaderlease", "h11")


class Target(Protocol):
    """A module of this folder."""

    SAMPLES: tuple[bytes, ...]
    """Inputs to start from."""

    def one_input(self, data: bytes) -> None:
        """Try one input; raise whatever shows that a property does not hold."""


def load(name: str) -> Target:
    """Import a target."""
    return importlib.import_module(f"fuzz.{name}")  # type: ignore[return-value]


def mutate(randomness: random.Random, samples: tuple[bytes, ...]) -> bytes:
    """Return a sample with some things changed, or noise."""
    data = bytearray(randomness.choice(samples) if samples and randomness.random() < 0.95 else b"")
    if not data:
        data = bytearray(randomness.randbytes(randomness.randrange(1, 200)))
    for _ in range(1 << randomness.randrange(5)):
        at = randomness.randrange(len(data) + 1)
        match randomness.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << randomness.randrange(8)
            case 1 if at < len(data):
                data[at] = randomness.choice((0, 1, 0x7F, 0x80, 0xFF, randomness.randrange(256)))
            case 2:
                del data[at : at + randomness.randrange(1, 9)]
            case 3:
                data[at:at] = randomness.randbytes(randomness.randrange(1, 9))
            case 4:
                data[at:at] = data[at : at + randomness.randrange(1, 65)]
            case 5 if samples:
                other = randomness.choice(samples)
                start = randomness.randrange(len(other) + 1)
                data[at : at + randomness.randrange(33)] = other[start : start + randomness.randrange(1, 65)]
            case 6:
                data[at : at + 4] = randomness.getrandbits(32).to_bytes(4, "big")
    return bytes(data[:INPUT_BYTES_MAX])


@contextlib.contextmanager
def reported(name: str, data: bytes) -> Iterator[None]:
    """Say how to see a failure again."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            print(f"\n{name}: python tests/fuzz/run.py {name} --replay {data.hex()}", file=sys.stderr, flush=True)
        raise


def run_blind(name: str, target: Target, seconds: float, seed: int) -> None:
    """Mutate without looking at what is reached."""
    randomness = random.Random(seed)
    end = time.monotonic() + seconds
    runs = 0
    for sample in target.SAMPLES:
        with reported(name, sample):
            target.one_input(sample)
    try:
        while time.monotonic() < end:
            data = mutate(randomness, target.SAMPLES)
            faulthandler.dump_traceback_later(HANG_S, exit=True, file=sys.__stderr__)
            with reported(name, data):
                target.one_input(data)
            runs += 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    print(f"{name}: {runs} inputs in {seconds:g} s, seed {seed}, blind")


def run_guided(name: str, make: Callable[[], Target], seconds: float, seed: int) -> None:
    """Let atheris mutate towards branches that were not reached yet; this ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        target = make()
    counted = [0]

    def one_input(data: bytes) -> None:
        counted[0] += 1
        with reported(name, data):
            target.one_input(data)

    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, sample in enumerate(target.SAMPLES):
            with reported(name, sample):
                target.one_input(sample)
            (corpus / f"{number:04}").write_bytes(sample[:INPUT_BYTES_MAX])
        options = {
            "max_total_time": max(1, round(seconds)),
            # 0 would be a seed of libFuzzer's own.
            "seed": seed + 1,
            "max_len": INPUT_BYTES_MAX,
            "timeout": HANG_S,
            "rss_limit_mb": 0,
            "artifact_prefix": f"{scratch}/",
            "print_final_stats": 1,
            "verbosity": 0,
        }
        atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)], one_input)
        try:
            atheris.Fuzz()
        finally:
            print(f"{name}: {counted[0]} inputs in {seconds:g} s, seed {seed}, guided by atheris", flush=True)


def has_atheris() -> bool:
    """Tell whether inputs can be guided."""
    return importlib.util.find_spec("atheris") is not None


def main() -> int:
    """Run one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31 - 1))
    parser.add_argument("--engine", choices=("guided", "blind"), default="guided" if has_atheris() else "blind")
    parser.add_argument("--replay", metavar="HEX", help="try this input alone")
    asked = parser.parse_args()
    # The tests' folder and not this one, whose modules have names of the standard library's.
    sys.path[0] = str(TESTS)
    print(f"{asked.target}: seed {asked.seed}", flush=True)
    if asked.replay is not None:
        load(asked.target).one_input(bytes.fromhex(asked.replay))
        print("every property holds")
    elif asked.engine == "guided":
        run_guided(asked.target, lambda: load(asked.target), asked.seconds, asked.seed)
    else:
        run_blind(asked.target, load(asked.target), asked.seconds, asked.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
