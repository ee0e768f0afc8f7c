"""Runs assignments on this machine: one in this process, or several in processes of their own that are watched."""

from __future__ import annotations

import json
import logging
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import structlog

from migrate.engines.assignment import Assignment, Snapshot, add_waves, waves_from_json, work_on
from migrate.errors import ExitCode, MigrateError
from migrate.privacy import WorkerBugError
from migrate.transfer.limits import RateLimit
from migrate.worker.loop import Stop, StopReason
from migrate.worker.work import Tally

_KILL_SECONDS = 8.0  # after a signal; a worker needs five for what is in flight

JSON_LOGS, DEBUG_LOGS = "--json-logs", "--debug-logs"
_CHILD = "from migrate.engines.child import main; main()"

OnProgress = Callable[[Snapshot], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What stopped a worker. With DONE as its code it is a warning: what the ledger says decides."""

    what: str
    remedy: str
    exit_code: ExitCode

    @property
    def is_warning(self) -> bool:
        return self.exit_code is ExitCode.DONE


@dataclass(slots=True)
class EngineReport:
    """How all workers of a run ended, and what they did, by wave."""

    reasons: list[StopReason] = field(default_factory=list)
    waves: dict[int, Tally] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def first_problem(self) -> Problem | None:
        """The first that is more than a warning."""
        return next((problem for problem in self.problems if not problem.is_warning), None)


@contextmanager
def stop_on_signal(on_signal: Callable[[int], None]) -> Iterator[Stop]:
    """SIGINT, SIGTERM and SIGHUP set the event while this is open; `on_signal` is told how many there were.

    In the main thread only; elsewhere signals are not ours. A SIGHUP that is ignored (nohup) stays ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    count = 0

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        stop.set()
        on_signal(count)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_assignments(assignments: Sequence[Assignment], on_progress: OnProgress, stop: Stop) -> EngineReport:
    """Do all assignments; return when every worker has ended. A bug in a worker is raised; its checkpoint is safe."""
    if len(assignments) == 1:
        return _run_here(assignments[0], on_progress, stop)
    children = [_Child(assignment) for assignment in assignments]
    try:
        shares = [assignment.limit_bytes for assignment in assignments if assignment.limit_bytes is not None]
        return _Parent(children, sum(shares) if shares else None, on_progress, stop).watch()
    finally:
        for child in children:
            child.end()


def _run_here(assignment: Assignment, on_progress: OnProgress, stop: Stop) -> EngineReport:
    report = work_on(assignment, stop, on_progress, RateLimit(assignment.limit_bytes))
    if report.error is not None and not isinstance(report.error, MigrateError):
        raise report.error
    problems = [] if report.error is None else [Problem(report.error.what, report.error.remedy, report.error.exit_code)]
    return EngineReport([report.reason], dict(report.waves), problems)


class _Child:
    """One worker process, seen from its parent."""

    def __init__(self, assignment: Assignment) -> None:
        # a terminal sends SIGINT to parent and children at once; a child inherits that it is blocked, and hears of it by its
        # standard input alone
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *_log_words()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.snapshot = Snapshot({}, 0, {})
        self.result: dict[str, Any] | None = None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self.stdout = self.process.stdin, self.process.stdout
        self._pending = b""
        self._limit_bytes = assignment.limit_bytes
        self._stdin.write(json.dumps(assignment.to_json()).encode() + b"\n")
        self._stdin.flush()

    def read(self) -> bool:
        """Take what the worker says; False at its end."""
        data = self.stdout.read1(65536)  # type: ignore[attr-defined]  # a BufferedReader, typed as IO[bytes]
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "snapshot" in said:
                self.snapshot = Snapshot.from_json(said["snapshot"])
            else:
                self.result = said["end"]
                self.snapshot = replace(self.snapshot, waves=waves_from_json(said["end"]["waves"]))
        return bool(data)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.result is not None or self.process.poll() is not None

    def share(self, limit_bytes: int) -> None:
        """Tell the worker its new share of the bytes a second."""
        if limit_bytes != self._limit_bytes and not self._stdin.closed:
            self._limit_bytes = limit_bytes
            with suppress(BrokenPipeError):  # it ends; its standard output says so as well
                self._stdin.write(json.dumps({"limit_bytes": limit_bytes}).encode() + b"\n")
                self._stdin.flush()

    def ask_to_stop(self) -> None:
        if not self._stdin.closed:
            with suppress(BrokenPipeError):
                self._stdin.close()

    def end(self) -> None:
        """Whatever happened, leave no process behind."""
        self.ask_to_stop()
        try:
            self.process.wait(timeout=_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Parent:
    def __init__(
        self, children: Sequence[_Child], limit_bytes: int | None, on_progress: OnProgress, stop: Stop
    ) -> None:
        self._children = children
        self._limit_bytes = limit_bytes
        self._on_progress = on_progress
        self._stop = stop

    def watch(self) -> EngineReport:
        kill_at: float | None = None
        with selectors.DefaultSelector() as selector:
            for child in self._children:
                selector.register(child.stdout, selectors.EVENT_READ, child)
            while selector.get_map():
                for key, _ in selector.select(timeout=0.2):
                    if not key.data.read():
                        selector.unregister(key.fileobj)
                self._on_progress(self._sum())
                self._share_rate()
                if kill_at is None and (self._stop.is_set() or self._some_failed()):
                    kill_at = time.monotonic() + _KILL_SECONDS
                    for child in self._children:
                        child.ask_to_stop()
                if kill_at is not None and time.monotonic() >= kill_at:
                    for child in self._children:
                        child.process.kill()
        return self._report()

    def _share_rate(self) -> None:
        """The bytes a second go to the workers that have something to do: the others wait, or have ended."""
        busy = [child for child in self._children if not child.has_ended and not child.snapshot.is_idle]
        if self._limit_bytes is not None and busy:
            for child in busy:
                child.share(max(1, self._limit_bytes // len(busy)))

    def _some_failed(self) -> bool:
        """An error that stops one worker (a store is down, policy refuses) stops all: they would meet it too."""
        return any(child.result is not None and child.result["error"] is not None for child in self._children)

    def _sum(self) -> Snapshot:
        waves, levels = dict[int, Tally](), dict[str, int]()
        for child in self._children:
            add_waves(waves, child.snapshot.waves)
            for store, level in child.snapshot.levels.items():
                levels[store] = levels.get(store, 0) + level
        # the run waits where all of its workers do
        left = [child.snapshot for child in self._children if not child.has_ended]
        is_idle = bool(left) and all(snapshot.is_idle for snapshot in left)
        retries = sum(child.snapshot.retries for child in self._children)
        return Snapshot(waves, retries, levels, is_idle, left[0].waits_for if is_idle else {})

    def _report(self) -> EngineReport:
        report = EngineReport()
        for child in self._children:
            if child.result is None:
                report.reasons.append(StopReason.INTERRUPTED if self._stop.is_set() else StopReason.LOST)
                if not self._stop.is_set():
                    what = f"worker process {child.process.pid} ended without a word; what it held is taken over"
                    report.problems.append(Problem(what, "", ExitCode.DONE))
                add_waves(report.waves, child.snapshot.waves)
                continue
            report.reasons.append(StopReason(child.result["reason"]))
            add_waves(report.waves, waves_from_json(child.result["waves"]))
            error = child.result["error"]
            if error is not None and "bug" in error:
                raise WorkerBugError(error["bug"], error["traceback"])
            if error is not None:
                report.problems.append(Problem(error["what"], error["remedy"], ExitCode(error["exit_code"])))
        return report


def _log_words() -> list[str]:
    """What tells a worker process to log as this one does: both write to one stderr."""
    config = structlog.get_config()
    as_json = isinstance(config["processors"][-1], structlog.processors.JSONRenderer)
    return [
        *([JSON_LOGS] if as_json else []),
        *([DEBUG_LOGS] if structlog.get_logger().is_enabled_for(logging.DEBUG) else []),
    ]
