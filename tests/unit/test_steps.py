"""Ways side by side: in order of their ends, and what a stop leaves of those that wait for something."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from migrate.errors import InterruptedRun, LaterError
from migrate.jobs.freezes import end_freeze
from migrate.jobs.steps import Way, side_by_side
from migrate.routing import Route, Router
from migrate.worker.loop import Stop

GRACE = 0.3


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.jobs.steps.GRACE_SECONDS", GRACE)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a request waits for whose answer does not come."""
    event = threading.Event()
    yield event
    event.set()  # so that its thread ends with the test


def ended(ways: Iterator[Way[str]], stop: Stop) -> list[str]:
    return list(side_by_side(ways, at_once=2, threads=2, is_over=stop.is_set, stop=stop, on_look=lambda: None))


def test_a_way_gets_the_results_of_its_jobs_in_their_order_and_an_error_of_one() -> None:
    def way() -> Way[str]:
        found = yield [lambda: "a", lambda: "b"]
        try:
            yield [lambda: "c", lambda: 1 / 0]
        except ZeroDivisionError:
            found.append("caught")
        return " ".join(found)

    assert ended(iter([way(), way(), way()]), Stop()) == ["a b caught"] * 3


def test_after_a_stop_a_request_without_an_answer_is_waited_for_no_longer(never: threading.Event) -> None:
    """Its way hears of it, and may still end in order; who had not begun is not begun."""
    stop = Stop()

    def way() -> Way[str]:
        try:
            yield [never.wait]
        except InterruptedRun:
            yield [lambda: None]  # as the end of a freeze
            return "in order"
        return "answered"

    def ways() -> Iterator[Way[str]]:
        yield way()
        stop.set()
        raise AssertionError("nobody begins after a stop")

    def first() -> Iterator[Way[str]]:
        yield way()
        stop.set()
        yield way()

    begun = time.monotonic()
    assert ended(first(), stop) == ["in order"] * 2  # both were asked for before anybody looked
    assert GRACE <= time.monotonic() - begun < 10 * GRACE
    assert ended(ways(), stop) == []


def test_who_cannot_end_in_order_either_is_left_for_the_next_command(never: threading.Event) -> None:
    stop = Stop()

    def way() -> Way[str]:
        try:
            yield [never.wait]
        except InterruptedRun:
            yield [never.wait]
        return "answered"

    def ways() -> Iterator[Way[str]]:
        yield way()
        stop.set()

    begun = time.monotonic()
    assert ended(ways(), stop) == []
    assert time.monotonic() - begun < 10 * GRACE


def test_a_freeze_that_is_being_ended_when_the_grace_is_over_is_ended_all_the_same(never: threading.Event) -> None:
    """The first answer does not come; the platform is asked again, in what time is left."""
    stop, asked = Stop(), []

    class Platform:
        def unfreeze(self, user: str, token: str) -> None:
            asked.append((user, token))
            if len(asked) == 1:
                never.wait()

        def read(self, user: str) -> Route:
            return Route("us")

    def way() -> Way[str]:
        route: Route = yield from end_freeze(cast("Router", Platform()), "anna", "token", 20)
        return route.home

    def ways() -> Iterator[Way[str]]:
        yield way()
        stop.set()

    assert ended(ways(), stop) == ["us"]
    assert asked == [("anna", "token")] * 2


def test_a_way_that_cannot_go_on_after_a_stop_hides_nobody_elses_end(never: threading.Event) -> None:
    stop = Stop()

    def stuck() -> Way[str]:
        yield [never.wait]
        return "answered"

    def way() -> Way[str]:
        try:
            yield [never.wait]
        except InterruptedRun:
            return "in order"
        return "answered"

    def ways() -> Iterator[Way[str]]:
        yield stuck()
        stop.set()  # before anybody looks
        yield way()

    assert ended(ways(), stop) == ["in order"]


def test_what_a_way_raises_comes_after_the_ends_of_the_others() -> None:
    def broken() -> Way[str]:
        yield [lambda: None]
        raise LaterError("broken")

    def way() -> Way[str]:
        yield [lambda: time.sleep(0.05)]
        return "whole"

    found: list[str] = []
    ways = side_by_side(
        iter([way(), broken(), way()]),
        at_once=2,
        threads=2,
        is_over=lambda: False,
        stop=Stop(),
        on_look=lambda: None,
    )
    with pytest.raises(LaterError, match="broken"):
        found.extend(ways)
    assert found == ["whole"]
