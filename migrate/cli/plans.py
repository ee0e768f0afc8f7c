"""`migrate plans`, `show`, `explain` and `diff`: read what was planned. Nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from migrate.cli.context import Context, JsonOption, PlanArgument, context_of, user_given
from migrate.cli.output import Column, Output
from migrate.cli.plan_tables import USERS_ASKED, show_listed, show_summary, show_taken
from migrate.cli.records import existing_ledger
from migrate.errors import ExitCode, MigrateError, worst
from migrate.jobs.elsewhere import taken_elsewhere
from migrate.planner.diff import PlanDiff
from migrate.planner.diff import diff as compare
from migrate.planner.explain import Explanation
from migrate.planner.explain import explain as explain_user
from migrate.planner.folder import Plan, find_plan, plan_folders
from migrate.planner.listing import FLAGS, LISTED_MAX, list_findings
from migrate.planner.summary import summarise
from migrate.report import plan_view
from migrate.report.plan_view import DIGEST_SHOWN
from migrate.spec import spec_time
from migrate.units import format_size


def plans(typer_context: typer.Context, as_json: JsonOption = False) -> None:
    """List the plans of the workspace, the newest first. One that cannot be read is named, and makes the exit code."""
    context = context_of(typer_context, as_json=as_json)
    rows: list[dict[str, Any]] = []
    codes: list[ExitCode] = []
    for folder in plan_folders(context.workspace):
        try:
            rows.append(_row(Plan.open(folder)))
        except MigrateError as error:  # one that cannot be read does not hide the others, and is not hidden by them
            rows.append({"folder": str(folder), "problem": error.what, "remedy": error.remedy})
            codes.append(error.exit_code)
    rows.sort(key=lambda row: str(row.get("built_at", "")), reverse=True)
    if context.as_json:
        context.output.document({"plans": rows})
    elif not rows:
        context.output.note("there is no plan here: `migrate plan SPEC` builds one")
    else:
        _show_plans(context.output, rows)
    if codes:
        raise typer.Exit(worst(codes))


def _show_plans(output: Output, rows: Sequence[dict[str, Any]]) -> None:
    output.table(
        [
            Column("plan"),
            Column("name"),
            Column("built"),
            Column("users", number=True),
            Column("copies", number=True),
            Column("bytes", number=True),
            Column("blocked by", number=True),
        ],
        [_cells(row) for row in rows if "problem" not in row],
    )
    for row in rows:
        if "problem" in row:
            output.note_error(row["problem"], (), row["remedy"])


def _row(plan: Plan) -> dict[str, Any]:
    totals = plan.document["totals"]
    return {
        "digest": plan.digest,
        "name": plan.name,
        "built_at": plan.built_at.isoformat(),
        "built_shown": spec_time(plan.built_at, plan.spec),
        "users": totals["users"]["planned"],
        "copies": totals["copies"],
        "size_bytes": totals["size_bytes"],
        "blockers": {blocker["kind"]: blocker["count"] for blocker in plan.document["blockers"]},
    }


def _cells(row: dict[str, Any]) -> Sequence[object]:
    return (
        row["digest"][:DIGEST_SHOWN],
        row["name"],
        row["built_shown"],
        f"{row['users']:,}",
        f"{row['copies']:,}",
        format_size(row["size_bytes"]),
        f"{sum(row['blockers'].values()):,}",
    )


def show(
    typer_context: typer.Context,
    plan: PlanArgument = None,
    listed: Annotated[
        str | None,
        typer.Option("--list", metavar="KIND", help="List the keys or users of one kind of finding or blocker."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a plan: users and bytes by country, site and wave, findings, blockers and a forecast."""
    context = context_of(typer_context, as_json=as_json)
    found = find_plan(context.workspace, plan)
    if listed is not None:
        _show_findings(context, found, listed)
        return
    summary = summarise(found.document)
    unprobed = plan_view.unprobed_stores(found.spec, found.capabilities)
    taken = None
    with suppress(MigrateError), existing_ledger(context) as ledger:  # a plan can be shown whatever the ledger is like
        taken = taken_elsewhere(found, context.workspace, ledger, users_max=USERS_ASKED)
    if context.as_json:
        document = plan_view.summary_document(summary, unprobed) | {"folder": str(found.folder)}
        context.output.document(document | {"taken_elsewhere": None if taken is None else taken.what})
        return
    show_summary(context.output, summary, found.spec, unprobed=unprobed)
    if taken is not None:
        show_taken(context.output, taken)


