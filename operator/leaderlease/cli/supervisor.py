"""Keeps the nodes of a local quorum running.

Rule 1: a node that ends is started again after a pause, which doubles while it keeps ending.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Final

from leaderlease.cli.local import LocalNode, LocalQuorum

POLL_S: Final = 0.1
"""How often the processes are looked at."""
PAUSE_FIRST_S: Final = 0.5
PAUSE_MAX_S: Final = 10.0
"""Bounds of the pause before a node is started again."""
STABLE_S: Final = 10.0
"""A node that lived for so long begins with the shortest pause."""


class Supervisor:
    """Watches all nodes of a quorum.

    Args:
        say: Is given one sentence for each thing that happens.
    """

    def __init__(self, quorum: LocalQuorum, say: Callable[[str], None]) -> None:
        self._quorum = quorum
        self._say = say

    async def run(self) -> None:
        """Watch until cancelled."""
        # No task group: what ends one of them has to reach the command as it is, not in a group.
        await asyncio.gather(*map(self._keep, self._quorum.nodes))

    async def _keep(self, node: LocalNode) -> None:
        pause_s, began_s = PAUSE_FIRST_S, time.monotonic()
        while True:
            while node.is_running:  # noqa: ASYNC110 (a process sets no event)
                await asyncio.sleep(POLL_S)
            if time.monotonic() - began_s >= STABLE_S:
                pause_s = PAUSE_FIRST_S
            self._say(f"{node.name} {how_it_ended(node)}; it starts again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s, began_s = min(2 * pause_s, PAUSE_MAX_S), time.monotonic()
            self._quorum.start_node(node)
            assert node.process is not None
            self._say(f"{node.name} was started again, as process {node.process.pid}")


def how_it_ended(node: LocalNode) -> str:
    """Say how the latest life of a node ended."""
    code = node.process.returncode if node.process is not None else None
    if code is None:
        return "runs"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" + (f" ({node.complaint()})" if code else "")
