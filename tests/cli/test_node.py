"""``leaderlease node``: where settings come from, and one clear sentence for every start that cannot be."""

import ctypes
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderlease.cli import node as node_module
from leaderlease.cli.local import LocalQuorum
from leaderlease.node.config import NodeConfig
from leaderlease.storage.directory import DATABASE
from support.commands import PATIENCE_S, Cli, is_one_sentence

CLUSTER = "c0c0c0c0-0000-4000-8000-000000000001"
NOBODY = "127.0.0.1:9"
"""Nothing listens at the discard port."""
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[NodeConfig]:
    """What nodes would have run with, in order."""
    found: list[NodeConfig] = []
    monkeypatch.setattr(node_module, "run_node", found.append)
    return found


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of node-0, the only member of a cluster, whose node has stopped. Not to be changed."""
    with LocalQuorum(tmp_path_factory.mktemp("one"), 1) as quorum:
        return quorum.nodes[0].data


@pytest.fixture
def copy(disk: Path, tmp_path: Path) -> Path:
    """A copy of that directory, to be damaged."""
    return Path(shutil.copytree(disk, tmp_path / "copy"))


@pytest.fixture
def taken() -> Iterator[str]:
    """An address where another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _node(data: Path, *more: str, name: str = "node-0", peers: str = "node-0=127.0.0.1:0") -> list[str]:
    free = ["--listen-client", "127.0.0.1:0", "--listen-peer", "127.0.0.1:0", "--listen-http", ""]
    return ["node", "--name", name, "--data", str(data), "--peers", peers, *free, *more]


# --- settings ------------------------------------------------------------------------------------------------


