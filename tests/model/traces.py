"""Traces of the code in the words of the model, and TLC's word on them.

A ``Trace`` is what happened to one register: promises, acceptances, proposals, renewals, releases, restarts, beliefs,
and the time between them. ``check`` asks TLC about many at once (``spec/Trace.tla``): each must be a behaviour of the
model, step by step, and the first step that is none is named together with the rules that forbid it.

Rule 1: the times of the code are compared and not taken over: the model's acceptors wait for as short, and its holders
        believe for as long, as the worst clocks allow.
Rule 2: a prefix of a behaviour is a behaviour, so long traces end after ``EVENTS_MAX`` steps.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value, validity_ms
from support import tlc

Event = dict[str, Any]

EVENTS_MAX: Final = 1_500
"""Steps of one trace that are checked."""
FOREVER: Final = 1_000_000
"""``Forever`` of the model, in milliseconds."""
MEMBERS_MAX: Final = 7

RULES: Final = {
    "time": "section 4",
    "promise": "R1 (the guard and its evidence), R3 (strictly greater)",
    "propose": "R3 (one value for a ballot), R6 (a majority of promises), R7 (the highest value decides the term)",
    "accept": "R3 (the value of its ballot), R4 (not below the promise), section 4 (the whole duration)",
    "repeat": "R2 (only what is durable, under an unbroken promise)",
    "renewed": "R2 (only what is durable, under an unbroken promise)",
    "restart": "R5 (promises and timers survive)",
    "release": "section 3 (exactly one value, whose holder has let go)",
    "let go": "section 5",
    "send renew": "R2 (only what was proposed)",
    "believe": "R6 (a majority, counted from the own send; what ended stays ended)",
}
"""What a step of each kind has to keep to."""


@dataclass
class Trace:
    """What happened to one register.

    Attributes:
        name: For people.
        members: Who votes.
        rho: Bound on the rate error of every clock.
        owners: Ballot -> the nonce that it is prepared for; empty for nobody yet.
        values: Ballot -> what was proposed under it.
    """

    name: str
    members: Sequence[str]
    rho: float = 0.0
    margin: bool = True
    events: list[Event] = field(default_factory=list)
    owners: dict[Ballot, str] = field(default_factory=dict)
    values: dict[Ballot, Value] = field(default_factory=dict)
    now_ms: int = 0

    def add(self, now_ms: float, kind: str, **fields: Any) -> None:
        """Append a step that was taken at this true time."""
        if len(self.events) >= EVENTS_MAX:
            return
        passed = math.floor(now_ms) - self.now_ms
        if passed > 0 and self.events:
            self.events.append({"kind": "time", "ms": passed})
        self.now_ms = math.floor(now_ms)
        self.events.append({"kind": kind, **fields})

    def waits_ms(self, nonce: str) -> int:
        """Return for how long, in true time, the acceptor with the fastest clock guards for this nonce."""
        spans = [v.duration_ms + v.lock_delay_ms for v in self._of(nonce) if v.duration_ms is not None]
        return math.floor(min(spans, default=0) / (1 + self.rho))

    def believes_ms(self, nonce: str) -> int:
        """Return for how long, in true time, the holder with the slowest clocks believes, rounded up."""
        rho_ppm = round(self.rho * 1_000_000)
        durations = [v.duration_ms for v in self._of(nonce) if v.duration_ms is not None]
        spans = [validity_ms(d, rho_ppm) / (1 - self.rho) + 1 if self.margin else d for d in durations]
        return math.ceil(max(spans, default=0))

    def _of(self, nonce: str) -> list[Value]:
        return [value for value in self.values.values() if value.nonce == nonce]


@dataclass(frozen=True)
class Verdict:
    """What TLC says of one trace.

    Attributes:
        steps: How many of its steps the model allows.
        total: How many it has.
        refused: The first step that the model does not allow, in words, and the rules that it must keep to; or empty.
        kind: Of that step.
    """

    steps: int
    total: int
    refused: str = ""
    kind: str = ""

    @property
    def is_allowed(self) -> bool:
        """Tell whether the whole trace is a behaviour of the model."""
        return not self.refused


def check(traces: Sequence[Trace], work: Path, timeout_s: float) -> list[Verdict]:
    """Ask TLC about every trace, in one run.

    Args:
        traces: At least one.
        work: A folder for the files of this run.
        timeout_s: Seconds.

    Raises:
        ValueError: TLC could not read what was written, or found an invariant broken: its report.
    """
    work.mkdir(parents=True, exist_ok=True)
    writers = [_Writer(trace) for trace in traces]
    body = ",\n".join(writer.text() for writer in writers)
    (work / "TraceData.tla").write_text(f"---- MODULE TraceData ----\nTraces == <<\n{body}\n>>\n====\n")
    result = tlc.run("Trace", _configuration(writers), work, timeout_s=timeout_s, workers=1)
    if not result.is_complete:
        raise ValueError(result.output[-6_000:])
    reached = [0] * len(traces)
    for which, at in re.findall(r'<<"step", (\d+), (\d+)>>', result.output):
        reached[int(which) - 1] = max(reached[int(which) - 1], int(at))
    return [_verdict(trace, steps) for trace, steps in zip(traces, reached, strict=True)]


def _verdict(trace: Trace, steps: int) -> Verdict:
    total = len(trace.events)
    if steps == total:
        return Verdict(steps, total)
    event = trace.events[steps]
    words = ", ".join(f"{name}: {_short(item)}" for name, item in event.items() if name != "kind")
    text = f"{trace.name}: step {steps + 1} of {total}, {event['kind']} ({words}) breaks {RULES[event['kind']]}"
    return Verdict(steps, total, text, event["kind"])


def _short(item: Any) -> str:
    return f"term {item.term} of {item.nonce[:8] or 'nobody'}" if isinstance(item, Value) else str(item)


class _Writer:
    """Writes one trace as a TLA+ record: ballots by rank, nonces and members by number."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        ballots = {item for event in trace.events for item in event.values() if isinstance(item, Ballot)}
        self.ranks = {ballot: rank for rank, ballot in enumerate(sorted(ballots - {ZERO}), 1)}
        self.ranks[ZERO] = 0
        nonces = {trace.owners.get(ballot, "") for ballot in ballots} | {v.nonce for v in trace.values.values()}
        nonces |= {event["c"] for event in trace.events if "c" in event}
        self.nonces = ["", *sorted(nonces - {""})]
        self.clients = {nonce: number for number, nonce in enumerate(self.nonces)}
        self.members = {name: f'"n{number}"' for number, name in enumerate(sorted(trace.members))}

    def text(self) -> str:
        """Return the record."""
        trace = self.trace
        ordered = sorted((ballot for ballot in self.ranks if ballot != ZERO), key=self.ranks.__getitem__)
        nevers = {value.nonce for value in trace.values.values() if value.is_never}
        fields = {
            "members": f"{{{', '.join(self.members.values())}}}",
            "owner": _tuple(str(self.clients[trace.owners.get(ballot, "")]) for ballot in ordered),
            "waits": _tuple(str(trace.waits_ms(nonce)) for nonce in self.nonces[1:]),
            "believes": _tuple(str(trace.believes_ms(nonce)) for nonce in self.nonces[1:]),
            "never": f"{{{', '.join(str(self.clients[nonce]) for nonce in sorted(nevers))}}}",
            "events": _tuple((self._event(event) for event in trace.events), ",\n"),
        }
        return "[" + ",\n".join(f"{name} |-> {text}" for name, text in fields.items()) + "]"

    def longest_ms(self) -> int:
        """Return the longest belief."""
        return max((self.trace.believes_ms(nonce) for nonce in self.nonces[1:]), default=1)

    def _event(self, event: Event) -> str:
        return "[" + ", ".join(f"{name} |-> {self._term(name, item)}" for name, item in event.items()) + "]"

    def _term(self, name: str, item: Any) -> str:
        if name == "a":
            return self.members[item]
        if name == "c":
            return str(self.clients[item])
        if isinstance(item, Ballot):
            return str(self.ranks[item])
        if isinstance(item, Value) or item is None:
            holder, term = (self.clients[item.nonce], item.term) if item is not None else (0, 0)
            return f"[h |-> {holder}, t |-> {term}]"
        return str(item) if isinstance(item, int) else f'"{item}"'


