"""Worlds that are made once: a copy shares nothing with another one, and goes on as its first would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from kept import made_once
from pg import PostgresServer
from purgeworld import execute, states
from smallworld import SmallWorld, build_planned

from migrate.states import UserState

made: list[Path] = []


@made_once
def copied(root: Path, ledger: str | None, users: int) -> SmallWorld:
    made.append(root)
    world = build_planned(root, ledger, users=users, per_user=2, odd=False, large=False)
    assert world.migrate("run", "--wave", "all").code == 0
    return world


@pytest.fixture(params=["sqlite", "postgresql"])
def ledgers(request: pytest.FixtureRequest) -> Iterator[list[str | None]]:
    """Three ledgers that are not made yet."""
    with ExitStack() as databases:
        if request.param == "sqlite":
            yield [None] * 3
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            yield [databases.enter_context(server.database()) for _ in range(3)]


def test_copies_share_nothing(ledgers: list[str | None], tmp_path: Path) -> None:
    """What is done in one is seen in no other, not even in those that are made later; and no way leads back to the first."""
    made.clear()
    one, other = (copied(tmp_path / name, ledger, 3) for name, ledger in zip("ab", ledgers, strict=False))
    before = other.at_targets()
    one.put_source("users/u001/new.jpg", b"new")
    for store, key in one.at_targets():
        one.store(store).delete(key)
    execute(one, "UPDATE users SET state = 'forgotten'")
    third = copied(tmp_path / "c", ledgers[2], 3)
    (first,) = made
    for world in (other, third):
        assert (world.at_targets(), set(states(world).values())) == (before, {UserState.COPIED})
        assert world.migrate("verify").code == 0
        world.assert_all_there()
    files = [path for path in third.root.rglob("*") if path.is_file()]
    assert not [path for path in files if str(first).encode() in path.read_bytes()]
