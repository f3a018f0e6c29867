"""The HTTP port of a real node: any bytes are answered in HTTP or not at all, what is sound gets the right answer."""

import json
from functools import cache

from fuzz.exchange import (
    TEMPLATES,
    World,
    answer_to,
    answer_to_request,
    check_answers,
    quoted,
    sound_request,
)
from fuzz.source import Source
from leaderlease.errors import ConfigError
from leaderlease.node.web import Web
from leaderlease.paxos.lease import parse_name

ALLOWED = frozenset({100, 200, 400, 404, 405, 408, 413, 431, 501, 503, 505})
PARTS = ("shop", "billing", "a", "", "Shop", "v1", "leases", "x" * 63, "x" * 64, "a-", "ä", ".", "..", "%", "a/b")
FIXED = ("/", "/livez", "/readyz", "/metrics", "/v1/quorum", "/v1/leases")


class Served(World):
    """The node, and its HTTP port."""

    def __init__(self) -> None:
        super().__init__()
        self.web = Web(self.node)
        self.run(self.web.start())
        self.port = self.web.port


@cache
def _world() -> Served:
    return Served()


def one_input(data: bytes) -> None:
    """Raw bytes in pieces, or a sound request whose answer is known."""
    world, source = _world(), Source(data)
    if source.chance(2):
        cut = Source(source.take(6))
        check_answers(world.run(answer_to(world.port, cut.cuts(source.rest()))), ALLOWED)
        status, body = world.run(answer_to_request(world.port, sound_request("GET", "/livez", {}, b"")))
        assert (status, body) == (200, b"ok\n"), "the server does not answer others any more"
    else:
        _sound(world, source)
    world.check()


def _sound(world: Served, source: Source) -> None:
    if source.chance(3):
        path = source.choice(FIXED)
        fields = [(source.text(6), source.text(6)) for _ in range(source.whole(0, 3))]
        query = "".join(f"&{quoted(name)}={quoted(value)}" for name, value in fields)
        status, _ = world.run(answer_to_request(world.port, sound_request("GET", f"{path}?{query}", {}, b"")))
        assert status == (200 if len(dict(fields)) == len(fields) else 400), (path, query, status)
        return
    namespace, name = (source.choice(PARTS) if source.chance(2) else source.text(8) for _ in range(2))
    target = f"/v1/leases/{quoted(namespace)}/{quoted(name)}"
    status, body = world.run(answer_to_request(world.port, sound_request("GET", target, {}, b"")))
    if not namespace or not name or {".", ".."} & {namespace, name} or set("/{}") & set(namespace + name):
        # No path of ours: refused as such, whatever the sentence.
        assert status in (400, 404), (target, status)
        return
    assert (status, _sentence(body)) == _expected(f"{namespace}/{name}"), (target, status, body)


def _sentence(body: bytes) -> str:
    return str(json.loads(body)["error"]) if body.startswith(b"{") else body.decode()


def _expected(name: str) -> tuple[int, str]:
    try:
        parse_name(name)
    except ConfigError as error:
        return 400, str(error)
    return 404, f"{name}: nobody ever held it"


SAMPLES = (
    *(b"\x01" + bytes(6) + template for template in TEMPLATES),
    *(bytes([0, 0, 1, number, 1, number + 1]) for number in range(len(PARTS))),
    *(bytes([0, 2, number, 2]) + b"\x03abc\x03def\x02gh\x01i" for number in range(len(FIXED))),
)
