"""Who is held up by copies behind their sources alone may be frozen; of whom more is open, never (invariant 9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest
from ledgers import NOW, OWNERS, World, quarantined, receipt

from migrate.errors import MoveRefusedError
from migrate.ledger import EXTRA, FULL_SAMPLE_PPM, Candidate, CheckCounts, NewFinding, Pass
from migrate.model import CheckResult, CopyResult, Level, Outcome, Verdict
from migrate.states import UserState

U = UserState
# anna's and one of carla's two batches have a drifted copy each, and all that dag has is drifted
DRIFTED = {0: {1}, 2: {0}, 3: {0}}
MOVED_ON = "source_changed"


def copy(world: World, batches: int = len(OWNERS), quarantine: Mapping[int, int] | None = None) -> None:
    for _ in range(batches):
        lease = world.lease()
        results = []
        for ordinal in range(len(OWNERS[lease.number])):
            if ordinal in DRIFTED.get(lease.number, ()):
                results.append(CopyResult(ordinal, Outcome.DRIFTED, reason="changed"))
            elif (quarantine or {}).get(lease.number) == ordinal:
                results.append(quarantined(ordinal))
            else:
                results.append(receipt(ordinal))
        world.record(lease, results)
        world.finish(lease)


def verify(
    world: World,
    found: Pass,
    wrong: Mapping[tuple[int, int], tuple[Verdict, str | None]] | None = None,
    *extras: NewFinding,
    batches: int = len(OWNERS),
) -> None:
    """Check the next batches: MATCH for all that has a receipt but the copies that are named."""
    for _ in range(batches):
        lease = world.lease_check(found)
        if lease is None:
            return
        open_rows = {row.ordinal for row in world.ledger.copy_rows(lease)}
        results = [
            CheckResult(ordinal, *(wrong or {}).get((lease.number, ordinal), (Verdict.MATCH, None)))
            for ordinal in range(len(OWNERS[lease.number]))
            if ordinal not in open_rows
        ]
        world.ledger.record_verdicts(lease, results, world.run_id, NOW)
        if results:
            world.finish_check(lease, results, *(extra for extra in extras if extra.number == lease.number))
        else:
            world.ledger.finish_check(lease, None, {}, CheckCounts(), (), run_id=world.run_id, now=NOW)


def candidate(world: World, user: str) -> Candidate:
    found = world.ledger.candidate(world.plan_id, user)
    assert found is not None
    return found


def behind(world: World) -> dict[str, int]:
    """By user, what a gate would let pass. What is refused there is refused by the ledger's own transaction, too."""
    found = {}
    for user in ("anna", "bjorn", "carla", "dag"):
        seen = candidate(world, user)
        if seen.is_only_behind:
            found[user] = seen.behind
        elif seen.state is not U.VERIFIED:
            before = world.ledger.history(user), world.state(user), world.ledger.move_of(user)
            with pytest.raises(MoveRefusedError):
                world.freeze(user)
            assert (world.ledger.history(user), world.state(user), world.ledger.move_of(user)) == before
    return found


def unlooked(world: World) -> dict[int | None, int]:
    waves = world.ledger.progress(world.plan_id, held_up=True)
    return {wave.wave: wave.unlooked for wave in waves if wave.unlooked}


