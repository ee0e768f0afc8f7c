"""Requests to stores: the one retry layer, and the one place where a store's concurrency is held (design, invariant 11).

What is retried is named (`TransientStoreError` and its kinds), and bounded in attempts and time. When the attempts are used
up, or a store denies, the question is whether the store is down or this one object cannot be had. If it answers a harmless
question now, the object is at fault and its error goes on; else `UnreachableError` stops the run. What succeeded earlier
says nothing: it may have been the last answer before the outage. That something is not there is believed when the store says
so twice: what would follow is final, and one such answer may be a mistake. A store that asks for less is given time rather than a
number of attempts, and no object is ever blamed for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import stamina
import stamina.instrumentation

from migrate.errors import (
    DeniedError,
    ElsewhereError,
    NotFoundError,
    PermanentStoreError,
    RefusedError,
    StoreError,
    StrangeAnswerError,
    ThrottledError,
    TransientStoreError,
    UnreachableError,
)
from migrate.stores.base import Store
from migrate.transfer.limits import AdaptiveLimit, RateLimit

T = TypeVar("T")

_PROBE_KEY = ".migrate-is-anyone-there"
_PROBE_ATTEMPTS = 3
_PROBE_TIMEOUT_SECONDS = 10.0
_MOMENT_SECONDS = 0.001  # none at all would be no limit

# a line of log for each retry would drown all others; how many there were is counted, and shown
stamina.instrumentation.set_on_retry_hooks([])


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long one request is tried. Waits grow from `wait_seconds`, doubled, with jitter.

    Being asked for less is not counted as an attempt: only the time bounds it. `changes_once`: what changes what a key shows is
    not sent again unless the store has refused it, for whoever gives the key to others right after, since one whose answer is
    lost may land late (design, invariant 2).
    """

    attempts: int = 6
    changes_once: bool = False
    timeout_seconds: float = 120.0
    wait_seconds: float = 0.2
    wait_max_seconds: float = 10.0


class _Line:
    """One store with its limit and what is known of its health."""

    def __init__(self, store: Store, limit: AdaptiveLimit) -> None:
        self.store = store
        self.limit = limit


class Caller:
    """Opens stores through the door's `opener`, once each, and sends requests to them. Thread-safe."""

    def __init__(
        self,
        opener: Callable[[str], Store],
        *,
        concurrency: Callable[[str], int],
        rate: RateLimit | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._opener = opener
        self._concurrency = concurrency
        self._retry = retry or RetryPolicy()
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        self._retries = 0
        self.has_tags: dict[
            str, bool
        ] = {}  # by store, once it was asked: whether it has tags at all, and lets us read them
        self.rate = rate or RateLimit(None)

    @property
    def retries(self) -> int:
        """How many requests were sent again, so far."""
        return self._retries

    def levels(self) -> dict[str, int]:
        """The concurrency that each store is allowed now."""
        return {name: line.limit.level for name, line in list(self._lines.items())}

    def store(self, name: str) -> Store:
        return self._line(name).store

    def call(self, name: str, request: Callable[[Store], T]) -> T:
        """Send `request` to the store `name`; its answer.

        Raises PermanentStoreError at once, TransientStoreError when it stays that way though the store is up,
        UnreachableError when the store itself cannot be used, and RefusedError where it says that it is elsewhere.
        """
        line = self._line(name)
        try:
            return self._tried(line, request, self._retry)
        except ThrottledError as error:
            raise UnreachableError(
                f"{error}: the store keeps asking for less, even of one request at a time",
                remedy=f"Lower `concurrency` of {name}, or run again later.",
            ) from error
        except (DeniedError, TransientStoreError) as error:
            self._blame(line, error)
            raise
        except PermanentStoreError:
            raise
        except ElsewhereError as error:
            raise RefusedError(str(error), remedy=error.remedy) from error
        except StoreError as error:
            raise UnreachableError(str(error), remedy=error.remedy or f"Ask `migrate doctor` about {name}.") from error

    def _tried(self, line: _Line, request: Callable[[Store], T], policy: RetryPolicy) -> T:
        begun = time.monotonic()
        try:  # mostly that is all, and what tries again costs as much as a small request
            return self._once(line, request)
        except StoreError as error:
            failed: StoreError | None = error
        attempts = stamina.retry_context(
            on=_Patience(policy.attempts, changes_once=policy.changes_once),
            attempts=None,
            timeout=max(_MOMENT_SECONDS, policy.timeout_seconds - (time.monotonic() - begun)),
            wait_initial=policy.wait_seconds,
            wait_max=policy.wait_max_seconds,
        )
        for attempt in attempts:
            with attempt:
                if failed is not None:  # the first attempt, which was made above
                    try:
                        raise failed
                    finally:
                        failed = None
                self._retries += 1
                return self._once(line, request)
        raise AssertionError("stamina ends with a result or an error")

    @staticmethod
    def _once(line: _Line, request: Callable[[Store], T]) -> T:
        with line.limit:
            try:
                answer = request(line.store)
            except ThrottledError:
                line.limit.throttled()
                raise
        line.limit.succeeded()
        return answer

    def _blame(self, line: _Line, error: StoreError) -> None:
        """Return if the store is up; UnreachableError if it is not."""
        policy = replace(
            self._retry,
            attempts=min(self._retry.attempts, _PROBE_ATTEMPTS),
            timeout_seconds=min(self._retry.timeout_seconds, _PROBE_TIMEOUT_SECONDS),
        )

        def answers(store: Store) -> None:
            with suppress(NotFoundError):
                store.head(_PROBE_KEY)

        try:
            self._tried(line, answers, policy)
        except StoreError:
            remedy = error.remedy or f"Ask `migrate doctor` about {line.store.name}, then run again."
            raise UnreachableError(str(error), remedy=remedy) from error

    def _line(self, name: str) -> _Line:
        line = self._lines.get(name)
        if line is None:
            with self._lock:
                line = self._lines.get(name)
                if line is None:
                    line = _Line(self._opener(name), AdaptiveLimit(self._concurrency(name)))
                    self._lines[name] = line
        return line


class _Patience:
    """Whether one request is tried once more; a number is the wait that the store asked for, bounded."""

    def __init__(self, attempts: int, *, changes_once: bool) -> None:
        self._attempts = attempts
        self._changes_once = changes_once
        self._failures = 0
        self._absent: set[str] = set()  # the operations that were answered so

    def __call__(self, error: Exception) -> bool | float:
        if isinstance(error, ThrottledError):
            return True if error.wait_seconds is None else min(error.wait_seconds, 30.0)
        if isinstance(error, NotFoundError):
            said_before = error.operation in self._absent
            self._absent.add(error.operation)
            return not said_before
        self._failures += 1
        if not isinstance(error, TransientStoreError | StrangeAnswerError) or self._failures >= self._attempts:
            return False
        is_refused = isinstance(error, TransientStoreError) and error.is_refused
        return is_refused or not (self._changes_once and _changes_a_key(error.operation))


def _changes_a_key(operation: str) -> bool:
    """Whether a request, by its name in errors, changes what a key shows; parts of an upload do not."""
    return operation.lower().replace("_", " ") in ("put", "put tags", "complete upload", "delete")
