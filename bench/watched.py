"""The tool's command line with a clock at the door of its ledger: `python -m bench.watched FILE ARGUMENTS…`.

FILE gets the seconds that the worker's loop spent in the ledger, and the seconds that the loop lasted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from migrate.cli import boundary
from migrate.ledger.engine import Database
from migrate.worker.loop import Worker, WorkerReport


class _Clock:
    """Seconds in transactions while the loop runs."""

    def __init__(self) -> None:
        self.spent = 0.0
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
                    self.spent += time.monotonic() - begun

        setattr(Database, name, timed)

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


def main() -> None:
    clock = _Clock()
    clock.around("read")
    clock.around("write")
    clock.loop()
    code = boundary.run(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps([clock.spent, clock.whole]))
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
