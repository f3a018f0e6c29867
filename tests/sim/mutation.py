"""Does the swarm notice a rule that is left out? Each mutant of ``mutants/`` under the fixed seeds 0, 1, 2 and so on.

    python tests/sim/mutation.py [--minutes M] [--seeds N] [--all] [--table] [WORD...]

Prints after how many seeds each was killed, and by which statement; ``--table`` prints the rows of docs/simulator.md.
All get a few seeds first, and who survives gets more, until the time is used up. What was found is kept in
``build/sim-mutants.json``, and the next call goes on there, as long as neither production nor simulator has changed.
``NOT_REACHED`` says of some why chance cannot come to them; they are tried with ``--all`` alone, if at all. Ends with 1
if another one survived, or was not tried. Directed tests kill every mutant (``mutants/run.py``).
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

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
NOT_SIMULATED = "not simulated"
FIXED_MEMBERS = "one configuration, one epoch"
HONEST = "members do not lie"
CLOCKS = "the simulator's clocks stand in for the platform's"
FEW = "a keepalive takes a second message with the lease after the 4 096th"
COSTS_TIME = "it costs time, and no answer"
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
    "an attempt takes a higher ballot for its own repeat": COSTS_TIME,
    "two lives share their ballots": "the next life counts on from the durable ceiling, a block above the last",
    "a restarted proposer begins anew": COSTS_TIME,
    "a ballot proposes twice": SECOND_LINE,
    "two values under one ballot are taken": SECOND_LINE,
    "completions are taken out of order": SECOND_LINE,
    "a late block lowers the ceiling": "blocks become durable in the order in which they were asked for (R4)",
    "proof of a bug does not stop the node": SECOND_LINE,
    "a halted node carries on": SECOND_LINE,
    "a halted node hears itself": SECOND_LINE,
    "a Renew ends twice": FEW,
    "the second Renew of a keepalive is not waited for": FEW,
    "a holder rounds up": "a holder stops 20 ms before",
    "no margin on top of the clocks": "within the bound on clocks the margin for them suffices",
    "a copy of a page restarts timers": COSTS_TIME,
    "a silent holder is taken over for ten durations": COSTS_TIME,
    "a restarted node does not notice an end": "candidates look again by themselves, later",
    "a slewed clock counts as an exact one": CLOCKS,
    "a holder reads the wall clock": CLOCKS,
    "a list shows nonces": "nobody here claims the nonce of another",
    "a watch shows nonces": "nobody here claims the nonce of another",
    "anybody releases at the node of the holder": "nobody here releases the lease of another",
    "anybody releases at another node": "nobody here releases the lease of another",
    "a lease that ends by itself is revoked": "the operator here revokes only leases without an end",
    "any duration is stored": HONEST,
    "pages of those who were not asked are taken": HONEST,
    "a client follows a node of another cluster": "strangers dial nodes, and no client dials a stranger",
    "answers to reads of an earlier life count": "connections end with a life, and their answers with them",
    "a poisoned counter is promised": HONEST,
    "a poisoned counter becomes the proposer's own": HONEST,
    "requests of another epoch are weighed": FIXED_MEMBERS,
    "renewals of another epoch are acknowledged": FIXED_MEMBERS,
    "an answer of another epoch renews": FIXED_MEMBERS,
    "hints of another epoch are learned": FIXED_MEMBERS,
    "strangers vote": SECOND_LINE,
    "what a stranger reports is heard": SECOND_LINE,
    "one set of a joint configuration is enough": FIXED_MEMBERS,
    "while joint the last set decides on a vacancy": FIXED_MEMBERS,
}
"""Mutants that no seed can kill, and why."""
STORE = ROOT / "build" / "sim-mutants.json"
ROUNDS = (3, 10, 30, 100, 300, 1000)
"""So many seeds each has had after each round; survivors alone go into the next one."""
WORKERS = 2
SEED_TIMEOUT_S = 90
"""For one seed, which takes a second or so; what takes longer does not end."""
FAILED = re.compile(r"^seed (\d+): (.*)$", re.MULTILINE)


class Found(NamedTuple):
    """What the swarm says of one mutant.

    Attributes:
        seeds: So many were run: all that it survived, or up to the one that killed it.
        said: The statement that failed, or why it could not be tried; empty while it survives.
    """

    seeds: int = 0
    said: str = ""

    def __str__(self) -> str:
        if self.said:
            return f"{self.seeds}: {self.said}" if self.seeds else self.said
        return f"not by {self.seeds} seeds" if self.seeds else "not tried"


def reason_of(mutant: Mutant) -> str:
    """Say why no seed can kill it; nothing if one should."""
    return NOT_SIMULATED if mutant.file.startswith(REPLACED) else NOT_REACHED.get(mutant.name, "")


class Campaign:
    """Runs mutants of one version of the code, and remembers what came of them.

    Args:
        scratch: Where the copy of that version is kept: what is edited meanwhile changes nothing.
        until: When it stops, monotonic seconds.
    """

    def __init__(self, scratch: Path, until: float) -> None:
        self._scratch, self._until = scratch, until
        for folder in ("operator", "tests"):
            shutil.copytree(ROOT / folder, scratch / folder, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        code = hashlib.sha256()
        for path in sorted(scratch.rglob("*.py")):
            if path.name == "mutation.py":
                continue
            if path.is_relative_to(scratch / "operator") or path.parts[-2] in ("sim", "support", "checkers"):
                code.update(path.read_bytes())
        self._code = code.hexdigest()
        kept = json.loads(STORE.read_text()) if STORE.is_file() else {}
        self.found = {name: Found(*one) for name, one in kept.get(self._code, {}).items()}

    def keep(self) -> None:
        """Write down what was found."""
        STORE.parent.mkdir(exist_ok=True)
        STORE.write_text(json.dumps({self._code: self.found}, indent=1))

    def try_until(self, mutant: Mutant, seeds: int) -> None:
        """Let a mutant go on from the seed where it stands up to this number, if it still survives."""
        before = self.found.get(self.key(mutant), Found())
        if not before.said and before.seeds < seeds and time.monotonic() < self._until:
            self.found[self.key(mutant)] = self._run(mutant, before.seeds, seeds)

    @staticmethod
    def key(mutant: Mutant) -> str:
        """Return what its finding is kept under: another patch of the same name is another mutant."""
        return hashlib.sha256("\0".join(mutant[:5]).encode()).hexdigest()

    def _run(self, mutant: Mutant, first: int, end: int) -> Found:
        with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
            operator = Path(scratch) / "operator"
            shutil.copytree(self._scratch / "operator", operator)
            path = operator / "leaderlease" / mutant.file
            text = path.read_text()
            if text.count(mutant.old) != 1:
                return Found(0, "NOT APPLIED")
            path.write_text(text.replace(mutant.old, mutant.new))
            environ = dict(os.environ, PYTHONPATH=str(operator), PYTHONDONTWRITEBYTECODE="1")
            script = str(self._scratch / "tests" / "sim" / "swarm.py")
            command = [sys.executable, script, "--seeds", f"{first}:{end}", "--first", "--workers", "1"]
            left_s, own_s = max(1.0, self._until - time.monotonic()), SEED_TIMEOUT_S * (end - first)
            try:
                done = subprocess.run(
                    command, env=environ, capture_output=True, text=True, timeout=min(left_s, own_s), check=False
                )
            except subprocess.TimeoutExpired:
                return Found(first) if left_s < own_s else Found(end, "it does not end")
        failed = FAILED.search(done.stdout)
        if failed is not None:
            return Found(int(failed[1]) + 1, failed[2].partition(":")[0][:60])
        return Found(end) if done.returncode == 0 else Found(0, f"BROKEN: {done.stderr.strip()[-200:]}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="for all of them together")
    parser.add_argument("--seeds", type=int, default=100, help="for each of them, at most")
    parser.add_argument("--all", action="store_true", help="try those, too, that no seed can kill")
    parser.add_argument("--table", action="store_true", help="print rows of a table in Markdown")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    if unknown := NOT_REACHED.keys() - {mutant.name for mutant in MUTANTS}:
        print(f"NOT_REACHED names what is no mutant: {', '.join(sorted(unknown))}")
        return 1
    wanted = [
        mutant
        for mutant in MUTANTS
        if not options.words or any(word in f"{mutant.name} {mutant.rule} {mutant.file}" for word in options.words)
    ]
    tried = [one for one in wanted if not reason_of(one) or (options.all and reason_of(one) != NOT_SIMULATED)]
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch, ThreadPoolExecutor(WORKERS) as pool:
        campaign = Campaign(Path(scratch), until)
        for seeds in sorted({min(seeds, options.seeds) for seeds in (*ROUNDS, options.seeds)}):
            for _ in pool.map(lambda mutant, seeds=seeds: campaign.try_until(mutant, seeds), tried):
                campaign.keep()
    line = "| {1} | {0} | {2} |" if options.table else "{0:12} {1:58} {2}"
    verdicts = {mutant: campaign.found.get(campaign.key(mutant), Found()) for mutant in tried}
    for mutant in wanted:
        found = str(verdicts[mutant]) if mutant in verdicts else f"not reached: {reason_of(mutant)}"
        print(line.format(mutant.rule, mutant.name, found))
    killed = [found.seeds for found in verdicts.values() if found.seeds and found.said]
    broken = [found for found in verdicts.values() if found.said and not found.seeds]
    print(
        f"{len(killed)} of {len(tried)} killed, {sum(seeds <= 5 for seeds in killed)} of them by five seeds or fewer; "
        f"{len(wanted) - len(tried)} not reached; {len(broken)} could not be tried"
    )
    return int(len(killed) < len(tried))


if __name__ == "__main__":
    raise SystemExit(main())
