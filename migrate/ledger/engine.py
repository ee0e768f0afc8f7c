"""Connecting to the database: SQLite's pragmas, PostgreSQL's session, short transactions, and errors turned into ours.

Each transaction is short. On SQLite a writer says BEGIN IMMEDIATE: a deferred transaction that reads and then writes would
fail at once with "database is locked", whatever the busy timeout. Threads of one process queue for a lock of their own first,
because SQLite's waiting is polling and not fair.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, make_url
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import URL, Connection, Engine

from migrate.errors import IntegrityError, LedgerError, MigrateError, NoLedgerError, UnreachableError, UsageError
from migrate.ledger.patience import BUSY_TIMEOUT_SECONDS, Patience, PatientConnection

if TYPE_CHECKING:
    from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
    from sqlalchemy.schema import Table

_NETWORK_FILE_SYSTEMS = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|lustre|glusterfs|gpfs|ocfs2|gfs2|fuse\.(sshfs|s3fs|glusterfs|rclone|goofys|juicefs)"
)
_NO_ROOM = ("disk is full", "No space left on device")  # SQLite's words (SQLITE_FULL), and those of PostgreSQL's system
# After so long in an open transaction PostgreSQL cuts a client off that says nothing: it is frozen, or its machine is gone, and
# the rows that it holds are waited for. Shorter than others wait for a lock, so that they go on.
SILENT_SECONDS = 20
_CACHE_KIB = 65_536  # users are registered in no order of their ids: with SQLite's 2 MB each would touch the disk


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Whether several connections may use WAL: SQLite 3.7.0 to 3.51.2 can corrupt the file, but for the fixed lines.

    Source: sqlite.org/wal.html, "the WAL-reset bug".
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def safe_journal_mode() -> str:
    """The journal mode that this process's SQLite may use: `wal` or `delete`."""
    return "wal" if wal_is_safe(sqlite3.sqlite_version_info[:3]) else "delete"


def network_file_system(path: Path, mounts: str) -> str | None:
    """The type of the network file system that `path` lies on, by the text of /proc/mounts; None for a local one."""
    best, found = "", ""
    target = str(path.resolve())
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, fields[2]
    return found if _NETWORK_FILE_SYSTEMS.fullmatch(found) else None


def parse_url(url: str) -> URL:
    """The URL of a ledger: `sqlite:///PATH` or `postgresql://…`. UsageError for anything else."""
    try:
        parsed = make_url(url)
    except (sa_exc.ArgumentError, ValueError):  # the latter for a port that is no number
        # not chained: the cause repeats the URL, which may hold a password
        raise UsageError("the ledger's URL cannot be read", remedy=_URL_HELP) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if not parsed.database or parsed.database == ":memory:":
            raise UsageError("a ledger in memory is forgotten at the end", remedy=_URL_HELP)
        return parsed.set(drivername="sqlite+pysqlite")
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise UsageError(f"a ledger cannot be kept in {parsed.drivername}", remedy=_URL_HELP)


_URL_HELP = "Name it as sqlite:///PATH or postgresql://USER@HOST/DATABASE."
NO_LEDGER_REMEDY = (
    "Name the right one with --ledger or MIGRATE_LEDGER; `migrate plan` and `migrate run` make a new one."
)


