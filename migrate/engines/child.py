"""A worker process of its own. Its assignment comes over standard input, never as arguments.

While standard input stays open the parent lives. When it closes, the worker stops as on a signal, so that no worker outlives
a parent that was killed. A line that comes later is the worker's new share of the bytes a second. Standard output carries one
JSON document a line: snapshots, then the end.
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
from contextlib import suppress
from typing import Any, NoReturn

import structlog

from migrate.engines.assignment import Assignment, Snapshot, waves_to_json, work_on
from migrate.engines.local import DEBUG_LOGS, JSON_LOGS
from migrate.errors import MigrateError
from migrate.privacy import bare_traceback
from migrate.stderr import lenient_stderr
from migrate.transfer.limits import RateLimit
from migrate.worker.loop import Stop
from migrate.workspace import private_umask

_SAY_SECONDS = 0.5
_LAST_SECONDS = 9.0


def main() -> None:
    """Do what standard input says; exit without waiting for threads."""
    with lenient_stderr():
        _work()


def _work() -> NoReturn:
    private_umask()
    say = _channel()
    _start_logs(as_json=JSON_LOGS in sys.argv, debug=DEBUG_LOGS in sys.argv)
    stop = Stop()
    # a terminal sends SIGINT to all of a group: the parent hears it and closes our standard input
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    assignment = Assignment.from_json(json.loads(sys.stdin.readline()))
    rate = RateLimit(assignment.limit_bytes)
    threading.Thread(target=_watch_parent, args=(stop, rate), daemon=True).start()
    try:
        report = work_on(assignment, stop, _Speaker(say), rate)
        end = {"reason": report.reason.value, "waves": waves_to_json(report.waves), **_error(report.error)}
    except Exception as error:  # noqa: BLE001 - the parent tells it
        end = {"reason": "error", "waves": {}, **_error(error)}
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


def _start_logs(*, as_json: bool, debug: bool) -> None:
    """Logs to stderr, as the parent writes its own; on a terminal, where the parent shows what goes on, only warnings."""
    keys = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], sort_keys=True)
    shown = logging.WARNING if sys.stderr.isatty() and not as_json else logging.INFO
    level = logging.DEBUG if debug else shown
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer() if as_json else keys,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _watch_parent(stop: threading.Event, rate: RateLimit) -> None:
    with suppress(ValueError):  # a line that the parent's end has cut
        for line in sys.stdin:
            rate.change(json.loads(line)["limit_bytes"])
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


def _error(error: BaseException | None) -> dict[str, Any]:
    """What stopped the worker. A bug's traceback goes to the parent without the texts of other libraries (invariant 10)."""
    if error is None:
        return {"error": None}
    if isinstance(error, MigrateError):
        return {"error": {"what": error.what, "remedy": error.remedy, "exit_code": int(error.exit_code)}}
    return {"error": {"bug": type(error).__name__, "traceback": bare_traceback(error)}}
