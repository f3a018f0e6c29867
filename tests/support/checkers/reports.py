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


def check_honesty(history: Iterable[Event]) -> None:
    """Refuse a grant that was not chosen, and outcomes of one nonce that exclude each other.

    A nonce has at most one term. Once a grant of it was heard, or a node reported it as chosen, "denied" can only be
    said after it stopped believing; "unknown" may be followed by either, and never by two different grants.

    Raises:
        Violation: One of these.
    """
    history = list(history)
    chosen = {
        (lease, event.term): event for lease, events in by_lease(history, Kind.CHOSEN).items() for event in events
    }
    kinds = (Kind.BELIEVE, Kind.CHOSEN, Kind.DENIED, Kind.UNKNOWN, Kind.UNBELIEVE)
    for lease, events in by_lease(history, *kinds).items():
        terms: dict[str, int] = {}
        ended: set[str] = set()
        for event in events:
            if event.kind is Kind.UNBELIEVE:
                ended.add(event.nonce)
            elif event.kind is Kind.DENIED:
                if event.nonce in terms and event.nonce not in ended:
                    term = terms[event.nonce]
                    raise Violation(f"honesty: {event.nonce} was denied {lease}, chosen for it in term {term}")
            elif event.kind in (Kind.BELIEVE, Kind.CHOSEN):
                before = terms.setdefault(event.nonce, event.term)
                if before != event.term:
                    raise Violation(f"honesty: {event.nonce} has terms {before} and {event.term} of {lease}")
            if event.kind is Kind.BELIEVE:
                other = chosen.get((lease, event.term))
                if other is not None and other.nonce != event.nonce:
                    raise Violation(
                        f"honesty: term {event.term} of {lease} was granted to {event.nonce}, and {other.node} reports "
                        f"{other.nonce} as chosen"
                    )
