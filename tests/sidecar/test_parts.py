"""The parts without a process: the gate, the view, the feed, successors, and tokens that are read again."""

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import leaderlease
from leaderlease.client.clock import Instant
from leaderlease.errors import ConfigError
from leaderlease.sidecar.config import GateConfig, parse_gate, parse_listen
from leaderlease.sidecar.feed import HISTORY_MAX, Entry, Feed, event_id, parse_event_id
from leaderlease.sidecar.health import Gate, check
from leaderlease.sidecar.successor import choose_successor
from leaderlease.sidecar.view import View
from leaderlease.wire import http
from leaderlease.wire import session as wire
from leaderlease.wire.http import Response, Server
from support.fakenode import FakeQuorum

A, B = "shop/a", "shop/b"


# --- the gate --------------------------------------------------------------------------------------------------


def _verdicts(config: GateConfig, results: str) -> str:
    gate = Gate(config)
    letters = {None: "?", True: "h", False: "u"}
    found = ""
    for result in results:
        gate.note("" if result == "+" else "it failed")
        found += letters[gate.is_healthy]
    return found


@pytest.mark.parametrize(
    ("failures", "successes", "results", "verdicts"),
    [
        (3, 1, "+--+---+", "hhhhhhuh"),
        (1, 2, "+-+++-", "?uuhhu"),
        (2, 2, "--++--", "?uuhhu"),
        (2, 1, "-+-+-+", "?hhhhh"),
        (3, 3, "++-+++", "?????h"),
    ],
)
def test_verdict_needs_results_in_a_row(failures: int, successes: int, results: str, verdicts: str) -> None:
    """Only so many failures, or successes, in a row change what is thought of the application."""
    config = GateConfig("tcp", "h", 1, failures=failures, successes=successes)
    assert _verdicts(config, results) == verdicts


def test_without_a_check_the_application_is_healthy() -> None:
    """Nothing to check, nothing to wait for."""
    assert Gate(None).is_healthy is True


def test_budget_counts_every_period_and_timeout() -> None:
    """What the documentation states as the time until a failing application stops leading is computed in one place."""
    assert parse_gate("tcp://h:1", period_s=1.0, timeout_s=0.5, failures=3).budget_s == 4.5


async def _answering(answer: bytes) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        (b"HTTP/1.1 503 No\r\n\r\n", "status 503"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "status 100"),
        (b"", "the answer is no HTTP"),
        (b"SSH-2.0-x\r\n", "the answer is no HTTP"),
        (b"HTTP/1.1 2xx\r\n", "the answer is no HTTP"),
    ],
)
async def test_http_check_reads_the_status(answer: bytes, reason: str) -> None:
    """2xx and 3xx pass; everything else fails, and says why."""
    async with await _answering(answer) as server:
        port = server.sockets[0].getsockname()[1]
        assert await check(parse_gate(f"http://127.0.0.1:{port}/healthz", timeout_s=10)) == reason


async def test_checks_end_in_time_and_say_why() -> None:
    """A check that hangs, is refused, or cannot be run is a failure with a reason."""
    python = sys.executable
    assert await check(parse_gate(f'exec:{python} -c "import time; time.sleep(60)"', timeout_s=0.2)) == (
        "no answer within 0.2 s"
    )
    assert "ended with 3" in await check(parse_gate(f'exec:{python} -c "raise SystemExit(3)"', timeout_s=30))
    assert await check(parse_gate(f'exec:{python} -c ""', timeout_s=30)) == ""
    assert "No such file" in await check(parse_gate("exec:/nonexistent", timeout_s=30))
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = f"127.0.0.1:{server.getsockname()[1]}"
        assert await check(parse_gate(f"tcp://{at}", timeout_s=10)) == ""
        assert await check(parse_gate(f"http://{at}/", timeout_s=0.2)) == "no answer within 0.2 s"
    assert await check(parse_gate(f"tcp://{at}", timeout_s=10)) != ""


@pytest.mark.parametrize(
    "text",
    ["https://h:1/", "http://", "http://h:port/", "http://u@h/", "http://h/a b", "h:1", "", "exec:'", "tcp://[::1]"],
)
def test_check_that_cannot_work_is_refused(text: str) -> None:
    """The flag is named, and what may be written."""
    with pytest.raises(ConfigError, match="--health: "):
        parse_gate(text)


def test_addresses_to_listen_on() -> None:
    """An empty host is every address; IPv6 is in brackets."""
    assert parse_listen("--listen", ":4040") == ("", 4040)
    assert parse_listen("--listen", "[::1]:0") == ("::1", 0)


# --- the view --------------------------------------------------------------------------------------------------


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.ms = 1_000.0

    def __call__(self) -> Instant:
        return Instant(self.ms, self.ms)


def test_hint_grows_old() -> None:
    """Who leads is an answer for as long as the limit says, and no answer afterwards, whatever was known."""
    clock = Clock()
    view = View(A, "me", 10_000, clock)
    assert view.document().is_stale
    assert view.confirm("other", 3, clock())
    assert (view.document().leader, view.document().is_stale) == ("other", False)
    clock.ms += 10_001
    document = view.document()
    assert (document.is_stale, document.name, document.leader, document.term) == (True, "", "", 3)
    assert not view.confirm("other", 3, clock())
    assert view.document().age_ms == 0


def test_older_terms_change_nothing() -> None:
    """What arrives late, of a term that is over, is neither a leader nor a confirmation."""
    clock = Clock()
    view = View(A, "me", 10_000, clock)
    view.confirm("new", 5, clock())
    clock.ms += 9_000
    assert not view.confirm("old", 4, clock())
    assert not view.observe("old", 4)
    assert (view.document().leader, view.document().age_ms) == ("new", 9_000)


