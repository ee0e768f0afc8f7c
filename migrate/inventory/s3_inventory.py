"""S3 Inventory: `manifest.json`, its checksum, and the data files that it names, as CSV or Parquet.

Nothing is believed before its sum was checked: `manifest.checksum` over the manifest, and size and MD5 of every data file.
Current versions alone go on; noncurrent ones and delete markers are counted, and so are rows outside the store's prefix.

Source: S3 user guide, "Cataloging and analyzing your data with S3 Inventory" (fields of the list; `fileSchema`; key names are
URL-encoded in CSV) and "Locating your inventory list" (the checksum is the MD5 of the manifest).

How CSV encodes keys: S3 encodes as HTML forms do, `=` as %3D, `+` as %2B and a space as `+` (seen in the field:
cloud-custodian issue 1997, pull request 1998). So `+` is read as a space. A writer that leaves `+` alone would write a space
as %20, and a list that holds both cannot be decoded with certainty: it is refused. A sample of keys (`sample`) proves the rest.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import duckdb

from migrate.errors import InputError
from migrate.inventory.columns import (
    Table,
    boolean_sql,
    csv_table,
    etag_sql,
    integer_sql,
    parquet_table,
    text_sql,
    time_sql,
    typed_column,
)
from migrate.inventory.files import INVENTORY_COLUMNS, seal
from migrate.inventory.listing import row_checks
from migrate.inventory.source import Fetched, Fetcher, Opener, Place, check_text, find_place, unpack
from migrate.inventory.tables import Check, check_rows, check_unique, fingerprint, open_tables, parquet_sql, reading
from migrate.sql import literal
from migrate.workspace import Workspace

_MANIFEST_BYTES_MAX = 256 * 2**20  # about a million data files
_AGAIN = "Deliver the whole inventory again, or use a newer one."
_REQUIRED = ("Key", "Size", "LastModifiedDate", "ETag")

# the field's name in CSV, and the column's in Parquet
_PARQUET_NAMES = {
    "Bucket": "bucket",
    "Key": "key",
    "VersionId": "version_id",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
    "StorageClass": "storage_class",
    "IntelligentTieringAccessTier": "intelligent_tiering_access_tier",
    "EncryptionStatus": "encryption_status",
    "ObjectLockMode": "object_lock_mode",
    "ObjectLockLegalHoldStatus": "object_lock_legal_hold_status",
}

_ENCRYPTION = (
    "CASE {0} WHEN 'SSE-S3' THEN 'AES256' WHEN 'SSE-KMS' THEN 'aws:kms' WHEN 'DSSE-KMS' THEN 'aws:kms:dsse' "
    "WHEN 'NOT-SSE' THEN NULL ELSE {0} END"
)
# The inventory's words for the tiers of S3 Intelligent-Tiering that are not read at once, as HEAD says them: they go before the
# class, which is INTELLIGENT_TIERING in every tier.
_CLASS = (
    "CASE upper({1}) WHEN 'ARCHIVE' THEN 'ARCHIVE_ACCESS' WHEN 'ARCHIVE_ACCESS' THEN 'ARCHIVE_ACCESS' "
    "WHEN 'DEEP_ARCHIVE' THEN 'DEEP_ARCHIVE_ACCESS' WHEN 'DEEP_ARCHIVE_ACCESS' THEN 'DEEP_ARCHIVE_ACCESS' ELSE {0} END"
)
_CURRENT = "is_latest AND NOT is_delete_marker"


@dataclass(frozen=True, slots=True)
class DataFile:
    key: str
    size: int
    md5_hex: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` says."""

    place: Place
    bucket: str
    created: datetime
    csv: bool
    fields: tuple[str, ...]  # of a CSV file, in order
    files: tuple[DataFile, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of an inventory. `noncurrent` and `delete_markers` are None where it lists current versions only."""

    rows: int
    fingerprint: str
    noncurrent: int | None
    delete_markers: int | None
    left_out: int


def read_manifest(path: str, *, opener: Opener, workspace: Workspace, scratch: Path) -> Manifest:
    """Read the manifest at `path` and prove it by `manifest.checksum` beside it. InputError otherwise."""
    place = find_place(path, workspace)
    folder = Path(tempfile.mkdtemp(prefix="manifest-", dir=scratch))
    try:
        fetcher = Fetcher(opener, folder)
        fetched = fetcher.fetch(place)
        if fetched.size > _MANIFEST_BYTES_MAX:
            _refuse(place, "larger than any manifest")
        _check_sum(fetcher, place, fetched)
        try:
            document = json.loads(fetched.path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place.label}: not JSON", remedy=_AGAIN) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _parse(place, document)


def _check_sum(fetcher: Fetcher, place: Place, manifest: Fetched) -> None:
    name = "manifest.checksum"
    path = posixpath.join(posixpath.dirname(place.path), name)
    checksum = fetcher.fetch(place.beside(path, posixpath.join(posixpath.dirname(place.label), name)))
    with checksum.path.open("rb") as file:
        expected = file.read(100).strip().lower()
    if expected != manifest.md5_hex.encode():
        _refuse(place, "its MD5 is not the one in manifest.checksum")


def _refuse(place: Place, problem: str, remedy: str = _AGAIN) -> NoReturn:
    raise InputError(f"{place.label}: {problem}", remedy=remedy)


def _parse(place: Place, document: Any) -> Manifest:
    try:
        kind = str(document["fileFormat"])
        schema = str(document["fileSchema"])
        created = datetime.fromtimestamp(int(document["creationTimestamp"]) // 1000, UTC)
        bucket = str(document["sourceBucket"]).rsplit(":", 1)[-1]
        files = tuple(
            DataFile(str(item["key"]), int(item["size"]), str(item["MD5checksum"]).lower())
            for item in document["files"]
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{place.label}: not a manifest of S3 Inventory", remedy=_AGAIN) from error
    if kind.upper() not in ("CSV", "PARQUET"):
        remedy = "Set the inventory's output format to Parquet or CSV; ORC is not read."
        _refuse(place, f"the data files are {kind[:20]!r}", remedy)
    if len({file.key for file in files}) < len(files):
        _refuse(place, "a data file is named twice")
    fields = tuple(field.strip() for field in schema.split(",")) if kind.upper() == "CSV" else ()
    if len(set(fields)) < len(fields):
        _refuse(place, "fileSchema names a field twice")
    return Manifest(place, bucket, created, kind.upper() == "CSV", fields, files)


def read_inventory(
    manifest: Manifest, *, prefix: str, opener: Opener, scratch: Path, final: Path, now: datetime
) -> Reading:
    """Check every data file, and write the current objects under `prefix` as Parquet to `final`.

    One data file at a time is on scratch beside what was staged. InputError where a file is missing, damaged, does not parse, or
    a key has two current versions (design, invariant 4).
    """
    folder = Path(tempfile.mkdtemp(prefix="s3-inventory-", dir=scratch))
    labels = [f"{manifest.place.label}: {posixpath.basename(file.key)}" for file in manifest.files]
    try:
        staged = folder / "staged"
        staged.mkdir()
        with open_tables(scratch) as connection:
            versioned = [
                _read_file(connection, manifest, number, label, prefix, folder, opener)
                for number, label in enumerate(labels)
            ]
            with reading(manifest.place.label):
                if not versioned:
                    _stage_nothing(connection, staged)
                return _finish(connection, manifest, labels, staged, final, now, any(versioned))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_file(
    connection: duckdb.DuckDBPyConnection,
    manifest: Manifest,
    number: int,
    label: str,
    prefix: str,
    folder: Path,
    opener: Opener,
) -> bool:
    """Stage one data file; whether it lists versions."""
    fetcher = Fetcher(opener, folder)
    fetched = _fetch_data(fetcher, manifest, manifest.files[number], label)
    unpacked = folder / "unpacked.csv"
    with reading(label):
        if manifest.csv:
            unpack(fetched.path, unpacked, label)
            check_text(unpacked, label)
            table = csv_table(unpacked, manifest.fields, header=False)
        else:
            table = _renamed(parquet_table(connection, fetched.path))
        _stage(connection, manifest, table, number, prefix, folder / "staged" / f"{number:06d}.parquet", label)
    fetcher.forget(fetched)
    unpacked.unlink(missing_ok=True)
    return "IsLatest" in table.columns


def _fetch_data(fetcher: Fetcher, manifest: Manifest, file: DataFile, label: str) -> Fetched:
    if ".." in file.key.split("/"):
        raise InputError(f"{label}: a data file outside the inventory", remedy=_AGAIN)
    for path in _data_paths(manifest.place.path, file.key, in_store=manifest.place.store is not None):
        try:
            fetched = fetcher.fetch(manifest.place.beside(path, label))
        except InputError:
            continue
        if fetched.size != file.size:
            raise InputError(f"{label}: {fetched.size:,} bytes instead of {file.size:,}", remedy=_AGAIN)
        if fetched.md5_hex != file.md5_hex:
            raise InputError(f"{label}: its MD5 is not the one in the manifest", remedy=_AGAIN)
        return fetched
    raise InputError(f"{label}: the data file is missing", remedy=_AGAIN)


def _data_paths(manifest_path: str, key: str, *, in_store: bool) -> Iterator[str]:
    """Where the data file may be: the manifest names it by its key in the bucket that S3 delivered to.

    In a store without a prefix that is its key. Else it is found from the manifest, which S3 puts one folder below the
    configuration's, and the data files in a folder beside (`data/`, formerly `files/`); or, where somebody has copied all of it
    into one folder, beside the manifest. A wrong file cannot slip in: its MD5 is checked.
    """
    here = posixpath.dirname(manifest_path)
    above = posixpath.dirname(here)
    tail = "/".join(key.split("/")[-2:])
    if in_store:
        yield key
    for folder, name in ((above, tail), (here, tail), (here, posixpath.basename(key))):
        yield posixpath.join(folder, name)


def _renamed(table: Table) -> Table:
    columns = {name: table.columns[column] for name, column in _PARQUET_NAMES.items() if column in table.columns}
    return Table(table.relation, table.row, columns)


def _stage(
    connection: duckdb.DuckDBPyConnection,
    manifest: Manifest,
    table: Table,
    number: int,
    prefix: str,
    staged: Path,
    label: str,
) -> None:
    missing = [name for name in _REQUIRED if name not in table.columns]
    if missing:
        raise InputError(
            f"{label}: without the field{'s' * (len(missing) > 1)} {', '.join(missing)}",
            remedy=f"Enable {', '.join(missing)} in the bucket's inventory configuration, and wait for the next one.",
        )

    def text(name: str) -> str:
        return typed_column(table, name, text_sql, "text", label) if name in table.columns else "CAST(NULL AS VARCHAR)"

    def truth(name: str, otherwise: str) -> str:
        return typed_column(table, name, boolean_sql, "a truth value", label) if name in table.columns else otherwise

    key = _decoded(text("Key")) if manifest.csv else text("Key")
    inside = f"(starts_with({key}, {literal(prefix)}) AND strlen({key}) > {len(prefix.encode())})"
    connection.execute(
        f'COPY (SELECT {number} AS "file", {table.row} AS "row", '
        f"coalesce({text('Bucket')}, {literal(manifest.bucket)}) AS bucket, "
        f"coalesce({inside}, true) AS inside, "
        f"CASE WHEN {inside} THEN substr({key}, {len(prefix) + 1}) ELSE {key} END AS key, "
        f"coalesce(contains({text('Key')}, '+'), false) AS plus, coalesce(contains({text('Key')}, '%20'), false) AS space, "
        f"{text('VersionId')} AS version_id, "
        f"{truth('IsLatest', 'true')} AS is_latest, {truth('IsDeleteMarker', 'false')} AS is_delete_marker, "
        f"{typed_column(table, 'Size', integer_sql, 'a whole number', label)} AS size, "
        f"{etag_sql(text('ETag'))} AS etag, "
        f"{typed_column(table, 'LastModifiedDate', time_sql, 'a time', label)} AS last_modified, "
        f"{_CLASS.format(text('StorageClass'), text('IntelligentTieringAccessTier'))} AS storage_class, "
        f"{_ENCRYPTION.format(text('EncryptionStatus'))} AS encryption, "
        f"coalesce({text('ObjectLockMode')}, "
        f"CASE {text('ObjectLockLegalHoldStatus')} WHEN 'ON' THEN 'legal-hold' END) AS lock "
        f"FROM {table.relation}) TO {literal(str(staged))} (FORMAT parquet)"
    )


def _decoded(key: str) -> str:
    """The key from its form encoding; NULL where that is broken or is not UTF-8 inside."""
    whole = f"regexp_full_match({key}, '([^%]|%[0-9A-Fa-f]{{2}})+')"
    return f"CASE WHEN {whole} THEN TRY(url_decode(replace({key}, '+', ' '))) END"


def _stage_nothing(connection: duckdb.DuckDBPyConnection, staged: Path) -> None:
    """An inventory of an empty bucket names no data files."""
    columns = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in INVENTORY_COLUMNS)
    connection.execute(
        f'COPY (SELECT 0 AS "file", 0 AS "row", NULL::VARCHAR AS bucket, true AS inside, false AS plus, false AS space, '
        f"true AS is_latest, false AS is_delete_marker, {columns} LIMIT 0) "
        f"TO {literal(str(staged / '000000.parquet'))} (FORMAT parquet)"
    )


def _finish(
    connection: duckdb.DuckDBPyConnection,
    manifest: Manifest,
    labels: Sequence[str],
    staged: Path,
    final: Path,
    now: datetime,
    versioned: bool,
) -> Reading:
    checks = [
        Check("is_latest IS NULL OR is_delete_marker IS NULL", "IsLatest or IsDeleteMarker is neither true nor false"),
        Check(f"bucket <> {literal(manifest.bucket)}", "the row is of another bucket than the manifest"),
        *row_checks(now, where=f"inside AND {_CURRENT}"),
    ]
    check_rows(connection, staged, labels, checks, remedy=_AGAIN)
    totals = connection.execute(
        f"SELECT count(*) FILTER (WHERE inside AND NOT is_latest AND NOT is_delete_marker), "
        f"count(*) FILTER (WHERE inside AND is_delete_marker), count(*) FILTER (WHERE NOT inside), "
        f"coalesce(bool_or(plus) AND bool_or(space), false) FROM {parquet_sql(staged)}"
    ).fetchone()
    noncurrent, markers, left_out, ambiguous = totals or (0, 0, 0, False)
    if manifest.csv and ambiguous:
        _refuse(
            manifest.place, "keys with both + and %20: how spaces are encoded is uncertain", "Use a Parquet inventory."
        )
    here = f"inside AND {_CURRENT}"
    rows = check_unique(
        connection,
        staged,
        labels,
        "key",
        where=here,
        problem="the same key stands in another row as a current version",
        remedy=_AGAIN,
    )
    names = ", ".join(name for name, _ in INVENTORY_COLUMNS)
    written = final.with_name(f"{final.name}.tmp")
    connection.execute(
        f"COPY (SELECT {names} FROM {parquet_sql(staged)} WHERE {here}) TO {literal(str(written))} (FORMAT parquet)"
    )
    seal(written, final)
    digest = fingerprint(connection, final, INVENTORY_COLUMNS)
    return Reading(rows, digest, noncurrent if versioned else None, markers if versioned else None, left_out)


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """The bucket and the prefix (with its `/` at the end, or empty) of an `s3://` URL."""
    match = re.fullmatch(r"s3://([^/]+)(?:/(.*))?", url, re.DOTALL)
    if match is None:
        raise InputError("an S3 Inventory goes with a store whose url is s3://BUCKET/PREFIX/", remedy="Mend the spec.")
    prefix = match[2] or ""
    return match[1], prefix if not prefix or prefix.endswith("/") else prefix + "/"
