"""Gathers what a plan is made from: the directory, and an inventory of every source and backup, taken side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from migrate.inventory.aside import side_by_side
from migrate.inventory.directory import read_directory
from migrate.inventory.files import DirectoryFile, InventoryFile, Progress
from migrate.inventory.reverse import check_complete
from migrate.inventory.sample import check_sample
from migrate.inventory.take import take_inventory
from migrate.model import Role
from migrate.spec import Spec
from migrate.stopping import Stopping
from migrate.stores.base import Capabilities, Store
from migrate.workspace import Workspace

_SAMPLE_KEYS = 100


class Opens(Protocol):
    """What planning needs of the door."""

    def open(self, name: str) -> Store: ...


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """What a plan is made from: the directory, an inventory of each source and backup, and what `doctor` found."""

    directory: DirectoryFile
    inventories: Mapping[str, InventoryFile]
    capabilities: Mapping[str, Capabilities]


def gather_directory(
    spec: Spec,
    workspace: Workspace,
    door: Opens,
    *,
    now: Callable[[], datetime],
    on_progress: Progress,
    is_stopping: Stopping,
) -> DirectoryFile:
    """Read the directory. Raises what `read_directory` raises."""
    scratch = workspace.ensure(workspace.scratch)
    directory = read_directory(
        spec.directory, opener=door.open, workspace=workspace, scratch=scratch, now=now, is_stopping=is_stopping
    )
    on_progress("directory", directory.rows)
    return directory


def gather_inputs(
    spec: Spec,
    workspace: Workspace,
    door: Opens,
    directory: DirectoryFile,
    *,
    capabilities: Mapping[str, Capabilities],
    now: Callable[[], datetime],
    on_progress: Progress,
    is_stopping: Stopping,
) -> PlanInputs:
    """Take the inventories; hold those that are no live listing against a sample of the store, both ways.

    Every target is opened as well: what the door refuses of them is refused before anything is planned (design, invariant 7).
    The inventories are taken at the same time, so that as little as can be changes between a source and its backup. Raises what
    `take_inventory`, `check_sample` and `check_complete` raise.
    """
    scratch = workspace.ensure(workspace.scratch)
    able = _capabilities(spec, door, capabilities)
    stores = spec.by_role(Role.SOURCE, Role.BACKUP)
    opened = {name: door.open(name) for name in sorted(stores)}

    def take(name: str, halted: Stopping) -> InventoryFile:
        taken = take_inventory(
            name,
            stores[name],
            opened[name],
            opener=door.open,
            workspace=workspace,
            scratch=scratch,
            now=now,
            on_progress=on_progress,
            is_stopping=halted,
        )
        if taken.kind != "live":
            check_sample(
                taken,
                opened[name],
                count=_SAMPLE_KEYS,
                seed=taken.fingerprint,
                scratch=scratch,
                is_stopping=halted,
            )
            check_complete(
                taken,
                opened[name],
                seed=taken.fingerprint,
                scratch=scratch,
                is_stopping=halted,
            )
        return taken

    jobs = [lambda halted, name=name: take(name, halted) for name in opened]
    taken = side_by_side(jobs, threads=len(jobs), is_stopping=is_stopping)
    return PlanInputs(directory, {inventory.store: inventory for inventory in taken}, able)


def _capabilities(spec: Spec, door: Opens, probed: Mapping[str, Capabilities]) -> dict[str, Capabilities]:
    """What was probed, and what targets that need no probe (a folder) say of themselves."""
    able = dict(probed)
    for name in sorted(spec.by_role(Role.TARGET)):
        found = door.open(name).capabilities
        if name not in able and found != Capabilities():
            able[name] = found
    return able
