"""Leases: one holder a batch, a fence that only grows, and how the leases of the dead come back (design, invariant 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Integer,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql.elements import ColumnElement

from migrate.errors import IntegrityError, UsageError
from migrate.ledger import schema
from migrate.ledger.core import Core, among, batch_info, batch_params, in_batch, may_become, move_batch, of_batch
from migrate.ledger.engine import upsert
from migrate.ledger.lines import demand_not_continued
from migrate.ledger.processes import LeaseWatch, Observed, ProcessIdentity
from migrate.ledger.rows import CheckState, Lease, Left
from migrate.model import Purpose
from migrate.states import BatchState, UserState

_CONTENDED = 20  # on PostgreSQL, another worker may take a batch between our look and our hand


# What each lease runs is built once.
_TOUCHED = select(or_(*(exists().where(of_batch(table)) for table in (schema.copies, schema.uploads, schema.seals))))


def _beginning(where: ColumnElement[bool]) -> Update:
    users = schema.users
    planned = among(users.c.state, may_become(UserState.COPYING, of=[UserState.PLANNED]))
    of_plan = users.c.plan_id == bindparam("of_plan")
    return update(users).where(of_plan, where, planned).values(state=UserState.COPYING.value)


# Users whose first batch is leased go from planned to copying. Two statements, so that each uses its index.
_NUMBER = bindparam("of_number", type_=Integer)
_BEGINNING = (
    _beginning(schema.users.c.first_batch == _NUMBER),
    _beginning(
        and_(
            schema.users.c.last_batch > schema.users.c.first_batch,
            schema.users.c.first_batch < _NUMBER,
            schema.users.c.last_batch >= _NUMBER,
        )
    ),
)


class Leases(Core):
    """A batch is leased for copying when it is pending, for verifying when it is done. Never for both at once."""

    def lease(
        self,
        plan_id: int,
        worker_id: int,
        purpose: Purpose,
        *,
        waves: Sequence[int] | None = None,
        pass_id: int | None = None,
    ) -> Lease | None:
        """The lowest batch of the lowest wave that can be had, or None. `waves` bounds a copy lease, a pass a verify lease."""
        _demand_purpose(purpose, pass_id)
        for _ in range(_CONTENDED):
            with self._write() as connection:
                demand_not_continued(connection, plan_id)
                row = _pending(connection, plan_id, waves) if pass_id is None else _unchecked(connection, pass_id)
                if row is None:
                    return None
                lease = _take(connection, row, worker_id, purpose, pass_id)
            if lease is not None:
                return lease
        return None

    def left(
        self,
        plan_id: int,
        purpose: Purpose,
        *,
        run_id: int,
        waves: Sequence[int] | None = None,
        pass_id: int | None = None,
    ) -> Left:
        """What of the same scope is not done: what `lease` could give now, and what is leased. Of one moment, so none is none.

        `run_id` tells one's own run from others: it does not wait for itself.

        In a pass the batches that are not copied yet are left out: no verification can do them.
        """
        _demand_purpose(purpose, pass_id)
        with self._read() as connection:
            if pass_id is None:
                is_pending, rows = _is_pending(connection, plan_id, waves), _copying(connection, plan_id, waves)
            else:
                is_pending, rows = _is_unchecked(connection, pass_id), _checking(connection, pass_id)
        held: Counter[str] = Counter()
        for row in rows:
            if row.run_id != run_id:
                held[row.host] += row.number
        return Left(is_pending, sum(row.number for row in rows if row.run_id == run_id), held)

    def end_worker(self, worker_id: int) -> None:
        """Give back every lease of a worker that ends."""
        with self._write() as connection:
            free_leases(connection, _leases_of(connection, [worker_id]))
            connection.execute(update(schema.workers).where(schema.workers.c.id == worker_id).values(ended=True))

    def reclaim(self, watch: LeaseWatch) -> int:
        """Free the leases of workers that `watch` holds for dead; how many. Open rows stay: they are receipts (invariant 1)."""
        with self._read() as connection:
            holders = _holders(connection)
        freed = 0
        for worker in watch.dead(holders):
            with self._write() as connection:
                workers = schema.workers
                # its beat may have moved since we looked
                still = connection.execute(
                    select(workers.c.id)
                    .where(workers.c.id == worker.worker_id, workers.c.beat == worker.beat)
                    .with_for_update()
                ).first()
                if still is not None:
                    freed += free_leases(connection, _leases_of(connection, [worker.worker_id]))
        return freed

    def leases(self, plan_id: int) -> Counter[Observed]:
        """How many batches of a plan each worker has leased now."""
        workers, leases = schema.workers, schema.leases
        query = (
            select(workers, func.count().label("leased"))
            .join(leases, leases.c.worker_id == workers.c.id)
            .where(leases.c.plan_id == plan_id)
            .group_by(workers.c.id)
        )
        with self._read() as connection:
            return Counter({_observed(row): row.leased for row in connection.execute(query)})


def _demand_purpose(purpose: Purpose, pass_id: int | None) -> None:
    if (purpose is Purpose.VERIFY) != (pass_id is not None) or purpose not in (Purpose.COPY, Purpose.VERIFY):
        raise UsageError("a lease is for copying, or for verifying in a pass")


def _is_pending(connection: Connection, plan_id: int, waves: Sequence[int] | None) -> bool:
    return any(connection.execute(query.limit(1)).first() is not None for query in _pending_batches(plan_id, waves))


def _copying(connection: Connection, plan_id: int, waves: Sequence[int] | None) -> Sequence[Row[Any]]:
    """The number of batches that are leased for copying, by run and host."""
    batches, leases, workers = schema.batches, schema.leases, schema.workers
    query = (
        select(workers.c.run_id, workers.c.host, func.count().label("number"))
        .select_from(leases)
        .join(batches, (batches.c.plan_id == leases.c.plan_id) & (batches.c.number == leases.c.number))
        .join(workers, workers.c.id == leases.c.worker_id)
        .where(leases.c.plan_id == plan_id, leases.c.purpose == Purpose.COPY.value, *_of_waves(waves))
        .group_by(workers.c.run_id, workers.c.host)
    )
    return connection.execute(query).all()


def _is_unchecked(connection: Connection, pass_id: int) -> bool:
    return connection.execute(_unchecked_batches(pass_id).limit(1)).first() is not None


def _checking(connection: Connection, pass_id: int) -> Sequence[Row[Any]]:
    """The number of checks of the pass that are leased, by run and host."""
    leases, workers = schema.leases, schema.workers
    query = (
        select(workers.c.run_id, workers.c.host, func.count().label("number"))
        .select_from(leases)
        .join(workers, workers.c.id == leases.c.worker_id)
        .where(leases.c.pass_id == pass_id)
        .group_by(workers.c.run_id, workers.c.host)
    )
    return connection.execute(query).all()


def _of_waves(waves: Sequence[int] | None) -> list[Any]:
    return [] if waves is None else [schema.batches.c.wave.in_(list(waves))]


def _pending(connection: Connection, plan_id: int, waves: Sequence[int] | None) -> Row[Any] | None:
    for query in _pending_batches(plan_id, waves):
        row = connection.execute(query.limit(1).with_for_update(skip_locked=True, key_share=True)).first()
        if row is not None:
            return row
    return None


def _pending_batches(plan_id: int, waves: Sequence[int] | None) -> Iterator[Select[Any]]:
    """Batches to copy, in order, one query for each run of waves in a row: of these an index has the first at once."""
    batches = schema.batches
    # the literal text is what lets the databases use the index over pending batches
    query = select(batches).where(batches.c.plan_id == plan_id, literal_column("batches.state = 'pending'"))
    query = query.order_by(batches.c.wave, batches.c.number)
    if waves is None:
        yield query
        return
    numbers = sorted(set(waves))
    firsts = [wave for wave in numbers if wave - 1 not in numbers]
    lasts = [wave for wave in numbers if wave + 1 not in numbers]
    for first, last in zip(firsts, lasts, strict=True):
        yield query.where(batches.c.wave.between(first, last))


def _unchecked(connection: Connection, pass_id: int) -> Row[Any] | None:
    batches, checks, leases = schema.batches, schema.checks, schema.leases
    return connection.execute(
        _unchecked_batches(pass_id)
        .where(~exists().where(leases.c.plan_id == checks.c.plan_id, leases.c.number == checks.c.number))
        .limit(1)
        .with_for_update(of=[checks, batches], skip_locked=True, key_share=True)
    ).first()


def _unchecked_batches(pass_id: int) -> Select[Any]:
    """Batches that an open pass has to check and can, in order. A pass has one plan, so its index needs no plan in between."""
    batches, checks, passes = schema.batches, schema.checks, schema.passes
    return (
        select(batches)
        .join(checks, (checks.c.plan_id == batches.c.plan_id) & (checks.c.number == batches.c.number))
        .where(
            checks.c.pass_id == pass_id,
            exists().where(passes.c.id == pass_id, passes.c.ended_at.is_(None)),
            literal_column("checks.state = 'pending'"),
            batches.c.state == BatchState.DONE.value,
        )
        .order_by(checks.c.number)
    )


def _take(connection: Connection, row: Row[Any], worker_id: int, purpose: Purpose, pass_id: int | None) -> Lease | None:
    """Lease the batch of `row`; None, with nothing changed, if another pass was faster (PostgreSQL only)."""
    batches = schema.batches
    plan_id, number, fence = row.plan_id, row.number, row.fence + 1
    if purpose is Purpose.COPY:
        move_batch(connection, plan_id, number, BatchState.PENDING, BatchState.LEASED, fence=fence)
    lease = {
        "plan_id": plan_id,
        "number": number,
        "purpose": purpose.value,
        "batch_state": (BatchState.LEASED if purpose is Purpose.COPY else BatchState.DONE).value,
        "fence": fence,
        "worker_id": worker_id,
        "pass_id": pass_id,
    }
    if pass_id is None:
        connection.execute(insert(schema.leases).values(lease))
        for begin in _BEGINNING:
            connection.execute(begin, batch_params(plan_id, number))
    else:
        statement = upsert(connection, schema.leases).values(lease).on_conflict_do_nothing()
        if connection.execute(statement.returning(schema.leases.c.number)).first() is None:
            return None
        connection.execute(update(batches).where(in_batch(batches, plan_id, number)).values(fence=fence))
        _move_check(connection, pass_id, plan_id, number, CheckState.PENDING, CheckState.LEASED)
    return Lease(
        plan_id=plan_id,
        number=number,
        wave=row.wave,
        purpose=purpose,
        fence=fence,
        worker_id=worker_id,
        pass_id=pass_id,
        batch=batch_info(row),
        fresh=purpose is Purpose.COPY and _is_fresh(connection, plan_id, number),
    )


def _is_fresh(connection: Connection, plan_id: int, number: int) -> bool:
    return not connection.execute(_TOUCHED, batch_params(plan_id, number)).scalar_one()


def _move_check(
    connection: Connection, pass_id: int, plan_id: int, number: int, old: CheckState, new: CheckState
) -> None:
    checks = schema.checks
    moved = connection.execute(
        update(checks)
        .where(checks.c.pass_id == pass_id, in_batch(checks, plan_id, number), checks.c.state == old.value)
        .values(state=new.value)
    ).rowcount
    if moved != 1:
        raise IntegrityError(f"the check of batch {number} in pass {pass_id} is not {old}, so it cannot become {new}")


def _leases_of(connection: Connection, workers: list[int]) -> list[Row[Any]]:
    leases = schema.leases
    return list(connection.execute(select(leases).where(leases.c.worker_id.in_(workers)).with_for_update()).all())


def free_leases(connection: Connection, rows: Sequence[Row[Any]]) -> int:
    """Delete these rows of `leases`; what they hold can be leased again. How many. Who held one is fenced off."""
    leases = schema.leases
    for row in rows:
        connection.execute(delete(leases).where(in_batch(leases, row.plan_id, row.number)))
        if row.pass_id is None:
            move_batch(connection, row.plan_id, row.number, BatchState.LEASED, BatchState.PENDING)
        else:
            _move_check(connection, row.pass_id, row.plan_id, row.number, CheckState.LEASED, CheckState.PENDING)
    return len(rows)


def _holders(connection: Connection) -> list[Observed]:
    workers, leases = schema.workers, schema.leases
    rows = connection.execute(
        select(workers).where(exists().where(leases.c.worker_id == workers.c.id)).order_by(workers.c.id)
    ).all()
    return [_observed(row) for row in rows]


def _observed(row: Row[Any]) -> Observed:
    """Of a row of `workers`."""
    return Observed(row.id, ProcessIdentity(row.host, row.boot_id, row.pid, row.pid_started), row.beat)
