"""Linearizability of what clients heard: grants, denials, and what nodes reported as chosen."""

from collections.abc import Iterable

from sim.linearizability import Op, is_linearizable
from support.checkers.history import Event, Kind, Violation, by_lease, show


def operations(events: Iterable[Event]) -> list[Op]:
    """Return the operations of one lease.

    Of all reports of one (term, nonce) two are kept: the one that was asked for last and the one that came first. A
    term that ended does not come back, so where these two fit, all others do.
    """
    asked: dict[str, float] = {}
    answered: set[str] = set()
    last: dict[tuple[int, str], Op] = {}
    first: dict[tuple[int, str], Op] = {}
    ops: list[Op] = []
    for event in events:
        if event.kind is Kind.ASKED:
            asked.setdefault(event.nonce, event.at_ms)
        elif event.kind is Kind.BELIEVE:
            answered.add(event.nonce)
            ops.append(Op("acquire", event.nonce, asked.get(event.nonce, 0.0), event.at_ms, event.term))
        elif event.kind is Kind.DENIED:
            ops.append(Op("denied", event.nonce, asked.get(event.nonce, 0.0), event.at_ms))
        elif event.kind is Kind.CHOSEN:
            key = (event.term, event.nonce)
            read = Op("read", event.nonce, event.began_ms, event.at_ms, event.term)
            last[key] = max(last.get(key, read), read, key=lambda op: op.invoked)
            first[key] = min(first.get(key, read), read, key=lambda op: op.returned)
    ops += [Op("acquire", nonce, at_ms) for nonce, at_ms in asked.items() if nonce not in answered]
    return [*ops, *first.values(), *(op for key, op in last.items() if op is not first[key])]


def check_linearizable(history: Iterable[Event]) -> None:
    """Refuse a lease whose answers no order explains that keeps real time.

    Raises:
        Violation: There is none.
    """
    for lease, events in by_lease(history, Kind.ASKED, Kind.BELIEVE, Kind.DENIED, Kind.CHOSEN).items():
        if not is_linearizable(operations(events)):
            raise Violation(f"linearizability: no order explains what clients of {lease} heard\n{show(events)}")
