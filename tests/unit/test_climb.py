"""How many tasks at once: the level that goes fastest is found, wherever the stores are; and the pool heeds it."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from migrate.worker.climb import FIRST_LEVEL, Climb
from migrate.worker.pool import Pool, Task

_LEVELS = (8, 16, 32, 64, 128)


class Machine:
    """Stores that are `latency` seconds away, and a machine that ends at most `rate(level)` tasks a second."""

    def __init__(self, latency: float, rate: Callable[[int], float]) -> None:
        self.latency = latency
        self.rate = rate
        self.now = 0.0
        self.chance = random.Random(5)

    def speed(self, level: int) -> float:
        """Tasks a second with so many at once, on average."""
        return min(level / (self.latency + 1 / self.rate(level)), self.rate(level))

    def run(self, climb: Climb, seconds: float) -> int:
        """Tasks that end in this time."""
        until, free_at, count = self.now + seconds, self.now, 0
        going: list[float] = []
        while self.now < until:
            while len(going) < climb.level:
                free_at = max(free_at, self.now) + self.chance.uniform(0.8, 1.2) / self.rate(climb.level)
                heapq.heappush(going, max(free_at, self.now + self.latency * self.chance.uniform(0.9, 1.1)))
            self.now = heapq.heappop(going)
            climb.took(16 * 1024)
            count += 1
        return count


MACHINES = {
    "near": (0.001, lambda level: 900.0),
    "near, and crowds cost": (0.001, lambda level: 900.0 / (1 + level / 60)),
    "30 ms": (0.03, lambda level: 900.0),
    "120 ms": (0.12, lambda level: 600.0),
    "120 ms, strong": (0.12, lambda level: 2000.0),
    "slow": (0.2, lambda level: 25.0),
}


@pytest.mark.parametrize("name", MACHINES)
def test_the_best_level_is_found_within_fifteen_seconds(name: str) -> None:
    """What is done in the half minute after comes within 5 % of what the best fixed level would do."""
    machine = Machine(*MACHINES[name])
    climb = Climb(128, clock=lambda: machine.now)
    machine.run(climb, 15)
    done = machine.run(climb, 30)
    assert done / 30 >= 0.95 * max(machine.speed(level) for level in _LEVELS)


def test_a_fixed_level_is_not_the_best_everywhere() -> None:
    """The twin of the test above: what it asks for would fail with the first level for good."""
    machine = Machine(*MACHINES["120 ms, strong"])
    assert machine.speed(FIRST_LEVEL) < 0.5 * max(machine.speed(level) for level in _LEVELS)


def test_what_changes_meanwhile_is_followed() -> None:
    """A store that comes to be far away gets more at once, and never more than the bound."""
    machine = Machine(0.001, lambda level: 900.0 / (1 + level / 60))
    climb = Climb(96, clock=lambda: machine.now)
    machine.run(climb, 40)
    machine.latency, machine.rate = 0.12, lambda level: 2000.0
    machine.run(climb, 60)
    assert 64 <= climb.level <= 96


def test_where_tasks_run_short_nothing_is_concluded() -> None:
    machine = Machine(0.12, lambda level: 4000.0)
    climb = Climb(128, clock=lambda: machine.now)
    for _ in range(3000):
        machine.run(climb, 0.01)
        climb.starved()
    assert climb.level == FIRST_LEVEL


def test_a_small_bound_is_kept() -> None:
    machine = Machine(0.12, lambda level: 4000.0)
    climb = Climb(5, clock=lambda: machine.now)
    assert climb.level == 5
    machine.run(climb, 60)
    assert 1 <= climb.level <= 5


def test_as_many_threads_work_as_the_level_says() -> None:
    """Raised, more tasks run at once; lowered, no more than so many are begun; every task is done once, in order."""
    begun: list[int] = []
    go = [threading.Event() for _ in range(40)]

    def work(number: int) -> None:
        begun.append(number)
        go[number].wait(10)

    def begun_of(number: int) -> list[int]:
        """Which have begun, a while after there were so many."""
        for _ in range(100):
            if len(begun) >= number:
                break
            time.sleep(0.1)
        time.sleep(0.2)
        return sorted(begun)

    pool = Pool(2)
    for number in range(40):
        pool.submit(Task(None, 0, partial(work, number)))
    assert begun_of(2) == [0, 1]
    pool.level = 6
    assert begun_of(6) == [0, 1, 2, 3, 4, 5]
    pool.level = 3
    for number in range(6):
        go[number].set()
    assert begun_of(9) == list(range(9))
    for event in go:
        event.set()
    ended = 0
    while ended < 40 and pool.next_ended(10) is not None:
        ended += 1
    assert ended == 40
    assert sorted(begun) == list(range(40))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("copier-")]
    pool.end()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
