"""`migrate verify`: a pass over some waves at one level, what it found, and the repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from migrate.engines.assignment import Snapshot
from migrate.engines.local import EngineReport, Problem, run_assignments
from migrate.errors import ExitCode, InterruptedRun, LaterError, SealLostError
from migrate.inventory.tables import writing
from migrate.jobs.common import Actor, Limits, assignments, count, free_dead_leases, refuse_early
from migrate.jobs.elsewhere import demand_newest, is_begun
from migrate.jobs.extras import find_loose_extras, forget_listings, look_for_users_without_copies
from migrate.jobs.registered import check_sums, demand_not_begun, no_copy_yet, registered
from migrate.jobs.verify_end import VerifyEnd, end_of, nothing_to_check
from migrate.jobs.waves import waves_to_check
from migrate.ledger import (
    FULL_SAMPLE_PPM,
    SEAL_LOST,
    Ledger,
    Pass,
    PassProgress,
    PutBack,
    SealedCopy,
    SealKind,
    UnsealedCopy,
    WaveProgress,
)
from migrate.model import Level, Outcome, Purpose
from migrate.pauses import PausePoint, pause_at
from migrate.planner.folder import Plan, PlanReader
from migrate.stores.door import Door, Visitor
from migrate.units import number_of
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
class VerifyWatch:
    """What a verification tells of itself while it works, in this order.

    `on_pass`: the pass, what it has found so far, and the unfinished ones whose place it takes. `on_listing`, from any thread:
    what is listed beside the batches, and how much of it. `on_start`: the batches are begun. `on_progress`: where they are.
    """

    on_pass: Callable[[Pass, PassProgress, Sequence[Pass]], None]
    on_listing: Callable[[str, int], None]
    on_start: Callable[[Pass, PassProgress, Sequence[WaveProgress]], None]
    on_progress: Callable[[Snapshot], None]


def plan_id_of(plan: Plan, workspace: Workspace, ledger: Ledger) -> int:
    """The plan's id in the ledger. LaterError where nothing of it was run yet."""
    plan_id = registered(plan, ledger)
    if plan_id is None:
        demand_not_begun(plan, workspace)
        raise no_copy_yet(plan)
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
    demand_newest(plan, ledger)
    plan_id = plan_id_of(plan, workspace, ledger)
    refuse_early(plan, workspace, actor, request.limits, Purpose.VERIFY)
    with ledger.hold_plan(plan.digest, share=request.share, verb="verify"):
        demand_newest(plan, ledger)  # again, now that nobody can begin a delta
        ledger.check_counters(plan_id)
        progress = ledger.progress(plan_id, held_up=True)
        check_sums(progress, plan.document["totals"])
        if not is_begun(plan, workspace) and count(progress, Outcome.PENDING) == plan.document["totals"]["copies"]:
            raise no_copy_yet(plan)  # a check would make the folder by which the plan counts as begun
        ledger.check_chain(plan_id)
        free_dead_leases(ledger)
        level, sample = request.level or plan.spec.verify.level, request.sample_ppm
        different = ledger.different_waves(plan_id, lost_seals=True)
        waves = waves_to_check(request.waves, progress, different, ledger.open_passes(plan_id, level, sample, now()))
        if not waves:
            return nothing_to_check(plan, ledger, plan_id, progress, level, sample)
        taken = [wave for wave in progress if wave.wave in waves]
        are_all = len(taken) == sum(wave.wave is not None for wave in progress)
        verification, closed = ledger.start_pass(plan_id, level, sample, None if are_all else waves, run_id, now())
        for other in closed:
            forget_listings(plan, workspace, other)
        job = _Verification(plan, workspace, ledger, actor, request, verification, run_id, now, stop)
        watch.on_pass(verification, ledger.pass_progress(verification.id), closed)
        if verification.is_full:
            with writing():
                job.look_beside_batches(watch.on_listing)
        watch.on_start(verification, ledger.pass_progress(verification.id), taken)
        report = job.check(watch.on_progress)
        ledger.check_pass_counters(verification.id)  # the exit code is made of them
        ended = job.end()
        found = ledger.pass_progress(verification.id)  # before a repair makes checks of it anew
        repaired = job.put_back(report)
        return end_of(plan, ledger, ended, found, report, repaired)


