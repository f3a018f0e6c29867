"""The learner: what this node knows was chosen, and who wants to hear of changes.

Everything here is a hint with an age. It wakes candidates and feeds watchers; nothing is decided by it.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

from leaderlease.node.stats import Stats
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Holder, Value
from leaderlease.wire.session import Transition

HISTORY_MAX: Final = 16
"""Transitions kept for each lease; a watcher that asks for older ones is told to look again (``resync``)."""

LET_GO: Final = frozenset({"released", "transferred"})
"""Kinds of transition by which a holder has ended its term itself."""

Subscriber = Callable[[Transition], None]


class View:
    """What is known of one lease."""

    __slots__ = ("ballot", "changed_at_ms", "ended", "history", "holder", "term")

    def __init__(self) -> None:
        self.ballot: Ballot = ZERO
        self.term = 0
        self.holder: Holder | None = None
        self.ended = ""
        self.changed_at_ms = 0
        self.history: list[Transition] | None = None


class Watch:
    """One subscription."""

    __slots__ = ("is_exact", "prefix", "push", "request")

    def __init__(self, request: int, prefix: str, is_exact: bool, push: Subscriber) -> None:
        self.request = request
        self.prefix = prefix
        self.is_exact = is_exact
        self.push = push

    def wants(self, name: str) -> bool:
        """Tell whether this lease is watched."""
        return name == self.prefix if self.is_exact else name.startswith(self.prefix)


class Learner:
    """Views of all leases, their latest transitions, and the watches on them."""

    def __init__(self, stats: Stats, wall_ms: Callable[[], int], now_ms: Callable[[], int]) -> None:
        self.views: dict[str, View] = {}
        self._watches: list[Watch] = []
        self._stats = stats
        self._wall_ms = wall_ms
        self._now_ms = now_ms

    def restore(self, name: str, ballot: Ballot, value: Value) -> None:
        """Take what the disk held at the start; no transition is announced."""
        view = self._view(name)
        view.ballot, view.term, view.holder = ballot, value.term, value.holder
        view.ended = "" if value.holder is not None else "released"
        view.changed_at_ms = self._now_ms()

    def chosen(self, name: str, ballot: Ballot, value: Value, reason: str) -> bool:
        """Take a chosen value; return False if a newer one is known already.

        Args:
            name: Lease.
            ballot: Under which it was chosen.
            value: The value.
            reason: ``acquired``, ``transferred``, ``released``, ``revoked``; empty when only the ballot is new.
        """
        view = self._view(name)
        if ballot < view.ballot or (ballot == view.ballot and view.term == value.term):
            return False
        before, was_held = view.term, view.holder is not None and not view.ended
        view.ballot = ballot
        if value.holder is None:
            if was_held or value.term > before:
                # An end of a term of which this node did not hear that it began.
                is_missed = value.term > max(before, 1)
                self._end(name, view, value.term, reason or "released", is_missed=is_missed)
            return True
        if value.term > before:
            self._count_gap(view)
            view.term, view.holder, view.ended = value.term, value.holder, ""
            self._stats.leader_changes[reason or "acquired"] += 1
            # Terms that this node did not hear of: watchers are told that they missed something.
            kind = "resync" if value.term > before + 1 else reason or "acquired"
            self._emit(name, view, kind, value.holder)
        return True

    def ended(self, name: str, term: int, kind: str) -> None:
        """Take the end of a term: ``released`` or ``expired``."""
        view = self._view(name)
        if view.term == term and view.holder is not None and not view.ended:
            self._end(name, view, term, kind)

    def has_heard_of(self, name: str, holder: Holder) -> bool:
        """Tell whether this holder, by nonce, is the last one that was heard of."""
        view = self.views.get(name)
        return view is not None and view.holder is not None and view.holder.nonce == holder.nonce

    def has_let_go(self, name: str, holder: Holder) -> bool:
        """Tell whether this holder, by nonce, was heard to let go: it asks no more; what comes is late (H18)."""
        view = self.views.get(name)
        history = view.history or () if view is not None else ()
        return any(
            began.holder is not None and began.holder.nonce == holder.nonce and ended.kind in LET_GO
            for began, ended in pairwise(history)
        )

    def subscribe(self, watch: Watch, since: int) -> None:
        """Add a watch, and bring it from term ``since`` to now: transitions, or the state and ``resync``."""
        self._watches.append(watch)
        for name in self._watched(watch):
            view = self.views[name]
            missed = [t for t in view.history or () if t.term > since or (t.term == since and t.holder is None)]
            # The next to come after term ``since`` is its end, or the beginning of the one after it.
            first = missed[0] if missed else None
            if since and first and (first.term == since or (first.term == since + 1 and first.holder is not None)):
                for transition in missed:
                    watch.push(_addressed(transition, watch.request))
                continue
            kind = "state" if not since else "resync" if view.term > since else "state"
            holder = None if view.ended else view.holder
            watch.push(Transition(watch.request, name, kind, view.term, holder, self._wall_ms()))

    def unsubscribe(self, watch: Watch) -> None:
        """Forget a watch."""
        if watch in self._watches:
            self._watches.remove(watch)

    def _watched(self, watch: Watch) -> Iterator[str]:
        if watch.is_exact:
            return iter([watch.prefix] if watch.prefix in self.views else [])
        return iter(sorted(name for name in self.views if name.startswith(watch.prefix)))

    def _view(self, name: str) -> View:
        view = self.views.get(name)
        if view is None:
            view = self.views[name] = View()
        return view

    def _end(self, name: str, view: View, term: int, kind: str, *, is_missed: bool = False) -> None:
        view.term, view.ended = term, kind
        view.changed_at_ms = self._now_ms()
        if kind == "expired":
            self._stats.expired += 1
        self._emit(name, view, "resync" if is_missed else kind, None)

    def _count_gap(self, view: View) -> None:
        if view.ended:
            gap_ms = self._now_ms() - view.changed_at_ms
            self._stats.leaderless_ms += gap_ms
            self._stats.failover_seconds.observe(gap_ms / 1000)
        view.changed_at_ms = self._now_ms()

    def _emit(self, name: str, view: View, kind: str, holder: Holder | None) -> None:
        transition = Transition(0, name, kind, view.term, holder, self._wall_ms())
        # A list: an empty deque takes 760 bytes, and there is one of these for every lease.
        if view.history is None:
            view.history = [transition]
        else:
            if len(view.history) >= HISTORY_MAX:
                del view.history[0]
            view.history.append(transition)
        for watch in self._watches:
            if watch.wants(name):
                watch.push(_addressed(transition, watch.request))


def _addressed(transition: Transition, request: int) -> Transition:
    return Transition(request, transition.name, transition.kind, transition.term, transition.holder, transition.at_ms)
