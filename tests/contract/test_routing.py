"""The contract of routing (migrate/routing/base.py), for every adapter; and platforms that it must not let through."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import routeworlds
from routeworlds import DRAIN_SECONDS, TTL_MAX_SECONDS, TTL_SECONDS, World, make_world, refused

from migrate.errors import IntegrityError, LaterError, UsageError
from migrate.routing import Route

WORLDS = ("embedded sqlite", "embedded postgresql", "sql sqlite", "sql postgresql", "http", "command")
HOSTILE = (
    "'; DROP TABLE routes; --",
    "../x",
    "two\nlines",
    "🦄 é",
    "A",
    "a",
    " a",
    "a ",
    "%s",
    "$(id)",
    "-n",
    '"',
    "\\",
)


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A router of each kind, and its platform."""
    with ExitStack() as stack:
        yield make_world(request.param, request, tmp_path, stack)


# Each check takes a world with new users, and is a test of every adapter.


def check_a_user_goes_over(world: World) -> None:
    """Freeze, flip, unfreeze, each of them twice, and read in between."""
    router = world.router
    assert router.read("anna") == Route("us")
    router.freeze("anna", "t1", TTL_SECONDS)
    router.freeze("anna", "t1", TTL_SECONDS)
    frozen = router.read("anna")
    assert (frozen.home, frozen.frozen_by) == ("us", "t1")
    assert isinstance(frozen.frozen_until, datetime)
    assert frozen.frozen_until.utcoffset() == timedelta(0)
    router.flip("anna", "t1", "hamar")
    router.flip("anna", "t1", "hamar")
    assert router.read("anna") == Route("hamar", "t1", frozen.frozen_until)
    router.unfreeze("anna", "t1")
    router.unfreeze("anna", "t1")
    assert router.read("anna") == Route("hamar")
    router.flip("anna", "t1", "hamar")  # its answer was lost, and the job asks again
    assert refused(router.flip, "anna", "t1", "dublin-1")
    assert router.read("anna") == Route("hamar")
    router.freeze("anna", "t2", TTL_SECONDS)  # and back
    router.flip("anna", "t2", "us")
    assert router.read("anna").home == "us"


def check_another_token_is_kept_off(world: World) -> None:
    """While a freeze holds, no other token freezes, flips or unfreezes."""
    router = world.router
    router.freeze("anna", "t1", TTL_SECONDS)
    before = router.read("anna")
    assert refused(router.freeze, "anna", "t2", TTL_SECONDS)
    assert refused(router.flip, "anna", "t2", "hamar")
    router.unfreeze("anna", "t2")
    assert router.read("anna") == before
    router.flip("anna", "t1", "hamar")


def check_a_freeze_ends_by_itself(world: World) -> None:
    """After its time, and not before; the second call of one token gives it no more."""
    router = world.router
    router.freeze("anna", "t1", TTL_SECONDS)
    world.pass_time(TTL_SECONDS - 5)
    router.freeze("anna", "t1", TTL_SECONDS)
    assert router.read("anna").frozen_by == "t1"
    world.pass_time(6)
    assert router.read("anna") == Route("us")
    assert world.begin_write("anna") == "us"
    router.freeze("anna", "t2", TTL_SECONDS)


def check_a_flip_after_the_freeze_changes_nothing(world: World) -> None:
    """Never frozen, expired, unfrozen, or taken over by another: refused."""
    router = world.router
    assert refused(router.flip, "anna", "t1", "hamar")
    router.freeze("anna", "t1", TTL_SECONDS)
    world.pass_time(TTL_SECONDS + 1)
    assert refused(router.flip, "anna", "t1", "hamar")
    router.freeze("anna", "t2", TTL_SECONDS)
    assert refused(router.flip, "anna", "t1", "hamar")
    router.unfreeze("anna", "t2")
    assert refused(router.flip, "anna", "t2", "hamar")
    assert router.read("anna") == Route("us")


def check_a_token_freezes_once(world: World) -> None:
    """A request that comes late brings back no freeze after which writers have written."""
    router = world.router
    router.freeze("anna", "t1", TTL_SECONDS)
    world.pass_time(TTL_SECONDS + 1)
    assert refused(router.freeze, "anna", "t1", TTL_SECONDS)
    assert router.read("anna") == Route("us")
    assert refused(router.flip, "anna", "t1", "hamar")
    router.freeze("anna", "t2", TTL_SECONDS)
    router.unfreeze("anna", "t2")
    assert refused(router.freeze, "anna", "t2", TTL_SECONDS)
    assert world.begin_write("anna") == "us"


