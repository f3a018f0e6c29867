"""The frame of the command line: help, versions, completion, what a start costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import leaderlease
from leaderlease.cli import COMMANDS, SECTIONS
from support.commands import PATIENCE_S, Cli, is_one_sentence


def test_help_shows_every_command_once(cli: Cli) -> None:
    """Sorted by what people do; each with a few words."""
    lines = cli("--help").out.splitlines()
    for name in COMMANDS:
        assert sum(line.startswith(f"  {name} ") and len(line.split()) > 3 for line in lines) == 1, name
    assert [line.rstrip(":") for line in lines if line.rstrip(":") in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_fits(cli: Cli, name: str) -> None:
    """`--help` works without a quorum, and ends with 0."""
    ran = cli(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: leaderlease {name}")


def test_no_command_prints_the_help_and_fails(cli: Cli) -> None:
    """A bare call is a question, but no success."""
    ran = cli()
    assert ran.code == 2
    assert "Usage: leaderlease" in ran.err


def test_version_in_every_format(cli: Cli) -> None:
    """For people one line, for programs what compatibility depends on."""
    assert leaderlease.__version__ in cli("version").out
    assert leaderlease.__version__ in cli("--version").out
    found = json.loads(cli("version", "-o", "json").out)
    assert (found["version"], found["protocol_max"], found["disk_format"]) == (leaderlease.__version__, 1, 1)
    assert cli("version", "-o", "name").out == f"{leaderlease.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_command(cli: Cli, shell: str) -> None:
    """The script can be made where the shell itself is not installed."""
    ran = cli("completion", shell)
    assert ran.code == 0
    assert "_LEADERLEASE_COMPLETE" in ran.out


def _completed(words: str, endpoints: str) -> list[str]:
    environment = {
        "_LEADERLEASE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"leaderlease {words}",
        "COMP_CWORD": str(len(words.split(" "))),
        "LEADERLEASE_ENDPOINTS": endpoints,
    }
    command = [sys.executable, "-c", "import sys; from leaderlease.cli import main; sys.exit(main())"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ran.stderr == ""
    return [line.partition(",")[2] for line in ran.stdout.splitlines() if line]


def test_tab_key_completes_commands_and_leases(endpoints: str) -> None:
    """Names of leases are asked from the quorum; where none answers there is nothing, and no noise."""
    with leaderlease.blocking.connect(endpoints) as client, client.acquire("tab/one", "alice", duration="2s"):
        assert _completed("verify tab/", endpoints) == ["tab/one"]
    assert _completed("ver", endpoints) == ["verify", "version"]
    assert _completed("verify tab/", "127.0.0.1:9") == []


@pytest.mark.parametrize("arguments", [["version"], ["get", "--endpoints", "127.0.0.1:9"]])
def test_small_commands_import_little(arguments: list[str]) -> None:
    """What only nodes need is not loaded by commands that people type."""
    heavy = "aiohttp prometheus_client rich uvloop yaml sqlite3 cryptography jwt"
    code = (
        "import sys; from leaderlease.cli import main; main(sys.argv[1:]);"
        f"print(*(name for name in {heavy!r}.split() if name in sys.modules), file=sys.stderr, sep='\\n')"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=PATIENCE_S)
    assert [line for line in ran.stderr.split("\n") if line and not is_one_sentence(line)] == []


def test_full_disk_behind_standard_output_is_one_sentence() -> None:
    """The output is lost, so the command must not end with 0."""
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "leaderlease", "version"], stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=PATIENCE_S,
        )  # fmt: skip
    assert ran.returncode == 74
    assert is_one_sentence(ran.stderr), ran.stderr
    assert "No space left" in ran.stderr
