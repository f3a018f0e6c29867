"""One node of a simulated quorum: production's driver, sessions, server and peers on a simulated machine.

What ``node/node.py`` wires together on asyncio is wired together here on the engine; only sockets, clocks, timers,
chance and the disk are not production's.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from leaderlease.errors import DiskFailed, InvariantViolated, LeaderLeaseError, RemoteProtocolError, StorageError
from leaderlease.node.auth import Authenticator
from leaderlease.node.catchup import CatchUp
from leaderlease.node.connection import Connection
from leaderlease.node.driver import Driver
from leaderlease.node.expiries import Expiries
from leaderlease.node.homes import LEASE
from leaderlease.node.node import LEAVE_TIMEOUT_S, LINGER_S
from leaderlease.node.peers import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    CONNECT_TIMEOUT_S,
    PING_PERIOD_S,
    Directory,
    PeerLink,
    Peers,
)
from leaderlease.node.server import Server
from leaderlease.node.sessions import Sessions
from leaderlease.paxos.acceptor import Acceptor, Asked, Effect
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.membership import Configuration, Member
from leaderlease.paxos.messages import Prepare
from leaderlease.wire.codec import NODE, PEER
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Refused
from sim.disk import Disk, Rows
from sim.engine import Loop, Process, Timer
from sim.network import End

if TYPE_CHECKING:
    from sim.world import World

_encode = msgspec.msgpack.Encoder().encode


class Link(PeerLink):
    """Production's link, dialled by the engine instead of by a task."""

    def __init__(self, member: "Node", peers: Peers, to: Member) -> None:
        super().__init__(peers, to)
        self._node = member
        self._waiting: Timer | None = None
        self._dialling: Timer | None = None

    def dial(self) -> None:
        """Try once; whatever the end, it is tried again."""
        node = self._node
        self._waiting = None
        connection = Connection(node.loop, PEER, self)  # type: ignore[arg-type]
        self._dialling = node.process.later(CONNECT_TIMEOUT_S * 1000, self._again)

        def on_result(end: End | None, error: str) -> None:
            if self._dialling is None or self._dialling.call is None:
                if end is not None:
                    end.abort()
                return
            self._dialling.cancel()
            self._dialling = None
            if end is None:
                self._again()
                return
            self.connection = connection
            connection.push(self._peers.directory.hello())
            self._plan_ping(connection)

        node.network.connect(node.process, f"{self.member.name}/peer", connection, on_result)

    def _plan_ping(self, connection: Connection) -> None:
        self._node.process.later(PING_PERIOD_S * 1000, lambda: self._next_ping(connection))

    def _next_ping(self, connection: Connection) -> None:
        if connection.is_open:
            self._ping(connection)
            self._plan_ping(connection)

    def _again(self) -> None:
        self._dialling = None
        self._failures += 1
        limit = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 10))
        pause_ms = limit * (0.5 + self._node.engine.random.random() / 2) * 1000
        self._waiting = self._node.process.later(pause_ms, self.dial)

    def hurry(self, host: str = "") -> None:
        """Dial now, if this link waits; names are never old here."""
        if self._waiting is not None:
            self._waiting.cancel()
            self.dial()

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Dial again, after a pause."""
        if connection is not self.connection:
            return
        if "silent" in reason:
            self._node.counts["peer dropped for its silence"] += 1
        super().on_closed(connection, reason)
        self._again()


class Ports:
    """The world of one life of a node; see ``node/ports.py``."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._engine, self._clock = node.engine, node.process.clock
        self.random = node.engine.random.random
        self.call_soon = node.process.soon
        self.call_later = node.process.later

    def now_ms(self) -> int:
        """Return this machine's CLOCK_MONOTONIC_RAW."""
        return int(self._clock.raw_ms(self._engine.now))

    def now_us(self) -> int:
        """Return the same clock in microseconds."""
        return int(self._clock.raw_ms(self._engine.now) * 1000)

    def wall_ms(self) -> int:
        """Return a wall clock that is worth nothing: each machine has its own, and it goes backwards."""
        return 1_700_000_000_000 + int(self._engine.now * self._node.wall_rate)

    def send(self, member: str, message: Any) -> None:
        """Send to a peer, under the eyes of the referee."""
        self._node.referee.sent(self._node, member, message)
        self._node.peers.send(member, message)

    def reply(self, member: str, message: Any) -> None:
        """Answer a peer, under the eyes of the referee."""
        self._node.referee.sent(self._node, member, message)
        self._node.peers.reply(member, message)

    def halt(self, reason: str) -> None:
        """Stop: proof of a bug."""
        self._node.referee.violated(f"halt: {self._node.name}: {reason}")


