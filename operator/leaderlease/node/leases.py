"""Grants, the waiting queue, releases: what a node does for its sessions (protocol, section 5).

Rule 1: a client hears "granted" only after a majority has accepted durably; the grant names the client message that
        its round followed, so that validity runs from the client's own clock (R6).
Rule 2: this node's own acceptor serves as the peek: a hint that spares ballots, never a decision (H8).
Rule 3: one attempt a lease at a time here; between nodes, candidates stand back by rank instead of duelling.
"""

from collections import deque
from typing import Final

from leaderlease.node.driver import Driver
from leaderlease.node.homes import LEASE, Held, Home, Session, Waiter
from leaderlease.node.reads import Reading, Reads, ReadState
from leaderlease.paxos.acceptor import NEVER
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Chosen, Release
from leaderlease.paxos.proposer import Acquire, Attempt, HandOver, Intent, Outcome, Phase
from leaderlease.wire.session import Denied, Done, Failed, Granted, Kept, Lost

RANK_MS: Final = 4
"""How long a candidate's node stands back for each node that ranks before it."""
BACKOFF_FIRST_MS: Final = 2
BACKOFF_MAX_MS: Final = 250
"""Bounds of the random pause after a ballot was preempted or timed out; doubles with each failure."""
PREPARE_AHEAD_MS: Final = 25
"""How long a lease stays vacant before phase 1 is done in advance."""
RECHECK_MS: Final = 10_000
"""How often a candidate's node asks a majority, in case it missed a release."""
SUCCESSOR_GRACE_MS: Final = 500
"""How long others stand back for a named successor."""


