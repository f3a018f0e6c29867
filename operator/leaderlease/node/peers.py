"""Connections between members: each dials every other for its own requests, and answers come back on the same one.

Rule 1: a member is whom its hello says, if cluster, configuration and history agree; a disk that went back in time or
        runs twice is refused for good (R8, H24), and the hello of an ended life, late on its way, is no proof of that.
        With the proof what is open with that member ends: of two copies of a disk none is known to be the right one.
        So does what is open with an earlier life when the next one is met: a copy of a disk in use begins as that.
Rule 2: a connection on which nothing was heard for ``SILENCE_MAX_S`` is dead, whatever TCP says.
Rule 3: reconnects never stop, and their pauses are bounded.
Rule 4: a member that dials this one is there: it is dialled at once, at the address it came from, for a name in the
        DNS can be old for half a minute after a restart.
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable
from typing import Any, Final

from leaderlease.node.connection import Connection
from leaderlease.paxos.membership import Configuration, Member
from leaderlease.paxos.messages import Ping, Renew, Renewed
from leaderlease.storage.base import Life, Storage
from leaderlease.wire.codec import PEER
from leaderlease.wire.reasons import reason_of
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Refused
from leaderlease.wire.tls import server_name

PING_PERIOD_S: Final = 0.5
SILENCE_MAX_S: Final = 2.0
"""A peer that answers no ping for this long counts as gone, and is dialled again."""
CONNECT_TIMEOUT_S: Final = 2.0
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
"""Bounds of the pause before a peer is dialled again; doubles with each failure, and is spread by half."""
BOOTSTRAPPING: Final = "it is still being bootstrapped"
"""Why a member is not connected yet that has not made the configuration durable that this one has."""
QUARANTINED: Final = 1 << 62
"""Incarnation that is remembered of a member whose disk lied once: no start of its own reaches it (rule 1)."""
NEXT_LIFE: Final = "its next life is here"
"""Why the connections of an earlier life end."""
INBOUND_MAX: Final = 64
"""Connections that other members may hold open here."""

logger = logging.getLogger("leaderlease.peers")


class Directory:
    """Who the members are, and which lives of them were seen (rule 1).

    Args:
        configuration: Of the quorum.
        storage: Remembers the lives of peers over a restart.
        hello: Makes this member's own hello.
    """

    def __init__(self, configuration: Configuration, storage: Storage, hello: Callable[[], Hello]) -> None:
        self.configuration = configuration
        self.hello = hello
        self._storage = storage
        self._lives = storage.peers()

    def refusal(self, hello: Hello, expected: str = "") -> str:
        """Say why this peer cannot be talked to, in one sentence; empty if it can.

        Args:
            hello: What it said.
            expected: uuid of the member that was dialled; empty on the answering side.
        """
        own = self.hello()
        configuration = self.configuration
        if hello.role != "peer":
            return "this port is for members of the quorum; clients use the client port"
        if hello.version_min > PROTOCOL_MAX or hello.version_max < PROTOCOL_MIN:
            return (
                f"{hello.name or hello.member} speaks protocol {hello.version_min} to {hello.version_max}, "
                f"{own.name} {PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the older one"
            )
        if hello.cluster != configuration.cluster:
            return f"{hello.name} is of cluster {hello.cluster or 'none yet'}, {own.name} of {configuration.cluster}"
        if configuration.member(hello.member) is None:
            return f"{hello.name} ({hello.member}) is no member under epoch {configuration.epoch}"
        if hello.member == own.member:
            return f"{hello.name} at {hello.address} has the same member uuid as {own.name}: a cloned disk"
        if hello.epoch == configuration.epoch and hello.configuration not in (b"", own.configuration):
            return f"{hello.name} has other members under epoch {hello.epoch} than {own.name}: not the same quorum"
        if expected and hello.member != expected:
            return f"{hello.name} answers as {hello.member} where {expected} was expected"
        return self._history_refusal(hello)

    def _history_refusal(self, hello: Hello) -> str:
        if self.is_quarantined(hello.member):
            return f"{hello.name} stays out: its disk was rolled back or copied before; it cannot vote any more"
        known, life = self._lives.get(hello.member), life_of(hello)
        if known is None:
            return ""
        if life.contradicts(known):
            self._remember(hello.member, Life(QUARANTINED, ""))
            if life.incarnation == known.incarnation:
                return (
                    f"{hello.name} runs twice under incarnation {life.incarnation}: its disk was copied, or rolled "
                    "back; stop it, it cannot vote any more"
                )
            return (
                f"{hello.name} comes with incarnation {life.incarnation} after another {known.incarnation} than its "
                "own: its disk was rolled back, and what it promised since is lost; it cannot vote any more"
            )
        if life.incarnation < known.incarnation:
            return f"incarnation {life.incarnation} of {hello.name} has ended: {known.incarnation} was here"
        return ""

    def is_quarantined(self, member: str) -> bool:
        """Tell whether this member's disk lied once."""
        known = self._lives.get(member)
        return known is not None and known.incarnation == QUARANTINED

    def remember(self, hello: Hello) -> bool:
        """Remember this life of a peer, durably; return whether it is another than before."""
        is_new = self._lives.get(hello.member) != life_of(hello)
        if is_new:
            self._remember(hello.member, life_of(hello))
        return is_new

    def _remember(self, member: str, life: Life) -> None:
        self._lives[member] = life
        self._storage.remember_peer(member, life, lambda: None)


