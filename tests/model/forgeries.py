"""Traces in which one step was changed: each breaks one rule, and the model must refuse exactly that step.

A forgery takes a true trace and returns the changed one, cut off after the step that must be refused; or None where the
trace has no place for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import msgspec

from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value
from model.traces import Event, Trace

STRANGER = "f" * 32
"""A nonce that no trace has."""


class Seen(NamedTuple):
    """One step, and what stood before it.

    Attributes:
        at: Its position.
        prom, ab, av: Of the acceptor that takes it: promised, accepted ballot and value.
        top: The highest ballot that anybody has accepted.
        ended: Nonces that have let go.
    """

    at: int
    event: Event
    prom: Ballot
    ab: Ballot
    av: Value | None
    top: Ballot
    ended: frozenset[str]


def _steps(trace: Trace) -> Iterator[Seen]:
    known: dict[str, tuple[Ballot, Ballot, Value | None]] = {}
    top, ended = ZERO, frozenset[str]()
    for at, event in enumerate(trace.events):
        name = event.get("a", "")
        prom, ab, av = known.get(name, (ZERO, ZERO, None))
        yield Seen(at, event, prom, ab, av, top, ended)
        if "prom" in event:
            known[name] = (event["prom"], event["ab"], event["v"])
            top = max(top, event["ab"])
        if event["kind"] == "let go":
            ended |= {event["c"]}


def _forge(trace: Trace, at: int, *steps: Event) -> Trace:
    """Return the trace up to position ``at``, ended by ``steps``."""
    return replace(trace, events=[*trace.events[:at], *steps], owners=dict(trace.owners), values=dict(trace.values))


def _above(trace: Trace, owner: str) -> tuple[Trace, Ballot]:
    """Return a copy of the trace with a ballot above all others, prepared for ``owner``."""
    every = [item for event in trace.events for item in event.values() if isinstance(item, Ballot)]
    ballot = Ballot(max(ballot.counter for ballot in every) + 1, "forged", 1)
    return replace(trace, owners={**trace.owners, ballot: owner}, values=dict(trace.values)), ballot


def guard_passed_over(trace: Trace) -> Trace | None:
    """A member promises a stranger while its timer for the holder has just begun."""
    for seen in _steps(trace):
        event = seen.event
        if event["kind"] == "accept" and event["v"].holder is not None and event["ab"] >= seen.top:
            forged, ballot = _above(trace, STRANGER)
            promise = {"kind": "promise", "a": event["a"], "prom": ballot, "ab": event["ab"], "v": event["v"]}
            if event["left"] and not _is_released_next(trace, seen.at):
                return _forge(forged, seen.at + 1, promise)
    return None


def _is_released_next(trace: Trace, at: int) -> bool:
    return at + 1 < len(trace.events) and trace.events[at + 1]["kind"] == "release"


def promise_given_twice(trace: Trace) -> Trace | None:
    """A member promises the same ballot once more."""
    for seen in _steps(trace):
        if seen.event["kind"] == "promise":
            return _forge(trace, seen.at + 1, seen.event)
    return None


def accepted_below_the_promise(trace: Trace) -> Trace | None:
    """A member has promised a higher ballot, and accepts all the same."""
    for seen in _steps(trace):
        event = seen.event
        if event["kind"] == "accept":
            forged, ballot = _above(trace, seen.av.nonce if seen.av is not None else STRANGER)
            promise = {"kind": "promise", "a": event["a"], "prom": ballot, "ab": seen.ab, "v": seen.av}
            return _forge(forged, seen.at, promise, event)
    return None


def another_value_accepted(trace: Trace) -> Trace | None:
    """What a member accepts is not what was proposed."""
    for seen in _steps(trace):
        if seen.event["kind"] == "accept":
            value = msgspec.structs.replace(seen.event["v"], term=seen.event["v"].term + 1)
            return _forge(trace, seen.at, {**seen.event, "v": value})
    return None


def two_values_under_one_ballot(trace: Trace) -> Trace | None:
    """A ballot proposes a second value."""
    for seen in _steps(trace):
        if seen.event["kind"] == "propose":
            value = msgspec.structs.replace(seen.event["v"], term=seen.event["v"].term + 1)
            return _forge(trace, seen.at + 1, {**seen.event, "v": value})
    return None


def proposed_without_promises(trace: Trace) -> Trace | None:
    """A ballot proposes, and a promise that its majority needed was never given."""
    for seen in _steps(trace):
        ballot = seen.event.get("b")
        if seen.event["kind"] == "propose":
            given = [event for event in trace.events[: seen.at] if event.get("prom") == ballot]
            if len(given) == len(trace.members) // 2 + 1 and all(event["kind"] == "promise" for event in given):
                last = max(at for at, event in enumerate(trace.events[: seen.at]) if event is given[-1])
                forged = replace(trace, events=trace.events[:last] + trace.events[last + 1 :])
                return _forge(forged, seen.at - 1, seen.event)
    return None


def term_not_counted_up(trace: Trace) -> Trace | None:
    """A new holder gets the term of the one before."""
    holders: dict[int, str] = {}
    for seen in _steps(trace):
        value = seen.event.get("v")
        if seen.event["kind"] == "propose" and value.holder is not None:
            if holders.get(value.term - 1, value.nonce) != value.nonce:
                return _forge(trace, seen.at, {**seen.event, "v": msgspec.structs.replace(value, term=value.term - 1)})
            holders[value.term] = value.nonce
    return None


def restarted_without_its_promise(trace: Trace) -> Trace | None:
    """A member comes back and has forgotten what it promised."""
    for seen in _steps(trace):
        if seen.event["kind"] == "restart" and seen.prom > ZERO:
            return _forge(trace, seen.at, {**seen.event, "prom": ZERO})
    return None


def restarted_without_its_timer(trace: Trace) -> Trace | None:
    """A member comes back and does not wait for the holder."""
    for seen in _steps(trace):
        value = seen.event.get("v")
        if seen.event["kind"] == "restart" and value is not None and value.holder is not None:
            return _forge(trace, seen.at, {**seen.event, "left": 0})
    return None


def waits_too_short(trace: Trace) -> Trace | None:
    """A member's timer runs for half of what was agreed."""
    for seen in _steps(trace):
        value = seen.event.get("v")
        if seen.event["kind"] == "accept" and value.holder is not None and value.duration_ms is not None:
            return _forge(trace, seen.at, {**seen.event, "left": value.duration_ms // 2})
    return None


def renewed_under_a_broken_promise(trace: Trace) -> Trace | None:
    """A member has promised a higher ballot and acknowledges a renewal of the lower one."""
    for seen in _steps(trace):
        if seen.event["kind"] == "promise" and seen.event["v"] is not None and seen.event["v"].holder is not None:
            ballot, nonce = seen.event["ab"], seen.event["v"].nonce
            if nonce not in seen.ended and ballot in trace.values:
                send = {"kind": "send renew", "c": nonce, "b": ballot}
                answer = {"kind": "renewed", "a": seen.event["a"], "b": ballot, "age": 0, "left": 1_000_000}
                return _forge(trace, seen.at + 1, send, answer)
    return None


def believed_without_a_majority(trace: Trace) -> Trace | None:
    """A client believes what was proposed, before anybody has accepted it."""
    for seen in _steps(trace):
        value = seen.event.get("v")
        is_first = seen.event["kind"] == "propose" and value not in [e.get("v") for e in trace.events[: seen.at]]
        if is_first and value.holder is not None and value.nonce not in seen.ended:
            return _forge(trace, seen.at + 1, {"kind": "believe", "c": value.nonce, "t": value.term, "left": 0})
    return None


def believed_for_too_long(trace: Trace) -> Trace | None:
    """A client believes for longer than its duration and the margin allow, as one that counts from the answer may."""
    for seen in _steps(trace):
        nonce = seen.event.get("c", "")
        if seen.event["kind"] == "believe" and (span_ms := trace.believes_ms(nonce)):
            return _forge(trace, seen.at, {**seen.event, "left": span_ms + 1})
    return None


def believed_after_its_end(trace: Trace) -> Trace | None:
    """A client has let go, and believes once more."""
    for seen in _steps(trace):
        if seen.event["kind"] == "let go":
            nonce = seen.event["c"]
            term = max(value.term for value in trace.values.values() if value.nonce == nonce)
            return _forge(trace, seen.at + 1, {"kind": "believe", "c": nonce, "t": term, "left": 0})
    return None


def released_while_it_holds(trace: Trace) -> Trace | None:
    """A member stops its timer for a holder that has not let go."""
    for seen in _steps(trace):
        value = seen.event.get("v")
        if seen.event["kind"] == "accept" and value.holder is not None and value.nonce not in seen.ended:
            return _forge(trace, seen.at + 1, {"kind": "release", "a": seen.event["a"]})
    return None


Forgery = Callable[[Trace], Trace | None]

FORGERIES: dict[str, tuple[str, Forgery]] = {
    forge.__name__: (kind, forge)
    for kind, forge in (
        ("promise", guard_passed_over),
        ("promise", promise_given_twice),
        ("accept", accepted_below_the_promise),
        ("accept", another_value_accepted),
        ("propose", two_values_under_one_ballot),
        ("propose", proposed_without_promises),
        ("propose", term_not_counted_up),
        ("restart", restarted_without_its_promise),
        ("restart", restarted_without_its_timer),
        ("accept", waits_too_short),
        ("renewed", renewed_under_a_broken_promise),
        ("believe", believed_without_a_majority),
        ("believe", believed_for_too_long),
        ("believe", believed_after_its_end),
        ("release", released_while_it_holds),
    )
}
"""Name -> the kind of step that must be refused, and who forges it."""
