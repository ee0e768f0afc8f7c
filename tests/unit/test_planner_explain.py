"""Explaining a user, and comparing plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from odd_keys import ALL_ODD
from planning import Item, Person, make_world, spec_data, spec_with

from migrate.errors import IntegrityError, UsageError
from migrate.placement import Lost
from migrate.planner.diff import Change, Stranded, diff, stranded
from migrate.planner.explain import CopiesShare, UserFinding, explain
from migrate.planner.folder import Plan
from migrate.planner.listing import list_findings
from migrate.planner.summary import summarise
from migrate.stores.base import Capabilities

PEOPLE = [Person(f"user-{number}", ("de", "NO")[number % 2]) for number in range(30)]
ITEMS = [Item(f"mail/user-{number}/{part}") for number in range(30) for part in range(3)]
ITEMS += [Item("users/user-3/photos/cold", storage_class="GLACIER")]


def test_an_explanation_tells_each_decision_and_what_lost(tmp_path: Path) -> None:
    """Scope, placement with its losers, wave, copies by category and store, and findings."""
    people = [*PEOPLE, Person("held", "EL", hold=True)]
    plan = make_world(tmp_path, people, us=ITEMS, singapore=ITEMS).plan(spec_with())
    found = explain(plan, "user-3")
    assert (found.user.country, found.user.country_given, found.user.scope_rule) == ("NO", "NO", "eea-uk-1/eea")
    assert found.placement is not None
    assert (found.placement.rule, found.placement.home) == ("nordic", "hamar")
    (loser,) = found.alternatives
    assert (loser.kind, loser.lost) == ("backup", Lost.LOWER_SCORE)
    assert {found.placement.backup, loser.site} == {"dublin-1", "dublin-2"}
    assert CopiesShare("restricted", "home", "hamar", 1, 10) in found.copies
    assert sum(share.copies for share in found.copies) == found.user.copies == 8
    assert found.findings == (UserFinding("archived", "us", "GLACIER", 1),)
    assert found.wave_reason
    held = explain(plan, "held")
    assert (held.user.state, held.placement, held.copies, held.wave_reason) == ("held", None, (), None)


def test_closed_sites_are_named_for_those_who_came_after(tmp_path: Path) -> None:
    """Whoever had its turn before a site closed may have it; whoever came later is told that it was closed."""
    sites = spec_with().model_dump(mode="json")["sites"]
    sites["dublin-1"]["capacity"] = 200
    plan = make_world(tmp_path, PEOPLE, us=ITEMS, singapore=ITEMS).plan(spec_with(sites=sites))
    closing = plan.document["placement"]["closed"]["dublin-1"]
    assert closing["bytes_placed"] <= 200
    for turn, user in enumerate(plan.users(), start=1):
        found = explain(plan, user.user_id)
        assert ("dublin-1" in found.closed_sites) == (turn >= closing["turn"])
        if found.closed_sites:
            assert "dublin-1" not in (user.home, user.backup)
            assert any(other.lost is Lost.CLOSED for other in found.alternatives)


def test_an_explanation_that_differs_from_the_plan_is_an_integrity_error(tmp_path: Path) -> None:
    """The corrupted twin: a plan whose user has another home than its rules give."""
    plan = make_world(tmp_path, PEOPLE, us=ITEMS, singapore=ITEMS).plan(spec_with())
    path = plan.folder / "users-0001.parquet"
    duckdb.execute(f"COPY (SELECT * REPLACE ('dublin-1' AS home) FROM '{path}') TO '{path}.new' (FORMAT parquet)")
    Path(f"{path}.new").replace(path)
    with pytest.raises(IntegrityError):
        explain(plan, "user-3")


def test_a_user_that_the_plan_does_not_have_is_the_operators_mistake(tmp_path: Path) -> None:
    """The message does not repeat the id (invariant 10)."""
    plan = make_world(tmp_path, PEOPLE, us=[], singapore=[]).plan(spec_with())
    with pytest.raises(UsageError) as caught:
        explain(plan, "someone-else")
    assert "someone-else" not in str(caught.value)


@pytest.mark.parametrize(
    ("person", "state", "rule"),
    [
        (Person("gone", "US"), "out", "eea-uk-1/outside"),
        (Person("gone", "CH"), "out", "eea-uk-1/decision-ch"),
        (Person("gone", "XX"), "review", "eea-uk-1/unknown"),
    ],
)
def test_a_user_who_stays_is_explained_by_the_rule_that_decided(
    tmp_path: Path, person: Person, state: str, rule: str
) -> None:
    """The plan holds who is out of scope too: counted, with no copy and no batch."""
    spec = spec_with(scope={"decisions": {"CH": "out"}})
    world = make_world(tmp_path, [*PEOPLE, person], us=[*ITEMS, Item("mail/gone/x")], singapore=[])
    plan = world.plan(spec)
    found = explain(plan, "gone")
    assert (found.user.state, found.user.scope_rule, found.user.country_given) == (state, rule, person.country)
    assert (found.placement, found.copies, found.user.copies, found.user.wave) == (None, (), 0, None)
    assert (
        sum(plan.document["totals"]["users"].values()) == plan.document["files"]["users"][0]["rows"] == len(PEOPLE) + 1
    )


def test_a_decision_about_who_stays_is_under_the_digest(tmp_path: Path) -> None:
    """Invariant 6: who is out of scope, and by which rule, cannot be changed afterwards."""
    plan = make_world(tmp_path, [*PEOPLE, Person("gone", "US")], us=ITEMS, singapore=[]).plan(spec_with())
    path = plan.folder / "users-0001.parquet"
    changed = "CASE WHEN user_id = 'gone' THEN 'BR' ELSE country END AS country"
    duckdb.execute(f"COPY (SELECT * REPLACE ({changed}) FROM '{path}') TO '{path}.new' (FORMAT parquet)")
    Path(f"{path}.new").replace(path)
    with pytest.raises(IntegrityError):
        list(plan.users())


def build(root: Path, people: list[Person], items: list[Item], **sections: object) -> Plan:
    return make_world(root, people, us=items, singapore=items).plan(spec_with(**sections))


def test_a_diff_tells_what_became_of_users_and_spec(tmp_path: Path) -> None:
    """Spec keys by name with both values; users that came, went on hold, or moved."""
    before = build(tmp_path / "a", PEOPLE, ITEMS)
    people = [Person("user-0", "NO"), *PEOPLE[1:28], Person("fresh"), replace(PEOPLE[29], hold=True)]
    found = diff(before, build(tmp_path / "b", people, ITEMS, waves={"canary": "10%", "count": 3}))
    assert [(change.key, change.before, change.after) for change in found.spec] == [("waves.count", 2, 3)]
    assert (found.users_added, found.users_removed, found.users_state_changed, found.users_moved) == (1, 1, 1, 1)
    assert found.users_wave_changed > 0
    assert found.before != found.after


def test_a_diff_counts_copies_and_their_bytes(tmp_path: Path) -> None:
    """Two copies of each object that came, went or changed."""
    before = build(tmp_path / "a", PEOPLE, ITEMS)
    items = [replace(ITEMS[0], size=99), *ITEMS[1:-1], Item("mail/user-5/new", size=7)]
    found = diff(before, build(tmp_path / "b", PEOPLE, items))
    assert (found.copies_changed, found.copies_removed, found.copies_added) == (
        Change(copies=2, size_bytes=198),
        Change(copies=2, size_bytes=20),
        Change(copies=2, size_bytes=14),
    )


def test_a_diff_tells_what_else_makes_another_plan(tmp_path: Path) -> None:
    """What a store can do, a finding, keys that no rule knows: where neither spec nor copies differ, the reason is told."""
    before = build(tmp_path / "a", PEOPLE, ITEMS)
    able = dict.fromkeys(("dublin-1", "dublin-2", "hamar"), Capabilities(tags=True, metadata=True, **ALL_ODD))
    able["hamar"] = replace(able["hamar"], versions=True)
    other = make_world(tmp_path / "b", PEOPLE, able, us=ITEMS, singapore=ITEMS).plan(spec_with())
    assert [(change.key, change.before, change.after) for change in diff(before, other).found] == [
        ("capabilities.hamar.versions", False, True)
    ]
    unknown, twin = (build(tmp_path / name, PEOPLE, [*ITEMS, Item(name)]) for name in ("one", "two"))
    keys = [change.key for change in diff(before, unknown).found]
    assert {"census.us.classes.unclassified", "findings.unclassified", "blockers.unclassified"} <= set(keys)
    assert [change.key for change in diff(unknown, twin).found] == ["blockers.unclassified", "findings.parquet"]
    assert diff(unknown, twin).copies_changed.copies == 0


@pytest.mark.parametrize("kind", ["diverged", "incomparable", "unbacked"])
def test_keys_that_differ_from_the_backup_are_listed(tmp_path: Path, kind: str) -> None:
    """The sum that the backup's finding has, then each key once, though it has two copies."""
    backup = {
        "diverged": [replace(ITEMS[0], size=99), replace(ITEMS[1], size=99), *ITEMS[2:]],
        "incomparable": [replace(ITEMS[0], encryption="aws:kms"), replace(ITEMS[1], encryption="SSE-C"), *ITEMS[2:]],
        "unbacked": ITEMS[2:],
    }[kind]
    plan = make_world(tmp_path, PEOPLE, us=ITEMS, singapore=backup).plan(spec_with())
    first, *rows = list_findings(plan, kind, limit=10)
    assert (first.store, first.key, first.count) == ("singapore", None, 2)
    assert [(row.store, row.key, row.count) for row in rows] == [
        ("us", key, 1) for key in sorted((ITEMS[0].key, ITEMS[1].key))
    ]
    assert len(list_findings(plan, kind, limit=2)) == 2