def test_flags_win_over_variables_and_variables_over_the_file(
    cli: Cli, configs: list[NodeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each setting is taken from the strongest place that has it; the others do not disappear."""
    file = tmp_path / "node.toml"
    file.write_text(
        'name = "a"\ndata = "/file"\nlisten-client = "127.0.0.1:1"\nlisten-peer = "127.0.0.1:1"\n'
        'bootstrap-timeout = 7.5\nauto-declare = true\n\n[peers]\na = "127.0.0.1:1"\nb = "127.0.0.1:2"\n'
    )
    monkeypatch.setenv("LEADERLEASE_CONFIG", str(file))
    monkeypatch.setenv("LEADERLEASE_DATA", "/variable")
    monkeypatch.setenv("LEADERLEASE_LISTEN_CLIENT", "127.0.0.1:2")
    ran = cli("node", "--listen-client", "127.0.0.1:3")
    assert ran.code == 0, ran.err
    (config,) = configs
    assert (config.listen_client, config.data, config.listen_peer) == ("127.0.0.1:3", Path("/variable"), "127.0.0.1:1")
    assert config.peers == (("a", "127.0.0.1:1"), ("b", "127.0.0.1:2"))
    assert (config.name, config.bootstrap_timeout_s, config.auto_declare) == ("a", 7.5, True)
    assert config.listen_http == "127.0.0.1:7402"


def test_flag_turns_off_what_the_file_turns_on(cli: Cli, configs: list[NodeConfig], tmp_path: Path) -> None:
    """A switch has a word for no."""
    file = tmp_path / "node.toml"
    file.write_text('name = "a"\ndata = "/d"\npeers = ["a=127.0.0.1:1"]\nauto_declare = true\n')
    assert cli("node", "--config", file, "--no-auto-declare").code == 0
    assert configs[0].auto_declare is False


def test_help_names_variable_unit_and_default(cli: Cli) -> None:
    """Every setting says where it can be set; limits say their unit."""
    text = " ".join(cli("node", "--help").out.split())
    assert "LEADERLEASE_BOOTSTRAP_TIMEOUT; default: 60" in text
    assert "Seconds to wait" in text
    assert all(f"LEADERLEASE_{name}" in text for name in ("CONFIG", "NAME", "DATA", "PEERS", "CLUSTER", "LISTEN_HTTP"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("nmae = 'a'", "there is no setting 'nmae'; there are auth, auto-declare, bootstrap"),
        ("name = ", "no valid TOML"),
        ("name = " + "[" * 5_000, "no valid TOML"),
        ("name = " + "9" * 5_000, "no valid TOML"),
        ("name = 2020-01-01", "name: '2020-01-01' must be a text in quotes"),
        ("auto-declare = 07:32:00", "auto-declare: '07:32:00' must be true or false"),
        ("bootstrap-timeout = true", "bootstrap-timeout: 'True' must be a number"),
        ("bootstrap-timeout = [1]", "bootstrap-timeout: '[1]' must be a number"),
        ("bootstrap-timeout = 'soon'", "'soon' is not a valid float"),
        ("bootstrap-timeout = -1", "-1"),
        ("auto-declare = 'perhaps'", "'perhaps' is not a valid boolean"),
        ("log-level = 'loud'", "'loud' is not one of"),
        ("[peers]\na = 7401", "--peers a: '7401' is no host:port"),
    ],
)
def test_file_with_a_wrong_setting_is_refused(cli: Cli, tmp_path: Path, content: str, text: str) -> None:
    """A misspelt key is not ignored, and a wrong value is named."""
    file = tmp_path / "node.toml"
    file.write_text(f"{content}\n")
    more = [] if "name" in content else ["--name", "a", "--data", str(tmp_path)]
    more += [] if "peers" in content else ["--peers", "a=127.0.0.1:1"]
    ran = cli("node", "--config", file, *more)
    assert ran.code == 2
    assert is_one_sentence(ran.err), ran.err
    assert text in ran.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--name is missing (see leaderlease node --help)"),
        (["--name", "a"], "--data is missing"),
        (["--name", "a", "--data", "/d"], "--peers is missing"),
        (["--name", "a", "--data", "/d", "--peers", "a"], "--peers: 'a' is no name=host:port"),
        (["--name", "a", "--data", "/d", "--peers", "a=host"], "--peers a: 'host' is no host:port"),
        (["--name", "a", "--data", "/d", "--peers", "a=h:²"], "--peers a: 'h:²' is no host:port"),
        (["--name", "a", "--data", "/d", "--peers", f"a=h:{'9' * 5_000}"], "is no host:port"),
        (["--name", "a", "--data", "/d", "--peers", "b=h:1"], "--name: 'a' is none of the peers (b)"),
        (["--name", "a", "--data", "/d", "--peers", "a=h:1", "--bootstrap"], "--bootstrap needs --cluster"),
        (["--name", "a", "--data", "/d", "--peers", "a=h:1", "--cluster", "x"], "--cluster: 'x' is no uuid"),
        (["--name", "a", "--data", "/d", "--peers", "a=h:1", "--listen-peer", "7401"], "--listen-peer: '7401'"),
        (["--name", "a", "--data", "/d", "--peers", "a=h:1", "--tls-ca", "x"], "go together: give all three or none"),
        (["--config", "/nonexistent.toml"], "--config /nonexistent.toml: cannot be read: No such file"),
        (["--config", "/"], "--config /: cannot be read: Is a directory"),
        (["--bootstrap-timeout", "0"], "--bootstrap-timeout"),
        (["sing"], "No such command 'sing' (see leaderlease node --help)"),
    ],
)
def test_wrong_settings_are_one_sentence(cli: Cli, arguments: list[str], text: str) -> None:
    """What cannot work is said before anything is touched."""
    ran = cli("node", *arguments)
    assert ran.code == 2
    assert is_one_sentence(ran.err), ran.err
    assert text in ran.err


# --- starts that cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--listen-peer", "--listen-client", "--listen-http"])
def test_port_in_use(cli: Cli, copy: Path, taken: str, flag: str) -> None:
    """The flag and the address are named."""
    ran = cli(*_node(copy, flag, taken, "--log-level", "error"))
    assert ran.code == 2
    assert is_one_sentence(ran.err), ran.err
    assert f"{flag} {taken}: cannot listen there (" in ran.err
    assert "in use" in ran.err.lower()


def test_directory_of_another_member(cli: Cli, copy: Path) -> None:
    """node-1 never votes with the disk of node-0."""
    peers = "node-0=127.0.0.1:9,node-1=127.0.0.1:0,node-2=127.0.0.1:9"
    ran = cli(*_node(copy, name="node-1", peers=peers))
    assert ran.code == 78
    assert is_one_sentence(ran.err), ran.err
    assert "this disk is the one of node-0, and this node is node-1" in ran.err


def test_directory_of_another_cluster(cli: Cli, copy: Path) -> None:
    """The cluster that was told is compared with the disk's."""
    ran = cli(*_node(copy, "--cluster", CLUSTER))
    assert ran.code == 78
    assert is_one_sentence(ran.err)
    assert f"not to {CLUSTER}" in ran.err


def test_directory_of_a_newer_format(cli: Cli, copy: Path) -> None:
    """What a newer version wrote is not believed, and not touched."""
    connection = sqlite3.connect(copy / DATABASE)
    connection.execute("PRAGMA user_version=9")
    connection.close()
    ran = cli(*_node(copy))
    assert ran.code == 78
    assert is_one_sentence(ran.err)
    assert "written by a newer LeaderLease (format 9, this one reads up to 1)" in ran.err


def test_directory_that_is_in_use(cli: Cli, quorum: LocalQuorum) -> None:
    """A second node on the same directory leaves at once, and the first goes on."""
    ran = cli(*_node(quorum.nodes[0].data))
    assert ran.code == 78
    assert is_one_sentence(ran.err)
    assert "locked by another process" in ran.err
    assert quorum.nodes[0].is_ready()


def test_directory_with_a_damaged_page(cli: Cli, copy: Path) -> None:
    """A node never votes with data that is not what was written, and says how to go on."""
    _damage(copy)
    before = (copy / DATABASE).read_bytes()
    ran = cli(*_node(copy))
    assert ran.code == 74
    assert is_one_sentence(ran.err), ran.err
    assert "the data is damaged" in ran.err
    assert "do not restore an old copy" in ran.err
    assert (copy / DATABASE).read_bytes() == before


def test_directory_that_is_read_only(copy: Path) -> None:
    """The sentence names the directory and what to do."""

    def as_everybody() -> None:
        # Root ignores permissions unless this is taken from what it may ever get.
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE)

    for path in (*copy.iterdir(), copy):
        path.chmod(0o500 if path.is_dir() else 0o400)
    ran = subprocess.run(
        [sys.executable, "-m", "leaderlease", *_node(copy)],
        capture_output=True, text=True, timeout=PATIENCE_S, preexec_fn=as_everybody,
    )  # fmt: skip
    copy.chmod(0o700)
    assert ran.returncode == 74
    assert is_one_sentence(ran.stderr), ran.stderr
    assert f"{copy}: cannot be used" in ran.stderr
    assert "Mount it read-write" in ran.stderr


def test_directory_that_is_a_file(cli: Cli, tmp_path: Path) -> None:
    """A path below a file cannot be made."""
    file = tmp_path / "file"
    file.touch()
    ran = cli(*_node(file / "data"))
    assert ran.code == 74
    assert is_one_sentence(ran.err), ran.err
    assert "Not a directory" in ran.err


# --- bootstrap -----------------------------------------------------------------------------------------------


def test_bootstrap_with_members_missing(cli: Cli, tmp_path: Path) -> None:
    """Nothing is started, and each missing member is named with its reason."""
    peers = f"node-0=127.0.0.1:0,node-1={NOBODY},node-2=no.such.host.invalid:7401"
    more = ["--bootstrap", "--cluster", CLUSTER, "--bootstrap-timeout", "0.3", "--log-level", "error"]
    ran = cli(*_node(tmp_path / "data", *more, peers=peers))
    assert ran.code == 75
    assert is_one_sentence(ran.err), ran.err
    assert "all initial members must be reachable and blank" in ran.err
    assert f"node-1 ({NOBODY}): connection refused" in ran.err
    assert "node-2 (no.such.host.invalid:7401): unknown host" in ran.err


def test_empty_directory_without_the_flag_starts_nothing(cli: Cli, tmp_path: Path) -> None:
    """An emptied disk must not found a cluster of its own."""
    ran = cli(*_node(tmp_path / "data", "--bootstrap-timeout", "0.3"))
    assert ran.code == 75
    assert is_one_sentence(ran.err), ran.err
    assert "--bootstrap was not given" in ran.err


def test_bootstrap_beside_a_running_cluster(cli: Cli, quorum: LocalQuorum, tmp_path: Path) -> None:
    """A blank disk does not vote in the place of a lost one."""
    others = ",".join(f"{node.name}=127.0.0.1:{node.peer_port}" for node in quorum.nodes[1:])
    peers = f"node-0=127.0.0.1:0,{others}"
    ran = cli(*_node(tmp_path / "data", "--bootstrap-timeout", "5", peers=peers))
    assert ran.code == 78
    assert is_one_sentence(ran.err), ran.err
    assert "this disk is blank, and the cluster runs as epoch 1 without it" in ran.err
    ran = cli(*_node(tmp_path / "data", "--bootstrap", "--cluster", str(uuid.uuid4()), peers=peers))
    assert ran.code == 2
    assert is_one_sentence(ran.err), ran.err
    assert "is of cluster" in ran.err


@pytest.mark.parametrize(
    ("peers", "text"),
    [
        ("node-0=127.0.0.1:0", "a quorum of 1 node survives no failure"),
        (f"node-0=127.0.0.1:0,node-1={NOBODY}", "a quorum of 2 nodes survives no failure, no more than one of 1"),
        (f"node-0=127.0.0.1:0,b={NOBODY},c={NOBODY},d={NOBODY}", "a quorum of 4 nodes survives 1 failed node"),
    ],
)
def test_sizes_that_survive_little_are_warned_of(cli: Cli, tmp_path: Path, peers: str, text: str) -> None:
    """Allowed, with a plain warning before the start."""
    ran = cli(*_node(tmp_path / "data", "--bootstrap-timeout", "0.1", peers=peers))
    assert ran.code == 75
    assert f"leaderlease: warning: {text}" in ran.err


# --- a node that runs ----------------------------------------------------------------------------------------


def test_log_of_a_bootstrap_has_no_warnings(quorum: LocalQuorum) -> None:
    """Members that come up a moment apart are no cause for alarm."""
    for node in quorum.nodes:
        start, _, _ = node.log.read_text().partition("serves clients")
        assert {line.split()[2] for line in start.splitlines()} == {"I"}, start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_node_with_0(copy: Path, number: int) -> None:
    """An orderly stop is no failure."""
    command = [sys.executable, "-m", "leaderlease", *_node(copy)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("serves clients" in line for line in lines)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in "".join(lines)


# --- inspect -------------------------------------------------------------------------------------------------


def _damage(data: Path) -> None:
    path = data / DATABASE
    content = bytearray(path.read_bytes())
    at = content.rindex(b"node-0")
    content[at] ^= 1
    path.write_bytes(content)


def test_inspect_shows_identity_and_registers(cli: Cli, disk: Path) -> None:
    """Whose disk it is, what it holds, and that every checksum holds; nothing is written."""
    before = {path: path.read_bytes() for path in disk.iterdir()}
    ran = cli("node", "inspect", disk)
    assert ran.code == 0
    assert "(node-0)" in ran.out
    assert "rows checked, all hold" in ran.out
    assert "members  m/members  1" in ran.out
    assert {path: path.read_bytes() for path in disk.iterdir()} == before


def test_inspect_in_json(cli: Cli, disk: Path) -> None:
    """Programs get the same."""
    found = json.loads(cli("node", "inspect", disk, "-o", "json").out)
    assert found["problems"] == []
    assert (found["epoch"], found["format"], found["incarnation"]) == (1, 1, 1)
    assert [member["uuid"] for member in found["members"]] == [found["member"]]


def test_inspect_of_damage_shows_what_is_left_and_fails(cli: Cli, copy: Path) -> None:
    """The damage is listed, the rest is shown, and the exit code is that of storage."""
    _damage(copy)
    ran = cli("node", "inspect", copy)
    assert ran.code == 74
    assert is_one_sentence(ran.err), ran.err
    assert "damage " in ran.out
    assert "checksum" in ran.out


def test_inspect_of_no_data_directory(cli: Cli, tmp_path: Path) -> None:
    """An empty directory, and one that is not there."""
    for path in (tmp_path, tmp_path / "none"):
        ran = cli("node", "inspect", path)
        assert ran.code == 78
        assert is_one_sentence(ran.err), ran.err
        assert "holds no LeaderLease data" in ran.err


def test_inspect_of_a_running_node(cli: Cli, quorum: LocalQuorum) -> None:
    """What is being written cannot be judged."""
    ran = cli("node", "inspect", quorum.nodes[0].data)
    assert ran.code == 78
    assert "Stop the node that runs on it" in ran.err
