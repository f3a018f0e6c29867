"""Settings of one sidecar, checked before anything runs."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from leaderlease.client.endpoints import Endpoint, parse_endpoint
from leaderlease.errors import ConfigError
from leaderlease.paxos.lease import PRIORITY_MAX, parse_duration, parse_name

PORT_API: Final = 4040
LEASES_MAX: Final = 64
"""Leases of one sidecar."""
IDENTITY_CHARS_MAX: Final = 253
PREFERENCES: Final = ("none", "newest-replicaset", "lowest-ordinal")
SECONDS_MAX: Final = 3_600.0
THRESHOLD_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class GateConfig:
    """How the application's health is checked.

    Attributes:
        kind: ``http``, ``tcp`` or ``exec``.
        host: Of http and tcp.
        port: Likewise.
        path: Path and query of http.
        command: Of exec; run in the sidecar's own container.
        failures: Checks in a row that must fail before the lease is yielded.
        successes: Checks in a row that must pass before this candidate runs (again).
    """

    kind: str
    host: str = ""
    port: int = 0
    path: str = "/"
    command: tuple[str, ...] = ()
    period_s: float = 1.0
    timeout_s: float = 0.5
    failures: int = 3
    successes: int = 1

    @property
    def budget_s(self) -> float:
        """Seconds from the moment at which the application fails to the one at which the sidecar says so, at most."""
        return self.failures * (self.period_s + self.timeout_s)


@dataclass(frozen=True, slots=True)
class SidecarConfig:
    """Everything that ``leaderlease sidecar`` can be told; see its help for the meaning.

    Attributes:
        leases: ``namespace/name`` each; the first is the one that ``/`` speaks of.
        listen: Local address with every endpoint.
        listen_pod: Address with the endpoints that only read; None does not serve them.
        state_dir: Where nonces outlive the process; None keeps nothing.
        file: ``leader.json``; None writes none.
        preference: Whom to name as successor where the lease itself declares no preference.
        priority: For leases whose declaration prefers the highest.
        drain: ``none``, ``health``, or ``tcp://host:port``: how SIGTERM tells that the work has ended.
    """

    leases: tuple[str, ...]
    identity: str
    pod_uid: str = ""
    endpoints: str | None = None
    duration: str | None = None
    listen: Endpoint = field(default_factory=lambda: Endpoint("127.0.0.1", PORT_API))
    listen_pod: Endpoint | None = None
    state_dir: Path | None = None
    file: Path | None = None
    token_file: Path | None = None
    tls: tuple[str | None, str | None, str] | None = None
    gate: GateConfig | None = None
    drain: str = "none"
    drain_timeout_s: float = 25.0
    step_down_grace_s: float = 2.0
    stale_after_s: float = 10.0
    preference: str = "none"
    priority: int = 0
    drain_at: Endpoint | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: Names the flag, the value and what is allowed.
        """
        if not self.leases:
            raise ConfigError("--lease: name at least one lease, for example --lease billing --namespace shop")
        if len(self.leases) > LEASES_MAX:
            raise ConfigError(f"--lease: {len(self.leases)} of them, at most {LEASES_MAX}")
        for name in self.leases:
            parse_name(name)
        if len(set(self.leases)) < len(self.leases):
            raise ConfigError(f"--lease: {', '.join(self.leases)}: each lease may be named once")
        shorts = [name.partition("/")[2] for name in self.leases]
        if len(set(shorts)) < len(shorts):
            raise ConfigError(f"--lease: {', '.join(self.leases)}: the names after the / must differ")
        if not 0 < len(self.identity) <= IDENTITY_CHARS_MAX:
            raise ConfigError(f"--identity: {self.identity!r} must have 1 to {IDENTITY_CHARS_MAX} characters")
        if self.duration is not None:
            parse_duration(self.duration, "--duration")
        check_seconds("--drain-timeout", self.drain_timeout_s, 0.0)
        check_seconds("--step-down-grace", self.step_down_grace_s, 0.0)
        check_seconds("--stale-after", self.stale_after_s, 0.5)
        if self.preference not in PREFERENCES:
            raise ConfigError(f"--successor-preference: {self.preference!r} is none of {', '.join(PREFERENCES)}")
        if abs(self.priority) > PRIORITY_MAX:
            raise ConfigError(f"--priority: {self.priority} is outside [-{PRIORITY_MAX}, {PRIORITY_MAX}]")
        if self.drain.startswith("tcp://"):
            object.__setattr__(self, "drain_at", _address("--drain", self.drain.removeprefix("tcp://")))
        elif self.drain == "health":
            if self.gate is None:
                raise ConfigError("--drain: 'health' waits until the health check fails, so --health must be given")
        elif self.drain != "none":
            raise ConfigError(f"--drain: {self.drain!r} must be none, health or tcp://host:port")


def check_seconds(flag: str, value: float, least: float) -> None:
    """Refuse a number of seconds outside ``[least, SECONDS_MAX]``.

    Raises:
        ConfigError: It is outside, or no number.
    """
    if not least <= value <= SECONDS_MAX:
        raise ConfigError(f"{flag}: {value:g} s is outside [{least:g}, {SECONDS_MAX:g}]")


def _address(flag: str, text: str) -> Endpoint:
    try:
        endpoint = parse_endpoint(text)
    except ConfigError as error:
        raise ConfigError(f"{flag}: {error}") from error
    if ":" not in text.rpartition("]")[2]:
        raise ConfigError(f"{flag}: {text!r} has no port")
    return endpoint


def parse_listen(flag: str, text: str) -> Endpoint:
    """Read ``host:port`` or ``:port``, which is every address; port 0 takes any.

    Raises:
        ConfigError: Anything else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65_535:
        raise ConfigError(f"{flag}: {text!r}: write host:port, or :port for every address")
    return Endpoint(host.strip("[]"), int(port))


def parse_gate(
    check: str, *, period_s: float = 1.0, timeout_s: float = 0.5, failures: int = 3, successes: int = 1
) -> GateConfig:
    """Read a health check: ``http://host:port/path``, ``tcp://host:port`` or ``exec:command arguments``.

    Raises:
        ConfigError: None of these, or a period, timeout or threshold that cannot work.
    """
    check_seconds("--health-period", period_s, 0.05)
    check_seconds("--health-timeout", timeout_s, 0.01)
    for flag, value in (("--health-failures", failures), ("--health-successes", successes)):
        if not 1 <= value <= THRESHOLD_MAX:
            raise ConfigError(f"{flag}: {value} is outside [1, {THRESHOLD_MAX}]")
    limits = (period_s, timeout_s, failures, successes)
    if check.startswith("exec:"):
        try:
            command = tuple(shlex.split(check.removeprefix("exec:")))
        except ValueError as error:
            raise ConfigError(f"--health: {check!r}: {error}") from error
        if not command:
            raise ConfigError("--health: 'exec:' names no command")
        return GateConfig("exec", "", 0, "", command, *limits)
    if check.startswith("tcp://"):
        at = _address("--health", check.removeprefix("tcp://"))
        return GateConfig("tcp", at.host, at.port, "", (), *limits)
    try:
        url = urlsplit(check)
        host, port = url.hostname, url.port or 80
    except ValueError:
        url, host, port = urlsplit(""), None, 0
    if url.scheme != "http" or not host or url.username is not None:
        raise ConfigError(f"--health: {check!r}: write http://host:port/path, tcp://host:port or exec:command")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ConfigError(f"--health: {check!r}: the path must be percent-encoded")
    return GateConfig("http", host, port, path, (), *limits)