def _show_findings(context: Context, plan: Plan, kind: str) -> None:
    rows = list_findings(plan, kind)
    if context.as_json:
        document = {
            "plan": plan.digest,
            "kind": kind,
            "count": plan.document["findings"][kind],
            "findings": plan_view.listed_document(rows),
        }
        context.output.document(document)
        return
    show_listed(context.output, rows)
    if len(rows) == LISTED_MAX:
        files = "objects-*.parquet" if kind in FLAGS else "findings.parquet"
        context.output.note(f"these are the first {LISTED_MAX:,}; all are in {plan.folder / files}")


def explain(
    typer_context: typer.Context,
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The user's id, as the directory has it; - reads it from stdin.")
    ],
    plan: PlanArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Say which rules decided about a user, and which alternatives lost, and why."""
    context = context_of(typer_context, as_json=as_json)
    found = find_plan(context.workspace, plan)
    explanation = explain_user(found, user_given(user))
    if context.as_json:
        context.output.document({"plan": found.digest, **plan_view.explanation_document(explanation)})
    else:
        _show_explanation(context.output, found, explanation)


def _show_explanation(output: Output, plan: Plan, explanation: Explanation) -> None:
    user = explanation.user
    given = f", given as {user.country_given!r}" if user.country_given != user.country else ""
    output.line(f"user {user.user_id} in plan {plan.digest[:DIGEST_SHOWN]} ({plan.name})", style="bold")
    output.line(f"  state      {user.state}")
    output.line(f"  residence  {user.country or 'unknown'}{given}")
    output.line(f"  scope      {user.scope_rule} (policy {explanation.policy})")
    if reason := plan_view.state_words(user):
        output.line(f"  reason     {reason}")
    if user.home is not None:
        output.line(f"  placement  rule {user.placement_rule}: home {user.home}, backup {user.backup or 'none'}")
    if user.wave is not None:
        output.line(f"  wave       {user.wave}, {explanation.wave_reason}")
    if user.first_batch is not None:
        output.line(f"  batches    {user.first_batch} to {user.last_batch}")
    rows = plan_view.alternative_rows(explanation)
    if rows:
        output.line()
        output.table([Column("for"), Column("site"), Column("why", folds=True)], rows)
    if explanation.copies:
        output.line()
        output.table(
            [
                Column("category"),
                Column("role"),
                Column("to"),
                Column("copies", number=True),
                Column("bytes", number=True),
            ],
            [
                (share.category, share.role, share.store, f"{share.copies:,}", format_size(share.size_bytes))
                for share in explanation.copies
            ],
        )
    if explanation.findings:
        output.line()
        output.table(
            [Column("finding"), Column("store"), Column("detail", folds=True), Column("count", number=True)],
            [(found.kind, found.store, found.detail or "–", f"{found.count:,}") for found in explanation.findings],
        )
    if user.state == "planned":
        output.note("once it runs, `migrate status --user -` says where the copies stand; it reads the id from stdin")


def diff(
    typer_context: typer.Context,
    before: Annotated[str, typer.Argument(metavar="A", help="The start of a plan's digest.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The start of another's.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two plans: the spec's keys, what was found, the users, and the copies."""
    context = context_of(typer_context, as_json=as_json)
    found = compare(find_plan(context.workspace, before), find_plan(context.workspace, after))
    if context.as_json:
        context.output.document(plan_view.diff_document(found))
    else:
        _show_diff(context.output, found)


def _show_diff(output: Output, found: PlanDiff) -> None:
    output.line(f"from plan {found.before[:DIGEST_SHOWN]} to {found.after[:DIGEST_SHOWN]}", style="bold")
    rows = plan_view.diff_rows(found)
    if rows:
        output.table([Column("what"), Column("count", number=True), Column("bytes", number=True)], rows)
    else:
        output.line("users and copies are the same")
    for title, changes in (("spec", found.spec), ("found", found.found)):
        if changes:
            output.line()
            output.table(
                [Column(title, folds=True), Column("before", folds=True), Column("after", folds=True)],
                [
                    (change.key, plan_view.value_text(change.before), plan_view.value_text(change.after))
                    for change in changes
                ],
            )
