"""A process that dials a member and does not belong here: every kind must be turned away (R8, H24, H28, H36)."""

from typing import TYPE_CHECKING, Any

import msgspec

from leaderlease.errors import RemoteProtocolError
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.messages import Prepare
from leaderlease.wire.codec import PEER
from leaderlease.wire.session import Hello
from sim.engine import Process
from sim.network import End

if TYPE_CHECKING:
    from sim.member import Node
    from sim.world import World

KINDS = ("another cluster", "no member", "other members", "another version", "a clone of the one it dials")
FAR_VERSION = 99
_encode = msgspec.msgpack.Encoder().encode


class Stranger:
    """One attempt to be listened to.

    Args:
        kind: One of ``KINDS``.
        target: Whom it dials.
        model: Whose hello it says, but for what makes it a stranger.
    """

    def __init__(self, world: "World", kind: str, target: "Node", model: "Node") -> None:
        self._world = world
        self._kind = kind
        self._target = target
        self._hello = _hello(kind, target, model)
        self._decoder = PEER.decoder()
        process = Process(world.engine, "x", "x", world.clocks["op"])
        world.network.connect(process, f"{target.name}/peer", self, lambda end, error: None)

    def connection_made(self, end: End) -> None:
        """Say hello, and ask for a promise in the same breath."""
        ballot = Ballot(1 << 20, self._hello.member, 1)
        key = f"l/{self._world.plan.leases[0].name}"
        end.write(PEER.encode_many([self._hello, Prepare(self._target.configuration.epoch, key, ballot, "x" * 32)]))

    def data_received(self, data: bytes) -> None:
        """Only a refusal is right."""
        try:
            messages = self._decoder.feed(data)
        except RemoteProtocolError:
            # A bit has flipped on the way.
            return
        for message in messages:
            if isinstance(message, Hello):
                self._world.referee.violated(f"honesty: {self._target.name} talks to a stranger: {self._kind} (R8)")
            self._world.counts["a stranger was turned away"] += 1

    def connection_lost(self, error: Exception | None) -> None:
        """It was."""


def _hello(kind: str, target: "Node", model: "Node") -> Hello:
    hello, configuration = model.hello(), model.configuration
    changes: dict[str, Any]
    match kind:
        case "another cluster":
            changes = {"cluster": "00000000-0000-4000-8000-000000000000"}
        case "no member":
            changes = {"member": "99999999-member"}
        case "other members":
            fewer = msgspec.structs.replace(configuration, members=configuration.members[1:])
            changes = {"configuration": _encode(fewer)}
        case "another version":
            changes = {"version_min": FAR_VERSION, "version_max": FAR_VERSION}
        case _:
            hello, changes = target.hello(), {"boot_nonce": "0" * 16}
    return msgspec.structs.replace(hello, **changes)
