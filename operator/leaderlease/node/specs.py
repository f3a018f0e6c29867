"""What was declared for each lease: a second register, written by the operator or the command line.

Rule 1: a lease that is not declared cannot be acquired, unless the node declares by itself (``auto_declare``).
Rule 2: this node's own copy answers where it has one; where it has none, or would refuse by it, a majority is asked, so
        a node that was away does not refuse what others know. What it may not store (R5) reaches it by ``missed``.
Rule 3: a withdrawn declaration leaves a tombstone: the generation goes on rising (R7).
Rule 4: a declaration that this version cannot read admits nobody new here; holders stay, and other registers work.
"""

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from leaderlease.errors import ConfigError
from leaderlease.node.driver import Driver
from leaderlease.node.homes import SPEC
from leaderlease.node.reads import Reading, Reads, ReadState
from leaderlease.paxos.acceptor import Record
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import (
    DURATION_DEFAULT_MS,
    LOCK_DELAY_MAX_MS,
    MODES,
    NO_FAILBACK_MAX_MS,
    PREFERENCES,
    RENEW_DEADLINE_MIN_MS,
    RETRY_PERIOD_MIN_MS,
    Value,
    check_value,
)
from leaderlease.paxos.proposer import Attempt, Outcome, Write
from leaderlease.wire.session import Spec

IDENTITIES_MAX: Final = 256
UNDECLARED_TTL_MS: Final = 5_000
"""How long "nobody declared it" is believed before a majority is asked again."""
UNDECLARED_MAX: Final = 20_000
"""Names that are remembered as undeclared."""
PAGE_BYTES_MAX: Final = 256 << 10
"""Specifications on one page of a list, in encoded bytes."""
WRITE_RETRIES_MAX: Final = 10
WRITE_BACKOFF_MS: Final = 50
"""Ballots for one declaration, and the longest random pause between two."""

UNREADABLE: Final = Spec(DURATION_DEFAULT_MS, mode="Paused")
"""What stands in for a declaration that this version cannot read (rule 4)."""
AUTOMATIC: Final = Spec(DURATION_DEFAULT_MS)
"""What a node that declares by itself takes for a lease that nobody declared."""

OnSpec = Callable[[Spec | None, str], None]
"""Called with (spec, ""), with (None, "") where none was declared, or (None, text) where nobody could say."""
OnEnd = Callable[[int, str, str], None]

logger = logging.getLogger("leaderlease.specs")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Spec)


def check_spec(spec: Spec) -> None:
    """Refuse a specification that cannot work.

    Raises:
        ConfigError: Names the field, the value and what is allowed.
    """
    check_value(Value(1, None, spec.duration_ms))
    if not 0 <= spec.lock_delay_ms <= LOCK_DELAY_MAX_MS:
        raise ConfigError(f"lock_delay: {spec.lock_delay_ms} ms is outside [0, 1h]")
    if spec.mode not in MODES:
        raise ConfigError(f"mode: {spec.mode!r} is none of {', '.join(MODES)}")
    if len(spec.identities) > IDENTITIES_MAX or not all(0 < len(name) <= 253 for name in spec.identities):
        raise ConfigError(f"identities: at most {IDENTITIES_MAX} names, each of 1 to 253 characters")
    _check_renewal(spec)
    if spec.preference not in PREFERENCES:
        raise ConfigError(f"preference: {spec.preference!r} is none of {', '.join(PREFERENCES)}")
    if not 0 <= spec.no_failback_ms <= NO_FAILBACK_MAX_MS:
        raise ConfigError(f"no_failback: {spec.no_failback_ms} ms is outside [0, 87600h]")
    if spec.no_failback_ms and spec.preference == PREFERENCES[0]:
        raise ConfigError(f"no_failback: {spec.no_failback_ms} ms has no effect with preference {PREFERENCES[0]}")


def _check_renewal(spec: Spec) -> None:
    duration_ms, deadline_ms, period_ms = spec.duration_ms, spec.renew_deadline_ms, spec.retry_period_ms
    if not deadline_ms and not period_ms:
        return
    if duration_ms is None:
        raise ConfigError(
            f"renew_deadline, retry_period: {deadline_ms} ms and {period_ms} ms must be 0 with duration never, "
            "for nothing is renewed"
        )
    if deadline_ms and not RENEW_DEADLINE_MIN_MS <= deadline_ms < duration_ms:
        raise ConfigError(
            f"renew_deadline: {deadline_ms} ms must be at least {RENEW_DEADLINE_MIN_MS} ms, and shorter than the "
            f"duration, which is {duration_ms} ms"
        )
    limit, limit_ms = ("renew_deadline", deadline_ms) if deadline_ms else ("duration", duration_ms)
    if period_ms and not (period_ms >= RETRY_PERIOD_MIN_MS and period_ms * 6 < limit_ms * 5):
        raise ConfigError(
            f"retry_period: {period_ms} ms must be at least {RETRY_PERIOD_MIN_MS} ms, and 1.2 times as much be shorter "
            f"than the {limit}, which is {limit_ms} ms"
        )


