"""Leave out one rule at a time and see whether the directed tests notice: ``python tests/mutants/run.py [WORD...]``.

Each mutant of ``patches.py`` is applied to a copy of ``operator/``, and its tests run in a process of their own that
imports that copy in place of the real one. Words select mutants whose name, rule or file holds one of them. Ends with 1
if a mutant survived, could not be applied, or if the tests fail without any.

The processes are forked from this one, which has imported what every test needs, and nothing of ``leaderlease``: that
is four fifths of what a new interpreter would cost for each.
"""

import asyncio  # noqa: F401  (for those that are forked, as the next ones)
import compileall
import os
import shutil
import signal
import sqlite3  # noqa: F401
import ssl  # noqa: F401
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

import hypothesis  # noqa: F401
import msgspec  # noqa: F401
import pytest
import pytest_asyncio  # noqa: F401

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
WORKERS = 2
TIMEOUT_S = 120
"""For the tests of one mutant; one that hangs is killed, too: a loop without an end is noticed by everybody."""
ALL_TIMEOUT_S = 900
"""For all of these tests together, without a mutant."""
POLL_S = 0.01
WRONG_COPY = 90
"""Exit code: the tests would have run against another package than the mutant."""
OPTIONS = (
    *("-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=short"),
    # The plugins were imported before the fork, so their own asserts say less.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)

sys.path.insert(0, str(TESTS))
from mutants.patches import MUTANTS, Mutant  # noqa: E402  (after the path is set)


class Trial(NamedTuple):
    """Tests that run against one copy of the package.

    Attributes:
        mutant: What was done to it; None: nothing.
        folder: Where that copy and the output are.
        until: When it is stopped, monotonic seconds.
    """

    mutant: Mutant | None
    folder: Path
    until: float


def copy_of(base: Path, folder: Path, mutant: Mutant | None) -> str:
    """Make a copy of the package and change it; return why that cannot be done."""
    shutil.copytree(base, folder)
    if mutant is None:
        return ""
    path = folder / "leaderlease" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return f"NOT APPLIED: its text occurs {text.count(mutant.old)} times in {mutant.file}"
    path.write_text(text.replace(mutant.old, mutant.new))
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()
    return ""


def run_tests(folder: Path, tests: tuple[str, ...]) -> NoReturn:
    """In a forked process: run tests against the package below ``folder``, and end with pytest's exit code."""
    code = WRONG_COPY
    try:
        os.setsid()
        os.chdir(ROOT)
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["PYTHONPATH"] = str(folder / "operator")
        sys.path.insert(0, os.environ["PYTHONPATH"])
        import leaderlease

        if list(leaderlease.__path__) == [str(folder / "operator" / "leaderlease")]:
            code = int(pytest.main([*OPTIONS, *(str(TESTS / test) for test in tests)]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def start(mutant: Mutant | None, tests: tuple[str, ...], base: Path, folder: Path) -> tuple[int, Trial] | str:
    """Begin a trial and return its process; or why it cannot be tried."""
    if problem := copy_of(base, folder / "operator", mutant):
        return problem
    trial = Trial(mutant, folder, time.monotonic() + (ALL_TIMEOUT_S if mutant is None else TIMEOUT_S))
    process = os.fork()
    if process == 0:
        run_tests(folder, tests)
    return process, trial


def ended(running: dict[int, Trial]) -> tuple[Trial, str]:
    """Wait for the next trial to end, or its time; return it and what became of it."""
    while True:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            code = os.waitstatus_to_exitcode(status)
            trial = running.pop(process)
            if code == 1 or (code < 0 and time.monotonic() > trial.until):
                return trial, "killed"
            return trial, "SURVIVED" if code == 0 else f"BROKEN: its tests ended with {code}"
        for process, trial in running.items():
            if time.monotonic() > trial.until:
                os.killpg(process, signal.SIGKILL)
        time.sleep(POLL_S)


def verdicts(wanted: list[Mutant | None], scratch: Path) -> dict[Mutant | None, str]:
    """Try all of these; None stands for the code as it is, with the tests of all."""
    base = scratch / "base"
    shutil.copytree(ROOT / "operator", base, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    compileall.compile_dir(base, quiet=2)
    every = tuple(sorted({test for mutant in wanted if mutant for test in mutant.tests}))
    running: dict[int, Trial] = {}
    found: dict[Mutant | None, str] = {}

    def collect() -> None:
        trial, found[trial.mutant] = ended(running)
        if trial.mutant is None and found[None] != "SURVIVED":
            print("\n".join((trial.folder / "output").read_text(errors="replace").splitlines()[-40:]))
        shutil.rmtree(trial.folder)

    for number, mutant in enumerate(wanted):
        if len(running) == WORKERS:
            collect()
        folder = scratch / str(number)
        begun = start(mutant, every if mutant is None else mutant.tests, base, folder)
        if isinstance(begun, str):
            found[mutant] = begun
        else:
            running[begun[0]] = begun[1]
    while running:
        collect()
    return found


def main(words: list[str]) -> int:
    """Try the mutants that are wanted; print one line for each, and a sum."""
    wanted = [
        mutant
        for mutant in MUTANTS
        if not words or any(word in f"{mutant.name} {mutant.rule} {mutant.file}" for word in words)
    ]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        found = verdicts([None, *wanted], Path(scratch).resolve())
    for mutant in wanted:
        print(f"{found[mutant]:9} {mutant.rule:12} {mutant.name}")
    killed = sum(found[mutant] == "killed" for mutant in wanted)
    print(f"{killed} of {len(wanted)} killed in {time.monotonic() - began:.0f} s")
    if found[None] != "SURVIVED":
        print("the tests of these mutants fail already without them: see above")
        return 1
    return 0 if killed == len(wanted) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
