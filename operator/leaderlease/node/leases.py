"""Grants and the waiting queue: what a node does for candidates and holders (protocol, section 5).

Rule 1: a client hears "granted" only after a majority has accepted durably; the grant names the client message that
        its round followed, so that validity runs from the client's own clock (R6).
Rule 2: this node's own acceptor serves as the peek: a hint that spares ballots, never a decision (H8).
Rule 3: one attempt a lease at a time here; between nodes, candidates stand back by rank instead of duelling.
Rule 4: whoever loses what this node kept for it is told, before anything else about that lease.
"""

from collections.abc import Callable
from typing import Final

from leaderlease.node.driver import Driver
from leaderlease.node.homes import LEASE, TODO_MAX, WAITERS_MAX, Held, Home, Session, Waiter, put_first
from leaderlease.node.preferences import STAND_BACK_MS, Preferences
from leaderlease.node.reads import Reading, Reads, ReadState
from leaderlease.node.vacancies import Vacancies
from leaderlease.paxos.acceptor import NEVER
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Chosen
from leaderlease.paxos.proposer import Acquire, Attempt, Outcome
from leaderlease.wire.session import Denied, Failed, Granted, Kept, Lost

RANK_MS: Final = 2
"""How long a candidate's node stands back for each node that ranks before it."""
WINS_MAX: Final = 4
"""Grants from one node's queue in a row, after which it stands back for the others."""
BACKOFF_FIRST_MS: Final = 2
BACKOFF_MAX_MS: Final = 250
"""Bounds of the random pause after a ballot was preempted or timed out; doubles with each failure."""
PREPARE_AHEAD_MS: Final = 25
"""How long a lease stays vacant before phase 1 is done in advance."""
RECHECK_MS: Final = 10_000
"""How often a candidate's node asks a majority, in case it missed a release."""


