"""Leave out one rule at a time and see whether the directed tests notice: ``python tests/mutants/run.py [WORD...]``.

Each mutant of ``patches.py`` is applied to a copy of ``operator/``, which its tests import in place of the real one.
Words select mutants whose name, rule or file holds one of them. Ends with 1 if a mutant survived, could not be applied,
or if its tests fail without it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
WORKERS = 2
TIMEOUT_S = 120
"""For the tests of one mutant; one that hangs is killed, too: a loop without an end is noticed by everybody."""

sys.path.insert(0, str(TESTS))
from mutants.patches import MUTANTS, Mutant  # noqa: E402  (after the path is set)


def run_tests(operator: Path, tests: tuple[str, ...]) -> int:
    """Run tests against the package below ``operator``; return pytest's exit code, or -1 if they do not end."""
    environ = dict(os.environ, PYTHONPATH=str(operator), PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
    command += [str(TESTS / test) for test in tests]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return -1
    return done.returncode


def verdict(mutant: Mutant) -> str:
    """Apply a mutant to a copy and say what became of it: killed, SURVIVED, or why it could not be tried."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        operator = Path(scratch) / "operator"
        shutil.copytree(ROOT / "operator", operator, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        path = operator / "leaderlease" / mutant.file
        text = path.read_text()
        found = text.count(mutant.old)
        if found != 1:
            return f"NOT APPLIED: its text occurs {found} times in {mutant.file}"
        path.write_text(text.replace(mutant.old, mutant.new))
        code = run_tests(operator, mutant.tests)
    if code in (1, -1):
        return "killed"
    return "SURVIVED" if code == 0 else f"BROKEN: pytest ended with {code}"


def main(words: list[str]) -> int:
    """Try the mutants that are wanted; print one line for each, and a sum."""
    wanted = [
        mutant
        for mutant in MUTANTS
        if not words or any(word in f"{mutant.name} {mutant.rule} {mutant.file}" for word in words)
    ]
    tests = tuple(sorted({test for mutant in wanted for test in mutant.tests}))
    if run_tests(ROOT / "operator", tests) != 0:
        print("the tests of these mutants fail already without them: run them first")
        return 1
    with ThreadPoolExecutor(WORKERS) as pool:
        verdicts = list(pool.map(verdict, wanted))
    for mutant, found in zip(wanted, verdicts, strict=True):
        print(f"{found:9} {mutant.rule:12} {mutant.name}")
    killed = verdicts.count("killed")
    print(f"{killed} of {len(wanted)} killed")
    return 0 if killed == len(wanted) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
