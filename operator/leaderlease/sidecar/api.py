"""The local API: what an application, a load balancer, a probe and Prometheus ask, and what they get.

Rule 1: it answers from memory at once; only ``verify``, ``step-down``, ``transfer`` and ``release`` ask the quorum.
Rule 2: ready means that this API answers, never that this process leads: a standby is a healthy pod.
Rule 3: an address that others can reach serves only what reads.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec

from leaderlease.client.sdk import Client
from leaderlease.errors import ConfigError, LeaderLeaseError, NotHolder
from leaderlease.paxos.lease import TERM_MAX
from leaderlease.sidecar import metrics
from leaderlease.sidecar.candidate import Candidate
from leaderlease.sidecar.config import IDENTITY_CHARS_MAX
from leaderlease.sidecar.feed import Entry, Feed, event_id, frame, parse_event_id
from leaderlease.sidecar.health import Gate
from leaderlease.sidecar.view import View
from leaderlease.wire.http import Answer, HttpError, Request, Response, Server, Stream, json_response

QUORUM_TIMEOUT_S: Final = 3.0
"""How long a question to the quorum may take, before it is answered 503."""
PATHS: Final = (
    "/, /leader, /v1/leases, /v1/leases/{name}, /v1/leases/{name}/verify?term=N, /v1/events, "
    "POST /v1/leases/{name}/release | step-down | transfer, /livez, /readyz, /metrics"
)
_READS: Final = ("GET", "HEAD", "OPTIONS")


class Parts(Protocol):
    """What the API speaks for."""

    client: Client
    gate: Gate
    feed: Feed
    candidates: dict[str, Candidate]
    servers: list[Server]


class Successor(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a POST; may be left out where nobody has to be named."""

    successor: str = ""


