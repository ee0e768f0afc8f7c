"""Whether the disks have the room that a spec's work takes, as far as that is known before anything is read.

What is known: the plans that were built of the spec here; without one, about how many rows the directory and the sources'
listings have that lie here as files. Of a live listing, an S3 Inventory and what lies in a store nothing is known, and the fixed
floor is all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from migrate.errors import ExitCode, MigrateError
from migrate.inventory.tables import rows_about
from migrate.ledger import Ledger
from migrate.model import Role
from migrate.planner.folder import Plan, plan_folders
from migrate.spec import Spec
from migrate.stores.probe import Check, CheckStatus
from migrate.units import format_size, number_of
from migrate.workspace import Workspace

FREE_BYTES_WANTED = 5 * 2**30
_OBJECT_BYTES = 460  # inventories, scratch and plan, of one object at a source and its backup; measured with 10 million
_USER_BYTES = 151  # of the ledger; measured with 150 million users


def examine_disks(spec: Spec, workspace: Workspace, ledger_url: str) -> list[Check]:
    """A check for the workspace's disk, and one for that of a SQLite ledger where it is another."""
    objects, users = _known(spec, workspace)
    ledger = None
    with suppress(MigrateError):  # what is wrong with the URL is told by who opens the ledger
        ledger = Ledger.file_of(ledger_url)
    planning = f"{number_of(objects, 'object')} to plan" if objects else ""
    if ledger is None:
        return [_check("disk", workspace.root, "inventories and plans", objects * _OBJECT_BYTES, [planning])]
    there = _existing(ledger)
    has = ledger.stat().st_size if ledger.is_file() else 0
    for_ledger = max(0, users * _USER_BYTES - has)
    keeping = f"{number_of(users, 'user')} in the ledger" if for_ledger else ""
    if there.stat().st_dev == workspace.root.stat().st_dev:
        wanted = objects * _OBJECT_BYTES + for_ledger
        return [_check("disk", workspace.root, "inventories, plans and the ledger", wanted, [planning, keeping])]
    return [
        _check("disk", workspace.root, "inventories and plans", objects * _OBJECT_BYTES, [planning]),
        _check("ledger's disk", there, "the ledger", for_ledger, [keeping]),
    ]


def _check(name: str, place: Path, purpose: str, wanted: int, reasons: list[str]) -> Check:
    free = shutil.disk_usage(place).free
    finding = f"{format_size(free)} free for {purpose}"
    if wanted:
        finding += f"; about {format_size(wanted)} wanted: {', '.join(filter(None, reasons))}"
    fix = (
        f"Planning takes about {_OBJECT_BYTES} bytes an object, and the ledger {_USER_BYTES} a user: make room, move the "
        "workspace, or name another place for the ledger (--ledger)."
    )
    if free < wanted:
        return Check(name, CheckStatus.FAIL, finding, fix, ExitCode.UNREACHABLE)
    if free < FREE_BYTES_WANTED:
        return Check(name, CheckStatus.WARN, finding, fix)
    return Check(name, CheckStatus.OK, finding)


def _existing(path: Path) -> Path:
    """The lowest folder above `path` that is there."""
    return next(folder for folder in Path(os.path.abspath(path)).parents if folder.is_dir())


def _known(spec: Spec, workspace: Workspace) -> tuple[int, int]:
    """About how many objects the sources hold, and users the ledger gets; 0 for what is not known."""
    plans = list(_plans(spec, workspace))
    if plans:
        return max(objects for objects, _ in plans), max(users for _, users in plans)
    listings = [store.inventory for store in spec.by_role(Role.SOURCE).values()]
    objects = sum(_rows(workspace, source.path) for source in listings if source.kind == "listing")
    return objects, _rows(workspace, spec.directory.path)


def _plans(spec: Spec, workspace: Workspace) -> Iterator[tuple[int, int]]:
    """Of each plan of this spec that can be read: the objects listed at its sources, and the users that the ledger gets."""
    for folder in plan_folders(workspace):
        with suppress(MigrateError):
            plan = Plan.open(folder)
            if plan.name == spec.name:
                census, users = plan.document["census"], plan.document["totals"]["users"]
                listed = sum(int(census[source]["listed"]) for source in plan.spec.by_role(Role.SOURCE))
                yield listed, sum(int(count) for state, count in users.items() if state != "out")


def _rows(workspace: Workspace, path: str | None) -> int:
    if path is None or path.startswith("store:"):
        return 0
    return rows_about(workspace.root / path)
