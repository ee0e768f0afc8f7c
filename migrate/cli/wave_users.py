"""What commands that take users one by one tell alike: what failed, how many users came to what, and who was held up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import typer

from migrate.cli.context import Context
from migrate.cli.output import Column, Output
from migrate.cli.plan_progress import PlanProgress
from migrate.cli.working import actor_of, stopping
from migrate.errors import ExitCode
from migrate.jobs.wave_users import Setting, WaveEnd
from migrate.ledger import Ledger
from migrate.planner.folder import Plan
from migrate.routing import open_router
from migrate.units import number_of

ROWS = 20
"""Users, and objects, that a terminal is shown; --json has more."""


@contextmanager
def at_work(
    context: Context, plan: Plan, ledger: Ledger, run_id: int, deadline: float | None, doing: str
) -> Iterator[tuple[Setting, Callable[[int], None]]]:
    """In what such a command works, and what shows how many users it is done with."""
    with (
        open_router(plan.spec, ledger, context.environment, context.workspace.root) as router,
        stopping(context) as stop,
        PlanProgress(context.output, doing) as progress,
    ):
        actor, now = actor_of(context, plan), context.now
        setting = Setting(plan, context.workspace, ledger, router, actor, run_id, deadline, now, stop)
        yield setting, lambda done: progress.step("users", done)


def exit_with(code: ExitCode) -> None:
    """End as a command does that has told what it found."""
    if code is not ExitCode.DONE:
        raise typer.Exit(code)


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
