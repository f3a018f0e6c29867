"""What a node keeps for each lease that it proposes for, and for each session that it serves."""

from collections.abc import Callable
from typing import Any, Final, Protocol

from leaderlease.node.ports import Timer
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder, Value, digest
from leaderlease.paxos.messages import Claim, RenewItem
from leaderlease.paxos.proposer import Attempt
from leaderlease.wire.session import GoAway

LEASE = "l/"
SPEC = "s/"
"""Prefixes of the registers that hold leases and their specifications."""
WAITERS_MAX: Final = 10_000
"""Candidates of one lease at one node."""
TODO_MAX: Final = 64
"""Requests that wait until the attempt of their lease has ended."""

SETTLED_MS: Final = 1_000
"""A session younger than this is not sent away: where no node reaches a majority, clients do not run in circles."""


class Outbox(Protocol):
    """Where messages for a client go."""

    def push(self, message: Any) -> None:
        """Queue a message; it is lost when the connection is."""


class Session:
    """One client connection, as the lease logic sees it."""

    __slots__ = ("is_closed", "last_seq", "leases", "name", "opened_ms", "ordinal", "outbox", "principal", "waits",
                 "watches")  # fmt: skip

    def __init__(self, outbox: Outbox, name: str, principal: Any, opened_ms: int) -> None:
        self.outbox = outbox
        self.name = name
        self.principal = principal
        self.opened_ms = opened_ms
        self.last_seq = 0
        self.ordinal = 0
        self.leases: dict[str, Home] = {}
        self.waits: dict[int, tuple[Home, Waiter]] = {}
        self.watches: dict[int, Any] = {}
        self.is_closed = False

    def push(self, message: Any) -> None:
        """Send to the client, unless it has gone."""
        if not self.is_closed:
            self.outbox.push(message)

    def send_away(self, now_ms: int) -> None:
        """Ask the client to go to another node, for this one reaches no majority."""
        if now_ms - self.opened_ms >= SETTLED_MS:
            self.push(GoAway("it reaches no majority of the nodes"))

    def shown(self, holder: Holder | None) -> Holder | None:
        """Return a holder as this client may see it: only administrators see nonces (H19)."""
        if holder is None or self.principal.is_admin:
            return holder
        return Holder(holder.name, holder.pod_uid, "")


class Waiter:
    """One candidate: a request that is neither granted nor denied yet.

    Attributes:
        goes_on: The term that it holds already, by way of another node; 0 for one that wants the next.
        claim: What it says of itself, for a lease that prefers some.
        renew_deadline_ms: As declared, to be told with the grant; so ``retry_period_ms``.
    """

    __slots__ = (
        "claim",
        "duration_ms",
        "goes_on",
        "holder",
        "is_cancelled",
        "is_waiting",
        "lock_delay_ms",
        "renew_deadline_ms",
        "request",
        "retry_period_ms",
        "session",
    )

    def __init__(
        self,
        session: Session,
        request: int,
        holder: Holder,
        is_waiting: bool,
        duration_ms: int | None,
        lock_delay_ms: int,
        goes_on: int = 0,
        claim: Claim | None = None,
    ) -> None:
        self.session = session
        self.goes_on = goes_on
        self.request = request
        self.holder = holder
        self.is_waiting = is_waiting
        self.duration_ms = duration_ms
        self.lock_delay_ms = lock_delay_ms
        self.claim = claim or Claim(holder.name)
        self.renew_deadline_ms = self.retry_period_ms = 0
        self.is_cancelled = False

    def is_in(self, value: Value | None) -> bool:
        """Tell whether this value names its holder, by nonce (H19)."""
        return value is not None and value.nonce == self.holder.nonce


class Held:
    """A grant that this node keeps alive for a session.

    Attributes:
        take_over_until_ms: Until when a failed take-over is tried again: for one duration after a keepalive.
        claim: What the holder says of itself.
        granted_ms: When this node began to serve it.
        asked_until_ms: Until when it is not asked again to step down in favour of a better one.
    """

    __slots__ = ("asked_until_ms", "ballot", "claim", "digest", "granted_ms", "holder", "item", "session",
                 "take_over_until_ms", "value")  # fmt: skip

    def __init__(
        self, key: str, session: Session, ballot: Ballot, value: Value, claim: Claim | None = None, now_ms: int = 0
    ) -> None:
        assert value.holder is not None
        self.session = session
        self.holder: Holder = value.holder
        self.value = value
        self.take_over_until_ms = self.asked_until_ms = 0
        self.claim = claim or Claim(self.holder.name)
        self.granted_ms = now_ms
        self.take(key, ballot)

    def take(self, key: str, ballot: Ballot) -> None:
        """Go on under another ballot of this node."""
        self.ballot = ballot
        self.digest = digest(self.value)
        self.item = RenewItem(key, ballot.counter, self.digest)


class Home:
    """The proposer's side of one lease at this node."""

    __slots__ = (
        "failures", "first", "held", "hold_off_until_ms", "is_busy", "key", "name", "prepared", "stood_back_term",
        "timer", "todo", "waiters", "wins",
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        self.key = key
        self.name = key[len(LEASE) :]
        # Lists: an empty deque takes 760 bytes, and most leases have neither.
        self.waiters: list[Waiter] = []
        self.first: Waiter | None = None
        """Who was put first, whatever is preferred: it holds already, or was named as successor."""
        self.stood_back_term = -1
        """The last term whose end was left to a better candidate of another node."""
        self.held: Held | None = None
        self.prepared: Attempt | None = None
        self.is_busy = False
        self.failures = 0
        self.wins = 0
        """Grants from this node's queue in a row, since another node's candidate had its turn."""
        self.timer: Timer | None = None
        self.hold_off_until_ms = 0
        self.todo: list[Callable[[], None]] = []
        """What has to wait until the attempt that is under way has ended."""

    def is_idle(self) -> bool:
        """Tell whether nothing here needs to be kept."""
        return not (self.waiters or self.held or self.prepared or self.is_busy or self.todo)


def put_first(home: Home, is_it: Callable[[Waiter], bool]) -> bool:
    """Put the first candidate that ``is_it`` names at the head of the queue; return whether there is one."""
    waiter = next((waiter for waiter in home.waiters if is_it(waiter) and not waiter.is_cancelled), None)
    if waiter is None:
        return False
    home.waiters.remove(waiter)
    home.waiters.insert(0, waiter)
    home.first = waiter
    return True
