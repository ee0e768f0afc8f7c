"""Writes a plan folder: one file of copies after the other, each sorted and digested in memory, then the small tables, then
`plan.json`, and only when all of it is on disk the folder gets its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrate.errors import InputError, IntegrityError
from migrate.inventory.files import Progress
from migrate.model import Role
from migrate.pauses import PausePoint, pause_at
from migrate.planner.digest import BATCHES, COPIES, FINDINGS, USERS, Table, table_digest
from migrate.planner.session import Session, pattern, texts
from migrate.spec import Spec
from migrate.sql import literal
from migrate.stores.base import Capabilities
from migrate.stores.keys import odd_pattern

FILE_ROWS = 1_000_000
_DIGEST_ROWS = 200_000
_KEY_BYTES = 1024  # S3: an object key is at most 1,024 bytes of UTF-8
_OBJECT_BYTES = 5 * 2**40  # S3: what multipart uploads of other servers than AWS reach at most
_FINDING_TYPES = dict(FINDINGS.columns)
# Each kind of finding that blocks, and what of it an acceptance covers.
_BLOCKING = (
    ("nothing_owned", ("store", "detail")),
    ("unclassified", ("store", "key")),
    ("orphan", ("store", "user_id", "count")),
    ("review", ("user_id",)),
    ("backup_only", ("store", "key")),
    ("unprobed", ("store", "count")),
)
# GLACIER_IR is read at once; the last two are tiers of INTELLIGENT_TIERING (S3 API reference, HeadObject, x-amz-archive-status)
_ARCHIVED = ("GLACIER", "DEEP_ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS")


def write_copies(
    session: Session,
    spec: Spec,
    capabilities: Mapping[str, Capabilities],
    big: Path,
    folder: Path,
    on_progress: Progress,
) -> list[dict[str, Any]]:
    """Write the files of copies; their names, rows and batches. Fills `findings` and the table `batch_digests`."""
    session.table(
        "target_stores",
        "name VARCHAR, key_bytes INTEGER",
        [(name, _KEY_BYTES - _prefix_bytes(store.url)) for name, store in sorted(spec.by_role(Role.TARGET).items())],
    )
    bent = _bent(spec, capabilities)
    session.query("CREATE TEMP TABLE target_copies (store VARCHAR, copies BIGINT)")
    session.query("CREATE TEMP TABLE batch_digests (number INTEGER, copies BIGINT, size_bytes BIGINT, digest BLOB)")
    parts = session.folder / "parts"
    session.run("parted", big=pattern(big), path=literal(str(parts)))
    spans = session.query("SELECT file, min(number), max(number), sum(copies) FROM batches GROUP BY file ORDER BY file")
    session.query("SET preserve_insertion_order = true")  # the row ids of a file's objects are their places
    files: list[dict[str, Any]] = []
    done = 0
    for number, first, last, rows in spans:
        name = f"copies-{len(files) + 1:04d}.parquet"
        _write_file(session, parts / f"file={number}", folder / name, bent)
        pause_at(PausePoint.COPIES_WRITTEN)
        _digest_file(session, folder / name, first, last)
        shutil.rmtree(parts / f"file={number}")
        files.append({"name": name, "rows": int(rows), "first_batch": first, "last_batch": last})
        done += int(rows)
        on_progress("copies", done)
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


def _write_file(session: Session, part: Path, path: Path, bent: str) -> None:
    session.run("objects", part=pattern(part))
    disordered, twice = session.run("order")[0]
    if disordered:
        raise IntegrityError(f"{disordered} objects of the plan are not in their order")
    if twice:
        raise InputError(
            "an inventory lists a key twice",
            remedy="Take a new inventory; one of current versions alone, if there are versions.",
        )
    session.run("readable", archived=texts(_ARCHIVED), object_max=_OBJECT_BYTES, bent=bent)
    session.run("copies")
    write_table(session, "file_copies", COPIES, path)
    session.query(
        "INSERT INTO target_copies SELECT target_store, count(*) "
        f"FROM read_parquet({pattern(path)}, hive_partitioning = false) GROUP BY target_store"
    )


def _digest_file(session: Session, path: Path, first: int, last: int) -> None:
    """The digests of the batches `first` to `last`, from what was written, some at a time: their rows' texts fit in memory.

    The hashing is Python's: OpenSSL's SHA-256 is several times as fast as DuckDB's.
    """
    rows = session.query(
        "SELECT number, sum(copies) OVER (ORDER BY number) // ? FROM batches WHERE number BETWEEN ? AND ? ORDER BY number",
        [_DIGEST_ROWS, first, last],
    )
    for step in sorted({row[1] for row in rows}):
        numbers = [row[0] for row in rows if row[1] == step]
        digests = [
            (batch, copies, size_bytes, hashlib.sha256(form.encode()).digest())
            for batch, copies, size_bytes, form in session.query(
                f"SELECT batch, count(*), sum(size), string_agg({COPIES.canonical}, '' ORDER BY ordinal) "
                f"FROM read_parquet({pattern(path)}, hive_partitioning = false) WHERE batch BETWEEN ? AND ? GROUP BY batch",
                [numbers[0], numbers[-1]],
            )
        ]
        session.query(
            "INSERT INTO batch_digests SELECT unnest(?), unnest(?), unnest(?), unnest(CAST(? AS BLOB[]))",
            [list(column) for column in zip(*digests, strict=True)],
        )


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


def write_table(session: Session, relation: str, table: Table, path: Path) -> None:
    """Write a table in its order, private and on disk."""
    session.query(
        f"COPY (SELECT {table.typed} FROM {relation} ORDER BY {table.order}) TO {literal(str(path))} "
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
        kind: table_digest(session.connection, relation, table)
        for kind, relation, table in (
            ("users", "plan_users", USERS),
            ("batches", "plan_batches", BATCHES),
            ("findings", "findings", FINDINGS),
        )
    }
    return files, digests


def _write_users(session: Session, folder: Path) -> list[dict[str, Any]]:
    total = session.query("SELECT count(*) FROM plan_users")[0][0]
    session.query(
        f"CREATE TEMP TABLE user_files AS SELECT *, (row_number() OVER (ORDER BY {USERS.order}) - 1) // {FILE_ROWS} AS file "
        "FROM plan_users"
    )
    files = []
    for number in range(max(1, -(-total // FILE_ROWS))):
        name = f"users-{number + 1:04d}.parquet"
        write_table(session, f"(SELECT * FROM user_files WHERE file = {number})", USERS, folder / name)
        files.append({"name": name, "rows": min(FILE_ROWS, total - number * FILE_ROWS)})
    session.query("DROP TABLE user_files")
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
        relation = f"(SELECT * FROM findings WHERE kind = '{kind}' AND (kind <> 'backup_only' OR detail = 'block'))"
        count = session.query(f"SELECT CAST(coalesce(sum(count), 0) AS BIGINT) FROM {relation}")[0][0]
        if count:
            table = Table(tuple((name, _FINDING_TYPES[name]) for name in columns), ", ".join(columns))
            found.append({"kind": kind, "count": count, "digest": table_digest(session.connection, relation, table)})
    return found
