"""The counters of users, batches and checks follow their rows, whatever changes them (invariant 3)."""

from __future__ import annotations

import pytest
from ledgers import NOW, World, receipt
from pg import PostgresServer
from sqlalchemy import text

from migrate.errors import IntegrityError
from migrate.ledger import Ledger, counts
from migrate.model import CopyResult, Outcome
from migrate.states import UserState


def test_the_counters_follow_a_plan_from_its_registration_to_its_verification(world: World) -> None:
    """Copied, quarantined, tried again, verified: after each step they are the sums over the rows (invariant 3)."""
    world.demand_sums()
    lease = world.lease()
    world.demand_sums()
    world.give_back()
    assert lease.number == 0
    world.copy_batch(3)
    world.demand_sums()
    for _ in range(3):
        world.copy_batch()
    world.demand_sums()
    world.ledger.retry_quarantined(world.plan_id, None, world.run_id, NOW)
    world.demand_sums()
    world.copy_batch()
    found = world.start_pass()
    world.demand_sums()
    world.check_all(found)
    world.demand_sums()
    world.look_at_empty(found)
    assert world.ledger.end_pass(found.id, NOW)
    world.demand_sums()
    states = [state for wave in world.ledger.progress(world.plan_id) for state in wave.users]
    assert set(states) == {UserState.VERIFIED, UserState.HELD}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET other = 1 WHERE user_id = 'dag'",
        "UPDATE users SET state = 'review' WHERE user_id = 'held'",
        "UPDATE users SET wave = 7 WHERE user_id = 'empty'",
        "DELETE FROM users WHERE user_id IN ('empty', 'dag')",
        "UPDATE users SET state = 'forgotten'",
        "UPDATE batches SET wave = 7, size_bytes = size_bytes + 1",
        "UPDATE batches SET copied = 1 WHERE number = 0",
        "UPDATE checks SET state = 'done', matched = number, extra = 1",
        "DELETE FROM checks WHERE number > 1",
    ],
)
def test_the_counters_follow_any_statement(world: World, change: str) -> None:
    """One row or many, changed or removed, also by somebody else's hand."""
    world.start_pass()
    world.execute(change)
    world.demand_sums()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE user_counts SET users = users + 1 WHERE state = 'held'",
        "UPDATE batch_counts SET done_bytes = done_bytes + 1 WHERE wave = 1",
        "UPDATE check_counts SET checks = checks - 1",
    ],
)
def test_a_counter_that_was_edited_is_seen(world: World, change: str) -> None:
    """The corrupted twins: counters and rows differ."""
    world.start_pass()
    world.demand_sums()
    world.execute(change)
    with pytest.raises(AssertionError):
        world.demand_sums()


@pytest.mark.parametrize("column", ["batches", "objects", *(outcome for outcome in Outcome if outcome != "pending")])
def test_batches_and_their_counters_are_held_against_each_other(world: World, column: str) -> None:
    """An IntegrityError where they differ, whichever of the two was changed; the untouched twin is none (invariant 3)."""
    world.copy_batch()
    world.ledger.check_counters(world.plan_id)
    world.execute(f"UPDATE batch_counts SET {column} = {column} + 1 WHERE wave = 2")
    with pytest.raises(IntegrityError, match="counters"):
        world.ledger.check_counters(world.plan_id)


@pytest.mark.parametrize("column", ["checks", *counts.CHECKS.sums])
def test_checks_and_their_counters_are_held_against_each_other(world: World, column: str) -> None:
    """An IntegrityError where they differ; the untouched twin, and another pass, are none (invariant 3)."""
    world.copy_all()
    found, other = world.start_pass(), world.start_pass(waves=[2], sample_ppm=1000)
    lease = world.lease_check(found)
    assert lease is not None
    world.check(lease)
    world.ledger.check_pass_counters(found.id)
    world.execute(f"UPDATE check_counts SET {column} = {column} + 1 WHERE state = 'done'")
    with pytest.raises(IntegrityError, match="checks"):
        world.ledger.check_pass_counters(found.id)
    world.ledger.check_pass_counters(other.id)


def test_what_is_open_is_counted_by_plan_and_wave(world: World) -> None:
    """Pending, drifted and quarantined, but not withdrawn; a wave of which nothing is open is not named."""
    plan_id, ledger = world.plan_id, world.ledger
    assert ledger.open_copies([plan_id]) == {(plan_id, 0): 4, (plan_id, 1): 5, (plan_id, 2): 1}
    world.copy_batch(3)
    lease = world.lease()
    withdrawn = CopyResult(1, Outcome.WITHDRAWN, reason="forgotten")
    world.record(lease, [receipt(0), withdrawn, CopyResult(2, Outcome.DRIFTED, reason="changed")])
    assert ledger.open_copies([plan_id, plan_id + 1]) == {(plan_id, 0): 1, (plan_id, 1): 3, (plan_id, 2): 1}
    world.finish(lease)
    for _ in range(2):
        world.copy_batch()
    assert ledger.open_copies([plan_id]) == {(plan_id, 0): 1, (plan_id, 1): 1}
    assert ledger.open_copies([plan_id + 1]) == {}


def test_nobody_waits_at_a_counter(postgres_server: PostgresServer) -> None:
    """PostgreSQL: two transactions count batches of one wave at once, each in its lane, in any order; the sums are right."""
    with postgres_server.database() as url:
        world, other = World.make(Ledger.open(url)), Ledger.open(url)
        with world.ledger._database.write() as first, other._database.write() as second:
            second.execute(text("SET LOCAL lock_timeout = '1ms'"))
            first.execute(text("UPDATE batches SET copied = 1 WHERE number = 1"))
            second.execute(text("UPDATE batches SET copied = 2 WHERE number = 2"))
            second.execute(text("UPDATE users SET other = 1 WHERE user_id = 'dag'"))
            first.execute(text("UPDATE users SET other = 1 WHERE user_id = 'anna'"))
        world.demand_sums()
        assert sum(wave.outcomes[Outcome.COPIED] for wave in world.ledger.progress(world.plan_id)) == 3
        with world.ledger._database.read() as connection:
            assert connection.execute(text("SELECT max(lane) FROM batch_counts")).scalar() == 1
        other.close()
        world.ledger.close()
