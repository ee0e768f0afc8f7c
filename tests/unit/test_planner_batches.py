"""Waves and batches: everything once, nothing over its bound."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planning import Item, Person, make_world, spec_with

from migrate.model import BatchInfo, PlannedObject
from migrate.planner import folder
from migrate.planner.folder import Plan, PlanReader


def read(plan: Plan) -> list[tuple[BatchInfo, list[PlannedObject]]]:
    reader = PlanReader(plan)
    try:
        return [(batch, reader.objects(batch)) for batch in plan.batches()]
    finally:
        reader.close()


USERS = st.dictionaries(
    st.text(alphabet="abcdé", min_size=1, max_size=4),
    st.lists(st.integers(0, 60), max_size=30),
    min_size=1,
    max_size=12,
)


@given(USERS, st.integers(2, 12), st.integers(1, 150), st.integers(0, 1))
@example({"a": [1] * 30, "b": [200, 1, 1, 200], "c": [0] * 9}, 2, 1, 1)
@example({"a": [49, 51, 50, 1, 99, 101, 1, 1]}, 7, 100, 0)
@settings(deadline=None, max_examples=15)
def test_batches_hold_every_copy_once_within_their_bounds(
    tmp_path_factory: pytest.TempPathFactory, users: dict[str, list[int]], copies_max: int, bytes_max: int, backups: int
) -> None:
    """Whatever users have, each copy is in one batch, and only a single object over a bound is over it."""
    items = {
        f"mail/{user}/{place:02d}": Item(f"mail/{user}/{place:02d}", size=size)
        for user, sizes in users.items()
        for place, size in enumerate(sizes)
    }
    backup = ["dublin-1", "dublin-2"] if backups else []
    spec = spec_with(
        batches={"copies_max": copies_max, "bytes_max": bytes_max},
        placement={"rules": [{"name": "all", "countries": ["*"], "home": ["dublin-1", "hamar"], "backup": backup}]},
    )
    world = make_world(tmp_path_factory.mktemp("world"), map(Person, users), us=items.values(), singapore=[])
    plan = world.plan(spec, file_copies=50)
    found = read(plan)
    keys = [item.key for _, objects in found for item in objects]
    assert sorted(keys) == sorted(items)
    assert [batch.number for batch, _ in found] == list(range(1, len(found) + 1))
    assert [batch.wave for batch, _ in found] == sorted(batch.wave for batch, _ in found)
    for batch, objects in found:
        assert batch.copies <= copies_max
        assert batch.size_bytes <= bytes_max or len(objects) == 1
        assert batch.copies == sum(len(item.copies) for item in objects)
        assert batch.users == len({item.user_id for item in objects})
    check_spans(plan, found)


def check_spans(plan: Plan, found: list[tuple[BatchInfo, list[PlannedObject]]]) -> None:
    """A split user's batches follow each other and leave no target key between them."""
    for user in plan.users():
        mine = [(batch, objects) for batch, objects in found if any(item.user_id == user.user_id for item in objects)]
        assert [batch.number for batch, _ in mine] == (
            [] if user.first_batch is None else list(range(user.first_batch, int(user.last_batch or 0) + 1))
        )
        keys = [item.target_key for _, objects in mine for item in objects if item.user_id == user.user_id]
        assert keys == sorted(keys, key=str.encode)
        for (one, _), (two, later) in pairwise(mine):
            assert one.key_until == two.key_from == later[0].target_key
        if mine:
            assert (mine[0][0].key_from, mine[-1][0].key_until) == (None, None)


def test_users_that_fit_into_a_batch_are_not_split(tmp_path: Path) -> None:
    """More than half a bound means a batch of one's own, not two."""
    items = [Item(f"mail/a/{place}") for place in range(4)]
    (batch,) = make_world(tmp_path, [Person("a")], us=items, singapore=[]).plan(spec_with()).batches()
    assert (batch.copies, batch.key_from, batch.key_until) == (8, None, None)


def test_objects_of_two_sources_with_one_key_go_to_their_own_stores_in_one_batch(tmp_path: Path) -> None:
    """Equal target keys at different stores are no collision, and no batch border falls between them."""
    data = spec_with().model_dump(mode="json")
    stores = data["stores"]
    stores["eu-media"] = {"site": "us", "role": "source", "url": "file:media"}
    for name in ("dublin-1", "dublin-2", "hamar"):
        stores[name]["receives"] = ["us"]
        stores[f"{name}-media"] = {**stores[name], "url": f"file:{name}-media", "receives": ["eu-media"]}
    keys = [f"mail/a/{place:02d}" for place in range(30)]
    world = make_world(
        tmp_path, [Person("a")], us=map(Item, keys), singapore=[], **{"eu-media": [Item(key, size=9) for key in keys]}
    )
    found = read(world.plan(spec_with(stores=stores)))
    assert len(found) > 3
    for _, objects in found:
        assert all(
            [item.store for item in objects if item.target_key == key] == ["eu-media", "us"]
            for key in {item.target_key for item in objects}
        )
        assert all(
            copy.store.endswith("-media") == (item.store == "eu-media") for item in objects for copy in item.copies
        )


def test_the_canary_is_a_share_rounded_up_and_the_others_go_by_size(tmp_path: Path) -> None:
    """Wave 0 holds the lowest SHA-256 of ("canary", id); of the others the small users go first, in nearly equal waves."""
    people = [f"user-{number}" for number in range(31)]
    items = [Item(f"mail/{user}/x", size=number * 3 % 29) for number, user in enumerate(people)]
    spec = spec_with(waves={"canary": "5%", "count": 4})
    plan = make_world(tmp_path, map(Person, people), us=items, singapore=[]).plan(spec)
    waves: dict[int, list[tuple[int, bytes]]] = {}
    for user in plan.users():
        assert user.wave is not None
        waves.setdefault(user.wave, []).append((user.size_bytes, hashlib.sha256(user.user_id.encode()).digest()))
    canary = {user.user_id for user in plan.users() if user.wave == 0}
    first = sorted(people, key=lambda user: hashlib.sha256(f"6:canary{len(user)}:{user}".encode()).digest())
    assert canary == set(first[:2])
    assert [len(waves[wave]) for wave in range(5)] == [2, 8, 7, 7, 7]
    assert all(max(waves[one]) < min(waves[two]) for one, two in pairwise(range(1, 5)))


@pytest.mark.parametrize(("canary", "count"), [("0%", 0), ("0.0001%", 1), ("100%", 3)])
def test_the_canary_has_at_least_one_user_where_there_is_a_share(tmp_path: Path, canary: str, count: int) -> None:
    """None for no share, one for the least, all for the whole."""
    plan = make_world(tmp_path, map(Person, "abc"), us=[], singapore=[]).plan(spec_with(waves={"canary": canary}))
    assert sum(user.wave == 0 for user in plan.users()) == count


def test_no_running_count_has_a_filter() -> None:
    """Invariant 11: DuckDB 2.0 computes a filtered aggregate over a running window in the square of the rows, which a user with
    a million objects would feel for minutes."""
    for path in sorted((Path(folder.__file__).parent / "sql").glob("*.sql")):
        assert not re.search(r"FILTER\s*\([^)]*\)\s*OVER", path.read_text(encoding="utf-8")), path.name
