"""Commands and nodes that cannot talk to each other, and what is said then; ``status``."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
import yaml

from leaderlease.cli.local import LocalQuorum
from leaderlease.wire import session as wire
from support.commands import Cli, is_one_sentence

NOBODY = "127.0.0.1:9"
"""Nothing listens at the discard port."""


class Files(NamedTuple):
    """PEM files of one authority, and of a certificate that it signed for 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path

    def flags(self) -> list[str]:
        """Return the flags of nodes and clients alike."""
        return ["--tls-ca", str(self.ca), "--tls-cert", str(self.cert), "--tls-key", str(self.key)]


def _authority(folder: Path) -> Files:
    folder.mkdir()
    files = Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(files.ca)
    issued.cert_chain_pems[0].write_to_path(files.cert)
    issued.private_key_pem.write_to_path(files.key)
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Of the authority that the nodes trust."""
    return _authority(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def secured(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a quorum of one that wants certificates from its clients."""
    options = (*files.flags(), "--tls-client-auth")
    with LocalQuorum(tmp_path_factory.mktemp("secured"), 1, options=options) as made:
        yield made.nodes[0].endpoint
    # Handshakes that failed are no clients to wait for.
    assert "did not leave" not in made.nodes[0].log_tail(100)


# --- status --------------------------------------------------------------------------------------------------


def test_status_tells_every_node_and_what_can_be_lost(ask: Cli, quorum: LocalQuorum) -> None:
    """One row a node with what people look for, and the last line in words."""
    ran = ask("status")
    assert ran.code == 0
    heading, *rows, words = ran.out.splitlines()
    columns = ["NODE", "ENDPOINT", "STATE", "MEMBER", "INCARNATION", "EPOCH", "BALLOT", "FSYNC", "P99", "ROUND", "TRIP"]
    assert heading.split()[:11] == columns
    assert [row.split()[:3] for row in rows] == [[node.name, node.endpoint, "reachable"] for node in quorum.nodes]
    assert all(len(row.split()[3]) == 36 for row in rows)
    assert words == "3 of 3 nodes work together; the quorum can lose 1 more"


def test_status_in_json_and_yaml(ask: Cli) -> None:
    """Programs get the same, with the peers as each node sees them."""
    found = json.loads(ask("status", "-o", "json").out)
    assert found["quorum"]["can_lose"] == 1
    assert found["quorum"]["is_available"] is True
    for node in found["nodes"]:
        assert node["is_reachable"] is True
        assert node["round_trip_ms"] > 0
        assert (node["epoch"], node["incarnation"]) == (1, 1)
        assert len(node["peers"]) == 2
    assert yaml.safe_load(ask("status", "-o", "yaml").out)["quorum"] == found["quorum"]


def test_status_of_an_unreachable_endpoint_has_the_reason(cli: Cli, quorum: LocalQuorum) -> None:
    """Who does not answer is listed with why, and members that no endpoint names as the others see them."""
    ran = cli("status", "--endpoints", f"{quorum.nodes[0].endpoint},{NOBODY}")
    assert ran.code == 0
    assert "unreachable" in ran.out
    assert f"{NOBODY}: connection refused" in ran.out
    assert ran.out.count("seen by node-0") == 2


def test_status_without_a_majority_fails(cli: Cli, tmp_path: Path) -> None:
    """One of two is left: in words what that means, and exit code 75. Nothing that is asked of it succeeds."""
    with LocalQuorum(tmp_path, 2) as quorum:
        quorum.kill(quorum.nodes[1])
        endpoints = ",".join(quorum.endpoints)
        ran = cli("status", "--endpoints", endpoints)
        assert ran.code == 75
        assert "no quorum: 1 of 2 nodes works together, 2 are needed" in ran.out
        for command in (["get", "a/b"], ["verify", "a/b", "1"], ["declare", "a/b"]):
            ran = cli(*command, "--endpoints", endpoints)
            assert ran.code == 75
            assert is_one_sentence(ran.err), ran.err
            assert "1 of 2 nodes answers, 2 are needed" in ran.err


# --- nobody answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["get"], ["get", "a/b"], ["get", "-w"], ["verify", "a/b", "1"], ["declare", "a/b"], ["withdraw", "a/b"],
                ["transfer", "a/b"], ["release", "a/b", "--revoke", "--term", "1"], ["status"]]
)  # fmt: skip
def test_no_endpoint_answers(cli: Cli, command: list[str]) -> None:
    """Which endpoints, why, and what to look at; the same for every command."""
    ran = cli(*command, "--endpoints", f"{NOBODY},no.such.host.invalid", "--timeout", "2")
    assert (ran.code, ran.out) == (69, "")
    assert is_one_sentence(ran.err), ran.err
    assert f"{NOBODY}: connection refused" in ran.err
    assert "no.such.host.invalid:7400: unknown host" in ran.err
    assert "is a node running there?" in ran.err


