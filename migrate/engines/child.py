"""A worker process of its own: `python -m migrate.engines.child`. Its assignment comes over standard input, never as arguments.

While standard input stays open the parent lives. When it closes, the worker stops as on a signal, so that no worker outlives
a parent that was killed. Standard output carries one JSON document a line: snapshots, then the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from migrate.engines.assignment import Assignment, Snapshot, waves_to_json, work_on
from migrate.errors import MigrateError
from migrate.workspace import private_umask

_SAY_SECONDS = 0.5
_LAST_SECONDS = 9.0


def main() -> None:
    """Do what standard input says; exit without waiting for threads."""
    private_umask()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    assignment = Assignment.from_json(json.loads(sys.stdin.readline()))
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    try:
        report = work_on(assignment, stop, _Speaker())
        end: dict[str, Any] = {
            "reason": report.reason.value,
            "waves": waves_to_json(report.waves),
            "error": _error(report.error),
        }
        if report.error is not None and not isinstance(report.error, MigrateError):
            raise report.error
    except MigrateError as error:
        end = {"reason": "error", "waves": {}, "error": _error(error)}
    _say({"end": end})
    os._exit(0)


def _watch_parent(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(1):
        pass
    stop.set()
    time.sleep(_LAST_SECONDS)
    os._exit(1)


class _Speaker:
    """Tells the parent where the work is, twice a second at most."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SAY_SECONDS:
            self._said_at = now
            _say({"snapshot": snapshot.to_json()})


def _error(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, MigrateError):
        return {"what": error.what, "remedy": error.remedy, "exit_code": int(error.exit_code)}
    return {"what": f"a bug: {type(error).__name__}", "remedy": "", "exit_code": 5}


def _say(document: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    except OSError:
        return  # the parent is gone; standard input says so as well


if __name__ == "__main__":
    main()
