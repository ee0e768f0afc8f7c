"""`migrate rollback [PLAN] (--user U | --wave W)`: users go back to their old home."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from migrate.cli.context import Context, JsonOption, PlanArgument, context_of, is_utf8, user_given
from migrate.cli.logs import start_logs
from migrate.cli.output import Column
from migrate.cli.records import existing_ledger, recorded_run
from migrate.cli.wave_users import ROWS, at_work, exit_with, tell_errors, tell_users
from migrate.cli.working import ForOption, UntilOption, limits_of
from migrate.errors import UsageError
from migrate.jobs.registered import no_copy_yet
from migrate.jobs.rollback import RollbackEnd, RollbackRequest, roll_back
from migrate.jobs.whereabouts import plan_of
from migrate.ledger import Ledger
from migrate.planner.folder import Plan, find_plan
from migrate.report.standing import wave_words
from migrate.units import format_size, number_of


def rollback(
    typer_context: typer.Context,
    plan: PlanArgument = None,
    user: Annotated[str | None, typer.Option(metavar="U", help="Who goes back; - reads the id from stdin.")] = None,
    wave: Annotated[str | None, typer.Option(metavar="W", help="Whose users: 2, 0-3, 1,4 or all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do every check for real, and change nothing.")] = False,
    trust_home: Annotated[
        bool,
        typer.Option(
            "--trust-home",
            help="Whatever the new home does not have was deleted there by the user, though nothing else shows it: it is deleted "
            "at the sources too. Not where the home may have lost something.",
        ),
    ] = False,
    send_back: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Send what was written at the new home back as well, which is a transfer out of the region: NAME has approved "
            "it, and is kept in the users' history.",
        ),
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Halt when so many users failed. Default: the spec's.")
    ] = None,
    lasting: ForOption = None,
    until: UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take users back to their old home while the sources stand. What they deleted at the new one is deleted at the sources
    first; what they wrote there is listed, and stays there. Who cannot go back stays, with what is in the way; exit 4."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    user_id = None if user is None else user_given(user)
    found = _plan(context, plan, user_id)
    limits = limits_of(context, found, workers=None, lasting=lasting, until=until)
    approved_by = None if send_back is None else _approved_by(send_back)
    request = RollbackRequest(user_id, wave, dry_run, trust_home, approved_by, max_failures)
    if dry_run:
        with existing_ledger(context) as ledger:
            if ledger is None:
                raise no_copy_yet(found)
            _finish(context, found, None, _work(context, found, ledger, 0, limits.deadline, request))
        return
    arguments = {  # not the user's id
        "user": user is not None,
        "wave": wave,
        "trust_home": trust_home,
        "send_back": approved_by,
        "max_failures": max_failures,
        "for": lasting,
        "until": until,
    }
    country = context.country(found.spec)
    with recorded_run(context, "rollback", arguments, plan=found.digest, country=country) as recorded:
        end = _work(context, found, recorded.ledger, recorded.run_id, limits.deadline, request)
        _finish(context, found, recorded.run_id, end)


def _approved_by(name: str) -> str:
    """Who has approved the exception."""
    if not is_utf8(name) or not name.strip():
        raise UsageError("--send-back names nobody", remedy="Name who has approved that data leave the region.")
    return name.strip()


def _plan(context: Context, prefix: str | None, user_id: str | None) -> Plan:
    """The plan that is named, else the user's own, else the newest."""
    if prefix is not None or user_id is None:
        return find_plan(context.workspace, prefix)
    with existing_ledger(context) as ledger:
        return plan_of(context.workspace, None, ledger, user_id)


def _work(
    context: Context, plan: Plan, ledger: Ledger, run_id: int, deadline: float | None, request: RollbackRequest
) -> RollbackEnd:
    with at_work(context, plan, ledger, run_id, deadline, "rolling back") as (setting, tell):
        return roll_back(setting, request, on_progress=lambda end: tell(end.done))


