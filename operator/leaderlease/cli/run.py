"""``leaderlease run``: CMD runs while the lease is held."""

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any, Final

import click

from leaderlease.cli.options import client_options, tls_paths, token_of

_PATH = click.Path(path_type=Path)
PRIORITY_MAX: Final = 1_000_000
"""That of ``paxos.lease``, which the guard would be larger with."""


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--lease", "name", required=True, metavar="NS/NAME", envvar="LEADERLEASE_LEASE", show_envvar=True,
              help="The lease to hold.")  # fmt: skip
@click.option("--identity", envvar="LEADERLEASE_IDENTITY", show_envvar=True, show_default="host name and pid",
              help="Who holds, for people; it may repeat.")  # fmt: skip
@click.option("--pod-uid", default="", envvar=["LEADERLEASE_POD_UID", "POD_UID"], show_envvar=True,
              help="Shown with the holder; nodes that ask for tokens compare it.")  # fmt: skip
@click.option("--priority", type=click.IntRange(-PRIORITY_MAX, PRIORITY_MAX), default=0, show_default=True,
              envvar="LEADERLEASE_PRIORITY", show_envvar=True, help="For leases that prefer the highest.")  # fmt: skip
@click.option("--duration", metavar="DURATION",
              help="How long others wait after the last renewal, or never.  [default: as declared]")  # fmt: skip
@click.option("--wait", "wait_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Give up a campaign after so long, with exit code 75.  [default: wait for ever]")  # fmt: skip
@click.option(
    "--once", "is_once", is_flag=True, help="When the lease is lost, end with exit code 76; do not campaign again."
)
@click.option("--status-file", type=_PATH, metavar="FILE",
              help="JSON with the term and the present deadline, replaced at each renewal.")  # fmt: skip
@click.option("--quiet", "-q", "is_quiet", is_flag=True, help="Say only what went wrong.")
@client_options
@click.argument("argv", nargs=-1, required=True, metavar="-- CMD [ARG]...", type=click.UNPROCESSED)
def run(
    argv: tuple[str, ...],
    identity: str | None,
    pod_uid: str,
    priority: int,
    endpoints: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    token_file: Path | None,
    **settings: Any,
) -> int:
    """Run CMD while this process holds a lease, and end it before the lease can end.

    CMD finds LEASE_NAME, LEASE_TERM (the fencing token: pass it on to whatever CMD changes) and LEASE_DEADLINE. It
    gets SIGTERM when the lease cannot be kept, SIGKILL before the lease can end, and every signal that is sent to
    this process. The exit code is CMD's. When the lease was lost, it waits for the next term and starts CMD again.
    """
    # First of all: the guard is a fork of this process, and small for as long as this one is.
    from leaderlease.sidecar.guard import fork_guard

    tls, token = tls_paths(tls_cert, tls_key, tls_ca), token_of(token_file)
    guard = fork_guard(argv)
    try:
        from leaderlease.client.sdk import Client
        from leaderlease.sidecar.command import Order, Wrapper, check_order

        order = Order(argv=argv, identity=identity or f"{socket.gethostname()}-{os.getpid()}", **settings)
        check_order(order)
        who: dict[str, Any] = {"name": order.identity, "pod_uid": pod_uid, "priority": priority, "since": time.time()}
        connect = lambda: Client(endpoints, tls=tls, token=token, **who)  # noqa: E731
        return asyncio.run(Wrapper(connect, guard, order).run())
    finally:
        guard.close()
