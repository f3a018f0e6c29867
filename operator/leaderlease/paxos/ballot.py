"""Ballots: totally ordered names of attempts.

Rule 1: a ballot is used for one value, ever (R3). The incarnation, made durable before the first message of a
process, keeps two lives of one member apart, so a counter may start again at zero after a restart.
Rule 2: ballots order attempts and may skip; terms order grants (``lease.py``).
"""

import msgspec

from leaderlease.errors import RemoteProtocolError

COUNTER_MAX = 2**63 - 1
COUNTER_JUMP_MAX = 2**32
"""A counter that runs ahead of all that was seen by more than this is poison, not progress (R3, H12)."""


class Ballot(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """``(counter, member, incarnation)``, compared in this order.

    Attributes:
        counter: In [0, 2**63); 0 belongs to ``ZERO`` alone.
        member: uuid of the proposing member.
        incarnation: Which life of that member, from 1.
    """

    counter: int
    member: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.counter}.{self.member[:8]}.{self.incarnation}"


ZERO = Ballot(0, "", 0)
"""Below every ballot that a member can use: nothing promised, nothing accepted."""


def ceiling_ballot(counter: int) -> Ballot:
    """Return the ballot that stands above every ballot with this counter, and below all with the next (R5)."""
    return Ballot(counter + 1, "", 0) if counter else ZERO


def check_ballot(ballot: Ballot, highest_seen: int) -> None:
    """Refuse a ballot that no honest member can send.

    Args:
        ballot: From a peer; content is untrusted.
        highest_seen: The highest counter that this acceptor promised anywhere.

    Raises:
        RemoteProtocolError: No member, or a counter outside [1, highest_seen + 2**32] (R3).
    """
    if not ballot.member or not 1 <= ballot.counter <= min(COUNTER_MAX, highest_seen + COUNTER_JUMP_MAX):
        raise RemoteProtocolError(
            f"ballot {ballot}: the counter must lie in [1, {highest_seen} + 2^32] and a member must be named"
        )
