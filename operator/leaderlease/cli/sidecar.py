"""``leaderlease sidecar``: elects for the application in the same pod."""

import asyncio
import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from leaderlease.cli import log_to_stderr
from leaderlease.errors import ConfigError
from leaderlease.sidecar.config import PORT_API, PREFERENCES, SidecarConfig, parse_gate, parse_listen

_PATH = click.Path(path_type=Path)


def _option(*names: str, downward: str = "", **attributes: Any) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Make an option that says its default and its variables: LEADERLEASE_LEASE for --lease, then ``downward``."""
    variables = ["LEADERLEASE_" + names[0].removeprefix("--").replace("-", "_").upper(), *([downward] * bool(downward))]
    has_default = attributes.get("default") not in (None, "")
    return click.option(*names, envvar=variables, show_envvar=True, show_default=has_default, **attributes)


@click.command()
@_option(
    "--lease",
    "leases",
    multiple=True,
    help="Lease to campaign for, in --namespace; repeat it for more. The first is the one that GET / speaks of.",
)
@_option("--namespace", default="default", downward="POD_NAMESPACE", help="Namespace of the leases.")
@_option(
    "--identity", default="", downward="POD_NAME", help="This candidate, as others see it; the host's name unless told."
)
@_option("--pod-uid", default="", downward="POD_UID", help="Shown with the holder.")
@_option("--endpoints", default="", help="Nodes of the quorum: host:port,host:port,... Nearest first.")
@_option("--duration", default=None, help="Of a lease for which none is declared, for example 3s.")
@_option("--listen", default=f"127.0.0.1:{PORT_API}", help="host:port of the local API.")
@_option(
    "--listen-pod",
    default="",
    help="host:port for probes, Prometheus and load balancers: the API without what changes something. "
    "Empty serves none.",
)
@_option("--state-dir", type=_PATH, help="Directory in which a restart finds the identity, and so keeps the lease.")
@_option("--file", type=_PATH, help="leader.json to keep up to date, in a directory that the application reads.")
@_option("--token-file", type=_PATH, help="Bearer token, read again for each connection.")
@_option("--tls-ca", type=_PATH, help="PEM file: the authority that signed the nodes' certificates.")
@_option("--tls-cert", type=_PATH, help="PEM file: a certificate to show.")
@_option("--tls-key", type=_PATH, help="PEM file: its private key.")
@_option(
    "--health",
    default="",
    help="Check of the application: http://host:port/path, tcp://host:port or exec:command. Empty checks nothing.",
)
@_option("--health-period", "period_s", type=float, default=1.0, help="Seconds between two checks.")
@_option("--health-timeout", "timeout_s", type=float, default=0.5, help="Seconds that a check may take.")
@_option("--health-failures", "failures", type=int, default=3, help="Failures in a row that yield the lease.")
@_option("--health-successes", "successes", type=int, default=1, help="Successes in a row before campaigning.")
@_option(
    "--step-down-grace",
    "step_down_grace_s",
    type=float,
    default=2.0,
    help="Seconds between 'not leader any more' and the release, unless the application acknowledges sooner.",
)
@_option(
    "--drain",
    default="none",
    help="How to see that the application has ended after SIGTERM: none (it ends first), health (its check "
    "fails), or tcp://host:port (its port closes).",
)
@_option(
    "--drain-timeout",
    "drain_timeout_s",
    type=float,
    default=25.0,
    help="Seconds to wait for that; then the lease is left to expire.",
)
@_option(
    "--stale-after",
    "stale_after_s",
    type=float,
    default=10.0,
    help="Seconds after which an unconfirmed leader is no answer any more.",
)
@_option(
    "--successor-preference",
    "preference",
    type=click.Choice(PREFERENCES),
    default="none",
    help="Whom to name as successor when letting go, where the lease declares no preference itself.",
)
@_option("--priority", type=int, default=0, help="For leases that prefer the highest.")
@_option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="Lowest level that is logged.",
)
def sidecar(**settings: Any) -> None:
    """Elect for the application in the same pod, which only asks on localhost.

    GET / says who leads; docs/sidecar.md has the rest. Ends in order on SIGTERM.
    """
    log_to_stderr(settings.pop("log_level"))
    config = configure(settings)
    # Nothing that is alive now will ever be garbage: the collector need not look at it.
    gc.collect()
    gc.freeze()
    asyncio.run(_serve(config))


async def _serve(config: SidecarConfig) -> None:
    from leaderlease.sidecar.agent import Sidecar

    await Sidecar(config).run()


def configure(settings: dict[str, Any]) -> SidecarConfig:
    """Make the settings of a sidecar out of the command line's.

    Raises:
        ConfigError: A flag cannot work; the text names it.
    """
    checks = {name: settings.pop(name) for name in ("period_s", "timeout_s", "failures", "successes")}
    health = settings.pop("health")
    namespace = settings.pop("namespace")
    names = [name for text in settings.pop("leases") for name in text.replace(",", " ").split()]
    ca, cert, key = (settings.pop(name) for name in ("tls_ca", "tls_cert", "tls_key"))
    if ca is None and (cert is not None or key is not None):
        raise ConfigError("--tls-ca: is missing, and --tls-cert and --tls-key are of no use without it")
    listen_pod = settings.pop("listen_pod")
    return SidecarConfig(
        leases=tuple(name if "/" in name else f"{namespace}/{name}" for name in names),
        identity=settings.pop("identity") or socket.gethostname(),
        endpoints=settings.pop("endpoints") or None,
        listen=parse_listen("--listen", settings.pop("listen")),
        listen_pod=parse_listen("--listen-pod", listen_pod) if listen_pod else None,
        tls=None if ca is None else (cert and str(cert), key and str(key), str(ca)),
        gate=parse_gate(health, **checks) if health else None,
        **settings,
    )
