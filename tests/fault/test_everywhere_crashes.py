"""Copying to every site is killed with -9 amid a run and a delta: each object ends at each site once, and none comes back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from smallworld import MIB, SmallWorld, body_of, build, planned
from test_crashes import BOTH_LEDGERS, NOBODY_IS_LATE, do, end_of, killed_at

from migrate.pauses import PausePoint

_P = PausePoint
SITES = ("dublin-1", "dublin-2", "hamar")
EVERYWHERE = """
[[layout.rules]]
name = "assets"
pattern = "assets/{rest}"
shared = true
policy = "copy"

[orphans]
policy = "copy"
"""
GHOST = "users/ghost/photo.jpg"
IN_A_RUN = (_P.OBJECT_WRITTEN, _P.PARTS_JOINED, _P.PARTS_RECORDED, _P.RECEIPTS_SEALED)
IN_A_DELTA = (_P.OBJECT_REMOVED, _P.OBJECT_WRITTEN, _P.GROUP_COMMITTED)


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


def assert_everywhere(world: SmallWorld) -> None:
    """Each object is at each site as it is at the source, and nothing else is anywhere (Invariants 1 and 2)."""
    found = world.at_targets()
    assert Counter(key for _, key in found) == dict.fromkeys(world.objects, len(SITES))
    for (site, key), held in found.items():
        assert held == world.objects[key], (site, key)


def assert_ended(world: SmallWorld, copies: int) -> None:
    """All of the newest plan's copies are there, everybody is verified, and nothing is left open, leased or unsealed."""
    end = end_of(world)
    assert (end.settled, end.states) == (copies, Counter(verified=4))
    uploads, leases, files = end.left_behind
    assert (uploads, leases) == (0, 0)
    assert isinstance(files, list)
    unknown = [name for name in files if name.startswith(("receipts", "verdicts"))]
    assert not unknown, "sealed files of which the ledger does not know"


@pytest.mark.parametrize("kind", BOTH_LEDGERS)
def test_stand_ins_that_are_killed_again_and_again_end_as_if_nobody_had(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Nobody else has objects here, so each kill is amid a stand-in's: at an object of three sites, in its parts, at a seal; then
    amid a delta that changes two and removes two. Sums hold, and nothing is left leased, open or unsealed (Invariants 1 to 5)."""
    world = build(tmp_path, users=2, per_user=0, odd=False, large=False)
    world.ledger = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
    spec = tmp_path / "plans" / "small.toml"
    # one after another, so that each run that is killed leaves the next one something to be killed at
    one_by_one = spec.read_text().replace("concurrency = 8", "concurrency = 1")
    spec.write_text(one_by_one + EVERYWHERE, encoding="utf-8")
    for number in range(6):
        world.put_source(f"assets/{number}.svg", body_of(str(number), 90), tags={"of": "all"})
    world.put_source("assets/film.mp4", body_of("film", 12 * MIB), tags={"of": "all"})
    world.put_source(GHOST, b"ghost")
    planned(world)
    for point in IN_A_RUN:
        killed_at(world, point, "run", "--wave", "all")
    do(world, "run", "--wave", "all")
    do(world, "verify", "--wave", "all")
    assert_everywhere(world)
    assert_ended(world, 8 * len(SITES))

    world.put_source("assets/film.mp4", body_of("cut", 11 * MIB), tags={"of": "all"})
    world.put_source("assets/2.svg", b"changed", tags={"of": "all"})
    for key in ("assets/1.svg", GHOST):
        for store in ("us", "singapore"):
            world.store(store).delete(key)
        del world.objects[key]
    do(world, "delta")
    for point in IN_A_DELTA:
        killed_at(world, point, "run", "--wave", "all", program=NOBODY_IS_LATE)
    do(world, "run", "--wave", "all")
    do(world, "verify", "--wave", "all")
    assert_everywhere(world)
    assert_ended(world, 4 * len(SITES))
