"""The worker's loop: one main thread that leases, hands out, records and beats; a pool of threads that talk to the stores.

All that is written to the ledger is written here, in the main thread, in groups: at most a second or 256 results apart. So it
looks whether a group is due, or a beat, after each thing that takes its time: each batch that it leases or ends. The main
thread never calls a store, so a signal always finds it awake (design, section 3). On a signal: no new work, five seconds
for what is in flight, the last group commits, the leases go back. A ledger that is locked all the while is not waited for:
what it has is the checkpoint, and the leases are taken over by the next run.

A worker has no more work when nothing of its scope is left, with whomever: while others hold batches it beats and looks, so
that it takes over what they give back, or what they leave when they die (design, invariant 5).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from migrate.errors import MigrateError, StaleLeaseError
from migrate.ledger import LeaseWatch, Ledger, Left
from migrate.transfer.limits import ByteBudget
from migrate.worker.climb import Climb
from migrate.worker.pool import Ended, Pool, Task
from migrate.worker.work import Tally, Work

GROUP_RESULTS = 256
GROUP_SECONDS = 1.0
GRACE_SECONDS = 5.0
LEDGER_SECONDS = 6.5
_BEAT_SECONDS = 15.0
_RECLAIM_SECONDS = 30.0
_LOOK_SECONDS = 1.0  # at what others hold, while there is nothing to lease
_SAY_SECONDS = 0.25
_WORKS_AT_ONCE = 16  # small batches: enough of them to keep every thread busy


class Stop(threading.Event):
    """Says stop, and since when."""

    def __init__(self) -> None:
        super().__init__()
        self._at: float | None = None

    def set(self) -> None:
        if self._at is None:
            self._at = time.monotonic()
        super().set()

    def ends_at(self, seconds: float) -> float | None:
        """When `seconds` since the stop are over, in `time.monotonic` seconds; None while nobody said stop."""
        return None if self._at is None else self._at + seconds

    def ledger_ends_at(self) -> float | None:
        """How long the ledger is waited for: a moment longer than what is in flight, so that its results can be written."""
        return self.ends_at(LEDGER_SECONDS)


class StopReason(StrEnum):
    """Why a worker stopped. With `no_work` everything is done that it could lease, by whomever."""

    NO_WORK = "no_work"
    DEADLINE = "deadline"
    INTERRUPTED = "interrupted"
    FAILURES = "failures"
    LOST = "lost"  # its process ended without a word
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """How a worker ended, and what it did, by wave. `is_idle`: no thread of it is in a request any more."""

    reason: StopReason
    waves: Mapping[int, Tally]
    error: BaseException | None
    is_idle: bool


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """The share of the run's limits that one worker has. `threads`: tasks at once, at most; how many go fastest it finds itself.
    `deadline` is in `time.monotonic` seconds."""

    threads: int
    bytes_in_flight: int
    deadline: float | None = None
    max_failures: int | None = None


@dataclass(slots=True)
class _Active:
    work: Work
    fresh: Iterator[Task]
    ready: deque[Task] = field(default_factory=deque)
    outstanding: int = 0
    exhausted: bool = False
    is_lost: bool = False  # the batch has another owner

    def next_task(self) -> Task | None:
        if self.ready:
            return self.ready.popleft()
        if not self.exhausted:
            task = next(self.fresh, None)
            if task is not None:
                return task
            self.exhausted = True
        return None

    @property
    def is_done(self) -> bool:
        return self.exhausted and not self.ready and not self.outstanding


class Worker:
    """Runs works until there are none, or something says stop."""

    def __init__(
        self,
        ledger: Ledger,
        worker_id: int,
        lease_next: Callable[[], Work | None],
        left: Callable[[], Left],
        *,
        run_id: int,
        watch: LeaseWatch,
        limits: WorkerLimits,
        stop: Stop,
        on_progress: Callable[[Mapping[int, Tally], Left | None], None],
    ) -> None:
        self._ledger = ledger
        self._worker_id = worker_id
        self._lease_next = lease_next
        self._left = left
        self._run_id = run_id
        self._watch = watch
        self._limits = limits
        self._stop = stop
        self._on_progress = on_progress
        self._climb = Climb(limits.threads)
        self._pool = Pool(self._climb.level)
        self._budget = ByteBudget(limits.bytes_in_flight)
        self._active: list[_Active] = []
        self._by_work: dict[int, _Active] = {}
        self._in_flight = 0
        self._more = True
        self._is_left = True
        self._waits_for: Left | None = None  # what is in other hands, while there is nothing else
        self._waves: dict[int, Tally] = {}
        self._failures_seen = 0
        now = time.monotonic()
        self._committed_at = self._beaten_at = self._reclaimed_at = self._said_at = now
        self._looked_at = float("-inf")

    def run(self) -> WorkerReport:
        """Work until the end; the leases are given back whatever the end was."""
        reason = StopReason.ERROR
        error: Exception | None = None
        try:
            reason = self._loop()
        except MigrateError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - a bug: the checkpoint comes first, the caller raises it
            error = failure
        for last in (self._wind_down, self._give_back):
            try:
                last()
            except MigrateError as failure:  # the first error is the one to tell
                reason, error = StopReason.ERROR, error or failure
        self._pool.end()
        return WorkerReport(reason, self._waves, error, is_idle=self._in_flight == 0)

    def _loop(self) -> StopReason:
        while True:
            stopped = self._stop_reason()
            if stopped is not None:
                return stopped
            has_leased = self._fill()
            self._find_level()
            if not self._active and not self._is_any_left():
                return StopReason.NO_WORK
            self._take_ended(timeout_seconds=0 if has_leased else 0.2)
            self._keep_up()
            for active in self._done():
                self._finish(active)
                self._keep_up()

    def _find_level(self) -> None:
        if self._in_flight < self._pool.level:
            self._climb.starved()
        if self._climb.level != self._pool.level:
            self._pool.level = self._climb.level

    def _keep_up(self) -> None:
        """Whatever is due by now."""
        self._commit_if_due()
        self._beat_if_due()
        self._say_if_due()

    def _stop_reason(self) -> StopReason | None:
        if self._stop.is_set():
            return StopReason.INTERRUPTED
        if self._limits.deadline is not None and time.monotonic() >= self._limits.deadline:
            return StopReason.DEADLINE
        if self._limits.max_failures is not None and self._failures_seen >= self._limits.max_failures:
            return StopReason.FAILURES
        return None

    def _is_any_left(self) -> bool:
        """Whether something of the scope is not done. What is free, or becomes so, is leased next."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            left = self._left()
            self._more = self._is_left = left.is_any
            self._waits_for = left
            if self._limits.max_failures is not None:
                self._failures_seen = self._ledger.run_failures(self._run_id)
        return self._is_left

    def _fill(self) -> bool:
        """Hand out tasks, in order, up to the window and the byte budget; where they run short, lease one batch: whether it did.

        One at most, since a lease takes its time, and results wait meanwhile.
        """
        if not self._hand_out() or len(self._active) >= _WORKS_AT_ONCE or not self._lease():
            return False
        self._hand_out()
        return True

    def _hand_out(self) -> bool:
        """Whether there is room for more tasks than there are."""
        window = 3 * self._pool.level
        for active in self._active:
            while self._in_flight < window:
                task = active.next_task()
                if task is None:
                    break
                if not self._budget.take(task.cost):
                    active.ready.appendleft(task)
                    return False
                active.outstanding += 1
                self._in_flight += 1
                self._pool.submit(task)
        return self._in_flight < window

    def _lease(self) -> bool:
        if not self._more:
            return False
        work = self._lease_next()
        if work is None and self._ledger.reclaim(self._watch):
            work = self._lease_next()
        if work is None:
            self._more = False
            return False
        self._waits_for = None
        active = _Active(work, work.tasks())
        self._active.append(active)
        self._by_work[id(work)] = active
        return True

    def _take_ended(self, *, timeout_seconds: float) -> None:
        """Take what has ended: wait for the first, take the others that are there."""
        ended = self._pool.next_ended(timeout_seconds)
        while ended is not None:
            self._take(ended)
            self._commit_if_due()
            ended = self._pool.next_ended(0)

    def _take(self, ended: Ended) -> None:
        self._in_flight -= 1
        self._budget.give(ended.task.cost)
        self._climb.took(ended.task.cost)
        active = self._by_work[id(ended.task.owner)]
        if ended.error is not None:
            raise ended.error  # it stays outstanding: a batch of which something was not done is not closed
        active.ready.extend(self._next_tasks(active, ended.event))
        active.outstanding -= 1

    def _next_tasks(self, active: _Active, event: object) -> Iterable[Task]:
        """What follows from an event; once the batch is another's, only what takes away what we have begun."""
        if not active.is_lost:
            try:
                return active.work.take(event)
            except StaleLeaseError:
                self._drop(active)
        return active.work.left_over(event)

    def _commit_if_due(self) -> None:
        waiting = sum(active.work.buffered for active in self._active if not active.is_lost)
        now = time.monotonic()
        if waiting and (waiting >= GROUP_RESULTS or now - self._committed_at >= GROUP_SECONDS):
            for active in list(self._active):
                self._commit(active)
            self._committed_at = now
        elif not waiting:
            self._committed_at = now

    def _commit(self, active: _Active) -> None:
        if active.is_lost:
            return
        try:
            active.work.commit()
        except StaleLeaseError:
            self._drop(active)
        else:
            self._count(active.work)

    def _count(self, work: Work) -> None:
        tally = work.tally()
        self._waves.setdefault(work.lease.wave, Tally()).add(tally)
        if tally.failures and self._limits.max_failures is not None:
            self._failures_seen = self._ledger.run_failures(self._run_id)

    def _done(self) -> list[_Active]:
        return [active for active in self._active if active.is_done]

    def _finish(self, active: _Active) -> None:
        self._commit(
            active
        )  # counted by itself: receipts that are written count, even if the batch is lost before its end
        if not active.is_lost:
            try:
                active.work.finish()
            except StaleLeaseError:
                self._drop(active)
            else:
                self._count(active.work)
        self._forget(active)

    def _drop(self, active: _Active) -> None:
        """The batch has another owner: nothing of it is written any more. What is in flight is waited for."""
        active.is_lost = active.exhausted = True
        active.ready.clear()

    def _forget(self, active: _Active) -> None:
        self._active.remove(active)
        del self._by_work[id(active.work)]

    def _beat_if_due(self) -> None:
        now = time.monotonic()
        if now - self._beaten_at >= _BEAT_SECONDS:
            self._ledger.beat(self._worker_id)
            self._beaten_at = now
            if self._limits.max_failures is not None:
                self._failures_seen = self._ledger.run_failures(self._run_id)
        if now - self._reclaimed_at >= _RECLAIM_SECONDS:
            self._more = bool(self._ledger.reclaim(self._watch)) or self._more
            self._reclaimed_at = now

    def _say_if_due(self) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SAY_SECONDS:
            self._said_at = now
            self._on_progress(self._waves, self._waits_for)

    def _give_back(self) -> None:
        self._ledger.end_worker(self._worker_id)

    def _wind_down(self) -> None:
        """No new work; a while for what is in flight; what is known is committed, what is complete is closed."""
        for task in self._pool.drop_waiting():
            self._in_flight -= 1
            self._budget.give(task.cost)
        until = self._stop.ends_at(GRACE_SECONDS) or time.monotonic() + GRACE_SECONDS
        while self._in_flight > 0 and (left := until - time.monotonic()) > 0:
            ended = self._pool.next_ended(min(left, 0.2))
            if ended is None:
                continue
            self._in_flight -= 1
            active = self._by_work[id(ended.task.owner)]
            if ended.error is not None:
                continue
            tasks = list(self._next_tasks(active, ended.event))  # left for the next run, unless the batch is another's
            if not tasks:
                active.outstanding -= 1
            if active.is_lost:
                for task in tasks:
                    self._in_flight += 1
                    self._pool.submit(task)
        for active in list(self._active):
            self._commit(active)
            if not active.outstanding and not active.ready:
                active.next_task()  # shows whether there is one: a batch of which nothing is left is closed here
        for active in self._done():
            self._finish(active)
