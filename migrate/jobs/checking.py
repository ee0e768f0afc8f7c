"""`migrate verify`: a pass over some waves at one level, what it found, and the repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from migrate.engines.assignment import Snapshot
from migrate.engines.local import Problem, run_assignments
from migrate.errors import ExitCode, InterruptedRun, LaterError, SealLostError
from migrate.inventory.tables import writing
from migrate.jobs.common import (
    Actor,
    Limits,
    assignments,
    check_sums,
    free_dead_leases,
    parse_waves,
    refuse_early,
    registered,
    unfinished,
)
from migrate.jobs.extras import find_loose_extras, forget_listings, look_for_users_without_copies
from migrate.jobs.verify_end import VerifyEnd, end_of
from migrate.ledger import (
    FULL_SAMPLE_PPM,
    SEAL_LOST,
    Ledger,
    Pass,
    PassProgress,
    SealedCopy,
    SealKind,
    UnsealedCopy,
    WaveProgress,
)
from migrate.model import Level, Purpose
from migrate.pauses import PausePoint, pause_at
from migrate.planner.folder import Plan, PlanReader
from migrate.stores.door import Door, Visitor
from migrate.units import number_of
from migrate.worker.loop import Stop, StopReason
from migrate.worker.seals import Seals
from migrate.workspace import Workspace

_SHOWN = 3  # sealed files that an error names


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What the command line asks of a verification."""

    waves: str | None = None
    level: Level | None = None
    sample_ppm: int = FULL_SAMPLE_PPM
    repair: bool = False
    share: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class VerifyWatch:
    """What a verification tells of itself while it works, in this order.

    `on_pass`: the pass, what it has found so far, and the unfinished ones whose place it takes. `on_listing`, from any thread:
    what is listed beside the batches, and how much of it. `on_start`: the batches are begun. `on_progress`: where they are.
    """

    on_pass: Callable[[Pass, PassProgress, Sequence[Pass]], None]
    on_listing: Callable[[str, int], None]
    on_start: Callable[[Pass, PassProgress, Sequence[WaveProgress]], None]
    on_progress: Callable[[Snapshot], None]


def plan_id_of(plan: Plan, ledger: Ledger) -> int:
    """The plan's id in the ledger. LaterError where nothing of it was run yet."""
    plan_id = registered(plan, ledger)
    if plan_id is None:
        raise LaterError(
            "the ledger knows of no copy of this plan yet",
            remedy=f"`migrate run {plan.digest[:12]}` comes first; if it ran, name its ledger by --ledger.",
        )
    return plan_id


def verify_plan(
    plan: Plan,
    workspace: Workspace,
    ledger: Ledger,
    actor: Actor,
    request: VerifyRequest,
    *,
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
    watch: VerifyWatch,
) -> VerifyEnd:
    """Check what was copied; goes on with an unfinished pass of the same waves, level and sample."""
    ledger.heed(stop.ledger_ends_at)
    plan_id = plan_id_of(plan, ledger)
    refuse_early(plan, workspace, actor, request.limits, Purpose.VERIFY)
    with ledger.hold_plan(plan.digest, share=request.share):
        progress = ledger.progress(plan_id)
        check_sums(progress, plan.document["totals"])
        ledger.check_chain(plan_id)
        free_dead_leases(ledger)
        waves = _waves(request, progress)
        level = request.level or plan.spec.verify.level
        verification, closed = ledger.start_pass(plan_id, level, request.sample_ppm, waves, run_id, now())
        watch.on_pass(verification, ledger.pass_progress(verification.id), closed)
        for other in closed:
            forget_listings(plan, workspace, other)
        if verification.is_full:
            with writing():
                _look_beside_batches(
                    plan, workspace, ledger, actor, verification, request, run_id, now, stop, watch.on_listing
                )
        taken = [wave for wave in progress if waves is None or wave.wave in waves]
        watch.on_start(verification, ledger.pass_progress(verification.id), taken)
        tasks = assignments(
            plan,
            workspace,
            ledger,
            actor,
            request.limits,
            Purpose.VERIFY,
            run_id=run_id,
            pass_id=verification.id,
            level=level,
            sample_ppm=request.sample_ppm,
        )
        report = run_assignments(tasks, watch.on_progress, stop)
        pause_at(PausePoint.PASS_ENDING)
        ended_at = now()
        if ledger.end_pass(verification.id, ended_at):
            verification = replace(verification, ended_at=ended_at)
            forget_listings(plan, workspace, verification)
        found = ledger.pass_progress(verification.id)  # before a repair makes checks of it anew
        lost = ledger.lost_batches(verification.id)
        if lost:
            report.problems.append(_seals_lost(ledger, verification, lost))
        repaired = 0
        if request.repair:
            try:
                for put_back in _repair(plan, workspace, ledger, verification, lost, run_id, now, stop):
                    repaired += put_back
            except (LaterError, SealLostError) as error:  # what was found is told all the same
                report.problems.append(Problem(error.what, error.remedy, error.exit_code))
            except InterruptedRun:
                report.reasons.append(StopReason.INTERRUPTED)
        return end_of(plan, ledger, verification, found, report, repaired)


