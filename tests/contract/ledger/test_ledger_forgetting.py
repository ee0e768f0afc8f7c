"""Users who are forgotten, in the ledger: a hold goes before, what was known of their copies is dropped, and counters follow."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from ledgers import NOW, OWNERS, PLAN, SIZE, World, plan_entry, receipt, user_info

from migrate.errors import ExitCode, LaterError, LedgerError, MoveRefusedError, OnHoldError
from migrate.ledger import EXTRA, EventKind, NewFinding, SealedCopy
from migrate.model import BatchInfo, CopyResult, Outcome, Verdict
from migrate.states import AWAY, UserState

LATER = NOW + timedelta(hours=1)
CHILD = "ef" * 32
U = UserState


def anna(world: World) -> dict[tuple[int, int], list[int]]:
    """Anna's copies, as an erasure names them."""
    return {(world.plan_id, 0): [0, 1, 2]}


def forgotten(world: World, user: str = "anna") -> None:
    assert world.ledger.forgotten(user, world.run_id, NOW)


def events(world: World, user: str = "anna") -> list[EventKind]:
    return [event.kind for event in world.ledger.history(user)]


def test_a_hold_goes_before_a_request_in_its_own_transaction(world: World) -> None:
    """Whoever is on hold is not forgotten; who was forgotten before the hold is not erased. Nothing is changed by asking."""
    world.hold("anna")
    with pytest.raises(OnHoldError) as refused:
        world.ledger.forgotten("anna", world.run_id, NOW)
    assert refused.value.exit_code == ExitCode.LATER
    assert (world.state("anna"), events(world)) == (U.PLANNED, [EventKind.HOLD])
    world.ledger.release("anna", "settled", run_id=world.run_id, now=NOW)
    forgotten(world)
    world.ledger.demand_erasable("anna")
    world.hold("anna")
    with pytest.raises(OnHoldError):
        world.ledger.demand_erasable("anna")
    with pytest.raises(OnHoldError):
        world.ledger.forgotten("anna", world.run_id, NOW)
    world.demand_sums()


def test_a_batch_is_begun_from_its_first_lease_on(world: World) -> None:
    """Also once the lease has ended, and nothing of it was done."""
    assert not world.ledger.is_begun(world.plan_id, 0)
    world.execute("UPDATE batches SET fence = 1 WHERE number = 0")
    assert world.ledger.is_begun(world.plan_id, 0)
    assert not world.ledger.is_begun(world.plan_id, 1)


def test_every_plan_waits_for_the_requests_of_an_erasure(world: World) -> None:
    """It is recorded without a plan. One that was killed counts as under way (Invariant 2)."""
    ledger = world.ledger
    assert ledger.last_run_of([CHILD], LATER) is None

    def begun(verb: str) -> int:
        return ledger.start_run(
            verb=verb, operator="op", host="h", country=None, tool_version="0", arguments={}, plan=None, now=NOW
        )

    begun("verify")
    assert ledger.last_run_of([CHILD], LATER) is None
    run_id = begun("forget")
    assert ledger.last_run_of([CHILD], LATER) == LATER
    assert ledger.last_run_of([CHILD], LATER, besides=run_id) is None
    ledger.end_run(run_id, exit_code=0, now=NOW)
    assert ledger.last_run_of([CHILD], LATER) == NOW


def test_nobody_is_erased_who_is_not_forgotten(world: World) -> None:
    for ask in (
        lambda user: world.ledger.demand_erasable(user),
        lambda user: world.ledger.looked_over(user, {}, world.run_id, NOW, is_clean=True),
    ):
        with pytest.raises(MoveRefusedError):
            ask("anna")
        with pytest.raises(LedgerError) as refused:
            ask("stranger")
        assert "stranger" not in str(refused.value)
    assert events(world) == []


def test_how_many_are_forgotten_is_counted(world: World) -> None:
    """By plan, at once, so that a worker sees who came to it."""
    assert world.ledger.forgotten_in(world.plan_id) == 0
    forgotten(world)
    forgotten(world, "held")
    assert world.ledger.forgotten_in(world.plan_id) == 2
    assert world.ledger.forgotten_in(world.plan_id + 1) == 0
    assert world.ledger.forgotten_among(["anna", "bjorn", "held", "stranger"]) == {"anna", "held"}
    assert world.ledger.away_among(["anna", "bjorn", "held"]) == {"anna", "held"}


def test_what_is_recorded_of_who_was_forgotten_meanwhile_keeps_the_sums(world: World) -> None:
    """Invariant 3: receipts of copies under way count, the others are withdrawn, and the user's state stays. A copy that nobody
    has leased is pending until then."""
    lease = world.lease()
    world.record(lease, [receipt(0)])
    forgotten(world)
    assert world.ledger.progress(world.plan_id)[0].outcomes[Outcome.PENDING] == 3
    world.record(lease, [receipt(1), CopyResult(2, Outcome.WITHDRAWN, reason="forgotten"), receipt(3)])
    world.finish(lease)
    row = world.ledger.user("anna")
    assert row is not None
    assert (row.state, row.good, row.other, row.copies) == (U.FORGOTTEN, 2, 1, 3)
    assert world.state("bjorn") == U.COPIED
    world.demand_sums()


