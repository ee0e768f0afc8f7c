"""A sweep: every store of a spec is listed whole, also those where a user should not be, and what lies wrong is told.

What a verification does not see stands here: it looks at each user's home and backup alone. A sweep asks of every key whose it
is and whether that user's data may be there, by the users of all plans that the ledger has registered.

- At a target: `outside_home`, where the store is at neither the user's home nor backup; `stray`, where no plan of the ledger
  places the user anywhere, the user is forgotten, or no rule of the layout knows the key.
- At a source or its backup: `residue` of users who are purged, or were so after they were forgotten. What awaits that, of users
  who were cut over, is counted, and no fault.
- At any store: `upload`, one that was begun a day ago or earlier and not ended.

Versions that are not current are data as well, and are judged like objects. Shared keys are nobody's, and right anywhere, but for
those that a plan of another ledger has copied to every site and no plan of this one does: `stray`. What a plan has copied of
orphans is right where it was copied to.

**It goes on where it was stopped.** The listings stand in `.migrate/scratch/sweep` until a sweep has listed every store. Who was
purged or forgotten is asked before the first store is listed, so that nobody is blamed for what was listed before that; where
users belong is asked after the last one, so that whoever came meanwhile is known. Memory grows with neither: DuckDB joins out of
core.

**What failed reads as nothing** (invariant 4): a store that was not listed has no counts, and the sweep ends with its code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb

from migrate.errors import (
    ExitCode,
    IntegrityError,
    LaterError,
    MigrateError,
    UsageError,
    worst,
)
from migrate.filelock import locked
from migrate.inventory.aside import aside
from migrate.inventory.files import sync_folder, write_sealed
from migrate.inventory.tables import open_tables, writing
from migrate.jobs.elsewhere import begun_here
from migrate.jobs.sweep_judging import Count, Judge, Kind, write_columns
from migrate.jobs.sweep_listing import Lister, Look, address_of, stopped, store_names
from migrate.ledger import Ledger, PlacedUser, PlanRow
from migrate.model import Role
from migrate.planner.folder import PREFIX_DIGITS, Plan, plan_folders
from migrate.planner.kept import write_copied_orphans, write_left_everywhere
from migrate.spec import Spec
from migrate.spec.places import place_of
from migrate.states import UserState
from migrate.stopping import Stopping
from migrate.stores.base import Store
from migrate.workspace import Workspace

_LEFT_ALONE = timedelta(days=7)  # what was listed for a sweep that nobody went on with says too little of today
_USERS_AT_ONCE = 20_000
_HEADING = "sweep.json"


@dataclass(frozen=True, slots=True)
class SweptStore:
    """One store. `objects` and `versions` (those that are not current) are what was listed; None: that is not known.

    `counts` is by kind, and AWAITING_PURGE. `problems` are the errors of what could not be had.
    """

    name: str
    role: Role
    site: str
    objects: int | None
    versions: int | None
    counts: Mapping[str, Count]
    problems: tuple[MigrateError, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """How a sweep ended. `file` has its findings; `not_asked` are words for stores that plans name and the spec does not, and for
    plans that cannot be read."""

    began: datetime
    ended: datetime
    plans: tuple[str, ...]
    stores: tuple[SweptStore, ...]
    not_asked: tuple[str, ...]
    file: Path

    def total(self, kind: str) -> Count:
        counts = [store.counts.get(kind, Count()) for store in self.stores]
        return Count(sum(count.number for count in counts), sum(count.size_bytes for count in counts))

    @property
    def exit_code(self) -> ExitCode:
        codes = [problem.exit_code for store in self.stores for problem in store.problems]
        codes += [ExitCode.DIFFERENT] if self.found else []
        codes += [ExitCode.LATER] if self.not_asked else []
        return worst(codes)

    @property
    def found(self) -> int:
        """How many findings there are, of all kinds."""
        return sum(self.total(kind).number for kind in Kind)


def sweep(
    spec: Spec,
    opener: Callable[[str], Store],
    workspace: Workspace,
    ledger: Ledger,
    *,
    unprobed: Collection[str],
    now: Callable[[], datetime],
    is_stopping: Stopping,
    on_progress: Callable[[str, int], None],
) -> Sweep:
    """List every store, and judge what is there.

    `unprobed` are stores of which nobody knows whether they keep versions: they are asked. UsageError where the ledger has no
    plan, LaterError where another sweep is under way, InterruptedRun when stopped: the next one goes on. A store's failure is no
    error of the sweep: it stands in its answer.
    """
    plans = ledger.plans()
    if not plans:
        raise UsageError(
            "no plan has been run with this ledger, so it knows nobody's home",
            remedy="Run a plan first, or name its ledger (--ledger or MIGRATE_LEDGER).",
        )
    scratch = workspace.ensure(workspace.scratch) / "sweep"
    with locked(scratch.with_suffix(".lock"), _refuse), _telling():
        digests = [row.entry.digest for row in plans]
        others, unread = _of_other_ledgers(workspace, digests)
        not_asked = (*_not_asked(spec, workspace, digests), *unread)
        began = _begin(scratch, spec, ledger, now(), is_stopping)
        lister = Lister(spec, opener, scratch, frozenset(unprobed), now, on_progress)
        looks = lister.list_all(is_stopping)
        users = _export(ledger.placed_users, scratch, "users", is_stopping)
        orphans = aside(lambda: write_copied_orphans(_here(workspace, plans), scratch), is_stopping)
        left = aside(lambda: write_left_everywhere(_here(workspace, plans), others, scratch), is_stopping)
        judge = Judge(spec, scratch, users, scratch / "moved", scratch / "forgotten", orphans, left, now())
        counts = aside(lambda: {name: judge.judge(name, look) for name, look in looks.items()}, is_stopping)
        workspace.ensure(workspace.sweeps)
        file = workspace.sweeps / f"sweep-{began:%Y%m%dT%H%M%S%fZ}.parquet"
        aside(lambda: judge.write(file, list(looks)), is_stopping)
        stores = tuple(_swept(spec, name, look, *counts[name]) for name, look in looks.items())
        if not any(store.problems for store in stores):
            _forget(scratch)
    return Sweep(began, now(), tuple(row.entry.digest for row in plans), stores, not_asked, file)


def _refuse() -> None:
    raise LaterError("another sweep is under way in this workspace", remedy="Wait for it to end, and sweep again.")


@contextmanager
def _telling() -> Iterator[None]:
    """DuckDB's errors become our own here; its texts may hold a row, and are not passed on."""
    try:
        with writing():
            yield
    except duckdb.Error as error:
        raise IntegrityError(f"the sweep failed in DuckDB: {type(error).__name__}") from error


