"""Histories that no order explains are refused; also when many reports of one term were folded into two."""

import pytest

from support.checkers.history import Event, Kind, Violation
from support.checkers.linear import check_linearizable, operations

LEASE = "shop/billing"


def asked(at_ms: float, nonce: str) -> Event:
    return Event(at_ms, Kind.ASKED, LEASE, nonce)


def believe(at_ms: float, nonce: str, term: int) -> Event:
    return Event(at_ms, Kind.BELIEVE, LEASE, nonce, term, at_ms + 1000)


def chosen(began_ms: float, at_ms: float, nonce: str, term: int) -> Event:
    return Event(at_ms, Kind.CHOSEN, LEASE, nonce, term, node="node-0", began_ms=began_ms)


def denied(at_ms: float, nonce: str) -> Event:
    return Event(at_ms, Kind.DENIED, LEASE, nonce)


GOOD = [
    asked(0, "a"),
    asked(10, "b"),
    chosen(80, 95, "a", 1),
    believe(100, "a", 1),
    chosen(150, 160, "a", 1),
    denied(200, "c"),
    believe(900, "b", 2),
    chosen(850, 910, "a", 1),
    chosen(890, 911, "b", 2),
    asked(920, "d"),
    chosen(950, 960, "d", 3),
]


def test_grants_and_reports_that_overlap() -> None:
    """A report that was asked for before a grant may still name the one before; a grant may never be heard of."""
    check_linearizable(GOOD)


@pytest.mark.parametrize(
    "late",
    [
        chosen(905, 915, "a", 1),
        chosen(970, 980, "b", 2),
        chosen(970, 980, "z", 4),
        believe(990, "e", 2),
        chosen(5, 6, "b", 2),
    ],
    ids=["older after newer", "older after an unheard one", "nobody asked", "term again", "before it asked"],
)
def test_what_no_order_explains_is_refused(late: Event) -> None:
    """One event more, and there is no order any more."""
    with pytest.raises(Violation, match="linearizability"):
        check_linearizable([*GOOD, late])


def test_many_reports_of_one_term_are_two_operations() -> None:
    """The one that was asked for last and the one that came first say all that the others do."""
    many = [chosen(200 + i, 201 + i, "a", 1) for i in range(500)]
    reads = [op for op in operations(sorted([*GOOD, *many], key=lambda event: event.at_ms)) if op.kind == "read"]
    assert [(op.invoked, op.returned) for op in reads if op.term == 1] == [(80, 95), (850, 910)]
    with pytest.raises(Violation, match="linearizability"):
        check_linearizable([*GOOD, *many, chosen(905, 915, "a", 1)])
