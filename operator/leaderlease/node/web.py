"""The HTTP port: health, metrics and JSON, read only.

``/livez`` says whether the process should be restarted, ``/readyz`` whether clients should be sent here.
"""

import asyncio
import logging
from typing import Any, Final

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from leaderlease.errors import ConfigError
from leaderlease.node.config import parse_address
from leaderlease.node.metrics import registry_of
from leaderlease.node.node import Node
from leaderlease.node.reads import Reading, ReadState
from leaderlease.node.sessions import Sessions
from leaderlease.node.status import node_status
from leaderlease.paxos.lease import Holder, parse_name

PAGE_MAX: Final = 1_000
"""Leases in one answer of ``/v1/leases``."""

logger = logging.getLogger("leaderlease.web")
_encode = msgspec.json.Encoder(order="deterministic").encode


class Web:
    """The HTTP server of one node; serves from before the bootstrap on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._registry = registry_of(node)
        app = web.Application()
        app.router.add_get("/", self._index)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/quorum", self._quorum)
        app.router.add_get("/v1/leases", self._leases)
        app.router.add_get("/v1/leases/{namespace}/{name}", self._lease)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: The port is in use.
        """
        address = self._node.config.listen_http
        host, port = parse_address(address, "--listen-http")
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"--listen-http {address}: cannot listen there ({reason}); is it in use?") from error

    async def stop(self) -> None:
        """Close."""
        await self._runner.cleanup()

    async def _index(self, request: web.Request) -> web.Response:
        paths = ["/livez", "/readyz?verbose", "/metrics", "/v1/quorum", "/v1/leases", "/v1/leases/NAMESPACE/NAME"]
        return _json({"node": self._node.config.name, "paths": paths})

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        checks = self._checks()
        is_ready = all(text == "ok" for text in checks.values())
        if "verbose" in request.query:
            lines = [f"[{'+' if text == 'ok' else '-'}] {name}: {text}\n" for name, text in checks.items()]
        else:
            lines = ["ok\n"] if is_ready else [f"{name}: {text}\n" for name, text in checks.items() if text != "ok"]
        return web.Response(text="".join(lines), status=200 if is_ready else 503)

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

    async def _metrics(self, request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _sessions(self) -> Sessions:
        if self._node.sessions is None:
            raise web.HTTPServiceUnavailable(text="the quorum is not known yet\n")
        return self._node.sessions

    async def _quorum(self, request: web.Request) -> web.Response:
        status = _plain(node_status(self._sessions()))
        del status["request"]
        fields = ("name", "member", "is_reachable", "round_trip_ms")
        peers = [dict(zip(fields, peer, strict=True)) for peer in status["peers"]]
        for peer in peers:
            if not peer["is_reachable"]:
                peer["round_trip_ms"] = None
        return _json({**status, "peers": peers})

    async def _leases(self, request: web.Request) -> web.Response:
        found = self._sessions().local_view(request.query.get("prefix", ""), request.query.get("after", ""))
        after = found[PAGE_MAX - 1].name if len(found) > PAGE_MAX else ""
        return _json({"items": found[:PAGE_MAX], "after": after})

    async def _lease(self, request: web.Request) -> web.Response:
        name = f"{request.match_info['namespace']}/{request.match_info['name']}"
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


def _json(content: Any, status: int = 200) -> web.Response:
    body = _encode(_plain(content))
    return web.Response(body=body + b"\n", status=status, content_type="application/json")


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
