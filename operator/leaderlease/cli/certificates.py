"""``leaderlease certificates``: issues what an installation needs, and renews what ends soon."""

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import click

from leaderlease.cli import log_to_stderr
from leaderlease.errors import ConfigError, LeaderLeaseError


def _option(name: str, **attributes: Any) -> Callable[[click.decorators.FC], click.decorators.FC]:
    variable = "LEADERLEASE_" + name.removeprefix("--").replace("-", "_").upper()
    has_default = attributes.get("default") not in (None, "")
    return click.option(name, envvar=variable, show_envvar=True, show_default=has_default, **attributes)


_DAYS = click.IntRange(min=1, max=36_500)
_HOURS = click.IntRange(min=1, max=8_760)


@click.command(short_help="Issue the certificates of an installation in Kubernetes.")
@_option("--namespace", default="leaderlease-system", help="Of the Secrets.")
@_option("--prefix", default="leaderlease", help="Of their names: PREFIX-node-tls and so on.")
@_option("--node-names", default="localhost,127.0.0.1", help="DNS names and addresses of the nodes, with commas.")
@_option("--operator-names", default="leaderlease-operator", help="Of the operator.")
@_option("--webhook-names", default="", help="Of the webhook; empty issues none.")
@_option("--webhook-configuration", default="", help="MutatingWebhookConfiguration that is to trust the webhook.")
@_option("--ca-days", type=_DAYS, default=3650, help="How long the two authorities last.")
@_option("--cert-days", type=_DAYS, default=90, help="How long certificates last.")
@_option("--renew-before-days", type=_DAYS, default=30, help="Those that end sooner are issued anew.")
@_option("--ca-overlap-hours", type=_HOURS, default=168,
         help="A new authority is trusted for so long before it signs, and the old one for so long after.")  # fmt: skip
@_option("--kubeconfig", default="", help="Path; the pod's own configuration, else ~/.kube/config, unless told.")
@_option("--context", default="", help="Context of the kubeconfig.")
def certificates(**settings: Any) -> None:
    """Write the Secrets that hold the certificates of nodes, operator and webhook; what is good already is left alone.

    \b
    leaderlease certificates --namespace leaderlease-system --node-names '*.leaderlease-node.leaderlease-system.svc'

    An authority that ends is replaced in three steps, a run each: the new one is trusted, it signs, the old one is
    forgotten. Annotate its Secret with leaderlease.dev/rotate to have it replaced now.
    """
    log_to_stderr("info")
    if settings["renew_before_days"] >= settings["cert_days"]:
        days = settings["cert_days"]
        raise ConfigError(f"--renew-before-days: {settings['renew_before_days']} must be less than --cert-days {days}")
    try:
        import leaderlease.controller.issue  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'leaderlease[operator]'") from error
    asyncio.run(_issue(settings))


async def _issue(settings: dict[str, Any]) -> None:
    from leaderlease.controller import issue
    from leaderlease.controller.actions import Apply
    from leaderlease.controller.api import Api, load_configuration

    namespace, prefix = settings["namespace"], settings["prefix"]
    names = {kind: _names(settings[f"{kind}_names"]) for kind in issue.AUTHORITIES}
    names = {kind: wanted for kind, wanted in names.items() if wanted}
    durations = (settings["ca_days"], settings["cert_days"], settings["renew_before_days"])
    lifetimes = issue.Lifetimes(*durations, settings["ca_overlap_hours"])
    api = Api(await load_configuration(settings["kubeconfig"], settings["context"]))
    try:
        secrets = [f"{prefix}-{kind}-ca" for kind in ("node", "webhook")] + [f"{prefix}-{kind}-tls" for kind in names]
        found = {name: await api.get(issue.SECRET, namespace, name) for name in secrets}
        now = datetime.datetime.now(datetime.UTC)
        actions, authority = issue.plan_certificates(found, names, namespace, prefix, lifetimes, now)
        if name := settings["webhook_configuration"]:
            configuration = await api.get(issue.WEBHOOKS, "", name)
            if configuration is None:
                raise LeaderLeaseError(f"--webhook-configuration {name}: there is none of this name")
            actions += issue.plan_webhook(name, configuration, authority)
        for action in actions:
            assert isinstance(action, Apply)
            await api.apply(action.kind, action.body)
            click.echo(f"{action.kind.name} {action.body['metadata']['name']}: written", err=True)
        if not actions:
            click.echo(f"nothing to do: no certificate ends within {lifetimes.renew_before_days} days", err=True)
    finally:
        await api.close()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.replace(",", " ").split() if name)
