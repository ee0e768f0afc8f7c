"""Lists whole stores for a sweep: current objects, the versions behind them, and unfinished uploads. Judges nothing.

The objects go on from the last key when a sweep was stopped, and so do stores that were listed to their end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from migrate.errors import (
    InputError,
    InterruptedRun,
    MigrateError,
    PermanentStoreError,
    StoreError,
    UnreachableError,
    UnsupportedError,
)
from migrate.inventory.aside import ask, side_by_side
from migrate.inventory.files import write_sealed
from migrate.inventory.live import SEGMENT_ROWS, list_live
from migrate.inventory.segments import SegmentWriter
from migrate.inventory.tables import open_tables
from migrate.inventory.take import live_folder
from migrate.model import Role
from migrate.spec import Spec
from migrate.stopping import Stopping
from migrate.stores.base import Store, UploadInfo

_ANY_AGE = 10 * 365 * 86_400


@dataclass(slots=True)
class Look:
    """What could be had of one store. `objects` and `versions` are folders of Parquet; None where there is no such thing."""

    objects: Path | None = None
    rows: int | None = None
    versions: Path | None = None
    uploads: Sequence[UploadInfo] = ()
    problems: list[MigrateError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lister:
    """Lists the stores, each on threads of its own. What fails at one store halts no other."""

    spec: Spec
    opener: Callable[[str], Store]
    scratch: Path
    unprobed: frozenset[str]
    now: Callable[[], datetime]
    on_progress: Callable[[str, int], None]

    def list_all(self, is_stopping: Stopping) -> dict[str, Look]:
        names = store_names(self.spec)
        jobs = [partial(self._list, name) for name in names]
        looks = side_by_side(jobs, threads=len(jobs), is_stopping=is_stopping, stopped=stopped())
        return dict(zip(names, looks, strict=True))

    def _list(self, name: str, halted: Stopping) -> Look:
        look = Look()
        for step in (self._objects, self._versions, self._uploads):
            try:
                step(name, look, halted)
            except (StoreError, UnreachableError, InputError) as error:
                look.problems.append(error)
                if not isinstance(error, PermanentStoreError):
                    break  # it does not answer, and is asked for nothing more
        return look

    def _objects(self, name: str, look: Look, halted: Stopping) -> None:
        folder = live_folder(self.scratch, name)
        listed = list_live(
            self.opener(name),
            place=address_of(self.spec, name),
            folder=folder,
            scratch=self.scratch,
            max_age_seconds=_ANY_AGE,  # the sweep's own age is what counts
            now=self.now,
            is_stopping=halted,
            on_progress=self.on_progress,
            segment_rows=SEGMENT_ROWS,
            beside=False,
        )
        look.objects, look.rows = folder, listed.rows

    def _versions(self, name: str, look: Look, halted: Stopping) -> None:
        """The versions that are not current. No listing of these goes on from a key: one that was stopped begins anew."""
        store = self.opener(name)
        if not store.capabilities.versions and name not in self.unprobed:
            return
        folder, done = self.scratch / f"versions-{name}", self.scratch / f"versions-{name}.done"

        def list_all() -> None:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(mode=0o700)
            with open_tables(self.scratch) as connection:
                writer, number = SegmentWriter(connection), 0
                for page in store.list_versions():
                    if halted():
                        return
                    writer.add([info for info in page if info.key and not info.is_latest and not info.is_delete_marker])
                    if len(writer) >= SEGMENT_ROWS:
                        writer.seal(folder / f"{number:06d}.parquet")
                        number += 1
                writer.seal(folder / f"{number:06d}.parquet")
            write_sealed(done, b"")

        if not done.exists():
            try:
                ask(list_all)
            except PermanentStoreError:
                if store.capabilities.versions:
                    raise
                return  # it was worth a try
        look.versions = folder

    def _uploads(self, name: str, look: Look, _halted: Stopping) -> None:
        try:
            look.uploads = ask(self.opener(name).list_uploads)
        except UnsupportedError:
            return  # no store for uploads, so there are none


def store_names(spec: Spec) -> list[str]:
    """The stores that may hold users' objects."""
    return sorted(spec.by_role(Role.SOURCE, Role.BACKUP, Role.TARGET))


def address_of(spec: Spec, name: str) -> str:
    """Where a store is, as text: a listing that was begun is gone on with only there."""
    return f"{spec.stores[name].endpoint or ''} {spec.stores[name].url}"


def stopped() -> InterruptedRun:
    return InterruptedRun("stopped before every store was listed", remedy="`migrate sweep` goes on from there.")
