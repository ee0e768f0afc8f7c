"""Plans, their batches and users, and what an operator accepted of their blockers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import Connection

from migrate.errors import IntegrityError, RefusedError
from migrate.ledger import columns, schema
from migrate.ledger.core import Core, chunks, forgotten_elsewhere
from migrate.ledger.engine import insert_many, is_key_taken, upsert
from migrate.ledger.history import add_event
from migrate.ledger.lines import continued_by_another, take_users
from migrate.ledger.rows import EventKind, PlanEntry, PlanRow
from migrate.model import LEAVING, STAND_IN, BatchInfo, Level, UserInfo
from migrate.pauses import PausePoint, pause_at
from migrate.states import BatchState, UserState

_ASKED = 5_000  # user ids in one query


class Plans(Core):
    """A plan is registered once, whole, and never changes."""

    def register(
        self,
        plan: PlanEntry,
        batches: Iterable[BatchInfo],
        users: Iterable[UserInfo],
        run_id: int,
        now: datetime,
        *,
        accept: Sequence[str] = (),
        mark: str | None = None,
        forgotten: Collection[str] = (),
    ) -> int:
        """The plan's id; the first time, its batches and users are written too, all or nothing.

        Who is forgotten in another line of plans stays there, and is left out; their copies are withdrawn by whoever leases them,
        and so are those of users who are `forgotten` by another ledger, and come here as such.
        `mark`: how the line stood when a delta was built on it (`mark_of`); LaterError where it stands otherwise.
        RefusedError where a user's row belongs to another plan, which `accept` is for (see `taken_elsewhere`), or another delta
        continues the plan's parent; IntegrityError where totals are not the sums (invariant 3).
        """
        with self._write() as connection:
            plan_id = _insert_plan(connection, plan, run_id, now)
            if plan_id is None:
                return _plan_id(connection, plan)
            self._database.take_time(connection)
            found_batches = _insert_batches(connection, plan_id, batches)
            pause_at(PausePoint.PLAN_REGISTERING)
            try:
                found_users = _put_users(connection, plan_id, plan.parent, mark or "", users, forgotten)
            except _TakenError:
                raise self.taken_elsewhere(plan.digest, accept) from None
            _tell_forgotten(connection, plan_id, forgotten, run_id, now)
            expected = (plan.batches, plan.copies, plan.size_bytes, plan.users, plan.copies, plan.size_bytes)
            if found_batches + found_users != expected:
                raise IntegrityError(
                    f"plan {plan.digest[:16]}: the totals are not the sums over its batches and users",
                    remedy="build the plan again",
                )
        self._database.tidy(schema.batches, schema.users, schema.batch_counts, schema.user_counts)
        return plan_id

    def plan_id(self, digest: str) -> int | None:
        """The id of a registered plan; None if it is not registered."""
        with self._read() as connection:
            found = connection.execute(select(schema.plans.c.id).where(schema.plans.c.digest == digest)).scalar()
        return None if found is None else int(found)

    def plan_that_has(self, user_ids: Iterable[str], *, besides: Collection[str]) -> str | None:
        """The digest of a plan, other than those of `besides`, that has one of these users; None where none has. Who is forgotten
        there keeps no plan from being registered."""
        users, plans = schema.users, schema.plans
        with self._read() as connection:
            if connection.execute(select(plans.c.id).where(plans.c.digest.not_in(besides)).limit(1)).first() is None:
                return None
        for chunk in chunks(user_ids, _ASKED):
            query = (
                select(plans.c.digest)
                .join(users, users.c.plan_id == plans.c.id)
                .where(
                    users.c.user_id.in_(chunk),
                    plans.c.digest.not_in(besides),
                    users.c.state != UserState.FORGOTTEN.value,
                )
                .limit(1)
            )
            with self._read() as connection:
                found: str | None = connection.execute(query).scalar()
            if found is not None:
                return found
        return None

    def taken_elsewhere(self, digest: str, accept: Sequence[str]) -> RefusedError:
        """Why a plan is refused some of whose users are in another plan here, and what there is to do. A ledger of its own has
        accepted nothing of the plan yet: `accept` has the words that its first run needs."""
        path = self._database.path
        url = (
            "postgresql://…/ANOTHER" if path is None else f"sqlite:///{path.with_name(f'ledger-{digest[:12]}.sqlite')}"
        )
        words = "".join(f" --accept {word}" for word in accept)
        return RefusedError(
            "users of this plan are already in another plan of this ledger (or stand twice in this one)",
            remedy="A plan that takes another's place gets a ledger of its own, in the same workspace, for all of its "
            f"commands (--ledger or MIGRATE_LEDGER): `migrate --ledger {url} run {digest[:12]}{words}`. "
            "What is equal at the targets counts as present there, and is not copied again.",
        )

    def plans(self) -> list[PlanRow]:
        """All registered plans, oldest first."""
        with self._read() as connection:
            rows = connection.execute(select(schema.plans).order_by(schema.plans.c.id)).all()
        return [
            PlanRow(
                id=row.id,
                entry=PlanEntry(
                    digest=row.digest,
                    name=row.name,
                    built_at=row.built_at,
                    verify_level=Level(row.verify_level),
                    users=row.users,
                    objects=row.objects,
                    copies=row.copies,
                    size_bytes=row.size_bytes,
                    batches=row.batches,
                    parent=row.parent,
                ),
                registered_at=row.registered_at,
                run_id=row.run_id,
            )
            for row in rows
        ]

    def accept(self, plan_id: int, kind: str, count: int, digest: str, run_id: int, now: datetime) -> None:
        """Write down that an operator accepts a plan's blockers of one kind, named by count and digest. The last word counts."""
        row = {"plan_id": plan_id, "kind": kind, "count": count, "digest": digest, "run_id": run_id, "at": now}
        with self._write() as connection:
            statement = upsert(connection, schema.acceptances).values(row)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["plan_id", "kind"],
                    set_={name: statement.excluded[name] for name in ("count", "digest", "run_id", "at")},
                )
            )

    def acceptances(self, digests: Collection[str]) -> set[tuple[str, int, str]]:
        """What was accepted of these plans: kinds of blockers, each with its count and digest."""
        table, plans = schema.acceptances, schema.plans
        query = select(table.c.kind, table.c["count"], table.c.digest).join(plans, plans.c.id == table.c.plan_id)
        with self._read() as connection:
            rows = connection.execute(query.where(plans.c.digest.in_(digests))).all()
        return {(kind, count, digest) for kind, count, digest in rows}


