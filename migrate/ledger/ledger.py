"""The ledger: the database of everything mutable, and the one class that is the way to it (design, sections 3 to 5).

Every method is one short transaction. What a worker writes for a batch carries its lease, and is refused once the lease's
fence is stale (invariant 5). The subjects stand in modules of their own, and this one joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import insert, inspect, select
from sqlalchemy.engine import Connection

from migrate.errors import NoLedgerError, UsageError, VersionError
from migrate.ledger import schema
from migrate.ledger.copying import Copying
from migrate.ledger.engine import NO_LEDGER_REMEDY, Database, parse_url
from migrate.ledger.forgetting import Forgetting
from migrate.ledger.history import History
from migrate.ledger.holds import Holds
from migrate.ledger.late import Late
from migrate.ledger.leases import Leases
from migrate.ledger.lines import Lines
from migrate.ledger.lock import Lock
from migrate.ledger.moving import Moving
from migrate.ledger.of_users import OfUsers
from migrate.ledger.passes import Passes
from migrate.ledger.plans import Plans
from migrate.ledger.reading import Reading
from migrate.ledger.repairing import Repairing
from migrate.ledger.runs import Runs
from migrate.ledger.seals import Seals
from migrate.ledger.verifying import Verifying
from migrate.pauses import PausePoint, pause_at


class Ledger(
    Runs,
    Plans,
    Leases,
    Copying,
    Seals,
    Passes,
    Verifying,
    Repairing,
    Holds,
    Moving,
    Late,
    Forgetting,
    History,
    Reading,
    OfUsers,
    Lines,
    Lock,
):
    """A ledger on SQLite or PostgreSQL. Safe to share between threads; a new process opens its own."""

    def __init__(self, database: Database, url: str) -> None:
        super().__init__(database)
        self.url = url

    @staticmethod
    def open(url: str, *, create: bool = True) -> Ledger:
        """Open the ledger at `url`; make it where there is none and `create` is asked for.

        VersionError for a ledger of another version (invariant 12), NoLedgerError where there is none, UsageError where the
        database is another's, UnreachableError where there is no way to it.
        """
        database = Database(url)
        try:
            database.prepare_file(create=create)
            with database.read() as connection:
                found = revision(connection)
            if found is None:
                with database.write() as connection:
                    found = _make(connection, database.display_url, create=create)
            _demand_revision(found, database.display_url)
        except BaseException:
            database.close()
            raise
        return Ledger(database, url)

    @staticmethod
    def file_of(url: str) -> Path | None:
        """The file of a SQLite ledger, be it there or not; None for PostgreSQL. UsageError where the URL is no ledger's."""
        parsed = parse_url(url)
        return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None

    @property
    def is_file(self) -> bool:
        """Whether it is on SQLite, so that all who work with it are on this machine."""
        return self._database.is_sqlite

    @property
    def display_url(self) -> str:
        """The URL for people and logs: without its password."""
        return self._database.display_url

    def journal_mode(self) -> str | None:
        """SQLite's journal mode as it is; None for PostgreSQL."""
        if self._database.path is None:
            return None
        with self._read() as connection:
            return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())

    @property
    def database(self) -> Database:
        """What the embedded routes are read and written through (`migrate.routing`)."""
        return self._database

    def heed(self, gives_up_at: Callable[[], float | None]) -> None:
        """From now on wait for SQLite's lock no longer than to this time (`time.monotonic` seconds; None: no end asked for)."""
        self._database.patience.gives_up_at = gives_up_at

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


def revision(connection: Connection) -> str | None:
    """The revision that a database is stamped with; None where it is no ledger yet."""
    if not inspect(connection).has_table(schema.alembic_version.name):
        return None
    return connection.execute(select(schema.alembic_version.c.version_num)).scalar()


def _make(connection: Connection, display_url: str, *, create: bool) -> str:
    """Make the tables of a new ledger and stamp it. Another process may be doing the same: the second one finds them made."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7262347143)")  # any number, the same for all
    found = revision(connection)
    if found is not None:
        return found
    if not create:
        raise NoLedgerError(f"there is no ledger in {display_url}", remedy=NO_LEDGER_REMEDY)
    if inspect(connection).get_table_names():
        raise UsageError(f"{display_url} is a database of something else", remedy="Name an empty one with --ledger.")
    schema.metadata.create_all(connection)
    schema.version_metadata.create_all(connection)
    connection.execute(insert(schema.alembic_version).values(version_num=schema.REVISION))
    pause_at(PausePoint.LEDGER_MADE)
    return schema.REVISION


def demand_known(found: str, display_url: str) -> None:
    """VersionError for a ledger that a newer migrate made (invariant 12)."""
    if found > schema.REVISION:  # revisions are numbers with leading zeros, so their texts are in order
        raise VersionError(
            f"the ledger {display_url} has version {found}, and this migrate knows versions up to {schema.REVISION}",
            remedy="Use the newer migrate that made it, or name another ledger with --ledger.",
        )


def _demand_revision(found: str, display_url: str) -> None:
    demand_known(found, display_url)
    if found != schema.REVISION:
        raise VersionError(
            f"the ledger {display_url} has version {found}, and this migrate needs {schema.REVISION}",
            remedy="Back it up with `migrate ledger backup FILE`, then `migrate ledger upgrade`.",
        )
