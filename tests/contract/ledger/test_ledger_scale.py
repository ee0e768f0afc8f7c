"""What is asked again and again goes by an index, and reads no row a batch: at a million batches it takes what it takes here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ledgers import NOW, PLAN, World, start_run
from pg import PostgresServer
from sqlalchemy import event, text

from migrate.ledger import Ledger, Pass
from migrate.model import Purpose
from migrate.states import UserState


def plans_of(world: World, ask: Callable[[], object], verb: str = "SELECT") -> list[str]:
    """How the database finds what `ask` asks for. PostgreSQL has few rows here, and is kept from scans and sorts."""
    database = world.ledger._database
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith(verb) and not many:
            asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        ask()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert asked
    found = []
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            connection.execute(text("SET LOCAL enable_bitmapscan = off"))
            connection.execute(text("SET LOCAL enable_sort = off"))
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        for statement, parameters in asked:
            rows = connection.exec_driver_sql(explain + statement, parameters).all()
            found.append("\n".join(str(row[-1]) for row in rows))
    return found


def demand_index(plans: list[str], index: str) -> None:
    """The plan that leads to the next batch uses the index alone, and sorts nothing."""
    (plan,) = [plan for plan in plans if index in plan]
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan
    assert "SCAN" not in plan
    assert "Seq Scan" not in plan


@pytest.fixture
def copied(world: World) -> Pass:
    """A pass over batches of which the first is checked."""
    world.copy_all()
    found = world.start_pass()
    lease = world.lease_check(found)
    assert lease is not None
    world.check(lease)
    return found


@pytest.mark.parametrize("waves", [None, [1], [0, 1, 2]])
def test_the_next_batch_to_copy_is_found_by_an_index(world: World, waves: list[int] | None) -> None:
    """To lease it, and to see whether there is one."""
    of_scope = {"waves": waves}
    lease = plans_of(world, lambda: world.ledger.lease(world.plan_id, world.worker_id, Purpose.COPY, **of_scope))
    demand_index(lease, "ix_batches_pending")
    demand_index(
        plans_of(world, lambda: world.ledger.left(world.plan_id, Purpose.COPY, **of_scope, run_id=world.run_id)),
        "ix_batches_pending",
    )


def test_the_next_batch_to_check_is_found_by_an_index(world: World, copied: Pass) -> None:
    """To lease it, and to see whether there is one."""
    demand_index(plans_of(world, lambda: world.lease_check(copied)), "ix_checks_pending")
    left = plans_of(
        world, lambda: world.ledger.left(world.plan_id, Purpose.VERIFY, pass_id=copied.id, run_id=world.run_id)
    )
    demand_index(left, "ix_checks_pending")


@pytest.mark.parametrize("lost", ["ix_batches_pending", "ix_checks_pending"])
def test_a_way_without_its_index_is_seen(world: World, copied: Pass, lost: str) -> None:
    """The corrupted twin: the index is gone, and the same queries are found wanting."""
    world.execute(f"DROP INDEX {lost}")
    with pytest.raises((AssertionError, ValueError)):
        demand_index(plans_of(world, lambda: world.lease_check(copied)), lost)


@pytest.mark.parametrize("verb", ["SELECT", "UPDATE"])
@pytest.mark.parametrize("waves", [None, [0], [0, 1]])
def test_who_has_quarantined_copies_is_found_by_an_index(world: World, waves: list[int] | None, verb: str) -> None:
    """A retry asks for them inside its one transaction, and looks at nobody else of the plan."""
    world.copy_batch(1)

    def retry() -> None:
        assert world.ledger.retry_quarantined(world.plan_id, waves, world.run_id, NOW) == 1

    demand_index(plans_of(world, retry, verb), "ix_users_quarantined")
    assert world.state("anna") == "copying"


@pytest.mark.parametrize("states", [[UserState.FROZEN], [UserState.OBSERVING, UserState.CUT_OVER]])
def test_whose_cutover_is_under_way_is_found_by_an_index(world: World, states: list[UserState]) -> None:
    """A run that goes on looks at nobody else of the plan, and sorts nothing."""
    world.verify_all()
    world.freeze("anna")
    found = plans_of(world, lambda: list(world.ledger.moving(world.plan_id, states)))
    for plan in found:
        demand_index([plan], "ix_users_moving")


def test_waves_are_taken_in_order_and_gaps_are_left_out(world: World) -> None:
    """The lowest batch of the lowest wave that was asked for, in runs of waves and alone; none when there is none."""

    def next_of(*waves: int) -> int | None:
        lease = world.ledger.lease(world.plan_id, world.worker_id, Purpose.COPY, waves=waves)
        return None if lease is None else lease.number

    assert [next_of(2, 0), next_of(2, 0), next_of(0, 2)] == [0, 3, None]
    assert not world.ledger.left(world.plan_id, Purpose.COPY, waves=[0, 2], run_id=world.run_id).is_pending
    assert world.ledger.left(world.plan_id, Purpose.COPY, waves=[2, 1], run_id=world.run_id).is_pending
    assert [next_of(1, 2), next_of(), next_of(0, 1, 2), next_of(0, 1, 2)] == [1, None, 2, None]


def test_where_a_plan_and_a_pass_stand_is_read_from_counters(world: World, copied: Pass) -> None:
    """No batch, user or check is read, but the batches of the uploads under way."""
    for ask in (lambda: world.ledger.progress(world.plan_id), lambda: world.ledger.pass_progress(copied.id)):
        for plan in plans_of(world, ask):
            for line in plan.splitlines():
                words = line.split()
                assert "users" not in words and "checks" not in words, line  # noqa: PT018
                if "batches" in words and world.ledger._database.is_sqlite:
                    assert "number=?" in line
                elif "batches" in words:
                    assert "parts" in plan


def test_postgresql_knows_how_much_a_new_pass_has_to_check(postgres_server: PostgresServer) -> None:
    """Its planner goes by numbers that a bulk of new rows makes wrong: they are taken anew at once."""
    with postgres_server.database() as url:
        world = World.make(Ledger.open(url))
        world.start_pass()
        query = text("SELECT reltuples FROM pg_class WHERE relname = :table")
        with world.ledger._database.read() as connection:
            for table, rows in (("checks", 4), ("batches", 4), ("batch_counts", 3)):
                assert connection.execute(query, {"table": table}).scalar() == rows
        world.ledger.close()


def test_a_chain_of_seals_is_walked_by_pages(world: World, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory is a page, nobody waits for the walk to end, and seals that come meanwhile are walked, too."""
    monkeypatch.setattr("migrate.ledger.seals.CHUNK", 2)
    for _ in range(3):
        world.copy_batch()
    walk = world.ledger.chain(world.plan_id)
    assert next(walk).sequence == 1
    other = Ledger.open(ledger_url)
    other.heed(lambda: 0.0)  # it waits for nobody
    start_run(other)
    assert other.plan_id(PLAN) == world.plan_id
    other.close()
    world.copy_batch()
    assert [seal.sequence for seal in walk] == [2, 3, 4]
    assert world.ledger.check_chain(world.plan_id) == 4
    statements = plans_of(world, lambda: world.ledger.check_chain(world.plan_id))
    assert len(statements) == 1 + 3