def _plan_id(connection: Connection, plan: PlanEntry) -> int:
    """The id of a plan that could not be inserted, since it is there. RefusedError where it is another delta that is."""
    plans = schema.plans
    found = connection.execute(select(plans.c.id).where(plans.c.digest == plan.digest)).scalar()
    if found is None:
        child = connection.execute(select(plans.c.digest).where(plans.c.parent == plan.parent)).scalar_one()
        raise continued_by_another(plan.parent or "", child)
    return int(found)


def _insert_plan(connection: Connection, plan: PlanEntry, run_id: int, now: datetime) -> int | None:
    """The new plan's id; None where the plan, or another delta of its parent, is there already. On PostgreSQL this waits for
    another registration of either."""
    row = {
        "digest": plan.digest,
        "parent": plan.parent,
        "name": plan.name,
        "built_at": plan.built_at,
        "registered_at": now,
        "run_id": run_id,
        "users": plan.users,
        "objects": plan.objects,
        "copies": plan.copies,
        "size_bytes": plan.size_bytes,
        "batches": plan.batches,
        "verify_level": plan.verify_level.value,
    }
    # whichever of them is taken, digest or parent
    statement = upsert(connection, schema.plans).values(row).on_conflict_do_nothing()
    made: int | None = connection.execute(statement.returning(schema.plans.c.id)).scalar()
    return made


def _insert_batches(connection: Connection, plan_id: int, batches: Iterable[BatchInfo]) -> tuple[int, int, int]:
    count = copies = size_bytes = 0
    for chunk in chunks(batches):
        insert_many(connection, schema.batches, [_batch_row(plan_id, batch) for batch in chunk])
        count += len(chunk)
        copies += sum(batch.copies for batch in chunk)
        size_bytes += sum(batch.size_bytes for batch in chunk)
    return count, copies, size_bytes


