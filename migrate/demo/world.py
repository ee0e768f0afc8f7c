"""The synthetic world on disk: a workspace with a spec, a directory of users and the folders that stand for the sites.

A world is only ever put where nothing is, or where an earlier one was: a marker file tells. The sources are filled through the
file store itself, past the door: the door opens sources to be read and nothing else, and here they come into being.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from migrate.demo.people import HUGE_BYTES, Kind, People, Person, Scope, Thing, Where, imagine, parts_of
from migrate.errors import UsageError
from migrate.stores.base import PartInfo, Store
from migrate.stores.file import FileStore

SEED = 1
US, SINGAPORE = "us", "singapore"
SOURCES = (US, SINGAPORE)
TARGETS = ("dublin-1", "dublin-2", "hamar")
MARKER = ".migrate-demo"
BEGINNING_NS = 1_772_323_200 * 10**9  # 1 March 2026


@dataclass(frozen=True, slots=True)
class DemoWorld:
    """A world that has been built in the workspace `root`. `spec` is the path of its spec, from there."""

    root: Path
    spec: Path
    people: People

    @property
    def moving(self) -> list[Thing]:
        """What must be at the targets in the end: of those who move, all that the primary has, and of what only the backup
        has the kind that the spec takes from it (`reconcile.backup_only`)."""
        movers = {person.user_id for person in self.people.people if person.scope is Scope.MOVES}
        return [
            thing
            for thing in self.people.things
            if thing.user_id in movers and (thing.where is not Where.BACKUP_ONLY or thing.kind is Kind.EXCEPTION)
        ]


def clear_workspace(root: Path) -> None:
    """Make `root` an empty folder. UsageError where it holds something that no demo has put there."""
    if root.exists() and not (root / MARKER).exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(
            f"{root} holds something that no demo has made, and is left as it is",
            remedy="Name another folder: migrate demo --dir FOLDER",
        )
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / MARKER).write_text("Made by `migrate demo`, which deletes this folder when it starts afresh.\n")


def build_world(root: Path, spec_text: str, seed: int = SEED) -> DemoWorld:
    """Make the world of `seed` in the workspace `root`, afresh. UsageError where something else is there."""
    clear_workspace(root)
    spec = Path("plans", "demo.toml")
    (root / spec).parent.mkdir()
    (root / spec).write_text(spec_text, encoding="utf-8")
    world = DemoWorld(root, spec, imagine(seed))
    write_directory(root / "directory.csv", world.people.people)
    for name in (*SOURCES, *TARGETS):
        (root / "stores" / name).mkdir(parents=True)
    for name in SOURCES:
        _fill(world, name)
    return world


def open_folder(world: DemoWorld, name: str, *, writable: bool = False) -> FileStore:
    """The store at `name`, past the door; the caller closes it. It is written to by the world's own people alone."""
    return FileStore(name, world.root / "stores" / name, writable=writable)


def _fill(world: DemoWorld, name: str) -> None:
    """Write what the store `name` holds. Times are part of the world: object i was written i minutes after its beginning."""
    moment = threading.local()
    store = FileStore(name, world.root / "stores" / name, writable=True, clock_ns=lambda: moment.ns)

    def write(number: int, thing: Thing) -> None:
        moment.ns = BEGINNING_NS + number * 60 * 10**9
        _write(store, world.people, thing, name)

    try:
        with ThreadPoolExecutor(8) as pool:
            things = [(number, thing) for number, thing in enumerate(world.people.things) if name in _holders(thing)]
            for written in [pool.submit(write, *each) for each in things]:
                written.result()
    finally:
        store.close()


def write_directory(path: Path, people: tuple[Person, ...]) -> None:
    """The table of users as CSV, with a column that no spec asks for."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "country", "status", "legal_hold", "plan"])
        for person in people:
            writer.writerow([person.user_id, person.country, person.status, str(person.hold).lower(), "free"])


def _holders(thing: Thing) -> tuple[str, ...]:
    if thing.where is Where.UNBACKED:
        return (US,)
    return (SINGAPORE,) if thing.where is Where.BACKUP_ONLY else SOURCES


def _write(store: Store, people: People, thing: Thing, name: str) -> None:
    tags = dict(thing.tags)
    if thing.size < HUGE_BYTES:
        body = people.content(thing, stale=thing.where is Where.DIVERGED and name == SINGAPORE)
        store.put(thing.key, body, attributes=thing.attributes, tags=tags, md5=hashlib.md5(body).digest())
        return
    upload = store.create_upload(thing.key, attributes=thing.attributes)
    parts = []
    for number in range(1, parts_of(thing) + 1):
        body = people.part(thing, number)
        etag = store.put_part(thing.key, upload, number, body, md5=hashlib.md5(body).digest())
        parts.append(PartInfo(number, etag, len(body)))
    store.complete_upload(thing.key, upload, parts, tags=tags)
