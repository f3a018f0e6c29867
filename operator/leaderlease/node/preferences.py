"""Who should be first where several could hold a lease that prefers some (``Spec.preference``).

Rule 1: a preference decides who asks, and who is named to the holder; never what an acceptor answers. What candidates
        say of themselves is believed: a wrong claim gives the lease to the wrong one of those that are admitted.
Rule 2: before a node goes for a vacancy of such a lease it hears who waits at the others, and stands back once for a
        better one, for ``STAND_BACK_MS``; if nobody has taken the lease then, it goes.
Rule 3: a holder that has led for long enough is asked to step down in favour of a better one that waits, and decides
        itself when (H23); nothing is taken from it. Equal candidates never replace each other.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from leaderlease.node.driver import Driver
from leaderlease.node.homes import LEASE, Home, Waiter
from leaderlease.node.ports import Timer
from leaderlease.node.reads import Reading, Reads
from leaderlease.paxos.messages import Claim
from leaderlease.wire.session import Spec, StepDownAsked

CLAIMS_MAX: Final = 16
"""Candidates that a node tells others of, for one lease."""
STAND_BACK_MS: Final = 500
"""How long a node leaves a vacancy to a better candidate of another node."""
FAILBACK_CHECK_MS: Final = 1_000
FAILBACK_LEASES_MAX: Final = 200
"""How often a node looks for better candidates than its holders, and for how many leases each time, in turn."""
ASK_AGAIN_MS: Final = 30_000
"""After this a holder that was asked to step down is asked again."""
ORDINAL_NONE: Final = 1 << 31

Rank = tuple[int, int]
"""What is declared to be preferred, then the roll-out as a tie-break; smaller is better."""


def ranking(preference: str, claims: Iterable[Claim]) -> Callable[[Claim], Rank]:
    """Return how good a candidate is among these.

    ``NewestReplicaSet`` goes by the template hash in a pod's name, ``app-<hash>-<suffix>``: a ReplicaSet is as new as
    the oldest of its candidates, so that one pod that was replaced late does not renew the old ones.
    """
    since: dict[tuple[str, str], int] = {}
    for claim in claims:
        group = _replica_set(claim.name)
        if group is not None and claim.since_ms:
            since[group] = min(claim.since_ms, since.get(group, claim.since_ms))

    def newest(claim: Claim) -> int:
        group = _replica_set(claim.name)
        return -since.get(group, 0) if group is not None else 0

    match preference:
        case "Priority":
            return lambda claim: (-claim.priority, newest(claim))
        case "Ordinal":
            return lambda claim: (_ordinal(claim.name), 0)
        case "NewestReplicaSet":
            return lambda claim: (newest(claim), 0)
        case _:
            return lambda claim: (0, 0)


def better_than(preference: str, present: Claim, claims: Iterable[Claim]) -> Claim | None:
    """Return the best of these candidates, if it ranks before ``present`` by what is declared; else None."""
    found = [claim for claim in claims if claim.name != present.name]
    rank = ranking(preference, [present, *found])
    best = min(found, key=rank, default=None)
    return best if best is not None and rank(best)[0] < rank(present)[0] else None


def _ordinal(pod: str) -> int:
    tail = pod.rpartition("-")[2]
    return int(tail) if tail.isascii() and tail.isdigit() and len(tail) < 10 else ORDINAL_NONE


def _replica_set(pod: str) -> tuple[str, str] | None:
    parts = pod.rsplit("-", 2)
    return (parts[0], parts[1]) if len(parts) == 3 else None


class Preferences:
    """What one node does about preferences.

    Attributes:
        spec_of: What is declared for a lease, as this node knows it.
    """

    def __init__(self, driver: Driver, reads: Reads, homes: dict[str, Home]) -> None:
        self.spec_of: Callable[[str], Spec | None] = lambda name: None
        self._driver = driver
        self._reads = reads
        self._homes = homes
        self._led: dict[str, None] = {}
        """Leases of holders here that a preference is declared for, or was, in the order in which to look at them."""
        self._timer: Timer | None = None
        driver.claims = self.claims

    def of(self, name: str) -> str:
        """Return what is preferred for a lease; empty where nothing is."""
        spec = self.spec_of(name)
        return "" if spec is None or spec.preference == "None" else spec.preference

    def claims(self, key: str) -> tuple[Claim, ...]:
        """Return who waits here for a lease that prefers some, the best first: for whoever peeks."""
        home = self._homes.get(key)
        if home is None or not home.waiters or not self.of(home.name):
            return ()
        waiting = (waiter.claim for waiter in home.waiters if waiter.is_waiting and not waiter.is_cancelled)
        return tuple(islice(waiting, CLAIMS_MAX))

    # --- the queue -------------------------------------------------------------------------------------------

    def enqueue(self, home: Home, waiter: Waiter) -> None:
        """Put a candidate into the queue: last, or where its rank belongs."""
        home.waiters.append(waiter)
        self.sort(home)

    def sort(self, home: Home) -> None:
        """Put the queue in order; equal candidates keep theirs, and whoever was put first stays so."""
        preference = self.of(home.name)
        if preference and len(home.waiters) > 1:
            rank = ranking(preference, [waiter.claim for waiter in home.waiters])
            home.waiters.sort(key=lambda waiter: (waiter is not home.first, rank(waiter.claim)))

    def must_ask(self, home: Home, waiter: Waiter) -> bool:
        """Tell whether the others have to be heard before an attempt for this candidate (rule 2)."""
        return bool(self.of(home.name)) and waiter is not home.first and not waiter.goes_on

    def stands_back(self, home: Home, reading: Reading) -> bool:
        """Tell whether this vacancy is another node's to take first; true once for each term."""
        preference = self.of(home.name)
        term = reading.value.term if reading.value is not None else 0
        if not preference or not home.waiters or home.waiters[0] is home.first or home.stood_back_term == term:
            return False
        mine, others = home.waiters[0].claim, reading.waiting_elsewhere(self._driver.member)
        rank = ranking(preference, [mine, *others])
        if not any(rank(claim) < rank(mine) for claim in others):
            return False
        home.stood_back_term = term
        return True

    # --- the holder ------------------------------------------------------------------------------------------

    def granted(self, home: Home) -> None:
        """Begin to look for better candidates than this holder (rule 3)."""
        if self.of(home.name):
            self._led.setdefault(home.key)
            self._arm()

    def declared(self, home: Home) -> None:
        """Take note that something else is declared for a lease."""
        self.sort(home)
        if home.held is not None:
            self.granted(home)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._driver.ports.call_later(FAILBACK_CHECK_MS, self._look)

    def _look(self) -> None:
        self._timer = None
        for key in list(islice(self._led, FAILBACK_LEASES_MAX)):
            del self._led[key]
            home = self._homes.get(key)
            if home is not None and home.held is not None and self.of(home.name):
                self._led[key] = None
                self._look_at(home)
        if self._led:
            self._arm()

    def _look_at(self, home: Home) -> None:
        held, spec, now_ms = home.held, self.spec_of(home.name), self._driver.ports.now_ms()
        if held is None or spec is None:
            return
        if now_ms - held.granted_ms < spec.no_failback_ms or now_ms < held.asked_until_ms:
            return

        def on_read(reading: Reading) -> None:
            value = reading.value
            if home.held is not held or value is None or value.nonce != held.holder.nonce or reading.is_vacant:
                return
            best = better_than(self.of(home.name), held.claim, reading.waiting)
            if best is not None:
                held.asked_until_ms = self._driver.ports.now_ms() + ASK_AGAIN_MS
                message: Any = StepDownAsked(home.name, held.holder.nonce, best.name)
                held.session.push(message)

        self._reads.read(LEASE + home.name, on_read, is_complete=True)
