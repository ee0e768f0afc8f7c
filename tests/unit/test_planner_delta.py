"""A delta holds what changed since its line and nothing else: new, changed and deleted objects, users who come or go."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from planning import NOW, THEN, Item, Person, World, make_world, spec_data, spec_with, write_parquet

from migrate.errors import ExitCode, InputError, RefusedError, SpecError
from migrate.model import PlannedObject
from migrate.planner.digest import OBJECTS
from migrate.planner.folder import Plan, PlanReader
from migrate.planner.line import CopyRef, Line, demand_same_line
from migrate.spec import spec_from_data

PEOPLE = [Person("anna", "DE"), Person("bjorn", "NO"), Person("carla", "FR"), Person("doug", "US")]
ITEMS = [Item(f"users/{user}/photos/{n}") for user in ("anna", "bjorn", "carla", "doug") for n in range(4)]
_COPY = (("plan", "INTEGER"), ("batch", "INTEGER"), ("ordinal", "INTEGER"))


def line_of(root: Path, plans: Sequence[Plan], unsound: Iterable[CopyRef] = (), away: Sequence[str] = ()) -> Line:
    """A line all of whose copies have receipts, but for those that are unsound."""
    path, away_path, late_path = root / "unsound.parquet", root / "away.parquet", root / "late.parquet"
    lost = set(unsound)
    write_parquet(path, _COPY, sorted(lost))
    write_parquet(away_path, (("user_id", "VARCHAR"),), [(user,) for user in away])
    write_parquet(late_path, OBJECTS.columns, [])

    def receipts(copies: Sequence[CopyRef]) -> Iterable[tuple[int, int, int, str]]:
        return [(*copy, f"etag-{'-'.join(map(str, copy))}") for copy in copies if copy not in lost]

    return Line(plans, away_path, path, late_path, receipts, "")


def objects_of(plan: Plan) -> dict[str, PlannedObject]:
    reader = PlanReader(plan)
    found = {item.key: item for batch in plan.batches() for item in reader.objects(batch)}
    reader.close()
    return found


def refs_of(plan: Plan, place: int = 0) -> dict[str, list[CopyRef]]:
    """By key, where its copies are."""
    reader = PlanReader(plan)
    found = {
        item.key: [(place, batch.number, copy.ordinal) for copy in item.copies]
        for batch in plan.batches()
        for item in reader.objects(batch)
    }
    reader.close()
    return found


def world_of(root: Path, items: Sequence[Item], people: Sequence[Person] = PEOPLE, **stores: Any) -> World:
    return make_world(root, people, us=items, singapore=stores.pop("singapore", items))


def shape(objects: dict[str, PlannedObject]) -> dict[str, tuple[str | None, int, list[str | None]]]:
    return {key: (item.flag, item.size, [copy.replaces for copy in item.copies]) for key, item in objects.items()}


def test_nothing_changed_is_an_empty_delta(tmp_path: Path) -> None:
    """Every user stands in it, where the line has put them, with nothing to do; its parent is the plan before."""
    plan = world_of(tmp_path, ITEMS).plan(spec_with())
    delta = world_of(tmp_path, ITEMS).delta(spec_with(), line_of(tmp_path, [plan]))
    assert delta.document["parent"] == plan.digest
    assert (delta.document["totals"]["copies"], delta.document["totals"]["batches"]) == (0, 0)
    assert delta.document["census"]["us"]["dispositions"] == {"unchanged": 12}
    before, after = ({user.user_id: user for user in one.users()} for one in (plan, delta))
    for user in before.values():
        found = after[user.user_id]
        assert (found.home, found.backup, found.wave, found.state) == (user.home, user.backup, user.wave, user.state)
        assert found.copies == 0


def test_new_changed_and_deleted_objects_are_planned_and_no_others(tmp_path: Path) -> None:
    """What replaces or removes something names the ETags of what the line has left at both targets."""
    plan = world_of(tmp_path, ITEMS).plan(spec_with())
    refs = refs_of(plan)
    now = [
        *(item for item in ITEMS if item.key not in ("users/anna/photos/0", "users/bjorn/photos/1")),
        Item("users/anna/photos/0", size=11),
        Item("users/carla/photos/new", size=5),
    ]
    delta = world_of(tmp_path, now).delta(spec_with(), line_of(tmp_path, [plan]))

    def etags(key: str) -> list[str | None]:
        return [f"etag-{'-'.join(map(str, ref))}" for ref in refs[key]]

    assert shape(objects_of(delta)) == {
        "users/anna/photos/0": (None, 11, etags("users/anna/photos/0")),
        "users/bjorn/photos/1": ("deleted", 0, etags("users/bjorn/photos/1")),
        "users/carla/photos/new": (None, 5, [None, None]),
    }
    assert delta.document["census"]["us"]["dispositions"] == {"unchanged": 10, "planned": 2}
    assert delta.document["totals"]["copies"] == 6


def test_what_is_not_sound_is_planned_again(tmp_path: Path) -> None:
    """One of the two copies has no receipt: the object is planned, and only the other's ETag is known."""
    plan = world_of(tmp_path, ITEMS).plan(spec_with())
    home, backup = refs_of(plan)["users/anna/photos/2"]
    for lost, replaces in (
        (home, [None, f"etag-0-{backup[1]}-{backup[2]}"]),
        (backup, [f"etag-0-{home[1]}-{home[2]}", None]),
    ):
        delta = world_of(tmp_path, ITEMS).delta(spec_with(), line_of(tmp_path, [plan], [lost]))
        assert shape(objects_of(delta)) == {"users/anna/photos/2": (None, 10, replaces)}


