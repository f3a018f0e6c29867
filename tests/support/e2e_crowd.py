"""Many clients in one pod, each with its own connection, that campaign for many leases. Runs in a pod.

Each line is an ``Event`` of ``support.checkers.history``. A renewal is written down at the moment at which the SDK
takes it, a stop before its release is sent. A stop with an end (``until_ms``) was not wanted: the lease was lost.
"""

import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path

import leaderlease
from leaderlease.client.campaign import Campaign
from leaderlease.client.clock import Instant
from leaderlease.client.core import SessionCore
from leaderlease.errors import LeaderLeaseError

HOLD_S = (5.0, 40.0)
"""How long a holder holds before it hands over, at random."""
PAUSE_S = 0.5
FOLDER = Path(os.environ["JOURNAL"])
POD, UID, SPACE = os.environ["POD_NAME"], os.environ["POD_UID"], os.environ["POD_NAMESPACE"]
POD_INDEX, PODS = int(POD.rsplit("-", 1)[1]), int(os.environ["PODS"])
CLIENTS, LEASES = int(os.environ["CLIENTS"]), int(os.environ["LEASES"])
IDENTITY = Path("/var/run/secrets/leaderlease.dev")


def boottime_ms() -> float:
    """Read the clock that all pods of the one machine share."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


class Log:
    """Appends events."""

    def __init__(self) -> None:
        path = FOLDER / f"{POD}.{UID}.{boottime_ms():.0f}.jsonl"
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def note(
        self, kind: str, lease: str, nonce: str, term: int, until_ms: float = 0.0, at_ms: float | None = None
    ) -> None:
        """Write one event, of now unless told."""
        fields = {
            "at_ms": boottime_ms() if at_ms is None else at_ms,
            "kind": kind,
            "lease": lease,
            "nonce": nonce,
            "term": term,
        }
        self._file.write(json.dumps({**fields, "until_ms": until_ms}) + "\n")


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
            log.note("renewed", campaign.name, campaign.holder.nonce, campaign.term, until_ms, now.boot_ms)

    SessionCore._extend = recorded  # type: ignore[method-assign]


async def candidate(client: leaderlease.Client, lease_name: str, me: str, log: Log) -> None:
    """Campaign, hold for a while, release; again and again."""
    while True:
        try:
            lease = await client.acquire(lease_name, me)
        except LeaderLeaseError:
            await asyncio.sleep(PAUSE_S * random.uniform(0.5, 1.5))
            continue
        log.note("believe", lease_name, lease.nonce, lease.term, boottime_ms() + lease.remaining() * 1000)
        try:
            async with asyncio.timeout(random.uniform(*HOLD_S)):
                await lease.lost.wait()
            lost_ms = boottime_ms()
        except TimeoutError:
            lost_ms = 0.0
        log.note("unbelieve", lease_name, lease.nonce, lease.term, lost_ms)
        try:
            await lease.release()
        except LeaderLeaseError:
            await asyncio.sleep(PAUSE_S)


async def client_of(number: int, log: Log) -> None:
    """One session, for its share of the leases: each lease is wanted by two sessions in two pods."""
    first = POD_INDEX * CLIENTS + number
    second = ((POD_INDEX - 1) % PODS) * CLIENTS + number
    mine = [f"{SPACE}/l{i}" for i in range(LEASES) if i % (PODS * CLIENTS) in (first, second)]
    async with (
        leaderlease.connect(
            tls=(None, None, str(IDENTITY / "ca.crt")),
            token=lambda: (IDENTITY / "token").read_text().strip(),
            pod_uid=UID,
            name=f"{POD}-{number}",
            spread=True,
            wait=float("inf"),
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for name in mine:
            group.create_task(candidate(client, name, f"{POD}-{number}", log))


async def main() -> None:
    """Run all clients until SIGTERM."""
    log = Log()
    record_renewals(log)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client_of(number, log))


if __name__ == "__main__":
    asyncio.run(main())
