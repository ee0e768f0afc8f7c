"""The canonical form of a plan's tables, as SQL, and the digests over it. One expression serves the build and every reader.

A row is its fields one after the other, in the order of the table's columns, each with its length before it (`sql.canonical`). So
nothing depends on Parquet's bytes, a time zone or a locale.

- A batch's digest is SHA-256 over its objects by ordinal, which is that of an object's first copy: the next one's is one more.
- The digest of a whole table is SHA-256 over the digests of its blocks of `BLOCK_ROWS` rows: memory stays bounded.
- The plan's digest is SHA-256 over the canonical JSON of what `plan.json` says, without the keys in `OUTSIDE`, and with the
  spec cut down to what decides who, what and where (`spec.deciding`). It is taken from what is written there and from nothing
  else: what a later version of the tool would add to a spec, or assume of it, is not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from migrate.errors import InterruptedRun
from migrate.spec import deciding
from migrate.sql import canonical
from migrate.stopping import Stopping, never

BLOCK_ROWS = 10_000
OUTSIDE = frozenset({"digest", "built_at", "tool_version", "inputs", "skew_seconds", "spec", "cutover"})


@dataclass(frozen=True, slots=True)
class Table:
    """A kind of file in a plan folder: its columns with their SQL types, and the total order of its rows."""

    columns: tuple[tuple[str, str], ...]
    order: str

    @property
    def names(self) -> str:
        return ", ".join(name for name, _ in self.columns)

    @property
    def typed(self) -> str:
        """The columns as a select list that fixes each type."""
        return ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in self.columns)

    @property
    def canonical(self) -> str:
        """The SQL expression for a row's canonical form."""
        return canonical(self.columns)


OBJECTS = Table(
    (
        ("batch", "INTEGER"),
        ("ordinal", "INTEGER"),
        ("user_id", "VARCHAR"),
        ("store", "VARCHAR"),
        ("key", "VARCHAR"),
        ("version_id", "VARCHAR"),
        ("etag", "VARCHAR"),
        ("size", "BIGINT"),
        ("last_modified", "TIMESTAMP"),
        ("category", "VARCHAR"),
        ("rule", "VARCHAR"),
        ("flag", "VARCHAR"),
        ("home_store", "VARCHAR"),
        ("backup_store", "VARCHAR"),
        ("home_replaces", "VARCHAR"),
        ("backup_replaces", "VARCHAR"),
        ("target_key", "VARCHAR"),
    ),
    "batch, ordinal",
)
USERS = Table(
    (
        ("user_id", "VARCHAR"),
        ("country", "VARCHAR"),
        ("country_given", "VARCHAR"),
        ("state", "VARCHAR"),
        ("scope_rule", "VARCHAR"),
        ("home", "VARCHAR"),
        ("backup", "VARCHAR"),
        ("placement_rule", "VARCHAR"),
        ("wave", "INTEGER"),
        ("objects", "BIGINT"),
        ("copies", "BIGINT"),
        ("size_bytes", "BIGINT"),
        ("first_batch", "INTEGER"),
        ("last_batch", "INTEGER"),
    ),
    "sha256(user_id), user_id",
)
BATCHES = Table(
    (
        ("number", "INTEGER"),
        ("wave", "INTEGER"),
        ("users", "BIGINT"),
        ("objects", "BIGINT"),
        ("copies", "BIGINT"),
        ("size_bytes", "BIGINT"),
        ("digest", "BLOB"),
        ("key_from", "VARCHAR"),
        ("key_until", "VARCHAR"),
    ),
    "number",
)
FINDINGS = Table(
    (
        ("kind", "VARCHAR"),
        ("store", "VARCHAR"),
        ("user_id", "VARCHAR"),
        ("key", "VARCHAR"),
        ("detail", "VARCHAR"),
        ("count", "BIGINT"),
    ),
    "kind, store, user_id NULLS FIRST, key NULLS FIRST, detail NULLS FIRST, count",
)


def table_digest(connection: duckdb.DuckDBPyConnection, relation: str, table: Table, *, order: str = "") -> str:
    """The digest, in hex, of all rows of `relation` (a table, view or table function) in the table's order.

    `order` is another way to say it, where a column has it.
    """
    rows = connection.execute(
        f"""
        WITH numbered AS (
            SELECT row_number() OVER (ORDER BY {order or table.order}) - 1 AS place, {table.canonical} AS form FROM {relation}
        )
        SELECT sha256(string_agg(form, '' ORDER BY place)) FROM numbered GROUP BY place // {BLOCK_ROWS}
        ORDER BY place // {BLOCK_ROWS}
        """
    ).fetchall()
    return join_digests(bytes.fromhex(row[0]) for row in rows).hex()


def stream_digest(
    connection: duckdb.DuckDBPyConnection, relation: str, table: Table, is_stopping: Stopping = never
) -> str:
    """The same for files that were written in the table's order: rows pass by as they stand, and nothing is sorted or kept.

    Rows in another order have another digest. InterruptedRun when stopped: `is_stopping` is asked before each block.
    """
    connection.execute(f"SELECT {table.canonical} FROM {relation}")
    digests = []
    while rows := connection.fetchmany(BLOCK_ROWS):
        if is_stopping():
            raise InterruptedRun("stopped while a plan was read", remedy="Run it again.")
        digests.append(hashlib.sha256("".join(row[0] for row in rows).encode()).digest())
    return join_digests(digests).hex()


def join_digests(digests: Iterable[bytes]) -> bytes:
    """SHA-256 over digests, in order."""
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(digest)
    return whole.digest()


def plan_digest(document: Mapping[str, Any]) -> str:
    """The digest of a plan, in hex, from the content of its `plan.json`."""
    covered = {key: value for key, value in document.items() if key not in OUTSIDE}
    covered["deciding"] = deciding(document["spec"])
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
