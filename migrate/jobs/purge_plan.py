"""A purge plan on disk: every version, delete marker and upload of its users at every source store, and their digest.

`.migrate/purges/DIGEST/` holds `purge.json`, `entries.parquet` (what is to be deleted, in the order in which it is) and
`users.parquet`, each of whose rows has the digest of the user's entries. The purge plan's digest is SHA-256 over the canonical
JSON of what `purge.json` says, without the time and the tool's version; the digest of the users is in it. So the same state of
the stores gives the same digest. What is read is digested again, and memory does not grow with the plan: users pass by one by
one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import duckdb

from migrate import __version__
from migrate.errors import IntegrityError, LaterError, MigrateError, UsageError, VersionError
from migrate.filelock import locked
from migrate.inventory.files import sync_folder
from migrate.inventory.tables import open_tables, parquet_sql, writing
from migrate.jobs.common import heeding
from migrate.jobs.sweep_judging import write_columns
from migrate.planner.assemble import make_durable
from migrate.planner.digest import Table, stream_digest
from migrate.planner.folder import PREFIX_DIGITS, open_reader, utc
from migrate.sql import literal
from migrate.worker.loop import Stop
from migrate.workspace import Workspace

PURGE_FORMAT = 2
CONFIRMED_DIGITS = 12
"""How much of a digest is typed, or given, at least."""
DOCUMENT = "purge.json"
_ENTRIES_FILE, _USERS_FILE = "entries.parquet", "users.parquet"
_OUTSIDE = frozenset({"digest", "made_at", "tool_version"})
_BUFFERED = 20_000  # rows
_FETCHED = 10_000
_NOTHING = hashlib.sha256().digest()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REMEDY = "Do not confirm it. `migrate purge` makes a new one."

ENTRIES = Table(
    (
        ("user_id", "VARCHAR"),
        ("number", "BIGINT"),
        ("store", "VARCHAR"),
        ("key", "VARCHAR"),
        ("version_id", "VARCHAR"),
        ("kind", "VARCHAR"),
        ("size", "BIGINT"),
        ("etag", "VARCHAR"),
        ("last_modified", "TIMESTAMP"),
        ("never_copied", "BOOLEAN"),
    ),
    "user_id, number",
)
PEOPLE = Table(
    (
        ("user_id", "VARCHAR"),
        ("wave", "INTEGER"),
        ("entries", "BIGINT"),
        ("size_bytes", "BIGINT"),
        ("deleted_since", "BIGINT"),
        ("newer", "BIGINT"),
        ("left_alone", "BIGINT"),
        ("trusted", "BIGINT"),
        ("trusted_digest", "VARCHAR"),
        ("digest", "BLOB"),
    ),
    "user_id",
)
_WITHOUT_DIGEST = PEOPLE.columns[:-1]
_SUMMED = ("deleted_since", "newer", "left_alone", "trusted")


class Kind(StrEnum):
    """What an entry is. An `object` is current and has no version of its own, so that another one can take its place unseen."""

    OBJECT = "object"
    VERSION = "version"
    DELETE_MARKER = "delete-marker"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is to be deleted at a source store. Of an upload, `version_id` is its id, and `last_modified` its beginning.

    `never_copied`: only a backup has it, and the plans have left it where it is.
    """

    store: str
    key: str
    version_id: str | None
    kind: Kind
    size: int
    etag: str
    last_modified: datetime | None
    never_copied: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class PurgeUser:
    """A user of a purge plan. Numbers of objects: `deleted_since` are gone at home and backup since the flip, `newer` are there
    in a version of the platform's own; `left_alone` are keys at the sources under the user's prefixes that are not theirs. Of
    `trusted`, among the deleted, only the home's word says that they were, and whoever confirms the purge plan takes it; their
    digest says which (`AtTargets`)."""

    user_id: str
    wave: int
    entries: int
    size_bytes: int
    deleted_since: int
    newer: int
    left_alone: int
    trusted: int = 0
    trusted_digest: str = ""