def _tuple(items: Any, separator: str = ", ") -> str:
    return "<<" + separator.join(items) + ">>"


def _configuration(writers: Sequence[_Writer]) -> str:
    members = "{" + ", ".join(f'"n{number}"' for number in range(MEMBERS_MAX)) + "}"
    clients = "{" + ", ".join(map(str, range(1, max(2, *(len(w.nonces) for w in writers))))) + "}"
    constants = {
        "Old": members,
        "New": members,
        "Clients": clients,
        "NeverClients": "{}",
        "MaxB": max(1, *(len(writer.ranks) - 1 for writer in writers)),
        "Duration": max(1, *(writer.longest_ms() for writer in writers)),
        "Skew": 0,
        "Margin": 0,
        "Block": 1,
        "Holders": clients,
        "Steps": '{"tick", "restart", "repeat", "renew", "release", "vacate", "handover"}',
        "Mut": "{}",
    }
    replaced = ("Owner", "IsNever", "GuardOf", "BeliefOf", "IsQuorum")
    lines = ["SPECIFICATION TraceSpec", "INVARIANT Belief Agreement", "CONSTANTS"]
    lines += [f"    {name} <- Trace{name}" for name in replaced]
    lines += [f"    {name} = {value}" for name, value in constants.items()]
    return "\n".join(lines) + "\n"