def test_endpoint_that_says_nothing_costs_the_timeout(cli: Cli) -> None:
    """A program that accepts and stays silent is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ran = cli("get", "--endpoints", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "200ms")
    assert ran.code == 69
    assert is_one_sentence(ran.err), ran.err
    assert "within 0.2 s" in ran.err


def test_endpoint_of_another_service(cli: Cli, quorum: LocalQuorum) -> None:
    """The HTTP port and the peer port of a node are no client ports, and it says so."""
    ran = cli("get", "--endpoints", f"127.0.0.1:{quorum.nodes[0].peer_port}")
    assert ran.code == 69
    assert is_one_sentence(ran.err), ran.err
    assert "clients use the client port" in ran.err
    ran = cli("get", "--endpoints", f"127.0.0.1:{quorum.nodes[0].http_port}")
    assert ran.code == 69
    assert is_one_sentence(ran.err), ran.err


def test_newer_client_is_told_to_upgrade_the_nodes(ask: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of both sides are in the sentence."""
    monkeypatch.setattr(wire, "PROTOCOL_MIN", 98)
    monkeypatch.setattr(wire, "PROTOCOL_MAX", 99)
    ran = ask("get")
    assert ran.code == 69
    assert is_one_sentence(ran.err), ran.err
    assert "the client speaks protocol 98 to 99, this node 1 to 1: upgrade the older one" in ran.err


# --- TLS -----------------------------------------------------------------------------------------------------


def test_tls_client_is_served(cli: Cli, secured: str, files: Files) -> None:
    """The flags that the nodes have serve the client as well."""
    ran = cli("status", "--endpoints", secured, *files.flags())
    assert ran.code == 0, ran.err
    assert "1 node; it can lose none" in ran.out


def test_tls_mismatches_are_one_sentence(cli: Cli, secured: str, files: Files, endpoints: str, tmp_path: Path) -> None:
    """Plain against TLS, TLS against plain, a stranger's authority, and no certificate where one is wanted."""
    other = _authority(tmp_path / "other")
    cases = [
        ([secured], "before its hello: it may want TLS"),
        ([endpoints.split(",")[0], *files.flags()], "TLS: it speaks none"),
        ([secured, *other.flags()], "TLS: its certificate is not trusted (self-signed"),
        ([secured, "--tls-ca", str(files.ca)], "it may not take this client's certificate, or want one"),
    ]
    for (endpoint, *flags), text in cases:
        ran = cli("get", "--endpoints", endpoint, *flags)
        assert ran.code == 69, flags
        assert is_one_sentence(ran.err), ran.err
        assert text in ran.err, flags


def test_tls_files_that_do_not_fit(cli: Cli, files: Files, tmp_path: Path) -> None:
    """Swapped and missing files are named with their flags, by clients and by nodes."""
    for flags, text in (
        (["--tls-ca", files.ca, "--tls-cert", files.key, "--tls-key", files.cert], f"--tls-cert {files.key}"),
        (["--tls-ca", files.ca, "--tls-cert", files.cert, "--tls-key", tmp_path / "no"], f"--tls-key {tmp_path}/no"),
    ):
        node = ["node", "--name", "a", "--data", tmp_path / "data", "--peers", "a=127.0.0.1:1"]
        for command in (["get", "--endpoints", NOBODY], node):
            ran = cli(*command, *flags)
            assert ran.code == 2
            assert is_one_sentence(ran.err), ran.err
            assert text in ran.err


def test_members_of_which_one_has_no_tls(cli: Cli, quorum: LocalQuorum, files: Files, tmp_path: Path) -> None:
    """A member with TLS that is to join plain ones says what it met."""
    peers = f"a=127.0.0.1:0,b=127.0.0.1:{quorum.nodes[0].peer_port},c={NOBODY}"
    free = ["--listen-client", "127.0.0.1:0", "--listen-peer", "127.0.0.1:0", "--listen-http", ""]
    more = ["--bootstrap-timeout", "0.5", "--log-level", "error", *free, *files.flags()]
    ran = cli("node", "--name", "a", "--data", tmp_path / "data", "--peers", peers, *more)
    assert ran.code == 75
    assert is_one_sentence(ran.err), ran.err
    assert f"b (127.0.0.1:{quorum.nodes[0].peer_port}): TLS: it speaks none" in ran.err