@dataclass(frozen=True, slots=True)
class _Verification:
    """One pass, worked on by one command."""

    plan: Plan
    workspace: Workspace
    ledger: Ledger
    actor: Actor
    request: VerifyRequest
    verification: Pass
    run_id: int
    now: Callable[[], datetime]
    stop: Stop

    def look_beside_batches(self, on_listing: Callable[[str, int], None]) -> None:
        """Find EXTRA objects that no check of a batch can see."""
        visitor = Visitor(self.actor.operator, self.actor.host, self.actor.country, Purpose.VERIFY, self.plan.digest)
        door = Door(self.plan.spec, self.workspace, visitor, capabilities=self.plan.capabilities)
        deadline = self.request.limits.deadline

        def is_stopping() -> bool:
            return self.stop.is_set() or (deadline is not None and time.monotonic() >= deadline)

        try:
            find_loose_extras(
                self.plan,
                door.open,
                self.workspace,
                self.ledger,
                self.verification,
                run_id=self.run_id,
                now=self.now,
                is_stopping=is_stopping,
                on_listing=on_listing,
            )
            look_for_users_without_copies(
                self.plan,
                door.open,
                self.ledger,
                self.verification,
                run_id=self.run_id,
                now=self.now,
                is_stopping=is_stopping,
                on_listing=on_listing,
            )
        except InterruptedRun as error:
            if self.stop.is_set():
                raise
            raise LaterError(
                "time is up while the target stores were listed", remedy="`migrate verify` goes on with the listing."
            ) from error
        door.close()  # not where it was stopped: threads may be in a request

    def check(self, on_progress: Callable[[Snapshot], None]) -> EngineReport:
        """Check the batches, in as many processes as are asked for."""
        tasks = assignments(
            self.plan,
            self.workspace,
            self.ledger,
            self.actor,
            self.request.limits,
            Purpose.VERIFY,
            run_id=self.run_id,
            pass_id=self.verification.id,
            level=self.verification.level,
            sample_ppm=self.verification.sample_ppm,
        )
        return run_assignments(tasks, on_progress, self.stop)

    def end(self) -> Pass:
        """The pass, which ends here if all of it is done."""
        pause_at(PausePoint.PASS_ENDING)
        ended_at = self.now()
        try:
            if not self.ledger.end_pass(self.verification.id, ended_at):
                return self.verification
        except LaterError:  # another verification has taken the place of this one
            forget_listings(self.plan, self.workspace, self.verification)
            raise
        forget_listings(self.plan, self.workspace, self.verification)
        return self.verification._replace(ended_at=ended_at)

    def put_back(self, report: EngineReport) -> int:
        """Tell of receipts that are lost, and repair where it is asked for; how many copies are pending again."""
        lost = self.ledger.lost_batches(self.verification.id)
        if lost:
            report.problems.append(_seals_lost(self.ledger, self.verification, lost))
        repaired = left_alone = 0
        if self.request.repair:
            try:
                for put_back in self._repair(lost):
                    repaired += put_back.copies
                    left_alone += put_back.left_alone
            except (LaterError, SealLostError, InterruptedRun) as error:  # what was found is told all the same
                report.problems.append(Problem(error.what, error.remedy, error.exit_code))
        if left_alone:
            report.problems.append(_left_alone(left_alone))
        return repaired

    def _repair(self, lost: Sequence[int]) -> Iterator[PutBack]:
        """Put the copies back to pending that a pass found wrong, missing or without a receipt; how many, batch by batch.

        InterruptedRun when stopped between two batches.
        """
        verification, ledger = self.verification, self.ledger
        reader, seals = PlanReader(self.plan), Seals(self.workspace.seals, self.plan.digest)

        def demand_time() -> None:
            if self.stop.is_set():
                raise InterruptedRun("stopped while copies were put back", remedy="`migrate verify --repair` goes on.")

        try:
            for number in lost:
                demand_time()
                copies = _copies(reader, ledger, verification, number)
                yield ledger.reopen_lost(verification.id, number, copies, self.run_id, self.now())
            for number in ledger.wrong_batches(verification.id):
                demand_time()
                sealed = _sealed_copies(reader, seals, ledger, verification, number)
                yield PutBack(ledger.reopen(verification.id, number, sealed, self.run_id, self.now()), 0)
        finally:
            reader.close()
            seals.close()


def _seals_lost(ledger: Ledger, verification: Pass, lost: Sequence[int]) -> Problem:
    """Which sealed files are not what they must be: that is an integrity error, whatever else was found."""
    findings = ledger.findings(verification.plan_id, _SHOWN, pass_id=verification.id, kind=SEAL_LOST, answered=False)
    files = ", ".join(sorted({row.finding.key for row in findings if row.finding.key}))
    return Problem(
        f"the receipts of {number_of(len(lost), 'batch', 'batches')} are lost: sealed file {files} is missing or was changed",
        "Bring it back from a backup of .migrate/seals and verify again;"
        " or `migrate verify --repair`, and then `migrate run` makes new receipts.",
        ExitCode.INTEGRITY,
    )


def _left_alone(number: int) -> Problem:
    """A warning: nothing is made again of who lives elsewhere."""
    whose = "of users who were moved, went back or are forgotten"
    what = f"{number_of(number, 'copy', 'copies')} {whose} stay as they are: until the sealed file is back, no purge takes them"
    return Problem(what, "", ExitCode.DONE)


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
