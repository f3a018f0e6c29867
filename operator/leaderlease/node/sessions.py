"""Client sessions: checks each request, and passes it to the part of the node that answers it.

Rule 1: a request gets exactly one answer: what it asked for, ``Denied``, or ``Failed`` with a code and a sentence.
Rule 2: bad input is refused before it costs a ballot; the text names the field, the value and what is allowed.
Rule 3: what one session may keep open is bounded; more than that is refused, never queued.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from leaderlease.errors import ConfigError, RemoteProtocolError
from leaderlease.node.auth import ADMIN, KEYS_KEY, Principal, admission_refusal, encode_keys, refusal
from leaderlease.node.driver import Driver
from leaderlease.node.homes import LEASE, Outbox, Session, Waiter
from leaderlease.node.learner import Watch
from leaderlease.node.leases import Leases
from leaderlease.node.missed import Missed
from leaderlease.node.reads import Reading, Reads, ReadState
from leaderlease.node.releases import Releases
from leaderlease.node.renewals import Renewals
from leaderlease.node.specs import Specs, check_spec
from leaderlease.node.status import node_status
from leaderlease.paxos.lease import (
    DURATION_DEFAULT_MS,
    NONCE_HEX,
    PREFERENCES,
    PRIORITY_MAX,
    Holder,
    Value,
    check_value,
    parse_name,
)
from leaderlease.paxos.messages import Claim, StepDown
from leaderlease.wire.session import (
    AcquireRequest,
    CancelRequest,
    DeclaredSpecs,
    DeclareRequest,
    Done,
    Failed,
    GetRequest,
    KeepAlive,
    KeysRequest,
    LeaseInfo,
    ListRequest,
    ReleaseRequest,
    RevokeRequest,
    Spec,
    SpecsRequest,
    StatusRequest,
    StepDownAsked,
    StepDownRequest,
    Transition,
    UnwatchRequest,
    Verified,
    VerifyRequest,
    WatchRequest,
)
from leaderlease.wire.session import Leases as LeasesAnswer

WAITS_MAX: Final = 20_000
"""Acquires of one session that are neither granted nor denied yet."""
LEASES_MAX: Final = 50_000
"""Leases of one session."""
WATCHES_MAX: Final = 64
"""Watches of one session."""
PAGE_MAX: Final = 1_000
"""Leases in one answer to a list."""
VERIFY_READS_MAX: Final = 3
"""Reads for one verification while a lease is in transition."""
VERIFY_PAUSE_MS: Final = 20
"""Pause between two of them."""


class Sessions:
    """Every client of this node."""

    def __init__(self, driver: Driver, *, name: str, auto_declare: bool) -> None:
        self.driver = driver
        self.name = name
        self.reads = Reads(driver)
        self.leases = Leases(driver, self.reads)
        self.releases = Releases(driver, self.reads, self.leases)
        self.renewals = Renewals(driver, self.leases)
        self.specs = Specs(driver, self.reads, auto_declare)
        Missed(driver, self.reads)
        self.specs.on_change = self._admit_again
        self.leases.preferences.spec_of = self.specs.declared.get
        self.open_sessions: set[Session] = set()
        self._handlers: dict[type, Callable[[Session, Any], None]] = {
            KeepAlive: self._on_keepalive,
            AcquireRequest: self._on_acquire,
            CancelRequest: self._on_cancel,
            ReleaseRequest: self._on_release,
            StepDownRequest: self._on_step_down,
            RevokeRequest: self._on_revoke,
            GetRequest: self._on_get,
            ListRequest: self._on_list,
            WatchRequest: self._on_watch,
            UnwatchRequest: self._on_unwatch,
            VerifyRequest: self._on_verify,
            DeclareRequest: self._on_declare,
            KeysRequest: self._on_keys,
            SpecsRequest: self._on_specs,
            StatusRequest: self._on_status,
        }
        driver.route(StepDown, self._on_peer_step_down)

    def open(self, outbox: Outbox, name: str, principal: Principal = ADMIN) -> Session:
        """Begin a session; ``name`` is for people."""
        session = Session(outbox, name, principal, self.driver.ports.now_ms())
        self.open_sessions.add(session)
        return session

    def close(self, session: Session) -> None:
        """The connection has gone: its leases live until they expire, its watches end."""
        self.open_sessions.discard(session)
        for watch in session.watches.values():
            self.driver.learner.unsubscribe(watch)
        self.leases.forget(session)

    def receive(self, session: Session, message: Any) -> None:
        """Take one message of a client.

        Raises:
            RemoteProtocolError: No client sends that.
        """
        handler = self._handlers.get(type(message))
        if handler is None:
            raise RemoteProtocolError(f"unexpected message {type(message).__name__}")
        if text := refusal(session.principal, message):
            self.driver.stats.requests_refused[type(message).__name__] += 1
            session.push(Failed(message.request, "refused", text))
            return
        try:
            handler(session, message)
        except ConfigError as error:
            session.push(Failed(message.request, "invalid", str(error)))

    # --- leases ----------------------------------------------------------------------------------------------

    def _on_keepalive(self, session: Session, message: KeepAlive) -> None:
        session.last_seq = max(session.last_seq, message.seq)
        self.renewals.keepalive(session, message.seq)

    def _on_acquire(self, session: Session, message: AcquireRequest) -> None:
        session.last_seq = max(session.last_seq, message.seq)
        parse_name(message.name)
        holder = message.holder
        if len(holder.nonce) != NONCE_HEX or not 0 < len(holder.name) <= 253 or len(holder.pod_uid) > 64:
            raise ConfigError(f"identity {holder.name!r}: a name of 1 to 253 characters and a nonce are needed")
        if abs(message.priority) > PRIORITY_MAX:
            raise ConfigError(f"priority: {message.priority} is outside [-{PRIORITY_MAX}, {PRIORITY_MAX}]")
        if message.duration_ms != 0:
            check_value(Value(1, None, message.duration_ms))
        if len(session.waits) >= WAITS_MAX or len(session.leases) >= LEASES_MAX:
            raise ConfigError(f"{message.name}: a session may hold {LEASES_MAX} leases and wait for {WAITS_MAX}")
        if message.request in session.waits:
            raise ConfigError(f"request {message.request} is open already")
        self.specs.look_up(message.name, lambda spec, text: self._admit(session, message, spec, text))

    def _admit(
        self, session: Session, message: AcquireRequest, spec: Spec | None, text: str, is_sure: bool = False
    ) -> None:
        if session.is_closed:
            return
        is_holder = self._is_held_by(message.name, message.holder)
        why_not = text or _refusal(session.principal, message.name, message.holder, spec, is_holder)
        if why_not and spec is not None and not is_sure:
            # This node's copy may be old, and a refusal is final for the client: a majority is asked first.
            again = lambda spec, text: self._admit(session, message, spec, text, True)  # noqa: E731
            self.specs.look_up(message.name, again, is_sure=True)
            return
        if why_not or spec is None:
            session.push(Failed(message.request, "quorum" if text else "refused", why_not))
            if text and message.is_waiting:
                session.send_away(self.driver.ports.now_ms())
            return
        is_declared = message.name in self.specs.declared
        duration_ms = message.duration_ms
        if is_declared or duration_ms == 0:
            duration_ms = spec.duration_ms if is_declared else DURATION_DEFAULT_MS
        who = (session, message.request, message.holder, message.is_waiting)
        claim = Claim(message.holder.name, message.priority, message.since_ms)
        waiter = Waiter(*who, duration_ms, spec.lock_delay_ms, message.term, claim)
        waiter.renew_deadline_ms, waiter.retry_period_ms = spec.renew_deadline_ms, spec.retry_period_ms
        self.leases.acquire(message.name, waiter)

    def _admit_again(self, name: str) -> None:
        """Something else is declared for a lease: whoever waits for it waits under that, or not any more."""
        home, spec = self.leases.homes.get(LEASE + name), self.specs.declared.get(name)
        if home is None or (spec is None and self.specs.is_automatic):
            return
        for waiter in [waiter for waiter in home.waiters if not waiter.is_cancelled]:
            if self._is_held_by(name, waiter.holder):
                continue
            why_not = _refusal(waiter.session.principal, name, waiter.holder, spec, False)
            if why_not or spec is None:
                waiter.session.push(Failed(waiter.request, "refused", why_not))
                self.leases.cancel(waiter, home)
            else:
                waiter.duration_ms, waiter.lock_delay_ms = spec.duration_ms, spec.lock_delay_ms
                waiter.renew_deadline_ms, waiter.retry_period_ms = spec.renew_deadline_ms, spec.retry_period_ms
        self.leases.preferences.declared(home)

    def _is_held_by(self, name: str, holder: Holder) -> bool:
        register = self.driver.acceptor.registers.get(LEASE + name)
        value = register.value if register is not None else None
        return value is not None and value.nonce == holder.nonce

    def _on_cancel(self, session: Session, message: CancelRequest) -> None:
        found = session.waits.get(message.request)
        if found is not None:
            home, waiter = found
            self.leases.cancel(waiter, home)

    def _on_release(self, session: Session, message: ReleaseRequest) -> None:
        parse_name(message.name)
        on_end = _answer(session, message.request)
        self.releases.release(message.name, message.nonce, message.successor, on_end)

    def _on_revoke(self, session: Session, message: RevokeRequest) -> None:
        parse_name(message.name)
        self.releases.revoke(message.name, message.term, _answer(session, message.request))

    def _on_step_down(self, session: Session, message: StepDownRequest) -> None:
        parse_name(message.name)
        key = LEASE + message.name
        if term := self._ask_holder(key, message.successor):
            session.push(Done(message.request, term))
            return

        def on_read(reading: Reading) -> None:
            if reading.state is ReadState.UNAVAILABLE:
                text = self.driver.quorum.missing(reading.answered)
                session.push(Failed(message.request, "quorum", text))
            elif reading.is_vacant or reading.value is None:
                session.push(Failed(message.request, "not_holder", f"{message.name}: nobody holds it"))
            else:
                self.driver.broadcast(StepDown(key, message.successor))
                session.push(Done(message.request, reading.value.term))

        self.reads.read(key, on_read)

    def _on_peer_step_down(self, origin: str, message: StepDown) -> None:
        self._ask_holder(message.key, message.successor)

    def _ask_holder(self, key: str, successor: str) -> int:
        """Pass the request on to a holder that this node serves; return its term, 0 if there is none here."""
        home = self.leases.homes.get(key)
        if home is None or home.held is None:
            return 0
        held = home.held
        held.session.push(StepDownAsked(home.name, held.holder.nonce, successor))
        return held.value.term

    # --- reading ---------------------------------------------------------------------------------------------

    def _on_get(self, session: Session, message: GetRequest) -> None:
        parse_name(message.name)

        def on_read(reading: Reading) -> None:
            if reading.state is ReadState.UNAVAILABLE:
                text = self.driver.quorum.missing(reading.answered)
                session.push(Failed(message.request, "quorum", text))
                return
            info = self.info_from(message.name, reading)
            session.push(LeasesAnswer(message.request, () if info is None else (_shown(session, info),)))

        self.read_lease(message.name, on_read)

    def read_lease(self, name: str, on_read: Callable[[Reading], object]) -> None:
        """Read one lease from a majority."""
        self.reads.read(LEASE + name, on_read)

    def info_from(self, name: str, reading: Reading) -> LeaseInfo | None:
        """Describe a lease from what a majority said; None if nobody ever held it."""
        value = reading.value
        if value is None:
            return None
        state = "vacant" if reading.is_vacant else "held"
        if reading.state is ReadState.IN_TRANSITION and not reading.is_vacant:
            state = "in transition"
        return self._info(name, state, value, reading.remaining_ms)

    def _info(self, name: str, state: str, value: Value, remaining_ms: int | None) -> LeaseInfo:
        home = self.leases.homes.get(LEASE + name)
        candidates = tuple(waiter.holder.name for waiter in islice(home.waiters, 16)) if home is not None else ()
        holder = value.holder if state != "vacant" else None
        preference = self.leases.preferences.of(name) or PREFERENCES[0]
        told = (value.duration_ms, remaining_ms, value.acquired_at_ms, candidates, preference)
        return LeaseInfo(name, state, holder, value.term, *told)

    def local_view(self, prefix: str = "", after: str = "") -> "list[LeaseInfo]":
        """Return what this node's own acceptor knows, in name order, from after ``after`` on."""
        registers = self.driver.acceptor.registers
        now_ms = self.driver.ports.now_ms()
        names = sorted(key for key in registers if key.startswith(LEASE + prefix) and key > LEASE + after)
        found = []
        for key in names:
            register = registers[key]
            if register.value is not None:
                state = "held" if register.is_live(now_ms) else "vacant"
                found.append(self._info(key[len(LEASE) :], state, register.value, register.remaining_ms(now_ms)))
        return found

    def _on_list(self, session: Session, message: ListRequest) -> None:
        limit = max(1, min(message.limit, PAGE_MAX))
        found = self.local_view(message.prefix, message.after)
        after = found[limit - 1].name if len(found) > limit else ""
        page = tuple(_shown(session, info) for info in found[:limit])
        session.push(LeasesAnswer(message.request, page, after))

    def _on_specs(self, session: Session, message: SpecsRequest) -> None:
        items, after = self.specs.page(message.prefix, message.after)
        session.push(DeclaredSpecs(message.request, items, after))

    def _on_watch(self, session: Session, message: WatchRequest) -> None:
        if len(session.watches) >= WATCHES_MAX:
            raise ConfigError(f"watch: a session may have {WATCHES_MAX}")
        if message.is_exact:
            parse_name(message.prefix)

        def push(transition: Transition) -> None:
            session.push(_shown(session, transition))

        watch = Watch(message.request, message.prefix, message.is_exact, push)
        session.watches[message.request] = watch
        self.driver.learner.subscribe(watch, message.since)

    def _on_unwatch(self, session: Session, message: UnwatchRequest) -> None:
        watch = session.watches.pop(message.request, None)
        if watch is not None:
            self.driver.learner.unsubscribe(watch)

    def _on_verify(self, session: Session, message: VerifyRequest) -> None:
        parse_name(message.name)
        self._verify(session, message, VERIFY_READS_MAX - 1)

    def _verify(self, session: Session, message: VerifyRequest, more: int) -> None:
        def on_read(reading: Reading) -> None:
            value = reading.value
            if reading.state is ReadState.UNAVAILABLE:
                text = self.driver.quorum.missing(reading.answered)
                session.push(Failed(message.request, "quorum", text))
            elif reading.state is ReadState.IN_TRANSITION and more and not reading.is_vacant:
                again = lambda: self._verify(session, message, more - 1)  # noqa: E731
                self.driver.ports.call_later(VERIFY_PAUSE_MS, again)
            else:
                is_held = reading.state is ReadState.CHOSEN and value is not None and value.holder is not None
                term = value.term if value is not None else 0
                is_current = is_held and not reading.is_vacant and term == message.term
                session.push(Verified(message.request, is_current, term))

        self.read_lease(message.name, on_read)

    # --- the rest --------------------------------------------------------------------------------------------

    def _on_declare(self, session: Session, message: DeclareRequest) -> None:
        parse_name(message.name)
        if message.spec is not None:
            check_spec(message.spec)
        self.specs.declare(message.name, message.spec, _answer(session, message.request))

    def _on_keys(self, session: Session, message: KeysRequest) -> None:
        body = encode_keys(message.issuer, message.audience, message.jwks)
        self.specs.write(KEYS_KEY, body, _answer(session, message.request))

    def _on_status(self, session: Session, message: StatusRequest) -> None:
        status = node_status(self)
        session.push(msgspec.structs.replace(status, request=message.request))


Shown = TypeVar("Shown", LeaseInfo, Transition)


def _shown(session: Session, message: Shown) -> Shown:
    holder = session.shown(message.holder)
    return message if holder is message.holder else msgspec.structs.replace(message, holder=holder)


def _answer(session: Session, request: int) -> Callable[[int, str, str], None]:
    def on_end(term: int, code: str, text: str) -> None:
        session.push(Failed(request, code, text) if code else Done(request, term))

    return on_end


def _refusal(principal: Principal, name: str, holder: Holder, spec: Spec | None, is_holder: bool) -> str:
    """Say why this candidate is not admitted; empty if it is. Who holds already may go on."""
    if spec is None:
        return f"{name} is not declared; declare it first: leaderlease declare {name} --duration 3s"
    if is_holder:
        return ""
    if spec.mode != "Active":
        return f"{name} is {spec.mode}: nobody new is admitted"
    if spec.identities and holder.name not in spec.identities:
        return f"{name} admits {', '.join(spec.identities)}, and not {holder.name}"
    return admission_refusal(principal, name, spec)
