"""What the quorum says: of one lease, folded from transitions, and of itself."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from leaderlease.paxos.lease import Holder
from leaderlease.wire.session import LeaseInfo, NodeStatus, Transition

TERMS_MAX: Final = 10
"""Terms of one lease that are remembered, as many as the status shows."""
_REASONS: Final = {
    "released": "Released",
    "expired": "Expired",
    "revoked": "Revoked",
    "transferred": "Transferred",
}


class Term(msgspec.Struct, frozen=True):
    """One grant of a lease. Times are the wall clock of the node that told us, in ms; 0 is unknown.

    Attributes:
        reason: How it ended: Released, Expired, Revoked, Transferred, Unknown; empty while it lasts.
    """

    term: int
    holder: Holder | None
    acquired_ms: int = 0
    ended_ms: int = 0
    reason: str = ""


class Truth(msgspec.Struct, frozen=True):
    """What the quorum decided about one lease, as far as we heard.

    Attributes:
        terms: Newest first; the first is the present one.
    """

    terms: tuple[Term, ...] = ()

    @property
    def term(self) -> int:
        """The latest term; 0 if nobody ever held."""
        return self.terms[0].term if self.terms else 0

    @property
    def holder(self) -> Holder | None:
        """Who holds now; None if nobody does."""
        return self.terms[0].holder if self.terms and not self.terms[0].reason else None


NOTHING: Final = Truth()


def fold(truth: Truth, transition: Transition) -> Truth:
    """Take one transition. One of an older term changes nothing; a gap ends the term before as Unknown.

    Args:
        truth: What was known.
        transition: What a watch delivered, ``state`` and ``resync`` included.
    """
    if transition.term < truth.term or transition.term == 0:
        return truth
    if transition.holder is None:
        return _ended(truth, transition.term, _REASONS.get(transition.kind, "Unknown"), transition.at_ms)
    is_news = transition.kind in ("acquired", "transferred")
    return _held(truth, transition.term, transition.holder, transition.at_ms if is_news else 0, transition.kind)


def fold_info(truth: Truth, info: LeaseInfo) -> Truth:
    """Take the answer to a read, which also knows when the lease was granted."""
    if info.term < truth.term or info.term == 0 or info.state == "in transition":
        return truth
    if info.holder is None:
        return _ended(truth, info.term, "Unknown", 0)
    return _held(truth, info.term, info.holder, info.acquired_at_ms, "acquired")


def _ended(truth: Truth, term: int, reason: str, at_ms: int) -> Truth:
    if not truth.terms or truth.term < term:
        return _push(truth, Term(term, None, 0, at_ms, reason), "Unknown", 0)
    latest = truth.terms[0]
    if latest.reason:
        return truth
    return Truth((msgspec.structs.replace(latest, ended_ms=at_ms, reason=reason), *truth.terms[1:]))


def _held(truth: Truth, term: int, holder: Holder, acquired_ms: int, kind: str) -> Truth:
    if truth.term < term:
        return _push(
            truth, Term(term, holder, acquired_ms), "Transferred" if kind == "transferred" else "Unknown", acquired_ms
        )
    latest = truth.terms[0]
    if latest.holder is not None and latest.holder.nonce != holder.nonce:
        # A quorum grants a term once, so this is another quorum, and what was known is of the one before.
        return Truth((Term(term, holder, acquired_ms),))
    # An expiry that was seen too early is taken back: the holder was renewed by others.
    known_ms = latest.acquired_ms or acquired_ms
    return Truth((Term(term, holder, known_ms), *truth.terms[1:]))


def _push(truth: Truth, new: Term, reason: str, at_ms: int) -> Truth:
    older = truth.terms
    if older and not older[0].reason:
        older = (msgspec.structs.replace(older[0], ended_ms=at_ms, reason=reason), *older[1:])
    return Truth((new, *older)[:TERMS_MAX])


class Member(msgspec.Struct, frozen=True):
    """One member of a quorum.

    Attributes:
        health: Healthy, Unreachable or Unknown.
    """

    name: str
    uid: str
    health: str
    version: str = ""
    incarnation: int = 0


class QuorumView(msgspec.Struct, frozen=True):
    """How a quorum is, seen from one of its nodes.

    Attributes:
        is_known: A node answered; else the rest means nothing.
        error: Why none did.
        strangers: Nodes that answered and are no members: (endpoint, uuid).
    """

    is_known: bool = False
    error: str = "not asked yet"
    cluster: str = ""
    epoch: int = 0
    healthy: int = 0
    total: int = 0
    can_lose: int = 0
    is_available: bool = False
    ballot_highest: int = 0
    members: tuple[Member, ...] = ()
    strangers: tuple[tuple[str, str], ...] = ()

    @property
    def summary(self) -> str:
        """``3/3``."""
        return f"{self.healthy}/{self.total}"

    @property
    def numbers(self) -> tuple[int, int, int, bool, bool]:
        """What LeaderLeases show of it."""
        return (self.healthy, self.total, self.can_lose, self.is_available, self.is_known)


def view_of(status: NodeStatus, before: QuorumView) -> QuorumView:
    """Describe a quorum by what one node says; versions that are known from before are kept."""
    known = {member.uid: member for member in before.members}

    def member(name: str, uid: str, health: str) -> Member:
        old = known.get(uid)
        return Member(name, uid, health, old.version if old else "", old.incarnation if old else 0)

    me = Member(status.name, status.member, "Healthy", status.version, status.incarnation)
    others = [member(name, uid, "Healthy" if is_up else "Unreachable") for name, uid, is_up, _ in status.peers]
    return QuorumView(
        is_known=True,
        error="",
        cluster=status.cluster,
        epoch=status.epoch,
        healthy=status.members_healthy,
        total=status.members_total,
        can_lose=status.can_lose,
        is_available=status.is_quorum_available,
        ballot_highest=status.ballot_highest,
        members=tuple(sorted([me, *others], key=lambda one: one.name)),
        strangers=before.strangers,
    )


def timestamp(at_ms: int) -> str:
    """Write a wall clock reading as Kubernetes does: ``2026-01-01T00:00:00.123Z``."""
    when = datetime.fromtimestamp(at_ms / 1000, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"
