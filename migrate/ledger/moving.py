"""A user's later life: the freeze, the flip to another home and what follows, or the way back; and being forgotten.

Each method writes down one step that the caller takes or has taken with the platform (`migrate.routing`), and asks nobody else.
It is refused unless the user is in the state where it begins (design, section 5), so of two processes one goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal_column, select, update
from sqlalchemy.engine import Connection, Row

from migrate.errors import LedgerError, MoveRefusedError
from migrate.ledger import schema
from migrate.ledger.core import Core, has_extra, is_only_behind
from migrate.ledger.engine import upsert
from migrate.ledger.history import add_event
from migrate.ledger.holds import demand_not_held
from migrate.ledger.rows import EventKind, FrozenTimes, Move
from migrate.model import is_stand_in
from migrate.states import HELD_UP, USER_MOVES, UserState

_PAGE = 1_000  # moves in one query


class Moving(Core):
    """Every step is one transaction: the user's state, the move's row and the line of history, or nothing.

    MoveRefusedError where the user is not where the step begins; LedgerError for a user whom the ledger does not have.
    """

    def begin_freeze(
        self, user_id: str, plan_id: int, run_id: int, *, from_site: str, to_site: str, now: datetime
    ) -> str:
        """verified or ready → frozen: the token under which the platform is to freeze the user. Each attempt has its own.

        So does who is held up by nothing but copies that are behind their sources; the move keeps how many. `from_site` is the
        home as the platform has it. OnHoldError for a user on hold, LedgerError for one of another plan.
        """
        plans, moves = schema.plans, schema.moves
        with self._write() as connection:
            row = _user(connection, user_id)
            if row.plan_id != plan_id:
                raise LedgerError("the user whose freeze is to begin is in another plan")
            behind = _only_behind(connection, user_id) if UserState(row.state) in HELD_UP else 0
            _step(connection, row, UserState.FROZEN, run_id, now)
            demand_not_held(connection, user_id)
            digest = connection.execute(select(plans.c.digest).where(plans.c.id == plan_id)).scalar_one()
            tried = connection.execute(select(moves.c.attempt).where(moves.c.user_id == user_id)).scalar()
            attempt = 1 + (tried or 0)
            token = freeze_token(digest, user_id, attempt)
            begun: dict[str, Any] = dict.fromkeys(moves.columns.keys())  # of an earlier attempt nothing is left
            begun |= {"user_id": user_id, "plan_id": plan_id, "run_id": run_id, "from_site": from_site}
            begun |= {"to_site": to_site, "token": token, "attempt": attempt, "frozen_at": now, "behind": behind}
            statement = upsert(connection, moves).values(begun)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["user_id"],
                    set_={name: statement.excluded[name] for name in begun if name != "user_id"},
                )
            )
        return token

    def thaw(self, user_id: str, token: str, run_id: int, now: datetime, *, note: str | None = None) -> UserState:
        """frozen → verified: the freeze under this token has ended, and the home is what it was.

        A user with copies that are behind, or of whom something was found wrong or put back meanwhile, goes back as far as that
        leads (invariant 9): the state. Of one who was forgotten on the way it stays, and the move says when.
        """
        users = schema.users
        is_proven = users.c.matched == users.c.copies
        state = case(
            (users.c.quarantined > 0, UserState.QUARANTINED.value),
            (users.c.good < users.c.copies, UserState.COPYING.value),
            (and_(is_proven, ~has_extra()), UserState.VERIFIED.value),
            else_=UserState.COPIED.value,
        )
        with self._write() as connection:
            row = _user(connection, user_id, waits=True)
            wanted = schema.moves.c.token == token
            if row.state == UserState.FORGOTTEN.value:
                _tell(connection, row, UserState.FORGOTTEN, UserState.FORGOTTEN, run_id, now, "had not been flipped")
                _note_move(connection, user_id, wanted=and_(wanted, _is_open()), unfrozen_at=now)
                return UserState.FORGOTTEN
            back = connection.execute(
                update(users)
                .where(users.c.user_id == user_id, users.c.state == UserState.FROZEN.value)
                .values(state=state)
                .returning(users.c.state)
            ).scalar()
            if back is None:
                raise MoveRefusedError("the user is not frozen, so is not thawed")
            _note_move(connection, user_id, wanted=wanted, unfrozen_at=now)
            new = UserState(back)
            _tell(connection, row, UserState.FROZEN, new, run_id, now, note)
        return new

    def flipped(self, user_id: str, token: str, run_id: int, *, at: datetime, frozen_ms: int) -> None:
        """frozen → cut_over: at `at` the platform made the new site the user's home, under this token.

        `frozen_ms`: how long the user's writers were kept off. What is done is written down, also of a user on hold by now.
        Of one who was forgotten on the way the state stays, and the move says when: the sources are still to be purged of them.
        """
        with self._write() as connection:
            row = _user(connection, user_id, waits=True)
            wanted = schema.moves.c.token == token
            if row.state == UserState.FORGOTTEN.value:
                wanted = and_(wanted, _is_open())
                _tell(connection, row, UserState.FORGOTTEN, UserState.FORGOTTEN, run_id, at, "had been flipped")
            else:
                _step(connection, row, UserState.CUT_OVER, run_id, at)
            _note_move(connection, user_id, wanted=wanted, flipped_at=at, frozen_ms=frozen_ms)

    def observe(self, user_id: str, run_id: int, *, until: datetime, now: datetime) -> None:
        """cut_over → observing: until `until` nothing is taken away."""
        with self._write() as connection:
            row = _user(connection, user_id)
            _step(connection, row, UserState.OBSERVING, run_id, now, of=UserState.CUT_OVER)
            _note_move(connection, user_id, observe_until=until)

    def begin_return(self, user_id: str, run_id: int, now: datetime, *, note: str | None = None) -> str:
        """observing → returning: the token under which the platform is to freeze the user for the way back.

        A hold is the caller's to heed where something is to be deleted at the sources: the way back itself takes nothing away.
        """
        plans, moves = schema.plans, schema.moves
        with self._write() as connection:
            row = _user(connection, user_id)
            _step(connection, row, UserState.RETURNING, run_id, now, note)
            digest = connection.execute(select(plans.c.digest).where(plans.c.id == row.plan_id)).scalar_one()
            tried = connection.execute(select(moves.c.attempt).where(moves.c.user_id == user_id)).scalar_one()
            token = freeze_token(digest, user_id, tried + 1)
            _note_move(connection, user_id, attempt=tried + 1, back_token=token)
        return token

    def stayed(self, user_id: str, token: str, run_id: int, now: datetime, *, note: str | None = None) -> None:
        """returning → observing: the freeze under this token has ended, and the home is still the new one. Of one who was
        forgotten on the way the state stays."""
        with self._write() as connection:
            row = _user(connection, user_id, waits=True)
            if row.state == UserState.FORGOTTEN.value:
                _tell(
                    connection, row, UserState.FORGOTTEN, UserState.FORGOTTEN, run_id, now, "had not been flipped back"
                )
            else:
                _step(connection, row, UserState.OBSERVING, run_id, now, note, of=UserState.RETURNING)
            _note_move(connection, user_id, wanted=schema.moves.c.back_token == token)

    def rolled_back(self, user_id: str, token: str, run_id: int, now: datetime, *, note: str | None = None) -> None:
        """returning → rolled_back: under this token the home is again what it was. Also of a user on hold.

        Of one who was forgotten on the way the state stays, and the move says when: nothing at the sources is to be purged then.
        """
        moves = schema.moves
        with self._write() as connection:
            row = _user(connection, user_id, waits=True)
            wanted = moves.c.back_token == token
            if row.state == UserState.FORGOTTEN.value:
                wanted = and_(wanted, moves.c.rolled_back_at.is_(None))
                _tell(connection, row, UserState.FORGOTTEN, UserState.FORGOTTEN, run_id, now, note)
            else:
                _step(connection, row, UserState.ROLLED_BACK, run_id, now, note)
            _note_move(connection, user_id, rolled_back_at=now, wanted=wanted)

    def begin_purge(self, user_id: str, run_id: int, now: datetime, *, note: str | None = None) -> None:
        """observing → purging, once the window is over: from here on something may be gone at the sources.

        OnHoldError for a user on hold; MoveRefusedError before the window's end.
        """
        with self._write() as connection:
            _step(connection, _user(connection, user_id), UserState.PURGING, run_id, now, note)
            demand_not_held(connection, user_id)
            _note_move(connection, user_id, wanted=schema.moves.c.observe_until <= now)

    def purged(self, user_id: str, run_id: int, now: datetime) -> None:
        """purging → purged: nothing of the user is left at the sources. OnHoldError for a user on hold."""
        with self._write() as connection:
            _step(connection, _user(connection, user_id), UserState.PURGED, run_id, now)
            demand_not_held(connection, user_id)
            _note_move(connection, user_id, purged_at=now)

    def purged_of_forgotten(self, user_id: str, run_id: int, now: datetime, *, note: str | None = None) -> None:
        """Nothing is left at the sources of a user who was forgotten after the flip: their state stays, their move says when.

        OnHoldError for a user on hold; MoveRefusedError for one who is not forgotten, was never flipped, or was taken back.
        """
        moves = schema.moves
        flipped = and_(moves.c.flipped_at.is_not(None), moves.c.rolled_back_at.is_(None))
        with self._write() as connection:
            row = _user(connection, user_id, waits=True)
            if row.state != UserState.FORGOTTEN.value:
                raise MoveRefusedError(f"a user who is {row.state} is not forgotten")
            demand_not_held(connection, user_id)
            observed = func.coalesce(moves.c.observe_until, moves.c.flipped_at)  # forgotten before a window was set
            _note_move(connection, user_id, wanted=flipped, purged_at=now, observe_until=observed)
            _tell(connection, row, UserState.FORGOTTEN, UserState.FORGOTTEN, run_id, now, note)

    def forgotten(self, user_id: str, run_id: int, now: datetime, *, note: str | None = None) -> bool:
        """Any state but purged → forgotten; False for one who is forgotten already. No other move of the user is possible then.

        It waits for a move that is under way, and is not refused for it. OnHoldError for a user on hold: nothing is changed then.
        """
        with self._write() as connection:
            row = _user(connection, user_id, waits=True)
            demand_not_held(connection, user_id)
            if row.state == UserState.FORGOTTEN.value:
                return False
            _step(connection, row, UserState.FORGOTTEN, run_id, now, note)
        return True

    def move_of(self, user_id: str) -> Move | None:
        """The last attempt at a user's cutover; None where none has begun."""
        with self._read() as connection:
            row = connection.execute(_moves().where(schema.moves.c.user_id == user_id)).first()
        return None if row is None else _move(row)

    def moving(self, plan_id: int, states: Collection[UserState]) -> Iterator[Move]:
        """The moves of a plan's users who are in one of these states, by user id, each user once.

        Read page by page, so that they can be moved on meanwhile: whoever does so is not asked for again.
        """
        users, after = schema.users, ""
        query = _moves().where(users.c.plan_id == plan_id, users.c.state.in_([state.value for state in states]))
        if set(states) <= set(schema.UNDER_WAY):
            query = query.where(literal_column(f"({schema.UNDER_WAY_SQL})"))  # as the index has it
        while True:
            page = query.where(users.c.user_id > after).order_by(users.c.user_id).limit(_PAGE)
            with self._read() as connection:
                rows = connection.execute(page).all()
            if not rows:
                return
            after = rows[-1].user_id
            yield from map(_move, rows)

    def frozen_times(self, plan_id: int, wave: int | None = None) -> FrozenTimes | None:
        """How long writers were kept off, over the users of the plan, or of one wave of it, who were flipped; None before the
        first of them."""
        moves, users = schema.moves, schema.users
        found = [moves.c.plan_id == plan_id, moves.c.frozen_ms.is_not(None)]
        if wave is not None:
            found.append(users.c.wave == wave)
        times = (
            select(
                moves.c.frozen_ms,
                func.row_number().over(order_by=moves.c.frozen_ms).label("place"),
                func.count().over().label("users"),
            )
            .join(users, users.c.user_id == moves.c.user_id)
            .where(*found)
            .subquery("times")
        )

        def percentile(percent: int) -> Any:
            """The nearest rank: the shortest time that so many of a hundred do not go beyond."""
            return func.min(case((times.c.place * 100 >= times.c.users * percent, times.c.frozen_ms)))

        query = select(func.count(), percentile(50), percentile(99), func.max(times.c.frozen_ms)).select_from(times)
        with self._read() as connection:
            number, p50, p99, longest = connection.execute(query).one()
        return FrozenTimes(number, p50, p99, longest) if number else None


