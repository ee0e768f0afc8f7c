"""What the worker's loop asks of the work on one leased batch, be it copying or checking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from migrate.ledger import Lease
from migrate.worker.pool import Task


@dataclass(slots=True)
class Tally:
    """What was done so far, for progress and summaries. Counts only: the truth is in the ledger.

    `size_bytes`: what was sent, or found there, since the start; parts that an earlier run has sent are its own.
    """

    copies: int = 0
    failures: int = 0
    size_bytes: int = 0
    users: int = 0
    batches: int = 0

    def add(self, other: Tally) -> None:
        self.copies += other.copies
        self.failures += other.failures
        self.size_bytes += other.size_bytes
        self.users += other.users
        self.batches += other.batches


class Work(Protocol):
    """One leased batch. Everything is called from the worker's one main thread; only a Task's `run` runs elsewhere."""

    lease: Lease

    def tasks(self) -> Iterator[Task]:
        """All tasks that are known from the start, lazily, in order."""
        ...

    def take(self, event: object) -> Iterable[Task]:
        """Take a task's event; the tasks that follow from it."""
        ...

    def left_over(self, event: object) -> Iterable[Task]:
        """The lease is gone, and an event comes all the same: tasks that take away what it began. Nothing else is done then."""
        ...

    @property
    def buffered(self) -> int:
        """How many results wait for the next group commit."""
        ...

    def commit(self) -> None:
        """Write what waits to the ledger, in one transaction. StaleLeaseError where the lease is not ours any more."""
        ...

    def finish(self) -> None:
        """All tasks have ended: seal, and end the batch."""
        ...

    def tally(self) -> Tally:
        """What was done since the last call."""
        ...
