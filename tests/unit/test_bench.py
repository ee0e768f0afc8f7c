"""What judges the benchmark's figures, and the formula that its servers and listings share. Nothing is timed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb
import pytest

from bench.__main__ import SUBJECTS
from bench.figures import Figure, Measured, Target, row_of
from bench.pairs import CannotMeasureError, alternate, measure, slope
from bench.results import Results
from bench.synthetic import Formula, body_of, etag_of
from bench.watched import overlap

FASTER = Figure("fast", "objects/s", "peer", Target(least=1.5))
LESS = Figure("less", "s", "peer", Target(least=2), times_less=True)
ALONE = Figure("alone", "s", target=Target(most=0.5, of_ratio=False))
ABOUT = {
    "machine": {
        "cores": 2,
        "cpu": "a cpu",
        "memory_bytes": 2**30,
        "kernel": "6",
        "python": "3",
        "peers": {"rclone": "1"},
    },
    "commit": "abc",
    "at": "2026-11-25T00:00:00+00:00",
}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """And not the ratio of the medians: what slows down one round meets both."""
    row = row_of(FASTER, Measured("fast", [200, 100, 300], [100, 60, 150]))
    assert (row["ours"], row["peer"], row["ratio"], row["met"]) == (200, 100, 2, True)
    assert row["ratio_spread"] == [1.667, 2]


def test_a_target_that_is_missed_is_not_met() -> None:
    """The corrupted twin."""
    assert row_of(FASTER, Measured("fast", [100], [100]))["met"] is False
    assert row_of(ALONE, Measured("alone", [0.6]))["met"] is False
    assert row_of(ALONE, Measured("alone", [0.4]))["met"] is True


def test_less_time_than_the_peers_is_a_ratio_above_one() -> None:
    """For figures where little is good, and the target says how many times."""
    row = row_of(LESS, Measured("less", [1.0], [3.0]))
    assert (row["ratio"], row["met"]) == (3, True)


def test_a_figure_that_cannot_be_had_says_why() -> None:
    """Its row does not vanish."""
    row = row_of(FASTER, None, "no server")
    assert (row["name"], row["ours"], row["met"], row["why"]) == ("fast", None, None, "no server")


def test_contenders_take_turns() -> None:
    """A B A B."""
    turns: list[str] = []
    alternate({name: lambda name=name: turns.append(name) for name in "AB"}, 2)  # type: ignore[misc]
    assert turns == ["A", "B", "A", "B"]


def test_a_run_waits_where_a_thread_and_the_ledger_do_at_once() -> None:
    """What a thread lacks while the ledger is left alone is not the ledger's, and each thread's waiting counts."""
    ledger = [(0.0, 2.0), (3.0, 4.0), (10.0, 11.0)]
    assert overlap(ledger, [(2.0, 3.0), (4.0, 9.0)]) == 0
    assert overlap(ledger, [(1.0, 3.5)]) == 1.5
    assert overlap(ledger, [(3.5, 10.5), (1.0, 3.5), (1.5, 20.0)]) == 1.5 + 1.0 + 2.5
    assert overlap([], [(0.0, 1.0)]) == overlap(ledger, []) == 0


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    """What it said last is the reason."""
    with pytest.raises(CannotMeasureError, match=r"exit code 3 of .*: no bucket"):
        measure([sys.executable, "-c", "import sys; print('no bucket', file=sys.stderr); sys.exit(3)"], folder=tmp_path)


def test_the_slope_of_a_line_is_one_and_of_a_square_two() -> None:
    """Linear growth has the exponent 1."""
    assert slope([(x, 3 * x) for x in (1.0, 5.0, 20.0)]) == pytest.approx(1)
    assert slope([(x, x * x) for x in (1.0, 5.0, 20.0)]) == pytest.approx(2)


def test_rows_of_other_figures_stay_when_some_are_measured_anew(tmp_path: Path) -> None:
    """Each run adds to the results, and every figure has a row."""
    path = tmp_path / "latest.json"
    first = Results(path, [FASTER, ALONE], ABOUT)
    first.add(row_of(FASTER, Measured("fast", [200], [100])))
    first.write()
    again = Results(path, [FASTER, ALONE], ABOUT)
    again.add(row_of(ALONE, Measured("alone", [0.4])))
    again.write()
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert (rows["fast"]["ratio"], rows["alone"]["met"]) == (2, True)
    assert "| fast | objects/s | 200 | 100 | peer | 2 |" in path.with_suffix(".md").read_text()


def test_no_two_figures_have_one_name() -> None:
    """Rows are known by their names."""
    names = [figure.name for subject in SUBJECTS for figure in subject.figures]
    assert len(names) == len(set(names))


def test_the_listing_has_the_keys_and_etags_that_the_server_makes_up() -> None:
    """A plan over it finds its objects."""
    formula = Formula(users=3, each=4)
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT key, size, etag FROM ({formula.listing_query()}) ORDER BY key").fetchall()
    assert rows == [(formula.key(n), len(body_of(n)), etag_of(n)) for n in range(12)]
    assert [formula.number(formula.key(n)) for n in range(12)] == list(range(12))
    assert formula.number("users/u0000003/f000000.jpg") is None
