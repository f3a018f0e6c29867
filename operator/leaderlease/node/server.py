"""The client port: sessions over TCP.

Rule 1: a client is greeted before it is served; what it cannot be served with is refused in one sentence.
Rule 2: connections are bounded; one too many is refused, not queued.
Rule 3: a client that is silent for ``SILENCE_MAX_S`` is dropped, or its candidates would be elected when it has gone.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from leaderlease.errors import RemoteProtocolError
from leaderlease.node.auth import Authenticator
from leaderlease.node.connection import Connection
from leaderlease.node.ports import Timer
from leaderlease.node.sessions import Sessions
from leaderlease.wire.codec import NODE
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, GoAway, Hello, Refused

CONNECTIONS_MAX: Final = 20_000
"""Client connections of one node."""
SILENCE_MAX_S: Final = 30.0
"""A client sends a keepalive every 10 s at least: one that is silent for so long has gone without a word."""
SILENCE_CHECK_S: Final = 5.0
"""How often that is looked at."""

logger = logging.getLogger("leaderlease.server")


class Server:
    """Every client connection of one node.

    Args:
        sessions: Who answers.
        hello: Makes this node's own hello.
        auth: Says who a client is.
    """

    def __init__(self, sessions: Sessions, hello: Callable[[], Hello], auth: Authenticator) -> None:
        self._sessions = sessions
        self._auth = auth
        self._hello = hello
        self._connections: dict[Connection, None] = {}
        """In the order in which they were made."""
        self._is_leaving = False
        self._watch: Timer | None = None
        self.on_empty: Callable[[], None] = lambda: None

    def accept(self) -> Connection:
        """Make the protocol of one connection; for ``loop.create_server``."""
        return Connection(asyncio.get_running_loop(), NODE, self, self.on_made)

    def on_made(self, connection: Connection) -> None:
        """Count a connection from the moment at which it stands."""
        self._connections[connection] = None
        if self._watch is None:
            self._watch = self._sessions.driver.ports.call_later(1000 * SILENCE_CHECK_S, self._drop_silent)

    def _drop_silent(self) -> None:
        """Let go of clients that have gone without a word (rule 3)."""
        for connection in list(self._connections):
            if connection.silent_s > SILENCE_MAX_S:
                logger.warning("dropped %s: silent for %g s", connection.remote, SILENCE_MAX_S)
                connection.drop(f"silent for {SILENCE_MAX_S:g} s")
        self._watch = None
        if self._connections:
            self._watch = self._sessions.driver.ports.call_later(1000 * SILENCE_CHECK_S, self._drop_silent)

    def on_hello(self, connection: Connection, hello: Hello | Refused) -> None:
        """Greet a client, or say why not."""
        stats = self._sessions.driver.stats
        reason = self._refusal(hello)
        if reason or isinstance(hello, Refused):
            stats.sessions_refused["hello"] += 1
            self._refuse(connection, reason)
            return
        principal = self._auth.identify(hello, connection.has_certificate)
        if isinstance(principal, str):
            stats.sessions_refused["identity"] += 1
            self._refuse(connection, principal)
            return
        connection.context = self._sessions.open(connection, hello.name, principal)
        connection.push(self._hello())

    def _refuse(self, connection: Connection, reason: str) -> None:
        logger.warning("refused %s: %s", connection.remote, reason)
        connection.refuse("refused", reason)

    def _refusal(self, hello: Hello | Refused) -> str:
        if isinstance(hello, Refused):
            return f"the client refused: {hello.text}"
        if hello.role != "client":
            return "this port is for clients; members of the quorum use the peer port"
        if hello.version_min > PROTOCOL_MAX or hello.version_max < PROTOCOL_MIN:
            return (
                f"the client speaks protocol {hello.version_min} to {hello.version_max}, this node {PROTOCOL_MIN} to "
                f"{PROTOCOL_MAX}: upgrade the older one"
            )
        cluster = self._sessions.driver.configuration.cluster
        if hello.cluster and hello.cluster != cluster:
            return f"the client wants cluster {hello.cluster}, this node is of {cluster}"
        if len(self._connections) > CONNECTIONS_MAX:
            return f"{CONNECTIONS_MAX} connections are open already; use another node"
        return "this node is leaving; use another" if self._is_leaving else ""

    def on_message(self, connection: Connection, message: Any) -> None:
        """Hand a request to its session."""
        if connection.context is None:
            return
        try:
            self._sessions.receive(connection.context, message)
        except RemoteProtocolError:
            self._sessions.driver.stats.protocol_errors["client"] += 1
            raise

    def on_closed(self, connection: Connection, reason: str) -> None:
        """End the session."""
        self._connections.pop(connection, None)
        if connection.context is not None:
            self._sessions.close(connection.context)
            connection.context = None
        if self._is_leaving and not self._connections:
            self.on_empty()

    def leave(self) -> bool:
        """Send every client to another node; return whether any is connected."""
        self._is_leaving = True
        for connection in list(self._connections):
            connection.push(GoAway("this node is leaving"))
        return bool(self._connections)

    def close(self) -> None:
        """Close what is still open."""
        if self._watch is not None:
            self._watch.cancel()
        for connection in list(self._connections):
            connection.close("this node leaves")
