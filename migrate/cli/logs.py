"""Logs: structlog to stderr, `key=value` or JSON lines, times in UTC. No key and no user id is ever in them (invariant 10).

On a terminal, where the progress shows what goes on, only warnings; elsewhere (cron, systemd) and with `--debug` more. What
libraries log by themselves stays silent: their texts hold keys and URLs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from migrate.cli.context import Context
from migrate.cli.output import safe


def start_logs(context: Context) -> None:
    """Set structlog up for this process, once, before a store is opened."""
    level = logging.DEBUG if context.debug else logging.WARNING if context.output.is_live else logging.INFO
    renderer = (
        structlog.processors.JSONRenderer()
        if context.as_json
        else structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event"], sort_keys=True, bool_as_flag=False
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            name_exception,
            *([] if context.as_json else [escape_values]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Stderr,
        cache_logger_on_first_use=False,
    )
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


class _Stderr:
    """Writes to what stderr is now: a live progress display puts itself in its place while it runs."""

    def __init__(self, *_names: object) -> None:
        pass

    def msg(self, message: str) -> None:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


def name_exception(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception is named by its type alone: its text may hold a key."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = type(error).__name__
    return event


def escape_values(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What a store answered can hold anything; a log line is one line."""
    return {name: safe(value) if isinstance(value, str) else value for name, value in event.items()}
