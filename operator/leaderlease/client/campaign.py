"""One candidate's way to a lease and through it: one nonce, and at most one term that was ever believed (H18, H19).

Rule 1: belief is computed from clocks whenever it is asked for; an end, once announced, is final.
Rule 2: a nonce that stopped believing never believes again, whatever arrives later.
"""

from enum import Enum
from typing import Any, Final, NamedTuple

from leaderlease.client.clock import Instant, elapsed_ms
from leaderlease.paxos.lease import DURATION_DEFAULT_MS, Holder, validity_ms

GIVE_UP_SHARE: Final = 5
GIVE_UP_MIN_MS: Final = 50
"""A lease is given up when less than one part in five of its duration, and this, remains: time to stop the work."""
GIVE_UP_MAX_SHARE: Final = 4
"""Of leases shorter than about 220 ms at most one part in four of the validity, or no renewal would come in time."""


class Phase(Enum):
    """Where a campaign stands."""

    ASKING = "asking"
    HELD = "held"
    LOST = "lost"
    RELEASED = "released"
    ENDED = "ended"


class Belief(NamedTuple):
    """Why, and from when on, this process believes that it holds; replaced as a whole, so threads may read it."""

    seq: int
    basis: Instant
    validity_ms: float

    def remaining_ms(self, now: Instant) -> float:
        """Return for how long it may still be believed, in milliseconds; at most 0 when it may not."""
        return self.validity_ms - elapsed_ms(self.basis, now)


class Campaign:
    """A candidate that became, or may become, a holder.

    Attributes:
        duration_ms: What is asked for; 0 is the declared one, None is never. The granted one, once granted.
        request: The AcquireRequest that is under way on this connection, or 0.
        ordinal: The grant's number on this connection; None when this connection does not renew it.
        owner: Whoever drives the core may keep something here.
    """

    __slots__ = (
        "belief", "duration_ms", "failures", "holder", "is_waiting", "name", "ordinal", "owner", "phase", "reason",
        "request", "retry", "rho_ppm", "successor", "term",
    )  # fmt: skip

    def __init__(self, name: str, holder: Holder, duration_ms: int | None, is_waiting: bool, rho_ppm: int) -> None:
        self.name = name
        self.holder = holder
        self.duration_ms = duration_ms
        self.is_waiting = is_waiting
        self.rho_ppm = rho_ppm
        self.phase = Phase.ASKING
        self.term = 0
        self.request = 0
        self.ordinal: int | None = None
        self.belief: Belief | None = None
        self.reason = ""
        self.successor = ""
        self.failures = 0
        self.retry: tuple[Instant, float] | None = None
        self.owner: Any = None

    @property
    def renewed_duration_ms(self) -> int | None:
        """The duration that keepalives have to keep up with; None when nothing has to be renewed."""
        return DURATION_DEFAULT_MS if self.duration_ms == 0 else self.duration_ms

    @property
    def give_up_ms(self) -> float:
        """The lease is given up when no more than this remains, in milliseconds."""
        if self.duration_ms is None:
            return 0.0
        wanted = max(self.duration_ms / GIVE_UP_SHARE, GIVE_UP_MIN_MS)
        return min(wanted, validity_ms(self.duration_ms, self.rho_ppm) / GIVE_UP_MAX_SHARE)

    def remaining_ms(self, now: Instant) -> float:
        """Return for how long the lease may be believed, in milliseconds: 0 when it may not, infinity for never.

        Source: protocol, section 4 and R6.
        """
        belief = self.belief
        if belief is None or self.phase is not Phase.HELD:
            return 0.0
        return max(0.0, belief.remaining_ms(now))

    def believe(self, seq: int, basis: Instant) -> None:
        """Count validity from ``basis``, the reading before message ``seq``, unless a later one is known already."""
        if self.belief is None or seq > self.belief.seq:
            self.belief = Belief(seq, basis, validity_ms(self.duration_ms, self.rho_ppm))
