"""Who is held up by sources that have moved on since they were copied: neither less than a verification says, nor more."""

from __future__ import annotations

import pytest
from ledgers import NOW, World
from test_ledger_scale import plans_of

from migrate.ledger import EXTRA, NewFinding, Pass
from migrate.model import CheckResult, Level, Verdict

MOVED_ON = "source_changed"


def moved_on(world: World) -> dict[int | None, int]:
    waves = world.ledger.progress(world.plan_id, held_up=True)
    return {wave.wave: wave.moved_on for wave in waves if wave.moved_on}


def check(world: World, found: Pass, number: int, unknown: dict[int, str], *extras: NewFinding) -> None:
    """End the check of a batch, in which these copies could not be checked."""
    lease = world.lease_check(found)
    while lease is not None and lease.number != number:
        world.check(lease)
        lease = world.lease_check(found)
    assert lease is not None
    copies = world.ledger.batch(world.plan_id, number).info.copies
    results = [
        CheckResult(ordinal, Verdict.UNKNOWN, unknown[ordinal])
        if ordinal in unknown
        else CheckResult(ordinal, Verdict.MATCH)
        for ordinal in range(copies)
    ]
    world.ledger.record_verdicts(lease, results, world.run_id, NOW)
    world.finish_check(lease, results, *extras)


def end(world: World, found: Pass) -> None:
    world.check_all(found)
    world.look_at_empty(found)
    assert world.ledger.end_pass(found.id, NOW)


def whole(world: World, unknown: dict[int, dict[int, str]], level: Level = Level.CONTENT) -> Pass:
    found = world.start_pass(level)
    for number in sorted(unknown):
        check(world, found, number, unknown[number])
    end(world, found)
    return found


def test_users_whose_sources_alone_moved_on_are_counted_by_wave(world: World) -> None:
    """One of two in a batch, and one split over two batches; once the verification has come to its end, and not before."""
    world.copy_all()
    found = world.start_pass()
    check(world, found, 0, {1: MOVED_ON})
    check(world, found, 2, {0: "source_gone"})
    assert moved_on(world) == {}, "not all is looked at"
    end(world, found)
    assert moved_on(world) == {0: 1, 1: 1}
    assert [world.state(user) for user in ("anna", "bjorn", "carla", "dag")] == [
        "copied",
        "verified",
        "copied",
        "verified",
    ]


@pytest.mark.parametrize(
    "unknown", [{0: {1: "timeout"}}, {0: {1: MOVED_ON, 2: "timeout"}}, {1: {0: "timeout"}, 2: {0: MOVED_ON}}]
)
def test_who_could_not_be_checked_for_another_reason_is_not_held_up(
    world: World, unknown: dict[int, dict[int, str]]
) -> None:
    """The corrupted twins: asked again they may be verified, also where the other reason is in another batch of theirs."""
    world.copy_all()
    whole(world, unknown)
    assert moved_on(world) == {}


def test_a_look_of_another_level_or_of_a_part_holds_nobody_up(world: World) -> None:
    """What a verification of the plan's own kind has not said may be different by it."""
    world.copy_all()
    whole(world, {0: {1: MOVED_ON}}, Level.BOTH_ENDS)
    assert moved_on(world) == {}
    sample = world.start_pass(sample_ppm=999_999)
    check(world, sample, 0, {1: MOVED_ON})
    world.check_all(sample)
    assert world.ledger.end_pass(sample.id, NOW)
    assert moved_on(world) == {}


def test_what_comes_after_ends_the_holding_up(world: World) -> None:
    """A newer verification that has begun with the user's batch, and an EXTRA object of the user, answered or not."""
    world.copy_all()
    whole(world, {0: {1: MOVED_ON}, 2: {0: MOVED_ON}})
    assert moved_on(world) == {0: 1, 1: 1}
    listing = world.start_pass(Level.LISTING)
    check(world, listing, 0, {}, NewFinding(EXTRA, "hamar", "users/anna/stray", "anna", 1, 0))
    assert moved_on(world) == {1: 1}
    end(world, listing)
    answered = world.start_pass(Level.LISTING)
    end(world, answered)
    assert world.ledger.known_differences(world.plan_id) == set()
    assert moved_on(world) == {1: 1}, "nobody has looked at anna since as deep as the plan says"
    again = world.start_pass()
    check(world, again, 1, {})
    assert moved_on(world) == {}


def test_who_was_tried_again_is_not_held_up_beside_those_who_are(world: World) -> None:
    """The copy that comes of a retry was looked at by no verification, so it is to be verified (invariant 9)."""
    world.copy_batch(0)  # a copy of anna's is quarantined
    for _ in range(3):
        world.copy_batch()
    found = world.start_pass()
    lease = world.lease_check(found)
    assert lease is not None
    assert lease.number == 0
    results = [CheckResult(1, Verdict.MATCH), CheckResult(2, Verdict.MATCH), CheckResult(3, Verdict.UNKNOWN, MOVED_ON)]
    world.ledger.record_verdicts(lease, results, world.run_id, NOW)
    world.finish_check(lease, results)
    end(world, found)
    assert world.ledger.retry_quarantined(world.plan_id, None, world.run_id, NOW) == 1
    world.copy_batch()
    assert world.state("anna") == "copied"
    assert moved_on(world) == {0: 1}, "bjorn alone"


def test_what_moved_on_is_found_by_indexes(world: World) -> None:
    """By the verdicts that are known, or the batches with a drifted copy, and from each to its user. No table is read whole
    but that of the passes, which are few."""
    world.copy_all()
    whole(world, {0: {1: MOVED_ON}})
    drifted, known = [plan for plan in plans_of(world, lambda: moved_on(world)) if "ix_users_batch" in plan]
    assert "ix_verdicts_known" in known
    for line in [*drifted.splitlines(), *known.splitlines()]:
        assert "Seq Scan" not in line.replace("Seq Scan on passes", "")
        read_whole = ("users", "begins", "checks", "verdicts", "batches")
        assert not ("SCAN" in line and any(table in line.split() for table in read_whole))
