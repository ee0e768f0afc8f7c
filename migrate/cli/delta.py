"""`migrate delta [PLAN]`: a small plan of what changed at the sources since a plan was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from migrate.cli.context import Context, JsonOption, context_of
from migrate.cli.doors import open_door
from migrate.cli.logs import start_logs
from migrate.cli.plan_progress import PlanProgress
from migrate.cli.plan_tables import show_summary
from migrate.cli.records import existing_ledger, recorded_run
from migrate.cli.working import stopping
from migrate.errors import InputError, LaterError, RefusedError
from migrate.jobs.continuing import LineReader
from migrate.jobs.copying import open_blockers
from migrate.ledger import Ledger
from migrate.model import Purpose
from migrate.planner.build import build_plan
from migrate.planner.folder import Plan, find_plan
from migrate.planner.line import demand_same_line
from migrate.planner.summary import Blocker, PlanSummary, summarise
from migrate.report.plan_view import summary_document, unprobed_stores
from migrate.spec import Spec, load_spec
from migrate.stores.door import load_capabilities


def delta(
    typer_context: typer.Context,
    plan: Annotated[
        str | None,
        typer.Argument(metavar="PLAN", help="A plan, by the beginning of its digest; the newest by default."),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            "--spec",
            metavar="SPEC",
            help="The spec as it is now, where directory, inventories, scope, capacities or limits are others than PLAN was "
            "built with.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the delta would be, and build none.")] = False,
    list_anew: Annotated[
        bool, typer.Option("--list-anew", help="List the stores again, whatever an earlier attempt has listed of them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a plan of what changed since PLAN: new, changed and deleted objects, users who came or went. It is run and verified
    as any other, and takes PLAN's place. What did not change is not read."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    parent = find_plan(context.workspace, plan)
    taken = parent.spec if spec is None else load_spec(spec)
    demand_same_line(parent.spec, taken)
    if dry_run:
        with existing_ledger(context) as ledger:
            if ledger is None:
                raise LaterError(
                    f"nothing of plan {parent.digest[:12]} was run yet, so there is nothing to continue",
                    remedy=f"`migrate run {parent.digest[:12]}` comes first; if it ran, name its ledger by --ledger.",
                )
            _delta(context, parent, taken, ledger, dry_run=True, list_anew=list_anew)
        return
    arguments = {} if spec is None else {"spec": str(spec)}
    country = context.country(taken)
    with recorded_run(context, "delta", arguments, plan=parent.digest, country=country) as recorded:
        _delta(context, parent, taken, recorded.ledger, dry_run=False, list_anew=list_anew)


def _delta(context: Context, parent: Plan, spec: Spec, ledger: Ledger, *, dry_run: bool, list_anew: bool) -> None:
    workspace = context.workspace
    capabilities = load_capabilities(workspace.capabilities(spec.name), spec.stores)
    with closing(LineReader(parent, workspace, ledger)) as reader:
        door = open_door(context, spec, Purpose.PLAN, capabilities=capabilities)
        naming = _naming_the_spec(is_given=spec is not parent.spec)
        with closing(door), naming, stopping(context) as stop, PlanProgress(context.output) as progress:
            built = build_plan(
                spec,
                workspace,
                door,
                capabilities=capabilities,
                now=context.now,
                on_progress=progress.step,
                is_stopping=stop.is_set,
                dry_run=dry_run,
                list_anew=list_anew,
                line=lambda scratch: reader.line(scratch, door.open, stop.is_set),
            )
    blockers = open_blockers(built, ledger, ()) if isinstance(built, Plan) else built.blockers
    _tell(context, parent, spec, built, blockers, unprobed_stores(spec, capabilities))


@contextmanager
def _naming_the_spec(*, is_given: bool) -> Iterator[None]:
    """What is to be mended in the spec is mended in a file that a delta reads only where it is given."""
    try:
        yield
    except (InputError, RefusedError) as error:
        if not is_given:
            error.remedy += (
                " A delta takes its line's spec: `migrate delta --spec SPEC` gives it the file as it is by now."
            )
        raise


def _tell(
    context: Context,
    parent: Plan,
    spec: Spec,
    built: Plan | PlanSummary,
    blockers: Sequence[Blocker],
    unprobed: list[str],
) -> None:
    """`blockers` are those that nobody has accepted of the plans before."""
    summary = summarise(built.document) if isinstance(built, Plan) else built
    if context.as_json:
        folder = {"folder": str(built.folder)} if isinstance(built, Plan) else {}
        context.output.document(
            summary_document(summary, unprobed) | {"parent": parent.digest, "dry_run": not folder, **folder}
        )
        return
    context.output.line(f"continues plan {parent.digest[:12]}")
    shown = replace(summary, blockers=tuple(blockers))
    show_summary(context.output, shown, spec, unprobed=unprobed, built=isinstance(built, Plan))
    settled = [blocker for blocker in summary.blockers if blocker not in blockers]
    if settled:
        what = ", ".join(f"{blocker.count:,} {blocker.kind}" for blocker in settled)
        context.output.line(f"accepted of a plan before, and the same to the last item: {what}")
    if not summary.copies:
        context.output.line("nothing changed at the sources; running it brings the users over")
    if not isinstance(built, Plan):
        context.output.note("nothing was built: the same without --dry-run builds it", style="dim")
    elif not blockers:
        context.output.note(
            f"next: migrate run {summary.digest[:12]} --wave all, then migrate verify {summary.digest[:12]}"
        )
