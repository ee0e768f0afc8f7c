"""Runs and verifications with their ledger on PostgreSQL, as several machines would have it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from smallworld import build, planned
from test_run_verify import finish, has_begun, sums, wait_for


def test_killed_and_shared_runs_end_complete_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    """Two runs share the plan, one is killed with -9; the other two end it, and nothing is doubled (Invariants 1, 2, 5)."""
    world = build(tmp_path, users=20, per_user=20)
    world.ledger = postgres_url
    planned(world)
    first = world.start("run", "--wave", "all", "--share")
    wait_for(lambda: has_begun(world) or first.poll() is not None)
    second = world.start("run", "--wave", "all", "--share", "--json")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    code, out, err = finish(second)
    assert code in (0, 75), err
    sums(json.loads(out))
    answer = world.migrate("run", "--wave", "all", "--workers", "2", "--json")
    assert answer.code == 0, answer.err
    sums(answer.json)
    world.assert_all_there()
    assert world.migrate("verify", "--workers", "2", "--level", "both-ends").code == 0
    assert world.open_uploads() == 0


def test_an_overlapping_run_is_turned_away_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    """The advisory lock belongs to the session: it turns a second run away, and is gone with a killed one (Invariant 5)."""
    world = build(tmp_path, users=20, per_user=20, large=False)
    world.ledger = postgres_url
    planned(world)
    process = world.start("run", "--wave", "all", "--limit-bytes", "5kB/s")
    wait_for(lambda: has_begun(world) or process.poll() is not None)
    assert world.migrate("run", "--wave", "all").code == 75
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == 0, answer.err
    world.assert_all_there()


def test_the_password_of_the_ledger_is_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable ledger ends with 69, and the URL in the error has no password (Invariant 10)."""
    world = build(tmp_path, users=2, per_user=1, odd=False, large=False)
    planned(world)
    monkeypatch.setenv("MIGRATE_LEDGER", "postgresql://somebody:the-secret-word@127.0.0.1:9/none")
    answer = world.migrate("run")
    assert answer.code == 69
    assert "the-secret-word" not in answer.out + answer.err
