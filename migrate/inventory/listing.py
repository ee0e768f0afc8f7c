"""A plain listing of a store: one Parquet or CSV file with the columns key, size, etag, last_modified, and, where it has them,
version_id and storage_class. Keys are as they are (not URL-encoded) and relative to the store's prefix.

Times need a zone in CSV, and lie between 1970 (what a file system may say) and a day from now; what lies outside is a column
that was read in the wrong unit or format.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

from migrate.inventory.columns import Table, etag_sql, integer_sql, open_table, text_sql, time_sql, typed_column
from migrate.inventory.files import INVENTORY_COLUMNS, OBJECT_BYTES_MAX, seal
from migrate.inventory.source import Fetcher, Opener, find_place
from migrate.inventory.tables import Check, check_rows, check_unique, fingerprint, open_tables, reading
from migrate.sql import literal
from migrate.workspace import Workspace

KEY_BYTES_MAX = 1024  # S3 user guide, "Naming Amazon S3 objects"


def row_checks(now: datetime, *, where: str = "true") -> list[Check]:
    """What every row of an inventory must satisfy, among those for which `where` holds."""
    latest = (now + timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S")
    date = f"last_modified NOT BETWEEN TIMESTAMP '1970-01-01' AND TIMESTAMP {literal(latest)}"
    problems = (
        ("key IS NULL OR key = ''", "the key is missing or does not decode"),
        (f"strlen(key) > {KEY_BYTES_MAX}", f"the key has more than {KEY_BYTES_MAX} bytes"),
        ("size IS NULL OR size < 0", "the size is no whole number from 0"),
        (f"size > {OBJECT_BYTES_MAX}", "the size is more than 1 EiB: no object is so large"),
        ("etag IS NULL OR etag = ''", "the ETag is missing"),
        ("last_modified IS NULL", "the time of change is missing, or has no zone"),
        (date, "the time of change is before 1970 or in the future"),
    )
    return [Check(f"({where}) AND ({problem})", text) for problem, text in problems]


def read_listing(
    path: str,
    *,
    checksummed: bool,
    opener: Opener,
    workspace: Workspace,
    scratch: Path,
    final: Path,
    now: datetime,
) -> tuple[int, str]:
    """Check the listing at `path` and write it as Parquet to `final`. Its rows and its fingerprint.

    InputError where the file cannot be read or was cut, a column is missing, a row is wrong, or a key stands twice; with
    `checksummed`, where it does not match `PATH.sha256` beside it.
    """
    place = find_place(path, workspace)
    folder = Path(tempfile.mkdtemp(prefix="listing-", dir=scratch))
    try:
        fetcher = Fetcher(opener, folder)
        fetched = fetcher.fetch_proved(place) if checksummed else fetcher.fetch(place)
        with open_tables(scratch) as connection, reading(place.label):
            table = open_table(connection, fetched.path, place.label)
            staged = folder / "staged.parquet"
            _stage(connection, table, staged, place.label)
            remedy = "Make the listing again, with every column in every row."
            check_rows(connection, staged, [place.label], row_checks(now), remedy=remedy)
            rows = check_unique(
                connection,
                staged,
                [place.label],
                "key",
                problem="the same key stands in another row",
                remedy="List current versions only, each key once.",
            )
            seal(staged, final)
            return rows, fingerprint(connection, final, INVENTORY_COLUMNS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stage(connection: duckdb.DuckDBPyConnection, table: Table, staged: Path, label: str) -> None:
    key = typed_column(table, "key", text_sql, "text", label)
    size = typed_column(table, "size", integer_sql, "a whole number", label)
    etag = typed_column(table, "etag", text_sql, "text", label)
    changed = typed_column(table, "last_modified", time_sql, "a time", label)
    version, storage = (
        typed_column(table, name, text_sql, "text", label) if name in table.columns else "NULL"
        for name in ("version_id", "storage_class")
    )
    connection.execute(
        f'COPY (SELECT 0 AS "file", {table.row} AS "row", {key} AS key, CAST({version} AS VARCHAR) AS version_id, '
        f"{size} AS size, {etag_sql(etag)} AS etag, {changed} AS last_modified, "
        f"CAST({storage} AS VARCHAR) AS storage_class, CAST(NULL AS VARCHAR) AS encryption, CAST(NULL AS VARCHAR) AS lock "
        f"FROM {table.relation}) TO {literal(str(staged))} (FORMAT parquet, COMPRESSION uncompressed)"
    )
