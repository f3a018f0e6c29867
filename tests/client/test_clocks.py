"""The clocks and the keepalives of a client, and what their readings are used for (H31, H32, R6)."""

import time

import pytest

from leaderlease.client.clock import Instant, elapsed_ms, system_clock
from leaderlease.client.keepalive import KeepAlives, Pace, pace_of
from leaderlease.paxos.lease import RETRY_PERIOD_MIN_MS, RHO_PPM_DEFAULT

PACE = Pace(100.0, 300.0)


def test_h31_h32_the_clocks_are_the_two_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """R6: CLOCK_BOOTTIME goes on in a suspend, CLOCK_MONOTONIC_RAW is not slewed; the wall clock is never read."""
    readings = {time.CLOCK_BOOTTIME: 7_000_000, time.CLOCK_MONOTONIC_RAW: 3_000_000}
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: readings[clock])
    clock, rho_ppm = system_clock()
    assert (clock(), rho_ppm) == (Instant(7.0, 3.0), RHO_PPM_DEFAULT)


def test_h31_elapsed_is_what_the_faster_of_both_says() -> None:
    """R6: either may stand still."""
    since = Instant(1_000.0, 1_000.0)
    assert elapsed_ms(since, Instant(1_400.0, 1_000.0)) == 400.0
    assert elapsed_ms(since, Instant(1_000.0, 1_500.0)) == 500.0


def test_a_new_connection_owes_and_awaits_nothing() -> None:
    """R6: its first keepalive is due at once, and no answer to an earlier one is missed on it."""
    keepalives, now = KeepAlives(), Instant(0.0, 0.0)
    keepalives.message(now)
    assert keepalives.due_ms(PACE, now) == 100.0
    assert keepalives.patience_ms(PACE, now) == 300.0
    keepalives.reset()
    assert keepalives.due_ms(PACE, now) == 0.0
    assert keepalives.patience_ms(PACE, now) == float("inf")


def test_an_answer_answers_what_was_sent_before_it_and_nothing_later() -> None:
    """R6: a node that answers old keepalives only is left when the oldest of the others is too old."""
    keepalives = KeepAlives()
    for at_ms in (0.0, 10.0, 20.0):
        last = keepalives.message(Instant(at_ms, at_ms))
    now = Instant(20.0, 20.0)
    keepalives.answered(last.seq - 1)
    assert keepalives.patience_ms(PACE, now) == 300.0
    keepalives.answered(last.seq)
    assert keepalives.patience_ms(PACE, now) == float("inf")


def test_no_declaration_makes_a_client_renew_without_a_pause() -> None:
    """A retry period of 1 ms is the shortest that is allowed."""
    assert pace_of(3_000, retry_period_ms=1).period_ms == RETRY_PERIOD_MIN_MS
