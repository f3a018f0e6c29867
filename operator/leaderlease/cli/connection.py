"""What every command that talks to nodes has in common: where they are, TLS, and how long to wait."""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from leaderlease.cli.options import Tls, client_options, tls_paths, token_of
from leaderlease.client.endpoints import ENDPOINTS_VARIABLE, parse_endpoints
from leaderlease.errors import ConfigError, ConnectionFailed, LeaderLeaseError
from leaderlease.paxos.lease import parse_duration

if TYPE_CHECKING:
    from pathlib import Path

    from click.shell_completion import CompletionItem

    from leaderlease.client.sdk import Client

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

TIMEOUT_DEFAULT: Final = "5s"
COMPLETION_TIMEOUT_S: Final = 1.0
"""How long the Tab key waits for the quorum."""
COMPLETIONS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the nodes are, and how to talk to them.

    Attributes:
        endpoints: ``host:port`` each, nearest first.
        tls: Paths of certificate, key and CA; None is plain TCP.
        timeout_s: Seconds for connecting, and for each answer.
        token: Bearer token, or what returns it for each connection; may be empty.
    """

    endpoints: tuple[str, ...]
    tls: Tls | None
    timeout_s: float
    token: str | Callable[[], str] = ""

    def client(self, endpoints: Sequence[str] | None = None) -> "Client":
        """Return a client that is not connected yet, of all endpoints unless told."""
        import leaderlease

        return leaderlease.connect(
            endpoints or self.endpoints, tls=self.tls, token=self.token, timeout=self.timeout_s, name="leaderlease-cli"
        )

    @asynccontextmanager
    async def connected(self, endpoints: Sequence[str] | None = None) -> "AsyncIterator[Client]":
        """Connect within ``timeout_s``.

        Raises:
            ConnectionFailed: No endpoint answers.
        """
        client = self.client(endpoints)
        try:
            async with asyncio.timeout(self.timeout_s):
                await client.__aenter__()
        except TimeoutError:
            names = ", ".join(endpoints or self.endpoints)
            why = f"no answer within {self.timeout_s:g} s"
            raise ConnectionFailed(
                f"none of {names} answers within {self.timeout_s:g} s; is a node running there?",
                dict.fromkeys(endpoints or self.endpoints, why),
            ) from None
        try:
            yield client
        finally:
            await client.close()

    def run(self, work: "Callable[[Client], Awaitable[T]]") -> T:
        """Connect, do the work, disconnect.

        Raises:
            LeaderLeaseError: What the work raises, or no endpoint answers.
        """

        async def go() -> T:
            async with self.connected() as client:
                return await work(client)

        return asyncio.run(go())


def read_seconds(text: str, field: str) -> float:
    """Read a time limit: ``5``, ``0.5``, ``500ms``, ``1m30s``; numbers are seconds.

    Raises:
        ConfigError: Not a time from 100 ms to 1 h.
    """
    # A plain number would be no duration of a lease, but is the seconds that every other tool takes.
    is_number = text.replace(".", "", 1).isdecimal()
    limit_ms = parse_duration(f"{text}s" if is_number else text, field)
    if limit_ms is None:
        raise ConfigError(f"{field}: {text!r} is outside [100ms, 1h]")
    return limit_ms / 1000


def connection_options(command: Command) -> Command:
    """Give a command the options of a client; it gets the argument ``connection``."""

    @functools.wraps(command)
    def with_connection(
        *args: Any,
        endpoints: str | None,
        tls_cert: "Path | None",
        tls_key: "Path | None",
        tls_ca: "Path | None",
        token_file: "Path | None",
        timeout: str,
        **kwargs: Any,
    ) -> Any:
        parsed = tuple(str(endpoint) for endpoint in parse_endpoints(endpoints))
        tls, token = tls_paths(tls_cert, tls_key, tls_ca), token_of(token_file)
        connection = Connection(parsed, tls, read_seconds(timeout, "--timeout"), token)
        return command(*args, connection=connection, **kwargs)

    text = "How long to wait for a connection, and for an answer: 500ms, 5s; numbers are seconds."
    timeout = click.option("--timeout", default=TIMEOUT_DEFAULT, show_default=True, envvar="LEADERLEASE_TIMEOUT",
                           show_envvar=True, metavar="TIME", help=text)  # fmt: skip
    result: Command = client_options(timeout(with_connection))
    return result


def lease_argument(command: click.decorators.FC) -> click.decorators.FC:
    """Give a command the argument ``name``: a lease, completed by the Tab key."""
    return click.argument("name", shell_complete=complete_lease)(command)


def complete_lease(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """List the leases whose names begin with ``incomplete``; nothing where the quorum cannot be asked."""
    from click.shell_completion import CompletionItem

    given = ctx.params
    try:
        endpoints = given.get("endpoints") or os.environ.get(ENDPOINTS_VARIABLE)
        parsed = tuple(str(endpoint) for endpoint in parse_endpoints(endpoints))
        tls = tls_paths(*(given.get(f"tls_{name}") for name in ("cert", "key", "ca")))
        connection = Connection(parsed, tls, COMPLETION_TIMEOUT_S)
        found = connection.run(lambda client: client.list(incomplete))
    except LeaderLeaseError:
        return []
    return [CompletionItem(info.name) for info in found[:COMPLETIONS_MAX]]
