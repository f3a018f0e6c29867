"""``leaderlease dev``: a quorum to play with, in the foreground.

Rule 1: however it ends, no node goes on running; without ``--data`` no file is left either.
"""

import asyncio
import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from leaderlease.cli.board import Board
from leaderlease.cli.foreground import Stopped, run_until_stopped
from leaderlease.cli.local import PORT_FIRST, LocalQuorum, remembered_quorum
from leaderlease.cli.narrate import PLAIN_WIDTH, Output
from leaderlease.cli.output import NOTHING, Stream, clock_time, output_option
from leaderlease.cli.supervisor import Supervisor
from leaderlease.client.endpoints import ENDPOINTS_VARIABLE
from leaderlease.client.sdk import Client
from leaderlease.errors import LeaderLeaseError
from leaderlease.node.config import size_warnings
from leaderlease.paxos.membership import MEMBERS_MAX
from leaderlease.wire.session import Transition

SIZE: Final = 3
CONNECT_WAIT_S: Final = 5.0
WATCH_PAUSE_S: Final = 1.0
"""Pause before a watch that a node refused is begun again."""
COLUMNS: Final = (("TIME", 12), ("LEASE", 24), ("WHAT", 11), ("TERM", 5), ("LEADER", 16))
"""Of the transitions, with their widths in characters."""


@click.command()
@click.option("--nodes", type=click.IntRange(1, MEMBERS_MAX),
              help=f"How many; as many as --data holds, else {SIZE}.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path, file_okay=False),
              help="Directory that keeps terms and declarations for the next time.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65_535),
              help=f"First port; each node takes three. That of --data, else {PORT_FIRST}.")  # fmt: skip
@output_option
def dev(nodes: int | None, data: Path | None, port: int | None, output: str) -> int:
    """Run a quorum on this machine until Ctrl-C; leases need not be declared.

    A node that ends is started again: kill one and see. In a terminal there is a live table of all leases; piped, and
    with -o json, yaml or name, each transition is a line on standard output.
    """
    try:
        run_until_stopped(_serve(nodes, data, port, output))
    except Stopped:
        # Asked for, and in order: this command has no other end.
        return 0
    return 0


async def _serve(nodes: int | None, data: Path | None, port: int | None, output: str) -> None:
    is_for_people = output == "table"
    probe = Console(stderr=not is_for_people)
    console = Output(stderr=not is_for_people, highlight=False, soft_wrap=True,
                      width=None if probe.is_terminal else PLAIN_WIDTH)  # fmt: skip
    with _directory(data) as folder:
        remembered = remembered_quorum(folder)
        size = nodes or (len(remembered[1]) if remembered is not None else SIZE)
        quorum = LocalQuorum(folder, size, first_port=port or (0 if remembered is not None else PORT_FIRST))
        await Dev(quorum, console, output).serve(is_kept=data is not None)


@contextlib.contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        yield data.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="leaderlease-dev-") as folder:
        yield Path(folder)


class Dev:
    """One quorum, kept running and shown.

    Args:
        console: Where people look.
        output: How transitions are printed; ``table`` prints them to ``console``.
    """

    def __init__(self, quorum: LocalQuorum, console: Console, output: str) -> None:
        self._quorum = quorum
        self._console = console
        self._is_for_people = output == "table"
        self._stream = Stream(output, COLUMNS)

    async def serve(self, *, is_kept: bool) -> None:
        """Start the quorum, say how to use it, and keep it until cancelled.

        Raises:
            LeaderLeaseError: It cannot start.
        """
        for warning in size_warnings(len(self._quorum.nodes)):
            self._console.print(Text.assemble(("warning: ", "yellow"), warning))
        try:
            self._quorum.launch()
            await self._quorum.until_ready()
            await self._keep(is_kept)
        finally:
            self._quorum.stop()

    async def _keep(self, is_kept: bool) -> None:
        async with contextlib.AsyncExitStack() as stack:
            client = Client(self._quorum.endpoints, name="dev", wait=CONNECT_WAIT_S)
            await stack.enter_async_context(client)
            tasks = [asyncio.create_task(self._watch(client))]
            try:
                # Answered after the watch has begun: what people do from now on is shown.
                await asyncio.create_task(client.status())
                self._introduce(is_kept)
                tasks.append(asyncio.create_task(Supervisor(self._quorum, self._say).run()))
                if self._is_for_people and self._console.is_terminal:
                    tasks.append(asyncio.create_task(Board(self._console, self._quorum).run()))
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, client: Client) -> None:
        while True:
            try:
                async for transition in client.watch():
                    self._show(transition)
            except LeaderLeaseError as error:
                self._say(f"the watch is begun again: {error}")
            await asyncio.sleep(WATCH_PAUSE_S)

    def _show(self, transition: Transition) -> None:
        leader = transition.holder.name if transition.holder is not None else NOTHING
        cells = (clock_time(transition.at_ms), transition.name, transition.kind, str(transition.term), leader)
        if self._is_for_people:
            padded = [cell.ljust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)]
            self._console.print(Text("  ".join(padded).rstrip()))
        else:
            self._stream.show(transition, cells, transition.name)

    def _say(self, text: str) -> None:
        self._console.print(Text(text, "yellow"))

    def _introduce(self, is_kept: bool) -> None:
        size = len(self._quorum.nodes)
        where = f"terms are kept in {shlex.quote(str(self._quorum.data))}" if is_kept else "terms go when it ends"
        lines = [Text.assemble((f"LeaderLease: a quorum of {size} node{'s' if size > 1 else ''}", "bold cyan"),
                               (f"; {where}; Ctrl-C ends it", "bright_black"))]  # fmt: skip
        for node in self._quorum.nodes:
            lines.append(Text(f"   {node.name}   clients {node.endpoint}   http://127.0.0.1:{node.http_port}"))
        lines += [Text(), Text("In another terminal:", "bold")]
        for command in (
            f"export {ENDPOINTS_VARIABLE}={','.join(self._quorum.endpoints)}",
            "leaderlease run --lease shop/billing -- sh -c 'echo leading, term $LEASE_TERM; sleep 60'",
            "leaderlease get --watch",
        ):
            lines.append(Text(f"   {command}", "cyan"))
        for line in [*lines, Text()]:
            self._console.print(line)
