"""The member register: who votes, under which epoch (protocol, section 6; R8).

Membership is fixed after the bootstrap for now; uuids, epochs and the register itself are there from the start, so a
change will be one more agreed value and no new format.
"""

from collections.abc import Mapping

import msgspec

from leaderlease.errors import ConfigError
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.quorum import Quorum, quorum_of

MEMBER_KEY = "m/members"
"""The register that holds the configuration."""
MEMBERS_MAX = 15


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One node: ``uuid`` was minted when its disk was formatted; ``name`` and ``address`` are for reaching it."""

    uuid: str
    name: str
    address: str


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """Who decides.

    Attributes:
        cluster: uuid of the cluster; in every hello.
        epoch: Number of this configuration, from 1; in every request.
        members: Sorted by uuid.
        joining: While a change is joint, the members of the new set; both sets must agree.
    """

    cluster: str
    epoch: int
    members: tuple[Member, ...]
    joining: tuple[Member, ...] = ()

    def quorum(self) -> Quorum:
        """Return the quorum system: a majority of the members, while joint of both sets (R8)."""
        groups = [{member.uuid for member in self.members}]
        if self.joining:
            groups.append({member.uuid for member in self.joining})
        return quorum_of(*groups)

    def member(self, uuid: str) -> Member | None:
        """Return the member with this uuid, or None for a stranger."""
        return next((member for member in (*self.members, *self.joining) if member.uuid == uuid), None)


def first_configuration(cluster: str, members: Mapping[str, tuple[str, str]]) -> Configuration:
    """Make epoch 1 from all initial members; the same on every one of them, whoever computes it.

    Args:
        cluster: uuid of the cluster.
        members: uuid -> (name, address), of every initial member.

    Raises:
        ConfigError: No member, or too many.
    """
    if not 1 <= len(members) <= MEMBERS_MAX:
        raise ConfigError(f"members: {len(members)} is outside [1, {MEMBERS_MAX}]")
    listed = tuple(Member(uuid, *members[uuid]) for uuid in sorted(members))
    return Configuration(cluster, 1, listed)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def configuration_value(configuration: Configuration) -> tuple[Ballot, Value]:
    """Return what the member register holds after the bootstrap: the same ballot and value at every member."""
    body = _encoder.encode(configuration)
    return Ballot(1, configuration.members[0].uuid, 0), Value(configuration.epoch, None, None, body=body)


def read_configuration(value: Value) -> Configuration:
    """Return the configuration that the member register holds."""
    return _decoder.decode(value.body)
