"""What one sidecar knows of one lease, and the document that it makes of it.

Rule 1: whether this process leads is computed from the lease's validity each time it is asked (protocol, section 4).
Rule 2: who else leads is a hint with an age; when it is older than the limit, it is no answer any more.
Rule 3: a token is shown to its holder only.
"""

import time
from typing import Final

import msgspec

from leaderlease.client.clock import Clock, Instant, elapsed_ms
from leaderlease.client.lease import Lease
from leaderlease.paxos.lease import parse_duration, validity_ms

REASON_CHARS_MAX: Final = 512


class Document(msgspec.Struct):
    """The answer of ``GET /``, the data of events, and the content of ``leader.json``.

    Attributes:
        name: The leader, as the old leader-elector sidecars said it; empty when nobody leads or nobody knows.
        is_leader: This process may act now.
        leader: As ``name``.
        term: Of the leader; the last one that is known when nobody leads.
        token: What to give to the resource with each write; null unless ``is_leader``.
        remaining_ms: For how long ``is_leader`` stays true without another renewal: 0 when it is false, null for a
            lease without end.
        as_of: Wall clock of the last confirmation by a majority, for people; empty before the first.
        age_ms: How long ago that was; null before the first.
        is_stale: It is too long ago: nothing is known but that this process does not lead.
        state: ``starting``, ``waiting``, ``unhealthy``, ``leading``, ``stepping_down``, ``pausing`` or ``stopped``.
        reason: Why it is so, where there is more to say.
    """

    name: str
    is_leader: bool
    leader: str
    term: int
    token: int | None
    remaining_ms: int | None
    as_of: str
    age_ms: int | None
    is_stale: bool
    lease: str
    identity: str
    state: str
    reason: str


class View:
    """One lease as this sidecar sees it.

    Attributes:
        lease: What was granted to this process; None when it does not hold.
        is_stepping_down: The lease is kept, so that nobody else leads, but not believed any more.
        elected: How often this process was elected.
        changes: Changes of the leader that were seen, this process included.
        lost: How often this process lost the lease without wanting to.
        trouble: Why no majority confirmed anything at the last question; empty when one did.
    """

    def __init__(self, name: str, identity: str, stale_after_ms: float, clock: Clock) -> None:
        self.name = name
        self.identity = identity
        self.lease: Lease | None = None
        self.is_stepping_down = False
        self.state = "starting"
        self.reason = ""
        self.trouble = ""
        self.term = 0
        self.leader = ""
        self.elected = self.changes = self.lost = 0
        self._clock = clock
        self._stale_after_ms = stale_after_ms
        self._confirmed: Instant | None = None

    def is_leader(self) -> bool:
        """Tell whether this process may act now (rule 1)."""
        return self.lease is not None and not self.is_stepping_down and self.lease.remaining() > 0

    def remaining_ms(self) -> float:
        """Return for how long this process may go on acting; 0 when it may not."""
        return self.lease.remaining() * 1000 if self.lease is not None and not self.is_stepping_down else 0.0

    def age_ms(self) -> float:
        """Return how long ago a majority last confirmed what is known here; infinity when it never did."""
        age_ms = float("inf") if self._confirmed is None else elapsed_ms(self._confirmed, self._clock())
        if self.lease is not None and (remaining_ms := self.lease.remaining() * 1000) > 0:
            duration_s = self.lease.duration
            validity = 0.0 if duration_s is None else validity_ms(parse_duration(duration_s)) - remaining_ms
            age_ms = min(age_ms, max(0.0, validity))
        return age_ms

    def is_stale(self) -> bool:
        """Tell whether what is known is too old to be an answer (rule 2)."""
        return not self.is_leader() and self.age_ms() > self._stale_after_ms

    def confirm(self, leader: str, term: int, asked: Instant) -> bool:
        """Take what a majority said to a question of the time ``asked``; return whether it changed anything."""
        if term < self.term:
            return False
        self._confirmed = asked
        return self.observe(leader, term)

    def observe(self, leader: str, term: int) -> bool:
        """Take a leader, empty for none, and its term; older terms are ignored. Return whether it changed anything."""
        if term < self.term or (leader, term) == (self.leader, self.term):
            return False
        if leader and (term > self.term or not self.leader):
            self.changes += 1
        self.leader, self.term = leader, term
        return True

    def doubt(self) -> None:
        """Forget the last confirmation: something happened since that is not understood yet."""
        self._confirmed = None

    def document(self) -> Document:
        """Describe the lease as of now."""
        is_leader, age_ms = self.is_leader(), self.age_ms()
        is_stale = not is_leader and age_ms > self._stale_after_ms
        leader = self.identity if is_leader else "" if is_stale else self.leader
        term = self.lease.term if is_leader and self.lease is not None else self.term
        is_known = age_ms != float("inf")
        remaining_ms: int | None = None
        if (left_ms := self.remaining_ms()) != float("inf"):
            remaining_ms = int(left_ms)
        return Document(
            name=leader,
            is_leader=is_leader,
            leader=leader,
            term=term,
            token=term if is_leader else None,
            remaining_ms=remaining_ms,
            as_of=_wall_clock(time.time() - age_ms / 1000) if is_known else "",
            age_ms=int(age_ms) if is_known else None,
            is_stale=is_stale,
            lease=self.name,
            identity=self.identity,
            state=self.state,
            reason=(self.reason or self.trouble)[:REASON_CHARS_MAX],
        )


def _wall_clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"