def edit(plan: Plan, kind: str, replacement: str) -> None:
    """Edit the first file of a kind, and leave its rows in their order."""
    path = plan.folder / str(plan.document["files"][kind][0]["name"])
    duckdb.execute(f"COPY (SELECT * REPLACE ({replacement}) FROM '{path}') TO '{path}.new' (FORMAT parquet)")
    Path(f"{path}.new").replace(path)


@pytest.mark.parametrize("kind", ["users", "objects", "batches"])
def test_a_diff_of_a_plan_that_was_edited_tells_nothing(tmp_path: Path, kind: str) -> None:
    """What differs is digested before it is told (invariant 6), whichever of the two plans it is in."""
    before, after = build(tmp_path / "a", PEOPLE, ITEMS), build(tmp_path / "b", PEOPLE, ITEMS[1:])
    diff(before, after)
    edit(
        after,
        kind,
        {"users": "wave + 1 AS wave", "objects": "size + 1 AS size", "batches": "size_bytes + 1 AS size_bytes"}[kind],
    )
    for one, other in ((before, after), (after, before)):
        with pytest.raises(IntegrityError):
            diff(Plan.open(one.folder), Plan.open(other.folder))


def placed(root: Path, home: list[str], backup: list[str], people: list[Person] = PEOPLE, **sections: Any) -> Plan:
    """A plan that places everybody alike."""
    rule = {"name": "all", "countries": ["*"], "home": home, "backup": backup}
    return build(root, people, ITEMS, placement={"rules": [rule]}, **sections)