def test_a_deletion_is_not_brought_back_by_a_backup_that_lags(tmp_path: Path) -> None:
    """The backup still holds it, and the spec copies what only a backup has: it is removed, and stays so in later deltas; when
    the source has it again, it is a new object."""
    spec = spec_with(reconcile={"backup_only": {"restricted": "copy"}})
    plan = world_of(tmp_path, ITEMS).plan(spec)
    key = "users/anna/photos/0"
    left = [item for item in ITEMS if item.key != key]
    first = world_of(tmp_path, left, singapore=ITEMS).delta(spec, line_of(tmp_path, [plan]))
    assert [(item.key, item.flag) for item in objects_of(first).values()] == [(key, "deleted")]
    assert first.document["blockers"] == []
    second = world_of(tmp_path, left, singapore=ITEMS).delta(spec, line_of(tmp_path, [plan, first]))
    assert objects_of(second) == {}
    undone = line_of(tmp_path, [plan, first], refs_of(first, 1)[key])
    again = objects_of(world_of(tmp_path, left, singapore=ITEMS).delta(spec, undone))
    assert [(item.flag, [copy.replaces for copy in item.copies]) for item in again.values()] == [
        ("deleted", [copy.replaces for copy in objects_of(first)[key].copies])
    ]
    back = objects_of(world_of(tmp_path, ITEMS).delta(spec, line_of(tmp_path, [plan, first, second])))
    assert shape(back) == {
        key: (None, 10, [f"etag-1-{batch}-{ordinal}" for _, batch, ordinal in refs_of(first, 1)[key]])
    }


def test_users_come_and_go_and_stay_where_they_are(tmp_path: Path) -> None:
    """Who leaves the scope has all of the line's copies removed; who enters is placed as in any plan; who moves within keeps the
    home that they have; who is put on hold keeps all that is there."""
    plan = world_of(tmp_path, ITEMS).plan(spec_with())
    before = {user.user_id: user for user in plan.users()}
    people = [Person("anna", "US"), Person("bjorn", "DE"), Person("carla", "FR", hold=True), Person("doug", "DE")]
    delta = world_of(tmp_path, ITEMS, people).delta(spec_with(), line_of(tmp_path, [plan]))
    after = {user.user_id: user for user in delta.users()}
    assert {name: user.state for name, user in after.items()} == {
        "anna": "leaving",
        "bjorn": "planned",
        "carla": "held",
        "doug": "planned",
    }
    for name in ("anna", "bjorn", "carla"):
        assert (after[name].home, after[name].backup) == (before[name].home, before[name].backup)
    assert {key.split("/")[1]: item.flag for key, item in objects_of(delta).items()} == {
        "anna": "left",
        "doug": None,
    }
    assert delta.document["census"]["us"]["classes"]["out-of-scope"] == 4
    later = [Person("anna", "DE"), *people[1:]]
    back = world_of(tmp_path, ITEMS, later).delta(spec_with(), line_of(tmp_path, [plan, delta]))
    assert {user.user_id: user.home for user in back.users()}["anna"] == before["anna"].home
    assert {item.flag for item in objects_of(back).values()} == {None}


