"""The table of waves and outcomes that `run`, `verify` and `status` show, and that of lags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from migrate.cli.output import Column, Output
from migrate.ledger import WaveProgress
from migrate.model import Outcome
from migrate.report.lag import WaveLag
from migrate.report.standing import standing
from migrate.units import format_duration, format_size

_OUTCOME_STYLES = {Outcome.QUARANTINED: "red", Outcome.DRIFTED: "yellow", Outcome.PENDING: "yellow"}


def show_standing(output: Output, progress: Sequence[WaveProgress]) -> None:
    """The table of waves and outcomes: on each line, planned = the sum of the outcomes (invariant 3)."""
    from rich.text import Text  # with the first word that is printed, as in `output`

    table = standing(progress)
    columns = [
        Column("wave"),
        *(Column(title, number=True) for title in ("users", "verified", "planned")),
        *(Column(outcome.value, number=True) for outcome in table.outcomes),
        Column("bytes", number=True),
    ]
    rows = [
        [
            row.name,
            f"{row.users:,}",
            f"{row.verified:,}",
            f"{row.planned:,}",
            *(
                Text(f"{row.counts[outcome]:,}", style=_style(outcome, row.counts[outcome]))
                for outcome in table.outcomes
            ),
            format_size(row.done_bytes),
        ]
        for row in table.rows
    ]
    output.table(columns, rows)


def show_lags(output: Output, lags: Sequence[WaveLag], now: datetime, when: Callable[[datetime], str]) -> None:
    """How far each wave is behind the sources; `when` puts a moment into words. A table of its own, since the other one is as
    wide as a terminal."""
    columns = [
        Column("wave"),
        *(Column(title, number=True) for title in ("lag", "sources as of", "open", "open bytes")),
    ]
    rows = [
        (
            str(lag.wave),
            "–" if lag.seen is None else format_duration((now - lag.seen).total_seconds()),
            "–" if lag.seen is None else when(lag.seen),
            f"{lag.open_copies:,}",
            format_size(lag.open_bytes),
        )
        for lag in lags
    ]
    output.table(columns, rows)


def _style(outcome: Outcome, number: int) -> str:
    return _OUTCOME_STYLES.get(outcome, "") if number else ""
