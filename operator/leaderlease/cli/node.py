"""``leaderlease node``: one member of a quorum, in the foreground."""

import asyncio
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from leaderlease.cli import log_to_stderr
from leaderlease.cli.inspect import inspect
from leaderlease.errors import ConfigError
from leaderlease.node.config import (
    AUTH_MODES,
    BOOTSTRAP_TIMEOUT_S,
    PORT_CLIENT,
    PORT_HTTP,
    PORT_PEER,
    NodeConfig,
    parse_peers,
)


def _read_file(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Take the file's settings as defaults: flags win over variables, variables over the file."""
    if path is None:
        return None
    known = {option.name: option for option in ctx.command.params if option is not parameter}
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--config {path}: no valid TOML: {error}") from error
    settings = {}
    for key, value in found.items():
        option = next((o for o in known.values() if f"--{key.replace('_', '-')}" in o.opts), None)
        if option is None:
            names = ", ".join(sorted(o.opts[0].removeprefix("--") for o in known.values()))
            raise ConfigError(f"--config {path}: there is no setting {key!r}; there are {names}")
        settings[option.name] = _checked(path, key, option, _one_text(value) if key == "peers" else value)
    ctx.default_map = settings
    return path


def _checked(path: Path, key: str, option: click.Parameter, value: Any) -> Any:
    """Refuse what click would take for something else, or not survive: TOML has dates, lists and tables, too."""
    kinds: tuple[type, ...] = (str,)
    kind = "a text in quotes"
    if isinstance(option, click.Option) and option.is_flag:
        kind, kinds = "true or false", (bool, str)
    elif isinstance(option.type, click.FloatRange):
        kind, kinds = "a number", (int, float, str)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"--config {path}: {key}: {str(value)[:80]!r} must be {kind}")
    return value


def _one_text(value: Any) -> Any:
    """Let a file write the peers as a list, or as a table of names and addresses."""
    if isinstance(value, dict):
        value = [f"{name}={address}" for name, address in value.items()]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _option(*names: str, **attributes: Any) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Make an option that says its default and its variable: LEADERLEASE_DATA for --data."""
    variable = names[0].partition("/")[0].removeprefix("--").replace("-", "_").upper()
    has_default = attributes.get("default") not in (None, "")
    return click.option(
        *names, envvar=f"LEADERLEASE_{variable}", show_envvar=True, show_default=has_default, **attributes
    )


_PEM = click.Path(path_type=Path)


@click.group(invoke_without_command=True)
@_option("--config", type=_PEM, is_eager=True, expose_value=False, callback=_read_file,
         help='TOML file with any of these settings: data = "/var/lib/leaderlease".')  # fmt: skip
@_option("--name", help="Name of this node; one of --peers.")
@_option("--data", type=_PEM, help="Directory of this node's disk; made if it is missing.")
@_option("--peers", help="All initial members with their peer ports: name=host:port,name=host:port,...")
@_option("--cluster", default="", help="uuid of the cluster; needed with --bootstrap, else a check against the disk.")
@_option("--bootstrap/--no-bootstrap", default=False,
         help="Start a new cluster if all initial members are reachable and blank.")  # fmt: skip
@_option("--bootstrap-timeout", "bootstrap_timeout_s", type=click.FloatRange(min=0, min_open=True),
         default=BOOTSTRAP_TIMEOUT_S, help="Seconds to wait for that.")  # fmt: skip
@_option("--listen-client", default=f"127.0.0.1:{PORT_CLIENT}", help="host:port for clients; port 0 takes any.")
@_option("--listen-peer", default=f"127.0.0.1:{PORT_PEER}", help="host:port for the other members.")
@_option("--listen-http", default=f"127.0.0.1:{PORT_HTTP}",
         help="host:port for metrics, health and JSON; empty serves no HTTP.")  # fmt: skip
@_option("--auto-declare/--no-auto-declare", default=False, help="Leases that nobody declared may be acquired.")
@_option("--tls-cert", type=_PEM,
         help="PEM file: this node's certificate. Mutual between members; clients check the node.")  # fmt: skip
@_option("--tls-key", type=_PEM, help="PEM file: its private key.")
@_option("--tls-ca", type=_PEM, help="PEM file: the authority that signed all members.")
@_option("--tls-client-auth/--no-tls-client-auth", default=False,
         help="Clients need a certificate of the same authority, too.")  # fmt: skip
@_option(
    "--auth",
    type=click.Choice(AUTH_MODES),
    default="open",
    help="tokens: clients show a certificate of --tls-ca, or a Kubernetes ServiceAccount token.",
)
@_option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
         help="Lowest level that is logged.")  # fmt: skip
@click.pass_context
def node(ctx: click.Context, /, log_level: str, peers: str | None, **settings: Any) -> None:
    """Run one member of a quorum until SIGTERM or Ctrl-C.

    Each setting is a flag, a variable or a line in the file that --config names, in this order of strength.
    """
    if ctx.invoked_subcommand is not None:
        return
    log_to_stderr(log_level, settings["name"] or "")
    for needed, value in (("name", settings["name"]), ("data", settings["data"]), ("peers", peers)):
        if not value:
            raise click.UsageError(f"--{needed} is missing", ctx)
    assert peers is not None
    run_node(NodeConfig(peers=parse_peers(peers), **settings))


node.add_command(inspect)


def run_node(config: NodeConfig) -> None:
    """Serve until SIGTERM, SIGINT or a failure.

    Raises:
        LeaderLeaseError: The node cannot start, or had to leave.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))


async def _serve(config: NodeConfig) -> None:
    from leaderlease.node.node import Node
    from leaderlease.node.web import Web

    member = Node(config)
    for warning in member.warnings:
        click.echo(f"leaderlease: warning: {warning}", err=True)
    web = Web(member) if config.listen_http else None
    try:
        if web is not None:
            await web.start()
        await member.serve()
    finally:
        if web is not None:
            web.stop()
