"""For the tests of commands: the real entry point in this process, and a small workspace on folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from migrate.cli import boundary
from migrate.ledger import Ledger
from migrate.ledger.rows import RunRow
from migrate.model import Attributes
from migrate.stores.file import FILE_CAPABILITIES, FileStore
from migrate.workspace import Workspace

HOSTILE_USER = "[bold]u\x1b]0;owned\x07\u202e"
HOSTILE_KEY = "odd/[red]\x1b[2J\r\n\u2066key\\n"

SPEC = """
format = 1
name = "small"
[sites]
us = { country = "US" }
singapore = { country = "SG" }
dublin-1 = { country = "IE" }
hamar = { country = "NO" }
[stores]
us = { site = "us", role = "source", url = "file:stores/us" }
singapore = { site = "singapore", role = "backup", backup_of = "us", url = "file:stores/singapore" }
dublin-1 = { site = "dublin-1", role = "target", url = "file:stores/dublin-1" }
hamar = { site = "hamar", role = "target", url = "file:stores/hamar" }
[directory]
path = "users.csv"
as_of = 2026-11-01T00:00:00Z
max_age = "36500d"
[[layout.rules]]
name = "all"
pattern = "users/{user}/{rest}"
category = "restricted"
[[placement.rules]]
name = "everyone"
countries = ["*"]
home = ["dublin-1"]
backup = ["hamar"]
[residency]
target_countries = ["IE", "NO"]
worker_countries = ["IE"]
[run]
country = "IE"
"""


@dataclass(frozen=True, slots=True)
class Done:
    """A command's end."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that stands as JSON on stderr, among its log lines."""
        return next(line["error"] for line in map(json.loads, self.err.splitlines()) if "error" in line)


Run = Callable[..., Done]


def runner(capsys: pytest.CaptureFixture[str], root: Path) -> Run:
    """`run("plan", "x.toml")` in the workspace `root`."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = boundary.run(["--workspace", str(root), *arguments])
        captured = capsys.readouterr()
        return Done(int(code), captured.out, captured.err)

    return run


def build_workspace(root: Path, *, spec: str = SPEC, users: Mapping[str, str] | None = None) -> Path:
    """A workspace with objects of each user at both sources, and one key that no rule knows; the spec's path."""
    people = {"anna": "IE", "bert": "NO", "carl": "US"} if users is None else users
    (root / "plans").mkdir(parents=True)
    path = root / "plans" / "small.toml"
    path.write_text(spec)
    rows = "".join(f'"{user}",{country}\n' for user, country in people.items())
    (root / "users.csv").write_text("user_id,country\n" + rows, newline="")
    for name in ("dublin-1", "hamar"):
        (root / "stores" / name).mkdir(parents=True)
    for name in ("us", "singapore"):
        keys = [f"users/{user}/{number}.jpg" for user in people for number in range(3)]
        fill(root, name, [*keys, HOSTILE_KEY])
    return path


def fill(root: Path, name: str, keys: list[str]) -> None:
    folder = root / "stores" / name
    folder.mkdir(parents=True, exist_ok=True)
    store = FileStore(name, folder, capabilities=FILE_CAPABILITIES, writable=True)
    for key in keys:
        body = b"content of " + key.encode()
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        store.put(key, body, attributes=Attributes(), tags={}, md5=md5)
    store.close()


def runs_of(root: Path) -> list[RunRow]:
    """The rows of the workspace's ledger, newest first."""
    ledger = Ledger.open(Workspace(root).ledger_url, create=False)
    try:
        return ledger.runs(limit=10)
    finally:
        ledger.close()


def is_harmless(text: str) -> bool:
    """No control character but the newline, and none that turns the direction of writing."""
    return all(char == "\n" or char.isprintable() for char in text)


NOW = datetime(2026, 11, 24, tzinfo=UTC)