class Database:
    """One ledger's database: its engine, and the two kinds of transaction. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        parsed = parse_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.display_url = parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=True)
        self.path = Path(parsed.database or "") if self.is_sqlite else None
        self.patience = Patience()
        self.engine = _sqlite_engine(parsed, self.patience) if self.is_sqlite else _postgres_engine(parsed)
        self._writing = threading.Lock()

    def prepare_file(self, *, create: bool) -> None:
        """For SQLite: refuse a network file system, make the file private to its owner, choose the journal mode."""
        if self.path is None:
            return
        _check_place(self.path)
        if not self.path.exists():
            if not create:
                raise NoLedgerError(f"there is no ledger at {self.path}", remedy=NO_LEDGER_REMEDY)
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as error:
                raise UnreachableError(f"the ledger {self.path} cannot be made: {error.strerror}") from error
        elif self.path.stat().st_mode & 0o077:
            with suppress(PermissionError):  # another's: not ours to change
                self.path.chmod(0o600)
        with self.errors(), self.engine.connect() as connection:
            wanted = safe_journal_mode()
            driver = connection.connection.driver_connection
            assert driver is not None
            if driver.execute("PRAGMA journal_mode").fetchone()[0] != wanted:
                driver.execute(f"PRAGMA journal_mode={wanted}")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that changes something: all of it, or nothing."""
        with self.errors():
            if self.is_sqlite:
                with self._writing, self.engine.begin() as connection:
                    yield connection
            else:
                with self.engine.begin() as connection:
                    yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only looks, at one moment of the ledger. Leave it before anything slow: it holds writers up."""
        with self.errors():
            options: dict[str, Any] = {"migrate_reads": True}
            if not self.is_sqlite:
                options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            with self.engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection

    def take_time(self, connection: Connection) -> None:
        """In this transaction the rows come slowly, from files that are checked meanwhile: nobody is to be cut off for it."""
        if not self.is_sqlite:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection of its own without a transaction, closed for good at the end: what a session lock lives on."""
        with self.errors():
            connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield connection
        finally:
            connection.invalidate()  # the session's locks must not live on in the pool
            connection.close()

    def tidy(self, *tables: Table) -> None:
        """After many rows came in: let PostgreSQL know how many, and read indexes alone. SQLite has no use for it."""
        if self.is_sqlite:
            return
        with self.errors(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in tables:
                connection.exec_driver_sql(f"VACUUM (ANALYZE) {table.name}")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the database's errors into ours.

        Never chained: PostgreSQL's texts hold the values of the row, such as a user's id (design, invariant 10).
        """
        try:
            yield
        except sa_exc.DBAPIError as error:
            raise self.translate(error) from None
        except sa_exc.TimeoutError:
            raise UnreachableError(f"the ledger {self.display_url}: no connection of the pool came free") from None

    def translate(self, error: sa_exc.DBAPIError) -> MigrateError:
        text = driver_text(error)
        name = self.display_url
        if "locked" in text or "lock timeout" in text:
            return UnreachableError(
                f"the ledger {name} is locked, and stayed so",
                remedy="another process holds it: a first `migrate run` that registers its plan (wait for it), a stuck `migrate`,"
                " a backup, or a shell with an open transaction"
                + (f"; `fuser -v {self.path}` names it" if self.path else "; look at pg_stat_activity"),
            )
        if any(words in text for words in _NO_ROOM):
            return UnreachableError(
                f"the ledger {name} cannot be written, its disk is full: {text}",
                remedy="Make room on its disk, and run the same command again: what was committed stands.",
            )
        if isinstance(error, sa_exc.IntegrityError):
            return LedgerError(f"the ledger's constraints do not allow this: {text}")
        if "malformed" in text or "Could not decode" in text:
            return IntegrityError(
                f"the ledger {name} is damaged: {text}", remedy="put a backup of it back (`migrate ledger backup`)"
            )
        if isinstance(error, sa_exc.OperationalError | sa_exc.InterfaceError) or error.connection_invalidated:
            return UnreachableError(
                f"the ledger {name} cannot be reached: {text}",
                remedy="Start its server, or name another ledger (--ledger or MIGRATE_LEDGER).",
            )
        return LedgerError(f"the ledger {name} refuses: {text}")

    def close(self) -> None:
        self.engine.dispose()


def driver_text(error: sa_exc.DBAPIError) -> str:
    """What the driver said, without the values of any row: the first line, of PostgreSQL only the primary message, and of
    SQLite no text that it could not decode."""
    original = error.orig
    primary = getattr(getattr(original, "diag", None), "message_primary", None)
    lines = str(primary or original).strip().splitlines()
    return lines[0].split(" with text ")[0] if lines else type(error).__name__


def _check_place(path: Path) -> None:
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # not Linux: nothing to ask
    kind = network_file_system(path.parent, mounts)
    if kind is not None:
        raise UsageError(
            f"the ledger {path} would lie on a network file system ({kind}), where SQLite can lose data",
            remedy="put it on a local disk with --ledger sqlite:///PATH, or use a PostgreSQL ledger",
        )


def _sqlite_engine(url: URL, patience: Patience) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, connect_args={"factory": partial(PatientConnection, patience=patience)}
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # autocommit: BEGIN is ours
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("migrate_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _postgres_engine(url: URL) -> Engine:
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "application_name": "migrate", "keepalives_idle": 30},
        )
    except ModuleNotFoundError as error:
        raise UsageError(
            "a PostgreSQL ledger needs psycopg, which is not installed",
            remedy="python3 -m pip install 'migrate[postgres]'",
        ) from error

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_SECONDS:.0f}s'")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{SILENT_SECONDS}s'")
        connection.commit()

    return engine


def insert_many(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert whole rows, values in the order of the columns, as the driver takes them.

    For rows that come by the million: SQLAlchemy's own way costs twice the time of SQLite, and PostgreSQL takes COPY four times
    as fast as INSERT.
    """
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(table.columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", list(rows))
        return
    driver: Any = connection.connection.driver_connection
    statement = f"COPY {table.name} ({names}) FROM STDIN"
    errors = connection.dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except errors as error:
        raise sa_exc.DBAPIError.instance(statement, None, error, errors, hide_parameters=True) from None


def is_key_taken(error: sa_exc.IntegrityError, table: Table) -> bool:
    """Whether an insert was refused because the table has a row with this primary key."""
    named = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    if named is not None:
        return bool(named == table.primary_key.name)
    columns = ", ".join(f"{table.name}.{column.name}" for column in table.primary_key.columns)
    return str(error.orig) == f"UNIQUE constraint failed: {columns}"


def upsert(connection: Connection, table: Table) -> SqliteInsert:
    """An INSERT of this database that knows ON CONFLICT."""
    # the dialect's package was loaded with its engine; the other one need not be
    dialect = import_module(f"sqlalchemy.dialects.{connection.dialect.name}")
    statement: SqliteInsert = dialect.insert(table)  # PostgreSQL's has the same methods
    return statement
