"""Measuring: what a process and its children took, contenders that alternate, the median and the spread of what came out.

CPU time is what the kernel charged to the process and to all descendants that were waited for (wait4, getrusage(2)). Memory is
the sum of the peaks of the processes that lived, by /proc: ru_maxrss would begin with the memory of whoever started them.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Command = Sequence[str | Path]
_LOOK_SECONDS = 0.05
_LINES_SHOWN = 15


class CannotMeasureError(Exception):
    """Why a figure cannot be had here. It stands in the results instead of the figure."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command took: seconds by the clock, CPU seconds with its children, and the peak of memory in bytes."""

    seconds: float
    cpu_seconds: float
    memory_bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        """One after the other."""
        return Usage(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.memory_bytes, other.memory_bytes),
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: what it took, and what it wrote to stdout."""

    usage: Usage
    out: str


def measure(
    command: Command,
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
    limit_seconds: float | None = None,
) -> Ended:
    """Run a command to its end. CannotMeasureError where it ends with another code than those of `codes`.

    After `limit_seconds` it is killed, and its time is no less than that. What it writes goes to files in `folder`, so that no
    pipe slows it down.
    """
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        begun = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            cwd=folder,
        )
        usage = _wait(process, begun, limit_seconds)
    if process.returncode not in (codes if limit_seconds is None else (*codes, -signal.SIGKILL)):
        said = "\n".join(
            (err.read_text(errors="replace") + out.read_text(errors="replace")).splitlines()[-_LINES_SHOWN:]
        )
        name, *words = map(str, command)
        asked = " ".join([Path(name).name, *words])[:200]
        raise CannotMeasureError(f"exit code {process.returncode} of {asked}: {said}")
    return Ended(usage, out.read_text(errors="replace"))


def _wait(process: subprocess.Popen[bytes], begun: float, limit_seconds: float | None) -> Usage:
    """Wait for the end. A look at /proc now and then costs a thousandth of a core, of which nothing is charged to the process."""
    peaks: dict[int, int] = {}
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        if limit_seconds is not None and time.monotonic() - begun >= limit_seconds:
            process.kill()
        for pid in [process.pid, *descendants(process.pid)]:
            peaks[pid] = max(peaks.get(pid, 0), peak_memory(pid))
        time.sleep(_LOOK_SECONDS if time.monotonic() - begun > 1 else _LOOK_SECONDS / 10)
    seconds = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(seconds, used.ru_utime + used.ru_stime, sum(peaks.values()))


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def peak_memory(pid: int) -> int:
    """The most memory that a process had resident since it began its program, in bytes (proc(5), VmHWM); 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def alternate(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Each contender once a round, in turn: A B A B. What changes on the machine meanwhile meets all of them alike."""
    found: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            found[name].append(run())
    return found


def ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Ours over the peer's, round by round."""
    return [mine / other for mine, other in zip(ours, peer, strict=True) if other]


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The exponent b of y = a x^b through the points, by least squares over the logarithms: 1 is linear."""
    pairs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    return float(sum((x - mean_x) * (y - mean_y) for x, y in pairs) / sum((x - mean_x) ** 2 for x, _ in pairs))
