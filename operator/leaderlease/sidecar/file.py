"""``leader.json``: the same answers for programs that would rather read a file.

Rule 1: the file is replaced in one step, and removed when the sidecar ends.
Rule 2: it says until when ``is_leader`` may be believed, as a reading of CLOCK_BOOTTIME of this boot: a reader that
        compares needs no sidecar that is still alive.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from leaderlease.client.clock import Clock
from leaderlease.sidecar.identity import boot_id, write_atomically
from leaderlease.sidecar.view import View

log = logging.getLogger(__name__)


class LeaderFile:
    """Writes the file; with no path, does nothing."""

    def __init__(self, path: Path | None, views: Sequence[View], clock: Clock) -> None:
        self._path = path
        self._views = views
        self._clock = clock
        self._boot_id = boot_id()
        self._is_failing = False

    def write(self) -> None:
        """Replace the file with what is known now; a failure is logged once, and readers see the old deadline pass."""
        if self._path is None:
            return
        leases = {view.name.partition("/")[2]: self._describe(view) for view in self._views}
        content = msgspec.json.encode({**next(iter(leases.values())), "leases": leases})
        try:
            write_atomically(self._path, content + b"\n", 0o644)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                log.warning("--file %s cannot be written: %s", self._path, error)
            self._is_failing = True

    def remove(self) -> None:
        """Remove the file: nobody keeps it up to date any more."""
        if self._path is None:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("--file %s cannot be removed: %s", self._path, error)

    def _describe(self, view: View) -> dict[str, Any]:
        # The deadline is from a reading before the validity was computed, so it is never too late.
        boot_ms = self._clock().boot_ms
        document: dict[str, Any] = msgspec.to_builtins(view.document())
        remaining_ms = document["remaining_ms"]
        until_ms = None if remaining_ms is None or not document["is_leader"] else int(boot_ms + remaining_ms)
        return {**document, "valid_until_boottime_ms": until_ms, "boot_id": self._boot_id}
