"""What the ledger says of users one by one, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

from ledgers import NOW, World

from migrate.ledger import EXTRA, NewFinding, UserRow
from migrate.model import CheckResult, Verdict
from migrate.states import UserState


def user(world: World, user_id: str) -> UserRow:
    row = world.ledger.user(user_id)
    assert row is not None
    return row


def test_every_user_is_told_once_however_they_are_paged(world: World) -> None:
    """A page goes on after the last id, in the database's own order, and of some states where that is asked for."""
    everybody = {"anna", "bjorn", "carla", "dag", "empty", "held"}
    found: list[str] = []
    after: str | None = None
    while page := world.ledger.placed_users(after, 2):
        found += [placed.user_id for placed in page]
        after = page[-1].user_id
    assert len(found) == len(everybody)
    assert set(found) == everybody
    [held] = world.ledger.placed_users(None, 10, states=[UserState.HELD])
    assert (held.user_id, held.home, held.backup, held.state) == ("held", "hamar", "dublin", UserState.HELD)


def test_whose_sources_are_to_be_empty_is_told_of_the_forgotten_too(world: World) -> None:
    """Of those who were forgotten at the new home; not of whom was never there, or is back."""
    world.verify_all()
    ledger, run_id = world.ledger, world.run_id
    for user in ("anna", "carla", "dag"):
        world.cut_over(user)
        ledger.observe(user, run_id, until=NOW, now=NOW)
    for user in ("anna", "bjorn"):
        ledger.forgotten(user, run_id, NOW)
    ledger.rolled_back("carla", ledger.begin_return("carla", run_id, NOW), run_id, NOW)

    def told() -> dict[str, UserState]:
        first = ledger.moved_users(None, 1)
        return {user.user_id: user.state for user in (*first, *ledger.moved_users(first[-1].user_id, 10))}

    assert told() == {"anna": UserState.FORGOTTEN, "dag": UserState.OBSERVING}
    ledger.purged_of_forgotten("anna", run_id, NOW)
    ledger.begin_purge("dag", run_id, NOW)
    ledger.purged("dag", run_id, NOW)
    assert told() == {"anna": UserState.PURGED, "dag": UserState.PURGED}


def test_what_is_wrong_of_a_neighbour_is_not_a_users(world: World) -> None:
    """anna and bjorn share batch 0: by the ordinals of each, a quarantined copy, a MISMATCH and an EXTRA object are one's own."""
    world.copy_batch(1)
    for _ in range(3):
        world.copy_batch()
    found = world.start_pass()
    lease = world.lease_check(found)
    assert lease is not None
    extra = NewFinding(EXTRA, "hamar", "users/bjorn/x", "bjorn", 1, lease.number)
    verdicts = {0: Verdict.UNKNOWN, 2: Verdict.MATCH, 3: Verdict.MISMATCH}
    results = [CheckResult(ordinal, verdict) for ordinal, verdict in verdicts.items()]
    world.ledger.record_verdicts(lease, results, world.run_id, NOW)
    world.finish_check(lease, results, extra)
    anna, bjorn = user(world, "anna"), user(world, "bjorn")
    assert world.ledger.known_of(anna, {0, 1, 2}) == {"quarantined": 1, "UNKNOWN": 1}
    assert world.ledger.known_of(bjorn, {3}) == {"MISMATCH": 1, "EXTRA": 1}
    assert world.ledger.known_of(user(world, "carla"), None) == {}  # in batches 1 and 2, alone
    assert world.ledger.known_of(user(world, "empty"), None) == {}


def test_the_history_of_a_user_has_what_touched_their_batches_alone(world: World) -> None:
    """The plan, the runs that made receipts, sealed or open, and the verifications that looked: of no other user's batches."""
    assert [event.what for event in world.ledger.history_of(user(world, "dag"))] == ["registered"]
    world.copy_batch()
    assert [event.what for event in world.ledger.history_of(user(world, "anna"))] == ["registered", "copied"]
    assert [event.what for event in world.ledger.history_of(user(world, "dag"))] == ["registered"]
    found = world.start_pass(now=NOW + timedelta(hours=1))
    lease = world.lease_check(found)
    assert lease is not None
    world.check(lease)
    history = world.ledger.history_of(user(world, "anna"))
    assert [(event.what, event.run_id) for event in history] == [
        ("registered", world.run_id),
        ("copied", world.run_id),
        ("checked", world.run_id),
    ]
    assert [event.what for event in world.ledger.history_of(user(world, "empty"))] == ["registered"]
