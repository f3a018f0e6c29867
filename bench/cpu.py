"""CPU time of one acquire and release in three nodes, without sockets, disks and processes: ``python bench/cpu.py``.

Wall time on a shared machine says little; this counts the instructions of our own code and of the codecs, and nothing
else, so that two versions can be compared. ``--profile`` shows where the time goes.
"""

import argparse
import cProfile
import pstats
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from leaderlease.node.driver import Driver
from leaderlease.node.expiries import Expiries
from leaderlease.node.sessions import Sessions
from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.lease import Holder
from leaderlease.paxos.membership import Configuration, first_configuration
from leaderlease.storage.base import Loaded
from leaderlease.storage.rows import CEILING, RECORD, Ledger
from leaderlease.wire.codec import CLIENT, NODE, PEER
from leaderlease.wire.session import AcquireRequest, Done, Granted, ReleaseRequest

MEMBERS = ("aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002",
           "cccccccc-0000-4000-8000-000000000003")  # fmt: skip


class Disk:
    """Encodes and sums records as the real one does; commits at the end of a turn."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._ledger = Ledger()
        self._queue: list[tuple[Record | Ceiling, Callable[[], None]]] = []

    def load(self) -> Loaded:
        """Return an empty disk."""
        return Loaded((), 0, self._configuration)

    def append(self, record: Record | Ceiling, on_durable: Callable[[], None]) -> None:
        """Queue."""
        self._queue.append((record, on_durable))

    def commit(self) -> None:
        """Make what is queued durable."""
        queue, self._queue = self._queue, []
        for record, _ in queue:
            kind, key = (RECORD, record.key) if isinstance(record, Record) else (CEILING, "")
            self._ledger.row(kind, key, record)
        if queue:
            self._ledger.sum_row()
        for _, on_durable in queue:
            on_durable()

    def oldest_pending_ms(self) -> float:
        """Never slow."""
        return 0.0

    def fsync_seconds(self) -> list[float]:
        """Nothing to tell."""
        return []


class Timer:
    """Never fires here: a cycle is over before any of them."""

    def cancel(self) -> None:
        """Forget it."""


class World:
    """Ports of one node: messages go into frames, one a turn and a peer, as on a connection."""

    def __init__(self) -> None:
        self.out: dict[str, list[Any]] = {member: [] for member in MEMBERS}
        self.soon: deque[Callable[[], None]] = deque()
        self.random = random.random

    def now_ms(self) -> int:
        """Clock."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) // 1_000_000

    def now_us(self) -> int:
        """Clock."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) // 1_000

    def wall_ms(self) -> int:
        """Clock for people."""
        return time.time_ns() // 1_000_000

    def call_later(self, delay_ms: float, call: Callable[[], None]) -> Timer:
        """Forget it."""
        return Timer()

    def call_soon(self, call: Callable[[], None]) -> None:
        """End of the turn."""
        self.soon.append(call)

    def send(self, member: str, message: Any) -> None:
        """Queue for the frame of this turn."""
        self.out[member].append(message)

    reply = send

    def halt(self, reason: str) -> None:
        """A bug."""
        sys.exit(reason)


class Client:
    """One client in a closed loop, at one node."""

    def __init__(self, node: "Member", number: int) -> None:
        self.out: list[Any] = []
        self._name = f"bench/lease-{number}"
        self._holder = Holder("bench", "", f"{number:032x}")
        self._request = 0
        self.cycles = 0
        self.session = node.sessions.open(self, "bench")
        self._to_node: list[Any] = []
        self._start()

    def _start(self) -> None:
        self._request += 1
        self._holder = Holder("bench", "", f"{random.getrandbits(128):032x}")
        self._to_node.append(AcquireRequest(self._request, self._request, self._name, self._holder, 60_000, False))

    def push(self, message: Any) -> None:
        """Take what the node says."""
        self.out.append(message)

    def turn(self, node: "Member") -> None:
        """Exchange frames with the node."""
        if self.out:
            out, self.out = self.out, []
            for message in CLIENT.decoder().feed(NODE.encode_many(out)):
                if type(message) is Granted:
                    self._request += 1
                    self._to_node.append(ReleaseRequest(self._request, self._name, self._holder.nonce))
                elif type(message) is Done:
                    self.cycles += 1
                    self._start()
                else:
                    sys.exit(f"unexpected {message}")
        if self._to_node:
            sent, self._to_node = self._to_node, []
            for message in NODE.decoder().feed(CLIENT.encode_many(sent)):
                node.sessions.receive(self.session, message)


class Member:
    """One node."""

    def __init__(self, configuration: Configuration, member: str) -> None:
        self.member = member
        self.world = World()
        self.disk = Disk(configuration)
        self.driver = Driver(configuration, member, 1, self.disk, self.world)  # type: ignore[arg-type]
        self.sessions = Sessions(self.driver, name=member[:1], auto_declare=True)
        Expiries(self.driver, self.sessions.leases)
        self.decoder = PEER.decoder()
        self.clients: list[Client] = []

    def turn(self, members: "dict[str, Member]") -> None:
        """One turn of the event loop."""
        for client in self.clients:
            client.turn(self)
        while self.world.soon:
            self.world.soon.popleft()()
        self.disk.commit()
        while self.world.soon:
            self.world.soon.popleft()()
        for peer, out in self.world.out.items():
            if out:
                frame = PEER.encode_many(out)
                self.world.out[peer] = []
                for message in members[peer].decoder.feed(frame):
                    members[peer].driver.on_message(self.member, message)


def run(cycles: int, clients: int) -> float:
    """Return CPU microseconds for one cycle."""
    configuration = first_configuration("cluster", {m: (m[:1], "127.0.0.1:1") for m in MEMBERS})
    members = {m: Member(configuration, m) for m in MEMBERS}
    for member in members.values():
        for other in MEMBERS:
            member.driver.peer_changed(other, True)
        member.clients = [Client(member, 1000 * ord(member.member[0]) + i) for i in range(clients)]

    def done() -> int:
        return sum(client.cycles for member in members.values() for client in member.clients)

    def until(count: int) -> None:
        while done() < count:
            for member in members.values():
                member.turn(members)

    until(cycles // 10)
    before, started = done(), time.process_time()
    until(before + cycles)
    return (time.process_time() - started) / (done() - before) * 1e6


def main() -> None:
    """Print the median of some runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=33, help="of each node")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(run, options.cycles, options.clients)
        stats = pstats.Stats(profile)
        stats.sort_stats("tottime").print_stats(45)
        return
    found = [run(options.cycles, options.clients) for _ in range(options.runs)]
    print(f"{statistics.median(found):.0f} us of CPU a cycle in three nodes ({min(found):.0f} to {max(found):.0f})")


if __name__ == "__main__":
    main()
