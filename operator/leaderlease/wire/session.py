"""What clients and nodes say to each other over one session.

The client counts its messages (``seq``) and keeps the clock reading of each from *before* it sent it. Grants and
keepalives name the ``seq`` that their round followed, so validity always runs from the client's own clock (R6).
Array encoding: fields are known by position, so new ones go to the end.
"""

import msgspec

from leaderlease.paxos.lease import Holder

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
"""Versions of the session and peer protocols that this code speaks."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """One message; the tag is its first element."""


class Hello(_Message, frozen=True, tag="hello"):
    """First message of every connection, in both directions (R8).

    Attributes:
        role: ``peer`` or ``client``.
        cluster: uuid; empty for a client that takes any, and for a member that has not been bootstrapped.
        member: The speaker's uuid; empty for clients.
        boot_nonce: Drawn at every start; tells a cloned disk from a reconnect (H24).
        earlier: Boot nonces of the starts before, the latest first: a disk that went back in time has others.
        epoch: 0 before the bootstrap.
        address: Where the speaker's peers reach it.
    """

    role: str
    version_min: int
    version_max: int
    cluster: str = ""
    member: str = ""
    incarnation: int = 0
    boot_nonce: str = ""
    epoch: int = 0
    name: str = ""
    address: str = ""
    software: str = ""
    token: str = ""
    configuration: bytes = b""
    earlier: tuple[str, ...] = ()


class Refused(_Message, frozen=True, tag="refused"):
    """The connection is not accepted; ``text`` is one sentence for people."""

    code: str
    text: str


# --- client to node ------------------------------------------------------------------------------------------


class KeepAlive(_Message, frozen=True, tag="ka"):
    """Renew every lease of this session."""

    seq: int


class AcquireRequest(_Message, frozen=True, tag="acq"):
    """Ask for a lease. The same nonce may ask again, anywhere: it learns what became of it (H35).

    Attributes:
        duration_ms: 0 takes the declared duration, or the default; None is never.
        is_waiting: Stay in the queue until granted; else answer at once.
        term: What this nonce holds already, and wants to keep by way of this node; it is given no other (H18).
        priority: For a lease whose declaration prefers the highest; what a candidate says of itself.
        since_ms: Wall clock at which it began to run, for one that prefers the newest; 0 does not say.
    """

    request: int
    seq: int
    name: str
    holder: Holder
    duration_ms: int | None
    is_waiting: bool
    term: int = 0
    priority: int = 0
    since_ms: int = 0


class CancelRequest(_Message, frozen=True, tag="can"):
    """Leave the queue; should the lease be granted all the same, it is released."""

    request: int


class ReleaseRequest(_Message, frozen=True, tag="rel"):
    """The holder has let go: its work has ended. ``successor`` names who should be next."""

    request: int
    name: str
    nonce: str
    successor: str = ""


class StepDownRequest(_Message, frozen=True, tag="sd"):
    """Ask the holder, whoever it is, to let go; ``successor`` names who should be next."""

    request: int
    name: str
    successor: str = ""


class RevokeRequest(_Message, frozen=True, tag="rev"):
    """End a lease that never expires, without its holder: an operator's explicit command."""

    request: int
    name: str
    term: int


class GetRequest(_Message, frozen=True, tag="get"):
    """Read one lease from a majority."""

    request: int
    name: str


class ListRequest(_Message, frozen=True, tag="list"):
    """Read what this node knows, a page in name order."""

    request: int
    prefix: str = ""
    after: str = ""
    limit: int = 1000


class WatchRequest(_Message, frozen=True, tag="watch"):
    """Stream transitions of one lease, or of all that begin with ``prefix``; ``since`` is the last term seen."""

    request: int
    prefix: str
    is_exact: bool = True
    since: int = 0


class VerifyRequest(_Message, frozen=True, tag="ver"):
    """Ask a majority whether ``term`` is the current token."""

    request: int
    name: str
    term: int


class Spec(msgspec.Struct, frozen=True, array_like=True):
    """What was declared for a lease: the second register.

    Attributes:
        duration_ms: None is never.
        lock_delay_ms: Pause before a new holder after an unclean loss.
        identities: Holder names that may hold; empty admits everybody.
        mode: Active, Paused (nobody new) or ObserveOnly.
        service_accounts: Of pods that may hold, in the lease's own namespace; empty admits all.
        pods: uids of pods that may hold; None admits all.
        source: Who declares it, so that each withdraws only its own: ``kubernetes`` for the operator, empty for people.
        renew_deadline_ms: A holder stops when no renewal was acknowledged for so long; 0 leaves it to the client.
        retry_period_ms: Between two renewals; 0 likewise. Both travel with the grant, and count from the next one on.
        preference: One of ``PREFERENCES``.
        no_failback_ms: How long a holder must have led before a preferred candidate takes its place.
    """

    duration_ms: int | None
    lock_delay_ms: int = 0
    identities: tuple[str, ...] = ()
    mode: str = "Active"
    service_accounts: tuple[str, ...] = ()
    pods: tuple[str, ...] | None = None
    source: str = ""
    renew_deadline_ms: int = 0
    retry_period_ms: int = 0
    preference: str = "None"
    no_failback_ms: int = 0


class DeclareRequest(_Message, frozen=True, tag="dec"):
    """Write the specification of a lease; None withdraws it."""

    request: int
    name: str
    spec: Spec | None


