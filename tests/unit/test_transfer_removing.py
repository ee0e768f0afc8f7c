"""A tombstone at targets that keep versions: nothing of ours stays behind a delete marker."""

from __future__ import annotations

import pytest
from moving import NOW, World, now

from migrate.model import DELETED, CopyResult, Outcome, PlannedObject
from migrate.stores.memory import MemoryPlace
from migrate.transfer.removing import remove_copies

KEY = "users/u1/photo"


def removed(world: World, etag: str | None) -> CopyResult:
    gone = world.places["us"].seed(KEY)
    world.places["us"].remove(KEY)
    planned: PlannedObject = world.plan(gone, copies=1)._replace(flag=DELETED)
    (result,) = remove_copies(planned, planned.copies, {0: etag}, world.caller, now)
    return result


def data(place: MemoryPlace) -> list[str]:
    return [info.etag for info in place.versions("") if not info.is_delete_marker]


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_earlier_try_that_was_killed_leaves_no_version(is_killed: bool) -> None:
    """It had written the delete marker, and not come to the version. Others' versions and keys are let be (Invariant 2)."""
    world = World()
    home = world.places["home"] = MemoryPlace(versioned=True)
    others = [home.seed(KEY, b"before").etag, home.seed(f"{KEY}-2", b"ours").etag]
    ours = home.seed(KEY, b"ours").etag
    if is_killed:
        home.remove(KEY)
    result = removed(world, ours)
    assert result.outcome is (Outcome.PRESENT if is_killed else Outcome.COPIED)
    assert result.receipt is not None
    assert result.receipt.at == NOW
    assert sorted(data(home)) == sorted(others)
    assert home.find(KEY) is None


def test_nothing_is_taken_away_of_which_no_receipt_tells() -> None:
    world = World()
    home = world.places["home"] = MemoryPlace(versioned=True)
    ours = home.seed(KEY, b"somebody's").etag
    home.remove(KEY)
    assert removed(world, None).outcome is Outcome.PRESENT
    assert data(home) == [ours]
