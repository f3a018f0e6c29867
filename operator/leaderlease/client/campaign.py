"""One candidate's way to a lease and through it: one nonce, and at most one term that was ever believed (H18, H19).

Rule 1: belief is computed from clocks whenever it is asked for; an end, once announced, is final.
Rule 2: a nonce that stopped believing never believes again, whatever arrives later.
"""

from enum import Enum
from typing import Any, Final, NamedTuple

from leaderlease.client.clock import Instant, elapsed_ms
from leaderlease.client.keepalive import Pace, pace_of
from leaderlease.paxos.lease import DURATION_DEFAULT_MS, Holder, validity_ms
from leaderlease.wire.session import AcquireRequest

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
        renew_deadline_ms: As declared when it was granted; 0 is none. So ``retry_period_ms``.
        owner: Whoever drives the core may keep something here.
    """

    __slots__ = (
        "belief", "duration_ms", "failures", "holder", "is_waiting", "name", "ordinal", "owner", "phase", "reason",
        "renew_deadline_ms", "request", "retry", "retry_period_ms", "rho_ppm", "successor", "term",
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
        self.renew_deadline_ms = self.retry_period_ms = 0
        self.retry: tuple[Instant, float] | None = None
        self.owner: Any = None

    def message(self, seq: int, priority: int, since_ms: int) -> AcquireRequest:
        """Return what asks for the lease, or for going on with it, as ``request``."""
        is_held = self.phase is Phase.HELD
        who = (self.request, seq, self.name, self.holder, self.duration_ms)
        return AcquireRequest(*who, self.is_waiting or is_held, self.term if is_held else 0, priority, since_ms)

    @property
    def pace(self) -> Pace:
        """How often this has to be renewed, or its node to be tried."""
        duration_ms = DURATION_DEFAULT_MS if self.duration_ms == 0 else self.duration_ms
        return pace_of(duration_ms, self.renew_deadline_ms, self.retry_period_ms)

    @property
    def give_up_ms(self) -> float:
        """The lease is given up when no more than this remains, in milliseconds.

        The declared deadline makes it sooner, never later.
        """
        if self.duration_ms is None:
            return 0.0
        validity = validity_ms(self.duration_ms, self.rho_ppm)
        wanted = max(self.duration_ms / GIVE_UP_SHARE, GIVE_UP_MIN_MS)
        least = min(wanted, validity / GIVE_UP_MAX_SHARE)
        return max(least, validity - self.renew_deadline_ms) if self.renew_deadline_ms else least

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
