"""Commands that are frozen at a named point while others work, and what must hold when all of them have ended."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from kept import made_once
from smallworld import SmallWorld, build, planned
from test_crashes import end_of

from migrate.ledger import Ledger, SealKind
from migrate.pauses import VARIABLE, PausePoint
from migrate.planner.alone import BUILDING_PREFIX, SCRATCH_PREFIX

SECONDS = 150
RUBBISH = ("receipts-", BUILDING_PREFIX, SCRATCH_PREFIX)
Ended = tuple[int, str, str]


def many_batches(root: Path, ledger: str | None = None, *, large: bool = True) -> SmallWorld:
    """A world of several batches: three waves, two of its objects and more in each batch."""
    world = build(root, users=8, per_user=3, copies_max=12, odd=False, large=large)
    world.ledger = ledger
    return world


@made_once
def many_planned(root: Path, ledger: str | None) -> SmallWorld:
    """The same with its plan."""
    world = many_batches(root, ledger)
    planned(world)
    return world


def start(world: SmallWorld, words: Sequence[str], *, program: str = "", **environment: str) -> subprocess.Popen[bytes]:
    """Start a command in a group of its own; `program` is Python that is run first in its process."""
    return world.start(*words, program=program, **environment)


def finish(process: subprocess.Popen[bytes]) -> Ended:
    """Wait for its end: code, stdout, stderr. TimeoutExpired, with its group killed, if that does not come."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out.decode(), (err or b"").decode()


def all_at_once(world: SmallWorld, *commands: Sequence[str]) -> list[Ended]:
    """Start the commands together; how each of them ended."""
    processes = [start(world, words) for words in commands]
    return [finish(process) for process in processes]


def is_in_a_transaction(world: SmallWorld) -> bool:
    """Whether whoever is frozen holds the ledger: a lock on SQLite (a reader's, too, which nobody can commit beside), or an
    open transaction on PostgreSQL."""
    if world.ledger is not None:
        with psycopg.connect(world.ledger) as connection:
            open_ones = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %'"
            )
            row = connection.execute(open_ones).fetchone()
            return row is not None and row[0] > 0
    with closing(
        sqlite3.connect(world.root / ".migrate" / "ledger.sqlite", timeout=0, isolation_level=None)
    ) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return True
        return False


@contextmanager
def frozen_at(
    world: SmallWorld, point: PausePoint, *words: str, times: int = 1, program: str = "", **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that stands still at the point, as if its machine were suspended. AssertionError if it does not come there."""
    process = start(world, words, program=program, **{VARIABLE: f"{point}:{times}"}, **environment)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            process.returncode = os.waitstatus_to_exitcode(status)
            out, err = process.communicate()
            raise AssertionError(f"{words} did not come to {point}: {out.decode()} {err.decode()}")
        _step_out_of_folders(world, process)
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _step_out_of_folders(world: SmallWorld, process: subprocess.Popen[bytes]) -> None:
    """Let it go on, a millisecond at a time, while a thread of it is stopped with the lock of a folder in its hands.

    Nobody else could write to that folder then, which no bucket knows; the stop came upon all threads, wherever they were.
    """
    locks = list(world.root.glob("stores/*/.migrate-store/lock"))
    if not any(map(_is_held, locks)):
        return
    before = is_in_a_transaction(world)  # as it stands at the point, so it is to stand
    for _ in range(1000):
        if not any(map(_is_held, locks)) and is_in_a_transaction(world) is before:
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it has ended on the way out"
    raise AssertionError("it keeps the lock of a folder")


def _is_held(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def wake(process: subprocess.Popen[bytes]) -> Ended:
    """Let a frozen command go on to its end."""
    os.kill(process.pid, signal.SIGCONT)
    return finish(process)


def ledger_of(world: SmallWorld) -> Ledger:
    return Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite")


def assert_all_is_well(world: SmallWorld) -> None:
    """All is verified and where it belongs, once; each copy has one receipt under seal; nothing is left behind.

    Design, invariants 1, 2, 3 and 5.
    """
    world.assert_all_there()
    copies = 2 * len(world.objects)
    end = end_of(world)  # which adds the outcomes of each wave up
    assert (end.settled, dict(end.states)) == (copies, {"verified": len(world.users)})
    uploads, leases, files = end.left_behind
    assert (uploads, leases) == (0, 0)
    # verdicts of a check that came too late may lie there: nothing that is sealed is ever removed
    assert not [name for name in files if name.startswith(RUBBISH) or name.endswith(".partial")]  # type: ignore[attr-defined]  # names
    ledger = ledger_of(world)
    try:
        seals = [seal for seal in ledger.chain(ledger.plans()[0].id) if seal.kind is SealKind.RECEIPTS]
    finally:
        ledger.close()
    assert sum(seal.rows for seal in seals) == copies
