"""PostgreSQL goes away while commands work on it, and comes back: what was committed stands, and the next run goes on."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pg import PostgresServer
from smallworld import SmallWorld
from together import assert_all_is_well, finish, frozen_at, ledger_of, many_planned, start, wake

from migrate.pauses import PausePoint

IN_ORDER, AT_ONCE = signal.SIGINT, signal.SIGQUIT
_P = PausePoint
SOAK = pytest.mark.soak


@pytest.fixture
def world(tmp_path: Path, postgres_url: str) -> SmallWorld:
    return many_planned(tmp_path, postgres_url)


@pytest.fixture
def server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, which runs again at the end of the test."""
    yield postgres_server
    if postgres_server.process is None:
        postgres_server.start()


@pytest.mark.parametrize(
    ("point", "how"),
    [
        (_P.GROUP_COMMITTING, IN_ORDER),
        (_P.GROUP_COMMITTED, AT_ONCE),
        pytest.param(_P.BATCH_FINISHING, AT_ONCE, marks=SOAK),
        pytest.param(_P.PLAN_REGISTERING, AT_ONCE, marks=SOAK),
        pytest.param(_P.BATCH_LEASED, IN_ORDER, marks=SOAK),
        pytest.param(_P.GROUP_COMMITTING, AT_ONCE, marks=SOAK),
        pytest.param(_P.GROUP_COMMITTED, IN_ORDER, marks=SOAK),
        pytest.param(_P.RECEIPTS_SEALED, AT_ONCE, marks=SOAK),
        pytest.param(_P.BATCH_FINISHED, AT_ONCE, marks=SOAK),
        pytest.param(_P.PARTS_COMPLETE, AT_ONCE, marks=SOAK),
    ],
    ids=str,
)
def test_a_restart_of_the_database_costs_a_run_no_copy(
    point: PausePoint, how: signal.Signals, world: SmallWorld, server: PostgresServer
) -> None:
    """In a transaction or between two, in order or by a crash: the run goes on, or ends with 69 and names the ledger; the next
    one ends the work (Invariants 1, 2, 3 and 5)."""
    with frozen_at(world, point, "run", "--wave", "all") as run:
        server.stop(how)
        server.start()
        code, _, err = wake(run)
    assert code in (0, 69), err
    assert "Traceback" not in err
    if code == 69:
        assert "the ledger postgresql://postgres@/" in err
        assert "cannot be reached" in err
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == 0, answer.err
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)


@pytest.mark.parametrize("point", [_P.CHECK_FINISHING, pytest.param(_P.VERDICTS_SEALED, marks=SOAK)], ids=str)
def test_a_restart_of_the_database_costs_a_verification_no_verdict(
    point: PausePoint, world: SmallWorld, server: PostgresServer
) -> None:
    """The pass goes on where it was, if it has not come through the restart to its end."""
    assert world.migrate("run", "--wave", "all").code == 0
    with frozen_at(world, point, "verify", "--json") as verification:
        server.stop(AT_ONCE)
        server.start()
        code, out, err = wake(verification)
    assert code in (0, 69), err
    assert "Traceback" not in err
    answer = world.migrate("verify", "--json")
    assert answer.code == 0, answer.err
    checked = answer.json["pass"] if code == 69 else json.loads(out)["pass"]
    assert checked["verdicts"]["match"] == 2 * len(world.objects)
    assert_all_is_well(world)


@pytest.mark.parametrize("workers", ["2", pytest.param("1", marks=SOAK)])
def test_a_database_that_stays_away_ends_a_run_with_69_in_bounded_time(
    workers: str, world: SmallWorld, server: PostgresServer
) -> None:
    """It says so once, in words; commands that come meanwhile say the same; once it is back the work goes on."""
    run = start(world, ("run", "--wave", "all", "--workers", workers, "--limit-bytes", "100kB/s"))
    until = time.monotonic() + 60
    while not any((world.root / "stores" / "hamar" / "users").rglob("*-*")):
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    server.stop(AT_ONCE)
    began = time.monotonic()
    code, _, err = finish(run)
    assert time.monotonic() - began < 30
    assert code == 69, err
    assert "Traceback" not in err
    assert err.count("cannot be reached") == 1, err
    for words in (("run",), ("verify",), ("status",)):
        answer = world.migrate(*words)
        assert answer.code == 69
        assert "cannot be reached" in answer.err
    server.start()
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == 0, answer.err
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)


def test_two_runs_after_a_restart_do_the_work_once(world: SmallWorld, server: PostgresServer) -> None:
    """The lock on the plan is a session's, and is gone with the server: another run is let in beside the one that goes on.
    Leases keep them apart all the same (Invariant 5)."""
    with frozen_at(world, _P.GROUP_COMMITTED, "run", "--wave", "all") as run:
        server.stop(AT_ONCE)
        server.start()
        other = start(world, ("run", "--wave", "all"))
        code, _, err = wake(run)
        other_code, _, other_err = finish(other)
    assert {code, other_code} <= {0, 69}, err + other_err
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)


@pytest.mark.parametrize("point", [_P.GROUP_COMMITTING, pytest.param(_P.BATCH_FINISHING, marks=SOAK)], ids=str)
def test_a_worker_that_sleeps_in_a_transaction_is_cut_off_by_the_server(
    point: PausePoint, world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had open is undone after a while, so that others go on; it ends with 69 when it wakes (Invariant 5)."""
    monkeypatch.setattr("migrate.engines.assignment.LEASE_SECONDS", 1.0)
    patch = "import migrate.ledger.engine\nmigrate.ledger.engine.SILENT_SECONDS = 2"
    with frozen_at(world, point, "run", "--wave", "all", program=patch) as sleeper:
        other = world.migrate("run", "--wave", "all", "--share")
        assert other.code == 0, other.err
        code, _, err = wake(sleeper)
    assert code == 69, err
    assert "the ledger postgresql://postgres@/" in err
    assert "Traceback" not in err
    assert ledger_of(world).leases(1).total() == 0
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)
