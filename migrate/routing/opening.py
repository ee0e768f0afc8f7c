"""From a spec to the router that it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from migrate.errors import SpecError, UsageError
from migrate.ledger import Ledger
from migrate.routing.asking import AskingRouter
from migrate.routing.base import FreezeLimits, Router
from migrate.routing.command import Command
from migrate.routing.http import HttpHook
from migrate.routing.sql import PlatformDatabase, SqlRouter, demand_table
from migrate.secrets import raw_key, raw_secret
from migrate.spec import RoutingColumns, Spec, SqlRouting


@contextmanager
def open_router(spec: Spec, ledger: Ledger, environment: Mapping[str, str], root: Path) -> Iterator[Router]:
    """The router of `routing` in the spec, to the end of the block. `root` is the workspace, and `ledger` stays open as long.

    SpecError where it cannot be had as the spec has it, UnreachableError where a database does not answer. Hooks and commands are
    not asked yet.
    """
    routing = spec.routing
    limits = FreezeLimits(routing.drain_seconds, routing.freeze_seconds_max)
    if routing.http is not None:
        yield AskingRouter(HttpHook(routing.http, raw_key(routing.http.key, environment, root)), limits=limits)
    elif routing.command is not None:
        yield AskingRouter(Command(routing.command, root), limits=limits)
    elif spec.default_home is None:
        raise SpecError(
            "routing.default_home: the source stores are at several sites, and nobody says where a user without a row lives",
            remedy="Name the site.",
        )
    elif routing.sql is None:
        columns = RoutingColumns(writers="writers")
        yield SqlRouter(ledger.database, "routes", columns, default_home=spec.default_home, limits=limits)
    else:
        database = _database(routing.sql, environment, root)
        try:
            demand_table(database, routing.sql)
            asked = routing.sql
            yield SqlRouter(database, asked.table, asked.columns, default_home=spec.default_home, limits=limits)
        finally:
            database.close()


def _database(asked: SqlRouting, environment: Mapping[str, str], root: Path) -> PlatformDatabase:
    url = raw_secret(asked.url, environment, root).decode("utf-8", "replace")
    try:
        database = PlatformDatabase(url)
    except UsageError as error:  # it speaks of a ledger
        raise SpecError(
            f"routing.sql.url: {asked.url} holds no URL of a database that is known here, or its driver is not installed",
            remedy="postgresql://USER:PASSWORD@HOST/DATABASE, with psycopg installed (migrate[postgres]), or sqlite:///PATH.",
        ) from error
    if database.path is not None and not database.path.exists():
        raise SpecError(f"routing.sql.url: there is no {database.path}", remedy="Make the database, or mend the URL.")
    return database
