"""`migrate run`: copy what a plan says."""

from __future__ import annotations

from typing import Annotated

import typer

from migrate.cli.context import Context, JsonOption, PlanArgument, context_of
from migrate.cli.logs import start_logs
from migrate.cli.output import Output
from migrate.cli.records import existing_ledger, recorded_run
from migrate.cli.standing import show_standing
from migrate.cli.working import (
    ForOption,
    ShareOption,
    UntilOption,
    WorkersOption,
    actor_of,
    at_work,
    limits_of,
    tell_problems,
)
from migrate.errors import ExitCode, RefusedError, worst
from migrate.jobs.common import refuse_early
from migrate.jobs.copying import RunEnd, RunForecast, RunRequest, forecast_run, run_plan
from migrate.jobs.elsewhere import demand_newest, taken_elsewhere
from migrate.jobs.registered import demand_not_begun
from migrate.ledger import Ledger
from migrate.model import Purpose
from migrate.planner.folder import Plan, find_plan
from migrate.planner.summary import how, ways_on
from migrate.report.goals import goals
from migrate.report.standing import run_document, wave_words
from migrate.units import format_duration, format_size, number_of


def run(
    typer_context: typer.Context,
    plan: PlanArgument = None,
    wave: Annotated[
        str | None, typer.Option(metavar="W", help="Waves: 2, 0-3, 1,4 or all. Default: the next one that may start.")
    ] = None,
    workers: WorkersOption = None,
    lasting: ForOption = None,
    until: UntilOption = None,
    max_failures: Annotated[
        int | None, typer.Option(min=1, help="Stop when so many copies were quarantined in this run.")
    ] = None,
    limit_bytes: Annotated[
        str | None, typer.Option(metavar="200MB/s", help="Bytes a second read from the sources, over all processes.")
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:COUNT:DIGEST", help="Accept just these blockers, as `migrate show` names them."),
    ] = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="First put quarantined copies back to pending.")
    ] = False,
    share: ShareOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy users' objects to their new homes, batch by batch. Stop it at any moment; the next run goes on."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    found = find_plan(context.workspace, plan)
    limits = limits_of(
        context,
        found,
        workers=workers,
        lasting=lasting,
        until=until,
        limit_bytes=limit_bytes,
        max_failures=max_failures,
    )
    request = RunRequest(wave, limits, tuple(accept or ()), share, retry_quarantined)
    if dry_run:
        raise typer.Exit(_forecast(context, found, request))
    arguments = {
        "wave": wave,
        "workers": workers,
        "for": lasting,
        "until": until,
        "max_failures": max_failures,
        "limit_bytes": limit_bytes,
        "accept": list(request.accept),
        "retry_quarantined": retry_quarantined,
        "share": share,
    }
    country = context.country(found.spec)
    with recorded_run(context, "run", arguments, plan=found.digest, country=country) as recorded:
        end = _work(context, found, recorded.ledger, recorded.run_id, request)
        _tell(context, found, recorded.run_id, end)
        if end.exit_code is not ExitCode.DONE:
            raise typer.Exit(end.exit_code)


def _work(context: Context, plan: Plan, ledger: Ledger, run_id: int, request: RunRequest) -> RunEnd:
    workers = request.limits.workers or plan.spec.run.workers
    with at_work(context) as (stop, watch):
        return run_plan(
            plan,
            context.workspace,
            ledger,
            actor_of(context, plan),
            request,
            run_id=run_id,
            now=context.now,
            stop=stop,
            on_start=lambda waves, progress: watch.begin("copying", goals(progress, waves), workers),
            on_registering=watch.registering,
            on_progress=watch,
            on_standing=lambda waves, progress: watch.update(goals(progress, waves)),
        )


def _tell(context: Context, plan: Plan, run_id: int, end: RunEnd) -> None:
    output = context.output
    tell_problems(output, end.report.problems)
    if output.as_json:
        output.document(run_document(plan.digest, run_id, end))
        return
    copies = sum(tally.copies for tally in end.report.waves.values())
    size_bytes = sum(tally.size_bytes for tally in end.report.waves.values())
    output.line(
        f"plan {plan.digest[:12]} ({plan.name}), run {run_id}: {number_of(copies, 'copy', 'copies')} settled,"
        f" {format_size(size_bytes)}"
    )
    show_standing(output, end.progress)
    output.line(f"next: {end.next_step}")


def _forecast(context: Context, plan: Plan, request: RunRequest) -> ExitCode:
    """Say what a run would do, and end as it would: refused, waiting, or with work to do. Nothing is made or changed."""
    refuse_early(plan, context.workspace, actor_of(context, plan), request.limits, Purpose.PLAN)
    with existing_ledger(context) as ledger:
        if ledger is None or ledger.plan_id(plan.digest) is None:
            demand_not_begun(plan, context.workspace)
        if ledger is not None:
            demand_newest(plan, ledger)
        forecast = forecast_run(plan, ledger, request)
        taken = taken_elsewhere(plan, context.workspace, ledger)
    code = worst([forecast.exit_code, ExitCode.DONE if taken is None else ExitCode.REFUSED])
    if context.as_json:
        document = _forecast_document(forecast) | {"taken_elsewhere": None if taken is None else taken.what}
        context.output.document({"plan": plan.digest, "dry_run": True, "exit_code": int(code), **document})
    else:
        _tell_forecast(context.output, plan, request, forecast, taken)
        context.output.note(f"nothing was changed; a run would end with {code}", style="dim")
    return code


def _tell_forecast(
    output: Output, plan: Plan, request: RunRequest, forecast: RunForecast, taken: RefusedError | None
) -> None:
    what = f"a run would take {wave_words(forecast.waves)}" if forecast.waves else "a run would take no wave"
    output.line(f"plan {plan.digest[:12]} ({plan.name}): {what}", style="bold")
    output.line(
        f"  {number_of(forecast.users, 'user')}, {number_of(forecast.copies, 'copy', 'copies')},"
        f" {format_size(forecast.size_bytes)} to write"
    )
    output.line(
        f"  about {number_of(forecast.requests, 'request')}, {format_duration(forecast.seconds)} with one worker"
    )
    if forecast.blockers:
        named = ", ".join(f"{blocker.count:,} {blocker.kind}" for blocker in forecast.blockers)
        output.line(f"  blocked by {named}; {how(forecast.blockers)}:", style="yellow")
        for command in ways_on(plan.digest, forecast.blockers, given=request.accept):
            output.command(command)
    if forecast.waits_for:
        output.line(f"  {forecast.waits_for}", style="yellow")
    if taken is not None:
        output.line(f"  {taken.what}", style="yellow")
        output.line(f"next: {taken.remedy}")


def _forecast_document(forecast: RunForecast) -> dict[str, object]:
    return {
        "waves": list(forecast.waves),
        "users": forecast.users,
        "copies": forecast.copies,
        "size_bytes": forecast.size_bytes,
        "requests": forecast.requests,
        "seconds": forecast.seconds,
        "blockers": [
            {"kind": blocker.kind, "count": blocker.count, "digest": blocker.digest} for blocker in forecast.blockers
        ],
        "waits_for": forecast.waits_for,
    }
