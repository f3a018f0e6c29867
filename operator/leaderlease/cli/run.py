"""``leaderlease run``: CMD runs while the lease is held."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import click

from leaderlease.errors import ConfigError

_PEM = click.Path(path_type=Path)


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--lease", "name", required=True, metavar="NS/NAME", envvar="LEADERLEASE_LEASE", show_envvar=True,
              help="The lease to hold.")  # fmt: skip
@click.option("--identity", envvar="LEADERLEASE_IDENTITY", show_envvar=True, show_default="host name and pid",
              help="Who holds, for people; it may repeat.")  # fmt: skip
@click.option("--duration", metavar="DURATION",
              help="How long others wait after the last renewal, or never.  [default: as declared]")  # fmt: skip
@click.option("--wait", "wait_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Give up a campaign after so long, with exit code 75.  [default: wait for ever]")  # fmt: skip
@click.option(
    "--once", "is_once", is_flag=True, help="When the lease is lost, end with exit code 76; do not campaign again."
)
@click.option("--status-file", type=_PEM, metavar="FILE",
              help="JSON with the term and the present deadline, replaced at each renewal.")  # fmt: skip
@click.option("--quiet", "-q", "is_quiet", is_flag=True, help="Say only what went wrong.")
@click.option("--endpoints", envvar="LEADERLEASE_ENDPOINTS", show_envvar=True, metavar="HOST:PORT,...",
              help="Nodes, nearest first.  [default: 127.0.0.1:7400]")  # fmt: skip
@click.option("--tls-cert", type=_PEM, envvar="LEADERLEASE_TLS_CERT", show_envvar=True,
              help="PEM file: this client's certificate.")  # fmt: skip
@click.option("--tls-key", type=_PEM, envvar="LEADERLEASE_TLS_KEY", show_envvar=True, help="PEM file: its private key.")
@click.option("--tls-ca", type=_PEM, envvar="LEADERLEASE_TLS_CA", show_envvar=True,
              help="PEM file: the authority that signed the nodes; switches TLS on.")  # fmt: skip
@click.argument("argv", nargs=-1, required=True, metavar="-- CMD [ARG]...", type=click.UNPROCESSED)
def run(
    argv: tuple[str, ...],
    identity: str | None,
    endpoints: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    **settings: Any,
) -> int:
    """Run CMD while this process holds a lease, and end it before the lease can end.

    CMD finds LEASE_NAME, LEASE_TERM (the fencing token: pass it on to whatever CMD changes) and LEASE_DEADLINE. It
    gets SIGTERM when the lease cannot be kept, SIGKILL before the lease can end, and every signal that is sent to
    this process. The exit code is CMD's. When the lease was lost, it waits for the next term and starts CMD again.
    """
    # First of all: the guard is a fork of this process, and small for as long as this one is.
    from leaderlease.sidecar.guard import fork_guard

    if (tls_cert or tls_key) and not tls_ca:
        raise ConfigError("--tls-ca is missing: --tls-cert and --tls-key need it")
    guard = fork_guard(argv)
    try:
        from leaderlease.client.sdk import Client
        from leaderlease.sidecar.command import Order, Wrapper, check_order

        order = Order(argv=argv, identity=identity or f"{socket.gethostname()}-{os.getpid()}", **settings)
        check_order(order)
        certificate = (str(tls_cert) if tls_cert else None, str(tls_key) if tls_key else None)
        tls = (*certificate, str(tls_ca)) if tls_ca else None
        return asyncio.run(Wrapper(lambda: Client(endpoints, tls=tls, name=order.identity), guard, order).run())
    finally:
        guard.close()
