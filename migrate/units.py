"""Sizes, rates, durations and shares as people write them, and back. Integers throughout: nothing is decided by a float."""

from __future__ import annotations

import re

_SIZES = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "PIB": 2**50,
}  # fmt: skip
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SIZE_MAX = 2**63 - 1  # what a column of bytes holds
SECONDS_MAX = 36_500 * 86_400  # a time that much earlier or later is still one


def parse_size(value: object) -> int:
    """Bytes from `16MiB`, `4GB`, `512` or an int, less than 2^63. ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)\s*", str(value))
        if not match or match[2].upper() not in _SIZES:
            raise ValueError("a size is a number with B, KB, MB, GB, TB, PB, KiB, MiB, GiB, TiB or PiB")
        size = _times(match[1], _SIZES[match[2].upper()])
    if size > SIZE_MAX:
        raise ValueError("a size is at most 8191PiB: a larger one cannot be counted")
    return size


def parse_rate(value: object) -> int:
    """Bytes a second from `200MB/s`, `25MiB/s` or an int. ValueError otherwise."""
    if isinstance(value, str):
        if not value.strip().endswith("/s"):
            raise ValueError("a rate is a size a second, such as 200MB/s")
        value = value.strip().removesuffix("/s")
    return parse_size(value)


def parse_duration(value: object) -> int:
    """Seconds from `90s`, `15m`, `2h`, `14d`, `1h30m` or an int, 36,500 days at most. ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    else:
        if not re.fullmatch(r"\s*([0-9]{1,9}[smhd])+\s*", str(value)):
            raise ValueError("a duration is a number with s, m, h or d, such as 2h or 1h30m")
        seconds = sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", str(value)))
    if seconds > SECONDS_MAX:
        raise ValueError("a duration is at most 36500d")
    return seconds


def parse_percent(value: object) -> int:
    """Parts per million from `1%`, `0.5%`. ValueError otherwise, also for a bare number."""
    match = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,4})?)\s*%\s*", str(value))
    if not match:
        raise ValueError("a share is a number with %, such as 1% or 0.5%")
    return _times(match[1], 10_000)


def _times(decimal: str, factor: int) -> int:
    """A decimal number times a whole one, rounded down, without a float."""
    whole, _, fraction = decimal.partition(".")
    product: int = int(whole + fraction) * factor // 10 ** len(fraction)
    return product


def number_of(count: int, noun: str, plural: str = "") -> str:
    """`1 user`, `1,200 users`, `2 copies`: for people."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def format_size(size_bytes: float) -> str:
    """`1.5 GiB`: for people; three significant digits."""
    number = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if number < 1024 or unit == "PiB":
            return (
                f"{number:.0f} {unit}"
                if unit == "B"
                else f"{number:.3g} {unit}"
                if number < 1000
                else f"{number:.0f} {unit}"
            )
        number /= 1024
    raise AssertionError("unreachable")


def format_duration(seconds: float) -> str:
    """`1h 02m`, `3m 05s`, `12 s`: for people."""
    whole = round(seconds)
    if whole >= 86400:
        return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    if whole >= 60:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
