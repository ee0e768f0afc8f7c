"""A cutover is killed with -9 at each of its points: no user has two homes, none stays frozen, and the next one ends the job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kept import made_once
from purgeworld import execute
from smallworld import SmallWorld, build, planned
from test_crashes import BOTH_LEDGERS, IN_A_CUTOVER, NOBODY_IS_LATE, do, killed_at

from migrate.ledger import Ledger
from migrate.pauses import PausePoint
from migrate.routing import FreezeLimits
from migrate.routing.sql import SqlRouter
from migrate.spec import RoutingColumns
from migrate.states import UserState

_P = PausePoint
TTL_SECONDS = 15  # a busy machine lists and copies in a third of it


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@made_once
def ready(root: Path, ledger: str | None) -> SmallWorld:
    """Verified, but for two who write without pause and have a drifted copy each; and changed at the source since."""
    world = build(root, users=4, per_user=3, odd=False, large=False)
    spec = root / "plans" / "small.toml"
    more = f'\n[routing]\ndrain_seconds = "1s"\nfreeze_seconds_max = "{TTL_SECONDS}s"\n'
    spec.write_text(spec.read_text() + more, encoding="utf-8")
    world.ledger = ledger
    planned(world)
    for user in ("u000", "u002"):
        world.put_source(f"users/{user}/photo-0001.jpg", b"since the plan")
    do(world, "run", "--wave", "all", code=4)
    do(world, "verify", code=4)
    for user in world.users:
        world.put_source(f"users/{user}/new.jpg", b"new")
        world.put_source(f"users/{user}/photo-0001.jpg", b"changed")
        for store in ("us", "singapore"):
            world.store(store).delete(f"users/{user}/photo-0002.jpg")
        del world.objects[f"users/{user}/photo-0002.jpg"]
    return world


@contextmanager
def opened(world: SmallWorld) -> Iterator[tuple[Ledger, SqlRouter]]:
    ledger = Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    try:
        limits = FreezeLimits(1, TTL_SECONDS)
        columns = RoutingColumns(writers="writers")
        yield ledger, SqlRouter(ledger.database, "routes", columns, default_home="us", limits=limits)
    finally:
        ledger.close()


def assert_one_home_each(world: SmallWorld) -> None:
    """Nobody lives at a home to which not all of them was brought: the ledger has the receipts of whoever was flipped. And nobody
    is frozen for longer than a freeze may last."""
    with opened(world) as (ledger, routes):
        for user in world.users:
            row, route = ledger.user(user), routes.read(user)
            assert row is not None
            home = route.home
            if route.frozen_until is not None:
                assert route.frozen_until <= datetime.now(UTC) + timedelta(seconds=TTL_SECONDS)
            assert home in ("us", row.home)
            late = ledger.late_of([user]).get(user, [])
            if home != "us":
                assert late
                assert all(copy.receipt is not None for copy in late)  # Invariant 1
            if row.state in (UserState.CUT_OVER, UserState.OBSERVING):
                assert home == row.home


def assert_nobody_stays_frozen(world: SmallWorld, *, wait: bool) -> None:
    """Once the time of the freeze is over, which is waited for, or let pass in the table of routes."""
    if not wait:
        execute(world, "UPDATE routes SET frozen_until = 1 WHERE frozen_by IS NOT NULL")
    until = time.monotonic() + (TTL_SECONDS + 2 if wait else 0)
    with opened(world) as (_, routes):
        while any(routes.read(user).frozen_by is not None for user in world.users):
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.parametrize("kind", BOTH_LEDGERS)
@pytest.mark.parametrize("point", IN_A_CUTOVER, ids=str)
def test_a_crash_in_a_cutover_leaves_nobody_between_two_homes(
    point: PausePoint, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Killed at the point: the freeze ends by itself, the next cutover finds out where each user lives, and everybody ends at the
    new home with everything, and nothing that was deleted (Invariants 1, 2 and 9)."""
    world = ready(tmp_path, request.getfixturevalue("postgres_url") if kind == "postgresql" else None)
    words: tuple[str, ...] = ("cutover", "--wave", "all")
    killed_at(world, point, *words, program=NOBODY_IS_LATE)
    assert_one_home_each(world)
    if point is _P.USER_FROZEN:
        assert_nobody_stays_frozen(world, wait=kind == "sqlite")
    answer = world.migrate(*words, "--json")
    assert answer.code == 0, (answer.out, answer.err)
    found: dict[str, Any] = answer.json["users"]
    assert found["moved"] + found["settled"] + found["moved_before"] >= len(world.users)
    with opened(world) as (ledger, routes):
        for user in world.users:
            row, route = ledger.user(user), routes.read(user)
            assert row is not None
            assert (row.state, route.home, route.frozen_by) == (UserState.OBSERVING, row.home, None)
            move = ledger.move_of(user)
            assert move is not None
            assert move.flipped_at is not None
            assert move.observe_until is not None
    world.assert_all_there()
    assert world.open_uploads() == 0
