"""The sidecar's HTTP: the parser with a handler that gives everything back, and the API of a real sidecar.

Whatever comes: an answer in HTTP or none, no answer that tells of a bug, the cuts of the network mean nothing, and a
sound request reaches its handler exactly as it was sent.
"""

import asyncio
from functools import cache
from urllib.parse import quote_plus

import msgspec

from fuzz.exchange import (
    METHODS,
    TEMPLATES,
    World,
    answer_to,
    answer_to_request,
    check_answers,
    quoted,
    sound_request,
    statuses,
)
from fuzz.source import Source
from leaderlease.client.endpoints import Endpoint
from leaderlease.sidecar.agent import Sidecar
from leaderlease.sidecar.config import SidecarConfig
from leaderlease.wire.http import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    QUERY_FIELDS_MAX,
    Request,
    Response,
    Server,
    _Connection,
)

ALLOWED = frozenset({100, 200, 202, 400, 403, 404, 405, 408, 409, 413, 414, 417, 431, 501, 503, 505})
PATHS = (
    "/", "/leader", "/v1/leases", "/v1/leases/first", "/v1/leases/first/verify", "/v1/leases/first/release",
    "/v1/leases/first/step-down", "/v1/leases/first/transfer", "/v1/leases/none", "/v1/events", "/livez", "/readyz",
    "/metrics", "/v1", "/v1/leases/first/", "/v1/leases/first/verify/x",
)  # fmt: skip
BODIES = (b"", b"{}", b'{"successor": "pod-b"}', b'{"successor": 3}', b"[]", b"\xff", b'{"other": 1}', b"   ")
QUERIES = ("", "term=1", "term=0", "term=9999999999999999", "lease=first", "lease=x", "successor=pod-b", "term=\u0661")


def _give_back(request: Request) -> Response:
    content = [request.method, request.path, request.query, dict(request.headers), request.body]
    return Response(200, msgspec.json.encode(content))


class Served(World):
    """The node, a sidecar that campaigns for ``shop/first`` there, and a server that gives requests back."""

    def __init__(self) -> None:
        super().__init__()
        self.echo = self.run(self._echo())
        self.api = self.run(self._sidecar())

    async def _echo(self) -> int:
        self.echo_server = Server(_give_back)
        return await self.echo_server.listen("127.0.0.1", 0)

    async def _sidecar(self) -> int:
        config = SidecarConfig(
            leases=("shop/first",), identity="pod-a", endpoints=f"127.0.0.1:{self.client_port}",
            listen=Endpoint("127.0.0.1", 0),
        )  # fmt: skip
        self.sidecar = Sidecar(config)
        self._running = asyncio.get_running_loop().create_task(self.sidecar.run())
        # No event tells of both.
        while not self.sidecar.servers or not self.sidecar.views[0].is_leader():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        port: int = self.sidecar.servers[0]._servers[0].sockets[0].getsockname()[1]
        return port


@cache
def _world() -> Served:
    return Served()


def one_input(data: bytes) -> None:
    """Raw bytes to one of the two, or a sound request."""
    world, source = _world(), Source(data)
    kind = source.whole(0, 3)
    match kind:
        case 0:
            _raw_to_parser(world, source)
        case 1:
            cut = Source(source.take(6))
            check_answers(world.run(answer_to(world.api, cut.cuts(source.rest()))), ALLOWED)
        case 2:
            _sound_to_parser(world, source)
        case _:
            _sound_to_api(world, source)
    assert not world._running.done(), "the sidecar ended"
    assert kind in (0, 2) or world.run(_is_alive(world)), "the server does not answer others any more"
    world.check()


