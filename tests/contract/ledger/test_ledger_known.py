"""What is known to be wrong holds its user back until it is answered, whatever was counted before (Invariant 9)."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from ledgers import NOW, OWNERS, SIZE, WAVES, World

from migrate.errors import IntegrityError
from migrate.ledger import EXTRA, FULL_SAMPLE_PPM, SEAL_LOST, CheckState, Lease, NewFinding, Pass, SealedCopy
from migrate.model import CheckResult, Level, Outcome, Verdict
from migrate.states import UserState

SAMPLE = 10_000
DAY = timedelta(days=1)
STRAY = NewFinding(EXTRA, "hamar", "carla/stray", "carla", 7, 1)


def must(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


def lease_of(world: World, found: Pass, number: int) -> Lease:
    """The check of one batch, others before it checked on the way."""
    while (lease := world.lease_check(found)) is not None:
        if lease.number == number:
            return lease
        world.check(lease)
    raise AssertionError(f"batch {number} has no check that waits")


def waiting(world: World, found: Pass) -> int:
    return world.ledger.pass_progress(found.id).checks.get(CheckState.PENDING, 0)


def reopen(world: World, found: Pass, number: int) -> int:
    sealed = {
        ordinal: SealedCopy(Outcome.COPIED, OWNERS[number][ordinal], SIZE)
        for ordinal in world.ledger.wrong_copies(found.id, number)
    }
    return world.ledger.reopen(found.id, number, sealed, world.run_id, NOW)


@pytest.mark.parametrize("verdict", [Verdict.MISMATCH, Verdict.MISSING, None], ids=["mismatch", "missing", "extra"])
@pytest.mark.parametrize(
    ("level", "sample_ppm"), [(Level.LISTING, 1_000_000), (Level.CONTENT, SAMPLE), (Level.BOTH_ENDS, SAMPLE)]
)
def test_what_is_found_meanwhile_voids_what_an_open_pass_counted(
    world: World, level: Level, sample_ppm: int, verdict: Verdict | None
) -> None:
    """All but one batch of a split user are matched, something is found, and the rest matches: that is not the full set."""
    world.copy_all()
    full = world.start_pass()
    world.check(lease_of(world, full, 1))
    assert waiting(world, full) == 2
    other = world.start_pass(level, sample_ppm, [1])
    world.check(
        lease_of(world, other, 1), {} if verdict is None else {0: verdict}, *([STRAY] if verdict is None else [])
    )
    assert waiting(world, full) == 3, "the batch is looked at again"
    world.check(lease_of(world, full, 1), {0: Verdict.UNKNOWN})
    world.check_all(full)
    assert world.state("carla") == UserState.COPIED
    assert [world.state("anna"), world.state("dag")] == ["verified"] * 2
    # the full pass looked for EXTRA objects again, and found none; what it could not check stays known
    assert world.ledger.known_differences(world.plan_id) == (set() if verdict is None else {verdict.value})


def test_a_look_again_counts_each_copy_once(world: World) -> None:
    """What the open pass finds when it looks again is what counts; users of the same batch lose and gain nothing."""
    world.copy_all()
    full = world.start_pass()
    world.check(must(world.lease_check(full)))
    assert [world.state("anna"), world.state("bjorn")] == ["verified"] * 2
    other = world.start_pass(Level.LISTING)
    world.check(must(world.lease_check(other)), {3: Verdict.MISSING})
    assert [world.state("anna"), world.state("bjorn")] == ["verified", "copied"]
    assert world.ledger.pass_progress(full.id).counts.match == 0
    world.check_all(full)
    user = world.ledger.user("anna")
    assert user is not None
    assert (user.matched, user.matched_pass) == (3, full.id)
    assert [world.state(name) for name in ("anna", "bjorn", "carla", "dag")] == ["verified"] * 4
    assert not world.ledger.known_differences(world.plan_id), "a deeper look answered it"


def test_a_half_done_check_of_an_open_pass_begins_anew(world: World) -> None:
    """A killed worker left MATCH verdicts; what was found since is not covered by them."""
    world.copy_all()
    full = world.start_pass()
    lease = must(world.lease_check(full))
    world.ledger.record_verdicts(lease, [CheckResult(3, Verdict.MATCH)], world.run_id, NOW)
    world.give_back()
    other = world.start_pass(Level.BOTH_ENDS, SAMPLE)
    world.check(must(world.lease_check(other)), {3: Verdict.MISMATCH})
    assert world.ledger.verdict_rows(must(world.lease_check(full))) == []


MISMATCH, MISSING = Verdict.MISMATCH, Verdict.MISSING


@pytest.mark.parametrize(
    ("found", "verdict", "reason", "later", "is_answered"),
    [
        (Level.LISTING, MISMATCH, "size", Level.LISTING, True),
        (Level.LISTING, MISMATCH, "size", Level.BOTH_ENDS, True),
        (Level.CONTENT, MISMATCH, None, Level.CONTENT, True),
        (Level.CONTENT, MISMATCH, None, Level.LISTING, False),
        (Level.CONTENT, MISSING, "not_found", Level.LISTING, True),
        (Level.BOTH_ENDS, MISMATCH, "content", Level.CONTENT, False),
        (Level.BOTH_ENDS, MISSING, "not_found", Level.CONTENT, True),
        (Level.BOTH_ENDS, MISMATCH, "receipt_content", Level.CONTENT, True),
        (Level.BOTH_ENDS, MISMATCH, "receipt_content", Level.LISTING, False),
    ],
)
def test_a_difference_is_answered_by_a_look_that_would_have_seen_it(
    world: World, found: Level, verdict: Verdict, reason: str | None, later: Level, *, is_answered: bool
) -> None:
    """A look that is less deep can call nothing equal that a deeper one found different: the ledger refuses that."""
    world.copy_all()
    first = must(world.lease_check(world.start_pass(found)))
    results = [CheckResult(0, verdict, reason), *(CheckResult(n, Verdict.MATCH) for n in (1, 2, 3))]
    world.ledger.record_verdicts(first, results, world.run_id, NOW)
    world.finish_check(first, results)
    second = world.start_pass(later, SAMPLE)
    lease = must(world.lease_check(second))
    deeper = [(row.ordinal, row.verdict) for row in world.ledger.deeper_differences(lease, later)]
    assert deeper == ([] if is_answered else [(0, verdict)])
    if is_answered:
        world.check(lease)
        assert world.ledger.differences(world.plan_id, 10) == []
        return
    with pytest.raises(IntegrityError, match="a deeper one found different"):
        world.check(lease)
    world.check(lease, {0: verdict})
    assert world.state("anna") == UserState.COPIED
    assert {row.ordinal for row in world.ledger.differences(world.plan_id, 10)} == {0}


def test_a_look_that_failed_answers_nothing(world: World) -> None:
    """UNKNOWN takes the place of UNKNOWN, and of nothing that is known; within one check as well."""
    world.copy_all()
    first = world.start_pass()
    world.check(must(world.lease_check(first)), {0: Verdict.MISSING, 1: Verdict.UNKNOWN})
    second = world.start_pass(sample_ppm=SAMPLE)
    world.check(must(world.lease_check(second)), {0: Verdict.UNKNOWN, 1: Verdict.UNKNOWN})
    rows = world.ledger.differences(world.plan_id, 10)
    assert [(row.ordinal, row.verdict) for row in rows] == [
        (0, Verdict.MISSING),
        (0, Verdict.UNKNOWN),
        (1, Verdict.UNKNOWN),
    ]
    lease = lease_of(world, second, 1)
    world.ledger.record_verdicts(lease, [CheckResult(0, Verdict.MISMATCH)], world.run_id, NOW)
    world.ledger.record_verdicts(lease, [CheckResult(0, Verdict.UNKNOWN)], world.run_id, NOW)
    assert [row.verdict for row in world.ledger.verdict_rows(lease)] == [Verdict.MISMATCH]
    world.ledger.record_verdicts(lease, [CheckResult(0, Verdict.MATCH)], world.run_id, NOW)
    assert [row.verdict for row in world.ledger.verdict_rows(lease)] == [Verdict.MATCH]


def test_a_repair_makes_the_checks_of_open_passes_anew(world: World) -> None:
    """What was put back and made again is looked at again by the same pass, and its old verdict is in no count."""
    world.copy_all()
    full = world.start_pass()
    world.check(must(world.lease_check(full)), {0: Verdict.MISSING})
    assert reopen(world, full, 0) == 1
    assert world.ledger.pass_progress(full.id).counts.missing == 0
    world.copy_batch()
    world.check_all(full)
    world.look_at_empty(full)
    assert world.ledger.end_pass(full.id, NOW)
    counts = world.ledger.pass_progress(full.id).counts
    assert (counts.match, counts.missing) == (10, 0)
    assert world.state("anna") == UserState.VERIFIED
    assert world.ledger.differences(world.plan_id, 10) == []


def test_a_repair_of_one_batch_leaves_the_others_of_its_user_to_be_repaired(world: World) -> None:
    """A user split over two batches, wrong in both: the first repair makes both checks anew, and hides nothing."""
    world.copy_all()
    full = world.start_pass()
    world.check(lease_of(world, full, 1), {0: Verdict.MISSING})
    world.check(lease_of(world, full, 2), {1: Verdict.MISMATCH})
    assert world.ledger.wrong_batches(full.id) == [1, 2]
    assert [reopen(world, full, 1), reopen(world, full, 2)] == [1, 1]
    world.demand_sums()
    world.copy_batch()
    world.copy_batch()
    world.check_all(full)
    assert world.state("carla") == UserState.VERIFIED


def test_a_retry_makes_the_checks_of_open_passes_anew(world: World) -> None:
    """Copies that were quarantined when their batch was checked are checked by the same pass once they are there."""
    world.copy_batch(0)
    for _ in range(3):
        world.copy_batch()
    full = world.start_pass()
    lease = must(world.lease_check(full))
    results = [CheckResult(n, Verdict.MATCH) for n in (1, 2, 3)]
    world.ledger.record_verdicts(lease, results, world.run_id, NOW)
    world.finish_check(lease, results)
    assert waiting(world, full) == 3
    world.ledger.retry_quarantined(world.plan_id, None, world.run_id, NOW)
    assert waiting(world, full) == 4
    world.copy_batch()
    world.check_all(full)
    assert world.state("anna") == UserState.VERIFIED


@pytest.mark.parametrize(
    ("level", "sample_ppm", "state"),
    [
        (Level.CONTENT, 1_000_000, UserState.COPIED),
        (Level.CONTENT, SAMPLE, UserState.VERIFIED),
        (Level.LISTING, 1_000_000, UserState.VERIFIED),
        (Level.BOTH_ENDS, 1_000_000, UserState.VERIFIED),
    ],
)
def test_unknown_takes_verified_away_at_the_level_that_gave_it(
    world: World, level: Level, sample_ppm: int, state: UserState
) -> None:
    """A deeper level that could not be asked says nothing against the answers of the spec's."""
    world.copy_all()
    first = world.start_pass()
    world.check_all(first)
    world.look_at_empty(first)
    assert world.ledger.end_pass(first.id, NOW)
    other = world.start_pass(level, sample_ppm)
    world.check(must(world.lease_check(other)), {3: Verdict.UNKNOWN})
    assert [world.state("anna"), world.state("bjorn")] == ["verified", state]


