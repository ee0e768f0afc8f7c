"""Both databases that a ledger can be kept in: every test that takes `ledger_url`, `ledger` or `world` runs on each.

A ledger, and one with a plan, is made once a test process and database; each test gets a copy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from ledgers import World
from pg import PostgresServer

from migrate.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a ledger is that copies are made of: a file, or the name of a database. The ids are those of a World in it."""

    place: str
    ids: tuple[int, int, int] | None


@pytest.fixture(scope="session")
def kept_ledger(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, bool], Kept]:
    """A new ledger on this kind of database, or one with a World."""

    @cache
    def make(kind: str, with_world: bool) -> Kept:
        if kind == "sqlite":
            place = str(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")
            url = f"sqlite:///{place}"
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            place = server.new_database()
            url = server.url(place)
        ledger = Ledger.open(url)
        world = World.make(ledger) if with_world else None
        ledger.close()
        return Kept(place, None if world is None else (world.plan_id, world.run_id, world.worker_id))

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(
    request: pytest.FixtureRequest, tmp_path: Path, kept_ledger: Callable[[str, bool], Kept]
) -> Iterator[str]:
    """The URL of a ledger that is not made yet, or, for `ledger` and `world`, of theirs."""
    kind, wanted = request.param, {"ledger", "world"} & set(request.fixturenames)
    kept = kept_ledger(kind, "world" in wanted) if wanted else None
    if kind == "sqlite":
        path = tmp_path / "ledger.sqlite"
        if kept is not None:
            shutil.copy(kept.place, path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database(None if kept is None else kept.place) as url:
        yield url


@pytest.fixture
def other_url(ledger_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of another one, on the same kind of database, which is not made yet."""
    if ledger_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'other.sqlite'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database() as url:
        yield url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """A new ledger."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture
def world(ledger: Ledger, kept_ledger: Callable[[str, bool], Kept]) -> World:
    """A ledger with a plan of three waves, a run and a worker."""
    ids = kept_ledger("sqlite" if ledger.is_file else "postgresql", True).ids
    assert ids is not None
    return World(ledger, *ids)
