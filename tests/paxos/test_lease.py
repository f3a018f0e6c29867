"""Names, durations and the timing law at their edges; the rules that rest on them are in ``rules/``."""

import pytest

from leaderlease.errors import ConfigError
from leaderlease.paxos.lease import (
    DURATION_CHARS_MAX,
    TERM_MAX,
    Holder,
    Value,
    check_value,
    format_duration,
    parse_duration,
    parse_name,
    parse_span,
    validity_ms,
)
from support.core import ALICE


@pytest.mark.parametrize(
    ("duration_ms", "rho_ppm", "expected_ms"),
    [
        (100, 500, 79.0),
        (1_000, 500, 979.0),
        (1_099, 500, 1_076.0),
        (3_000, 500, 2_937.0),
        (3_600_000, 500, 3_524_401.0),
        (1_000, 0, 980.0),
        (1_000, 100_000, 798.0),
        (1, 500, 0.0),
        (999_999_999, 999_999, 0.0),
        (100_000_000, 0, 98_000_000.0),
    ],
)
def test_validity_is_what_the_protocol_says_to_the_millisecond(
    duration_ms: int, rho_ppm: int, expected_ms: float
) -> None:
    """R6, H31: d (1-ρ)/(1+ρ), less 2 % or 20 ms, whichever is more; rounded down, and never below nothing."""
    found = validity_ms(duration_ms, rho_ppm)
    assert (found, type(found)) == (expected_ms, float)


def test_validity_without_an_end() -> None:
    """A classic lock is valid for ever; ρ has no say."""
    assert validity_ms(None) == float("inf")


@pytest.mark.parametrize("name", ["a/b", "shop/billing", "0/9", f"{'a' * 63}/{'b' * 63}", "a-b/c--d"])
def test_a_name_is_two_labels(name: str) -> None:
    """Both parts come back as they were written."""
    assert parse_name(name) == tuple(name.split("/"))


@pytest.mark.parametrize(
    "name",
    ["", "/", "a", "a/", "/b", "a/b/c", "A/b", "a/B", "-a/b", "a/b-", "a_b/c", "a/b_c", f"{'a' * 64}/b",
     f"a/{'b' * 64}", "a/b\n", "a\n/b", "ä/b", "a/b.c", " a/b"],
)  # fmt: skip
def test_what_is_no_name_is_refused_with_an_example(name: str) -> None:
    """One sentence: the value, what is allowed, and what it looks like."""
    with pytest.raises(ConfigError) as caught:
        parse_name(name)
    assert str(caught.value) == (
        f"lease name {name!r}: write namespace/name, each of at most 63 lower-case letters, digits and '-', beginning "
        "and ending with a letter or digit (for example shop/billing)"
    )


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("100ms", 100),
        ("750ms", 750),
        ("3s", 3_000),
        ("1.5s", 1_500),
        ("1m30s", 90_000),
        ("2m", 120_000),
        ("0.5m", 30_000),
        ("1m0.5s3ms", 60_503),
        ("1h", 3_600_000),
        ("0.5h", 1_800_000),
        ("0.25h1m1s1ms", 961_001),
        ("never", None),
        (None, None),
        (3, 3_000),
        (0.1, 100),
        (2.0004, 2_000),
        (3_600, 3_600_000),
    ],
)
def test_durations_as_people_write_them(text: str | float | None, expected_ms: int | None) -> None:
    """Texts with units, and numbers that are seconds."""
    assert parse_duration(text) == expected_ms


