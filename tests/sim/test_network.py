"""The simulated network itself: what it promises, it keeps for any instants that are drawn."""

from collections import Counter
from typing import Any

from sim.engine import Clock, Engine, Process
from sim.network import End, Network, Weather

WRITES = 2_000


class _Sink:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.end: End | None = None
        self.data = b""

    def connection_made(self, end: End) -> None:
        """Keep this side's end."""
        self.end = end

    def data_received(self, data: bytes) -> None:
        """Keep the bytes."""
        self.data += data


def test_a_stream_keeps_its_order_whatever_instants_are_drawn() -> None:
    """Most writes wait for the one before, and arrive at the very same instant (seed 10815233378).

    A delay of more than 1024 ms, from between 512 and 1024 to below 2048, has a bit too few for the sum to be exact.
    """
    engine = Engine("a stream")
    network = Network(engine, Weather(latency_ms=1.0, spike_ms=1_200.0), Counter())
    near, far = _Sink(), _Sink()
    clock = Clock(1.0, 1.0, 1.0, 0.0)
    process, server = (Process(engine, name, name, clock) for name in ("client", "server"))
    network.listening["server"] = (server, lambda: far)

    def write(end: End | None, _: Any) -> None:
        assert end is not None
        network.weather.spike = 1.0
        for number in range(WRITES):
            engine.later(600.0 + number * 0.1, lambda number=number: end.write(number.to_bytes(2, "big")))  # type: ignore[misc]

    network.connect(process, "server", near, write)
    engine.run(3_000.0)
    assert far.data == b"".join(number.to_bytes(2, "big") for number in range(WRITES))
