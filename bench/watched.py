"""The tool's command line with clocks in it: `python -m bench.watched FILE ARGUMENTS…`.

FILE gets three numbers of seconds: those that the worker's main thread spent in the ledger, the whole of its loop, and those that
a copier thread had nothing to do while the main thread was in the ledger, as the mean of the threads: what a run waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from migrate.cli import boundary
from migrate.ledger.engine import Database
from migrate.worker import pool
from migrate.worker.loop import Worker, WorkerReport

Interval = tuple[float, float]
_SHORTEST_SECONDS = 0.00005  # taking a task that is there is no waiting


class _Clock:
    """When the loop's main thread was in a transaction, and when threads had no task."""

    def __init__(self) -> None:
        self.spent: list[Interval] = []
        self.idle: list[Interval] = []
        self.threads: set[int] = set()
        self.whole = 0.0
        self.is_running = False

    def around(self, name: str) -> None:
        """Time each use of a method of Database that opens a transaction."""
        inner: Any = getattr(Database, name)

        @contextlib.contextmanager
        def timed(database: Database) -> Iterator[Any]:
            begun = time.monotonic()
            try:
                with inner(database) as connection:
                    yield connection
            finally:
                if self.is_running:
                    self.spent.append((begun, time.monotonic()))

        setattr(Database, name, timed)

    def queues(self) -> None:
        """Time what the pool's threads wait for a task: they alone wait without a time limit."""
        clock = self

        class Timed(queue.SimpleQueue):  # type: ignore[type-arg]
            def get(self, block: bool = True, timeout: float | None = None) -> Any:
                if timeout is not None or not block:
                    return super().get(block, timeout)
                begun = time.monotonic()
                found = super().get()
                ended = time.monotonic()
                clock.threads.add(threading.get_ident())
                if ended - begun > _SHORTEST_SECONDS:
                    clock.idle.append((begun, ended))
                return found

        vars(pool)["queue"] = SimpleNamespace(SimpleQueue=Timed, Empty=queue.Empty)

    def loop(self) -> None:
        inner = Worker.run

        def timed(worker: Worker) -> WorkerReport:
            begun, self.is_running = time.monotonic(), True
            try:
                return inner(worker)
            finally:
                self.whole += time.monotonic() - begun
                self.is_running = False

        Worker.run = timed  # type: ignore[method-assign, assignment]

    def told(self) -> tuple[float, float, float]:
        waited = overlap(sorted(self.spent), self.idle) / max(len(self.threads), 1)
        return sum(ended - begun for begun, ended in self.spent), self.whole, waited


def overlap(those: Sequence[Interval], others: Sequence[Interval]) -> float:
    """The seconds of each of `others` that lie in one of `those`, which are in order and apart."""
    found = 0.0
    place = 0
    for begun, ended in sorted(others):
        while place < len(those) and those[place][1] <= begun:
            place += 1
        for position in range(place, len(those)):
            first, last = those[position]
            if first >= ended:
                break
            found += max(0.0, min(last, ended) - max(first, begun))
    return found


def main() -> None:
    clock = _Clock()
    clock.around("read")
    clock.around("write")
    clock.queues()
    clock.loop()
    code = boundary.run(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps(clock.told()))
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
