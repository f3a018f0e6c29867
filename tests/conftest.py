"""Levels, markers and the lines at the end of a run that say what was not tested."""

import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

TESTS = Path(__file__).parent

# importlib mode adds nothing to sys.path; the helpers are imported as `support.…`.
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
pytest.register_assert_rewrite("support")

from support import levels  # noqa: E402  (after the path is set)

_ran = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a misspelt level before anything runs."""
    config.stash[_ran] = Counter()
    try:
        levels.required_levels()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with the level of its directory, so that `-m process` selects it."""
    for item in items:
        if level := levels.level_of(item.path, TESTS):
            item.add_marker(level)


def _refuse_required_skip(report: pytest.TestReport | pytest.CollectReport, path: Path, config: pytest.Config) -> None:
    """Turn a skip in a required level, however it came about, into a failure."""
    level = levels.level_of(path, TESTS)
    if level is None:
        return
    if isinstance(report, pytest.TestReport) and report.when == "call" and report.passed:
        config.stash[_ran][level] += 1
    if report.skipped and not hasattr(report, "wasxfail") and level in levels.required_levels():
        report.outcome = "failed"
        report.longrepr = (
            f"skipped, but {levels.REQUIRE_VARIABLE} names {level}: {_reason(report)} ({levels.HOW_TO_ENABLE[level]})"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Apply the rule for required levels to tests and their fixtures."""
    report = yield
    _refuse_required_skip(report, item.path, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Apply the rule for required levels to modules that skip themselves."""
    report = yield
    _refuse_required_skip(report, collector.path, collector.config)
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one line per level or reason that was skipped, with how to enable it."""
    by_level: dict[str, Counter[str]] = {}
    others: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        level = levels.level_of(config.rootpath / report.nodeid.split("::")[0], TESTS)
        if level is None:
            others[_reason(report)] += 1
        else:
            by_level.setdefault(level, Counter())[_reason(report).removeprefix(f"{level}: ")] += 1
    lines = [
        f"{level}: {reasons.total()} skipped ({', '.join(sorted(reasons))}); {levels.HOW_TO_ENABLE[level]}"
        for level, reasons in sorted(by_level.items())
    ]
    lines += [f"{count} skipped: {reason}" for reason, count in sorted(others.items())]
    # Only a run of the whole suite can miss a level: `pytest tests/rules` leaves the others out on purpose.
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not terminalreporter.stats.get("error"):
        lines += [
            f"{level}: {levels.REQUIRE_VARIABLE} names it, but none of its tests ran to the end"
            for level in sorted(levels.required_levels())
            if not config.stash[_ran][level]
        ]
    if lines:
        terminalreporter.section("not tested", sep="-")
        for line in lines:
            terminalreporter.write_line(line)
