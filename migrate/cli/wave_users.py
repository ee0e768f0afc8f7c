"""What commands that take users one by one tell alike: what failed, how many users came to what, and who was held up."""

from __future__ import annotations

from collections.abc import Mapping

from migrate.cli.output import Column, Output
from migrate.errors import ExitCode
from migrate.jobs.wave_users import WaveEnd
from migrate.units import number_of

ROWS = 20
"""Users, and objects, that a terminal is shown; --json has more."""


def tell_errors(output: Output, end: WaveEnd) -> None:
    """What has failed for other reasons than that work is left."""
    for error in end.errors[:ROWS]:
        if error.exit_code not in (ExitCode.LATER, ExitCode.INCOMPLETE):
            output.error(error.what, remedy=error.remedy, code=error.exit_code)


def tell_users(output: Output, end: WaveEnd, numbers: Mapping[str, int], heading: str, *, held_up: int) -> None:
    """A table of numbers of users, and another of those who were held up (`held_up` in all), with why under `heading`."""
    output.table([Column(name, number=True) for name in numbers], [[f"{number:,}" for number in numbers.values()]])
    if not end.shown:
        return
    rows = [(user, "; ".join(why.values())) for user, why in end.shown[:ROWS]]
    output.table([Column("user", folds=True), Column(heading, folds=True)], rows)
    hidden = held_up - len(rows)
    if hidden > 0:
        output.line(f"and {number_of(hidden, 'user')} more: --json names {len(end.shown):,}")
