"""Machines as network namespaces on one bridge: cables are pulled, links are slow, packets are dropped."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from support.levels import require
from support.processes import Place, enter_network

STEM = "leaderlease.test"
"""Namespaces are called by it, the test's process id, and a number."""
SLOW_LINK = ("rate", "64kbit", "burst", "4kb", "latency", "400ms")
"""A link that delays by up to 400 ms, and drops what would have to wait longer."""
_networks = count()


class Network:
    """Machines as network namespaces on one bridge, in a namespace of its own too; cuts are iptables rules.

    Args:
        size: How many machines.

    Attributes:
        dropped: Packets that cuts dropped until now: (source, target) -> count; of ended cuts, and after ``count``.
    """

    def __init__(self, size: int) -> None:
        require_network()
        _sweep_namespaces()
        stem = f"{STEM}-{os.getpid()}-{next(_networks)}"
        self._hub = f"{stem}h"
        self._names = [f"{stem}n{i}" for i in range(size)]
        self._cuts: dict[tuple[int, int], float] = {}
        self.dropped: Counter[tuple[int, int]] = Counter()
        self.places: list[Place] = []
        self.own: Place
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for name in (self._hub, *self._names):
            _ip("netns", "add", name)
        _ip("-n", self._hub, "-batch", "-", text="link set lo up\nlink add br0 type bridge\n"
            "addr add 10.99.0.254/24 dev br0\nlink set br0 up\n")  # fmt: skip
        for i, name in enumerate(self._names):
            _ip("-n", self._hub, "-batch", "-", text=f"link add v{i} type veth peer name eth0 netns {name}\n"
                f"link set v{i} master br0\nlink set v{i} up\n")  # fmt: skip
            _ip("-n", name, "-batch", "-",
                text=f"link set lo up\naddr add {_address(i)}/24 dev eth0\nlink set eth0 up\n")  # fmt: skip
        self.places = [_place(name, _address(i)) for i, name in enumerate(self._names)]
        self.own = _place(self._hub, "10.99.0.254")

    # --- packets that are dropped ----------------------------------------------------------------------------

    def cut(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Let no packet pass between two groups of machines, in either direction."""
        self.cut_one_way(some, others)
        self.cut_one_way(others, some)

    def cut_one_way(self, sources: Sequence[int], targets: Sequence[int], share: float = 1.0) -> None:
        """Drop packets from some machines to others, all of them or a random share; the other direction stays open."""
        self._change(dict.fromkeys(_pairs(sources, targets), share))

    def mend(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Let everything pass again between two groups of machines."""
        self._change({pair: 0.0 for pair in (*_pairs(some, others), *_pairs(others, some)) if pair in self._cuts})

    def heal(self) -> None:
        """Let everything pass again."""
        self._change(dict.fromkeys(self._cuts, 0.0))

    def count(self) -> None:
        """Bring ``dropped`` up to date."""
        self._change(self._cuts)

    def _change(self, shares: dict[tuple[int, int], float]) -> None:
        """Replace the rules of the targets that are named; what their old ones dropped is counted first."""
        for target in {target for _, target in shares}:
            listed = _run("ip", "netns", "exec", self._names[target], "iptables-save", "-c", "-t", "filter")
            for packets, source in re.findall(r"^\[(\d+):\d+\] -A INPUT -s (\S+?)(?:/32)? .*-j DROP", listed, re.M):
                self.dropped[_number(source), target] += int(packets)
        self._cuts = {pair: share for pair, share in {**self._cuts, **shares}.items() if share}
        for target in {target for _, target in shares}:
            mine = sorted((source, share) for (source, other), share in self._cuts.items() if other == target)
            drops = "".join(f"-A INPUT -s {_address(source)} {_some(share)}-j DROP\n" for source, share in mine)
            rules = f"*filter\n:INPUT ACCEPT [0:0]\n{drops}COMMIT\n"
            _run("ip", "netns", "exec", self._names[target], "iptables-restore", text=rules)

    # --- cables ----------------------------------------------------------------------------------------------

    def unplug(self, machine: int) -> None:
        """Pull a machine's cable: it sees that its link is down."""
        _ip("-n", self._hub, "link", "set", f"v{machine}", "down")

    def plug(self, machine: int) -> None:
        """Put the cable back."""
        _ip("-n", self._hub, "link", "set", f"v{machine}", "up")

    def unplugged(self, machine: int) -> int:
        """Return how often the machine saw its link go down."""
        path = "/sys/class/net/eth0/carrier_down_count"
        return int(_run("ip", "netns", "exec", self._names[machine], "cat", path))

    def slow_down(self, machine: int) -> None:
        """Make a machine's link slow in both directions, see ``SLOW_LINK``."""
        for namespace, device in self._ends(machine):
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", *SLOW_LINK)

    def speed_up(self, machine: int) -> int:
        """Undo ``slow_down``; return how often a packet had to wait."""
        waits = 0
        for namespace, device in self._ends(machine):
            listed = _run("tc", "-n", namespace, "-s", "qdisc", "show", "dev", device)
            waits += sum(int(number) for number in re.findall(r"overlimits (\d+)", listed))
            _run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")
        return waits

    def _ends(self, machine: int) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self._hub, f"v{machine}"), (self._names[machine], "eth0")

    def close(self) -> None:
        """Remove it; its processes must have ended."""
        for place in (*self.places, *([self.own] if hasattr(self, "own") else [])):
            if place.thread is not None:
                place.thread.shutdown()
        for name in (*self._names, self._hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def require_network() -> None:
    """Skip the test where namespaces cannot be made."""
    require("process", os.geteuid() == 0, "not root")
    for tool in ("ip", "tc", "iptables-restore", "iptables-save"):
        require("process", shutil.which(tool), f"no {tool}")
    name = f"{STEM}-{os.getpid()}-probe"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    require("process", probe.returncode == 0, "network namespaces are not allowed")


def _pairs(sources: Sequence[int], targets: Sequence[int]) -> list[tuple[int, int]]:
    return [(source, target) for source in sources for target in targets if source != target]


def _some(share: float) -> str:
    return "" if share >= 1.0 else f"-m statistic --mode random --probability {share} "


def _address(number: int) -> str:
    return f"10.99.0.{number + 1}"


def _number(address: str) -> int:
    return int(address.rpartition(".")[2]) - 1


def _place(name: str, host: str) -> Place:
    def enter() -> None:
        enter_network(Path("/run/netns", name))

    return Place(host, ("ip", "netns", "exec", name), enter, ThreadPoolExecutor(1, initializer=enter))


def _run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, text=True, check=True, capture_output=True).stdout


def _ip(*arguments: str, text: str | None = None) -> None:
    _run("ip", *arguments, text=text)


def _sweep_namespaces() -> None:
    """Remove what runs left behind that were killed."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        parts = name.split("-")
        if parts[0] == STEM and len(parts) == 3 and parts[1].isdigit() and not Path("/proc", parts[1]).exists():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
