"""A user's history: holds, releases, and moves from `verified` upwards. Rows are added, and never changed.

Earlier moves are not written down: of 150 million users that would be the largest table of all, and tell what runs, passes and
seals tell as well.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from migrate.ledger import schema
from migrate.ledger.core import Core
from migrate.ledger.rows import Event, EventKind
from migrate.states import UserState


class History(Core):
    """What was done about one user, in order."""

    def history(self, user_id: str) -> list[Event]:
        """All that was written down about a user, oldest first; also of one whom no plan has."""
        events = schema.events
        with self._read() as connection:
            rows = connection.execute(select(events).where(events.c.user_id == user_id).order_by(events.c.id)).all()
        return [
            Event(
                id=row.id,
                user_id=row.user_id,
                at=row.at,
                run_id=row.run_id,
                plan_id=row.plan_id,
                kind=EventKind(row.kind),
                from_state=None if row.from_state is None else UserState(row.from_state),
                to_state=None if row.to_state is None else UserState(row.to_state),
                note=row.note,
            )
            for row in rows
        ]


def add_event(
    connection: Connection,
    user_id: str,
    kind: EventKind,
    *,
    run_id: int | None,
    plan_id: int | None,
    now: datetime,
    note: str | None = None,
    moved: tuple[UserState, UserState] | None = None,
) -> None:
    """Add a line, in the transaction of what it tells of. `moved` has the states before and after."""
    old, new = (None, None) if moved is None else (state.value for state in moved)
    connection.execute(
        insert(schema.events).values(
            user_id=user_id,
            at=now,
            run_id=run_id,
            plan_id=plan_id,
            kind=kind.value,
            from_state=old,
            to_state=new,
            note=note,
        )
    )
