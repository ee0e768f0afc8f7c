"""A plan folder: the same for the same inputs, and worth nothing once a byte of it was changed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from planning import NOW, Item, Person, World, make_world, spec_with

from migrate.errors import ExitCode, IntegrityError, UsageError, VersionError
from migrate.planner.digest import BLOCK_ROWS, OBJECTS, USERS, join_digests, plan_digest, stream_digest, table_digest
from migrate.planner.folder import Plan, PlanReader, find_plan, plan_folders

PEOPLE = [
    Person(f"user-{number}", ("DE", "no", "EL", "US", "xx", "FR")[number % 6], hold=number == 8) for number in range(40)
]
ITEMS = [
    Item(f"users/user-{number}/photos/{part}é\n", size=part * 9) for number in range(42) for part in range(number % 6)
]
ITEMS += [Item(f"mail/user-2/{part}", size=30) for part in range(60)] + [Item("static/x"), Item("who knows")]
BACKED = [*ITEMS[5:], Item("mail/user-0/gone"), Item("users/user-12/notes/deleted")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, PEOPLE, us=ITEMS, singapore=BACKED)


def read_all(plan: Plan) -> None:
    """What a run reads: the users, the batches, and each batch's objects."""
    list(plan.users())
    reader = PlanReader(plan)
    try:
        for batch in plan.batches():
            reader.objects(batch)
    finally:
        reader.close()


def rewrite(path: Path, change: str) -> None:
    """Replace a Parquet file by the same rows, but for a change."""
    names = [row[0] for row in duckdb.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall()]
    replaced = change.split(" AS ")[-1]
    assert replaced in names
    duckdb.execute(f"COPY (SELECT * REPLACE ({change}) FROM '{path}') TO '{path}.new' (FORMAT parquet)")
    Path(f"{path}.new").replace(path)


def test_a_plan_is_read_back_whole(world: World) -> None:
    """Batches, users and copies add up to the totals (invariant 3), and the copies of an object stand together."""
    plan = world.plan(spec_with(), file_copies=40)
    assert len(plan.document["files"]["objects"]) > 2
    reader = PlanReader(plan)
    ordinals = 0
    seen = set()
    for batch in plan.batches():
        objects = reader.objects(batch)
        copies = [copy for item in objects for copy in item.copies]
        assert [copy.ordinal for copy in copies] == list(range(batch.copies))
        assert (len(objects), sum(item.size * len(item.copies) for item in objects)) == (
            batch.objects,
            batch.size_bytes,
        )
        assert {len(item.copies) for item in objects} == {2}
        assert all(item.copies[0].role == "home" and item.copies[1].role == "backup" for item in objects)
        ordinals += len(copies)
        seen |= {(item.store, item.key) for item in objects}
    reader.close()
    assert ordinals == plan.document["totals"]["copies"] == sum(user.copies for user in plan.users())
    assert len(seen) == plan.document["totals"]["objects"]


def test_the_same_inputs_in_any_order_give_the_same_digest(world: World, tmp_path: Path) -> None:
    """Shuffled rows, one thread or two, little memory: one digest."""
    digests = {world.plan(spec_with()).digest}
    for seed in range(3):
        shuffle = random.Random(seed)
        other = make_world(
            tmp_path / str(seed),
            shuffle.sample(PEOPLE, len(PEOPLE)),
            us=shuffle.sample(ITEMS, len(ITEMS)),
            singapore=shuffle.sample(BACKED, len(BACKED)),
        )
        digests.add(other.plan(spec_with(), threads=1 + seed % 2, memory_bytes=300_000_000).digest)
    assert len(digests) == 1


