"""A checker is worth what it rejects: histories that each must refuse, and good ones that all accept."""

import json
from pathlib import Path

import pytest

from support.checkers.belief import belief_intervals, check_belief
from support.checkers.history import Event, Kind, Violation, read_history, show
from support.checkers.progress import check_progress
from support.checkers.reports import check_agreement, check_honesty
from support.checkers.terms import check_durability, check_fence, check_tokens

LEASE = "shop/billing"


def believe(at_ms: float, nonce: str, term: int, until_ms: float) -> Event:
    return Event(at_ms, Kind.BELIEVE, LEASE, nonce, term, until_ms)


def renewed(at_ms: float, nonce: str, term: int, until_ms: float) -> Event:
    return Event(at_ms, Kind.RENEWED, LEASE, nonce, term, until_ms)


def unbelieve(at_ms: float, nonce: str, term: int) -> Event:
    return Event(at_ms, Kind.UNBELIEVE, LEASE, nonce, term)


def write(at_ms: float, nonce: str, term: int) -> Event:
    return Event(at_ms, Kind.WRITE, LEASE, nonce, term)


def chosen(at_ms: float, nonce: str, term: int, node: str = "node-0") -> Event:
    return Event(at_ms, Kind.CHOSEN, LEASE, nonce, term, node=node)


def heard(at_ms: float, kind: Kind, nonce: str) -> Event:
    return Event(at_ms, kind, LEASE, nonce)


GOOD = [
    heard(50, Kind.UNKNOWN, "a"),
    believe(100, "a", 1, 1100),
    chosen(120, "a", 1),
    write(150, "a", 1),
    heard(200, Kind.DENIED, "b"),
    renewed(400, "a", 1, 1400),
    chosen(500, "a", 1, "node-1"),
    unbelieve(900, "a", 1),
    believe(905, "b", 2, 1905),
    write(950, "b", 2),
    heard(960, Kind.DENIED, "a"),
    believe(1905, "c", 4, 2905),
]


def test_all_accept_a_good_history() -> None:
    """A release, an expiry that the next holder waits out to the millisecond, and a term that nobody heard of."""
    check_belief(GOOD)
    check_tokens(GOOD)
    check_fence(GOOD)
    check_agreement(GOOD)
    check_honesty(GOOD)
    check_progress(GOOD, 1000, {LEASE: 1000}, 100)
    check_durability(GOOD, [{LEASE: 4}, {LEASE: 5}, {}])


def test_belief_intervals_end_at_the_last_renewal_or_before() -> None:
    """A release ends one early; silence ends one when its validity does."""
    found = [(i.nonce, i.since_ms, i.until_ms) for i in belief_intervals(GOOD)]
    assert found == [("a", 100, 900), ("b", 905, 1905), ("c", 1905, 2905)]


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([believe(0, "a", 1, 1000), believe(999, "b", 2, 1999)], id="before-the-end"),
        pytest.param([believe(0, "a", 1, 1000), renewed(500, "a", 1, 1500), believe(1200, "b", 2, 2200)], id="renewed"),
        pytest.param(
            [believe(0, "a", 1, 1000), believe(500, "b", 2, 600), believe(700, "c", 3, 1700)], id="inside-another"
        ),
        pytest.param([believe(0, "a", 1, 1000), renewed(1000, "a", 1, 2000)], id="renewed-after-the-end"),
        pytest.param(
            [believe(0, "a", 1, 1000), unbelieve(300, "a", 1), renewed(301, "a", 1, 1301)], id="back-from-the-dead"
        ),
        pytest.param([believe(0, "a", 1, float("inf")), believe(9e9, "b", 2, 9e9 + 1)], id="a-lease-without-end"),
        pytest.param(
            [believe(0, "a", 1, 1000), believe(990, "b", 2, 1990), unbelieve(995, "a", 1)], id="stopped-too-late"
        ),
    ],
)
def test_belief_refuses(history: list[Event]) -> None:
    """Two believe at one instant, or one believes again."""
    with pytest.raises(Violation, match="belief"):
        check_belief(history)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([believe(0, "a", 1, 1), believe(2, "b", 1, 3)], id="one-term-for-two"),
        pytest.param([believe(0, "a", 2, 1), believe(2, "b", 1, 3)], id="falls"),
        pytest.param([believe(0, "a", 1, 1), believe(2, "a", 1, 3)], id="granted-twice"),
        pytest.param([believe(0, "a", 1, 1), believe(2, "b", 2, 3), believe(4, "c", 1, 5)], id="starts-again"),
    ],
)
def test_tokens_refuses(history: list[Event]) -> None:
    """Terms that do not rise with every grant."""
    with pytest.raises(Violation, match="tokens"):
        check_tokens(history)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([write(0, "b", 2), write(1, "a", 1)], id="older-after-newer"),
        pytest.param([write(0, "a", 1), write(1, "b", 1)], id="two-writers-under-one-term"),
    ],
)
def test_fence_refuses(history: list[Event]) -> None:
    """Effects that interleave."""
    with pytest.raises(Violation, match="tokens"):
        check_fence(history)


