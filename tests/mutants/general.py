"""Change the pure core in every small way that mutmut knows, and see what the tests notice: ``general.py [FILE...]``.

``patches.py`` leaves out the rules that we thought of; this asks about the rest of ``paxos/``. Every change that no
test of ``rules/`` and ``paxos/`` notices is printed: a missing test, unless ``equivalent.py`` says why it changes
nothing.

mutmut wants the source in a folder whose name is no module of Python's own, so it works on a copy, ``build/mutation``,
in which ``operator/`` is called ``src/``; its settings are in ``pyproject.toml``. It does not touch functions with a
decorator, nor constants outside functions.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
SCRATCH = ROOT / "build" / "mutation"
MUTMUT = Path(sys.executable).with_name("mutmut")
MINUTES = 40.0
NOTICED = ("killed", "timeout", "suspicious", "segfault")
"""What mutmut says of a change that the tests noticed, be it by never ending."""
NOT_NOTICED = ("survived", "no tests")

sys.path.insert(0, str(TESTS))
from mutants.equivalent import EQUIVALENT  # noqa: E402  (after the path is set)


class Change(NamedTuple):
    """One small change of the code.

    Attributes:
        place: ``file.function`` or ``file.Class.function``.
        old: The line that went.
        new: The line that came in its place.
    """

    place: str
    old: str
    new: str


KNOWN = {Change(*change) for _, changes in EQUIVALENT for change in changes}


def copy_for_mutmut() -> None:
    """Make the copy that mutmut works on."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "operator", SCRATCH / "src", ignore=ignored)
    shutil.copytree(TESTS, SCRATCH / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", SCRATCH)


def mutmut(*arguments: str, minutes: float = 5.0, is_quiet: bool = True) -> str:
    """Run mutmut in the copy; return what it printed, or nothing where it was stopped after so many minutes."""
    environ = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
    command = [str(MUTMUT), *arguments]
    process = subprocess.Popen(
        command,
        cwd=SCRATCH,
        env=environ,
        text=True,
        stdout=subprocess.PIPE if is_quiet else None,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=minutes * 60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 15)
        process.communicate()
        return ""
    return printed or ""


def place_of(mutant: str) -> str:
    """Return where a mutant is: ``leaderlease.paxos.quorum.xǁQuorumǁtally__mutmut_3`` is at ``quorum.Quorum.tally``."""
    module, _, mangled = mutant.partition("__mutmut_")[0].rpartition(".")
    name = mangled.removeprefix("x").replace("ǁ", ".").removeprefix(".").removeprefix("_")
    return f"{module.rpartition('.')[2]}.{name}"


def change_of(mutant: str) -> Change:
    """Return what a mutant changes."""
    lines = mutmut("show", mutant).splitlines()
    old, new = (
        " ".join(line[1:].strip() for line in lines if line.startswith(sign) and not line.startswith(sign * 3))
        for sign in "-+"
    )
    return Change(place_of(mutant), old, new)


def verdicts(words: set[str]) -> dict[str, str]:
    """Return mutant -> what mutmut says of it, in these files or all."""
    found = re.findall(r"^\s*(leaderlease\.\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE)
    return {name: said.strip() for name, said in found if not words or name.split(".")[2] in words}


def main() -> int:
    """Print the score and every change that was not noticed; end with 1 if one of them is not known as equivalent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE[.FUNCTION]", help="of paxos/, without .py; all unless named")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="stop after so many, and say what was not tried")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    copy_for_mutmut()
    patterns = [f"leaderlease.paxos.{file}.*{name}*" for file, _, name in (one.partition(".") for one in asked.files)]
    mutmut("run", "--max-children", str(asked.workers), *patterns, minutes=asked.minutes, is_quiet=False)
    files = {one.partition(".")[0] for one in asked.files}
    # Of a file of which only some functions are wanted, the others were not checked.
    found = {
        name: said for name, said in verdicts(files).items() if said != "not checked" or asked.files == sorted(files)
    }
    if not found:
        print("mutmut made no mutants; its own words are above")
        return 1
    survivors = [change_of(name) for name, said in found.items() if said in NOT_NOTICED]
    unknown = [change for change in survivors if change not in KNOWN]
    for change in sorted(unknown):
        print(f"\nSURVIVED {change.place}\n  - {change.old}\n  + {change.new}")
    said = Counter(found.values())
    noticed = sum(said[word] for word in NOTICED)
    equivalent = len(survivors) - len(unknown)
    tried = noticed + len(survivors)
    print("\n" + ", ".join(f"{word} {count}" for word, count in sorted(said.items())))
    print(f"{noticed} of {tried - equivalent} changes were noticed; {equivalent} more change nothing (equivalent.py)")
    for change in sorted(KNOWN.difference(survivors)):
        if not asked.files or change.place.split(".")[0] in asked.files:
            print(f"equivalent.py: no longer survives, or is no longer made: {change.place}: {change.new}")
    if len(found) > tried:
        print(f"{len(found) - tried} were not tried within {asked.minutes:g} minutes")
    return 1 if unknown or len(found) > tried else 0


if __name__ == "__main__":
    raise SystemExit(main())
