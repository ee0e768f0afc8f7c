"""The users' counters follow their rows, whatever changes them (invariant 3)."""

from __future__ import annotations

import pytest
from ledgers import NOW, World

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
    world.check_all(found := world.start_pass())
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
    ],
)
def test_the_counters_follow_any_statement(world: World, change: str) -> None:
    """One row or many, changed or removed, also by somebody else's hand."""
    world.execute(change)
    world.demand_sums()


def test_a_counter_that_was_edited_is_seen(world: World) -> None:
    """The corrupted twin: counters and rows differ."""
    world.execute("UPDATE user_counts SET users = users + 1 WHERE state = 'held'")
    with pytest.raises(AssertionError):
        world.demand_sums()
