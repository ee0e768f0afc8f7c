"""Reading a spec: from a file, from text, or from what a plan keeps of it. All problems are told at once, each with its place."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from migrate.errors import SpecError
from migrate.spec.checks import find_problems
from migrate.spec.sections import Spec
from migrate.spec.values import IS_KEPT, PATTERN_WORDS

_TIME = "a time is written with its offset, such as 2026-11-22T00:00:00Z"


def parse_spec(text: str, *, place: str) -> Spec:
    """Read a spec from TOML. SpecError with all problems, each with its place."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{place} is not TOML", [f"{place}: {error}"], remedy="Mend the line that is named.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise SpecError(f"{place} is TOML that no spec needs", remedy="Shorten its numbers and its nesting.") from error
    return spec_from_data(data, place=place)


def spec_from_data(data: Mapping[str, Any], *, place: str, is_kept: bool = False) -> Spec:
    """Like `parse_spec`, from plain data. `is_kept` for what a plan keeps of its spec, where every number has lost its unit."""
    try:
        spec = Spec.model_validate(data, context={IS_KEPT: is_kept})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems = [_line(item, data) for item in found if not _echoes(item, found)]
        is_foreign = any(item["type"] == "extra_forbidden" or item["loc"] == ("format",) for item in found)
        raise _refusal(
            problems, place, UnknownKeyError if is_foreign else SpecError
        ) from None  # pydantic's error repeats the input, which may hold what should not be shown
    problems = find_problems(spec)
    if problems:
        raise _refusal(problems, place, SpecError)
    return spec


class UnknownKeyError(SpecError):
    """A spec with a key, or of a format, that this version does not know: a later one may."""


def _refusal(problems: list[str], place: str, kind: type[SpecError]) -> SpecError:
    return kind(
        f"{place}: {len(problems)} problem{'s' if len(problems) != 1 else ''}",
        [f"{place}: {line}" for line in problems],
        remedy="docs/spec.md describes every key.",
    )


def _echoes(item: Any, found: list[Any]) -> bool:
    """A list whose members are wrong is told to be too short as well: only the members count."""
    depth = len(item["loc"])
    return item["type"] == "too_short" and any(
        other["loc"][:depth] == item["loc"] and len(other["loc"]) > depth for other in found
    )


def _line(item: Any, data: Any) -> str:
    where = _where(item["loc"], data)
    message = _words(item)
    return f"{where}: {message}" if where else message


def _where(steps: tuple[str | int, ...], data: Any) -> str:
    """The place in the file; of a list's members the name stands beside the number: `layout.rules.3 (messages).target`."""
    shown = []
    for step in steps:
        if step == "[key]":
            continue
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            data = None
        name = data.get("name") if isinstance(step, int) and isinstance(data, dict) else None
        shown.append(f"{step} ({name})" if isinstance(name, str) else str(step))
    return ".".join(shown)


# What pydantic says in its own words and people would not understand: by the kind of its error.
_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "is required",
    "timezone_aware": "a time has an offset, such as 2026-11-22T00:00:00Z",
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
}


def _words(item: Any) -> str:
    limits = item.get("ctx", {})
    if item["type"] == "string_pattern_mismatch":
        return PATTERN_WORDS[limits["pattern"]]
    return _WORDS.get(item["type"]) or str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")


def load_spec(path: Path) -> Spec:
    """Read the spec at `path`. SpecError if it is not there, not UTF-8, or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        known = sorted(Path("plans").glob("*.toml"))
        there_is = f"There is {known[0]}; " if known else ""
        raise SpecError(f"no spec at {path}", remedy=f"{there_is}`migrate init` writes one to start from.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}", remedy="A spec is a UTF-8 text file.") from error
    return parse_spec(text, place=str(path))
