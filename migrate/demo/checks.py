"""What the demo claims at its end, found out without the tool's plan, ledger or receipts.

The targets are walked and read, and held against the imagined world, from which every byte can be made again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack, closing
from dataclasses import dataclass

from migrate.demo.people import NORDIC, Thing
from migrate.demo.world import SOURCES, TARGETS, DemoWorld, open_folder
from migrate.model import ObjectInfo
from migrate.stores.base import Store

Listing = Mapping[str, ObjectInfo]


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement about the world, and whether it holds."""

    text: str
    holds: bool


def listing(store: Store) -> dict[str, ObjectInfo]:
    """Everything in `store`, by key."""
    return {info.key: info for page in store.list() for info in page}


def source_fingerprint(world: DemoWorld) -> str:
    """A digest over every file below the source stores: name, inode, size, time. It is another if anybody wrote there."""
    digest = hashlib.sha256()
    for name in SOURCES:
        for path in sorted((world.root / "stores" / name).rglob("*")):
            found = path.lstat()
            digest.update(repr((bytes(path), found.st_ino, found.st_size, found.st_mtime_ns)).encode())
    return digest.hexdigest()


def check_copies(world: DemoWorld, before: str) -> list[Fact]:
    """The facts once all is copied. `before` is `source_fingerprint` from the beginning."""
    same_sources = Fact("the sources are as they were", source_fingerprint(world) == before)
    return [*check_targets(world), same_sources]


def check_targets(world: DemoWorld, *, besides: Sequence[Thing] = ()) -> list[Fact]:
    """What stands at the targets. `besides` was written there by people who live there, and stands once."""
    with ExitStack() as stack:
        stores = {name: stack.enter_context(closing(open_folder(world, name))) for name in TARGETS}
        return _facts(world, stores, {str(thing.target_key) for thing in besides})


def _facts(world: DemoWorld, stores: Mapping[str, Store], besides: Set[str]) -> list[Fact]:
    held = {
        name: {key: info for key, info in listing(store).items() if key not in besides}
        for name, store in stores.items()
    }
    expected = {str(thing.target_key): thing for thing in world.moving}
    places = Counter(key for keys in held.values() for key in keys)
    country = {person.user_id: person.country for person in world.people.people}
    nordic = [key for key, thing in expected.items() if country[str(thing.user_id)].upper() in NORDIC]
    strangers = places.keys() - expected.keys()
    digests = {key: world.people.sha256(thing) for key, thing in expected.items()}
    wrong = sum(
        not same(store, key, expected[key], digests[key])
        for name, store in stores.items()
        for key in held[name]
        if key in expected
    )
    users = len({thing.user_id for thing in expected.values()})
    return [
        Fact(f"{len(expected):,} objects of {users} users stand at two sites each", _twice(places, expected)),
        Fact(f"all {places.total():,} copies have the bytes, headers and tags of their source", wrong == 0),
        Fact(f"{len(nordic):,} objects of Nordic users are at Hamar", all(key in held["hamar"] for key in nordic)),
        Fact("nothing of anybody else is at any target", not strangers),
    ]


def _twice(places: Mapping[str, int], expected: Mapping[str, Thing]) -> bool:
    return all(places.get(key) == 2 for key in expected)


def same(store: Store, key: str, thing: Thing, sha256: bytes) -> bool:
    """Whether the object at `key` is `thing` to the byte, with its attributes and tags."""
    digest = hashlib.sha256()
    with store.get(key) as download:
        for chunk in download.chunks():
            digest.update(chunk)
        attributes = download.info.attributes
    return (digest.digest(), attributes, dict(store.get_tags(key))) == (sha256, thing.attributes, dict(thing.tags))
