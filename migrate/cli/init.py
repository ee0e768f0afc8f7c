"""`migrate init [DIR]`: a workspace to start from."""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from migrate.cli.context import Context, JsonOption, context_of
from migrate.cli.records import recorded_run
from migrate.errors import UsageError
from migrate.privacy import make_key
from migrate.spec_docs import schema_text
from migrate.workspace import Workspace

_IGNORED = ".migrate/"
_SPEC = "clover.toml"
_SCHEMA = "spec.schema.json"
_KEY = "pseudonym.key"


def init(
    typer_context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The workspace. Default: --workspace, or the current folder.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the files under plans/ too. The key and the ledger stay.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a workspace to start from: a spec with comments, its schema for editors, and the private folder.

    What is there is kept: in a workspace of somebody's own making, only what is missing is added.
    """
    context = context_of(typer_context, as_json=as_json)
    if folder is not None:
        context = _moved(context, Workspace(folder.absolute()))
    place = context.workspace
    spec = place.specs / _SPEC
    texts = {
        spec: files("migrate.cli").joinpath(_SPEC).read_text(encoding="utf-8"),
        place.specs / _SCHEMA: schema_text(),
    }
    kept = [path for path in texts if path.exists() and not force]
    try:
        written = _write(place, {path: text for path, text in texts.items() if path not in kept})
    except OSError as error:
        raise UsageError(f"{place.root} cannot be written: {error.strerror}") from error
    ledger = place.private / "ledger.sqlite"
    is_new = context.ledger_url == place.ledger_url and not ledger.exists()
    with recorded_run(context, "init", {"folder": str(place.root), "force": force}):
        pass
    written += [ledger] if is_new else []
    if context.as_json:
        document = {"written": [str(path) for path in written], "kept": [str(path) for path in kept]}
        context.output.document({"workspace": str(place.root), **document})
        return
    for path in written:
        context.output.line(f"wrote  {path}")
    for path in kept:
        context.output.line(f"kept   {path} as it is (--force writes it anew, and what was filled in is lost)")
    context.output.note(
        f"next: fill in {spec}, say in which country this machine is (run.country there, or MIGRATE_COUNTRY), "
        f"then `migrate doctor {shlex.quote(str(spec))}`"
    )


def _moved(context: Context, place: Workspace) -> Context:
    """The context for another workspace. A ledger that was named stays; one that was not is the new workspace's."""
    is_default = context.ledger_url == context.workspace.ledger_url
    return replace(context, workspace=place, ledger_url=place.ledger_url if is_default else context.ledger_url)


def _write(place: Workspace, texts: dict[Path, str]) -> list[Path]:
    """Write `texts`, and what else a workspace needs and does not have; the paths of what was written."""
    place.specs.mkdir(parents=True, exist_ok=True)
    place.ensure(place.private)
    for path, text in texts.items():
        _replace(path, text)
    written = list(texts)
    key = place.private / _KEY
    if not key.exists():
        make_key(key)
        written.append(key)
    ignore = place.root / ".gitignore"
    before = ignore.read_text(encoding="utf-8") if ignore.exists() else ""
    if _IGNORED not in before.splitlines():
        _replace(ignore, before + ("" if before.endswith("\n") or not before else "\n") + f"{_IGNORED}\n")
        written.append(ignore)
    return written


def _replace(path: Path, text: str) -> None:
    """Write a file in one step: a full disk leaves the old one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
