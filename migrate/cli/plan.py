"""`migrate plan SPEC`: from the spec, the directory and the inventories to a plan."""

from __future__ import annotations

from typing import Annotated

import typer

from migrate.cli.context import Context, JsonOption, SpecArgument, context_of
from migrate.cli.doors import open_door
from migrate.cli.logs import start_logs
from migrate.cli.plan_progress import PlanProgress
from migrate.cli.plan_tables import USERS_ASKED, show_summary, show_taken
from migrate.cli.records import recorded_run
from migrate.cli.working import stopping
from migrate.errors import RefusedError, UsageError
from migrate.jobs.elsewhere import taken_elsewhere
from migrate.ledger import Ledger
from migrate.model import Purpose
from migrate.planner.build import build_plan
from migrate.planner.folder import Plan
from migrate.planner.summary import PlanSummary, summarise
from migrate.report.plan_view import summary_document, unprobed_stores
from migrate.spec import Spec, load_spec
from migrate.stores.door import load_capabilities


def plan(
    typer_context: typer.Context,
    spec: SpecArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the plan would be, and build none.")] = False,
    list_anew: Annotated[
        bool, typer.Option("--list-anew", help="List the stores again, whatever an earlier attempt has listed of them.")
    ] = False,
    listed: Annotated[
        str | None,
        typer.Option(
            "--list", metavar="KIND", help="With --dry-run: list the keys or users of one kind of finding too."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a plan: who moves, what, where to and in which order. It copies nothing, and never changes afterwards."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    if listed is not None and not dry_run:
        raise UsageError(
            "--list is for --dry-run, which keeps nothing to look at",
            remedy="`migrate show --list KIND` lists of a plan.",
        )
    loaded = load_spec(spec)
    if dry_run:
        _plan(context, loaded, None, listed=listed, list_anew=list_anew)
        return
    with recorded_run(context, "plan", {"spec": str(spec)}, country=context.country(loaded)) as recorded:
        _plan(context, loaded, recorded.ledger, list_anew=list_anew)


def _plan(context: Context, spec: Spec, ledger: Ledger | None, *, listed: str | None = None, list_anew: bool) -> None:
    """Without a ledger nothing is built."""
    capabilities = load_capabilities(context.workspace.capabilities(spec.name), spec.stores)
    unprobed = unprobed_stores(spec, capabilities)
    if unprobed:
        context.output.note(
            f"not probed, or changed since: {', '.join(unprobed)}. The least is assumed of them; "
            "run `migrate doctor` again, or a run is blocked by what is copied there.",
            style="bold yellow",
        )
    door = open_door(context, spec, Purpose.PLAN, capabilities=capabilities)
    try:
        with stopping(context) as stop, PlanProgress(context.output) as progress:
            built = build_plan(
                spec,
                context.workspace,
                door,
                capabilities=capabilities,
                now=context.now,
                on_progress=progress.step,
                is_stopping=stop.is_set,
                dry_run=ledger is None,
                listed=listed,
                list_anew=list_anew,
            )
    finally:
        door.close()
    taken = None
    if ledger is not None and isinstance(built, Plan):
        taken = taken_elsewhere(built, context.workspace, ledger, users_max=USERS_ASKED)
    _tell(context, spec, built, unprobed, taken)


def _tell(
    context: Context, spec: Spec, built: Plan | PlanSummary, unprobed: list[str], taken: RefusedError | None
) -> None:
    summary = summarise(built.document) if isinstance(built, Plan) else built
    if context.as_json:
        folder = {"folder": str(built.folder)} if isinstance(built, Plan) else {}
        asked = {"taken_elsewhere": None if taken is None else taken.what} if folder else {}
        context.output.document(summary_document(summary, unprobed) | {"dry_run": not folder, **asked, **folder})
        return
    show_summary(context.output, summary, spec, unprobed=unprobed, built=isinstance(built, Plan))
    if not isinstance(built, Plan):
        context.output.note(
            "nothing was built: `migrate plan SPEC` builds it, and `migrate run --dry-run` then asks if users stand elsewhere",
            style="dim",
        )
    elif taken is not None:
        show_taken(context.output, taken)
    elif not summary.blockers:
        context.output.note(f"next: migrate run {summary.digest[:12]} --dry-run")
