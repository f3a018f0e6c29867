"""The HTTP port of a real node, as people and programs read it."""

import asyncio
import http.client
import json
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leaderlease
from leaderlease.cli.local import LocalQuorum
from leaderlease.node.config import NodeConfig
from leaderlease.node.node import Node
from leaderlease.node.web import Web


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQuorum]:
    with LocalQuorum(tmp_path_factory.mktemp("quorum"), 3) as made:
        yield made


def fetch(quorum: LocalQuorum, path: str) -> tuple[int, str]:
    """Return status and body of one GET at the first node."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{quorum.nodes[0].http_port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def readiness(port: int) -> str:
    """Return what ``/readyz`` says, ready or not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def read(quorum: LocalQuorum, path: str) -> Any:
    """Return the JSON of one GET."""
    return json.loads(fetch(quorum, path)[1])


def test_health_says_ok_and_in_detail_why(quorum: LocalQuorum) -> None:
    """``/readyz?verbose`` names each check."""
    assert fetch(quorum, "/livez") == (200, "ok\n")
    assert fetch(quorum, "/readyz") == (200, "ok\n")
    status, body = fetch(quorum, "/readyz?verbose")
    assert status == 200
    names = ("bootstrap", "disk", "quorum", "members", "clients", "catch-up")
    assert body.splitlines() == [f"[+] {name}: ok" for name in names]


async def test_not_ready_before_clients_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node alone has its majority at once; what opens a connection after "ready" must find the port open."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    alone = NodeConfig(
        name="a", data=tmp_path, peers=(("a", "127.0.0.1:0"),), cluster=str(uuid.uuid4()), bootstrap=True,
        listen_client="127.0.0.1:0", listen_peer="127.0.0.1:0", listen_http=address,
    )  # fmt: skip
    node = Node(alone)
    web = Web(node)
    early: list[str] = []
    listen = node._listen_for_clients

    async def asked_before() -> None:
        early.append(await asyncio.to_thread(readiness, port))
        await listen()

    monkeypatch.setattr(node, "_listen_for_clients", asked_before)
    await web.start()
    try:
        await node.start()
        assert early == ["clients: the client port is not open yet\n"]
        assert await asyncio.to_thread(readiness, port) == "ok\n"
    finally:
        web.stop()
        await node.stop()


def test_the_quorum_is_described_by_names_and_not_by_positions(quorum: LocalQuorum) -> None:
    """Peers are objects; there is nothing of the wire in the answer."""
    found = read(quorum, "/v1/quorum")
    assert "request" not in found
    assert (found["members_total"], found["members_healthy"], found["can_lose"], found["epoch"]) == (3, 3, 1, 1)
    assert found["is_quorum_available"] is True
    assert sorted(peer["name"] for peer in found["peers"]) == ["node-1", "node-2"]
    assert all(peer["is_reachable"] and set(peer) == {"name", "member", "is_reachable", "round_trip_ms"}
               for peer in found["peers"])  # fmt: skip


async def test_leases_are_shown_without_what_only_their_holder_may_know(quorum: LocalQuorum) -> None:
    """A list from this node, one lease from a majority, and no nonce anywhere (H19)."""
    async with leaderlease.connect(quorum.endpoints) as client, client.lead("shop/billing", "alice") as lease:
        status, body = fetch(quorum, "/v1/leases/shop/billing")
        one = json.loads(body)
        assert (status, one["state"], one["term"], one["holder"]) == (
            200, "held", lease.term, {"name": "alice", "pod_uid": ""},
        )  # fmt: skip
        listed = read(quorum, "/v1/leases?prefix=shop/")
        assert [item["name"] for item in listed["items"]] == ["shop/billing"]
        assert lease.nonce not in body + json.dumps(listed) + fetch(quorum, "/metrics")[1]


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/leases/shop/nobody", 404, "shop/nobody: nobody ever held it"),
        ("/v1/leases/Shop/billing", 400, "lease name 'Shop/billing'"),
        ("/v2", 404, "there is no '/v2'; there are /, /livez"),
    ],
)
def test_a_question_without_an_answer_gets_a_sentence(quorum: LocalQuorum, path: str, status: int, text: str) -> None:
    """Which name, and what would be right."""
    found, body = fetch(quorum, path)
    assert found == status
    assert text in body


def test_nothing_can_be_written(quorum: LocalQuorum) -> None:
    """The port is read only."""
    port = quorum.nodes[0].http_port
    for method in ("POST", "PUT", "DELETE"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/leases/shop/billing", b"{}", method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        with refused.value as answer:
            assert answer.code == 405
