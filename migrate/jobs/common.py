"""What runs and verifications share: which waves, how the limits are divided over processes, what the end amounts to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from migrate.engines.assignment import Assignment
from migrate.engines.local import EngineReport
from migrate.errors import ExitCode, InterruptedRun, LaterError, MigrateError, UsageError
from migrate.jobs.registered import lease_watch
from migrate.ledger import Ledger, WaveProgress
from migrate.model import Level, Outcome, Purpose, Role, UserInfo
from migrate.planner.folder import Plan
from migrate.stopping import Stopping, never
from migrate.stores.door import Door, Visitor
from migrate.worker.loop import Stop, StopReason
from migrate.workspace import Workspace

T = TypeVar("T")
_ROWS_BETWEEN_LOOKS = 1000


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does it, and from where. `country` is where the workers run."""

    operator: str
    host: str
    country: str | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the command line asks for; None: the spec's default."""

    workers: int | None = None
    deadline: float | None = None  # in `time.monotonic` seconds, which all processes of a machine share
    limit_bytes: int | None = None
    max_failures: int | None = None


def parse_waves(text: str | None, known: Sequence[int]) -> tuple[int, ...] | None:
    """Waves from `2`, `0-3`, `1,4` or `all`; None where none were named. UsageError where a wave is not the plan's."""
    if text is None:
        return None
    if text.strip() == "all":
        return tuple(known)
    wanted: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match is None:
            raise UsageError(f"--wave {text!r} names no waves", remedy="Write 2, 0-3, 1,4 or all.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"--wave {text!r}: {part.strip()} runs backwards", remedy=f"Write {last}-{first}.")
        wanted.update(range(first, last + 1))
    unknown = sorted(wanted.difference(known))
    if unknown:
        raise UsageError(
            f"the plan has no wave {unknown[0]}", remedy=f"Its waves are {', '.join(str(wave) for wave in known)}."
        )
    return tuple(sorted(wanted))


def seconds_until(text: str, zone: ZoneInfo, now: datetime) -> tuple[float, datetime]:
    """Seconds from `now` to the next time the clock of `zone` shows `text` (HH:MM), and that instant. UsageError otherwise."""
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
    if match is None:
        raise UsageError(f"--until {text!r} is no time of day", remedy="Write HH:MM, such as 06:00.")
    local = now.astimezone(zone)
    until = local.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
    if until <= local:
        until = (until.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    # through UTC, since subtraction within one zone does not see its clock change
    instant = until.astimezone(now.tzinfo)
    return (instant - now).total_seconds(), instant


def users_with_a_row(plan: Plan, *, is_sample: bool = False, is_stopping: Stopping = never) -> Iterator[UserInfo]:
    """The users that the ledger keeps: all of the plan but those out of scope. The rest is as of `Plan.users`."""
    return (user for user in plan.users(is_sample=is_sample, is_stopping=is_stopping) if user.state != "out")


def assignments(
    plan: Plan,
    workspace: Workspace,
    ledger: Ledger,
    actor: Actor,
    limits: Limits,
    purpose: Purpose,
    *,
    run_id: int,
    waves: Sequence[int] | None = None,
    pass_id: int | None = None,
    level: Level | None = None,
    sample_ppm: int | None = None,
) -> list[Assignment]:
    """An assignment a worker process: each gets its share of what holds for the run as a whole (invariant 11)."""
    spec = plan.spec.run
    workers = worker_count(plan, limits)
    limit_bytes = limits.limit_bytes or spec.limit_bytes
    one = Assignment(
        workspace=str(workspace.root),
        ledger=ledger.url,
        plan_folder=str(plan.folder),
        plan_digest=plan.digest,
        purpose=purpose.value,
        run_id=run_id,
        operator=actor.operator,
        host=actor.host,
        country=actor.country,
        processes=workers,
        threads=spec.concurrency,
        bytes_in_flight=max(1, spec.bytes_in_flight // workers),
        waves=None if waves is None else tuple(waves),
        pass_id=pass_id,
        level=None if level is None else level.value,
        sample_ppm=sample_ppm,
        deadline=limits.deadline,
        limit_bytes=None if limit_bytes is None else max(1, limit_bytes // workers),
        max_failures=limits.max_failures or spec.max_failures,
    )
    return [one] * workers


def worker_count(plan: Plan, limits: Limits) -> int:
    """How many processes work. UsageError where one of them would have no request left to send to some store (invariant 11)."""
    workers = limits.workers or plan.spec.run.workers
    stores = plan.spec.by_role(Role.SOURCE, Role.BACKUP, Role.TARGET)
    least, most = min(((name, store.concurrency_max) for name, store in stores.items()), key=lambda pair: pair[1])
    if workers > most:
        raise UsageError(
            f"{workers} workers are more than {least} may be sent requests at once: its concurrency_max is {most}",
            remedy=f"Give `--workers {most}` or fewer, or raise stores.{least}.concurrency_max in the spec and plan again.",
        )
    return workers


def refuse_early(plan: Plan, workspace: Workspace, actor: Actor, limits: Limits, purpose: Purpose) -> None:
    """RefusedError where no worker would be let in, and UsageError where one of them would have nothing to do, before anything is
    begun (invariants 7 and 11). Sends no request."""
    worker_count(plan, limits)
    visitor = Visitor(actor.operator, actor.host, actor.country, purpose, plan.digest)
    door = Door(plan.spec, workspace, visitor, capabilities=plan.capabilities)
    try:
        door.admit(next(iter(plan.spec.by_role(Role.TARGET))))
    finally:
        door.close()


def free_dead_leases(ledger: Ledger) -> None:
    """Take over at once what processes of this host left behind when they died (invariant 5)."""
    ledger.reclaim(lease_watch())


def is_over(stop: Stop, deadline: float | None) -> bool:
    """Whether somebody said stop, or time is up."""
    return stop.is_set() or (deadline is not None and time.monotonic() >= deadline)


def ended_early(stop: Stop, doing: str, kept: str = "nothing of it was kept") -> MigrateError:
    """What ends a command that `is_over` while something was done that has to be done whole: a stop, or else the time."""
    if stop.is_set():
        return InterruptedRun(f"interrupted while {doing}; {kept}", remedy="Run it again.")
    return LaterError(
        f"time is up while {doing}; {kept}", remedy="Run it again with more time: this has to be done whole."
    )


def heeding(
    rows: Iterable[T],
    stop: Stop,
    deadline: float | None,
    doing: str,
    on_rows: Callable[[int], None] = lambda _number: None,
) -> Iterator[T]:
    """The rows, until somebody says stop or time is up: InterruptedRun or LaterError, which undo the transaction they are for.

    The same where the rows themselves come to an end by InterruptedRun. `on_rows` is told now and then how many there were, and
    at the end how many there are.
    """
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            if (number - 1) % _ROWS_BETWEEN_LOOKS == 0:
                if number > 1:
                    on_rows(number - 1)
                if is_over(stop, deadline):
                    raise InterruptedRun(f"stopped while {doing}")
            yield row
    except InterruptedRun as error:
        raise ended_early(stop, doing) from error
    on_rows(number)


def count(waves: Sequence[WaveProgress], outcome: Outcome) -> int:
    return sum(wave.outcomes[outcome] for wave in waves)


def codes_of(report: EngineReport, *, is_left: bool) -> list[ExitCode]:
    """What the way in which the workers ended amounts to. Where nothing is left, it was not too early for any of them."""
    codes = [problem.exit_code for problem in report.problems if not problem.is_warning]
    if is_left and StopReason.INTERRUPTED in report.reasons:
        codes.append(ExitCode.INTERRUPTED)
    if is_left and (StopReason.DEADLINE in report.reasons or StopReason.FAILURES in report.reasons):
        codes.append(ExitCode.LATER)
    return codes
