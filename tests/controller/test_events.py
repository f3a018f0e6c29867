"""The Events that the plan for one LeaderLease wants: what happened since the last look, told once."""

import msgspec
import pytest

from leaderlease.controller.actions import Post
from leaderlease.controller.plan import plan
from leaderlease.controller.truth import Term
from support.observations import AT_MS, LATER, done, ended, held, holder, observed, of, pod, reasons


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Released", "LeaderStepDown"),
        ("Transferred", "LeaderStepDown"),
        ("Expired", "LeaderLost"),
        ("Revoked", "LeaderLost"),
        ("Unknown", "LeaderLost"),
    ],
)
def test_end_of_a_term_is_one_event(reason: str, told: str) -> None:
    """Named by what happened."""
    seen = done(observed(held(), pods=(pod(),)))
    after = msgspec.structs.replace(seen, truth=ended(reason), holder_pod=None)
    assert reasons(after) == [told]
    (post,) = of(Post, plan(after))
    assert post.body["type"] == ("Warning" if told == "LeaderLost" else "Normal")
    assert post.body["related"]["name"] == "billing-0"
    assert post.body["regarding"]["uid"] == "11111111-2222"


def test_events_of_several_terms_come_in_order() -> None:
    """What happened between two looks is told, oldest first, each under its own name."""
    seen = done(observed(held()))
    older = (Term(2, holder("billing-1"), AT_MS, AT_MS, "Released"), Term(1, holder(), AT_MS, AT_MS, "Expired"))
    after = msgspec.structs.replace(seen, truth=held("billing-2", 3, *older))
    assert reasons(after) == ["LeaderLost", "LeaderElected", "LeaderStepDown", "LeaderElected"]
    names = [post.body["metadata"]["name"].split(".") for post in of(Post, plan(after))]
    assert [(name[:2], name[2], name[4]) for name in names] == [
        (["billing", "11111111"], *change)
        for change in (("1", "ended"), ("2", "elected"), ("2", "ended"), ("3", "elected"))
    ]
    assert len({name[3] for name in names}) == 3, "each grant has its own name, also of a term that comes twice"


def test_first_visit_tells_only_of_the_present() -> None:
    """An object that was created over an old register does not tell its past."""
    assert reasons(observed(held("billing-1", 9, Term(8, holder(), AT_MS, AT_MS, "Released")))) == ["LeaderElected"]
    assert reasons(observed(ended())) == []


def test_same_change_has_the_same_name() -> None:
    """A second try, or another replica, cannot tell it twice."""
    seen = observed(held())
    again = msgspec.structs.replace(seen, now=LATER)
    assert [p.body["metadata"]["name"] for p in of(Post, plan(seen))] == [
        p.body["metadata"]["name"] for p in of(Post, plan(again))
    ]
