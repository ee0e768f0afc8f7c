"""Verifying by the ledger: passes, checks, who goes on and who goes back, repair, and the chain of seals."""

from __future__ import annotations

import pytest
from ledgers import NOW, OWNERS, SIZE, World, new_seal, receipt

from migrate.errors import IntegrityError, LaterError, StaleLeaseError
from migrate.ledger import (
    EXTRA,
    SEAL_LOST,
    CheckCounts,
    CheckState,
    Lease,
    NewFinding,
    Pass,
    SealedCopy,
    SealKind,
    UnsealedCopy,
    UserCheck,
)
from migrate.model import CheckResult, Level, Outcome, Purpose, Verdict
from migrate.states import BatchState, UserState

USERS = ("anna", "bjorn", "carla", "dag", "empty")


def states(world: World) -> list[str]:
    return [world.state(user) for user in USERS]


def reopen_all(world: World, found: Pass) -> int:
    """Repair every batch of a pass; how many copies were put back."""
    return sum(
        world.ledger.reopen(found.id, number, sealed(world, found, number), world.run_id, NOW)
        for number in world.ledger.wrong_batches(found.id)
    )


def sealed(world: World, found: Pass, number: int) -> dict[int, SealedCopy]:
    return {
        ordinal: SealedCopy(Outcome.COPIED, OWNERS[number][ordinal], SIZE)
        for ordinal in world.ledger.wrong_copies(found.id, number)
    }


