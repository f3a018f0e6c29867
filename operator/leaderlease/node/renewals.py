"""Keepalives: one message of a client renews all its leases; one message to each peer renews those of all clients.

Rule 1: a renewal restarts timers and writes nothing. It counts for an item only where a majority of members, by
        uuid, acknowledged that item in this attempt (R2, R6, H34).
Rule 2: a client hears one ``KeptAlive`` for each keepalive; what it lists in ``failed`` was not renewed.
Rule 3: what a majority does not acknowledge is taken over under a higher ballot; a member that lacks a value gets it.
Rule 4: what a majority acknowledges and one member refuses is taken over as well, a few at a time: a member that was
        restarted refuses every older ballot (R5), and the loss of another one would make all leases wait.
Rule 5: a node that reaches no majority sends its clients to others, which may: nobody loses a lease, or waits, because
        the nearest node is the one that was cut off.
"""

from typing import Final

from leaderlease.node.driver import Driver
from leaderlease.node.homes import Held, Home, Session
from leaderlease.node.leases import Leases
from leaderlease.node.ports import Timer
from leaderlease.paxos.messages import Accept, Renew, Renewed, RenewItem
from leaderlease.wire.session import KeptAlive

RENEW_ITEMS_MAX: Final = 4_096
"""Leases in one Renew; further ones go into another, so that a frame stays within its bound."""
LIFE_BITS: Final = 40
"""Attempts of one life of a node that have numbers of their own."""
ROUND_TIMEOUT_MS: Final = 500
"""After this, a round counts what it has."""
REPAIRS_MAX: Final = 256
"""Values sent to a member that lacks them, for each answer of it; the next keepalive goes on."""
MENDS_MAX: Final = 64
"""Leases taken over in one round for the sake of a minority that refused; the next keepalive goes on."""


class Ask:
    """One keepalive of one session: answered when all rounds that carry its leases have ended."""

    __slots__ = ("failed", "ordinal", "rounds", "seq", "session")

    def __init__(self, session: Session, seq: int) -> None:
        self.session = session
        self.seq = seq
        self.ordinal = session.ordinal
        self.rounds = 1
        self.failed: list[str] = []

    def finish_round(self) -> None:
        """Count one round, or the collecting of them; the last one answers the client."""
        self.rounds -= 1
        if self.rounds == 0:
            self.session.push(KeptAlive(self.seq, self.ordinal, tuple(self.failed)))


class Round:
    """One Renew: which items, for whom, and what each member said."""

    __slots__ = ("asks", "homes", "is_done", "items", "nacked", "refused", "timer")

    def __init__(self) -> None:
        self.items: list[RenewItem] = []
        self.homes: list[Home] = []
        self.asks: list[tuple[Ask, int, int]] = []
        self.refused: dict[str, frozenset[int]] = {}
        self.nacked: set[int] = set()
        self.is_done = False
        self.timer: Timer | None = None

    def held_at(self, position: int) -> Held | None:
        """Return what is renewed at a position that a member named; None if it is held otherwise by now, or none."""
        held = self.homes[position].held if position < len(self.homes) else None
        return held if held is not None and held.item is self.items[position] else None


