"""The one effect loop: takes messages in, drives the pure core, and carries its effects out, in order.

Production and simulator run this class alike; they differ in the ``Ports`` and the ``Storage`` that they give it.

Rule 1: effects are carried out in order; what follows a ``Persist`` comes from ``Acceptor.persisted`` (R4).
Rule 2: messages of this node to itself take the same path as those of peers, by a queue and not by recursion.
Rule 3: nothing here waits. Whatever takes time ends in a callback, and each has a named bound.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from leaderlease.errors import RemoteProtocolError
from leaderlease.node.learner import Learner
from leaderlease.node.ports import Ports, Timer
from leaderlease.node.stats import Stats
from leaderlease.paxos.acceptor import Acceptor, Ceiling, Effect, Persist, Record, Respond
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.membership import Configuration
from leaderlease.paxos.messages import (
    Accept,
    Accepted,
    Claim,
    DigestReply,
    DigestRequest,
    Live,
    Nack,
    Peek,
    Peeked,
    Ping,
    Pong,
    Prepare,
    Promise,
    Renew,
    SyncRequest,
    WrongEpoch,
)
from leaderlease.paxos.proposer import Attempt, Intent, Phase, Proposer, Send
from leaderlease.storage.base import Storage

ATTEMPT_TIMEOUT_MS: Final = 500
"""How long one ballot may take before another is tried; what a hung connection can cost."""
STALL_MS: Final = 2_000
"""A commit older than this: this node proposes nothing new until the disk answers (H26)."""

AttemptEnd = Callable[[Attempt], None]


class Running:
    """One attempt under way, and who wants to know its end."""

    __slots__ = ("accept_us", "attempt", "on_end", "start_us")

    def __init__(self, attempt: Attempt, on_end: AttemptEnd, start_us: int) -> None:
        self.attempt = attempt
        self.on_end = on_end
        self.start_us = start_us
        self.accept_us = start_us if attempt.phase is Phase.ACCEPTING else 0


class Driver:
    """Acceptor, proposer and learner of one member.

    Args:
        configuration: Who votes.
        member: This member's uuid.
        incarnation: Durable already (R3).
        storage: Where records become durable.
        ports: The world.
    """

    def __init__(
        self, configuration: Configuration, member: str, incarnation: int, storage: Storage, ports: Ports
    ) -> None:
        loaded = storage.load()
        self.configuration = configuration
        self.quorum = configuration.quorum()
        self.epoch = configuration.epoch
        self.member = member
        self.storage = storage
        self.ports = ports
        self.stats = Stats()
        # R5: the acceptor arms every timer here, before anything is answered.
        self.acceptor = Acceptor(self.epoch, loaded.records, loaded.ceiling, ports.now_ms())
        self.proposer = Proposer(member, incarnation)
        self.proposer.counter = self.acceptor.counter_max
        self.learner = Learner(self.stats, ports.wall_ms, ports.now_ms)
        self.connected: set[str] = {member}
        self.round_trip_ms: dict[str, float] = {}
        self.attempts: dict[str, Running] = {}
        """In the order in which they began, so that one timer bounds them all."""
        self._sweep: Timer | None = None
        self.is_stopped = False
        self.claims: Callable[[str], tuple[Claim, ...]] = lambda key: ()
        """Who waits here for a lease that prefers some: told to whoever peeks."""
        self.on_installed: list[Callable[[Record], None]] = []
        """Told of each value that is accepted on this disk."""
        self.on_refused: list[Callable[[str, Ballot], None]] = []
        """Told of each Accept that a promise forbade, by register and ballot."""
        self.on_found: list[Callable[[str, Ballot, Value], None]] = []
        """Told of what others hold where a promise forbade it here, and of its ballot: known, and not on this disk."""
        self.on_peer_change: list[Callable[[str, bool], None]] = []
        self._handlers: dict[type, Callable[[str, Any], None]] = {
            Prepare: self._on_asked,
            Accept: self._on_asked,
            Peek: self._on_asked,
            Renew: self._on_renew,
            SyncRequest: self._on_sync_request,
            DigestRequest: self._on_digest_request,
            Ping: self._on_ping,
            Promise: self._on_promise,
            Live: self._on_live,
            Nack: self._on_nack,
            Accepted: self._on_accepted,
            WrongEpoch: self._on_wrong_epoch,
            Pong: self._on_pong,
        }
        self._local: deque[Any] = deque()
        self._is_draining = False

    def route(self, kind: type, handler: Callable[[str, Any], None]) -> None:
        """Let another part of the node handle a kind of message."""
        self._handlers[kind] = handler

    # --- messages --------------------------------------------------------------------------------------------

    def on_message(self, origin: str, message: Any) -> None:
        """Take one message of a member, also of this one.

        Raises:
            RemoteProtocolError: Nobody of this configuration sends that; the connection must go.
        """
        handler = self._handlers.get(type(message))
        if handler is None:
            raise RemoteProtocolError(f"unexpected message {type(message).__name__}")
        if self.is_stopped:
            return
        handler(origin, message)
        if self._local and not self._is_draining:
            self._drain()

    def send(self, member: str, message: Any) -> None:
        """Send a request or notice; to this member itself by the local queue."""
        if member == self.member:
            self._local.append(message)
            if not self._is_draining:
                self.ports.call_soon(self._drain)
        else:
            self.ports.send(member, message)

    def broadcast(self, message: Any) -> None:
        """Send to every other member."""
        for member in self.quorum.ordered:
            if member != self.member:
                self.ports.send(member, message)

    def reply(self, origin: str, message: Any) -> None:
        """Answer a member; itself by the local queue; nobody when a record came from catch-up."""
        if origin == self.member:
            self._local.append(message)
            if not self._is_draining:
                self.ports.call_soon(self._drain)
        elif origin:
            self.ports.reply(origin, message)

    def peer_changed(self, member: str, is_up: bool) -> None:
        """Take note that a member can be asked, or no longer."""
        (self.connected.add if is_up else self.connected.discard)(member)
        if not is_up:
            self.stats.peer(member).disconnected()
        for call in self.on_peer_change:
            call(member, is_up)

    def is_quorum_connected(self) -> bool:
        """Tell whether a majority, this member included, can be asked now."""
        return self.quorum.is_met(self.connected)

    def is_disk_stalled(self) -> bool:
        """Tell whether the oldest commit is so old that this node should not propose for new owners (H26)."""
        return self.storage.oldest_pending_ms() > STALL_MS

    def stop(self) -> None:
        """Answer nothing more."""
        self.is_stopped = True
        if self._sweep is not None:
            self._sweep.cancel()
        self.attempts.clear()

    def _drain(self) -> None:
        if self._is_draining:
            return
        self._is_draining = True
        try:
            while self._local and not self.is_stopped:
                message = self._local.popleft()
                self._handlers[type(message)](self.member, message)
        finally:
            self._is_draining = False

    # --- effects ---------------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if type(effect) is Respond:
                self.reply(effect.origin, effect.reply)
            elif type(effect) is Persist:
                record = effect.record
                self.storage.append(record, lambda record=record: self._durable(record))  # type: ignore[misc]
            else:
                self.is_stopped = True
                self.ports.halt(str(getattr(effect, "reason", effect)))
                return

    def _durable(self, record: Record | Ceiling) -> None:
        if self.is_stopped:
            return
        effects = self.acceptor.persisted(record, self.ports.now_ms())
        if isinstance(record, Record) and record.promised == record.accepted:
            for call in self.on_installed:
                call(record)
        self._carry_out(effects)
        if self._local and not self._is_draining:
            self._drain()

    # --- acceptor --------------------------------------------------------------------------------------------

    def _on_asked(self, origin: str, message: Prepare | Accept | Peek) -> None:
        effects = self.acceptor.handle(origin, message, self.ports.now_ms())
        if type(message) is Peek:
            effects = self._with_claims(message.key, effects)
        else:
            # After the acceptor has checked it: a poisoned counter must not become this proposer's own (H12).
            self.proposer.observe(message.ballot)  # type: ignore[union-attr]
            if type(message) is Accept and effects and type(effects[0]) is Respond and type(effects[0].reply) is Nack:
                for call in self.on_refused:
                    call(message.key, message.ballot)
        self._carry_out(effects)

    def _with_claims(self, key: str, effects: list[Effect]) -> list[Effect]:
        """Add to the answer to a peek what the acceptor does not know."""
        claims = self.claims(key)
        if not claims:
            return effects
        return [
            Respond(effect.origin, msgspec.structs.replace(effect.reply, waiting=claims))
            if type(effect) is Respond and type(effect.reply) is Peeked
            else effect
            for effect in effects
        ]

    def _on_renew(self, origin: str, message: Renew) -> None:
        self.reply(origin, self.acceptor.renew(message, self.ports.now_ms()))

    def _on_sync_request(self, origin: str, message: SyncRequest) -> None:
        self._carry_out(self.acceptor.sync(origin, message))

    def _on_digest_request(self, origin: str, message: DigestRequest) -> None:
        acceptor = self.acceptor
        self.reply(origin, DigestReply(message.request, len(acceptor.registers), acceptor.digest))

    def _on_ping(self, origin: str, message: Ping) -> None:
        self.reply(origin, Pong(message.request, message.sent_us, self.ports.now_us()))

    def _on_pong(self, origin: str, message: Pong) -> None:
        now_us = self.ports.now_us()
        self.round_trip_ms[origin] = max(0, now_us - message.sent_us) / 1000
        self.stats.peer(origin).answered(message.sent_us, now_us, message.clock_us)

    # --- proposer --------------------------------------------------------------------------------------------

    def start(self, key: str, nonce: str, intent: Intent | None, on_end: AttemptEnd) -> Attempt:
        """Begin an attempt under a fresh ballot. ``intent`` None stops after phase 1.

        ``on_end`` is called once: the attempt's ``outcome`` says how it ended, None when time ran out (an Accept may
        then have been sent: the outcome is unknown). There is one attempt per register at a time.
        """
        awaited = frozenset(self.connected)
        attempt = Attempt(key, self.proposer.next_ballot(), self.epoch, self.quorum, nonce, intent, awaited)
        self.stats.ballots_started += 1
        self._run(attempt, on_end, attempt.start())
        return attempt

    def resume(self, attempt: Attempt, intent: Intent, on_end: AttemptEnd) -> None:
        """Go on with an attempt whose phase 1 was done in advance: one round trip."""
        sends = attempt.propose(intent)
        self._run(attempt, on_end, sends)
        self._after_step(attempt)

    def _run(self, attempt: Attempt, on_end: AttemptEnd, sends: list[Send]) -> None:
        self.attempts.pop(attempt.key, None)
        self.attempts[attempt.key] = Running(attempt, on_end, self.ports.now_us())
        if self._sweep is None:
            self._sweep = self.ports.call_later(ATTEMPT_TIMEOUT_MS, self._expire_old)
        self._send_all(sends)

    def _send_all(self, sends: list[Send]) -> None:
        for member, message in sends:
            self.send(member, message)

    def _expire_old(self) -> None:
        """End the attempts whose time is up, and look again when that of the next one is."""
        now_us = self.ports.now_us()
        while self.attempts and not self.is_stopped:
            running = next(iter(self.attempts.values()))
            left_ms = ATTEMPT_TIMEOUT_MS - (now_us - running.start_us) / 1000
            if left_ms > 0:
                self._sweep = self.ports.call_later(left_ms, self._expire_old)
                return
            running.attempt.end_if_refused()
            # It stays set until here: what begins at the end of another attempt must not put the next look off.
            self._end(running)
        self._sweep = None

    def _current(self, key: str, ballot: Any) -> Attempt | None:
        running = self.attempts.get(key)
        return running.attempt if running is not None and running.attempt.ballot == ballot else None

    def _on_promise(self, origin: str, message: Promise) -> None:
        attempt = self._current(message.key, message.ballot)
        if attempt is not None:
            self._send_all(attempt.on_promise(origin, message))
            self._after_step(attempt)

    def _on_live(self, origin: str, message: Live) -> None:
        attempt = self._current(message.key, message.ballot)
        if attempt is not None:
            self.stats.ballots_rejected["live"] += 1
            self._send_all(attempt.on_live(origin, message))
            self._after_step(attempt)

    def _on_nack(self, origin: str, message: Nack) -> None:
        self.proposer.observe(message.promised)
        attempt = self._current(message.key, message.ballot)
        if attempt is not None:
            self.stats.ballots_rejected["promised"] += 1
            self._send_all(attempt.on_nack(origin, message))
            self._after_step(attempt)

    def _on_accepted(self, origin: str, message: Accepted) -> None:
        attempt = self._current(message.key, message.ballot)
        if attempt is not None:
            attempt.on_accepted(origin, message)
            self._after_step(attempt)

    def _on_wrong_epoch(self, origin: str, message: WrongEpoch) -> None:
        self.stats.ballots_rejected["epoch"] += 1

    def _after_step(self, attempt: Attempt) -> None:
        running = self.attempts.get(attempt.key)
        if running is None or running.attempt is not attempt:
            return
        if attempt.phase is Phase.ACCEPTING and not running.accept_us:
            running.accept_us = self.ports.now_us()
            self.stats.phase_seconds["prepare"].observe((running.accept_us - running.start_us) / 1e6)
        if attempt.phase is Phase.DONE or (attempt.phase is Phase.PREPARED and attempt.intent is None):
            self._end(running)

    def _end(self, running: Running) -> None:
        attempt = running.attempt
        del self.attempts[attempt.key]
        if attempt.decision is not None:
            if attempt.outcome is not None and attempt.outcome.is_chosen:
                self.stats.proposals_committed += 1
                took = (self.ports.now_us() - running.accept_us) / 1e6
                self.stats.phase_seconds["accept"].observe(took)
            else:
                self.stats.proposals_failed += 1
        running.on_end(attempt)