# by waves


def test_the_waves_of_what_is_known_are_named(world: World) -> None:
    """By verdicts, by findings of a batch and of a user without copies, and, where it is asked for, by receipts that are lost;
    once it is answered, no more."""
    ledger = world.ledger
    world.copy_all()
    assert ledger.different_waves(world.plan_id) == set()
    full = world.start_pass()
    last = max(WAVES)
    world.check(lease_of(world, full, last), {0: Verdict.MISSING})
    assert ledger.different_waves(world.plan_id) == {WAVES[last]}
    world.look_at_empty(full, NewFinding(EXTRA, "hamar", "empty/stray", "empty", 1))
    assert ledger.different_waves(world.plan_id) == {WAVES[last], 1}
    assert reopen(world, full, last) == 1
    assert ledger.different_waves(world.plan_id) == {1}
    again = world.start_pass(Level.BOTH_ENDS)
    world.look_at_empty(again)
    assert ledger.different_waves(world.plan_id) == set()
    lost = NewFinding(SEAL_LOST, "seals", "receipts", None, None, 1)
    ledger.add_findings(again, [lost], run_id=world.run_id, now=NOW)
    assert ledger.different_waves(world.plan_id) == set()
    assert ledger.different_waves(world.plan_id, lost_seals=True) == {WAVES[1]}