class Renewals:
    """All keepalives of one node, fanned out once in a tick of the event loop."""

    def __init__(self, driver: Driver, leases: Leases) -> None:
        self._driver = driver
        self._leases = leases
        self._queue: list[tuple[Session, int]] = []
        self._rounds: dict[int, Round] = {}
        # R6: no answer to an earlier life of this node can name an attempt of this one.
        self._attempt = driver.proposer.incarnation << LIFE_BITS
        driver.route(Renewed, self._on_renewed)
        driver.on_peer_change.append(self._on_peer_change)

    def keepalive(self, session: Session, seq: int) -> None:
        """Renew everything that this session holds here."""
        if session.waits and not self._driver.is_quorum_connected():
            session.send_away(self._driver.ports.now_ms())
        if not self._queue:
            self._driver.ports.call_soon(self._flush)
        self._queue.append((session, seq))

    def _flush(self) -> None:
        queue, self._queue = self._queue, []
        round_ = Round()
        for session, seq in queue:
            ask = Ask(session, seq)
            start = len(round_.items)
            for home in session.leases.values():
                held = home.held
                if held is None or held.value.duration_ms is None:
                    continue
                if home.is_busy:
                    # Its ballot is about to change: the client hears of it by a message of its own.
                    ask.failed.append(home.name)
                    continue
                if len(round_.items) == RENEW_ITEMS_MAX:
                    self._add(round_, ask, start)
                    self._start(round_)
                    round_, start = Round(), 0
                round_.items.append(held.item)
                round_.homes.append(home)
            self._add(round_, ask, start)
            ask.finish_round()
        if round_.items:
            self._start(round_)

    def _add(self, round_: Round, ask: Ask, start: int) -> None:
        if len(round_.items) > start:
            ask.rounds += 1
            round_.asks.append((ask, start, len(round_.items)))

    def _start(self, round_: Round) -> None:
        driver = self._driver
        self._attempt += 1
        attempt = self._attempt
        self._rounds[attempt] = round_
        round_.timer = driver.ports.call_later(ROUND_TIMEOUT_MS, lambda: self._expire(attempt))
        renew = Renew(driver.epoch, attempt, driver.member, driver.proposer.incarnation, tuple(round_.items))
        driver.broadcast(renew)
        self._on_renewed(driver.member, driver.acceptor.renew(renew, driver.ports.now_ms()))

    def _on_renewed(self, origin: str, message: Renewed) -> None:
        round_ = self._rounds.get(message.attempt)
        driver = self._driver
        if round_ is None or message.epoch or origin not in driver.quorum.members:
            return
        round_.refused[origin] = frozenset(message.nacked).union(message.unknown)
        round_.nacked.update(message.nacked)
        if message.unknown and origin != driver.member:
            self._repair(origin, round_, message.unknown)
        self._weigh(message.attempt, round_)

    def _weigh(self, attempt: int, round_: Round) -> None:
        driver = self._driver
        if not round_.is_done:
            clean = [member for member, refused in round_.refused.items() if not refused]
            if driver.quorum.is_met(clean):
                driver.stats.renewals += len(round_.items)
                self._finish(round_)
        if round_.refused.keys() >= driver.connected & driver.quorum.members:
            self._expire(attempt)

    def _expire(self, attempt: int) -> None:
        round_ = self._rounds.pop(attempt, None)
        if round_ is None:
            return
        if round_.timer is not None:
            round_.timer.cancel()
        if not round_.is_done:
            self._judge(round_)
            self._finish(round_)
        for position in sorted(round_.nacked)[:MENDS_MAX]:
            self._take_over(round_, position)

    def _judge(self, round_: Round) -> None:
        """Look at each item alone: some were refused somewhere, or too few members answered."""
        driver = self._driver
        is_answered = driver.quorum.is_met(round_.refused.keys())
        stats = driver.stats
        for ask, start, end in round_.asks:
            if not is_answered:
                ask.session.send_away(driver.ports.now_ms())
            for position in range(start, end):
                yes = [member for member, refused in round_.refused.items() if position not in refused]
                if driver.quorum.is_met(yes):
                    stats.renewals += 1
                    continue
                ask.failed.append(round_.homes[position].name)
                stats.renew_failures["refused" if is_answered else "quorum"] += 1
                if is_answered:
                    self._take_over(round_, position)

    def _take_over(self, round_: Round, position: int) -> None:
        if round_.held_at(position) is not None:
            self._leases.take_over(round_.homes[position])

    def _finish(self, round_: Round) -> None:
        round_.is_done = True
        for ask, _, _ in round_.asks:
            ask.finish_round()

    def _repair(self, member: str, round_: Round, unknown: tuple[int, ...]) -> None:
        """Send the full value to a member that missed it: a late copy of this node's own Accept (R2)."""
        driver = self._driver
        for position in unknown[:REPAIRS_MAX]:
            if (held := round_.held_at(position)) is not None:
                driver.send(member, Accept(driver.epoch, held.item.key, held.ballot, held.value))

    def _on_peer_change(self, member: str, is_up: bool) -> None:
        if not is_up:
            for attempt, round_ in list(self._rounds.items()):
                self._weigh(attempt, round_)
