"""Copying by the ledger: leases, groups of outcomes, the end of a batch, uploads, and what a retry puts back."""

from __future__ import annotations

import pytest
from ledgers import NOW, OWNERS, SIZE, World, new_seal, quarantined, receipt

from migrate.errors import IntegrityError, LaterError, LedgerError, StaleLeaseError, UsageError
from migrate.ledger import PartRow, SealKind, UserTally
from migrate.model import CopyResult, Outcome, Purpose
from migrate.states import BatchState, UserState

DIGEST = b"a" * 32


def test_batches_are_leased_in_order_and_within_the_waves(world: World) -> None:
    """The lowest pending batch first; none outside the waves that are named; None when all are taken."""
    ledger, plan_id, worker_id = world.ledger, world.plan_id, world.worker_id
    numbers = []
    while (lease := ledger.lease(plan_id, worker_id, Purpose.COPY, waves=[1, 2])) is not None:
        numbers.append(lease.number)
        assert lease.fence == 1
        assert lease.fresh
    assert numbers == [1, 2, 3]
    assert ledger.lease(plan_id, worker_id, Purpose.COPY, waves=[0]) is not None


def test_a_lease_brings_the_batch_as_it_was_registered(world: World) -> None:
    """Bounds of keys included: they are bytes in the database, and text again here."""
    world.copy_batch()
    lease = world.lease()
    assert (lease.number, lease.wave, lease.batch.key_from, lease.batch.key_until) == (1, 1, None, "m")
    assert lease.batch.copies == len(OWNERS[1])


def test_a_lease_is_for_copying_or_for_a_pass(world: World) -> None:
    """Other purposes, or a pass that does not fit, are a mistake of the caller."""
    for purpose, pass_id in ((Purpose.PLAN, None), (Purpose.COPY, 1), (Purpose.VERIFY, None)):
        with pytest.raises(UsageError):
            world.ledger.lease(world.plan_id, world.worker_id, purpose, pass_id=pass_id)


def test_users_begin_with_the_lease_of_their_first_batch(world: World) -> None:
    """planned to copying for all users of the batch, also for one who is split over several; nobody else."""
    world.lease()
    assert [world.state(user) for user in ("anna", "bjorn", "carla", "dag")] == [
        "copying",
        "copying",
        "planned",
        "planned",
    ]
    world.ledger.lease(world.plan_id, world.worker_id, Purpose.COPY)
    assert world.state("carla") == UserState.COPYING
    assert world.state("held") == UserState.HELD


def test_a_stale_fence_is_refused_everywhere(world: World) -> None:
    """Invariant 5: once a batch was given back, no write of the old holder gets through."""
    old = world.lease()
    world.give_back()
    new = world.lease()
    assert (new.number, new.fence) == (old.number, old.fence + 1)
    attempts = [
        lambda: world.record(old, [receipt(0)]),
        lambda: world.ledger.record_parts(old, [PartRow(0, 1, "e", DIGEST, 5)]),
        lambda: world.ledger.start_upload(
            old, 0, store="s", upload_id="u", part_bytes=5, attributes=DIGEST, run_id=world.run_id
        ),
        lambda: world.ledger.finish_copy(old, None, {}),
    ]
    for attempt in attempts:
        with pytest.raises(StaleLeaseError):
            attempt()
    assert world.ledger.copy_rows(new) == []


def test_receipts_come_back_as_they_were_recorded(world: World) -> None:
    """To the microsecond, whatever the ETag looks like."""
    lease = world.lease()
    etags = [None, "d41d8cd98f00b204e9800998ecf8427e-3", "D41D8CD98F00B204E9800998ECF8427E", "m"]
    results = [receipt(n, etag=etag) for n, etag in enumerate(etags)]
    world.record(lease, results)
    rows = world.ledger.copy_rows(lease)
    assert [CopyResult(row.ordinal, row.outcome, row.receipt, row.reason, row.detail) for row in rows] == results
    assert all(row.at == NOW and not row.tallied for row in rows)


def test_recording_again_changes_nothing(world: World) -> None:
    """Invariant 2: a group whose commit was not heard of is sent again, in whole or in part."""
    lease = world.lease()
    results = [receipt(0), receipt(1, outcome=Outcome.PRESENT), quarantined(2)]
    world.record(lease, results)
    before = (world.ledger.batch(world.plan_id, 0), world.ledger.copy_rows(lease))
    world.record(lease, results)
    world.record(lease, [results[1], results[1]])
    assert (world.ledger.batch(world.plan_id, 0), world.ledger.copy_rows(lease)) == before
    assert world.ledger.run_failures(world.run_id) == 1


def test_another_outcome_for_a_settled_copy_is_an_integrity_error(world: World) -> None:
    """And nothing of its group is kept."""
    lease = world.lease()
    world.record(lease, [receipt(0)])
    with pytest.raises(IntegrityError, match="two different"):
        world.record(lease, [receipt(1), quarantined(0)])
    assert [row.ordinal for row in world.ledger.copy_rows(lease)] == [0]


