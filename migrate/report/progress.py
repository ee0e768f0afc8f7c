"""Where a run is, while it runs: moving bars on a terminal, a structured line every 30 s elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace

import structlog
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from migrate.engines.assignment import Snapshot
from migrate.report.goals import Goal
from migrate.units import format_duration, format_size
from migrate.worker.work import Tally

LINE_SECONDS = 30.0
_RATE_SECONDS = 20.0  # the rate is that of the last seconds, not that since the start
_REFRESHES_PER_SECOND = 4
_WAVES_SHOWN = 4  # at once, so that the last line is seen on any terminal
_BAR_COLUMNS = 12


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast it goes now, and how long it will take; None where that cannot be said yet."""

    copies_per_second: float
    bytes_per_second: float
    seconds_left: float | None


class Meter:
    """Rates over the last seconds, and the time that is left at these rates. The clock is an argument."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def rates(self, done: tuple[int, int], left: tuple[int, int], now: float) -> Rates:
        """`done` by this run and `left` to be done: copies and bytes. What takes longer of the two says how long it takes."""
        self._seen.append((now, *done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()
        then, *before = self._seen[0]
        if now - then < 0.5:
            return Rates(0.0, 0.0, None)
        speeds = [(new - old) / (now - then) for new, old in zip(done, before, strict=True)]
        estimates = [more / speed for more, speed in zip(left, speeds, strict=True) if speed > 0]
        return Rates(speeds[0], speeds[1], max(estimates, default=None))


class Progress:
    """Takes snapshots and shows them. `console` is stderr's; `live` where somebody watches it.

    `goals` say where the waves stood when the run began.
    """

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
        self._meter = Meter()
        self._known = goals
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

    def update(self, goals: Mapping[int, Goal]) -> None:
        """Where the waves stand now, by the ledger: other runs may have done some of it."""
        self._known = goals

    def __call__(self, snapshot: Snapshot) -> None:
        begins_to_wait = snapshot.waits_for and not self._snapshot.waits_for
        self._snapshot = snapshot
        now = self._clock()
        if now - self._rated_at >= 1.0:
            self._rated_at = now
            total = self._total()
            stands = self._sum(self._stands().values())
            left = (max(0, stands.copies - stands.copies_done), max(0, stands.size_bytes - stands.bytes_done))
            self._rates = self._meter.rates((total.copies, total.size_bytes), left, now)
        if self._live is None and (begins_to_wait or now - self._said_at >= LINE_SECONDS):
            self._said_at = now
            self._say()

    def _total(self) -> Tally:
        """What this run did."""
        total = Tally()
        for tally in self._snapshot.waves.values():
            total.add(tally)
        return total

    def _stands(self) -> dict[int, Goal]:
        """Where each wave stands: by what this run did, or by the ledger if that has seen more."""
        return {wave: self._stand(wave, goal) for wave, goal in self._goals.items()}

    def _stand(self, wave: int, goal: Goal) -> Goal:
        tally, known = self._snapshot.waves.get(wave, Tally()), self._known.get(wave, goal)
        return replace(
            goal,
            users_done=min(goal.users, max(goal.users_done + tally.users, known.users_done)),
            copies_done=min(goal.copies, max(goal.copies_done + tally.copies, known.copies_done)),
            bytes_done=min(goal.size_bytes, max(goal.bytes_done + tally.size_bytes, known.bytes_done)),
        )

    def _sum(self, goals: Collection[Goal]) -> Goal:
        return Goal(*(sum(getattr(goal, each.name) for goal in goals) for each in fields(Goal)))

    def _say(self) -> None:
        rates, stands, total = self._rates, self._sum(self._stands().values()), self._total()
        self._log.info(
            "progress",
            doing=self._title,
            users=stands.users_done,
            users_planned=stands.users,
            copies=stands.copies_done,
            copies_planned=stands.copies,
            bytes=stands.bytes_done,
            bytes_planned=stands.size_bytes,
            failures=total.failures,
            retries=self._snapshot.retries,
            copies_per_second=round(rates.copies_per_second, 1),
            bytes_per_second=round(rates.bytes_per_second),
            seconds_left=None if rates.seconds_left is None else round(rates.seconds_left),
            workers=self._workers,
            waves=",".join(str(wave) for wave in self._goals),
            waits_for=_holders(self._snapshot.waits_for),
        )

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        stands = self._stands()
        rows = [(f"wave {wave}", stands[wave]) for wave in self._shown(stands)]
        if len(stands) > 1:
            rows.append((f"{len(stands)} waves", self._sum(stands.values())))
        for name, goal in rows:
            table.add_row(
                name,
                ProgressBar(total=max(1, goal.copies), completed=goal.copies_done, width=_BAR_COLUMNS),
                f"{goal.users_done:,}/{goal.users:,} users",
                f"{goal.copies_done:,}/{goal.copies:,} copies",
                f"{format_size(goal.bytes_done)}/{format_size(goal.size_bytes)}",
            )
        return Group(table, self._bottom())

    def _shown(self, stands: Mapping[int, Goal]) -> list[int]:
        """The waves that have a line: all, where they are few; else those at work, the first of them if they are many."""
        if len(stands) <= _WAVES_SHOWN:
            return list(stands)
        left = [wave for wave, goal in stands.items() if goal.copies_done < goal.copies]
        at_work = [wave for wave in left if stands[wave] != self._goals[wave]]
        return (at_work or left[:1])[:_WAVES_SHOWN]

    def _bottom(self) -> Text:
        if self._snapshot.waits_for:
            return Text(f"{self._title}: waits for {_holders(self._snapshot.waits_for)}", style="dim")
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


def _holders(waits_for: Mapping[str, int]) -> str | None:
    """How many batches others hold, by host, in words; None where nothing is waited for."""
    words = [f"{number} batch{'es' if number != 1 else ''} held on {host}" for host, number in waits_for.items()]
    return ", ".join(words) or None
