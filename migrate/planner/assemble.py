"""Writes a plan folder: one file of objects after the other, cut from what is sorted, then the small tables, then
`plan.json`, and only when all of it is on disk the folder gets its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

from migrate.errors import InputError, IntegrityError
from migrate.inventory.files import Progress
from migrate.layout import CompiledRule, target_key_sql
from migrate.model import Role
from migrate.pauses import PausePoint, pause_at
from migrate.planner.digest import BATCHES, FINDINGS, OBJECTS, USERS, Table, table_digest
from migrate.planner.line import Line, take_replaced
from migrate.planner.listing import ONCE
from migrate.planner.session import Session, pattern, texts
from migrate.spec import Spec
from migrate.sql import literal
from migrate.stores.base import Capabilities
from migrate.stores.keys import odd_pattern

FILE_COPIES = 1_000_000
FILE_USERS = 1_000_000
_DIGEST_BYTES = 60 * 2**20  # of the texts of rows that are digested at once, about
_ROW_BYTES = 200  # of a row's text, beside its keys
_KEY_BYTES = 1024  # S3: an object key is at most 1,024 bytes of UTF-8
_OBJECT_BYTES = 5 * 2**40  # S3: what multipart uploads of other servers than AWS reach at most
_FINDING_TYPES = dict(FINDINGS.columns)
# Each kind of finding that blocks, and what of it an acceptance covers.
_BLOCKING = (
    ("nothing_owned", ("store", "detail")),
    ("unclassified", ("store", "key")),
    ("orphan", ("store", "user_id", "count")),
    ("review", ("user_id",)),
    ("vanished", ("user_id",)),
    ("claimed", ("user_id", "count")),
    ("backup_only", ("store", "key")),
    ("unprobed", ("store", "count")),
)
_UNDECIDED = "(kind <> 'backup_only' OR detail = 'block') AND (kind <> 'orphan' OR detail IS NULL)"
# GLACIER_IR is read at once; the last two are tiers of INTELLIGENT_TIERING (S3 API reference, HeadObject, x-amz-archive-status)
_ARCHIVED = ("GLACIER", "DEEP_ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS")

BatchDigest = tuple[int, int, int, bytes]  # number, copies, bytes, digest


def write_objects(
    session: Session,
    spec: Spec,
    rules: tuple[CompiledRule, ...],
    capabilities: Mapping[str, Capabilities],
    big: Path,
    folder: Path,
    line: Line | None,
    on_progress: Progress,
) -> list[dict[str, Any]]:
    """Write the files of objects; their names, rows and batches. Fills `findings` and makes the table `batch_digests`.

    All are sorted at once, and the files are cut from what was sorted. One is digested while the next is written.
    """
    session.table(
        "target_stores",
        "name VARCHAR, key_bytes INTEGER",
        [(name, _KEY_BYTES - _prefix_bytes(store.url)) for name, store in sorted(spec.by_role(Role.TARGET).items())],
    )
    path = session.folder / "sorted.parquet"
    session.query("SET preserve_insertion_order = true")
    session.run("sorted", big=pattern(big), path=literal(str(path)), target_key=target_key_sql(rules))
    session.query(
        f"CREATE TEMP VIEW ordered AS SELECT *, {target_key_sql(rules)} AS target_key "
        f"FROM read_parquet({pattern(path)}, hive_partitioning = false, file_row_number = true)"
    )
    take_replaced(session, line)
    bent = _bent(spec, capabilities)
    session.run("readable", archived=texts(_ARCHIVED), object_max=_OBJECT_BYTES, once=ONCE, bent=bent)
    spans = session.query(
        "SELECT min(number), max(number), CAST(sum(objects) AS BIGINT) FROM batches GROUP BY file ORDER BY file"
    )
    files: list[dict[str, Any]] = []
    digests: list[Future[list[BatchDigest]]] = []
    copies: Counter[str] = Counter()
    with ThreadPoolExecutor(1) as digesting:
        for first, last, rows in spans:
            name = f"objects-{len(files) + 1:04d}.parquet"
            copies.update(_write_file(session, folder / name, first, last))
            pause_at(PausePoint.OBJECTS_WRITTEN)
            steps = _steps(session, first, last)
            digests.append(digesting.submit(_digest_file, session.connection.cursor(), folder / name, steps))
            files.append({"name": name, "rows": rows, "first_batch": first, "last_batch": last})
            on_progress("copies", copies.total())
        found = [digest for file in digests for digest in file.result()]
    session.query(
        "CREATE TEMP TABLE batch_digests AS SELECT unnest(CAST(? AS INTEGER[])) AS number, "
        "unnest(CAST(? AS BIGINT[])) AS copies, unnest(CAST(? AS BIGINT[])) AS size_bytes, unnest(CAST(? AS BLOB[])) AS digest",
        [list(column) for column in zip(*found, strict=True)] or [[]] * 4,
    )
    session.table("target_copies", "store VARCHAR, copies BIGINT", copies.items())
    path.unlink()
    _check_batches(session)
    return files


def _prefix_bytes(url: str) -> int:
    """How many bytes of the key the store's prefix takes; none where the store is no bucket."""
    if not url.startswith("s3://"):
        return 0
    prefix = url.removeprefix("s3://").partition("/")[2]
    return len(prefix.encode("utf-8")) + (bool(prefix) and not prefix.endswith("/"))


