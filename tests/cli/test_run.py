"""`leaderlease run` has the options of all other clients; what they cannot mean is said before anything is started."""

import inspect
from pathlib import Path

import pytest

from leaderlease.cli import main
from leaderlease.cli.leases import get
from leaderlease.cli.run import PRIORITY_MAX, run
from leaderlease.paxos import lease
from leaderlease.sidecar import guard
from support.commands import is_one_sentence

CONNECTION = {"endpoints", "tls_ca", "tls_cert", "tls_key", "token_file"}


def test_run_connects_as_every_other_command() -> None:
    """The options of a connection are the same objects of text, names and variables."""
    theirs, ours = ({o.name: o.to_info_dict() for o in command.params} for command in (get, run))
    assert {name: ours[name] for name in CONNECTION} == {name: theirs[name] for name in CONNECTION}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-cert", "a.pem"], "--tls-ca is missing: name the authority that signed the nodes"),
        (["--token-file", "/nonexistent"], "--token-file /nonexistent: cannot be read: No such file or directory"),
        (["--token-file", "{empty}"], "empty: holds no token"),
        (["--priority", "1000001"], "1000001 is not in the range"),
    ],
)
def test_bad_option_is_one_sentence(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, and the guard was never forked."""
    empty = tmp_path / "empty"
    empty.touch()
    monkeypatch.setattr(guard, "fork_guard", lambda argv: pytest.fail("the guard was forked"))
    asked = [option.format(empty=empty) for option in options]
    assert main(["run", "--lease", "a/b", *asked, "--", "true"]) == 2
    said = capsys.readouterr().err
    assert is_one_sentence(said), said
    assert words in said


def test_bound_of_a_priority_is_that_of_the_nodes() -> None:
    """It is written twice, because the module of the first is not to be imported before the fork."""
    assert PRIORITY_MAX == lease.PRIORITY_MAX
    assert "paxos" not in inspect.getsource(inspect.getmodule(run.callback) or guard).partition("def run")[0].replace(
        "``paxos.lease``", ""
    )