def freeze_token(digest: str, user_id: str, attempt: int) -> str:
    """The token of one attempt to freeze a user: SHA-256 over the plan's digest, the user and the attempt, in canonical form.

    Of the digest and not of the plan's number, which is another plan's in another ledger: the platform never sees a token twice.
    """
    fields = (text.encode() for text in (digest, user_id, str(attempt)))
    return hashlib.sha256(b"".join(b"%d:%s" % (len(field), field) for field in fields)).hexdigest()


def _user(connection: Connection, user_id: str, *, waits: bool = False) -> Any:
    """The user's id, plan and state. With `waits` the row is held to the end of the transaction, once nobody else does."""
    users = schema.users
    query = select(users.c.user_id, users.c.plan_id, users.c.state).where(users.c.user_id == user_id)
    row: Any = connection.execute(query.with_for_update(key_share=True) if waits else query).first()
    if row is None:
        raise LedgerError("the ledger has no such user, so nobody is moved")
    return row


def _only_behind(connection: Connection, user_id: str) -> int:
    """How many copies of a user who is not verified are behind their sources. MoveRefusedError where anything else is open."""
    users = schema.users
    row = _user(connection, user_id, waits=True)  # the next statement sees what was under way
    query = select(users.c.copies - users.c.matched).where(users.c.user_id == user_id, is_only_behind())
    found: int | None = connection.execute(query).scalar()
    if found is None:
        raise MoveRefusedError(
            f"a user who is {row.state} is not frozen: more is open than copies behind their sources"
        )
    return found


