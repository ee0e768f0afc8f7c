"""Requests to stores: what is tried again, what lowers the concurrency, and when a store counts as down."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
from moving import QUICK
from structlog.testing import capture_logs

from migrate.errors import (
    CorruptBodyError,
    ExpiredError,
    NotFoundError,
    PermanentStoreError,
    StoreError,
    StrangeAnswerError,
    ThrottledError,
    TransientStoreError,
    UnreachableError,
)
from migrate.stores.memory import MemoryPlace, MemoryStore
from migrate.transfer.caller import Caller


def make(place: MemoryPlace, most: int = 16) -> Caller:
    return Caller(lambda name: MemoryStore(name, place), concurrency=lambda name: most, retry=QUICK)


def test_slow_down_lowers_the_concurrency_and_success_raises_it_again() -> None:
    """A 503 leaves half of what was under way, and one request at least; each full round of successes gives one back."""
    place = MemoryPlace()
    place.seed("k", b"x")
    caller = make(place)
    asked = iter([ThrottledError("us", "head", wait_seconds=0.0)])

    def slow_down(operation: str, key: str) -> None:
        if (error := next(asked, None)) is not None:
            raise error

    place.fault = slow_down
    levels = []
    for _ in range(6):
        caller.call("us", lambda store: store.head("k"))
        levels.append(caller.levels()["us"])
    assert levels == [2, 2, 3, 3, 3, 4], "it was alone under way, so the second attempt was the only one"


def test_a_permanent_error_is_not_tried_again() -> None:
    """One request, one answer."""
    place = MemoryPlace()
    asked: list[str] = []

    def refuse(operation: str, key: str) -> None:
        asked.append(operation)
        raise PermanentStoreError("us", operation)

    place.fault = refuse
    with pytest.raises(PermanentStoreError):
        make(place).call("us", lambda store: store.head("none"))
    assert asked == ["head"]


def test_an_absence_is_believed_when_the_store_says_so_twice() -> None:
    """What follows is final: a drift, a MISSING, a quarantine (Invariant 4)."""
    place = MemoryPlace()
    asked: list[str] = []
    place.fault = lambda operation, key: asked.append(operation)
    with pytest.raises(NotFoundError):
        make(place).call("us", lambda store: store.head("none"))
    assert asked == ["head", "head"]


def test_an_absence_that_is_wrong_once_is_no_absence() -> None:
    """The twin: the second answer counts, for each operation of a request."""
    place = MemoryPlace()
    place.seed("k", b"x", tags={"a": "b"})
    wrong = {"head", "get_tags"}

    def deny_once(operation: str, key: str) -> None:
        if operation in wrong:
            wrong.remove(operation)
            raise NotFoundError("us", operation)

    place.fault = deny_once
    found = make(place).call("us", lambda store: (store.head("k").key, dict(store.get_tags("k"))))
    assert found == ("k", {"a": "b"})


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


CHANGES = ("put", "put_tags", "complete_upload", "delete")


@pytest.mark.parametrize("operation", ["head", "put_part", *CHANGES])
@pytest.mark.parametrize("error", [TransientStoreError, ThrottledError, ExpiredError, CorruptBodyError])
def test_what_changes_a_key_is_sent_once_where_that_is_asked_for(
    operation: str, error: type[TransientStoreError]
) -> None:
    """Unless the store has refused it, or was not reached: nothing of that can land later (Invariant 2)."""
    once = replace(QUICK, changes_once=True)
    for policy, refused in product((QUICK, once), (False, True)):
        tries: list[str] = []

        def fail(_: MemoryStore, tries: list[str] = tries, refused: bool = refused) -> None:
            tries.append("")
            failed = error("us", operation) if error is ThrottledError else error("us", operation, refused=refused)
            raise failed if len(tries) < 3 else NotFoundError("us", "end")

        caller = Caller(partial(MemoryStore, place=MemoryPlace()), concurrency=lambda _: 4, retry=policy)
        is_refused = refused or error in (ThrottledError, ExpiredError)
        with pytest.raises((error, NotFoundError)):
            caller.call("us", fail)
        is_sent_once = policy is once and operation in CHANGES and not is_refused
        assert (len(tries) == 1) is is_sent_once


def test_a_store_error_that_is_neither_ends_the_run() -> None:
    """A bucket that is not there is nobody's object: UnreachableError, with the store's name and what to do."""
    place = MemoryPlace()

    def fail(operation: str, key: str) -> None:
        raise StoreError("us", operation, "no such bucket")

    place.fault = fail
    with pytest.raises(UnreachableError, match="us: head: no such bucket") as caught:
        make(place).call("us", lambda store: store.head("k"))
    assert "doctor" in caught.value.remedy


def test_an_answer_that_no_store_gives_is_asked_for_again() -> None:
    """A proxy's page in the place of an answer is nobody's fault; when it stays, the run ends and no object is at fault."""
    place = MemoryPlace()
    place.seed("k", b"x")
    left = 1

    def fail(operation: str, key: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise StrangeAnswerError("us", operation, "404", remedy="Correct the endpoint.")

    place.fault = fail
    assert make(place).call("us", lambda store: store.head("k")).key == "k"
    left = 1_000
    with pytest.raises(UnreachableError) as caught:
        make(place).call("us", lambda store: store.head("k"))
    assert caught.value.remedy == "Correct the endpoint."
    assert left == 1_000 - QUICK.attempts


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


def test_what_succeeded_before_an_outage_does_not_make_an_object_guilty() -> None:
    """Another request was answered during the first try, then the store went down: the run stops, nothing is quarantined."""
    place = MemoryPlace()
    place.seed("good", b"x")
    caller = make(place)
    down = False

    def fail(operation: str, key: str) -> None:
        nonlocal down
        if key == "good" and not down:
            return
        if not down:
            caller.call("us", lambda store: store.head("good"))
            down = True
        raise TransientStoreError("us", operation)

    place.fault = fail
    with pytest.raises(UnreachableError):
        caller.call("us", lambda store: store.head("k"))


def test_one_bad_answer_to_the_harmless_question_is_not_an_outage() -> None:
    """The question whether the store is up is asked again too, a few times."""
    place = MemoryPlace()
    hiccup = iter([True])

    def fail(operation: str, key: str) -> None:
        if key == "bad" or next(hiccup, False):
            raise TransientStoreError("us", operation)

    place.fault = fail
    with pytest.raises(TransientStoreError):
        make(place).call("us", lambda store: store.head("bad"))


def test_a_store_that_asks_for_less_is_given_time_and_not_a_number_of_tries() -> None:
    """More refusals than there are attempts, and then an answer."""
    place = MemoryPlace()
    place.seed("k", b"x")
    refusals = iter(range(QUICK.attempts * 3))

    def slow_down(operation: str, key: str) -> None:
        if next(refusals, None) is not None:
            raise ThrottledError("us", operation)

    place.fault = slow_down
    assert make(place).call("us", lambda store: store.head("k")).key == "k"


def test_a_store_that_keeps_asking_for_less_ends_the_run_and_blames_no_object() -> None:
    """Refusals that outlast the time limit are UnreachableError, though the store answers other questions (Invariant 11)."""
    place = MemoryPlace()

    def slow_down(operation: str, key: str) -> None:
        if key == "k":
            raise ThrottledError("us", operation)

    place.fault = slow_down
    short = replace(QUICK, timeout_seconds=0.05)
    caller = Caller(lambda name: MemoryStore(name, place), concurrency=lambda name: 4, retry=short)
    with pytest.raises(UnreachableError, match="keeps asking for less"):
        caller.call("us", lambda store: store.head("k"))


def test_a_retry_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Retries are counted; a line of log each would drown the others."""
    place = MemoryPlace()
    place.seed("k", b"x")
    failures = iter([True])

    def fail(operation: str, key: str) -> None:
        if next(failures, False):
            raise TransientStoreError("us", operation)

    place.fault = fail
    caller = make(place)
    with capture_logs() as logged, caplog.at_level(logging.DEBUG):
        caller.call("us", lambda store: store.head("k"))
    assert caller.retries == 1
    assert not logged
    assert not caplog.records
