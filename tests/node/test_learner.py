"""What a node has heard of, and tells those who watch (``node/learner.py``): hints, each once, none about the past."""

from leaderlease.node.learner import HISTORY_MAX, Learner, Watch
from leaderlease.node.stats import Stats
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.wire.session import Transition

NAME = "shop/lock"
ALICE, BOB = Holder("alice", "", "a" * 32), Holder("bob", "", "b" * 32)


class Watched:
    """A learner, and everything that a watch on one lease is told."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.now_ms = 0
        self.learner = Learner(self.stats, lambda: 0, lambda: self.now_ms)
        self.seen: list[Transition] = []
        self.learner.subscribe(Watch(1, NAME, True, self.seen.append), 0)

    def chosen(self, counter: int, term: int, holder: Holder | None = ALICE, reason: str = "acquired") -> None:
        """Hear that something was chosen."""
        self.learner.chosen(NAME, Ballot(counter, "1", 1), Value(term, holder, 1_000), reason)

    def told(self) -> list[tuple[str, int]]:
        """Return kinds and terms."""
        return [(transition.kind, transition.term) for transition in self.seen]


def test_h21_a_hint_of_an_older_ballot_is_no_news() -> None:
    """It comes late: the term that it names is over."""
    watched = Watched()
    watched.chosen(5, 2, BOB)
    watched.chosen(3, 1, ALICE)
    watched.chosen(4, 3, ALICE)
    assert watched.told() == [("resync", 2)]
    assert watched.learner.views[NAME].holder == BOB


def test_who_goes_on_under_a_higher_ballot_is_no_new_holder() -> None:
    """A take-over keeps the term: nobody is told, and no change is counted."""
    watched = Watched()
    watched.chosen(1, 1)
    watched.chosen(1, 1)
    watched.chosen(9, 1, reason="")
    assert watched.told() == [("acquired", 1)]
    assert watched.stats.leader_changes["acquired"] == 1
    watched.chosen(5, 1)
    assert watched.learner.views[NAME].ballot == Ballot(9, "1", 1)


def test_an_end_is_told_once() -> None:
    """By the release that was heard, by the timer, and by the durable write: whichever comes first."""
    watched = Watched()
    watched.chosen(1, 1)
    watched.learner.ended(NAME, 1, "released")
    watched.learner.ended(NAME, 1, "expired")
    watched.chosen(2, 1, None, "released")
    assert watched.told() == [("acquired", 1), ("released", 1)]
    assert watched.stats.expired == 0


def test_the_end_of_another_term_ends_nothing() -> None:
    """H21: a timer or a release of term 1 says nothing about term 2."""
    watched = Watched()
    watched.chosen(1, 1)
    watched.chosen(2, 2, BOB)
    watched.learner.ended(NAME, 1, "expired")
    assert watched.told() == [("acquired", 1), ("acquired", 2)]
    assert not watched.learner.views[NAME].ended


def test_the_first_that_is_heard_of_a_lease_is_no_gap() -> None:
    """A node that never heard of it before tells its end as such: nothing is missing that anybody was told."""
    watched = Watched()
    watched.chosen(1, 1, None, "released")
    assert watched.told() == [("released", 1)]


def test_the_first_that_is_heard_of_a_later_term_is_a_gap() -> None:
    """Who saw term 1 elsewhere and watches on here was told of no beginning of term 2: it has to look again."""
    for holder, reason in ((None, "revoked"), (BOB, "acquired")):
        watched = Watched()
        watched.learner.subscribe(Watch(2, NAME, True, watched.seen.append), 1)
        watched.chosen(4, 2 if holder is None else 3, holder, reason)
        assert {kind for kind, _ in watched.told()} == {"resync"}


def test_what_a_lease_was_without_a_holder_is_counted_between_two_holders_only() -> None:
    """Neither a take-over nor a repeat makes a failover."""
    watched = Watched()
    watched.chosen(1, 1)
    watched.now_ms = 500
    watched.chosen(2, 1, reason="")
    watched.learner.ended(NAME, 1, "expired")
    watched.now_ms = 700
    watched.chosen(3, 2, BOB)
    assert watched.stats.leaderless_ms == 200


def test_history_is_bounded_and_who_asks_for_older_is_told_to_look_again() -> None:
    """So many transitions of one lease are kept, and a gap is never told as if nothing were missing."""
    watched = Watched()
    for term in range(1, HISTORY_MAX + 10):
        watched.chosen(term, term, ALICE if term % 2 else BOB)
    history = watched.learner.views[NAME].history
    assert history is not None
    assert len(history) == HISTORY_MAX
    late: list[Transition] = []
    watched.learner.subscribe(Watch(2, NAME, True, late.append), 3)
    assert [transition.kind for transition in late] == ["resync"]


def test_who_goes_on_watching_hears_how_the_term_that_it_saw_has_ended() -> None:
    """It saw term 1 begin, and was away when that ended."""
    watched = Watched()
    watched.chosen(1, 1)
    watched.learner.ended(NAME, 1, "released")
    watched.chosen(2, 2, BOB)
    late: list[Transition] = []
    watched.learner.subscribe(Watch(2, NAME, True, late.append), 1)
    assert [(transition.kind, transition.term) for transition in late] == [("released", 1), ("acquired", 2)]


def test_what_the_disk_held_is_a_state_and_no_event() -> None:
    """A value that nobody holds is vacant from the start on; its holder is known by nonce, and by no other (H19)."""
    watched = Watched()
    watched.learner.restore(NAME, Ballot(1, "1", 1), Value(4, ALICE, 1_000))
    assert watched.told() == []
    assert watched.learner.has_heard_of(NAME, ALICE)
    assert not watched.learner.has_heard_of(NAME, Holder("alice", "", "c" * 32))
    watched.learner.restore("shop/other", Ballot(1, "1", 1), Value(4, None, 1_000))
    watched.learner.ended("shop/other", 4, "expired")
    assert watched.learner.views["shop/other"].ended == "released"
