"""What reading the inputs yields, and how files of it come to be: private, whole, or not there at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from migrate.errors import InputError
from migrate.units import format_duration

Progress = Callable[[str, int], None]
"""Told the name of a store and how many of its objects were read so far. Called from other threads."""

INVENTORY_COLUMNS = (
    ("key", "VARCHAR"),
    ("version_id", "VARCHAR"),
    ("size", "BIGINT"),
    ("etag", "VARCHAR"),
    ("last_modified", "TIMESTAMP"),
    ("storage_class", "VARCHAR"),
    ("encryption", "VARCHAR"),
    ("lock", "VARCHAR"),
)
"""Keys are relative to the store's prefix, ETags without quotes, times UTC. `encryption` and `lock` speak like ObjectInfo."""

OBJECT_BYTES_MAX = 2**60
"""No store has a larger object (S3: 50 TB). A size over it is a column that was read wrong."""

DIRECTORY_COLUMNS = (
    ("user_id", "VARCHAR"),
    ("country_given", "VARCHAR"),
    ("hold", "BOOLEAN"),
    ("status", "VARCHAR"),
)


@dataclass(frozen=True, slots=True)
class InventoryFile:
    """All current objects of one store, as Parquet on scratch: one file, or a folder of segments. The rows are in no order;
    beside INVENTORY_COLUMNS there may be `file` and `row`, where a row stood in the file that was read.

    `as_of` to `until` is the time that it took to list (both are the same where the source is a snapshot). The counts
    are None where they are not known. `left_out` counts what was listed and is no object of this store: rows of an S3 Inventory
    outside the store's prefix, and the object whose key is the prefix itself (relative to it, it has no name).
    """

    store: str
    kind: str
    path: Path
    rows: int
    as_of: datetime
    until: datetime
    fingerprint: str
    noncurrent: int | None = None
    delete_markers: int | None = None
    open_uploads: int | None = None
    left_out: int = 0

    @property
    def glob(self) -> str:
        """The pattern that DuckDB's `read_parquet` takes for it."""
        return parquet_glob(self.path)


@dataclass(frozen=True, slots=True)
class DirectoryFile:
    """The directory as Parquet on scratch, ordered by user id."""

    path: Path
    rows: int
    as_of: datetime
    fingerprint: str

    @property
    def glob(self) -> str:
        return parquet_glob(self.path)


def parquet_glob(path: Path) -> str:
    """A DuckDB pattern for one Parquet file, or for all in a folder; odd characters in the path itself are taken literally."""
    return f"{glob.escape(str(path))}/*.parquet" if path.is_dir() else glob.escape(str(path))


def seal(temporary: Path, final: Path) -> None:
    """Give a finished file its name: private, on disk, and only then visible."""
    temporary.chmod(0o600)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    sync_folder(final.parent)


def write_sealed(path: Path, content: bytes) -> None:
    """Write a small file so that a reader, or the next process after a crash, sees the old content or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    seal(temporary, path)


def sync_folder(folder: Path) -> None:
    """Make a rename or a removal in `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_age(what: str, as_of: datetime, max_age_seconds: int, now: datetime, *, remedy: str) -> None:
    """InputError where `what` shows a time that is too long ago, or has not come yet."""
    if as_of > now:
        raise InputError(
            f"{what}: its time, {_time(as_of)}, has not come yet (now {_time(now)})",
            remedy="Mend `as_of` in the spec, or this machine's clock.",
        )
    if as_of + timedelta(seconds=max_age_seconds) < now:
        age, most = format_duration((now - as_of).total_seconds()), format_duration(max_age_seconds)
        raise InputError(f"{what}: too old: it shows {_time(as_of)}, {age} ago, and max_age is {most}", remedy=remedy)


def _time(value: datetime) -> str:
    return value.isoformat(timespec="seconds")
