"""`migrate demo`: a synthetic world, migrated before one's eyes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from migrate.cli.context import context_of
from migrate.demo.tour import show_all

# What would lead the demo's commands to another workspace, ledger or country than the demo's own.
_OURS = ("MIGRATE_WORKSPACE", "MIGRATE_LEDGER", "MIGRATE_COUNTRY")


def demo(
    typer_context: typer.Context,
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where the world is built: a folder that the demo owns.")
    ] = Path("demo"),
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the world afterwards, to look around in it.")
    ] = True,
) -> None:
    """Build a synthetic world of 300 users on folders, and migrate it: planned, killed, resumed, verified, moved, purged."""
    context = context_of(typer_context, as_json=False)
    environment = {name: value for name, value in context.environment.items() if name not in _OURS}
    show_all(folder, environment, context.output.show, keep=keep)
    if not keep:
        shutil.rmtree(folder)
