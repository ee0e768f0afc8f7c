"""Holds, and the history of users: what stops a cutover and a purge, and what is written down of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
from ledgers import NOW, World
from pg import PostgresServer
from sqlalchemy import text

from migrate.errors import ExitCode, OnHoldError
from migrate.ledger import EventKind, Hold, Ledger
from migrate.states import UserState

LATER = NOW + timedelta(hours=1)


def test_a_hold_is_set_and_released_once(world: World) -> None:
    """Again with the same reason changes nothing; so does a release of what is not held. Each change is a line of history."""
    ledger, of_run = world.ledger, {"run_id": world.run_id}
    assert ledger.hold("anna", "a claim", operator="op", now=NOW, **of_run)
    assert not ledger.hold("anna", "a claim", operator="other", now=LATER, **of_run)
    assert ledger.holds() == [Hold("anna", NOW, "a claim", "op")] == [ledger.hold_of("anna")]
    assert ledger.hold("anna", "another claim", operator="other", now=LATER, **of_run)
    assert ledger.hold_of("anna") == Hold("anna", NOW, "another claim", "other")  # held since the first
    assert ledger.release("anna", "settled", now=LATER, **of_run)
    assert not ledger.release("anna", "settled", now=LATER, **of_run)
    assert (ledger.holds(), ledger.hold_of("anna")) == ([], None)
    told = [(event.kind, event.note, event.at, event.run_id, event.plan_id) for event in ledger.history("anna")]
    assert told == [
        (EventKind.HOLD, "a claim", NOW, world.run_id, world.plan_id),
        (EventKind.HOLD, "another claim", LATER, world.run_id, world.plan_id),
        (EventKind.RELEASE, "settled", LATER, world.run_id, world.plan_id),
    ]
    assert ledger.history("bjorn") == []


def test_a_hold_may_come_before_a_plan(world: World) -> None:
    """Of a user whom no plan has: it counts in no plan, and is known all the same."""
    world.hold("stranger")
    world.hold("anna")
    assert [hold.user_id for hold in world.ledger.holds()] == ["anna", "stranger"]
    assert world.ledger.holds_in(world.plan_id) == 1
    assert [event.plan_id for event in world.ledger.history("stranger")] == [None]
    asked = ["anna", "bjorn", "stranger", *(f"u{number}" for number in range(12_000))]
    assert world.ledger.held(asked) == {"anna", "stranger"}


def test_a_hold_stops_neither_copying_nor_verification(world: World) -> None:
    """They take nothing away: the user is verified, and stays in the counts (invariant 3)."""
    world.hold("anna")
    world.verify_all()
    assert world.state("anna") == UserState.VERIFIED
    world.demand_sums()


def test_a_hold_stops_the_cutover_and_the_purge(world: World) -> None:
    """With 75; nothing is changed, and nothing told. Once it is released both go on."""
    world.verify_all()
    world.cut_over("bjorn")
    world.ledger.observe("bjorn", world.run_id, until=LATER, now=NOW)
    before = world.ledger.history("bjorn"), world.ledger.move_of("bjorn")
    for user in ("anna", "bjorn"):
        world.hold(user)
    with pytest.raises(OnHoldError, match="on hold") as refused:
        world.freeze("anna")
    assert refused.value.exit_code == ExitCode.LATER
    assert "anna" not in str(refused.value) + refused.value.remedy
    with pytest.raises(OnHoldError):
        world.ledger.begin_purge("bjorn", world.run_id, LATER)
    assert (world.state("anna"), world.state("bjorn")) == (UserState.VERIFIED, UserState.OBSERVING)
    assert world.ledger.move_of("anna") is None
    assert (world.ledger.history("bjorn")[:-1], world.ledger.move_of("bjorn")) == before
    world.demand_sums()
    for user in ("anna", "bjorn"):
        world.ledger.release(user, "settled", run_id=world.run_id, now=NOW)
    world.freeze("anna")
    world.ledger.begin_purge("bjorn", world.run_id, LATER)
    world.hold("bjorn")  # also one that comes once the purge has begun
    with pytest.raises(OnHoldError):
        world.ledger.purged("bjorn", world.run_id, LATER)
    assert world.state("bjorn") == UserState.PURGING
    world.ledger.release("bjorn", "settled", run_id=world.run_id, now=NOW)
    world.ledger.purged("bjorn", world.run_id, LATER)


def test_what_is_done_is_written_down_of_a_user_on_hold_too(world: World) -> None:
    """A flip that the platform has made stands, and the way back is open: neither takes anything away."""
    world.verify_all()
    token = world.freeze("anna")
    world.hold("anna")
    world.ledger.flipped("anna", token, world.run_id, at=NOW, frozen_ms=1)
    world.ledger.observe("anna", world.run_id, until=LATER, now=NOW)
    world.ledger.rolled_back("anna", world.ledger.begin_return("anna", world.run_id, NOW), world.run_id, NOW)
    assert world.state("anna") == UserState.ROLLED_BACK


def test_a_hold_that_comes_between_the_gate_and_the_freeze_wins(world: World, ledger_url: str) -> None:
    """Nobody was on hold when the cutover looked; the freeze's own transaction looks again."""
    world.verify_all()
    other = Ledger.open(ledger_url)
    assert world.ledger.held(["anna"]) == set()
    assert world.hold("anna", other)
    with pytest.raises(OnHoldError):
        world.freeze("anna")
    other.close()


@pytest.fixture
def at_once(postgres_server: PostgresServer) -> Iterator[World]:
    """A world on PostgreSQL, where writers do not queue for the whole database."""
    with postgres_server.database() as url:
        world = World.make(Ledger.open(url))
        world.verify_all()
        yield world
        world.ledger.close()


def waiting(world: World, number: int = 1) -> None:
    """Until so many sessions wait for a lock that another transaction has."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with world.ledger._database.read() as connection:
            if connection.execute(query).scalar() == number:
                return
        threading.Event().wait(0.01)
    raise AssertionError("nobody waits")


def beside(call: Callable[[], object]) -> Future[object]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def test_a_freeze_waits_for_a_hold_that_is_being_set_and_sees_it(at_once: World) -> None:
    """The hold's transaction is open while the freeze begins: it commits first, and the freeze is refused."""
    with at_once.ledger._database.write() as connection:
        connection.execute(text("SELECT 1 FROM users WHERE user_id = 'anna' FOR NO KEY UPDATE"))
        connection.execute(text("INSERT INTO holds VALUES ('anna', 1, 'a claim', 'op')"))
        freeze = beside(lambda: at_once.freeze("anna"))
        waiting(at_once)
    with pytest.raises(OnHoldError):
        freeze.result(timeout=60)
    assert at_once.state("anna") == UserState.VERIFIED


def test_a_hold_waits_for_a_freeze_that_has_begun(at_once: World) -> None:
    """So whoever has set a hold knows: what was under way has ended, and nothing begins any more."""
    with at_once.ledger._database.write() as connection:
        connection.execute(text("UPDATE users SET state = 'frozen' WHERE user_id = 'anna'"))
        hold = beside(lambda: at_once.hold("anna"))
        waiting(at_once)
        assert not hold.done()
    assert hold.result(timeout=60) is True
