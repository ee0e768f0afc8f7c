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


def parse_spec(text: str, *, place: str) -> Spec:
    """Read a spec from TOML. SpecError with all problems, each with its place."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{place} is not TOML", [f"{place}: {error}"], remedy="Mend the line that is named.") from error
    return spec_from_data(data, place=place)


def spec_from_data(data: Mapping[str, Any], *, place: str) -> Spec:
    """Like `parse_spec`, from plain data: what a plan keeps of its spec."""
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems = [_line(item) for item in found if not _echoes(item, found)]
        raise _refusal(
            problems, place
        ) from None  # pydantic's error repeats the input, which may hold what should not be shown
    problems = find_problems(spec)
    if problems:
        raise _refusal(problems, place)
    return spec


def _refusal(problems: list[str], place: str) -> SpecError:
    return SpecError(
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


def _line(item: Any) -> str:
    where = ".".join(str(step) for step in item["loc"] if step != "[key]")
    message = "unknown key" if item["type"] == "extra_forbidden" else str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def load_spec(path: Path) -> Spec:
    """Read the spec at `path`. SpecError if it is not there, not UTF-8, or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"no spec at {path}", remedy="`migrate init` writes one to start from.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}", remedy="A spec is a UTF-8 text file.") from error
    return parse_spec(text, place=str(path))
