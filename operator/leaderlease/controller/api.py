"""The API server: server-side apply, patches, lists, over the transport and credentials of ``kubernetes.aio``.

Rule 1: every answer that is not 2xx is an ``ApiError`` with its code; a server that does not answer has code 0.
Rule 2: nothing is retried here. Whoever queues the work does that, and minds ``retry_after_s``.
Rule 3: a server that asks for a pause asks it of this whole process: ``pause_s`` tells how long nobody should ask.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from kubernetes.aio import client, config

from leaderlease import __version__
from leaderlease.controller.resource import MANAGER, Json, Kind
from leaderlease.errors import ConfigError, LeaderLeaseError

TIMEOUT_S: Final = 15.0
"""How long one request may take."""
PAGE_ITEMS: Final = 500
"""Objects on one page of a list."""
PAGES_MAX: Final = 1_000
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
NOT_FOUND: Final = 404
CONFLICT: Final = 409
RETRY_AFTER_MAX_S: Final = 60.0
"""A longer pause than this is not believed: it would look like an operator that has stopped."""
_ENDING: Final = "NamespaceTerminating"

OnRequest = Callable[[str, str, int], None]
"""Called with verb, kind and code after each request; code 0 when there was no answer."""

_HOME_KUBECONFIG: Final = str(Path.home() / ".kube" / "config")
_decode = msgspec.json.Decoder().decode


class ApiError(LeaderLeaseError):
    """The API server refused, or did not answer.

    Attributes:
        status: HTTP code; 0 when there was no answer.
        retry_after_s: What it asks for; 0 when it does not say.
        is_ending: The namespace goes, so nothing new will ever be made in it, however often it is tried.
    """

    exit_code = 69
    code = "api"

    def __init__(self, status: int, text: str, retry_after_s: float = 0.0, *, is_ending: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s
        self.is_ending = is_ending


async def load_configuration(kubeconfig: str = "", context: str = "") -> client.Configuration:
    """Find the API server and the credentials: a kubeconfig that is named, else the pod's own, else ``~/.kube/config``.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    found = client.Configuration()
    path = kubeconfig or _HOME_KUBECONFIG
    is_in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not kubeconfig
    try:
        if is_in_pod:
            config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=path, context=context or None, client_configuration=found, persist_config=False
            )
    except (config.ConfigException, OSError) as error:
        where = "in this pod" if is_in_pod else kubeconfig or "~/.kube/config"
        raise ConfigError(f"kubeconfig: no usable configuration {where}: {error}") from error
    return found


class Api:
    """One connection pool to the API server.

    Args:
        configuration: From :func:`load_configuration`.
        on_request: Is told of every request, for the metrics.
    """

    def __init__(
        self, configuration: client.Configuration, on_request: OnRequest = lambda verb, kind, code: None
    ) -> None:
        self._client = client.ApiClient(configuration)
        self._client.user_agent = f"leaderlease-operator/{__version__}"
        self._on_request = on_request
        self.is_reachable = True
        """The latest request was answered."""
        self._pause_until_s = 0.0

    @property
    def pause_s(self) -> float:
        """How long the API server still wants to be left alone (rule 3); 0 when it does not."""
        return max(0.0, self._pause_until_s - time.monotonic())

    async def close(self) -> None:
        """End all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """Return an object; None if there is none."""
        try:
            found: Json = await self.request("GET", "get", kind, kind.path(namespace, name))
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return found

    async def list(self, kind: Kind, namespace: str = "", selector: str = "") -> "tuple[list[Json], int]":
        """Return all objects of a kind, page by page, and the version of the store that they are of.

        Args:
            namespace: Empty for all.
            selector: Label selector.
        """
        items: list[Json] = []
        token, version = "", 0
        for _ in range(PAGES_MAX):
            query = [("limit", str(PAGE_ITEMS))]
            query += [("labelSelector", selector)] if selector else []
            query += [("continue", token)] if token else []
            page = await self.request("GET", "list", kind, kind.path(namespace), query=query)
            # Items of a list come without what the list already says.
            items += [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in page["items"]]
            version = version or int(page["metadata"]["resourceVersion"])
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                break
        return items, version

    async def apply(self, kind: Kind, body: Json, sub: str = "") -> Json:
        """Apply an object, or its status, on the server's side; what we own and do not name any more is removed."""
        metadata = body["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"], sub)
        query = [("fieldManager", MANAGER), ("force", "true")]
        found: Json = await self.request("PATCH", "apply", kind, path, body, query=query, content=APPLY)
        return found

    async def merge(self, kind: Kind, namespace: str, name: str, body: Json) -> Json:
        """Merge a patch into an object that exists."""
        path, query = kind.path(namespace, name), [("fieldManager", MANAGER)]
        found: Json = await self.request("PATCH", "patch", kind, path, body, query=query, content=MERGE)
        return found

    async def create(self, kind: Kind, body: Json) -> Json:
        """Create an object."""
        path = kind.path(body["metadata"].get("namespace", ""))
        query = [("fieldManager", MANAGER)]
        found: Json = await self.request("POST", "create", kind, path, body, query=query)
        return found

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid; one that is gone already, or another of its name, is left alone."""
        try:
            await self.request("DELETE", "delete", kind, kind.path(namespace, name), {"preconditions": {"uid": uid}})
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise

    async def raw(self, path: str) -> bytes:
        """Return the body of any path of the API server."""
        found: bytes = await self._send("GET", path, None, (), "application/json", "*/*")
        return found

    async def request(
        self,
        method: str,
        verb: str,
        kind: Kind,
        path: str,
        body: Any = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        content: str = "application/json",
    ) -> Any:
        """Send one request and return the decoded answer.

        Raises:
            ApiError: Not 2xx, or no answer.
        """
        code = 0
        try:
            raw = await self._send(method, path, body, query, content)
            code = 200
            return _decode(raw)
        except ApiError as error:
            code = error.status
            raise
        finally:
            self.is_reachable = code != 0
            self._on_request(verb, kind.name, code)

    async def _send(
        self,
        method: str,
        path: str,
        body: Any,
        query: Sequence[tuple[str, str]],
        content: str,
        accept: str = "application/json",
    ) -> bytes:
        try:
            prepared = await self._client.param_serialize(
                method=method,
                resource_path=path,
                query_params=[*query],
                header_params={"Accept": accept, "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*prepared, _request_timeout=TIMEOUT_S)
            raw: bytes = await answer.read()  # type: ignore[no-untyped-call]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ApiError(0, f"{method} {path}: no answer: {str(error) or type(error).__name__}") from error
        if not 200 <= answer.status < 300:
            text = f"{method} {path}: {answer.status}: {_message(raw)}"
            retry_after_s = _retry_after(answer)
            self._pause_until_s = max(self._pause_until_s, time.monotonic() + retry_after_s)
            raise ApiError(answer.status, text, retry_after_s, is_ending=_is_ending(raw))
        return raw


def _message(raw: bytes) -> str:
    try:
        return str(_decode(raw)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")


def _is_ending(raw: bytes) -> bool:
    try:
        causes = _decode(raw)["details"]["causes"]
        return any(cause["reason"] == _ENDING for cause in causes)
    except (msgspec.DecodeError, KeyError, TypeError):
        return False


def _retry_after(answer: Any) -> float:
    try:
        return min(RETRY_AFTER_MAX_S, max(0.0, float(answer.headers.get("Retry-After", 0))))
    except ValueError:
        return 0.0
