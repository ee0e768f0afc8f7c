"""A run whose ledger is held by somebody else: it hears a signal all the same, and what it had is the checkpoint."""

from __future__ import annotations

import signal
import sqlite3
import time
from pathlib import Path

import pytest
from smallworld import body_of, build, planned
from test_run_verify import finish, has_begun, wait_for


@pytest.mark.parametrize(
    ("held", "workers", "number"),
    [
        ("BEGIN IMMEDIATE", "1", signal.SIGTERM),
        ("BEGIN IMMEDIATE", "2", signal.SIGINT),
        ("BEGIN", "1", signal.SIGINT),
    ],
)
def test_a_signal_is_heard_while_the_ledger_is_locked(
    tmp_path: Path, held: str, workers: str, number: signal.Signals
) -> None:
    """Another process holds SQLite's write lock, or reads for minutes: within ten seconds the run has ended (Invariant 1)."""
    world = build(tmp_path, users=20, per_user=12, large=False)
    planned(world)
    process = world.start("run", "--wave", "all", "--workers", workers, "--limit-bytes", "20kB/s")
    wait_for(lambda: has_begun(world) or process.poll() is not None)
    other = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite", isolation_level=None, timeout=30)
    other.execute(held)
    other.execute("SELECT count(*) FROM batches").fetchall()
    began = time.monotonic()
    process.send_signal(number)
    code, _, err = finish(process, 60)
    assert time.monotonic() - began < 10
    assert code in (69, 130), err
    assert "Traceback" not in err
    other.execute("ROLLBACK")
    other.close()
    answer = world.migrate("run", "--wave", "all", "--json")
    assert answer.code == 0, answer.err
    world.assert_all_there()
    assert world.migrate("verify").code == 0


def test_a_reader_that_takes_its_time_costs_a_run_nothing_but_time(tmp_path: Path) -> None:
    """A backup or a shell reads for longer than SQLite waits by itself: the run goes on, and ends with 0."""
    world = build(tmp_path, users=10, per_user=5, large=False)
    for user in world.users:
        key = f"users/{user}/more"
        world.put_source(key, body_of(key, 100), backup=False)
    planned(world)
    process = world.start("run", "--wave", "all", "--limit-bytes", "20kB/s")
    wait_for(lambda: has_begun(world) or process.poll() is not None)
    other = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite", isolation_level=None, timeout=30)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM batches").fetchall()
    until = time.monotonic() + 8
    wait_for(lambda: time.monotonic() > until)
    other.execute("ROLLBACK")
    other.close()
    code, _, err = finish(process)
    assert code == 0, err
    world.assert_all_there()