def test_changes_of_the_leader_are_counted_once() -> None:
    """The end of a term is no change of the leader; the next one is."""
    view = View(A, "me", 10_000, Clock())
    for leader, term in (("a", 1), ("a", 1), ("", 1), ("b", 2), ("", 2), ("a", 3)):
        view.observe(leader, term)
    assert view.changes == 3


# --- the feed --------------------------------------------------------------------------------------------------


def _feed(*entries: tuple[str, int, str]) -> Feed:
    feed = Feed([A, B])
    for lease, term, kind in entries:
        feed.publish(Entry(lease, term, kind, b"{}"))
    return feed


def test_missed_events_come_in_order() -> None:
    """Everything after the last term that was seen, and of that term everything but its beginning."""
    feed = _feed((A, 1, "acquired"), (B, 4, "acquired"), (A, 1, "released"), (A, 2, "acquired"))
    missed, gaps = feed.missed({A: 1})
    assert [(entry.term, entry.kind) for entry in missed] == [(1, "released"), (2, "acquired")]
    assert not gaps


def test_forgotten_events_are_a_gap() -> None:
    """What the history does not hold any more, or never held, is told."""
    feed = _feed(*((A, term, "acquired") for term in range(1, HISTORY_MAX + 11)))
    assert feed.missed({A: 5})[1] == {A}
    assert feed.missed({A: 10})[1] == set()
    assert _feed((B, 9, "acquired")).missed({B: 3})[1] == {B}
    assert _feed((B, 9, "acquired")).missed({B: 8})[1] == set()


def test_ids_are_read_as_they_are_written() -> None:
    """One lease: the term alone. Several: the term of each."""
    assert (event_id({A: 7}), event_id({A: 7, B: 3})) == ("7", "a=7,b=3")
    assert parse_event_id("7", [A]) == {A: 7}
    assert parse_event_id("a=7,b=3", [A, B]) == {A: 7, B: 3}
    assert parse_event_id("a=7", [A]) == {A: 7}


# --- successors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preference", "identity", "candidates", "chosen"),
    [
        ("none", "app-1-a", ("app-2-b",), ""),
        ("newest-replicaset", "app-old-a", ("app-old-b", "app-new-c", "app-new-d"), "app-new-c"),
        ("newest-replicaset", "app-old-a", ("app-old-b",), ""),
        ("newest-replicaset", "app-old-a", ("other-new-b",), ""),
        ("newest-replicaset", "alice", ("app-new-b",), ""),
        ("lowest-ordinal", "db-0", ("db-10", "db-2", "db-0"), "db-2"),
        ("lowest-ordinal", "db-0", ("alice",), ""),
        ("lowest-ordinal", "db-0", (), ""),
    ],
)
def test_successor_is_one_of_the_candidates(
    preference: str, identity: str, candidates: tuple[str, ...], chosen: str
) -> None:
    """A preference names a candidate, or nobody where none fits."""
    assert choose_successor(preference, identity, candidates) == chosen


# --- slow clients ----------------------------------------------------------------------------------------------


async def _ends(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_half_a_request_does_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is not complete in time is answered 408; a connection without one is closed."""
    monkeypatch.setattr(http, "SWEEP_S", 0.01)
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.05)
    server = Server(lambda request: Response(200, b"{}"))
    port = await server.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost:")
    assert b"408 Request Timeout" in await _ends(writer, reader)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await _ends(writer, reader) == b""
    server.close()


async def test_bug_in_an_answer_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that fails unexpectedly is logged, and the connection and the process go on."""

    async def broken(request: http.Request) -> Response:
        raise KeyError("bug")

    server = Server(lambda request: broken(request) if request.path == "/bug" else Response(200, b"fine"))
    port = await server.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /bug HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await _ends(writer, reader)
    assert b"HTTP/1.1 500" in answer
    assert answer.endswith(b"fine")
    assert "KeyError" in caplog.text
    server.close()


async def test_stream_that_nobody_reads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that does not keep up loses its stream, and memory does not grow with it."""
    left = asyncio.Event()
    writes: list[Callable[[bytes], None]] = []
    server = Server(lambda request: http.Stream(writes.append, left.set))
    port = await server.listen("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(20):
        while not left.is_set():
            for write in writes:
                write(b"x" * 10_000)
            await asyncio.sleep(0)
    assert server.streams == 0
    writer.close()
    server.close()


async def test_quiet_stream_gets_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream on which nothing happens shows that it lives."""
    monkeypatch.setattr(http, "SWEEP_S", 0.01)
    monkeypatch.setattr(http, "STREAM_COMMENT_S", 0.01)
    server = Server(lambda request: http.Stream(lambda write: write(b"data: x\n\n"), lambda: None))
    port = await server.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b": still here\n\n"), 10)
    writer.close()
    server.close()


# --- tokens ----------------------------------------------------------------------------------------------------


async def test_token_is_read_for_each_connection(tmp_path: Path) -> None:
    """A token that was renewed on disk is shown from the next connection on; one that is gone for now costs a retry."""
    quorum = FakeQuorum()
    node = await quorum.node()
    path = tmp_path / "token"
    path.write_text("first")
    failed = asyncio.Event()

    def read() -> str:
        try:
            return path.read_text()
        except OSError:
            failed.set()
            raise

    async with asyncio.timeout(10), leaderlease.connect(node.endpoint, token=read):
        assert (await quorum.received(wire.Hello)).token == "first"
        path.unlink()
        node.cut()
        await failed.wait()
        path.write_text("second")
        assert (await quorum.received(wire.Hello, 2)).token == "second"
    await quorum.close()
