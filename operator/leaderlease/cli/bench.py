"""``leaderlease bench``: what this machine and this quorum reach, beside what was aimed at."""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from leaderlease import __version__
from leaderlease.cli.local import LocalQuorum
from leaderlease.cli.measure import LOCAL_ONLY, QUICK, SCENARIOS, Bench, Sizes, fsync_ms
from leaderlease.client.endpoints import parse_endpoints

RUNS_MAX: Final = 100
Found = dict[str, list[Mapping[str, float]]]
"""Scenario -> what each run of it found."""


class Row(msgspec.Struct, frozen=True):
    """One line of the table.

    Attributes:
        scenario: Whose result it shows.
        field: Which number of it.
        text: For people.
        aim: What is aimed at; None where the number only explains another one.
        is_at_least: The aim is a floor, not a ceiling.
    """

    scenario: str
    field: str
    text: str
    unit: str
    aim: float | None
    is_at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Tell whether this value reaches the aim."""
        return self.aim is None or (value >= self.aim if self.is_at_least else value <= self.aim)


ROWS: Final = (
    Row("acquire", "p50", "acquire, 1 client, p50", "ms", 1.0),
    Row("acquire", "p99", "acquire, 1 client, p99", "ms", 5.0),
    Row("prepared", "p50", "acquire, prepared vacancy, p50", "ms", 0.7),
    Row("prepared", "p99", "acquire, prepared vacancy, p99", "ms", 5.0),
    Row("cycles", "per_second", "acquire + release, 100 clients", "/s", 10_000, is_at_least=True),
    Row("cycles", "p50", "  its acquire, p50", "ms", None),
    Row("cycles", "p99", "  its acquire, p99", "ms", None),
    Row("cycles", "cpu_s_per_1000", "  CPU of all nodes per 1000", "s", None),
    Row("cycles", "load_cpu_s_per_1000", "  CPU of the load generator per 1000", "s", None),
    Row("cycles", "failures", "  acquires refused", "", 0),
    Row("renewals", "per_second", "renewals", "leases/s", 60_000, is_at_least=True),
    Row("renewals", "cpu_s_per_1000", "  CPU of all nodes per 1000", "s", 0.05),
    Row("renewals", "half_p99", "  p99 at 30 000 leases/s", "ms", 20.0),
    Row("renewals", "failures", "  leases not renewed", "", 0),
    Row("crash", "p50", "crash of the holder, on top of 1 s, p50", "ms", 80.0),
    Row("crash", "p99", "crash of the holder, on top of 1 s, p99", "ms", 250.0),
    Row("release", "p50", "release to next holder, p50", "ms", 5.0),
    Row("release", "p99", "release to next holder, p99", "ms", 20.0),
    Row("node-kill", "lost", "node killed: leases lost", "", 0),
    Row("node-kill", "failed", "node killed: acquires failed", "", 0),
    Row("node-kill", "pause_others", "node killed: pause, clients of others", "ms", 100.0),
    Row("node-kill", "pause_own", "node killed: pause, its own clients", "ms", 500.0),
    Row("capacity", "node_mib", "node with 10 000 leases", "MiB", 60.0),
    Row("capacity", "client_mib", "client process with one lease", "MiB", 30.0),
    Row("capacity", "scrape_ms", "scrape of 10 000 leases", "ms", 200.0),
    Row("idle", "node_percent", "node with 100 leases of 3 s, idle", "% of a core", 1.0),
    Row("idle", "many_percent", "  each held by a session of its own", "% of a core", None),
)


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)), metavar="[SCENARIO]...")
@click.option("--endpoints", envvar="LEADERLEASE_ENDPOINTS", default="", show_envvar=True,
              help="host:port,... of a running quorum; a local one is started unless told.")  # fmt: skip
@click.option("--runs", type=click.IntRange(1, RUNS_MAX), default=1, show_default=True,
              help="How often each scenario runs; the median counts.")  # fmt: skip
@click.option("--quick", is_flag=True, help="A little of everything, to see that it works; the numbers say nothing.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="What goes to standard output.")  # fmt: skip
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON there, too.")
def bench(
    scenarios: tuple[str, ...], endpoints: str, runs: int, quick: bool, output: str, json_path: Path | None
) -> None:
    """Measure a quorum; all scenarios unless some are named.

    Scenarios: acquire prepared cycles renewals release crash capacity idle node-kill. The last three need the
    processes of the nodes, so they run on a local quorum only.
    """
    sizes = QUICK if quick else Sizes()
    wanted = [name for name in SCENARIOS if not scenarios or name in scenarios]
    if endpoints:
        targets = [str(endpoint) for endpoint in parse_endpoints(endpoints)]
        skipped = [name for name in wanted if name in LOCAL_ONLY]
        if skipped:
            _say(f"left out, for they need a local quorum: {', '.join(skipped)}")
        there = Bench(targets, None, sizes)
        wanted = [name for name in wanted if name not in LOCAL_ONLY]
        report = _report(_measure(wanted, runs, lambda name: SCENARIOS[name](there)), runs, quick)
    else:
        with tempfile.TemporaryDirectory(prefix="leaderlease-bench-") as directory:
            disk = fsync_ms(Path(directory))
        found = _measure(wanted, runs, lambda name: _locally(name, sizes))
        report = {**_report(found, runs, quick), "fsync_ms": disk}
    text = json.dumps(report, indent=2)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(text + "\n")
    if output == "json":
        click.echo(text)
    else:
        _print_table(report)


def _locally(name: str, sizes: Sizes) -> Mapping[str, float]:
    """Run one scenario on a quorum of its own: what the one before left behind would be measured, too."""
    with tempfile.TemporaryDirectory(prefix="leaderlease-bench-") as folder, LocalQuorum(Path(folder)) as quorum:
        return SCENARIOS[name](Bench(quorum.endpoints, quorum, sizes))


def _measure(wanted: Sequence[str], runs: int, run: Callable[[str], Mapping[str, float]]) -> Found:
    found: Found = {name: [] for name in wanted}
    for number in range(1, runs + 1):
        for name in wanted:
            started = time.monotonic()
            found[name].append(run(name))
            _say(f"run {number} of {runs}: {name} took {time.monotonic() - started:.1f} s")
    return found


def _report(found: Found, runs: int, is_quick: bool) -> dict[str, Any]:
    return {
        "version": __version__,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "runs": runs,
        "is_quick": is_quick,
        "machine": machine(),
        "rows": [_row(row, found[row.scenario]) for row in ROWS if row.scenario in found],
    }


def _row(row: Row, runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    values = [run[row.field] for run in runs if row.field in run]
    middle = statistics.median(values) if values else None
    return {
        "scenario": row.scenario,
        "field": row.field,
        "text": row.text,
        "unit": row.unit,
        "aim": row.aim,
        "is_at_least": row.is_at_least,
        "median": middle,
        "min": min(values, default=None),
        "max": max(values, default=None),
        "is_met": None if middle is None or row.aim is None else row.is_met(middle),
    }


def machine() -> dict[str, Any]:
    """Describe what was measured on."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory[0] / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_table(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("median", "min – max", "unit", "aim", ""):
        table.add_column(heading, justify="right" if heading in ("median", "min – max", "aim") else "left")
    for row in report["rows"]:
        if row["median"] is None:
            continue
        sign = "≥" if row["is_at_least"] else "≤"
        aim = "" if row["aim"] is None else f"{sign} {_number(row['aim'])}"
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row["is_met"]]
        spread = f"{_number(row['min'])} – {_number(row['max'])}"
        table.add_row(row["text"], _number(row["median"]), spread, row["unit"], aim, verdict)
    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print(table)
    host = report["machine"]
    disk = report.get("fsync_ms")
    fsync = f"; fdatasync of 4 KiB: p50 {disk['p50']:.2f} ms, p99 {disk['p99']:.2f} ms" if disk else ""
    console.print(
        f"\n{report['runs']} runs on {host['cores']} cores ({host['cpu']}), Python {host['python']}{fsync}.",
        highlight=False,
    )
    if report["is_quick"]:
        console.print("A quick run: these numbers only show that everything works.", highlight=False)


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:.2f}"
