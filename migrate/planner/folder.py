"""A built plan on disk: opening it, and reading its batches and users. Nothing here writes (`assemble.py` and `build.py` do).

What a plan's digest covers never changes (design, invariant 6). What is read is digested again: `plan.json` and the batch table
when the plan is opened, a batch's copies when they are read, the users before the first is given out.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb

from migrate import __version__
from migrate.errors import IntegrityError, InterruptedRun, MigrateError, SpecError, UsageError, VersionError
from migrate.inventory.files import parquet_glob
from migrate.model import BatchInfo, Category, PlannedCopy, PlannedObject, TargetRole, UserInfo
from migrate.planner.digest import BATCHES, FINDINGS, OBJECTS, USERS, Table, plan_digest, stream_digest
from migrate.planner.summary import summarise
from migrate.spec import Spec, UnknownKeyError, spec_from_data
from migrate.sql import literal
from migrate.stopping import Stopping, never
from migrate.stores.base import Capabilities
from migrate.workspace import Workspace

PLAN_FORMAT = 3
DOCUMENT = "plan.json"
PREFIX_DIGITS = 16
_NAMED = 5  # older plans that an error names
_FETCH_ROWS = 10_000
_CHECKED_ROWS = 50_000
# A row for each copy: the home's has the object's ordinal, the backup's the next one.
_COPIES = (
    "SELECT o.* EXCLUDE (ordinal, home_store, backup_store), o.ordinal + r.rank AS ordinal, r.role AS target_role, "
    "CASE r.rank WHEN 0 THEN o.home_store ELSE o.backup_store END AS target_store"
)
_ROLES = "(VALUES (0, 'home'), (1, 'backup')) AS r(rank, role) WHERE r.rank = 0 OR o.backup_store IS NOT NULL"
_CAPABILITIES = {field.name for field in fields(Capabilities)}


@dataclass(frozen=True, slots=True)
class Plan:
    """An opened plan. `document` is the content of its `plan.json`."""

    digest: str
    name: str
    spec: Spec
    capabilities: dict[str, Capabilities]
    folder: Path
    document: dict[str, Any]
    built_at: datetime

    @staticmethod
    def open(folder: Path) -> Plan:
        """Open the plan in `folder`.

        IntegrityError where its content is not what its digest covers, VersionError where it has a format or keys that this
        version of the tool does not know, UsageError where there is no plan.
        """
        document = _read_document(folder)
        try:
            digest, batches = plan_digest(document), document["digests"]["batches"]
            plan = _plan_of(document, folder, is_whole=digest == document["digest"])
            summary = summarise(document)  # what follows is covered by no digest, and all of it is shown
            for taken in summary.inputs:
                datetime.fromisoformat(taken["as_of"]).astimezone(plan.spec.zone)
                format(taken["input"], "s")
                format(taken.get("left_out") or 0, ",d")
            for backup, seconds in summary.skew_seconds.items():
                timedelta(seconds=seconds), plan.spec.stores[backup]
            relation = plan.relation("batches")
        except VersionError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, MigrateError) as error:
            raise IntegrityError(f"{folder / DOCUMENT} is not a plan's", remedy=_REBUILD) from error
        with _reading(folder) as connection:
            found = stream_digest(connection, relation, BATCHES)
        if found != batches:
            raise IntegrityError(
                f"the batches of the plan in {folder} are not those that it was built with", remedy=_REBUILD
            )
        if digest != plan.digest or not plan.digest.startswith(folder.name[:PREFIX_DIGITS]):
            raise IntegrityError(f"the plan in {folder} is not what its digest covers", remedy=_REBUILD)
        return plan

    def batches(self) -> Iterator[BatchInfo]:
        """The batches, by number."""
        with _reading(self.folder) as connection:
            connection.execute(f"SELECT {BATCHES.names} FROM {self.relation('batches')}")
            while rows := connection.fetchmany(_FETCH_ROWS):
                for row in rows:
                    yield BatchInfo(*row)

    def check_users(self, is_stopping: Stopping = never) -> None:
        """IntegrityError where a row of the users was changed. For who reads them by `relation`; reads them all.

        InterruptedRun when stopped: many users take a while.
        """
        self._check("users", USERS, is_stopping)

    def check_findings(self) -> None:
        """The same for the findings."""
        self._check("findings", FINDINGS)

    def check_copies(self, numbers: Sequence[int], is_stopping: Stopping = never) -> None:
        """IntegrityError where a copy of these batches was changed. For who reads copies by `relation`; reads all of theirs.

        Some batches at a time, so that the texts of their rows fit in memory. InterruptedRun when stopped.
        """
        with _reading(self.folder) as connection:
            for digests in self._digests(connection, numbers):
                if is_stopping():
                    raise InterruptedRun("stopped while a plan was read", remedy="Run it again.")
                first, last = min(digests), max(digests)
                forms = connection.execute(
                    f"SELECT batch, string_agg({OBJECTS.canonical}, '' ORDER BY ordinal) "
                    f"FROM {self.relation('objects', first=first, last=last)} "
                    "WHERE batch BETWEEN ? AND ? AND batch IN (SELECT unnest(?)) GROUP BY batch",
                    [first, last, list(digests)],
                ).fetchall()
                if {batch: hashlib.sha256(form.encode()).digest() for batch, form in forms} != digests:
                    raise IntegrityError(f"copies of the plan in {self.folder} were changed", remedy=_REBUILD)

    def _digests(self, connection: duckdb.DuckDBPyConnection, numbers: Sequence[int]) -> Iterator[dict[int, bytes]]:
        """The digests of those of these batches that the plan has, by number; with each group about as many copies."""
        rows = connection.execute(
            f"SELECT number, digest, sum(copies) OVER (ORDER BY number) // {_CHECKED_ROWS} AS step "
            f"FROM {self.relation('batches')} WHERE number IN (SELECT unnest(?)) ORDER BY number",
            [list(numbers)],
        ).fetchall()
        for _, group in groupby(rows, key=lambda row: row[2]):
            yield {number: digest for number, digest, _ in group}

    def _check(self, kind: str, table: Table, is_stopping: Stopping = never) -> None:
        with _reading(self.folder) as connection:
            found = stream_digest(connection, self.relation(kind), table, is_stopping)
            if found != self.document["digests"][kind]:
                raise IntegrityError(f"the {kind} of the plan in {self.folder} were changed", remedy=_REBUILD)

    def users(self, *, is_sample: bool = False, is_stopping: Stopping = never) -> Iterator[UserInfo]:
        """The users, in order of the SHA-256 of their ids. IntegrityError, before the first, where one was changed;
        InterruptedRun where it was stopped before the first.

        `is_sample`: for who looks at the first ones only, and decides nothing by them. Then none is digested.
        """
        if not is_sample:
            self.check_users(is_stopping)
        with _reading(self.folder) as connection:
            connection.execute(f"SELECT {USERS.names} FROM {self.relation('users')}")
            while rows := connection.fetchmany(_FETCH_ROWS):
                for row in rows:
                    yield UserInfo(*row)

    def objects_file(self, number: int) -> Path:
        """The file that holds batch `number`. UsageError where the plan has no such batch."""
        files = self.document["files"]["objects"]
        place = bisect_right(files, number, key=lambda file: int(file["first_batch"])) - 1
        if place < 0 or number > files[place]["last_batch"]:
            raise UsageError(f"plan {self.digest[:PREFIX_DIGITS]} has no batch {number}")
        return self.folder / str(files[place]["name"])

    def relation(self, kind: str, *, first: int = 0, last: int | None = None) -> str:
        """The SQL that reads the files of a kind (users, objects, batches, findings), or `copies`, a row for each copy of the
        objects; of objects and copies, those in the files with the batches `first` to `last`."""
        if kind == "copies":
            return f"({_COPIES} FROM {self.relation('objects', first=first, last=last)} AS o, {_ROLES})"
        names = [
            file["name"]
            for file in self.document["files"][kind]
            if kind != "objects" or (file["last_batch"] >= first and (last is None or file["first_batch"] <= last))
        ]
        if not names:
            return (
                f"(SELECT {', '.join(f'CAST(NULL AS {sql}) AS {name}' for name, sql in OBJECTS.columns)} WHERE FALSE)"
            )
        return (
            "read_parquet(["
            + ", ".join(literal(parquet_glob(self.folder / name)) for name in names)
            + "], hive_partitioning = false)"
        )


def _plan_of(document: dict[str, Any], folder: Path, *, is_whole: bool) -> Plan:
    """The plan as its document says. VersionError for what this version does not know or refuses; `is_whole`, where the
    digest is right, tells that from an edited plan."""
    try:
        spec = spec_from_data(document["spec"], place="spec", is_kept=True)
    except SpecError as error:
        if is_whole or isinstance(error, UnknownKeyError):
            raise _foreign(document, folder, error.problems[0]) from error
        raise
    for store, found in document["capabilities"].items():
        unknown = sorted(found.keys() - _CAPABILITIES)
        if unknown:
            raise _foreign(document, folder, f"capabilities.{store}.{unknown[0]}: unknown key")
    return Plan(
        digest=document["digest"],
        name=document["name"],
        spec=spec,
        capabilities={name: Capabilities(**found) for name, found in document["capabilities"].items()},
        folder=folder,
        document=document,
        built_at=_built_at(document),
    )


def _foreign(document: dict[str, Any], folder: Path, problem: str) -> VersionError:
    built = document.get("tool_version")
    return VersionError(
        f"the plan in {folder} was built by migrate {built}, and this one, {__version__}, does not read it: {problem}",
        remedy="Use the version that built it, or a newer one; or build the plan again.",
    )


_REBUILD = "Do not use it. Build it again with `migrate plan`, or take an untouched copy of its folder."


class PlanReader:
    """Reads batches of one plan, on a DuckDB connection of its own: for one thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._connection = open_reader()

    def objects(self, batch: BatchInfo) -> list[PlannedObject]:
        """The objects of a batch, with their copies, by ordinal.

        IntegrityError where `batch`, which may come from a ledger, is not the plan's own, or where their digest is not the
        batch's: plan and ledger would have to be edited as one, and the plan's table of batches with them.
        """
        path = self._plan.objects_file(batch.number)
        if batch != self.batch(batch.number):
            raise IntegrityError(
                f"the ledger's batch {batch.number} is not the plan's",
                remedy="Compare the ledger with its last backup.",
            )
        try:
            rows = self._connection.execute(
                f"SELECT {OBJECTS.names}, {OBJECTS.canonical} FROM read_parquet(?, hive_partitioning = false) "
                f"WHERE batch = ? ORDER BY {OBJECTS.order}",
                [parquet_glob(path), batch.number],
            ).fetchall()
        except duckdb.Error as error:
            raise IntegrityError(f"{path} cannot be read", remedy=_REBUILD) from error
        digest = hashlib.sha256()
        for row in rows:
            digest.update(row[-1].encode())
        if digest.digest() != batch.digest:
            raise IntegrityError(f"batch {batch.number} in {path} is not what its digest covers", remedy=_REBUILD)
        return [object_of(row[:-1]) for row in rows]

    def batch(self, number: int) -> BatchInfo | None:
        """What the plan says of a batch; None where it has none of this number."""
        try:
            row = self._connection.execute(
                f"SELECT {BATCHES.names} FROM {self._plan.relation('batches')} WHERE number = ?", [number]
            ).fetchone()
        except duckdb.Error as error:
            raise IntegrityError(
                f"the batches of the plan in {self._plan.folder} cannot be read", remedy=_REBUILD
            ) from error
        return None if row is None else BatchInfo(*row)

    def close(self) -> None:
        self._connection.close()


