"""Quorums as set algebra: who answered, never how many answers came (R6, H34)."""

from collections.abc import Collection
from enum import Enum
from functools import cached_property

import msgspec

from leaderlease.errors import ConfigError


class Tally(Enum):
    """What a set of answers means. "Not yet" is neither yes nor no."""

    WON = "won"
    PENDING = "pending"
    LOST = "lost"


def majority(size: int) -> int:
    """Return how many of ``size`` members form a majority: floor(n / 2) + 1."""
    return size // 2 + 1


class Quorum(msgspec.Struct, frozen=True, dict=True):
    """The sets of member uuids of which each must yield a majority: one set, or two while joint (R8).

    Attributes:
        groups: One or two non-empty sets of member uuids.
    """

    groups: tuple[frozenset[str], ...]

    @cached_property
    def members(self) -> frozenset[str]:
        """Every member of any group."""
        return frozenset().union(*self.groups)

    @cached_property
    def ordered(self) -> tuple[str, ...]:
        """Every member, in the order in which all of them list themselves."""
        return tuple(sorted(self.members))

    @cached_property
    def _needs(self) -> tuple[tuple[frozenset[str], int], ...]:
        return tuple((group, majority(len(group))) for group in self.groups)

    def is_met(self, yes: Collection[str]) -> bool:
        """Tell whether ``yes`` holds a majority of every group; strangers do not count."""
        # A loop and no generator: this is asked several times for every answer of a member.
        for group, need in self._needs:  # noqa: SIM110
            if len(group.intersection(yes)) < need:
                return False
        return True

    def tally(self, yes: Collection[str], no: Collection[str]) -> Tally:
        """Tell whether ``yes`` is a quorum, can become one, or cannot any more since ``no`` refused."""
        if self.is_met(yes):
            return Tally.WON
        for group in self.groups:
            if len(group) - len(group.intersection(no).difference(yes)) < majority(len(group)):
                return Tally.LOST
        return Tally.PENDING

    def can_lose(self, healthy: Collection[str]) -> int:
        """Return how many more members may fail before no majority is left; -1 if there is none now."""
        return min(len(group.intersection(healthy)) - majority(len(group)) for group in self.groups)

    def missing(self, answered: Collection[str]) -> str:
        """Say in words what is missing: "2 of 5 nodes answer, 3 are needed"."""
        worst = min(self.groups, key=lambda group: len(group.intersection(answered)) - majority(len(group)))
        count = len(worst.intersection(answered))
        verb = "answers" if count == 1 else "answer"
        need = majority(len(worst))
        return f"{count} of {len(worst)} nodes {verb}, {need} {'is' if need == 1 else 'are'} needed"


def quorum_of(*groups: Collection[str]) -> Quorum:
    """Make a quorum system of one group of members, or of two while a change is joint.

    Raises:
        ConfigError: A group is empty.
    """
    if not groups or not all(groups):
        raise ConfigError("members: a quorum needs at least one member")
    return Quorum(tuple(frozenset(group) for group in groups))
