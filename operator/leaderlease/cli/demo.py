"""``leaderlease demo``: an election, two kills and a hand-over with real processes, each of them checked.

Rule 1: nothing is told that did not happen: the times come from the processes, the table from a watch.
Rule 2: however it ends, no process and no file is left.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import click

from leaderlease.cli.cast import Candidate, Cast, DemoFailed
from leaderlease.cli.foreground import Stopped, run_until_stopped
from leaderlease.cli.local import LocalNode, LocalQuorum
from leaderlease.cli.narrate import Narrator
from leaderlease.client.sdk import Client
from leaderlease.errors import LeaderLeaseError
from leaderlease.paxos.lease import parse_duration
from leaderlease.wire.session import Transition

LEASE: Final = "shop/billing"
IDENTITIES: Final = ("alice", "bob", "charlie")
NODES: Final = 3
STEP_TIMEOUT_S: Final = 10.0
"""For anything that has to happen; each takes far less."""
POLL_S: Final = 0.05
PACE_S: Final = 0.6
"""Pause after a step, so that eyes can follow; none when piped."""
HINTS: Final = (
    ("leaderlease dev", "a quorum to play with; it prints commands to paste"),
    ("leaderlease bench", "how fast all this is on your machine"),
    ("leaderlease --help", "everything else; docs/how-it-works.md tells why it is safe"),
)


@click.command()
@click.option("--duration", default="1s", show_default=True, help="How long the lease lasts after its last renewal.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), hidden=True, help="Record a picture.")
def demo(duration: str, svg: Path | None) -> int:
    """Watch an election and a failover on this machine; takes about ten seconds and leaves nothing behind.

    Exit code 0 says that everything shown really happened and was checked.
    """
    duration_ms = parse_duration(duration, "--duration")
    if duration_ms is None or not 500 <= duration_ms <= 10_000:
        raise click.BadParameter(f"{duration!r} is outside [500ms, 10s]", param_hint="--duration")
    narrator = Narrator(svg)
    try:
        run_until_stopped(_play(narrator, duration_ms / 1000))
    except Stopped as stopped:
        narrator.console.print("\ninterrupted; every process was ended")
        return stopped.exit_code
    narrator.close()
    return 0


async def _play(narrator: Narrator, duration_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="leaderlease-demo-") as folder:
        quorum = LocalQuorum(Path(folder), NODES)
        cast = Cast(Path(folder), LEASE, f"{duration_s * 1000:g}ms", quorum.endpoints)
        try:
            await Story(narrator, quorum, cast, duration_s).tell()
        finally:
            await cast.close()
            for node in quorum.nodes:
                quorum.kill(node)


class Story:
    """The steps, in order; each raises :class:`DemoFailed` when what it tells did not happen."""

    def __init__(self, narrator: Narrator, quorum: LocalQuorum, cast: Cast, duration_s: float) -> None:
        self._say = narrator
        self._quorum = quorum
        self._cast = cast
        self._duration_s = duration_s
        self._client: Client
        self._leader: Candidate
        self._term = 0
        self._told: list[tuple[int, str]] = []
        self._seen: list[Transition] = []
        self._step = 0

    async def tell(self) -> None:
        """Play all steps."""
        self._say.title(
            "LeaderLease demo",
            f"{NODES} nodes and {len(IDENTITIES)} candidates, each a process of its own",
            f"one lease, {LEASE}, that ends {self._duration_s:g} s after its last renewal",
        )
        with self._stage("A quorum starts"):
            await self._start_quorum()
        # The last node first: the candidates begin with the others, so the first elections are seen from elsewhere.
        async with Client(self._quorum.endpoints[::-1], name="demo", wait=STEP_TIMEOUT_S) as self._client:
            watching = asyncio.create_task(self._watch())
            try:
                with self._stage("A leader is elected"):
                    await self._elect()
                with self._stage("The leader is killed"):
                    await self._kill_leader()
                with self._stage("A node is killed"):
                    await self._kill_node()
                with self._stage("The lease is handed over"):
                    await self._hand_over()
                with self._stage("What a watch saw", is_shown=False):
                    await self._compare(watching)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        self._say.hints("Try next", HINTS)

    # --- steps -----------------------------------------------------------------------------------------------

    async def _start_quorum(self) -> None:
        began_s = time.monotonic()
        with self._say.waiting(f"starting {NODES} nodes"):
            self._quorum.launch()
            await self._quorum.until_ready(STEP_TIMEOUT_S)
        where = ", ".join(self._quorum.endpoints)
        self._say.done(f"[b]{NODES} nodes are ready after {time.monotonic() - began_s:.1f} s[/b]: {where}")
        await self._pace()

    async def _elect(self) -> None:
        with self._say.waiting("the candidates start"):
            for identity in IDENTITIES:
                await self._cast.start(identity)
            leader, elected = await self._cast.expect("elected", STEP_TIMEOUT_S)
            others = [one for one in self._cast.candidates.values() if one is not leader]
            await self._queued(others)
        self._crown(leader, elected.term)
        took_ms = (elected.at_s - leader.asked_at_s) * 1000
        waiting = " and ".join(one.identity for one in others)
        self._say.done(
            f"[b]{leader.identity} leads, term {elected.term}[/b]: elected {took_ms:.0f} ms after asking; "
            f"{waiting} wait"
        )
        await self._check_token(0)
        await self._pace()

    async def _kill_leader(self) -> None:
        dead, old_term = self._leader, self._term
        last = await self._cast.ask(dead, "report", "report", STEP_TIMEOUT_S)
        killed_at_s = time.monotonic()
        self._cast.kill(dead)
        self._say.struck(
            f"SIGKILL to {dead.identity} (process {dead.process.pid}), who could tell nobody: the lease has to run out"
        )
        taking_over = asyncio.create_task(self._cast.expect("elected", STEP_TIMEOUT_S + self._duration_s))
        try:
            await self._show_running_out(taking_over, dead)
            leader, elected = await taking_over
        finally:
            taking_over.cancel()
        _check(elected.at_s >= last.at_s + last.remaining_s, f"{leader.identity} led while {dead.identity} believed")
        self._crown(leader, elected.term)
        took_ms = (elected.at_s - killed_at_s) * 1000
        self._say.done(
            f"[b]{leader.identity} took over after {took_ms:.0f} ms, term {elected.term}[/b] "
            f"(the lease lasts {self._duration_s:g} s)"
        )
        await self._check_token(old_term)
        await self._pace()

    async def _kill_node(self) -> None:
        leader, term = self._leader, self._term
        before = await self._cast.ask(leader, "report", "report", STEP_TIMEOUT_S)
        node = next(node for node in self._quorum.nodes if node.endpoint == before.endpoint)
        assert node.process is not None
        self._quorum.kill(node)
        self._say.struck(
            f"SIGKILL to {node.name} (process {node.process.pid}), the node that {leader.identity} is connected to"
        )
        moved_to, waited_s = await self._keep_leading(node)
        _check(len(self._told) == term, "somebody else was elected")
        self._say.done(
            f"[b]nobody noticed: {waited_s:.1f} s later {leader.identity} still leads, still term {term}[/b]; "
            f"{moved_to.name} serves it now"
        )
        await self._check_token(0)
        await self._pace()

    async def _hand_over(self) -> None:
        old, old_term = self._leader, self._term
        old.is_expected_to_end = True
        released = await self._cast.ask(old, "release", "released", STEP_TIMEOUT_S)
        leader, elected = await self._cast.expect("elected", STEP_TIMEOUT_S)
        took_s = elected.at_s - released.at_s
        _check(took_s >= 0, f"{leader.identity} led before {old.identity} let go")
        _check(took_s < self._duration_s / 2, f"the hand-over took {took_s:.3f} s: that was no hand-over")
        self._crown(leader, elected.term)
        self._say.done(
            f"{old.identity} releases it, [b]{leader.identity} leads {took_s * 1000:.1f} ms later, "
            f"term {elected.term}[/b], with two of three nodes"
        )
        await self._check_token(old_term)
        await self._pace()

    async def _compare(self, watching: asyncio.Task[None]) -> None:
        async with _limit("the watch did not report the last election"):
            while not any(one.term == self._term and one.holder for one in self._seen):
                _check(not watching.done(), "the watch ended")
                await asyncio.sleep(POLL_S)
        seen = [(one.term, one.holder.name) for one in self._seen if one.holder is not None]
        _check(seen == self._told, f"told {self._told}, but the watch saw {seen}")
        first_ms = self._seen[0].at_ms
        rows = []
        for one in self._seen:
            holder = f"[bold]{one.holder.name}[/bold]" if one.holder is not None else "[bright_black]nobody"
            rows.append((f"{(one.at_ms - first_ms) / 1000:.3f}", one.kind, str(one.term), holder))
        self._say.table("The transitions, as a watch reported them", ("seconds>", "what", "term>", "leader"), rows)

    # --- what the steps share --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _stage(self, title: str, *, is_shown: bool = True) -> Iterator[None]:
        self._step += 1
        if is_shown:
            self._say.step(self._step, title)
        try:
            yield
        except LeaderLeaseError as error:
            raise DemoFailed(f"step {self._step} ({title.lower()}) failed: {error}") from error

    def _crown(self, leader: Candidate, term: int) -> None:
        _check(term > self._term, f"{leader.identity} was elected with term {term} after term {self._term}")
        self._leader, self._term = leader, term
        self._told.append((term, leader.identity))

    async def _check_token(self, old_term: int) -> None:
        """Ask a majority about the tokens, the current one and the one before."""
        _check(bool(await self._client.verify(LEASE, self._term)), f"token {self._term} is not current")
        if old_term:
            _check(not await self._client.verify(LEASE, old_term), f"token {old_term} is still accepted")
            self._say.done(f"a majority says: token {self._term} is current, token {old_term} is [b]refused[/b]")

    async def _queued(self, candidates: list[Candidate]) -> None:
        """Wait until these candidates have asked, so that they wait in a queue when the leader goes."""
        async with _limit("a candidate does not ask for the lease"):
            for candidate in candidates:
                await candidate.has_asked.wait()

    async def _show_running_out(self, until: "asyncio.Task[object]", dead: Candidate) -> None:
        with self._say.bar() as bar:
            while not until.done():
                info = await self._client.get(LEASE)
                remaining_s = (info.remaining_ms or 0) / 1000 if info is not None and info.term == self._term else 0.0
                label = f"what is left of {dead.identity}'s lease"
                bar.show(label, remaining_s / self._duration_s, f"{remaining_s:.2f} s")
                await asyncio.wait({until}, timeout=POLL_S)

    async def _keep_leading(self, dead: LocalNode) -> tuple[LocalNode, float]:
        """Watch the leader for twice the lease's duration; return the node that serves it now, and the seconds."""
        leader, began_s = self._leader, time.monotonic()
        with self._say.bar() as bar:
            while True:
                report = await self._cast.ask(leader, "report", "report", STEP_TIMEOUT_S)
                _check(report.term == self._term and report.remaining_s > 0, f"{leader.identity} lost the lease")
                waited_s = report.at_s - began_s
                served = next((n for n in self._quorum.nodes if n.endpoint == report.endpoint and n is not dead), None)
                if waited_s > 2 * self._duration_s and served is not None:
                    return served, waited_s
                _check(waited_s < STEP_TIMEOUT_S + 2 * self._duration_s, "the session found no other node")
                label = f"{leader.identity} renews at {served.name if served else '...'}"
                bar.show(label, report.remaining_s / self._duration_s, f"{report.remaining_s:.2f} s")
                await asyncio.sleep(POLL_S)

    async def _watch(self) -> None:
        async for transition in self._client.watch(LEASE):
            self._seen.append(transition)

    async def _pace(self) -> None:
        if self._say.is_live:
            await asyncio.sleep(PACE_S)


def _check(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise DemoFailed(otherwise)


@contextlib.asynccontextmanager
async def _limit(otherwise: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            yield
    except TimeoutError:
        raise DemoFailed(f"{otherwise} after {STEP_TIMEOUT_S:g} s") from None