def test_counters_move_with_the_rows(world: World) -> None:
    """Invariant 3, while a batch is under way."""
    lease = world.lease()
    world.record(lease, [receipt(0), receipt(1, outcome=Outcome.PRESENT)])
    world.record(lease, [CopyResult(2, Outcome.DRIFTED, None, "changed")])
    batch = world.ledger.batch(world.plan_id, 0)
    assert batch.outcomes == {
        Outcome.COPIED: 1, Outcome.PRESENT: 1, Outcome.DRIFTED: 1, Outcome.QUARANTINED: 0, Outcome.WITHDRAWN: 0,
    }  # fmt: skip
    assert batch.done_bytes == 2 * SIZE
    progress = {wave.wave: wave for wave in world.ledger.progress(world.plan_id)}
    assert progress[0].outcomes[Outcome.PENDING] == 1
    world.demand_sums()


def test_a_finished_batch_leaves_its_receipts_for_the_seal(world: World) -> None:
    """Receipts go, the seal comes, users move on; what has no receipt stays."""
    lease = world.copy_batch(3)
    assert [row.ordinal for row in world.ledger.copy_rows(lease)] == [3]
    (seal,) = world.ledger.seals(world.plan_id, 0, SealKind.RECEIPTS)
    assert (seal.sequence, seal.rows, seal.run_id) == (1, 3, world.run_id)
    batch = world.ledger.batch(world.plan_id, 0)
    assert (batch.state, batch.fence) == (BatchState.DONE, 1)
    assert (world.state("anna"), world.state("bjorn")) == (UserState.COPIED, UserState.QUARANTINED)
    assert [
        (failure.number, failure.ordinal, failure.reason) for failure in world.ledger.failures(world.plan_id, 10)
    ] == [(0, 3, "denied")]
    world.demand_sums()


def test_a_split_user_is_copied_with_the_last_batch(world: World) -> None:
    """Batches of one user may end in any order."""
    world.copy_batch()
    first, second = world.lease(), world.lease()
    for lease in (second, first):
        assert world.state("carla") == UserState.COPYING
        world.record(lease, [receipt(n) for n in range(len(OWNERS[lease.number]))])
        world.finish(lease)
    assert world.state("carla") == UserState.COPIED


def test_a_user_with_a_drifted_copy_stays_copying(world: World) -> None:
    """There is nothing wrong with the copier, and not all of it is there."""
    lease = world.lease()
    world.record(lease, [*(receipt(n) for n in range(3)), CopyResult(3, Outcome.DRIFTED, None, "changed")])
    world.finish(lease)
    user = world.ledger.user("bjorn")
    assert user is not None
    assert (user.state, user.other, user.settled) == (UserState.COPYING, 1, 1)


def test_users_without_copies_are_copied_from_the_start(world: World) -> None:
    """But not those who are held."""
    assert (world.state("empty"), world.state("held")) == (UserState.COPIED, UserState.HELD)


@pytest.mark.parametrize(
    ("rows", "users", "complaint"),
    [
        (3, {"anna": UserTally(3), "bjorn": UserTally(1)}, "3 rows for 4"),
        (None, {"anna": UserTally(3), "bjorn": UserTally(1)}, "0 rows for 4"),
        (4, {"anna": UserTally(3)}, "credited"),
        (4, {"anna": UserTally(3), "bjorn": UserTally(0, 1)}, "credited"),
        (4, {"anna": UserTally(3), "nobody": UserTally(1)}, "no row"),
        (4, {"anna": UserTally(2), "bjorn": UserTally(2)}, "constraints"),
    ],
)
def test_sums_that_are_off_end_no_batch(
    world: World, rows: int | None, users: dict[str, UserTally], complaint: str
) -> None:
    """Invariant 3: a seal or a tally that does not fit changes nothing at all."""
    lease = world.lease()
    world.record(lease, [receipt(n) for n in range(4)])
    with pytest.raises((IntegrityError, LedgerError), match=complaint):
        world.ledger.finish_copy(lease, None if rows is None else new_seal(rows), users)
    assert world.ledger.batch(world.plan_id, 0).state == BatchState.LEASED
    assert len(world.ledger.copy_rows(lease)) == 4
    assert world.ledger.check_chain(world.plan_id) == 0
    world.finish(lease)


def test_a_batch_with_a_copy_open_cannot_end(world: World) -> None:
    """Invariant 3: done means one outcome for every copy."""
    lease = world.lease()
    world.record(lease, [receipt(n) for n in range(3)])
    with pytest.raises(IntegrityError, match="not every copy"):
        world.ledger.finish_copy(lease, new_seal(3), {"anna": UserTally(3)})


def test_a_counter_that_lies_ends_no_batch(world: World) -> None:
    """The corrupted twin: a row was lost behind the counters' back."""
    lease = world.lease()
    world.record(lease, [receipt(n) for n in range(4)])
    world.execute("DELETE FROM copies WHERE ordinal = 3")
    with pytest.raises(IntegrityError, match="open receipts"):
        world.finish(lease)


