"""What a node is told at its start."""

from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from leaderlease.errors import ConfigError
from leaderlease.paxos.membership import MEMBERS_MAX

PORT_CLIENT: Final = 7400
PORT_PEER: Final = 7401
PORT_HTTP: Final = 7402
BOOTSTRAP_TIMEOUT_S: Final = 60.0
AUTH_MODES: Final = ("open", "tokens")


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one node, checked.

    Attributes:
        name: Of this node; one of ``peers``.
        data: Directory of its disk.
        peers: (name, host:port of the peer port) of every initial member, this one included.
        cluster: uuid; needed with ``bootstrap``, else a check against the disk.
        bootstrap: Start a new cluster if all initial members are reachable and blank.
        bootstrap_timeout_s: Seconds to wait for that.
        listen_client: host:port; port 0 takes any.
        listen_peer: host:port.
        listen_http: host:port; empty serves no HTTP.
        auto_declare: Leases that nobody declared may be acquired.
        tls_cert: PEM files; all three or none. Mutual between members; clients check the server.
        tls_client_auth: Clients need a certificate of the same authority, too.
        auth: ``open``, or ``tokens``: clients show a certificate of the authority, or a ServiceAccount token.
    """

    name: str
    data: Path
    peers: tuple[tuple[str, str], ...]
    cluster: str = ""
    bootstrap: bool = False
    bootstrap_timeout_s: float = BOOTSTRAP_TIMEOUT_S
    listen_client: str = f"127.0.0.1:{PORT_CLIENT}"
    listen_peer: str = f"127.0.0.1:{PORT_PEER}"
    listen_http: str = f"127.0.0.1:{PORT_HTTP}"
    auto_declare: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tls_client_auth: bool = False
    auth: str = "open"

    @property
    def address(self) -> str:
        """Where the others reach this node."""
        return dict(self.peers)[self.name]

    @property
    def has_tls(self) -> bool:
        """Tell whether connections are encrypted."""
        return self.tls_cert is not None


def parse_address(text: str, field: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``.

    Raises:
        ConfigError: Names the field.
    """
    host, colon, port = text.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535
    if not colon or not host or not is_number:
        raise ConfigError(f"{field}: {text!r} is no host:port (for example 127.0.0.1:7400)")
    return host.strip("[]"), int(port)


def parse_peers(text: str) -> tuple[tuple[str, str], ...]:
    """Read ``name=host:port,name=host:port``.

    Raises:
        ConfigError: Names what is wrong.
    """
    peers = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, address = part.partition("=")
        if not equals or not name:
            raise ConfigError(f"--peers: {part!r} is no name=host:port")
        parse_address(address, f"--peers {name}")
        peers.append((name, address))
    if not 1 <= len(peers) <= MEMBERS_MAX or len(dict(peers)) != len(peers):
        raise ConfigError(f"--peers: give 1 to {MEMBERS_MAX} different names, this node's own among them")
    return tuple(peers)


def check_config(config: NodeConfig) -> list[str]:
    """Check what can be checked without the disk or the network.

    Returns: Plain warnings for people.

    Raises:
        ConfigError: A setting cannot work.
    """
    if config.name not in dict(config.peers):
        names = ", ".join(name for name, _ in config.peers)
        raise ConfigError(f"--name: {config.name!r} is none of the peers ({names})")
    if config.cluster:
        try:
            UUID(config.cluster)
        except ValueError:
            raise ConfigError(f"--cluster: {config.cluster!r} is no uuid; make one with uuidgen") from None
    if config.bootstrap and not config.cluster:
        raise ConfigError("--bootstrap needs --cluster, a uuid that all initial members are given: uuidgen makes one")
    for field in ("listen_client", "listen_peer", "listen_http"):
        if getattr(config, field):
            parse_address(getattr(config, field), f"--{field.replace('_', '-')}")
    given = [path for path in (config.tls_cert, config.tls_key, config.tls_ca) if path is not None]
    if given and len(given) != 3:
        raise ConfigError("--tls-cert, --tls-key and --tls-ca go together: give all three or none")
    if config.auth not in AUTH_MODES:
        raise ConfigError(f"--auth: {config.auth!r} is none of {', '.join(AUTH_MODES)}")
    if config.auth == "tokens" and not config.has_tls:
        raise ConfigError("--auth tokens needs TLS: a token that travels in the clear is everybody's; give --tls-cert")
    return size_warnings(len(config.peers))


def size_warnings(size: int) -> list[str]:
    """Say what a quorum of this size cannot survive."""
    if size == 1:
        return ["a quorum of 1 node survives no failure: while it is down, nobody can acquire or renew"]
    if size % 2 == 0:
        lose = (size - 1) // 2
        word = "no failure" if lose == 0 else f"{lose} failed node{'s' if lose > 1 else ''}"
        return [f"a quorum of {size} nodes survives {word}, no more than one of {size - 1}: use an odd number"]
    return []
