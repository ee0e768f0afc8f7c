"""The directory of users: read from CSV or Parquet, checked row by row, written as Parquet that is ordered by user id.

A missing country is allowed and goes to review later. An empty status is kept as '', which no policy knows, so it goes to review
as well. A hold must be said in every row where the spec names a column for it: an empty one is refused, because "no hold"
must not be guessed. Without such a column nobody is held, and without a status column everybody is `active`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import duckdb

from migrate.errors import InputError
from migrate.inventory.aside import aside
from migrate.inventory.columns import Table, boolean_sql, open_table, text_sql, typed_column
from migrate.inventory.files import DIRECTORY_COLUMNS, DirectoryFile, check_age, seal
from migrate.inventory.source import Fetcher, Opener, find_place
from migrate.inventory.tables import Check, check_rows, check_unique, fingerprint, open_tables, reading
from migrate.spec import Directory, DirectoryColumns
from migrate.sql import literal
from migrate.stopping import Stopping, never
from migrate.workspace import Workspace

_USER_BYTES_MAX = 1024


def _checks(columns: DirectoryColumns) -> tuple[Check, ...]:
    user = f"column {columns.user!r}: the user id"
    return (
        Check("user_id IS NULL", f"{user} is empty"),
        Check(f"strlen(user_id) > {_USER_BYTES_MAX}", f"{user} has more than {_USER_BYTES_MAX} bytes"),
        Check(
            r"regexp_matches(user_id, '^[\s\pZ]|[\s\pZ]$')", f"{user} begins or ends with a blank: that is another user"
        ),
        Check("contains(user_id, '/')", f"{user} holds a `/`, and in a key an id is what stands between two of them"),
        Check("contains(user_id, chr(0))", f"{user} holds a NUL character"),
        Check("contains(country_given, chr(0))", f"column {columns.country!r}: a NUL character"),
        Check("hold IS NULL", f"column {columns.hold!r}: neither true nor false (nor yes, no, t, f, y, n, 1, 0)"),
    )


def read_directory(
    directory: Directory,
    *,
    opener: Opener,
    workspace: Workspace,
    scratch: Path,
    now: Callable[[], datetime],
    is_stopping: Stopping = never,
) -> DirectoryFile:
    """Read the directory that the spec names. InputError where it is too old, cannot be read, or a row is wrong.

    `opener` gives the store of a `store:NAME/KEY` path, read-only. `scratch` is a private folder; the result stays there.
    """
    return aside(lambda: _read(directory, opener, workspace, scratch, now), is_stopping)


def _read(
    directory: Directory, opener: Opener, workspace: Workspace, scratch: Path, now: Callable[[], datetime]
) -> DirectoryFile:
    place = find_place(directory.path, workspace)
    remedy = "Export the directory again and set directory.as_of, or raise directory.max_age."
    check_age(place.label, directory.as_of, directory.max_age, now(), remedy=remedy)
    workspace.ensure(scratch)
    folder = Path(tempfile.mkdtemp(prefix="directory-", dir=scratch))
    try:
        fetcher = Fetcher(opener, folder)
        fetched = fetcher.fetch_proved(place) if directory.checksummed else fetcher.fetch(place)
        with open_tables(scratch) as connection, reading(place.label):
            table = open_table(connection, fetched.path, place.label)
            staged = folder / "staged.parquet"
            _stage(connection, table, directory, staged, place.label)
            final = scratch / "directory.parquet"
            rows = _write(connection, staged, place.label, final, directory.columns)
            digest = fingerprint(connection, final, DIRECTORY_COLUMNS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return DirectoryFile(final, rows, directory.as_of, digest)


def _stage(connection: duckdb.DuckDBPyConnection, table: Table, directory: Directory, staged: Path, label: str) -> None:
    columns = directory.columns
    user = typed_column(table, columns.user, text_sql, "text", label)
    country = typed_column(table, columns.country, text_sql, "text", label)
    hold = typed_column(table, columns.hold, boolean_sql, "a truth value", label) if columns.hold else "false"
    status = typed_column(table, columns.status, text_sql, "text", label) if columns.status else "'active'"
    connection.execute(
        f'COPY (SELECT 0 AS "file", {table.row} AS "row", {user} AS user_id, {country} AS country_given, '
        f"{hold} AS hold, coalesce({status}, '') AS status FROM {table.relation}) "
        f"TO {literal(str(staged))} (FORMAT parquet)"
    )


def _write(
    connection: duckdb.DuckDBPyConnection, staged: Path, label: str, final: Path, columns: DirectoryColumns
) -> int:
    check_rows(connection, staged, [label], _checks(columns), remedy="Mend these rows where the directory comes from.")
    rows = check_unique(
        connection,
        staged,
        [label],
        "user_id",
        problem=f"column {columns.user!r}: the same user id stands in another row",
        remedy="Each user has one row, with one country. Mend these rows where the directory comes from.",
    )
    if rows == 0:
        raise InputError(f"{label}: holds no users", remedy="Export the directory again.")
    seal(staged, final)
    return rows