def test_uploads_and_their_parts_survive_the_worker(world: World) -> None:
    """A killed run goes on at the next part; the outcome takes the upload's rows away."""
    lease = world.lease()

    def start(upload_id: str) -> None:
        world.ledger.start_upload(
            lease, 1, store="hamar", upload_id=upload_id, part_bytes=5, attributes=DIGEST, run_id=world.run_id
        )

    start("first")
    world.ledger.record_parts(lease, [PartRow(1, 1, "old", DIGEST, 5)])
    start("second")
    parts = (PartRow(1, 1, "e1", DIGEST, 5), PartRow(1, 2, "e2", DIGEST, 5))
    world.ledger.record_parts(lease, [parts[1], PartRow(1, 1, "e0", DIGEST, 5)])
    world.ledger.record_parts(lease, [parts[0]])
    world.give_back()
    lease = world.lease()
    assert not lease.fresh
    (upload,) = world.ledger.uploads(lease)
    assert (upload.upload_id, upload.store, upload.attributes, upload.parts) == ("second", "hamar", DIGEST, parts)
    world.record(lease, [receipt(1)])
    assert world.ledger.uploads(lease) == []


def test_a_part_without_its_upload_is_refused(world: World) -> None:
    """The database refuses it, and the error shows no value of the row."""
    lease = world.lease()
    with pytest.raises(LedgerError, match="constraints") as refused:
        world.ledger.record_parts(lease, [PartRow(1, 1, "secret-etag", DIGEST, 5)])
    assert "secret-etag" not in str(refused.value)


def test_a_batch_goes_on_where_it_was_left(world: World) -> None:
    """Open rows stay when a lease ends early: they are receipts (invariant 1)."""
    lease = world.lease()
    world.record(lease, [receipt(0), quarantined(3)])
    world.give_back()
    lease = world.lease()
    assert not lease.fresh
    assert [row.ordinal for row in world.ledger.copy_rows(lease)] == [0, 3]
    world.record(lease, [receipt(1), receipt(2)])
    world.finish(lease)
    assert world.ledger.run_failures(world.run_id) == 1
    world.demand_sums()


def test_a_retry_puts_quarantined_copies_back_and_counts_them_once(world: World) -> None:
    """Batch, user and run agree, before and after; the copies that were good are not touched."""
    world.copy_batch(0, 3)
    world.copy_batch()
    assert world.ledger.retry_quarantined(world.plan_id, [1, 2], world.run_id, NOW) == 0
    assert world.ledger.retry_quarantined(world.plan_id, None, world.run_id, NOW) == 2
    assert world.ledger.retry_quarantined(world.plan_id, None, world.run_id, NOW) == 0
    assert world.ledger.batch(world.plan_id, 0).state == BatchState.PENDING
    assert (world.state("anna"), world.state("bjorn")) == (UserState.COPYING, UserState.COPYING)
    world.demand_sums()
    lease = world.copy_batch(3)
    assert (lease.number, lease.fence) == (0, 2)
    assert (world.state("anna"), world.state("bjorn")) == (UserState.COPIED, UserState.QUARANTINED)
    assert [seal.rows for seal in world.ledger.seals(world.plan_id, 0, SealKind.RECEIPTS)] == [2, 1]
    assert world.ledger.run_failures(world.run_id) == 3
    world.demand_sums()


def test_a_retry_reaches_batches_that_were_left_half_way(world: World) -> None:
    """Failures that no user's tally has yet are put back as well, and none is counted twice."""
    lease = world.lease()
    world.record(lease, [quarantined(0), receipt(1)])
    world.give_back()
    assert world.ledger.retry_quarantined(world.plan_id, None, world.run_id, NOW) == 1
    lease = world.lease()
    world.record(lease, [receipt(0), receipt(2), receipt(3)])
    world.finish(lease)
    assert world.state("anna") == UserState.COPIED


def test_a_retry_waits_for_leases(world: World) -> None:
    """Nobody may be working on what changes."""
    lease = world.lease()
    world.record(lease, [quarantined(0)])
    with pytest.raises(LaterError):
        world.ledger.retry_quarantined(world.plan_id, None, world.run_id, NOW)


def test_a_retry_refuses_sums_that_are_off(world: World) -> None:
    """The corrupted twin: a user's tally that its batch knows nothing of."""
    world.copy_batch(3)
    world.execute("UPDATE users SET quarantined = 0, other = 1, state = 'copying' WHERE user_id = 'bjorn'")
    with pytest.raises(IntegrityError):
        world.ledger.retry_quarantined(world.plan_id, None, world.run_id, NOW)


def test_odd_texts_are_kept_to_the_byte(world: World) -> None:
    """User ids and details are data: quotes, percent signs and scripts of all kinds."""
    lease = world.lease()
    result = quarantined(0)._replace(detail="100% ' \" \\ %s {x} ŁØ 🦊")
    world.record(lease, [result])
    assert world.ledger.copy_rows(lease)[0].detail == result.detail
    assert world.ledger.user("' OR 1=1 --") is None