class SpecsRequest(_Message, frozen=True, tag="specs"):
    """Read what this node knows to be declared, a page in name order."""

    request: int
    prefix: str = ""
    after: str = ""


class KeysRequest(_Message, frozen=True, tag="keys"):
    """Write the public keys (a JSON web key set) that ServiceAccount tokens are verified with."""

    request: int
    issuer: str
    audience: str
    jwks: bytes


class StatusRequest(_Message, frozen=True, tag="stat"):
    """Ask this node how it and the quorum are."""

    request: int


class UnwatchRequest(_Message, frozen=True, tag="unw"):
    """End a watch."""

    request: int


# --- node to client ------------------------------------------------------------------------------------------


class Granted(_Message, frozen=True, tag="G"):
    """The lease is held: a majority durably says so.

    Attributes:
        seq: The round followed this message of the client; validity runs from its sending.
        ordinal: Counts the grants of this session; a keepalive renews those up to its own ordinal.
        renew_deadline_ms: As declared, see ``Spec``; so ``retry_period_ms``.
    """

    request: int
    name: str
    nonce: str
    term: int
    duration_ms: int | None
    seq: int
    ordinal: int
    renew_deadline_ms: int = 0
    retry_period_ms: int = 0


class Denied(_Message, frozen=True, tag="D"):
    """Somebody else holds. A hint, and a time after which asking again makes sense; None is never."""

    request: int
    name: str
    holder: Holder | None
    term: int
    retry_after_ms: int | None


class Failed(_Message, frozen=True, tag="F"):
    """The request failed; ``code`` is that of the error class (``errors.py``)."""

    request: int
    code: str
    text: str


class KeptAlive(_Message, frozen=True, tag="KA"):
    """Every lease of the session up to ``ordinal`` was renewed, but those in ``failed``."""

    seq: int
    ordinal: int
    failed: tuple[str, ...] = ()


class Kept(_Message, frozen=True, tag="K"):
    """One lease was renewed by a round of its own that followed ``seq``."""

    name: str
    nonce: str
    seq: int


class Lost(_Message, frozen=True, tag="L"):
    """The lease is gone: another holder, or no majority keeps it."""

    name: str
    nonce: str
    reason: str


class StepDownAsked(_Message, frozen=True, tag="SD"):
    """Please let go when your work has ended."""

    name: str
    nonce: str
    successor: str


class Done(_Message, frozen=True, tag="OK"):
    """The request took effect; ``term`` is the term or generation it left."""

    request: int
    term: int = 0


class LeaseInfo(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a lease.

    Attributes:
        state: ``held``, ``vacant``, or ``in transition`` (no majority reports one value).
        remaining_ms: Until acceptors let go, seen from the answering node; None is never.
        duration_ms: None is never.
        acquired_at_ms: Wall clock, for people.
        preference: Of the lease's declaration.
    """

    name: str
    state: str
    holder: Holder | None
    term: int
    duration_ms: int | None
    remaining_ms: int | None
    acquired_at_ms: int
    candidates: tuple[str, ...] = ()
    preference: str = "None"


class Leases(_Message, frozen=True, tag="LS"):
    """Answer to ``GetRequest`` (one item or none) and ``ListRequest``; ``after`` continues the list."""

    request: int
    items: tuple[LeaseInfo, ...]
    after: str = ""


class DeclaredSpecs(_Message, frozen=True, tag="SP"):
    """Answer to ``SpecsRequest``: (name, specification) in name order; ``after`` continues the list."""

    request: int
    items: tuple[tuple[str, Spec], ...]
    after: str = ""


class Transition(_Message, frozen=True, tag="T"):
    """A change of a watched lease.

    Attributes:
        kind: ``acquired``, ``released``, ``expired``, ``revoked``, ``transferred``; ``state`` for the first answer,
            and ``resync`` where transitions may be missing between the last one and this.
    """

    request: int
    name: str
    kind: str
    term: int
    holder: Holder | None
    at_ms: int


class Verified(_Message, frozen=True, tag="V"):
    """Whether the token is current, and which term is."""

    request: int
    is_current: bool
    term: int


class NodeStatus(_Message, frozen=True, tag="ST"):
    """One node's view: itself first, then how it sees its peers."""

    request: int
    name: str
    member: str
    cluster: str
    incarnation: int
    epoch: int
    version: str
    ballot_highest: int
    fsync_p99_ms: float
    leases_held: int
    sessions: int
    members_total: int
    members_healthy: int
    can_lose: int
    is_quorum_available: bool
    peers: tuple[tuple[str, str, bool, float], ...]
    """(name, member uuid, reachable, round trip in ms or -1)."""


class GoAway(_Message, frozen=True, tag="GA"):
    """This node is leaving: go to another, with the same nonces."""

    reason: str


ClientMessage = (
    KeepAlive
    | AcquireRequest
    | CancelRequest
    | ReleaseRequest
    | StepDownRequest
    | RevokeRequest
    | GetRequest
    | ListRequest
    | WatchRequest
    | UnwatchRequest
    | VerifyRequest
    | DeclareRequest
    | KeysRequest
    | SpecsRequest
    | StatusRequest
    | Hello
    | Refused
)
NodeMessage = (
    Granted
    | Denied
    | Failed
    | KeptAlive
    | Kept
    | Lost
    | StepDownAsked
    | Done
    | Leases
    | DeclaredSpecs
    | Transition
    | Verified
    | NodeStatus
    | GoAway
    | Hello
    | Refused
)
