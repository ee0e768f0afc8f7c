"""Where a run is, while it runs: moving bars on a terminal, a structured line every 30 s elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from migrate.engines.assignment import Snapshot
from migrate.units import format_duration, format_size
from migrate.worker.work import Tally

LINE_SECONDS = 30.0
_RATE_SECONDS = 20.0  # the rate is that of the last seconds, not that since the start
_REFRESHES_PER_SECOND = 4


@dataclass(frozen=True, slots=True)
class Goal:
    """What one wave has in all, and what of it was done before this run began."""

    users: int
    copies: int
    size_bytes: int
    users_done: int = 0
    copies_done: int = 0
    bytes_done: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast it goes now, and how long it will take; None where that cannot be said yet."""

    copies_per_second: float
    bytes_per_second: float
    seconds_left: float | None


class Meter:
    """Rates over the last seconds. The clock is an argument."""

    def __init__(self, goals: Mapping[int, Goal]) -> None:
        self._left = sum(goal.copies - goal.copies_done for goal in goals.values())
        self._seen: deque[tuple[float, int, int]] = deque()

    def rates(self, copies: int, size_bytes: int, now: float) -> Rates:
        self._seen.append((now, copies, size_bytes))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()
        then, old_copies, old_bytes = self._seen[0]
        if now - then < 0.5:
            return Rates(0.0, 0.0, None)
        speed = (copies - old_copies) / (now - then)
        left = (self._left - copies) / speed if speed > 0 else None
        return Rates(speed, (size_bytes - old_bytes) / (now - then), left)


class Progress:
    """Takes snapshots and shows them. `console` is stderr's; `live` where somebody watches it."""

    def __init__(
        self,
        title: str,
        goals: Mapping[int, Goal],
        workers: int,
        *,
        console: Console,
        live: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._goals = goals
        self._workers = workers
        self._clock = clock
        self._meter = Meter(goals)
        self._snapshot = Snapshot({}, 0, {})
        self._said_at = clock()
        self._rated_at = float("-inf")
        self._rates = Rates(0.0, 0.0, None)
        self._log = structlog.get_logger()
        self._live = (
            Live(self, console=console, refresh_per_second=_REFRESHES_PER_SECOND, transient=True) if live else None
        )

    def start(self) -> None:
        if self._live is not None:
            self._live.start()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        now = self._clock()
        total = self._total()
        if now - self._rated_at >= 1.0:
            self._rated_at = now
            self._rates = self._meter.rates(total.copies, total.size_bytes, now)
        if self._live is None and now - self._said_at >= LINE_SECONDS:
            self._said_at = now
            self._say(total)

    def _total(self) -> Tally:
        total = Tally()
        for tally in self._snapshot.waves.values():
            total.add(tally)
        return total

    def _say(self, total: Tally) -> None:
        rates = self._rates
        self._log.info(
            "progress",
            doing=self._title,
            users=total.users + sum(goal.users_done for goal in self._goals.values()),
            users_planned=sum(goal.users for goal in self._goals.values()),
            copies=total.copies + sum(goal.copies_done for goal in self._goals.values()),
            copies_planned=sum(goal.copies for goal in self._goals.values()),
            bytes=total.size_bytes + sum(goal.bytes_done for goal in self._goals.values()),
            failures=total.failures,
            retries=self._snapshot.retries,
            copies_per_second=round(rates.copies_per_second, 1),
            bytes_per_second=round(rates.bytes_per_second),
            seconds_left=None if rates.seconds_left is None else round(rates.seconds_left),
            workers=self._workers,
            waves=",".join(str(wave) for wave in self._goals),
        )

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        for wave, goal in self._goals.items():
            tally = self._snapshot.waves.get(wave, Tally())
            copies = goal.copies_done + tally.copies
            table.add_row(
                f"wave {wave}",
                ProgressBar(total=max(1, goal.copies), completed=copies, width=20),
                f"{goal.users_done + tally.users:,}/{goal.users:,} users",
                f"{copies:,}/{goal.copies:,} copies",
                f"{format_size(goal.bytes_done + tally.size_bytes)}/{format_size(goal.size_bytes)}",
            )
        return Group(table, self._bottom())

    def _bottom(self) -> Text:
        rates, total = self._rates, self._total()
        left = "–" if rates.seconds_left is None else format_duration(rates.seconds_left)
        workers = f"{self._workers} worker{'s' if self._workers != 1 else ''}"
        parts = [
            f"{rates.copies_per_second:,.0f} copies/s",
            f"{format_size(rates.bytes_per_second)}/s",
            f"{left} left",
            workers,
            f"{self._snapshot.retries:,} retries",
        ]
        text = Text(f"{self._title}: " + " · ".join(parts), style="dim")
        if total.failures:
            text.append(f" · {total.failures:,} failed", style="bold red")
        return text
