"""Columns of a foreign file, by name and in the type that they must have. Nothing is inferred: not the type, not the zone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from migrate.errors import InputError
from migrate.inventory.files import parquet_glob
from migrate.inventory.source import check_end, check_text, csv_header, is_parquet
from migrate.inventory.tables import parquet_sql
from migrate.sql import literal, quoted

_TEXT_TYPES = {"VARCHAR"}
_INTEGER_TYPES = {
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
}  # fmt: skip
_TIME_TYPES = {"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"}

# a time with its zone: nothing is guessed where it is missing
_TIME = r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}(:?\d{2})?)"


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV or Parquet file as DuckDB sees it: the relation, and for each column its SQL name and type."""

    relation: str
    row: str  # the SQL of the row number, from 1
    columns: dict[str, tuple[str, str]]


def csv_table(path: Path, names: Sequence[str], *, header: bool) -> Table:
    """A CSV file whose columns are `names`, in that order. Every column is text; an empty field is NULL."""
    columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(names)))
    relation = (
        f"read_csv({literal(parquet_glob(path))}, auto_detect = false, header = {str(header).lower()}, "
        f"columns = {{{columns}}}, delim = ',', quote = '\"', escape = '\"', comment = '', nullstr = '', "
        "strict_mode = true, null_padding = false, ignore_errors = false, encoding = 'utf-8', compression = 'none', "
        "hive_partitioning = false)"
    )
    return Table(relation, "row_number() OVER ()", {name: (f"c{n}", "VARCHAR") for n, name in enumerate(names)})


def parquet_table(connection: duckdb.DuckDBPyConnection, path: Path) -> Table:
    """A Parquet file, with the types that it declares."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {parquet_sql(path)}").fetchall()
    columns = {name: (quoted(name), _zoned(kind)) for name, kind, *_ in described}
    return Table(parquet_sql(path, numbered=True), "file_row_number + 1", columns)


def _zoned(kind: str) -> str:
    return "TIMESTAMP WITH TIME ZONE" if kind == "TIMESTAMPTZ" else kind


def text_sql(column: tuple[str, str]) -> str | None:
    """The column as text, empty being NULL; None where its type does not hold text. Whole numbers and UUIDs count as text."""
    name, kind = column
    if kind in _TEXT_TYPES:
        return f"nullif({name}, '')"
    if kind in _INTEGER_TYPES or kind == "UUID" or kind.startswith("ENUM("):
        return f"CAST({name} AS VARCHAR)"
    return None


def etag_sql(text: str) -> str:
    """An ETag without the quotes that HTTP puts around it; most are written without, and are not looked through twice."""
    return f"CASE WHEN contains({text}, '\"') THEN trim({text}, '\"') ELSE {text} END"


def integer_sql(column: tuple[str, str]) -> str | None:
    """The column as BIGINT, NULL where it is no whole number; None where its type never holds one."""
    name, kind = column
    if kind in _TEXT_TYPES:  # a plain cast would round 1.5
        return f"CASE WHEN regexp_full_match({name}, '-?[0-9]{{1,19}}') THEN TRY_CAST({name} AS BIGINT) END"
    return f"TRY_CAST({name} AS BIGINT)" if kind in _INTEGER_TYPES else None


def boolean_sql(column: tuple[str, str]) -> str | None:
    """The column as BOOLEAN, NULL where it is neither; None where its type never is. Words as people write them."""
    name, kind = column
    if kind == "BOOLEAN":
        return name
    if kind in _TEXT_TYPES or kind in _INTEGER_TYPES:
        return (
            f"CASE WHEN lower(CAST({name} AS VARCHAR)) IN ('true', 't', 'yes', 'y', '1') THEN true "
            f"WHEN lower(CAST({name} AS VARCHAR)) IN ('false', 'f', 'no', 'n', '0') THEN false END"
        )
    return None


def time_sql(column: tuple[str, str]) -> str | None:
    """The column as TIMESTAMP in UTC, NULL where it is no time; None where its type never is.

    A text needs its zone (`Z` or an offset). A Parquet TIMESTAMP without zone is UTC.
    """
    name, kind = column
    if kind in _TEXT_TYPES:
        whole = f"CASE WHEN regexp_full_match({name}, {literal(_TIME)}) THEN {name} END"
        return f"CAST(TRY_CAST({whole} AS TIMESTAMPTZ) AS TIMESTAMP)"
    return f"CAST({name} AS TIMESTAMP)" if kind in _TIME_TYPES else None


def open_table(connection: duckdb.DuckDBPyConnection, path: Path, label: str) -> Table:
    """A file with named columns: Parquet by its mark, else CSV with a header. InputError where it was cut or a name stands twice.

    Parquet proves itself: its footer stands last, and without it nothing can be read.
    """
    if is_parquet(path):
        return parquet_table(connection, path)
    check_text(path, label)
    check_end(path, label)
    names = csv_header(path, label)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{label}: line 1: a column name stands twice", remedy="Give each column its own name.")
    return csv_table(path, names, header=True)


def _there(table: Table) -> str:
    """The columns that there are. A first line that names none may be a user's row: what holds a digit is not repeated."""
    names = list(table.columns)
    if len(names) == 1:
        for mark, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if mark in names[0]:
                return f"its fields are separated by {called}, and CSV's are by commas"
    shown = [name for name in names if re.fullmatch(r"[A-Za-z_ -]{1,40}", name)]
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return f"it has {', '.join(shown)}{more}" if shown else f"its first line names {len(names)} others"


def typed_column(
    table: Table, name: str, to_sql: Callable[[tuple[str, str]], str | None], wants: str, label: str
) -> str:
    """The SQL of a required column in its type. InputError that names the file and the column."""
    if name not in table.columns:
        raise InputError(
            f"{label}: no column {name!r}; {_there(table)}",
            remedy="Name the columns as the spec does (exactly, separated by commas), or mend the spec.",
        )
    sql = to_sql(table.columns[name])
    if sql is None:
        kind = table.columns[name][1]
        raise InputError(f"{label}: column {name!r} is {kind} and not {wants}", remedy=f"Write it as {wants}.")
    return sql
