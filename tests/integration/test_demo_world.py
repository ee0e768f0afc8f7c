"""The demo's world on disk, and the checks that the demo makes at its end, each with something that it must catch."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pytest

from migrate.demo.checks import check_copies, listing, source_fingerprint
from migrate.demo.homes import ON_HOLD, TAKEN_BACK, WRITER, Moved, check_homes, sources
from migrate.demo.meanwhile import movers, write_at_the_new_home, write_at_the_sources
from migrate.demo.people import HUGE_BYTES, NORDIC, Kind, Thing, Where, parts_of
from migrate.demo.tour import conclude
from migrate.demo.world import MARKER, SOURCES, DemoWorld, build_world, clear_workspace, open_folder
from migrate.errors import UsageError
from migrate.model import Attributes
from migrate.stores.base import PartInfo, Store
from migrate.stores.file import FileStore

SPEC_TEXT = (Path(__file__).parents[2] / "plans" / "demo.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> DemoWorld:
    return build_world(tmp_path_factory.mktemp("demo"), SPEC_TEXT)


def test_the_sources_hold_the_imagined_objects(world: DemoWorld) -> None:
    """Each source lists exactly its objects, under exactly their keys, with their sizes."""
    for name, missing in zip(SOURCES, (Where.BACKUP_ONLY, Where.UNBACKED), strict=True):
        with closing(open_folder(world, name)) as store:
            held = listing(store)
            expected = {thing.key: thing.size for thing in world.people.things if thing.where is not missing}
            assert {key: info.size for key, info in held.items()} == expected
            assert len({info.last_modified for info in held.values()}) == len(held)


def test_two_sources_differ_where_they_are_meant_to(world: DemoWorld) -> None:
    """ETags are equal, but for what is imagined as diverged."""
    with closing(open_folder(world, "us")) as us, closing(open_folder(world, "singapore")) as singapore:
        one, two = listing(us), listing(singapore)
    differing = {key for key in one.keys() & two.keys() if one[key].etag != two[key].etag}
    assert differing == {thing.key for thing in world.people.things if thing.where is Where.DIVERGED}


def test_the_huge_object_has_parts_at_the_source(world: DemoWorld) -> None:
    """Its ETag is a composite one, so that a copy has the source's own parts to keep to."""
    huge = max(world.people.things, key=lambda thing: thing.size)
    with closing(open_folder(world, "us")) as us:
        assert us.head(huge.key).etag.endswith(f"-{parts_of(huge)}")


