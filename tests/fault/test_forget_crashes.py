"""`migrate forget` is killed with -9 at each of its points: the mark stays, the next one ends the job, and nothing comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from kept import made_once
from smallworld import SmallWorld, build, planned
from test_crashes import BOTH_LEDGERS, IN_A_FORGETTING, NOBODY_IS_LATE, do, killed_at

from migrate.inventory.forgotten import remembered
from migrate.ledger import EventKind, Ledger
from migrate.pauses import PausePoint
from migrate.states import UserState
from migrate.workspace import Workspace


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@made_once
def copied(root: Path, ledger: str | None) -> SmallWorld:
    world = build(root, users=4, per_user=3, odd=False)
    world.ledger = ledger
    planned(world)
    do(world, "run", "--wave", "all")
    return world


def of_user(world: SmallWorld) -> int:
    return sum(key.startswith("users/u001/") for _, key in world.at_targets())


@pytest.mark.parametrize("kind", BOTH_LEDGERS)
@pytest.mark.parametrize("point", IN_A_FORGETTING, ids=str)
def test_a_crash_while_a_user_is_forgotten_brings_nothing_back(
    point: PausePoint, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A run in between copies nothing of the user, a verification misses nothing, the next command ends it (Invariants 1, 3)."""
    world = copied(tmp_path, request.getfixturevalue("postgres_url") if kind == "postgresql" else None)
    before = of_user(world)
    killed_at(world, point, "forget", "--user", "u001", program=NOBODY_IS_LATE)
    left = {PausePoint.USER_FORGOTTEN: before, PausePoint.OBJECT_ERASED: None, PausePoint.USER_ERASED: 0}[point]
    assert of_user(world) == left or (left is None and of_user(world) < before)
    ledger = Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    try:
        row = ledger.user("u001")
        assert row is not None
        assert row.state is UserState.FORGOTTEN
        assert not ledger.is_erased("u001")  # Invariant 1: not before it is so
        do(world, "run", "--wave", "all")
        do(world, "verify", "--wave", "all")
        assert of_user(world) <= before
        do(world, "forget", "--user", "u001")
        assert [event.kind for event in ledger.history("u001")] == [EventKind.MOVE, EventKind.ERASED]
    finally:
        ledger.close()
    for key in [key for key in world.objects if key.startswith("users/u001/")]:
        del world.objects[key]
    for words in (("forget", "--user", "u001"), ("run", "--wave", "all"), ("verify", "--wave", "all")):
        do(world, *words)
        world.assert_all_there()
    assert world.open_uploads() == 0
    assert remembered(Workspace(world.root)) == {"u001"}
