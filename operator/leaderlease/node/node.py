"""One node: disk, driver, connections; how it starts and how it leaves.

Rule 1: the order of the start: open the disk (which raises the incarnation durably), find the configuration, arm all
        timers, and only then listen (R3, R5, R8).
Rule 2: whatever breaks the disk or the protocol stops this process at once, with its reason and exit code (R9).
Rule 3: SIGTERM sends clients elsewhere, within ``LEAVE_TIMEOUT_S``, votes for what they ask there for ``LINGER_S``,
        and finishes commits.
"""

import asyncio
import logging
import signal
import ssl
from collections.abc import Callable
from typing import Any, Final

import msgspec

from leaderlease import __version__
from leaderlease.errors import (
    ConfigError,
    InvariantViolated,
    LeaderLeaseError,
    RemoteProtocolError,
    StorageError,
    WrongDirectory,
)
from leaderlease.node.auth import Authenticator
from leaderlease.node.bootstrap import Greeter, find_configuration
from leaderlease.node.catchup import CatchUp
from leaderlease.node.config import NodeConfig, check_config, parse_address
from leaderlease.node.connection import Connection
from leaderlease.node.driver import Driver
from leaderlease.node.expiries import Expiries
from leaderlease.node.homes import LEASE
from leaderlease.node.peers import Directory, Peers
from leaderlease.node.rotation import Rotation
from leaderlease.node.server import Server
from leaderlease.node.sessions import Sessions
from leaderlease.node.world import World
from leaderlease.paxos.membership import Configuration, Member
from leaderlease.storage.base import Storage
from leaderlease.storage.sqlite import open_storage
from leaderlease.wire.codec import PEER
from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Refused

LEAVE_TIMEOUT_S: Final = 2.0
"""How long clients have to go to another node when this one is told to stop."""
LINGER_S: Final = 1.0
"""How long it still votes after that, so that all members answer while others take over what it kept alive."""
MESH_TIMEOUT_S: Final = 10.0
"""How long a start waits for every other member before it counts as ready with a majority."""
LISTEN_BACKLOG: Final = 1024

logger = logging.getLogger("leaderlease.node")
_encode = msgspec.msgpack.Encoder().encode


