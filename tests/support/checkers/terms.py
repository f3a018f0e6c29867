"""Tokens and durability: terms only rise, each belongs to one nonce, and none that was acknowledged is forgotten."""

from collections.abc import Iterable, Mapping, Sequence

from support.checkers.history import Event, Kind, Violation, by_lease


def check_tokens(history: Iterable[Event]) -> None:
    """Refuse terms that do not rise strictly in the order of the grants, and one term of two nonces.

    Raises:
        Violation: Either.
    """
    for lease, events in by_lease(history, Kind.BELIEVE).items():
        owners: dict[int, str] = {}
        highest = 0
        for event in events:
            owner = owners.setdefault(event.term, event.nonce)
            if owner != event.nonce:
                raise Violation(f"tokens: term {event.term} of {lease} was given to {owner} and to {event.nonce}")
            if event.term <= highest:
                raise Violation(f"tokens: term {event.term} of {lease} was granted after term {highest}")
            highest = event.term


def check_fence(history: Iterable[Event]) -> None:
    """Refuse a resource that took an older write after a newer one, and writes of two nonces under one term.

    Raises:
        Violation: Either.
    """
    for lease, events in by_lease(history, Kind.WRITE).items():
        writers: dict[int, str] = {}
        highest = 0
        for event in events:
            if event.term < highest:
                raise Violation(f"tokens: {lease} took a write of term {event.term} after one of term {highest}")
            writer = writers.setdefault(event.term, event.nonce)
            if writer != event.nonce:
                raise Violation(f"tokens: {lease} took writes of {writer} and {event.nonce} under term {event.term}")
            highest = event.term


def check_durability(history: Iterable[Event], disks: Sequence[Mapping[str, int]]) -> None:
    """Refuse disks that lack a term which was acknowledged to its holder.

    Args:
        history: Of the run.
        disks: What each member's disk holds afterwards: lease -> term. A term, or a later one, must be on a majority.

    Raises:
        Violation: A majority does not have it.
    """
    majority = len(disks) // 2 + 1
    for lease, events in by_lease(history, Kind.BELIEVE).items():
        acknowledged = max(event.term for event in events)
        count = sum(disk.get(lease, 0) >= acknowledged for disk in disks)
        if count < majority:
            where = f"{count} of {len(disks)} disks have it"
            raise Violation(f"durability: term {acknowledged} of {lease} was acknowledged, and {where}")