def object_of(row: tuple[Any, ...]) -> PlannedObject:
    """The object of a row with the columns of `OBJECTS`."""
    (
        _, ordinal, user_id, store, key, version_id, etag, size, last_modified, category, rule, flag, home, backup, home_replaces,
        backup_replaces, target_key,
    ) = row  # fmt: skip
    targets = ((TargetRole.HOME, home, home_replaces), (TargetRole.BACKUP, backup, backup_replaces))
    there = [target for target in targets if target[1] is not None]
    return PlannedObject(
        user_id=user_id,
        store=store,
        key=key,
        version_id=version_id,
        etag=etag,
        size=size,
        last_modified=utc(last_modified),
        category=None if category is None else Category(category),
        rule=rule,
        target_key=target_key,
        flag=flag,
        copies=tuple(
            PlannedCopy(ordinal=ordinal + place, role=role, store=target, replaces=replaces)
            for place, (role, target, replaces) in enumerate(there)
        ),
    )


def utc(value: datetime) -> datetime:
    """A time read from Parquet, which has none but UTC, as an aware one."""
    return value.replace(tzinfo=UTC)


def open_reader(*, spill: Path | None = None) -> duckdb.DuckDBPyConnection:
    """A connection to read plan files with: one thread, 256 MB. What does not fit goes to a folder under `spill`, if given."""
    temporary = "" if spill is None else str(spill / ".spill")
    connection = duckdb.connect(":memory:", config={"threads": 1, "memory_limit": "256MB", "temp_directory": temporary})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


