"""`migrate cutover [PLAN] --wave W`: users of a wave get their new home."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from migrate.cli.context import Context, JsonOption, PlanArgument, context_of
from migrate.cli.logs import start_logs
from migrate.cli.records import existing_ledger, recorded_run
from migrate.cli.wave_users import at_work, exit_with, tell_errors, tell_users
from migrate.cli.working import ForOption, UntilOption, limits_of
from migrate.jobs.cutover import CutoverEnd, CutoverRequest, cut_over
from migrate.jobs.registered import no_copy_yet
from migrate.ledger import Ledger
from migrate.planner.folder import Plan, find_plan
from migrate.report.standing import wave_words
from migrate.units import number_of


def cutover(
    typer_context: typer.Context,
    plan: PlanArgument = None,
    wave: Annotated[str, typer.Option(metavar="W", help="Waves: 2, 0-3, 1,4 or all.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do every check for real, and change nothing.")] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Halt when so many users failed. Default: the spec's.")
    ] = None,
    lasting: ForOption = None,
    until: UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move the verified users of a wave to their new home: freeze, last delta, flip, read back, unfreeze, one user after another
    and several at once. Who is not ready stays, with what is missing; exit 4."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    found = find_plan(context.workspace, plan)
    limits = limits_of(context, found, workers=None, lasting=lasting, until=until)
    request = CutoverRequest(wave, dry_run, max_failures)
    if dry_run:
        with existing_ledger(context) as ledger:
            if ledger is None:
                raise no_copy_yet(found)
            _finish(context, found, None, _work(context, found, ledger, 0, limits.deadline, request))
        return
    arguments = {"wave": wave, "max_failures": max_failures, "for": lasting, "until": until}
    country = context.country(found.spec)
    with recorded_run(context, "cutover", arguments, plan=found.digest, country=country) as recorded:
        end = _work(context, found, recorded.ledger, recorded.run_id, limits.deadline, request)
        _finish(context, found, recorded.run_id, end)


def _work(
    context: Context, plan: Plan, ledger: Ledger, run_id: int, deadline: float | None, request: CutoverRequest
) -> CutoverEnd:
    with at_work(context, plan, ledger, run_id, deadline, "cutting over") as (setting, tell):
        return cut_over(setting, request, on_progress=lambda end: tell(end.done))


def _finish(context: Context, plan: Plan, run_id: int | None, end: CutoverEnd) -> None:
    _tell(context, plan, run_id, end)
    exit_with(end.exit_code)


def _tell(context: Context, plan: Plan, run_id: int | None, end: CutoverEnd) -> None:
    output = context.output
    tell_errors(output, end)
    if output.as_json:
        output.document(_document(plan, run_id, end))
        return
    run = "dry run" if run_id is None else f"run {run_id}"
    output.line(f"plan {plan.digest[:12]} ({plan.name}), {run}: cutover of {wave_words(end.waves)}")
    numbers = {
        "could move" if end.dry_run else "moved": end.ready if end.dry_run else end.moved,
        "moved before": end.away,
        "not ready": end.unready,
        "failed": end.failed,
        "left": end.left,
    }
    tell_users(output, end, numbers, "what is missing, or failed", held_up=end.unready + end.failed)
    if end.settled:
        output.line(f"{number_of(end.settled, 'user')} had moved in a cutover that broke off, and are observed now")
    if end.open:
        output.line(
            f"{number_of(end.open, 'user')}: the platform did not say where they live; the next cutover asks it"
        )
    if end.late:
        output.line(f"the last deltas had {number_of(end.late, 'object')}")
    if end.dry_run:
        output.line(f"listing one user's sources took {end.listing_seconds_max:.2f} s at most")
    if end.frozen is not None:
        times = end.frozen
        output.line(
            f"frozen, of {number_of(times.users, 'user')} of this plan: p50 {times.p50_ms:,} ms, "
            f"p99 {times.p99_ms:,} ms, max {times.max_ms:,} ms"
        )
    output.line(f"next: {end.next_step}")


def _document(plan: Plan, run_id: int | None, end: CutoverEnd) -> dict[str, Any]:
    return {
        "plan": plan.digest,
        "run": run_id,
        "dry_run": end.dry_run,
        "exit_code": int(end.exit_code),
        "waves": list(end.waves),
        "users": {
            "moved": end.moved,
            "ready": end.ready,
            "moved_before": end.away,
            "not_ready": end.unready,
            "failed": end.failed,
            "open": end.open,
            "settled": end.settled,
            "left": end.left,
        },
        "missing": dict(sorted(end.missing.items())),
        "who": [{"user": user, "why": why} for user, why in end.shown],
        "halted": end.halted,
        "late_objects": end.late,
        "listing_seconds_max": round(end.listing_seconds_max, 3),
        "frozen": None if end.frozen is None else end.frozen._asdict(),
        "next_step": end.next_step,
    }
