"""The application of the end-to-end tests: asks its sidecar, and writes down what it believes. Runs in a pod, alone.

One line for every answer, at least every 50 ms. Belief is what a careful application has: from an answer until the
time that the answer promised, counted from before the question; until the next answer; never after its end.
"""

import http.client
import http.server
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

POLL_S = 0.02
ASK_TIMEOUT_S = 1.0
HEALTH_PORT = 8080
ME = {"pod": os.environ["POD_NAME"], "uid": os.environ["POD_UID"], "node": os.environ["NODE_NAME"]}
FOLDER = Path(os.environ["JOURNAL"])
SICK = (FOLDER / f"{ME['pod']}.sick", FOLDER / "all.sick")
"""While one of these files exists, the application is unhealthy."""

running = True


def boottime_ms() -> float:
    """Read the clock that all pods of the one machine share."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


def stop(_number: int, _frame: FrameType | None) -> None:
    """Leave at the next turn, which is the end of every belief."""
    global running
    running = False


class Health(http.server.BaseHTTPRequestHandler):
    """200, or 503 while there is a file that says so."""

    def do_GET(self) -> None:
        """Answer the sidecar's check."""
        self.send_response(503 if any(file.exists() for file in SICK) else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class Asker:
    """Keeps one connection to the sidecar."""

    def __init__(self) -> None:
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> tuple[int, dict[str, object]]:
        """Return status and document; 0 and nothing when nobody answers."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", 4040, timeout=ASK_TIMEOUT_S)
            self._connection.request("GET", "/")
            answer = self._connection.getresponse()
            body = answer.read()
            if answer.getheader("Connection", "").lower() == "close":
                self._close()
            return answer.status, json.loads(body)
        except (OSError, http.client.HTTPException, ValueError):
            self._close()
            return 0, {}

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def main() -> int:
    """Ask, write, sleep; until SIGTERM."""
    signal.signal(signal.SIGTERM, stop)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", HEALTH_PORT), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asker, began = Asker(), boottime_ms()
    path = FOLDER / f"{ME['pod']}.{ME['uid']}.jsonl"
    with path.open("a", encoding="utf-8", buffering=1) as journal:

        def write(**fields: object) -> None:
            journal.write(json.dumps({"at": boottime_ms(), **ME, "began": began, **fields}) + "\n")

        write(kind="start")
        while running:
            asked = boottime_ms()
            status, found = asker.ask()
            remaining = found.get("remaining_ms")
            write(
                kind="answer",
                asked=asked,
                status=status,
                believes=bool(found.get("is_leader")),
                until=None if remaining is None else asked + float(str(remaining)),
                **{key: found.get(key) for key in ("lease", "term", "token", "leader", "state", "reason", "is_stale")},
            )
            time.sleep(POLL_S)
        write(kind="end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
