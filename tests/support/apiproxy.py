"""A proxy before a real API server: it cuts watches, refuses requests for a while, and counts what passes."""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from support.apiserver import ApiServer

START_S = 10.0
CLOSE_S = 0.25
"""What TLS connections take to close, as the documentation of aiohttp says."""
_HEADERS = ("Content-Type", "Accept", "User-Agent")


@dataclass(frozen=True)
class Seen:
    """One request that was answered; a watch when it began."""

    method: str
    path: str
    query: str
    status: int

    @property
    def is_watch(self) -> bool:
        """It asked for a watch."""
        return "watch=true" in self.query

    @property
    def is_write(self) -> bool:
        """It is no read."""
        return self.method != "GET"


@dataclass
class Refusal:
    """What is answered instead of passing a request on.

    Attributes:
        left: How many requests it is for.
    """

    wants: Callable[[str, str], bool]
    status: int
    left: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hook:
    """Called in the proxy's thread, once, before the first request that it wants passes on."""

    wants: Callable[[str, str], bool]
    call: Callable[[], None]


class ApiProxy:
    """Serves plain HTTP on loopback, and asks the API server as ``user``.

    Attributes:
        kubeconfig: Names this proxy.
        seen: All answers so far, refusals included.
        gone: Watches that the API server ended because their version is too old.
    """

    def __init__(self, api: ApiServer, home: Path, user: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._api = api
        api.write_kubeconfig(home / f"{user}.direct", user, "system:masters")
        self._tls = ssl.create_default_context(cafile=str(api.home / "ca.crt"))
        self._tls.load_cert_chain(home / f"{user}.pem")
        self.seen: list[Seen] = []
        self.gone = 0
        self.are_watches_cut = False
        self._refusals: list[Refusal] = []
        self._hooks: list[Hook] = []
        self._watches: set[asyncio.Task[Any]] = set()
        self._errors: list[bytes] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.port = 0
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="apiproxy", daemon=True)
        self._thread.start()
        assert ready.wait(START_S), "the proxy does not listen"
        self.kubeconfig = home / f"{user}.proxied"
        cluster = {"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "test", "context": {"cluster": "test", "user": "nobody"}}
        body = {"apiVersion": "v1", "kind": "Config", "current-context": "test", "clusters": [cluster]}
        users = [{"name": "nobody", "user": {}}]
        self.kubeconfig.write_text(json.dumps({**body, "users": users, "contexts": [context]}))

    # --- what tests do ---------------------------------------------------------------------------------------

    def refuse(
        self, count: int, status: int, wants: Callable[[str, str], bool], headers: dict[str, str] | None = None
    ) -> Refusal:
        """Answer the next ``count`` requests with a status; ``wants`` is asked with method and path."""
        refusal = Refusal(wants, status, count, headers or {})
        self._refusals.append(refusal)
        return refusal

    def before(self, wants: Callable[[str, str], bool], call: Callable[[], None]) -> None:
        """Do something before the next request of a kind passes on, and after the operator decided on it."""
        self._hooks.append(Hook(wants, call))

    def cut_watches(self) -> None:
        """End all watches, and refuse new ones until ``mend_watches``."""
        self.are_watches_cut = True
        self._call(self._end_watches())

    def mend_watches(self) -> None:
        """Let watches pass again."""
        self.are_watches_cut = False

    def send_error(self, code: int) -> None:
        """Let each watch deliver an error of the API server, and end."""
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
        line = json.dumps({"type": "ERROR", "object": {**status, "reason": "InternalError", "message": "a test"}})
        self._errors.append(line.encode() + b"\n")
        self._call(self._end_watches())

    def stop(self) -> None:
        """Close."""
        if self._stop is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)

    # --- inside ----------------------------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def _run(self, ready: threading.Event) -> None:
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = int(runner.addresses[0][1])
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as self._session:
            ready.set()
            await self._stop.wait()
            await self._end_watches()
            await runner.cleanup()
        await asyncio.sleep(CLOSE_S)

    async def _end_watches(self) -> None:
        for task in list(self._watches):
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        is_watch = request.query.get("watch") == "true"
        refusal = next((one for one in self._refusals if one.left and one.wants(request.method, request.path)), None)
        if refusal is not None:
            refusal.left -= 1
            return self._refused(request, refusal.status, refusal.headers)
        if is_watch and self.are_watches_cut:
            return self._refused(request, 503, {})
        for hook in [one for one in self._hooks if one.wants(request.method, request.path)]:
            self._hooks.remove(hook)
            await asyncio.to_thread(hook.call)
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        url = URL(f"{self._api.url}{request.raw_path}", encoded=True)
        body = await request.read() or None
        try:
            async with self._session.request(
                request.method,
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(None),
                skip_auto_headers=("Content-Type",),
            ) as answer:
                self._note(request, answer.status)
                if is_watch and answer.status == HTTPStatus.OK:
                    return await self._watch(request, answer)
                kept = {
                    name: answer.headers[name] for name in ("Content-Type", "Retry-After") if name in answer.headers
                }
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
        except aiohttp.ClientError:
            # As a server that is away: the connection ends without an answer.
            if request.transport is not None:
                request.transport.abort()
            raise

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        passing = asyncio.ensure_future(self._pass(answer, response))
        self._watches.add(passing)
        try:
            with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError, ConnectionError):
                await passing
            if self._errors:
                await response.write(self._errors[-1])
        finally:
            self._watches.discard(passing)
            passing.cancel()
        return response

    async def _pass(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        async for line in answer.content:
            if b'"ERROR"' in line[:40] and b'"code":410' in line:
                self.gone += 1
            await response.write(line)

    def _note(self, request: web.Request, status: int) -> None:
        self.seen.append(Seen(request.method, request.path, request.query_string, status))

    def _refused(self, request: web.Request, status: int, headers: dict[str, str]) -> web.Response:
        self._note(request, status)
        names = {409: "Conflict", 429: "TooManyRequests"}
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "not now"}
        return web.json_response(
            {**body, "reason": names.get(status, "ServiceUnavailable")}, status=status, headers=headers
        )