def life_of(hello: Hello) -> Life:
    """Return which life of its member said this."""
    return Life(hello.incarnation, hello.boot_nonce, hello.earlier)


class PeerLink:
    """The connection that this member dials to one other."""

    def __init__(self, peers: "Peers", member: Member) -> None:
        self._peers = peers
        self.member = member
        self.connection: Connection | None = None
        self.is_up = False
        self.last_error = ""
        self._failures = 0
        self._closed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._seen_host = ""
        self._connecting: asyncio.Task[object] | None = None

    async def run(self) -> None:
        """Keep dialling until cancelled (rule 3)."""
        while True:
            self._hurry.clear()
            await self._once()
            self._failures += 1
            limit = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 10))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit * (0.5 + random.random() / 2)):
                    await self._hurry.wait()

    def hurry(self, host: str) -> None:
        """Dial now: the peer has just dialled us from this address, so it is there (rule 4)."""
        self._seen_host = host
        self._hurry.set()
        if self._connecting is not None:
            self._connecting.cancel()

    async def _dial(self, connection: Connection) -> str:
        """Connect, within ``CONNECT_TIMEOUT_S``; return why that failed, or nothing."""
        name, _, port = self.member.address.rpartition(":")
        name = name.strip("[]")
        host, self._seen_host = self._seen_host or name, ""  # an address that was seen is tried once
        context = self._peers.client_tls
        loop = asyncio.get_running_loop()
        connecting = self._connecting = loop.create_task(
            loop.create_connection(
                lambda: connection,
                host,
                int(port),
                ssl=context,
                server_hostname=server_name(name) if context is not None else None,
            )
        )
        try:
            await asyncio.wait({connecting}, timeout=CONNECT_TIMEOUT_S)
        finally:
            self._connecting = None
            if not connecting.done():
                connecting.cancel()
        await asyncio.wait({connecting})
        if connecting.cancelled():
            connection.drop("")
            return "it dials from another address now" if self._hurry.is_set() else reason_of(TimeoutError())
        error = connecting.exception()
        if error is not None and not isinstance(error, OSError):
            raise error
        return reason_of(error) if error is not None else ""

    async def _once(self) -> None:
        connection = Connection(asyncio.get_running_loop(), PEER, self)
        self._closed.clear()
        if reason := await self._dial(connection):
            self._note(reason)
            return
        self.connection = connection
        connection.push(self._peers.directory.hello())
        try:
            while connection.is_open:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PING_PERIOD_S):
                        await self._closed.wait()
                        return
                self._ping(connection)
        finally:
            connection.drop("this node leaves")

    def _ping(self, connection: Connection) -> None:
        if connection.silent_s > SILENCE_MAX_S:
            connection.drop(f"silent for {SILENCE_MAX_S:g} s")
        elif self.is_up:
            connection.push_urgent(Ping(0, self._peers.now_us()))

    def _note(self, reason: str) -> None:
        if reason == self.last_error or self._peers.is_stopping:
            return
        # A member that comes up a moment later than this one is no cause for alarm.
        level = logging.INFO if reason == BOOTSTRAPPING else logging.WARNING
        logger.log(level, "%s at %s: %s", self.member.name, self.member.address, reason)
        self.last_error = reason

    def on_hello(self, connection: Connection, hello: Hello | Refused) -> None:
        """Take the peer's answer to our hello."""
        if isinstance(hello, Refused):
            self._peers.on_refused(self.member, hello)
            connection.close(hello.text)
            return
        is_blank = hello.role == "peer" and not hello.cluster and hello.member == self.member.uuid
        reason = BOOTSTRAPPING if is_blank else self._peers.directory.refusal(hello, expected=self.member.uuid)
        if reason:
            connection.close(reason)
            if self._peers.directory.is_quarantined(hello.member):
                self._peers.end(hello.member, reason)
            return
        if self._peers.directory.remember(hello):
            self._peers.end(hello.member, NEXT_LIFE)
        connection.member = hello.member
        self._failures = 0
        self._seen_host = ""
        self.last_error = ""
        self.is_up = True
        self._peers.on_change(hello.member, True)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Hand an answer to the driver."""
        if isinstance(message, Refused):
            self._peers.on_refused(self.member, message)
            connection.close(message.text)
        elif connection.member:
            self._peers.on_message_from(connection.member, message)

    def on_closed(self, connection: Connection, reason: str) -> None:
        """The connection has gone; ``run`` dials again."""
        self._note(reason)
        self.connection = None
        self._closed.set()
        self._down()

    def end(self, reason: str) -> None:
        """End the connection over which this member can be asked, if there is one; nothing more on it is heard."""
        if self.is_up and self.connection is not None:
            self.connection.member = ""
            self.connection.drop(reason)
            self._down()

    def _down(self) -> None:
        if self.is_up:
            self.is_up = False
            self._peers.on_change(self.member.uuid, False)


class Peers:
    """All connections to and from other members.

    Args:
        directory: Who they are.
        member: This member's uuid.
        on_message: Called with (member uuid, message).
        on_change: Called with (member uuid, whether it can be asked).
        on_refused: Called with (member, why it refuses this one).
        now_us: Clock for round trips.
        client_tls: For dialling; None is plain TCP.
    """

    def __init__(
        self,
        directory: Directory,
        member: str,
        *,
        on_message: Callable[[str, Any], None],
        on_change: Callable[[str, bool], None],
        on_refused: Callable[[Member, Refused], None],
        now_us: Callable[[], int],
        client_tls: ssl.SSLContext | None,
    ) -> None:
        self.directory = directory
        self.on_message_from = on_message
        self.on_change = on_change
        self.on_refused = on_refused
        self.now_us = now_us
        self.client_tls = client_tls
        configuration = directory.configuration
        others = [m for m in (*configuration.members, *configuration.joining) if m.uuid != member]
        self.links = {other.uuid: PeerLink(self, other) for other in others}
        self._inbound: dict[str, Connection] = {}
        self._accepted: set[Connection] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.is_stopping = False

    def start(self) -> None:
        """Begin to dial every other member."""
        self._tasks = [asyncio.create_task(link.run()) for link in self.links.values()]

    async def stop(self) -> None:
        """Close everything."""
        self.is_stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._accepted):
            connection.close("this node leaves")

    def is_joined(self) -> bool:
        """Tell whether every member can be asked, and has a connection on which it can ask this one."""
        return all(link.is_up and uuid in self._inbound for uuid, link in self.links.items())

    def is_asked(self) -> bool:
        """Tell whether any member can ask this one."""
        return bool(self._inbound)

    def accept(self) -> Connection:
        """Make the protocol of one inbound connection; for ``loop.create_server``."""
        return Connection(asyncio.get_running_loop(), PEER, self, self._accepted.add)

    def send(self, member: str, message: Any) -> None:
        """Send a request to a peer; lost when it cannot be reached."""
        link = self.links.get(member)
        if link is not None and link.is_up and link.connection is not None:
            if type(message) is Renew:
                link.connection.push_urgent(message)
            else:
                link.connection.push(message)

    def reply(self, member: str, message: Any) -> None:
        """Answer a peer on the connection that it dialled."""
        connection = self._inbound.get(member)
        if connection is not None:
            if type(message) is Renewed:
                connection.push_urgent(message)
            else:
                connection.push(message)

    def end(self, member: str, reason: str) -> None:
        """End what is open with a member, at once: no request, vote or answer of it counts from now on.

        What it has said before was taken in good faith, and stays.
        """
        if (link := self.links.get(member)) is not None:
            link.end(reason)
        self._inbound.pop(member, None)
        for connection in [one for one in self._accepted if one.member == member]:
            connection.member = ""
            connection.drop(reason)

    # --- inbound ---------------------------------------------------------------------------------------------

    def on_hello(self, connection: Connection, hello: Hello | Refused) -> None:
        """Check who dials, and answer with our own hello."""
        if isinstance(hello, Refused):
            connection.close(hello.text)
            return
        if hello.role == "peer" and hello.epoch == 0 and not hello.configuration:
            # A member that has not been bootstrapped asks whether a quorum exists already.
            connection.push(self.directory.hello())
            connection.close("answered")
            return
        reason = self.directory.refusal(hello)
        if len(self._accepted) > INBOUND_MAX:
            reason = reason or f"{INBOUND_MAX} connections are open already"
        if reason:
            logger.warning("refused %s: %s", connection.remote, reason)
            connection.refuse("refused", reason)
            if self.directory.is_quarantined(hello.member):
                self.end(hello.member, reason)
            return
        if self.directory.remember(hello):
            self.end(hello.member, NEXT_LIFE)
        before = self._inbound.get(hello.member)
        if before is not None:
            before.close("dialled again")
        connection.member = hello.member
        self._inbound[hello.member] = connection
        connection.push(self.directory.hello())
        link = self.links.get(hello.member)
        if link is not None and not link.is_up:
            link.hurry(connection.host)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Hand a peer's request, or an answer to one of ours, to the driver."""
        if isinstance(message, Refused):
            # It cannot read what we answered, and says so before it closes.
            connection.close(message.text)
        elif connection.member:
            self.on_message_from(connection.member, message)

    def on_closed(self, connection: Connection, reason: str) -> None:
        """An inbound connection has gone."""
        self._accepted.discard(connection)
        if connection.member and self._inbound.get(connection.member) is connection:
            del self._inbound[connection.member]