@pytest.mark.parametrize(
    "text", ["99ms", "0s", "1h1ms", "61m", 0, 0.0994, 3_601, -3, float("nan"), float("inf"), 1e308, 10**400]
)
def test_durations_outside_the_bounds_are_refused(text: str | float) -> None:
    """The field, the value, the bounds, and the way to a lock without an end, which other fields do not have."""
    with pytest.raises(ConfigError) as caught:
        parse_duration(text)
    assert str(caught.value) == (
        f"duration: {text!r} is outside [100ms, 1h]; use never for a lock without an end"
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        parse_duration(text, "--wait")
    assert str(caught.value) == f"--wait: {text!r} is outside [100ms, 1h]"


@pytest.mark.parametrize(
    "text",
    ["", "3", "s", "3x", "1s1h", "-1s", "1 s", "1e3s", "٣s", "3s\n", "Never", "9" * 400 + "s", "0" * 5_000 + "ms"],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Also digits of another alphabet, and a number that is longer than any duration."""
    with pytest.raises(ConfigError) as caught:
        parse_duration(text)
    assert str(caught.value) == f"duration: {text!r} is no duration; write 750ms, 3s, 1m30s, 1h or never"
    with pytest.raises(ConfigError) as caught:
        parse_duration(text, "--wait")
    assert str(caught.value) == f"--wait: {text!r} is no duration; write 750ms, 3s, 1m30s, 1h"


def test_a_duration_may_have_so_many_characters_and_no_more() -> None:
    """A bound with a name, so that no number is beyond arithmetic."""
    assert parse_duration("1s".rjust(DURATION_CHARS_MAX, "0")) == 1_000
    with pytest.raises(ConfigError, match="is no duration"):
        parse_duration("1s".rjust(DURATION_CHARS_MAX + 1, "0"))


def test_a_span_has_bounds_of_its_own_and_may_be_0() -> None:
    """Both bounds belong to it."""
    assert [parse_span(text, "lock_delay", 50, 2_000) for text in ("0s", 0, "50ms", 0.05, "2s")] == [
        0,
        0,
        50,
        50,
        2_000,
    ]
    for text in ("49ms", "2001ms", -1, float("nan"), float("-inf"), -1e308):
        with pytest.raises(ConfigError) as caught:
            parse_span(text, "lock_delay", 50, 2_000)
        assert str(caught.value) == f"lock_delay: {text!r} is outside [50ms, 2s]"
    with pytest.raises(ConfigError) as caught:
        parse_span("never", "lock_delay", 50, 2_000)
    assert str(caught.value) == "lock_delay: 'never' is no duration; write 750ms, 3s, 1m30s, 1h"


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(None, "never"), (100, "100ms"), (750, "750ms"), (1_000, "1s"), (1_001, "1.001s"), (1_500, "1.5s"),
     (90_000, "90s"), (120_000, "2m"), (3_600_000, "1h"), (3_660_000, "61m"), (60_000, "1m"), (0, "0ms"),
     (999, "999ms")],
)  # fmt: skip
def test_durations_are_written_as_people_do(duration_ms: int | None, text: str) -> None:
    """The largest unit without a rest."""
    assert format_duration(duration_ms) == text
    if duration_ms is None or 100 <= duration_ms <= 3_600_000:
        assert parse_duration(text) == duration_ms


@pytest.mark.parametrize(
    "value",
    [
        Value(0, None, None),
        Value(TERM_MAX, ALICE, 100),
        Value(1, ALICE, 3_600_000, 3_600_000),
        Value(1, ALICE, 100, 0),
    ],
)
def test_values_at_the_bounds_are_stored(value: Value) -> None:
    """H20: the bounds themselves are allowed."""
    check_value(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(-1, ALICE), "term: -1 is outside [0, 2^53)"),
        (Value(TERM_MAX + 1, ALICE), f"term: {2**53} is outside [0, 2^53)"),
        (Value(1, ALICE, 99), "duration: 99 ms is outside [100ms, 1h]"),
        (Value(1, ALICE, 3_600_001), "duration: 3600001 ms is outside [100ms, 1h]"),
        (Value(1, ALICE, 1_000, -1), "lock_delay: -1 ms is outside [0, 1h]"),
        (Value(1, ALICE, 1_000, 3_600_001), "lock_delay: 3600001 ms is outside [0, 1h]"),
        (Value(1, Holder("a", "", "0" * 31)), "nonce: must be 32 hexadecimal digits"),
        (Value(1, Holder("a", "", "0" * 33)), "nonce: must be 32 hexadecimal digits"),
    ],
)
def test_values_beyond_the_bounds_are_refused(value: Value, text: str) -> None:
    """H20: the field, its value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        check_value(value)
    assert str(caught.value) == text
