"""What users who went back had written at the new home, and what is kept there: one private Parquet file a rollback.

A user's rows are on disk before the user is flipped: then nobody knows any more, who has not written them down. The rows of a
rollback that was killed stay where they were collected, in a folder of the file's name without its ending.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from migrate.inventory.files import seal
from migrate.inventory.tables import open_tables, parquet_sql, writing
from migrate.jobs.sweep_judging import write_columns
from migrate.sql import literal
from migrate.workspace import Workspace

_COLUMNS = (
    ("user_id", "VARCHAR"),
    ("store", "VARCHAR"),
    ("key", "VARCHAR"),
    ("size_bytes", "BIGINT"),
    ("etag", "VARCHAR"),
    ("kind", "VARCHAR"),
)


@dataclass(frozen=True, slots=True)
class Written:
    """An object that was written at the new home since the cutover: a new one, or another where ours was."""

    store: str
    key: str
    size: int
    etag: str
    is_new: bool

    @property
    def kind(self) -> str:
        return "new" if self.is_new else "changed"


class WrittenFile:
    """Collects them, and makes the file in the end. For several threads."""

    def __init__(self, workspace: Workspace, began: datetime, run_id: int) -> None:
        self._workspace = workspace
        # the run beside the time: two rollbacks of other plans may begin at once
        self._folder = workspace.rollbacks / f"rollback-{began.astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{run_id}"
        self._parts: dict[str, Path] = {}
        self._number = 0
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where the rows are collected until there is a file."""
        return self._folder

    def keep(self, user_id: str, objects: Sequence[Written]) -> None:
        """A user's rows, durable when this returns. UnreachableError where they cannot be written."""
        self.drop(user_id)
        if not objects:
            return
        with writing():
            scratch = self._workspace.ensure(self._workspace.scratch)
            with self._lock:
                self._workspace.ensure(self._workspace.rollbacks)
                self._workspace.ensure(self._folder)
                self._number += 1
                path = self._folder / f"{self._number:06d}.parquet"
            temporary = path.with_name(path.name + ".tmp")
            rows = [(user_id, each.store, each.key, each.size, each.etag, each.kind) for each in objects]
            with open_tables(scratch) as connection:
                columns = [[row[place] for row in rows] for place in range(len(_COLUMNS))]
                write_columns(connection, temporary, _COLUMNS, columns)
            seal(temporary, path)
        with self._lock:
            self._parts[user_id] = path

    def drop(self, user_id: str) -> None:
        """The user did not go back after all."""
        with self._lock:
            path = self._parts.pop(user_id, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def finish(self) -> Path | None:
        """The file; None where nothing was written at the new home. UnreachableError where it cannot be written."""
        if not self._folder.exists():
            return None
        final = self._folder.with_name(self._folder.name + ".parquet")
        with writing():
            if self._parts:
                temporary = final.with_name(final.name + ".tmp")
                with open_tables(self._workspace.ensure(self._workspace.scratch)) as connection:
                    connection.execute(
                        f"COPY (SELECT * FROM {parquet_sql(self._folder)} ORDER BY user_id, store, key) "
                        f"TO {literal(str(temporary))} (FORMAT parquet)"
                    )
                seal(temporary, final)
            shutil.rmtree(self._folder)
        return final if self._parts else None
