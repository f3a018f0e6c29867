"""The local API of a real sidecar: answers, errors, events, bounds, and bytes that are no HTTP."""

import json
import random
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from leaderlease.cli.local import LocalQuorum
from leaderlease.wire import http
from support.sidecars import Sidecar, Sidecars, ask, until

PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def leader(nodes: LocalQuorum, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar that leads "first" and "second", with an address for others."""
    sidecars = Sidecars(tmp_path_factory.mktemp("api"), nodes.endpoints)
    try:
        made = sidecars.start("pod-a", "first", "--lease", "second", "--listen-pod", "127.0.0.1:0")
        for lease in ("first", "second"):
            until(lambda: made.document(lease)["is_leader"], lease)  # noqa: B023
        yield made
    finally:
        sidecars.close()


class Raw:
    """A connection for bytes that no HTTP library would send."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send, though the other side may have had enough already."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def read_until(self, mark: bytes) -> bytes:
        """Read until this appears."""
        found = b""
        while mark not in found:
            data = self.socket.recv(65_536)
            assert data, f"{mark!r} did not come: {found!r}"
            found += data
        return found

    def read_all(self) -> bytes:
        """Read until the other side closes."""
        found = b""
        try:
            while data := self.socket.recv(65_536):
                found += data
        except ConnectionResetError:
            return found
        return found


def test_root_keeps_the_old_shape_and_adds_the_truth(leader: Sidecar) -> None:
    """``name`` is there as the old leader-elector said it; next to it what a client needs to be safe."""
    document = leader.document()
    assert (document["name"], document["leader"], document["is_leader"]) == ("pod-a", "pod-a", True)
    assert document["token"] == document["term"] >= 1
    assert 0 < document["remaining_ms"] < 3_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["as_of"])
    assert document["age_ms"] < 3_000
    assert not document["is_stale"]
    assert leader.document("second")["lease"] == "test/second"
    assert leader.ask("GET", "/v1/leases/second").json["lease"] == "test/second"