@dataclass(frozen=True, slots=True)
class PurgePlan:
    """An opened purge plan. `document` is the content of its `purge.json`."""

    digest: str
    folder: Path
    document: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> PurgePlan:
        """The purge plan in `folder`. IntegrityError where it is not what its digest covers, VersionError for another format.

        The entries are checked when they are read.
        """
        path = folder / DOCUMENT
        try:
            document = dict(json.loads(path.read_text(encoding="utf-8")))
            version = document["format"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise IntegrityError(f"{path} is not a purge plan's", remedy=_REMEDY) from error
        if version != PURGE_FORMAT:
            raise VersionError(
                f"the purge plan in {folder} has format {version}, this tool reads {PURGE_FORMAT}",
                remedy="Use the version of `migrate` that made it, or make a new one.",
            )
        found = PurgePlan(_digest(document), folder, document)
        try:
            is_whole = found.digest == document["digest"] and folder.name == found.digest[:PREFIX_DIGITS]
            with _reading(folder) as connection:
                users = stream_digest(connection, parquet_sql(folder / _USERS_FILE), PEOPLE)
            is_whole = is_whole and users == document["digests"]["users"]
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"{path} is not a purge plan's", remedy=_REMEDY) from error
        if not is_whole:
            raise IntegrityError(f"the purge plan in {folder} is not what its digest covers", remedy=_REMEDY)
        return found

    @property
    def plan(self) -> str:
        """The digest of the plan whose users these are."""
        return str(self.document["plan"])

    @property
    def waves(self) -> tuple[int, ...]:
        return tuple(self.document["waves"])

    @property
    def users(self) -> int:
        return int(self.document["users"])

    @property
    def stores(self) -> dict[str, dict[str, int]]:
        """By store, how many entries of each kind, how many of them were never copied, and their bytes."""
        return dict(self.document["stores"])

    def people(self) -> Iterator[tuple[PurgeUser, list[Entry]]]:
        """Each user with their entries, in order. IntegrityError where something was changed, before that is given out."""
        with _reading(self.folder) as users, _reading(self.folder) as entries:
            users.execute(f"SELECT {PEOPLE.names} FROM {parquet_sql(self.folder / _USERS_FILE)}")
            entries.execute(
                f"SELECT {ENTRIES.names}, {ENTRIES.canonical} FROM {parquet_sql(self.folder / _ENTRIES_FILE)}"
            )
            rows = _rows(entries)
            for *about, digest in _rows(users):
                user = PurgeUser(*about)
                found, mine = hashlib.sha256(), []
                for _ in range(user.entries):
                    row = next(rows, None)
                    if row is None:
                        raise self._changed()
                    found.update(row[-1].encode())
                    mine.append(_entry(row))
                if found.digest() != digest:
                    raise self._changed()
                yield user, mine
            if next(rows, None) is not None:
                raise self._changed()

    def check(self, stop: Stop, deadline: float | None) -> None:
        """IntegrityError where an entry was changed. Reads all; InterruptedRun when stopped, LaterError when time is up."""
        for _ in heeding(self.people(), stop, deadline, "the purge plan was read"):
            pass

    def _changed(self) -> IntegrityError:
        return IntegrityError(f"entries of the purge plan in {self.folder} were changed", remedy=_REMEDY)