_CHILD = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from planning import *
from test_planner_plan import PEOPLE, ITEMS, BACKED
print(make_world(Path(sys.argv[2]), PEOPLE, us=ITEMS, singapore=BACKED).plan(spec_with()).digest)
"""


def test_another_time_zone_and_locale_give_the_same_digest(world: World, tmp_path: Path) -> None:
    """Nothing depends on the machine's TZ or locale."""
    environment = {**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", _CHILD, str(Path(__file__).parent), str(tmp_path / "child")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == world.plan(spec_with()).digest


def test_limits_of_a_run_and_the_time_of_the_build_are_outside_the_digest(world: World) -> None:
    """A plan is the same plan with other workers; with another bound of its batches it is another."""
    digest = world.plan(spec_with()).digest
    assert world.plan(spec_with(run={"workers": 8}, time_zone="Europe/Oslo")).digest == digest
    assert world.plan(spec_with(directory={"max_age": "9h"})).digest == digest
    assert world.plan(spec_with(batches={"copies_max": 12, "bytes_max": 1000})).digest != digest


def test_a_plan_is_private_and_leaves_no_scratch(world: World) -> None:
    """Files are readable by their owner alone (invariant 10), and a build leaves only its plan."""
    plan = world.plan(spec_with())
    assert stat.S_IMODE(plan.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in plan.folder.iterdir()} == {0o600}
    assert list(world.workspace.scratch.iterdir()) == []
    assert [path.name for path in world.workspace.plans.iterdir()] == [plan.digest[:16]]


def test_plan_json_names_no_user_and_no_key(world: World) -> None:
    """Persons stand in the manifests only (invariant 10)."""
    text = (world.plan(spec_with()).folder / "plan.json").read_text()
    assert "user-" not in text
    assert "photos/" not in text.replace("users/{user}/photos/{rest}", "")
    assert "who knows" not in text


def test_a_dry_run_keeps_nothing_and_says_the_same(world: World) -> None:
    """The summary of a dry run has the digest that the plan will have."""
    summary = world.forecast(spec_with())
    assert not list(world.workspace.plans.glob("*"))
    assert list(world.workspace.scratch.iterdir()) == []
    plan = world.plan(spec_with())
    assert (summary.digest, summary.copies) == (plan.digest, plan.document["totals"]["copies"])
    assert summary.forecast.put_requests == summary.copies


def netstring(value: object) -> bytes:
    """A field in the documented form, by hand."""
    if value is None:
        return b":"
    raw = str(value).encode()
    return b"%d:%s" % (len(raw), raw)


def canonical(rows: Iterable[tuple[object, ...]]) -> bytes:
    return b"".join(netstring(value) for row in rows for value in row)


def test_digests_have_the_documented_form(world: World) -> None:
    """A batch's digest, the users' and the batches' can be computed without SQL, from the columns in their order."""
    plan = world.plan(spec_with())
    names = OBJECTS.names.replace("last_modified", "epoch_us(last_modified)")
    objects = plan.folder / "objects-0001.parquet"
    for batch in plan.batches():
        rows = duckdb.execute(
            f"SELECT {names} FROM '{objects}' WHERE batch = {batch.number} ORDER BY ordinal"
        ).fetchall()
        assert hashlib.sha256(canonical(rows)).digest() == batch.digest
    users = [tuple(getattr(user, name) for name, _ in USERS.columns) for user in plan.users()]
    assert [row[0] for row in users] == sorted(
        (str(row[0]) for row in users), key=lambda user: hashlib.sha256(user.encode()).digest()
    )
    assert join_digests([hashlib.sha256(canonical(users)).digest()]).hex() == plan.document["digests"]["users"]


def test_a_table_is_digested_in_blocks() -> None:
    """Over more rows than a block holds, the digest is that of the blocks' digests."""
    connection = duckdb.connect(":memory:")
    connection.execute(
        f"CREATE TABLE u AS SELECT CAST(i AS VARCHAR) AS user_id, NULL AS country FROM range({BLOCK_ROWS + 5}) t(i)"
    )
    for name, kind in USERS.columns[2:]:
        connection.execute(f"ALTER TABLE u ADD COLUMN {name} {kind}")
    order = sorted((str(n) for n in range(BLOCK_ROWS + 5)), key=lambda user: hashlib.sha256(user.encode()).digest())
    forms = [netstring(user) + b":" * (len(USERS.columns) - 1) for user in order]
    blocks = [hashlib.sha256(b"".join(forms[start : start + BLOCK_ROWS])).digest() for start in (0, BLOCK_ROWS)]
    wanted = hashlib.sha256(b"".join(blocks)).hexdigest()
    assert table_digest(connection, "u", USERS) == wanted
    assert stream_digest(connection, f"(SELECT * FROM u ORDER BY {USERS.order})", USERS) == wanted
    assert stream_digest(connection, "(SELECT * FROM u ORDER BY user_id)", USERS) != wanted


def test_a_changed_spec_is_found(world: World) -> None:
    """An endpoint edited in plan.json is another plan (invariant 6)."""
    plan = world.plan(spec_with())
    path = plan.folder / "plan.json"
    document = json.loads(path.read_text())
    document["spec"]["stores"]["dublin-1"]["url"] = "file:elsewhere"
    path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError):
        Plan.open(plan.folder)


