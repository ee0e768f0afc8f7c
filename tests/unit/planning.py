"""Small worlds to plan in: a spec, a directory and inventories as Parquet, as `migrate.inventory` would leave them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from migrate.inventory.files import DIRECTORY_COLUMNS, INVENTORY_COLUMNS, DirectoryFile, InventoryFile
from migrate.planner.build import Limits, make_plan
from migrate.planner.folder import Plan
from migrate.planner.inputs import PlanInputs
from migrate.planner.line import Line
from migrate.planner.summary import PlanSummary
from migrate.spec import Spec, spec_from_data
from migrate.stores.base import Capabilities
from migrate.stores.keys import ODD_KEYS
from migrate.workspace import Workspace

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
THEN = datetime(2026, 11, 20, 3, tzinfo=UTC)
MODIFIED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def spec_data() -> dict[str, Any]:
    """The programme in small: us and singapore to two sites in Dublin and one at Hamar."""
    return {
        "format": 1,
        "name": "small",
        "sites": {
            "us": {"country": "US"},
            "singapore": {"country": "SG"},
            "dublin-1": {"country": "IE"},
            "dublin-2": {"country": "IE", "weight": 2},
            "hamar": {"country": "NO"},
        },
        "stores": {
            "us": {"site": "us", "role": "source", "url": "file:us"},
            "singapore": {"site": "singapore", "role": "backup", "backup_of": "us", "url": "file:singapore"},
            "dublin-1": {"site": "dublin-1", "role": "target", "url": "file:dublin-1"},
            "dublin-2": {"site": "dublin-2", "role": "target", "url": "file:dublin-2"},
            "hamar": {"site": "hamar", "role": "target", "url": "file:hamar"},
        },
        "directory": {
            "path": "users.csv",
            "as_of": THEN.isoformat(),
            "columns": {"hold": "hold", "status": "status"},
        },
        "layout": {
            "rules": [
                {"name": "photos", "pattern": "users/{user}/photos/{rest}", "category": "restricted"},
                {"name": "mail", "pattern": "mail/{user}/{rest}", "category": "allowable"},
                {"name": "notes", "pattern": "users/{user}/notes/{rest}", "category": "exception"},
                {"name": "static", "pattern": "static/{rest}", "shared": True},
            ]
        },
        "placement": {
            "rules": [
                {
                    "name": "nordic",
                    "countries": ["NO", "SE", "FI", "DK", "IS"],
                    "home": ["hamar"],
                    "backup": ["dublin-1", "dublin-2"],
                },
                {
                    "name": "others",
                    "countries": ["*"],
                    "home": ["dublin-1", "dublin-2"],
                    "backup": ["dublin-1", "dublin-2", "hamar"],
                },
            ]
        },
        "residency": {"target_countries": ["IE", "NO"], "worker_countries": ["IE"]},
        "batches": {"copies_max": 10, "bytes_max": 1000},
        "waves": {"canary": "10%", "count": 2},
    }


def spec_with(**sections: Any) -> Spec:
    data = spec_data()
    for name, section in sections.items():
        if isinstance(section, Mapping) and name in data:
            data[name] = {**data[name], **section}
        else:
            data[name] = section
    return spec_from_data(data, place="test")


@dataclass(frozen=True, slots=True)
class Item:
    """One listed object."""

    key: str
    size: int = 10
    etag: str = ""
    storage_class: str | None = None
    encryption: str | None = None
    lock: str | None = None
    version_id: str | None = None

    def row(self) -> tuple[Any, ...]:
        etag = self.etag or hashlib.md5(self.key.encode()).hexdigest()
        when = MODIFIED.replace(tzinfo=None)
        return (
            self.key, self.version_id, self.size, etag, when, self.storage_class, self.encryption, self.lock,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    user_id: str
    country: str | None = "DE"
    hold: bool = False
    status: str = "active"

    def row(self) -> tuple[Any, ...]:
        return self.user_id, self.country, self.hold, self.status


def write_parquet(path: Path, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[object]]) -> int:
    """Write rows in the order given; how many."""
    connection = duckdb.connect(":memory:")
    connection.execute(f"CREATE TABLE t ({', '.join(f'{name} {kind}' for name, kind in columns)})")
    given = list(rows)
    if given:
        lists = [[row[place] for row in given] for place in range(len(columns))]
        unnested = ", ".join(f"unnest(CAST(? AS {kind}[]))" for _, kind in columns)
        connection.execute(f"INSERT INTO t SELECT {unnested}", lists)
    connection.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    connection.close()
    return len(given)


@dataclass(frozen=True, slots=True)
class World:
    """A workspace with inputs to plan from."""

    workspace: Workspace
    inputs: PlanInputs

    def plan(self, spec: Spec, *, now: datetime = NOW, **limits: Any) -> Plan:
        return self._made(spec, now, None, limits)

    def delta(self, spec: Spec, line: Line, *, now: datetime = NOW, **limits: Any) -> Plan:
        return self._made(spec, now, line, limits)

    def _made(self, spec: Spec, now: datetime, line: Line | None, limits: dict[str, Any]) -> Plan:
        made = make_plan(
            spec,
            self.workspace,
            self.inputs,
            now=now,
            on_progress=lambda stage, done: None,
            line=line,
            limits=Limits(**limits),
        )
        assert isinstance(made, Plan)
        return made

    def forecast(self, spec: Spec) -> PlanSummary:
        made = make_plan(spec, self.workspace, self.inputs, now=NOW, on_progress=lambda stage, done: None, dry_run=True)
        assert isinstance(made, PlanSummary)
        return made

    def with_counts(self, store: str, **counts: int) -> World:
        inventories = dict(self.inputs.inventories)
        inventories[store] = replace(inventories[store], **counts)  # type: ignore[arg-type]
        return World(self.workspace, replace(self.inputs, inventories=inventories))


def make_world(
    root: Path,
    people: Iterable[Person],
    capabilities: Mapping[str, Capabilities] | None = None,
    **stores: Iterable[Item],
) -> World:
    """A world with these users and, by store, these objects."""
    inputs = root / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    users = write_parquet(inputs / "directory.parquet", DIRECTORY_COLUMNS, [person.row() for person in people])
    inventories = {}
    for name, items in stores.items():
        path = inputs / f"{name}.parquet"
        rows = write_parquet(path, INVENTORY_COLUMNS, [item.row() for item in items])
        inventories[name] = InventoryFile(name, "listing", path, rows, THEN, THEN, f"{rows:x}")
    directory = DirectoryFile(inputs / "directory.parquet", users, THEN, "00")
    able = Capabilities(tags=True, metadata=True, **dict.fromkeys(ODD_KEYS, True))
    if capabilities is None:
        capabilities = dict.fromkeys(("dublin-1", "dublin-2", "hamar"), able)
    return World(Workspace(root), PlanInputs(directory, inventories, capabilities))
