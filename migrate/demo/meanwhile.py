"""What people do with the synthetic world while it is migrated: they write, change and delete, wherever they live.

Each step writes past the door, as the platform would, and returns the world as it has become.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from migrate.demo.people import Kind, Person, Scope, Thing, Where
from migrate.demo.world import SOURCES, DemoWorld, open_folder
from migrate.model import Attributes

PLAIN = Attributes(content_type="video/mp4")


def movers(world: DemoWorld) -> Sequence[Person]:
    """Who moves, in the directory's order."""
    return [person for person in world.people.people if person.scope is Scope.MOVES]


def things_of(world: DemoWorld, person: Person) -> Sequence[Thing]:
    return [thing for thing in world.people.things if thing.user_id == person.user_id]


def write_at_the_sources(world: DemoWorld, person: Person) -> DemoWorld:
    """A person who still lives there writes a video, changes their profile and deletes their picture; the backup follows."""
    profile, picture = things_of(world, person)[:2]
    changed = replace(profile, size=profile.size + 1, where=Where.BOTH)
    new = _video(person, "meanwhile.mp4")
    for name in SOURCES:
        for thing in (changed, new):
            _put(world, name, thing, thing.key)
        _delete(world, name, picture.key)
    return _with(world, without=(profile, picture), added=(changed, new))


def write_at_the_new_home(world: DemoWorld, person: Person, home: str, backup: str) -> tuple[DemoWorld, Thing, Thing]:
    """A person who lives in Europe writes a video, and deletes their picture, at their home and its backup: the world, the video
    and the picture."""
    picture = things_of(world, person)[1]
    new = _video(person, "fjord.mp4")
    _put(world, home, new, str(new.target_key))
    for name in (home, backup):
        _delete(world, name, str(picture.target_key))
    return _with(world, without=(picture,), added=()), new, picture


def _video(person: Person, name: str) -> Thing:
    key = f"users/{person.user_id}/videos/{name}"
    return Thing(key, key, person.user_id, Kind.RESTRICTED, Where.BOTH, 40_000, PLAIN)


def _with(world: DemoWorld, *, without: Sequence[Thing], added: Sequence[Thing]) -> DemoWorld:
    things = tuple(thing for thing in world.people.things if thing not in without)
    return replace(world, people=replace(world.people, things=(*things, *added)))


def _put(world: DemoWorld, name: str, thing: Thing, key: str) -> None:
    body = world.people.content(thing)
    with closing(open_folder(world, name, writable=True)) as store:
        store.put(key, body, attributes=thing.attributes, tags=dict(thing.tags), md5=hashlib.md5(body).digest())


def _delete(world: DemoWorld, name: str, key: str) -> None:
    with closing(open_folder(world, name, writable=True)) as store:
        store.delete(key)
