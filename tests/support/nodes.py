"""Whole nodes without a network, a disk or a clock: the production driver and everything that stands on it.

Everything happens in the order in which it was queued, at the same virtual instant; time moves only in ``run``. A test
holds back or loses what a predicate names. For schedules of the core alone, ``support.core`` is simpler.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from leaderlease.node.catchup import CatchUp
from leaderlease.node.driver import Driver
from leaderlease.node.expiries import Expiries
from leaderlease.node.homes import LEASE, Home, Session
from leaderlease.node.sessions import Sessions
from leaderlease.paxos.acceptor import Register
from leaderlease.paxos.lease import Holder, Value
from leaderlease.paxos.membership import first_configuration
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from leaderlease.wire import session as wire
from support.core import ALICE

NAME = "shop/lock"
KEY = LEASE + NAME
CLUSTER = "6f1c1a52-6a3c-4b0f-8a0b-2f0c7d9e1a11"
STEPS_MAX = 100_000
"""Events of one ``run``, so that a loop in the code under test ends as a failure."""

Filter = Callable[[str, str, Any], bool]


class Timer:
    """A call that may be cancelled."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call."""
        self.call = None


class Ports:
    """The world of one node; see ``node/ports.py``."""

    def __init__(self, cluster: "Cluster", member: str) -> None:
        self._cluster = cluster
        self._member = member
        self.halted = ""
        self.is_over = False

    def now_ms(self) -> int:
        """Return virtual time."""
        return self._cluster.now_ms

    def now_us(self) -> int:
        """Return virtual time in microseconds."""
        return self._cluster.now_ms * 1_000

    def wall_ms(self) -> int:
        """Return virtual time once more."""
        return self._cluster.now_ms

    def random(self) -> float:
        """Return what is not random here."""
        return 0.5

    def call_later(self, delay_ms: float, call: Callable[[], None]) -> Timer:
        """Call at a later virtual instant."""
        timer = Timer(call)
        self._cluster.at(delay_ms, lambda: None if self.is_over or timer.call is None else timer.call())
        return timer

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call at the end of what is queued."""
        self._cluster.soon.append(lambda: None if self.is_over else call())

    def send(self, member: str, message: Any) -> None:
        """Queue a message."""
        self._cluster.send(self._member, member, message)

    reply = send

    def halt(self, reason: str) -> None:
        """Remember why this node stopped."""
        self.halted = reason


class Client:
    """A session without a connection: what the node pushes is kept."""

    def __init__(self, node: "Node", name: str) -> None:
        self.node = node
        self.inbox: list[Any] = []
        self.session: Session = node.sessions.open(self, name)
        self._request = itertools.count(1)
        self._seq = 0

    def push(self, message: Any) -> None:
        """Take a message of the node."""
        self.inbox.append(message)

    def tell(self, message: Any) -> None:
        """Send a message to the node."""
        self.node.sessions.receive(self.session, message)

    def acquire(
        self,
        who: Holder,
        *,
        is_waiting: bool = True,
        duration_ms: int | None = 1_000,
        name: str = NAME,
        goes_on: int = 0,
    ) -> int:
        """Ask for the lease, or to go on with a term; return the request's number."""
        request = next(self._request)
        self._seq += 1
        self.tell(wire.AcquireRequest(request, self._seq, name, who, duration_ms, is_waiting, goes_on))
        return request

    def release(self, who: Holder, successor: str = "", name: str = NAME) -> None:
        """Let go."""
        self.tell(wire.ReleaseRequest(next(self._request), name, who.nonce, successor))

    def keepalive(self) -> int:
        """Renew everything; return the number of the message."""
        self._seq += 1
        self.tell(wire.KeepAlive(self._seq))
        return self._seq

    def cut(self) -> None:
        """Lose the connection."""
        self.node.sessions.close(self.session)

    def got(self, kind: type[Any]) -> list[Any]:
        """Return what came, of one kind."""
        return [message for message in self.inbox if isinstance(message, kind)]


class Node:
    """One life of a member."""

    def __init__(self, cluster: "Cluster", disk: MemoryDisk) -> None:
        self.cluster = cluster
        self.disk = disk
        self.ports = Ports(cluster, disk.member)
        self.storage = MemoryStorage(disk, self.ports.call_soon)
        identity = self.storage.identity
        self.driver = Driver(
            cluster.configuration, identity.member, identity.life.incarnation, self.storage, self.ports
        )
        self.sessions = Sessions(self.driver, name=disk.member, auto_declare=True)
        self.leases = self.sessions.leases
        self.expiries = Expiries(self.driver, self.leases)
        self.catchup = CatchUp(self.driver)

    def register(self, key: str = KEY) -> Register:
        """Return the acceptor's register."""
        return self.driver.acceptor.registers[key]

    def holder(self, key: str = KEY) -> str:
        """Return who is accepted here, by name; empty where nobody is."""
        register = self.driver.acceptor.registers.get(key)
        value: Value | None = register.value if register is not None else None
        return value.holder.name if value is not None and value.holder is not None else ""

    def is_live(self, key: str = KEY) -> bool:
        """Tell whether this acceptor guards the lease now."""
        register = self.driver.acceptor.registers.get(key)
        return register is not None and register.is_live(self.cluster.now_ms)

    def client(self, name: str = "client") -> Client:
        """Open a session."""
        return Client(self, name)