class PurgeWriter:
    """Takes users in any order, and makes a purge plan of them. What it was given stands in `.migrate/scratch` until then."""

    def __init__(self, workspace: Workspace, scratch: Path) -> None:
        self._workspace = workspace
        self._scratch = scratch
        self._rows: dict[str, list[tuple[Any, ...]]] = {_ENTRIES_FILE: [], _USERS_FILE: []}
        self._files = 0
        for name in self._rows:
            (scratch / name).mkdir(mode=0o700)
            self._flush(name)  # so that there is a file to read where nobody comes

    def add(self, user: PurgeUser, entries: Sequence[Entry]) -> None:
        """A user with their entries, in the order in which these are to be deleted."""
        self._put(
            _USERS_FILE,
            (
                user.user_id,
                user.wave,
                user.entries,
                user.size_bytes,
                user.deleted_since,
                user.newer,
                user.left_alone,
                user.trusted,
                user.trusted_digest,
            ),
        )
        for number, entry in enumerate(entries):
            self._put(
                _ENTRIES_FILE,
                (
                    user.user_id,
                    number,
                    entry.store,
                    entry.key,
                    entry.version_id,
                    entry.kind.value,
                    entry.size,
                    entry.etag,
                    None if entry.last_modified is None else _microseconds(entry.last_modified),
                    entry.never_copied,
                ),
            )

    def finish(self, plan: str, waves: Sequence[int], now: datetime) -> PurgePlan:
        """Write it under its name, as one of the plan with this digest; durable when this returns. One that says the same stays
        as it is."""
        for name in self._rows:
            self._flush(name)
        built = self._scratch / "built"
        built.mkdir(mode=0o700)
        with open_tables(self._scratch) as connection:
            _write(connection, parquet_sql(self._scratch / _ENTRIES_FILE), ENTRIES, built / _ENTRIES_FILE)
            self._digest_users(connection, built / _ENTRIES_FILE)
            relation = (
                f"(SELECT u.*, coalesce(d.digest, unhex('{_NOTHING.hex()}')) AS digest "
                f"FROM {parquet_sql(self._scratch / _USERS_FILE)} AS u "
                f"LEFT JOIN {parquet_sql(self._scratch / 'digests')} AS d ON u.user_id = d.user_id)"
            )
            _write(connection, relation, PEOPLE, built / _USERS_FILE)
            document = _document(connection, built, plan, waves)
        document = {"digest": _digest(document), **document, "made_at": now.isoformat(), "tool_version": __version__}
        path = built / DOCUMENT
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        make_durable(path)
        make_durable(built)
        folder = self._workspace.ensure(self._workspace.purges) / str(document["digest"])[:PREFIX_DIGITS]
        return _named(built, folder)

    def _put(self, name: str, row: tuple[Any, ...]) -> None:
        rows = self._rows[name]
        rows.append(row)
        if len(rows) >= _BUFFERED:
            self._flush(name)

    def _flush(self, name: str) -> None:
        columns = ENTRIES.columns if name == _ENTRIES_FILE else _WITHOUT_DIGEST
        self._write_rows(self._scratch / name, columns, self._rows[name])
        self._rows[name].clear()

    def _write_rows(self, folder: Path, columns: Sequence[tuple[str, str]], rows: Sequence[tuple[Any, ...]]) -> None:
        self._files += 1
        with closing(open_reader()) as connection:
            values = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]
            write_columns(connection, folder / f"{self._files:08d}.parquet", columns, values)

    def _digest_users(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        """Write down the digest of each user's entries, as they stand in their order."""
        columns = (("user_id", "VARCHAR"), ("digest", "BLOB"))
        folder = self._scratch / "digests"
        folder.mkdir(mode=0o700)
        found: list[tuple[str, bytes]] = []
        self._write_rows(folder, columns, found)
        with closing(open_reader()) as reader:
            reader.execute(f"SELECT user_id, {ENTRIES.canonical} FROM {parquet_sql(path)}")
            user_id, digest = None, hashlib.sha256()
            for name, form in _rows(reader):
                if name != user_id:
                    if user_id is not None:
                        found.append((user_id, digest.digest()))
                    user_id, digest = name, hashlib.sha256()
                if len(found) >= _BUFFERED:
                    self._write_rows(folder, columns, found)
                    found.clear()
                digest.update(form.encode())
            if user_id is not None:
                found.append((user_id, digest.digest()))
        self._write_rows(folder, columns, found)


@contextmanager
def building(workspace: Workspace) -> Iterator[PurgeWriter]:
    """A writer, alone in the workspace. LaterError where another purge plan is being made."""
    with _telling():
        scratch = workspace.ensure(workspace.scratch) / "purge"
        with locked(scratch.with_suffix(".lock"), _refuse):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(mode=0o700)
            try:
                yield PurgeWriter(workspace, scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def find_purge(workspace: Workspace, prefix: str, plan: str, waves: Sequence[int]) -> PurgePlan:
    """The purge plan whose digest begins so, of these waves of the plan with this digest. UsageError where there is none, or it
    is of others."""
    wanted, again = (
        prefix.lower(),
        f"`migrate purge {plan[:12]} --wave W --dry-run` makes one and says its digest.",
    )
    if len(wanted) < CONFIRMED_DIGITS or set(wanted) - set("0123456789abcdef"):
        raise UsageError(
            f"--confirm takes {CONFIRMED_DIGITS} hex digits of a purge plan's digest at least", remedy=again
        )
    folders = sorted(workspace.purges.glob(f"{wanted[:PREFIX_DIGITS]}*")) if workspace.purges.is_dir() else []
    found = [purge for folder in folders if (purge := PurgePlan.open(folder)).digest.startswith(wanted)]
    if len(found) != 1:
        how = "no purge plan has" if not found else f"{len(found)} purge plans have"
        raise UsageError(f"{how} a digest that begins with {prefix!r}", remedy=again)
    if found[0].plan != plan:
        raise UsageError(
            f"the purge plan is of plan {found[0].plan[:12]}, and not of {plan[:12]}",
            remedy="Name that plan; or make a purge plan of this one.",
        )
    if found[0].waves != tuple(waves):
        named = ",".join(map(str, found[0].waves))
        raise UsageError(f"the purge plan is of other waves: {named}", remedy=f"Give `--wave {named}`.")
    return found[0]


def _refuse() -> None:
    raise LaterError("another purge plan is being made in this workspace", remedy="Wait for its end, and try again.")


@contextmanager
def _telling() -> Iterator[None]:
    """DuckDB's errors become our own here; its texts may hold a row, and are not passed on."""
    try:
        with writing():
            yield
    except duckdb.Error as error:
        raise IntegrityError(f"making the purge plan failed in DuckDB: {type(error).__name__}") from error


@contextmanager
def _reading(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = open_reader()
    try:
        yield connection
    except duckdb.Error as error:
        raise IntegrityError(f"the purge plan in {folder} cannot be read", remedy=_REMEDY) from error
    finally:
        connection.close()


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := connection.fetchmany(_FETCHED):
        yield from rows


def _write(connection: duckdb.DuckDBPyConnection, relation: str, table: Table, path: Path) -> None:
    connection.execute(
        f"COPY (SELECT {table.typed} FROM {relation} ORDER BY {table.order}) TO {literal(str(path))} "
        "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480)"
    )
    make_durable(path)


def _document(connection: duckdb.DuckDBPyConnection, built: Path, plan: str, waves: Sequence[int]) -> dict[str, Any]:
    """What `purge.json` says, as far as the digest covers it: sums, and no user and no key (design, invariant 10)."""
    entries, users = parquet_sql(built / _ENTRIES_FILE), parquet_sql(built / _USERS_FILE)
    counts = ", ".join(f"count(*) FILTER (WHERE kind = {literal(kind)})" for kind in Kind)
    stores = connection.execute(
        f"SELECT store, {counts}, count(*) FILTER (WHERE never_copied), CAST(sum(size) AS BIGINT) "
        f"FROM {entries} GROUP BY store ORDER BY store"
    ).fetchall()
    names = [*(kind.value for kind in Kind), "never_copied", "size_bytes"]
    row: Any = connection.execute(
        "SELECT count(*), "
        + ", ".join(f"CAST(coalesce(sum({name}), 0) AS BIGINT)" for name in _SUMMED)
        + f" FROM {users}"
    ).fetchone()
    return {
        "format": PURGE_FORMAT,
        "plan": plan,
        "waves": list(waves),
        "users": row[0],
        **dict(zip(_SUMMED, row[1:], strict=True)),
        "stores": {store: dict(zip(names, numbers, strict=True)) for store, *numbers in stores},
        "digests": {"users": stream_digest(connection, users, PEOPLE)},
    }


def _named(built: Path, folder: Path) -> PurgePlan:
    """Give the folder its name. One that is there and whole says the same, and stays."""
    try:
        there = PurgePlan.open(folder)
        for _ in there.people():
            pass
        return there
    except MigrateError:
        shutil.rmtree(folder, ignore_errors=True)
    built.rename(folder)
    sync_folder(folder.parent)
    return PurgePlan.open(folder)


def _digest(document: dict[str, Any]) -> str:
    covered = {key: value for key, value in document.items() if key not in _OUTSIDE}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(row: tuple[Any, ...]) -> Entry:
    _, _, store, key, version_id, kind, size, etag, last_modified, never_copied, _ = row
    at = None if last_modified is None else utc(last_modified)
    return Entry(store, key, version_id, Kind(kind), size, etag, at, never_copied)


def _microseconds(at: datetime) -> int:
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