def test_agreement_refuses_two_values_for_one_term() -> None:
    """Whether two nodes say so or one, at different times."""
    for node in ("node-0", "node-1"):
        with pytest.raises(Violation, match="agreement"):
            check_agreement([chosen(0, "a", 1), chosen(1, "b", 1, node)])


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([believe(0, "a", 1, 10), chosen(1, "b", 1)], id="granted-but-another-was-chosen"),
        pytest.param([chosen(0, "b", 1), believe(1, "a", 1, 10)], id="another-was-chosen-before"),
        pytest.param([believe(0, "a", 1, 10), heard(1, Kind.DENIED, "a")], id="denied-while-granted"),
        pytest.param([chosen(0, "a", 1), heard(1, Kind.DENIED, "a"), chosen(2, "a", 1)], id="denied-while-chosen"),
        pytest.param(
            [heard(0, Kind.UNKNOWN, "a"), believe(1, "a", 1, 10), believe(20, "a", 2, 30)], id="unknown-then-two-terms"
        ),
        pytest.param([believe(0, "a", 1, 10), unbelieve(5, "a", 1), chosen(9, "a", 2)], id="chosen-again-when-dead"),
        pytest.param([believe(0, "a", 1, 10), believe(20, "a", 2, 30)], id="one-nonce-two-terms"),
    ],
)
def test_honesty_refuses(history: list[Event]) -> None:
    """Answers that were not true."""
    with pytest.raises(Violation, match="honesty"):
        check_honesty(history)


def test_honesty_accepts_a_grant_that_nobody_heard() -> None:
    """Its answer was lost, it ended, and the nonce was denied later, or holds a later term."""
    check_honesty([heard(0, Kind.UNKNOWN, "a"), chosen(1, "a", 1), heard(2, Kind.DENIED, "a")])
    check_honesty([chosen(1, "a", 1), believe(2, "a", 3, 10), chosen(3, "a", 3)])


def test_honesty_accepts_a_late_grant_only_if_told() -> None:
    """A node that was cut off from a candidate elects it once more, after another node has served it."""
    history = [believe(0, "a", 1, 10), unbelieve(5, "a", 1), chosen(9, "a", 3), chosen(10, "a", 3, "node-1")]
    check_honesty(history, may_be_late=True)
    with pytest.raises(Violation, match="chosen for 3 of shop/billing after it believed"):
        check_honesty(history)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([], id="never-held"),
        pytest.param([believe(0, "a", 1, 900)], id="held-before-only"),
        pytest.param([believe(2101, "a", 1, 3000)], id="too-late"),
    ],
)
def test_progress_refuses(history: list[Event]) -> None:
    """A lease that is wanted, and not held in time after the faults stopped at 1000."""
    with pytest.raises(Violation, match="progress"):
        check_progress(history, 1000, {LEASE: 1000}, 100)


def test_progress_accepts_a_holder_that_never_lost_it() -> None:
    """Held through the faults is held."""
    check_progress([believe(0, "a", 1, 900), renewed(800, "a", 1, 1700)], 1000, {LEASE: 1000}, 100)


def test_durability_refuses_a_term_that_only_a_minority_has() -> None:
    """Two of three disks went back to term 0."""
    with pytest.raises(Violation, match="durability"):
        check_durability([believe(0, "a", 1, 10)], [{LEASE: 1}, {LEASE: 0}, {}])


def test_read_history_leaves_out_half_a_line(tmp_path: Path) -> None:
    """A process that was killed while it wrote does not hide what it wrote before, nor what others wrote."""
    fields = {"at_ms": 2.0, "kind": "believe", "lease": LEASE, "nonce": "a", "term": 1, "until_ms": 10.0}
    (tmp_path / "a").write_text(json.dumps(fields) + '\n{"at_ms": 3.0, "ki')
    (tmp_path / "b").write_text(json.dumps({"at_ms": 1.0, "kind": "denied", "lease": LEASE, "nonce": "b"}) + "\n")
    history = read_history([tmp_path / "a", tmp_path / "b"])
    assert history == [heard(1.0, Kind.DENIED, "b"), believe(2.0, "a", 1, 10.0)]
    assert "term 1 a until 10.000" in show(history)
