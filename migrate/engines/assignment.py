"""What one worker process is told to do, and how it puts its parts together. Plain data, so that it crosses a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from migrate.errors import IntegrityError, UsageError
from migrate.layout import compile_rules
from migrate.ledger import LEASE_SECONDS, Lease, LeaseWatch, Ledger, ProcessIdentity
from migrate.model import Level, Purpose, Role
from migrate.planner.folder import Plan, PlanReader
from migrate.privacy import pseudonyms_of
from migrate.stores.door import Door, Visitor
from migrate.transfer.caller import Caller
from migrate.transfer.limits import RateLimit
from migrate.worker.checking import CheckTools, CheckWork
from migrate.worker.copying import CopyTools, CopyWork
from migrate.worker.kept import KeptObjects
from migrate.worker.loop import Stop, Worker, WorkerLimits, WorkerReport
from migrate.worker.seals import Seals
from migrate.worker.work import Tally, Work
from migrate.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Assignment:
    """One worker's part of a run. Limits are this worker's share.

    `deadline` is in `time.monotonic` seconds, which the processes of a machine share.
    """

    workspace: str
    ledger: str
    plan_folder: str
    plan_digest: str
    purpose: str
    run_id: int
    operator: str
    host: str
    country: str | None
    processes: int
    threads: int
    bytes_in_flight: int
    waves: tuple[int, ...] | None = None
    pass_id: int | None = None
    level: str | None = None
    sample_ppm: int | None = None
    deadline: float | None = None
    limit_bytes: int | None = None
    max_failures: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Assignment:
        waves = data.pop("waves")
        return Assignment(**data, waves=None if waves is None else tuple(waves))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a worker is: what it did by wave, how often it tried again, how many requests each store is given at once.

    `is_idle`: it has nothing to do, and waits for what others hold; `waits_for`: how many batches of these other runs hold, by
    their host.
    """

    waves: Mapping[int, Tally]
    retries: int
    levels: Mapping[str, int]
    is_idle: bool = False
    waits_for: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "waves": waves_to_json(self.waves),
            "retries": self.retries,
            "levels": dict(self.levels),
            "is_idle": self.is_idle,
            "waits_for": dict(self.waits_for),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Snapshot:
        return Snapshot(
            waves_from_json(data["waves"]), data["retries"], data["levels"], data["is_idle"], data["waits_for"]
        )


def waves_to_json(waves: Mapping[int, Tally]) -> dict[str, Any]:
    return {str(wave): asdict(tally) for wave, tally in waves.items()}


def waves_from_json(data: Mapping[str, Any]) -> dict[int, Tally]:
    return {int(wave): Tally(**tally) for wave, tally in data.items()}


def add_waves(total: dict[int, Tally], more: Mapping[int, Tally]) -> None:
    """Add what one worker did to what all did."""
    for wave, tally in more.items():
        total.setdefault(wave, Tally()).add(tally)


def utc_now() -> datetime:
    return datetime.now(UTC)


def work_on(
    assignment: Assignment, stop: Stop, on_progress: Callable[[Snapshot], None], rate: RateLimit
) -> WorkerReport:
    """Do an assignment in this thread, which must be the main one for signals to be heard.

    `rate` bounds what is read; whoever started several workers may change it while they work.
    """
    workspace = Workspace(Path(assignment.workspace))
    plan = Plan.open(Path(assignment.plan_folder))
    if plan.digest != assignment.plan_digest:
        raise IntegrityError("the plan is not the one that this run began with", remedy="Run `migrate run` again.")
    ledger = Ledger.open(assignment.ledger)
    ledger.heed(stop.ledger_ends_at)
    purpose = Purpose(assignment.purpose)
    visitor = Visitor(assignment.operator, assignment.host, assignment.country, purpose, plan.digest)
    door = Door(plan.spec, workspace, visitor, capabilities=plan.capabilities)
    shares = {name: store.concurrency_max // assignment.processes for name, store in plan.spec.stores.items()}
    caller = Caller(door.open, concurrency=shares.__getitem__, rate=rate)
    plan_id = ledger.plan_id(plan.digest)
    if plan_id is None:
        raise IntegrityError("the plan is not registered in this ledger", remedy="Run `migrate run` again.")
    reader, seals = PlanReader(plan), Seals(workspace.seals, plan.digest)
    identity = ProcessIdentity.current()
    worker_id = ledger.start_worker(assignment.run_id, identity, utc_now())
    worker = Worker(
        ledger,
        worker_id,
        _leaser(assignment, plan, plan_id, ledger, worker_id, caller, reader, seals),
        lambda: ledger.left(
            plan_id, purpose, run_id=assignment.run_id, waves=assignment.waves, pass_id=assignment.pass_id
        ),
        run_id=assignment.run_id,
        watch=LeaseWatch(identity, LEASE_SECONDS, clock=time.monotonic),
        limits=WorkerLimits(
            threads=min(assignment.threads, max(shares.values())),  # more would only wait for each other at the stores
            bytes_in_flight=assignment.bytes_in_flight,
            deadline=assignment.deadline,
            max_failures=assignment.max_failures,
        ),
        stop=stop,
        on_progress=lambda waves, left: on_progress(
            Snapshot(waves, caller.retries, caller.levels(), left is not None, {} if left is None else left.held)
        ),
    )
    report = worker.run()
    if report.is_idle:  # otherwise a silent server holds some of its threads, and the process ends next
        for opened in (door, reader, seals, ledger):
            opened.close()
    return report


def _leaser(
    assignment: Assignment,
    plan: Plan,
    plan_id: int,
    ledger: Ledger,
    worker_id: int,
    caller: Caller,
    reader: PlanReader,
    seals: Seals,
) -> Callable[[], Work | None]:
    purpose = Purpose(assignment.purpose)

    def lease() -> Lease | None:
        return ledger.lease(plan_id, worker_id, purpose, waves=assignment.waves, pass_id=assignment.pass_id)

    if purpose is Purpose.COPY:
        pseudonyms = pseudonyms_of(plan.spec.privacy.pseudonym_key, os.environ, Path(assignment.workspace))
        log = structlog.get_logger()
        copy_tools = CopyTools(ledger, caller, seals, plan.spec.copying, assignment.run_id, utc_now, pseudonyms, log)

        def next_copy() -> Work | None:
            found = lease()
            return None if found is None else CopyWork(found, reader.objects(found.batch), copy_tools)

        return next_copy

    if assignment.pass_id is None or assignment.level is None or assignment.sample_ppm is None:
        raise UsageError("a verifying worker is told its pass, level and sample")
    targets = plan.spec.by_role(Role.TARGET)
    check_tools = CheckTools(
        ledger,
        caller,
        seals,
        compile_rules(plan.spec.layout.rules),
        {store: [other for other in targets if targets[other].site == targets[store].site] for store in targets},
        assignment.pass_id,
        Level(assignment.level),
        assignment.sample_ppm,
        KeptObjects(plan, ledger).of,
        assignment.run_id,
        utc_now,
    )

    def next_check() -> Work | None:
        found = lease()
        return None if found is None else CheckWork(found, reader.objects(found.batch), check_tools)

    return next_check