def check_a_freeze_waits_for_writers(world: World) -> None:
    """For those that began earlier, as long as they take; meanwhile nobody begins."""
    assert world.begin_write("anna") == "us"
    assert world.begin_write("anna") == "us"
    world.leave_after(3)
    world.router.freeze("anna", "t1", TTL_SECONDS)
    assert 0 < world.waited() < DRAIN_SECONDS / 2
    assert world.begin_write("anna") is None
    world.router.flip("anna", "t1", "hamar")
    world.router.unfreeze("anna", "t1")
    assert world.begin_write("anna") == "hamar"


def check_a_writer_that_never_ends_is_waited_for_so_long(world: World) -> None:
    """`drain_seconds`, and the freeze stands."""
    assert world.begin_write("anna") == "us"
    world.router.freeze("anna", "t1", TTL_SECONDS)
    assert DRAIN_SECONDS <= world.waited() < DRAIN_SECONDS + 1
    world.router.flip("anna", "t1", "hamar")


def check_ids_are_taken_to_the_byte(world: World) -> None:
    """Whatever an id is, it is its own user's and no other's."""
    router = world.router
    for number, user in enumerate(HOSTILE):
        router.freeze(user, f"t{number}", TTL_SECONDS)
        if number % 2:
            router.flip(user, f"t{number}", "hamar")
    found = [router.read(user) for user in HOSTILE]
    assert [route.frozen_by for route in found] == [f"t{number}" for number in range(len(HOSTILE))]
    assert [route.home for route in found] == ["hamar" if number % 2 else "us" for number in range(len(HOSTILE))]
    for user in ("anna", "bjorn"):  # not even where one token was given to two
        router.freeze(user, "t", TTL_SECONDS)
    router.flip("anna", "t", "hamar")
    router.unfreeze("anna", "t")
    assert (router.read("anna"), router.read("bjorn").home) == (Route("hamar"), "us")
    assert router.read("bjorn").frozen_by == "t"


def check_of_many_freezers_one_wins(world: World) -> None:
    """At once, and of a user who has no row yet."""
    many, won = 4, []
    together = threading.Barrier(many)

    def try_it(token: str) -> None:
        together.wait()
        if not refused(world.router.freeze, "anna", token, TTL_SECONDS):
            won.append(token)

    threads = [threading.Thread(target=try_it, args=(f"t{number}",)) for number in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [world.router.read("anna").frozen_by]


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_every_adapter_keeps_the_contract(check: Callable[[World], None], world: World) -> None:
    """The checks above, each on every kind of router."""
    check(world)


TWINS: dict[str, Callable[[World], None]] = {
    "flips nothing": check_a_user_goes_over,
    "stays frozen": check_a_user_goes_over,
    "steals": check_another_token_is_kept_off,
    "any token": check_another_token_is_kept_off,
    "unfreezes anybody's": check_another_token_is_kept_off,
    "never ends": check_a_freeze_ends_by_itself,
    "renews": check_a_freeze_ends_by_itself,
    "flips without a freeze": check_a_flip_after_the_freeze_changes_nothing,
    "revives": check_a_token_freezes_once,
    "does not wait": check_a_freeze_waits_for_writers,
    "writers do not ask": check_a_freeze_waits_for_writers,
    "waits too long": check_a_writer_that_never_ends_is_waited_for_so_long,
    "folds ids": check_ids_are_taken_to_the_byte,
    "lets all in": check_of_many_freezers_one_wins,
}


@pytest.mark.parametrize("broken", TWINS)
def test_a_platform_that_breaks_the_contract_is_found(broken: str) -> None:
    """The corrupted twins: each check lets the sound platform through, and not the broken one."""
    assert set(TWINS.values()) == set(CHECKS)
    TWINS[broken](routeworlds.direct(""))
    with pytest.raises((AssertionError, LaterError, IntegrityError)):
        TWINS[broken](routeworlds.direct(broken))


def test_a_freeze_has_its_bounds(world: World) -> None:
    """Longer than the wait for writers, and not longer than the spec allows; nothing is asked otherwise."""
    for seconds in (-1, 0, DRAIN_SECONDS, TTL_MAX_SECONDS + 1):
        with pytest.raises(UsageError, match=r"routing\.drain_seconds"):
            world.router.freeze("anna", "t1", seconds)
    assert world.router.read("anna") == Route("us")
