"""The arithmetic of docs/performance.md, on figures that a person can multiply."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.sizing import LARGE_BYTES, Figures, MissingFiguresError, Prices, Programme, figures_of, size, table
from bench.stage import Sizes

FIGURES = Figures(
    copy_cpu_ms=2.0,
    verify_cpu_ms=1.0,
    byte_cpu_ns=4.0,
    plan_seconds_a_million=6.0,
    plan_bytes_a_copy=50.0,
    open_receipt_bytes=200.0,
    sealed_batch_bytes=150.0,
    sealed_receipt_bytes=60.0,
    user_bytes=100.0,
    receipts_a_second=20_000.0,
)
PRICES = Prices(get_thousand=0.001, put_thousand=0.01, egress_gigabyte=0.02, core_hour=0.05, stored_gigabyte_month=0.01)
SMALL = Programme(
    users=1_000,
    objects_a_user=100,
    copies_an_object=2,
    seconds=1_000,
    object_bytes=33 * 1024,
    share_of_time=0.5,
    share_of_core=0.5,
    plan_rows=50_000,
    verified_times=1,
)


def test_the_programme_is_4800_objects_and_9500_copies_a_second() -> None:
    """The pace that one year asks for."""
    sizing = size(Programme(), FIGURES)
    assert round(sizing.objects_a_second, -2) == 4_800
    assert round(sizing.copies_a_second, -2) == 9_500


def test_cores_are_copies_a_second_times_cpu_over_how_busy_a_core_is() -> None:
    """200 copies a second at 2 ms are 0.4 cores, of which each works a quarter of the time; verifying takes half as much."""
    sizing = size(SMALL, FIGURES)
    assert (sizing.objects_a_second, sizing.copies_a_second) == (100, 200)
    assert sizing.copying_cores == pytest.approx(1.6)
    assert sizing.verifying_cores == pytest.approx(0.8)
    assert sizing.cores == pytest.approx(2.4)


def test_each_byte_above_a_small_objects_costs_its_own() -> None:
    """250,000 bytes more at 4 ns are a millisecond: a copy costs 3, and a verification 2."""
    sizing = size(replace(SMALL, object_bytes=33 * 1024 + 250_000), FIGURES)
    assert sizing.copying_cores == pytest.approx(2.4)
    assert sizing.verifying_cores == pytest.approx(1.6)


def test_bytes_are_read_once_and_written_twice() -> None:
    """The source is read once for home and backup."""
    sizing = size(replace(SMALL, object_bytes=1_000_000), FIGURES)
    assert sizing.read_bytes_a_second == 100e6
    assert sizing.written_bytes_a_second == 200e6


def test_the_ledger_has_users_sealed_batches_and_what_is_under_way() -> None:
    """1,000 users, 100 batches, and two batches a core."""
    sizing = size(SMALL, FIGURES)
    assert sizing.open_bytes == pytest.approx(2 * 2.4 * 2_000 * 200)
    assert sizing.ledger_bytes == pytest.approx(1_000 * 100 + 100 * 150 + sizing.open_bytes)
    assert sizing.ledger_share == pytest.approx(200 / 0.5 / 20_000)


def test_plans_and_seals_grow_with_the_copies() -> None:
    """100,000 objects are two plans of 50,000; planning takes 6 s a million."""
    sizing = size(SMALL, FIGURES)
    assert sizing.seal_bytes == 200_000 * 60
    assert sizing.plan_bytes == 200_000 * 50
    assert sizing.plans == 2
    assert sizing.plan_hours == pytest.approx(0.6 / 3600)


def test_the_cost_is_the_sum_of_its_parts() -> None:
    """A GET an object and one a verified copy, a PUT a copy, each byte out once, cores by the hour, what is kept by the month."""
    sizing = size(SMALL, FIGURES, PRICES)
    assert sizing.get_dollars == pytest.approx(0.3)
    assert sizing.put_dollars == pytest.approx(2)
    assert sizing.egress_dollars == pytest.approx(100_000 * 33 * 1024 / 1e9 * 0.02)
    assert sizing.core_dollars == pytest.approx(2.4 * 1_000 / 3600 * 0.05)
    a_year = size(replace(SMALL, seconds=365 * 24 * 3600), FIGURES, PRICES)
    assert a_year.kept_dollars == pytest.approx(22e6 / 1e9 * 0.01 * 12)
    parts = (sizing.get_dollars, sizing.put_dollars, sizing.egress_dollars, sizing.core_dollars, sizing.kept_dollars)
    assert sizing.dollars == pytest.approx(sum(parts))


def test_half_the_time_takes_twice_the_cores() -> None:
    """The corrupted twin of a constant: what depends on the time does."""
    assert size(replace(SMALL, seconds=500), FIGURES).cores == pytest.approx(2 * size(SMALL, FIGURES).cores)


def _document(**changed: float | None) -> dict[str, Any]:
    values: dict[str, float | None] = {
        "small objects: CPU of a copy": 2.0,
        "verify --level content: CPU of a copy": 1.0,
        "large objects: client CPU": 4e-9 * LARGE_BYTES,
        "plan: a million rows": 6.0,
        "plan: bytes of a copy": 50.0,
        "ledger: PostgreSQL, an open receipt": 200.0,
        "ledger: a sealed batch": 150.0,
        "ledger: a sealed receipt": 60.0,
        "ledger: a user": 100.0,
        "ledger: PostgreSQL, receipts a second": 20_000.0,
    }
    return {"rows": [{"name": name, "ours": value} for name, value in (values | changed).items()]}


def test_figures_are_taken_from_the_results_by_name() -> None:
    """Those of the benchmark's document."""
    found = figures_of(_document())
    assert found.byte_cpu_ns == pytest.approx(FIGURES.byte_cpu_ns)
    assert replace(found, byte_cpu_ns=FIGURES.byte_cpu_ns) == FIGURES


def test_the_bytes_of_the_large_objects_are_the_benchmarks() -> None:
    """What the CPU of its run is divided by."""
    sizes = Sizes()
    assert sizes.large_objects * sizes.large_bytes + sizes.huge_bytes == LARGE_BYTES


def test_a_figure_that_was_not_measured_is_named() -> None:
    """Nothing is sized with a hole in it."""
    with pytest.raises(MissingFiguresError, match="not measured: ledger: a user;"):
        figures_of(_document(**{"ledger: a user": None}))


def test_the_table_tells_the_sum() -> None:
    """What docs/performance.md shows."""
    sizing = size(SMALL, FIGURES, PRICES)
    assert f"| in all | {sizing.dollars:,.0f} $ |" in table(SMALL, sizing).splitlines()
