"""How a blank disk becomes a member (protocol, section 6; R8, H24).

Rule 1: a new cluster is started only under the explicit flag, with a cluster uuid, when every initial member answers
        and is blank. An empty directory alone never starts one.
Rule 2: what the members agree on is computed from their uuids, the same on each, whoever is first.
Rule 3: a blank member joins a configuration that lists its own uuid, and no other: a lost disk is a new member.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, Final

import msgspec

from leaderlease.errors import ConfigError, QuorumUnavailable, WrongDirectory
from leaderlease.node.config import NodeConfig, parse_address
from leaderlease.node.connection import Connection
from leaderlease.paxos.acceptor import Record
from leaderlease.paxos.membership import MEMBER_KEY, Configuration, configuration_value, first_configuration
from leaderlease.storage.base import Storage
from leaderlease.wire.codec import PEER
from leaderlease.wire.reasons import reason_of
from leaderlease.wire.session import Hello, Refused

PROBE_PERIOD_S: Final = 0.1
PROBE_TIMEOUT_S: Final = 1.0

logger = logging.getLogger("leaderlease.bootstrap")
_decoder = msgspec.msgpack.Decoder(Configuration)


class Probe:
    """Asks one address for its hello, once."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Hello | Refused] = asyncio.get_running_loop().create_future()

    def on_hello(self, connection: Connection, hello: Hello | Refused) -> None:
        """Take the answer."""
        if not self.answer.done():
            self.answer.set_result(hello)
        connection.close("answered")

    def on_message(self, connection: Connection, message: Any) -> None:
        """Nothing else is expected."""

    def on_closed(self, connection: Connection, reason: str) -> None:
        """It closed before it answered."""
        if not self.answer.done():
            self.answer.set_exception(ConnectionError(reason))


class Greeter:
    """Answers the hellos of other blank members while this one is being bootstrapped."""

    def __init__(self, hello: Callable[[], Hello]) -> None:
        self._hello = hello

    def on_hello(self, connection: Connection, hello: Hello | Refused) -> None:
        """Answer; what the other says is asked for by our own probe."""
        connection.push(self._hello())
        connection.close("answered")

    def on_message(self, connection: Connection, message: Any) -> None:
        """Nothing else is expected."""

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Nothing to do."""


async def probe(address: str, hello: Hello, tls: ssl.SSLContext | None) -> Hello:
    """Exchange hellos with whoever listens at ``address``.

    Raises:
        OSError: Nobody answers, or not in time.
        ConfigError: It refuses.
    """
    loop = asyncio.get_running_loop()
    asking = Probe()
    connection = Connection(loop, PEER, asking)
    host, port = parse_address(address, "address")
    async with asyncio.timeout(PROBE_TIMEOUT_S):
        await loop.create_connection(lambda: connection, host, port, ssl=tls)
        connection.push(hello)
        try:
            answer = await asking.answer
        finally:
            connection.drop("answered")
    if isinstance(answer, Refused):
        raise ConfigError(answer.text)
    return answer


async def find_configuration(
    config: NodeConfig, storage: Storage, hello: Callable[[], Hello], tls: ssl.SSLContext | None
) -> Configuration:
    """Find or make the configuration of a blank member, and make it durable.

    Raises:
        ConfigError: It can never work with these settings.
        WrongDirectory: A cluster runs, and this disk is not part of it.
        QuorumUnavailable: Not all initial members answered in time.
    """
    own = hello()
    others = {name: address for name, address in config.peers if name != config.name}
    reasons: dict[str, str] = dict.fromkeys(others, "not asked yet")
    told = ""
    try:
        async with asyncio.timeout(config.bootstrap_timeout_s):
            while True:
                answers: dict[str, Hello] = {}
                for name, address in others.items():
                    try:
                        answers[name] = await probe(address, own, tls)
                        reasons[name] = "blank"
                    except (OSError, ssl.SSLError, TimeoutError) as error:
                        reasons[name] = reason_of(error)
                found = decide_configuration(config, own, answers)
                if found is not None:
                    return await store_configuration(storage, found)
                if not others:
                    raise QuorumUnavailable(_explain(config, others, reasons))
                waiting = _waiting_for(config, others, reasons)
                if waiting != told:
                    told = waiting
                    logger.info("waiting: %s", waiting)
                await asyncio.sleep(PROBE_PERIOD_S)
    except TimeoutError:
        raise QuorumUnavailable(_explain(config, others, reasons)) from None


def decide_configuration(config: NodeConfig, own: Hello, answers: dict[str, Hello]) -> Configuration | None:
    """Say what the hellos of the initial members amount to; None is not yet. Pure.

    Raises:
        WrongDirectory: A cluster runs without this disk (rule 3).
        ConfigError: Another cluster answers.
    """
    for name, hello in answers.items():
        if config.cluster and hello.cluster and hello.cluster != config.cluster:
            raise ConfigError(f"{name} is of cluster {hello.cluster}, this node was told {config.cluster}")
        if hello.configuration:
            configuration = _decoder.decode(hello.configuration)
            if configuration.member(own.member) is not None:
                return configuration
            raise WrongDirectory(
                f"{config.data}: this disk is blank, and the cluster runs as epoch {configuration.epoch} without it "
                f"(asked {name}); a lost disk is a new member and must be swapped in, it cannot vote as the old one"
            )
    if not config.bootstrap or len(answers) != len(config.peers) - 1:
        return None
    members = {hello.member: (hello.name, hello.address) for hello in (own, *answers.values())}
    if len(members) != len(config.peers):
        raise ConfigError("--peers: two initial members have the same uuid; one disk is a copy of another")
    return first_configuration(config.cluster, members)


async def store_configuration(storage: Storage, configuration: Configuration) -> Configuration:
    """Make the configuration durable: as the member register, and as what the node starts from."""
    loop = asyncio.get_running_loop()
    durable = loop.create_future()
    ballot, value = configuration_value(configuration)
    storage.append(Record(MEMBER_KEY, ballot, ballot, value), lambda: None)
    storage.configure(configuration, lambda: durable.set_result(None))
    await durable
    names = ", ".join(member.name for member in configuration.members)
    logger.info("cluster %s: epoch %d with %s", configuration.cluster, configuration.epoch, names)
    return configuration


def _waiting_for(config: NodeConfig, others: dict[str, str], reasons: dict[str, str]) -> str:
    missing = [f"{name} ({others[name]}): {reason}" for name, reason in reasons.items() if reason != "blank"]
    if missing:
        need = "all initial members must be reachable and blank" if config.bootstrap else "a running member is needed"
        return f"{need}; missing: {'; '.join(missing)}"
    blank = f"{config.data} and all other members are blank" if others else f"{config.data} is blank"
    return f"{blank}, and --bootstrap was not given; an empty directory alone never starts a cluster"


def _explain(config: NodeConfig, others: dict[str, str], reasons: dict[str, str]) -> str:
    waited = f"no quorum after {config.bootstrap_timeout_s:g} s: " if others else ""
    return f"{waited}{_waiting_for(config, others, reasons)}"