async def _is_alive(world: Served) -> bool:
    answers = [
        await answer_to_request(port, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n") for port in (world.api, world.echo)
    ]
    return [status for status, _ in answers] == [200, 200]


class Wire(asyncio.Transport):
    """Keeps what the parser answers: between real sockets, an answer may be lost with a connection that is reset."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it, unless it comes too late: asyncio throws that away, too."""
        if not self.is_closed:
            self.written += data

    def close(self) -> None:
        """End."""
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        """Say that all is on its way."""
        return 0


def _parsed(world: Served, pieces: list[bytes]) -> bytes:
    wire = Wire()
    connection = _Connection(world.echo_server, world.loop)
    connection.connection_made(wire)
    for piece in pieces:
        # asyncio never delivers nothing: that would be the end.
        if piece and not wire.is_closed:
            connection.data_received(piece)
    connection.connection_lost(None)
    return wire.written


def _raw_to_parser(world: Served, source: Source) -> None:
    cut = Source(source.take(6))
    raw = source.rest()
    at_once = _parsed(world, [raw])
    check_answers(at_once, ALLOWED)
    if len(raw) < min(BODY_BYTES_MAX, HEADER_BYTES_MAX):
        in_pieces = _parsed(world, cut.cuts(raw))
        # The sentence about what is no HTTP may be another: h11 looks at what it has.
        assert statuses(in_pieces) == statuses(at_once), "the cuts of the network decide what is answered"


def _token(source: Source) -> str:
    return "".join(source.choice("abcdefgh-_~.!09") for _ in range(source.whole(1, 8)))


def _sound(source: Source) -> tuple[bytes, object]:
    """Return a request as a client writes it, and what its handler must get."""
    method, path = source.choice(METHODS[2:]), "/" + source.text(20)
    query = {source.text(5): source.text(5) for _ in range(source.whole(0, QUERY_FIELDS_MAX))}
    headers = {f"x-{_token(source)}": _token(source) for _ in range(source.whole(0, 4))}
    body = source.take(source.whole(0, BODY_BYTES_MAX) if source.chance(8) else source.whole(0, 40))
    target = quoted(path).replace("%2F", "/")
    if query:
        target += "?" + "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in query.items())
    length = {"content-length": str(len(body))} if body else {}
    expected = [method, path, query, {"host": "a", **headers, **length}, body]
    request = sound_request(method, target, headers, body)
    return request, msgspec.json.decode(msgspec.json.encode(expected))


def _sound_to_parser(world: Served, source: Source) -> None:
    """Some requests on one connection: each reaches its handler as it was sent, in their order."""
    cut = Source(source.take(6))
    requests = [_sound(source) for _ in range(source.whole(1, 3))]
    answer = _parsed(world, cut.cuts(b"".join(request for request, _ in requests)))
    for request, expected in requests:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert head.startswith(b"HTTP/1.1 200 "), (request, answer)
        assert msgspec.json.decode(rest[:length]) == expected, request
        answer = rest[length:]
    assert answer == b"", "more answers than requests"


def _sound_to_api(world: Served, source: Source) -> None:
    method, path, body = source.choice(METHODS[:5]), source.choice(PATHS), source.choice(BODIES)
    if source.chance(4):
        path += source.choice(("/", "x", "/..", "%2e")) + quoted(source.text(8))
    query = quoted(source.text(8)) if source.chance(4) else quoted(source.choice(QUERIES)).replace("%3D", "=")
    headers = {"Last-Event-ID": source.choice(("shop/first=1", "x", "shop/first=-1", "shop/first=1,shop/first=2"))}
    request = sound_request(method, f"{path}?{query}" if query else path, headers if source.chance(2) else {}, body)
    status, answer = world.run(answer_to_request(world.api, request))
    assert status in ALLOWED, (request, status)
    if status >= 400 and answer and path not in ("/", "/leader"):
        content = msgspec.json.decode(answer)
        assert content.get("error") or "is_current" in content or content.get("is_stale"), (request, answer)


_REQUEST = b"\x13a b/%c?d&e=f+g\xc3\xa4#;" + b"\x02\x02a&\x03=b+\x01c\x00" + b"\x01\x02ab\x02cd" + b"\x00\x05body!"
SAMPLES = (
    *(b"\x00" + bytes(6) + template for template in TEMPLATES),
    *(b"\x01" + bytes(6) + template for template in TEMPLATES),
    bytes([2, 0, 9, 0, 40, 0, 90, 1]) + _REQUEST * 2,
    *(bytes([2, 0, 0, 0, 0, 0, 0, number, number]) + _REQUEST * 2 for number in range(len(METHODS) - 2)),
    *(bytes([3, number % 5, number, number % len(BODIES)]) + bytes(20) for number in range(len(PATHS))),
    *(bytes([3, 2, 5 + number % 3, number, 0, 0, number]) + bytes(20) for number in range(len(BODIES))),
)
