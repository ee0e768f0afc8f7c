"""Batches that a dead machine holds: a run waits for them, says so, and takes them over (design, invariant 5)."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest
from smallworld import SmallWorld, build_planned
from test_crashes import killed_at

from migrate.ledger import Ledger
from migrate.pauses import PausePoint

LEASE_SECONDS = "migrate.engines.assignment.LEASE_SECONDS"


def left_by_a_dead_machine(world: SmallWorld, point: PausePoint, *words: str) -> None:
    """Kill a command with batches in its hands, and say that it ran elsewhere."""
    killed_at(world, point, *words)
    connection = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")
    assert connection.execute("SELECT count(*) FROM leases").fetchone()[0] > 0
    connection.execute("UPDATE workers SET host = 'machine-b', boot_id = 'another boot'")
    connection.commit()
    connection.close()


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    return build_planned(tmp_path, users=8, per_user=30, odd=False, large=False)


def test_status_tells_what_was_left_from_what_is_held(world: SmallWorld) -> None:
    """Of a process of this host that was killed it is known; of a worker elsewhere only its beat tells. Status frees nothing."""
    killed_at(world, PausePoint.GROUP_COMMITTED, "run", "--wave", "all")
    answer = world.migrate("status", "--json").json
    assert answer["left_batches"] == answer["leased_batches"] > 0
    assert "left by a run that was killed: " in (out := world.migrate("status").out)
    assert "at work" not in out
    connection = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")
    connection.execute("UPDATE workers SET host = 'machine-b'")
    connection.commit()
    connection.close()
    assert world.migrate("status", "--json").json["left_batches"] == 0
    assert "at work: " in (out := world.migrate("status").out)
    assert "killed" not in out


def test_a_run_takes_over_what_a_dead_machine_holds(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not end before: it waits as long as its lease time says, tells for whom, and does the work."""
    left_by_a_dead_machine(world, PausePoint.GROUP_COMMITTED, "run", "--wave", "all")
    monkeypatch.setattr(LEASE_SECONDS, 2.0)
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == 0, answer.err
    assert "held on machine-b" in answer.err
    world.assert_all_there()


def test_a_verification_takes_over_what_a_dead_machine_holds(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the checks of a pass."""
    assert world.migrate("run", "--wave", "all").code == 0
    left_by_a_dead_machine(world, PausePoint.CHECK_LEASED, "verify")
    monkeypatch.setattr(LEASE_SECONDS, 2.0)
    answer = world.migrate("verify")
    assert answer.code == 0, answer.err
    assert "held on machine-b" in answer.err


def test_waiting_is_bounded_by_the_time_of_the_run(world: SmallWorld) -> None:
    """--for ends it with 75: what is held is left for later, and counted as pending (Invariant 3)."""
    left_by_a_dead_machine(world, PausePoint.GROUP_COMMITTED, "run", "--wave", "all")
    answer = world.migrate("run", "--wave", "all", "--for", "4s", "--json")
    assert answer.code == 75, answer.err
    assert answer.json["stopped"] == ["deadline"]
    assert sum(wave["outcomes"]["pending"] for wave in answer.json["standing"]) > 0
    assert all(sum(wave["outcomes"].values()) == wave["copies"] for wave in answer.json["standing"])


def test_a_signal_ends_the_waiting(world: SmallWorld) -> None:
    """At once, with 130."""
    left_by_a_dead_machine(world, PausePoint.GROUP_COMMITTED, "run", "--wave", "all")
    process = world.start("run", "--wave", "all")
    assert process.stderr is not None
    while b"held on machine-b" not in (line := process.stderr.readline()):
        assert line, "it ended without waiting"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130, err


def test_who_is_alive_is_waited_for_and_keeps_its_batches(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker elsewhere whose beat moves loses nothing; once it has given its batches back, they are done."""
    left_by_a_dead_machine(world, PausePoint.GROUP_COMMITTED, "run", "--wave", "all")
    monkeypatch.setattr(LEASE_SECONDS, 3.0)
    ledger = Ledger.open(f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    held = ledger.leases(1).total()
    seen: list[int] = []

    def beat(self: object, snapshot: object) -> None:
        waits_for = snapshot.waits_for  # type: ignore[attr-defined]
        if not waits_for:
            return
        seen.append(waits_for["machine-b"])
        if len(seen) < 20:  # of quarter seconds: longer than the lease time
            ledger.beat(1)
        elif len(seen) == 20:
            ledger.end_worker(1)

    monkeypatch.setattr("migrate.cli.working.Watch.__call__", beat)
    assert world.migrate("run", "--wave", "all").code == 0
    assert set(seen[:20]) == {held}
    ledger.close()
    world.assert_all_there()