def _batch_row(plan_id: int, batch: BatchInfo) -> tuple[Any, ...]:
    """A row of `batches`, in the order of its columns."""
    totals = (batch.users, batch.objects, batch.copies, batch.size_bytes)
    bounds = tuple(columns.key_bytes(key) for key in (batch.key_from, batch.key_until))
    nothing_settled = (0, 0, 0, 0, 0, 0, 0, 0)
    return (
        plan_id,
        batch.number,
        batch.wave,
        *totals,
        batch.digest,
        *bounds,
        BatchState.PENDING.value,
        *nothing_settled,
    )


class _TakenError(Exception):
    """A user's row is there already."""


def _put_users(
    connection: Connection,
    plan_id: int,
    parent: str | None,
    mark: str,
    users: Iterable[UserInfo],
    forgotten: Collection[str],
) -> tuple[int, int, int]:
    """Users, copies and bytes, once the users are in the table. Those of a delta come over from its line."""
    count = copies = size_bytes = 0

    def rows() -> Iterator[list[tuple[Any, ...]]]:
        nonlocal count, copies, size_bytes
        for chunk in chunks(users):
            yield [_user_row(plan_id, user, is_forgotten=user.user_id in forgotten) for user in chunk]
            count += len(chunk)
            copies += sum(user.copies for user in chunk)
            size_bytes += sum(user.size_bytes for user in chunk)

    if parent is not None:
        if not take_users(connection, plan_id, parent, mark, rows()):
            raise _TakenError
        return count, copies, size_bytes
    is_anybody_forgotten = connection.execute(_any_forgotten()).scalar_one()
    try:
        for chunk in rows():
            found = forgotten_elsewhere(connection, [row[0] for row in chunk], plan_id) if is_anybody_forgotten else ()
            if left := [row for row in chunk if row[0] not in found]:
                insert_many(connection, schema.users, left)
    except sa_exc.IntegrityError as error:
        if not is_key_taken(error, schema.users):
            raise
        raise _TakenError from None  # not chained: the cause may hold the user's id
    return count, copies, size_bytes


def _any_forgotten() -> Select[Any]:
    """Whether anybody is, of any plan: asked of the counters, so that most plans ask nothing more."""
    counted = schema.user_counts
    return select(func.coalesce(func.sum(counted.c.users), 0) > 0).where(counted.c.state == UserState.FORGOTTEN.value)


def _tell_forgotten(
    connection: Connection, plan_id: int, forgotten: Collection[str], run_id: int, now: datetime
) -> None:
    """The histories of those who came as forgotten begin with that."""
    users = schema.users
    for chunk in chunks(sorted(forgotten)):
        query = select(users.c.user_id).where(users.c.user_id.in_(chunk), users.c.plan_id == plan_id)
        for user_id in connection.execute(query).scalars().all():
            add_event(
                connection,
                user_id,
                EventKind.MOVE,
                run_id=run_id,
                plan_id=plan_id,
                now=now,
                note="was forgotten in this workspace before",
                moved=(UserState.PLANNED, UserState.FORGOTTEN),
            )


def _user_row(plan_id: int, user: UserInfo, *, is_forgotten: bool = False) -> tuple[Any, ...]:
    """A row of `users`, in the order of its columns."""
    # who leaves the scope has a batch as well, of copies that are removed; so have stand-ins
    state = UserState.PLANNED.value if user.state in (LEAVING, STAND_IN) else user.state
    if user.copies == 0 and state == UserState.PLANNED:
        state = UserState.COPIED.value  # nothing to copy: all of it is there
    if is_forgotten:
        state = UserState.FORGOTTEN.value
    where = (user.country, user.home, user.backup, user.wave)
    nothing_settled = (0, 0, 0, 0, None)
    batches = (user.first_batch, user.last_batch)
    return (user.user_id, plan_id, *where, state, user.copies, user.size_bytes, *nothing_settled, *batches)
