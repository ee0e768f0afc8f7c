"""The worlds of the contract of routing: a router as a spec asks for it, and the platform behind it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import routes
from pg import PostgresServer
from routes import Hook, Platform
from smallworld import SPEC
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, create_engine

from migrate.errors import ExitCode, LaterError
from migrate.ledger import Ledger
from migrate.routing import FreezeLimits, Router, open_router
from migrate.routing.asking import AskingRouter
from migrate.routing.sql import SqlRouter
from migrate.spec import Spec, parse_spec

KEY = "0123456789abcdef, the hook's"
DRAIN_SECONDS, TTL_SECONDS, TTL_MAX_SECONDS = 5, 30, 60
TABLE = """Where "users" live; SELECT %s"""  # every name here needs its quotes
COLUMNS = {"user": "order", "home": 'ho"me', "token": "frozen by", "until": "until %(x)s", "writers": "Writers"}


class World(Protocol):
    """What the contract's tests need of each."""

    @property
    def router(self) -> Router: ...

    def pass_time(self, seconds: float) -> None:
        """Let the platform's clock go on."""

    def begin_write(self, user: str) -> str | None:
        """A writer begins, as the platform's own do: the home that it writes at, None while the user is frozen."""

    def leave_after(self, looks: int) -> None:
        """The writers that are there end when a freeze looks for them for the so-many-th time."""

    def waited(self) -> float:
        """How long freezes have waited for writers, in seconds."""


@dataclass
class TableWorld:
    """A SqlRouter. Its waits take no time, and the database's clock is moved by moving what it is compared with."""

    router: SqlRouter
    moment: float = 0.0
    looks: int = 0
    leaves_after: int | None = None
    writers: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.router._monotonic = lambda: self.moment
        self.router._sleep = self._sleep

    def _sleep(self, seconds: float) -> None:
        self.moment += seconds
        self.looks += 1
        if self.looks == self.leaves_after:
            self.writers.close()

    def pass_time(self, seconds: float) -> None:
        until = self.router._until
        with self.router._database.write() as connection:
            connection.execute(self.router._table.update().values(until=until - int(seconds * 1_000_000)))

    def begin_write(self, user: str) -> str | None:
        try:
            return self.writers.enter_context(self.router.writing(user))
        except LaterError:
            return None

    def leave_after(self, looks: int) -> None:
        self.leaves_after = looks

    def waited(self) -> float:
        return self.moment


@dataclass
class PlatformWorld:
    """Somebody else's routes, behind a hook, a command or nothing. `platform` is where they are looked after."""

    router: Router
    platform: Callable[[], AbstractContextManager[Platform]]

    def pass_time(self, seconds: float) -> None:
        with self.platform() as platform:
            platform.now += seconds

    def begin_write(self, user: str) -> str | None:
        with self.platform() as platform:
            return platform.begin_write(user)

    def leave_after(self, looks: int) -> None:
        with self.platform() as platform:
            platform.leaves_after = looks

    def waited(self) -> float:
        with self.platform() as platform:
            return platform.waited


def spec_of(routing: str) -> Spec:
    """A small spec with this `[routing]`."""
    return parse_spec(SPEC.format(as_of="2026-11-22T00:00:00Z", copies_max=60) + routing, place="small.toml")


def section(kind: str, **keys: Any) -> str:
    """`[routing]` as TOML. JSON's texts, numbers and lists are TOML's."""
    lines = [f'[routing]\nkind = "{kind}"\ndrain_seconds = "{DRAIN_SECONDS}s"\nfreeze_seconds_max = {TTL_MAX_SECONDS}']
    lines += [f"[routing.{kind}]"] if keys else []
    lines += [f"{name} = {json.dumps(value)}" for name, value in keys.items() if not isinstance(value, dict)]
    for name, table in keys.items():
        if isinstance(table, dict):
            lines.append(f"[routing.{kind}.{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


@contextmanager
def opened(routing: str, folder: Path, **environment: str) -> Iterator[Router]:
    """The router of a spec with this `[routing]`, beside a new ledger in `folder`."""
    ledger = Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}")
    try:
        with open_router(spec_of(routing), ledger, environment, folder) as router:
            yield router
    finally:
        ledger.close()


