"""Many ways at once, each a generator: it talks to the ledger itself, in the thread that drives it, and yields what talks to
stores and platform, which is done in threads.

So the ledger is spoken to by one thread alone, which always hears a signal (design, section 3), and each way reads as one piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

from migrate.errors import InterruptedRun, LaterError, StoreError, UnreachableError
from migrate.worker.loop import GRACE_SECONDS, Stop

R = TypeVar("R")
Job = Callable[[], Any]
Way = Generator[Sequence[Job], list[Any], R]
"""Yields jobs that are done side by side, and gets their results in order; the first error of one is raised at the yield."""

OF_THE_USER = (InterruptedRun, StoreError, UnreachableError, LaterError)
"""What ends one user's way. Anything else (policy, a bad spec, an integrity error, a bug) would meet the next one as well."""
_LOOK_SECONDS = 0.2


class _Going(Generic[R]):
    """A way that is under way: its jobs, and how many of them are not done."""

    def __init__(self, way: Way[R], pool: ThreadPoolExecutor) -> None:
        self.way = way
        self._pool = pool
        self.futures: list[Future[Any]] = []
        self.is_interrupted = False

    def advance(self, error: BaseException | None = None) -> R | None:
        """Go on with what the jobs gave, or with an error instead; None while there are more of them. What the way raises is
        raised."""
        if error is None:
            error = next((failed for future in self.futures if (failed := future.exception()) is not None), None)
        results = [] if error is not None else [future.result() for future in self.futures]
        try:
            if error is not None:
                jobs = self.way.throw(error)
            elif self.futures:
                jobs = self.way.send(results)
            else:
                jobs = next(self.way)
        except StopIteration as end:
            ended: R = end.value
            return ended
        self.futures = [self._pool.submit(job) for job in jobs]
        return None

    def interrupt(self, pool: ThreadPoolExecutor) -> R | None:
        """Go on without what the jobs may still give, which nobody waits for any more, and in other threads: those may hang."""
        self.is_interrupted, self._pool = True, pool
        for future in self.futures:
            future.cancel()
        return self.advance(InterruptedRun("stopped while a request was under way"))

    @property
    def is_due(self) -> bool:
        return all(future.done() for future in self.futures)


def side_by_side(
    ways: Iterator[Way[R]],
    *,
    at_once: int,
    threads: int,
    is_over: Callable[[], bool],
    stop: Stop,
    on_look: Callable[[], None],
) -> Iterator[R]:
    """What each way ends with, as they end. Once `is_over`, none is begun any more; those under way come to their end.

    After a `stop` jobs have `GRACE_SECONDS`: then their way goes on with InterruptedRun, and what it does to end in order has as
    long again, such as to end a freeze. What is not done by then is left for the next command.

    `on_look` is called several times a second. What a way raises keeps others from being begun; it is raised once those that are
    under way have come to their end.
    """
    failed: Exception | None = None
    going: list[_Going[R]] = []
    more = True
    pools = [ThreadPoolExecutor(threads, thread_name_prefix=name) for name in ("step", "end")]
    try:
        while True:
            while more and failed is None and len(going) < at_once and not is_over():
                try:
                    way = next(ways, None)
                except Exception as error:  # noqa: BLE001 - raised below
                    failed, way = error, None
                if way is None:
                    more = False
                    break
                going.append(_Going(way, pools[0]))
            if not going:
                break
            grace, end = stop.ends_at(GRACE_SECONDS), stop.ends_at(2 * GRACE_SECONDS)
            if end is not None and time.monotonic() >= end:
                break
            is_late = grace is not None and time.monotonic() >= grace
            for each in [one for one in going if one.is_due or (is_late and not one.is_interrupted)]:
                try:
                    ended = each.advance() if each.is_due else each.interrupt(pools[1])
                except Exception as error:  # noqa: BLE001 - raised below
                    going.remove(each)
                    is_left = each.is_interrupted and isinstance(error, InterruptedRun)  # for the next command
                    failed = failed if is_left else failed or error
                    continue
                if ended is not None:
                    going.remove(each)
                    yield ended
            pending = [future for one in going for future in one.futures if not future.done()]
            if pending and not any(one.is_due for one in going):
                wait(pending, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
            on_look()
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
    if failed is not None:
        raise failed
