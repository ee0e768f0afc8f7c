"""Sizes, rates, durations and shares as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.units import (
    format_duration,
    format_size,
    number_of,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512", 512),
        ("16MiB", 16 * 2**20),
        ("4GB", 4 * 10**9),
        ("1.5 KiB", 1536),
        ("0.1kB", 100),
        (" 2 tib ", 2**41),
        (7, 7),
    ],
)
def test_a_size_is_read_with_its_unit(text: object, size_bytes: int) -> None:
    """Decimal and binary units, in any case, are told apart."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "MiB", "1XB", "-1MB", "1e3", "1,5GB", "١٢MB\n\n1", True, None, 1.5e3, [1], "9" * 30]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    """Nothing is guessed: not a sign, an exponent, a comma or a truth value."""
    if text == 1.5e3:
        assert parse_size(text) == 1500  # TOML's 1500.0 is a number as any other
        return
    with pytest.raises(ValueError, match="a size is"):
        parse_size(text)


@given(st.integers(0, 10**18 - 1), st.sampled_from(["B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_size_is_exact(number: int, unit: str) -> None:
    """No float is on the way: eighteen digits come out as they went in, or are more than a database counts with."""
    base = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    if number * base < 2**63:
        assert parse_size(f"{number}{unit}") == number * base
    else:
        with pytest.raises(ValueError, match="at most 8191PiB"):
            parse_size(f"{number}{unit}")


@pytest.mark.parametrize(("text", "seconds"), [("36500d", 36_500 * 86_400), (36_500 * 86_400, 36_500 * 86_400)])
def test_the_longest_duration_is_a_century(text: object, seconds: int) -> None:
    """More than that would lead out of the calendar, and a time past it is an error nobody understands."""
    assert parse_duration(text) == seconds
    for more in ("36501d", "999999999d", "36500d1s", 10**30):
        with pytest.raises(ValueError, match="at most 36500d"):
            parse_duration(more)


def test_a_rate_is_a_size_a_second() -> None:
    """The `/s` may be there or not."""
    assert parse_rate("200MB/s") == parse_rate(200_000_000) == 200_000_000
    with pytest.raises(ValueError, match="200MB/s"):
        parse_rate("200MB")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("14d", 1_209_600), ("1h30m", 5400), (5, 5)]
)
def test_a_duration_is_read_with_its_units(text: object, seconds: int) -> None:
    """Several units add up."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "1.5h", "2 h", "2w", "-2h", True, None, "36501d", "999999999d", 10**12])
def test_what_is_no_duration_is_refused(text: object) -> None:
    """A number without a unit could be anything."""
    with pytest.raises(ValueError, match="a duration is"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "ppm"), [("1%", 10_000), ("0.5%", 5_000), ("100 %", 1_000_000), ("0.0001%", 1)])
def test_a_share_is_read_as_parts_per_million(text: object, ppm: int) -> None:
    """Exactly, down to one millionth."""
    assert parse_percent(text) == ppm


@pytest.mark.parametrize("text", ["1", "%", "1e2%", "-1%", True, None, 10, 10_000])
def test_what_is_no_share_is_refused(text: object) -> None:
    """A share without its sign could be a fraction, a percentage or parts per million."""
    with pytest.raises(ValueError, match="a share is"):
        parse_percent(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1000 * 2**20, "1000 MiB"),
        (2**30, "1 GiB"),
        (5000 * 2**50, "5000 PiB"),
    ],
)
def test_a_size_is_shown_in_three_digits(size_bytes: int, text: str) -> None:
    """Short enough for a table's column, never in exponents."""
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.2 s"), (12, "12 s"), (185, "3m 05s"), (3720, "1h 02m"), (90_000, "1d 01h")]
)
def test_a_duration_is_shown_in_two_units(seconds: float, text: str) -> None:
    """The larger two that there are."""
    assert format_duration(seconds) == text


def test_a_number_of_things_is_in_the_plural_unless_it_is_one() -> None:
    """As English has it, with the plural of its own where there is one."""
    assert [number_of(count, "user") for count in (0, 1, 1200)] == ["0 users", "1 user", "1,200 users"]
    assert number_of(2, "copy", "copies") == "2 copies"