class Leases:
    """Every lease that this node proposes for.

    Attributes:
        on_unwanted: Called with a grant that nobody waits for any more; it is to be released.
    """

    def __init__(self, driver: Driver, reads: Reads) -> None:
        self._driver = driver
        self._reads = reads
        self.homes: dict[str, Home] = {}
        self.on_unwanted: Callable[[Home, Held], None] = lambda home, held: None
        self._vacancies = Vacancies(driver, self.home, self.free)
        self.preferences = Preferences(driver, reads, self.homes)
        driver.route(Chosen, self._on_chosen)
        self._rank_of = {member: i for i, member in enumerate(sorted(driver.quorum.members))}

    def home(self, key: str) -> Home:
        """Return what is kept for a lease; made on first use."""
        home = self.homes.get(key)
        if home is None:
            home = self.homes[key] = Home(key)
        return home

    # --- one attempt at a time -------------------------------------------------------------------------------

    def when_free(self, home: Home, call: Callable[[], None]) -> bool:
        """Call now, or when the attempt of this lease has ended; return False if too many wait already."""
        if not home.is_busy:
            call()
        elif len(home.todo) < TODO_MAX:
            home.todo.append(call)
        else:
            return False
        return True

    def free(self, home: Home) -> None:
        """The attempt has ended: do what has waited for that, else look at the candidates."""
        home.is_busy = False
        while home.todo and not home.is_busy:
            home.todo.pop(0)()
        self.pump(home)
        self.tidy(home)

    def tidy(self, home: Home) -> None:
        """Forget a lease for which nothing has to be kept."""
        if home.timer is None and home.is_idle():
            self.homes.pop(home.key, None)

    # --- asking ----------------------------------------------------------------------------------------------

    def acquire(self, name: str, waiter: Waiter) -> None:
        """Queue a candidate and see what can be done for it now."""
        home = self.home(LEASE + name)
        if len(home.waiters) >= WAITERS_MAX:
            text = f"{name}: {WAITERS_MAX} candidates wait at this node already; try another"
            waiter.session.push(Failed(waiter.request, "refused", text))
            return
        waiter.session.waits[waiter.request] = (home, waiter)
        register = self._driver.acceptor.registers.get(home.key)
        is_accepted = register is not None and waiter.is_in(register.value)
        if is_accepted or self._driver.learner.has_heard_of(home.name, waiter.holder):
            # Its own lease, asked for again after a change of node: the guards in the way of others are its own.
            home.waiters.insert(0, waiter)
            home.first = waiter
            home.hold_off_until_ms = 0
        else:
            self.preferences.enqueue(home, waiter)
        self.pump(home)

    def cancel(self, waiter: Waiter, home: Home) -> None:
        """Take a candidate out; if its attempt is under way, the grant will be released at once."""
        waiter.is_cancelled = True
        waiter.session.waits.pop(waiter.request, None)
        if not home.is_busy:
            self._drop_cancelled(home)
        self.tidy(home)

    def pump(self, home: Home) -> None:
        """Do the next thing for this lease's candidates, if there is one to do."""
        if home.is_busy:
            return
        self._drop_cancelled(home)
        if not home.waiters:
            return
        driver = self._driver
        waiter = home.waiters[0]
        now_ms = driver.ports.now_ms()
        register = driver.acceptor.registers.get(home.key)
        guard = None
        if register is not None and register.is_live(now_ms) and not waiter.is_in(register.value):
            guard = register
        if guard is not None and all(candidate.is_waiting for candidate in home.waiters):
            self._wait(home, guard.remaining_ms(now_ms))
        elif guard is None and home.hold_off_until_ms > now_ms:
            self.wake_in(home, home.hold_off_until_ms - now_ms)
        elif driver.is_disk_stalled():
            self.wake_in(home, BACKOFF_MAX_MS)
        elif guard is not None or self.preferences.must_ask(home, waiter):
            self._ask_majority(home, is_complete=guard is None)
        else:
            self._attempt(home, waiter)

    def _attempt(self, home: Home, waiter: Waiter) -> None:
        driver = self._driver
        if driver.is_disk_stalled():
            # Perhaps since a majority was asked: whatever led here, nobody new holds through this node (H26).
            self.wake_in(home, BACKOFF_MAX_MS)
            return
        if not driver.is_quorum_connected():
            self._refuse_without_quorum(home)
            return
        home.is_busy = True
        basis = waiter.session.last_seq
        wall_ms = driver.ports.wall_ms()
        intent = Acquire(waiter.holder, waiter.duration_ms, waiter.lock_delay_ms, wall_ms, waiter.goes_on)
        prepared = self._vacancies.take(home)

        def on_end(attempt: Attempt) -> None:
            self._acquired(home, waiter, basis, attempt)
            self.free(home)

        if prepared is not None:
            driver.resume(prepared, intent, on_end)
        else:
            driver.start(home.key, waiter.holder.nonce, intent, on_end)

    def _acquired(self, home: Home, waiter: Waiter, basis: int, attempt: Attempt) -> None:
        value = attempt.decision.value if attempt.decision is not None else None
        if attempt.outcome is Outcome.CHOSEN and value is not None:
            home.failures = 0
            self.grant(home, waiter, basis, attempt, value, "acquired")
        elif attempt.outcome is Outcome.PREEMPTED:
            self._back_off(home)
        elif attempt.outcome is None:
            self._timed_out(home, waiter, attempt)
        elif attempt.outcome is Outcome.FAILED:
            # It held, and its term has ended (H18): no answer but this one, however long it would wait.
            waiter.is_waiting = False
            self._deny(home, attempt.seen()[1], None)
        else:
            home.failures = 0
            if attempt.outcome is Outcome.COMPLETED and value is not None:
                self.announce(home, attempt, value, "acquired")
            seen, remaining_ms = attempt.seen()[1], _free_in_ms(attempt)
            if waiter.is_in(seen):
                # Its own lease, and yet guards of others stand: half-finished attempts, which need a moment.
                self._back_off(home)
            elif not self._put_holder_first(home, seen):
                self._deny(home, seen, remaining_ms)
                self._hold_off(home, remaining_ms)

    def grant(self, home: Home, waiter: Waiter, basis: int, attempt: Attempt, value: Value, reason: str) -> None:
        """Tell a candidate that it holds: a majority has accepted ``value`` in this attempt (rule 1)."""
        if waiter in home.waiters:
            home.waiters.remove(waiter)
        home.first = None
        session = waiter.session
        session.waits.pop(waiter.request, None)
        now_ms = self._driver.ports.now_ms()
        held, before = Held(home.key, session, attempt.ballot, value, waiter.claim, now_ms), home.held
        is_unwanted = waiter.is_cancelled or session.is_closed
        if is_unwanted and before is not None and before.value == value:
            # The same holder has another connection here, which goes on under the new ballot.
            before.take(home.key, attempt.ballot)
        elif before is not None and (before.session is not session or before.holder != held.holder):
            self.lose(home, "another holder has it")
        self.announce(home, attempt, value, reason)
        home.wins += 1
        if is_unwanted:
            # What a lost connection has asked for stays: the client learns of it, or it expires (H35).
            if not session.is_closed and home.held is None:
                self.on_unwanted(home, held)
            return
        home.held = held
        session.leases[home.key] = home
        session.ordinal += 1
        nonce, term = held.holder.nonce, value.term
        duration_ms, ordinal = value.duration_ms, session.ordinal
        told = (basis, ordinal, waiter.renew_deadline_ms, waiter.retry_period_ms)
        session.push(Granted(waiter.request, home.name, nonce, term, duration_ms, *told))
        self.preferences.granted(home)
        self._deny(home, value, value.duration_ms)

    def _deny(self, home: Home, seen: Value | None, retry_after_ms: int | None) -> None:
        """Answer those that do not wait; the others stay queued."""
        holder, term = (seen.holder, seen.term) if seen is not None else (None, 0)
        for waiter in self._take_impatient(home):
            shown = waiter.session.shown(holder)
            waiter.session.push(Denied(waiter.request, home.name, shown, term, retry_after_ms))

    def _timed_out(self, home: Home, waiter: Waiter, attempt: Attempt) -> None:
        if not self._driver.is_quorum_connected():
            self._refuse_without_quorum(home)
            return
        if not waiter.is_waiting and waiter in home.waiters:
            home.waiters.remove(waiter)
            waiter.session.waits.pop(waiter.request, None)
            answered = attempt.accepted if attempt.decision is not None else attempt.promises
            text = f"{home.name}: {attempt.quorum.missing(answered)}; ask again with the same identity"
            waiter.session.push(Failed(waiter.request, "unknown", text))
        # Where members are missing, the guards of a holder end no attempt by themselves: it goes before whom they stop.
        self._put_holder_first(home, attempt.seen()[1])
        self._back_off(home)

    def _refuse_without_quorum(self, home: Home) -> None:
        """Tell those that do not wait how many nodes answer; the others go on waiting."""
        text = self._driver.quorum.missing(self._driver.connected)
        for waiter in self._take_impatient(home):
            waiter.session.push(Failed(waiter.request, "quorum", text))
        self._hold_off(home, BACKOFF_MAX_MS)

    def _take_impatient(self, home: Home) -> list[Waiter]:
        leaving = [waiter for waiter in home.waiters if not waiter.is_waiting]
        if leaving:
            home.waiters = [waiter for waiter in home.waiters if waiter.is_waiting]
            for waiter in leaving:
                waiter.session.waits.pop(waiter.request, None)
        return [waiter for waiter in leaving if not waiter.is_cancelled]

    def _ask_majority(self, home: Home, is_complete: bool = False) -> None:
        home.is_busy = True

        def on_read(reading: Reading) -> None:
            home.is_busy = False
            self._majority_says(home, reading)
            if not home.is_busy:
                self.free(home)

        self._reads.read(home.key, on_read, is_complete=is_complete)

    def _majority_says(self, home: Home, reading: Reading) -> None:
        if reading.state is ReadState.UNAVAILABLE:
            self._refuse_without_quorum(home)
        elif reading.is_vacant or self._put_holder_first(home, reading.value):
            self._drop_cancelled(home)
            if self.preferences.stands_back(home, reading):
                self._hold_off(home, STAND_BACK_MS)
            elif home.waiters:
                self._attempt(home, home.waiters[0])
        else:
            self._deny(home, reading.value, reading.remaining_ms)
            self._hold_off(home, reading.remaining_ms)

    # --- holding ---------------------------------------------------------------------------------------------

    def take_over(self, home: Home) -> None:
        """Go on holding under a higher ballot, for the same nonce and term: the guard lets it pass (R1, R5)."""
        held = home.held
        if held is None or home.is_busy:
            return
        home.is_busy = True
        basis, value = held.session.last_seq, held.value
        now_ms = self._driver.ports.now_ms()
        if now_ms >= held.take_over_until_ms:
            held.take_over_until_ms = now_ms + (value.duration_ms or 0)
        intent = Acquire(held.holder, value.duration_ms, value.lock_delay_ms, value.acquired_at_ms, value.term)

        def on_end(attempt: Attempt) -> None:
            self._taken_over(home, held, basis, attempt)
            self.free(home)

        self._driver.start(home.key, held.holder.nonce, intent, on_end)

    def _taken_over(self, home: Home, held: Held, basis: int, attempt: Attempt) -> None:
        if attempt.outcome is Outcome.CHOSEN and attempt.decision is not None:
            value = attempt.decision.value
            if value == held.value:
                held.take(home.key, attempt.ballot)
                self.announce(home, attempt, value, "")
            if home.held is not held:
                # A lost connection, or another node that serves it now, ends no belief, so the timers run on (H23).
                # A release that waits for this attempt finds the new ballot in ``held``.
                return
            elif value != held.value:
                # A nonce that is dead for its old term is never believed again (H18).
                self.lose(home, "its term has ended")
            else:
                held.session.push(Kept(home.name, held.holder.nonce, basis))
        elif home.held is held:
            if attempt.outcome in (Outcome.LIVE, Outcome.COMPLETED, Outcome.FAILED):
                self.lose(home, "another holder has it")
            else:
                self.wake_in(home, 1 + self._driver.ports.random() * BACKOFF_MAX_MS)

    def lose(self, home: Home, reason: str) -> None:
        """Stop keeping a lease for its session, and say so (rule 4)."""
        held = home.held
        if held is not None:
            self.drop_held(home)
            held.session.push(Lost(home.name, held.holder.nonce, reason))

    def drop_held(self, home: Home) -> None:
        """Stop keeping a lease: its session let go, or is gone."""
        if home.held is not None:
            home.held.session.leases.pop(home.key, None)
            home.held = None

    def _on_chosen(self, origin: str, message: Chosen) -> None:
        driver = self._driver
        driver.proposer.observe(message.ballot)
        if message.epoch != driver.epoch or not message.key.startswith(LEASE):
            return
        ballot, value = message.ballot, message.value
        register = driver.acceptor.registers.get(message.key)
        if register is not None and register.accepted == ballot and register.value == value:
            # The same, and kept already: a second copy for every lease would be a fifth of a node's memory.
            ballot, value = register.accepted, register.value
        driver.learner.chosen(message.key[len(LEASE) :], ballot, value, message.reason)
        home = self.homes.get(message.key)
        if home is None:
            return
        home.wins = 0
        if value.holder is not None:
            home.first = None
        if home.prepared is not None and home.prepared.ballot < message.ballot:
            self._vacancies.take(home)
        held = home.held
        if held is not None and held.ballot < message.ballot:
            if message.value == held.value:
                # Perhaps its holder went to another node, perhaps that node's attempt was for a connection that is
                # gone: only a keepalive of this session tells, and it takes the lease back where need be (R1).
                held.take_over_until_ms = 0
            elif message.value.nonce == held.holder.nonce:
                self.lose(home, "its term has ended")
            else:
                self.lose(home, "another holder has it" if message.value.holder else "it was revoked")
        if message.value.holder is None:
            self.vacated(home, is_mine=False)
        self.tidy(home)

    def announce(self, home: Home, attempt: Attempt, value: Value, reason: str) -> None:
        """Tell everybody what a majority has accepted."""
        driver = self._driver
        driver.broadcast(Chosen(driver.epoch, home.key, attempt.ballot, value, reason))
        driver.learner.chosen(home.name, attempt.ballot, value, reason)

    # --- vacancies -------------------------------------------------------------------------------------------

    def vacated(self, home: Home, is_mine: bool) -> None:
        """A lease has become free: let a candidate go, now or by rank; without one, prepare for the next."""
        home.hold_off_until_ms = 0
        if not home.waiters:
            if is_mine:
                self.wake_in(home, PREPARE_AHEAD_MS)
        elif is_mine and home.wins % WINS_MAX:
            self.pump(home)
        else:
            self.wake_in(home, 0.2 + self.stand_back_ms(home) + (len(self._rank_of) * RANK_MS if is_mine else 0))

    def expired(self, key: str) -> None:
        """Take note that this node's own timer for a lease has run out."""
        is_mine = self._driver.acceptor.registers[key].accepted.member == self._driver.member
        home = self.home(key) if is_mine else self.homes.get(key)
        if home is None:
            return
        home.hold_off_until_ms = 0
        if home.waiters:
            self.wake_in(home, 0.2 + self.stand_back_ms(home))
        elif is_mine:
            self.wake_in(home, PREPARE_AHEAD_MS)

    # --- waking ----------------------------------------------------------------------------------------------

    def stand_back_ms(self, home: Home) -> float:
        """Return how long this node lets others go first; the order turns with the term, so nobody starves."""
        register = self._driver.acceptor.registers.get(home.key)
        term = register.value.term if register is not None and register.value is not None else 0
        return (self._rank_of[self._driver.member] + term) % len(self._rank_of) * RANK_MS

    def wake_in(self, home: Home, delay_ms: float) -> None:
        """Look at this lease again after ``delay_ms``; one timer a lease, the last call counts."""
        if self.homes.setdefault(home.key, home) is not home:
            # Forgotten as idle a moment ago, and kept anew since: two would run two attempts (rule 3).
            return
        if home.timer is not None:
            home.timer.cancel()
        home.timer = self._driver.ports.call_later(delay_ms, lambda: self._woken(home))

    def _wait(self, home: Home, remaining_ms: int | None) -> None:
        if remaining_ms is None and home.timer is not None:
            # The look that is due stays due: whoever asks often would put it off for ever.
            return
        # This node's own timer wakes candidates (``expired``); this only bounds what it may have missed.
        wait_ms = RECHECK_MS if remaining_ms is None else 1 + remaining_ms + self.stand_back_ms(home)
        self.wake_in(home, min(wait_ms, RECHECK_MS))

    def _hold_off(self, home: Home, remaining_ms: int | None) -> None:
        """Start no attempt before the guards that stood in the way have let go."""
        wait_ms = RECHECK_MS if remaining_ms is None else min(RECHECK_MS, max(1, remaining_ms))
        home.hold_off_until_ms = self._driver.ports.now_ms() + wait_ms
        self.wake_in(home, wait_ms + self.stand_back_ms(home))

    def _back_off(self, home: Home) -> None:
        home.failures += 1
        limit_ms = min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS << min(home.failures, 10))
        pause_ms = 1 + self._driver.ports.random() * limit_ms
        home.hold_off_until_ms = self._driver.ports.now_ms() + int(pause_ms)
        self.wake_in(home, pause_ms)

    def _woken(self, home: Home) -> None:
        home.timer = None
        held = home.held
        if (
            held is not None
            and self._driver.ports.now_ms() < held.take_over_until_ms
            and not self._is_current(home, held)
        ):
            self.take_over(home)
        elif not home.waiters:
            self._vacancies.prepare(home)
        else:
            register = self._driver.acceptor.registers.get(home.key)
            is_never = register is not None and register.expires_ms == NEVER
            if is_never and not home.is_busy:
                # A majority of guards alone would hide the member that knows of their end (R1).
                self._ask_majority(home, is_complete=True)
            else:
                self.pump(home)
        self.tidy(home)

    def _is_current(self, home: Home, held: Held) -> bool:
        register = self._driver.acceptor.registers.get(home.key)
        return register is not None and register.promised == register.accepted == held.ballot

    def _put_holder_first(self, home: Home, seen: Value | None) -> bool:
        """Put the candidate first that holds already; return whether there is one."""
        if seen is None or seen.holder is None:
            return False
        return put_first(home, lambda waiter: waiter.holder.nonce == seen.nonce)

    def _drop_cancelled(self, home: Home) -> None:
        if any(waiter.is_cancelled for waiter in home.waiters):
            home.waiters = [waiter for waiter in home.waiters if not waiter.is_cancelled]
        while home.waiters and self._driver.learner.has_let_go(home.name, home.waiters[0].holder):
            # It asked here before it held by way of another node: its connection to this one is as good as gone.
            waiter = home.waiters.pop(0)
            waiter.session.waits.pop(waiter.request, None)
            text = f"{home.name}: this identity has held it and let go; ask with a nonce of its own"
            waiter.session.push(Failed(waiter.request, "refused", text))

    def forget(self, session: Session) -> None:
        """The connection has gone: no more renewals for it here; its leases live until they expire."""
        session.is_closed = True
        for home, waiter in list(session.waits.values()):
            self.cancel(waiter, home)
        for home in list(session.leases.values()):
            self.drop_held(home)
            self.tidy(home)


def _free_in_ms(attempt: Attempt) -> int | None:
    """Return when enough of the guards that stood in the way will have let go; None if no time ends it."""
    endless = 1 << 62
    if attempt.outcome is Outcome.COMPLETED:
        return None
    waits = sorted(endless if live.remaining_ms is None else live.remaining_ms for live in attempt.lives.values())
    members = len(attempt.quorum.members)
    must_lapse = max(1, members // 2 + 1 - (members - len(waits)))
    if len(waits) < must_lapse or waits[must_lapse - 1] == endless:
        return None
    return waits[must_lapse - 1]
