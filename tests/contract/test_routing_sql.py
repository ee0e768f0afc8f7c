"""What a table of routes can meet with: clocks, waits, rows that stand twice, and writers that nobody counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg
import pytest
import routeworlds
import sqlalchemy
from pg import PostgresServer
from psycopg import sql
from routeworlds import COLUMNS, DRAIN_SECONDS, TTL_MAX_SECONDS, TTL_SECONDS, TableWorld, make_world, refused

from migrate.errors import IntegrityError
from migrate.routing import FreezeLimits
from migrate.routing.sql import PlatformDatabase, SqlRouter
from migrate.spec import RoutingColumns


@pytest.fixture(params=["sql sqlite", "sql postgresql"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TableWorld]:
    """A router on a table of the platform's, on each database."""
    with ExitStack() as stack:
        made = make_world(request.param, request, tmp_path, stack)
        assert isinstance(made, TableWorld)
        yield made


def test_a_freeze_that_ends_while_it_waits_is_refused(table: TableWorld) -> None:
    """The wait was longer than the time to live: whoever asked for it must not go on."""
    sleep = table.router._sleep

    def too_long(seconds: float) -> None:
        sleep(seconds)
        table.pass_time(TTL_SECONDS)

    table.router._sleep = too_long
    table.begin_write("anna")
    assert refused(table.router.freeze, "anna", "t1", TTL_SECONDS)


def test_without_a_count_of_writers_a_freeze_waits_for_all_of_the_time(tmp_path: Path) -> None:
    """Somebody may be writing: nobody can know."""
    columns = {key: name for key, name in COLUMNS.items() if key != "writers"}
    with routeworlds.platform_table(f"sqlite:///{tmp_path / 'p.sqlite'}", tmp_path, columns) as world:
        world.router.freeze("anna", "t1", TTL_SECONDS)
        assert refused(world.router.freeze, "anna", "t2", TTL_SECONDS)  # at once
        assert world.waited() == DRAIN_SECONDS
        assert world.begin_write("anna") is None
        world.router.unfreeze("anna", "t1")
        assert world.begin_write("anna") == "us"


@pytest.mark.parametrize("is_corrupted", [False, True])
def test_the_database_s_clock_decides_and_not_this_process_s(
    table: TableWorld, is_corrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is a day ahead ends nobody's freeze. The corrupted twin looks at its own clock, and does."""
    if is_corrupted:
        monkeypatch.setattr(
            type(table.router), "_now", property(lambda _: sqlalchemy.literal(int(time.time() * 1e6))), raising=False
        )
        del table.router.__dict__["_now"]
    table.router.freeze("anna", "t1", TTL_SECONDS)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    assert (table.router.read("anna").frozen_by is None) is is_corrupted


def test_a_freeze_that_was_ended_does_not_come_back_with_a_clock_that_is_set_back(
    table: TableWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows its token any more. The twin was not ended, and holds."""
    for user in ("anna", "bjorn"):
        table.router.freeze(user, "t1", TTL_SECONDS)
    table.router.unfreeze("anna", "t1")
    an_hour_ago = sqlalchemy.literal(int((time.time() - 3600) * 1e6))
    monkeypatch.setattr(type(table.router), "_now", property(lambda _: an_hour_ago), raising=False)
    del table.router.__dict__["_now"]
    assert [table.router.read(user).frozen_by for user in ("anna", "bjorn")] == [None, "t1"]


def test_a_user_who_stands_in_a_table_twice_stops_everything(tmp_path: Path) -> None:
    """A guarded UPDATE of two rows would flip one that nobody has frozen."""
    url = f"sqlite:///{tmp_path / 'p.sqlite'}"
    routeworlds.make_table(url, COLUMNS, unique=False)
    router = on_table(url)
    with router._database.write() as connection:
        for home in ("us", "hamar"):
            connection.execute(router._table.insert().values(user="anna", home=home))
    for call in (partial(router.freeze, "anna", "t1", TTL_SECONDS), partial(router.flip, "anna", "t1", "hamar")):
        with pytest.raises(IntegrityError, match="a user twice"):
            call()
    router._database.close()


def on_table(url: str) -> SqlRouter:
    """A router on a table that nobody has looked at, and whose freezes wait for nobody."""
    columns = RoutingColumns(**COLUMNS)
    limits = FreezeLimits(0, TTL_MAX_SECONDS)
    return SqlRouter(PlatformDatabase(url), routeworlds.TABLE, columns, default_home="us", limits=limits)


@pytest.mark.parametrize("is_corrupted", [False, True])
def test_a_flip_that_had_to_wait_looks_at_the_clock_again(
    postgres_server: PostgresServer, is_corrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction holds the row until the freeze has ended. The corrupted twin has looked before it waited, and flips."""
    with postgres_server.database() as url:
        routeworlds.make_table(url, COLUMNS)
        router = on_table(url)
        router.freeze("anna", "t1", 1)
        if is_corrupted:
            monkeypatch.setattr(SqlRouter, "_hold", lambda *_, **__: None)
        found: list[bool] = []
        flip = threading.Thread(target=lambda: found.append(refused(router.flip, "anna", "t1", "hamar")))
        with psycopg.connect(url) as holder:
            holder.execute(sql.SQL("SELECT 1 FROM {} FOR SHARE").format(sql.Identifier(routeworlds.TABLE)))
            flip.start()
            with psycopg.connect(url, autocommit=True) as watcher:
                waiting = (
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                )
                while watcher.execute(waiting).fetchone() is None:
                    assert flip.is_alive()
            holder.execute("SELECT pg_sleep(1.1)")
        flip.join()
        assert found == [not is_corrupted]
        assert router.read("anna").home == ("hamar" if is_corrupted else "us")
        router._database.close()
