"""Work beside the main thread: daemon threads, a stop that is heard, one layer of retries. Knows nothing of inventories.

The main thread never calls a store (a request cannot be interrupted) and stays free for signals: it waits in short steps and
asks `is_stopping`. The threads are daemons, so that a silent server does not hold up the end of the process.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import stamina

from migrate.errors import InterruptedRun, NotFoundError, StrangeAnswerError, ThrottledError, TransientStoreError
from migrate.stopping import Stopping

T = TypeVar("T")

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 5.0  # design, section 7: five seconds for what is in flight
_ATTEMPTS = 8
RETRY_WAIT_SECONDS = 0.2  # before the second attempt, then twice as long each time
_RETRY_SECONDS = 300.0
_WAIT_SECONDS_MAX = 20.0


def side_by_side(
    jobs: Sequence[Callable[[Stopping], T]],
    *,
    threads: int,
    is_stopping: Stopping,
    stopped: InterruptedRun | None = None,
) -> list[T]:
    """Run the jobs on up to `threads` daemon threads; their results in the order of the jobs.

    The first error halts the others and is raised as it is. When `is_stopping` says so, the jobs get five seconds to come to
    their end, then InterruptedRun is raised: `stopped`, where it is given. Each job is given a callable that tells it to halt.
    """
    halt = threading.Event()
    done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()
    workers = _start(jobs, min(threads, len(jobs)), halt, done)
    results: dict[int, T] = {}
    try:
        while len(results) < len(jobs):
            if is_stopping():
                halt.set()
                _wait(workers)
                raise stopped or InterruptedRun(
                    "stopped while reading the inputs", remedy="Run it again: it goes on from there."
                )
            try:
                number, value, error = done.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if error is not None:
                halt.set()
                _wait(workers)
                raise error
            results[number] = value  # type: ignore[assignment]  # a job without an error has its value
    finally:
        halt.set()
    return [results[number] for number in range(len(jobs))]


def _start(
    jobs: Sequence[Callable[[Stopping], T]],
    threads: int,
    halt: threading.Event,
    done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]],
) -> list[threading.Thread]:
    todo = iter(enumerate(jobs))
    turn = threading.Lock()

    def work() -> None:
        while not halt.is_set():
            with turn:
                item = next(todo, None)
            if item is None:
                return
            number, job = item
            try:
                done.put((number, job(halt.is_set), None))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
                done.put((number, None, error))

    workers = [threading.Thread(target=work, name=f"inventory-{number}", daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    return workers


def _wait(workers: Sequence[threading.Thread]) -> None:
    until = time.monotonic() + _GRACE_SECONDS
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))


def aside(function: Callable[[], T], is_stopping: Stopping) -> T:
    """Run one function on a daemon thread, and wait for it without becoming deaf."""
    return side_by_side([lambda _halt: function()], threads=1, is_stopping=is_stopping)[0]


def ask(request: Callable[[], T]) -> T:
    """One request to a store, tried again where another try can help: 8 times within five minutes, then its error.

    That something is not there is believed when the store says so twice.
    """
    for attempt in stamina.retry_context(
        on=_Again(),
        attempts=_ATTEMPTS,
        timeout=_RETRY_SECONDS,
        wait_initial=RETRY_WAIT_SECONDS,
        wait_max=_WAIT_SECONDS_MAX,
        wait_jitter=RETRY_WAIT_SECONDS,
    ):
        with attempt:
            return request()
    raise AssertionError("unreachable")


class _Again:
    """Whether one request is tried once more; a number is the wait that the store asked for, bounded."""

    def __init__(self) -> None:
        self._absences = 0

    def __call__(self, error: Exception) -> bool | float:
        if isinstance(error, ThrottledError) and error.wait_seconds is not None:
            return min(error.wait_seconds, _WAIT_SECONDS_MAX)
        if isinstance(error, NotFoundError):
            self._absences += 1
            return self._absences == 1
        return isinstance(error, TransientStoreError | StrangeAnswerError)
