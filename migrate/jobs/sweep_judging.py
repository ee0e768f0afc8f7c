"""Says of what a sweep has listed what is wrong, in DuckDB and out of core: whose each key is, and whether it may be there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import duckdb

from migrate.inventory.files import seal
from migrate.inventory.tables import open_tables, parquet_sql
from migrate.jobs.sweep_listing import Look
from migrate.layout import CompiledRule, at_source, at_targets, compile_rules, match, rule_sql, user_sql
from migrate.model import Role
from migrate.planner.kept import place_text
from migrate.spec import Spec
from migrate.sql import literal
from migrate.states import UserState
from migrate.stores.base import UploadInfo

UPLOAD_AGE = timedelta(days=1)
AWAITING_PURGE = "awaiting_purge"
_COLUMNS = (
    ("kind", "VARCHAR"),
    ("store", "VARCHAR"),
    ("key", "VARCHAR"),
    ("user_id", "VARCHAR"),
    ("version_id", "VARCHAR"),
    ("is_current", "BOOLEAN"),
    ("upload_id", "VARCHAR"),
    ("size_bytes", "BIGINT"),
    ("since", "TIMESTAMP"),
    ("detail", "VARCHAR"),
)
_NAMES = ", ".join(name for name, _ in _COLUMNS)


class Kind(StrEnum):
    """What a sweep finds."""

    OUTSIDE_HOME = "outside_home"
    STRAY = "stray"
    RESIDUE = "residue"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Count:
    """How many objects, versions or uploads; how large an upload is no store says."""

    number: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FoundItem:
    """A finding, with its names."""

    store: str
    key: str
    user_id: str | None
    version_id: str | None
    upload_id: str | None
    size_bytes: int | None
    since: datetime | None
    detail: str | None


class Judge:
    """Says of what was listed what is wrong. Everything here runs in DuckDB, out of core."""

    def __init__(
        self,
        spec: Spec,
        scratch: Path,
        users: Path,
        moved: Path,
        forgotten: Path,
        orphans: Path,
        left: Path,
        now: datetime,
    ) -> None:
        self._spec = spec
        self._scratch = scratch
        self._users = users
        self._moved = moved
        self._forgotten = forgotten
        self._orphans = orphans
        self._left = left
        self._now = now
        self._rules = compile_rules(spec.layout.rules)

    def judge(self, name: str, look: Look) -> tuple[int | None, dict[str, Count]]:
        """How many versions are not current, and the counts by kind; the findings are left on scratch."""
        rules, source = self._read_by(name)
        found, versions = self._found(name), None
        if found.exists():
            shutil.rmtree(found)  # what an earlier try has judged
        found.mkdir(mode=0o700)
        with open_tables(self._scratch) as connection:
            if look.objects is not None:
                is_target = self._spec.stores[name].role is Role.TARGET
                judged = self._at_target(name, rules) if is_target else self._at_source()
                connection.execute(
                    f"COPY (WITH {_listed(look)}, {_claimed(rules, source)}, judged AS ({judged}) "
                    f"SELECT kind, {literal(name)} AS store, {_unless_awaiting('key')}, {_unless_awaiting('user_id')}, "
                    f"{_unless_awaiting('version_id')}, is_current, CAST(NULL AS VARCHAR) AS upload_id, "
                    "size AS size_bytes, last_modified AS since, detail FROM judged WHERE kind IS NOT NULL) "
                    f"TO {literal(str(found / 'objects.parquet'))} (FORMAT parquet)"
                )
            if look.versions is not None:
                versions = _number(connection, parquet_sql(look.versions))
            self._write_uploads(connection, name, look.uploads, rules, source)
            counts = connection.execute(
                f"SELECT kind, count(*), coalesce(sum(size_bytes), 0) FROM {parquet_sql(found)} GROUP BY kind"
            ).fetchall()
        return versions, {kind: Count(int(number), int(size)) for kind, number, size in counts}

    def write(self, final: Path, names: Sequence[str]) -> None:
        """All findings in one private file, in their order."""
        parts = " UNION ALL ".join(f"SELECT {_NAMES} FROM {parquet_sql(self._found(name))}" for name in names)
        temporary = final.with_name(final.name + ".tmp")
        with open_tables(self._scratch) as connection:
            connection.execute(
                f"COPY (SELECT * FROM ({parts}) WHERE kind <> {literal(AWAITING_PURGE)} "
                f"ORDER BY kind, store, key, version_id, upload_id) TO {literal(str(temporary))} (FORMAT parquet)"
            )
        seal(temporary, final)

    def _found(self, name: str) -> Path:
        return self._scratch / f"found-{name}"

    def _read_by(self, name: str) -> tuple[tuple[CompiledRule, ...], str]:
        """The rules by which the store's keys are read, and the source store that they are asked for."""
        if self._spec.stores[name].role is Role.TARGET:
            return at_targets(self._rules), name
        source = self._spec.source_of(name)
        return at_source(self._rules, source), source

    def _at_source(self) -> str:
        return f"""
            SELECT
                c.*,
                CASE WHEN u.state = {literal(UserState.PURGED)} THEN {literal(Kind.RESIDUE)}
                    ELSE {literal(AWAITING_PURGE)} END AS kind,
                CAST(NULL AS VARCHAR) AS detail
            FROM claimed AS c
            JOIN {parquet_sql(self._moved)} AS u ON u.user_id = c.user_id"""

    def _at_target(self, name: str, rules: Sequence[CompiledRule]) -> str:
        shared = ", ".join([*(str(number) for number, rule in enumerate(rules) if rule.shared), "NULL"])
        site, place = literal(self._spec.stores[name].site), literal(place_text(self._spec.stores[name]))
        return f"""
            SELECT
                c.*,
                CASE
                    WHEN c.rule IN ({shared}) THEN CASE WHEN e.key IS NOT NULL THEN {literal(Kind.STRAY)} END
                    WHEN u.user_id IS NULL AND o.key IS NOT NULL THEN NULL
                    WHEN f.user_id IS NOT NULL THEN {literal(Kind.STRAY)}
                    WHEN u.home IS NULL AND u.backup IS NULL THEN {literal(Kind.STRAY)}
                    WHEN coalesce(u.home = {site}, FALSE) OR coalesce(u.backup = {site}, FALSE) THEN NULL
                    ELSE {literal(Kind.OUTSIDE_HOME)}
                END AS kind,
                CASE
                    WHEN c.rule IS NULL THEN 'no rule knows the key'
                    WHEN c.rule IN ({shared}) THEN 'copied to every site by a plan of another ledger, and by none of this one'
                    WHEN u.user_id IS NULL THEN 'no plan moves the user'
                    WHEN f.user_id IS NOT NULL THEN 'the user is forgotten'
                    WHEN u.home IS NULL AND u.backup IS NULL THEN 'the plan places the user nowhere'
                    ELSE concat('home ', u.home, ', backup ', coalesce(u.backup, 'none'))
                END AS detail
            FROM claimed AS c
            LEFT JOIN {parquet_sql(self._users)} AS u ON u.user_id = c.user_id
            LEFT JOIN {parquet_sql(self._forgotten)} AS f ON f.user_id = c.user_id
            LEFT JOIN (SELECT key FROM {parquet_sql(self._orphans)} WHERE site = {site}) AS o ON o.key = c.key
            LEFT JOIN (SELECT key FROM {parquet_sql(self._left)} WHERE target = {place}) AS e ON e.key = c.key"""

    def _write_uploads(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        uploads: Sequence[UploadInfo],
        rules: Sequence[CompiledRule],
        source: str,
    ) -> None:
        """Uploads that are a day old, or that do not say how old they are. Few enough for memory: the store gave them whole."""
        rows: list[tuple[object, ...]] = []
        for upload in uploads:
            if upload.started is not None and upload.started > self._now - UPLOAD_AGE:
                continue
            matched = match(rules, source, upload.key)
            since = None if upload.started is None else int(upload.started.timestamp() * 1_000_000)
            user_id = None if matched is None else matched.user_id
            detail = None if upload.started is not None else "the store does not say when it was begun"
            rows.append(
                (Kind.UPLOAD.value, name, upload.key, user_id, None, None, upload.upload_id, None, since, detail)
            )
        path = self._found(name) / "uploads.parquet"
        write_columns(connection, path, _COLUMNS, [[row[place] for row in rows] for place in range(len(_COLUMNS))])


