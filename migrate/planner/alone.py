"""One planning at a time in a workspace, and no rubbish of broken-off ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from migrate.errors import LaterError
from migrate.filelock import locked
from migrate.inventory.tables import SPILL_PREFIX
from migrate.workspace import Workspace

SCRATCH_PREFIX = "plan-"
BUILDING_PREFIX = ".building-"


@contextmanager
def planning_alone(workspace: Workspace) -> Iterator[None]:
    """Hold the kernel's lock on the scratch folder, and clear what killed plannings left. LaterError where another plans.

    The lock dies with its holder, so whatever stands there once it is held belongs to nobody.
    """
    with locked(workspace.ensure(workspace.scratch) / "planning.lock", _refuse):
        for folder, prefix in (
            (workspace.scratch, SCRATCH_PREFIX),
            (workspace.scratch, SPILL_PREFIX),
            (workspace.plans, BUILDING_PREFIX),
        ):
            for left in folder.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def _refuse() -> None:
    raise LaterError("another planning is under way in this workspace", remedy="Wait for it to end, and plan again.")
