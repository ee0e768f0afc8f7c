"""What all ways through a plan's users share: their objects are read some users ahead, and what is in memory is bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from migrate.ledger import Candidate
from migrate.planner.folder import Plan
from migrate.planner.of_users import LineOfUsers

T = TypeVar("T")
SHOWN_MAX = 1_000
"""Users with what is missing or what failed that an end keeps; of all others the numbers."""
PAGE = 256  # users who are asked of the ledger at once
_USERS_AT_ONCE, _COPIES_AT_ONCE = 32, 20_000  # whose objects are read from the plans at once


@contextmanager
def opened_line(plan: Plan) -> Iterator[LineOfUsers]:
    """The objects of the plan's line, user by user."""
    line = LineOfUsers(plan)
    try:
        yield line
    finally:
        line.close()


def groups(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """In order, as many at a time as fit in memory with their objects."""
    group: list[Candidate] = []
    for candidate in candidates:
        if group and (
            len(group) >= _USERS_AT_ONCE or sum(each.copies for each in group) + candidate.copies > _COPIES_AT_ONCE
        ):
            yield group
            group = []
        group.append(candidate)
    if group:
        yield group


def read_ahead(
    candidates: Sequence[Candidate], read: Callable[[list[Candidate]], T]
) -> Iterator[tuple[list[Candidate], T]]:
    """The candidates in groups, each with what `read` says of it. That of the next group is read meanwhile, by the one thread
    that reads: users are frozen while this thread waits."""
    coming = groups(candidates)
    reader = ThreadPoolExecutor(1)
    try:
        ahead = deque((group, reader.submit(read, group)) for group in islice(coming, 2))
        while ahead:
            group, reading = ahead.popleft()
            yield group, reading.result()
            ahead.extend((each, reader.submit(read, each)) for each in islice(coming, 1))
    finally:
        reader.shutdown(wait=True, cancel_futures=True)


class Memory:
    """Bytes in memory, over all threads (invariant 11): who needs more than there are left waits; the first one never does."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._free = threading.Condition()

    @contextmanager
    def takes(self, size: int) -> Iterator[None]:
        size = min(size, self._limit)
        with self._free:
            while self._used and self._used + size > self._limit:
                self._free.wait()
            self._used += size
        try:
            yield
        finally:
            with self._free:
                self._used -= size
                self._free.notify_all()
