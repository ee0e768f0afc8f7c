"""Requests to stores: what is tried again, what lowers the concurrency, and when a store counts as down."""

from __future__ import annotations

import pytest
from moving import QUICK

from migrate.errors import NotFoundError, StoreError, ThrottledError, TransientStoreError, UnreachableError
from migrate.stores.memory import MemoryPlace, MemoryStore
from migrate.transfer.caller import Caller


def make(place: MemoryPlace, most: int = 16) -> Caller:
    return Caller(lambda name: MemoryStore(name, place), concurrency=lambda name: most, retry=QUICK)


def test_slow_down_lowers_the_concurrency_and_success_raises_it_again() -> None:
    """A 503 halves what the store is given at once; a full round of successes gives one back."""
    place = MemoryPlace()
    place.seed("k", b"x")
    caller = make(place)
    asked = iter([ThrottledError("us", "head", wait_seconds=0.0)])

    def slow_down(operation: str, key: str) -> None:
        if (error := next(asked, None)) is not None:
            raise error

    place.fault = slow_down
    caller.call("us", lambda store: store.head("k"))
    assert caller.levels() == {"us": 8}
    for _ in range(8):
        caller.call("us", lambda store: store.head("k"))
    assert caller.levels()["us"] == 9


def test_a_permanent_error_is_not_tried_again() -> None:
    """One request, one answer."""
    place = MemoryPlace()
    asked: list[str] = []
    place.fault = lambda operation, key: asked.append(operation)
    with pytest.raises(NotFoundError):
        make(place).call("us", lambda store: store.head("none"))
    assert asked == ["head"]


def test_tries_are_bounded() -> None:
    """Four attempts and no more, then the object is at fault, since the store answers (Invariant 11)."""
    place = MemoryPlace()
    asked: list[str] = []

    def fail(operation: str, key: str) -> None:
        asked.append(key)
        if key == "bad":
            raise TransientStoreError("us", operation)

    place.fault = fail
    with pytest.raises(TransientStoreError):
        make(place).call("us", lambda store: store.head("bad"))
    assert asked.count("bad") == QUICK.attempts


def test_a_store_error_that_is_neither_ends_the_run() -> None:
    """A bucket that is not there is nobody's object: UnreachableError, with the store's name and what to do."""
    place = MemoryPlace()

    def fail(operation: str, key: str) -> None:
        raise StoreError("us", operation, "no such bucket")

    place.fault = fail
    with pytest.raises(UnreachableError, match="us: head: no such bucket") as caught:
        make(place).call("us", lambda store: store.head("k"))
    assert "doctor" in caught.value.remedy


def test_a_store_is_opened_once() -> None:
    """Every request of a worker goes through the one opening."""
    place = MemoryPlace()
    place.seed("k", b"x")
    opened: list[str] = []

    def opener(name: str) -> MemoryStore:
        opened.append(name)
        return MemoryStore(name, place)

    caller = Caller(opener, concurrency=lambda name: 4, retry=QUICK)
    for _ in range(3):
        caller.call("us", lambda store: store.head("k"))
    assert opened == ["us"]