def _step(
    connection: Connection,
    row: Row[Any],
    new: UserState,
    run_id: int,
    now: datetime,
    note: str | None = None,
    *,
    of: UserState | None = None,
) -> None:
    """Move a user from the state that was read to `new`, and demand that they were still there; where two steps lead to `new`,
    the state `of` says which one this is."""
    if is_stand_in(row.user_id):
        raise MoveRefusedError(f"a stand-in is no person, and does not become {new}")
    old, users = UserState(row.state), schema.users
    if new not in USER_MOVES[old] or old is not (of or old):
        raise MoveRefusedError(f"a user who is {old} cannot become {new}")
    moved = connection.execute(
        update(users).where(users.c.user_id == row.user_id, users.c.state == old.value).values(state=new.value)
    ).rowcount
    if moved != 1:
        raise MoveRefusedError(f"the user is not {old} any more, so cannot become {new}")
    _tell(connection, row, old, new, run_id, now, note)


def _tell(
    connection: Connection,
    row: Row[Any],
    old: UserState,
    new: UserState,
    run_id: int,
    now: datetime,
    note: str | None,
) -> None:
    add_event(
        connection,
        row.user_id,
        EventKind.MOVE,
        run_id=run_id,
        plan_id=row.plan_id,
        now=now,
        note=note,
        moved=(old, new),
    )