def edited(plan: Plan, change: Callable[[dict[str, Any]], None], *, rename: bool = False) -> Path:
    """The plan's folder with another plan.json; `rename`: with the digest and the name that fit it."""
    document = json.loads((plan.folder / "plan.json").read_text())
    change(document)
    folder = plan.folder
    if rename:
        document["digest"] = plan_digest(document)
        folder = folder.rename(folder.with_name(document["digest"][:16]))
    (folder / "plan.json").write_text(json.dumps(document))
    return folder


def test_a_plan_from_before_a_key_of_the_spec_stays_what_it_is(world: World) -> None:
    """Invariant 6: the digest covers what was decided from, and not what a later version would add with its default."""

    def without_later_keys(document: dict[str, Any]) -> None:
        del document["spec"]["verify"], document["spec"]["waves"]["count"], document["spec"]["stores"]["us"]["receives"]
        for able in document["capabilities"].values():
            del able["small_put"]

    old = Plan.open(edited(world.plan(spec_with(waves={"canary": "10%"})), without_later_keys, rename=True))
    assert "verify" not in old.document["spec"]
    assert (old.spec.waves.count, old.spec.verify.level) == (4, "content")
    read_all(old)
    with pytest.raises(IntegrityError, match="digest"):
        Plan.open(edited(old, lambda document: document["spec"].update(verify={"level": "listing"})))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["spec"]["waves"].update(later=1),
        lambda document: document["spec"].update(later={}),
        lambda document: document["spec"]["run"].update(later=1),
        lambda document: document["spec"].update(format=2),
        lambda document: document["capabilities"]["hamar"].update(later=True),
    ],
)
@pytest.mark.parametrize("rename", [True, False])
def test_a_plan_with_what_a_later_version_knows_is_told_as_such(world: World, change: Any, rename: bool) -> None:
    """Invariant 12: it is not called tampered with, whether this version's digest over it holds or not."""

    def later(document: dict[str, Any]) -> None:
        change(document)
        document["tool_version"] = "9.9"

    folder = edited(world.plan(spec_with()), later, rename=rename)
    with pytest.raises(VersionError, match=r"built by migrate 9\.9") as caught:
        Plan.open(folder)
    assert "newer" in caught.value.remedy


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec["placement"]["rules"][0].update(home=["dublin-1"]),
        lambda spec: spec["stores"]["hamar"].update(receives=["us"]),
        lambda spec: spec["waves"].update(canary=20_000),
        lambda spec: spec["stores"]["us"]["inventory"].update(checksummed=True),
        lambda spec: spec["scope"]["decisions"].update(CH="out"),
        lambda spec: spec.pop("reconcile"),
    ],
)
def test_any_edit_of_what_decides_is_found(world: World, edit: Any) -> None:
    """Invariant 6, the corrupted twins: a key changed, added or taken out."""
    with pytest.raises(IntegrityError):
        Plan.open(edited(world.plan(spec_with()), lambda document: edit(document["spec"])))


