"""The operator's HTTP port: health and metrics, read only."""

from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from leaderlease.controller.manager import Manager
from leaderlease.errors import ConfigError

SHUTDOWN_S: Final = 1.0


class Web:
    """Serves ``/livez``, ``/readyz`` and ``/metrics``."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            ConfigError: The port is in use.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError(f"--listen-http {host}:{port}: cannot listen there ({why}); is it in use?") from error

    async def stop(self) -> None:
        """Close."""
        await self._runner.cleanup()

    async def _livez(self, request: web.Request) -> web.Response:
        # Before the objects are listed kopf does not run; afterwards the process ends with it.
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        checks = self._manager.checks()
        is_ready = all(text == "ok" for text in checks.values())
        if "verbose" in request.query:
            lines = [f"[{'+' if text == 'ok' else '-'}] {name}: {text}\n" for name, text in checks.items()]
            lines += [f"[ ] {name}: {text}\n" for name, text in self._manager.notes().items()]
        else:
            lines = ["ok\n"] if is_ready else [f"{name}: {text}\n" for name, text in checks.items() if text != "ok"]
        return web.Response(text="".join(lines), status=200 if is_ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        body = generate_latest(self._manager.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
