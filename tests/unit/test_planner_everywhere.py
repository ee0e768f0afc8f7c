"""Shared objects and orphans have a policy: what is copied goes to every site, planned and counted as anybody's objects are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planning import Item, Person, make_world, spec_data, spec_with
from test_planner_delta import line_of, refs_of

from migrate.errors import RefusedError, UsageError
from migrate.inventory.forgotten import remember
from migrate.model import PlannedObject, is_stand_in
from migrate.planner.explain import explain
from migrate.planner.folder import Plan, PlanReader
from migrate.planner.line import CopyRef
from migrate.planner.listing import list_findings
from migrate.spec import Spec
from migrate.workspace import Workspace

SITES = ["dublin-1", "dublin-2", "hamar"]
PEOPLE = [Person("anna", "DE"), Person("bjorn", "NO"), Person("doug", "US")]
USERS = [Item(f"users/{user}/photos/{number}") for user in ("anna", "bjorn", "doug") for number in range(2)]
SHARED = [Item(f"static/{number}", size=7) for number in range(5)]
ORPHANS = [Item(f"users/nobody/photos/{number}", size=3) for number in range(2)]
OLD = [Item("old/1", size=100), Item("old/2", size=100)]
ALL = [*USERS, *SHARED, *ORPHANS, *OLD]
COPY = {"policy": "copy"}
EXCLUDE = {"policy": "exclude", "reason": "nobody reads them any more"}


def spec_of(shared: dict[str, str] = COPY, orphans: dict[str, str] = COPY, **sections: Any) -> Spec:
    rules = [
        *(rule for rule in spec_data()["layout"]["rules"] if "shared" not in rule),
        {"name": "static", "pattern": "static/{rest}", "shared": True, **shared},
        {"name": "old", "pattern": "old/{rest}", "shared": True, **EXCLUDE},
    ]
    return spec_with(**{"layout": {"rules": rules}, "orphans": orphans, **sections})


def plan_of(
    root: Path, spec: Spec, items: Sequence[Item] = ALL, people: Sequence[Person] = PEOPLE, **limits: Any
) -> Plan:
    return make_world(root, people, us=items, singapore=items).plan(spec, **limits)


def delta_of(
    root: Path,
    spec: Spec,
    plans: Sequence[Plan],
    items: Sequence[Item],
    people: Sequence[Person] = PEOPLE,
    unsound: Sequence[CopyRef] = (),
) -> Plan:
    return make_world(root, people, us=items, singapore=items).delta(spec, line_of(root, plans, unsound))


def objects(plan: Plan) -> list[PlannedObject]:
    reader = PlanReader(plan)
    found = [item for batch in plan.batches() for item in reader.objects(batch)]
    reader.close()
    return found


def copies(plan: Plan, **wanted: object) -> dict[str, list[tuple[str, str | None, str | None]]]:
    """By source key of what goes to every site: the target stores, with the flag and what may be replaced."""
    found: dict[str, list[tuple[str, str | None, str | None]]] = {}
    for item in objects(plan):
        if is_stand_in(item.user_id):
            found.setdefault(item.key, []).extend((copy.store, item.flag, copy.replaces) for copy in item.copies)
    return {key: sorted(stores) for key, stores in sorted(found.items())}


def etag_at(plan: Plan, key: str, store: str, place: int = 0) -> str:
    """The ETag that the line has left of a key at a store."""
    reader = PlanReader(plan)
    (found,) = (
        f"etag-{place}-{batch.number}-{copy.ordinal}"
        for batch in plan.batches()
        for item in reader.objects(batch)
        for copy in item.copies
        if (item.key, copy.store) == (key, store)
    )
    reader.close()
    return found


def blockers(plan: Plan) -> dict[str, int]:
    return {blocker["kind"]: blocker["count"] for blocker in plan.document["blockers"]}


def test_what_is_copied_goes_to_every_site_once_and_is_counted(tmp_path: Path) -> None:
    """Listed and planned add up with it (invariant 3); what is excluded has its reason; nothing blocks, since all is decided."""
    plan = plan_of(tmp_path, spec_of())
    assert copies(plan) == {item.key: [(site, None, None) for site in SITES] for item in [*SHARED, *ORPHANS]}
    census = plan.document["census"]["us"]
    assert census["classes"] == {"owned": 4, "out-of-scope": 2, "shared": 7, "orphan": 2, "unclassified": 0}
    assert (census["shared"], census["orphans"]) == ({"planned": 5, "exclude": 2}, {"planned": 2})
    assert plan.document["policies"] == [
        {"class": "shared", "rule": "static", "policy": "copy", "reason": None, "objects": 5, "size_bytes": 35},
        {"class": "shared", "rule": "old", **EXCLUDE, "objects": 2, "size_bytes": 200},
        {"class": "orphan", "rule": None, "policy": "copy", "reason": None, "objects": 2, "size_bytes": 6},
    ]
    assert blockers(plan) == {}
    totals = plan.document["totals"]
    assert totals["users"] == {"planned": 2, "held": 0, "review": 0, "out": 1, "stand-in": 2}
    assert totals["copies"] == sum(batch.copies for batch in plan.batches()) == 4 * 2 + 7 * 3
    assert totals["size_bytes"] == sum(user.size_bytes for user in plan.users()) == 4 * 2 * 10 + 3 * 35 + 3 * 6
    stand_ins = [user for user in plan.users() if user.state == "stand-in"]
    assert sorted((user.home, user.backup, user.wave, user.copies) for user in stand_ins) == [
        ("dublin-1", "dublin-2", 0, 14),
        ("hamar", None, 0, 7),
    ]
    assert plan.document["reconciliation"]["singapore"]["equal"] == 4 + 7
    assert [(item.key, item.category, item.rule) for item in objects(plan) if item.key == "static/0"] == [
        ("static/0", None, "static")
    ] * 2


@pytest.mark.parametrize(
    ("orphans", "blocked", "detail"),
    [({}, {"orphan": 4}, None), ({"policy": "keep"}, {}, "keep"), (EXCLUDE, {}, "exclude")],
    ids=["undecided", "keep", "exclude"],
)
def test_orphans_block_until_somebody_decides(
    tmp_path: Path, orphans: dict[str, str], blocked: dict[str, int], detail: str | None
) -> None:
    """Whatever is decided, they stay where they are unless it is `copy`, and are told and counted; so are shared objects."""
    plan = plan_of(tmp_path, spec_of({}, orphans))
    assert (blockers(plan), copies(plan)) == (blocked, {})
    assert plan.document["census"]["us"]["orphans"] == {detail or "undecided": 2}
    assert plan.document["census"]["us"]["shared"] == {"keep": 5, "exclude": 2}
    assert [(row.store, row.user_id, row.detail, row.count) for row in list_findings(plan, "orphan")] == [
        ("singapore", "nobody", detail, 2),
        ("us", "nobody", detail, 2),
    ]
    assert plan.document["policies"][-1] == {
        "class": "orphan", "rule": None, "policy": detail, "reason": orphans.get("reason"), "objects": 2, "size_bytes": 6,
    }  # fmt: skip
    with pytest.raises(UsageError) as refused:
        explain(plan, "nobody")
    assert orphans.get("reason", detail or "nobody has decided") in str(refused.value.remedy)


def test_the_same_plan_comes_of_the_same_inputs_and_another_of_another_policy(tmp_path: Path) -> None:
    """Whatever the order of rows, threads, and how many copies a file holds, but for that last."""
    digest = plan_of(tmp_path / "a", spec_of()).digest
    shuffled = random.Random(3).sample(ALL, len(ALL))
    assert plan_of(tmp_path / "b", spec_of(), shuffled, PEOPLE[::-1], threads=4).digest == digest
    others = [
        spec_of({"policy": "keep"}),
        spec_of(EXCLUDE),
        spec_of(EXCLUDE | {"reason": "another"}),
        spec_of(orphans={}),
    ]
    found = {plan_of(tmp_path / f"c{number}", spec, threads=1).digest for number, spec in enumerate(others)}
    assert len(found - {digest}) == 4


def test_many_shared_objects_are_split_over_batches_within_their_bounds(tmp_path: Path) -> None:
    """Every batch keeps the bounds, and both copies of an object are in one batch."""
    many = [Item(f"static/{number:04d}") for number in range(137)]
    plan = plan_of(tmp_path, spec_of(), [*USERS, *many])
    assert copies(plan) == {item.key: [(site, None, None) for site in SITES] for item in many}
    assert max(batch.copies for batch in plan.batches()) <= 10
    assert sum(batch.copies for batch in plan.batches()) == 137 * 3 + 8
    assert {batch.wave for batch in plan.batches() if batch.key_from is not None} == {0}


def test_a_renamed_shared_key_goes_by_its_target_and_must_not_meet_a_users(tmp_path: Path) -> None:
    """The same refusal as for two users' keys."""
    spec = spec_of({**COPY, "target": "public/{rest}"})
    found = {
        item.target_key for item in objects(plan_of(tmp_path / "a", spec, [*USERS, *SHARED])) if item.rule == "static"
    }
    assert found == {f"public/{number}" for number in range(5)}
    meets = spec_of({**COPY, "target": "users/{rest}"})
    with pytest.raises(RefusedError, match="would each be taken by several objects"):
        plan_of(tmp_path / "b", meets, [*USERS, Item("static/anna/photos/0")])
    kept = spec_of({"policy": "keep", "target": "users/{rest}"})
    assert blockers(plan_of(tmp_path / "c", kept, [*USERS, Item("static/anna/photos/0")])) == {}


