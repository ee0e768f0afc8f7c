"""What becomes in the ledger of users who are forgotten, beside their state (`moving`): what an erasure has to know, and its end.

Batches and seals stay as they are: they say what was done, and their sums hold. Copies that have no outcome yet stay pending
until a run leases their batch and withdraws them, since nobody writes outcomes of a batch without its lease (invariant 5).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, delete, exists, func, or_, select, update
from sqlalchemy.engine import Connection

from migrate.errors import LedgerError, MoveRefusedError
from migrate.ledger import schema
from migrate.ledger.core import Core, chunks, in_batch
from migrate.ledger.history import add_event
from migrate.ledger.holds import demand_not_held
from migrate.ledger.known import check_again, drop_wrong
from migrate.ledger.rows import EXTRA, EventKind
from migrate.states import BatchState, UserState

CopiesOf = Mapping[tuple[int, int], Collection[int]]
"""A user's copies: by plan and batch the ordinals."""


class Forgetting(Core):
    """Of one user at a time, who is forgotten."""

    def forgotten_in(self, plan_id: int) -> int:
        """How many users of a plan are forgotten, by the counters: whether somebody came to it is asked often."""
        counted = schema.user_counts
        query = select(func.coalesce(func.sum(counted.c.users), 0)).where(
            counted.c.plan_id == plan_id, counted.c.state == UserState.FORGOTTEN.value
        )
        with self._read() as connection:
            return int(connection.execute(query).scalar_one())

    def is_erased(self, user_id: str) -> bool:
        """Whether it was written down that nothing of the forgotten user is left at the targets."""
        with self._read() as connection:
            return bool(connection.execute(_erased(user_id)).scalar_one())

    def demand_erasable(self, user_id: str) -> None:
        """OnHoldError for a user on hold, MoveRefusedError for one who is not forgotten: asked before anything is erased."""
        with self._write() as connection:
            _demand_forgotten(connection, user_id)
            demand_not_held(connection, user_id)

    def is_begun(self, plan_id: int, number: int) -> bool:
        """Whether anybody ever leased the batch: before that no copy of it has looked at a target."""
        batches = schema.batches
        begun = or_(batches.c.state != BatchState.PENDING.value, batches.c.fence > 0)
        query = select(exists().where(in_batch(batches, plan_id, number), begun))
        with self._read() as connection:
            return bool(connection.execute(query).scalar_one())

    def uploads_begun(self, copies: CopiesOf) -> set[tuple[str, str]]:
        """The multipart uploads of these copies that the ledger knows: target store and upload id."""
        uploads = schema.uploads
        found: set[tuple[str, str]] = set()
        with self._read() as connection:
            for (plan_id, number), ordinals in copies.items():
                query = select(uploads.c.ordinal, uploads.c.store, uploads.c.upload_id)
                for row in connection.execute(query.where(in_batch(uploads, plan_id, number))):
                    if row.ordinal in ordinals:
                        found.add((row.store, row.upload_id))
        return found

    def looked_over(self, user_id: str, copies: CopiesOf, run_id: int, now: datetime, *, is_clean: bool) -> None:
        """What was ours is erased at every target: uploads end, and what verifications found wrong of the copies is dropped.

        With `is_clean` nothing at all of the user was left there: late copies go and EXTRA findings are answered, since both name
        keys, and it is written into the history. The second time nothing changes.
        """
        late, findings = schema.late, schema.findings
        with self._write() as connection:
            plan_id = _demand_forgotten(connection, user_id)
            by_plan: dict[int, dict[int, Collection[int]]] = {}
            for (plan, number), ordinals in copies.items():
                by_plan.setdefault(plan, {})[number] = ordinals
                for table in (schema.parts, schema.uploads):
                    for chunk in chunks(ordinals):
                        connection.execute(
                            delete(table).where(in_batch(table, plan, number), table.c.ordinal.in_(chunk))
                        )
            for plan, batches in by_plan.items():
                drop_wrong(connection, plan, batches)
            if not is_clean:
                return
            connection.execute(delete(late).where(late.c.user_id == user_id))
            of_user = and_(findings.c.user_id == user_id, findings.c.kind == EXTRA, findings.c.answered.is_(False))
            for plan in sorted({plan_id, *by_plan}):
                answered = connection.execute(
                    update(findings)
                    .where(findings.c.plan_id == plan, of_user)
                    .values(answered=True)
                    .returning(findings.c.number)
                ).scalars()
                check_again(connection, plan, {number for number in answered if number is not None})
            if not connection.execute(_erased(user_id)).scalar_one():
                add_event(connection, user_id, EventKind.ERASED, run_id=run_id, plan_id=plan_id, now=now)


def _erased(user_id: str) -> Select[Any]:
    events = schema.events
    return select(exists().where(events.c.user_id == user_id, events.c.kind == EventKind.ERASED.value))


def _demand_forgotten(connection: Connection, user_id: str) -> int:
    """The plan of a user who is forgotten. The row is held to the end of the transaction: a hold that is set waits."""
    users = schema.users
    query = select(users.c.plan_id, users.c.state).where(users.c.user_id == user_id)
    row = connection.execute(query.with_for_update(key_share=True)).first()
    if row is None:
        raise LedgerError("the ledger has no such user, so nobody is forgotten")
    if row.state != UserState.FORGOTTEN.value:
        raise MoveRefusedError(f"a user who is {row.state} is not forgotten, so nothing is erased")
    return int(row.plan_id)
