"""Worlds whose users were moved and are past their window, for the tests of a purge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kept import made_once
from smallworld import SmallWorld, build, listed, planned
from sqlalchemy import create_engine, text

from migrate.ledger import Ledger
from migrate.states import UserState

SOURCES = ("us", "singapore")
ROUTING = '\n[routing]\ndrain_seconds = "1s"\nfreeze_seconds_max = "20s"\n'


@made_once
def moved(root: Path, ledger: str | None, *, users: int = 4, more: str = "", rules: str = "") -> SmallWorld:
    """Planned, copied, verified and cut over; every window is over. `more` goes to the end of the spec, `rules` before the rule
    of the photos."""
    world = build(root, users=users, per_user=3, odd=False, large=False)
    spec = root / "plans" / "small.toml"
    layout = spec.read_text().replace("[[layout.rules]]", f"{rules}[[layout.rules]]", 1)
    spec.write_text(layout + ROUTING + more, encoding="utf-8")
    world.ledger = ledger
    return move(world)


def move(world: SmallWorld) -> SmallWorld:
    planned(world)
    for words in (("run", "--wave", "all"), ("verify",), ("cutover", "--wave", "all")):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.err
    end_windows(world)
    return world


def end_windows(world: SmallWorld) -> None:
    """As if the observation had been over by now."""
    execute(world, "UPDATE moves SET observe_until = flipped_at WHERE flipped_at IS NOT NULL")


def execute(world: SmallWorld, statement: str, **values: Any) -> None:
    """Change the ledger as no command does."""
    url = world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite"
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as connection:
        assert connection.execute(text(statement), values).rowcount >= 1
    engine.dispose()


@contextmanager
def ledger_of(world: SmallWorld) -> Iterator[Ledger]:
    ledger = Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    try:
        yield ledger
    finally:
        ledger.close()


def states(world: SmallWorld) -> dict[str, UserState]:
    with ledger_of(world) as ledger:
        found = {user: ledger.user(user) for user in world.users}
    return {user: row.state for user, row in found.items() if row is not None}


def homes(world: SmallWorld) -> dict[str, tuple[str, str]]:
    """Home and backup store of each user: in these worlds they are called as their sites."""
    with ledger_of(world) as ledger:
        found = {user: ledger.user(user) for user in world.users}
    return {user: (str(row.home), str(row.backup)) for user, row in found.items() if row is not None}


def at_sources(world: SmallWorld) -> dict[str, list[str]]:
    """The keys that each source store holds, seen by a listing that is not the product's of a user."""
    return {name: [info.key for info in listed(world.store(name))] for name in SOURCES}


def of(user: str, keys: dict[str, list[str]]) -> int:
    """How many of these keys lie under the user's prefix."""
    return sum(key.startswith(f"users/{user}/") for found in keys.values() for key in found)


def purge(world: SmallWorld, *words: str, code: int = 0) -> dict[str, Any]:
    answer = world.migrate("purge", "--wave", "all", *words, "--json")
    assert answer.code == code, (answer.code, answer.out, answer.err)
    found: dict[str, Any] = answer.json
    assert found["exit_code"] == code
    return found


def digest_of(world: SmallWorld, code: int = 0) -> str:
    """Make a purge plan; its digest."""
    return str(purge(world, "--dry-run", code=code)["purge"]["digest"])


def confirmed(world: SmallWorld, code: int = 0, *, planned_code: int = 0) -> dict[str, Any]:
    """Make a purge plan and carry it out."""
    return purge(world, "--confirm", digest_of(world, planned_code), code=code)