class Node:
    """One life of a member."""

    def __init__(self, world: "World", configuration: Configuration, member: Member, disk: Rows) -> None:
        self.world = world
        self.name = member.name
        self.member = member.uuid
        self.engine, self.network = world.engine, world.network
        self.referee, self.counts = world.referee, world.counts
        self.configuration = configuration
        self.disk = disk
        self.process = Process(self.engine, self.name, self.name, world.clocks[self.name])
        self.loop = Loop(self.engine, self.process)
        self.wall_rate = world.wall_rates[self.name]
        self.ports = Ports(self)
        self.platter = world.platters[self.name]
        self.heard: dict[str, tuple[Ballot, int, str]] = {}
        """By register: under which ballot what was chosen last, as far as this life was told."""
        self.let_go: dict[tuple[str, str], tuple[int, int]] = {}
        """By register and nonce: which term it was heard to have let go, and when."""
        self.storage = Disk(
            self.engine,
            self.process,
            disk,
            self.platter,
            on_failure=self._disk_failed,
            boot_nonce=f"{self.engine.random.getrandbits(64):016x}",
            now_ms=lambda: self.process.clock.mono_ms(self.engine.now),
        )
        self._build()

    def _build(self) -> None:
        """As ``node.Node._build``."""
        identity, member = self.storage.identity, self.member
        self.driver = Driver(self.configuration, member, identity.life.incarnation, self.storage, self.ports)
        self.referee.began(self)
        self._judge_promises(self.driver.acceptor)
        self.driver.on_installed.append(lambda record: self.referee.installed(self, record))
        for record in self.disk.records.values():
            # Durable before the crash, and perhaps nobody was told: it counts from now on at the latest.
            self.referee.installed(self, record)
        for key, register in self.driver.acceptor.registers.items():
            if key.startswith(LEASE) and register.value is not None:
                self.driver.learner.restore(key[len(LEASE) :], register.accepted, register.value)
        self.sessions = Sessions(self.driver, name=self.name, auto_declare=self.world.plan.auto_declare)
        Expiries(self.driver, self.sessions.leases)
        self.catchup = CatchUp(self.driver)
        self.server = Server(self.sessions, self._hello_to_clients, Authenticator(self.driver, "open"))
        self.peers = Peers(
            Directory(self.configuration, self.storage, self.hello),
            member,
            on_message=self._on_peer_message,
            on_change=self.driver.peer_changed,
            on_refused=self._on_refused,
            now_us=self.ports.now_us,
            client_tls=None,
        )
        self.peers.links = {uuid: Link(self, self.peers, link.member) for uuid, link in self.peers.links.items()}

    def start(self) -> None:
        """Listen and dial."""
        listening = self.network.listening
        listening[f"{self.name}/peer"] = (self.process, self._accept_peer)
        listening[f"{self.name}/client"] = (self.process, self._accept_client)
        for link in self.peers.links.values():
            assert isinstance(link, Link)
            link.dial()

    def hello(self) -> Hello:
        """As ``node.Node.hello``."""
        identity, configuration = self.storage.identity, self.configuration
        return Hello(
            "peer", PROTOCOL_MIN, PROTOCOL_MAX, configuration.cluster, identity.member, identity.life.incarnation,
            identity.life.boot_nonce, configuration.epoch, self.name, f"{self.name}/peer", "sim", "",
            _encode(configuration), identity.life.earlier,
        )  # fmt: skip

    def _hello_to_clients(self) -> Hello:
        return msgspec.structs.replace(self.hello(), role="node", configuration=b"")

    def _accept_peer(self) -> Connection:
        peers = self.peers
        return Connection(self.loop, PEER, peers, peers._accepted.add)  # type: ignore[arg-type]

    def _accept_client(self) -> Connection:
        return Connection(self.loop, NODE, self.server, self.server.on_made)  # type: ignore[arg-type]

    # --- how it ends ---------------------------------------------------------------------------------------------

    def die(self, how: str, *, is_silent: bool = False, loses_write: bool = False) -> None:
        """End this life now, between two events; whether a write that is under way gets through is chance, or not."""
        process = self.process
        if process.is_dead:
            return
        batches = 0
        if self.storage.is_untold:
            self.counts["crash between fsync and reply"] += 1
        under_way = len(self.storage.under_way)
        if self.storage.queued:
            batches = int(bool(under_way) and not loses_write and self.engine.random.random() < 0.4)
            self.counts["crash with a write that got through" if batches else "crash that lost a write"] += 1
            if batches and self.storage.queued > under_way:
                self.counts["crash between two writes, the first got through"] += 1
        self.engine.say(self.name, f"dies: {how}")
        process.is_dead = True
        self.driver.stop()
        self.storage.crash(batches=batches, entries=under_way)
        self.network.process_died(process, is_silent=is_silent)
        self.referee.check_disks()
        self.world.node_died(self)

    def leave(self) -> None:
        """As ``node.Node.stop``: clients go elsewhere first, and this node still votes for what they ask there."""
        if self.process.is_dead:
            return
        self.counts["a node left in order"] += 1
        self.engine.say(self.name, "leaves: clients are told")
        self.server.on_empty = lambda: self.process.later(LINGER_S * 1000, self._left)
        if self.server.leave():
            self.process.later(LEAVE_TIMEOUT_S * 1000, self._left)
        else:
            self._left()

    def _left(self) -> None:
        if not self.process.is_dead:
            self.driver.stop()
            while self.storage.queued and not self.platter.is_full:
                self.storage.commit()
            self.die("has left")

    def _disk_failed(self, error: StorageError) -> None:
        assert isinstance(error, DiskFailed)
        how = "a full disk" if self.platter.is_full else "fsync failed"
        self.counts[f"{how}, the node left"] += 1
        if self.storage.has_stuck:
            self.counts["fsync failed, what it wrote was there"] += 1
        self.die(str(error))

    def _judge_promises(self, acceptor: Acceptor) -> None:
        """Have each ballot judged where it is answered: what the node says to itself comes right behind it."""
        handle = acceptor.handle

        def judged(origin: str, message: Asked, now_ms: int) -> list[Effect]:
            must = self.referee.must_promise(self, message) if type(message) is Prepare else None
            effects = handle(origin, message, now_ms)
            if must is not None and type(message) is Prepare:
                self.referee.answered(self, message, must=must)
            return effects

        acceptor.handle = judged  # type: ignore[method-assign]

    def _on_refused(self, member: Member, refused: Refused) -> None:
        self.counts["refused by a member"] += 1
        self.engine.say(self.name, f"{member.name} refuses it: {refused.text}")

    def _on_peer_message(self, member: str, message: Any) -> None:
        try:
            self.driver.on_message(member, message)
            self.referee.hears(self, message)
        except RemoteProtocolError as error:
            self.referee.violated(f"protocol: {self.name} calls a message of an honest member wrong: {error}")
        except (InvariantViolated, LeaderLeaseError) as error:
            self.referee.violated(f"invariant: {self.name}: {error}")
