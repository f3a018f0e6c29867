"""What one run is like: drawn from its seed alone, so that a seed is all that anybody has to remember.

Each kind of fault is on in about half of the runs (swarm testing): a run without crashes goes where crashes would keep
it from going. A ``Cut`` takes things away and leaves the rest as it was drawn: so a failing run is made smaller.
"""

import random
from dataclasses import dataclass, field

from leaderlease.paxos.lease import RHO_PPM_DEFAULT, RHO_PPM_WITHOUT_RAW_CLOCK
from sim.network import Weather

FAULTS = (
    "kill",
    "kill_soon",
    "power",
    "outage",
    "rollout",
    "pause_node",
    "suspend_node",
    "isolate",
    "one_way",
    "split",
    "swizzle",
    "cut_client",
    "slow_link",
    "slow_disk",
    "fsync_error",
    "full_disk",
    "reset",
    "kill_client",
    "pause_client",
    "suspend_client",
    "bad_disk",
    "old_disk",
    "haste",
    "flap",
    "stranger",
    "noise",
)
"""Every kind of fault; ``faults.py`` has a function for each."""
DURATIONS_MS = (100, 150, 300, 300, 500, 1_000, 1_000, 2_000, 3_000)


@dataclass(frozen=True)
class Lease:
    """One lease of a run."""

    name: str
    duration_ms: int | None
    lock_delay_ms: int = 0


@dataclass(frozen=True)
class Cut:
    """What is taken away from what a seed drew; nothing, if nothing is said.

    Attributes:
        without: Kinds of fault that do not happen.
        only: Numbers of the faults that happen; None is all.
        active_ms: When the faults end, at the latest.
        clients: How many are left.
        leases: Which are left; None is all.
    """

    without: tuple[str, ...] = ()
    only: tuple[int, ...] | None = None
    active_ms: float | None = None
    clients: int | None = None
    leases: tuple[str, ...] | None = None

    def variables(self) -> str:
        """Return it as ``make sim`` takes it."""
        parts = [
            f"WITHOUT={','.join(self.without)}" if self.without else "",
            f"ONLY={','.join(map(str, self.only)) or 0}" if self.only is not None else "",
            f"ACTIVE_MS={self.active_ms:.3f}" if self.active_ms is not None else "",
            f"CLIENTS={self.clients}" if self.clients is not None else "",
            f"LEASES={','.join(self.leases)}" if self.leases is not None else "",
        ]
        return " ".join(part for part in parts if part)


NOTHING = Cut()


@dataclass
class Plan:
    """Sizes, weather, clocks, disks, faults and the load of one run."""

    seed: int
    nodes: int
    clients: int
    leases: list[Lease]
    weather: Weather
    rho_ppm: int
    rates: dict[str, tuple[float, float, float]]
    fsync_ms: float
    faults: tuple[str, ...]
    fault_every_ms: float
    active_ms: float
    is_declared: bool
    auto_declare: bool
    hold_ms: float
    patience: float
    handovers: float
    reads_every_ms: float
    drawn: tuple[str, ...] = ()
    only: tuple[int, ...] | None = None
    hosts: list[str] = field(default_factory=list)

    @property
    def node_names(self) -> list[str]:
        """Nodes are called n0, n1, …"""
        return [f"n{number}" for number in range(self.nodes)]

    @property
    def client_names(self) -> list[str]:
        """Clients are called c0, c1, …"""
        return [f"c{number}" for number in range(self.clients)]

    def describe(self) -> str:
        """Return the plan in a few lines."""
        leases = ", ".join(f"{one.name} {one.duration_ms or 'never'}" for one in self.leases[:4])
        weather = self.weather
        return (
            f"{self.nodes} nodes, {self.clients} clients, {len(self.leases)} leases ({leases}), "
            f"{self.active_ms / 1000:.0f} s, {'datagrams' if weather.is_datagram else 'streams'} "
            f"{weather.latency_ms:g} ms, fsync {self.fsync_ms:g} ms, rho {self.rho_ppm} ppm, "
            f"a fault every {self.fault_every_ms:.0f} ms of: {' '.join(self.faults) or 'none'}"
        )


def _leases(draw: random.Random) -> list[Lease]:
    many = draw.random() < 0.08
    count = draw.choice([60, 120, 300]) if many else draw.choice([1, 1, 1, 2, 3, 5])
    leases = []
    for number in range(count):
        duration_ms = draw.choice(DURATIONS_MS) if not many else draw.choice([1_000, 3_000])
        is_never = draw.random() < 0.12
        delay_ms = draw.choice([50, 200, 1_000]) if draw.random() < 0.15 else 0
        leases.append(Lease(f"sim/l{number}", None if is_never else duration_ms, 0 if is_never else delay_ms))
    return leases


