"""What commands that own other processes need: an end that cleans up, whichever signal asks for it."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked for the end, and everything is cleaned up.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell calls the end by this signal."""
        return 128 + self.number


def run_until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``; the first of ``STOP_SIGNALS`` cancels it, later ones do not disturb its cleaning up.

    Raises:
        Stopped: It was cancelled by a signal.
    """
    asyncio.run(_run(work))


async def _run(work: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    caught: list[int] = []

    def stop(number: int) -> None:
        if not caught:
            caught.append(number)
            task.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not caught:
            raise
        raise Stopped(caught[0]) from None
