"""Requests and watches of one session: what is under way, and what becomes of it when the connection is lost."""

from collections.abc import Iterator
from typing import Any, Final

from leaderlease.errors import LeaderLeaseError
from leaderlease.wire.session import Failed, Transition, WatchRequest

WATCH_BUFFER_MAX: Final = 4_096
"""Transitions of one watch that nobody has taken yet; beyond it they are dropped, and a ``resync`` says so."""
WATCH_NAMES_MAX: Final = 65_536
"""Leases of one watch whose last transition is remembered, so that a replay is recognised."""


def _errors(root: type[LeaderLeaseError]) -> Iterator[type[LeaderLeaseError]]:
    yield root
    for child in root.__subclasses__():
        yield from _errors(child)


def error_of(failed: Failed) -> LeaderLeaseError:
    """Return the error that a node's ``Failed`` stands for; an unknown code gives the root of the tree."""
    for kind in _errors(LeaderLeaseError):
        if kind.__dict__.get("code") == failed.code:
            return kind(failed.text)
    return LeaderLeaseError(failed.text)


class Request:
    """One question that one message answers.

    Attributes:
        is_repeatable: Asking twice does no harm, so it is asked again after the connection was lost.
        owner: Whoever drives the core may keep something here.
    """

    __slots__ = ("is_repeatable", "is_sent", "message", "owner")

    def __init__(self, message: Any, is_repeatable: bool) -> None:
        self.message = message
        self.is_repeatable = is_repeatable
        self.is_sent = False
        self.owner: Any = None

    @property
    def id(self) -> int:
        """The number that its answer carries."""
        number: int = self.message.request
        return number


class Watch:
    """A stream of transitions that survives the loss of a connection, without a gap that it does not tell of.

    Rule: a transition of an older term, and one that was already delivered, is dropped. Where the term jumps by more
    than one after the subscription was renewed, the transition comes as ``resync``.
    """

    __slots__ = ("_kinds", "_terms", "buffer", "error", "id", "is_exact", "is_resumed", "owner", "prefix", "since")

    def __init__(self, number: int, prefix: str, is_exact: bool, since: int) -> None:
        self.id = number
        self.prefix = prefix
        self.is_exact = is_exact
        self.since = since
        self.is_resumed = False
        self.buffer: list[Transition] = []
        self.error: LeaderLeaseError | None = None
        self.owner: Any = None
        self._terms: dict[str, int] = {}
        self._kinds: dict[str, set[str]] = {}

    def message(self) -> WatchRequest:
        """Return what subscribes, from the last term that was seen on."""
        since = self._terms.get(self.prefix, self.since) if self.is_exact else self.since
        return WatchRequest(self.id, self.prefix, self.is_exact, since)

    def take(self, transition: Transition) -> bool:
        """Buffer a transition, unless it is known; tell whether there is something new."""
        name, term = transition.name, transition.term
        known = self._terms.get(name)
        if known is not None and term < known:
            return False
        kinds = self._kinds.get(name, set()) if term == known else set()
        # A first answer tells nothing new when the same holder was seen to come, or to go.
        holding = {"acquired", "transferred", "state+"}
        ending = {"released", "expired", "revoked", "state-"}
        kind = transition.kind
        if kind == "state":
            kind = "state+" if transition.holder is not None else "state-"
            same = ending if transition.holder is None else holding | ending
            if kinds & same:
                return False
        elif kind != "resync" and kind in kinds:
            return False
        if self.is_resumed and known is not None and term > known + 1 and kind != "resync":
            transition = Transition(self.id, name, "resync", term, transition.holder, transition.at_ms)
        self._remember(name, term, kinds | {kind})
        if len(self.buffer) >= WATCH_BUFFER_MAX:
            self.buffer.clear()
            transition = Transition(self.id, name, "resync", term, transition.holder, transition.at_ms)
        self.buffer.append(transition)
        return True

    def _remember(self, name: str, term: int, kinds: set[str]) -> None:
        if name not in self._terms and len(self._terms) >= WATCH_NAMES_MAX:
            oldest = next(iter(self._terms))
            del self._terms[oldest], self._kinds[oldest]
        self._terms[name] = term
        self._kinds[name] = kinds