# what the sweep answers to


def _begin(scratch: Path, spec: Spec, ledger: Ledger, now: datetime, is_stopping: Stopping) -> datetime:
    """When the sweep that is gone on with began; now, where it is a new one.

    A new one asks who is purged or forgotten first. The heading is written after that: what stands without it counts for nothing.
    """
    addresses = {name: address_of(spec, name) for name in store_names(spec)}
    about = hashlib.sha256(json.dumps([ledger.display_url, addresses], sort_keys=True).encode()).hexdigest()
    path = scratch / _HEADING
    try:
        heading = json.loads(path.read_bytes())
        began = datetime.fromisoformat(heading["began"])
        if heading["about"] == about and began <= now <= began + _LEFT_ALONE:
            return began
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    _forget(scratch)
    scratch.mkdir(mode=0o700)
    _export(ledger.moved_users, scratch, "moved", is_stopping)
    _export(partial(ledger.placed_users, states=[UserState.FORGOTTEN]), scratch, "forgotten", is_stopping)
    write_sealed(path, json.dumps({"began": now.astimezone(UTC).isoformat(), "about": about}).encode())
    return now.astimezone(UTC)


def _forget(scratch: Path) -> None:
    if scratch.exists():
        (scratch / _HEADING).unlink(missing_ok=True)
        sync_folder(scratch)
        shutil.rmtree(scratch)


def _export(
    ask: Callable[[str | None, int], Sequence[PlacedUser]], scratch: Path, name: str, is_stopping: Stopping
) -> Path:
    """Users of the ledger as Parquet, some thousand at a time. The ledger is asked from this thread."""
    folder = scratch / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    after: str | None = None
    with open_tables(scratch) as connection:
        number = 0
        while True:
            if is_stopping():
                raise stopped()
            chunk = ask(after, _USERS_AT_ONCE)
            if chunk or number == 0:  # an empty file has columns to read
                _write_users(connection, folder / f"{number:06d}.parquet", chunk)
            if not chunk:
                return folder
            after, number = chunk[-1].user_id, number + 1


def _write_users(connection: duckdb.DuckDBPyConnection, path: Path, users: Sequence[PlacedUser]) -> None:
    columns = {name: [getattr(user, name) for user in users] for name in ("user_id", "home", "backup", "state")}
    write_columns(connection, path, [(name, "VARCHAR") for name in columns], list(columns.values()))


def _not_asked(spec: Spec, workspace: Workspace, digests: Sequence[str]) -> tuple[str, ...]:
    """What the registered plans name and this spec does not: nobody looks there."""
    folders = {folder.name: folder for folder in plan_folders(workspace)}
    here = set(_places(spec).values())
    found: list[str] = []
    for digest in digests:
        folder = folders.get(digest[:PREFIX_DIGITS])
        if folder is None:
            found.append(f"the stores of plan {digest[:12]}, whose folder is not in this workspace")
            continue
        theirs = _places(Plan.open(folder).spec)
        found += [f"{name} of plan {digest[:12]}" for name, place in theirs.items() if place not in here]
    return tuple(found)


def _here(workspace: Workspace, plans: Sequence[PlanRow]) -> list[Plan]:
    """The plans whose folders are in this workspace, oldest first."""
    folders = {folder.name: folder for folder in plan_folders(workspace)}
    names = [row.entry.digest[:PREFIX_DIGITS] for row in plans]
    return [Plan.open(folders[name]) for name in names if name in folders]


def _of_other_ledgers(workspace: Workspace, digests: Sequence[str]) -> tuple[list[Plan], list[str]]:
    """The plans that were begun in this workspace and that the ledger does not have, oldest first; and words for those of which
    nobody can say what they have copied."""
    mine = {digest[:PREFIX_DIGITS] for digest in digests}
    found: list[Plan] = []
    unread: list[str] = []
    for name in begun_here(workspace):
        if name in mine:
            continue
        try:
            found.append(Plan.open(workspace.plans / name))
        except MigrateError as error:
            unread.append(f"what plan {name[:12]} of another ledger has copied to every site: {error.what}")
    return sorted(found, key=lambda plan: plan.built_at), unread


def _places(spec: Spec) -> dict[str, tuple[str, ...]]:
    return {name: place_of(spec.stores[name].url, spec.stores[name].endpoint) for name in store_names(spec)}


def _swept(spec: Spec, name: str, look: Look, versions: int | None, counts: Mapping[str, Count]) -> SweptStore:
    store = spec.stores[name]
    return SweptStore(name, store.role, store.site, look.rows, versions, counts, tuple(look.problems))
