"""`migrate where USER`: where a user's data is now, and what plan and ledger know of the user. Nothing is changed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from migrate.cli.context import Context, JsonOption, context_of, user_given
from migrate.cli.doors import open_door
from migrate.cli.logs import start_logs
from migrate.cli.output import Column
from migrate.cli.records import existing_ledger
from migrate.cli.working import stopping
from migrate.errors import ExitCode
from migrate.jobs.whereabouts import StoreAnswer, Whereabouts, plan_of, where_is
from migrate.model import Purpose
from migrate.report.plan_view import DIGEST_SHOWN, unprobed_stores
from migrate.spec import Spec, spec_time
from migrate.stores.door import load_capabilities
from migrate.units import format_size

NOT_KNOWN = "–"


def where(
    typer_context: typer.Context,
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The user's id, as the directory has it; - reads it from stdin.")
    ],
    plan: Annotated[
        str | None,
        typer.Option(metavar="PLAN", help="The start of a plan's digest. Without it: the user's plan, or the newest."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say where a user's data is: each store with objects, bytes, role and age, and the user's state and history."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    user_id = user_given(user)
    with existing_ledger(context) as ledger:
        found = plan_of(context.workspace, plan, ledger, user_id)
        spec = found.spec
        capabilities = load_capabilities(context.workspace.capabilities(spec.name), spec.stores)
        door = open_door(context, spec, Purpose.SWEEP, capabilities=capabilities, plan=found.digest)
        try:
            with stopping(context) as stop:
                answer = where_is(
                    user_id,
                    found,
                    door.open,
                    context.workspace,
                    ledger,
                    unprobed=unprobed_stores(spec, capabilities),
                    is_stopping=stop.is_set,
                )
        finally:
            door.close()
    if context.as_json:
        context.output.document(_document(answer))
    else:
        _show(context, answer)
    if answer.exit_code is not ExitCode.DONE:
        raise typer.Exit(answer.exit_code)


def _document(answer: Whereabouts) -> dict[str, Any]:
    row, planned = answer.row, answer.planned
    return {
        "exit_code": int(answer.exit_code),
        "user": answer.user_id,
        "state": answer.state,
        "plan": answer.row_plan or (None if planned is None else answer.plan.digest),
        "asked_plan": answer.plan.digest,
        "country": None if row is None and planned is None else (row or planned).country,  # type: ignore[union-attr]
        "home": answer.home,
        "backup": answer.backup,
        "wave": None if row is None and planned is None else (row or planned).wave,  # type: ignore[union-attr]
        "verified": answer.is_verified,
        "ledger": None if row is None else row._asdict(),
        "failures": answer.known,
        "stores": [_store_document(store) for store in answer.stores],
        "history": [event._asdict() for event in answer.history],
    }


def _store_document(store: StoreAnswer) -> dict[str, Any]:
    return {
        "store": store.name,
        "role": store.role.value,
        "site": store.site,
        "place": store.place,
        "objects": store.objects,
        "size_bytes": store.size_bytes,
        "since": store.since,
        "versions": store.versions,
        "uploads": store.uploads,
        "unlisted_rules": list(store.unlisted),
        "problem": None if store.problem is None else store.problem.what,
    }


def _show(context: Context, answer: Whereabouts) -> None:
    output, spec = context.output, answer.plan.spec
    digest = answer.row_plan or answer.plan.digest
    output.line(f"user {answer.user_id}: {answer.state}", style="bold")
    if answer.row is not None:
        _show_row(context, answer, digest)
    elif answer.planned is not None:
        output.line(
            f"  plan {digest[:DIGEST_SHOWN]}, home {answer.home or NOT_KNOWN}, backup {answer.backup or NOT_KNOWN}; "
            "the ledger has no row of the user"
        )
    else:
        output.line(f"  plan {digest[:DIGEST_SHOWN]} and the ledger know no such user")
    output.line()
    output.table(
        [
            Column("store"),
            Column("role"),
            Column("for the user"),
            Column("objects", number=True),
            Column("bytes", number=True),
            Column("since"),
            Column("versions", number=True),
            Column("uploads", number=True),
            Column("", folds=True),
        ],
        [_cells(store, spec) for store in answer.stores],
    )
    for event in answer.history:
        run = "" if event.run_id is None else f", run {event.run_id}"
        output.line(f"{spec_time(event.at, spec)}  {event.what}{run}{': ' if event.detail else ''}{event.detail}")
    for store in answer.stores:
        if store.problem is not None:
            output.error(store.problem.what, remedy=store.problem.remedy, code=store.problem.exit_code)
    if any(store.unlisted for store in answer.stores):
        output.note("what lies under rules without a prefix of the user, `migrate sweep` alone can find")


def _show_row(context: Context, answer: Whereabouts, digest: str) -> None:
    row, output = answer.row, context.output
    assert row is not None
    wave = NOT_KNOWN if row.wave is None else row.wave
    batches = "no batch" if row.first_batch is None else f"batches {row.first_batch} to {row.last_batch}"
    output.line(f"  plan {digest[:DIGEST_SHOWN]}, wave {wave}, {batches}")
    output.line(f"  home {row.home or NOT_KNOWN}, backup {row.backup or NOT_KNOWN}")
    verified = "verified" if answer.is_verified else "not verified"
    output.line(f"  {row.good:,} of {row.copies:,} copies have receipts, {row.matched:,} matched: {verified}")
    if answer.known is None:
        output.line("  failures: not known, since the folder of the user's plan is not here")
    elif answer.known:
        output.line("  failures: " + ", ".join(f"{number:,} {kind}" for kind, number in sorted(answer.known.items())))


def _cells(store: StoreAnswer, spec: Spec) -> tuple[str, ...]:
    def number(value: int | None) -> str:
        return NOT_KNOWN if value is None else f"{value:,}"

    words = ""
    if store.problem is not None:
        words = "not listed"
    elif store.objects is None:
        words = "no prefix: a sweep alone tells"
    elif store.unlisted:
        words = f"at least: {', '.join(store.unlisted)} not listed"
    return (
        store.name,
        store.role.value,
        store.place or "",
        number(store.objects),
        NOT_KNOWN if store.size_bytes is None else format_size(store.size_bytes),
        NOT_KNOWN if store.since is None else spec_time(store.since, spec),
        number(store.versions),
        number(store.uploads),
        words,
    )