def test_whose_home_has_moved_is_planned_no_more(tmp_path: Path) -> None:
    """What the sources show of them by now is old, and would take what was written in Europe away."""
    plan = world_of(tmp_path, ITEMS).plan(spec_with())
    now = [item for item in ITEMS if item.key != "users/anna/photos/0"] + [Item("users/anna/photos/9")]
    delta = world_of(tmp_path, now).delta(spec_with(), line_of(tmp_path, [plan], away=["anna"]))
    assert objects_of(delta) == {}
    found = {user.user_id: user for user in delta.users()}["anna"]
    assert (found.state, found.home) == ("moved", {user.user_id: user for user in plan.users()}["anna"].home)


def test_a_chain_of_deltas_counts_the_newest_word(tmp_path: Path) -> None:
    """An object that changed twice is planned by each delta, and replaces what the one before has left."""
    key = "users/anna/photos/3"
    plans = [world_of(tmp_path, ITEMS).plan(spec_with())]
    for size in (20, 30):
        now = [item if item.key != key else Item(key, size=size) for item in ITEMS]
        plans.append(world_of(tmp_path, now).delta(spec_with(), line_of(tmp_path, plans)))
        place = len(plans) - 2
        wanted = [f"etag-{place}-{batch}-{ordinal}" for _, batch, ordinal in refs_of(plans[-2], place)[key]]
        assert shape(objects_of(plans[-1])) == {key: (None, size, wanted)}
    assert objects_of(world_of(tmp_path, now).delta(spec_with(), line_of(tmp_path, plans))) == {}


def test_who_comes_back_has_what_only_a_backup_holds_again(tmp_path: Path) -> None:
    """What was removed because a user left was not deleted at the source: it is copied from the backup as before."""
    spec = spec_with(reconcile={"backup_only": {"restricted": "copy"}})
    key = "users/anna/photos/only"
    stores = {"singapore": [*ITEMS, Item(key)]}
    away = [Person("anna", "US"), *PEOPLE[1:]]
    plan = world_of(tmp_path, ITEMS, **stores).plan(spec)
    left = world_of(tmp_path, ITEMS, away, **stores).delta(spec, line_of(tmp_path, [plan]))
    assert objects_of(left)[key].flag == "left"
    back = world_of(tmp_path, ITEMS, **stores).delta(spec, line_of(tmp_path, [plan, left]))
    assert {item.key: item.store for item in objects_of(back).values()}[key] == "singapore"


def test_a_key_that_would_come_to_stand_where_a_settled_one_does_is_refused(tmp_path: Path) -> None:
    """Two source keys, one target key: a later deletion of the one would take the other's object away."""
    rules = {
        "rules": [
            {"name": "photos", "pattern": "users/{user}/photos/{rest}", "category": "restricted"},
            {
                "name": "moved",
                "pattern": "new/{user}/{rest}",
                "target": "users/{user}/photos/{rest}",
                "category": "restricted",
            },
        ]
    }
    spec = spec_with(layout=rules)
    plan = world_of(tmp_path, ITEMS).plan(spec)
    with pytest.raises(RefusedError, match="would each be taken by several objects"):
        world_of(tmp_path, [*ITEMS, Item("new/anna/0")]).delta(spec, line_of(tmp_path, [plan]))


def test_a_capacity_counts_what_is_there_once(tmp_path: Path) -> None:
    """However often the same objects are planned again, a site has room for new users."""
    sites = {**spec_data()["sites"], "hamar": {"country": "NO", "capacity": "100B"}}
    spec = spec_with(sites=sites)
    plans = [world_of(tmp_path, ITEMS).plan(spec)]
    for place in range(3):
        unsound = [ref for refs in refs_of(plans[-1], place).values() for ref in refs]
        plans.append(world_of(tmp_path, ITEMS).delta(spec, line_of(tmp_path, plans, unsound)))
    people = [*PEOPLE, Person("nils", "NO")]
    items = [*ITEMS, Item("users/nils/photos/0")]
    last = world_of(tmp_path, items, people).delta(spec, line_of(tmp_path, plans))
    assert {user.user_id: user.home for user in last.users()}["nils"] == "hamar"


