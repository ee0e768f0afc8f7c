"""A small workspace on folders, that the command line works on as it would on buckets."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import forked
from kept import made_once
from odd_keys import ODD_KEYS

from migrate.cli.boundary import run as run_command
from migrate.model import Attributes, ObjectInfo
from migrate.stores.file import FileStore

MIB = 2**20
COUNTRIES = ("IE", "NO", "DE", "SE", "FR")

SPEC = """
format = 1
name = "small"

[sites.us]
country = "US"
[sites.singapore]
country = "SG"
[sites.dublin-1]
country = "IE"
[sites.dublin-2]
country = "IE"
[sites.hamar]
country = "NO"

[stores.us]
site = "us"
role = "source"
url = "file:stores/us"
[stores.singapore]
site = "singapore"
role = "backup"
backup_of = "us"
url = "file:stores/singapore"
[stores.dublin-1]
site = "dublin-1"
role = "target"
url = "file:stores/dublin-1"
[stores.dublin-2]
site = "dublin-2"
role = "target"
url = "file:stores/dublin-2"
[stores.hamar]
site = "hamar"
role = "target"
url = "file:stores/hamar"

[directory]
path = "users.csv"
as_of = {as_of}

[[layout.rules]]
name = "photos"
pattern = "users/{{user}}/{{rest}}"
category = "restricted"

[[placement.rules]]
name = "nordic"
countries = ["NO", "SE"]
home = ["hamar"]
backup = ["dublin-1", "dublin-2"]
[[placement.rules]]
name = "others"
countries = ["*"]
home = ["dublin-1", "dublin-2"]
backup = ["dublin-1", "dublin-2", "hamar"]

[residency]
target_countries = ["IE", "NO"]
worker_countries = ["IE"]

[waves]
canary = "10%"
count = 2

[batches]
copies_max = {copies_max}

[copying]
multipart_from = "5MiB"
part_bytes = "5MiB"

