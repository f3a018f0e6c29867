"""The journals of the end-to-end tests: what applications wrote becomes a history that the checkers judge."""

import json
from pathlib import Path

import pytest

from support.checkers.history import Violation
from support.e2e_journal import Journal

LEASE = "shop/billing"


def write(folder: Path, pod: str, *lines: dict[str, object]) -> None:
    """Append lines of one pod."""
    with (folder / f"{pod}.jsonl").open("a") as file:
        for line in lines:
            file.write(json.dumps({"pod": pod, "uid": f"uid-{pod}", "node": "node-1", **line}) + "\n")


def answer(at: float, term: int = 0, until: float = 0.0) -> dict[str, object]:
    """Return an answer; one with a term says that its pod leads."""
    return {
        "kind": "answer",
        "at": at,
        "asked": at - 1,
        "status": 200,
        "believes": bool(term),
        "until": until or None,
        "lease": LEASE,
        "term": term,
        "leader": None,
        "state": None,
        "reason": "",
    }


def test_hand_over_without_overlap_is_sound(tmp_path: Path) -> None:
    """A stops at an answer, B begins later; the time between is leaderless."""
    write(tmp_path, "a", {"kind": "start", "at": 0}, answer(10, 1, 3000), answer(30, 1, 3020), answer(50))
    write(tmp_path, "b", answer(20), answer(60, 2, 3050))
    journal = Journal(tmp_path)
    journal.check()
    assert [(r.pod, r.term, r.since_ms, r.until_ms) for r in journal.reigns()] == [
        ("a", 1, 10, 50),
        ("b", 2, 60, 3050),
    ]
    assert journal.leaderless_ms(10, 100) == [(50, 10)]
    assert journal.terms() == [1, 2]


@pytest.mark.parametrize("rest", [[], [answer(70)]])
def test_two_that_believe_are_found(tmp_path: Path, rest: list[dict[str, object]]) -> None:
    """B begins before A has stopped; it does not matter whether A was heard of again."""
    write(tmp_path, "a", answer(10, 1, 3000), *rest)
    write(tmp_path, "b", answer(60, 2, 3050))
    with pytest.raises(Violation, match="both uid-a"):
        Journal(tmp_path).check()


def test_end_of_an_application_ends_its_belief(tmp_path: Path) -> None:
    """An application that ended believes nothing, however long its last answer was good for."""
    write(tmp_path, "a", answer(10, 1, 3000), {"kind": "end", "at": 40})
    write(tmp_path, "b", answer(60, 2, 3050))
    Journal(tmp_path).check()


def test_killed_application_believes_until_its_last_answer_ends(tmp_path: Path) -> None:
    """Nobody else may lead before; afterwards somebody may."""
    write(tmp_path, "a", answer(10, 1, 3000))
    write(tmp_path, "b", answer(3001, 2, 6000))
    Journal(tmp_path).check()


def test_sidecar_that_goes_on_in_its_term_is_sound(tmp_path: Path) -> None:
    """No answer for a while, then the same term: the lease was held all the time."""
    refused = {"kind": "answer", "at": 30, "asked": 29, "status": 0, "believes": False, "until": None, "lease": None}
    write(tmp_path, "a", answer(10, 1, 3000), refused, answer(500, 1, 3400))
    Journal(tmp_path).check()


def test_term_that_does_not_rise_is_found(tmp_path: Path) -> None:
    """Two pods under one term, one after the other, are a broken token."""
    write(tmp_path, "a", answer(10, 1, 3000), answer(50))
    write(tmp_path, "b", answer(60, 1, 3050))
    with pytest.raises(Violation, match="term 1"):
        Journal(tmp_path).check()


def test_line_that_is_not_complete_is_read_later(tmp_path: Path) -> None:
    """A line is taken when its end is there, and once."""
    file = tmp_path / "a.jsonl"
    text = json.dumps({"pod": "a", "uid": "u", "node": "n", **answer(10, 1, 3000)}) + "\n"
    file.write_text(text[:20])
    journal = Journal(tmp_path)
    assert not journal.read()
    file.write_text(text)
    assert len(journal.read()) == 1
    assert not journal.read()
