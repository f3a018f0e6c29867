"""Belief: no two nonces believe that they hold the same lease at the same instant."""

from collections.abc import Iterable
from dataclasses import dataclass

from support.checkers.history import Event, Kind, Violation, by_lease


@dataclass(slots=True)
class Interval:
    """While a nonce believes: from ``since_ms`` to before ``until_ms``."""

    lease: str
    nonce: str
    term: int
    since_ms: float
    until_ms: float
    is_over: bool = False


def belief_intervals(history: Iterable[Event]) -> list[Interval]:
    """Return who believed when.

    A holder believes until its validity ends, whether its process runs or not, unless it said before that it stopped.

    Raises:
        Violation: A nonce believes again after it stopped, or after its validity had ended (H18).
    """
    intervals: list[Interval] = []
    for events in by_lease(history, Kind.BELIEVE, Kind.RENEWED, Kind.UNBELIEVE).values():
        open_: dict[str, Interval] = {}
        for event in events:
            mine = open_.get(event.nonce)
            if mine is None:
                if event.kind is Kind.BELIEVE:
                    mine = Interval(event.lease, event.nonce, event.term, event.at_ms, event.until_ms)
                    open_[event.nonce] = mine
                    intervals.append(mine)
                continue
            if event.kind is Kind.UNBELIEVE:
                mine.until_ms = min(mine.until_ms, event.at_ms)
                mine.is_over = True
            elif event.until_ms > mine.until_ms:
                if mine.is_over or event.at_ms >= mine.until_ms:
                    raise Violation(f"belief: {event.nonce} believes {event.lease} again at {event.at_ms}")
                mine.until_ms = event.until_ms
    return intervals


def check_belief(history: Iterable[Event]) -> None:
    """Refuse a history in which two nonces believe at the same instant.

    Raises:
        Violation: They do.
    """
    last: dict[str, Interval] = {}
    for interval in sorted(belief_intervals(history), key=lambda one: one.since_ms):
        before = last.get(interval.lease)
        if before is not None and interval.since_ms < before.until_ms:
            raise Violation(
                f"belief: at {interval.since_ms} both {before.nonce} (term {before.term}, until {before.until_ms}) "
                f"and {interval.nonce} (term {interval.term}) believe that they hold {interval.lease}"
            )
        if before is None or interval.until_ms >= before.until_ms:
            last[interval.lease] = interval