def test_a_stand_in_is_never_too_large_for_a_freeze(tmp_path: Path) -> None:
    """Nobody freezes it. A user with as many objects is."""
    found = [
        plan_of(tmp_path / str(most), spec_of(cutover={"objects_max": most})).document["cutover"]["users_too_large"]
        for most in (2, 1)
    ]
    assert found == [0, 2]


def test_what_only_a_backup_holds_blocks_as_anybodys_objects_do(tmp_path: Path) -> None:
    """It may have been deleted at the primary. Orphans have a category that the spec decides by, shared objects have none."""
    spec = spec_of(reconcile={"backup_only": {"restricted": "copy"}})
    plan = make_world(tmp_path, PEOPLE, us=USERS, singapore=[*USERS, *SHARED, *ORPHANS]).plan(spec)
    assert blockers(plan) == {"backup_only": 5}
    assert copies(plan).keys() == {item.key for item in ORPHANS}
    assert plan.document["census"]["singapore"]["shared"] == {"blocked": 5}
    assert (
        plan.document["reconciliation"]["singapore"] | {"equal": 4, "backup_only_copied": 2, "backup_only_blocked": 5}
        == (plan.document["reconciliation"]["singapore"])
    )


def test_a_capacity_holds_what_goes_to_every_site(tmp_path: Path) -> None:
    """It counts before any user is placed: a site closes the earlier for it, and is refused where it cannot even hold that."""
    sites = spec_data()["sites"]
    closing = spec_of(sites={**sites, "dublin-1": {"country": "IE", "capacity": "60B"}})
    people = [Person(f"p{number}", "DE") for number in range(8)]
    items = [Item(f"users/p{number}/photos/0") for number in range(8)]
    plan = plan_of(tmp_path / "a", closing, [*items, *SHARED], people)
    there = [user for user in plan.users() if "dublin-1" in (user.home, user.backup) and user.state == "planned"]
    assert len(there) == 2
    with pytest.raises(RefusedError, match="copied to every site"):
        plan_of(tmp_path / "b", spec_of(sites={**sites, "hamar": {"country": "NO", "capacity": "10B"}}))


