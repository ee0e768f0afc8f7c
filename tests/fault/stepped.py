"""The product's own jobs and workers, run in fibers: only threads, clocks, processes and the way to the ledger are exchanged.

`run_plan` and `verify_plan` run whole, with the real Worker and Door. Each simulated process has an identity of its own, which
is dead once the fiber's process is. All share one opened ledger, since no fiber gives its turn away inside a transaction, and
one DuckDB, whose connections take 30 ms to make. Nothing is forced to the disk:
a process that dies loses no page of the kernel's.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from fibers import Fiber, Process, Scheduler, TurnCondition, here
from modelworld import LARGE_BYTES, PART_BYTES
from sqlalchemy import event

from migrate import pauses
from migrate.engines import assignment as engine
from migrate.engines import local
from migrate.engines.assignment import Assignment, Snapshot, add_waves, work_on
from migrate.engines.local import EngineReport, Problem
from migrate.errors import ExitCode, MigrateError
from migrate.jobs import checking, common, continuing, copying, registered
from migrate.ledger import LeaseWatch, Ledger, ProcessIdentity
from migrate.planner import folder, kept
from migrate.spec import Copying
from migrate.stores import door
from migrate.transfer import limits, parted, parts
from migrate.transfer.caller import Caller, RetryPolicy
from migrate.transfer.limits import RateLimit
from migrate.worker import loop, seals
from migrate.worker.copying import CopyTools
from migrate.worker.loop import Stop, StopReason, WorkerReport
from migrate.worker.pool import Ended, Task

_AT_ONCE = RetryPolicy(attempts=4, timeout_seconds=60.0, wait_seconds=0.0, wait_max_seconds=0.0)
_DUCKDB = duckdb.connect(":memory:", config={"threads": 1})
_DUCKDB.execute("SET TimeZone = 'UTC'")
_SMALL = Copying.model_construct(multipart_from=LARGE_BYTES, part_bytes=PART_BYTES)


class TurnPool:
    """worker.pool.Pool on fibers: as many run at once, begun in order."""

    def __init__(self, level: int) -> None:
        fiber = here()
        assert fiber is not None, "a worker is made in its process"
        self._main: Fiber = fiber
        self.level = level  # nothing runs for long enough to find another
        self._free = level
        self._waiting: deque[Task] = deque()
        self._ended: deque[Ended] = deque()

    def submit(self, task: Task) -> None:
        self._waiting.append(task)
        self._begin()

    def next_ended(self, timeout_seconds: float) -> Ended | None:
        if timeout_seconds > 0:
            process = self._main.process
            before = process.scheduler.now
            self._main.pause(
                "loop", lambda: bool(self._ended) or process.scheduler.now != before or process.stop.is_set()
            )
        return self._ended.popleft() if self._ended else None

    def drop_waiting(self) -> list[Task]:
        dropped = list(self._waiting)
        self._waiting.clear()
        return dropped

    def end(self) -> None:
        """A fiber that has nothing to run is none."""

    def _begin(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._main.process.spawn("task", partial(self._run, self._waiting.popleft()))

    def _run(self, task: Task) -> None:
        try:
            ended = Ended(task, event=task.run())
        except Exception as error:  # noqa: BLE001 - as the real pool does
            ended = Ended(task, error=error)
        self._ended.append(ended)
        self._free += 1
        self._begin()


def run_in_turns(
    assignments: Sequence[Assignment], on_progress: Callable[[Snapshot], None], stop: Stop
) -> EngineReport:
    """engines.local.run_assignments with children that are simulated processes."""
    if len(assignments) == 1:
        return local.run_assignments(assignments, on_progress, stop)
    fiber = here()
    assert fiber is not None, "a job runs in its process"
    parent = fiber.process
    children = [parent.scheduler.start("worker", partial(_child, assignment)) for assignment in assignments]
    parent.children += children
    waiting = set(children)
    while waiting:
        fiber.pause("children", partial(_may_go_on, parent, waiting))
        waiting -= {child for child in children if child.is_dead or child.main.has_ended}
        failed = any(isinstance(child.main.result, WorkerReport) and child.main.result.error for child in children)
        if parent.stop.is_set() or failed:
            for child in children:
                child.stop.set()
    report = EngineReport()
    for child in children:
        _add(report, child, stop)
    return report


def _may_go_on(parent: Process, waiting: set[Process]) -> bool:
    return parent.stop.is_set() or any(child.is_dead for child in waiting)


def _child(assignment: Assignment, process: Process) -> WorkerReport:
    return work_on(assignment, process.stop, lambda snapshot: None, RateLimit(assignment.limit_bytes))


def _add(report: EngineReport, child: Process, stop: Stop) -> None:
    if child.main.error is not None:
        raise child.main.error
    found = child.main.result
    if not isinstance(found, WorkerReport):
        report.reasons.append(StopReason.INTERRUPTED if stop.is_set() else StopReason.ERROR)
        if not stop.is_set():
            report.problems.append(Problem("a worker ended without a word", "Run again.", ExitCode.LATER))
        return
    report.reasons.append(found.reason)
    add_waves(report.waves, found.waves)
    if isinstance(found.error, MigrateError):
        report.problems.append(Problem(found.error.what, found.error.remedy, found.error.exit_code))
    elif found.error is not None:
        raise found.error


def exchange(patch: pytest.MonkeyPatch, scheduler: Scheduler, ledger: Ledger) -> None:
    """Put the jobs on fibers, until `patch` is undone."""
    clock = SimpleNamespace(monotonic=lambda: scheduler.now)
    for module in (engine, common, registered, checking, loop):
        patch.setattr(module, "time", clock)
    for module in (parts, limits):
        patch.setattr(module, "threading", SimpleNamespace(Condition=TurnCondition, Lock=threading.Lock))
    patch.setattr(loop, "Pool", TurnPool)
    for module in (copying, checking):
        patch.setattr(module, "run_assignments", run_in_turns)

    def started(number: int) -> int | None:
        return 1 if any(process.number == number for process in scheduler.alive()) else None

    for module in (engine, registered):
        patch.setattr(module, "ProcessIdentity", SimpleNamespace(current=identity))
        patch.setattr(module, "LeaseWatch", partial(LeaseWatch, started=started))
    patch.setattr(ledger, "heed", lambda _: None)  # nobody waits for it, and it is not one process's own
    patch.setattr(engine, "Ledger", SimpleNamespace(open=lambda url: ledger))
    patch.setattr(engine, "Caller", partial(Caller, retry=_AT_ONCE))
    patch.setattr(engine, "CopyTools", _small_parts)
    patch.setattr(parted, "part_bytes_for", lambda size, etag, configured: PART_BYTES)
    for module in (folder, kept, continuing):
        patch.setattr(module, "open_reader", lambda **_: _DUCKDB.cursor())
    patch.setattr(seals, "duckdb", SimpleNamespace(connect=lambda *_, **__: _DUCKDB.cursor(), Error=duckdb.Error))
    patch.setattr(seals, "os", SimpleNamespace(**{**vars(os), "fsync": lambda _: None}))
    for module in (door, engine):
        patch.setattr(module, "structlog", SimpleNamespace(get_logger=_Quiet))
    real = pauses.pause_at
    for module in list(sys.modules.values()):
        if getattr(module, "pause_at", None) is real:
            patch.setattr(module, "pause_at", _at_point)


def never_forced(ledger: Ledger) -> Ledger:
    """The same ledger, with a SQLite that does not wait for the disk."""
    engine_of = ledger._database.engine
    if engine_of.dialect.name == "sqlite":
        engine_of.dispose()
        event.listen(engine_of, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    return ledger


def identity() -> ProcessIdentity:
    """Who the simulated process is."""
    fiber = here()
    assert fiber is not None, "asked in a process"
    return ProcessIdentity("host", "boot", fiber.process.number, 1)


def _at_point(_point: object) -> None:
    fiber = here()
    if fiber is not None:
        fiber.process.at_point()


def _small_parts(*values: Any) -> CopyTools:
    """What a worker is given, with objects in parts from a few bytes on: a spec does not allow so small ones."""
    return replace(CopyTools(*values), copying=_SMALL)


class _Quiet:
    def info(self, *_: object, **__: object) -> None: ...

    debug = warning = info
