"""The acceptor: what one member promised and accepted, one register per lease (protocol, section 3).

Rule 1: no reply is built before the record that it rests on is durable. ``handle`` returns a ``Persist``; only
        ``persisted`` returns the reply (R4, H27). A reply before its record cannot be written down here.
Rule 2: while a record of a register is on its way to the disk, later messages for it wait in order (R4, H3, H4).
Rule 3: what is compared is the durable image. What is not yet durable does not exist.
Rule 4: a renewal and a peek never wait for the disk, unless their own register does.
Rule 5: a durable *ceiling* stands in for the fsync of single promises: after a restart every register counts as
        promised up to it (R5, H5).
"""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from leaderlease.errors import ConfigError, RemoteProtocolError, invariant
from leaderlease.paxos.ballot import ZERO, Ballot, ceiling_ballot, check_ballot
from leaderlease.paxos.lease import Value, check_value, digest
from leaderlease.paxos.messages import (
    Accept,
    Accepted,
    Live,
    Nack,
    Peek,
    Peeked,
    Prepare,
    Promise,
    Release,
    Renew,
    Renewed,
    SyncEntry,
    SyncPage,
    SyncRequest,
    WrongEpoch,
)

CEILING_BLOCK: Final = 65_536
"""Ballot counters that one durable ceiling reserves."""
DEFERRED_MAX: Final = 256
"""Messages that may wait behind one register's record; further ones are dropped, as a network may drop them."""
SYNC_PAGE_MAX: Final = 256
"""Registers in one page of catch-up."""
EVIDENCE_MAX: Final = 64
"""Pairs of evidence in one Prepare: at most one per member."""
NEVER: Final = 1 << 62
"""Expiry, in milliseconds, of a timer that does not end."""
RELEASED: Final = -1
"""Expiry of a timer that its holder has stopped."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """The durable image of one register."""

    key: str
    promised: Ballot
    accepted: Ballot
    value: Value | None


class Ceiling(msgspec.Struct, frozen=True, array_like=True):
    """Every ballot up to this counter counts as promised after a restart."""

    counter: int


class Persist(msgspec.Struct, frozen=True):
    """Effect: make the record durable, then call ``Acceptor.persisted`` with it."""

    record: Record | Ceiling


class Respond(msgspec.Struct, frozen=True):
    """Effect: send the reply to whoever asked."""

    origin: str
    reply: Promise | Live | Accepted | Nack | WrongEpoch | Peeked | SyncPage


class Halt(msgspec.Struct, frozen=True):
    """Effect: stop this process; two values under one ballot are proof of a bug (R3, H11)."""

    reason: str


Effect = Persist | Respond | Halt
Asked = Prepare | Accept | Peek


class Register:
    """One register: the durable image, the volatile timer, and what waits for the disk."""

    __slots__ = (
        "accepted", "deferred", "digest", "expires_ms", "fingerprint", "let_go", "pending", "promised", "value",
    )  # fmt: skip

    def __init__(self) -> None:
        self.promised = ZERO
        self.accepted = ZERO
        self.value: Value | None = None
        self.digest = b""
        self.fingerprint = 0
        self.expires_ms = RELEASED
        self.pending: tuple[str, Prepare | Accept, Record] | None = None
        self.deferred: deque[tuple[str, Asked]] | None = None
        self.let_go: set[Ballot] | None = None
        """Ballots of values that were released before they were durable."""

    def remaining_ms(self, now_ms: int) -> int | None:
        """Return what is left of the timer: 0 when nothing guards the value, None for never."""
        if self.value is None or self.value.holder is None:
            return 0
        if self.expires_ms == NEVER:
            return None
        return max(0, self.expires_ms - now_ms)

    def is_live(self, now_ms: int) -> bool:
        """Tell whether the guard stands: somebody holds and the timer runs."""
        return self.value is not None and self.value.holder is not None and now_ms < self.expires_ms


def _expiry(value: Value, now_ms: int) -> int:
    """Return when a timer armed now ends. Rounded up: a clock read in whole milliseconds may be one behind."""
    if value.holder is None:
        return RELEASED
    return NEVER if value.duration_ms is None else now_ms + value.duration_ms + value.lock_delay_ms + 1


class Acceptor:
    """Promises and accepts for one member.

    Args:
        epoch: Of the membership configuration.
        records: The durable image, as it was loaded.
        ceiling: The durable ceiling; 0 on a fresh disk.
        now_ms: Monotonic milliseconds; every later call must pass at least this.

    Promises: after construction all timers run for their whole durations (R5): nothing is answered before.
    """

    def __init__(self, epoch: int, records: Iterable[Record], ceiling: int, now_ms: int) -> None:
        self.epoch = epoch
        self.registers: dict[str, Register] = {}
        self.ceiling = ceiling
        self._floor = ceiling_ballot(ceiling)
        self._ceiling_asked = ceiling
        self.counter_max = ceiling
        self.deferred_dropped = 0
        self.digest = 0
        for record in records:
            register = self._register(record.key)
            # R5: promises below the ceiling may have been given and forgotten; the floor stands in for them.
            register.promised = max(record.promised, self._floor)
            register.accepted, register.value = record.accepted, record.value
            self.counter_max = max(self.counter_max, register.promised.counter)
            if record.value is not None:
                register.digest = digest(record.value)
                register.expires_ms = _expiry(record.value, now_ms)
                register.fingerprint = _fingerprint(record.key, record.accepted, register.digest)
                self.digest ^= register.fingerprint

    def handle(self, origin: str, msg: Asked, now_ms: int) -> list[Effect]:
        """Answer a Prepare, Accept or Peek, or say what must be durable first.

        Args:
            origin: Member uuid of the sender; replies are addressed to it.
            msg: Content is untrusted.
            now_ms: Monotonic milliseconds.

        Returns: Effects in order. After a ``Persist`` the reply comes from ``persisted``.

        Raises:
            RemoteProtocolError: No honest member sends this.
        """
        if msg.epoch != self.epoch:
            ballot = ZERO if isinstance(msg, Peek) else msg.ballot
            return [Respond(origin, WrongEpoch(msg.key, ballot, self.epoch))]
        if type(msg) is Peek:
            return [Respond(origin, self._peek(msg, now_ms))]
        assert not isinstance(msg, Peek)
        check_ballot(msg.ballot, self.counter_max)
        if isinstance(msg, Accept):
            _check_accept(msg)
        register = self._register(msg.key)
        if register.pending is not None:
            return self._defer(register, origin, msg)
        if type(msg) is Prepare:
            return self._prepare(register, origin, msg, now_ms)
        assert isinstance(msg, Accept)
        return self._accept(register, origin, msg, now_ms)

    def persisted(self, record: Record | Ceiling, now_ms: int) -> list[Effect]:
        """Take the record as durable: install it, answer, and go on with what waited behind it (R4)."""
        if isinstance(record, Ceiling):
            self.ceiling = max(self.ceiling, record.counter)
            return []
        register = self.registers[record.key]
        invariant(register.pending is not None and register.pending[2] == record, "persisted out of order")
        assert register.pending is not None
        origin, msg, _ = register.pending
        register.pending = None
        register.promised = record.promised
        effects: list[Effect]
        if isinstance(msg, Prepare):
            effects = [Respond(origin, Promise(msg.key, msg.ballot, register.accepted, register.value))]
        else:
            self._install(register, msg, now_ms)
            effects = [Respond(origin, Accepted(msg.key, msg.ballot))]
        waiting = register.deferred
        while waiting and register.pending is None:
            later_origin, later = waiting.popleft()
            effects += self.handle(later_origin, later, now_ms)
        if not waiting:
            register.deferred = None
        return effects

    def renew(self, msg: Renew, now_ms: int) -> Renewed:
        """Restart the timers of a batch. No disk: only what is durable is acknowledged (R2, H1, H2, H3).

        Returns: Which items were refused, by position; all others are acknowledged.
        """
        if msg.epoch != self.epoch:
            return Renewed(msg.attempt, epoch=self.epoch)
        nacked: list[int] = []
        unknown: list[int] = []
        registers = self.registers
        for position, item in enumerate(msg.items):
            register = registers.get(item.key)
            if register is None or register.pending is not None:
                unknown.append(position)
                continue
            accepted = register.accepted
            if (
                accepted.counter != item.counter
                or register.digest != item.digest
                or accepted.member != msg.member
                or accepted.incarnation != msg.incarnation
            ):
                mine = Ballot(item.counter, msg.member, msg.incarnation)
                (nacked if mine < register.promised else unknown).append(position)
            elif register.promised != accepted:
                # R2, H1: a newer promise stands, so somebody may already be deciding for another holder.
                nacked.append(position)
            else:
                value = register.value
                assert value is not None
                register.expires_ms = max(register.expires_ms, _expiry(value, now_ms))
        return Renewed(msg.attempt, tuple(nacked), tuple(unknown))

    def release(self, msg: Release) -> Value | None:
        """Stop the timer of exactly this value; volatile is enough, for a restart only waits longer.

        A value that is still on its way to the disk, or waits behind one that is, is installed without a timer: a disk
        slower than the others' would otherwise keep a guard that nobody needs. A *never* lease is not released
        so: that takes a durable write (section 4).

        Returns: What was released, or None.
        """
        register = self.registers.get(msg.key)
        if msg.epoch != self.epoch or register is None:
            return None
        if (asked := _on_its_way(register, msg)) is not None:
            if asked.value.is_never:
                return None
            register.let_go = (register.let_go or set()) | {msg.ballot}
            return asked.value
        if (register.accepted, register.digest) != (msg.ballot, msg.digest) or register.expires_ms == NEVER:
            return None
        register.expires_ms = RELEASED
        return register.value

    def sync(self, origin: str, msg: SyncRequest) -> list[Effect]:
        """Return a page of accepted values: late copies of their proposers' own Accepts, so always legitimate."""
        if msg.epoch != self.epoch:
            return [Respond(origin, WrongEpoch("", ZERO, self.epoch))]
        keys = sorted(key for key in self.registers if key > msg.after)
        limit = max(1, min(msg.limit, SYNC_PAGE_MAX))
        page = []
        for key in keys[:limit]:
            register = self.registers[key]
            if register.value is not None:
                page.append(SyncEntry(key, register.accepted, register.value))
        after = keys[limit - 1] if len(keys) > limit else ""
        return [Respond(origin, SyncPage(msg.request, tuple(page), after))]

    def live(self, now_ms: int) -> Iterator[tuple[str, Register]]:
        """Yield the registers whose guard stands."""
        return ((key, register) for key, register in self.registers.items() if register.is_live(now_ms))

    def _register(self, key: str) -> Register:
        register = self.registers.get(key)
        if register is None:
            register = self.registers[key] = Register()
            register.promised = self._floor
        return register

    def _prepare(self, register: Register, origin: str, msg: Prepare, now_ms: int) -> list[Effect]:
        # R3, H12: strictly greater; an equal ballot never opens an attempt again.
        if msg.ballot <= register.promised:
            return [Respond(origin, Nack(msg.key, msg.ballot, register.promised))]
        if (
            register.is_live(now_ms)
            and register.value is not None
            and register.value.nonce != msg.nonce
            and not _is_let_go(register, msg)
        ):
            remaining = register.remaining_ms(now_ms)
            return [Respond(origin, Live(msg.key, msg.ballot, remaining, register.accepted, register.value))]
        self.counter_max = max(self.counter_max, msg.ballot.counter)
        effects: list[Effect] = []
        if msg.ballot.counter <= self.ceiling:
            register.promised = msg.ballot
            promise = Promise(msg.key, msg.ballot, register.accepted, register.value)
            effects.append(Respond(origin, promise))
        else:
            record = Record(msg.key, msg.ballot, register.accepted, register.value)
            register.pending = (origin, msg, record)
            effects.append(Persist(record))
        if msg.ballot.counter > self._ceiling_asked - CEILING_BLOCK // 2:
            # Asked for early, so that promises below it need not wait for it.
            self._ceiling_asked = msg.ballot.counter + CEILING_BLOCK
            effects.append(Persist(Ceiling(self._ceiling_asked)))
        return effects

    def _accept(self, register: Register, origin: str, msg: Accept, now_ms: int) -> list[Effect]:
        if msg.ballot < register.promised:
            return [Respond(origin, Nack(msg.key, msg.ballot, register.promised))]
        if msg.ballot == register.accepted:
            if digest(msg.value) != register.digest:
                return [Halt(f"{msg.key}: two values under ballot {msg.ballot}")]
            # An exact repeat: durable already, so it only restarts the timer.
            register.expires_ms = max(register.expires_ms, _expiry(msg.value, now_ms))
            return [Respond(origin, Accepted(msg.key, msg.ballot))]
        self.counter_max = max(self.counter_max, msg.ballot.counter)
        # R4, H10: the accept raises the promise, in the same record.
        record = Record(msg.key, msg.ballot, msg.ballot, msg.value)
        register.pending = (origin, msg, record)
        return [Persist(record)]

    def _install(self, register: Register, msg: Accept, now_ms: int) -> None:
        is_same_nonce = register.value is not None and register.value.nonce == msg.value.nonce != ""
        before_ms = register.expires_ms if is_same_nonce else RELEASED
        register.accepted, register.value = msg.ballot, msg.value
        register.digest = digest(msg.value)
        register.expires_ms = max(before_ms, _expiry(msg.value, now_ms))
        if msg.value.holder is None or (register.let_go is not None and msg.ballot in register.let_go):
            register.expires_ms = RELEASED
        if register.deferred is None:
            register.let_go = None
        before, register.fingerprint = register.fingerprint, _fingerprint(msg.key, msg.ballot, register.digest)
        self.digest ^= before ^ register.fingerprint

    def _peek(self, msg: Peek, now_ms: int) -> Peeked:
        register = self.registers.get(msg.key)
        if register is None:
            return Peeked(msg.key, msg.request, self._floor, ZERO, None, 0)
        return Peeked(
            msg.key,
            msg.request,
            register.promised,
            register.accepted,
            register.value,
            register.remaining_ms(now_ms),
        )

    def _defer(self, register: Register, origin: str, msg: Asked) -> list[Effect]:
        if register.deferred is None:
            register.deferred = deque()
        if len(register.deferred) >= DEFERRED_MAX:
            self.deferred_dropped += 1
            return []
        register.deferred.append((origin, msg))
        return []