def test_a_source_of_shared_objects_alone_is_no_empty_one(tmp_path: Path) -> None:
    """Where they are copied there is something to prove; where they are kept a plan of nothing would end verified."""
    assert blockers(plan_of(tmp_path / "a", spec_of(), SHARED)) == {}
    assert blockers(plan_of(tmp_path / "b", spec_of({}), SHARED)) == {"nothing_owned": 1}


def test_a_stand_in_is_explained_as_no_person(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, spec_of())
    found = explain(plan, "/everywhere/small/1")
    assert (found.user.state, found.placement, found.alternatives) == ("stand-in", None, ())
    assert [(share.category, share.store, share.copies) for share in found.copies] == [
        ("restricted", "dublin-2", 2), ("restricted", "dublin-1", 2), ("static", "dublin-2", 5), ("static", "dublin-1", 5),
    ]  # fmt: skip


# deltas


def test_a_delta_copies_new_and_changed_objects_and_removes_deleted_ones(tmp_path: Path) -> None:
    """At every site, replacing there what the line has left; of the others nothing is planned."""
    spec = spec_of()
    plan = plan_of(tmp_path, spec)
    assert objects(delta_of(tmp_path, spec, [plan], ALL)) == []
    now = [
        *(item for item in ALL if item.key not in ("static/1", "static/2", "users/nobody/photos/0", "old/1")),
        replace(SHARED[1], size=8),
        Item("static/new"),
    ]
    delta = delta_of(tmp_path, spec, [plan], now)
    assert copies(delta) == {
        "static/1": [(site, None, etag_at(plan, "static/1", site)) for site in SITES],
        "static/2": [(site, "deleted", etag_at(plan, "static/2", site)) for site in SITES],
        "static/new": [(site, None, None) for site in SITES],
        "users/nobody/photos/0": [(site, "deleted", etag_at(plan, "users/nobody/photos/0", site)) for site in SITES],
    }
    assert delta.document["census"]["us"]["shared"] == {"planned": 2, "unchanged": 3, "exclude": 1}
    assert objects(delta_of(tmp_path, spec, [plan, delta], now)) == []


