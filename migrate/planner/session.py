"""One DuckDB connection for one planning, and the SQL files that it runs. Out of core: what does not fit spills to scratch.

The files in `sql/` are the pipeline, to be read in the order in which `build.py` and its neighbours run them. `$name` in them
stands for what the spec gives: a literal, a path, or an expression made by `layout.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from string import Template
from types import TracebackType
from typing import Any, Self

import duckdb

from migrate.errors import IntegrityError, MigrateError, UnreachableError
from migrate.inventory.files import parquet_glob
from migrate.inventory.tables import ROOM, cause_of
from migrate.sql import literal

MEMORY_BYTES = 10**9
THREADS = 2


class Session:
    """A connection in memory that spills to `folder`.

    Errors of DuckDB leave as UnreachableError where disk or memory ran out, else as IntegrityError: no check caught it before.
    """

    def __init__(self, folder: Path, *, memory_bytes: int = MEMORY_BYTES, threads: int = THREADS) -> None:
        self.folder = folder
        spill = folder / "spill"
        spill.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_bytes // 2**20}MiB",
                "threads": threads,
                "temp_directory": str(spill),
                "preserve_insertion_order": False,
            },
        )
        self._connection.execute("SET TimeZone = 'UTC'")

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        return self._connection

    def run(self, name: str, **given: object) -> list[tuple[Any, ...]]:
        """Run `sql/<name>.sql` and fetch what it yields."""
        return self.query(text(name, **given))

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except duckdb.Error as error:
            raise _failed(error) from error

    def table(self, name: str, columns: str, rows: Iterable[Sequence[object]]) -> None:
        """A small table of what the spec says."""
        self.query(f"CREATE OR REPLACE TEMP TABLE {name} ({columns})")
        given = [tuple(row) for row in rows]
        if given:
            row = f"({', '.join('?' * len(given[0]))})"
            self.query(f"INSERT INTO {name} VALUES {', '.join([row] * len(given))}", list(chain.from_iterable(given)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        if isinstance(error, duckdb.Error):  # from a query on the bare connection
            raise _failed(error) from error


def _failed(error: duckdb.Error) -> MigrateError:
    # DuckDB's text may quote a value of a row, so only the kind of the error is told
    what = f"planning failed in DuckDB: {cause_of(error)}"
    if isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
        return UnreachableError(what, remedy=ROOM)
    return IntegrityError(what, remedy="This is a bug in migrate, and no plan was built: report it.")


def text(name: str, **given: object) -> str:
    """The SQL file `name`, filled in."""
    template = (files("migrate.planner") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    return Template(template).substitute({key: str(value) for key, value in given.items()}).rstrip()


def pattern(path: Path) -> str:
    """A SQL string for `read_parquet`: the file at `path`, or all Parquet files in the folder."""
    return literal(parquet_glob(path))


def numbers(values: Iterable[int]) -> str:
    """A SQL list for IN, also where it is empty."""
    return "(" + ", ".join([*map(str, values), "NULL"]) + ")"


def texts(values: Iterable[str]) -> str:
    return "(" + ", ".join([*map(literal, values), "NULL"]) + ")"