@contextmanager
def embedded(url: str, folder: Path) -> Iterator[World]:
    ledger = Ledger.open(url)
    try:
        with open_router(spec_of(section("embedded")), ledger, {}, folder) as router:
            assert isinstance(router, SqlRouter)
            world = TableWorld(router)
            with world.writers:
                yield world
    finally:
        ledger.close()


def make_table(url: str, columns: dict[str, str], *, unique: bool = True) -> None:
    """A table of the platform's with hostile names; SQLite gets its file by it."""
    kinds = {"user": Text, "home": Text, "token": Text, "until": BigInteger, "writers": Integer}
    made: list[Column[Any]] = [
        Column(name, kinds[key], primary_key=unique and key == "user") for key, name in columns.items()
    ]
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    Table(TABLE, MetaData(), *made).create(engine)
    engine.dispose()


@contextmanager
def platform_table(url: str, folder: Path, columns: dict[str, str]) -> Iterator[TableWorld]:
    make_table(url, columns)
    with opened(section("sql", url="env:ROUTES", table=TABLE, columns=columns), folder, ROUTES=url) as router:
        assert isinstance(router, SqlRouter)
        world = TableWorld(router)
        with world.writers:
            yield world


@contextmanager
def hook(folder: Path) -> Iterator[World]:
    with Hook(KEY.encode()).served() as served:
        routing = section("http", url=served.url, key="env:KEY", timeout_seconds=30)
        with opened(routing, folder, KEY=KEY) as router:
            yield PlatformWorld(router, served.held)


def command_of(state: Path) -> list[str]:
    """The argv of a command that answers from `state`, which is made."""
    state.write_text(json.dumps(asdict(Platform())))
    return [sys.executable, "-S", "-E", routes.__file__, str(state)]


@contextmanager
def command(folder: Path) -> Iterator[World]:
    state = folder / "state.json"
    with opened(section("command", argv=command_of(state), timeout_seconds=60), folder) as router:
        yield PlatformWorld(router, lambda: routes.kept(state))


class Direct:
    """A Transport to a platform in this process: for platforms that are broken."""

    name = "the platform"

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def ask(self, question: bytes, *, changes: bool, seconds: float) -> bytes | None:
        route = self.platform.answer(json.loads(question))
        return None if route is None else json.dumps(route).encode()


def direct(broken: str) -> PlatformWorld:
    """A world whose platform is broken in one way; in none, with an empty word."""
    platform = Platform(broken=broken)

    @contextmanager
    def held() -> Iterator[Platform]:
        yield platform

    return PlatformWorld(AskingRouter(Direct(platform), limits=FreezeLimits(DRAIN_SECONDS, TTL_MAX_SECONDS)), held)


def database_url(kind: str, server: Callable[[], PostgresServer], folder: Path, stack: ExitStack) -> str:
    """An empty database of this kind, to the end of `stack`."""
    if kind == "postgresql":
        return stack.enter_context(server().database())
    return f"sqlite:///{folder / 'platform.sqlite'}"


def make_world(name: str, request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> World:
    kind, _, database = name.partition(" ")

    def server() -> PostgresServer:
        found: PostgresServer = request.getfixturevalue("postgres_server")
        return found

    if kind == "http":
        return stack.enter_context(hook(folder))
    if kind == "command":
        return stack.enter_context(command(folder))
    url = database_url(database, server, folder, stack)
    if kind == "embedded":
        return stack.enter_context(embedded(url, folder))
    return stack.enter_context(platform_table(url, folder, COLUMNS))


def refused(call: Callable[..., None], *words: Any) -> bool:
    """Whether the verb was refused as what can be later."""
    try:
        call(*words)
    except LaterError as error:
        return error.exit_code is ExitCode.LATER and bool(error.remedy)
    return False
