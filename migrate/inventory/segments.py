"""Segments of a live listing: listed objects, gathered in memory up to a bound, then written as one sealed Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from migrate.inventory.files import INVENTORY_COLUMNS, seal
from migrate.model import ObjectInfo
from migrate.sql import literal, quoted

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SegmentWriter:
    """Gathers objects and writes them. For one thread."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._rows: list[ObjectInfo] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def last_key(self) -> str | None:
        return self._rows[-1].key if self._rows else None

    def add(self, page: Sequence[ObjectInfo]) -> None:
        self._rows.extend(page)

    def seal(self, path: Path) -> None:
        """Write what was gathered, in its order, and begin again."""
        rows = self._rows
        values: list[list[object]] = [
            [info.key for info in rows],
            [info.version_id for info in rows],
            [info.size for info in rows],
            [info.etag.strip('"') for info in rows],
            [(info.last_modified - _EPOCH) // _MICROSECOND for info in rows],
            [info.storage_class for info in rows],
            [info.encryption for info in rows],
            [info.lock for info in rows],
        ]
        columns = ", ".join(
            f"make_timestamp(unnest(?::BIGINT[])) AS {quoted(name)}"
            if kind == "TIMESTAMP"
            else f"unnest(?::{kind}[]) AS {quoted(name)}"
            for name, kind in INVENTORY_COLUMNS
        )
        temporary = path.with_name(path.name + ".tmp")
        self._connection.execute(
            f"COPY (SELECT {columns}) TO {literal(str(temporary))} (FORMAT parquet, COMPRESSION zstd)", values
        )
        seal(temporary, path)
        self._rows = []
