"""The census and what it finds: every key in one class, sums that add up, and what stops a plan."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_keys import ALL_ODD
from planning import Item, Person, World, make_world, spec_with

from migrate.errors import InputError, IntegrityError, RefusedError, UnreachableError
from migrate.planner.alone import planning_alone
from migrate.planner.digest import FINDINGS
from migrate.planner.folder import Plan, PlanReader
from migrate.planner.session import Session
from migrate.stores.base import Capabilities

MD5 = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


def findings(plan: Plan, kind: str) -> list[tuple[Any, ...]]:
    return duckdb.execute(
        f"SELECT store, user_id, key, detail, count FROM {plan.relation('findings')} WHERE kind = ? ORDER BY {FINDINGS.order}",
        [kind],
    ).fetchall()


def flags(plan: Plan) -> dict[str, tuple[str, str | None]]:
    reader = PlanReader(plan)
    found = {item.key: (item.store, item.flag) for batch in plan.batches() for item in reader.objects(batch)}
    reader.close()
    return found


PEOPLE = [
    Person("in", "DE"),
    Person("out", "US"),
    Person("held", "FR", hold=True),
    Person("odd", "XX"),
    Person("gone", "DE", status="closed"),
]


def test_every_kind_of_key_has_its_class(tmp_path: Path) -> None:
    """Owned, out of scope, shared, orphan and unclassified, and the owned ones by what is done with them (invariant 3)."""
    items = [Item(f"mail/{user}/x") for user in ("in", "out", "held", "odd", "gone", "nobody")]
    plan = make_world(tmp_path, PEOPLE, us=[*items, Item("static/logo"), Item("stray\n")], singapore=[]).plan(
        spec_with()
    )
    census = plan.document["census"]["us"]
    assert census["classes"] == {"owned": 4, "out-of-scope": 1, "shared": 1, "orphan": 1, "unclassified": 1}
    assert census["dispositions"] == {"planned": 1, "held": 1, "review": 2}
    assert {(user.user_id, user.state, user.scope_rule) for user in plan.users()} == {
        ("in", "planned", "eea-uk-1/eu"),
        ("out", "out", "eea-uk-1/outside"),
        ("held", "held", "eea-uk-1/eu"),
        ("odd", "review", "eea-uk-1/unknown"),
        ("gone", "review", "scope.statuses"),
    }
    assert plan.document["totals"]["users"] == {"planned": 1, "held": 1, "review": 2, "out": 1}
    assert {blocker["kind"]: blocker["count"] for blocker in plan.document["blockers"]} == {
        "unclassified": 1,
        "orphan": 1,
        "review": 2,
    }
    assert findings(plan, "unclassified") == [("us", None, "stray\n", None, 1)]
    assert findings(plan, "orphan") == [("us", "nobody", None, None, 1)]


KEYS = st.lists(
    st.sampled_from(["mail/", "users/", "in", "out", "nobody", "/photos/", "/", "static/", "x", "\n", "é", "//"]),
    max_size=6,
).map("".join)


@given(st.sets(KEYS.filter(bool), max_size=30), st.sets(KEYS.filter(bool), max_size=30))
@settings(deadline=None, max_examples=15)
def test_every_key_is_in_exactly_one_class(
    tmp_path_factory: pytest.TempPathFactory, primary: set[str], backup: set[str]
) -> None:
    """Whatever is listed, the classes of each store add up to it (invariant 3)."""
    world = make_world(
        tmp_path_factory.mktemp("world"), PEOPLE, us=map(Item, sorted(primary)), singapore=map(Item, sorted(backup))
    )
    plan = world.plan(spec_with(reconcile={"backup_only": {"restricted": "copy", "allowable": "exclude"}}))
    for name, keys in (("us", primary), ("singapore", backup)):
        census = plan.document["census"][name]
        assert census["listed"] == sum(census["classes"].values()) == len(keys)
        assert sum(census["dispositions"].values()) == census["classes"]["owned"]


def test_the_two_sources_are_reconciled(tmp_path: Path) -> None:
    """Equal, diverged by size or ETag, incomparable, unbacked and backup-only keys are told apart; the primary wins."""
    names = ("same", "etag", "size", "parts", "parts-same", "parts-etag", "kms", "alone")
    primary = {f"mail/in/{name}": Item(f"mail/in/{name}", etag=MD5) for name in names}
    primary["mail/in/parts-same"] = Item("mail/in/parts-same", etag=f"{MD5}-3")
    primary["mail/in/parts-etag"] = Item("mail/in/parts-etag", etag=f"{MD5}-3")
    backup = {key: item for key, item in primary.items() if key != "mail/in/alone"}
    backup["mail/in/etag"] = replace(backup["mail/in/etag"], etag=OTHER)
    backup["mail/in/size"] = replace(backup["mail/in/size"], size=11)
    backup["mail/in/parts"] = replace(backup["mail/in/parts"], etag=f"{OTHER}-2")
    backup["mail/in/parts-etag"] = replace(backup["mail/in/parts-etag"], etag=f"{OTHER}-3")
    backup["mail/in/kms"] = replace(backup["mail/in/kms"], etag=OTHER, encryption="aws:kms")
    backup["mail/in/only"] = Item("mail/in/only")
    backup["mail/held/only"] = Item("mail/held/only")
    plan = make_world(tmp_path, PEOPLE, us=primary.values(), singapore=backup.values()).plan(spec_with())
    counts = plan.document["reconciliation"]["singapore"]
    assert counts == {
        "equal": 2,
        "diverged": 3,
        "incomparable": 2,
        "unbacked": 1,
        "backup_only_copied": 0,
        "backup_only_excluded": 0,
        "backup_only_blocked": 1,
    }
    found = flags(plan)
    assert {key.rsplit("/")[-1] for key, (_, flag) in found.items() if flag == "diverged"} == {
        "etag",
        "size",
        "parts-etag",
    }
    assert [key for key, (_, flag) in found.items() if flag == "unbacked"] == ["mail/in/alone"]
    assert all(store == "us" for store, _ in found.values())
    assert [(b["kind"], b["count"]) for b in plan.document["blockers"]] == [("review", 2), ("backup_only", 1)]
    assert findings(plan, "backup_only") == [("singapore", "in", "mail/in/only", "block", 1)]


def test_backup_only_keys_follow_the_spec_by_category(tmp_path: Path) -> None:
    """`copy` reads from the backup what only it has, `exclude` leaves it, and both are recorded."""
    backup = [
        Item("users/in/photos/a", size=77, etag=OTHER, version_id="v7"),
        Item("mail/in/b"),
        Item("users/in/notes/c"),
    ]
    spec = spec_with(reconcile={"backup_only": {"restricted": "copy", "allowable": "exclude"}})
    plan = make_world(tmp_path, PEOPLE, us=[], singapore=backup).plan(spec)
    reader = PlanReader(plan)
    (item,) = (item for batch in plan.batches() for item in reader.objects(batch))
    reader.close()
    assert (item.store, item.flag, item.size, item.etag, item.version_id) == (
        "singapore",
        "backup_only",
        77,
        OTHER,
        "v7",
    )
    assert item.last_modified.isoformat() == "2026-01-02T03:04:05.678901+00:00"
    assert {(key, detail) for _, _, key, detail, _ in findings(plan, "backup_only")} == {
        ("users/in/photos/a", "copy"),
        ("mail/in/b", "exclude"),
        ("users/in/notes/c", "block"),
    }
    assert [blocker["count"] for blocker in plan.document["blockers"] if blocker["kind"] == "backup_only"] == [1]


def test_several_backups_are_each_reconciled(tmp_path: Path) -> None:
    """A key is unbacked only where no backup has it, and a backup-only key is read from the first by name."""
    stores = spec_with().model_dump(mode="json")["stores"]
    stores["asia"] = {**stores["singapore"], "url": "file:asia"}
    spec = spec_with(stores=stores, reconcile={"backup_only": {"allowable": "copy"}})
    world = make_world(
        tmp_path,
        PEOPLE,
        us=[Item("mail/in/a"), Item("mail/in/b")],
        asia=[Item("mail/in/a", size=1), Item("mail/in/x", size=5)],
        singapore=[Item("mail/in/a"), Item("mail/in/x", size=6), Item("mail/in/y")],
    )
    plan = world.plan(spec)
    assert flags(plan) == {
        "mail/in/a": ("us", "diverged"),
        "mail/in/b": ("us", "unbacked"),
        "mail/in/x": ("asia", "backup_only"),
        "mail/in/y": ("singapore", "backup_only"),
    }
    assert plan.document["reconciliation"]["singapore"]["equal"] == 1
    assert plan.document["reconciliation"]["asia"]["diverged"] == 1


def test_blocker_digests_change_with_what_they_accept(tmp_path: Path) -> None:
    """An acceptance of some keys is not one of others, however many they are."""
    spec = spec_with()
    digests = set()
    for name in ("stray", "other"):
        plan = make_world(tmp_path / name, PEOPLE, us=[Item(name)], singapore=[]).plan(spec)
        digests.add(next(b["digest"] for b in plan.document["blockers"] if b["kind"] == "unclassified"))
    assert len(digests) == 2


def blockers(plan: Plan) -> dict[str, tuple[int, str]]:
    return {blocker["kind"]: (blocker["count"], blocker["digest"]) for blocker in plan.document["blockers"]}


def test_users_whom_the_directory_lost_block_a_run(tmp_path: Path) -> None:
    """The corrupted twin of a whole directory: rows that were cut leave their keys as orphans, and nobody stays behind unseen."""
    items = [Item(f"mail/{user}/{number}") for user in ("in", "cut", "held") for number in range(3)]
    whole, cut = (
        make_world(tmp_path / name, people, us=items, singapore=items).plan(spec_with())
        for name, people in (("whole", [*PEOPLE[:3], Person("cut")]), ("cut", PEOPLE[:3]))
    )
    assert blockers(whole) == {}
    assert blockers(cut)["orphan"][0] == 6
    assert findings(cut, "orphan") == [("singapore", "cut", None, None, 3), ("us", "cut", None, None, 3)]


def test_an_acceptance_of_orphans_covers_users_and_numbers(tmp_path: Path) -> None:
    """Another user, or another number of keys of the same user, is another digest."""
    lists = (["a/1", "a/2"], ["a/1", "b/1"], ["b/1", "b/2"], ["a/1"], ["a/1", "a/2", "a/3"])
    digests = {
        blockers(
            make_world(tmp_path / str(number), PEOPLE, us=[Item(f"mail/{key}") for key in keys], singapore=[]).plan(
                spec_with()
            )
        )["orphan"]
        for number, keys in enumerate(lists)
    }
    assert len({digest for _, digest in digests}) == len(lists)


@pytest.mark.parametrize(
    ("keys", "detail"),
    [
        ([], "it holds no key"),
        (["mail/out/x", "static/logo", "mail/nobody/x", "stray"], "none of 4 keys is owned"),
    ],
)
def test_a_source_of_whose_keys_nothing_is_owned_blocks_a_run(tmp_path: Path, keys: list[str], detail: str) -> None:
    """Invariant 9: a plan of nothing would end verified. One owned key, also of a user on hold, is the sound twin."""
    spec = spec_with()
    plan = make_world(tmp_path / "none", PEOPLE, us=map(Item, keys), singapore=[Item("mail/in/x")]).plan(spec)
    assert blockers(plan)["nothing_owned"][0] == 1
    assert findings(plan, "nothing_owned") == [("us", None, None, detail, 1)]
    sound = make_world(tmp_path / "one", PEOPLE, us=map(Item, [*keys, "mail/held/x"]), singapore=[]).plan(spec)
    assert "nothing_owned" not in blockers(sound)


def test_each_source_of_which_nothing_is_owned_is_an_item(tmp_path: Path) -> None:
    """Two sources, one of them empty: it is named, and the acceptance is of this one."""
    stores = spec_with().model_dump(mode="json")["stores"]
    stores["eu"] = {**stores["us"], "url": "file:eu"}
    world = make_world(tmp_path, PEOPLE, us=[Item("mail/in/x")], eu=[], singapore=[])
    plan = world.plan(spec_with(stores=stores))
    assert findings(plan, "nothing_owned") == [("eu", None, None, "it holds no key", 1)]
    other = make_world(tmp_path / "other", PEOPLE, eu=[Item("mail/in/x")], us=[], singapore=[])
    assert blockers(other.plan(spec_with(stores=stores)))["nothing_owned"] != blockers(plan)["nothing_owned"]


def test_a_country_without_a_decision_stops_planning(tmp_path: Path) -> None:
    """The refusal names the codes, how many users have them, and the key of the spec."""
    world = make_world(tmp_path, [Person("a", "CH"), Person("b", "ch"), Person("c", "SJ")], us=[], singapore=[])
    with pytest.raises(RefusedError, match=r"CH \(2\), SJ \(1\)") as caught:
        world.plan(spec_with())
    assert "scope.decisions" in caught.value.remedy
    plan = world.plan(spec_with(scope={"decisions": {"CH": "out", "SJ": "in"}}))
    assert {user.user_id: user.state for user in plan.users()} == {"a": "out", "b": "out", "c": "planned"}


def test_a_country_without_a_rule_stops_planning(tmp_path: Path) -> None:
    """No user is left out of the placement in silence."""
    rules = {"rules": [{"name": "nordic", "countries": ["NO"], "home": ["hamar"]}]}
    with pytest.raises(RefusedError, match=r"DE \(1 user\)"):
        make_world(tmp_path, PEOPLE, us=[], singapore=[]).plan(spec_with(placement=rules))


def test_no_site_with_room_stops_planning(tmp_path: Path) -> None:
    """Users that no open site takes are counted by country."""
    sites = spec_with().model_dump(mode="json")["sites"]
    for name in ("dublin-1", "dublin-2"):
        sites[name]["capacity"] = 5
    with pytest.raises(RefusedError, match=r"capacity left.*DE \(1 user\)"):
        make_world(tmp_path, PEOPLE, us=[Item("mail/in/x")], singapore=[]).plan(spec_with(sites=sites))


def test_a_key_listed_twice_builds_no_plan(tmp_path: Path) -> None:
    """An inventory with a key twice is caught, with a backup's or without."""
    twice = [Item("mail/in/x"), Item("mail/in/x", size=11)]
    with pytest.raises((InputError, IntegrityError)):
        make_world(tmp_path / "a", PEOPLE, us=twice, singapore=[]).plan(spec_with())
    with pytest.raises((InputError, IntegrityError)):
        make_world(tmp_path / "b", PEOPLE, us=twice, singapore=twice[:1]).plan(spec_with())


