"""Each exit code of the table comes out of the real command, as a process of its own; where several apply, the first counts."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from smallworld import SmallWorld, build, planned

from migrate.errors import ExitCode, worst

TABLE = Path(__file__).parents[2] / "docs" / "design.md"
SPEC = "plans/small.toml"
KEY = "users/u003/photo-0001.jpg"
SECONDS = 60


def spec_of(world: SmallWorld) -> Path:
    return world.root / SPEC


def ended(world: SmallWorld, *words: str, **environment: str) -> tuple[int, str]:
    """Run a command as a process; its exit code and what it said."""
    process = world.start(*words, **environment)
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out.decode() + err.decode()


# what has to be so before, each by a name


def plan_it(world: SmallWorld) -> None:
    planned(world)


def copy_canary(world: SmallWorld) -> None:
    """Wave 0 is copied."""
    planned(world)
    assert world.migrate("run").code == 75


def copy_all(world: SmallWorld) -> None:
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0


def lose_an_object(world: SmallWorld) -> None:
    """An object of each user is gone from where it was copied to, if it was."""
    for store, key in world.at_targets():
        if key.endswith("photo-0001.jpg"):
            world.store(store).delete(key)


def occupy(world: SmallWorld) -> None:
    """Something that we did not write stands where each user's first object goes."""
    for store in ("dublin-1", "dublin-2", "hamar"):
        for user in world.users:
            world.put(store, f"users/{user}/photo-0000.jpg", b"another's", world.objects[KEY][1], {})


def hide_stores(world: SmallWorld) -> None:
    for store in ("dublin-1", "dublin-2", "hamar"):
        (world.root / "stores" / store).rename(world.root / "stores" / f"{store}.away")


def damage_a_seal(world: SmallWorld) -> None:
    first = min((world.root / ".migrate" / "seals").rglob("receipts-*"))
    first.write_bytes(first.read_bytes()[:-9])


def edit_a_counter(world: SmallWorld) -> None:
    connection = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("UPDATE batches SET copies = copies - 1 WHERE number = 1")
    connection.commit()
    connection.close()


def add_an_orphan(world: SmallWorld) -> None:
    """A key of nobody whom the directory has: it blocks the plan."""
    world.put_source("users/nobody/photo-0000.jpg", b"whose?")
    del world.objects["users/nobody/photo-0000.jpg"]


def break_spec(world: SmallWorld) -> None:
    spec_of(world).write_text(spec_of(world).read_text() + "\n[no_such_section]\n")


def lose_directory(world: SmallWorld) -> None:
    (world.root / "users.csv").unlink()


def check_all_waves(world: SmallWorld) -> None:
    """A verification of all waves is under way: some of it waits for a copy, and a difference is known."""
    assert world.migrate("verify", "--wave", "all").code == 3


def copy_the_rest(world: SmallWorld) -> None:
    """All is copied, and what a verification found still stands."""
    assert world.migrate("run", "--wave", "all").code == 3


@dataclass(frozen=True, slots=True)
class Case:
    """What was done, the command, the environment, and the code; `also` are codes that apply as well, and give way."""

    code: ExitCode
    done: tuple[Callable[[SmallWorld], None], ...]
    words: tuple[str, ...]
    says: str = ""
    country: str = "IE"
    also: tuple[ExitCode, ...] = ()


