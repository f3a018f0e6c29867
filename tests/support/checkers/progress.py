"""Progress: after the faults stop, a wanted lease is held again within its duration and a stated bound."""

from collections.abc import Iterable, Mapping

from support.checkers.belief import belief_intervals
from support.checkers.history import Event, Violation


def check_progress(history: Iterable[Event], healed_ms: float, wanted: Mapping[str, float], bound_ms: float) -> None:
    """Refuse a wanted lease that nobody held in time.

    Args:
        history: Of the run, at least until ``healed_ms`` + duration + ``bound_ms``.
        healed_ms: When the last fault stopped.
        wanted: Duration in milliseconds of each lease that candidates wait for.
        bound_ms: What is allowed on top of the duration.

    Raises:
        Violation: No nonce believed between the end of the faults and the bound.
    """
    held = belief_intervals(history)
    for lease, duration_ms in wanted.items():
        latest_ms = healed_ms + duration_ms + bound_ms
        if not any(i.lease == lease and i.since_ms <= latest_ms and i.until_ms > healed_ms for i in held):
            raise Violation(f"progress: nobody held {lease} within {duration_ms + bound_ms:g} ms after the faults")