def test_an_inventory_with_other_rows_than_it_says_builds_no_plan(tmp_path: Path) -> None:
    """Invariant 3: listed is what the classes add up to."""
    world = make_world(tmp_path, PEOPLE, us=[Item("mail/in/x")], singapore=[])
    world = world.with_counts("us", rows=2)
    with pytest.raises(IntegrityError, match="us"):
        world.plan(spec_with())


def test_colliding_target_keys_stop_planning(tmp_path: Path) -> None:
    """Count and stores are told, the keys stand in a private file, never in the message."""
    layout = {
        "rules": [
            {"name": "a", "pattern": "a/{user}/{rest}", "target": "{user}/{rest}", "category": "restricted"},
            {"name": "b", "pattern": "b/{user}/{rest}", "target": "{user}/{rest}", "category": "restricted"},
        ]
    }
    world = make_world(tmp_path, PEOPLE, us=[Item("a/in/secret"), Item("b/in/secret"), Item("a/in/x")], singapore=[])
    with pytest.raises(RefusedError, match="2 target keys") as caught:
        world.plan(spec_with(layout=layout))
    path = world.workspace.private / "collisions-small.csv"
    assert str(path) in caught.value.remedy
    assert "secret" not in caught.value.what + caught.value.remedy
    assert path.stat().st_mode & 0o777 == 0o600
    with planning_alone(world.workspace), path.open(newline="") as file:  # which clears what earlier plannings left
        rows = {(row["target_key"], row["key"]) for row in csv.DictReader(file)}
    assert rows == {("in/secret", "a/in/secret"), ("in/secret", "b/in/secret")}
    assert list(world.workspace.plans.iterdir()) == []
    path.unlink()
    with pytest.raises(RefusedError, match="2 target keys"):
        world.forecast(spec_with(layout=layout))
    assert path.exists()


