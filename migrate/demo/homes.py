"""The demo's second half: people get their new homes, one is taken back, one is on hold, and nothing of the others stays behind.

Its claims are found out as those of the first half are: by walks over the folders, and by the table that says where people live.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from migrate.demo.checks import Fact, check_targets, listing
from migrate.demo.meanwhile import movers, things_of, write_at_the_new_home, write_at_the_sources
from migrate.demo.people import Person, Thing, Where
from migrate.demo.stage import Stage
from migrate.demo.world import SOURCES, TARGETS, US, DemoWorld, open_folder
from migrate.errors import ExitCode
from migrate.model import ObjectInfo

Heading = Callable[[str, str], None]
WRITER, ON_HOLD, TAKEN_BACK = 5, 6, 7
"""Who of those who move writes meanwhile, is put on hold, and goes back."""
_LEDGER, _PURGES = Path(".migrate", "ledger.sqlite"), Path(".migrate", "purges")


@dataclass(frozen=True, slots=True)
class Moved:
    """The world after all of it, and what the claims are about. `before` is what each source held before anything was purged."""

    world: DemoWorld
    on_hold: Person
    taken_back: Person
    written: Thing
    deleted: Thing
    before: Mapping[str, Mapping[str, ObjectInfo]]


def move_homes(stage: Stage, world: DemoWorld, heading: Heading) -> Moved:
    """Delta, hold, cutover, rollback, purge and sweep, by the commands that an operator would type."""
    people = movers(world)
    on_hold, taken_back = people[ON_HOLD], people[TAKEN_BACK]

    heading("Meanwhile", "people go on writing in the US: a delta is a small plan of what changed since")
    world = write_at_the_sources(world, people[WRITER])
    stage.run_briefly("delta", lines=2, left_out="what any plan says")
    stage.run("run", "--wave", "all")
    stage.run("verify")

    heading("On hold", "somebody's data has to stay where it is: no cutover, and no purge")
    stage.run("hold", "--user", on_hold.user_id, "--reason", "a dispute about an invoice")

    heading("Cut over", "each user's writers are kept off for a moment: last changes, flip, read back")
    stage.run("cutover", "--wave", "0", "--dry-run")
    stage.run("cutover", "--wave", "all", expect=ExitCode.INCOMPLETE)

    heading("Taken back", "one user goes back while the US still has all; what was deleted in Europe stays deleted")
    where = stage.answer("where", taken_back.user_id)
    world, written, deleted = write_at_the_new_home(world, taken_back, where["home"], where["backup"])
    stage.run("rollback", "--user", taken_back.user_id)
    before = sources(world)

    heading("Purged", "what is left in the US and Singapore of those who moved: listed, confirmed by digest, deleted")
    stage.run("purge", "--wave", "all", "--dry-run", expect=ExitCode.INCOMPLETE)
    (purge_plan,) = (world.root / _PURGES).iterdir()
    stage.run("purge", "--wave", "all", "--confirm", purge_plan.name[:12])
    stage.run("status")

    heading("Swept", "every store is looked through for what should not be there")
    stage.run("sweep")
    return Moved(world, on_hold, taken_back, written, deleted, before)


def sources(world: DemoWorld) -> dict[str, dict[str, ObjectInfo]]:
    """What each source holds."""
    found = {}
    for name in SOURCES:
        with closing(open_folder(world, name)) as store:
            found[name] = listing(store)
    return found


def check_homes(moved: Moved) -> list[Fact]:
    """The facts at the end of the whole demo."""
    world, now = moved.world, sources(moved.world)
    mover_ids = {person.user_id for person in movers(world)}
    stay = {moved.on_hold.user_id, moved.taken_back.user_id}
    gone = mover_ids - stay
    owner = {thing.key: thing.user_id for thing in world.people.things}
    homes = _homes(world)
    left = sum(owner.get(key) in gone for keys in now.values() for key in keys)
    others = all(
        {key: info for key, info in moved.before[name].items() if owner.get(key) not in gone} == keys
        for name, keys in now.items()
    )
    held = things_of(world, moved.on_hold)
    in_europe = {person for person, home in homes.items() if home in TARGETS}
    return [
        *check_targets(world, besides=[moved.written]),
        Fact(f"{len(gone)} users live in Europe, and nobody else", in_europe == gone),
        Fact("nothing of theirs is left in the US or in Singapore", left == 0),
        Fact(
            f"all {len(held)} objects of the user on hold are in the US, where the user lives",
            _are_there(held, now[US]) and homes.get(moved.on_hold.user_id, US) == US,
        ),
        Fact(
            "who went back lives in the US, and what was deleted in Europe is nowhere",
            homes.get(moved.taken_back.user_id) == US
            and _are_there(things_of(world, moved.taken_back), now[US])
            and all(moved.deleted.key not in keys for keys in now.values()),
        ),
        Fact("everything of everybody else is where it was", others),
    ]


def _are_there(things: Sequence[Thing], keys: Mapping[str, ObjectInfo]) -> bool:
    return all(thing.key in keys for thing in things if thing.where is not Where.BACKUP_ONLY)


def _homes(world: DemoWorld) -> dict[str, str]:
    """Where people live, by the platform's own table; who is not in it lives where they always did."""
    with closing(sqlite3.connect(world.root / _LEDGER)) as ledger:
        return dict(ledger.execute("SELECT user_id, home FROM routes"))
