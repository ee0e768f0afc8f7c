"""Routes in a table: the ledger's own, or one of the platform's. One row a user, one guarded UPDATE a change.

All times are the database's (`_NOW`): several machines change one row, and none of their clocks decides. A freeze holds while
`until` lies ahead. Its token stays in the row after it has ended, so that it cannot freeze again and a flip can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    inspect,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import Connection

from migrate.errors import IntegrityError, LaterError, MigrateError, RefusedError, SpecError, UnreachableError
from migrate.ledger.engine import Database, driver_text, upsert
from migrate.routing.base import FreezeLimits, Route, freeze_has_ended, frozen_by_another
from migrate.spec import RoutingColumns, SqlRouting

_LOOK_SECONDS = 0.05  # between two looks at the writers that are still there
_SECOND = 1_000_000  # microseconds
# Microseconds since 1970 when the statement gets there. PostgreSQL's now() is when the transaction began, perhaps long ago.
_NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
}


class SqlRouter:
    """A Router on a table with the columns `columns`. `sleep` and `monotonic` time the wait for writers."""

    def __init__(
        self,
        database: Database,
        table: str,
        columns: RoutingColumns,
        *,
        default_home: str,
        limits: FreezeLimits,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._user: Column[str] = Column(columns.user, Text, key="user")
        self._home: Column[str] = Column(columns.home, Text, key="home")
        self._token: Column[str] = Column(columns.token, Text, key="token")
        self._until: Column[int] = Column(columns.until, BigInteger, key="until")
        self._writers: Column[int] | None = None
        if columns.writers is not None:
            self._writers = Column(columns.writers, Integer, key="writers")
        found = (self._user, self._home, self._token, self._until, self._writers)
        self._table = Table(table, MetaData(), *(column for column in found if column is not None))
        self._default_home = default_home
        self._limits = limits
        self._monotonic = monotonic
        self._sleep = sleep
        self._now: ColumnElement[int] = literal_column(
            _NOW["sqlite" if database.is_sqlite else "postgresql"], BigInteger
        )

    def freeze(self, user: str, token: str, ttl_seconds: int) -> None:
        self._limits.check(ttl_seconds)
        with self._database.write() as connection:
            self._hold(connection, user, insert=True)
            frozen = connection.execute(
                update(self._table)
                .where(self._user == user, ~self._is_frozen(), or_(self._token.is_(None), self._token != token))
                .values(token=token, until=self._now + ttl_seconds * _SECOND)
            ).rowcount
            if not frozen:
                _demand(self._route(connection, user), token)
        self._drain(user)
        _demand(self.read(user), token)

    def flip(self, user: str, token: str, home: str) -> None:
        with self._database.write() as connection:
            self._hold(connection, user)
            is_ours = (self._user == user, self._token == token)
            flipped = connection.execute(
                update(self._table).where(*is_ours, self._is_frozen()).values(home=home)
            ).rowcount
            if not flipped and not connection.execute(select(self._user).where(*is_ours, self._home == home)).first():
                raise freeze_has_ended()

    def unfreeze(self, user: str, token: str) -> None:
        with self._database.write() as connection:
            self._hold(connection, user)
            connection.execute(
                update(self._table)
                .where(self._user == user, self._token == token, self._is_frozen())
                .values(until=0)  # and not now, by a clock that may be set back
            )

    def read(self, user: str) -> Route:
        with self._database.read() as connection:
            return self._route(connection, user)

    @contextmanager
    def writing(self, user: str) -> Iterator[str]:
        """The writers' side: one write of the user's data, at the home that it yields. LaterError while the user is frozen.

        Where the table counts writers, a freeze waits for the end of the block. A writer that died is waited for as long as for
        one that never ends, by every freeze, until its count is taken off again.
        """
        with self._database.write() as connection:
            self._hold(connection, user, insert=True)
            route = self._route(connection, user)
            if route.frozen_until is not None:
                raise LaterError("the user is frozen, and cannot be written", remedy="Try again in a moment.")
            self._count(connection, user, 1)
        try:
            yield route.home
        finally:
            with self._database.write() as connection:
                self._count(connection, user, -1)

    def _count(self, connection: Connection, user: str, by: int) -> None:
        if self._writers is not None:
            there_are = func.coalesce(self._writers, 0) + by
            connection.execute(update(self._table).where(self._user == user, there_are >= 0).values(writers=there_are))

    def _drain(self, user: str) -> None:
        """Wait until the writers that were counted have ended, or time is up. Nobody begins: the freeze is committed."""
        until = self._monotonic() + self._limits.drain_seconds
        while (left := until - self._monotonic()) > 0:
            if self._writers is None:
                self._sleep(left)
                continue
            with self._database.read() as connection:
                if not connection.execute(select(self._writers).where(self._user == user)).scalar():
                    return
            self._sleep(min(left, _LOOK_SECONDS))

    def _hold(self, connection: Connection, user: str, *, insert: bool = False) -> None:
        """Hold the user's row to the end of the transaction; with `insert` there is one afterwards.

        It comes before what looks at the clock: PostgreSQL looks at a row, then waits for whoever holds it, and does not look
        again where that one changed nothing. SQLite has the whole database by now.
        """
        mine = select(self._user).where(self._user == user).with_for_update()
        rows = connection.execute(mine).all()
        if not rows and insert:
            row = upsert(connection, self._table).values(user=user, home=self._default_home)
            connection.execute(row.on_conflict_do_nothing())
            rows = connection.execute(mine).all()
        if len(rows) > 1:
            raise IntegrityError(
                "the table of routes has a user twice",
                remedy="Let the column of users be unique, and ask `migrate doctor`.",
            )

    def _is_frozen(self) -> ColumnElement[bool]:
        return func.coalesce(self._until, 0) > self._now

    def _route(self, connection: Connection, user: str) -> Route:
        columns = (self._home, self._token, self._until, self._is_frozen().label("is_frozen"))
        row = connection.execute(select(*columns).where(self._user == user)).first()
        if row is None:
            return Route(self._default_home)
        home = row[0] or self._default_home
        return Route(home, row[1], _EPOCH + timedelta(microseconds=row[2])) if row[3] else Route(home)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _demand(route: Route, token: str) -> None:
    """LaterError unless the token's freeze holds."""
    if route.frozen_by is None:
        raise freeze_has_ended()
    if route.frozen_by != token:
        raise frozen_by_another()