class Node:
    """One member of the quorum.

    Attributes:
        sessions: What it does for clients; None until the quorum is known.
        peers: Its connections to the others.
        is_serving: Its client port is open.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.warnings = check_config(config)
        self.storage: Storage | None = None
        self.sessions: Sessions | None = None
        self.peers: Peers | None = None
        self.catchup: CatchUp | None = None
        self.server: Server | None = None
        self.rotation: Rotation | None = None
        self.is_serving = False
        self._configuration: Configuration | None = None
        self._listening: list[asyncio.Server] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._built_s = 0.0
        self._had_mesh = False
        self._rotating: asyncio.Task[None] | None = None
        self._client_tls: ssl.SSLContext | None = None
        self._peer_tls: ssl.SSLContext | None = None
        self._dial_tls: ssl.SSLContext | None = None
        if config.has_tls:
            self._load_tls()

    async def start(self) -> None:
        """Bring the node up to where it serves (rule 1).

        Raises:
            LeaderLeaseError: It cannot start; the text says what to do.
        """
        config = self.config
        loop = asyncio.get_running_loop()
        self.storage = open_storage(
            config.data,
            loop.call_soon_threadsafe,
            self._disk_failed,
            expected_cluster=config.cluster or None,
        )
        loaded = self.storage.load()
        self._configuration = loaded.configuration
        if self._configuration is None:
            self._configuration = await self._bootstrap()
        self._check_membership(self._configuration)
        self._build(self._configuration)
        await self._listen_for_peers()
        await self._listen_for_clients()
        identity = self.storage.identity
        logger.info(
            "%s serves clients at %s, peers at %s: member %s, incarnation %d, epoch %d",
            config.name, config.listen_client, config.listen_peer, identity.member, identity.life.incarnation,
            self._configuration.epoch,
        )  # fmt: skip

    async def serve(self) -> None:
        """Start, and serve until SIGTERM, SIGINT or a failure; then leave.

        Raises:
            LeaderLeaseError: It cannot start, the disk failed, or a rule was broken (rule 2).
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_to_stop)
        loop.set_exception_handler(self._on_loop_error)
        starting = loop.create_task(self.start())
        try:
            await asyncio.wait({starting, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
            await self._ended
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await self.stop()

    def ask_to_stop(self) -> None:
        """End ``serve`` in an orderly way."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def stop(self) -> None:
        """Leave: clients go elsewhere, commits finish, the disk is closed (rule 3)."""
        is_orderly = not self._ended.done() or self._ended.exception() is None
        if self.server is not None and is_orderly:
            empty = asyncio.Event()
            self.server.on_empty = empty.set
            if self.server.leave():
                try:
                    async with asyncio.timeout(LEAVE_TIMEOUT_S):
                        await empty.wait()
                except TimeoutError:
                    logger.warning("some clients did not leave in %g s", LEAVE_TIMEOUT_S)
                if self.peers is not None and self.peers.is_asked():
                    await asyncio.sleep(LINGER_S)
        if self._rotating is not None:
            self._rotating.cancel()
        for listening in self._listening:
            listening.close()
        if self.sessions is not None:
            self.sessions.driver.stop()
        if self.server is not None:
            self.server.close()
        if self.peers is not None:
            await self.peers.stop()
        if self.storage is not None:
            await asyncio.to_thread(self.storage.close)
            self.storage = None

    def has_mesh(self) -> bool:
        """Tell whether every member talks with this one both ways, or was waited for since the start.

        A member is restarted after the one before is ready: then no two that were just restarted depend on a
        third, which goes next.
        """
        if not self._had_mesh:
            waited_s = asyncio.get_running_loop().time() - self._built_s
            self._had_mesh = waited_s > MESH_TIMEOUT_S or (self.peers is not None and self.peers.is_joined())
        return self._had_mesh

    def hello(self) -> Hello:
        """Return what this node says first on a connection to a member."""
        assert self.storage is not None
        identity, configuration = self.storage.identity, self._configuration
        return Hello(
            role="peer",
            version_min=PROTOCOL_MIN,
            version_max=PROTOCOL_MAX,
            cluster=configuration.cluster if configuration is not None else "",
            member=identity.member,
            incarnation=identity.life.incarnation,
            boot_nonce=identity.life.boot_nonce,
            earlier=identity.life.earlier,
            epoch=configuration.epoch if configuration is not None else 0,
            name=self.config.name,
            address=self.config.address,
            software=__version__,
            configuration=_encode(configuration) if configuration is not None else b"",
        )

    def _hello_to_clients(self) -> Hello:
        return msgspec.structs.replace(self.hello(), role="node", configuration=b"")

    # --- start -----------------------------------------------------------------------------------------------

    def _load_tls(self) -> None:
        from leaderlease.wire import tls

        config = self.config
        assert config.tls_cert is not None
        assert config.tls_key is not None
        assert config.tls_ca is not None
        files = (config.tls_cert, config.tls_key, config.tls_ca)
        self._peer_tls = tls.server_context(*files, require_client=True)
        self._client_tls = tls.server_context(*files, require_client=config.tls_client_auth)
        self._dial_tls = tls.client_context(*files)
        self.rotation = Rotation(files, (self._peer_tls, self._client_tls, self._dial_tls))
        self._rotating = asyncio.get_running_loop().create_task(self.rotation.run())

    async def _bootstrap(self) -> Configuration:
        assert self.storage is not None
        loop = asyncio.get_running_loop()
        greeter = Greeter(self.hello)
        listening = await self._listen("--listen-peer", self.config.listen_peer, self._peer_tls,
                                       lambda: Connection(loop, PEER, greeter))  # fmt: skip
        try:
            return await find_configuration(self.config, self.storage, self.hello, self._dial_tls)
        finally:
            listening.close()

    def _check_membership(self, configuration: Configuration) -> None:
        assert self.storage is not None
        member = self.storage.identity.member
        found = configuration.member(member)
        if found is not None and found.name != self.config.name:
            raise WrongDirectory(
                f"{self.config.data}: this disk is the one of {found.name}, and this node is {self.config.name}; "
                "give each node its own directory"
            )
        if found is None:
            raise WrongDirectory(
                f"{self.config.data}: this disk belongs to member {member}, who is not in epoch {configuration.epoch}"
            )

    def _build(self, configuration: Configuration) -> None:
        assert self.storage is not None
        config, identity = self.config, self.storage.identity
        self._built_s = asyncio.get_running_loop().time()
        world = World(self._halted)
        driver = Driver(configuration, identity.member, identity.life.incarnation, self.storage, world)
        for key, register in driver.acceptor.registers.items():
            if key.startswith(LEASE) and register.value is not None:
                driver.learner.restore(key[len(LEASE) :], register.accepted, register.value)
        self.sessions = Sessions(driver, name=config.name, auto_declare=config.auto_declare)
        Expiries(driver, self.sessions.leases)
        self.catchup = CatchUp(driver)
        self.server = Server(self.sessions, self._hello_to_clients, Authenticator(driver, config.auth))
        self.peers = world.peers = Peers(
            Directory(configuration, self.storage, self.hello),
            identity.member,
            on_message=self._on_peer_message,
            on_change=driver.peer_changed,
            on_refused=self._on_refused,
            now_us=world.now_us,
            client_tls=self._dial_tls,
        )

    async def _listen_for_peers(self) -> None:
        assert self.peers is not None
        listening = await self._listen("--listen-peer", self.config.listen_peer, self._peer_tls, self.peers.accept)
        self._listening.append(listening)
        self.peers.start()

    async def _listen_for_clients(self) -> None:
        assert self.server is not None
        listening = await self._listen(
            "--listen-client", self.config.listen_client, self._client_tls, self.server.accept
        )
        self._listening.append(listening)
        self.is_serving = True

    async def _listen(
        self, flag: str, address: str, tls: ssl.SSLContext | None, accept: Callable[[], asyncio.Protocol]
    ) -> asyncio.Server:
        host, port = parse_address(address, flag)
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_server(accept, host, port, ssl=tls, backlog=LISTEN_BACKLOG)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"{flag} {address}: cannot listen there ({reason}); is another node running?") from error

    # --- what goes wrong -------------------------------------------------------------------------------------

    def _on_peer_message(self, member: str, message: Any) -> None:
        assert self.sessions is not None
        driver = self.sessions.driver
        try:
            driver.on_message(member, message)
        except RemoteProtocolError:
            driver.stats.protocol_errors["peer"] += 1
            raise
        except InvariantViolated as error:
            self._fail(error)

    def _on_refused(self, member: Member, refused: Refused) -> None:
        logger.error("%s refuses this node: %s", member.name, refused.text)

    def _disk_failed(self, error: StorageError) -> None:
        self._fail(error)

    def _halted(self, reason: str) -> None:
        self._fail(InvariantViolated(reason))

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Stop where a rule was broken in a callback, of the disk or of a timer; log everything else."""
        error = context.get("exception")
        if isinstance(error, InvariantViolated):
            self._fail(error)
        else:
            loop.default_exception_handler(context)

    def _fail(self, error: LeaderLeaseError) -> None:
        logger.critical("this node leaves the quorum: %s", error)
        if self.sessions is not None:
            self.sessions.driver.stop()
        if not self._ended.done():
            self._ended.set_exception(error)