def test_sizes_that_add_up_to_more_than_can_be_counted_build_no_plan(tmp_path: Path) -> None:
    """Each size may be one, and their sum, twice, must fit what counts bytes. The store is named. With the twin that fits."""
    items = [Item(f"mail/in/{number}", size=2**60) for number in range(4)]
    world = make_world(tmp_path / "over", PEOPLE, us=items, singapore=[])
    with pytest.raises(InputError, match=f"us: the sizes .* add up to {2**62:,} bytes"):
        world.plan(spec_with())
    assert (
        make_world(tmp_path / "fits", PEOPLE, us=items[:3], singapore=[])
        .plan(spec_with())
        .document["totals"]["size_bytes"]
        == 6 * 2**60
    )


def test_an_error_of_duckdb_that_is_not_the_disks_says_nothing_of_disks(tmp_path: Path) -> None:
    """What no check caught is a bug (exit code 5); what ran out of room is the machine's (69)."""
    with Session(tmp_path / "a") as session, pytest.raises(IntegrityError) as caught:
        session.query("SELECT CAST(CAST(9223372036854775807 AS HUGEINT) + 1 AS BIGINT)")
    assert "disk" not in caught.value.remedy
    with Session(tmp_path / "b") as session, pytest.raises(UnreachableError, match="IOException") as missing:
        session.query("SELECT * FROM read_parquet('/no/such/file.parquet')")
    assert "disk" in missing.value.remedy