def test_the_verifications_that_may_be_gone_on_with_are_named(world: World) -> None:
    """Unfinished, of this level and sample, and not left alone for a week; the one last worked on first."""
    world.copy_all()
    second, first = world.start_pass(waves=[1]), world.start_pass(waves=[0], now=NOW + DAY)
    world.start_pass(Level.LISTING)
    world.start_pass(sample_ppm=SAMPLE)

    def opened(now: datetime) -> list[int]:
        return [found.id for found in world.ledger.open_passes(world.plan_id, Level.CONTENT, FULL_SAMPLE_PPM, now)]

    assert opened(NOW + DAY) == [first.id, second.id]
    assert opened(NOW + 8 * DAY) == [first.id]
    world.check_all(second)
    world.look_at_empty(second)
    assert world.ledger.end_pass(second.id, NOW)
    assert opened(NOW) == [first.id]


# EXTRA objects


def test_an_extra_object_stands_until_a_full_check_does_not_find_it(world: World) -> None:
    """A sample does not look for any, and another batch's check says nothing about it."""
    world.copy_all()
    world.check(lease_of(world, world.start_pass(), 1), {}, STRAY)
    world.check_all(world.start_pass(sample_ppm=SAMPLE))
    assert world.ledger.known_differences(world.plan_id) == {"EXTRA"}
    again = world.start_pass(Level.LISTING)
    world.check(must(world.lease_check(again)))
    assert world.ledger.known_differences(world.plan_id) == {"EXTRA"}
    world.check(lease_of(world, again, 1))
    assert not world.ledger.known_differences(world.plan_id)
    assert [row.finding for row in world.ledger.findings(world.plan_id, 10, answered=True)] == [STRAY]


