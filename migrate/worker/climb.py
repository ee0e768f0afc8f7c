"""How many tasks at once go fastest, found by trying: hill climbing over the rate at which tasks end.

A far store wants many requests under way, a near one few, and nobody knows beforehand which it is. So the level that is held is
measured, then twice or half as many for a moment: the better one is held on with. What a store itself asks for, by refusing
requests, is heeded elsewhere, store by store (transfer.limits.AdaptiveLimit).
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_LEVEL = 32
_WINDOW_SECONDS = 0.5
_ROUNDS_A_WINDOW = 2  # every thread is seen to end that many tasks
_UP_GAIN = 1.05  # twice as many at once must bring that much: more requests are a load on the stores
_DOWN_GAIN = 1.0
_PATIENCE_SECONDS = 1.0  # between two trials; doubled by each that brought nothing
_PATIENCE_MAX_SECONDS = 32.0
_UNIT_BYTES = 256 * 1024  # of a body cost about as much as the request that asks for it


class Climb:
    """Finds its `level`, from 1 to `most`. Used by the dispatching thread alone."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = max(1, most)
        self._clock = clock
        self.level = min(FIRST_LEVEL, self._most)
        self._held: tuple[int, float] | None = None  # while another level is tried: the one that is held, and its rate
        self._goes_up = True
        self._patience = _PATIENCE_SECONDS
        self._trial_at = clock()
        self._begin(settles=False)

    def took(self, size_bytes: int) -> None:
        """A task has ended, of a body of so many bytes."""
        self._ended += 1
        if self._settles:
            if self._ended >= self.level:
                self._begin(settles=False)
            return
        self._units += 1 + size_bytes / _UNIT_BYTES
        seconds = self._clock() - self._begun
        if seconds >= _WINDOW_SECONDS and self._ended >= _ROUNDS_A_WINDOW * self.level:
            self._judge(self._units / seconds)

    def starved(self) -> None:
        """There were fewer tasks than could have been under way: what is measured now says nothing of the level."""
        self._begin(settles=self._settles)

    def _judge(self, rate: float) -> None:
        if self._held is None:
            self._try(rate)
            return
        held, its_rate = self._held
        if rate >= its_rate * (_UP_GAIN if self._goes_up else _DOWN_GAIN):
            self._held = None
            self._patience = _PATIENCE_SECONDS
            self._try(rate)
            return
        self._goes_up = not self._goes_up
        self._trial_at = self._clock() + self._patience
        self._patience = min(2 * self._patience, _PATIENCE_MAX_SECONDS)
        self._held = None
        self._go_to(held)

    def _try(self, rate: float) -> None:
        """The level that is held has been measured: try the next one, if it is time to."""
        if self._clock() < self._trial_at:
            self._begin(settles=False)
            return
        wanted = min(2 * self.level, self._most) if self._goes_up else max(self.level // 2, 1)
        if wanted == self.level:
            self._goes_up = not self._goes_up
            self._begin(settles=False)
            return
        self._held = (self.level, rate)
        self._go_to(wanted)

    def _go_to(self, level: int) -> None:
        self.level = level
        self._begin(settles=True)

    def _begin(self, *, settles: bool) -> None:
        """A window begins; one that settles lets the tasks end first that were begun at another level."""
        self._settles = settles
        self._begun = self._clock()
        self._ended = 0
        self._units = 0.0
