"""Letting go: release, hand-over, revoke (protocol, sections 4 and 5).

Rule 1: the holder stops believing before it asks; nothing here is done for one who still works (H23).
Rule 2: a timed lease is released by stopping timers, which is volatile: a restart only waits longer. A lease that
        never expires is released by a durable write, or it would come back with a restart.
Rule 3: a hand-over goes to a candidate that waits; to any other successor the lease is left free for a moment.
"""

from collections.abc import Callable
from typing import Final

from leaderlease.node.driver import Driver
from leaderlease.node.homes import LEASE, Held, Home, put_first
from leaderlease.node.leases import Leases
from leaderlease.node.reads import Reading, Reads, ReadState
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value, digest
from leaderlease.paxos.messages import Release
from leaderlease.paxos.proposer import Attempt, HandOver, Outcome, Vacate

SUCCESSOR_GRACE_MS: Final = 500
"""How long other candidates stand back for a successor that was named."""
VACATE_RETRIES_MAX: Final = 8
"""Ballots for one durable release, before the caller is told that the outcome is unknown."""

OnEnd = Callable[[int, str, str], None]
"""Called with (term, "", "") on success, or (0, error code, text)."""


class Releases:
    """How leases end at the wish of somebody."""

    def __init__(self, driver: Driver, reads: Reads, leases: Leases) -> None:
        self._driver = driver
        self._reads = reads
        self._leases = leases
        leases.on_unwanted = lambda home, held: self._let_go(home, held, "", _ignore)
        driver.route(Release, self._on_release)

    def release(self, name: str, nonce: str, successor: str, on_end: OnEnd) -> None:
        """Release for ``nonce``, whether its lease is kept here or by another node (H19: never by name)."""
        home = self._leases.homes.get(LEASE + name)
        held = home.held if home is not None else None
        if home is None or held is None or held.holder.nonce != nonce:
            self._release_elsewhere(name, nonce, successor, on_end)
            return
        self._leases.drop_held(home)
        is_queued = self._leases.when_free(home, lambda: self._let_go(home, held, successor, on_end))
        if not is_queued:
            on_end(0, "unknown", f"{name}: too many requests wait for this lease; ask again")

    def revoke(self, name: str, term: int, on_end: OnEnd) -> None:
        """End a lease that never expires, whoever holds it: an operator's explicit command."""

        def on_read(reading: Reading) -> None:
            value = reading.value
            if reading.state is ReadState.UNAVAILABLE:
                on_end(0, "quorum", self._driver.quorum.missing(reading.answered))
            elif value is None or value.holder is None or value.term != term:
                now = f"its term is {value.term}" if value is not None else "nobody ever held it"
                on_end(0, "not_holder", f"{name}: nobody holds it under term {term}; {now}")
            elif not value.is_never:
                text = f"{name}: it expires by itself; to end it sooner, ask its holder: leaderlease transfer {name}"
                on_end(0, "refused", text)
            else:
                home = self._leases.home(LEASE + name)
                self._vacate_when_free(home, value.nonce, "revoked", on_end)

        self._reads.read(LEASE + name, on_read)

    def _release_elsewhere(self, name: str, nonce: str, successor: str, on_end: OnEnd) -> None:
        def on_read(reading: Reading) -> None:
            value = reading.value
            if reading.state is ReadState.UNAVAILABLE:
                on_end(0, "quorum", self._driver.quorum.missing(reading.answered))
            elif value is None or value.nonce != nonce:
                on_end(0, "not_holder", f"{name}: nobody holds it under this nonce")
            elif value.is_never:
                self._vacate_when_free(self._leases.home(LEASE + name), nonce, "released", on_end)
            else:
                self._stop_timers(self._leases.home(LEASE + name), reading.ballot, value, successor)
                on_end(value.term, "", "")

        self._reads.read(LEASE + name, on_read)

    def _let_go(self, home: Home, held: Held, successor: str, on_end: OnEnd) -> None:
        wanted = successor and put_first(home, lambda waiter: waiter.holder.name == successor)
        register = self._driver.acceptor.registers.get(home.key)
        ballot, value = held.ballot, held.value
        if register is not None and register.value == value and register.accepted > ballot:
            # A take-over has moved it to a higher ballot while this waited.
            ballot = register.accepted
        if wanted:
            self._hand_over(home, ballot, value, on_end)
        elif value.is_never:
            self._vacate_when_free(home, value.nonce, "released", on_end)
        else:
            self._stop_timers(home, ballot, value, successor)
            on_end(value.term, "", "")

    def _stop_timers(self, home: Home, ballot: Ballot, value: Value, successor: str) -> None:
        driver = self._driver
        release = Release(driver.epoch, home.key, ballot, digest(value), successor)
        driver.broadcast(release)
        self._on_release(driver.member, release)

    def _hand_over(self, home: Home, ballot: Ballot, value: Value, on_end: OnEnd) -> None:
        """Write ``{successor, term + 1}``: no moment in between in which another could win."""
        home.is_busy = True
        waiter = home.waiters[0]
        basis = waiter.session.last_seq
        wall_ms = self._driver.ports.wall_ms()
        intent = HandOver(value.nonce, waiter.holder, waiter.duration_ms, waiter.lock_delay_ms, wall_ms)

        def end(attempt: Attempt) -> None:
            home.is_busy = False
            if attempt.outcome is Outcome.CHOSEN and attempt.decision is not None:
                self._leases.grant(home, waiter, basis, attempt, attempt.decision.value, "transferred")
                on_end(value.term, "", "")
            elif value.is_never:
                self._vacate(home, value.nonce, "released", on_end, VACATE_RETRIES_MAX)
            else:
                self._stop_timers(home, ballot, value, waiter.holder.name)
                on_end(value.term, "", "")
            if not home.is_busy:
                self._leases.free(home)

        self._driver.start(home.key, value.nonce, intent, end)

    def _vacate_when_free(self, home: Home, nonce: str, reason: str, on_end: OnEnd) -> None:
        start = lambda: self._vacate(home, nonce, reason, on_end, VACATE_RETRIES_MAX)  # noqa: E731
        if not self._leases.when_free(home, start):
            on_end(0, "unknown", f"{home.name}: too many requests wait for this lease; ask again")

    def _vacate(self, home: Home, nonce: str, reason: str, on_end: OnEnd, retries: int) -> None:
        home.is_busy = True

        def end(attempt: Attempt) -> None:
            home.is_busy = False
            decision = attempt.decision
            if attempt.outcome is Outcome.CHOSEN and decision is not None:
                if home.held is not None and home.held.holder.nonce == nonce:
                    self._leases.lose(home, f"it was {reason}")
                self._leases.announce(home, attempt, decision.value, reason)
                on_end(decision.value.term, "", "")
                self._leases.free(home)
                self._leases.vacated(home, is_mine=True)
            elif attempt.outcome in (Outcome.FAILED, Outcome.COMPLETED):
                on_end(0, "not_holder", f"{home.name}: somebody else has it, or nobody")
                self._leases.free(home)
            elif retries:
                self._again(home, nonce, reason, on_end, retries - 1)
            else:
                answered = attempt.accepted or attempt.promises
                on_end(0, "unknown", f"{home.name}: {attempt.quorum.missing(answered)}; ask again")
                self._leases.free(home)

        self._driver.start(home.key, nonce, Vacate(nonce), end)

    def _again(self, home: Home, nonce: str, reason: str, on_end: OnEnd, retries: int) -> None:
        home.is_busy = True
        pause_ms = 2 + self._driver.ports.random() * 50
        self._driver.ports.call_later(pause_ms, lambda: self._vacate(home, nonce, reason, on_end, retries))

    def _on_release(self, origin: str, message: Release) -> None:
        driver = self._driver
        value = driver.acceptor.release(message)
        if value is None:
            return
        driver.learner.ended(message.key[len(LEASE) :], value.term, "released")
        is_mine = origin == driver.member
        home = self._leases.home(message.key) if is_mine else self._leases.homes.get(message.key)
        if home is None:
            return
        successor = message.successor
        if not successor:
            self._leases.vacated(home, is_mine)
        elif put_first(home, lambda waiter: waiter.holder.name == successor):
            home.hold_off_until_ms = 0
            self._leases.pump(home)
        else:
            home.hold_off_until_ms = driver.ports.now_ms() + SUCCESSOR_GRACE_MS
            self._leases.wake_in(home, SUCCESSOR_GRACE_MS)


def _ignore(term: int, code: str, text: str) -> None:
    return None
