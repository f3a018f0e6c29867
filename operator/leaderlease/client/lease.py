"""What applications hold: a lease, or the answer that somebody else has it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from leaderlease.client.campaign import Campaign, Phase
from leaderlease.client.clock import Clock
from leaderlease.errors import LeaseLost
from leaderlease.paxos.lease import Holder

if TYPE_CHECKING:
    from leaderlease.client.sdk import Client


@dataclass(frozen=True, slots=True)
class Denied:
    """Somebody else holds the lease. False, so that ``if lease := await client.try_acquire(...)`` reads well.

    Attributes:
        holder: A hint: who held when the node last heard; None when it does not know.
        term: The term of that holder.
        retry_after: Seconds after which asking again makes sense; None is never.
    """

    name: str
    holder: Holder | None
    term: int
    retry_after: float | None

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Verification:
    """What a majority says of a token; true when it is current.

    Attributes:
        term: The current term.
    """

    is_current: bool
    term: int

    def __bool__(self) -> bool:
        return self.is_current


class Lease:
    """A lease that this process was granted.

    Two holders never believe at the same instant while clock rates keep their bound and no process is paused
    unnoticed. A pause between a check and an act is closed only by the token: give ``term`` to the resource, and let
    it refuse smaller ones.

    Attributes:
        lost: Set once the lease may no longer be believed: in time to stop the work, unless the loop was blocked.
        step_down_requested: Set when somebody asks this holder to let go; ``successor`` names who should be next.
    """

    def __init__(self, campaign: Campaign, client: "Client", clock: Clock) -> None:
        self._campaign = campaign
        self._client = client
        self._clock = clock
        self.lost = asyncio.Event()
        self.step_down_requested = asyncio.Event()
        self.on_change: Callable[[], None] | None = None
        """Called in the event loop after ``lost`` or ``step_down_requested`` was set."""

    def __repr__(self) -> str:
        return f"Lease({self.name!r}, identity={self.identity!r}, term={self.term}, remaining={self.remaining():.3f})"

    @property
    def name(self) -> str:
        """``namespace/name``."""
        return self._campaign.name

    @property
    def identity(self) -> str:
        """The holder's name, for people."""
        return self._campaign.holder.name

    @property
    def nonce(self) -> str:
        """What tells this holder from all others; another process may release with it."""
        return self._campaign.holder.nonce

    @property
    def term(self) -> int:
        """The fencing token: greater with every grant."""
        return self._campaign.term

    @property
    def duration(self) -> float | None:
        """Seconds that acceptors wait after the last renewal; None is never."""
        return None if self._campaign.duration_ms is None else self._campaign.duration_ms / 1000

    @property
    def give_up(self) -> float:
        """How many seconds before the end of its validity the lease is given up and ``lost`` is set; 0 for never."""
        return self._campaign.give_up_ms / 1000

    @property
    def successor(self) -> str:
        """Who should be next, as the request to step down said; empty when it named nobody."""
        return self._campaign.successor

    @property
    def reason(self) -> str:
        """Why the lease was lost; empty while it was not."""
        return self._campaign.reason

    @property
    def is_released(self) -> bool:
        """Tell whether this process let go."""
        return self._campaign.phase is Phase.RELEASED

    def remaining(self) -> float:
        """Return for how many seconds the lease may still be believed, computed from the clocks now.

        Returns: 0 when it may not be believed; infinity for a lease without end.
        Source: protocol, section 4.
        """
        return self._campaign.remaining_ms(self._clock()) / 1000

    def check(self, need: float = 0.0) -> None:
        """Make sure that the lease may be believed for ``need`` more seconds.

        Raises:
            LeaseLost: Less remains.
        """
        remaining = self.remaining()
        if remaining <= 0:
            why = self.reason or ("it was released" if self.is_released else "its validity has run out")
            raise LeaseLost(f"{self.name}: term {self.term} is lost: {why}")
        if remaining < need:
            raise LeaseLost(f"{self.name}: {remaining:.3f} s remain of term {self.term}, {need:.3f} s are needed")

    def announce(self, event: asyncio.Event) -> None:
        """Set ``lost`` or ``step_down_requested`` and call ``on_change``; for the client."""
        event.set()
        if self.on_change is not None:
            self.on_change()

    async def release(self, successor: str = "") -> bool:
        """Stop believing, then let go; the work under the lease must have ended (H23).

        See :meth:`Client.release`.
        """
        return await self._client.release(self, successor=successor)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release(self.successor)


class Lead:
    """``async with`` block whose body runs while the lease is held; see :meth:`Client.lead`."""

    def __init__(self, client: "Client", name: str, identity: str, options: dict[str, object]) -> None:
        self._client = client
        self._name = name
        self._identity = identity
        self._options = options
        self._lease: Lease | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._is_cancelled = False

    async def __aenter__(self) -> Lease:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        lease = await self._client.acquire(self._name, self._identity, **self._options)  # type: ignore[arg-type]
        if lease.lost.is_set() or lease.step_down_requested.is_set():
            await lease.release(lease.successor)
            raise LeaseLost(f"{lease.name}: term {lease.term} ended before the work began")
        self._lease = lease
        lease.on_change = self._stop
        return lease

    def _stop(self) -> None:
        if self._task is not None and not self._is_cancelled:
            self._is_cancelled = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, task = self._lease, self._task
        assert lease is not None
        assert task is not None
        lease.on_change = None
        is_ours = False
        if self._is_cancelled:
            # As asyncio.timeout does it: only our own cancellation turns into another exception.
            is_ours = task.uncancel() <= self._cancelling and kind is asyncio.CancelledError
        is_lost = lease.lost.is_set()
        is_asked = lease.step_down_requested.is_set()
        await lease.release(lease.successor)
        if is_ours or kind is None:
            if is_lost:
                raise LeaseLost(f"{lease.name}: term {lease.term} is lost: {lease.reason}") from error
            if is_asked and is_ours:
                favour = f" in favour of {lease.successor}" if lease.successor else ""
                raise LeaseLost(f"{lease.name}: asked to step down{favour}") from error