_C = ExitCode
CASES = {
    "all-copied": Case(_C.DONE, (plan_it,), ("run", "--wave", "all"), "Work is done|checks what was copied"),
    "all-verified": Case(_C.DONE, (copy_all,), ("verify",), "as it should be"),
    "no-command": Case(_C.USAGE, (), (), "Usage"),
    "no-such-wave": Case(_C.USAGE, (plan_it,), ("run", "--wave", "7"), "no wave 7"),
    "no-plan": Case(_C.USAGE, (), ("run",), "no plan"),
    "gone-at-target": Case(_C.DIFFERENT, (copy_all, lose_an_object), ("verify",), "--failures"),
    "gone-and-run": Case(
        _C.DIFFERENT,
        (copy_canary, lose_an_object, check_all_waves),
        ("run", "--wave", "all"),
        "A verification found MISSING",
    ),
    "sample-of-nothing": Case(_C.USAGE, (copy_all,), ("verify", "--sample", "0.0001%"), "Nothing was checked"),
    "occupied": Case(_C.INCOMPLETE, (plan_it, occupy), ("run", "--wave", "all"), "--retry-quarantined"),
    "counter-edited": Case(_C.INTEGRITY, (copy_canary, edit_a_counter), ("run",), "Do not go on"),
    "store-down": Case(_C.UNREACHABLE, (plan_it, hide_stores), ("run", "--wave", "all"), "dublin|hamar"),
    "ledger-down": Case(
        _C.UNREACHABLE, (plan_it,), ("--ledger", "postgresql://nobody@127.0.0.1:9/none", "run"), "ledger"
    ),
    "next-wave-waits": Case(_C.LATER, (copy_canary,), ("run",), "wave 1 waits"),
    "time-is-up": Case(_C.LATER, (plan_it,), ("run", "--wave", "all", "--for", "0s"), "time is up"),
    "nothing-to-verify": Case(_C.LATER, (plan_it,), ("verify",), "comes first"),
    "worker-elsewhere": Case(_C.REFUSED, (plan_it,), ("run",), "US", country="US"),
    "blocked": Case(_C.REFUSED, (add_an_orphan, plan_it), ("run",), "--accept orphan:2:"),
    "bad-spec": Case(_C.BAD_SPEC, (break_spec,), ("plan", SPEC), "no_such_section"),
    "no-directory": Case(_C.BAD_SPEC, (lose_directory,), ("plan", SPEC), "users.csv"),
    # where several apply
    "seal-and-difference": Case(
        _C.INTEGRITY, (copy_all, lose_an_object, damage_a_seal), ("verify",), also=(_C.DIFFERENT, _C.LATER)
    ),
    "country-and-directory": Case(
        _C.REFUSED,
        (lose_directory, hide_stores),
        ("doctor", SPEC),
        country="US",
        also=(_C.BAD_SPEC, _C.UNREACHABLE),
    ),
    "directory-and-stores": Case(_C.BAD_SPEC, (lose_directory, hide_stores), ("doctor", SPEC), also=(_C.UNREACHABLE,)),
    "store-down-and-difference": Case(
        _C.UNREACHABLE,
        (copy_canary, lose_an_object, check_all_waves, copy_the_rest, hide_stores),
        ("verify", "--wave", "all"),
        also=(_C.DIFFERENT, _C.LATER),
    ),
    "difference-and-work": Case(
        _C.DIFFERENT, (copy_canary, lose_an_object), ("verify", "--wave", "all"), also=(_C.LATER,)
    ),
    "work-and-quarantine": Case(_C.LATER, (plan_it, occupy), ("run",), also=(_C.INCOMPLETE,)),
}


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    return build(tmp_path, users=10, per_user=2, copies_max=10, odd=False, large=False)


@pytest.mark.parametrize("name", CASES)
def test_a_process_ends_with_the_code_of_the_table(name: str, world: SmallWorld) -> None:
    """Timers rely on it (design, section 7)."""
    case = CASES[name]
    for step in case.done:
        step(world)
    words = [str(world.root / word) if word == SPEC else word for word in case.words]
    if not words:  # nothing at all, not even where the workspace is
        world.arguments = lambda words: []  # type: ignore[method-assign]
    code, said = ended(world, *words, MIGRATE_COUNTRY=case.country)
    assert code == case.code, said
    assert re.search(case.says, said), said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_ends_with_130(number: signal.Signals, world: SmallWorld) -> None:
    """Work is left and copies are quarantined as well: 130 goes before 75 and 4."""
    planned(world)
    occupy(world)
    process = world.start("run", "--wave", "all", "--limit-bytes", "100B/s")
    until = time.monotonic() + SECONDS
    ledger = world.root / ".migrate" / "ledger.sqlite"
    while process.poll() is None and not _quarantined(ledger):
        assert time.monotonic() < until
        os.sched_yield()
    process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert "Traceback" not in err.decode()
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == ExitCode.INCOMPLETE, answer.err


def _quarantined(ledger: Path) -> bool:
    """Whether a copy is quarantined, as a reader of its own sees it."""
    try:
        connection = sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            return bool(connection.execute("SELECT count(*) FROM copies WHERE outcome = 'q'").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error:  # there is no ledger yet
        return False


def test_every_code_of_the_table_has_a_case() -> None:
    """The table in docs/design.md, the enum and the cases name the same codes."""
    text = TABLE.read_text(encoding="utf-8")
    rows = {int(number) for number in re.findall(r"^\| (\d+) \| ", text, re.MULTILINE)}
    assert rows == set(ExitCode)
    assert {case.code for case in CASES.values()} | {ExitCode.INTERRUPTED} == rows


def test_of_any_two_codes_the_first_of_the_order_counts() -> None:
    """The order that docs/design.md names, over all pairs; a case above takes each neighbour that can be had at once."""
    (order,) = re.findall(r"the first of ([\d, ]+) counts", TABLE.read_text(encoding="utf-8"))
    codes = [ExitCode(int(word)) for word in order.split(", ")]
    for first, second in itertools.combinations(codes, 2):
        assert worst([second, ExitCode.DONE, first]) == first
    for case in CASES.values():
        assert worst([*case.also, case.code]) == case.code
