"""What the tests of the inventories share: a clock that stands, a workspace, and readers of the Parquet that comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from migrate.errors import InputError
from migrate.inventory.directory import read_directory
from migrate.inventory.files import DirectoryFile, InventoryFile
from migrate.inventory.take import take_inventory
from migrate.spec import Directory, InventorySource, StoreSpec
from migrate.stores.base import Store
from migrate.stores.memory import MemoryPlace, MemoryStore
from migrate.workspace import Workspace

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def clock() -> datetime:
    return NOW


PLACE = ("file", "row")  # where a row of a foreign file stood


def rows(path: str) -> list[tuple[Any, ...]]:
    """The rows of a Parquet file or pattern, in order, without the places that they came from."""
    with duckdb.connect() as connection:
        columns = f"COLUMNS(lambda name: name NOT IN {PLACE})"
        return connection.execute(f"SELECT {columns} FROM read_parquet(?) ORDER BY ALL", [path]).fetchall()


def columns(path: str) -> list[tuple[str, str]]:
    with duckdb.connect() as connection:
        found = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [path]).fetchall()
    return [(name, kind) for name, kind, *_ in found if name not in PLACE]


def write_parquet(path: Path, query: str) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")


def whole_text(error: InputError) -> str:
    """All that an operator is shown of an error."""
    return "\n".join([error.what, *error.problems, error.remedy])


@dataclass
class Desk:
    """A workspace with one memory store behind `store:reports/...`."""

    root: Path
    reports: MemoryPlace

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    @property
    def scratch(self) -> Path:
        return self.workspace.scratch

    def open(self, name: str) -> Store:
        assert name == "reports"
        return MemoryStore(name, self.reports)

    def directory(self, **fields: Any) -> DirectoryFile:
        spec = Directory.model_validate({"path": "users.csv", "as_of": NOW, **fields})
        return read_directory(spec, opener=self.open, workspace=self.workspace, scratch=self.scratch, now=clock)

    def take(
        self,
        store: Store | None = None,
        *,
        url: str = "s3://bucket/",
        now: Callable[[], datetime] = clock,
        is_stopping: Callable[[], bool] = lambda: False,
        **inventory: Any,
    ) -> InventoryFile:
        spec = StoreSpec(
            site="us", role="source", url=url, credentials="env:US", inventory=InventorySource(**inventory)
        )
        return take_inventory(
            "us",
            spec,
            store or MemoryStore("us", MemoryPlace()),
            opener=self.open,
            workspace=self.workspace,
            scratch=self.scratch,
            now=now,
            is_stopping=is_stopping,
        )


def desk(tmp_path: Path) -> Desk:
    tmp_path.mkdir(exist_ok=True)
    return Desk(tmp_path, MemoryPlace(now=clock))