class Api:
    """Handles requests of one server.

    Args:
        is_local: It also serves what changes something (rule 3).
    """

    def __init__(self, parts: Parts, *, is_local: bool) -> None:
        self._parts = parts
        self._is_local = is_local
        self._first = next(iter(parts.candidates))
        self._fixed: dict[str, Callable[[Request], Answer]] = {
            "/": lambda request: self._document(self._asked(request).view),
            "/leader": self._leader,
            "/v1/leases": self._leases,
            "/v1/events": self._events,
            "/livez": lambda request: json_response(200, {"status": "ok"}),
            "/readyz": lambda request: json_response(200, {"status": "ok"}),
            "/metrics": self._metrics,
        }

    def handle(self, request: Request) -> Answer | Awaitable[Answer]:
        """Answer one request.

        Raises:
            HttpError: It cannot be answered; the text says why.
        """
        fixed = self._fixed.get(request.path)
        if fixed is not None:
            _allow(request, *_READS)
            return fixed(request)
        parts = request.path.split("/")
        if parts[:3] != ["", "v1", "leases"] or len(parts) not in (4, 5):
            raise HttpError(404, f"there is no {request.path[:80]!r}; there are {PATHS}")
        candidate = self._named(parts[3])
        if len(parts) == 4:
            _allow(request, *_READS)
            return self._document(candidate.view, is_hint=True)
        match parts[4]:
            case "verify":
                _allow(request, *_READS)
                return self._verify(candidate.view, _term(request))
            case "release" | "step-down" | "transfer" as action:
                _allow(request, "POST")
                if not self._is_local:
                    raise HttpError(403, f"{action} is served on the local address only")
                return self._act(action, candidate, _successor(request, is_needed=action == "transfer"))
        raise HttpError(404, f"there is no {request.path[:80]!r}; there are {PATHS}")

    # --- reading ---------------------------------------------------------------------------------------------

    def _named(self, short: str) -> Candidate:
        candidate = self._parts.candidates.get(short)
        if candidate is None:
            known = ", ".join(self._parts.candidates)
            raise HttpError(404, f"lease {short[:80]!r} is not one of this sidecar's: {known}")
        return candidate

    def _asked(self, request: Request) -> Candidate:
        return self._named(request.query.get("lease", self._first))

    def _document(self, view: View, is_hint: bool = False) -> Response:
        """Answer with the document: 503 when it is stale, unless the question is what is known at all."""
        document = view.document()
        return json_response(503 if document.is_stale and not is_hint else 200, document)

    def _leader(self, request: Request) -> Answer:
        document = self._asked(request).view.document()
        return json_response(200 if document.is_leader else 503, document)

    def _leases(self, request: Request) -> Answer:
        return json_response(200, {"leases": [one.view.document() for one in self._parts.candidates.values()]})

    def _metrics(self, request: Request) -> Answer:
        parts = self._parts
        responses: dict[int, int] = {}
        for server in parts.servers:
            for status, count in server.counts.items():
                responses[status] = responses.get(status, 0) + count
        body = metrics.render(
            [one.view for one in parts.candidates.values()],
            parts.gate,
            is_connected=bool(parts.client.endpoint),
            responses=responses,
            streams=sum(server.streams for server in parts.servers),
        )
        return Response(200, body, metrics.CONTENT_TYPE)

    async def _verify(self, view: View, term: int) -> Answer:
        verification = await _ask(self._parts.client.verify(view.name, term))
        content = {"lease": view.name, "is_current": verification.is_current, "term": verification.term}
        return json_response(200 if verification.is_current else 409, content)

    # --- events ----------------------------------------------------------------------------------------------

    def _events(self, request: Request) -> Answer:
        if request.method != "GET":
            return Response(200, b"", b"text/event-stream")
        chosen = [self._named(request.query["lease"])] if "lease" in request.query else self._parts.candidates.values()
        views = {one.view.name: one.view for one in chosen}
        since: dict[str, int] = {}
        if last := request.headers.get("last-event-id", ""):
            try:
                since = parse_event_id(last, views)
            except ConfigError as error:
                raise HttpError(400, str(error)) from None
        return self._stream(views, since)

    def _stream(self, views: dict[str, View], since: dict[str, int]) -> Stream:
        feed = self._parts.feed
        seen = {name: since.get(name, feed.terms[name]) for name in views}
        writing: list[Callable[[bytes], None]] = []

        def on_entry(entry: Entry) -> None:
            if entry.lease in seen:
                seen[entry.lease] = max(seen[entry.lease], entry.term)
                writing[0](frame(entry.kind, event_id(seen), entry.data))

        def start(write: Callable[[bytes], None]) -> None:
            writing.append(write)
            missed, gaps = feed.missed(since)
            for name in gaps:
                write(frame("resync", event_id(seen), msgspec.json.encode(views[name].document())))
            for entry in missed:
                on_entry(entry)
            for name, view in views.items():
                seen[name] = feed.terms[name]
                write(frame("state", event_id(seen), msgspec.json.encode(view.document())))
            feed.listen(on_entry)

        return Stream(start, lambda: feed.leave(on_entry))

    # --- acting ----------------------------------------------------------------------------------------------

    async def _act(self, action: str, candidate: Candidate, successor: str) -> Answer:
        view = candidate.view
        if action == "release":
            return await self._release(candidate, successor)
        favour = f" in favour of {successor}" if successor else ""
        lease = view.lease
        if lease is not None and candidate.step_down(successor, f"the application asked to step down{favour}"):
            return json_response(202, {"lease": view.name, "stepping_down": True, "term": lease.term})
        term = await _ask(self._parts.client.step_down(view.name, successor))
        return json_response(202, {"lease": view.name, "stepping_down": True, "term": term or view.term})

    async def _release(self, candidate: Candidate, successor: str) -> Answer:
        """Release, and say what is true: 200 if a majority has let go, 202 if time will, 504 if nobody knows."""
        name = candidate.view.name
        released = await candidate.release(successor)
        if released is None:
            raise HttpError(409, f"this process does not hold {name}, so it cannot release it")
        problem = await candidate.confirm_release(released)
        content = {"lease": name, "released": not problem, "term": released.term}
        if not problem:
            return json_response(200, content)
        lost = f"this process does not lead any more, but the end of term {released.term} is not confirmed: {problem}"
        if released.duration is None:
            end = f"nothing else ends it than: leaderlease release {name} --revoke --term {released.term}"
            return json_response(504, {**content, "error": f"{lost}; {end}", "status": 504})
        text = f"{lost}; it expires by itself {released.duration:g} s after its last renewal"
        return json_response(202, {**content, "reason": text})


async def _ask(question: Awaitable[Any]) -> Any:
    """Ask the quorum, within a bound; say what went wrong in the words of HTTP."""
    try:
        async with asyncio.timeout(QUORUM_TIMEOUT_S):
            return await question
    except TimeoutError:
        raise HttpError(503, f"the quorum did not answer within {QUORUM_TIMEOUT_S:g} s") from None
    except NotHolder as error:
        raise HttpError(409, str(error)) from None
    except LeaderLeaseError as error:
        raise HttpError(503, str(error)) from None


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        text = f"{request.method} is not served at {request.path[:80]!r}; use {allowed}"
        raise HttpError(405, text, [(b"allow", allowed.encode())])


def _term(request: Request) -> int:
    text = request.query.get("term", "")
    if not text.isascii() or not text.isdigit() or len(text) > 16 or not 1 <= int(text) <= TERM_MAX:
        raise HttpError(400, f"term: {text[:40]!r} must be a whole number from 1 to 2^53 - 1, as in ?term=7")
    return int(text)


def _successor(request: Request, *, is_needed: bool) -> str:
    successor = request.query.get("successor", "")
    if request.body.strip():
        try:
            successor = msgspec.json.decode(request.body, type=Successor).successor or successor
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HttpError(400, f'the body must be JSON such as {{"successor": "pod-b"}}: {error}') from None
    if is_needed and not successor:
        raise HttpError(400, 'successor: is missing; name an identity, as in {"successor": "pod-b"}')
    if len(successor) > IDENTITY_CHARS_MAX:
        raise HttpError(400, f"successor: has {len(successor)} characters, at most {IDENTITY_CHARS_MAX}")
    return successor
