"""`migrate verify`: a pass over some waves at one level, what it found, and the repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from migrate.engines.assignment import Snapshot
from migrate.engines.local import EngineReport, Problem, run_assignments
from migrate.errors import ExitCode, InterruptedRun, LaterError, SealLostError, worst
from migrate.jobs.common import (
    Actor,
    Limits,
    assignments,
    check_sums,
    codes_of,
    count,
    following_wave,
    free_dead_leases,
    parse_waves,
    refuse_early,
    registered,
    unfinished,
)
from migrate.jobs.extras import find_loose_extras, forget_listings
from migrate.ledger import (
    FULL_SAMPLE_PPM,
    SEAL_LOST,
    CheckState,
    Ledger,
    Pass,
    PassProgress,
    SealedCopy,
    SealKind,
    UnsealedCopy,
    WaveProgress,
)
from migrate.model import Level, Outcome, Purpose
from migrate.pauses import PausePoint, pause_at
from migrate.planner.folder import Plan, PlanReader
from migrate.stores.door import Door, Visitor
from migrate.worker.loop import Stop
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
class VerifyEnd:
    """How a verification ended. `repaired` copies are pending again."""

    exit_code: ExitCode
    verification: Pass
    found: PassProgress
    report: EngineReport
    progress: tuple[WaveProgress, ...]
    repaired: int
    next_step: str


def plan_id_of(plan: Plan, ledger: Ledger) -> int:
    """The plan's id in the ledger. LaterError where nothing of it was run yet."""
    plan_id = registered(plan, ledger)
    if plan_id is None:
        raise LaterError("nothing of this plan was copied yet", remedy=f"`migrate run {plan.digest[:12]}` comes first.")
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
    on_start: Callable[[Pass, PassProgress, Sequence[WaveProgress]], None],
    on_progress: Callable[[Snapshot], None],
) -> VerifyEnd:
    """Check what was copied; goes on with an unfinished pass of the same waves, level and sample."""
    ledger.heed(stop.ledger_ends_at)
    plan_id = plan_id_of(plan, ledger)
    refuse_early(plan, workspace, actor, Purpose.VERIFY)
    with ledger.hold_plan(plan.digest, share=request.share):
        progress = ledger.progress(plan_id)
        check_sums(progress, plan.document["totals"])
        ledger.check_chain(plan_id)
        free_dead_leases(ledger)
        waves = _waves(request, progress)
        level = request.level or plan.spec.verify.level
        verification = ledger.start_pass(plan_id, level, request.sample_ppm, waves, run_id, now())
        taken = [wave for wave in progress if waves is None or wave.wave in waves]
        on_start(verification, ledger.pass_progress(verification.id), taken)
        if request.sample_ppm == FULL_SAMPLE_PPM:
            visitor = Visitor(actor.operator, actor.host, actor.country, Purpose.VERIFY, plan.digest)
            door = Door(plan.spec, workspace, visitor, capabilities=plan.capabilities)
            _look_through_stores(plan, door, workspace, ledger, verification, request, run_id, now, stop)
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
        report = run_assignments(tasks, on_progress, stop)
        pause_at(PausePoint.PASS_ENDING)
        ended = ledger.end_pass(verification.id, now())
        if ended:
            forget_listings(plan, workspace, verification)
        lost = ledger.lost_batches(verification.id)
        if lost:
            report.problems.append(_seals_lost(ledger, verification, lost))
        repaired = 0
        if request.repair and not stop.is_set():
            try:
                repaired = _repair(plan, workspace, ledger, verification, lost, run_id, now)
            except (LaterError, SealLostError) as error:  # what was found is told all the same
                report.problems.append(Problem(error.what, error.remedy, error.exit_code))
        return _end(plan, plan_id, ledger, verification, report, repaired, ended=ended)


def _waves(request: VerifyRequest, progress: Sequence[WaveProgress]) -> tuple[int, ...] | None:
    """The waves named, else those of which everything has an outcome; None for all of them."""
    known = [wave.wave for wave in progress if wave.wave is not None]
    named = parse_waves(request.waves, known)
    if named is not None:
        return named
    done = [wave.wave for wave in progress if wave.wave is not None and not unfinished([wave])]
    if not done:
        raise LaterError(
            "no wave is copied to its end yet",
            remedy="`migrate run` goes on; or name a wave to check what there is of it.",
        )
    return None if len(done) == len(known) else tuple(done)


