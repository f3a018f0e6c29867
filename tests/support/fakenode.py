"""Nodes that speak the real codec over real sockets and decide by a dictionary: for tests of the client's side.

Nothing expires and nothing happens by itself: a test says what is refused, dropped or left unanswered, and waits for
messages with ``received``. All nodes of a ``FakeQuorum`` share what is held.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from leaderlease.paxos.lease import DURATION_DEFAULT_MS, Holder
from leaderlease.wire import session as wire
from leaderlease.wire.codec import NODE

HELLO = wire.Hello("peer", 1, 1, cluster="c1", member="m1", incarnation=1, boot_nonce="b", epoch=1, name="n")


class FakeLease:
    """What is held, and who waits."""

    def __init__(self) -> None:
        self.term = 0
        self.holder: Holder | None = None
        self.duration_ms: int | None = DURATION_DEFAULT_MS
        self.waiters: list[tuple[FakeConnection, wire.AcquireRequest]] = []


class FakeQuorum:
    """The agreed state, and the log of all that clients sent to any node."""

    def __init__(self) -> None:
        self.leases: dict[str, FakeLease] = {}
        self.specs: dict[str, wire.Spec | None] = {}
        self.log: list[tuple[FakeNode, Any]] = []
        self.nodes: list[FakeNode] = []
        self._changed = asyncio.Event()

    async def node(self) -> "FakeNode":
        """Start one more node, on a port of its own."""
        node = FakeNode(self)
        await node.start()
        self.nodes.append(node)
        return node

    async def close(self) -> None:
        """Stop all nodes."""
        for node in self.nodes:
            await node.stop()

    def lease(self, name: str) -> FakeLease:
        """Return the state of a lease; made on first use."""
        return self.leases.setdefault(name, FakeLease())

    def note(self, node: "FakeNode", message: Any) -> None:
        """Log a message and wake those that wait for it."""
        self.log.append((node, message))
        self._changed.set()

    async def received(self, kind: type[Any], count: int = 1, node: "FakeNode | None" = None) -> Any:
        """Wait until ``count`` messages of a kind have arrived, at one node or any; return the last of them."""
        while True:
            found = [m for n, m in self.log if isinstance(m, kind) and node in (None, n)]
            if len(found) >= count:
                return found[count - 1]
            self._changed.clear()
            await self._changed.wait()

    def grant_next(self, name: str) -> None:
        """Grant a vacant lease to the first that waits."""
        lease = self.lease(name)
        while lease.holder is None and lease.waiters:
            connection, request = lease.waiters.pop(0)
            if not connection.is_closed:
                connection.grant(request)

    def take(self, name: str, holder: Holder) -> None:
        """Let somebody else hold a lease, under the next term."""
        lease = self.lease(name)
        lease.term += 1
        lease.holder = holder

    def publish(self, name: str, kind: str) -> None:
        """Tell all watchers of a transition."""
        for node in self.nodes:
            for connection in list(node.connections):
                connection.transition(name, kind)


class FakeNode:
    """One listening port.

    Attributes:
        silent: Kinds of messages that are logged and not answered.
        answers: By kind, what to answer instead; gets the connection and the message.
    """

    def __init__(self, quorum: FakeQuorum) -> None:
        self.quorum = quorum
        self.hello: wire.Hello | wire.Refused = HELLO
        self.silent: set[type[Any]] = set()
        self.answers: dict[type[Any], Callable[[FakeConnection, Any], None]] = {}
        self.connections: list[FakeConnection] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: FakeConnection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        ended = [connection.ended for connection in self.connections]
        self.cut()
        if ended:
            await asyncio.wait(ended)

    def cut(self) -> None:
        """End every connection, as a crash would."""
        for connection in list(self.connections):
            connection.transport.abort()

    def push(self, message: Any) -> None:
        """Send a message to every client that said hello."""
        for connection in list(self.connections):
            connection.push(message)


class FakeConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.quorum = node.quorum
        self.is_closed = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_seq = 0
        self.ordinals = itertools.count(1)
        self.ordinal = 0
        self.watches: list[wire.WatchRequest] = []
        self._decoder = NODE.decoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.node.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self.node.connections.remove(self)
        self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            self.last_seq = getattr(message, "seq", self.last_seq)
            answer = self.node.answers.get(type(message))
            if type(message) in self.node.silent:
                pass
            elif answer is not None:
                answer(self, message)
            else:
                self.answer(message)
            self.quorum.note(self.node, message)

    def push(self, message: Any) -> None:
        """Send one message."""
        if not self.is_closed:
            self.transport.write(NODE.encode([message]))

    def grant(self, request: wire.AcquireRequest) -> None:
        """Grant, or go on granting, a lease."""
        lease = self.quorum.lease(request.name)
        if lease.holder is None or lease.holder.nonce != request.holder.nonce:
            lease.term += 1
            lease.holder = request.holder
            spec = self.quorum.specs.get(request.name)
            declared = spec.duration_ms if spec is not None else DURATION_DEFAULT_MS
            lease.duration_ms = declared if request.duration_ms == 0 else request.duration_ms
            self.quorum.publish(request.name, "acquired")
        self.ordinal = next(self.ordinals)
        self.push(
            wire.Granted(
                request.request, request.name, request.holder.nonce, lease.term, lease.duration_ms, self.last_seq,
                self.ordinal,
            )
        )  # fmt: skip

    def transition(self, name: str, kind: str) -> None:
        """Tell of a transition, if this client watches."""
        lease = self.quorum.lease(name)
        for watch in self.watches:
            if name == watch.prefix if watch.is_exact else name.startswith(watch.prefix):
                self.push(wire.Transition(watch.request, name, kind, lease.term, lease.holder, 0))

    def answer(self, message: Any) -> None:
        """Do what a node does."""
        quorum = self.quorum
        match message:
            case wire.Hello():
                self.push(self.node.hello)
            case wire.KeepAlive(seq):
                self.push(wire.KeptAlive(seq, self.ordinal))
            case wire.AcquireRequest():
                lease = quorum.lease(message.name)
                if lease.holder is None or lease.holder.nonce == message.holder.nonce:
                    self.grant(message)
                elif message.is_waiting:
                    lease.waiters.append((self, message))
                else:
                    self.push(wire.Denied(message.request, message.name, lease.holder, lease.term, 1500))
            case wire.CancelRequest(number):
                for lease in quorum.leases.values():
                    lease.waiters = [w for w in lease.waiters if w[0] is not self or w[1].request != number]
            case wire.ReleaseRequest():
                self._release(message)
            case wire.StepDownRequest(number, name, successor):
                lease = quorum.lease(name)
                self.push(wire.Done(number, lease.term))
                if lease.holder is not None:
                    for node in quorum.nodes:
                        node.push(wire.StepDownAsked(name, lease.holder.nonce, successor))
            case wire.RevokeRequest(number, name, term):
                lease = quorum.lease(name)
                lease.holder = None
                self.push(wire.Done(number, term))
            case wire.GetRequest(number, name):
                infos = tuple(self._info(n) for n in quorum.leases if n == name)
                self.push(wire.Leases(number, infos))
            case wire.ListRequest():
                names = sorted(n for n in quorum.leases if n.startswith(message.prefix) and n > message.after)
                page = names[: min(2, message.limit)]
                after = page[-1] if len(names) > len(page) else ""
                self.push(wire.Leases(message.request, tuple(map(self._info, page)), after))
            case wire.WatchRequest():
                self.watches.append(message)
                for name in sorted(quorum.leases):
                    self.transition(name, "state")
            case wire.UnwatchRequest(number):
                self.watches = [w for w in self.watches if w.request != number]
            case wire.VerifyRequest(number, name, term):
                now = quorum.lease(name).term
                self.push(wire.Verified(number, now == term, now))
            case wire.DeclareRequest(number, name, spec):
                quorum.specs[name] = spec
                self.push(wire.Done(number, 1))
            case wire.StatusRequest(number):
                self.push(wire.NodeStatus(number, "n", "m1", "c1", 1, 1, "0", 1, 0.1, 0, 1, 3, 3, 1, True, ()))

    def _release(self, message: wire.ReleaseRequest) -> None:
        lease = self.quorum.lease(message.name)
        if lease.holder is None or lease.holder.nonce != message.nonce:
            self.push(wire.Failed(message.request, "not_holder", "nobody holds it under this nonce"))
            return
        lease.holder = None
        self.push(wire.Done(message.request, lease.term))
        self.quorum.publish(message.name, "released")
        self.quorum.grant_next(message.name)

    def _info(self, name: str) -> wire.LeaseInfo:
        lease = self.quorum.lease(name)
        state = "held" if lease.holder is not None else "vacant"
        return wire.LeaseInfo(name, state, lease.holder, lease.term, lease.duration_ms, None, 0)


def versions(low: int, high: int) -> wire.Hello:
    """Return the hello of a node that speaks other versions."""
    return msgspec.structs.replace(HELLO, version_min=low, version_max=high)