def test_who_has_too_much_for_a_freeze_is_counted_with_what_is_settled(tmp_path: Path) -> None:
    """While there is time to change it, however little a delta plans of them; who does not move is not counted."""
    spec = spec_with(cutover={"objects_max": 4})
    plan = world_of(tmp_path, ITEMS).plan(spec)
    assert plan.document["cutover"]["users_too_large"] == 0
    now = [*ITEMS, Item("users/anna/photos/new"), Item("users/doug/photos/new")]
    delta = world_of(tmp_path, now).delta(spec, line_of(tmp_path, [plan]))
    assert list(objects_of(delta)) == ["users/anna/photos/new"]
    assert delta.document["cutover"]["users_too_large"] == 1
    gone = world_of(tmp_path, ITEMS[1:] + now[-2:]).delta(spec, line_of(tmp_path, [plan]))
    assert gone.document["cutover"]["users_too_large"] == 0
    assert world_of(tmp_path, now).plan(spec).document["cutover"]["users_too_large"] == 1


def test_inputs_that_are_older_than_the_plans_own_are_refused(tmp_path: Path) -> None:
    """What came to be in between would look deleted: each is named (78). As old as the plan's own they serve."""
    world = world_of(tmp_path, ITEMS)
    line = line_of(tmp_path, [world.plan(spec_with())])
    earlier, found = THEN - timedelta(microseconds=1), world.inputs
    singapore = replace(found.inventories["singapore"], as_of=earlier)
    for inputs, name in (
        (replace(found, directory=replace(found.directory, as_of=earlier)), "directory"),
        (replace(found, inventories={**found.inventories, "singapore": singapore}), "singapore"),
    ):
        with pytest.raises(InputError, match=f"older than what plan .* was made from: {name}$") as refused:
            replace(world, inputs=inputs).delta(spec_with(), line)
        assert refused.value.exit_code is ExitCode.BAD_SPEC
    assert objects_of(world.delta(spec_with(), line)) == {}


def test_without_backups_the_next_object_is_not_taken_for_a_second_copy(tmp_path: Path) -> None:
    """Neighbours in a batch that all change: each names the ETag of its own one copy."""
    rules = [{"name": "all", "countries": ["*"], "home": ["hamar"]}]
    spec = spec_with(placement={"rules": rules})
    plan = world_of(tmp_path, ITEMS).plan(spec)
    refs = refs_of(plan)
    changed = [Item(item.key, size=11) for item in ITEMS]
    delta = world_of(tmp_path, changed).delta(spec, line_of(tmp_path, [plan]))
    assert shape(objects_of(delta)) == {
        key: (None, 11, [f"etag-{'-'.join(map(str, ref))}" for ref in copies]) for key, copies in refs.items()
    }


def test_a_delta_may_know_better_what_is_of_this_moment_and_nothing_else(tmp_path: Path) -> None:
    """Directory, inventories, scope, capacities, added rules, limits; what would decide again where something is, is named."""
    data = spec_data()
    data["directory"] |= {"as_of": NOW.isoformat(), "path": "newer.csv", "columns": {"hold": "hold"}}
    data["stores"]["us"] |= {
        "inventory": {"kind": "s3-inventory", "path": "store:reports/manifest.json"},
        "timeout": "2m",
        "concurrency_max": 7,
    }
    data["stores"]["reports"] = {"site": "us", "role": "reports", "url": "file:reports"}
    before = spec_data()
    data["scope"] = {"decisions": {"CH": "in"}}
    data["sites"]["hamar"]["capacity"] = "1TiB"
    data["run"] = {"country": "IE", "concurrency": 3}
    alps = {"name": "alps", "countries": ["CH"], "home": ["dublin-1"], "backup": ["hamar"]}
    data["placement"] = {"rules": [alps, *before["placement"]["rules"]]}
    line = spec_from_data(before, place="before")
    demand_same_line(line, spec_from_data(data, place="now"))

    def refused(change: Callable[[dict[str, Any]], object]) -> tuple[str, ...]:
        other = copy.deepcopy(data)
        change(other)
        with pytest.raises(SpecError, match="decides with the spec of its line") as found:
            demand_same_line(line, spec_from_data(other, place="now"))
        return found.value.problems

    assert [problem.split(" ")[0] for problem in refused(lambda spec: spec["sites"]["dublin-2"].update(weight=3))] == [
        "sites.dublin-2.weight"
    ]
    assert any(
        "stores.us.url" in problem for problem in refused(lambda spec: spec["stores"]["us"].update(url="file:eu"))
    )
    assert any(
        "batches.copies_max" in problem for problem in refused(lambda spec: spec.update(batches={"copies_max": 7}))
    )
    assert any("placement.rules" in problem for problem in refused(lambda spec: spec["placement"]["rules"].pop()))
    assert any("layout.rules" in problem for problem in refused(lambda spec: spec["layout"]["rules"].pop()))
