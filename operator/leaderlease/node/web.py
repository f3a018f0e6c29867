"""The HTTP port: health, metrics and JSON, read only.

``/livez`` says whether the process should be restarted, ``/readyz`` whether clients should be sent here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from leaderlease.errors import ConfigError
from leaderlease.node.config import parse_address
from leaderlease.node.metrics import registry_of
from leaderlease.node.node import Node
from leaderlease.node.reads import Reading, ReadState
from leaderlease.node.sessions import Sessions
from leaderlease.node.status import node_status
from leaderlease.paxos.lease import Holder, parse_name
from leaderlease.wire.http import Answer, HttpError, Request, Response, Server

PAGE_MAX: Final = 1_000
"""Leases in one answer of ``/v1/leases``."""
PATHS: Final = ("/", "/livez", "/readyz?verbose", "/metrics", "/v1/quorum", "/v1/leases", "/v1/leases/NAMESPACE/NAME")

_encode = msgspec.json.Encoder(order="deterministic").encode


class Web:
    """The HTTP server of one node; serves from before the bootstrap on.

    Attributes:
        port: Where it listens; 0 before that.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._registry = registry_of(node)
        self._server = Server(self.handle)
        self.port = 0
        self._fixed: dict[str, Callable[[Request], Response]] = {
            "/": lambda request: _json({"node": node.config.name, "paths": PATHS[1:]}),
            "/livez": lambda request: _text("ok\n"),
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/v1/quorum": self._quorum,
            "/v1/leases": self._leases,
        }

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: The port is in use.
        """
        address = self._node.config.listen_http
        host, port = parse_address(address, "--listen-http")
        try:
            self.port = await self._server.listen(host, port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"--listen-http {address}: cannot listen there ({reason}); is it in use?") from error

    def stop(self) -> None:
        """Close."""
        self._server.close()

    def handle(self, request: Request) -> Answer | Awaitable[Answer]:
        """Answer one request.

        Raises:
            HttpError: It cannot be answered; the text says why.
        """
        fixed = self._fixed.get(request.path)
        parts = request.path.split("/")
        if fixed is None and (parts[:3] != ["", "v1", "leases"] or len(parts) != 5):
            raise HttpError(404, f"there is no {request.path[:80]!r}; there are {', '.join(PATHS)}")
        if request.method not in ("GET", "HEAD"):
            raise HttpError(
                405, f"{request.method[:20]} is not served here: nothing can be written", [(b"allow", b"GET, HEAD")]
            )
        return fixed(request) if fixed is not None else self._lease(f"{parts[3]}/{parts[4]}")

    def _readyz(self, request: Request) -> Response:
        checks = self._checks()
        is_ready = all(text == "ok" for text in checks.values())
        if "verbose" in request.query:
            lines = [f"[{'+' if text == 'ok' else '-'}] {name}: {text}\n" for name, text in checks.items()]
        else:
            lines = ["ok\n"] if is_ready else [f"{name}: {text}\n" for name, text in checks.items() if text != "ok"]
        return _text("".join(lines), 200 if is_ready else 503)

    def _checks(self) -> dict[str, str]:
        node = self._node
        sessions = node.sessions
        if sessions is None:
            return {"bootstrap": "the quorum is not known yet"}
        driver = sessions.driver
        has_quorum = driver.is_quorum_connected()
        return {
            "bootstrap": "ok",
            "disk": "the latest commit has not come back" if driver.is_disk_stalled() else "ok",
            "quorum": "ok" if has_quorum else driver.quorum.missing(driver.connected),
            "members": "ok" if node.has_mesh() else "not every member talks with this one yet, both ways",
            "clients": "ok" if node.is_serving else "the client port is not open yet",
            "catch-up": "ok" if node.catchup is not None and node.catchup.is_caught_up() else "still copying",
        }

    def _metrics(self, request: Request) -> Response:
        return Response(200, generate_latest(self._registry), CONTENT_TYPE_LATEST.encode())

    def _sessions(self) -> Sessions:
        if self._node.sessions is None:
            raise HttpError(503, "the quorum is not known yet")
        return self._node.sessions

    def _quorum(self, request: Request) -> Response:
        status = _plain(node_status(self._sessions()))
        del status["request"]
        fields = ("name", "member", "is_reachable", "round_trip_ms")
        peers = [dict(zip(fields, peer, strict=True)) for peer in status["peers"]]
        for peer in peers:
            if not peer["is_reachable"]:
                peer["round_trip_ms"] = None
        return _json({**status, "peers": peers})

    def _leases(self, request: Request) -> Response:
        found = self._sessions().local_view(request.query.get("prefix", ""), request.query.get("after", ""))
        after = found[PAGE_MAX - 1].name if len(found) > PAGE_MAX else ""
        return _json({"items": found[:PAGE_MAX], "after": after})

    async def _lease(self, name: str) -> Response:
        try:
            parse_name(name)
        except ConfigError as error:
            return _json({"error": str(error)}, 400)
        sessions = self._sessions()
        reading = await read_lease(sessions, name)
        if reading.state is ReadState.UNAVAILABLE:
            return _json({"error": sessions.driver.quorum.missing(reading.answered)}, 503)
        info = sessions.info_from(name, reading)
        if info is None:
            return _json({"error": f"{name}: nobody ever held it"}, 404)
        return _json(info)


async def read_lease(sessions: Sessions, name: str) -> Reading:
    """Read one lease from a majority."""
    future: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()

    def on_read(reading: Reading) -> None:
        if not future.done():
            future.set_result(reading)

    sessions.read_lease(name, on_read)
    return await future


def _json(content: Any, status: int = 200) -> Response:
    return Response(status, _encode(_plain(content)) + b"\n")


def _text(text: str, status: int = 200) -> Response:
    return Response(status, text.encode(), b"text/plain; charset=utf-8")


def _plain(content: Any) -> Any:
    """Give array-encoded structs their field names, for people; a holder's nonce is not for everybody (H19)."""
    if isinstance(content, Holder):
        return {"name": content.name, "pod_uid": content.pod_uid}
    if isinstance(content, msgspec.Struct):
        return {name: _plain(getattr(content, name)) for name in content.__struct_fields__}
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content