def _waves(request: VerifyRequest, progress: Sequence[WaveProgress]) -> tuple[int, ...] | None:
    """The waves named, else those of which everything has an outcome; None for all of them."""
    known = [wave.wave for wave in progress if wave.wave is not None]
    named = parse_waves(request.waves, known)
    if named is not None:
        return None if set(named) == set(known) else named
    done = [wave.wave for wave in progress if wave.wave is not None and not unfinished([wave])]
    if not done:
        raise LaterError(
            "no wave is copied to its end yet",
            remedy="`migrate run` goes on; or name a wave to check what there is of it.",
        )
    return None if len(done) == len(known) else tuple(done)


def _look_beside_batches(
    plan: Plan,
    workspace: Workspace,
    ledger: Ledger,
    actor: Actor,
    verification: Pass,
    request: VerifyRequest,
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
    on_listing: Callable[[str, int], None],
) -> None:
    """EXTRA objects that no check of a batch can see."""
    visitor = Visitor(actor.operator, actor.host, actor.country, Purpose.VERIFY, plan.digest)
    door = Door(plan.spec, workspace, visitor, capabilities=plan.capabilities)
    deadline = request.limits.deadline

    def is_stopping() -> bool:
        return stop.is_set() or (deadline is not None and time.monotonic() >= deadline)

    try:
        find_loose_extras(
            plan,
            door.open,
            workspace,
            ledger,
            verification,
            run_id=run_id,
            now=now,
            is_stopping=is_stopping,
            on_listing=on_listing,
        )
        look_for_users_without_copies(
            plan,
            door.open,
            ledger,
            verification,
            run_id=run_id,
            now=now,
            is_stopping=is_stopping,
            on_listing=on_listing,
        )
    except InterruptedRun as error:
        if stop.is_set():
            raise
        raise LaterError(
            "time is up while the target stores were listed", remedy="`migrate verify` goes on with the listing."
        ) from error
    door.close()  # not where it was stopped: threads may be in a request


def _seals_lost(ledger: Ledger, verification: Pass, lost: Sequence[int]) -> Problem:
    """Which sealed files are not what they must be: that is an integrity error, whatever else was found."""
    findings = ledger.findings(verification.plan_id, _SHOWN, pass_id=verification.id, kind=SEAL_LOST)
    files = ", ".join(sorted({row.finding.key for row in findings if row.finding.key}))
    return Problem(
        f"the receipts of {number_of(len(lost), 'batch', 'batches')} are lost: sealed file {files} is missing or was changed",
        "Bring it back from a backup of .migrate/seals and verify again;"
        " or `migrate verify --repair`, and then `migrate run` makes new receipts.",
        ExitCode.INTEGRITY,
    )


def _repair(
    plan: Plan,
    workspace: Workspace,
    ledger: Ledger,
    verification: Pass,
    lost: Sequence[int],
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
) -> Iterator[int]:
    """Put the copies back to pending that a pass found wrong, missing or without a receipt; how many, batch by batch.

    InterruptedRun when stopped between two batches.
    """
    reader, seals = PlanReader(plan), Seals(workspace.seals, plan.digest)

    def demand_time() -> None:
        if stop.is_set():
            raise InterruptedRun("stopped while copies were put back", remedy="`migrate verify --repair` goes on.")

    try:
        for number in lost:
            demand_time()
            copies = _copies(reader, ledger, verification, number)
            yield ledger.reopen_lost(verification.id, number, copies, run_id, now())
        for number in ledger.wrong_batches(verification.id):
            demand_time()
            sealed = _sealed_copies(reader, seals, ledger, verification, number)
            yield ledger.reopen(verification.id, number, sealed, run_id, now())
    finally:
        reader.close()
        seals.close()


def _copies(reader: PlanReader, ledger: Ledger, verification: Pass, number: int) -> dict[int, UnsealedCopy]:
    """What the plan says of all copies of a batch."""
    return {
        copy.ordinal: UnsealedCopy(planned.user_id, planned.size)
        for planned in reader.objects(ledger.batch(verification.plan_id, number).info)
        for copy in planned.copies
    }


def _sealed_copies(
    reader: PlanReader, seals: Seals, ledger: Ledger, verification: Pass, number: int
) -> dict[int, SealedCopy]:
    """What plan and seals say of the wrong copies of a batch."""
    wrong = set(ledger.wrong_copies(verification.id, number))
    receipts = seals.read_receipts(ledger.seals(verification.plan_id, number, SealKind.RECEIPTS), wrong)
    return {
        copy.ordinal: SealedCopy(receipts[copy.ordinal][0], planned.user_id, planned.size)
        for planned in reader.objects(ledger.batch(verification.plan_id, number).info)
        for copy in planned.copies
        if copy.ordinal in wrong
    }
