"""Several worker processes on one machine; and how long a run waits for the ledger."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.copying import Ground
from bench.figures import Figure, Measured, Subject, Target
from bench.pairs import Command, Usage, alternate, measure
from bench.stage import Stage
from bench.worlds import small_items


def workers(stage: Stage) -> Iterator[Measured]:
    """The same small objects with one, two and four processes."""
    sizes = stage.sizes
    ground = Ground(stage, "workers", small_items(sizes.workers_objects, sizes.small_users))
    ground.world.plan()

    def run(processes: int) -> Usage:
        ground.world.forget(plans=False)
        return ground.emptied(lambda: ground.world.run("--workers", str(processes)).usage)

    found = alternate({str(number): partial(run, number) for number in (1, 2, 4)}, sizes.rounds)
    ground.close()
    count = len(ground.items)
    rates = {name: [count / one.cpu_seconds for one in used] for name, used in found.items()}
    yield Measured("workers: two", rates["2"], rates["1"])
    yield Measured("workers: four", rates["4"], rates["1"])


def waiting(stage: Stage) -> Iterator[Measured]:
    """A run of one process, whose time in the ledger's database is measured from outside, and each thread's without a task."""
    sizes = stage.sizes
    ground = Ground(stage, "ledger-wait", small_items(sizes.workers_objects, sizes.small_users))
    ground.world.plan()
    waits, shares = [], []
    told = ground.folder / "ledger-seconds.json"
    for _ in range(sizes.rounds):
        ground.world.forget(plans=False)
        ground.emptied(lambda: _watched(ground, told))
        spent, whole, waited = json.loads(told.read_text())
        waits.append(100 * waited / whole)
        shares.append(100 * spent / whole)
    ground.close()
    yield Measured(
        "ledger: waiting for it",
        waits,
        note="of the threads' time: without a task while the main thread is in the ledger",
    )
    yield Measured("ledger: share of the main thread", shares, note="the network goes on meanwhile")


def _watched(ground: Ground, told: Path) -> Usage:
    root = Path(__file__).parents[1]
    words = ["--workspace", str(ground.folder), "run", "--wave", "all", "--json"]
    command: Command = [sys.executable, "-m", "bench.watched", told, *words]
    environment = {**ground.world.environment, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    return measure(command, folder=ground.folder, environment=environment).usage


SUBJECTS = (
    Subject(
        "workers",
        (
            Figure("workers: two", "copies per CPU s", "one process", Target(least=0.9)),
            Figure("workers: four", "copies per CPU s", "one process", Target(least=0.9)),
        ),
        workers,
    ),
    Subject(
        "ledger-wait",
        (
            Figure("ledger: waiting for it", "%", target=Target(most=2, of_ratio=False)),
            Figure("ledger: share of the main thread", "%"),
        ),
        waiting,
    ),
)
