"""What the tests of hostile input share: a workspace with one thing wrong, and what a refusal of it must be."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from commands import Done, is_harmless

from migrate.cli import boundary
from migrate.errors import ExitCode

SECRET = "person-4711"
Change = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Case:
    """A workspace with one thing wrong; what the refusal must say, word for word, and its exit code."""

    name: str
    change: Change
    says: tuple[str, ...]
    code: ExitCode = ExitCode.BAD_SPEC


def spec_of(root: Path) -> Path:
    return root / "plans" / "small.toml"


def words(done: Done) -> str:
    """stderr without the log."""
    return "".join(line for line in done.err.splitlines(keepends=True) if not line.startswith("timestamp="))


def assert_refused(root: Path, done: Done, code: ExitCode, *says: str) -> None:
    """Refused in so many words, and nothing else happened."""
    text = words(done)
    assert (done.code, done.out) == (code, ""), text
    assert "error: " in text
    assert "\nnext: " in text
    assert "Traceback" not in text
    assert "unexpected" not in text
    assert not list(root.rglob("crash-*"))
    assert not list((root / ".migrate" / "plans").glob("*"))
    assert SECRET not in done.err  # invariant 10
    assert is_harmless(done.err)
    for part in says:
        assert part in text


def parquet(query: str, spoil: Callable[[bytes], bytes] = bytes, name: str = "users.csv") -> Change:
    """A Parquet file under the directory's name: it is known by its mark."""

    def change(root: Path) -> None:
        duckdb.execute(f"COPY ({query}) TO '{root / 'made.parquet'}' (FORMAT parquet)")
        (root / name).write_bytes(spoil((root / "made.parquet").read_bytes()))

    return change


def both(*changes: Change) -> Change:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def named(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def accepting(done: Done) -> list[str]:
    return [word for blocker in done.answer["blockers"] for word in ("--accept", blocker["accept"])]


@dataclass(frozen=True, slots=True)
class Shown:
    """A command's end. On a terminal `err` is all that was shown, of both streams."""

    code: int
    out: str
    err: str


def in_a_pipe(words: Sequence[str]) -> Shown:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = boundary.run(words)
    return Shown(int(code), out.getvalue(), err.getvalue())