def test_a_broken_folder_is_to_be_moved_before_it_is_planned_again(world: World) -> None:
    """To build again is no way out while it stands there: the error says so, and the folder stays as it is."""
    plan = world.plan(spec_with())
    (plan.folder / "batches.parquet").write_bytes(b"PAR1")
    with pytest.raises(IntegrityError, match="is no longer") as caught:
        world.plan(spec_with())
    assert "Move that folder away" in caught.value.remedy
    plan.folder.rename(plan.folder.parent.parent / "moved")
    assert world.plan(spec_with()).digest == plan.digest


@pytest.mark.parametrize("key", ["blockers", "census", "files", "digests", "totals", "capabilities", "placement"])
def test_a_changed_fact_is_found(world: World, key: str) -> None:
    """Whatever plan.json decides or counts is under the digest."""
    plan = world.plan(spec_with())
    path = plan.folder / "plan.json"
    document = json.loads(path.read_text())
    document[key] = {**document[key], "users": 3} if isinstance(document[key], dict) else []
    path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError):
        Plan.open(plan.folder)


def test_a_changed_copy_is_found(world: World) -> None:
    """A copies row with another target key fails its batch's digest when it is read."""
    plan = world.plan(spec_with())
    rewrite(
        plan.folder / "objects-0001.parquet",
        "CASE WHEN batch = 2 THEN target_key || 'x' ELSE target_key END AS target_key",
    )
    reader = PlanReader(Plan.open(plan.folder))
    batches = list(plan.batches())
    reader.objects(batches[0])
    with pytest.raises(IntegrityError):
        reader.objects(batches[1])
    reader.close()


def test_a_changed_user_is_found(world: World) -> None:
    """A user with another home fails the users' digest before the first one is given out."""
    plan = world.plan(spec_with())
    rewrite(plan.folder / "users-0001.parquet", "CASE WHEN home = 'hamar' THEN 'dublin-1' ELSE home END AS home")
    with pytest.raises(IntegrityError):
        next(plan.users())


def test_swapped_batches_are_found(world: World) -> None:
    """The batch table of another plan, with consistent copies, is not this plan's."""
    plan = world.plan(spec_with())
    other = world.plan(spec_with(batches={"copies_max": 12, "bytes_max": 1000}))
    for name in ("batches.parquet", "objects-0001.parquet"):
        shutil.copy(other.folder / name, plan.folder / name)
    with pytest.raises(IntegrityError):
        Plan.open(plan.folder)


def test_a_renamed_plan_and_a_lost_file_are_found(world: World) -> None:
    """A folder that is not named by its digest, and one that misses its batches, are no plans."""
    plan = world.plan(spec_with())
    moved = plan.folder.rename(plan.folder.with_name("0123456789abcdef"))
    with pytest.raises(IntegrityError):
        Plan.open(moved)
    back = moved.rename(plan.folder)
    (back / "batches.parquet").unlink()
    with pytest.raises(IntegrityError):
        Plan.open(back)


@pytest.mark.parametrize("version", [2, 4, 0, "3"])
def test_another_format_is_refused_with_what_helps(world: World, version: object) -> None:
    """Invariant 12."""
    plan = world.plan(spec_with())
    path = plan.folder / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": version}))
    with pytest.raises(VersionError, match="format") as caught:
        Plan.open(plan.folder)
    assert caught.value.remedy
    assert caught.value.exit_code == ExitCode.BAD_SPEC


def test_plans_are_found_by_prefix_and_the_newest_by_none(world: World, tmp_path: Path) -> None:
    """A prefix that fits none, or more than one, is the operator's mistake."""
    with pytest.raises(UsageError):
        find_plan(world.workspace, None)
    plan = world.plan(spec_with())
    assert find_plan(world.workspace, None).digest == plan.digest
    assert find_plan(world.workspace, plan.digest[:5]).digest == plan.digest
    assert find_plan(world.workspace, plan.digest).digest == plan.digest
    for prefix in ("", "zz", plan.digest[:20] + "zz"):
        with pytest.raises(UsageError):
            find_plan(world.workspace, prefix)
    shutil.copytree(plan.folder, plan.folder.with_name(plan.digest[:4] + "000000000000"))
    with pytest.raises(UsageError, match="2 plans"):
        find_plan(world.workspace, plan.digest[:4])
    assert len(plan_folders(world.workspace)) == 2