@pytest.mark.parametrize("path", ["/", "/leader", "/v1/leases", "/v1/leases/first", "/livez", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_status_is_the_answer_of_every_reading_method(leader: Sidecar, path: str, method: str) -> None:
    """HEAD and OPTIONS answer with the same status, for load balancers that send them."""
    reply = leader.ask(method, path)
    assert reply.status == 200
    assert bool(reply.body) is (method != "HEAD")
    assert reply.headers["cache-control"] == "no-store"


def test_verification_asks_the_quorum(leader: Sidecar) -> None:
    """The current term is 200, any other 409, and both name the current one."""
    term = leader.document()["term"]
    yes = leader.ask("GET", f"/v1/leases/first/verify?term={term}")
    no = leader.ask("GET", f"/v1/leases/first/verify?term={term + 1}")
    assert (yes.status, yes.json) == (200, {"lease": "test/first", "is_current": True, "term": term})
    assert (no.status, no.json) == (409, {"lease": "test/first", "is_current": False, "term": term})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/nowhere", "", 404, "there is no '/nowhere'; there are /, /leader"),
        ("GET", "/v1/leases/other", "", 404, "lease 'other' is not one of this sidecar's: first, second"),
        ("GET", "/?lease=other", "", 404, "lease 'other' is not one"),
        ("GET", "/v1/leases/first/nothing", "", 404, "there is no"),
        ("GET", "/v1/leases/first/verify/more", "", 404, "there is no"),
        ("POST", "/", "", 405, "POST is not served at '/'; use GET, HEAD, OPTIONS"),
        ("DELETE", "/leader", "", 405, "DELETE is not served"),
        ("GET", "/v1/leases/first/release", "", 405, "use POST"),
        ("GET", "/v1/leases/first/verify", "", 400, "term: '' must be a whole number"),
        ("GET", "/v1/leases/first/verify?term=0", "", 400, "term: '0' must be a whole number from 1 to 2^53 - 1"),
        ("GET", "/v1/leases/first/verify?term=-1", "", 400, "term: '-1'"),
        ("GET", "/v1/leases/first/verify?term=9007199254740992", "", 400, "term: '9007199254740992'"),
        ("GET", "/v1/leases/first/verify?term=%C2%B2", "", 400, "term: '²'"),
        ("GET", "/?lease", "", 404, "lease '' is not one of this sidecar's"),
        ("GET", "/?lease=first&lease=second", "", 400, "names a field twice"),
        ("GET", "/?" + "&".join(f"a{i}=1" for i in range(17)), "", 400, "at most 16"),
        ("POST", "/v1/leases/first/transfer", "", 400, "successor: is missing"),
        ("POST", "/v1/leases/first/transfer", "pod-b", 400, "the body must be JSON"),
        ("POST", "/v1/leases/first/transfer", b'{"succ\xd4": 1}', 400, "the body must be JSON"),
        ("POST", "/v1/leases/first/transfer", "[" * 4000, 400, "the body must be JSON"),
        ("POST", "/v1/leases/first/transfer", '{"succesor": "pod-b"}', 400, "unknown field `succesor`"),
        ("POST", "/v1/leases/first/transfer", '{"successor": 7}', 400, "Expected `str`, got `int`"),
        ("POST", "/v1/leases/first/step-down", '["pod-b"]', 400, "Expected `object`, got `array`"),
        ("POST", "/v1/leases/first/transfer", '{"successor": "' + "x" * 254 + '"}', 400, "has 254 characters"),
        ("POST", "/v1/leases/first/release", "x" * (http.BODY_BYTES_MAX + 1), 413, "larger than 4096 bytes"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_bad_request_is_answered_with_a_sentence(
    leader: Sidecar, method: str, path: str, body: str | bytes, status: int, words: str
) -> None:
    """Each mistake has a status and a JSON error that names it, and costs no lease."""
    reply = leader.ask(method, path, body or None)
    assert reply.status == status
    assert words in reply.json["error"]
    assert reply.json["status"] == status
    assert leader.is_leader()


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"hello\r\n\r\n", 400, "this is no HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "HTTP/2.0 is not served"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 20_000, 431, "this is no HTTP/1.1 request"),
        (b"GET /" + b"x" * 20_000, 431, "this is no HTTP/1.1 request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "Transfer-Encoding"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "chunk"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n continued: b\r\n\r\nGET / BROKEN\r\n\r\n", 400, "this is no"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "this is no HTTP/1.1 request"),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
def test_bytes_that_are_no_request_end_the_connection(leader: Sidecar, data: bytes, status: int, words: str) -> None:
    """What is no HTTP gets one answer with a sentence, and the connection is closed."""
    with Raw(leader.port) as raw:
        raw.send(data)
        answer = raw.read_all()
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert f"HTTP/1.1 {status} ".encode() in head
    assert words.lower() in json.loads(body)["error"].lower()


def test_random_bytes_harm_nobody(leader: Sidecar) -> None:
    """Random bytes, and requests with random damage, never end the process, block it, or cost it the lease."""
    rng = random.Random(4040)
    sound = b"POST /v1/leases/nobody/release?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n{} \n"
    term = leader.document()["term"]
    for _ in range(400):
        if rng.random() < 0.3:
            data = rng.randbytes(rng.randrange(1, 600))
        else:
            damaged = bytearray(sound * rng.randrange(1, 4))
            for _ in range(rng.randrange(1, 8)):
                at = rng.randrange(len(damaged))
                damaged[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            data = bytes(damaged)
        with Raw(leader.port) as raw:
            raw.send(data)
            if rng.random() < 0.5:
                raw.socket.shutdown(socket.SHUT_WR)
                raw.read_all()
    document = leader.document()
    assert (document["is_leader"], document["term"]) == (True, term)
    assert "Traceback" not in leader.log.read_text()


def test_requests_in_one_go_are_answered_in_order(leader: Sidecar) -> None:
    """Requests that arrive together on one connection get their answers in order, those of the quorum included."""
    paths = ("/livez", "/v1/leases/first/verify?term=999999", "/v1/leases/nobody", "/leader")
    with Raw(leader.port) as raw:
        last = len(paths) - 1
        for number, path in enumerate(paths):
            close = "Connection: close\r\n" if number == last else ""
            raw.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n{close}\r\n".encode())
        answer = raw.read_all()
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"409", b"404", b"200"]


def test_body_may_wait_for_permission(leader: Sidecar) -> None:
    """``Expect: 100-continue`` is answered, so that curl does not wait a second."""
    with Raw(leader.port) as raw:
        raw.send(b"POST /v1/leases/no/release HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        raw.read_until(b"HTTP/1.1 100 ")
        raw.send(b"{}")
        assert b"HTTP/1.1 404 " in raw.read_until(b"is not one of")


def test_pod_address_only_reads(leader: Sidecar) -> None:
    """What others can reach answers probes, Prometheus and load balancers, and refuses what changes something."""
    for path in ("/", "/leader", "/readyz", "/metrics"):
        assert ask(leader.pod_port, "GET", path).status == 200
    for action in ("release", "step-down", "transfer"):
        reply = ask(leader.pod_port, "POST", f"/v1/leases/first/{action}")
        assert (reply.status, reply.json["error"]) == (403, f"{action} is served on the local address only")
    assert leader.is_leader()


def test_connections_are_bounded(leader: Sidecar) -> None:
    """One connection too many is told so, and the next one is served when another has gone."""
    raws = [Raw(leader.port) for _ in range(http.CONNECTIONS_MAX)]
    try:
        with Raw(leader.port) as raw:
            assert b"128 connections are open already" in raw.read_all()
    finally:
        for raw in raws:
            raw.socket.close()
    until(lambda: leader.ask("GET", "/livez").status == 200, "it serves again")


def test_metrics_are_what_prometheus_reads(leader: Sidecar) -> None:
    """Every line parses, every family has a help text, and what is known is there for each lease."""
    families = {
        family.name: family for family in text_string_to_metric_families(leader.ask("GET", "/metrics").body.decode())
    }
    assert all(family.documentation and family.type in ("gauge", "counter") for family in families.values())
    leads = families["leaderlease_is_leader"].samples
    assert [(sample.labels["lease"], sample.labels["namespace"], sample.value) for sample in leads] == [
        ("first", "test", 1),
        ("second", "test", 1),
    ]
    for name in ("term", "lease_remaining_seconds", "lease_fresh", "elected", "transitions", "connected", "build_info"):
        assert all(sample.value > 0 for sample in families[f"leaderlease_{name}"].samples), name
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6


class Events:
    """A stream of events, read one by one."""

    def __init__(self, port: int, path: str = "/v1/events", last_id: str = "") -> None:
        self.raw = Raw(port)
        header = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        self.raw.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n".encode())
        self._rest = self.raw.read_until(b"\r\n\r\n").split(b"\r\n\r\n", 1)[1]

    def next(self) -> tuple[str, str, dict[str, object]]:
        """Return kind, id and data of the next event."""
        pattern = re.compile(rb"id: (.*)\nevent: (.*)\ndata: (.*)\n\n")
        while (match := pattern.search(self._rest)) is None:
            data = self.raw.socket.recv(65_536)
            assert data, "the stream ended"
            self._rest += data
        self._rest = self._rest[match.end() :]
        return match[2].decode(), match[1].decode(), json.loads(match[3])

    def until(self, *kinds: str) -> list[tuple[str, str]]:
        """Read up to these kinds, in this order; return kinds and ids of all that came."""
        found = []
        for kind in kinds:
            while not found or found[-1][0] != kind:
                found.append(self.next()[:2])
        return found


@pytest.fixture
def listen() -> Iterator[Callable[..., Events]]:
    """Opens streams, and closes them after the test."""
    opened: list[Events] = []

    def listened(port: int, path: str = "/v1/events", last_id: str = "") -> Events:
        opened.append(Events(port, path, last_id))
        return opened[-1]

    yield listened
    for events in opened:
        events.raw.socket.close()


def test_events_tell_of_every_change(sidecars: Sidecars, listen: Callable[..., Events]) -> None:
    """The stream begins with the state; then come elections and ends, each with its term as id."""
    first = sidecars.start("pod-a", "events", "--duration", "30s")
    first.until_leader()
    second = sidecars.start("pod-b", "events", "--duration", "30s", "--step-down-grace", "60")
    until(lambda: second.document()["leader"] == "pod-a", "it knows the leader")
    events = listen(second.port)
    kind, number, data = events.next()
    assert (kind, number, data["leader"], data["is_leader"]) == ("state", "1", "pod-a", False)
    first.terminate()
    assert ("elected", "2") in events.until("elected")
    second.ask("POST", "/v1/leases/events/step-down")
    second.ask("POST", "/v1/leases/events/release")
    assert [event for event in events.until("stopping", "released") if event[0] != "acquired"] == [
        ("stopping", "2"),
        ("released", "2"),
    ]


def test_reader_that_was_away_goes_on(sidecars: Sidecars, listen: Callable[..., Events]) -> None:
    """With the last id it gets what it missed; where that is no longer known, it is told so first."""
    sidecar = sidecars.start("pod-a", "resume", "--duration", "30s")
    sidecar.until_leader()
    events = listen(sidecar.port)
    assert events.next()[:2] == ("state", "1")
    events.raw.socket.close()
    sidecar.ask("POST", "/v1/leases/resume/release")
    sidecar.until_leader()
    again = listen(sidecar.port, last_id="1")
    missed = again.until("state")
    assert ("released", "1") in missed
    assert ("elected", "2") in missed
    assert missed[-1] == ("state", "2")
    assert "resync" not in dict(missed)
    sidecar.kill()
    sidecar.start()
    sidecar.until_leader()
    restarted = listen(sidecar.port, last_id="1").until("state")
    assert ("elected", "2") in restarted
    sidecar.ask("POST", "/v1/leases/resume/release")
    sidecar.until_leader()
    sidecar.kill()
    sidecar.start()
    sidecar.until_leader()
    assert listen(sidecar.port, last_id="1").until("state")[0][0] == "resync"


def test_stream_of_several_leases_names_them_in_its_ids(leader: Sidecar, listen: Callable[..., Events]) -> None:
    """The id of such a stream says the term of each lease, and is taken back; one that is no id is refused."""
    kind, number, _ = listen(leader.port).next()
    assert kind == "state"
    assert re.fullmatch(r"first=\d+,second=\d+", number)
    assert listen(leader.port, last_id=number).next()[0] in ("elected", "state")
    assert listen(leader.port, "/v1/events?lease=second").next()[1].isdigit()
    for bad in ("x", "first=", "third=1", "first=1;second=2", "first=99999999999999999999"):
        reply = leader.ask("GET", "/v1/events", last_event_id=bad)
        assert reply.status == 400
        assert "is no id of this stream" in reply.json["error"]


def test_streams_are_bounded(leader: Sidecar, listen: Callable[..., Events]) -> None:
    """One stream too many is refused; the place of one that left is free again."""
    streams = [listen(leader.port) for _ in range(http.STREAMS_MAX)]
    reply = leader.ask("GET", "/v1/events")
    assert (reply.status, reply.json["error"]) == (503, "32 streams are open already")
    for stream in streams:
        stream.raw.socket.close()

    def is_free() -> bool:
        text = leader.ask("GET", "/metrics").body
        return b"leaderlease_event_streams 0\n" in text

    until(is_free, "the places are free")


def test_lease_that_is_not_held_cannot_be_released(sidecars: Sidecars, leader: Sidecar, tmp_path: Path) -> None:
    """A standby's release is 409, and so is a step-down of a lease that nobody holds."""
    standby = sidecars.start("pod-z", "first")
    until(lambda: standby.document()["leader"] == "pod-a", "it knows the leader")
    reply = standby.ask("POST", "/v1/leases/first/release")
    assert (reply.status, reply.json["error"]) == (
        409,
        "this process does not hold test/first, so it cannot release it",
    )
    idle = sidecars.start("pod-y", "idle", "--health", f"exec:test -e {tmp_path}/never")
    idle.until_state("unhealthy")
    reply = idle.ask("POST", "/v1/leases/idle/step-down")
    assert (reply.status, reply.json["error"]) == (409, "test/idle: nobody holds it")
