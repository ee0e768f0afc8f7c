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
    """So many threads at once as `level` says; tasks are begun in the order in which they were given."""

    def __init__(self, level: int) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._threads = 0
        self._level = 0
        self._raised = threading.Condition()
        self.level = level

    @property
    def level(self) -> int:
        """How many threads take tasks. Lowered, those that have one end it first."""
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        with self._raised:
            self._level = level
            self._raised.notify_all()
        while self._threads < level:
            name = f"copier-{self._threads}"
            threading.Thread(target=self._loop, args=(self._threads,), name=name, daemon=True).start()
            self._threads += 1

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
        self.level = self._threads
        for _ in range(self._threads):
            self._tasks.put(None)

    def _loop(self, number: int) -> None:
        while True:
            if number >= self._level:
                with self._raised:
                    self._raised.wait_for(lambda: number < self._level)
            task = self._tasks.get()
            if task is None:
                return
            try:
                ended = Ended(task, event=task.run())
            except BaseException as error:  # noqa: BLE001 - it is handed to the main thread, which decides
                ended = Ended(task, error=error)
            self._ended.put(ended)
            del task, ended  # a body is let go before the next task is waited for