class Specs:
    """Declared specifications, as this node knows them.

    Attributes:
        is_automatic: This node declares by itself (rule 1).
        on_change: Called with the name of a lease for which something else is declared than before.
    """

    def __init__(self, driver: Driver, reads: Reads, auto_declare: bool) -> None:
        self._driver = driver
        self._reads = reads
        self.is_automatic = auto_declare
        self.declared: dict[str, Spec] = {}
        self.on_change: Callable[[str], None] = lambda name: None
        self._ballots: dict[str, Ballot] = {}
        self._undeclared_until_ms: dict[str, int] = {}
        self._writing: set[str] = set()
        driver.on_installed.append(self._on_installed)
        driver.on_found.append(self._on_found)
        for key, register in driver.acceptor.registers.items():
            if key.startswith(SPEC) and register.value is not None:
                self._take(key, register.accepted, register.value)

    def look_up(self, name: str, on_spec: OnSpec, *, is_sure: bool = False) -> None:
        """Find what was declared for a lease: here or at a majority, or with ``is_sure`` at a majority anyhow."""
        spec = self.declared.get(name)
        until_ms = self._undeclared_until_ms.get(name, 0)
        if is_sure:
            self._reads.read(SPEC + name, lambda reading: self._found(name, reading, on_spec))
        elif spec is not None:
            on_spec(spec, "")
        elif until_ms > self._driver.ports.now_ms():
            on_spec(AUTOMATIC if self.is_automatic else None, "")
        else:
            self._reads.read(SPEC + name, lambda reading: self._found(name, reading, on_spec))

    def page(self, prefix: str, after: str) -> tuple[tuple[tuple[str, Spec], ...], str]:
        """Return specifications that this node knows, in name order after ``after``, and where the next page begins."""
        found: list[tuple[str, Spec]] = []
        size = 0
        for name in sorted(name for name in self.declared if name.startswith(prefix) and name > after):
            spec = self.declared[name]
            size += len(name) + len(_encoder.encode(spec))
            if found and size > PAGE_BYTES_MAX:
                return tuple(found), found[-1][0]
            found.append((name, spec))
        return tuple(found), ""

    def declare(self, name: str, spec: Spec | None, on_end: OnEnd) -> None:
        """Write what is declared; None withdraws it. ``on_end`` gets the generation."""
        if name in self._writing:
            on_end(0, "unknown", f"{name}: another declaration is being written; ask again")
            return
        self._writing.add(name)

        def end(term: int, code: str, text: str) -> None:
            self._writing.discard(name)
            on_end(term, code, text)

        self.write(SPEC + name, _encoder.encode(spec) if spec is not None else b"", end)

    def write(self, key: str, body: bytes, on_end: OnEnd, retries: int = WRITE_RETRIES_MAX) -> None:
        """Write a register that is no lease; ``on_end`` gets the generation."""
        driver = self._driver
        if not driver.is_quorum_connected():
            on_end(0, "quorum", driver.quorum.missing(driver.connected))
            return
        if key in driver.attempts:
            on_end(0, "unknown", f"{key[len(SPEC) :]}: another declaration is being written; ask again")
            return

        def end(attempt: Attempt) -> None:
            if attempt.outcome is Outcome.CHOSEN and attempt.decision is not None:
                if key.startswith(SPEC):
                    self._take(key, attempt.ballot, attempt.decision.value)
                on_end(attempt.decision.value.term, "", "")
            elif retries:
                pause_ms = 1 + driver.ports.random() * WRITE_BACKOFF_MS
                driver.ports.call_later(pause_ms, lambda: self.write(key, body, on_end, retries - 1))
            else:
                text = f"{key[len(SPEC) :]}: {attempt.quorum.missing(attempt.accepted or attempt.promises)}; ask again"
                on_end(0, "unknown", text)

        driver.start(key, "", Write(body), end)

    def _found(self, name: str, reading: Reading, on_spec: OnSpec) -> None:
        if reading.state is ReadState.UNAVAILABLE:
            on_spec(None, self._driver.quorum.missing(reading.answered))
            return
        if reading.value is not None:
            self._take(SPEC + name, reading.ballot, reading.value)
        spec = self.declared.get(name)
        if spec is None:
            if len(self._undeclared_until_ms) >= UNDECLARED_MAX:
                self._undeclared_until_ms.clear()
            self._undeclared_until_ms[name] = self._driver.ports.now_ms() + UNDECLARED_TTL_MS
            spec = AUTOMATIC if self.is_automatic else None
        on_spec(spec, "")

    def _on_installed(self, record: Record) -> None:
        if record.key.startswith(SPEC) and record.value is not None:
            self._take(record.key, record.accepted, record.value)

    def _on_found(self, key: str, ballot: Ballot, value: Value) -> None:
        if key.startswith(SPEC):
            self._take(key, ballot, value)

    def _take(self, key: str, ballot: Ballot, value: Value) -> None:
        name = key[len(SPEC) :]
        if ballot < self._ballots.get(name, ZERO):
            # A read that was under way while a newer declaration was installed here.
            return
        self._ballots[name] = ballot
        self._undeclared_until_ms.pop(name, None)
        before = self.declared.get(name)
        if value.body:
            self.declared[name] = _read(name, value.body)
        else:
            self.declared.pop(name, None)
        if self.declared.get(name) != before:
            self.on_change(name)


def _read(name: str, body: bytes) -> Spec:
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        logger.error("the declaration of %s is of another version (%s): nobody new is admitted here", name, error)
        return UNREADABLE
