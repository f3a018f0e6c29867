"""``leaderlease operator``: the Kubernetes operator, in the foreground."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from leaderlease.cli import log_to_stderr
from leaderlease.errors import ConfigError
from leaderlease.paxos.lease import parse_name

PORT_HTTP: Final = 7403
IMAGE: Final = "leaderlease/agent"


def _option(*names: str, **attributes: Any) -> Callable[[click.decorators.FC], click.decorators.FC]:
    variable = names[0].partition("/")[0].removeprefix("--").replace("-", "_").upper()
    has_default = attributes.get("default") not in (None, "")
    return click.option(
        *names, envvar=f"LEADERLEASE_{variable}", show_envvar=True, show_default=has_default, **attributes
    )


_PEM = click.Path(path_type=Path)


@click.command()
@_option("--quorum", "quorums", multiple=True, metavar="NAME=HOST:PORT,...",
         help="A quorum, and where its nodes serve clients; wins over a LeaderQuorum. May repeat.")  # fmt: skip
@_option("--namespace", default="leaderlease-system", help="The operator's own namespace.")
@_option("--lease-quorum", default="default", help="The quorum that decides which replica writes.")
@_option("--identity", default="", help="Name of this replica; the host's name unless told.")
@_option("--watch-namespace", "watch_namespaces", multiple=True, help="Watch this namespace only. May repeat.")
@_option("--pod-selector", default="leaderlease.dev/inject",
         help="Label selector of the pods that are watched; empty watches all.")  # fmt: skip
@_option("--listen-http", default=f"127.0.0.1:{PORT_HTTP}", help="host:port for health and metrics; empty for none.")
@_option("--resync", "resync_s", type=click.FloatRange(min=1), default=300.0,
         help="Seconds after which everything is looked at again.")  # fmt: skip
@_option("--audience", default="leaderlease",
         help="Audience of the tokens that nodes accept; empty hands them no keys.")  # fmt: skip
@_option("--kubeconfig", default="", help="Path; the pod's own configuration, else ~/.kube/config, unless told.")
@_option("--context", default="", help="Context of the kubeconfig.")
@_option("--tls-cert", type=_PEM, help="PEM file: certificate towards the nodes.")
@_option("--tls-key", type=_PEM, help="PEM file: its private key.")
@_option("--tls-ca", type=_PEM, help="PEM file: the authority that signed the nodes.")
@_option("--own-quorum", type=_PEM, help="YAML file with the LeaderQuorum of this installation, which is applied.")
@_option("--webhook-listen", default="",
         help="host:port of the webhook that injects sidecars; empty serves none.")  # fmt: skip
@_option("--webhook-cert", type=_PEM, help="PEM file: certificate of the webhook; read again when it changes.")
@_option("--webhook-key", type=_PEM, help="PEM file: its private key.")
@_option("--inject-image", default=IMAGE, help="Image of the sidecars.")
@_option("--inject-pull-policy", type=click.Choice(["", "Always", "IfNotPresent", "Never"]), default="",
         help="When nodes pull it; Kubernetes decides by the tag unless told.")  # fmt: skip
@_option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
         help="Lowest level that is logged.")  # fmt: skip
def operator(
    quorums: tuple[str, ...],
    identity: str,
    kubeconfig: str,
    log_level: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    own_quorum: Path | None,
    webhook_listen: str,
    webhook_cert: Path | None,
    webhook_key: Path | None,
    inject_image: str,
    inject_pull_policy: str,
    **settings: Any,
) -> None:
    """Run one replica of the Kubernetes operator until SIGTERM or Ctrl-C.

    Start two: both watch, and the holder of the operator's own lease writes.
    """
    log_to_stderr(log_level)
    try:
        from leaderlease.controller.own_quorum import read_own_quorum
        from leaderlease.controller.settings import Settings
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'leaderlease[operator]'") from error
    if tls_ca is None and (tls_cert or tls_key):
        raise ConfigError("--tls-ca is missing: the nodes could not be verified")
    parse_name(f"{settings['namespace']}/operator")
    webhook = _Webhook(webhook_listen, webhook_cert, webhook_key, inject_image, inject_pull_policy)
    asyncio.run(
        _serve(
            Settings(
                is_injecting=bool(webhook_listen),
                quorums=dict(_quorum(text) for text in quorums),
                identity=identity or socket.gethostname(),
                kubeconfig=kubeconfig or os.environ.get("KUBECONFIG", ""),
                tls=(tls_cert, tls_key, tls_ca) if tls_ca is not None else None,
                own_quorum=read_own_quorum(own_quorum) if own_quorum is not None else None,
                **settings,
            ),
            webhook,
        )
    )


def _quorum(text: str) -> tuple[str, tuple[str, ...]]:
    from leaderlease.client.endpoints import parse_endpoints

    name, equals, endpoints = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--quorum {text!r}: write NAME=HOST:PORT,..., for example default=127.0.0.1:7400")
    return name, tuple(str(endpoint) for endpoint in parse_endpoints(endpoints))


class _Webhook(NamedTuple):
    listen: str
    cert: Path | None
    key: Path | None
    image: str
    pull_policy: str

    async def start(self, manager: Any) -> Any:
        """Serve the webhook of a manager; None where none is wanted.

        Raises:
            ConfigError: Its certificate or its address cannot be used.
        """
        from leaderlease.controller.certificates import Certificate
        from leaderlease.controller.targets import targets
        from leaderlease.controller.webhook import Webhook, WebhookSettings

        if not self.listen:
            return None
        host, _, port = self.listen.rpartition(":")
        if not port.isdigit():
            raise ConfigError(f"--webhook-listen {self.listen!r}: write host:port")
        if self.cert is None or self.key is None:
            missing = "--webhook-cert" if self.cert is None else "--webhook-key"
            raise ConfigError(f"{missing} is missing: the API server calls webhooks by TLS only")
        settings = manager.settings
        webhook = Webhook(
            WebhookSettings(
                image=self.image,
                pull_policy=self.pull_policy,
                audience=settings.audience,
                ca=settings.tls[2] if settings.tls is not None else None,
                namespace=settings.namespace,
            ),
            Certificate(self.cert, self.key),
            targets(manager),
            lambda result: manager.metrics.injections.labels(result).inc(),
        )
        await webhook.start(host.strip("[]"), int(port))
        used = webhook.certificate
        manager.more_checks["webhook"] = used.check
        manager.certificates.append(lambda: ({"webhook": used.ends_at_s}, used.is_refused))
        return webhook


async def _serve(settings: Any, injecting: _Webhook) -> None:
    from leaderlease.controller.api import load_configuration
    from leaderlease.controller.manager import Manager
    from leaderlease.controller.web import Web

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    manager = Manager(settings, await load_configuration(settings.kubeconfig, settings.context))
    web = Web(manager) if settings.listen_http else None
    webhook = None
    try:
        if web is not None:
            host, _, port = settings.listen_http.rpartition(":")
            if not port.isdigit():
                raise ConfigError(f"--listen-http {settings.listen_http!r}: write host:port")
            await web.start(host.strip("[]"), int(port))
        webhook = await injecting.start(manager)
        await manager.run(stop)
    finally:
        if webhook is not None:
            await webhook.stop()
        if web is not None:
            await web.stop()
    logging.getLogger("leaderlease.operator").info("stopped")