def test_the_end_of_an_erasure_is_written_down_once(world: World) -> None:
    """Not before nothing is left; late copies go and findings are answered then, and not before."""
    world.verify_all()
    found = world.start_pass()
    lease = world.lease_check(found)
    assert lease is not None
    world.check(lease, {0: Verdict.MISSING, 3: Verdict.MISMATCH}, NewFinding(EXTRA, "hamar", "key", "anna", SIZE, 0))
    forgotten(world)
    assert world.ledger.known_differences(world.plan_id) == {"MISSING", "MISMATCH", "EXTRA"}
    world.ledger.looked_over("anna", anna(world), world.run_id, NOW, is_clean=False)
    assert world.ledger.known_differences(world.plan_id) == {"MISMATCH", "EXTRA"}
    assert (world.ledger.is_erased("anna"), events(world)) == (False, [EventKind.MOVE])
    for _ in range(2):
        world.ledger.looked_over("anna", anna(world), world.run_id, LATER, is_clean=True)
        assert world.ledger.is_erased("anna")
        assert events(world) == [EventKind.MOVE, EventKind.ERASED]
        assert world.ledger.known_differences(world.plan_id) == {"MISMATCH"}  # bjorn's, who shares the batch
        world.demand_sums()
    assert world.ledger.history("anna")[-1].at == LATER
    # what the open pass had counted of the batch is counted anew (invariant 9)
    assert (again := world.lease_check(found)) is not None
    assert again.number == 0


def test_uploads_of_who_is_forgotten_end_and_those_of_others_stay(world: World) -> None:
    lease = world.lease()
    for ordinal in (1, 3):
        world.ledger.start_upload(
            lease,
            ordinal,
            store="hamar",
            upload_id=f"upload-{ordinal}",
            part_bytes=5,
            attributes=bytes(32),
            run_id=world.run_id,
        )
    world.give_back()
    forgotten(world)
    assert world.ledger.uploads_begun(anna(world)) == {("hamar", "upload-1")}
    world.ledger.looked_over("anna", anna(world), world.run_id, NOW, is_clean=True)
    assert [upload.ordinal for upload in world.ledger.uploads(world.lease())] == [3]


@pytest.mark.parametrize("state", AWAY)
def test_a_repair_puts_nothing_back_of_who_is_not_ours_to_judge(world: World, state: UserState) -> None:
    """Of who lives at the new home, or is forgotten; what was found of them is dropped, or the next repair would find it again.
    Of others in the batch it is put back as ever (the twin)."""
    world.verify_all()
    found = world.start_pass()
    lease = world.lease_check(found)
    assert lease is not None
    world.check(lease, {0: Verdict.MISSING, 3: Verdict.MISSING})
    world.check_all(found)
    world.execute("UPDATE users SET state = :state WHERE user_id = 'anna'", state=state.value)
    sealed = {ordinal: SealedCopy(Outcome.COPIED, OWNERS[0][ordinal], SIZE) for ordinal in (0, 3)}
    assert world.ledger.reopen(found.id, 0, sealed, world.run_id, NOW) == 1
    assert world.ledger.wrong_batches(found.id) == []
    anna_row, bjorn = world.ledger.user("anna"), world.ledger.user("bjorn")
    assert anna_row is not None
    assert bjorn is not None
    assert (anna_row.good, bjorn.good) == (3, 0)
    again = world.lease()
    assert [row.ordinal for row in world.ledger.copy_rows(again)] == [3]
    world.demand_sums()


def delta_of_anna(world: World) -> int:
    """Register a delta that has something to copy of anna."""
    mark = world.ledger.mark_of([world.plan_id])
    batches = [BatchInfo(0, 0, 1, 1, 1, SIZE, bytes(32))]
    users = [user_info("anna", batches=[0], copies=1)]
    entry = replace(plan_entry(CHILD, batches, 1), parent=PLAN)
    return world.ledger.register(entry, batches, users, world.run_id, NOW, mark=mark)


def test_a_delta_that_has_something_of_who_is_forgotten_takes_the_user_over(world: World) -> None:
    """The user stays forgotten, and its copies are there, to be withdrawn; of who has moved it is refused (the twin)."""
    world.verify_all()
    forgotten(world)
    child = delta_of_anna(world)
    row = world.ledger.user("anna")
    assert row is not None
    assert (row.plan_id, row.state, row.copies, row.good) == (child, U.FORGOTTEN, 1, 0)
    world.demand_sums()
    assert world.ledger.forgotten_in(child) == 1


def test_a_delta_that_has_something_of_who_has_moved_is_refused(world: World) -> None:
    world.verify_all()
    world.cut_over("anna")
    with pytest.raises(LaterError, match="has moved"):
        delta_of_anna(world)