[run]
country = "IE"
concurrency = 8
"""


def body_of(name: str, size: int) -> bytes:
    """Bytes that depend on the name."""
    block = hashlib.sha256(name.encode()).digest()
    return (block * (size // 32 + 1))[:size]


@dataclass
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def _close(stores: dict[str, FileStore]) -> None:
    while stores:
        stores.popitem()[1].close()


@dataclass
class SmallWorld:
    """The workspace, and what its source holds: key to body, attributes and tags."""

    root: Path
    users: dict[str, str]
    objects: dict[str, tuple[bytes, Attributes, dict[str, str]]] = field(default_factory=dict)
    ledger: str | None = None
    stores: dict[str, FileStore] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weakref.finalize(self, _close, self.stores)  # a model test goes through hundreds of worlds

    def close(self) -> None:
        """Close the stores that were opened; they can be used again."""
        _close(self.stores)

    def store(self, name: str) -> FileStore:
        if name not in self.stores:
            self.stores[name] = FileStore(name, self.root / "stores" / name, writable=True)
        return self.stores[name]

    def put(self, store: str, key: str, body: bytes, attributes: Attributes, tags: dict[str, str]) -> None:
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        self.store(store).put(key, body, attributes=attributes, tags=tags, md5=md5)

    def put_source(self, key: str, body: bytes, *, tags: dict[str, str] | None = None, backup: bool = True) -> None:
        attributes = Attributes(
            content_type="image/jpeg", cache_control="no-cache", metadata=(("camera", key[-4:].strip() or "x"),)
        )
        for store in ("us", "singapore") if backup else ("us",):
            self.put(store, key, body, attributes, tags or {})
        self.objects[key] = (body, attributes, tags or {})

    def arguments(self, words: Sequence[str]) -> list[str]:
        place = ["--workspace", str(self.root)]
        return [*place, *(["--ledger", self.ledger] if self.ledger else []), *words]

    def migrate(self, *words: str) -> Answer:
        """Run a command in this process."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(self.arguments(words))
        return Answer(int(code), out.getvalue(), err.getvalue())

    def start(self, *words: str, program: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in a process of its own, in a group of its own, after the Python of `program`."""
        return forked.start(
            f"{program}\nfrom migrate.__main__ import main; main()",
            self.arguments(words),
            environment=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )

    def at_targets(self) -> dict[tuple[str, str], tuple[bytes, Attributes, dict[str, str]]]:
        """Everything that the targets hold, by store and key."""
        found = {}
        for name in ("dublin-1", "dublin-2", "hamar"):
            if not (self.root / "stores" / name).exists():
                continue
            store = self.store(name)
            for info in listed(store):
                with store.get(info.key) as download:
                    found[name, info.key] = (download.read(), download.info.attributes, dict(store.get_tags(info.key)))
        return found

    def open_uploads(self) -> int:
        return sum(
            len(self.store(name).list_uploads())
            for name in ("dublin-1", "dublin-2", "hamar")
            if (self.root / "stores" / name).exists()
        )

    def assert_all_there(self) -> None:
        """Each object is at a home and at a backup site, as it is at the source, and nothing else is anywhere."""
        found = self.at_targets()
        keys = [key for _, key in found]
        assert sorted(keys) == sorted([*self.objects, *self.objects])
        for (store, key), held in found.items():
            assert held == self.objects[key], (store, key)
            user = key.split("/")[1]
            if self.users[user] in ("NO", "SE"):
                assert ("hamar", key) in found


def listed(store: FileStore) -> Iterator[ObjectInfo]:
    for page in store.list():
        yield from page


def build(
    root: Path, *, users: int = 20, per_user: int = 5, copies_max: int = 60, odd: bool = True, large: bool = True
) -> SmallWorld:
    """A world of `users` users with `per_user` objects each, one of them with every odd key, one with a large object."""
    return _built(root, None, users, per_user, copies_max, odd, large)


def build_planned(
    root: Path,
    ledger: str | None = None,
    *,
    users: int = 20,
    per_user: int = 5,
    copies_max: int = 60,
    odd: bool = True,
    large: bool = True,
) -> SmallWorld:
    """The same, planned with this ledger."""
    return _planned(root, ledger, users, per_user, copies_max, odd, large)


@made_once
def _planned(root: Path, ledger: str | None, *options: Any) -> SmallWorld:
    world = _built(root, None, *options)
    world.ledger = ledger
    planned(world)
    return world


@made_once
def _built(
    root: Path, _ledger: str | None, users: int, per_user: int, copies_max: int, odd: bool, large: bool
) -> SmallWorld:
    people = {f"u{number:03d}": COUNTRIES[number % len(COUNTRIES)] for number in range(users)}
    world = SmallWorld(root, people)
    (root / "plans").mkdir(parents=True)
    for name in ("us", "singapore", "dublin-1", "dublin-2", "hamar"):
        (root / "stores" / name).mkdir(parents=True)
    as_of = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    (root / "plans" / "small.toml").write_text(SPEC.format(as_of=as_of, copies_max=copies_max), encoding="utf-8")
    lines = ["user_id,country", *(f"{user},{country}" for user, country in people.items())]
    (root / "users.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for user in people:
        for number in range(per_user):
            key = f"users/{user}/photo-{number:04d}.jpg"
            world.put_source(key, body_of(key, 200 + 37 * number), tags={"n": str(number)} if number % 2 else {})
    if odd:
        for key in ODD_KEYS:
            whole = f"users/u000/{key}"
            if len(whole.encode()) <= 1024:
                world.put_source(whole, body_of(whole, 50))
    if large:
        world.put_source("users/u001/film.mp4", body_of("film", 12 * MIB), tags={"kind": "film"})
    return world


def planned(world: SmallWorld) -> str:
    """Plan the world; the plan's digest."""
    answer = world.migrate("plan", str(world.root / "plans" / "small.toml"), "--json")
    assert answer.code == 0, answer.err
    return str(answer.json["digest"])
