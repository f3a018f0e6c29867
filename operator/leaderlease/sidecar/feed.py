"""The stream of events: what changed, kept for a while, so that a reader that was away can go on.

Rule 1: the id of an event is the term it belongs to: ``7`` where the stream is about one lease, and
        ``billing=7,reports=3`` where it is about several.
Rule 2: a reader that names the last id it saw gets everything after it; of the last term itself, everything but its
        beginning comes again. Where that is no longer known, ``resync`` comes first.
Rule 3: a stream begins, after what was missed, with ``state``: the document as of now.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from leaderlease.errors import ConfigError
from leaderlease.paxos.lease import TERM_MAX

HISTORY_MAX: Final = 256
"""Events that are kept, of all leases together."""
BEGINNINGS: Final = frozenset({"acquired", "transferred"})
LAST_ID_CHARS_MAX: Final = 4_096


class Entry(NamedTuple):
    """One event."""

    lease: str
    term: int
    kind: str
    data: bytes


class Feed:
    """Events of all leases of a sidecar, and who listens."""

    def __init__(self, leases: Iterable[str]) -> None:
        self.terms = dict.fromkeys(leases, 0)
        self._known_from = dict(self.terms)
        """The term after which nothing of a lease is missing in the history."""
        self._history: deque[Entry] = deque()
        self._listeners: list[Callable[[Entry], None]] = []

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def publish(self, entry: Entry) -> None:
        """Tell everybody, and keep it."""
        before = self.terms[entry.lease]
        if not any(kept.lease == entry.lease for kept in self._history):
            # What came before this process, or was forgotten long ago, cannot be told again.
            self._known_from[entry.lease] = max(self._known_from[entry.lease], entry.term - 1)
        self.terms[entry.lease] = max(before, entry.term)
        self._history.append(entry)
        if len(self._history) > HISTORY_MAX:
            gone = self._history.popleft()
            self._known_from[gone.lease] = gone.term
        for listener in list(self._listeners):
            listener(entry)

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Call ``listener`` with each event from now on."""
        self._listeners.append(listener)

    def leave(self, listener: Callable[[Entry], None]) -> None:
        """Stop calling it."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def missed(self, since: Mapping[str, int]) -> tuple[list[Entry], set[str]]:
        """Return what happened after these terms, and the leases of which some of it is no longer known (rule 2)."""
        entries = [
            entry
            for entry in self._history
            if entry.lease in since
            and (entry.term > since[entry.lease] or (entry.term == since[entry.lease] and entry.kind not in BEGINNINGS))
        ]
        gaps = {name for name, term in since.items() if term < self.terms[name] and term < self._known_from[name]}
        return entries, gaps


def event_id(terms: Mapping[str, int]) -> str:
    """Write the id that stands for these terms (rule 1)."""
    if len(terms) == 1:
        return str(next(iter(terms.values())))
    return ",".join(f"{name.partition('/')[2]}={term}" for name, term in terms.items())


def parse_event_id(text: str, leases: Iterable[str]) -> dict[str, int]:
    """Read an id of a stream about these leases; leases that it does not name are left out.

    Raises:
        ConfigError: It is none.
    """
    names = {name.partition("/")[2]: name for name in leases}
    found: dict[str, int] = {}
    parts = text.split(",") if len(text) <= LAST_ID_CHARS_MAX else [""]
    for part in parts:
        short, equals, number = part.strip().rpartition("=")
        if not equals and len(names) == 1:
            short = next(iter(names))
        is_term = number.isascii() and number.isdigit() and len(number) <= 16 and int(number) <= TERM_MAX
        if short not in names or not is_term:
            raise ConfigError(f"Last-Event-ID: {text[:80]!r} is no id of this stream; leave it out to begin anew")
        found[names[short]] = int(number)
    return found


def frame(kind: str, identity: str, data: bytes) -> bytes:
    """Write one server-sent event."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (identity.encode(), kind.encode(), data)
