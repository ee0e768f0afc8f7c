"""`migrate ledger upgrade | backup`. A backup changes nothing and is no run: it must be possible before an upgrade."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migrate.cli.app import PLAIN
from migrate.cli.context import JsonOption, context_of
from migrate.cli.records import recorded_run
from migrate.ledger.upgrade import backup as back_up
from migrate.ledger.upgrade import upgrade as bring_up

app = typer.Typer(**PLAIN, help="Upgrade or back up the ledger.", no_args_is_help=False)


@app.command()
def upgrade(typer_context: typer.Context, as_json: JsonOption = False) -> None:
    """Bring an older ledger to this version, all or nothing. Back it up first, and let no run be under way."""
    context = context_of(typer_context, as_json=as_json)
    before, after = bring_up(context.ledger_url)
    with recorded_run(context, "ledger upgrade", {"before": before, "after": after}) as recorded:
        shown = recorded.ledger.display_url
    if context.as_json:
        context.output.document({"ledger": shown, "before": before, "after": after})
    elif before == after:
        context.output.line(f"the ledger {shown} is of version {after} already")
    else:
        context.output.line(f"the ledger {shown} went from version {before} to {after}")


@app.command()
def backup(
    typer_context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The new file. It holds user ids: keep it private.")],
    as_json: JsonOption = False,
) -> None:
    """Write a copy of the ledger, as of one moment. Runs may go on meanwhile."""
    context = context_of(typer_context, as_json=as_json)
    back_up(context.ledger_url, path)
    size_bytes = path.stat().st_size
    if context.as_json:
        context.output.document({"file": str(path), "size_bytes": size_bytes})
    else:
        context.output.line(f"the ledger is in {path} ({size_bytes:,} bytes)")