class Cluster:
    """Members "1" to str(size), all connected."""

    def __init__(self, size: int = 3) -> None:
        self.now_ms = 1_000_000
        self.soon: deque[Callable[[], None]] = deque()
        self.holds: Filter = lambda source, target, message: False
        self.loses: Filter = lambda source, target, message: False
        self.held: list[tuple[str, str, Any]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        names = [str(number) for number in range(1, size + 1)]
        self.configuration = first_configuration(CLUSTER, {name: (name, f"{name}:7401") for name in names})
        self.nodes = {name: Node(self, MemoryDisk(name)) for name in names}
        for name in names:
            self._connect(name)
        self.run()

    def __getitem__(self, member: int | str) -> Node:
        return self.nodes[str(member)]

    def at(self, delay_ms: float, call: Callable[[], None]) -> None:
        """Call at a later instant."""
        heapq.heappush(self._timers, (self.now_ms + max(0.0, delay_ms), next(self._count), call))

    def send(self, source: str, target: str, message: Any) -> None:
        """Put a message on the wire, hold it back, or lose it."""
        if self.loses(source, target, message):
            return
        if self.holds(source, target, message):
            self.held.append((source, target, message))
            return
        self.soon.append(lambda: self._deliver(source, target, message))

    def let_through(self) -> None:
        """Put on the wire what was held back."""
        self.holds = lambda source, target, message: False
        held, self.held = self.held, []
        for source, target, message in held:
            self.send(source, target, message)

    def run(self, elapsed_ms: float = 0) -> None:
        """Let everything happen that happens within this time."""
        end_ms = self.now_ms + elapsed_ms
        for _ in range(STEPS_MAX):
            if self.soon:
                self.soon.popleft()()
            elif self._timers and self._timers[0][0] <= end_ms:
                at_ms, _, call = heapq.heappop(self._timers)
                # Whole milliseconds, as the nodes read them; a timer never fires early.
                self.now_ms = max(self.now_ms, int(-(-at_ms // 1)))
                call()
            else:
                self.now_ms = max(self.now_ms, int(end_ms))
                return
        raise AssertionError(f"{STEPS_MAX} events, and no end")

    def crash(self, member: int | str) -> None:
        """Stop a node; what is not on its disk is gone."""
        node = self[member]
        node.ports.is_over = True
        node.driver.stop()
        node.storage.crash()
        for other in self.nodes.values():
            if other is not node and not other.ports.is_over:
                other.driver.peer_changed(node.driver.member, False)

    def restart(self, member: int | str) -> None:
        """Begin a new life on the disk alone, connected to all."""
        if not self[member].ports.is_over:
            self.crash(member)
        name = str(member)
        self.nodes[name] = Node(self, self.nodes[name].disk)
        for other in self.nodes.values():
            if other.driver.member != name and not other.ports.is_over:
                other.driver.peer_changed(name, True)
        self._connect(name)

    def _connect(self, member: str) -> None:
        for name, node in self.nodes.items():
            if name != member and not node.ports.is_over:
                self.nodes[member].driver.peer_changed(name, True)

    def _deliver(self, source: str, target: str, message: Any) -> None:
        node = self.nodes[target]
        if not node.ports.is_over:
            node.driver.on_message(source, message)


# --- what tests of it say often --------------------------------------------------------------------------------------


def of_kind(*kinds: type[Any], source: str = "", target: str = "") -> Filter:
    """Name messages by kind, and perhaps by who sends or gets them."""
    return lambda at, to, message: isinstance(message, kinds) and source in ("", at) and target in ("", to)


def between(*pairs: str) -> Filter:
    """Name the messages that go between two members, in either direction."""
    return lambda source, target, message: source + target in pairs or target + source in pairs


def nowhere(source: str, target: str, message: Any) -> bool:
    """Name no message."""
    return False


def home_of(cluster: Cluster, member: int = 1) -> Home:
    """Return what a node keeps of the lease."""
    return cluster[member].leases.homes[KEY]


def holding(cluster: Cluster, member: int = 1, duration_ms: int | None = 60_000, who: Holder = ALICE) -> Client:
    """Return a client that holds the lease by way of this node."""
    client = cluster[member].client(who.name)
    client.acquire(who, duration_ms=duration_ms)
    cluster.run()
    assert client.got(wire.Granted)
    return client
