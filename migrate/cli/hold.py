"""`migrate hold`: whose data stays where it is, until somebody releases it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from migrate.cli.context import Context, JsonOption, context_of, user_given
from migrate.cli.output import Column
from migrate.cli.records import existing_ledger, recorded_run
from migrate.errors import UsageError
from migrate.jobs.directories import is_known


def hold(
    typer_context: typer.Context,
    user: Annotated[
        str | None, typer.Option(metavar="U", help="Whom to put on hold; - reads the id from stdin.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is kept in the user's history.")] = None,
    release: Annotated[bool, typer.Option("--release", help="End the user's hold.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List who is on hold; or put a user on hold, or release one. Who is on hold is copied and verified, and nothing after it."""
    context = context_of(typer_context, as_json=as_json)
    if user is None:
        if release or reason is not None:
            raise UsageError(
                "nobody is named", remedy="Name the user with --user; without options all holds are listed."
            )
        _list(context)
        return
    words = (reason or "").strip()
    if not words:
        raise UsageError("no reason is given", remedy="Say why with --reason: whoever comes later reads it.")
    user_id = user_given(user)
    if not user_id:
        raise UsageError("the user's id is empty", remedy="Give the id as the directory has it.")
    _change(context, user_id, words, release=release)


def _change(context: Context, user_id: str, reason: str, *, release: bool) -> None:
    """Put a user on hold, or release one. Neither the user nor the reason goes into the run's arguments."""
    with recorded_run(context, "hold", {"release": release}) as recorded:
        ledger, run_id, now = recorded.ledger, recorded.run_id, context.now()
        if release:
            changed = ledger.release(user_id, reason, run_id=run_id, now=now)
        else:
            changed = ledger.hold(user_id, reason, operator=context.operator, run_id=run_id, now=now)
        found = ledger.hold_of(user_id)
        known = is_known(user_id, ledger, context.workspace)
        shown = ledger.display_url
    if context.as_json:
        document = {
            "user": user_id,
            "changed": changed,
            "known": known,
            "hold": None if found is None else found._asdict(),
            "ledger": shown,
        }
        context.output.document(document)
        return
    if release:
        context.output.line(f"user {user_id} is {'no longer' if changed else 'not'} on hold")
    elif found is not None:
        already = "" if changed else " already"
        since = f"since {_time(found.since)} by {found.operator}"
        context.output.line(f"user {user_id} is on hold{already}, {since}: {found.reason}")
    if not known:
        context.output.line(f"no plan here has such a user; holds are in the ledger {shown}")


def _list(context: Context) -> None:
    with existing_ledger(context) as ledger:
        holds = [] if ledger is None else ledger.holds()
        shown = None if ledger is None else ledger.display_url
    if context.as_json:
        context.output.document({"ledger": shown, "holds": [found._asdict() for found in holds]})
    elif not holds:
        context.output.line("nobody is on hold" if shown else "nobody is on hold: there is no ledger here yet")
    else:
        columns = [Column("user", folds=True), Column("since"), Column("by"), Column("reason", folds=True)]
        rows = [(found.user_id, _time(found.since), found.operator, found.reason) for found in holds]
        context.output.table(columns, rows)


def _time(at: datetime) -> str:
    """In UTC: a hold is of no plan, so no spec says which zone is read."""
    return at.astimezone(UTC).isoformat(timespec="seconds")
