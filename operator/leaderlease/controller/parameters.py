"""What a pod's label and annotations ask of its sidecar, checked.

Rule 1: what cannot work is refused with one sentence that names the field, its value and what is allowed.
Rule 2: an annotation of our group that we do not know is refused, because nobody would notice a misspelt one.
Rule 3: what is said of the application is true of this pod: a named port is one of its ports, our ports are not.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

import msgspec

from leaderlease.controller.resource import GROUP, LABEL_INJECT, Json, lease_names
from leaderlease.errors import ConfigError
from leaderlease.paxos.lease import NAME_BYTES_MAX, PRIORITY_MAX, parse_name

PREFIX: Final = f"{GROUP}/"
PORT_API: Final = 4040
LEASES_MAX: Final = 64
"""Leases of one sidecar."""
SECONDS_MAX: Final = 3_600.0
THRESHOLD_MAX: Final = 100
PORT_MAX: Final = 65_535
UID_MAX: Final = 2**31 - 1
GRACE_DEFAULT_S: Final = 30
"""terminationGracePeriodSeconds of a pod that does not say."""
DRAIN_MARGIN_S: Final = 5
"""What the sidecar leaves of the grace period for its own end."""
DRAIN_MAX_S: Final = 25.0
TOKEN_SECONDS: Final = 3_600
"""The kubelet renews a token when a fifth of its time is left: the API server may be away for 12 minutes at least."""
TOKEN_SECONDS_MIN: Final = 600
"""Kubernetes refuses less."""
TOKEN_SECONDS_MAX: Final = 86_400
DEFAULT_RESOURCES: Final = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}
FOREIGN: Final = ("status", "ca", "role", "term", "hint")
"""Annotations of our group that are none of the sidecar's parameters."""
SUCCESSORS: Final = ("none", "newest-replicaset", "lowest-ordinal")
LEVELS: Final = ("debug", "info", "warning", "error")
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?\Z")
_FACTORS: Final = {
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
}


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What the sidecar of one pod is to be like.

    Attributes:
        leases: Names without their namespace, which is the pod's.
        quorum: Whose nodes to ask; empty for the one that the LeaderLease names.
        image: Empty for the operator's.
        pull_policy: Likewise.
        port: Of the local API, which listens on 127.0.0.1.
        pod_port: Of the API that only reads, for probes and Prometheus.
        flags: Further arguments of ``leaderlease sidecar``.
        run_as_user: None leaves it to the pod and the image.
        with_host_network: Inject even if the pod uses its host's network.
        token_seconds: How long a token lasts.
        resources: Requests and limits.
    """

    leases: tuple[str, ...]
    quorum: str = ""
    image: str = ""
    pull_policy: str = ""
    port: int = PORT_API
    pod_port: int = PORT_API + 1
    flags: tuple[str, ...] = ()
    run_as_user: int | None = 65_532
    with_host_network: bool = False
    token_seconds: int = TOKEN_SECONDS
    resources: Json


def is_label(name: str) -> bool:
    """Tell whether an object of ours can be called so."""
    try:
        parse_name(f"namespace/{name}")
    except ConfigError:
        return False
    return True


def read_parameters(pod: Mapping[str, Any]) -> Parameters:
    """Read the label and the annotations of a pod.

    Args:
        pod: As the API server has it.

    Raises:
        ConfigError: Something cannot work (rules 1 to 3).
    """
    metadata = pod.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    asked = {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}
    for key in asked:
        if key not in _KNOWN and key not in FOREIGN:
            near = difflib.get_close_matches(key, _KNOWN, 1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else f"there are {', '.join(sorted(_KNOWN))}"
            raise ConfigError(f"annotation {PREFIX}{key}: there is no such parameter; {hint}")
    read = _Reader(asked, pod.get("spec") or {})
    user = asked.get("run-as-user", "65532")
    port = read.number("port", PORT_API, 1, PORT_MAX - 1)
    found = Parameters(
        leases=_leases(metadata),
        quorum=read.matching("quorum", is_label, "the name of a LeaderQuorum"),
        image=read.matching("image", lambda text: not re.search(r"\s", text) and text != "", "a container image"),
        pull_policy=read.choice("image-pull-policy", PULL_POLICIES, ""),
        port=port,
        pod_port=read.number("pod-port", port + 1, 1, PORT_MAX),
        flags=_flags(read),
        run_as_user=None if user == "pod" else read.number("run-as-user", 65_532, 1, UID_MAX, "or pod"),
        with_host_network=read.choice("host-network", ("true", "false"), "false") == "true",
        token_seconds=read.number("token-seconds", TOKEN_SECONDS, TOKEN_SECONDS_MIN, TOKEN_SECONDS_MAX),
        resources=_resources(read),
    )
    read.check_ports(found)
    return found


def _leases(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    names, field = lease_names(metadata), f"label {LABEL_INJECT}"
    label = (metadata.get("labels") or {}).get(LABEL_INJECT, "")
    if not names:
        raise ConfigError(f"{field}: '' names no lease: write for example {LABEL_INJECT}: billing")
    if names == ("true",):
        raise ConfigError(f"{field}: 'true' must be the name of a LeaderLease, for example {LABEL_INJECT}: billing")
    for name in names:
        where = f"annotation {PREFIX}lease" if name not in label.split(".") else field
        if "/" in name:
            raise ConfigError(
                f"{where}: {name!r}: write the name alone, a pod reaches leases of its own namespace only"
            )
        if not is_label(name):
            raise ConfigError(
                f"{where}: {name!r} is no name of a LeaderLease: at most {NAME_BYTES_MAX} lower-case letters, "
                "digits and '-', beginning and ending with a letter or digit"
            )
    if len(names) > LEASES_MAX:
        raise ConfigError(f"annotation {PREFIX}lease: {len(names)} leases, at most {LEASES_MAX}")
    return names


class _Reader:
    """Reads single annotations of one pod."""

    def __init__(self, asked: Mapping[str, str], spec: Mapping[str, Any]) -> None:
        self.asked = asked
        self.spec = spec

    def refuse(self, key: str, allowed: str) -> ConfigError:
        return ConfigError(f"annotation {PREFIX}{key}: {self.asked[key]!r} must be {allowed}")

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        text = self.asked.get(key, default)
        if key in self.asked and text not in allowed:
            raise self.refuse(key, f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        return text

    def matching(self, key: str, is_good: Callable[[str], object], what: str) -> str:
        text = self.asked.get(key, "")
        if key in self.asked and not is_good(text):
            raise self.refuse(key, what)
        return text

    def number(self, key: str, default: int, least: int, most: int, also: str = "") -> int:
        text = self.asked.get(key, str(default))
        digits = text.removeprefix("-") if least < 0 else text
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 10 and least <= int(text) <= most):
            raise self.refuse(key, f"a whole number from {least} to {most}{f' {also}' if also else ''}")
        return int(text)

    def seconds(self, key: str, least: float, most: float = SECONDS_MAX) -> str:
        """Return the number as it is written; empty if it is not there."""
        text = self.asked.get(key, "")
        if key in self.asked and not (
            re.fullmatch(r"\d{1,4}(\.\d{1,3})?", text, re.ASCII) and least <= float(text) <= most
        ):
            raise self.refuse(key, f"seconds from {least:g} to {most:g}, for example 2.5")
        return text

    def port_of_app(self, key: str, text: str) -> int:
        """Read a port of the application: a number, or a name that one of its containers gives (rule 3)."""
        if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= PORT_MAX:
            return int(text)
        named = {port.get("name"): port["containerPort"] for port in _ports(self.spec)}
        if text not in named:
            names = ", ".join(sorted(name for name in named if name)) or "none"
            raise self.refuse(key, f"a port from 1 to {PORT_MAX}, or a port's name (this pod names: {names})")
        return int(named[text])

    def check_ports(self, found: Parameters) -> None:
        """Refuse ports that the application has (rule 3)."""
        if found.port == found.pod_port:
            raise ConfigError(f"annotation {PREFIX}pod-port: {found.port} must differ from {PREFIX}port")
        for port in _ports(self.spec):
            for key, ours in (("port", found.port), ("pod-port", found.pod_port)):
                if port.get("containerPort") == ours and port.get("protocol", "TCP") == "TCP":
                    raise ConfigError(
                        f"annotation {PREFIX}{key}: {ours} is a port of a container of this pod, too: choose another"
                    )


def _ports(spec: Mapping[str, Any]) -> list[Json]:
    return [
        port
        for key in ("containers", "initContainers")
        for container in spec.get(key) or ()
        for port in container.get("ports") or ()
    ]


def _flags(read: _Reader) -> tuple[str, ...]:
    flags = ["--log-level", read.choice("log-level", LEVELS, "info")]
    flags += ["--successor-preference", read.choice("successor-preference", SUCCESSORS, "newest-replicaset")]
    if "priority" in read.asked:
        flags += ["--priority", str(read.number("priority", 0, -PRIORITY_MAX, PRIORITY_MAX))]
    health = _health(read)
    flags += ["--health", health] if health else []
    for key, least in (("health-period-seconds", 0.05), ("health-timeout-seconds", 0.01)):
        if text := read.seconds(key, least):
            flags += [f"--{key.removesuffix('-seconds')}", text]
    for key in ("health-failures", "health-successes"):
        if key in read.asked:
            flags += [f"--{key}", str(read.number(key, 1, 1, THRESHOLD_MAX))]
    for key, least in (("step-down-grace-seconds", 0.0), ("stale-after-seconds", 0.5)):
        if text := read.seconds(key, least):
            flags += [f"--{key.removesuffix('-seconds')}", text]
    return (*flags, *_drain(read, health))


def _health(read: _Reader) -> str:
    given = [key for key in ("health-http", "health-tcp", "health-exec") if key in read.asked]
    if len(given) > 1:
        raise ConfigError(f"annotations {' and '.join(PREFIX + key for key in given)}: choose one of them")
    if not given:
        for key in ("health-period-seconds", "health-timeout-seconds", "health-failures", "health-successes"):
            if key in read.asked:
                raise ConfigError(f"annotation {PREFIX}{key}: has no effect without {PREFIX}health-http or health-tcp")
        return ""
    key, text = given[0], read.asked[given[0]]
    if key == "health-tcp":
        return f"tcp://127.0.0.1:{read.port_of_app(key, text)}"
    if key == "health-exec":
        if not text.strip():
            raise read.refuse(key, "a command")
        return f"exec:{text}"
    port, _, path = text.partition("/")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise read.refuse(key, "PORT/PATH with a percent-encoded path, for example 8080/healthz")
    return f"http://127.0.0.1:{read.port_of_app(key, port)}/{path}"


def _drain(read: _Reader, health: str) -> list[str]:
    text = read.asked.get("drain", "none")
    grace_s = read.spec.get("terminationGracePeriodSeconds")
    grace_s = GRACE_DEFAULT_S if grace_s is None else grace_s
    if "drain-seconds" in read.asked and text == "none":
        raise ConfigError(f"annotation {PREFIX}drain-seconds: has no effect without {PREFIX}drain: health or tcp:PORT")
    if text == "none":
        return []
    if text == "health" and not health:
        raise read.refuse("drain", f"none or tcp:PORT; health needs {PREFIX}health-http or health-tcp")
    if text != "health" and not text.startswith("tcp:"):
        raise read.refuse("drain", "none, health or tcp:PORT")
    seconds = read.seconds("drain-seconds", 0.0)
    if seconds and float(seconds) >= grace_s:
        raise read.refuse("drain-seconds", f"below the pod's terminationGracePeriodSeconds, which is {grace_s}")
    how = text
    if text.startswith("tcp:"):
        how = f"tcp://127.0.0.1:{read.port_of_app('drain', text.removeprefix('tcp:'))}"
    wait = seconds or f"{max(0.0, min(DRAIN_MAX_S, grace_s - DRAIN_MARGIN_S)):g}"
    return ["--drain", how, "--drain-timeout", wait]


def _resources(read: _Reader) -> Json:
    found: Json = {kind: dict(values) for kind, values in DEFAULT_RESOURCES.items()}
    for kind in ("requests", "limits"):
        for name in ("cpu", "memory"):
            key = f"resources-{kind}-{name}"
            if key in read.asked:
                if quantity(read.asked[key]) is None:
                    raise read.refuse(key, "a quantity, for example 20m of cpu or 48Mi of memory")
                found[kind][name] = read.asked[key]
    for name in ("cpu", "memory"):
        request, limit = found["requests"][name], found["limits"].get(name)
        if limit is None or quantity(request) <= quantity(limit):  # type: ignore[operator]
            continue
        asked = f"resources-requests-{name}"
        if asked in read.asked and f"resources-limits-{name}" in read.asked:
            raise read.refuse(asked, f"at most {PREFIX}resources-limits-{name}, which is {limit}")
        # Only one of the two was given: the default follows.
        if asked in read.asked:
            found["limits"][name] = request
        else:
            found["requests"][name] = limit
    return found


def quantity(text: str) -> Fraction | None:
    """Return what a quantity of Kubernetes is worth, for example ``64Mi``; None if it is none."""
    found = _QUANTITY.match(text)
    return Fraction(found[1]) * _FACTORS[found[2] or ""] if found else None


_KNOWN: Final = frozenset(
    (
        *("lease", "quorum", "image", "image-pull-policy", "port", "pod-port", "run-as-user", "host-network"),
        *("log-level", "priority", "successor-preference", "health-http", "health-tcp", "health-exec"),
        *("health-period-seconds", "health-timeout-seconds", "health-failures", "health-successes"),
        *("step-down-grace-seconds", "stale-after-seconds", "drain", "drain-seconds", "token-seconds"),
        "resources-requests-cpu",
        *("resources-requests-memory", "resources-limits-cpu", "resources-limits-memory"),
    )
)