class Leases:
    """Every lease that this node proposes for."""

    def __init__(self, driver: Driver, reads: Reads) -> None:
        self._driver = driver
        self._reads = reads
        self.homes: dict[str, Home] = {}
        driver.route(Chosen, self._on_chosen)
        driver.route(Release, self._on_release)
        self._rank_of = {member: i for i, member in enumerate(sorted(driver.quorum.members))}

    def home(self, key: str) -> Home:
        """Return what is kept for a lease; made on first use."""
        home = self.homes.get(key)
        if home is None:
            home = self.homes[key] = Home(key)
        return home

    # --- asking ----------------------------------------------------------------------------------------------

    def acquire(self, name: str, waiter: Waiter) -> None:
        """Queue a candidate and see what can be done for it now."""
        home = self.home(LEASE + name)
        home.waiters.append(waiter)
        waiter.session.waits[waiter.request] = (home, waiter)
        self.pump(home)

    def cancel(self, waiter: Waiter, home: Home) -> None:
        """Take a candidate out; if its grant is under way, it will be released at once."""
        waiter.is_cancelled = True
        waiter.session.waits.pop(waiter.request, None)
        if waiter in home.waiters and not (home.is_busy and home.waiters[0] is waiter):
            home.waiters.remove(waiter)
        self._tidy(home)

    def pump(self, home: Home) -> None:
        """Do the next thing for this lease's candidates, if there is one to do."""
        if home.is_busy or not home.waiters:
            return
        driver = self._driver
        waiter = home.waiters[0]
        now_ms = driver.ports.now_ms()
        register = driver.acceptor.registers.get(home.key)
        if register is not None and register.is_live(now_ms):
            assert register.value is not None
            if register.value.nonce != waiter.holder.nonce:
                self._wait(home, register.remaining_ms(now_ms))
                if any(not candidate.is_waiting for candidate in home.waiters):
                    self._ask_majority(home)
                return
        if home.hold_off_until_ms > now_ms:
            self._wake_in(home, home.hold_off_until_ms - now_ms)
            return
        if driver.is_disk_stalled():
            self._wake_in(home, BACKOFF_MAX_MS)
            return
        self._attempt(home, waiter)

    def _attempt(self, home: Home, waiter: Waiter) -> None:
        driver = self._driver
        if not driver.is_quorum_connected():
            self._refuse_without_quorum(home)
            return
        home.is_busy = True
        basis = waiter.session.last_seq
        intent = Acquire(
            waiter.holder, waiter.duration_ms, waiter.lock_delay_ms, driver.ports.wall_ms()
        )
        prepared, home.prepared = home.prepared, None
        on_end = lambda attempt: self._acquired(home, waiter, basis, attempt)  # noqa: E731
        if prepared is not None:
            driver.resume(prepared, intent, on_end)
        else:
            driver.start(home.key, waiter.holder.nonce, intent, on_end)

    def _acquired(self, home: Home, waiter: Waiter, basis: int, attempt: Attempt) -> None:
        home.is_busy = False
        value = attempt.decision.value if attempt.decision is not None else None
        match attempt.outcome:
            case Outcome.CHOSEN:
                assert value is not None
                home.failures = 0
                self._grant(home, waiter, basis, attempt, value, "acquired")
            case Outcome.COMPLETED | Outcome.LIVE | Outcome.FAILED:
                home.failures = 0
                seen_ballot, seen = attempt.seen()
                if attempt.outcome is Outcome.COMPLETED and value is not None:
                    self._announce(home, attempt, value, "acquired")
                remaining = _free_in_ms(attempt)
                self._deny(home, seen, remaining)
                self._drop_cancelled(home)
                self._wake_in(home, max(1, RECHECK_MS if remaining is None else remaining) + self._stand_back(home))
            case Outcome.PREEMPTED:
                self._retry(home, waiter)
            case None:
                self._timed_out(home, waiter, attempt)

    def _grant(
        self, home: Home, waiter: Waiter, basis: int, attempt: Attempt, value: Value, reason: str
    ) -> None:
        if waiter in home.waiters:
            home.waiters.remove(waiter)
        session = waiter.session
        session.waits.pop(waiter.request, None)
        self._announce(home, attempt, value, reason)
        held = Held(home.key, session, attempt.ballot, value)
        self._drop_held(home)
        if waiter.is_cancelled:
            self._let_go(home, held, "")
            return
        if not session.is_closed:
            home.held = held
            session.leases[home.key] = home
            session.ordinal += 1
            session.push(
                Granted(
                    waiter.request,
                    home.name,
                    held.holder.nonce,
                    value.term,
                    value.duration_ms,
                    basis,
                    session.ordinal,
                )
            )
        self._deny(home, value, value.duration_ms)

    def _deny(self, home: Home, seen: Value | None, retry_after_ms: int | None) -> None:
        """Answer those that do not wait; the others stay queued."""
        holder = seen.holder if seen is not None else None
        term = seen.term if seen is not None else 0
        stay: deque[Waiter] = deque()
        for waiter in home.waiters:
            if waiter.is_waiting or (holder is not None and holder.nonce == waiter.holder.nonce):
                stay.append(waiter)
                continue
            waiter.session.waits.pop(waiter.request, None)
            waiter.session.push(Denied(waiter.request, home.name, holder, term, retry_after_ms))
        home.waiters = stay

    def _retry(self, home: Home, waiter: Waiter) -> None:
        if waiter.is_cancelled and waiter in home.waiters:
            home.waiters.remove(waiter)
        home.failures += 1
        limit = min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS << min(home.failures, 10))
        self._wake_in(home, 1 + self._driver.ports.random() * limit)

    def _timed_out(self, home: Home, waiter: Waiter, attempt: Attempt) -> None:
        if not self._driver.is_quorum_connected():
            self._refuse_without_quorum(home)
        if waiter in home.waiters and not waiter.is_waiting:
            home.waiters.remove(waiter)
            waiter.session.waits.pop(waiter.request, None)
            answered = attempt.accepted if attempt.decision is not None else attempt.promises
            text = f"{home.name}: {attempt.quorum.missing(answered)}; ask again with the same identity"
            waiter.session.push(Failed(waiter.request, "unknown", text))
        self._retry(home, waiter)

    def _refuse_without_quorum(self, home: Home) -> None:
        """Tell those that do not wait how many nodes answer; the others go on waiting."""
        driver = self._driver
        stay: deque[Waiter] = deque()
        text = driver.quorum.missing(driver.connected)
        for waiter in home.waiters:
            if waiter.is_waiting:
                stay.append(waiter)
                continue
            waiter.session.waits.pop(waiter.request, None)
            waiter.session.push(Failed(waiter.request, "quorum", text))
        home.waiters = stay
        self._wake_in(home, BACKOFF_MAX_MS)

    def _ask_majority(self, home: Home) -> None:
        home.is_busy = True
        self._reads.read(home.key, lambda reading: self._majority_says(home, reading))

    def _majority_says(self, home: Home, reading: Reading) -> None:
        home.is_busy = False
        self._drop_cancelled(home)
        if not home.waiters:
            return
        if reading.state is ReadState.UNAVAILABLE:
            self._refuse_without_quorum(home)
        elif reading.is_vacant:
            self._attempt(home, home.waiters[0])
        else:
            self._deny(home, reading.value, reading.remaining_ms)
            self._wait(home, reading.remaining_ms)

    # --- letting go ------------------------------------------------------------------------------------------

    def let_go(self, home: Home, held: Held, successor: str) -> None:
        """Release what this node holds for a session: the session has stopped believing already (H23)."""
        self._drop_held(home)
        chosen = next((w for w in home.waiters if successor and w.holder.name == successor), None)
        if chosen is not None and not home.is_busy:
            self._hand_over(home, held, chosen)
        else:
            self._let_go(home, held, successor)

    def _let_go(self, home: Home, held: Held, successor: str) -> None:
        driver = self._driver
        release = Release(driver.epoch, home.key, held.ballot, held.digest, successor)
        driver.broadcast(release)
        self.released(home, release, driver.member)

    def _hand_over(self, home: Home, held: Held, waiter: Waiter) -> None:
        home.is_busy = True
        basis = waiter.session.last_seq
        intent = HandOver(
            held.holder.nonce,
            waiter.holder,
            waiter.duration_ms,
            waiter.lock_delay_ms,
            self._driver.ports.wall_ms(),
        )

        def on_end(attempt: Attempt) -> None:
            home.is_busy = False
            if attempt.outcome is Outcome.CHOSEN and attempt.decision is not None:
                self._grant(home, waiter, basis, attempt, attempt.decision.value, "transferred")
            else:
                self._let_go(home, held, waiter.holder.name)

        self._driver.start(home.key, held.holder.nonce, intent, on_end)

    def _on_release(self, origin: str, message: Release) -> None:
        self.released(self.homes.get(message.key), message, origin)

    def released(self, home: Home | None, message: Release, origin: str) -> None:
        """Take a release: stop the timer, tell watchers, and let the next candidate go."""
        driver = self._driver
        register = driver.acceptor.registers.get(message.key)
        if not driver.acceptor.release(message):
            return
        assert register is not None
        assert register.value is not None
        driver.learner.ended(message.key[len(LEASE) :], register.value.term, "released")
        if home is None:
            return
        is_mine = origin == driver.member
        if message.successor and not any(w.holder.name == message.successor for w in home.waiters):
            home.hold_off_until_ms = driver.ports.now_ms() + SUCCESSOR_GRACE_MS
        if home.waiters:
            home.hold_off_until_ms = max(home.hold_off_until_ms, 0)
            _put_first(home, message.successor)
            if is_mine or message.successor:
                self.pump(home)
            else:
                self._wake_in(home, 1 + self._stand_back(home))
        elif is_mine:
            self._wake_in(home, PREPARE_AHEAD_MS)

    def expired(self, key: str) -> None:
        """Take note that this node's own timer for a lease has run out."""
        home = self.homes.get(key)
        driver = self._driver
        register = driver.acceptor.registers[key]
        if home is None:
            if register.accepted.member != driver.member:
                return
            home = self.home(key)
        if home.waiters:
            self._wake_in(home, 1 + self._stand_back(home))
        elif register.accepted.member == driver.member:
            self._wake_in(home, PREPARE_AHEAD_MS)

    def prepare_ahead(self, home: Home) -> None:
        """Do phase 1 while nobody asks: the next acquire here is one round trip."""
        driver = self._driver
        register = driver.acceptor.registers.get(home.key)
        if (
            home.is_busy
            or home.waiters
            or home.prepared is not None
            or home.held is not None
            or not driver.is_quorum_connected()
            or (register is not None and register.is_live(driver.ports.now_ms()))
        ):
            return
        home.is_busy = True

        def on_end(attempt: Attempt) -> None:
            home.is_busy = False
            if attempt.phase is Phase.PREPARED:
                home.prepared = attempt
            self.pump(home)
            self._tidy(home)

        driver.start(home.key, "", None, on_end)

    # --- holding ---------------------------------------------------------------------------------------------

    def take_over(self, home: Home) -> None:
        """Go on holding under a higher ballot, for the same nonce and term: the guard lets it pass (R1, R5)."""
        held = home.held
        if held is None or home.is_busy:
            return
        home.is_busy = True
        basis = held.session.last_seq
        value = held.value
        intent: Intent = Acquire(held.holder, value.duration_ms, value.lock_delay_ms, value.acquired_at_ms)

        def on_end(attempt: Attempt) -> None:
            home.is_busy = False
            if home.held is not held:
                self.pump(home)
                return
            if attempt.outcome is Outcome.CHOSEN and attempt.decision is not None:
                if attempt.decision.value != value:
                    # Another term for a nonce that is dead for the old one: never believed (H18).
                    self._lose(home, "its term has ended")
                    return
                held.take(home.key, attempt.ballot)
                self._announce(home, attempt, value, "")
                held.session.push(Kept(home.name, held.holder.nonce, basis))
            elif attempt.outcome in (Outcome.LIVE, Outcome.COMPLETED, Outcome.FAILED):
                self._lose(home, "another holder has it")
            else:
                self._wake_in(home, 1 + self._driver.ports.random() * BACKOFF_MAX_MS)

        self._driver.start(home.key, held.holder.nonce, intent, on_end)

    def _lose(self, home: Home, reason: str) -> None:
        held = home.held
        if held is not None:
            self._drop_held(home)
            held.session.push(Lost(home.name, held.holder.nonce, reason))
        self.pump(home)

    def _drop_held(self, home: Home) -> None:
        if home.held is not None:
            home.held.session.leases.pop(home.key, None)
            home.held = None

    def _on_chosen(self, origin: str, message: Chosen) -> None:
        if message.epoch != self._driver.epoch:
            return
        self._driver.proposer.observe(message.ballot)
        self.chosen(message)

    def chosen(self, message: Chosen) -> None:
        """Take a chosen value, from here or from a peer: watchers, held leases and candidates hear of it."""
        if not message.key.startswith(LEASE):
            return
        name = message.key[len(LEASE) :]
        self._driver.learner.chosen(name, message.ballot, message.value, message.reason)
        home = self.homes.get(message.key)
        if home is None:
            return
        if home.prepared is not None and home.prepared.ballot < message.ballot:
            home.prepared = None
        held = home.held
        if held is not None and held.ballot < message.ballot:
            if message.value.nonce != held.holder.nonce:
                self._lose(home, "another holder has it" if message.value.holder else "it was revoked")
            else:
                # Another node serves this holder's session now.
                self._drop_held(home)
        if message.value.holder is None and home.waiters:
            self._wake_in(home, 1 + self._stand_back(home))
        self._tidy(home)

    def _announce(self, home: Home, attempt: Attempt, value: Value, reason: str) -> None:
        message = Chosen(self._driver.epoch, home.key, attempt.ballot, value, reason)
        self._driver.broadcast(message)
        self._driver.learner.chosen(home.name, attempt.ballot, value, reason)

    # --- waking ----------------------------------------------------------------------------------------------

    def _stand_back(self, home: Home) -> float:
        """Return how long this node lets others go first; the order turns with the term, so nobody starves."""
        ranks = len(self._rank_of)
        register = self._driver.acceptor.registers.get(home.key)
        term = register.value.term if register is not None and register.value is not None else 0
        return (self._rank_of[self._driver.member] + term) % ranks * RANK_MS

    def _wait(self, home: Home, remaining_ms: int | None) -> None:
        # A timer of this node's acceptor wakes candidates by ``expired``; this only bounds what may be missed.
        wait_ms = RECHECK_MS if remaining_ms is None else remaining_ms + self._stand_back(home) + 1
        self._wake_in(home, min(wait_ms, RECHECK_MS))

    def _wake_in(self, home: Home, delay_ms: float) -> None:
        driver = self._driver
        at_ms = driver.ports.now_ms() + int(delay_ms)
        if home.timer is not None:
            home.timer.cancel()
        home.timer_at_ms = at_ms
        home.timer = driver.ports.call_later(delay_ms, lambda: self._woken(home))

    def _woken(self, home: Home) -> None:
        home.timer = None
        if home.held is not None and not home.is_busy and not self._is_current(home, home.held):
            self.take_over(home)
            return
        if not home.waiters:
            self.prepare_ahead(home)
            self._tidy(home)
            return
        register = self._driver.acceptor.registers.get(home.key)
        is_never = register is not None and register.expires_ms == NEVER
        if is_never and not home.is_busy:
            self._ask_majority(home)
        else:
            self.pump(home)

    def _is_current(self, home: Home, held: Held) -> bool:
        register = self._driver.acceptor.registers.get(home.key)
        return register is not None and register.promised == register.accepted == held.ballot

    def _drop_cancelled(self, home: Home) -> None:
        if any(waiter.is_cancelled for waiter in home.waiters):
            home.waiters = deque(waiter for waiter in home.waiters if not waiter.is_cancelled)

    def _tidy(self, home: Home) -> None:
        if home.is_idle() and home.timer is None:
            self.homes.pop(home.key, None)

    def forget(self, session: Session) -> None:
        """The connection has gone: no more renewals for it here; its leases live until they expire."""
        session.is_closed = True
        for home, waiter in list(session.waits.values()):
            self.cancel(waiter, home)
        for home in list(session.leases.values()):
            if home.held is not None and home.held.session is session:
                home.held = None
        session.leases.clear()


def _put_first(home: Home, successor: str) -> None:
    if not successor:
        return
    for waiter in home.waiters:
        if waiter.holder.name == successor:
            home.waiters.remove(waiter)
            home.waiters.appendleft(waiter)
            return


def _free_in_ms(attempt: Attempt) -> int | None:
    """Return when enough of the guards that stood in the way will have let go; None if no time ends it."""
    if attempt.outcome is Outcome.COMPLETED:
        return None
    waits = sorted(1 << 62 if live.remaining_ms is None else live.remaining_ms for live in attempt.lives.values())
    members = len(attempt.quorum.members)
    must_lapse = max(1, members // 2 + 1 - (members - len(waits)))
    if not waits or len(waits) < must_lapse or waits[must_lapse - 1] == 1 << 62:
        return None
    return waits[must_lapse - 1]
