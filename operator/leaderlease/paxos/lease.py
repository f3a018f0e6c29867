"""Leases: names, holders, agreed values, and the timing law (protocol, section 4).

Rule 1: holders are equal when their nonces are equal, and never by name (H19).
Rule 2: a value is bytes that were agreed; its duration is part of it (H20).
Rule 3: a holder rounds down and stops early; an acceptor rounds up and waits the whole duration.
"""

import hashlib
import re
from functools import lru_cache
from typing import Final

import msgspec

from leaderlease.errors import ConfigError

DURATION_MIN_MS: Final = 100
DURATION_MAX_MS: Final = 3_600_000
DURATION_DEFAULT_MS: Final = 3_000
LOCK_DELAY_MAX_MS: Final = 3_600_000
TERM_MAX: Final = 2**53 - 1
"""A token must survive JSON and a Kubernetes integer field."""
RHO_PPM_DEFAULT: Final = 500
"""Bound on the rate error of CLOCK_MONOTONIC_RAW, in parts per million."""
RHO_PPM_WITHOUT_RAW_CLOCK: Final = 100_000
"""On platforms without CLOCK_MONOTONIC_RAW and CLOCK_BOOTTIME; chrony may slew the monotonic clock by 10 %."""
MARGIN_MIN_MS: Final = 20
MARGIN_SHARE: Final = 50
"""The margin is one part in fifty, 2 %, of the duration, and at least ``MARGIN_MIN_MS``."""
NAME_BYTES_MAX: Final = 63
DURATION_CHARS_MAX: Final = 64
"""Of a written duration: enough for every unit, and no number of such a length is beyond arithmetic."""
DIGESTS_KEPT: Final = 512
"""A value's digest is asked for up to four times by the node that proposes it, within milliseconds."""
NONCE_HEX: Final = 32
"""A nonce is 128 bits, written as 32 hexadecimal digits."""
RENEW_DEADLINE_MIN_MS: Final = 50
"""Less would end before the round that grants a lease."""
RETRY_PERIOD_MIN_MS: Final = 10
PRIORITY_MAX: Final = 1_000_000
"""Of a candidate; as far below 0."""
NO_FAILBACK_MAX_MS: Final = 3_650 * 86_400_000
MODES: Final = ("Active", "Paused", "ObserveOnly")
"""Whom a declared lease admits: everybody, nobody new, and nobody new while the operator leaves routing alone."""
PREFERENCES: Final = ("None", "Priority", "Ordinal", "NewestReplicaSet")
"""Who should be first where several could hold a lease."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?\Z", re.ASCII)


class Holder(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who holds, or wants to.

    Attributes:
        name: For people; may repeat.
        pod_uid: Kubernetes pod, or empty.
        nonce: 32 hexadecimal digits, drawn once per campaign; the only thing that is compared.
    """

    name: str
    pod_uid: str
    nonce: str


class Value(msgspec.Struct, frozen=True, array_like=True):
    """What the acceptors agree on for one register.

    Attributes:
        term: Counts grants, from 1; handed out as the fencing token. For other registers, the generation.
        holder: None for a lease that nobody holds, and for registers that are no leases.
        duration_ms: How long acceptors wait after they last heard; None is *never* (the classic lock).
        lock_delay_ms: What acceptors wait on top before a new holder after an unclean loss.
        acquired_at_ms: Wall clock of the granting node, for people only; nothing is decided by it.
        body: Content of the registers that are no leases.
    """

    term: int
    holder: Holder | None = None
    duration_ms: int | None = DURATION_DEFAULT_MS
    lock_delay_ms: int = 0
    acquired_at_ms: int = 0
    body: bytes = b""

    @property
    def nonce(self) -> str:
        """The holder's nonce; empty where nobody holds."""
        return self.holder.nonce if self.holder is not None else ""

    @property
    def is_never(self) -> bool:
        """Tell whether somebody holds this and no time will end it."""
        return self.holder is not None and self.duration_ms is None


_encode = msgspec.msgpack.Encoder().encode


@lru_cache(maxsize=DIGESTS_KEPT)
def digest(value: Value) -> bytes:
    """Return 8 bytes that name the value; two values under one ballot are told apart by it (R3)."""
    return hashlib.blake2b(_encode(value), digest_size=8).digest()


