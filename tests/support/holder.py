"""A candidate in a process of its own, which can be stopped and killed; it appends what it believes to a file.

    python holder.py --endpoints HOST:PORT,... --lease NS/NAME --log FILE [...]

Each line is an ``Event`` of ``support.checkers.history``, written with one ``write``. A renewal is recorded when
the SDK takes it, so no validity is missed; a stop is recorded before its release is sent.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import time

import leaderlease
from leaderlease.client.campaign import Campaign
from leaderlease.client.clock import Instant
from leaderlease.client.core import SessionCore
from support.fence import FencedResource

ASK_PERIOD_S = 0.2
WRITE_PERIOD_S = 0.05


def boot_ms() -> float:
    """Read CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


class Log:
    """Appends events."""

    def __init__(self, path: str, lease: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lease = lease
        self.last_ms = 0.0

    def note(self, kind: str, nonce: str, term: int = 0, until_ms: float = 0.0, at_ms: float | None = None) -> None:
        at_ms = self.last_ms = boot_ms() if at_ms is None else at_ms
        fields = {"at_ms": at_ms, "kind": kind, "lease": self._lease, "nonce": nonce, "term": term}
        os.write(self._fd, (json.dumps({**fields, "until_ms": until_ms}) + "\n").encode())


def record_renewals(log: Log) -> None:
    """Let every change of a belief be written down, as of the reading of the clock that decided that it is in time.

    A busy machine may let this process wait between that reading and the line.
    """
    extend = SessionCore._extend

    def recorded(core: SessionCore, campaign: Campaign, seq: int, basis: Instant, now: Instant) -> None:
        before = campaign.belief
        extend(core, campaign, seq, basis, now)
        if campaign.belief is not None and campaign.belief is not before:
            until_ms = campaign.belief.basis.boot_ms + campaign.belief.validity_ms
            log.note("renewed", campaign.holder.nonce, campaign.term, until_ms, at_ms=now.boot_ms)

    SessionCore._extend = recorded  # type: ignore[method-assign]


class Waking:
    """Says what remains when the process goes on after SIGSTOP.

    The handler runs before the event loop takes what arrived meanwhile, so no message can have changed the answer.
    """

    def __init__(self, log: Log) -> None:
        self.lease: leaderlease.Lease | None = None
        self._log = log
        signal.signal(signal.SIGCONT, self._woke)

    def _woke(self, number: int, frame: object) -> None:
        lease, now = self.lease, boot_ms()
        if lease is not None:
            self._log.note("woke", lease.nonce, lease.term, now + lease.remaining() * 1000, at_ms=now)


async def work(lease: leaderlease.Lease, resource: FencedResource | None, hold_s: float) -> None:
    """Hold until the lease is lost or wanted back, or for so long; write to the resource meanwhile."""
    ends = [asyncio.ensure_future(event.wait()) for event in (lease.lost, lease.step_down_requested)]
    deadline = time.monotonic() + hold_s
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            if resource is not None:
                await asyncio.to_thread(resource.write, lease)
            pause_s = left_s if resource is None else min(left_s, WRITE_PERIOD_S)
            wait_s = None if pause_s == float("inf") else pause_s
            done, _ = await asyncio.wait(ends, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
    finally:
        for end in ends:
            end.cancel()


async def campaign(args: argparse.Namespace, client: leaderlease.Client, log: Log, waking: Waking) -> None:
    """Run for the lease, hold it, let it go; again, unless told ``--once``."""
    resource = FencedResource(args.resource, args.lease) if args.resource else None
    shortest_s, longest_s = args.hold
    chance = random.Random(args.seed)
    while True:
        if args.ask:
            lease = await ask(args, client, log)
        else:
            nonce = secrets.token_hex(16)
            log.note("asked", nonce)
            lease = await client.acquire(args.lease, args.identity, duration=args.duration, nonce=nonce)
        at_ms = boot_ms()
        log.note("believe", lease.nonce, lease.term, at_ms + lease.remaining() * 1000, at_ms=at_ms)
        waking.lease = lease
        try:
            hold_s = shortest_s if shortest_s == float("inf") else chance.uniform(shortest_s, longest_s)
            await work(lease, resource, hold_s)
        finally:
            # Before the SDK lets go, so that the next holder is never recorded before this end.
            log.note("unbelieve", lease.nonce, lease.term)
            why = lease.reason or (lease.step_down_requested.is_set() and "asked to step down") or "it has held enough"
            print(f"{log.last_ms:.3f} {lease.name} term {lease.term} ends: {why}", flush=True)
            waking.lease = None
            await lease.release()
        if args.once:
            return


async def ask(args: argparse.Namespace, client: leaderlease.Client, log: Log) -> leaderlease.Lease:
    """Ask again and again instead of waiting in the queue; after an unknown outcome with the same nonce."""
    nonce = ""
    while True:
        nonce = nonce or secrets.token_hex(16)
        log.note("asked", nonce)
        try:
            answer = await client.try_acquire(
                args.lease, args.identity, duration=args.duration, timeout=2.0, nonce=nonce
            )
        except leaderlease.OutcomeUnknown:
            log.note("unknown", nonce)
            continue
        except (leaderlease.QuorumUnavailable, leaderlease.ConnectionFailed):
            nonce = ""
        else:
            if isinstance(answer, leaderlease.Lease):
                return answer
            log.note("denied", nonce)
            nonce = ""
        await asyncio.sleep(ASK_PERIOD_S)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoints", required=True)
    parser.add_argument("--lease", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--identity", default="somebody")
    parser.add_argument("--duration", default="1s")
    parser.add_argument("--resource", default="")
    parser.add_argument("--hold", nargs=2, type=float, default=(float("inf"), float("inf")), help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ask", action="store_true")
    parser.add_argument("--once", action="store_true")
    args = parser.parse_args()
    log = Log(args.log, args.lease)
    record_renewals(log)
    waking = Waking(log)
    async with leaderlease.connect(args.endpoints, name=args.identity, wait=60.0) as client:
        running = asyncio.ensure_future(campaign(args, client, log, waking))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()


if __name__ == "__main__":
    asyncio.run(main())
