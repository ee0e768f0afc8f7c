"""`migrate sweep [SPEC]`: look through every store for what lies where it should not. Nothing is changed at any store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from migrate.cli.context import Context, JsonOption, context_of
from migrate.cli.doors import open_door
from migrate.cli.logs import start_logs
from migrate.cli.output import Column
from migrate.cli.plan_progress import PlanProgress
from migrate.cli.records import open_ledger
from migrate.cli.working import stopping
from migrate.errors import ExitCode
from migrate.jobs.sweep_judging import AWAITING_PURGE, Count, FoundItem, Kind, first_found
from migrate.jobs.sweeping import Sweep
from migrate.jobs.sweeping import sweep as sweep_stores
from migrate.model import Purpose
from migrate.planner.folder import find_plan
from migrate.report.plan_view import unprobed_stores
from migrate.spec import Spec, load_spec, spec_time
from migrate.stores.door import load_capabilities
from migrate.units import format_size, number_of

_LISTED = 100
_KINDS = (*(kind.value for kind in Kind), AWAITING_PURGE)
_NOT_KNOWN = "–"


def sweep(
    typer_context: typer.Context,
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", help="The spec whose stores are swept. Without it: the newest plan's."),
    ] = None,
    listed: Annotated[
        Kind | None,
        typer.Option("--list", metavar="KIND", help="List the first findings of one kind, with their names."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many findings to list.")] = _LISTED,
    as_json: JsonOption = False,
) -> None:
    """Look through all stores, for residues of moved users, objects outside their home, strays and orphan uploads."""
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    loaded = find_plan(context.workspace, None).spec if spec is None else load_spec(spec)
    found = _sweep(context, loaded)
    items = [] if listed is None else first_found(found.file, listed, limit)
    if context.as_json:
        context.output.document(_document(found, listed, items))
    else:
        _show(context, loaded, found, listed, items)
    if found.exit_code is not ExitCode.DONE:
        raise typer.Exit(found.exit_code)


def _sweep(context: Context, spec: Spec) -> Sweep:
    capabilities = load_capabilities(context.workspace.capabilities(spec.name), spec.stores)
    ledger = open_ledger(context, create=False)
    try:
        door = open_door(context, spec, Purpose.SWEEP, capabilities=capabilities)
        try:
            with stopping(context) as stop, PlanProgress(context.output, "sweeping") as progress:
                return sweep_stores(
                    spec,
                    door.open,
                    context.workspace,
                    ledger,
                    unprobed=unprobed_stores(spec, capabilities),
                    now=context.now,
                    is_stopping=stop.is_set,
                    on_progress=progress.step,
                )
        finally:
            door.close()
    finally:
        ledger.close()


def _document(found: Sweep, listed: Kind | None, items: list[FoundItem]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "exit_code": int(found.exit_code),
        "began": found.began,
        "ended": found.ended,
        "plans": list(found.plans),
        "found": {kind: asdict(found.total(kind)) for kind in _KINDS},
        "stores": [
            {
                "store": store.name,
                "role": store.role.value,
                "site": store.site,
                "objects": store.objects,
                "versions": store.versions,
                "found": {kind: asdict(store.counts.get(kind, Count())) for kind in _KINDS},
                "problems": [problem.what for problem in store.problems],
            }
            for store in found.stores
        ],
        "not_asked": list(found.not_asked),
        "file": str(found.file),
    }
    if listed is not None:
        document["listed"] = {"kind": listed.value, "findings": [asdict(item) for item in items]}
    return document


def _show(context: Context, spec: Spec, found: Sweep, listed: Kind | None, items: list[FoundItem]) -> None:
    output = context.output

    def number(value: int | None) -> str:
        return _NOT_KNOWN if value is None else f"{value:,}"

    output.table(
        [
            Column("store"),
            Column("role"),
            Column("site"),
            Column("objects", number=True),
            Column("old versions", number=True),
            *(Column(kind, number=True) for kind in _KINDS),
        ],
        [
            (
                store.name,
                store.role.value,
                store.site,
                number(store.objects),
                number(store.versions),
                *(number(None if store.objects is None else store.counts.get(kind, Count()).number) for kind in _KINDS),
            )
            for store in found.stores
        ],
    )
    if listed is not None:
        output.line()
        output.table(
            [
                Column("store"),
                Column("user", folds=True),
                Column("key", folds=True),
                Column("bytes", number=True),
                Column("since"),
                Column("detail", folds=True),
            ],
            [
                (
                    item.store,
                    item.user_id or _NOT_KNOWN,
                    item.key,
                    _NOT_KNOWN if item.size_bytes is None else format_size(item.size_bytes),
                    _NOT_KNOWN if item.since is None else spec_time(item.since, spec),
                    _detail(item),
                )
                for item in items
            ],
        )
    output.line(f"as of {spec_time(found.began, spec)}, when this sweep began")
    _conclude(context, found)


def _detail(item: FoundItem) -> str:
    words = [
        item.detail,
        item.version_id and f"version {item.version_id}",
        item.upload_id and f"upload {item.upload_id}",
    ]
    return ", ".join(word for word in words if word)


def _conclude(context: Context, found: Sweep) -> None:
    output = context.output
    failed = [store for store in found.stores if store.problems]
    for store in failed:
        for problem in store.problems:
            output.error(problem.what, remedy=problem.remedy, code=problem.exit_code)
    for words in found.not_asked:
        output.note(f"not swept: {words}", style="bold yellow")
    output.line()
    if found.found:
        findings = ", ".join(f"{found.total(kind).number:,} {kind}" for kind in Kind if found.total(kind).number)
        output.line(f"found: {findings}", style="bold red")
        output.note(f"all of them, with users and keys, are in {found.file}")
    elif failed or found.not_asked:
        output.line(
            "nothing found where it could be looked, and not everything could: nobody is called clean", style="bold"
        )
    else:
        output.line(f"nothing found in {number_of(len(found.stores), 'store')}", style="bold green")
    if failed:
        output.note("`migrate sweep` goes on with what was listed")