def check_value(value: Value) -> None:
    """Refuse a value that no acceptor may store (H20).

    Raises:
        ConfigError: Term, duration or lock delay lie outside their ranges.
    """
    if not 0 <= value.term <= TERM_MAX:
        raise ConfigError(f"term: {value.term} is outside [0, 2^53)")
    if value.duration_ms is not None and not DURATION_MIN_MS <= value.duration_ms <= DURATION_MAX_MS:
        raise ConfigError(f"duration: {value.duration_ms} ms is outside [100ms, 1h]")
    if not 0 <= value.lock_delay_ms <= LOCK_DELAY_MAX_MS:
        raise ConfigError(f"lock_delay: {value.lock_delay_ms} ms is outside [0, 1h]")
    if value.holder is not None and len(value.holder.nonce) != NONCE_HEX:
        raise ConfigError(f"nonce: must be {NONCE_HEX} hexadecimal digits")


def validity_ms(duration_ms: int | None, rho_ppm: int = RHO_PPM_DEFAULT) -> float:
    """Return for how long after its own send a holder may believe: ``d (1-ρ)/(1+ρ) - max(2 % d, 20 ms)``.

    Args:
        duration_ms: The agreed duration; None is never.
        rho_ppm: Bound on the rate error of every clock.

    Returns: Milliseconds, rounded down; infinity for *never*.
    Source: protocol, section 4; H31.
    """
    if duration_ms is None:
        return float("inf")
    fair = duration_ms * (1_000_000 - rho_ppm) // (1_000_000 + rho_ppm)
    return float(max(0, fair - max(duration_ms // MARGIN_SHARE, MARGIN_MIN_MS)))


def parse_name(name: str) -> tuple[str, str]:
    """Split ``namespace/name``.

    Raises:
        ConfigError: Not two DNS labels (RFC 1123) joined by one slash.
    """
    namespace, slash, short = name.partition("/")
    if not slash or not _LABEL.match(namespace) or not _LABEL.match(short):
        raise ConfigError(
            f"lease name {name!r}: write namespace/name, each of at most {NAME_BYTES_MAX} lower-case letters, "
            "digits and '-', beginning and ending with a letter or digit (for example shop/billing)"
        )
    return namespace, short


def parse_duration(text: str | int | float | None, field: str = "duration") -> int | None:
    """Turn ``"750ms"``, ``"3s"``, ``"1m30s"``, ``"1h"`` or ``"never"`` into milliseconds; numbers are seconds.

    Raises:
        ConfigError: Not a duration, or outside [100 ms, 1 h].
    """
    if text is None or text == "never":
        return None
    is_lease = field == "duration"
    milliseconds = _milliseconds(text, field, " or never" * is_lease)
    if not DURATION_MIN_MS <= milliseconds <= DURATION_MAX_MS:
        hint = "; use never for a lock without an end" if is_lease else ""
        raise ConfigError(f"{field}: {text!r} is outside [100ms, 1h]{hint}")
    return round(milliseconds)


def parse_span(text: str | int | float, field: str, least_ms: int, most_ms: int) -> int:
    """Turn a time that is no duration of a lease into milliseconds; written as for :func:`parse_duration`.

    Args:
        field: Named in the error.
        least_ms: Allowed, as is 0.
        most_ms: Allowed.

    Raises:
        ConfigError: Not a time, or outside its bounds.
    """
    milliseconds = _milliseconds(text, field, "")
    if milliseconds and not least_ms <= milliseconds <= most_ms:
        bounds = f"[{format_duration(least_ms)}, {format_duration(most_ms)}]"
        raise ConfigError(f"{field}: {text!r} is outside {bounds}")
    return round(milliseconds)


def _milliseconds(text: str | int | float, field: str, more: str) -> float:
    if isinstance(text, int | float):
        # Not a number, and what cannot be rounded, is outside of every bound.
        total = text * 1000
        return round(total) if abs(total) < float("inf") else float("inf")
    match = _DURATION.match(text) if 0 < len(text) <= DURATION_CHARS_MAX else None
    if match is None:
        raise ConfigError(f"{field}: {text!r} is no duration; write 750ms, 3s, 1m30s, 1h{more}")
    hours, minutes, seconds, millis = match.groups()
    total = float(hours or 0) * 3600 + float(minutes or 0) * 60 + float(seconds or 0)
    return round(total * 1000) + int(millis or 0)


def format_duration(duration_ms: int | None) -> str:
    """Write milliseconds as people do: ``750ms``, ``3s``, ``1.5s``, ``2m``, ``1h``, ``never``."""
    if duration_ms is None:
        return "never"
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if duration_ms >= size and duration_ms % size == 0:
            return f"{duration_ms // size}{unit}"
    return f"{duration_ms / 1000:g}s" if duration_ms > 1000 else f"{duration_ms}ms"