def must(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


def test_a_full_pass_verifies_everybody(world: World) -> None:
    """Users go on as their last batch is checked; those without copies at the end of the pass."""
    world.copy_all()
    found = world.start_pass()
    world.check(must(world.lease_check(found)))
    assert states(world) == ["verified", "verified", "copied", "copied", "copied"]
    world.check(must(world.lease_check(found)))
    assert world.state("carla") == UserState.COPIED, "only one of two batches is checked"
    assert not world.ledger.end_pass(found.id, NOW)
    world.check_all(found)
    assert not world.ledger.end_pass(found.id, NOW), "nobody has looked for the user without copies"
    world.look_at_empty(found)
    assert world.ledger.end_pass(found.id, NOW)
    assert states(world) == ["verified"] * 5
    assert world.state("held") == UserState.HELD
    progress = world.ledger.pass_progress(found.id)
    assert (progress.checks, progress.counts.match) == ({CheckState.DONE: 4}, 10)
    assert world.ledger.passes(world.plan_id, 1)[0].ended_at == NOW


@pytest.mark.parametrize(("level", "sample_ppm"), [(Level.LISTING, 1_000_000), (Level.CONTENT, 50_000)])
def test_a_sample_or_a_lower_level_moves_nobody_on(world: World, level: Level, sample_ppm: int) -> None:
    """Invariant 9."""
    world.copy_all()
    found = world.start_pass(level, sample_ppm)
    world.check_all(found)
    if found.is_full:
        world.look_at_empty(found)
    assert world.ledger.end_pass(found.id, NOW)
    assert states(world) == ["copied"] * 5


def test_a_deeper_level_than_the_plans_counts(world: World) -> None:
    """both-ends is more than content."""
    world.copy_all()
    found = world.start_pass(Level.BOTH_ENDS)
    world.check_all(found)
    world.look_at_empty(found)
    assert world.ledger.end_pass(found.id, NOW)
    assert states(world) == ["verified"] * 5


def test_unknown_is_not_success(world: World) -> None:
    """Invariant 9: one copy that could not be checked keeps its user back."""
    world.copy_all()
    found = world.start_pass()
    world.check(must(world.lease_check(found)), {3: Verdict.UNKNOWN})
    assert [world.state("anna"), world.state("bjorn")] == ["verified", "copied"]


@pytest.mark.parametrize("sample_ppm", [1_000_000, 10_000])
def test_a_verified_user_with_something_wrong_goes_back(world: World, sample_ppm: int) -> None:
    """Whatever the pass was: the copy is known to be wrong."""
    world.copy_all()
    world.check_all(world.start_pass())
    found = world.start_pass(Level.LISTING, sample_ppm)
    world.check(must(world.lease_check(found)), {3: Verdict.MISSING})
    assert [world.state("anna"), world.state("bjorn")] == ["verified", "copied"]


def test_a_verified_user_stays_so_while_verified_again(world: World) -> None:
    """The second pass has seen only half of a split user, which says nothing against the first."""
    world.copy_all()
    world.check_all(world.start_pass(waves=[1]))
    again = world.start_pass()
    world.check(must(world.lease_check(again)))
    world.check(must(world.lease_check(again)))
    assert world.state("carla") == UserState.VERIFIED


def test_matches_of_two_passes_are_not_added_up(world: World) -> None:
    """Half of a user in one pass and half in another one is not a full set of MATCH."""
    world.copy_all()
    first, second = world.start_pass(Level.BOTH_ENDS, waves=[1]), world.start_pass()
    world.check(must(world.lease_check(first)))
    for _ in range(3):
        lease = must(world.lease_check(second))
        world.check(lease, {0: Verdict.UNKNOWN} if lease.number == 1 else None)
    assert world.state("carla") == UserState.COPIED


def test_an_unfinished_pass_goes_on_and_a_finished_one_does_not(world: World) -> None:
    """Same level, sample and waves: the same pass, with its checks; else a new one."""
    world.copy_all()
    first = world.start_pass(waves=[2, 0])
    world.check(must(world.lease_check(first)))
    assert world.start_pass(waves=[0, 2, 2]).id == first.id
    assert first.waves == (0, 2)
    others = {
        world.start_pass(sample_ppm=10_000).id,
        world.start_pass(Level.LISTING, waves=[0, 2]).id,
        world.start_pass(waves=[1]).id,
    }
    assert len(others | {first.id}) == 4
    lease = must(world.lease_check(first))
    assert lease.number == 3, "batch 0 is checked, 1 and 2 are another wave's"
    world.check(lease)
    assert world.ledger.end_pass(first.id, NOW)
    assert world.start_pass(waves=[0, 2]).id != first.id


def test_verdicts_of_a_killed_worker_are_kept(world: World) -> None:
    """A check goes on where it was left; a copy that is looked at again has one verdict."""
    world.copy_all()
    found = world.start_pass()
    lease = must(world.lease_check(found))
    world.ledger.record_verdicts(
        lease, [CheckResult(0, Verdict.UNKNOWN), CheckResult(1, Verdict.MATCH)], world.run_id, NOW
    )
    world.ledger.end_worker(world.worker_id)
    with pytest.raises(StaleLeaseError):
        world.ledger.record_verdicts(lease, [CheckResult(2, Verdict.MATCH)], world.run_id, NOW)
    lease = must(world.lease_check(found))
    assert [row.ordinal for row in world.ledger.verdict_rows(lease)] == [0, 1]
    world.check(lease)
    assert world.state("anna") == UserState.VERIFIED


def test_only_a_batch_that_is_done_is_checked(world: World) -> None:
    """A check waits for its batch, and a batch has one lease, whatever it is for."""
    found = world.start_pass()
    assert world.lease_check(found) is None
    world.copy_batch()
    lease = must(world.lease_check(found))
    assert lease.number == 0
    assert lease.fence == 2
    other = world.start_pass(Level.LISTING)
    assert world.lease_check(other) is None, "the only batch that is done is leased"
    world.give_back()
    assert must(world.lease_check(other)).number == 0


def test_a_full_check_without_all_verdicts_ends_not(world: World) -> None:
    """Verdicts that agree with one another are not enough: each copy with a receipt has one (invariants 3 and 9)."""
    world.copy_all()
    lease = must(world.lease_check(world.start_pass()))
    three = [CheckResult(n, Verdict.MATCH) for n in range(3)]
    world.ledger.record_verdicts(lease, three, world.run_id, NOW)
    with pytest.raises(IntegrityError, match="3 verdicts for 4 copies"):
        world.finish_check(lease, three)
    assert states(world) == ["copied"] * 5
    world.give_back()
    sampled = world.start_pass(sample_ppm=500_000)
    lease = must(world.lease_check(sampled))
    world.ledger.record_verdicts(lease, three, world.run_id, NOW)
    world.finish_check(lease, three)  # the twin: a sample looks at some


def test_matches_leave_with_the_seal_and_the_others_stay(world: World) -> None:
    """The ledger keeps what is wrong; the sealed file has all."""
    world.copy_all()
    found = world.start_pass()
    lease = must(world.lease_check(found))
    world.check(lease, {1: Verdict.MISMATCH, 2: Verdict.UNKNOWN})
    assert [(row.number, row.ordinal, row.verdict) for row in world.ledger.differences(world.plan_id, 10)] == [
        (0, 1, Verdict.MISMATCH),
        (0, 2, Verdict.UNKNOWN),
    ]
    (seal,) = world.ledger.seals(world.plan_id, 0, SealKind.VERDICTS)
    assert (seal.rows, seal.pass_id) == (4, found.id)


@pytest.mark.parametrize(
    ("counts", "users", "rows"),
    [
        (CheckCounts(3), {"anna": UserCheck(3), "bjorn": UserCheck(1)}, 4),
        (CheckCounts(4), {"anna": UserCheck(3)}, 4),
        (CheckCounts(4), {"anna": UserCheck(3), "bjorn": UserCheck(1)}, 3),
        (CheckCounts(3, 1), {"anna": UserCheck(3), "bjorn": UserCheck(0, 1)}, 4),
        (CheckCounts(4), {"anna": UserCheck(3), "bjorn": UserCheck(0, 1)}, 4),
    ],
)
def test_counts_that_are_off_end_no_check(
    world: World, counts: CheckCounts, users: dict[str, UserCheck], rows: int
) -> None:
    """Invariant 3: the ledger counts its verdicts itself."""
    world.copy_all()
    lease = must(world.lease_check(world.start_pass()))
    world.ledger.record_verdicts(lease, [CheckResult(n, Verdict.MATCH) for n in range(4)], world.run_id, NOW)
    with pytest.raises(IntegrityError, match="cannot end"):
        world.ledger.finish_check(lease, new_seal(rows), users, counts, [], run_id=world.run_id, now=NOW)
    assert states(world) == ["copied"] * 5
    assert len(world.ledger.verdict_rows(lease)) == 4


def test_what_the_sealed_file_alone_has_is_counted(world: World) -> None:
    """Invariant 3: equal copies need no row, if together with those that have one they are as many as are told of."""
    world.copy_all()
    found = world.start_pass()
    lease = must(world.lease_check(found))
    world.ledger.record_verdicts(lease, [CheckResult(1, Verdict.MISMATCH)], world.run_id, NOW)
    assert world.ledger.differing_copies(lease) == {1}
    users = {"anna": UserCheck(2, 1), "bjorn": UserCheck(1)}
    for number in (2, 4):
        with pytest.raises(IntegrityError, match="cannot end"):
            world.ledger.finish_check(
                lease, new_seal(4), users, CheckCounts(3, 1), [], run_id=world.run_id, now=NOW, sealed_only=number
            )
    world.ledger.finish_check(
        lease, new_seal(4), users, CheckCounts(3, 1), [], run_id=world.run_id, now=NOW, sealed_only=3
    )
    assert world.ledger.pass_progress(found.id).counts == CheckCounts(3, 1)
    assert [row.ordinal for row in world.ledger.verdict_rows(lease)] == [1]


def test_an_extra_object_keeps_its_user_back(world: World) -> None:
    """Invariant 9: everything planned is there, and something that was not planned as well."""
    world.copy_all()
    found = world.start_pass()
    extra = NewFinding(EXTRA, "hamar", "a//b\t\x00é", "anna", 7, 0)
    world.ledger.add_findings(found, [extra], run_id=world.run_id, now=NOW)
    world.check(must(world.lease_check(found)), {}, extra)
    assert [world.state("anna"), world.state("bjorn")] == ["copied", "verified"]
    (finding,) = world.ledger.findings(world.plan_id, 10)
    assert (finding.finding, finding.pass_id) == (extra, found.id)
    world.ledger.add_findings(found, [extra._replace(key="other")], run_id=world.run_id, now=NOW)
    assert len(world.ledger.findings(world.plan_id, 10, pass_id=found.id)) == 2


def test_a_repair_puts_wrong_copies_back_once(world: World) -> None:
    """Rows, counters, batch and user; what was MATCH or UNKNOWN is not touched; a second time nothing happens."""
    world.copy_all()
    found = world.start_pass()
    world.check(must(world.lease_check(found)), {0: Verdict.MISMATCH, 1: Verdict.UNKNOWN, 3: Verdict.MISSING})
    assert reopen_all(world, found) == 2
    assert reopen_all(world, found) == 0
    assert [world.state("anna"), world.state("bjorn")] == ["copying", "copying"]
    world.demand_sums()
    lease = world.lease()
    rows = world.ledger.copy_rows(lease)
    assert [(row.ordinal, row.outcome, row.etag, row.reason) for row in rows] == [
        (0, Outcome.PENDING, "seen", "repair"),
        (3, Outcome.PENDING, "seen", "repair"),
    ]
    assert world.ledger.batch(world.plan_id, 0).done_bytes == 2 * SIZE
    world.record(lease, [receipt(0), receipt(3)])
    world.finish(lease)
    assert reopen_all(world, found) == 0
    again = world.start_pass(waves=[0])
    world.check_all(again)
    assert [world.state("anna"), world.state("bjorn")] == ["verified", "verified"]
    world.demand_sums()


def test_a_newer_receipt_voids_the_verdicts_of_every_pass(world: World) -> None:
    """Two passes found the same copy wrong; it is repaired once."""
    world.copy_all()
    first, second = world.start_pass(), world.start_pass(Level.LISTING)
    for found in (first, second):
        world.check(must(world.lease_check(found)), {0: Verdict.MISMATCH})
    assert reopen_all(world, first) == 1
    world.copy_batch()
    assert reopen_all(world, second) == 0
    assert world.ledger.batch(world.plan_id, 0).state == BatchState.DONE


def test_a_repair_needs_to_know_what_was_sealed(world: World) -> None:
    """A verdict on a copy that the caller has no receipt of is an integrity error, and changes nothing."""
    world.copy_all()
    found = world.start_pass()
    world.check(must(world.lease_check(found)), {0: Verdict.MISSING})
    with pytest.raises(IntegrityError, match="no sealed receipt"):
        world.ledger.reopen(found.id, 0, {}, world.run_id, NOW)
    assert world.ledger.batch(world.plan_id, 0).state == BatchState.DONE


def lose_batch(world: World, found: Pass, number: int = 0) -> None:
    """Check batches up to `number`, whose receipts cannot be read."""
    while (lease := must(world.lease_check(found))).number != number:
        world.check(lease)
    results = [CheckResult(n, Verdict.UNKNOWN, SEAL_LOST) for n in range(len(OWNERS[number]))]
    world.ledger.record_verdicts(lease, results, world.run_id, NOW)
    world.finish_check(lease, results)


def reopen_lost(world: World, found: Pass, number: int = 0) -> int:
    planned = {ordinal: UnsealedCopy(owner, SIZE) for ordinal, owner in enumerate(OWNERS[number])}
    return world.ledger.reopen_lost(found.id, number, planned, world.run_id, NOW).copies


def test_a_batch_whose_receipts_are_lost_holds_its_users_alone(world: World) -> None:
    """Verified users of the batch go back, those of other batches go on (Invariant 9)."""
    world.copy_all()
    before = world.start_pass()
    world.check_all(before)
    world.look_at_empty(before)
    assert world.ledger.end_pass(before.id, NOW)
    found = world.start_pass()
    lose_batch(world, found)
    world.check_all(found)
    assert [world.state(user) for user in ("anna", "bjorn")] == ["copied"] * 2
    assert [world.state(user) for user in ("carla", "dag")] == ["verified"] * 2
    assert world.ledger.lost_batches(found.id) == [0]


def test_lost_receipts_are_made_anew_and_the_chain_keeps_the_old_seal(world: World) -> None:
    """All copies of the batch are pending again, once; the new seal comes after the old one, whose rows are all void."""
    world.copy_batch(1)
    for _ in range(3):
        world.copy_batch()
    found = world.start_pass()
    lease = must(world.lease_check(found))
    results = [CheckResult(n, Verdict.UNKNOWN, SEAL_LOST) for n in (0, 2, 3)]
    world.ledger.record_verdicts(lease, results, world.run_id, NOW)
    world.finish_check(lease, results)
    assert reopen_lost(world, found) == 3  # the quarantined copy stays as it is
    assert reopen_lost(world, found) == 0
    assert world.ledger.lost_batches(found.id) == []
    world.demand_sums()
    batch = world.ledger.batch(world.plan_id, 0)
    assert (batch.state, batch.done_bytes, batch.outcomes[Outcome.QUARANTINED]) == (BatchState.PENDING, 0, 1)
    again = world.lease()
    assert [(row.ordinal, row.outcome) for row in world.ledger.copy_rows(again)] == [
        (0, Outcome.PENDING),
        (1, Outcome.QUARANTINED),
        (2, Outcome.PENDING),
        (3, Outcome.PENDING),
    ]
    world.record(again, [receipt(n, outcome=Outcome.PRESENT) for n in (0, 2, 3)])
    world.finish(again)
    world.demand_sums()
    assert world.ledger.batch(world.plan_id, 0).outcomes[Outcome.PRESENT] == 3
    seals = world.ledger.seals(world.plan_id, 0, SealKind.RECEIPTS)
    assert [seal.rows for seal in seals] == [3, 3]
    assert world.ledger.check_chain(world.plan_id) == 6
    assert reopen_lost(world, found) == 0


def test_a_repair_of_lost_receipts_keeps_what_a_check_saw_before(world: World) -> None:
    """A copy that was MISMATCH before the seal was lost may be replaced under the ETag that was seen (Invariant 2)."""
    world.copy_all()
    found = world.start_pass()
    lease = must(world.lease_check(found))
    results = [
        CheckResult(0, Verdict.MISMATCH, "content", "seen"),
        *(CheckResult(n, Verdict.UNKNOWN, SEAL_LOST) for n in (1, 2, 3)),
    ]
    world.ledger.record_verdicts(lease, results, world.run_id, NOW)
    world.finish_check(lease, results)
    assert reopen_lost(world, found) == 4
    assert [row.etag for row in world.ledger.copy_rows(world.lease())] == ["seen", None, None, None]
    assert world.ledger.wrong_batches(found.id) == []


def test_a_repair_of_lost_receipts_counts_before_it_changes_anything(world: World) -> None:
    """The corrupted twin: the plan knows other copies than the batch counts (Invariant 3)."""
    world.copy_all()
    found = world.start_pass()
    lose_batch(world, found)
    with pytest.raises(IntegrityError, match="other receipts"):
        world.ledger.reopen_lost(found.id, 0, {0: UnsealedCopy("anna", SIZE)}, world.run_id, NOW)
    assert world.ledger.batch(world.plan_id, 0).state == BatchState.DONE
    must(world.lease_check(world.start_pass(Level.LISTING)))
    with pytest.raises(LaterError):
        reopen_lost(world, found)
    world.give_back()
    assert reopen_lost(world, found) == 4


def test_a_repair_waits_for_leases(world: World) -> None:
    """Another pass may be reading the receipts that are voided here."""
    world.copy_all()
    found = world.start_pass()
    world.check(must(world.lease_check(found)), {0: Verdict.MISSING})
    must(world.lease_check(world.start_pass(Level.LISTING)))
    with pytest.raises(LaterError):
        reopen_all(world, found)
    world.give_back()
    assert reopen_all(world, found) == 1


def test_the_chain_holds_every_seal_of_a_plan(world: World) -> None:
    """Receipts and verdicts in the order in which batches and checks ended."""
    world.copy_all()
    world.check_all(world.start_pass())
    chain = list(world.ledger.chain(world.plan_id))
    assert world.ledger.check_chain(world.plan_id) == len(chain)
    assert [seal.sequence for seal in chain] == list(range(1, 9))
    assert [seal.kind for seal in chain] == [SealKind.RECEIPTS] * 4 + [SealKind.VERDICTS] * 4
    assert len({seal.chain for seal in chain}) == 8


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE seals SET digest = chain WHERE sequence = 2",
        "UPDATE seals SET rows = rows + 1 WHERE sequence = 2",
        "UPDATE seals SET number = 3 WHERE sequence = 2",
        "UPDATE seals SET chain = digest WHERE sequence = 4",
        "DELETE FROM seals WHERE sequence = 1",
        "DELETE FROM seals WHERE sequence = 3",
        "UPDATE seals SET sequence = 9 WHERE sequence = 4",
    ],
)
def test_a_broken_chain_is_an_integrity_error(world: World, damage: str) -> None:
    """The corrupted twins: a seal changed, moved or taken away."""
    world.copy_all()
    world.execute(damage)
    with pytest.raises(IntegrityError, match="chain of seals is broken"):
        world.ledger.check_chain(world.plan_id)


def test_a_verify_lease_is_not_for_copying(world: World) -> None:
    """Invariant 5: the purpose is part of the lease."""
    world.copy_all()
    lease = must(world.lease_check(world.start_pass()))
    with pytest.raises(StaleLeaseError):
        world.record(lease._replace(purpose=Purpose.COPY, pass_id=None), [receipt(0)])
