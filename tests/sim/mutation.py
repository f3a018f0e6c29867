"""Does the swarm notice a rule that is left out? Each mutant of ``mutants/patches.py`` under fixed seeds, in order.

    python tests/sim/mutation.py [--seeds N] [--all] [--table] [WORD...]

Prints after how many seeds each was killed, and by which statement; ``--table`` prints the rows of docs/simulator.md.
``NOT_REACHED`` says of some why chance cannot come to them; they are tried with ``--all`` alone. Ends with 1 if another
one survived. Directed tests kill every mutant (``mutants/run.py``).
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

REPLACED = (
    "storage/sqlite.py",
    "storage/writer.py",
    "storage/directory.py",
    "storage/wal.py",
    "controller/",
    "sidecar/",
    "cli/",
    "node/bootstrap.py",
    "node/node.py",
)
"""What the simulator replaces or leaves out: its mutants are for directed tests and real processes."""
FIXED_MEMBERS = "one configuration, one epoch"
HONEST = "members do not lie"
SECOND_LINE = "a check behind another rule: it takes a second bug"
SHOWN_ONLY_IF_IT_LIFTS = "proposers show evidence only where it lifts a guard"
NOT_REACHED = {
    "the holder's own ballot counts as evidence": SHOWN_ONLY_IF_IT_LIFTS,
    "evidence above the asking ballot counts": SHOWN_ONLY_IF_IT_LIFTS,
    "a renewal is acknowledged for another value": "one ballot has one value (R3)",
    "a renewal shortens a timer": "timers of one value only grow",
    "a volatile release ends a lock without an end": "nodes release such a lock durably",
    "who lacks the value does not get it": "catch-up brings it later",
    "a promise counts as evidence": "what has no value has no ballot above any",
    "the timer ends a millisecond early": "a holder stops 20 ms before",
    "a shorter duration ends the running timer": SECOND_LINE,
    "acceptances of any ballot count": SECOND_LINE,
    "half is a majority": "of 3, 5 and 7 nodes there is no half",
    "a record with a bad checksum is read": "the sum over all rows finds it as well",
    "an attempt takes a higher ballot for its own repeat": "it costs an attempt, and no answer",
    "a ballot proposes twice": SECOND_LINE,
    "two values under one ballot are taken": SECOND_LINE,
    "completions are taken out of order": SECOND_LINE,
    "proof of a bug does not stop the node": SECOND_LINE,
    "answers to an earlier life count": "connections end with a life, and their answers with them",
    "a poisoned counter is promised": HONEST,
    "a poisoned counter becomes the proposer's own": HONEST,
    "requests of another epoch are weighed": FIXED_MEMBERS,
    "renewals of another epoch are acknowledged": FIXED_MEMBERS,
    "an answer of another epoch renews": FIXED_MEMBERS,
    "hints of another epoch are learned": FIXED_MEMBERS,
    "strangers vote": SECOND_LINE,
    "what a stranger reports is heard": SECOND_LINE,
    "one set of a joint configuration is enough": FIXED_MEMBERS,
}
"""Mutants that no seed can kill, and why."""
TIMEOUT_S = 900
FAILED = re.compile(r"^seed (\d+): (.*)$", re.MULTILINE)


def reason_of(mutant: Mutant) -> str:
    """Say why no seed can kill it; nothing if one should."""
    return "not simulated" if mutant.file.startswith(REPLACED) else NOT_REACHED.get(mutant.name, "")


def verdict(mutant: Mutant, seeds: int) -> str:
    """Say after how many seeds the swarm noticed, and what."""
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
    parser.add_argument("--all", action="store_true", help="try those, too, that no seed can kill")
    parser.add_argument("--table", action="store_true", help="print rows of a table in Markdown")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    wanted = [
        mutant
        for mutant in MUTANTS
        if not options.words or any(word in f"{mutant.name} {mutant.rule} {mutant.file}" for word in options.words)
    ]
    if unknown := NOT_REACHED.keys() - {mutant.name for mutant in MUTANTS}:
        print(f"NOT_REACHED names what is no mutant: {', '.join(sorted(unknown))}")
        return 1

    def one(mutant: Mutant) -> str:
        reason = reason_of(mutant)
        return f"not reached: {reason}" if reason and not options.all else verdict(mutant, options.seeds)

    line = "| {1} | {0} | {2} |" if options.table else "{0:12} {1:58} {2}"
    verdicts = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for mutant, found in zip(wanted, pool.map(one, wanted), strict=True):
            print(line.format(mutant.rule, mutant.name, found), flush=True)
            verdicts.append(found)
    killed = sum(found.startswith("killed") for found in verdicts)
    tried = sum(not found.startswith("not reached") for found in verdicts)
    print(f"{killed} of {tried} mutants killed by {options.seeds} seeds or fewer; {len(verdicts) - tried} not reached")
    return int(any(found.startswith(("NOT APPLIED", "BROKEN", "survived")) for found in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
