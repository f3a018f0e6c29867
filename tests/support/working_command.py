"""A CMD for `leaderlease run` that says when it works: `... FILE [ignore-term] [daemon]`.

It appends a line `<term> <CLOCK_BOOTTIME in ms>` every millisecond until it is ended. With `ignore-term` SIGTERM does
not end it; with `daemon` a child in a session of its own does the same.
"""

import os
import signal
import sys
import time

if __name__ == "__main__":
    path, *options = sys.argv[1:]
    if "ignore-term" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "daemon" in options and os.fork() == 0:
        os.setsid()
    with open(path, "a", buffering=1) as file:  # noqa: PTH123  (pathlib would be half of its start)
        while True:
            file.write(f"{os.environ['LEASE_TERM']} {time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6:.3f}\n")
            time.sleep(0.001)