def test_where_one_site_is_not_sound_the_object_is_planned_for_all(tmp_path: Path) -> None:
    """What is equal at the others will be present there."""
    spec = spec_of()
    plan = plan_of(tmp_path, spec)
    reader = PlanReader(plan)
    lost = [
        (0, batch.number, copy.ordinal)
        for batch in plan.batches()
        for item in reader.objects(batch)
        for copy in item.copies
        if (item.key, copy.store) == ("static/3", "hamar")
    ]
    delta = delta_of(tmp_path, spec, [plan], ALL, unsound=lost)
    assert copies(delta) == {
        "static/3": [(site, None, None if site == "hamar" else etag_at(plan, "static/3", site)) for site in SITES]
    }


def test_an_orphan_whose_user_appears_is_the_users_from_then_on_and_somebody_is_asked(tmp_path: Path) -> None:
    """Their keys are planned at their home and backup, replacing what was left there; what lies elsewhere blocks until it is
    accepted, once. Never are they planned for the stand-ins, too."""
    spec = spec_of()
    plan = plan_of(tmp_path, spec)
    people = [*PEOPLE, Person("nobody", "SE")]
    delta = delta_of(tmp_path, spec, [plan], ALL, people)
    assert copies(delta) == {}
    assert blockers(delta) == {"claimed": 2}
    found = {
        (item.key, copy.store): copy.replaces
        for item in objects(delta)
        for copy in item.copies
        if item.user_id == "nobody"
    }
    user = {user.user_id: user for user in delta.users()}["nobody"]
    assert found == {
        (item.key, store): etag_at(plan, item.key, store) for item in ORPHANS for store in (user.home, user.backup)
    }
    again = delta_of(tmp_path, spec, [plan, delta], ALL, people)
    assert (objects(again), blockers(again)) == ([], {})


def test_an_orphan_whose_user_is_out_of_scope_or_whose_key_is_gone_is_removed_everywhere(tmp_path: Path) -> None:
    spec = spec_of()
    plan = plan_of(tmp_path, spec)
    for country, flag, items in (("US", "left", ALL), ("DE", "deleted", [*USERS, *SHARED, *OLD])):
        delta = delta_of(tmp_path, spec, [plan], items, [*PEOPLE, Person("nobody", country)])
        expected = {item.key: [(site, flag, etag_at(plan, item.key, site)) for site in SITES] for item in ORPHANS}
        assert (copies(delta), blockers(delta)) == (expected, {})
        assert objects(delta_of(tmp_path, spec, [plan, delta], items, [*PEOPLE, Person("nobody", country)])) == []


def test_who_is_forgotten_in_the_workspace_is_nobodys_orphan(tmp_path: Path) -> None:
    """The directory does not have them any more, the sources do: their keys stay where they are, and block nothing. Those of
    others are copied as ever (the twin)."""
    items = [*ALL, Item("users/gone/photos/0", size=5)]
    (tmp_path / ".migrate").mkdir(mode=0o700)
    remember(Workspace(tmp_path), ["gone", "anna", "it's nobody"])
    plan = plan_of(tmp_path, spec_of(), items)
    assert {key for key in copies(plan) if key.startswith("users/")} == {item.key for item in ORPHANS}
    assert {item.user_id for item in objects(plan) if not is_stand_in(item.user_id)} == {"anna", "bjorn"}
    kept = [row for row in plan.document["policies"] if row["class"] == "orphan"]
    assert {row["policy"]: row["objects"] for row in kept} == {"copy": 2, "keep": 1}
    blocked = [plan_of(root, spec_of(orphans={}), items) for root in (tmp_path, tmp_path / "another")]
    assert [blockers(plan) for plan in blocked] == [{"orphan": 4}, {"orphan": 6}]  # at the source and at its backup


def test_whom_the_line_has_copied_is_no_orphan_where_the_directory_loses_them(tmp_path: Path) -> None:
    """Nothing of theirs is copied to every site: they are vanished, which blocks, and so do their keys."""
    spec = spec_of()
    plan = plan_of(tmp_path, spec)
    delta = delta_of(tmp_path, spec, [plan], [*ALL, Item("users/anna/photos/new")], PEOPLE[1:])
    assert copies(delta) == {}
    assert blockers(delta) == {"vanished": 1, "orphan": 3 * 2}
    assert refs_of(delta) == {}