@pytest.mark.parametrize(
    ("home", "backup", "sites"),
    [
        (["dublin-1"], ["hamar"], None),
        (["hamar"], ["dublin-1"], None),
        (["dublin-1"], [], ("hamar",)),
        (["dublin-1"], ["dublin-2"], ("hamar",)),
        (["dublin-2"], ["dublin-1"], ("hamar",)),
        (["dublin-2"], [], ("dublin-1", "hamar")),
    ],
)
def test_who_leaves_a_site_that_another_plan_copies_to_is_stranded(
    tmp_path: Path, home: list[str], backup: list[str], sites: tuple[str, ...] | None
) -> None:
    """The other way round, home and backup are the same two places: nothing is left there."""
    before, after = placed(tmp_path / "a", ["dublin-1"], ["hamar"]), placed(tmp_path / "b", home, backup)
    assert stranded(before, after) == (None if sites is None else Stranded(30, sites))


def test_a_second_copy_strands_nobody_and_one_less_does(tmp_path: Path) -> None:
    """What matters is where the earlier plan has copies and the later one none."""
    one, two = placed(tmp_path / "a", ["dublin-1"], []), placed(tmp_path / "b", ["dublin-1"], ["hamar"])
    assert (stranded(one, two), stranded(two, one)) == (None, Stranded(30, ("hamar",)))


