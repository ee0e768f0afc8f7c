"""Tables in files, read and written by DuckDB: with types that are said, in UTC, in bounded memory, off the network.

A CSV or Parquet file is first staged: one Parquet file with the columns in the types that they must have, and beside them
`file` and `row`, the place where each row came from. What does not fit a type is NULL there, and the checks find it: they
report file and row numbers (1 is the first row after a header), never what stands in the row (design, invariant 10). The
foreign file is read that once, and everything after it reads what we wrote: a damaged file may not read the same twice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from migrate.errors import InputError, IntegrityError, UnreachableError
from migrate.inventory.files import parquet_glob
from migrate.inventory.source import is_parquet
from migrate.sql import literal, quoted

MEMORY_LIMIT = "512MB"
"""Of one connection; the rest is spilled to scratch. 10 million rows take 593 MB in all, a tenth slower than with 1GB."""
ROOM = (
    "See that the disk of .migrate/scratch has room for the inventories several times over, and that of .migrate/plans "
    "for a plan; "
    "then run the same command again: what was listed is kept."
)
SPILL_PREFIX = "spill-"
_THREADS = 2
_ROWS_SHOWN = 5
_BEGINNING_BYTES = 2**20


@contextmanager
def open_tables(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with a memory limit; what it spills goes to a private folder under `scratch`, and away at the end."""
    spill = tempfile.mkdtemp(prefix=SPILL_PREFIX, dir=scratch)
    connection = duckdb.connect(
        config={
            "threads": _THREADS,
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        # what a Parquet file says of its own values may be wrong, and a comparison would be answered by it unread
        connection.execute("SET disabled_optimizers = 'statistics_propagation'")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def parquet_sql(path: Path, *, numbered: bool = False) -> str:
    """The rows of a Parquet file or folder; `numbered` adds `file_row_number`, from 0."""
    # a folder named `country=IE` in the path would take the place of a column (DuckDB, "Hive Partitioning")
    numbers = ", file_row_number = true" if numbered else ""
    return f"read_parquet({literal(parquet_glob(path))}, hive_partitioning = false{numbers})"


@contextmanager
def writing() -> Iterator[None]:
    """UnreachableError where what is put aside or built cannot be written: most often, the disk is full.

    What names its file better is told before it comes here. DuckDB's text may hold a row, and is not passed on.
    """
    try:
        yield
    except OSError as error:
        raise UnreachableError(f"a file of .migrate cannot be written: {error.strerror}", remedy=ROOM) from error
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise UnreachableError(f"a file of .migrate cannot be written: {cause_of(error)}", remedy=ROOM) from error


def cause_of(error: duckdb.Error) -> str:
    """What may be told of an error of DuckDB: that the disk is full, which its text alone says, or else its kind."""
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else type(error).__name__


@contextmanager
def reading(label: str) -> Iterator[None]:
    """DuckDB's errors become InputErrors here. Their text repeats the line that does not parse, so it is not passed on."""
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        cause = cause_of(error)
        if cause != type(error).__name__ or "temp_directory" in str(error):  # nothing could be put aside
            raise UnreachableError(f"{label}: reading it failed: {cause}", remedy=ROOM) from None
        if isinstance(error, duckdb.OutOfMemoryException):
            raise InputError(
                f"{label}: reading it takes more memory than {MEMORY_LIMIT}",
                remedy="Check that the file is whole. A Parquet file may need smaller row groups.",
            ) from None
        raise InputError(f"{label}: reading it failed ({cause})", remedy="Check that the file is whole.") from None
    except duckdb.Error as error:
        form = (
            "CSV as in RFC 4180, with commas" if "CSV" in str(error) else "a Parquet file that was cut cannot be read"
        )
        raise InputError(
            f"{label}: does not parse",
            [f"{label}: {_csv_place(str(error))}"],
            remedy=f"Mend or deliver the file again; {form}.",
        ) from None


def _csv_place(text: str) -> str:
    line = re.search(r"CSV Error on Line: (\d+)", text)
    columns = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    reason = "not a table that can be read"
    if columns:
        reason = f"{columns[2]} columns instead of {columns[1]}"
    elif "Maximum line size" in text:
        reason = "a line of more than 2 MB"
    elif "unterminated quote" in text:
        reason = "a quote that does not end, or ends in the middle"
    elif "invalid state" in text:
        reason = "line ends or quotes that are mixed"
    return f"line {line[1]}: {reason}" if line else reason


@dataclass(frozen=True, slots=True)
class Check:
    """Rows for which `where` holds must not be. `problem` says what they are."""

    where: str
    problem: str


def check_rows(
    connection: duckdb.DuckDBPyConnection, staged: Path, labels: Sequence[str], checks: Sequence[Check], *, remedy: str
) -> None:
    """InputError with files and row numbers, where any check finds a row. All problems are reported together."""
    counts = ", ".join(f"count(*) FILTER (WHERE {check.where})" for check in checks)
    found = connection.execute(f"SELECT {counts} FROM {parquet_sql(staged)}").fetchone()
    problems: list[str] = []
    for check, count in zip(checks, found or (), strict=True):
        if count:
            problems += _places(connection, staged, labels, check, count)
    if problems:
        raise InputError(f"{labels[0]}: {len(problems)} problem{'s' * (len(problems) > 1)}", problems, remedy=remedy)


def _places(
    connection: duckdb.DuckDBPyConnection, staged: Path, labels: Sequence[str], check: Check, count: int
) -> list[str]:
    rows = connection.execute(
        f'SELECT "file", "row" FROM {parquet_sql(staged)} WHERE {check.where} ORDER BY "file", "row" LIMIT {_ROWS_SHOWN}'
    ).fetchall()
    by_file: dict[int, list[str]] = {}
    for file, row in rows:
        by_file.setdefault(file, []).append(f"{row:,}")
    more = f" (and {count - len(rows):,} more)" if count > len(rows) else ""
    places = [
        f"{labels[file]}: row{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {check.problem}"
        for file, numbers in by_file.items()
    ]
    return [*places[:-1], places[-1] + more]


def check_unique(
    connection: duckdb.DuckDBPyConnection,
    staged: Path,
    labels: Sequence[str],
    column: str,
    *,
    problem: str,
    remedy: str,
    where: str = "true",
) -> int:
    """The number of staged rows for which `where` holds. InputError where two of them have the same value in the column.

    Values are told apart by a hash of theirs, of eight bytes: where there are as many hashes as rows no value stands twice. Only
    where there are fewer, the values themselves are grouped.
    """
    rows, hashes = _one(
        connection, f"SELECT count(*), count(DISTINCT hash({column})) FROM {parquet_sql(staged)} WHERE {where}"
    )
    if hashes < rows:
        twins = (
            f"SELECT {column} FROM {parquet_sql(staged)} WHERE {where} "
            f"GROUP BY {column} HAVING count(*) > 1 ORDER BY {column} LIMIT {_ROWS_SHOWN}"
        )
        check_rows(connection, staged, labels, [Check(f"({where}) AND {column} IN ({twins})", problem)], remedy=remedy)
    return int(rows)


def count_rows(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """The number of rows of a Parquet file or folder."""
    return int(_one(connection, f"SELECT count(*) FROM {parquet_sql(path)}")[0])


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The one row of a query that has one."""
    row: tuple[Any, ...] | None = connection.execute(query).fetchone()
    if row is None:
        raise IntegrityError("a count without an answer")
    return row


def rows_about(path: Path) -> int:
    """About how many rows a CSV or Parquet file has: by its footer, or by the lines at its beginning and its size. 0 for none."""
    try:
        if is_parquet(path):
            with duckdb.connect() as connection:
                return count_rows(connection, path)
        with path.open("rb") as file:
            lines = file.read(_BEGINNING_BYTES).count(b"\n")
            return lines * path.stat().st_size // max(1, file.tell())
    except (OSError, duckdb.Error):
        return 0


def fingerprint(connection: duckdb.DuckDBPyConnection, path: Path, columns: Sequence[tuple[str, str]]) -> str:
    """64 hex digits that stand for the set of rows, whatever their order, the files' bytes or their Parquet version.

    Two of DuckDB's hashes of each row are summed over all rows as exact integers, and the sums, the count and DuckDB's release
    are hashed once more. A sum needs no sort and no memory, and unlike XOR does not lose two equal rows. It names an input, for
    people who look at two plans; it is no defence against one who forges rows, which the plan's own digests are.
    """
    names = ", ".join(quoted(name) for name, _ in columns)
    sums = f"sum(hash({names})), sum(hash(1, {names}))"
    row = _one(connection, f"SELECT version(), count(*), {sums} FROM {parquet_sql(path)}")
    return hashlib.sha256(":".join(str(value or 0) for value in row).encode()).hexdigest()
