"""Does the swarm notice a rule that is left out? Each mutant of ``mutants/patches.py`` under fixed seeds, in order.

    python tests/sim/mutation.py [--seeds N] [WORD...]

Prints after how many seeds each was killed, and by which statement. A survivor here is no gap by itself, for directed
tests kill every mutant; it says where chance does not reach.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
sys.path.insert(0, str(TESTS))
from mutants.patches import MUTANTS, Mutant  # noqa: E402  (after the path is set)

NOT_SIMULATED = (
    "storage/sqlite.py",
    "storage/writer.py",
    "storage/directory.py",
    "node/bootstrap.py",
    "node/node.py",
)
"""What the simulator replaces, or never damages: their mutants are for directed tests and real processes."""
TIMEOUT_S = 900
FAILED = re.compile(r"^seed (\d+): (.*)$", re.MULTILINE)


def verdict(mutant: Mutant, seeds: int) -> str:
    """Say after how many seeds the swarm noticed, and what."""
    if mutant.file.startswith(NOT_SIMULATED):
        return "not simulated"
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        operator = Path(scratch) / "operator"
        shutil.copytree(ROOT / "operator", operator)
        path = operator / "leaderlease" / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            return "NOT APPLIED"
        path.write_text(text.replace(mutant.old, mutant.new))
        environ = dict(os.environ, PYTHONPATH=str(operator), PYTHONDONTWRITEBYTECODE="1")
        script = str(TESTS / "sim" / "swarm.py")
        command = [sys.executable, script, "--seeds", f"0:{seeds}", "--first", "--workers", "1"]
        try:
            done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return "killed: it does not end"
    found = FAILED.search(done.stdout)
    if found is None:
        return f"survived {seeds} seeds" if done.returncode == 0 else f"BROKEN: {done.stderr.strip()[-120:]}"
    return f"killed after {int(found[1]) + 1:4} seeds: {found[2][:70]}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    wanted = [
        mutant
        for mutant in MUTANTS
        if not options.words or any(word in f"{mutant.name} {mutant.rule} {mutant.file}" for word in options.words)
    ]
    verdicts = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for mutant, found in zip(wanted, pool.map(lambda one: verdict(one, options.seeds), wanted), strict=True):
            print(f"{mutant.rule:12} {mutant.name:58} {found}", flush=True)
            verdicts.append(found)
    killed = sum(found.startswith("killed") for found in verdicts)
    simulated = sum(found != "not simulated" for found in verdicts)
    print(f"{killed} of {simulated} mutants killed by {options.seeds} seeds or fewer")
    return int(any(found.startswith(("NOT APPLIED", "BROKEN")) for found in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