def _look_through_stores(
    plan: Plan,
    door: Door,
    workspace: Workspace,
    ledger: Ledger,
    verification: Pass,
    request: VerifyRequest,
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
) -> None:
    deadline = request.limits.deadline

    def is_stopping() -> bool:
        return stop.is_set() or (deadline is not None and time.monotonic() >= deadline)

    try:
        find_loose_extras(
            plan, door.open, workspace, ledger, verification, run_id=run_id, now=now, is_stopping=is_stopping
        )
    except InterruptedRun as error:
        if stop.is_set():
            raise
        raise LaterError(
            "time is up while the target stores were listed", remedy="`migrate verify` goes on with the listing."
        ) from error


def _seals_lost(ledger: Ledger, verification: Pass, lost: Sequence[int]) -> Problem:
    """Which sealed files are not what they must be: that is an integrity error, whatever else was found."""
    findings = ledger.findings(verification.plan_id, _SHOWN, pass_id=verification.id, kind=SEAL_LOST)
    files = ", ".join(sorted({row.finding.key for row in findings if row.finding.key}))
    return Problem(
        f"the receipts of {len(lost)} batches are lost: sealed file {files} is missing or was changed",
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
) -> int:
    """Put the copies back to pending that a pass found wrong, missing or without a receipt, batch by batch; how many."""
    reader, seals = PlanReader(plan), Seals(workspace.seals, plan.digest)
    try:
        anew = sum(
            ledger.reopen_lost(verification.id, number, _copies(reader, ledger, verification, number), run_id, now())
            for number in lost
        )
        return anew + sum(
            ledger.reopen(
                verification.id, number, _sealed_copies(reader, seals, ledger, verification, number), run_id, now()
            )
            for number in ledger.wrong_batches(verification.id)
        )
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


def _end(
    plan: Plan,
    plan_id: int,
    ledger: Ledger,
    verification: Pass,
    report: EngineReport,
    repaired: int,
    *,
    ended: bool,
) -> VerifyEnd:
    progress = tuple(ledger.progress(plan_id))
    check_sums(progress, plan.document["totals"])
    found = ledger.pass_progress(verification.id)
    counts = found.counts
    codes = codes_of(report)
    if counts.mismatch or counts.missing or counts.extra:
        codes.append(ExitCode.DIFFERENT)
    if counts.unknown or (not ended and not codes):
        codes.append(ExitCode.LATER)
    taken = [
        wave
        for wave in progress
        if wave.wave is not None and (verification.waves is None or wave.wave in verification.waves)
    ]
    if count(taken, Outcome.QUARANTINED) or count(taken, Outcome.DRIFTED):
        codes.append(ExitCode.INCOMPLETE)
    step = _next_step(plan, report, found, progress, repaired, ended=ended)
    return VerifyEnd(worst(codes), verification, found, report, progress, repaired, step)


def _next_step(
    plan: Plan,
    report: EngineReport,
    found: PassProgress,
    progress: Sequence[WaveProgress],
    repaired: int,
    *,
    ended: bool,
) -> str:
    name = plan.digest[:12]
    if repaired:
        return f"`migrate run {name} --wave all` makes the {repaired} copies again, then verify again."
    if (stopped := report.first_problem) is not None:
        return stopped.remedy or f"`migrate verify {name}` goes on."
    if found.counts.mismatch or found.counts.missing:
        return f"`migrate status {name} --failures` lists them; `migrate verify {name} --repair` puts them back to pending."
    if found.counts.extra:
        return f"`migrate status {name} --failures` lists the EXTRA objects: find out who wrote them."
    if not ended:
        waiting = found.checks.get(CheckState.PENDING, 0)
        return (
            f"{waiting} batches wait: `migrate run {name}` for those not copied, then `migrate verify {name}` goes on."
        )
    if found.counts.unknown:
        return f"`migrate status {name} --failures` says why some could not be checked; `migrate verify {name}` asks again."
    if unfinished(progress):
        return following_wave(name, progress)
    return "Everything that was checked is as it should be."
