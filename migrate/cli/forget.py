"""`migrate forget --user U`: a user's deletion was asked for. Nothing more of them is copied, and what was goes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from migrate.cli.context import Context, JsonOption, context_of, users_given
from migrate.cli.logs import start_logs
from migrate.cli.output import Column
from migrate.cli.plan_progress import PlanProgress
from migrate.cli.records import existing_ledger, recorded_run
from migrate.cli.working import actor_of, stopping
from migrate.errors import ExitCode, NoLedgerError, UsageError
from migrate.jobs.forget import ForgetEnd, Forgotten, Result
from migrate.jobs.forget import forget as forget_users
from migrate.ledger import Ledger
from migrate.routing import open_router
from migrate.units import format_size, number_of

_REMEDIES = {
    Result.UNKNOWN: "No plan of this ledger has them. Look for a slip in the id, or name their ledger (--ledger).",
    Result.ON_HOLD: "A hold goes before a request for deletion: `migrate hold --release` first. Nothing was changed.",
    Result.PURGED: "They live at the new home and nowhere else: what is there is the platform's to erase. Nothing was changed.",
    Result.FORGOTTEN: "Nothing more of them is copied. Give the command again to erase what stands at the targets.",
    Result.LEFT: "What is not ours is left: the platform erases its own; who put the rest there, has to be found out. "
    "Give the command again afterwards.",
    Result.FAILED: "They are forgotten. Mend the cause, then give the command again.",
}


def forget(
    typer_context: typer.Context,
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="U", help="Whom; again for more. - reads ids from stdin, one a line."),
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is kept in the user's history.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be erased, and change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget users who asked for their deletion: from now on nothing of them is copied, whatever is under way, and what was
    copied is erased at the targets. Sources are not touched. Given again it goes on, or says that it is done."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    user_ids = users_given(user or ())
    if not user_ids:
        raise UsageError(
            "nobody is named", remedy="Name users with --user U, or give their ids on stdin with --user -."
        )
    if dry_run:
        with existing_ledger(context) as ledger:
            if ledger is None:
                raise NoLedgerError(
                    "there is no ledger here, so nothing was ever copied", remedy=_REMEDIES[Result.UNKNOWN]
                )
            _finish(context, None, _work(context, ledger, user_ids, 0, None, dry_run=True))
        return
    words = (reason or "").strip() or None
    # neither users nor the reason go into the run's arguments
    with recorded_run(context, "forget", {"users": len(user_ids)}, create=False) as recorded:
        end = _work(context, recorded.ledger, user_ids, recorded.run_id, words, dry_run=False)
        _finish(context, recorded.run_id, end)


def _work(
    context: Context, ledger: Ledger, user_ids: list[str], run_id: int, reason: str | None, *, dry_run: bool
) -> ForgetEnd:
    workspace = context.workspace
    with stopping(context) as stop, PlanProgress(context.output, "forgetting") as progress:
        return forget_users(
            user_ids,
            workspace,
            ledger,
            actor_of=lambda plan: actor_of(context, plan),
            open_router=lambda spec: open_router(spec, ledger, context.environment, workspace.root),
            run_id=run_id,
            reason=reason,
            dry_run=dry_run,
            now=context.now,
            stop=stop,
            on_progress=lambda done: progress.step("users", done),
        )


def _finish(context: Context, run_id: int | None, end: ForgetEnd) -> None:
    output = context.output
    errors = [
        *end.notes,
        *(user.error for user in end.users if user.error is not None and user.result is Result.FAILED),
    ]
    for error in {error.what: error for error in errors}.values():  # each once
        output.error(error.what, remedy=error.remedy, code=error.exit_code)
    if output.as_json:
        output.document(_document(run_id, end))
    else:
        _show(context, run_id, end)
    if end.exit_code is not ExitCode.DONE:
        raise typer.Exit(end.exit_code)


def _show(context: Context, run_id: int | None, end: ForgetEnd) -> None:
    output = context.output
    output.line("dry run: nothing was changed" if run_id is None else f"run {run_id}")
    columns = [
        Column("user", folds=True),
        Column("result"),
        Column("would go" if end.dry_run else "erased", number=True),
        Column("bytes", number=True),
        Column("uploads", number=True),
        Column("left", folds=True),
    ]
    output.table(columns, [_cells(user, dry_run=end.dry_run) for user in end.users])
    for result in dict.fromkeys(user.result for user in end.users):
        if result in _REMEDIES and not (end.dry_run and result is Result.FORGOTTEN):
            number = sum(user.result is result for user in end.users)
            output.line(f"{number_of(number, 'user')} {result}: {_REMEDIES[result]}")
    if unlisted := sorted({name for user in end.users for name in user.unlisted}):
        output.note(
            f"keys of the rules {', '.join(unlisted)} cannot be listed by user: what is not ours, `migrate sweep` alone finds"
        )


def _cells(user: Forgotten, *, dry_run: bool) -> tuple[str, ...]:
    erased, result = user.erased, _word(user.result, dry_run=dry_run)
    if erased is None:
        return (user.user_id, result, "", "", "", "")
    left = ", ".join(f"{number:,} {kind}" for kind, number in sorted(erased.left.items()))
    return (user.user_id, result, f"{erased.objects:,}", format_size(erased.size_bytes), f"{erased.uploads:,}", left)


def _word(result: Result, *, dry_run: bool) -> str:
    """The result; of a dry run, in which nothing was done."""
    foreseen = {Result.ERASED: "to be erased", Result.FORGOTTEN: "not looked at"}
    return foreseen.get(result, result.value) if dry_run else result.value


def _document(run_id: int | None, end: ForgetEnd) -> dict[str, Any]:
    return {
        "run": run_id,
        "dry_run": end.dry_run,
        "exit_code": int(end.exit_code),
        "users": [
            {
                "user": user.user_id,
                "result": _word(user.result, dry_run=end.dry_run),
                "state_before": None if user.state is None else user.state.value,
                "objects": None if user.erased is None else user.erased.objects,
                "size_bytes": None if user.erased is None else user.erased.size_bytes,
                "uploads": None if user.erased is None else user.erased.uploads,
                "left": None if user.erased is None else dict(sorted(user.erased.left.items())),
                "unlisted_rules": list(user.unlisted),
                "error": None if user.error is None else user.error.what,
            }
            for user in end.users
        ],
    }
