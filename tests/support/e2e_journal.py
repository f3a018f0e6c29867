"""What the applications of a scenario wrote down, and the checkers over it.

The statements of ``support.checkers`` are about nonces. An application sees none, so here a nonce is a pod's time of
belief without a break; for the tokens it is the pod, whose sidecar may go on in the same term after a restart.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from support.checkers.belief import belief_intervals, check_belief
from support.checkers.history import Event, Kind
from support.checkers.terms import check_tokens

POLL_S = 0.02


def boottime_ms() -> float:
    """Read the clock that this process shares with all pods."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an application.

    Attributes:
        at: CLOCK_BOOTTIME in milliseconds, after the answer.
        asked: The same, before the question.
        kind: ``start``, ``answer`` or ``end``.
        until: Until when the answer promised leadership; 0 when it did not.
    """

    at: float
    pod: str
    uid: str
    node: str
    kind: str
    asked: float = 0.0
    status: int = 0
    believes: bool = False
    until: float = 0.0
    lease: str = ""
    term: int = 0
    leader: str = ""
    state: str = ""
    reason: str = ""
    is_stale: bool = False


@dataclass(slots=True)
class Reign:
    """While one pod believed without a break."""

    lease: str
    pod: str
    uid: str
    node: str
    term: int
    since_ms: float
    until_ms: float


@dataclass(slots=True)
class Journal:
    """The files below one folder, read on and on.

    Attributes:
        lines: What was read so far, in the order of each file.
    """

    folder: Path
    lines: list[Line] = field(default_factory=list)
    latest: dict[str, Line] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)

    def read(self) -> list[Line]:
        """Take what was written since the last call."""
        new: list[Line] = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            new += [_line(text) for text in whole.splitlines()]
        new.sort(key=lambda line: line.at)
        self.lines += new
        self.latest.update((line.uid, line) for line in new)
        return new

    def leader(self) -> Line | None:
        """Return the latest answer of the pod that believes now; None while nobody does."""
        self.read()
        now = boottime_ms()
        return next((line for line in self.latest.values() if line.believes and line.until > now), None)

    def wait(self, what: str, is_it: Callable[[Line], bool], timeout_s: float) -> Line:
        """Return the first line from now on that is it.

        Raises:
            AssertionError: None came in time; the text shows the latest line of every pod.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            for line in self.read():
                if is_it(line):
                    return line
            if time.monotonic() > deadline:
                shown = "\n".join(map(str, self.latest.values()))
                raise AssertionError(f"not within {timeout_s:g} s: {what}; the latest of each pod:\n{shown}")
            time.sleep(POLL_S)

    def next_reign(self, term: int, timeout_s: float) -> Line:
        """Wait for the first answer under a later term than ``term``."""
        return self.wait(f"a leader of a term after {term}", lambda line: line.believes and line.term > term, timeout_s)

    # --- judgement -------------------------------------------------------------------------------------------

    def reigns(self) -> list[Reign]:
        """Return who believed when, in order of time."""
        self.read()
        events, who = self._events()
        found = []
        for interval in belief_intervals(events):
            line = who[interval.nonce]
            found.append(
                Reign(
                    interval.lease, line.pod, line.uid, line.node, interval.term, interval.since_ms, interval.until_ms
                )
            )
        return sorted(found, key=lambda reign: reign.since_ms)

    def check(self) -> None:
        """Run the checkers of belief and of tokens.

        Raises:
            Violation: Two pods believed at one instant, or terms did not rise.
        """
        self.read()
        events, _ = self._events()
        check_belief(events)
        seen: set[tuple[str, str, int]] = set()
        grants = []
        for event in events:
            key = (event.lease, event.nonce.split("/")[0], event.term)
            if event.kind is Kind.BELIEVE and key not in seen:
                seen.add(key)
                grants.append(Event(event.at_ms, Kind.BELIEVE, event.lease, f"{key[1]}/{event.term}", event.term))
        check_tokens(grants)

    def leaderless_ms(self, since_ms: float, until_ms: float, lease: str | None = None) -> list[tuple[float, float]]:
        """Return the gaps between beliefs of one lease within a time, as (start, length)."""
        gaps, covered = [], since_ms
        for reign in self.reigns():
            if (lease is not None and reign.lease != lease) or reign.until_ms <= since_ms:
                continue
            start = min(reign.since_ms, until_ms)
            if start > covered:
                gaps.append((covered, start - covered))
            covered = max(covered, reign.until_ms)
        if covered < until_ms:
            gaps.append((covered, until_ms - covered))
        return gaps

    def terms(self, since_ms: float = 0.0, lease: str | None = None) -> list[int]:
        """Return the terms under which somebody believed after a time, each once, in order of time."""
        found = [r.term for r in self.reigns() if r.until_ms > since_ms and lease in (None, r.lease)]
        return list(dict.fromkeys(found))

    def _events(self) -> tuple[list[Event], dict[str, Line]]:
        events: list[Event] = []
        who: dict[str, Line] = {}
        by_pod: dict[tuple[str, str], list[Line]] = {}
        for line in self.lines:
            by_pod.setdefault((line.uid, line.lease if line.kind == "answer" else ""), []).append(line)
        for (uid, lease), lines in by_pod.items():
            if lease:
                marks = by_pod.get((uid, ""), [])
                events += _beliefs(sorted([*lines, *marks], key=lambda line: line.at), who, lease)
        return sorted(events, key=lambda event: event.at_ms), who


def _beliefs(lines: Iterable[Line], who: dict[str, Line], lease: str) -> list[Event]:
    events: list[Event] = []
    stint, nonce, until, term = 0, "", 0.0, 0
    for line in lines:
        if not line.believes:
            # Also a start: the application before this one is dead, and believes nothing.
            if nonce:
                events.append(Event(line.at, Kind.UNBELIEVE, lease, nonce, term))
            nonce = ""
        elif line.until > line.at:  # an answer that was old when it came is none
            if nonce and (line.at >= until or line.term != term):
                nonce = ""
            if nonce:
                if line.until > until:
                    events.append(Event(line.at, Kind.RENEWED, lease, nonce, term, line.until))
            else:
                stint, term = stint + 1, line.term
                nonce = f"{line.uid}/{lease}/{term}/{stint}"
                who[nonce] = line
                events.append(Event(line.at, Kind.BELIEVE, lease, nonce, term, line.until))
            until = max(until, line.until)
    return events


def _line(text: bytes) -> Line:
    fields = json.loads(text)
    known = {name: fields[name] for name in Line.__dataclass_fields__ if fields.get(name) is not None}
    if fields.get("believes") and fields.get("until") is None:
        known["until"] = float("inf")
    return Line(**known)