def test_an_untouched_plan_is_read_without_complaint(world: World) -> None:
    """The sound twin of the tests above."""
    read_all(Plan.open(world.plan(spec_with()).folder))


def test_a_plan_without_anything_to_copy_is_a_plan(tmp_path: Path) -> None:
    """Users without objects are planned, with a wave and no batch; an empty world has an empty plan."""
    plan = make_world(tmp_path / "a", [Person("anna"), Person("bo")], us=[], singapore=[]).plan(spec_with())
    users = list(plan.users())
    assert [(user.copies, user.first_batch) for user in users] == [(0, None), (0, None)]
    assert {user.wave for user in users} == {0, 1}
    assert list(plan.batches()) == []
    empty = make_world(tmp_path / "b", [], us=[], singapore=[]).plan(spec_with())
    assert list(empty.users()) == []


def tables(plan: Plan) -> dict[str, tuple[int, int]]:
    """The plan's Parquet files, as they lie there."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in plan.folder.glob("*.parquet")}


def test_the_same_plan_with_other_limits_takes_them_on(world: World) -> None:
    """Invariant 6: its tables are not written again, who has it open reads on, and the new spec's limits are there."""
    first = world.plan(spec_with(run={"workers": 1}))
    before = tables(first)
    again = world.plan(spec_with(run={"workers": 7}, time_zone="Europe/Oslo", privacy={"pseudonym_key": "env:OTHER"}))
    assert again.digest == first.digest
    assert tables(again) == before
    found = Plan.open(first.folder).spec
    assert (found.run.workers, found.time_zone, found.privacy.pseudonym_key) == (7, "Europe/Oslo", "env:OTHER")
    read_all(first)
    read_all(Plan.open(first.folder))
    assert {row["name"]: row["rows"] for row in again.document["files"]["objects"]} == {
        path.name: duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall()[0][0]
        for path in first.folder.glob("objects-*.parquet")
    }
    assert stat.S_IMODE((first.folder / "plan.json").stat().st_mode) == 0o600
    assert [path.name for path in world.workspace.plans.iterdir()] == [first.digest[:16]]


def test_a_plan_that_was_planned_again_is_the_newest(world: World) -> None:
    """Who plans anew means that one: without a prefix, commands take it."""
    one, two = spec_with(), spec_with(batches={"copies_max": 12, "bytes_max": 1000})
    digests = [world.plan(spec, now=NOW + timedelta(minutes=step)).digest for step, spec in enumerate((one, two, one))]
    assert find_plan(world.workspace, None).digest == digests[0] == digests[2] != digests[1]


def test_a_build_that_dies_while_it_replaces_leaves_a_whole_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right before the step the old plan.json stands, right after it the new one; either way nothing else lies there."""
    plan = world.plan(spec_with(run={"workers": 1}))
    names = sorted(path.name for path in plan.folder.iterdir())

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for point, workers in (("Plan.open", 1), ("sync_folder", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(f"migrate.planner.build.{point}", die)
            with pytest.raises(KeyboardInterrupt):
                world.plan(spec_with(run={"workers": 7}))
        assert Plan.open(plan.folder).spec.run.workers == workers
        assert sorted(path.name for path in plan.folder.iterdir()) == names


def test_a_broken_plan_is_not_made_to_look_sound(world: World) -> None:
    """Planning again does not put a good plan.json over tables that were changed."""
    plan = world.plan(spec_with())
    rewrite(plan.folder / "batches.parquet", "wave + 1 AS wave")
    written = (plan.folder / "plan.json").read_bytes()
    with pytest.raises(IntegrityError):
        world.plan(spec_with(run={"workers": 7}))
    assert (plan.folder / "plan.json").read_bytes() == written
