"""One candidate of ``leaderlease demo``: a process of its own that tells its story, one JSON object a line.

    python -m leaderlease.cli.candidate NAME IDENTITY DURATION ENDPOINT...

It campaigns once. On standard input it takes ``report`` and ``release``, one a line; the end of the input ends it.
"""

import asyncio
import sys
import time

import msgspec

import leaderlease

CONNECT_WAIT_S = 10.0
"""How long it goes on trying when no node answers at first."""


class Event(msgspec.Struct, omit_defaults=True):
    """What a candidate says.

    Attributes:
        kind: ``asking``, ``elected``, ``report``, ``lost``, ``released``, or ``failed``.
        at_s: CLOCK_MONOTONIC, which all processes of a machine share.
        endpoint: The node that its session is connected to; empty while there is none.
        remaining_s: For how long the lease may still be believed.
        text: Why, for people.
    """

    kind: str
    at_s: float
    endpoint: str = ""
    term: int = 0
    remaining_s: float = 0.0
    text: str = ""


def _say(kind: str, *, at_s: float | None = None, endpoint: str = "", term: int = 0, remaining_s: float = 0.0,
         text: str = "") -> None:  # fmt: skip
    event = Event(kind, time.monotonic() if at_s is None else at_s, endpoint, term, remaining_s, text)
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


async def campaign(name: str, identity: str, duration: str, endpoints: list[str]) -> None:
    """Ask for the lease, hold it until told to release it, and say what happens."""
    commands = await _commands()
    async with leaderlease.connect(endpoints, name=identity, wait=CONNECT_WAIT_S) as client:
        _say("asking", endpoint=client.endpoint)
        lease = await client.acquire(name, identity, duration=duration)
        _say("elected", endpoint=client.endpoint, term=lease.term, remaining_s=lease.remaining())
        lost = asyncio.create_task(lease.lost.wait())
        while True:
            command = asyncio.create_task(commands.readline())
            await asyncio.wait({lost, command}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                _say("lost", term=lease.term, text=lease.reason)
                return
            match command.result().strip():
                case b"report":
                    _say("report", endpoint=client.endpoint, term=lease.term, remaining_s=lease.remaining())
                case b"release":
                    # The work has ended; from the next line on this process does not believe any more.
                    at_s = time.monotonic()
                    await lease.release()
                    _say("released", at_s=at_s, term=lease.term)
                    return
                case b"":
                    return


async def _commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def main() -> None:
    """Run one candidate from the command line."""
    name, identity, duration, *endpoints = sys.argv[1:]
    try:
        asyncio.run(campaign(name, identity, duration, endpoints))
    except leaderlease.LeaderLeaseError as error:
        _say("failed", text=str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