def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path) -> None:
    """The demo deletes only what it made: a folder with its marker."""
    (tmp_path / "thesis.txt").write_text("four years of work")
    with pytest.raises(UsageError, match="no demo has made"):
        clear_workspace(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    (tmp_path / MARKER).touch()
    clear_workspace(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


@pytest.fixture(scope="module")
def moved(world: DemoWorld) -> Iterator[DemoWorld]:
    """The world after a migration that this test makes by hand, without the tool."""
    country = {person.user_id: person.country for person in world.people.people}
    homes = {True: ("hamar", "dublin-2"), False: ("dublin-1", "hamar")}
    stores = {name: writable(world, name) for name in ("dublin-1", "dublin-2", "hamar")}
    for thing in world.moving:
        for name in homes[country[str(thing.user_id)].upper() in NORDIC]:
            put(world, stores[name], thing)
    yield world
    for store in stores.values():
        store.close()


def writable(world: DemoWorld, name: str) -> FileStore:
    return FileStore(name, world.root / "stores" / name, writable=True)


def put(world: DemoWorld, store: Store, thing: Thing) -> None:
    """Write `thing` to a target, in parts if it is huge."""
    key = str(thing.target_key)
    if thing.size < HUGE_BYTES:
        body = world.people.content(thing)
        store.put(key, body, attributes=thing.attributes, tags=dict(thing.tags), md5=md5(body).digest())
        return
    upload = store.create_upload(key, attributes=thing.attributes)
    parts = []
    for number, body in enumerate(world.people.blocks(thing), start=1):
        parts.append(PartInfo(number, store.put_part(key, upload, number, body, md5=md5(body).digest()), len(body)))
    store.complete_upload(key, upload, parts, tags=dict(thing.tags))


def change_a_byte(world: DemoWorld, thing: Thing) -> None:
    with closing(writable(world, "hamar")) as store:
        body = bytes(len(world.people.content(thing)))
        store.put(
            str(thing.target_key), body, attributes=thing.attributes, tags=dict(thing.tags), md5=md5(body).digest()
        )


def change_a_tag(world: DemoWorld, thing: Thing) -> None:
    with closing(writable(world, "hamar")) as store:
        store.put_tags(str(thing.target_key), {"new": "tag"})


def take_away(world: DemoWorld, thing: Thing) -> None:
    with closing(writable(world, "hamar")) as store:
        store.delete(str(thing.target_key))


def put_a_stranger(world: DemoWorld, thing: Thing) -> None:
    with closing(writable(world, "hamar")) as store:
        store.put("users/stranger/x", b"", attributes=Attributes(), tags={}, md5=md5(b"").digest())


def touch_a_source(world: DemoWorld, thing: Thing) -> None:
    with closing(writable(world, "us")) as store:
        store.put_tags(thing.key, {"new": "tag"})


def test_a_whole_migration_passes(moved: DemoWorld) -> None:
    """All facts hold where every copy is in its place."""
    facts = check_copies(moved, source_fingerprint(moved))
    assert [fact.text for fact in facts if not fact.holds] == []
    said: list[str] = []
    for keep in (True, False):
        said.clear()
        conclude(lambda part: said.append(str(part)), moved, 1.0, keep=keep)
        assert any("To look around" in part for part in said) is keep  # there is no world to look around in
    assert len(facts) == 5


@pytest.mark.parametrize(
    ("harm", "broken"),
    [
        (change_a_byte, {"bytes"}),
        (change_a_tag, {"bytes"}),
        (take_away, {"two sites", "Nordic"}),
        (put_a_stranger, {"anybody else"}),
        (touch_a_source, {"sources"}),
    ],
)
def test_each_harm_is_caught(moved: DemoWorld, harm: Callable[[DemoWorld, Thing], None], broken: set[str]) -> None:
    """The corrupted twins: one byte, one tag, one object less, one more, one write at a source."""
    country = {person.user_id: person.country for person in moved.people.people}
    thing = next(
        thing
        for thing in moved.moving
        if country[str(thing.user_id)] == "NO" and thing.kind is Kind.RESTRICTED and thing.size
    )
    before = source_fingerprint(moved)
    harm(moved, thing)
    try:
        failed = [fact.text for fact in check_copies(moved, before) if not fact.holds]
    finally:
        with closing(writable(moved, "hamar")) as store:
            put(moved, store, thing)
            store.delete("users/stranger/x")
    assert len(failed) == len(broken)
    assert all(any(word in text for text in failed) for word in broken)


@pytest.fixture
def at_home(moved: DemoWorld, tmp_path: Path) -> Moved:
    """What the second half comes to, by hand and without the tool: all but two live in Europe, and two have written meanwhile."""
    root = tmp_path / "demo"
    shutil.copytree(moved.root, root, copy_function=os.link)  # the stores replace files, and change none
    world = replace(moved, root=root)
    people = movers(world)
    writer, on_hold, back = (people[number] for number in (WRITER, ON_HOLD, TAKEN_BACK))
    before = {thing.key: thing for thing in world.moving if thing.user_id == writer.user_id}
    world = write_at_the_sources(world, writer)
    after = {thing.key: thing for thing in world.moving if thing.user_id == writer.user_id}
    for name in ("dublin-1", "hamar"):
        with closing(writable(world, name)) as store:
            for key in before.keys() - after.keys():
                store.delete(str(before[key].target_key))
            for thing in after.values():
                put(world, store, thing)
    world, written, deleted = write_at_the_new_home(world, back, "hamar", "dublin-2")
    for name in SOURCES:
        remove(world, name, deleted.key)
    stood = sources(world)
    staying = {on_hold.user_id, back.user_id}
    for name, keys in stood.items():
        gone = [
            thing.key for thing in world.people.things if thing.user_id in {each.user_id for each in people} - staying
        ]
        for key in keys.keys() & set(gone):
            remove(world, name, key)
    (root / ".migrate").mkdir()
    homes = [
        (each.user_id, "hamar" if each.country in NORDIC else "dublin-1") for each in people if each is not on_hold
    ]
    routes(world, "CREATE TABLE routes (user_id TEXT PRIMARY KEY, home TEXT)")
    for user_id, home in homes:
        routes(world, "INSERT INTO routes VALUES (?, ?)", user_id, "us" if user_id == back.user_id else home)
    return Moved(world, on_hold, back, written, deleted, stood)


def remove(world: DemoWorld, name: str, key: str) -> None:
    with closing(writable(world, name)) as store:
        store.delete(key)


def routes(world: DemoWorld, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")) as ledger, ledger:
        ledger.execute(statement, values)


def leave_something(moved: Moved) -> None:
    person = movers(moved.world)[WRITER]
    thing = next(thing for thing in moved.world.moving if thing.user_id == person.user_id)
    with closing(writable(moved.world, "singapore")) as store:
        store.put(thing.key, b"", attributes=thing.attributes, tags={}, md5=md5(b"").digest())


def move_who_is_on_hold(moved: Moved) -> None:
    routes(moved.world, "INSERT INTO routes VALUES (?, 'dublin-1')", moved.on_hold.user_id)


def forget_a_home(moved: Moved) -> None:
    routes(moved.world, "DELETE FROM routes WHERE user_id = ?", movers(moved.world)[WRITER].user_id)


def bring_it_back_to_life(moved: Moved) -> None:
    with closing(writable(moved.world, "us")) as store:
        store.put(moved.deleted.key, b"", attributes=Attributes(), tags={}, md5=md5(b"").digest())


def lose_of_who_went_back(moved: Moved) -> None:
    thing = next(thing for thing in moved.world.moving if thing.user_id == moved.taken_back.user_id)
    remove(moved.world, "us", thing.key)


def lose_a_strangers(moved: Moved) -> None:
    remove(moved.world, "us", "static/sound-00.ogg")


@pytest.mark.parametrize(
    ("harm", "broken"),
    [
        (None, set()),
        (leave_something, {"nothing of theirs", "everybody else"}),
        (move_who_is_on_hold, {"live in Europe", "user on hold"}),
        (forget_a_home, {"live in Europe"}),
        (bring_it_back_to_life, {"went back", "everybody else"}),
        (lose_of_who_went_back, {"went back", "everybody else"}),
        (lose_a_strangers, {"everybody else"}),
    ],
)
def test_each_harm_after_the_move_is_caught(
    at_home: Moved, harm: Callable[[Moved], None] | None, broken: set[str]
) -> None:
    """The corrupted twins of the second half: a residue, a home too many and one too few, what came to life, what was lost."""
    if harm is not None:
        harm(at_home)
    facts = check_homes(at_home)
    failed = [fact.text for fact in facts if not fact.holds]
    assert len(facts) == 9
    assert len(failed) == len(broken)
    assert all(any(word in text for text in failed) for word in broken)
