"""The gate: a candidate whose application fails does not run, and a holder whose application fails yields.

Rule 1: the state changes after so many results in a row (hysteresis), so one slow answer costs no lease.
Rule 2: until the first verdict it is neither: nobody campaigns, and a lease that goes on after a restart is kept.
Rule 3: a check never outlives its timeout, and the next begins one period after the last began, or at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from leaderlease.sidecar.config import GateConfig

STATUS_LINE_BYTES_MAX: Final = 1_024
STDERR: Final = asyncio.subprocess.DEVNULL

log = logging.getLogger(__name__)


class Gate:
    """What the last checks said.

    Attributes:
        is_healthy: None before the first verdict.
        reason: Why the last check failed; empty when it passed.
        checks: By result, for the metrics.
    """

    def __init__(self, config: GateConfig | None) -> None:
        self.config = config
        self.is_healthy: bool | None = True if config is None else None
        self.reason = ""
        self.checks = {"passed": 0, "failed": 0}
        self.is_last_passed = config is None
        self._in_row = 0

    def note(self, reason: str) -> bool:
        """Take one result, empty when the check passed; return whether the verdict changed (rule 1)."""
        config = self.config
        assert config is not None
        is_passed = not reason
        self.reason = reason
        self.checks["passed" if is_passed else "failed"] += 1
        self._in_row = self._in_row + 1 if is_passed is self.is_last_passed else 1
        self.is_last_passed = is_passed
        needed = config.successes if is_passed else config.failures
        if self._in_row < needed or self.is_healthy is is_passed:
            return False
        self.is_healthy = is_passed
        return True

    async def run(self, on_change: Callable[[], None]) -> None:
        """Check for ever; ``on_change`` is called after each change of the verdict."""
        config = self.config
        if config is None:
            return
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            if self.note(await check(config)):
                log.info("the application is %s", "healthy" if self.is_healthy else f"unhealthy: {self.reason}")
                on_change()
            await asyncio.sleep(max(0.0, began + config.period_s - loop.time()))


async def check(config: GateConfig) -> str:
    """Run one check; return why it failed, or nothing."""
    try:
        async with asyncio.timeout(config.timeout_s):
            if config.kind == "exec":
                return await _run(config.command)
            if config.kind == "http":
                return await _get(config)
            _, writer = await asyncio.open_connection(config.host, config.port)
            writer.close()
            return ""
    except TimeoutError:
        return f"no answer within {config.timeout_s:g} s"
    except (OSError, ValueError) as error:
        return str(error)


async def _get(config: GateConfig) -> str:
    reader, writer = await asyncio.open_connection(config.host, config.port, limit=STATUS_LINE_BYTES_MAX)
    try:
        host = f"[{config.host}]" if ":" in config.host else config.host
        lines = (f"GET {config.path} HTTP/1.1", f"Host: {host}:{config.port}", "Connection: close", "", "")
        writer.write("\r\n".join(lines).encode("ascii"))
        words = (await reader.readline()).split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            return "the answer is no HTTP"
        status = int(words[1])
        return "" if 200 <= status < 400 else f"status {status}"
    finally:
        writer.close()


async def _run(command: tuple[str, ...]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=STDERR
    )
    try:
        code = await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return "" if code == 0 else f"{command[0]} ended with {code}"
