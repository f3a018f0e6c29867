"""Agreement and honesty: what nodes reported and what candidates heard never contradict each other."""

from collections.abc import Iterable

from support.checkers.history import Event, Kind, Violation, by_lease


def check_agreement(history: Iterable[Event]) -> None:
    """Refuse two different holders that were reported as chosen for one (lease, term).

    Raises:
        Violation: There are.
    """
    for lease, events in by_lease(history, Kind.CHOSEN).items():
        first: dict[int, Event] = {}
        for event in events:
            before = first.setdefault(event.term, event)
            if before.nonce != event.nonce:
                raise Violation(
                    f"agreement: {before.node} reports {before.nonce} as chosen for term {event.term} of {lease}, "
                    f"{event.node} reports {event.nonce}"
                )


def late_grants(history: Iterable[Event]) -> list[Event]:
    """Return reports that a nonce is chosen for a later term than the one that it believed, one for each such term."""
    believed: dict[tuple[str, str], int] = {}
    late: dict[tuple[str, str, int], Event] = {}
    for event in sorted(history, key=lambda event: event.kind is Kind.CHOSEN):
        if event.kind is Kind.BELIEVE:
            believed.setdefault((event.lease, event.nonce), event.term)
        elif event.kind is Kind.CHOSEN and event.term > believed.get((event.lease, event.nonce), event.term):
            late.setdefault((event.lease, event.nonce, event.term), event)
    return list(late.values())


def check_honesty(history: Iterable[Event], *, may_be_late: bool = False) -> None:
    """Refuse a grant that was not chosen, and outcomes of one nonce that exclude each other.

    A nonce believes at most one term, and is not chosen for a later one. It may have been chosen for an earlier one,
    when the grant was not heard in time. "Denied" is a lie to a nonce that believes, and to one that was held for both
    before and after. "Unknown" excludes nothing but the second belief.

    Args:
        may_be_late: A nonce may be chosen for a later term all the same. A node that was cut off from a candidate does
            not know that another node has served it since; nobody believes such a grant, and it expires.

    Raises:
        Violation: One of these.
    """
    history = list(history)
    for event in [] if may_be_late else late_grants(history):
        raise Violation(f"honesty: {event.nonce} is chosen for {event.term} of {event.lease} after it believed")
    for lease, events in by_lease(history, Kind.BELIEVE, Kind.CHOSEN, Kind.DENIED, Kind.UNBELIEVE).items():
        owners = {event.term: event for event in events if event.kind is Kind.CHOSEN}
        believed: dict[str, int] = {}
        for event in (event for event in events if event.kind is Kind.BELIEVE):
            owner = owners.get(event.term, event)
            if owner.nonce != event.nonce:
                raise Violation(
                    f"honesty: term {event.term} of {lease} was granted to {event.nonce}, and {owner.node} reports "
                    f"{owner.nonce} as chosen"
                )
            if believed.setdefault(event.nonce, event.term) != event.term:
                raise Violation(f"honesty: {event.nonce} believes terms {believed[event.nonce]} and {event.term}")
        _check_denials(lease, events)


def _check_denials(lease: str, events: Iterable[Event]) -> None:
    seen: dict[tuple[str, int], Event] = {}
    believing: set[str] = set()
    denied: dict[str, float] = {}
    for event in events:
        if event.kind is Kind.BELIEVE:
            believing.add(event.nonce)
        elif event.kind is Kind.UNBELIEVE:
            believing.discard(event.nonce)
        elif event.kind is Kind.DENIED:
            denied[event.nonce] = event.at_ms
            if event.nonce in believing:
                raise Violation(f"honesty: {event.nonce} was denied {lease}, which it holds")
        else:
            first = seen.setdefault((event.nonce, event.term), event)
            if first.at_ms < denied.get(event.nonce, first.at_ms):
                raise Violation(f"honesty: {event.nonce} was denied {lease} while it was held for it")
