"""The candidates of ``leaderlease demo``, seen from the demo: started, listened to, commanded, killed."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from leaderlease.cli.candidate import Event
from leaderlease.cli.local import die_with_parent
from leaderlease.errors import LeaderLeaseError

END_TIMEOUT_S: Final = 2.0
"""How long a killed candidate may take to be gone."""


class DemoFailed(LeaderLeaseError):
    """Something that the demo shows did not happen."""


class Candidate:
    """One process.

    Attributes:
        first_endpoint: The node that its session starts with.
    """

    def __init__(self, identity: str, process: asyncio.subprocess.Process, first_endpoint: str) -> None:
        self.identity = identity
        self.process = process
        self.first_endpoint = first_endpoint
        self.has_asked = asyncio.Event()
        self.asked_at_s = 0.0
        self.is_expected_to_end = False


class Cast:
    """All candidates of one lease.

    Args:
        folder: Where they log.
        lease: ``namespace/name``.
        duration: Of the lease, as the SDK takes it.
        endpoints: Of the nodes; candidate i starts with the i-th.
    """

    def __init__(self, folder: Path, lease: str, duration: str, endpoints: Sequence[str]) -> None:
        self.candidates: dict[str, Candidate] = {}
        self._folder = folder
        self._lease = lease
        self._duration = duration
        self._endpoints = list(endpoints)
        self._events: asyncio.Queue[tuple[Candidate, Event]] = asyncio.Queue()
        self._passed_over: list[tuple[Candidate, Event]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, identity: str) -> Candidate:
        """Start one more candidate."""
        at = len(self.candidates) % len(self._endpoints)
        endpoints = self._endpoints[at:] + self._endpoints[:at]
        with (self._folder / f"{identity}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "leaderlease.cli.candidate", self._lease, identity, self._duration),
                *endpoints,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        candidate = self.candidates[identity] = Candidate(identity, process, endpoints[0])
        self._tasks.append(asyncio.create_task(self._listen(candidate)))
        return candidate

    async def expect(self, kind: str, timeout_s: float, candidate: Candidate | None = None) -> tuple[Candidate, Event]:
        """Return the first event of a kind that was not returned yet, of one candidate or of any; wait for it.

        Raises:
            DemoFailed: It does not come in time, or a candidate lost its lease, failed or ended.
        """
        who = candidate.identity if candidate is not None else "any candidate"
        for i, (sender, event) in enumerate(self._passed_over):
            if event.kind == kind and candidate in (None, sender):
                return self._passed_over.pop(i)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    sender, event = await self._events.get()
                    if event.kind in ("lost", "failed", "ended") and not sender.is_expected_to_end:
                        raise DemoFailed(f"{sender.identity} {event.kind}: {event.text or 'no reason given'}")
                    if event.kind == kind and candidate in (None, sender):
                        return sender, event
                    self._passed_over.append((sender, event))
        except TimeoutError:
            raise DemoFailed(f"waited {timeout_s:g} s for {who} to say {kind!r}") from None

    async def ask(self, candidate: Candidate, command: str, answer: str, timeout_s: float) -> Event:
        """Give a command and wait for the answer. Raises as :meth:`expect`."""
        self.tell(candidate, command)
        return (await self.expect(answer, timeout_s, candidate))[1]

    def tell(self, candidate: Candidate, command: str) -> None:
        """Give a command."""
        assert candidate.process.stdin is not None
        candidate.process.stdin.write(command.encode() + b"\n")

    def kill(self, candidate: Candidate) -> None:
        """SIGKILL: it cannot say good-bye."""
        candidate.is_expected_to_end = True
        if candidate.process.returncode is None:
            candidate.process.kill()

    async def close(self) -> None:
        """Kill all that are left, and wait until they are gone."""
        for candidate in self.candidates.values():
            self.kill(candidate)
        if self.candidates:
            waits = [asyncio.ensure_future(one.process.wait()) for one in self.candidates.values()]
            await asyncio.wait(waits, timeout=END_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, candidate: Candidate) -> None:
        assert candidate.process.stdout is not None
        decode = msgspec.json.Decoder(Event).decode
        async for line in candidate.process.stdout:
            event = decode(line)
            if event.kind == "asking":
                candidate.asked_at_s = event.at_s
                candidate.has_asked.set()
            self._events.put_nowait((candidate, event))
        await candidate.process.wait()
        text = f"its process ended with {candidate.process.returncode}; {self._last_words(candidate)}"
        self._events.put_nowait((candidate, Event("ended", 0.0, text=text)))

    def _last_words(self, candidate: Candidate) -> str:
        lines = (self._folder / f"{candidate.identity}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it wrote nothing to its log"