def _listed(look: Look) -> str:
    """The current objects, and the versions behind them."""
    columns = "key, version_id, size, last_modified"
    parts = [f"SELECT {columns}, {current} AS is_current FROM {parquet_sql(path)}"
             for path, current in ((look.objects, "TRUE"), (look.versions, "FALSE")) if path is not None]  # fmt: skip
    return f"listed AS ({' UNION ALL '.join(parts)})"


def _claimed(rules: Sequence[CompiledRule], store: str) -> str:
    """Whose each key is."""
    return (
        f"ruled AS (SELECT *, {rule_sql(rules, store)} AS rule FROM listed), "
        f"claimed AS (SELECT *, {user_sql(rules)} AS user_id FROM ruled)"
    )


def _unless_awaiting(column: str) -> str:
    """What only counts is kept without its name: there may be as many as there are objects."""
    return f"CASE WHEN kind <> {literal(AWAITING_PURGE)} THEN {column} END AS {column}"


def _number(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    row: tuple[Any, ...] | None = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return 0 if row is None else int(row[0])


def first_found(sweep_file: Path, kind: Kind, limit: int) -> list[FoundItem]:
    """The first findings of a kind in a sweep's file, by store and key."""
    with duckdb.connect(config={"memory_limit": "256MB", "threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(
            "SELECT store, key, user_id, version_id, upload_id, size_bytes, since, detail "
            f"FROM {parquet_sql(sweep_file)} WHERE kind = ? ORDER BY ALL LIMIT ?",
            [kind.value, limit],
        ).fetchall()
    return [
        FoundItem(
            store,
            key,
            user_id,
            version_id,
            upload_id,
            size,
            None if since is None else since.replace(tzinfo=UTC),
            detail,
        )
        for store, key, user_id, version_id, upload_id, size, since, detail in rows
    ]


def write_columns(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    columns: Sequence[tuple[str, str]],
    values: Sequence[Sequence[object]],
) -> None:
    """A small Parquet file, column by column. Times are given as microseconds."""
    fields = ", ".join(
        f"make_timestamp(unnest(?::BIGINT[])) AS {name}" if kind == "TIMESTAMP" else f"unnest(?::{kind}[]) AS {name}"
        for name, kind in columns
    )
    connection.execute(f"COPY (SELECT {fields}) TO {literal(str(path))} (FORMAT parquet)", list(values))
