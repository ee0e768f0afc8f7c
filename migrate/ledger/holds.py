"""Holds: whose data stays where it is, whatever a plan says, until somebody releases it.

A hold is no state. It stops neither copying nor verification, which take nothing away, but whatever comes after them: cutover
and purge. It may come before any plan has the user.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.engine import Connection, Row

from migrate.errors import OnHoldError
from migrate.ledger import schema
from migrate.ledger.core import Core, chunks
from migrate.ledger.engine import upsert
from migrate.ledger.history import add_event
from migrate.ledger.rows import EventKind, Hold


class Holds(Core):
    """One hold a user at most. A move that is under way when a hold is set ends first: what comes after it is refused."""

    def hold(self, user_id: str, reason: str, *, operator: str, run_id: int | None, now: datetime) -> bool:
        """Put a user on hold; whether that changed anything. With another reason, reason and operator are those given last."""
        holds = schema.holds
        row = {"user_id": user_id, "since": now, "reason": reason, "operator": operator}
        with self._write() as connection:
            plan_id = _plan_of(connection, user_id)
            statement = upsert(connection, holds).values(row)
            changed = connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["user_id"],
                    set_={name: statement.excluded[name] for name in ("reason", "operator")},
                    where=holds.c.reason != statement.excluded.reason,
                ).returning(holds.c.user_id)
            ).first()
            if changed is not None:
                add_event(connection, user_id, EventKind.HOLD, run_id=run_id, plan_id=plan_id, now=now, note=reason)
        return changed is not None

    def release(self, user_id: str, reason: str, *, run_id: int | None, now: datetime) -> bool:
        """End a user's hold; False where there is none."""
        with self._write() as connection:
            plan_id = _plan_of(connection, user_id)
            ended = connection.execute(delete(schema.holds).where(schema.holds.c.user_id == user_id)).rowcount
            if ended:
                add_event(connection, user_id, EventKind.RELEASE, run_id=run_id, plan_id=plan_id, now=now, note=reason)
        return bool(ended)

    def holds(self) -> list[Hold]:
        """All holds, by user id. They are set one by one, so they are few."""
        with self._read() as connection:
            rows = connection.execute(select(schema.holds).order_by(schema.holds.c.user_id)).all()
        return [_hold(row) for row in rows]

    def hold_of(self, user_id: str) -> Hold | None:
        """The user's hold; None where there is none."""
        with self._read() as connection:
            row = connection.execute(select(schema.holds).where(schema.holds.c.user_id == user_id)).first()
        return None if row is None else _hold(row)

    def held(self, user_ids: Iterable[str]) -> set[str]:
        """Those of these users who are on hold. A hold may come right after: what moves a user asks again in its transaction."""
        found: set[str] = set()
        with self._read() as connection:
            for chunk in chunks(user_ids):
                query = select(schema.holds.c.user_id).where(schema.holds.c.user_id.in_(chunk))
                found.update(connection.execute(query).scalars())
        return found

    def holds_in(self, plan_id: int) -> int:
        """How many users of a plan are on hold."""
        holds, users = schema.holds, schema.users
        query = select(func.count()).select_from(holds).join(users, users.c.user_id == holds.c.user_id)
        with self._read() as connection:
            return int(connection.execute(query.where(users.c.plan_id == plan_id)).scalar_one())


def demand_not_held(connection: Connection, user_id: str) -> None:
    """OnHoldError for a user on hold. Asked once the user's row is changed, so that a hold is seen or waits (`_plan_of`)."""
    if connection.execute(select(schema.holds.c.user_id).where(schema.holds.c.user_id == user_id)).first() is not None:
        raise OnHoldError(
            "the user is on hold",
            remedy="`migrate hold` says since when and why, and `migrate hold --release` ends it.",
        )


def _plan_of(connection: Connection, user_id: str) -> int | None:
    """The plan that has the user, if there is one. Holds the user's row to the end of the transaction: a move that is under way
    ends first, and one that comes meanwhile waits, and then sees the hold. SQLite has one writer anyway."""
    users = schema.users
    query = select(users.c.plan_id).where(users.c.user_id == user_id).with_for_update(key_share=True)
    found: int | None = connection.execute(query).scalar()
    return found


def _hold(row: Row[Any]) -> Hold:
    return Hold(user_id=row.user_id, since=row.since, reason=row.reason, operator=row.operator)
