"""Run TLC, the model checker of TLA+, on the modules in ``spec/``.

By hand: ``python tests/model/by_hand.py NAME`` runs one check of ``tests/model/configurations.py``.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "spec"
SHORT = ("-Xmx2g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For seconds to half a minute: what a JVM does to run faster later would cost more than it saves."""
LONG = ("-Xmx5g", "-XX:+UseParallelGC")


def jar() -> Path | None:
    """Return tla2tools.jar: what TLA2TOOLS_JAR names, or build/tla2tools.jar, or the newest in ~/.m2."""
    if named := os.environ.get("TLA2TOOLS_JAR"):
        return Path(named) if Path(named).is_file() else None
    if (fetched := ROOT / "build" / "tla2tools.jar").is_file():
        return fetched
    found = sorted(Path.home().glob(".m2/repository/org/lamport/tla2tools/*/tla2tools-*.jar"))
    return found[-1] if found else None


def missing() -> str:
    """Say what this machine lacks for TLC; empty if nothing."""
    if shutil.which("java") is None:
        return "no java"
    return "" if jar() is not None else "no tla2tools.jar (make model fetches it, or set TLA2TOOLS_JAR)"


@dataclass(frozen=True)
class Configuration:
    """Constants of ``Lease.tla``, and what is checked. Time is in the units of one Tick.

    Attributes:
        owner: Name of a definition in MC.tla: the client of each ballot.
        duration: With ``Skew = 1`` and ``Margin = 2`` acceptors wait, and holders believe, for ``duration - 1``.
        steps: What may happen beside Paxos.
        holders: Clients that renew and let go.
    """

    owner: str
    ballots: int
    duration: int = 2
    steps: str = ""
    old: str = "a1 a2 a3"
    new: str = ""
    clients: str = "1 2"
    holders: str = "1"
    never: str = ""
    is_liveness: bool = False

    def text(self, mutant: str = "") -> str:
        """Return the file that TLC reads; ``mutant`` names a rule that is left out."""
        new = self.new or self.old
        members = sorted({*self.old.split(), *new.split()})
        constants = [f"{member} = {member}" for member in members]
        constants += [f"Old = {_set(self.old)}", f"New = {_set(new)}"]
        constants += [f"Clients = {_set(self.clients)}", f"NeverClients = {_set(self.never)}"]
        constants += [f"MaxB = {self.ballots}", f"Owner <- {self.owner}", f"Duration = {self.duration}"]
        constants += ["Skew = 1", "Margin = 2", "Block = 2", f"Holders = {_set(self.holders)}"]
        constants += [f"Steps = {_strings(self.steps)}", f"Mut = {_strings(mutant)}"]
        lines = ["CONSTANTS", *(f"    {line}" for line in constants)]
        if self.is_liveness:
            lines += ["SPECIFICATION ProgressSpec", "PROPERTY Progress"]
        else:
            lines += ["SPECIFICATION Spec", "SYMMETRY Symmetry", "INVARIANT Belief", "INVARIANT Agreement"]
            lines += ["PROPERTY Tokens", "PROPERTY Continuity"]
        return "\n".join(lines) + "\n"

    @property
    def module(self) -> str:
        """The module that is checked."""
        return "Progress" if self.is_liveness else "MC"


def _set(words: str) -> str:
    return "{" + ", ".join(words.split()) + "}"


def _strings(words: str) -> str:
    return "{" + ", ".join(f'"{word}"' for word in words.split()) + "}"


@dataclass(frozen=True)
class Result:
    """What TLC found.

    Attributes:
        violated: Name of the invariant or property, "temporal" for a liveness property, or empty.
        is_complete: Every reachable state was seen and nothing was found.
    """

    violated: str
    is_complete: bool
    generated: int
    distinct: int
    depth: int
    output: str = field(repr=False)


def prepare(module: str, configuration: str, work: Path, *, workers: int, options: Sequence[str] = LONG) -> list[str]:
    """Put what TLC reads into ``work`` and return the command that is to run there."""
    work.mkdir(parents=True, exist_ok=True)
    for file in SPEC.glob("*.tla"):
        shutil.copy(file, work)
    (work / "run.cfg").write_text(configuration)
    # A folder of its own: TLC unpacks the standard modules there, and runs at once would take them from each other.
    command = ["java", *options, f"-Djava.io.tmpdir={work}", "-cp", str(jar()), "tlc2.TLC", "-deadlock", "-fp", "0"]
    return [*command, "-workers", str(workers), "-metadir", str(work / "states"), "-config", "run.cfg", module]


def run(module: str, configuration: str, work: Path, *, timeout_s: float, workers: int = 2) -> Result:
    """Check ``module`` (in ``spec/``, or written into ``work``) and return what TLC says.

    Raises:
        subprocess.TimeoutExpired: It took longer than ``timeout_s`` seconds.
    """
    command = prepare(module, configuration, work, workers=workers, options=SHORT)
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=timeout_s, check=False)
    return read(done.stdout + done.stderr)


def read(output: str) -> Result:
    """Take TLC's report apart."""
    violated = ""
    if match := re.search(r"(?:Invariant|Action property) (\w+) is violated", output):
        violated = match[1]
    elif "Temporal properties were violated" in output:
        violated = "temporal"
    counts = re.findall(r"([\d,]+) states generated.*?, ([\d,]+) distinct states found", output)
    depth = re.search(r"The depth of the complete state graph search is (\d+)", output)
    generated, distinct = (int(number.replace(",", "")) for number in counts[-1]) if counts else (0, 0)
    is_complete = "No error has been found" in output
    return Result(violated, is_complete, generated, distinct, int(depth[1]) if depth else 0, output)
