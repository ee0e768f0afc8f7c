"""What a figure is: its name, its target, what was measured of it, and the row that stands in the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.pairs import median, ratios

if TYPE_CHECKING:
    from bench.stage import Stage


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached: by our own figure, or by its ratio to the peer's."""

    least: float | None = None
    most: float | None = None
    of_ratio: bool = True

    def is_met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        bounds = [f"at least {self.least:g}"] if self.least is not None else []
        bounds += [f"at most {self.most:g}"] if self.most is not None else []
        return f"{' and '.join(bounds)}{' ×' if self.of_ratio else ''}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the results. Without a target it is reported only.

    The ratio is ours over the peer's; with `times_less` the peer's over ours: how many times less we take.
    """

    name: str
    unit: str
    peer: str | None = None
    target: Target | None = None
    times_less: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """The samples of one figure, a round each. `note` says what a reader must know of how it was measured."""

    name: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """Figures that are measured together. `measure` gives each of them, as soon as it is known."""

    name: str
    figures: Sequence[Figure]
    measure: Callable[[Stage], Iterable[Measured]]


def row_of(figure: Figure, measured: Measured | None, why: str | None = None) -> dict[str, Any]:
    """The row of the results; without a measurement it says why."""
    row: dict[str, Any] = {
        "name": figure.name,
        "unit": figure.unit,
        "ours": None,
        "peer": None,
        "peer_name": figure.peer,
        "ratio": None,
        "target": None if figure.target is None else str(figure.target),
        "met": None,
        "why": why,
    }
    if measured is None:
        return row
    sides = (measured.peer, measured.ours) if figure.times_less else (measured.ours, measured.peer)
    found = ratios(*sides) if measured.peer else []
    value = median(found) if found else None
    row |= {
        "ours": rounded(median(measured.ours)),
        "peer": rounded(median(measured.peer)) if measured.peer else None,
        "ratio": rounded(value),
        "ratio_spread": [rounded(min(found)), rounded(max(found))] if found else None,
        "ours_spread": [rounded(min(measured.ours)), rounded(max(measured.ours))],
        "samples": {"ours": [rounded(one) for one in measured.ours], "peer": [rounded(one) for one in measured.peer]},
        "note": measured.note,
    }
    if figure.target is not None:
        judged = value if figure.target.of_ratio else median(measured.ours)
        row["met"] = None if judged is None else figure.target.is_met(judged)
    return row


def rounded(value: float | None) -> float | None:
    """Four significant digits: more is noise."""
    return None if value is None else float(f"{value:.4g}")
