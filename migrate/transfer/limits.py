"""What bounds a worker: bytes in flight, bytes a second, requests at once a store (design, invariant 11).

The byte budget belongs to the one thread that hands out work, so it needs no lock and keeps order: a later part never holds
the memory that an earlier one waits for. The other two are shared by all threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOOK_SECONDS = 1.0  # after which whoever waits sees that the rate has changed


class ByteBudget:
    """Bodies in memory, by bytes. Used by the dispatching thread alone."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self.used = 0

    def take(self, size_bytes: int) -> bool:
        """Reserve, if it fits. One body larger than the whole budget may be in flight alone."""
        if self.used and self.used + size_bytes > self._total:
            return False
        self.used += size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        self.used -= size_bytes


class RateLimit:
    """A token bucket of one second's depth: at most `bytes_per_second` on average. None: no limit.

    The rate may change; whoever waits then waits by the new one.
    """

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._counted_at = clock()
        self._allowed = 0.0  # bytes, since the start
        self._promised = float("-inf")

    def change(self, bytes_per_second: int) -> None:
        """Go on at another rate."""
        with self._lock:
            self._count()
            self._rate = bytes_per_second

    def wait(self, size_bytes: int) -> None:
        """Return when `size_bytes` more may be read."""
        with self._lock:
            if self._rate is None:
                return
            self._count()
            mine = self._promised = max(self._promised, self._allowed - self._rate) + size_bytes
        while (delay := self._delay(mine)) > 0:
            self._sleep(min(delay, _LOOK_SECONDS))

    def _delay(self, mine: float) -> float:
        """Seconds until the bytes up to `mine` are allowed, at today's rate."""
        with self._lock:
            self._count()
            short = mine - self._allowed
            return short / self._rate if self._rate and short >= 1 else 0.0

    def _count(self) -> None:
        now = self._clock()
        self._allowed += (now - self._counted_at) * (self._rate or 0)
        self._counted_at = now


class AdaptiveLimit:
    """Requests at once to one store: half of those under way when it asks for less, one more after each full round of successes.

    Additive increase, multiplicative decrease, as TCP does it; a burst of refusals within a second counts once.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = max(1, most)
        self._clock = clock
        self._free = threading.Condition()
        self._in_use = 0
        self._successes = 0
        self._lowered_at = float("-inf")
        self.level = self._most

    def __enter__(self) -> None:
        with self._free:
            while self._in_use >= self.level:
                self._free.wait()
            self._in_use += 1

    def __exit__(self, *_: object) -> None:
        with self._free:
            self._in_use -= 1
            self._free.notify()

    def succeeded(self) -> None:
        if self.level == self._most:  # nothing to raise, so nothing to count
            return
        with self._free:
            self._successes += 1
            if self.level < self._most and self._successes >= self.level:
                self._successes = 0
                self.level += 1
                self._free.notify()

    def throttled(self) -> None:
        with self._free:
            now = self._clock()
            if now - self._lowered_at >= 1.0:
                self._lowered_at = now
                self._successes = 0
                self.level = max(1, min(self.level, self._in_use) // 2)