def test_an_extra_object_of_a_user_without_copies_is_known_and_holds_the_user_back(world: World) -> None:
    """Nothing of the user is in any batch; what lies at their sites is looked for all the same."""
    world.copy_all()
    full = world.start_pass()
    world.check_all(full)
    assert not world.ledger.end_pass(full.id, NOW), "somebody was not looked for"
    stray = NewFinding(EXTRA, "hamar", "empty/stray", "empty", 1)
    world.look_at_empty(full, stray)
    assert world.ledger.end_pass(full.id, NOW)
    assert world.state("empty") == UserState.COPIED
    assert world.ledger.pass_progress(full.id).counts.extra == 1
    assert world.ledger.known_differences(world.plan_id) == {"EXTRA"}
    again = world.start_pass()
    world.look_at_empty(again)
    assert world.state("empty") == UserState.VERIFIED
    assert world.ledger.users_without_copies(again, "", 10) == []
    assert not world.ledger.known_differences(world.plan_id)
    lower = world.start_pass(Level.LISTING)
    world.look_at_empty(lower, stray)
    assert world.state("empty") == UserState.COPIED


def test_users_without_copies_are_looked_for_in_their_waves(world: World) -> None:
    """A pass of other waves leaves them alone, and a sample never looks."""
    world.copy_all()
    assert [user.user_id for user in world.ledger.users_without_copies(world.start_pass(), "", 10)] == ["empty"]
    assert world.ledger.users_without_copies(world.start_pass(), "empty", 10) == []
    other = world.start_pass(Level.BOTH_ENDS, waves=[0])
    assert world.ledger.users_without_copies(other, "", 10) == []
    world.check_all(other)
    assert world.ledger.end_pass(other.id, NOW)
    sample = world.start_pass(sample_ppm=SAMPLE)
    world.check_all(sample)
    assert world.ledger.end_pass(sample.id, NOW)
    assert world.state("empty") == UserState.COPIED