def _bent(spec: Spec, capabilities: Mapping[str, Capabilities]) -> str:
    """A SQL expression: whether the target store of a copy is not trusted with its key."""
    bent = {name: capabilities.get(name, Capabilities()).bent_kinds() for name in sorted(spec.by_role(Role.TARGET))}
    found = [
        f"(t.name = {literal(name)} AND regexp_matches(o.target_key, {literal(odd_pattern(kinds))}))"
        for name, kinds in bent.items()
        if kinds
    ]
    return f"({' OR '.join(found) or 'FALSE'})"


def _write_file(session: Session, path: Path, first: int, last: int) -> dict[str, int]:
    """Write the batches `first` to `last`; how many copies go to each target store."""
    disordered, twice = session.run("order", first=first, last=last)[0]
    if disordered:
        raise IntegrityError(f"{disordered} objects of the plan are not in their order")
    if twice:
        raise InputError(
            "an inventory lists a key twice",
            remedy="Take a new inventory; one of current versions alone, if there are versions.",
        )
    session.run("objects", first=first, last=last)
    _write(session, f"SELECT {OBJECTS.typed} FROM file_objects", path)  # nearly in their order: readers go by ordinals
    rows = session.query(
        "SELECT store, count(*) FROM (SELECT unnest([home_store, backup_store]) AS store "
        f"FROM read_parquet({pattern(path)}, hive_partitioning = false)) WHERE store IS NOT NULL GROUP BY store"
    )
    return dict(rows)


