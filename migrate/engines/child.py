"""A worker process of its own: `python -m migrate.engines.child`. Its assignment comes over standard input, never as arguments.

While standard input stays open the parent lives. When it closes, the worker stops as on a signal, so that no worker outlives
a parent that was killed. Standard output carries one JSON document a line: snapshots, then the end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from migrate.engines.assignment import Assignment, Snapshot, waves_to_json, work_on
from migrate.errors import MigrateError
from migrate.workspace import private_umask

_SAY_SECONDS = 0.5
_LAST_SECONDS = 9.0


def main() -> None:
    """Do what standard input says; exit without waiting for threads."""
    private_umask()
    say = _channel()
    _start_logs()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    assignment = Assignment.from_json(json.loads(sys.stdin.readline()))
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    try:
        report = work_on(assignment, stop, _Speaker(say))
        end: dict[str, Any] = {
            "reason": report.reason.value,
            "waves": waves_to_json(report.waves),
            "error": _error(report.error),
        }
        if report.error is not None and not isinstance(report.error, MigrateError):
            raise report.error
    except MigrateError as error:
        end = {"reason": "error", "waves": {}, "error": _error(error)}
    say({"end": end})
    os._exit(0)


def _channel() -> Callable[[dict[str, Any]], None]:
    """Standard output as the way to the parent, for this module alone: what anything else prints there goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(document: dict[str, Any]) -> None:
        try:
            channel.write(json.dumps(document) + "\n")
            channel.flush()
        except OSError:
            return  # the parent is gone; standard input says so as well

    return say


def _start_logs() -> None:
    """Logs to stderr; on a terminal, where the parent shows what goes on, only warnings."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if sys.stderr.isatty() else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _watch_parent(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(1):
        pass
    stop.set()
    time.sleep(_LAST_SECONDS)
    os._exit(1)


class _Speaker:
    """Tells the parent where the work is, twice a second at most."""

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self._said_at = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SAY_SECONDS:
            self._said_at = now
            self._say({"snapshot": snapshot.to_json()})


def _error(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, MigrateError):
        return {"what": error.what, "remedy": error.remedy, "exit_code": int(error.exit_code)}
    return {"what": f"a bug: {type(error).__name__}", "remedy": "", "exit_code": 5}


if __name__ == "__main__":
    main()
