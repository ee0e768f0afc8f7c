"""Who lives in the synthetic world and what they own: values alone, the same for the same seed. Nothing is written here.

The people are as a real directory has them: mostly plain, with country codes in other spellings, some that no list knows, users
on hold and users who are leaving. Their objects show each census class and both kinds of source difference.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from migrate.model import Attributes

USERS = 300
HUGE_BYTES = 192 * 2**20
PART_BYTES = 16 * 2**20

# Country as the directory gives it, and its share of the people.
MOVING = {
    "DE": 40, "FR": 36, "IT": 26, "ES": 24, "PL": 18, "NL": 14, "IE": 12, "PT": 8, "el": 5, "UK": 20, "GB": 12, "AT": 8,
    "RO": 8, "SE": 12, "NO": 10, "DK": 8, "FI": 8, "IS": 3, "LI": 2, "AX": 1, "RE": 2, "JE": 2, "de": 2,
}  # fmt: skip
STAYING = {"US": 10, "BR": 6, "JP": 4, "CH": 4, "TR": 3}
UNCLEAR = {"": 3, "XX": 2, "SJ": 1, "QQ": 1}
NORDIC = frozenset({"NO", "SE", "DK", "FI", "IS", "AX"})

ODD_NAMES = (
    "a//b.mp4",
    "/lead.mp4",
    "trail/",
    "a/../b.mp4",
    "./dot.mp4",
    "a",
    "a/b",
    "line\nbreak.mp4",
    "tab\there.mp4",
    "bell\x07.mp4",
    "percent%25.mp4",
    "1+1=2&x.mp4",
    'it\'s "quoted".mp4',
    "snow ☃ and 🎬.mp4",
    "Zoe\u0308.mp4",
    "Zo\u00eb.mp4",
    " blanks .mp4",
)


class Scope(StrEnum):
    """What the spec of the demo makes of a person."""

    MOVES = "moves"
    STAYS = "stays"
    REVIEW = "review"
    HELD = "held"


class Where(StrEnum):
    """Which of the two source stores has an object, and whether they agree."""

    BOTH = "both"
    UNBACKED = "unbacked"
    BACKUP_ONLY = "backup_only"
    DIVERGED = "diverged"


class Kind(StrEnum):
    """What the layout makes of an object. `gone` belonged to somebody whom the directory has no more."""

    RESTRICTED = "restricted"
    ALLOWABLE = "allowable"
    EXCEPTION = "exception"
    SHARED = "shared"
    GONE = "gone"
    UNCLASSIFIED = "unclassified"


@dataclass(frozen=True, slots=True)
class Person:
    """A row of the directory."""

    user_id: str
    country: str
    status: str
    hold: bool

    @property
    def scope(self) -> Scope:
        """What becomes of the person: a country that moves, an active account, no hold."""
        if self.country in STAYING:
            return Scope.STAYS
        if self.country in UNCLEAR or self.status != "active":
            return Scope.REVIEW
        return Scope.HELD if self.hold else Scope.MOVES


@dataclass(frozen=True, slots=True)
class Thing:
    """An object. `target_key` is where it belongs at a target, None for what belongs to no person."""

    key: str
    target_key: str | None
    user_id: str | None
    kind: Kind
    where: Where
    size: int
    attributes: Attributes
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class People:
    """The imagined world."""

    seed: int
    people: tuple[Person, ...]
    things: tuple[Thing, ...]

    def content(self, thing: Thing, *, stale: bool = False) -> bytes:
        """The bytes of `thing`; with `stale`, those of the older state that a backup may hold."""
        return random.Random(f"{self.seed}/{thing.key}/{stale}").randbytes(thing.size)

    def part(self, thing: Thing, number: int) -> bytes:
        """Part `number` (from 1) of what is too large for memory."""
        size = min(PART_BYTES, thing.size - (number - 1) * PART_BYTES)
        return random.Random(f"{self.seed}/{thing.key}/{number}").randbytes(size)

    def blocks(self, thing: Thing) -> Iterator[bytes]:
        """The bytes of `thing` in pieces that fit into memory."""
        if thing.size < HUGE_BYTES:
            yield self.content(thing)
            return
        for number in range(1, parts_of(thing) + 1):
            yield self.part(thing, number)

    def sha256(self, thing: Thing) -> bytes:
        """The SHA-256 of its bytes."""
        digest = hashlib.sha256()
        for block in self.blocks(thing):
            digest.update(block)
        return digest.digest()


def parts_of(thing: Thing) -> int:
    """In how many parts the source has it."""
    return -(-thing.size // PART_BYTES)


def imagine(seed: int) -> People:
    """The world of `seed`."""
    dice = random.Random(seed)
    people = tuple(_people(dice))
    things = [thing for person in people for thing in _things_of(dice, person)]
    things += _of_nobody(dice)
    movers = [person for person in people if person.scope is Scope.MOVES]
    things += _odd_things(movers[1])
    things += _archive(dice, movers[2])
    things += _kept_by_backup(movers[4])
    things.append(_huge(movers[3]))
    return People(seed, people, tuple(things))


def _people(dice: random.Random) -> Iterator[Person]:
    shares = {**MOVING, **STAYING, **UNCLEAR}
    countries = dice.choices(list(shares), weights=list(shares.values()), k=USERS - len(shares)) + list(shares)
    dice.shuffle(countries)
    for number, country in enumerate(countries):
        luck = dice.randrange(100)
        user_id = f"u{dice.randrange(10**6):06d}{number:03d}"
        yield Person(user_id, country, "leaving" if luck < 3 else "active", hold=3 <= luck < 6)


def _things_of(dice: random.Random, person: Person) -> Iterator[Thing]:
    user = person.user_id
    yield _thing(dice, user, "users", "profile/profile.json", Kind.RESTRICTED, "application/json", 900)
    yield _thing(dice, user, "public", "avatar.webp", Kind.ALLOWABLE, "image/webp", 20_000)
    for number in range(dice.randrange(5)):
        name = f"videos/{number:02d}-{dice.randrange(16**6):06x}.mp4"
        yield _thing(dice, user, "users", name, Kind.RESTRICTED, "video/mp4", 60_000, video=True)
    for _ in range(dice.randrange(4)):
        month, name = dice.randrange(1, 13), f"{dice.randrange(16**8):08x}.json.gz"
        yield _thing(dice, user, "messages", f"2026/{month:02d}/{name}", Kind.RESTRICTED, "application/json", 3_000)
    for number in range(dice.randrange(3)):
        yield _thing(dice, user, "payments", f"invoice-{number}.pdf", Kind.EXCEPTION, "application/pdf", 30_000)


def _thing(
    dice: random.Random,
    user: str,
    folder: str,
    name: str,
    kind: Kind,
    content_type: str,
    largest: int,
    *,
    video: bool = False,
) -> Thing:
    luck = dice.randrange(1000)
    where = (
        Where.UNBACKED if luck < 12 else Where.DIVERGED if luck < 20 else Where.BACKUP_ONLY if luck < 26 else Where.BOTH
    )
    size = dice.randrange(100, largest)
    attributes = Attributes(
        content_type=content_type,
        content_encoding="gzip" if name.endswith(".gz") else None,
        content_disposition=f'attachment; filename="{name}"' if kind is Kind.EXCEPTION else None,
        cache_control="max-age=86400" if kind is Kind.ALLOWABLE else None,
        metadata=(("app", "clover"), ("length-ms", str(dice.randrange(60_000)))) if video else (),
    )
    tags = (("audience", "friends"), ("codec", "h264")) if video and luck % 3 == 0 else ()
    middle = "" if folder == "users" else f"{folder}/"
    return Thing(f"{folder}/{user}/{name}", f"users/{user}/{middle}{name}", user, kind, where, size, attributes, tags)


def _of_nobody(dice: random.Random) -> Iterator[Thing]:
    plain = Attributes(content_type="application/octet-stream")
    for number in range(12):
        key = f"static/sound-{number:02d}.ogg"
        yield Thing(key, None, None, Kind.SHARED, Where.BOTH, dice.randrange(9_000), plain)
    for number in range(9):
        key = f"users/u-gone-{number}/profile/profile.json"
        yield Thing(key, None, None, Kind.GONE, Where.BOTH, dice.randrange(900), plain)
    for key in ("tmp/upload-8871.part", "debug/heap dump.bin", "users/README.txt"):
        yield Thing(key, None, None, Kind.UNCLASSIFIED, Where.UNBACKED, dice.randrange(900), plain)


def _odd_things(person: Person) -> Iterator[Thing]:
    """Every shape of key that S3 allows and that a folder, a URL or a careless tool would bend."""
    start = f"users/{person.user_id}/videos/"
    longest = start + "x" * (1024 - len(start))
    for key in (*(start + name for name in ODD_NAMES), longest):
        attributes = Attributes(content_type="video/mp4", metadata=(("odd", "yes"),))
        size = 0 if key.endswith("/") else 1_000 + len(key)
        yield Thing(key, key, person.user_id, Kind.RESTRICTED, Where.BOTH, size, attributes)


def _kept_by_backup(person: Person) -> Iterator[Thing]:
    """One object of each category that the primary has no more, whatever the dice say."""
    for folder, kind in (("users", Kind.RESTRICTED), ("public", Kind.ALLOWABLE), ("payments", Kind.EXCEPTION)):
        name = "videos/lost.mp4" if folder == "users" else "lost.bin"
        middle = "" if folder == "users" else f"{folder}/"
        source, target = f"{folder}/{person.user_id}/{name}", f"users/{person.user_id}/{middle}{name}"
        yield Thing(source, target, person.user_id, kind, Where.BACKUP_ONLY, 1_234, Attributes("application/pdf"))


def _archive(dice: random.Random, person: Person) -> Iterator[Thing]:
    """One user with more than fits one batch."""
    for number in range(260):
        key = f"users/{person.user_id}/videos/archive/{number:04d}.mp4"
        attributes = Attributes(content_type="video/mp4")
        yield Thing(key, key, person.user_id, Kind.RESTRICTED, Where.BOTH, dice.randrange(2_000), attributes)


def _huge(person: Person) -> Thing:
    key = f"users/{person.user_id}/videos/the-whole-summer.mov"
    attributes = Attributes(content_type="video/quicktime", metadata=(("app", "clover"),))
    return Thing(
        key, key, person.user_id, Kind.RESTRICTED, Where.UNBACKED, HUGE_BYTES, attributes, (("codec", "prores"),)
    )