# which pass is gone on with


def test_a_pass_that_was_left_alone_for_a_week_is_not_gone_on_with(world: World) -> None:
    """What counts is the last work on it, not its beginning: a pass may take months, but not rest for a week."""
    world.copy_all()
    first = world.start_pass()
    world.check(must(world.lease_check(first)))
    assert world.start_pass(now=NOW + 6 * DAY).id == first.id
    assert world.start_pass(now=NOW + 12 * DAY).id == first.id
    found, closed = world.ledger.start_pass(world.plan_id, Level.CONTENT, 1_000_000, None, world.run_id, NOW + 20 * DAY)
    assert found.id != first.id
    assert [(old.id, old.started_at) for old in closed] == [(first.id, NOW)]
    assert waiting(world, found) == 4, "nothing that was checked so long ago counts"
    (last, old) = world.ledger.passes(world.plan_id, 10)
    assert (last.id, old.superseded, old.ended_at) == (found.id, True, NOW + 20 * DAY)


def test_a_check_that_ends_is_work_on_its_pass(world: World) -> None:
    """A verification that ran for ten days and was killed goes on."""
    world.copy_all()
    first = world.start_pass(now=NOW - 10 * DAY)
    world.check(must(world.lease_check(first)))  # ends at NOW
    assert world.start_pass(now=NOW + DAY).id == first.id


@pytest.mark.parametrize(
    ("level", "sample_ppm", "waves", "takes_its_place"),
    [
        (Level.CONTENT, 1_000_000, [1], True),
        (Level.BOTH_ENDS, 1_000_000, None, True),
        (Level.LISTING, 1_000_000, None, False),
        (Level.BOTH_ENDS, SAMPLE, None, False),
    ],
)
def test_a_new_full_pass_takes_the_place_of_open_ones_that_look_no_deeper(
    world: World, level: Level, sample_ppm: int, waves: list[int] | None, *, takes_its_place: bool
) -> None:
    """Two passes over one batch never count side by side what is of different days."""
    world.copy_all()
    first = world.start_pass()
    world.check(must(world.lease_check(first)), {0: Verdict.MISSING})
    lease = must(world.lease_check(first))
    world.ledger.record_verdicts(lease, [CheckResult(0, Verdict.MATCH)], world.run_id, NOW)
    world.give_back()
    world.start_pass(level, sample_ppm, waves)
    assert (world.lease_check(first) is None) == takes_its_place
    world.give_back()
    assert (world.start_pass().id != first.id) == takes_its_place
    assert world.ledger.known_differences(world.plan_id) == {"MISSING"}, "what it found stays known"


def test_the_last_verification_is_the_one_that_was_worked_on_last(world: World) -> None:
    """A pass that was begun earlier may end later."""
    world.copy_all()
    first = world.start_pass(now=NOW - DAY)
    second = world.start_pass(Level.LISTING, now=NOW - DAY)
    world.check_all(second)
    world.check_all(first)
    world.look_at_empty(first)
    assert world.ledger.end_pass(first.id, NOW + DAY)
    assert [found.id for found in world.ledger.passes(world.plan_id, 10)] == [first.id, second.id]
