"""A scheduler that ends is started again, as a kubelet does with the one of a real control plane.

An API server that is killed during a binding leaves kube-scheduler with a cache that contradicts what it reads next: it
says so and ends itself. Where the control plane is a handful of plain processes, as in test clusters without
kubelets for it, nobody starts another, and from then on no pod gets a node.
"""

import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Final

PORT: Final = 10259
"""Where kube-scheduler listens on the machine of its control plane."""
POLL_S: Final = 1.0
CONNECT_TIMEOUT_S: Final = 1.0
STARTS_MAX: Final = 20
"""Of one run: what ends more often is broken, and the scenarios shall say so."""
STOP_TIMEOUT_S: Final = 10.0


class Keeper:
    """Watches a daemon by its port, and starts one where there is none any more.

    Args:
        command: What to start.
        port: Of 127.0.0.1, where it listens.
        log: Gets what it says.
    """

    def __init__(self, command: tuple[str, ...], port: int, log: Path) -> None:
        self.starts = 0
        self._command = command
        self._port = port
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Keep it no longer; end what this has started."""
        self._is_over.set()
        self._thread.join()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._is_over.wait(POLL_S) and self.starts < STARTS_MAX:
            is_starting = self._process is not None and self._process.poll() is None
            if not is_starting and not listens(self._port):
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
                self.starts += 1


def listens(port: int) -> bool:
    """Tell whether anybody takes connections at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def keep(kubeconfig: str, log: Path) -> Keeper | None:
    """Keep the scheduler of a control plane on this machine; where its program is not here somebody else does."""
    program = shutil.which("kube-scheduler")
    if program is None:
        return None
    return Keeper((program, f"--kubeconfig={kubeconfig}", "--leader-elect=false"), PORT, log)
