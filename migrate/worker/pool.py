"""Threads that run jobs. Daemons: a thread that a silent server holds must not hold the process (design, section 7)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """One job of one owner. `cost` is the memory it needs, in bytes."""

    owner: object
    cost: int
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Ended:
    """A task with what it returned, or the exception that it raised."""

    task: Task
    event: object = None
    error: BaseException | None = None


class Pool:
    """A fixed number of threads; tasks are begun in the order in which they were given."""

    def __init__(self, threads: int) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._threads = threads
        for number in range(threads):
            threading.Thread(target=self._loop, name=f"copier-{number}", daemon=True).start()

    def submit(self, task: Task) -> None:
        self._tasks.put(task)

    def next_ended(self, timeout_seconds: float) -> Ended | None:
        """The next task that ended; None when none did in time. A signal is handled meanwhile."""
        try:
            return self._ended.get(timeout=timeout_seconds) if timeout_seconds > 0 else self._ended.get_nowait()
        except queue.Empty:
            return None

    def drop_waiting(self) -> list[Task]:
        """Take back what no thread has begun."""
        dropped: list[Task] = []
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return dropped
            if task is not None:
                dropped.append(task)

    def end(self) -> None:
        """Let each thread end once it is free. Nothing is waited for."""
        for _ in range(self._threads):
            self._tasks.put(None)

    def _loop(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                ended = Ended(task, event=task.run())
            except BaseException as error:  # noqa: BLE001 - it is handed to the main thread, which decides
                ended = Ended(task, error=error)
            self._ended.put(ended)