class PlatformDatabase(Database):
    """A database of the platform's: its errors are not the ledger's."""

    def translate(self, error: sa_exc.DBAPIError) -> MigrateError:
        text, name = driver_text(error), f"the table of routes in {self.display_url}"
        if "locked" in text or "lock timeout" in text:
            return LaterError(
                f"{name} is held by another transaction, and stayed so", remedy="End it, or try again later."
            )
        if "permission denied" in text:
            return RefusedError(f"{name}: {text}", remedy="Grant SELECT, INSERT and UPDATE on it.")
        if isinstance(error, sa_exc.OperationalError | sa_exc.InterfaceError) or error.connection_invalidated:
            return UnreachableError(f"{name} cannot be reached: {text}", remedy="Ask `migrate doctor` about it.")
        return SpecError(
            f"{name} refuses: {text}", remedy="What a new row leaves out needs a default; see docs/operations.md."
        )


def demand_table(database: Database, asked: SqlRouting) -> None:
    """SpecError, with all problems, where the database has no such table of routes."""
    with database.read() as connection:
        problems = list(_problems(connection, asked))
    if problems:
        raise SpecError(
            f"the table of routes in {database.display_url}: {len(problems)} problem{'s' if len(problems) != 1 else ''}",
            problems,
            remedy="Mend routing.sql, or the table; docs/operations.md has one under Routing.",
        )


def _problems(connection: Connection, asked: SqlRouting) -> Iterator[str]:
    inspector = inspect(connection)
    if asked.table not in inspector.get_table_names():
        yield f"routing.sql.table: there is no table {asked.table!r}"
        return
    types = {column["name"]: column["type"] for column in inspector.get_columns(asked.table)}
    number = Integer if connection.dialect.name == "sqlite" else BigInteger
    wanted = {"user": String, "home": String, "token": String, "until": number, "writers": Integer}
    for key, kind in wanted.items():
        name = getattr(asked.columns, key)
        if name is not None and name not in types:
            yield f"routing.sql.columns.{key}: the table has no column {name!r}"
        elif name is not None and not isinstance(types[name], kind):
            yield f"routing.sql.columns.{key}: {name!r} is {types[name]}, and is to be {kind.__name__.upper()}"
    uniques: list[list[str | None]] = [[*inspector.get_pk_constraint(asked.table)["constrained_columns"]]]
    uniques += [[*item["column_names"]] for item in inspector.get_unique_constraints(asked.table)]
    uniques += [
        item["column_names"]
        for item in inspector.get_indexes(asked.table)
        if item["unique"] and not any(option.endswith("_where") for option in item.get("dialect_options", ()))
    ]
    if [asked.columns.user] not in uniques:
        yield f"routing.sql.columns.user: {asked.columns.user!r} is not unique, so a user could have two routes"
