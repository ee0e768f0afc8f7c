"""The clock is set while commands work: leases, limits and order rest on the monotonic clock and on the ledger, never on the
time of day, which is only written down."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from smallworld import SmallWorld
from together import assert_all_is_well, finish, frozen_at, ledger_of, many_planned, start, wake

import migrate
from migrate.pauses import PausePoint

DAY = 86_400
YEARS = 3650 * DAY
_P = PausePoint

# The process reads at each look at the clock how far it is ahead.
CLOCK = """
import os, time
from datetime import datetime, timedelta
from pathlib import Path

_time, _time_ns = time.time, time.time_ns

def ahead():
    return int(Path(os.environ["CLOCK_AHEAD"]).read_text())

time.time = lambda: _time() + ahead()
time.time_ns = lambda: _time_ns() + ahead() * 10**9

class Clock(datetime):
    @classmethod
    def now(cls, zone=None):
        return datetime.now(zone) + timedelta(seconds=ahead())

import migrate.cli.context
import migrate.engines.assignment
migrate.cli.context.datetime = migrate.engines.assignment.datetime = Clock
"""
SetClock = Callable[[int], None]


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    return many_planned(tmp_path, None)


@pytest.fixture
def set_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets the clock of commands that `CLOCK` is run in: seconds ahead of the true one."""
    path = tmp_path / "clock"
    monkeypatch.setenv("CLOCK_AHEAD", str(path))

    def set_to(seconds: int) -> None:
        path.write_text(str(seconds))

    set_to(0)
    return set_to


@pytest.mark.parametrize("seconds", [YEARS, -YEARS])
def test_a_clock_that_is_set_in_mid_run_changes_nothing_but_the_times(
    seconds: int, world: SmallWorld, set_clock: SetClock
) -> None:
    """Ten years forward or back: no time limit is over or put off, the run and its verification end well, status answers."""
    with frozen_at(world, _P.GROUP_COMMITTED, "run", "--wave", "all", "--for", "1h", program=CLOCK) as run:
        set_clock(seconds)
        code, _, err = wake(run)
    assert code == 0, err
    with frozen_at(world, _P.VERDICTS_SEALED, "verify", program=CLOCK) as verification:
        set_clock(0)
        code, _, err = wake(verification)
    assert code == 0, err
    ledger = ledger_of(world)
    (run_row,) = [row for row in ledger.runs(limit=10) if row.verb == "run"]
    ledger.close()
    assert run_row.ended_at is not None
    assert (run_row.ended_at - run_row.started_at).days // 3649 == (1 if seconds > 0 else -2)  # it was really set
    assert world.migrate("status").code == 0
    assert_all_is_well(world)


@pytest.mark.parametrize("seconds", [DAY, pytest.param(-DAY, marks=pytest.mark.soak)])
def test_a_clock_that_is_ahead_takes_no_lease_away(seconds: int, world: SmallWorld, set_clock: SetClock) -> None:
    """Another machine's clock is a day ahead, or behind: it waits for who is asleep as long as by any other clock
    (Invariant 5)."""
    with frozen_at(world, _P.GROUP_COMMITTED, "run", "--wave", "all") as sleeper:
        ledger = ledger_of(world)
        held = ledger.leases(1).total()
        set_clock(seconds)
        code, _, err = finish(start(world, ("run", "--wave", "all", "--share", "--for", "3s"), program=CLOCK))
        assert code == 75, err
        assert ledger.leases(1).total() == held > 0
        ledger.close()
        code, _, err = wake(sleeper)
    assert code == 0, err
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)


def test_a_clock_far_ahead_takes_the_place_of_a_pass_and_loses_no_check(world: SmallWorld, set_clock: SetClock) -> None:
    """A clock eight days ahead takes a pass for one that nobody worked on for a week, and begins another, which does all of it:
    the first is told so, and nobody is verified by half of one (Invariant 9)."""
    assert world.migrate("run", "--wave", "all").code == 0
    with frozen_at(world, _P.CHECK_LEASED, "verify") as sleeper:
        set_clock(8 * DAY)
        code, _, err = finish(start(world, ("verify", "--share"), program=CLOCK))
        assert code == 0, err
        code, _, err = wake(sleeper)
    assert code == 75, err
    assert "another verification, begun since, has taken the place of this one" in err
    assert_all_is_well(world)


def test_the_time_of_day_is_read_where_these_tests_set_it() -> None:
    """A new look at the clock, outside of the stores, belongs into `CLOCK` first."""
    package = Path(migrate.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"datetime\.(now|utcnow)\(|time\.time(_ns)?\b", path.read_text(encoding="utf-8"))
    }
    elsewhere = {name for name in found if not name.startswith("stores/")}
    elsewhere.discard("routing/http.py")  # what a signature shows decides nothing here
    assert elsewhere == {"cli/boundary.py", "cli/context.py", "engines/assignment.py"}
