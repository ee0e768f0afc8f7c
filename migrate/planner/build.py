"""`migrate plan`: from a spec, a directory and inventories to a plan folder. The steps in their order; each is told elsewhere.

The same inputs give the same plan and the same digest, whatever the order of their rows, the number of threads, the machine or
its time zone; who is forgotten in the workspace is among them. A build that breaks off leaves no plan: the folder gets its name
last.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from migrate import __version__
from migrate.errors import IntegrityError, MigrateError, RefusedError
from migrate.inventory.aside import aside
from migrate.inventory.files import DirectoryFile, Progress, sync_folder
from migrate.inventory.forgotten import remembered
from migrate.inventory.live import forget_listing
from migrate.inventory.tables import writing
from migrate.inventory.take import live_folder
from migrate.layout import compile_rules
from migrate.model import Role
from migrate.pauses import PausePoint, pause_at
from migrate.planner import assemble, document
from migrate.planner.alone import BUILDING_PREFIX, SCRATCH_PREFIX, planning_alone
from migrate.planner.assign import cover_countries, make_batches, make_routes, may_collide, place_users, stand_in_bytes
from migrate.planner.census import count_users, judge_users, take_census
from migrate.planner.digest import plan_digest
from migrate.planner.folder import DOCUMENT, PLAN_FORMAT, PREFIX_DIGITS, Plan
from migrate.planner.inputs import Opens, PlanInputs, gather_directory, gather_inputs
from migrate.planner.line import Line, demand_newer, placed_bytes, take_settled
from migrate.planner.listing import list_findings
from migrate.planner.session import MEMORY_BYTES, THREADS, Session
from migrate.planner.summary import PlanSummary, summarise
from migrate.spec import Spec
from migrate.sql import literal
from migrate.stopping import Stopping, never
from migrate.stores.base import Capabilities
from migrate.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Limits:
    """What planning may use, and how many copies a file has. None of it changes what is planned, but for `file_copies`."""

    memory_bytes: int = MEMORY_BYTES
    threads: int = THREADS
    file_copies: int = assemble.FILE_COPIES


def build_plan(
    spec: Spec,
    workspace: Workspace,
    door: Opens,
    *,
    capabilities: Mapping[str, Capabilities],
    now: Callable[[], datetime],
    on_progress: Progress,
    is_stopping: Stopping = never,
    dry_run: bool = False,
    listed: str | None = None,
    list_anew: bool = False,
    line: Callable[[Path], Line] | None = None,
) -> Plan | PlanSummary:
    """Gather the inputs through the door, and plan; with `dry_run`, the plan's summary alone is kept, with the findings of the
    kind `listed`. With a `line`, which may put files into the folder that it is given, the plan is a delta of it.

    A live listing serves for one plan: one that was stopped, refused or a dry run leaves it to the next attempt, until it is too
    old. `list_anew` drops it first. Raises what `gather_inputs` and `make_plan` raise, InterruptedRun when stopped, LaterError
    while another planning runs.
    """
    with writing(), planning_alone(workspace), _scratch_of(workspace) as scratch:
        if list_anew:
            _forget_listings(spec, workspace)
        before = None if line is None else line(scratch)
        directory = gather_directory(spec, workspace, door, now=now, on_progress=on_progress, is_stopping=is_stopping)
        aside(lambda: _refuse_early(spec, workspace, directory, before), is_stopping)
        inputs = gather_inputs(
            spec,
            workspace,
            door,
            directory,
            capabilities=capabilities,
            now=now,
            on_progress=on_progress,
            is_stopping=is_stopping,
        )
        built = aside(
            lambda: make_plan(
                spec, workspace, inputs, now=now(), on_progress=on_progress, dry_run=dry_run, listed=listed, line=before
            ),
            is_stopping,
        )
        if not dry_run:
            _forget_listings(spec, workspace)
        return built


@contextmanager
def _scratch_of(workspace: Workspace) -> Iterator[Path]:
    """A folder for what is put aside until the end of the block. What a killed planning leaves, the next one clears."""
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=workspace.ensure(workspace.scratch)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _forget_listings(spec: Spec, workspace: Workspace) -> None:
    for name in spec.by_role(Role.SOURCE, Role.BACKUP):
        forget_listing(live_folder(workspace.scratch, name))


def _refuse_early(spec: Spec, workspace: Workspace, directory: DirectoryFile, line: Line | None) -> None:
    """RefusedError for what the directory alone shows, before any store is listed, which may take hours."""
    with _scratch_of(workspace) as scratch, Session(scratch) as session:
        take_settled(session, spec, line)
        judge_users(session, spec, directory)
        cover_countries(session, spec)


def make_plan(
    spec: Spec,
    workspace: Workspace,
    inputs: PlanInputs,
    *,
    now: datetime,
    on_progress: Progress,
    dry_run: bool = False,
    listed: str | None = None,
    line: Line | None = None,
    limits: Limits = Limits(),
) -> Plan | PlanSummary:
    """Plan, and keep the plan, or with `dry_run` only its summary, and in it the first findings of the kind `listed`. UsageError
    where it has none of that kind.

    RefusedError where policy or a collision forbids it, InputError where an inventory cannot be trusted, IntegrityError where a
    sum is off.
    """
    if line is not None:
        demand_newer(line, inputs)
    with _scratch_of(workspace) as scratch:
        home = scratch if dry_run else workspace.ensure(workspace.plans)
        building = Path(tempfile.mkdtemp(prefix=BUILDING_PREFIX, dir=home))
        try:
            with Session(scratch, memory_bytes=limits.memory_bytes, threads=limits.threads) as session:
                content = _steps(session, spec, workspace, inputs, building, on_progress, line, limits)
            content["built_at"] = now.isoformat()
            content["tool_version"] = __version__
            content["digest"] = plan_digest(content)
            if dry_run and listed is None:
                return summarise(content)
            assemble.write_document(building, content)
            name = content["digest"][:PREFIX_DIGITS]
            if dry_run and listed is not None:
                passing = Plan.open(building.rename(scratch / name))
                return replace(summarise(content), listed=tuple(list_findings(passing, listed)))
            return _publish(building, workspace.plans / name)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _steps(
    session: Session,
    spec: Spec,
    workspace: Workspace,
    inputs: PlanInputs,
    folder: Path,
    on_progress: Progress,
    line: Line | None,
    limits: Limits,
) -> dict[str, Any]:
    rules = compile_rules(spec.layout.rules)
    take_settled(session, spec, line)
    judge_users(session, spec, inputs.directory)
    cover_countries(session, spec)
    on_progress("users", inputs.directory.rows)
    census = take_census(session, spec, rules, inputs.inventories, line, remembered(workspace))
    users = count_users(session)
    on_progress("census", sum(store.listed for store in census.stores.values()))
    taken = stand_in_bytes(session, spec) if line is None else placed_bytes(session, spec)
    closings = place_users(session, spec, taken)
    on_progress("placement", users["planned"])
    big = make_batches(session, spec, file_copies=limits.file_copies)
    make_routes(session, spec, rules)
    if may_collide(spec, rules):
        _refuse_collisions(session, spec, workspace)
    session.query(
        "CREATE TEMP TABLE findings "
        "(kind VARCHAR, store VARCHAR, user_id VARCHAR, key VARCHAR, detail VARCHAR, count BIGINT)"
    )
    objects = assemble.write_objects(session, spec, rules, inputs.capabilities, big, folder, line, on_progress)
    document.gather_findings(session, spec, inputs.capabilities, inputs.inventories, census)
    files, digests = assemble.write_small_tables(session, folder)
    return {
        "format": PLAN_FORMAT,
        "name": spec.name,
        "parent": None if line is None else line.plans[-1].digest,
        "line_mark": None if line is None else line.mark,
        "spec": spec.model_dump(mode="json"),
        "capabilities": {
            name: asdict(inputs.capabilities[name]) for name in sorted(spec.stores) if name in inputs.capabilities
        },
        "inputs": document.inputs_of(inputs.directory, inputs.inventories),
        "skew_seconds": document.skew_of(spec, inputs.inventories),
        "census": document.census_of(census),
        "policies": document.policies_of(spec, rules, census),
        "reconciliation": census.reconciliation,
        "totals": document.totals_of(session, users),
        "placement": document.placement_of(closings),
        "forecast": document.forecast_of(session, spec),
        "cutover": document.cutover_of(session, spec, rules, is_delta=line is not None),
        "findings": document.findings_of(session),
        "blockers": assemble.blockers(session),
        "files": {"objects": objects, **files},
        "digests": digests,
    }


def _refuse_collisions(session: Session, spec: Spec, workspace: Workspace) -> None:
    session.run("collisions")
    count, stores = session.query(
        "SELECT count(*), list_sort(list(DISTINCT target_store)) "
        "FROM (SELECT DISTINCT target_store, target_key FROM collisions)"
    )[0]
    path = workspace.private / f"collisions-{spec.name}.csv"  # not scratch: it is to be read, and stays for that
    path.unlink(missing_ok=True)
    if count:
        session.query(f"COPY (FROM collisions ORDER BY ALL) TO {literal(str(path))} (FORMAT csv, HEADER)")
        path.chmod(0o600)
        raise RefusedError(
            f"{count} target keys would each be taken by several objects, at {', '.join(stores)}",
            remedy=f"They stand in {path}, a CSV of target stores and keys with the objects that would take each. "
            "Give the layout rules targets that keep them apart, or the source stores target stores of their own.",
        )


def _publish(building: Path, folder: Path) -> Plan:
    """Give the folder its name. The tables of the same plan, built before, stand: they do not change (design, invariant 6).

    Its `plan.json` gives way in one step to the new one, which differs in what is outside the digest alone: limits, references
    to secrets, when and from what it was built. What it says of the tables is under the digest, and so the same.
    """
    if folder.exists():
        try:
            Plan.open(folder)
        except MigrateError as error:  # what is broken is not made to look sound
            raise IntegrityError(
                f"{folder} was this plan, and is no longer: {error.what}",
                remedy="Move that folder away, and plan again. What relied on it is to be looked at: "
                "`migrate status` tells whether a run has begun.",
            ) from error
        (building / DOCUMENT).replace(folder / DOCUMENT)
        sync_folder(folder)
    else:
        assemble.make_durable(building)
        pause_at(PausePoint.PLAN_WRITTEN)
        building.rename(folder)
        pause_at(PausePoint.PLAN_NAMED)
        sync_folder(folder.parent)
    return Plan.open(folder)
