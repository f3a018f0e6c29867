"""The admission webhook (admission.k8s.io/v1): pods go in, patches come out. It writes nothing anywhere.

Rule 1: a pod whose label or annotations cannot work is refused with the sentence that says why.
Rule 2: what is no fault of the pod - the operator has not listed everything yet, a file cannot be read - is an error of
        the webhook, so that ``failurePolicy`` decides.
Rule 3: everything is bounded: the body, the time to read it, the time that a closing server waits.
"""

import asyncio
import base64
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from leaderlease.controller.certificates import Certificate
from leaderlease.controller.inject import NAMESPACES_NEVER, Injection, inject, patch
from leaderlease.controller.parameters import PREFIX, Parameters, read_parameters
from leaderlease.controller.resource import Json, sidecar_state
from leaderlease.errors import ConfigError

PATH: Final = "/mutate"
BODY_BYTES_MAX: Final = 4 << 20
"""An object of the API server has at most 1.5 MiB; a review holds it once, and a copy of the old one."""
READ_TIMEOUT_S: Final = 5.0
SHUTDOWN_S: Final = 1.0
PEM_BYTES_MAX: Final = 64 << 10
API_VERSION: Final = "admission.k8s.io/v1"
WARNING_CHARS_MAX: Final = 250
"""Kubernetes cuts what is longer."""

logger = logging.getLogger("leaderlease.operator.webhook")


class NotReady(Exception):
    """Nothing can be said of any pod now (rule 2)."""


class Target(msgspec.Struct, frozen=True):
    """Where the sidecar of a pod finds its quorum.

    Attributes:
        endpoints: Its nodes.
        missing: Leases that the pod names and that do not exist (yet).
    """

    endpoints: tuple[str, ...]
    missing: tuple[str, ...] = ()


FindTarget = Callable[[str, Parameters], Target]
"""Called with the pod's namespace; raises ``ConfigError`` (rule 1) or ``NotReady`` (rule 2)."""


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the webhook is told at its start.

    Attributes:
        image: Of the sidecars.
        pull_policy: Of the image; empty leaves it to Kubernetes.
        audience: Of the sidecars' tokens.
        ca: PEM file: the authority that signed the nodes; read for every pod. None for plain TCP.
        namespace: The operator's own, in which nothing is injected.
    """

    image: str
    pull_policy: str = ""
    audience: str = "leaderlease"
    ca: Path | None = None
    namespace: str = ""


class Webhook:
    """Serves ``/mutate``.

    Args:
        settings: What all sidecars have in common.
        certificate: To serve with.
        find: Finds the quorum of a pod.
        count: Called with the result of each review: ``injected``, ``skipped``, ``refused`` or ``error``.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        certificate: Certificate,
        find: FindTarget,
        count: Callable[[str], None] = lambda result: None,
    ) -> None:
        self._settings = settings
        self.certificate = certificate
        self._find = find
        self._count = count
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post(PATH, self._mutate)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        self._watching: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any, which ``port`` then tells.

        Raises:
            ConfigError: The port is in use.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=self.certificate.context)
        try:
            await site.start()
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError(f"--webhook-listen {host}:{port}: cannot listen there ({why}); is it in use?") from error
        self.port = int(self._runner.addresses[0][1])
        self._watching = asyncio.create_task(self.certificate.run())

    async def stop(self) -> None:
        """Close."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._runner.cleanup()

    async def _mutate(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                raw = await request.read()
            review = msgspec.json.decode(raw)
            asked = review["request"]
            answer = self._review(asked)
        except TimeoutError:
            return self._failed(408, f"the review did not arrive within {READ_TIMEOUT_S:g} s")
        except web.HTTPRequestEntityTooLarge:
            return self._failed(413, f"the review is larger than {BODY_BYTES_MAX} bytes")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError) as error:
            return self._failed(400, f"no AdmissionReview of {API_VERSION} about a Pod: {error!r}")
        except NotReady as error:
            return self._failed(503, str(error))
        body = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": {"uid": asked["uid"], **answer}}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    def _failed(self, status: int, text: str) -> web.Response:
        self._count("error")
        logger.warning("a review failed: %s", text)
        return web.Response(status=status, text=f"{text}\n")

    def _review(self, asked: Json) -> Json:
        """Return ``response``, without the uid."""
        pod, namespace = asked["object"], asked["namespace"]
        who = f"{namespace}/{_name(pod)}"
        if asked.get("operation") != "CREATE" or asked["kind"]["kind"] != "Pod" or asked.get("subResource"):
            return self._skipped()
        if namespace in (*NAMESPACES_NEVER, self._settings.namespace):
            return self._skipped(f"pods of namespace {namespace} get no sidecar")
        state = sidecar_state(pod)
        if state == "host network":
            return self._skipped(f"a pod on its host's network gets no sidecar without {PREFIX}host-network: 'true'")
        if state != "wanted":
            return self._skipped()
        try:
            parameters = read_parameters(pod)
            target = self._find(namespace, parameters)
            injected = inject(pod, self._injection(target), parameters)
        except ConfigError as error:
            self._count("refused")
            logger.warning("%s: refused: %s", who, error)
            return {"allowed": False, "status": {"code": 422, "reason": "Invalid", "message": f"leaderlease: {error}"}}
        self._count("injected")
        logger.info("%s: injected, leases %s", who, ", ".join(parameters.leases))
        body: Json = {"allowed": True, "patchType": "JSONPatch"}
        body["patch"] = base64.b64encode(msgspec.json.encode(patch(pod, injected))).decode()
        if target.missing:
            body["warnings"] = [_warning(f"there is no LeaderLease {namespace}/{one} yet") for one in target.missing]
        return body

    def _skipped(self, why: str = "") -> Json:
        self._count("skipped")
        return {"allowed": True, **({"warnings": [_warning(why)]} if why else {})}

    def _injection(self, target: Target) -> Injection:
        settings = self._settings
        return Injection(
            image=settings.image,
            endpoints=target.endpoints,
            pull_policy=settings.pull_policy,
            ca=read_pem(settings.ca) if settings.ca is not None else "",
            audience=settings.audience,
        )


def read_pem(path: Path) -> str:
    """Read the file of an authority.

    Raises:
        NotReady: It cannot be read, or holds no certificate.
    """
    try:
        with path.open("rb") as file:
            text = file.read(PEM_BYTES_MAX + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise NotReady(f"{path}: the authority that signed the nodes cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text or len(text) > PEM_BYTES_MAX:
        raise NotReady(f"{path}: holds no certificate in PEM format, or more than {PEM_BYTES_MAX} bytes")
    return text


def _warning(text: str) -> str:
    return f"leaderlease: {text}"[:WARNING_CHARS_MAX]


def _name(pod: Any) -> str:
    """Return what to call a pod: those of a Deployment have no name yet."""
    metadata = pod.get("metadata") or {}
    return str(metadata.get("name") or f"{metadata.get('generateName', '')}?")
