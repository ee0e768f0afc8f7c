"""What planning or registering a plan is at, and what a verification lists before it checks.

A line that moves on a terminal; a log line a step and every half minute elsewhere.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import structlog
from rich.live import Live
from rich.text import Text

from migrate.cli.output import Output, safe

LINE_SECONDS = 30.0


class PlanProgress:
    """Told the name of a step or store and a count, from any thread."""

    def __init__(self, output: Output, doing: str = "planning") -> None:
        self._doing = doing
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._logged = 0.0
        self._started = time.monotonic()
        self._log = structlog.get_logger("migrate.plan")
        self._live = (
            Live(get_renderable=self._view, console=output.progress_console, transient=True, refresh_per_second=8)
            if output.is_live
            else None
        )

    def step(self, name: str, count: int) -> None:
        """`count` is how much of `name` is done so far."""
        with self._lock:
            is_new = name not in self._counts
            self._counts[name] = count
            now = time.monotonic()
            if self._live is not None or not (is_new or now - self._logged >= LINE_SECONDS):
                return
            self._logged = now
        self._log.info(self._doing, step=name, count=count)

    def _view(self) -> Text:
        with self._lock:
            counts = dict(self._counts)
        steps = "  ".join(f"{safe(name)} {count:,}" for name, count in counts.items())
        return Text(f"{self._doing} {time.monotonic() - self._started:.0f} s  {steps}", style="dim")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