def _finish(context: Context, plan: Plan, run_id: int | None, end: RollbackEnd) -> None:
    _tell(context, plan, run_id, end)
    exit_with(end.exit_code)


def _tell(context: Context, plan: Plan, run_id: int | None, end: RollbackEnd) -> None:
    output = context.output
    tell_errors(output, end)
    if output.as_json:
        output.document(_document(plan, run_id, end))
        return
    run = "dry run" if run_id is None else f"run {run_id}"
    whose = "one user" if end.waves is None else wave_words(end.waves)
    output.line(f"plan {plan.digest[:12]} ({plan.name}), {run}: rollback of {whose}")
    numbers = {
        "could go back" if end.dry_run else "back": end.ready if end.dry_run else end.back + end.settled,
        "back before": end.back_before,
        "not moved": end.not_moved,
        "not ready": end.unready,
        "failed": end.failed,
        "left": end.left,
    }
    tell_users(output, end, numbers, "what is in the way, or failed", held_up=end.unready + end.failed)
    if end.settled:
        output.line(f"{number_of(end.settled, 'user')} had gone back in a rollback that broke off")
    if end.open:
        output.line(
            f"{number_of(end.open, 'user')}: the platform did not say where they live; the next rollback asks it"
        )
    _tell_objects(context, end)
    if end.dry_run:
        output.line(f"listing one user's stores took {end.listing_seconds_max:.2f} s at most")
    elif end.frozen_ms_max:
        output.line(f"frozen for {end.frozen_ms_max:,} ms at most")
    output.line(f"next: {end.next_step}")


def _tell_objects(context: Context, end: RollbackEnd) -> None:
    """What the users' objects have come to: deleted at the sources, and kept at the new home."""
    output, would = context.output, "would be " if end.dry_run else ""
    if end.replayed:
        output.line(f"deleted at the new home, {would}deleted at the sources: {number_of(end.replayed, 'object')}")
    written = end.new + end.changed
    if not written:
        return
    output.line(
        f"written at the new home since, and kept there: {number_of(written, 'object')} "
        f"({end.new:,} new, {end.changed:,} changed), {format_size(end.written_bytes)}"
    )
    if end.sent:
        output.line(f"of these {would}sent back to the old home as well: {number_of(end.sent, 'object')}")
    rows = [(user, each.store, each.key, format_size(each.size), each.kind) for user, each in end.written[:ROWS]]
    columns = [Column("user", folds=True), Column("store"), Column("key", folds=True), Column("bytes", number=True)]
    output.table([*columns, Column("")], rows)
    output.line(f"all of them: {end.file}")


def _document(plan: Plan, run_id: int | None, end: RollbackEnd) -> dict[str, Any]:
    return {
        "plan": plan.digest,
        "run": run_id,
        "dry_run": end.dry_run,
        "exit_code": int(end.exit_code),
        "waves": None if end.waves is None else list(end.waves),
        "users": {
            "back": end.back,
            "ready": end.ready,
            "back_before": end.back_before,
            "not_moved": end.not_moved,
            "not_ready": end.unready,
            "failed": end.failed,
            "open": end.open,
            "settled": end.settled,
            "left": end.left,
        },
        "missing": dict(sorted(end.missing.items())),
        "who": [{"user": user, "why": why} for user, why in end.shown],
        "halted": end.halted,
        "replayed": end.replayed,
        "kept": {
            "new": end.new,
            "changed": end.changed,
            "sent_back": end.sent,
            "size_bytes": end.written_bytes,
            "file": None if end.file is None else str(end.file),
            "objects": [
                {
                    "user": user,
                    "store": each.store,
                    "key": each.key,
                    "size_bytes": each.size,
                    "etag": each.etag,
                    "kind": each.kind,
                }
                for user, each in end.written
            ],
        },
        "listing_seconds_max": round(end.listing_seconds_max, 3),
        "frozen_ms_max": end.frozen_ms_max,
        "next_step": end.next_step,
    }
