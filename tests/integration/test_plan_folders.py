"""Planning from real stores: folders through the door, a directory in CSV, live listings and a plain listing."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import InputError, InterruptedRun, LaterError, RefusedError
from migrate.model import ObjectInfo, Purpose
from migrate.planner.alone import planning_alone
from migrate.planner.build import build_plan
from migrate.planner.folder import Plan, PlanReader
from migrate.planner.summary import PlanSummary
from migrate.spec import Spec, spec_from_data
from migrate.spec.sections import Placement
from migrate.stores.door import Door, Visitor
from migrate.stores.file import FileStore
from migrate.workspace import Workspace

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def make_spec(**stores: dict[str, Any]) -> Spec:
    known = {
        "us": {"site": "us", "role": "source", "url": "file:us"},
        "singapore": {"site": "singapore", "role": "backup", "backup_of": "us", "url": "file:singapore"},
        "dublin": {"site": "dublin", "role": "target", "url": "file:dublin"},
        "hamar": {"site": "hamar", "role": "target", "url": "file:hamar"},
    }
    return spec_from_data(
        {
            "format": 1,
            "name": "folders",
            "sites": {
                "us": {"country": "US"},
                "singapore": {"country": "SG"},
                "dublin": {"country": "IE"},
                "hamar": {"country": "NO"},
            },
            "stores": {name: {**store, **stores.get(name, {})} for name, store in known.items()},
            "directory": {"path": "users.csv", "as_of": NOW.isoformat()},
            "layout": {"rules": [{"name": "files", "pattern": "users/{user}/{rest}", "category": "restricted"}]},
            "placement": {"rules": [{"name": "all", "countries": ["*"], "home": ["dublin"], "backup": ["hamar"]}]},
            "residency": {"target_countries": ["IE", "NO"], "worker_countries": ["IE"]},
        },
        place="test",
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Folders with two users' objects; the backup lacks one and has another that the source lacks."""
    with (tmp_path / "users.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "country"), ("anna", "DE"), ("bo", "no"), ("joe", "US")])
    for name in ("us", "singapore", "dublin", "hamar"):
        (tmp_path / name).mkdir()
    for place in ("us/users/anna/1", "us/users/anna/2", "us/users/bo/1", "us/users/joe/1", "singapore/users/anna/1"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(place[-6:])
    (tmp_path / "singapore/users/anna/old").write_text("deleted")
    return Workspace(tmp_path)


def build(
    spec: Spec, workspace: Workspace, *, country: str = "IE", now: datetime = NOW, **options: Any
) -> Plan | PlanSummary:
    door = Door(spec, workspace, Visitor("op", "host", country, Purpose.PLAN, None), capabilities={})
    try:
        return build_plan(
            spec, workspace, door, capabilities={}, now=lambda: now, on_progress=lambda name, done: None, **options
        )
    finally:
        door.close()


def test_a_plan_comes_from_folders_and_a_csv(workspace: Workspace) -> None:
    """Live listings of both sources and a CSV directory become a plan that reads back."""
    plan = build(make_spec(), workspace)
    assert isinstance(plan, Plan)
    reader = PlanReader(plan)
    objects = [item for batch in plan.batches() for item in reader.objects(batch)]
    reader.close()
    assert sorted(item.key for item in objects) == ["users/anna/1", "users/anna/2", "users/bo/1"]
    assert plan.document["census"]["us"]["classes"]["out-of-scope"] == 1
    assert plan.document["findings"]["backup_only"] == 1
    assert "odd_key" not in plan.document["findings"]
    assert [entry["input"] for entry in plan.document["inputs"]] == ["directory", "singapore", "us"]


def test_a_second_build_from_the_same_stores_has_the_same_digest(workspace: Workspace) -> None:
    """Listing again changes nothing, and neither does a dry run."""
    first, second = build(make_spec(), workspace), build(make_spec(), workspace, dry_run=True)
    assert isinstance(second, PlanSummary)
    assert first.digest == second.digest


def test_planning_sends_the_stores_nothing_that_changes_them(workspace: Workspace) -> None:
    """Sources and targets are as they were, to the last name."""
    names = ("us", "singapore", "dublin", "hamar")
    before = {path: path.stat().st_mtime_ns for name in names for path in (workspace.root / name).rglob("*")}
    build(make_spec(), workspace)
    assert {path: path.stat().st_mtime_ns for name in names for path in (workspace.root / name).rglob("*")} == before


def test_a_worker_elsewhere_plans_nothing(workspace: Workspace) -> None:
    """The keys pass through the machine that plans (invariant 7)."""
    with pytest.raises(RefusedError):
        build(make_spec(), workspace, country="US")
    assert not workspace.plans.exists()


def test_a_stopped_planning_leaves_no_plan(workspace: Workspace) -> None:
    """SIGINT while the inputs are read ends the command, and nothing is built."""
    with pytest.raises(InterruptedRun):
        build(make_spec(), workspace, is_stopping=lambda: True)
    assert not workspace.plans.exists()


def test_plannings_in_one_workspace_wait_for_each_other(workspace: Workspace) -> None:
    """They would share scratch files; the second is told to come again, and what a killed one left is cleared."""
    left = [workspace.scratch / "plan-dead", workspace.plans / ".building-dead"]
    for folder in left:
        folder.mkdir(parents=True)
    with planning_alone(workspace), pytest.raises(LaterError):
        build(make_spec(), workspace)
    assert not any(folder.exists() for folder in left)
    assert isinstance(build(make_spec(), workspace), Plan)


class Listing:
    """Counts the LIST requests of the source stores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        list_store = FileStore.list

        def listed(store: FileStore, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
            self.asked.append(store.name)
            return list_store(store, prefix, start_after=start_after)

        monkeypatch.setattr(FileStore, "list", listed)

    def taken(self) -> list[str]:
        found, self.asked = sorted(set(self.asked)), []
        return found


def test_what_the_directory_alone_shows_is_refused_before_any_store_is_listed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing takes hours. A country that nobody has decided, and one that no placement rule names."""
    listing = Listing(monkeypatch)
    nordic = {"rules": [{"name": "nordic", "countries": ["NO"], "home": ["hamar"]}]}
    with pytest.raises(RefusedError, match=r"no placement rule names these countries: DE \(1 user\)"):
        build(make_spec().model_copy(update={"placement": Placement.model_validate(nordic)}), workspace)
    (workspace.root / "users.csv").write_text("user_id,country\nanna,CH\n")
    with pytest.raises(RefusedError, match="written decision"):
        build(make_spec(), workspace)
    assert listing.taken() == []


def test_a_finished_listing_serves_until_a_plan_has_been_made_of_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run, and a planning that is refused after it, leave it; a plan uses it up; `list_anew` drops it."""
    listing = Listing(monkeypatch)
    dry = build(make_spec(), workspace, dry_run=True)
    assert listing.taken() == ["singapore", "us"]
    full = {**make_spec().sites, "dublin": make_spec().sites["dublin"].model_copy(update={"capacity": 1})}
    with pytest.raises(RefusedError, match="capacity"):
        build(make_spec().model_copy(update={"sites": full}), workspace)
    assert listing.taken() == []
    assert build(make_spec(), workspace).digest == dry.digest
    assert listing.taken() == []
    build(make_spec(), workspace, dry_run=True)
    assert listing.taken() == ["singapore", "us"]
    (workspace.root / "us/users/anna/3").write_text("new")
    assert build(make_spec(), workspace, dry_run=True).digest == dry.digest
    assert listing.taken() == []
    assert build(make_spec(), workspace, dry_run=True, list_anew=True).digest != dry.digest
    assert listing.taken() == ["singapore", "us"]


def test_a_listing_that_is_too_old_or_of_another_place_is_not_used(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is the spec's `max_age`, which may be lowered; a store that has moved is another."""
    listing = Listing(monkeypatch)
    build(make_spec(), workspace, dry_run=True)
    assert listing.taken() == ["singapore", "us"]
    (workspace.root / "us").rename(workspace.root / "moved")
    build(make_spec(us={"url": "file:moved"}), workspace, dry_run=True)
    assert listing.taken() == ["us"]
    young = make_spec(us={"url": "file:moved", "inventory": {"max_age": "1h"}})
    build(young, workspace, dry_run=True, now=NOW + timedelta(hours=1, seconds=1))
    assert listing.taken() == ["us"]


def test_a_listing_that_leaves_keys_out_builds_no_plan(workspace: Workspace) -> None:
    """Invariant 4: keys that have long been there must be in it. With all of them it builds one."""
    files = sorted(path for path in (workspace.root / "us").rglob("*") if path.is_file())
    rows = []
    for path in files:
        os.utime(path, (0, 0))
        etag = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        rows.append((path.relative_to(workspace.root / "us"), path.stat().st_size, etag, "1970-01-01T00:00:00Z"))
    spec = make_spec(us={"inventory": {"kind": "listing", "path": "listing.csv", "as_of": NOW.isoformat()}})

    def write(listed: list[tuple[object, ...]]) -> None:
        with (workspace.root / "listing.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("key", "size", "etag", "last_modified"), *listed])

    write(rows[:-1])
    with pytest.raises(InputError, match="us: 1 of 4 keys that the store lists are not in its inventory"):
        build(spec, workspace)
    assert not list(workspace.plans.glob("*"))
    write(rows)
    assert isinstance(build(spec, workspace), Plan)


def test_a_listing_whose_keys_are_gone_builds_no_plan(workspace: Workspace) -> None:
    """Keys of a listing are asked for with HEAD: one that names other keys than the store has is not trusted (invariant 4)."""
    with (workspace.root / "listing.csv").open("w", newline="") as file:
        rows = [(f"users/anna/{n}%20", 6, "d41d8cd98f00b204e9800998ecf8427e", NOW.isoformat()) for n in range(5)]
        csv.writer(file).writerows([("key", "size", "etag", "last_modified"), *rows])
    spec = make_spec(us={"inventory": {"kind": "listing", "path": "listing.csv", "as_of": NOW.isoformat()}})
    with pytest.raises(InputError):
        build(spec, workspace)
