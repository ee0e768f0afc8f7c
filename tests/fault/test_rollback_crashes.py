"""A rollback is killed with -9 at each of its points: no user has two homes, none stays frozen, nothing erased comes to life, and
the next one ends the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kept import made_once
from smallworld import SmallWorld
from test_crashes import BOTH_LEDGERS, IN_A_ROLLBACK, NOBODY_IS_LATE, do, killed_at
from test_cutover_crashes import assert_nobody_stays_frozen, opened, ready

from migrate.model import SENT_BACK, Attributes, TargetRole
from migrate.pauses import PausePoint
from migrate.states import UserState

_P = PausePoint
SOURCES = ("us", "singapore")
IN_EUROPE = b"written in Europe"
GONE = "users/{user}/photo-0000.jpg"
WORDS: tuple[str, ...] = ("rollback", "--wave", "all")


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@made_once
def away(root: Path, ledger: str | None) -> SmallWorld:
    """At the new home; everybody has deleted an object there, changed one and written one."""
    world = ready(root, ledger)
    do(world, "cutover", "--wave", "all")
    live_in_europe(world)
    return world


def live_in_europe(world: SmallWorld) -> None:
    for user in world.users:
        for store in places(world, user):
            world.store(store).delete(GONE.format(user=user))
        for name in ("written.jpg", "photo-0001.jpg"):
            world.put(places(world, user)[0], f"users/{user}/{name}", IN_EUROPE, Attributes(content_type="a/b"), {})


def places(world: SmallWorld, user: str) -> tuple[str, str]:
    with opened(world) as (ledger, _):
        row = ledger.user(user)
    assert row is not None
    return str(row.home), str(row.backup)


def keys_at(world: SmallWorld, store: str) -> set[str]:
    return {info.key for page in world.store(store).list() for info in page}


def assert_one_home_each(world: SmallWorld) -> None:
    """Who lives at the old home again has nothing there that was deleted at the new one."""
    standing = {store: keys_at(world, store) for store in SOURCES}
    with opened(world) as (ledger, routes):
        for user in world.users:
            row, home = ledger.user(user), routes.read(user).home
            assert row is not None
            assert home in ("us", row.home)
            if home == "us":
                assert not any(GONE.format(user=user) in keys for keys in standing.values())
                late = ledger.late_of([user])[user]
                proved = [copy for copy in late if (copy.flag, copy.role) != (SENT_BACK, TargetRole.BACKUP)]
                assert all(copy.receipt is not None for copy in proved)  # Invariant 1
            if row.state is UserState.OBSERVING:
                assert home == row.home
            if row.state is UserState.ROLLED_BACK:
                assert home == "us"


def assert_back(
    world: SmallWorld, before: dict[str, set[str]], targets: Any, sent: frozenset[str] = frozenset()
) -> None:
    """Everybody lives at the old home, which has all but what was deleted, and what was sent back; what was written stays where
    it is."""
    with opened(world) as (ledger, routes):
        for user in world.users:
            row, route = ledger.user(user), routes.read(user)
            assert row is not None
            assert (row.state, route.home, route.frozen_by) == (UserState.ROLLED_BACK, "us", None)
    gone = {GONE.format(user=user) for user in world.users}
    assert {store: keys_at(world, store) for store in SOURCES} == {
        "us": before["us"] - gone | sent,
        "singapore": before["singapore"] - gone,
    }
    assert world.at_targets() == targets
    for user in world.users:
        with world.store("us").get(f"users/{user}/photo-0001.jpg") as download:
            assert (download.read() == IN_EUROPE) == bool(sent)


@pytest.mark.parametrize("kind", BOTH_LEDGERS)
@pytest.mark.parametrize("point", IN_A_ROLLBACK, ids=str)
def test_a_crash_in_a_rollback_leaves_nobody_between_two_homes(
    point: PausePoint, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Killed at the point, the freeze ends by itself, the next rollback finds out where each user lives, and everybody ends at
    the old home (Invariants 1, 2 and 4)."""
    world = away(tmp_path, request.getfixturevalue("postgres_url") if kind == "postgresql" else None)
    before, targets = {store: keys_at(world, store) for store in SOURCES}, world.at_targets()
    words, sent = WORDS, frozenset[str]()
    if point is _P.WRITES_SENT_BACK:
        words, sent = (
            (*WORDS, "--send-back", "Ms Counsel"),
            frozenset(f"users/{user}/written.jpg" for user in world.users),
        )
    killed_at(world, point, *words, program=NOBODY_IS_LATE)
    assert_one_home_each(world)
    if point is _P.RETURN_FROZEN:
        assert_nobody_stays_frozen(world, wait=False)
    answer = world.migrate(*words, "--json")
    assert answer.code == 0, (answer.out, answer.err)
    found: dict[str, Any] = answer.json["users"]
    assert found["back"] + found["settled"] + found["back_before"] == len(world.users)
    assert_back(world, before, targets, sent)


def test_who_was_flipped_by_a_cutover_that_was_killed_can_go_back(tmp_path: Path) -> None:
    """Flipped, and without a window: the rollback begins it. Who is frozen is the next cutover's to settle, and told."""
    world = ready(tmp_path, None)
    killed_at(world, _P.MOVE_RECORDED, "cutover", "--wave", "all", program=NOBODY_IS_LATE)
    with opened(world) as (ledger, _):
        before = {user: ledger.user(user) for user in world.users}
    flipped = {user for user, row in before.items() if row is not None and row.state is UserState.CUT_OVER}
    frozen = {user for user, row in before.items() if row is not None and row.state is UserState.FROZEN}
    assert flipped
    answer = world.migrate(*WORDS, "--json")
    assert answer.code == (4 if frozen else 0), (answer.out, answer.err)
    assert answer.json["users"]["back"] == len(flipped)
    assert {each["user"] for each in answer.json["who"]} == frozen
    with opened(world) as (ledger, routes):
        for user in flipped:
            row = ledger.user(user)
            assert row is not None
            assert (row.state, routes.read(user).home) == (UserState.ROLLED_BACK, "us")
