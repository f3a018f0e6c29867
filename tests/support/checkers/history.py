"""What a run recorded: one list of events on one clock, read from the files that the processes appended to."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Violation(AssertionError):
    """A history that the protocol excludes; the text says which statement is broken, and by what."""


class Kind(StrEnum):
    """What happened.

    ASKED: a candidate begins to ask with this nonce. DENIED, UNKNOWN: what it heard. BELIEVE, RENEWED: a holder counts
    its validity until ``until_ms``. UNBELIEVE: it stopped by itself. WOKE: a holder's process ran again after a pause;
    ``until_ms`` is ``at_ms`` plus what remained. WRITE: the fenced resource took a write. CHOSEN: a node reported this
    holder as chosen.
    """

    ASKED = "asked"
    BELIEVE = "believe"
    RENEWED = "renewed"
    UNBELIEVE = "unbelieve"
    WRITE = "write"
    CHOSEN = "chosen"
    DENIED = "denied"
    UNKNOWN = "unknown"
    WOKE = "woke"


@dataclass(frozen=True, slots=True)
class Event:
    """One fact.

    Attributes:
        at_ms: CLOCK_BOOTTIME of the one machine that everything ran on.
        until_ms: On the same clock; of BELIEVE, RENEWED and WOKE.
        node: Who reported; of CHOSEN.
        began_ms: When the report was asked for; likewise.
    """

    at_ms: float
    kind: Kind
    lease: str
    nonce: str = ""
    term: int = 0
    until_ms: float = 0.0
    node: str = ""
    began_ms: float = 0.0


def read_history(files: Iterable[Path]) -> list[Event]:
    """Merge files of JSON lines into one history in order of time.

    A process that was killed while it wrote leaves half a line at its end; that one is left out.
    """
    events = []
    for path in files:
        lines = path.read_text().split("\n")
        for line in lines[:-1]:
            fields = json.loads(line)
            events.append(Event(**{**fields, "kind": Kind(fields["kind"])}))
    return sorted(events, key=lambda event: event.at_ms)


def by_lease(history: Iterable[Event], *kinds: Kind) -> dict[str, list[Event]]:
    """Return the events of some kinds in order of time, for each lease."""
    found: dict[str, list[Event]] = {}
    for event in sorted(history, key=lambda event: event.at_ms):
        if event.kind in kinds:
            found.setdefault(event.lease, []).append(event)
    return found


def show(history: Iterable[Event], last: int = 60) -> str:
    """Return the end of a history, a line for each event; reports that repeat and writes are left out."""
    told: set[tuple[Kind, str, str, int, str]] = set()
    kept = []
    for event in sorted(history, key=lambda event: event.at_ms):
        report = (event.kind, event.lease, event.nonce, event.term, event.node)
        if event.kind is not Kind.WRITE and (event.kind is not Kind.CHOSEN or report not in told):
            kept.append(event)
        told.add(report)
    return "\n".join(
        f"{e.at_ms:14.3f} {e.kind:9} {e.lease} term {e.term} {e.nonce[:8]}"
        + (f" until {e.until_ms:.3f}" if e.until_ms else "")
        + (f" by {e.node}" if e.node else "")
        for e in kept[-last:]
    )
