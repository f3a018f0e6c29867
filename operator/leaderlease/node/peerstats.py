"""What pings tell of the other members: round trips, losses of the connection, and how fast their clocks run.

Rule 1: of each ``BUCKET_US`` only the quickest answer counts: the peer read its clock between our two readings, so
        half a round trip is all that its offset can be wrong by.
Rule 2: the rate is the median of the slopes between all pairs of answers (Theil and Sen), so that a few bad ones among
        them change nothing; before ``SPAN_MIN_US`` there is none.
Rule 3: a connection that is lost starts the clock anew: the same member may come back on another machine.

Nothing is decided by it: leases rely on clock rates within rho (protocol, section 4), and this is how people see that.
"""

from collections import deque
from itertools import combinations
from statistics import median
from typing import Final, NamedTuple

from leaderlease.node.durations import Durations

BUCKET_US: Final = 10_000_000
"""The quickest answer of each 10 s is kept."""
BUCKETS_MAX: Final = 60
"""10 minutes of them."""
SPAN_MIN_US: Final = 60_000_000
"""No rate is told before there are answers over this time."""
TRIP_MAX_US: Final = 2_000_000
"""A slower answer says nothing about a clock."""
ROUND_TRIP_S: Final = tuple(0.0001 * 2**n for n in range(15))
"""As etcd has them: 0.1 ms to 1.6 s, doubling."""


class ClockSample(NamedTuple):
    """One answer: when it came by our clock, how far the peer's was ahead then, and by how much that can be wrong."""

    at_us: int
    offset_us: float
    doubt_us: float


class RateError(NamedTuple):
    """How much faster than ours a peer's clock runs (negative: slower), and how far that can be wrong; in ppm."""

    ppm: float
    doubt_ppm: float


class ClockRate:
    """The rate of one peer's clock."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[ClockSample] = deque(maxlen=BUCKETS_MAX)

    def observe(self, sent_us: int, received_us: int, peer_us: int) -> None:
        """Take one answer (rule 1).

        Args:
            sent_us: Our clock at the question.
            received_us: Our clock at the answer.
            peer_us: The peer's clock in between.
        """
        trip_us = received_us - sent_us
        if not 0 <= trip_us <= TRIP_MAX_US:
            return
        sample = ClockSample(received_us, peer_us - (sent_us + trip_us / 2), trip_us / 2)
        samples = self._samples
        if samples and samples[-1].at_us // BUCKET_US == received_us // BUCKET_US:
            if sample.doubt_us < samples[-1].doubt_us:
                samples[-1] = sample
        else:
            samples.append(sample)

    def error(self) -> RateError | None:
        """Return the rate over the latest minutes; None while there is not enough to tell (rule 2)."""
        samples = self._samples
        if len(samples) < 2 or samples[-1].at_us - samples[0].at_us < SPAN_MIN_US:
            return None
        pairs = [(one, other, other.at_us - one.at_us) for one, other in combinations(samples, 2)]
        slopes = [(other.offset_us - one.offset_us) / passed_us for one, other, passed_us in pairs]
        doubts = [(one.doubt_us + other.doubt_us) / passed_us for one, other, passed_us in pairs]
        return RateError(median(slopes) * 1e6, median(doubts) * 1e6)


class PeerStats:
    """What is known of one other member since this process started."""

    __slots__ = ("clock", "disconnects", "round_trip_seconds")

    def __init__(self) -> None:
        self.round_trip_seconds = Durations(ROUND_TRIP_S)
        self.disconnects = 0
        self.clock = ClockRate()

    def answered(self, sent_us: int, received_us: int, peer_us: int) -> None:
        """Take the answer to a ping."""
        self.round_trip_seconds.observe(max(0, received_us - sent_us) / 1e6)
        self.clock.observe(sent_us, received_us, peer_us)

    def disconnected(self) -> None:
        """Take note that the connection was lost (rule 3)."""
        self.disconnects += 1
        self.clock = ClockRate()
