"""`migrate purge [PLAN] --wave W`: the sources of users who were moved are emptied of them, once somebody confirms what goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from migrate.cli.context import Context, JsonOption, PlanArgument, context_of
from migrate.cli.logs import start_logs
from migrate.cli.output import Column
from migrate.cli.records import existing_ledger, recorded_run
from migrate.cli.wave_users import at_work, exit_with, tell_errors, tell_users
from migrate.cli.working import ForOption, UntilOption, limits_of
from migrate.errors import ExitCode, UsageError, worst
from migrate.jobs.purge_plan import CONFIRMED_DIGITS, Kind, PurgePlan
from migrate.jobs.purging import PurgeEnd, PurgeRequest, Purging, carry_out, plan_purge
from migrate.jobs.registered import no_copy_yet
from migrate.ledger import Ledger
from migrate.planner.folder import Plan, find_plan
from migrate.report.standing import wave_words
from migrate.units import format_size, number_of


def purge(
    typer_context: typer.Context,
    plan: PlanArgument = None,
    wave: Annotated[str, typer.Option(metavar="W", help="Waves: 2, 0-3, 1,4 or all.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make the purge plan by every check for real, and delete nothing.")
    ] = False,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Carry out the purge plan whose digest begins so (12 digits or more)."),
    ] = None,
    trust_home: Annotated[
        bool,
        typer.Option(
            "--trust-home",
            help="Whatever home and backup do not have was deleted there by the user, though nothing else shows it: it goes at "
            "the sources too. Not where they may have lost something.",
        ),
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Halt when so many users failed. Default: the spec's.")
    ] = None,
    lasting: ForOption = None,
    until: UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete at the sources what is left there of users of a wave who were moved: past their window, found whole again at home
    and backup, with no hold. What goes is a plan of its own, and its digest is confirmed: typed, or by --confirm."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    if dry_run and confirm is not None:
        raise UsageError("--dry-run deletes nothing, so there is nothing to --confirm", remedy="Give one of them.")
    if trust_home and confirm is not None:
        raise UsageError(
            "of whom the home is trusted stands in the purge plan that is confirmed",
            remedy="Give --trust-home to the command that makes it.",
        )
    found = find_plan(context.workspace, plan)
    limits = limits_of(context, found, workers=None, lasting=lasting, until=until)
    request = PurgeRequest(wave, max_failures, trust_home)
    planned: PurgeEnd | None = None
    if confirm is None:
        planned = _plan(context, found, limits.deadline, request)
        _tell_plan(context, found, planned, is_dry_run=dry_run)
        if dry_run or planned.plan is None:
            exit_with(planned.exit_code)
            return
        if not _is_typed(context, planned.plan):
            context.output.note("nothing was deleted")
            exit_with(worst([planned.exit_code, ExitCode.LATER]))
        confirm = planned.plan.digest
    arguments = {"wave": wave, "confirm": confirm, "trust_home": trust_home, "max_failures": max_failures}
    arguments |= {"for": lasting, "until": until}
    country = context.country(found.spec)
    with recorded_run(context, "purge", arguments, plan=found.digest, country=country) as recorded:
        with _purging(context, found, recorded.ledger, recorded.run_id, limits.deadline, request, "purging") as purging:
            end = carry_out(purging, confirm)
        _tell_purge(context, found, recorded.run_id, end)
        # who was not ready for the purge plan is not in it
        exit_with(worst([end.exit_code, *([] if planned is None else [planned.exit_code])]))


def _plan(context: Context, plan: Plan, deadline: float | None, request: PurgeRequest) -> PurgeEnd:
    with existing_ledger(context) as ledger:
        if ledger is None:
            raise no_copy_yet(plan)
        with _purging(context, plan, ledger, 0, deadline, request, "looking") as purging:
            return plan_purge(purging)


@contextmanager
def _purging(
    context: Context,
    plan: Plan,
    ledger: Ledger,
    run_id: int,
    deadline: float | None,
    request: PurgeRequest,
    doing: str,
) -> Iterator[Purging]:
    with at_work(context, plan, ledger, run_id, deadline, doing) as (setting, tell):
        yield Purging(setting, request, on_progress=lambda end: tell(end.done))


def _is_typed(context: Context, purge: PurgePlan) -> bool:
    """Whether somebody at a terminal types the beginning of the digest. Where there is none, nobody is asked."""
    if context.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    context.output.note(
        f"To delete this, type the first {CONFIRMED_DIGITS} characters of the purge plan's digest:", style="bold"
    )
    try:
        typed = sys.stdin.readline()
    except UnicodeDecodeError:
        return False
    return typed.strip() == purge.digest[:CONFIRMED_DIGITS]


def _tell_plan(context: Context, plan: Plan, end: PurgeEnd, *, is_dry_run: bool) -> None:
    output = context.output
    tell_errors(output, end)
    if output.as_json:
        waits = end.plan is not None and not is_dry_run
        code = worst([end.exit_code, ExitCode.LATER]) if waits else end.exit_code
        output.document(_document(plan, None, end, code, is_dry_run=is_dry_run))
        return
    output.line(
        f"plan {plan.digest[:12]} ({plan.name}): a purge of {wave_words(end.waves)}, of which nothing is deleted yet"
    )
    tell_users(
        output,
        end,
        {
            "ready": end.ready,
            "purged before": end.away,
            "not ready": end.unready,
            "failed": end.failed,
            "left": end.left,
        },
        "what is missing, left or failed",
        held_up=end.unready + end.failed + end.unfinished,
    )
    if end.plan is not None:
        _tell_stores(context, end.plan)
        output.line(f"purge plan {end.plan.digest}")
    output.line(f"next: {end.next_step}")


def _tell_stores(context: Context, purge: PurgePlan) -> None:
    output = context.output
    kinds = [kind.value for kind in Kind]
    output.table(
        [Column("store"), *(Column(f"{kind}s", number=True) for kind in kinds), Column("bytes", number=True)],
        [
            (store, *(f"{counts[kind]:,}" for kind in kinds), format_size(counts["size_bytes"]))
            for store, counts in purge.stores.items()
        ],
    )
    document = purge.document
    for store, counts in purge.stores.items():
        if counts["never_copied"]:
            output.line(
                f"{store}: {number_of(counts['never_copied'], 'object')} were never copied: the spec leaves them out"
            )
    if document["deleted_since"]:
        output.line(
            f"{number_of(document['deleted_since'], 'object')} are gone at home and backup: deleted since the flip"
        )
    if document["trusted"]:
        output.line(
            f"of these, nothing shows that the users deleted {number_of(document['trusted'], 'object')}: only the home's word",
            style="yellow",
        )
    if document["newer"]:
        output.line(f"{number_of(document['newer'], 'object')} are newer at home or backup: changed since the flip")
    if document["left_alone"]:
        output.line(f"{number_of(document['left_alone'], 'key')} among the users' are not theirs, and stay")


def _tell_purge(context: Context, plan: Plan, run_id: int, end: PurgeEnd) -> None:
    output = context.output
    tell_errors(output, end)
    if output.as_json:
        output.document(_document(plan, run_id, end, end.exit_code, is_dry_run=False))
        return
    output.line(f"plan {plan.digest[:12]} ({plan.name}), run {run_id}: purge of {wave_words(end.waves)}")
    tell_users(
        output,
        end,
        {
            "purged": end.purged,
            "purged before": end.away,
            "not ready": end.unready,
            "not empty": end.unfinished,
            "failed": end.failed,
            "left": end.left,
        },
        "what is missing, left or failed",
        held_up=end.unready + end.failed + end.unfinished,
    )
    for (store, reason), number in sorted(end.remains.items()):
        output.line(f"left at {store}: {number:,} {reason}")
    output.line(
        f"deleted: {number_of(end.deleted, 'object, version, marker or upload', 'objects, versions, markers and uploads')}"
    )
    output.line(f"next: {end.next_step}")


def _document(plan: Plan, run_id: int | None, end: PurgeEnd, code: ExitCode, *, is_dry_run: bool) -> dict[str, Any]:
    return {
        "plan": plan.digest,
        "run": run_id,
        "dry_run": is_dry_run,
        "exit_code": int(code),
        "waves": list(end.waves),
        "purge": None if end.plan is None else end.plan.document | {"folder": str(end.plan.folder)},
        "users": {
            "ready": end.ready,
            "purged": end.purged,
            "purged_before": end.away,
            "not_ready": end.unready,
            "not_empty": end.unfinished,
            "failed": end.failed,
            "left": end.left,
        },
        "missing": dict(sorted(end.missing.items())),
        "who": [{"user": user, "why": why} for user, why in end.shown],
        "remains": [
            {"store": store, "reason": reason, "number": number}
            for (store, reason), number in sorted(end.remains.items())
        ],
        "deleted": end.deleted,
        "deleted_bytes": end.size_bytes,
        "halted": end.halted,
        "next_step": end.next_step,
    }
