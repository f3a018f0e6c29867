"""What the tests of the command line share: the result of a command, and a program that holds leases."""

import contextlib
import threading
from collections.abc import Callable
from typing import NamedTuple

from leaderlease import blocking
from leaderlease.errors import ConnectionFailed

PATIENCE_S = 20.0
"""Only so that what never happens ends a test; nothing is measured by it."""


class Ran(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


def is_one_sentence(err: str) -> bool:
    """Tell whether an error is what it should be: one line for people, after warnings at most, and no traceback."""
    lines = [line for line in err.splitlines() if not line.startswith("leaderlease: warning: ")]
    return len(lines) == 1 and lines[0].startswith("leaderlease: ") and "Traceback" not in err


class Candidate:
    """A program in a thread: waits for a lease, holds it until it is asked to let go or the block ends."""

    def __init__(self, endpoints: str, name: str, identity: str, duration: str = "2s") -> None:
        self._client = blocking.connect(endpoints)
        self._ended = threading.Event()
        self.has_lease = threading.Event()
        self._what = (name, identity, duration)
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Candidate":
        self._client.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._client.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def wait(self) -> None:
        """Wait until it holds."""
        assert self.has_lease.wait(PATIENCE_S)

    def _work(self) -> None:
        name, identity, duration = self._what
        # Closing the client ends the wait of a candidate that was never elected.
        with contextlib.suppress(ConnectionFailed):
            lease = self._client.acquire(name, identity, duration=duration)
            self.has_lease.set()
            while not self._ended.wait(0.01):
                if lease.step_down_requested.is_set():
                    lease.release(lease.successor)
                    return
            lease.release()