def test_who_is_only_behind_goes_to_the_new_home_and_is_proven_there(world: World) -> None:
    """Drifted copies, and those whose sources moved on after they had their receipt, also of who is split. Not before a
    whole verification has looked; a freeze that broke off leads back; after the flip nothing is missing to a proof."""
    copy(world)
    assert behind(world) == {}
    assert unlooked(world) == {0: 1, 1: 1, 2: 1}
    found = world.start_pass()
    moved_on = {(0, 3): (Verdict.UNKNOWN, MOVED_ON), (2, 1): (Verdict.UNKNOWN, "source_gone")}
    verify(world, found, moved_on, batches=2)
    assert behind(world) == {"anna": 1, "bjorn": 1}, "carla's other batch was not looked at"
    verify(world, found, moved_on)
    assert behind(world) == {"anna": 1, "bjorn": 1, "carla": 2, "dag": 1}
    assert unlooked(world) == {}
    numbers = range(len(OWNERS))
    assert world.ledger.drifted_in(world.plan_id, numbers) == {(0, 1), (2, 0), (3, 0)}
    assert world.ledger.moved_on_in(world.plan_id, numbers) == {found.id: set(moved_on)}
    assert world.ledger.drifted_in(world.plan_id, [1]) == set()
    assert world.ledger.moved_on_in(world.plan_id + 1, numbers) == {}
    for user, back in (("anna", U.COPYING), ("bjorn", U.COPIED), ("carla", U.COPYING), ("dag", U.COPYING)):
        expected = candidate(world, user).behind
        token = world.freeze(user)
        move = world.ledger.move_of(user)
        assert move is not None
        assert move.behind == expected
        assert world.ledger.thaw(user, token, world.run_id, NOW) is back
        world.cut_over(user)
        world.ledger.observe(user, world.run_id, until=NOW, now=NOW)
        there = candidate(world, user)
        assert (there.state, there.is_proven, there.behind) == (U.OBSERVING, True, expected)
    world.demand_sums()
    verify(world, world.start_pass(now=NOW + timedelta(days=8)), batches=1)
    assert candidate(world, "anna").is_proven, "what a newer pass has matched so far is no less"
    world.execute("UPDATE users SET matched = matched - 1 WHERE user_id = 'anna'")
    assert not candidate(world, "anna").is_proven


def of_anna(world: World) -> NewFinding:
    return NewFinding(EXTRA, "hamar", "users/anna/stray", "anna", 1, 0)


def whole(
    world: World,
    wrong: Mapping[tuple[int, int], tuple[Verdict, str | None]] | None = None,
    *extras: NewFinding,
    level: Level = Level.CONTENT,
    sample_ppm: int = FULL_SAMPLE_PPM,
) -> None:
    copy(world)
    verify(world, world.start_pass(level, sample_ppm), wrong, *extras)


def later_difference(world: World) -> None:
    whole(world)
    verify(world, world.start_pass(sample_ppm=999_999), {(0, 0): (Verdict.MISMATCH, None)})


def put_back(world: World) -> None:
    """As a repair leaves a copy beside the drifted one."""
    whole(world)
    world.execute("UPDATE users SET good = good - 1, matched = 0, matched_pass = NULL WHERE user_id = 'anna'")


def made_again(world: World) -> None:
    """As the run after that leaves it: nobody has looked at the copy since."""
    whole(world)
    world.execute("UPDATE users SET matched = 0, matched_pass = NULL WHERE user_id = 'anna'")


def later_extra(world: World) -> None:
    whole(world)
    world.ledger.add_findings(world.start_pass(Level.LISTING), [of_anna(world)], run_id=world.run_id, now=NOW)


MORE: dict[str, Callable[[World], object]] = {
    "quarantined": lambda world: (copy(world, quarantine={0: 0}), verify(world, world.start_pass())),
    "a sample": lambda world: whole(world, sample_ppm=999_999),
    "a shallower look": lambda world: whole(world, level=Level.LISTING),
    "EXTRA": lambda world: whole(world, None, of_anna(world)),
    "EXTRA since": later_extra,
    "different": lambda world: whole(world, {(0, 0): (Verdict.MISMATCH, None)}),
    "missing": lambda world: whole(world, {(0, 2): (Verdict.MISSING, None)}),
    "different since": later_difference,
    "not checked": lambda world: whole(world, {(0, 0): (Verdict.UNKNOWN, "timeout")}),
    "not checked beside one that moved on": lambda world: whole(
        world, {(0, 0): (Verdict.UNKNOWN, MOVED_ON), (0, 2): (Verdict.UNKNOWN, "timeout")}
    ),
    "put back": put_back,
    "made again": made_again,
}


@pytest.mark.parametrize("more", MORE)
def test_who_has_more_open_than_that_is_not_frozen(world: World, more: str) -> None:
    """The corrupted twins, each of which is refused by gate and ledger alike. The others go on."""
    MORE[more](world)
    found = behind(world)
    assert "anna" not in found
    assert found == ({} if more in ("a sample", "a shallower look") else {"carla": 1, "dag": 1})


def test_a_copy_that_nobody_has_begun_is_no_drifted_one(world: World) -> None:
    """carla's second batch is pending: half of her is looked at, and her drifted copy is not known yet."""
    copy(world, batches=2)
    verify(world, world.start_pass(), batches=2)
    assert behind(world) == {"anna": 1}