def _weather(draw: random.Random, shortest_ms: int) -> Weather:
    # Up to a lease and a half: what is late is worse than what is lost.
    latency_ms = draw.choice([0.1, 0.3, 1.0, 1.0, 3.0, min(20.0, shortest_ms / 12)])
    is_datagram = draw.random() < 0.5
    return Weather(
        latency_ms=latency_ms,
        spike=draw.choice([0.0, 0.001, 0.02, 0.1]),
        spike_ms=shortest_ms * draw.choice([0.1, 0.5, 1.5]),
        is_datagram=is_datagram,
        loss=draw.choice([0.0, 0.02, 0.1, 0.3]) if is_datagram else 0.0,
        doubled=draw.choice([0.0, 0.02, 0.2, 0.5]) if is_datagram else 0.0,
        cut=draw.choice([0.0, 0.1]),
    )


def _rates(draw: random.Random, hosts: list[str], rho: float) -> dict[str, tuple[float, float, float]]:
    """Clocks at the ends of what is allowed, more often than not; a holder's two clocks may disagree."""
    rates = {}
    kind = draw.choice(["true", "ends", "ends", "spread"])
    for host in hosts:
        if kind == "true":
            raw = boot = 1.0
        elif kind == "ends":
            raw = 1 + rho * draw.choice([-1, 1])
            boot = raw if draw.random() < 0.6 else 1 + rho * draw.choice([-1, 1])
        else:
            raw, boot = 1 + rho * draw.uniform(-1, 1), 1 + rho * draw.uniform(-1, 1)
        # Timers only decide when somebody looks: chrony may slew them by a tenth.
        mono = raw * (1 + draw.choice([0.0, 0.0005, -0.0005, 0.05, -0.05]))
        rates[host] = (raw, boot, mono)
    return rates


def make_plan(seed: int, cut: Cut = NOTHING) -> Plan:
    """Draw the plan of a seed, and take away what is not wanted."""
    draw = random.Random(f"plan {seed}")
    leases = _leases(draw)
    shortest_ms = min((one.duration_ms for one in leases if one.duration_ms is not None), default=1_000)
    nodes = draw.choice([3, 3, 3, 3, 5, 5, 7])
    clients = draw.choice([2, 3, 3, 4, 6])
    hosts = [f"n{number}" for number in range(nodes)] + [f"c{number}" for number in range(clients)] + ["op"]
    rho_ppm = draw.choice([RHO_PPM_DEFAULT, RHO_PPM_DEFAULT, RHO_PPM_WITHOUT_RAW_CLOCK])
    weather = _weather(draw, shortest_ms)
    rates = _rates(draw, hosts, rho_ppm / 1e6)
    fsync_ms = draw.choice([0.05, 0.5, 2.0, 10.0, min(60.0, shortest_ms * 0.2)])
    faults = tuple(fault for fault in FAULTS if draw.random() < 0.4)
    seconds = draw.choice([6, 10, 15, 25]) if len(leases) < 20 else 6 if len(leases) < 200 else 3
    plan = Plan(
        seed=seed,
        nodes=nodes,
        clients=clients,
        leases=leases,
        weather=weather,
        rho_ppm=rho_ppm,
        rates=rates,
        fsync_ms=fsync_ms,
        faults=tuple(fault for fault in faults if fault not in cut.without),
        drawn=faults,
        only=cut.only,
        fault_every_ms=draw.choice([0.5, 1.0, 3.0]) * max(300.0, shortest_ms),
        active_ms=seconds * 1_000.0,
        is_declared=draw.random() < 0.6,
        auto_declare=True,
        hold_ms=shortest_ms * draw.choice([0.2, 1.0, 3.0, 10.0]),
        patience=draw.choice([0.5, 0.9, 1.0]),
        handovers=draw.choice([0.0, 0.2, 0.8]),
        reads_every_ms=draw.choice([100.0, 500.0, 2_000.0]),
        hosts=hosts,
    )
    if plan.is_declared:
        plan.auto_declare = draw.random() < 0.5
    if cut.active_ms is not None:
        plan.active_ms = min(plan.active_ms, cut.active_ms)
    if cut.clients is not None:
        plan.clients = min(plan.clients, cut.clients)
    if cut.leases is not None:
        plan.leases = [lease for lease in plan.leases if lease.name in cut.leases]
    return plan
