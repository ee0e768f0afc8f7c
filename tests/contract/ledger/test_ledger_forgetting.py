"""Users who are forgotten, in the ledger: a hold goes before, what was known of their copies is dropped, and counters follow."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from ledgers import (
    NOW,
    OWNERS,
    PLAN,
    SIZE,
    World,
    batch_infos,
    new_seal,
    plan_entry,
    receipt,
    start_run,
    user_info,
    user_infos,
)

from migrate.errors import (
    ExitCode,
    IntegrityError,
    LaterError,
    LedgerError,
    MoveRefusedError,
    OnHoldError,
    RefusedError,
)
from migrate.ledger import (
    EXTRA,
    FORGOTTEN_ELSEWHERE,
    SEAL_LOST,
    EventKind,
    Ledger,
    NewFinding,
    ProcessIdentity,
    PutBack,
    SealedCopy,
    SealKind,
    UnsealedCopy,
    UserTally,
)
from migrate.model import BatchInfo, CheckResult, CopyResult, Outcome, Purpose, Verdict
from migrate.states import WRITTEN_SINCE, BatchState, UserState

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

    def last(now: datetime, host: str = "h", besides: int | None = None) -> datetime | None:
        return ledger.last_run_of([CHILD], now, host=host, besides=besides)

    assert last(LATER) is None

    def begun(verb: str) -> int:
        return ledger.start_run(
            verb=verb, operator="op", host="h", country=None, tool_version="0", arguments={}, plan=None, now=NOW
        )

    begun("verify")
    assert last(LATER) is None
    run_id = begun("forget")
    assert last(LATER) == LATER
    assert last(LATER, besides=run_id) is None
    ledger.end_run(run_id, exit_code=0, now=NOW)
    assert last(LATER) == NOW
    assert last(LATER, host="another") > NOW  # by its clock, which may be behind
    assert last(NOW, host="another") == NOW  # and nobody waits for a time to come
    assert last(NOW - timedelta(hours=1)) == NOW - timedelta(hours=1)  # such as after a clock was set back


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
    names = ["anna", "bjorn", "held", "stranger"]
    assert world.ledger.forgotten_among(names) == dict.fromkeys(("anna", "held"), world.plan_id)
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


@pytest.mark.parametrize("state", WRITTEN_SINCE)
def test_a_repair_puts_nothing_back_of_who_is_not_ours_to_judge(world: World, state: UserState) -> None:
    """Of who lives at the new home, went back or is forgotten; what was found of them is dropped, or the next repair would find
    it again. Of others in the batch it is put back as ever (the twin)."""
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


@pytest.mark.parametrize("state", WRITTEN_SINCE)
def test_lost_receipts_of_who_is_not_ours_to_judge_are_not_made_anew(world: World, state: UserState) -> None:
    """Their copies stay as they were, for the sealed file may come back. Those of others in the batch are pending again (the
    twin), their new seal comes beside the old one, and all sums hold (Invariant 3). What was found is answered, once."""
    world.verify_all()
    found = world.start_pass()
    lease = world.lease_check(found)
    assert lease is not None
    lost = [CheckResult(ordinal, Verdict.UNKNOWN, SEAL_LOST) for ordinal in range(4)]
    world.ledger.record_verdicts(lease, lost, world.run_id, NOW)
    world.finish_check(lease, lost)
    world.check_all(found)
    world.execute("UPDATE users SET state = :state WHERE user_id = 'anna'", state=state.value)
    planned = {ordinal: UnsealedCopy(owner, SIZE) for ordinal, owner in enumerate(OWNERS[0])}
    assert world.ledger.reopen_lost(found.id, 0, planned, world.run_id, NOW) == PutBack(1, 3)
    assert world.ledger.reopen_lost(found.id, 0, planned, world.run_id, NOW) == PutBack(0, 0)
    assert world.ledger.lost_batches(found.id) == []
    anna_row, bjorn = world.ledger.user("anna"), world.ledger.user("bjorn")
    assert anna_row is not None
    assert bjorn is not None
    assert (anna_row.state, anna_row.good, bjorn.state, bjorn.good) == (state, 3, U.COPYING, 0)
    world.demand_sums()
    batch = world.ledger.batch(world.plan_id, 0)
    assert (batch.state, batch.done_bytes, batch.outcomes[Outcome.COPIED]) == (BatchState.PENDING, 3 * SIZE, 3)
    again = world.lease()
    assert [row.ordinal for row in world.ledger.copy_rows(again)] == [3]
    world.record(again, [receipt(3, outcome=Outcome.PRESENT)])
    world.finish(again)
    assert [seal.rows for seal in world.ledger.seals(world.plan_id, 0, SealKind.RECEIPTS)] == [4, 1]
    assert world.state("bjorn") == U.COPIED
    world.demand_sums()


def test_lost_receipts_of_a_batch_of_nobody_who_is_ours_change_nothing_of_it(world: World) -> None:
    """All of its users live elsewhere: it stays done, and no run takes it up."""
    world.verify_all()
    found = world.start_pass()
    while (lease := world.lease_check(found)) is not None and lease.number != 3:
        world.check(lease)
    assert lease is not None
    lost = [CheckResult(0, Verdict.UNKNOWN, SEAL_LOST)]
    world.ledger.record_verdicts(lease, lost, world.run_id, NOW)
    world.finish_check(lease, lost)
    forgotten(world, "dag")
    before = world.ledger.batch(world.plan_id, 3)
    left = world.ledger.reopen_lost(found.id, 3, {0: UnsealedCopy("dag", SIZE)}, world.run_id, NOW)
    assert (left, world.ledger.lost_batches(found.id)) == (PutBack(0, 1), [])
    assert world.ledger.batch(world.plan_id, 3) == before
    world.demand_sums()


def delta_of_anna(world: World) -> int:
    """Register a delta that has something to copy of anna."""
    mark = world.ledger.mark_of([world.plan_id])
    batches = [BatchInfo(0, 0, 1, 1, 1, SIZE, bytes(32))]
    users = [user_info("anna", batches=[0], copies=1)]
    entry = plan_entry(CHILD, batches, 1)._replace(parent=PLAN)
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


def test_a_delta_brings_over_whose_home_has_moved_though_its_directory_has_lost_them(world: World) -> None:
    """A purge and a way back are of the newest plan: those who live at the new home, are forgotten, or may have been flipped,
    keep state, home and wave there, and nothing is planned of them. Who is verified stays with the plan before, and so does who
    is frozen and not whole any more: nothing of theirs is to look proved."""
    ledger, run_id = world.ledger, world.run_id
    world.verify_all()
    world.cut_over("anna")
    forgotten(world, "carla")
    token = world.freeze("dag")
    world.freeze("bjorn")
    world.execute("UPDATE users SET matched = 0 WHERE user_id = 'bjorn'")
    before = {user: ledger.user(user) for user in ("anna", "bjorn", "carla", "dag", "empty")}
    entry = plan_entry(CHILD, [], 0)._replace(parent=PLAN)
    child = ledger.register(entry, [], [], run_id, NOW, mark=ledger.mark_of([world.plan_id]))
    nothing: dict[str, Any] = {"copies": 0, "size_bytes": 0, "good": 0, "matched": 0, "matched_pass": None}
    for user, row in before.items():
        assert row is not None
        stays = user in ("bjorn", "empty")
        brought = row._replace(plan_id=child, first_batch=None, last_batch=None, **nothing)
        assert ledger.user(user) == (row if stays else brought)
    world.demand_sums()
    assert {wave.wave: wave.users for wave in ledger.progress(child)} == {
        0: {U.CUT_OVER: 1},
        1: {U.FORGOTTEN: 1},
        2: {U.FROZEN: 1},
    }
    assert [each.user_id for each in ledger.candidates(child, 0, "", 10)] == ["anna"]
    assert list(ledger.users_away([child])) == ["anna", "carla"]
    ledger.flipped("dag", token, run_id, at=NOW, frozen_ms=1)
    for user in ("anna", "dag"):
        ledger.observe(user, run_id, until=NOW, now=NOW)
        ledger.begin_purge(user, run_id, NOW)
        ledger.purged(user, run_id, NOW)
    world.demand_sums()


OTHER = "cd" * 32


def other_plan(world: World, *, parent: str | None = None, digest: str = OTHER) -> int:
    """Register a plan of anna and zoe, who share its one batch."""
    batches = [BatchInfo(0, 0, 2, 3, 3, 3 * SIZE, bytes(32))]
    users = [user_info("anna", batches=[0], copies=2), user_info("zoe", batches=[0], copies=1)]
    entry = plan_entry(digest, batches, 2)._replace(parent=parent)
    mark = None if parent is None else world.ledger.mark_of([world.plan_id])
    return world.ledger.register(entry, batches, users, world.run_id, NOW, mark=mark)


@pytest.mark.parametrize("is_delta", [False, True])
def test_who_is_forgotten_in_another_line_keeps_no_plan_from_being_registered(world: World, is_delta: bool) -> None:
    """They stay there, and have no row in the new plan. Their copies are withdrawn and add up all the same; a user who is lost is
    still found out (the twin). Whoever is not forgotten refuses the plan as ever (Invariant 3)."""
    ledger, run_id = world.ledger, world.run_id
    world.copy_all()
    with pytest.raises(RefusedError, match="another plan"):
        other_plan(world)
    forgotten(world)
    before = ledger.user("anna")
    assert ledger.plan_that_has(["anna", "zoe"], besides=[OTHER]) is None
    if is_delta:
        entry = plan_entry(CHILD, [], 0)
        world.plan_id = ledger.register(entry, [], [], run_id, NOW)
        assert list(ledger.users_away([world.plan_id])) == ["anna"]
    plan_id = other_plan(world, parent=CHILD if is_delta else None)
    assert ledger.user("anna") == before
    (wave,) = ledger.progress(plan_id)
    assert wave.users == {U.PLANNED: 1}
    assert ledger.forgotten_among(["anna", "zoe"]) == {"anna": before.plan_id if before else 0}
    lease = ledger.lease(plan_id, world.worker_id, Purpose.COPY)
    assert lease is not None
    withdrawn = [CopyResult(ordinal, Outcome.WITHDRAWN, reason=FORGOTTEN_ELSEWHERE) for ordinal in (0, 1)]
    ledger.record(lease, [*withdrawn, receipt(2)], sizes=dict.fromkeys(range(3), SIZE), run_id=run_id, now=NOW)
    tallies = {"anna": UserTally(other=2), "zoe": UserTally(good=1)}
    with pytest.raises(IntegrityError, match="no row"):
        ledger.finish_copy(lease, new_seal(1), {"lost": UserTally(other=2), "zoe": UserTally(good=1)})
    ledger.finish_copy(lease, new_seal(1), tallies)
    (wave,) = ledger.progress(plan_id)
    assert (wave.users, wave.tallied) == ({U.COPIED: 1}, (1, 0, 2))
    assert (wave.outcomes[Outcome.COPIED], wave.outcomes[Outcome.WITHDRAWN]) == (1, 2)
    assert ledger.user("anna") == before
    world.plan_id = plan_id
    world.demand_sums()


def test_who_is_forgotten_by_another_ledger_comes_as_such(ledger: Ledger) -> None:
    """And is told of in the history. Whom no plan has is no matter. Everybody else begins as ever."""
    run_id = start_run(ledger)
    gone = {"anna", "held", "empty", "stranger"}
    plan_id = ledger.register(plan_entry(), batch_infos(), user_infos(), run_id, NOW, forgotten=gone)
    world = World(ledger, plan_id, run_id, ledger.start_worker(run_id, ProcessIdentity.current(), NOW))
    assert [world.state(user) for user in ("anna", "held", "empty", "bjorn")] == [U.FORGOTTEN] * 3 + [U.PLANNED]
    assert ledger.forgotten_in(plan_id) == 3
    (event,) = ledger.history("anna")
    assert (event.kind, event.to_state, event.run_id) == (EventKind.MOVE, U.FORGOTTEN, run_id)
    assert ledger.history("bjorn") == ledger.history("stranger") == []
    assert not ledger.is_erased("anna")
    lease = world.lease()
    withdrawn = [CopyResult(ordinal, Outcome.WITHDRAWN, reason="forgotten") for ordinal in (0, 1, 2)]
    world.record(lease, [*withdrawn, receipt(3)])
    world.finish(lease)
    assert (world.state("anna"), world.state("bjorn")) == (U.FORGOTTEN, U.COPIED)
    world.demand_sums()
