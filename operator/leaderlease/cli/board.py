"""The live table of ``leaderlease dev``: every lease of the quorum, as its nodes see it now."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from leaderlease.cli.local import LocalNode, LocalQuorum
from leaderlease.client.sdk import Client
from leaderlease.errors import LeaderLeaseError
from leaderlease.wire.session import LeaseInfo

PERIOD_S: Final = 0.25
"""How often the table is drawn, at most."""
LOAD_SHARE: Final = 10
"""Between two readings there is a pause of at least so many times what a reading took: looking must not be the load."""
ANSWER_TIMEOUT_S: Final = 1.0
CONNECT_WAIT_S: Final = 5.0
BAR_CELLS: Final = 12
OTHER_LINES: Final = 12
"""Lines of the terminal that are left for everything but leases."""
ROWS_MIN: Final = 5


class Board:
    """Draws until cancelled; what is printed to ``console`` meanwhile appears above."""

    def __init__(self, console: Console, quorum: LocalQuorum) -> None:
        self._console = console
        self._quorum = quorum

    async def run(self) -> None:
        """Read every node's leases and draw them, again and again."""
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for node in self._quorum.nodes:
                client = Client(node.endpoint, name="dev", wait=CONNECT_WAIT_S, timeout=ANSWER_TIMEOUT_S)
                clients.append(await stack.enter_async_context(client))
            live = stack.enter_context(Live(console=self._console, transient=True, auto_refresh=False))
            while True:
                began_s = time.monotonic()
                leases = merge(await asyncio.gather(*map(_read, clients)))
                took_s = time.monotonic() - began_s
                live.update(self._draw(leases), refresh=True)
                await asyncio.sleep(max(PERIOD_S, LOAD_SHARE * took_s))

    def _draw(self, leases: list[LeaseInfo]) -> Group:
        return Group("", self._nodes(), _table(leases, max(ROWS_MIN, self._console.height - OTHER_LINES)))

    def _nodes(self) -> Text:
        return Text("   ").join(_node(node) for node in self._quorum.nodes)


async def _read(client: Client) -> list[LeaseInfo]:
    """Read what one node knows; a node that is away knows nothing."""
    if not client.endpoint:
        return []
    try:
        return await client.list()
    except LeaderLeaseError:
        return []


def merge(views: Iterable[Sequence[LeaseInfo]]) -> list[LeaseInfo]:
    """Make one list of what several nodes know: of each lease the newest, with the candidates of all. Pure."""
    newest: dict[str, LeaseInfo] = {}
    candidates: dict[str, list[str]] = {}
    for info in (info for view in views for info in view):
        candidates.setdefault(info.name, []).extend(info.candidates)
        best = newest.get(info.name)
        if best is None or _age_key(info) > _age_key(best):
            newest[info.name] = info
    return [
        LeaseInfo(i.name, i.state, i.holder, i.term, i.duration_ms, i.remaining_ms, i.acquired_at_ms,
                  tuple(candidates[name]))
        for name, i in sorted(newest.items())
    ]  # fmt: skip


def _age_key(info: LeaseInfo) -> tuple[int, bool, float]:
    remaining_ms = float("inf") if info.remaining_ms is None else info.remaining_ms
    return info.term, info.holder is not None, remaining_ms


def _node(node: LocalNode) -> Text:
    style = "green" if node.is_running else "red"
    return Text.assemble(("● ", style), node.name, (f" {node.endpoint}", "bright_black"))


def _table(leases: list[LeaseInfo], rows_max: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("LEASE", overflow="ellipsis", no_wrap=True)
    table.add_column("LEADER", overflow="ellipsis", no_wrap=True)
    table.add_column("TERM", justify="right")
    table.add_column("REMAINING", no_wrap=True)
    table.add_column("CANDIDATES", overflow="ellipsis", no_wrap=True)
    for info in leases[:rows_max]:
        leader = Text(info.holder.name, "bold") if info.holder is not None else Text("nobody", "bright_black")
        table.add_row(info.name, leader, str(info.term), _remaining(info), ", ".join(info.candidates))
    if not leases:
        table.add_row(Text("no lease was asked for yet", "bright_black"))
    elif len(leases) > rows_max:
        table.add_row(Text(f"and {len(leases) - rows_max} more", "bright_black"))
    return table


def _remaining(info: LeaseInfo) -> Text:
    if info.holder is None:
        return Text("-", "bright_black")
    if info.remaining_ms is None or info.duration_ms is None:
        return Text("never ends")
    cells = min(BAR_CELLS, round(BAR_CELLS * info.remaining_ms / info.duration_ms))
    style = "green" if cells > BAR_CELLS / 3 else "yellow"
    rest = ("─" * (BAR_CELLS - cells), "bright_black")
    return Text.assemble(("━" * cells, style), rest, f" {info.remaining_ms / 1000:.1f} s")