def _is_open() -> ColumnElement[bool]:
    """Moves of which nobody has written down how the freeze ended."""
    return and_(schema.moves.c.flipped_at.is_(None), schema.moves.c.unfrozen_at.is_(None))


def _note_move(
    connection: Connection, user_id: str, *, wanted: ColumnElement[bool] | None = None, **values: Any
) -> None:
    """Write into the row of the user's move, and demand that it is there, and as `wanted`: else the step is another attempt's."""
    moves = schema.moves
    row = moves.c.user_id == user_id if wanted is None else and_(moves.c.user_id == user_id, wanted)
    if connection.execute(update(moves).where(row).values(values or {"user_id": user_id})).rowcount != 1:
        raise MoveRefusedError("the user's move is another attempt's, under another token, or its window is not over")


def _moves() -> Select[Any]:
    users, moves = schema.users, schema.moves
    return select(moves, users.c.state).join(users, users.c.user_id == moves.c.user_id)


def _move(row: Row[Any]) -> Move:
    return Move(
        user_id=row.user_id,
        state=UserState(row.state),
        plan_id=row.plan_id,
        run_id=row.run_id,
        from_site=row.from_site,
        to_site=row.to_site,
        token=row.token,
        attempt=row.attempt,
        frozen_at=row.frozen_at,
        unfrozen_at=row.unfrozen_at,
        flipped_at=row.flipped_at,
        frozen_ms=row.frozen_ms,
        observe_until=row.observe_until,
        back_token=row.back_token,
        rolled_back_at=row.rolled_back_at,
        purged_at=row.purged_at,
        behind=row.behind,
    )
