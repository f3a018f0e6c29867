"""Bytes of a fuzzer as numbers, choices and texts; a mutation of the bytes is a small change of what is read."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

INTERESTING = (0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, -1)
"""Numbers at which something begins or ends."""


class Source:
    """Reads one input from the front; what has run out reads as zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes were not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Read so many bytes, or what is left."""
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        return found

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.take(self.left)

    def whole(self, low: int, high: int) -> int:
        """Return a number in ``[low, high]``."""
        span = high - low + 1
        size = max(1, ((span - 1).bit_length() + 7) // 8)
        return low + int.from_bytes(self.take(size), "big") % span

    def number(self) -> int:
        """Return a number that is worth a try, or any of 64 bits."""
        pick = self.whole(0, 255)
        return INTERESTING[pick] if pick < len(INTERESTING) else self.whole(-(2**63), 2**64 - 1)

    def chance(self, one_in: int) -> bool:
        """Return True once in so many times."""
        return self.whole(0, one_in - 1) == one_in - 1

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.whole(0, len(options) - 1)]

    def text(self, count: int) -> str:
        """Return at most so many characters, of any alphabet."""
        return self.take(self.whole(0, count)).decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()

    def cuts(self, data: bytes) -> list[bytes]:
        """Cut data as a network may."""
        places = sorted(self.whole(0, len(data)) for _ in range(self.whole(0, 4)))
        edges = [0, *places, len(data)]
        return [data[begin:end] for begin, end in pairwise(edges)]
