"""What `run` and `verify` share on the command line: limits, who works, signals, and how the end is told."""

from __future__ import annotations

import _thread
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Annotated

import typer

from migrate.cli.context import Context
from migrate.cli.interrupts import end_at_once
from migrate.cli.output import Output
from migrate.cli.plan_progress import PlanProgress
from migrate.engines.assignment import Snapshot
from migrate.engines.local import Problem, stop_on_signal
from migrate.errors import UsageError
from migrate.jobs.common import Actor, Limits, seconds_until
from migrate.planner.folder import Plan
from migrate.report.goals import Goal
from migrate.report.progress import Progress
from migrate.spec import spec_time
from migrate.units import parse_duration, parse_rate
from migrate.worker.loop import Stop

WorkersOption = Annotated[int | None, typer.Option(min=1, max=64, help="Processes on this machine.")]
ForOption = Annotated[
    str | None, typer.Option("--for", metavar="2h", help="Stop after this time; exit 75 if work is left.")
]
UntilOption = Annotated[
    str | None,
    typer.Option(metavar="06:00", help="Stop at this time of day in the spec's zone; exit 75 if work is left."),
]
ShareOption = Annotated[bool, typer.Option("--share", help="Work beside other runs of this plan, instead of exit 75.")]

_STOPPING = "stopping: what is in flight has five seconds; once more to end at once"


def limits_of(
    context: Context,
    plan: Plan,
    *,
    workers: int | None,
    lasting: str | None,
    until: str | None,
    limit_bytes: str | None = None,
    max_failures: int | None = None,
) -> Limits:
    """The limits that the command line asks for, or else the spec. UsageError for what does not parse, or says it twice."""
    if lasting is not None and until is not None:
        raise UsageError("--for and --until say the same thing twice", remedy="Give one of them.")
    seconds: float | None = None
    if lasting is None and until is None:
        seconds, until = plan.spec.run.time_limit, plan.spec.run.until
    try:
        if lasting is not None:
            seconds = float(parse_duration(lasting))
        rate = None if limit_bytes is None else parse_rate(limit_bytes)
    except ValueError as error:
        raise UsageError(str(error), remedy="For example --for 1h30m, --limit-bytes 200MB/s.") from error
    if until is not None:
        seconds, instant = seconds_until(until, plan.spec.zone, context.now())
        context.output.note(f"works until {spec_time(instant, plan.spec)}", style="dim")
    if rate is not None and rate < 1:
        raise UsageError("--limit-bytes is at least 1 byte a second")
    deadline = None if seconds is None else time.monotonic() + seconds
    return Limits(workers, deadline, rate, max_failures)


def actor_of(context: Context, plan: Plan) -> Actor:
    return Actor(context.operator, context.host, context.country(plan.spec))


class Watch:
    """The progress of one piece of work: begun when it is known what there is to do, told where it is from then on."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._progress: Progress | None = None
        self._steps = ExitStack()
        self._registering: PlanProgress | None = None

    def registering(self, users: int) -> None:
        """How many users of the plan are registered, before there is anything else to watch."""
        if self._registering is None:
            self._registering = self._steps.enter_context(PlanProgress(self._context.output, "registering"))
        self._registering.step("users", users)

    def begin(self, title: str, goals: Mapping[int, Goal], workers: int) -> None:
        self._steps.close()
        output = self._context.output
        self._progress = Progress(title, goals, workers, console=output.progress_console, live=output.is_live)
        self._progress.start()

    def update(self, goals: Mapping[int, Goal]) -> None:
        """Where it stands by the ledger, other runs' work included."""
        if self._progress is not None:
            self._progress.update(goals)

    def __call__(self, snapshot: Snapshot) -> None:
        if self._progress is not None:
            self._progress(snapshot)

    def end(self) -> None:
        self._steps.close()
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def stopping(context: Context) -> Iterator[Stop]:
    """The event that a signal sets while work is under way. A second signal ends the process: that is as safe as kill -9."""
    output = context.output

    def on_signal(count: int) -> None:
        if count > 1:
            end_at_once(as_json=output.as_json, live=output.is_live)
        if output.is_live:
            # Above the moving bars, by who draws them; from a thread, since a handler must not enter a stream or wait for a lock
            # that the main thread may be in. No threading.Thread: to start one takes locks too.
            _thread.start_new_thread(output.progress_console.print, (_STOPPING,))
        elif not output.as_json:
            with suppress(OSError):
                os.write(2, f"{_STOPPING}\n".encode())

    with stop_on_signal(on_signal) as stop:
        yield stop


@contextmanager
def at_work(context: Context) -> Iterator[tuple[Stop, Watch]]:
    """The event that a signal sets, and the watch over the progress."""
    watch = Watch(context)
    with stopping(context) as stop:
        try:
            yield stop, watch
        finally:
            watch.end()


def tell_problems(output: Output, problems: Sequence[Problem]) -> None:
    """Each thing that stopped a worker, once."""
    told = set()
    for problem in problems:
        if problem.what not in told:
            told.add(problem.what)
            if problem.is_warning:
                output.note(f"warning: {problem.what}", style="yellow")
                continue
            output.error(problem.what, remedy=problem.remedy, code=problem.exit_code)
