"""Where nodes listen: parsing, and the list that a client starts from."""

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from leaderlease.errors import ConfigError

PORT_DEFAULT: Final = 7400
ENDPOINTS_VARIABLE: Final = "LEADERLEASE_ENDPOINTS"
ENDPOINTS_DEFAULT: Final = "127.0.0.1:7400"
ENDPOINTS_MAX: Final = 64


class Endpoint(NamedTuple):
    """Host name or address, and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Read ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; the port is 7400 unless told.

    Raises:
        ConfigError: Anything else; the text names the value.
    """
    value = text.strip()
    if value.startswith("["):
        host, bracket, rest = value[1:].partition("]")
        is_sound = bool(bracket) and ":" in host and (not rest or rest.startswith(":"))
        port = rest[1:] if rest else str(PORT_DEFAULT)
    else:
        host, colon, port = value.partition(":")
        is_sound = ":" not in port
        port = port if colon else str(PORT_DEFAULT)
    is_number = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536
    if not host or not is_sound or not is_number or any(c.isspace() or c in "/@" for c in host):
        raise ConfigError(f"endpoint {text!r}: write host:port or [v6-address]:port, for example {ENDPOINTS_DEFAULT}")
    return Endpoint(host, int(port))


def parse_endpoints(endpoints: str | Sequence[str] | None) -> tuple[Endpoint, ...]:
    """Read a list, or a string with commas; None takes ``LEADERLEASE_ENDPOINTS``, else 127.0.0.1:7400.

    Raises:
        ConfigError: A value is not an endpoint, there is none, or there are more than ``ENDPOINTS_MAX``.
    """
    if endpoints is None:
        endpoints = os.environ.get(ENDPOINTS_VARIABLE, "").strip() or ENDPOINTS_DEFAULT
    if isinstance(endpoints, str):
        endpoints = [part for part in endpoints.split(",") if part.strip()]
    parsed = tuple(dict.fromkeys(parse_endpoint(text) for text in endpoints))
    if not parsed:
        raise ConfigError("endpoints: the list is empty; name at least one host:port")
    if len(parsed) > ENDPOINTS_MAX:
        raise ConfigError(f"endpoints: {len(parsed)} of them, at most {ENDPOINTS_MAX}")
    return parsed
