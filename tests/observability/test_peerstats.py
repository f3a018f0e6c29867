"""What pings tell of other members' clocks."""

import random

import pytest

from leaderlease.node.peerstats import BUCKET_US, BUCKETS_MAX, SPAN_MIN_US, TRIP_MAX_US, ClockRate, PeerStats

PING_US = 500_000
EPOCH_US = 7_000_000_000
"""Clocks of two machines have nothing in common."""


def _pinged(ppm: float, seconds: int, *, seed: int = 1, lag_max_us: int = 400) -> ClockRate:
    """Return what pings see of a clock that runs ``ppm`` faster, each way with a delay of its own."""
    chance = random.Random(seed)
    clock = ClockRate()
    for sent_us in range(0, seconds * 1_000_000, PING_US):
        there_us, back_us = chance.randint(50, lag_max_us), chance.randint(50, lag_max_us)
        peer_us = EPOCH_US + (sent_us + there_us) * (1 + ppm / 1e6)
        clock.observe(sent_us, sent_us + there_us + back_us, int(peer_us))
    return clock


@pytest.mark.parametrize("ppm", [-800, -30, 0, 30, 250, 5_000])
def test_the_rate_is_found_within_its_doubt(ppm: int) -> None:
    """Five minutes of pings with delays of up to 0.4 ms each way tell the rate to a few ppm."""
    found = _pinged(ppm, 300).error()
    assert found is not None
    assert abs(found.ppm - ppm) <= found.doubt_ppm
    assert found.doubt_ppm < 10


@pytest.mark.parametrize("seed", range(5))
def test_a_bad_network_makes_the_doubt_larger_and_not_the_error(seed: int) -> None:
    """With delays of up to 80 ms each way the truth still lies within what the doubt admits."""
    found = _pinged(0, 600, seed=seed, lag_max_us=80_000).error()
    assert found is not None
    assert abs(found.ppm) <= found.doubt_ppm


def test_nothing_is_told_before_there_is_a_minute_of_answers() -> None:
    """A rate over seconds would be noise that wakes people."""
    assert ClockRate().error() is None
    assert _pinged(500, SPAN_MIN_US // 1_000_000 - 10).error() is None
    assert _pinged(500, SPAN_MIN_US // 1_000_000 + 20).error() is not None


def test_a_few_bad_answers_change_nothing() -> None:
    """A peer that was stopped between reading its clock and answering is one sample among many."""
    clock = _pinged(40, 600)
    samples = clock._samples
    for i in range(0, len(samples), 7):
        samples[i] = samples[i]._replace(offset_us=samples[i].offset_us + 1_500_000)
    found = clock.error()
    assert found is not None
    assert found.ppm == pytest.approx(40, abs=10)


def test_memory_is_bounded_and_the_past_is_forgotten() -> None:
    """After its window a clock that was corrected is sound again."""
    clock = _pinged(900, 3_600)
    assert len(clock._samples) == BUCKETS_MAX
    begins_us = 3_600_000_000
    at_us = EPOCH_US + int(begins_us * 1.0009)
    for passed_us in range(0, BUCKETS_MAX * BUCKET_US, PING_US):
        clock.observe(begins_us + passed_us, begins_us + passed_us + 200, at_us + passed_us + 100)
    found = clock.error()
    assert found is not None
    assert abs(found.ppm) < 10


@pytest.mark.parametrize("trip_us", [-1, TRIP_MAX_US + 1])
def test_an_answer_that_cannot_be_or_is_too_slow_is_no_sample(trip_us: int) -> None:
    """What a peer sends is never trusted: it echoes our reading, or does not."""
    clock = ClockRate()
    clock.observe(1_000_000, 1_000_000 + trip_us, 5)
    assert not clock._samples


def test_a_lost_connection_starts_the_clock_anew() -> None:
    """The same member may come back on another machine, whose clock says something else."""
    stats = PeerStats()
    for sent_us in range(0, 120_000_000, PING_US):
        stats.answered(sent_us, sent_us + 200, EPOCH_US + sent_us)
    assert stats.clock.error() is not None
    stats.disconnected()
    assert stats.clock.error() is None
    assert stats.disconnects == 1
    assert sum(stats.round_trip_seconds.counts) == 240
