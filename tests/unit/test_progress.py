"""Where a run is: rates, the time that is left, and what fits a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from migrate.engines.assignment import Snapshot
from migrate.report.goals import Goal
from migrate.report.progress import Meter, Progress
from migrate.worker.work import Tally

MIB = 2**20


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def measured(steps: list[tuple[float, int, int]], left: tuple[int, int]) -> float | None:
    """The time that is left after these readings: seconds, copies and bytes done."""
    meter = Meter()
    rates = [meter.rates((copies, size_bytes), left, now) for now, copies, size_bytes in steps]
    return rates[-1].seconds_left


def shown(progress: Progress, columns: int = 80) -> list[str]:
    """The lines of the view, without colour."""
    console = Console(width=columns, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(progress)
    return captured.get().splitlines()


def watching(goals: Mapping[int, Goal], clock: Clock | None = None) -> Progress:
    return Progress("copying", goals, 2, console=Console(), live=False, clock=clock or Clock())


def test_the_time_left_is_that_of_what_takes_longer() -> None:
    """Few copies and many bytes left: the bytes decide; many empty objects left: the copies do."""
    steps = [(0.0, 0, 0), (10.0, 100, 30 * MIB)]
    assert measured(steps, (11, 64 * MIB)) == 64 / 3
    assert measured(steps, (1000, 3 * MIB)) == 100.0


def test_with_large_objects_alone_there_is_a_time_left() -> None:
    """No copy ends for a while: their bytes move all the same."""
    assert measured([(0.0, 0, 0), (10.0, 0, 30 * MIB)], (2, 60 * MIB)) == 20.0


def test_a_check_that_reads_no_bytes_has_a_time_left() -> None:
    """At the level of listings the copies alone move."""
    assert measured([(0.0, 0, 0), (10.0, 50, 0)], (100, 10**12)) == 20.0


def test_nothing_is_said_before_anything_moved() -> None:
    """Neither after no time, nor where all stands still."""
    assert measured([(0.0, 0, 0)], (1, 1)) is None
    assert measured([(0.0, 5, 5), (10.0, 5, 5)], (1, 1)) is None


def test_the_bottom_line_is_seen_with_any_number_of_waves() -> None:
    """41 waves: those at work have a line, at most four, and all together have one."""
    progress = watching({wave: Goal(10, 100, 1000) for wave in range(41)})
    progress(Snapshot({wave: Tally(copies=100 if wave < 7 else 5) for wave in range(13)}, 0, {}))
    lines = shown(progress)
    assert [line.split("  ")[0].strip() for line in lines[:-1]] == ["wave 7", "wave 8", "wave 9", "wave 10", "41 waves"]
    assert "730/4,100 copies" in lines[-2]
    assert "copying: " in lines[-1]
    assert all(len(line) <= 80 for line in lines)


def test_a_wave_with_a_large_object_under_way_is_at_work() -> None:
    """Its bytes move before a copy of it ends."""
    progress = watching({wave: Goal(1, 2, 1000) for wave in range(9)})
    progress(Snapshot({8: Tally(size_bytes=500)}, 0, {}))
    assert [line.split("  ")[0].strip() for line in shown(progress)[:-1]] == ["wave 8", "9 waves"]


def test_few_waves_are_all_shown() -> None:
    """With a line for their sum; one alone is its own sum."""
    assert len(shown(watching({wave: Goal(1, 1, 1) for wave in range(3)}))) == 5
    assert len(shown(watching({0: Goal(1, 1, 1)}))) == 2


def test_what_other_runs_have_done_is_shown() -> None:
    """The ledger is looked at now and then; what this run did since is not lost, and nothing is counted twice."""
    progress = watching({0: Goal(10, 100, 1000), 1: Goal(10, 100, 1000)})
    progress(Snapshot({0: Tally(copies=20, size_bytes=200)}, 0, {}))
    progress.update({0: Goal(10, 100, 1000, 0, 15, 150), 1: Goal(10, 100, 1000, 3, 40, 400)})
    lines = shown(progress)
    assert "20/100 copies" in lines[0]
    assert "3/10 users" in lines[1]
    assert "40/100 copies" in lines[1]
    assert "60/200 copies" in lines[2]


def test_no_more_is_shown_than_there_is() -> None:
    """A part that was lost at the target is sent again: its bytes are no more than the whole."""
    progress = watching({0: Goal(1, 1, 1000, bytes_done=400)})
    progress(Snapshot({0: Tally(copies=1, size_bytes=1000)}, 0, {}))
    assert "1000 B/1000 B" in shown(progress)[0]


def test_a_run_that_waits_says_for_whom() -> None:
    """Instead of rates, which are none."""
    progress = watching({0: Goal(1, 1, 1)})
    progress(Snapshot({}, 0, {}, True, {"machine-b": 2, "machine-c": 1}))
    assert shown(progress)[-1] == "copying: waits for 2 batches held on machine-b, 1 batch held on machine-c"
