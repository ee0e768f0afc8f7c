"""`migrate verify`: read the targets again and compare."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated

import typer

from migrate.cli.context import Context, JsonOption, PlanArgument, context_of
from migrate.cli.logs import start_logs
from migrate.cli.output import Column
from migrate.cli.plan_progress import PlanProgress
from migrate.cli.records import recorded_run
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
from migrate.errors import ExitCode, UsageError
from migrate.jobs.checking import VerifyRequest, VerifyWatch, verify_plan
from migrate.jobs.verify_end import VerifyEnd
from migrate.ledger import FULL_SAMPLE_PPM, CheckState, Ledger, Pass, PassProgress, WaveProgress
from migrate.model import Level
from migrate.planner.folder import Plan, find_plan
from migrate.report.goals import check_goals
from migrate.report.standing import verify_document, wave_words
from migrate.spec import spec_time
from migrate.units import parse_percent


def verify(
    typer_context: typer.Context,
    plan: PlanArgument = None,
    wave: Annotated[
        str | None,
        typer.Option(metavar="W", help="Waves: 2, 0-3, 1,4 or all. Default: the copied ones that are not verified."),
    ] = None,
    level: Annotated[Level | None, typer.Option(help="How deep to look. Default: the spec's.")] = None,
    sample: Annotated[str | None, typer.Option(metavar="5%", help="Check a share only; moves no user's state.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put MISMATCH and MISSING copies back to pending.")] = False,
    workers: WorkersOption = None,
    lasting: ForOption = None,
    until: UntilOption = None,
    share: ShareOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check copies against their receipts, or against both ends. Resumes where it was stopped; exit 3 for a difference."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    found = find_plan(context.workspace, plan)
    limits = limits_of(context, found, workers=workers, lasting=lasting, until=until)
    request = VerifyRequest(wave, level, _sample(sample), repair, share, limits)
    arguments = {
        "wave": wave,
        "level": None if level is None else level.value,
        "sample": sample,
        "repair": repair,
        "workers": workers,
        "for": lasting,
        "until": until,
        "share": share,
    }
    country = context.country(found.spec)
    with recorded_run(context, "verify", arguments, plan=found.digest, country=country) as recorded:
        end = _work(context, found, recorded.ledger, recorded.run_id, request)
        _tell(context, found, recorded.run_id, end)
        if end.exit_code is not ExitCode.DONE:
            raise typer.Exit(end.exit_code)


def _sample(text: str | None) -> int:
    if text is None:
        return FULL_SAMPLE_PPM
    try:
        share = parse_percent(text)
    except ValueError as error:
        raise UsageError(f"--sample: {error}") from error
    if not 0 < share <= FULL_SAMPLE_PPM:
        raise UsageError("--sample is more than 0% and at most 100%")
    return share


def _work(context: Context, plan: Plan, ledger: Ledger, run_id: int, request: VerifyRequest) -> VerifyEnd:
    workers = request.limits.workers or plan.spec.run.workers
    with at_work(context) as (stop, watch), ExitStack() as listing:
        steps = PlanProgress(context.output, "listing")

        def on_pass(verification: Pass, found: PassProgress, closed: Sequence[Pass]) -> None:
            for other in closed:
                began = spec_time(other.started_at, plan.spec)
                context.output.note(
                    f"the unfinished verification ({other.level.value}) begun at {began} is closed:"
                    " this one takes its place",
                    style="dim",
                )
            if found.checks.get(CheckState.DONE):
                began = spec_time(verification.started_at, plan.spec)
                context.output.note(f"goes on with the verification begun at {began}", style="dim")
            listing.enter_context(steps)

        def on_start(verification: Pass, found: PassProgress, waves: Sequence[WaveProgress]) -> None:
            listing.close()
            watch.begin(f"verifying ({verification.level.value})", check_goals(waves, found.counts.checked), workers)

        return verify_plan(
            plan,
            context.workspace,
            ledger,
            actor_of(context, plan),
            request,
            run_id=run_id,
            now=context.now,
            stop=stop,
            watch=VerifyWatch(on_pass, steps.step, on_start, watch),
        )


def _tell(context: Context, plan: Plan, run_id: int, end: VerifyEnd) -> None:
    output = context.output
    tell_problems(output, end.report.problems)
    if output.as_json:
        output.document(verify_document(plan.digest, run_id, end))
        return
    counts, verification = end.found.counts, end.verification
    if verification is None:
        output.line(f"plan {plan.digest[:12]} ({plan.name}), run {run_id}: nothing to verify")
        show_standing(output, end.progress)
        output.line(f"next: {end.next_step}")
        return
    waves = "all waves" if verification.waves is None else wave_words(verification.waves)
    part = "" if verification.sample_ppm >= FULL_SAMPLE_PPM else f", a sample of {verification.sample_ppm / 10_000:g} %"
    output.line(f"plan {plan.digest[:12]} ({plan.name}), run {run_id}: {waves}, level {verification.level.value}{part}")
    titles = ("MATCH", "MISMATCH", "MISSING", "UNKNOWN", "EXTRA")
    numbers = (counts.match, counts.mismatch, counts.missing, counts.unknown, counts.extra)
    output.table([Column(title, number=True) for title in titles], [[f"{number:,}" for number in numbers]])
    show_standing(output, end.progress)
    output.line(f"next: {end.next_step}")