def test_a_site_whose_store_is_another_place_is_another_site(tmp_path: Path) -> None:
    """Nothing looks at the bucket that the site had; a site of another name at the same store is the same place."""
    before = placed(tmp_path / "a", ["dublin-1"], [])
    stores = spec_data()["stores"]
    elsewhere = {**stores, "dublin-1": {**stores["dublin-1"], "url": "file:dublin-9"}}
    assert stranded(before, placed(tmp_path / "b", ["dublin-1"], [], stores=elsewhere)) == Stranded(30, ("dublin-1",))
    stores["dublin-1"]["url"], stores["dublin-2"]["url"] = stores["dublin-2"]["url"], stores["dublin-1"]["url"]
    assert stranded(before, placed(tmp_path / "c", ["dublin-2"], [], stores=stores)) is None


def test_who_has_no_copies_or_does_not_move_is_not_stranded(tmp_path: Path) -> None:
    """Nothing of theirs was copied, or the later plan is not about them."""
    people = [*PEOPLE[:-2], replace(PEOPLE[-2], hold=True), Person("nothing")]
    before = placed(tmp_path / "a", ["dublin-1"], [], [*PEOPLE, Person("nothing")])
    after = placed(tmp_path / "b", ["hamar"], [], people)
    assert stranded(before, after) == Stranded(28, ("dublin-1",))
    assert stranded(before, after, besides=[PEOPLE[0].user_id, "nobody"]) == Stranded(27, ("dublin-1",))


def test_a_sample_of_the_stranded_comes_from_everywhere(tmp_path: Path) -> None:
    """About as many as there are, whatever their turns: one in three is asked for the other two."""
    before, after = placed(tmp_path / "a", ["dublin-1"], []), placed(tmp_path / "b", ["hamar"], [])
    found = stranded(before, after, one_in=3)
    assert found is not None
    assert found.users % 3 == 0
    assert 6 <= found.users <= 75


def test_a_plan_does_not_differ_from_itself(tmp_path: Path) -> None:
    """The sound twin."""
    plan = build(tmp_path, PEOPLE, ITEMS)
    found = diff(plan, plan)
    assert found.before == found.after
    assert (found.spec, found.users_moved, found.copies_added.copies, found.copies_changed.copies) == ((), 0, 0, 0)


def test_a_forecast_counts_requests_and_takes_the_slower_rate(tmp_path: Path) -> None:
    """Whole objects and parts apart; seconds by objects or bytes, whichever takes longer."""
    huge = Item("mail/user-0/huge", size=40 * 2**20)
    plan = build(tmp_path, PEOPLE, [*ITEMS, huge])
    forecast = summarise(plan.document).forecast
    assert forecast.get_requests == len(ITEMS) + 3
    assert forecast.put_requests == 2 * len(ITEMS)
    assert (forecast.part_requests, forecast.upload_requests) == (6, 4)
    assert forecast.bytes_read * 2 == forecast.bytes_written
    assert summarise(plan.document, objects_per_second=1).forecast.seconds == 2 * len(ITEMS) + 2
    assert summarise(plan.document, bytes_per_second=1).forecast.seconds == forecast.bytes_written