def test_what_cannot_be_read_or_kept_is_a_finding_and_still_planned(tmp_path: Path) -> None:
    """Archived, customer-key, locked, too large, too long and odd keys are found; the copies stay counted (invariant 3)."""
    items = [
        Item("mail/in/cold", storage_class="DEEP_ARCHIVE"),
        Item("mail/in/cool", storage_class="ARCHIVE_ACCESS"),
        Item("mail/in/warm", storage_class="GLACIER_IR"),
        Item("mail/in/theirs", encryption="SSE-C"),
        Item("mail/in/locked", lock="legal-hold"),
        Item("mail/in/vast", size=5 * 2**40 + 1),
        Item("mail/in/" + "é" * 505),
        Item("mail/in/a//b"),
    ]
    stores = spec_with().model_dump(mode="json")["stores"]
    for name in ("dublin-1", "dublin-2", "hamar"):
        stores[name] |= {"url": f"s3://{name}/prefix", "credentials": "env:X"}
    plan = make_world(tmp_path, PEOPLE, us=items, singapore=[], capabilities={}).plan(spec_with(stores=stores))
    assert plan.document["totals"]["copies"] == 16
    found = plan.document["findings"]
    assert {kind: found[kind] for kind in ("archived", "customer_key", "object_lock", "too_large")} == {
        "archived": 2,
        "customer_key": 1,
        "object_lock": 1,
        "too_large": 1,
    }
    assert (found["key_too_long"], found["odd_key"]) == (2, 2)
    assert found["unprobed"] == 16
    assert "no_tags" not in found  # nobody has asked, so nobody says that it keeps none
    assert {blocker["kind"]: blocker["count"] for blocker in plan.document["blockers"]} == {"review": 2, "unprobed": 16}
    assert findings(plan, "archived") == [
        ("us", "in", "mail/in/cold", "DEEP_ARCHIVE", 1),
        ("us", "in", "mail/in/cool", "ARCHIVE_ACCESS", 1),
    ]