def _steps(session: Session, first: int, last: int) -> list[tuple[int, int]]:
    """The batches `first` to `last` in groups, whose rows' texts fit in memory: the first and last number of each."""
    length = session.query("SELECT avg(strlen(key)) FROM ordered WHERE batch BETWEEN ? AND ?", [first, last])[0][0]
    return session.query(
        "SELECT min(number), max(number) FROM (SELECT number, sum(objects) OVER (ORDER BY number) // ? AS step FROM batches) "
        "WHERE number BETWEEN ? AND ? GROUP BY step ORDER BY step",
        [max(1, _DIGEST_BYTES // (_ROW_BYTES + 2 * int(length or 0))), first, last],
    )


def _digest_file(
    connection: duckdb.DuckDBPyConnection, path: Path, steps: Sequence[tuple[int, int]]
) -> list[BatchDigest]:
    """The digests of a file's batches, from what was written. IntegrityError where the ordinals of one are not in line.

    The hashing is Python's: OpenSSL's SHA-256 is several times as fast as DuckDB's.
    """
    found: list[BatchDigest] = []
    for first, last in steps:
        rows = connection.execute(
            f"""
            SELECT
                batch,
                CAST(sum(n) AS BIGINT),
                CAST(sum(n * size) AS BIGINT),
                count(DISTINCT ordinal) < count(*) OR min(ordinal) <> 0 OR max(ordinal + n) <> sum(n),
                string_agg({OBJECTS.canonical}, '' ORDER BY ordinal)
            FROM (
                SELECT *, 1 + CAST(backup_store IS NOT NULL AS INTEGER) AS n
                FROM read_parquet({pattern(path)}, hive_partitioning = false)
                WHERE batch BETWEEN ? AND ?
            )
            GROUP BY batch
            """,
            [first, last],
        ).fetchall()
        for batch, copies, size_bytes, is_out_of_line, form in rows:
            if is_out_of_line:
                raise IntegrityError(f"the copies of batch {batch} are not numbered one after the other")
            found.append((batch, copies, size_bytes, hashlib.sha256(form.encode()).digest()))
    return found


def _check_batches(session: Session) -> None:
    """IntegrityError unless every copy that was counted for a batch was written in it (invariant 3)."""
    lost = session.query(
        "SELECT count(*) FROM batches AS b FULL JOIN batch_digests AS d ON b.number = d.number "
        "WHERE b.copies IS DISTINCT FROM d.copies OR b.size_bytes IS DISTINCT FROM d.size_bytes"
    )[0][0]
    if lost:
        raise IntegrityError(f"{lost} batches do not hold the copies that were counted for them")
    planned, batched = session.query("SELECT (SELECT sum(copies) FROM movers), (SELECT sum(copies) FROM batches)")[0]
    if (planned or 0) != (batched or 0):
        raise IntegrityError(f"{planned} copies are planned for the users, their batches have {batched}")


def write_table(session: Session, relation: str, table: Table, path: Path, *, order: str = "") -> None:
    """Write a table in its order, private and on disk. `order` is another way to say it, where a column has it."""
    _write(session, f"SELECT {table.typed} FROM {relation} ORDER BY {order or table.order}", path)


def _write(session: Session, rows: str, path: Path) -> None:
    session.query(
        f"COPY ({rows}) TO {literal(str(path))} "
        "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 20480)"
    )
    make_durable(path)


def write_small_tables(session: Session, folder: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Write users, batches and findings; the files by kind, and the digests by kind."""
    session.run("plan_users")
    session.query(
        "CREATE TEMP VIEW plan_batches AS SELECT b.* EXCLUDE (size_bytes, copies), b.copies, b.size_bytes, d.digest "
        "FROM batches AS b JOIN batch_digests AS d ON b.number = d.number"
    )
    files: dict[str, list[dict[str, Any]]] = {"users": _write_users(session, folder)}
    for kind, relation, table in (("batches", "plan_batches", BATCHES), ("findings", "findings", FINDINGS)):
        name = f"{kind}.parquet"
        write_table(session, relation, table, folder / name)
        files[kind] = [{"name": name, "rows": session.query(f"SELECT count(*) FROM {relation}")[0][0]}]
    digests = {
        kind: table_digest(session.connection, relation, table, order=order)
        for kind, relation, table, order in (
            ("users", "plan_users", USERS, "number"),
            ("batches", "plan_batches", BATCHES, ""),
            ("findings", "findings", FINDINGS, ""),
        )
    }
    return files, digests


def _write_users(session: Session, folder: Path) -> list[dict[str, Any]]:
    total = session.query("SELECT count(*) FROM plan_users")[0][0]
    files: list[dict[str, Any]] = []
    for start in range(0, max(1, total), FILE_USERS):
        name = f"users-{len(files) + 1:04d}.parquet"
        relation = f"(SELECT * FROM plan_users WHERE number BETWEEN {start + 1} AND {start + FILE_USERS})"
        write_table(session, relation, USERS, folder / name, order="number")
        files.append({"name": name, "rows": min(FILE_USERS, total - start)})
    return files


def write_document(folder: Path, document: Mapping[str, Any]) -> None:
    path = folder / "plan.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    make_durable(path)


def make_durable(path: Path) -> None:
    """Private to its owner, and on disk."""
    path.chmod(0o700 if path.is_dir() else 0o600)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def blockers(session: Session) -> list[dict[str, Any]]:
    """What keeps `run` from starting until the spec decides or the operator accepts it: kind, count and digest.

    The count is of keys, users or stores, as in the findings; the digest covers each item that `migrate show --list` names.
    """
    found = []
    for kind, columns in _BLOCKING:
        relation = f"(SELECT * FROM findings WHERE kind = '{kind}' AND {_UNDECIDED})"
        count = session.query(f"SELECT CAST(coalesce(sum(count), 0) AS BIGINT) FROM {relation}")[0][0]
        if count:
            table = Table(tuple((name, _FINDING_TYPES[name]) for name in columns), ", ".join(columns))
            found.append({"kind": kind, "count": count, "digest": table_digest(session.connection, relation, table)})
    return found
