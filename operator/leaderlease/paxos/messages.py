"""What members say to each other. Every request carries the epoch; the cluster is settled by the hello (R8).

A closed vocabulary: ``Request`` goes from a proposer to an acceptor, ``Reply`` back, ``Notice`` is a hint to
learners and needs no answer. Array encoding: fields are known by position, so new ones go to the end.
"""

import msgspec

from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """One-letter tags keep frames small; ``tag=`` is set by each class."""


class Evidence(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A pair that an acceptor reported as durably accepted in this attempt (R1)."""

    ballot: Ballot
    nonce: str


class Prepare(_Message, frozen=True, tag="p"):
    """Phase 1(a): will you let ``ballot`` decide?

    Attributes:
        nonce: For whom; empty when a vacancy is prepared in advance. The guard lets the holder's own pass.
        seen: At most one pair per member (R1).
    """

    epoch: int
    key: str
    ballot: Ballot
    nonce: str
    seen: tuple[Evidence, ...] = ()


class Promise(_Message, frozen=True, tag="P"):
    """Phase 1(b): nothing below ``ballot`` will be accepted; this is what was."""

    key: str
    ballot: Ballot
    accepted: Ballot
    value: Value | None


class Live(_Message, frozen=True, tag="L"):
    """The guard: a timer of another nonce still runs, so there is no promise (R1).

    Attributes:
        remaining_ms: Until this acceptor lets go; None is never.
    """

    key: str
    ballot: Ballot
    remaining_ms: int | None
    accepted: Ballot
    value: Value


class Accept(_Message, frozen=True, tag="a"):
    """Phase 2(a): accept this value under this ballot."""

    epoch: int
    key: str
    ballot: Ballot
    value: Value


class Accepted(_Message, frozen=True, tag="A"):
    """Phase 2(b): durable."""

    key: str
    ballot: Ballot


class Nack(_Message, frozen=True, tag="n"):
    """A higher ballot was promised."""

    key: str
    ballot: Ballot
    promised: Ballot


class WrongEpoch(_Message, frozen=True, tag="e"):
    """The sender's configuration is not this acceptor's."""

    key: str
    ballot: Ballot
    epoch: int


class RenewItem(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One lease of a batch; the batch names the rest of the ballot."""

    key: str
    counter: int
    digest: bytes


class Renew(_Message, frozen=True, tag="r"):
    """Phase 2(a) again for many registers: restart your timers (R2). All ballots are the sender's own."""

    epoch: int
    attempt: int
    member: str
    incarnation: int
    items: tuple[RenewItem, ...]


class Renewed(_Message, frozen=True, tag="R"):
    """Answer to ``Renew``: every item was acknowledged but those listed (H34).

    Attributes:
        nacked: Positions of items whose ballot is below the promise.
        unknown: Positions of items of which this acceptor does not durably hold the value: NEED_VALUE.
        epoch: 0, or the acceptor's epoch if it is another: then nothing was acknowledged.
    """

    attempt: int
    nacked: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    epoch: int = 0


class Release(_Message, frozen=True, tag="x"):
    """The holder has let go; volatile is enough for a timed lease. ``successor`` names who should be first."""

    epoch: int
    key: str
    ballot: Ballot
    digest: bytes
    successor: str = ""


class Peek(_Message, frozen=True, tag="k"):
    """Read only: never touches ballots or timers (H21)."""

    epoch: int
    key: str
    request: int


class Claim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a candidate that waits says of itself, where a lease prefers some. A hint: safety needs none of it.

    Attributes:
        since_ms: Wall clock at which it began to run; 0 does not say.
    """

    name: str
    priority: int = 0
    since_ms: int = 0


class Peeked(_Message, frozen=True, tag="K"):
    """Answer to ``Peek``.

    Attributes:
        remaining_ms: Of the timer; 0 when it has run out or was released, None for never.
        waiting: Who waits at this member, the best first; only of leases that prefer some.
    """

    key: str
    request: int
    promised: Ballot
    accepted: Ballot
    value: Value | None
    remaining_ms: int | None
    waiting: tuple[Claim, ...] = ()


class Chosen(_Message, frozen=True, tag="c"):
    """A hint to learners: this value has a majority."""

    epoch: int
    key: str
    ballot: Ballot
    value: Value
    reason: str


class Vacant(_Message, frozen=True, tag="v"):
    """A hint: this lease was released, and by which term."""

    key: str
    term: int


class StepDown(_Message, frozen=True, tag="d"):
    """Ask whoever serves the holder to have it step down; ``successor`` may name the next."""

    key: str
    successor: str


class SyncRequest(_Message, frozen=True, tag="s"):
    """Catch-up: send what you accepted, from this key on; ``digest`` of what I have, to skip what is equal."""

    epoch: int
    request: int
    after: str
    limit: int


class SyncEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One accepted value, as its proposer sent it."""

    key: str
    ballot: Ballot
    value: Value


class SyncPage(_Message, frozen=True, tag="S"):
    """A page of accepted values in key order; ``after`` is where the next begins, empty at the end."""

    request: int
    entries: tuple[SyncEntry, ...]
    after: str


class DigestRequest(_Message, frozen=True, tag="g"):
    """Ask for a digest over all (key, ballot, value)."""

    epoch: int
    request: int


class DigestReply(_Message, frozen=True, tag="G"):
    """The digest, and over how many registers."""

    request: int
    registers: int
    digest: int


class Ping(_Message, frozen=True, tag="i"):
    """Measures the round trip and the rate of the other's clock."""

    request: int
    sent_us: int


class Pong(_Message, frozen=True, tag="I"):
    """Answer to ``Ping`` with the answering clock."""

    request: int
    sent_us: int
    clock_us: int


Request = Prepare | Accept | Renew | Release | Peek | Chosen | Vacant | StepDown | SyncRequest | DigestRequest | Ping
Reply = Promise | Live | Accepted | Nack | WrongEpoch | Renewed | Peeked | SyncPage | DigestReply | Pong
Message = Request | Reply