def test_a_capable_target_has_no_findings(tmp_path: Path) -> None:
    """The sound twin: where `doctor` found that all is kept, planning has nothing to say."""
    able = Capabilities(tags=True, metadata=True, **ALL_ODD)
    stores = dict.fromkeys(("dublin-1", "dublin-2", "hamar"), able)
    items = [Item("mail/in/a//b")]
    plan = make_world(tmp_path, PEOPLE[:1], us=items, singapore=items, capabilities=stores).plan(spec_with())
    assert plan.document["findings"] == {}
    assert plan.document["blockers"] == []


def test_a_target_that_bends_one_kind_of_key_is_trusted_with_the_others(tmp_path: Path) -> None:
    """Only what it was seen to bend is a finding; it stays in the plan, and its copy is quarantined."""
    able = Capabilities(tags=True, metadata=True, **{**ALL_ODD, "line_breaks": False})
    stores = dict.fromkeys(("dublin-1", "dublin-2", "hamar"), able)
    items = [Item("mail/in/trail/"), Item("mail/in/a//b"), Item("mail/in/new\nline")]
    plan = make_world(tmp_path, PEOPLE[:1], us=items, singapore=items, capabilities=stores).plan(spec_with())
    assert plan.document["findings"] == {"odd_key": 2}
    assert {key for _, _, key, _, _ in findings(plan, "odd_key")} == {"mail/in/new\nline"}


def test_what_a_probed_target_does_not_keep_is_a_finding_and_blocks_nothing(tmp_path: Path) -> None:
    """What `doctor` found that a store lacks is known, and the objects that have it are quarantined one by one."""
    stores = dict.fromkeys(("dublin-1", "dublin-2", "hamar"), Capabilities(**ALL_ODD))
    items = [Item("mail/in/a")]
    plan = make_world(tmp_path, PEOPLE[:1], us=items, singapore=items, capabilities=stores).plan(spec_with())
    assert plan.document["findings"] == {"no_metadata": 2, "no_tags": 2}
    assert plan.document["blockers"] == []


def test_versions_and_uploads_are_counted_in_the_findings(tmp_path: Path) -> None:
    """What no current object stands for is told by store."""
    world: World = make_world(tmp_path, PEOPLE, us=[], singapore=[])
    world = world.with_counts("us", noncurrent=3, delete_markers=2, open_uploads=1)
    found = world.plan(spec_with()).document["findings"]
    assert (found["noncurrent"], found["delete_marker"], found["open_upload"]) == (3, 2, 1)
