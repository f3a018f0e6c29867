"""Keys that want a look: each once, never two at a time for the same, urgent ones first, failures with back-off."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
"""Bounds of the pause after a failure of a key; doubles with each in a row; jittered."""

Key = TypeVar("Key", bound=Hashable)


class Queue(Generic[Key]):
    """A set of dirty keys, handed to workers in the order in which they became dirty, the urgent ones before all."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._urgent: dict[Key, None] = {}
        """Dirty keys in the order in which they became urgent; those that are not busy are among the ready ones."""
        self._dirty: set[Key] = set()
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._delayed: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._dirty) + len(self._delayed)

    def add(self, key: Key, *, is_urgent: bool = False) -> None:
        """Ask for a look at a key, now; a pause of its back-off is cut short.

        Args:
            key: The key.
            is_urgent: It goes before all that are not, however long those have waited.
        """
        handle = self._delayed.pop(key, None)
        if handle is not None:
            handle.cancel()
        if is_urgent:
            self._urgent[key] = None
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._busy:
            self._ready.append(key)
            self._wake.set()

    def add_later(self, key: Key, delay_s: float) -> None:
        """Ask for a look after a pause, unless one comes before."""
        if key in self._delayed or key in self._dirty:
            return
        self._delayed[key] = asyncio.get_running_loop().call_later(delay_s, self._due, key)

    def _due(self, key: Key) -> None:
        self._delayed.pop(key, None)
        self.add(key)

    async def work(self, look: Callable[[Key], Awaitable[float | None]]) -> None:
        """Take keys for ever; several workers may.

        Args:
            look: Returns None when all is well; else the least pause in seconds before the key is looked at again.
        """
        while True:
            while not self._ready:
                self._wake.clear()
                await self._wake.wait()
            key = self._take()
            self._dirty.discard(key)
            self._busy.add(key)
            try:
                pause_s = await look(key)
            finally:
                self._busy.discard(key)
            if key in self._dirty:
                self._ready.append(key)
                self._wake.set()
            if pause_s is None:
                self._failures.pop(key, None)
            else:
                self.add_later(key, max(pause_s, self._backoff_s(key)))

    def _take(self) -> Key:
        for key in self._urgent:
            if key not in self._busy:
                del self._urgent[key]
                self._ready.remove(key)
                return key
        return self._ready.popleft()

    def _backoff_s(self, key: Key) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        limit_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures, 16))
        return float(limit_s * random.uniform(0.5, 1.0))

    def stop(self) -> None:
        """Forget all keys that wait."""
        for handle in self._delayed.values():
            handle.cancel()
        self._delayed.clear()
        self._dirty.clear()
        self._urgent.clear()
        self._ready.clear()
