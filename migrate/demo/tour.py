"""The demo's course: a whole migration of the synthetic world, by the commands that an operator would type.

What it says between the commands goes through `say`; the commands speak for themselves. The claims at the end are `checks`'.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from migrate.demo.checks import Fact, check_copies, source_fingerprint
from migrate.demo.homes import check_homes, move_homes
from migrate.demo.people import HUGE_BYTES, Kind, Scope, Where
from migrate.demo.stage import Stage
from migrate.demo.world import SEED, TARGETS, DemoWorld, build_world, open_folder
from migrate.errors import ExitCode, IntegrityError, NotFoundError
from migrate.units import format_duration, format_size

Say = Callable[[RenderableType], None]

SPEC_TEXT = Path(__file__).with_name("demo.toml")
KILLED_AT_PARTS = 4
WIDTH = 80
COUNTS = (
    "What moves belongs to those who move. The rest of the world's objects and differences are of people who stay, are on hold "
    "or to be reviewed, or of nobody; and a key that nobody owns counts once for each store that has it."
)


def show_all(root: Path, environment: Mapping[str, str], say: Say, *, keep: bool) -> None:
    """Build the world in `root` and migrate it, in front of whoever watches. IntegrityError if anything is not as claimed.

    With `keep` it ends with how to look around in it.
    """
    started = time.monotonic()
    heading(say, "A world", "people of many countries, their objects in the US, a backup of them in Singapore")
    prose(say, "writing some two thousand objects into folders: a moment, please …")
    world = build_world(root, SPEC_TEXT.read_text(encoding="utf-8"), SEED)
    describe(say, world)
    before = source_fingerprint(world)
    stage = Stage(root, environment, say)
    spec = str(world.spec)

    heading(say, "Workspace", "an empty one is written first; the demo's spec stands beside the one to fill in")
    stage.run("init")

    heading(say, "Doctor", "every store is probed, and checked against the policy")
    stage.run_briefly("doctor", spec, lines=1, left_out="a line for each check")

    heading(say, "Plan", "who moves, what, where to, in which order; named by the digest of its content")
    stage.run("plan", spec)
    say(Text())
    prose(say, COUNTS)

    heading(
        say, "Blocked", "what nobody has decided stops the run; an operator accepts just these, by count and digest"
    )
    stage.run("run", expect=ExitCode.REFUSED)
    accepted = [word for blocker in stage.answer("show")["blockers"] for word in ("--accept", _word(blocker))]

    heading(say, "Canary", "the first wave is copied and verified before any other may start")
    stage.run("run", *accepted, expect=ExitCode.LATER)
    stage.run("verify", "--wave", "0")

    heading(say, "Killed", "the other waves, with a speed limit; kill -9 amid the parts of the huge object")
    stage.run_until(
        lambda: parts_under_way(world) >= KILLED_AT_PARTS, "run", "--wave", "1-3", "--limit-bytes", "60MB/s"
    )
    kept = f"{copies_there(world):,} objects at the targets, {parts_under_way(world)} parts of the huge one"
    say(Text("\nkill -9", style="bold red"))
    prose(say, f"The run and its workers are gone. What stands: {kept}.", style="")

    heading(say, "Resumed", "at the next copy and the next part; nothing is copied twice")
    stage.run("run", "--wave", "1-3")

    heading(say, "Verified", "every copy is read again at its target, and held against its receipt")
    stage.run("verify")
    stage.run("status")

    heading(say, "Checked", "by a walk over the folders that knows nothing of plan, ledger and receipts")
    claim(say, check_copies(world, before))

    moved = move_homes(stage, world, partial(heading, say))
    heading(say, "Checked again", "in the same way, and by the table that says where people live")
    claim(say, check_homes(moved))
    conclude(say, world, time.monotonic() - started, keep=keep)


def heading(say: Say, title: str, text: str) -> None:
    say(Text.assemble("\n", (f"── {title} ".ljust(WIDTH, "─"), "bold cyan")))
    prose(say, text)


def prose(say: Say, text: str, style: str = "dim") -> None:
    say(Text(textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False), style=style))


def describe(say: Say, world: DemoWorld) -> None:
    """A small table of what is in the world."""
    people = Counter(person.scope for person in world.people.people)
    kinds = Counter(thing.kind for thing in world.people.things)
    where = Counter(thing.where for thing in world.people.things)
    total = sum(thing.size for thing in world.people.things)
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_row("people", f"{people[Scope.MOVES]} move, {people[Scope.STAYS]} stay, {people[Scope.HELD]} on hold, "
                  f"{people[Scope.REVIEW]} to be reviewed")  # fmt: skip
    table.add_row("objects", f"{len(world.people.things):,}, {format_size(total)}; one has {format_size(HUGE_BYTES)}")
    table.add_row("of nobody", f"{kinds[Kind.SHARED]} shared, {kinds[Kind.GONE]} of people who are gone, "
                  f"{kinds[Kind.UNCLASSIFIED]} that no rule knows")  # fmt: skip
    table.add_row("sources differ", f"{where[Where.DIVERGED]} diverged, {where[Where.UNBACKED]} without backup, "
                  f"{where[Where.BACKUP_ONLY]} in the backup only")  # fmt: skip
    table.add_row("folder", str(world.root))
    say(table)


def parts_under_way(world: DemoWorld) -> int:
    """How many parts of unfinished uploads stand at the targets."""
    parts = 0
    for name in TARGETS:
        with closing(open_folder(world, name)) as store:
            for upload in store.list_uploads():
                with suppress(NotFoundError):  # it has just ended
                    parts += len(store.list_parts(upload.key, upload.upload_id))
    return parts


def copies_there(world: DemoWorld) -> int:
    """How many objects stand at the targets."""
    total = 0
    for name in TARGETS:
        with closing(open_folder(world, name)) as store:
            total += sum(len(page) for page in store.list())
    return total


def claim(say: Say, facts: Sequence[Fact]) -> None:
    """Say each fact and whether it holds. IntegrityError if one does not."""
    for fact in facts:
        say(Text.assemble(("  ✓ ", "bold green") if fact.holds else ("  ✗ ", "bold red"), fact.text))
    if not all(fact.holds for fact in facts):
        raise IntegrityError("the demo's world is not as it must be")


def conclude(say: Say, world: DemoWorld, seconds: float, *, keep: bool) -> None:
    """How long it took; of a world that is kept, how to look around."""
    said = f"\nAll of it in {format_duration(seconds)}."
    if keep:
        said += f" To look around:\n  {_program()} --workspace {shlex.quote(str(world.root))} status"
    say(Text(said, style="dim"))


def _program() -> str:
    """How the program is called from here: by its path, unless the shell finds it by its name."""
    path = Path(sys.executable).with_name("migrate")
    found = shutil.which("migrate")
    return "migrate" if (found is not None and Path(found) == path) or not path.exists() else shlex.quote(str(path))


def _word(blocker: Mapping[str, object]) -> str:
    return f"{blocker['kind']}:{blocker['count']}:{str(blocker['digest'])[:12]}"
