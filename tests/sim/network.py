"""Connections between machines: streams that delay, stall, break and stay half open; or datagrams that also get lost.

Rule 1: bytes are what production wrote: every message is encoded and decoded, and streams are cut anywhere.
Rule 2: a stream keeps the order. Where a direction is cut, its bytes wait and arrive late, as TCP sends them again;
        the other side learns of an end only by that same way.
Rule 3: in a ``datagram`` network each write between nodes, after the hello, is lost, doubled or overtaken by chance.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim.engine import Engine, Process


@dataclass
class Weather:
    """What the network of one run is like.

    Attributes:
        latency_ms: Typical one-way delay; each is drawn between a half and three times of it.
        spike: Share of writes that take up to ``spike_ms``.
        loss: Share of datagrams that are lost; 0 with ``doubled`` 0 and ``is_datagram`` False is a stream.
        cut: Share of stream writes that arrive in two pieces.
    """

    latency_ms: float = 1.0
    spike: float = 0.0
    spike_ms: float = 0.0
    is_datagram: bool = False
    loss: float = 0.0
    doubled: float = 0.0
    cut: float = 0.0


class End:
    """One side of a connection; it is the transport of the protocol on that side."""

    def __init__(self, network: "Network", process: Process, protocol: Any) -> None:
        self.network = network
        self.process = process
        self.protocol = protocol
        self.other: End = self
        self.is_over = False
        self.is_made = False
        self.arrives_at = 0.0
        self.first_at = 0.0
        self.written = 0
        self.waiting: list[tuple[bytes, bool]] = []
        self.is_peers = False

    # --- asyncio.Transport ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if not self.is_over:
            self.network.carry(self, data)

    def close(self) -> None:
        """End both sides."""
        self._end(is_told=True)

    abort = close

    def is_closing(self) -> bool:
        """Tell whether this side has ended."""
        return self.is_over

    def get_write_buffer_size(self) -> int:
        """Return what waits for a network that is cut."""
        return sum(len(data) for data, _ in self.waiting)

    def get_extra_info(self, name: str) -> Any:
        """Return the address of the other side."""
        return (self.other.process.name, 1) if name == "peername" else None

    # --- inside --------------------------------------------------------------------------------------------------

    def made(self) -> None:
        """The connection stands."""
        if not self.is_over:
            self.is_made = True
            self.protocol.connection_made(self)

    def take(self, data: bytes) -> None:
        """Bytes have arrived."""
        if not self.is_over and self.is_made:
            self.network.engine.note(data)
            self.protocol.data_received(data)

    def gone(self) -> None:
        """The other side has ended."""
        if not self.is_over:
            self.is_over = True
            self.network.ends.pop(self, None)
            if self.is_made:
                self.protocol.connection_lost(None)

    def _end(self, *, is_told: bool) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.network.ends.pop(self, None)
        if self.is_made:
            self.process.soon(lambda: self.protocol.connection_lost(None))
        if is_told:
            self.network.carry_end(self)


class Network:
    """All connections of a run."""

    def __init__(self, engine: Engine, weather: Weather, counts: "Counter[str]") -> None:
        self.engine = engine
        self.weather = weather
        self.counts = counts
        self.ends: dict[End, None] = {}
        self.listening: dict[str, tuple[Process, Callable[[], Any]]] = {}
        self.hosts_down: set[str] = set()
        self.blocked: Counter[tuple[str, str]] = Counter()
        self.slow: dict[tuple[str, str], float] = {}
        self.noise = 0.0
        """Share of writes in which a bit flips."""
        self.on_write: Callable[[End, bytes], None] | None = None

    def latency_ms(self, source: str, target: str) -> float:
        """Draw the delay of one write."""
        chance, weather = self.engine.random.random, self.weather
        delay = weather.latency_ms * (0.5 + 2.5 * chance() ** 3)
        if weather.spike and chance() < weather.spike:
            delay += chance() * weather.spike_ms
        if self.slow and (times := self.slow.get((source, target))) is not None:
            self.counts["a message over a slow link"] += 1
            delay *= times
        return delay

    def connect(
        self, process: Process, address: str, protocol: Any, on_result: Callable[[End | None, str], None]
    ) -> None:
        """Dial; ``on_result`` gets this side's end, or why there is none. A cut network gives no result at all."""
        found = self.listening.get(address)
        target_host = address.partition("/")[0]
        there, back = (process.host, target_host), (target_host, process.host)
        rtt = self.latency_ms(*there) + self.latency_ms(*back)
        if there in self.blocked or back in self.blocked or target_host in self.hosts_down:
            return

        def arrive() -> None:
            listening = self.listening.get(address)
            if listening is None or found is None or listening[0] is not found[0] or listening[0].is_dead:
                on_result(None, "connection refused")
                return
            near = End(self, process, protocol)
            far = End(self, listening[0], listening[1]())
            near.other, far.other = far, near
            near.is_peers = far.is_peers = address.endswith("/peer")
            self.ends[near] = self.ends[far] = None
            listening[0].soon(far.made)
            on_result(near, "")
            near.made()

        self.engine.later(rtt, arrive, process)

    def carry(self, end: End, data: bytes) -> None:
        """Bring bytes to the other side, sooner or later or never."""
        if self.on_write is not None:
            self.on_write(end, data)
        end.written += 1
        pair = (end.process.host, end.other.process.host)
        weather, chance = self.weather, self.engine.random.random
        is_cut = bool(self.blocked) and pair in self.blocked
        if is_cut and pair[::-1] not in self.blocked:
            self.counts["said on a link that is cut one way"] += 1
        if weather.is_datagram and end.is_peers and end.written > 1:
            if is_cut or chance() < weather.loss:
                self.counts["message lost"] += 1
                return
            self._fly(end, data, is_ordered=False)
            if chance() < weather.doubled:
                self.counts["message doubled"] += 1
                self._fly(end, data, is_ordered=False, extra_ms=chance() * 20 * weather.latency_ms)
        elif is_cut:
            end.waiting.append((data, False))
        elif weather.cut and len(data) > 1 and chance() < weather.cut:
            at = 1 + int(chance() * (len(data) - 1))
            self._fly(end, data[:at], is_ordered=True)
            self._fly(end, data[at:], is_ordered=True)
        else:
            self._fly(end, data, is_ordered=True)

    def carry_end(self, end: End) -> None:
        """Let the other side know, by the same way, that this one has ended."""
        pair = (end.process.host, end.other.process.host)
        if pair in self.blocked:
            end.waiting.append((b"", True))
        else:
            self._fly_end(end)

    def _fly(self, end: End, data: bytes, *, is_ordered: bool, extra_ms: float = 0.0) -> None:
        other, now = end.other, self.engine.now
        if self.noise and self.engine.random.random() < self.noise:
            data = self._flipped(data)
        at = now + extra_ms + self.latency_ms(end.process.host, other.process.host)
        if is_ordered:
            at = end.arrives_at = max(end.arrives_at, at)
            end.first_at = end.first_at or at
        else:
            # Never before the first write, the hello: it would be refused, and rightly so.
            at = max(at, end.first_at)
            if at < end.arrives_at:
                self.counts["message overtook another"] += 1
            end.arrives_at = max(end.arrives_at, at)
        self.engine.at(at, lambda: other.take(data), other.process)

    def _flipped(self, data: bytes) -> bytes:
        self.counts["a bit flipped on the way"] += 1
        flipped = bytearray(data)
        flipped[self.engine.random.randrange(len(data))] ^= 1 << self.engine.random.randrange(8)
        return bytes(flipped)

    def _fly_end(self, end: End) -> None:
        other, now = end.other, self.engine.now
        at = end.arrives_at = max(end.arrives_at, now + self.latency_ms(end.process.host, other.process.host))
        self.engine.at(at, other.gone, other.process)

    def block(self, source: str, target: str) -> None:
        """Cut one direction; cuts are counted, and each is undone by one ``unblock``."""
        self.blocked[source, target] += 1

    def unblock(self, source: str, target: str) -> None:
        """Undo one cut; what has waited is sent again."""
        self.blocked[source, target] -= 1
        if self.blocked[source, target] > 0:
            return
        del self.blocked[source, target]
        for end in list(self.ends):
            self._send_again(end, source, target)
            self._send_again(end.other, source, target)

    def _send_again(self, end: End, source: str, target: str) -> None:
        if end.waiting and end.process.host == source and end.other.process.host == target:
            waiting, end.waiting = end.waiting, []
            for data, is_end in waiting:
                if is_end:
                    self._fly_end(end)
                else:
                    self._fly(end, data, is_ordered=True)

    def process_died(self, process: Process, *, is_silent: bool) -> None:
        """End the connections of a process; a machine without power tells nobody."""
        for end in [end for end in self.ends if end.process is process]:
            end.is_over = True
            del self.ends[end]
            if not is_silent:
                self.carry_end(end)
        for address, (owner, _) in list(self.listening.items()):
            if owner is process:
                del self.listening[address]

    def reset_one(self, choose: Callable[[list[End]], End]) -> None:
        """Break one connection, as a middlebox that forgot it does."""
        ends = [end for end in self.ends if end.is_made]
        if ends:
            end = choose(ends)
            self.engine.later(0.0, end.gone, end.process)
            self.engine.later(0.0, end.other.gone, end.other.process)
