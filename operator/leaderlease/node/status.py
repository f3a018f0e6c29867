"""How this node is, in one message: for ``leaderlease status``, ``/v1/quorum`` and the metrics."""

from typing import TYPE_CHECKING

from leaderlease import __version__
from leaderlease.node.homes import LEASE
from leaderlease.paxos.acceptor import Register
from leaderlease.wire.session import NodeStatus

if TYPE_CHECKING:
    from leaderlease.node.sessions import Sessions


def held_registers(registers: dict[str, Register], now_ms: int) -> int:
    """Count the leases whose guard stands at this member."""
    return sum(key.startswith(LEASE) and register.is_live(now_ms) for key, register in registers.items())


def node_status(sessions: "Sessions") -> NodeStatus:
    """Describe this node and how it sees its peers."""
    driver = sessions.driver
    driver.stats.committed(driver.storage.fsync_seconds())
    identity = driver.storage.identity
    quorum = driver.quorum
    healthy = driver.connected & quorum.members
    others = [m for m in (*driver.configuration.members, *driver.configuration.joining) if m.uuid != driver.member]
    peers = tuple((m.name, m.uuid, m.uuid in healthy, driver.round_trip_ms.get(m.uuid, -1.0)) for m in others)
    return NodeStatus(
        request=0,
        name=sessions.name,
        member=driver.member,
        cluster=identity.cluster,
        incarnation=identity.life.incarnation,
        epoch=driver.epoch,
        version=__version__,
        ballot_highest=max(driver.proposer.counter, driver.acceptor.counter_max),
        fsync_p99_ms=driver.stats.fsync_p99_ms(),
        leases_held=held_registers(driver.acceptor.registers, driver.ports.now_ms()),
        sessions=len(sessions.open_sessions),
        members_total=len(quorum.members),
        members_healthy=len(healthy),
        can_lose=quorum.can_lose(healthy),
        is_quorum_available=quorum.is_met(healthy),
        peers=peers,
    )