@contextmanager
def _reading(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = open_reader()
    try:
        yield connection
    except duckdb.Error as error:
        raise IntegrityError(f"the plan in {folder} cannot be read", remedy=_REBUILD) from error
    finally:
        connection.close()


def _read_document(folder: Path) -> dict[str, Any]:
    """What `plan.json` says. VersionError where another version of the tool wrote it."""
    document, version = _read_any(folder)
    if version != PLAN_FORMAT:
        raise VersionError(
            f"the plan in {folder} has format {version}, this tool reads {PLAN_FORMAT}",
            remedy="Use the version of `migrate` that built it (`tool_version` in plan.json), or build the plan again.",
        )
    return document


def _read_any(folder: Path) -> tuple[dict[str, Any], object]:
    """What the `plan.json` of any version says, and its format."""
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return dict(document), document["format"]
    except FileNotFoundError as error:
        raise UsageError(f"there is no plan in {folder}", remedy="`migrate plans` lists the plans.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a plan's", remedy=_REBUILD) from error


def find_plan(workspace: Workspace, prefix: str | None) -> Plan:
    """The plan whose digest begins with `prefix`; without one, the newest. UsageError where there is none, or not just one."""
    folders = plan_folders(workspace)
    if prefix is None:
        if not folders:
            raise UsageError("there is no plan here", remedy=_first_step(workspace))
        newest, *others = sorted(folders, key=lambda folder: (_built_when(folder), folder.name), reverse=True)
        return _open_newest(newest, others)
    wanted = prefix.lower()
    found = [folder for folder in folders if folder.name.startswith(wanted[:PREFIX_DIGITS])] if wanted else []
    if len(found) != 1:
        how = "no plan has" if not found else f"{len(found)} plans have"
        remedy = "`migrate plans` lists the plans." if folders else _first_step(workspace)
        raise UsageError(f"{how} a digest that begins with {prefix!r}", remedy=remedy)
    plan = Plan.open(found[0])
    if not plan.digest.startswith(wanted):
        raise UsageError(f"no plan has a digest that begins with {prefix!r}", remedy="`migrate plans` lists the plans.")
    return plan


def _open_newest(newest: Path, others: Sequence[Path]) -> Plan:
    """The newest plan. VersionError where another version built it: an older one is taken only by its name."""
    try:
        return Plan.open(newest)
    except VersionError as error:
        names = ", ".join(folder.name[:12] for folder in others[:_NAMED])
        more = f" Or name an older plan: {names}{', …' if len(others) > _NAMED else ''}." if others else ""
        raise VersionError(error.what, remedy=f"{error.remedy}{more}") from error


def _first_step(workspace: Workspace) -> str:
    if workspace.private.is_dir() or workspace.specs.is_dir():
        return "`migrate plan SPEC` builds one."
    return "This folder is no workspace: name one with --workspace, or make one with `migrate init`."


def plan_folders(workspace: Workspace) -> list[Path]:
    """The folders of the built plans, by name. What a broken-off build left behind is not among them."""
    if not workspace.plans.is_dir():
        return []
    return sorted(path.parent for path in workspace.plans.glob(f"*/{DOCUMENT}") if not path.parent.name.startswith("."))


def _built_at(document: dict[str, Any]) -> datetime:
    at = datetime.fromisoformat(document["built_at"])
    if at.tzinfo is None:
        raise ValueError("a time without its zone")
    return at.astimezone(UTC)


def _built_when(folder: Path) -> datetime:
    """When a plan was built, whichever version built it. IntegrityError where it does not say so: it may be the newest."""
    try:
        return _built_at(_read_any(folder)[0])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise IntegrityError(f"{folder / DOCUMENT} is not a plan's", remedy=_REBUILD) from error
