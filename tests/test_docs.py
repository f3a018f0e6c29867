"""The documents: links resolve, examples parse and run, commands exist, the reference is rendered from its source."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from leaderlease.cli import root
from leaderlease.cli.local import LocalQuorum

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
INDEX = DOCS / "index.md"
PROMISES = ("concepts.md", "sdk.md", "failures.md")
EXAMPLE_TIMEOUT_S = 60

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:^|[|&;(]\s*|\$ |\bexec \S+(?: \S+)* -- |\bcommand: )leaderlease((?: [^|&;\n#)]*)?)")
UNNAMED = re.compile(r"[^a-z]")
"""What stands for a command, as in ``leaderlease COMMAND --help``, or is output, as ``leaderlease 0.1.0``."""


def named(page: Path) -> str:
    """Return the name of a page, for people."""
    return str(page.relative_to(ROOT))


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """Yield language and text of each fenced block."""
    yield from FENCE.findall(page.read_text())


def slugs(page: Path) -> set[str]:
    """Return what links may name within a page, as GitHub makes it of headings."""
    text = FENCE.sub("", page.read_text())
    plain = (re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def commands(page: Path) -> Iterator[str]:
    """Yield the arguments of each ``leaderlease`` that a page shows, in blocks and in running text."""
    text = page.read_text()
    for language, block in fences(page):
        if language in ("sh", "console", "bash"):
            joined = block.replace("\\\n", " ")
            yield from (found for line in joined.splitlines() for found in COMMAND.findall(line))
    yield from (found for code in CODE.findall(FENCE.sub("", text)) for found in COMMAND.findall(code))


def wrong(arguments: str) -> str:
    """Say what of a command line does not exist; empty if all does."""
    try:
        words = shlex.split(arguments)
    except ValueError:
        words = arguments.split()
    command: click.Command = root
    ctx = click.Context(root, info_name="leaderlease")
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        inner = command.get_command(ctx, words[0])
        if inner is None:
            is_an_argument = command is not root
            return "" if is_an_argument or UNNAMED.match(words[0]) else f"no command {words[0]!r}"
        command, words = inner, words[1:]
    known = {"--help", "-h"}
    for parameter in command.params:
        known.update((*parameter.opts, *parameter.secondary_opts))
    for word in words:
        if word == "--":
            break
        flag = word.partition("=")[0]
        if flag.startswith("-") and flag != "-" and flag not in known:
            return f"no option {flag}"
    return ""


def example_ids() -> list[tuple[str, int, str]]:
    """Return page, number and text of every Python block."""
    return [
        (named(page), number, text)
        for page in PAGES
        for number, (language, text) in enumerate(fences(page))
        if language == "python"
    ]


PROGRAMS = [example for example in example_ids() if example[0] == "docs/sdk.md"]


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three real nodes that admit undeclared leases."""
    with LocalQuorum(tmp_path_factory.mktemp("quorum"), 3) as quorum:
        yield ",".join(quorum.endpoints)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_resolve(page: Path) -> None:
    """Every relative link leads to a file, and every anchor to a heading of it."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in slugs(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize(("page", "number", "text"), example_ids(), ids=lambda value: str(value)[:40].split("\n")[0])
def test_python_examples_parse(page: str, number: int, text: str) -> None:
    """What is shown as Python is Python; a fragment may await and yield."""
    compile(text, f"{page}[{number}]", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize(("page", "number", "text"), PROGRAMS, ids=[f"{p}-{n}" for p, n, _ in PROGRAMS])
def test_programs_of_the_sdk_run(page: str, number: int, text: str, endpoints: str, tmp_path: Path) -> None:
    """Each program ends with 0 and complains of nothing, on a quorum of real nodes."""
    path = tmp_path / "example.py"
    path.write_text(text)
    environment = {**os.environ, "LEADERLEASE_ENDPOINTS": endpoints}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{page}[{number}]\n{done.stdout}{done.stderr}"
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page: Path) -> None:
    """Every command that a page shows exists, with its flags."""
    assert [f"leaderlease{line}: {why}" for line in commands(page) if (why := wrong(line))] == []


def test_values_of_the_chart_exist() -> None:
    """Every value that a page names is in the chart, or is a group of values that are."""
    chart = yaml.safe_load((ROOT / "charts" / "leaderlease" / "values.yaml").read_text())
    path = re.compile(rf"(?:{'|'.join(chart)})(?:\.[a-zA-Z]+)+(?==|\Z)")
    unknown: list[str] = []
    for page in set(PAGES) - {DOCS / "crd-reference.md"}:  # a status has a field `quorum`, too
        for code in CODE.findall(FENCE.sub("", page.read_text())):
            found: Any = chart
            names = path.match(code)
            for name in names[0].split(".") if names is not None else ():
                found = found.get(name, unknown) if isinstance(found, dict) and found else None
            if found is unknown:
                unknown.append(f"{named(page)}: {code}")
    assert not unknown


def test_a_wrong_command_is_noticed() -> None:
    """The check sees unknown commands and flags, also behind a pipe and a prompt."""
    assert wrong(" status --endpoints a:1") == ""
    assert wrong(" run --lease a/b -- cmd --any") == ""
    assert wrong(" node inspect DIR -o json") == ""
    assert wrong(" statuss") == "no command 'statuss'"
    assert wrong(" get --colour") == "no option --colour"
    assert COMMAND.findall("cat x | leaderlease inject -f -") == [" inject -f -"]
    assert COMMAND.findall("$ leaderlease get") == [" get"]
    assert COMMAND.findall("kubectl exec pod -c node -- leaderlease status") == [" status"]


def test_every_page_is_in_the_index() -> None:
    """A page that the index does not name is found by nobody; runbooks and decisions have indices of their own."""
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in LINK.findall(INDEX.read_text())}
    expected = {page for page in DOCS.glob("*.md") if page != INDEX} | {DOCS / "runbooks" / "README.md"}
    assert sorted(map(named, expected - linked)) == []


def test_the_promise_is_worded_alike() -> None:
    """What is promised is said in the same words as in the README."""
    bullets = re.compile(r"^\* \*\*(?:Belief|Effects)\.\*\*.*(?:\n  .*)*", re.MULTILINE)
    promised = [" ".join(bullet.split()) for bullet in bullets.findall((ROOT / "README.md").read_text())]
    assert len(promised) == 2
    for name in PROMISES:
        found = [" ".join(bullet.split()) for bullet in bullets.findall((DOCS / name).read_text())]
        assert found == promised, name


def test_the_reference_is_rendered() -> None:
    """docs/crd-reference.md is what `make docs` makes of the definitions."""
    spec = importlib.util.spec_from_file_location("docs_render", DOCS / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "crd-reference.md").read_text() == module.render()