def _on_its_way(register: Register, msg: Release) -> Accept | None:
    """Return the Accept of exactly this value, if it is not durable yet."""
    if register.pending is None:
        return None
    for _, asked, *_ in (register.pending, *(register.deferred or ())):
        if type(asked) is Accept and asked.ballot == msg.ballot and digest(asked.value) == msg.digest:
            return asked
    return None


def _check_accept(msg: Accept) -> None:
    try:
        check_value(msg.value)
    except ConfigError as error:
        raise RemoteProtocolError(f"accept {msg.key} under {msg.ballot}: {error}") from error


def _is_let_go(register: Register, msg: Prepare) -> bool:
    """Tell whether the evidence proves that a majority had already let go of this register's nonce (R1).

    Only a durably accepted ballot of *another* nonce, above ours and below the asking one, proves that. A mere
    promise does not, nor does the holder's own higher ballot, nor a ballot below ours: all three break exclusion.
    """
    nonce = register.value.nonce if register.value is not None else ""
    return any(
        register.accepted < evidence.ballot < msg.ballot and evidence.nonce != nonce
        for evidence in msg.seen[:EVIDENCE_MAX]
    )


def _fingerprint(key: str, ballot: Ballot, value_digest: bytes) -> int:
    text = f"{key} {ballot.counter} {ballot.member} {ballot.incarnation} ".encode() + value_digest
    return zlib.crc32(text) | zlib.adler32(text) << 32
