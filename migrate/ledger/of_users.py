"""What the ledger knows of users one by one: who belongs where, what is wrong of one, and what happened to one. Reads only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, case, exists, func, literal_column, or_, select, union
from sqlalchemy.engine import Row

from migrate.ledger import columns, schema
from migrate.ledger.core import Core, among, brought_late, chunks, is_only_behind, is_proven
from migrate.ledger.passes import pass_row
from migrate.ledger.rows import (
    EXTRA,
    SEAL_LOST,
    SOURCE_MOVED_ON,
    Candidate,
    CheckState,
    PlacedUser,
    SealKind,
    UserEvent,
    UserRow,
)
from migrate.model import Outcome, Verdict
from migrate.states import HELD_UP, WRITTEN_SINCE, UserState

_USERS = 500  # in one query
_MOVED = (UserState.CUT_OVER, UserState.OBSERVING, UserState.PURGING, UserState.PURGED)
_FAILED = (Outcome.QUARANTINED, Outcome.DRIFTED, Outcome.WITHDRAWN)
_NO_MATCH = tuple(verdict for verdict in Verdict if verdict is not Verdict.MATCH)


class OfUsers(Core):
    """A user is one row, of one plan at a time."""

    def placed_users(
        self, after: str | None, limit: int, *, states: Collection[UserState] | None = None
    ) -> list[PlacedUser]:
        """The next users of all plans after the id `after` (None: from the first one on), in the database's own order of ids."""
        users = schema.users
        query = select(users.c.user_id, users.c.home, users.c.backup, users.c.state).order_by(users.c.user_id)
        if after is not None:
            query = query.where(users.c.user_id > after)
        if states is not None:
            query = query.where(users.c.state.in_([state.value for state in states]))
        with self._read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [PlacedUser(row.user_id, row.home, row.backup, UserState(row.state)) for row in rows]

    def moved_users(self, after: str | None, limit: int) -> list[PlacedUser]:
        """The same of those whose sources are to be empty of them, or are to be emptied: who lives at the new home, and who was
        forgotten there, who is `purged` here once the sources were."""
        users, moves = schema.users, schema.moves
        mine = moves.c.user_id == users.c.user_id
        was_there = exists().where(mine, moves.c.flipped_at.is_not(None), moves.c.rolled_back_at.is_(None))
        forgotten = and_(users.c.state == UserState.FORGOTTEN.value, was_there)
        purged_at = select(moves.c.purged_at).where(mine).scalar_subquery()
        query = (
            select(users.c.user_id, users.c.home, users.c.backup, users.c.state, purged_at.label("purged_at"))
            .where(or_(users.c.state.in_([state.value for state in _MOVED]), forgotten))
            .order_by(users.c.user_id)
        )
        if after is not None:
            query = query.where(users.c.user_id > after)
        with self._read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [
            PlacedUser(
                row.user_id,
                row.home,
                row.backup,
                UserState(row.state) if row.purged_at is None else UserState.PURGED,
            )
            for row in rows
        ]

    def candidates(self, plan_id: int, wave: int, after: str, limit: int) -> list[Candidate]:
        """The next users of a wave after the id `after`, in the database's own order of ids, as a cutover asks for them."""
        users = schema.users
        page = (
            _candidates()
            .where(users.c.plan_id == plan_id, users.c.wave == wave, users.c.user_id > after)
            .order_by(users.c.user_id)
            .limit(limit)
        )
        with self._read() as connection:
            return [_candidate(row) for row in connection.execute(page)]

    def candidate(self, plan_id: int, user_id: str) -> Candidate | None:
        """One user, asked for in the same way; None for one who is not of this plan."""
        users = schema.users
        query = _candidates().where(users.c.plan_id == plan_id, users.c.user_id == user_id)
        with self._read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _candidate(row)

    def drifted_in(self, plan_id: int, numbers: Collection[int]) -> set[tuple[int, int]]:
        """Batch and ordinal of each drifted copy in these batches, whosever it is."""
        copies, found = schema.copies, set[tuple[int, int]]()
        with self._read() as connection:
            for chunk in chunks(sorted(numbers), _USERS):
                query = select(copies.c.number, copies.c.ordinal).where(
                    copies.c.plan_id == plan_id,
                    copies.c.number.in_(chunk),
                    copies.c.outcome == columns.OUTCOME_CODES[Outcome.DRIFTED],
                )
                found.update((row.number, row.ordinal) for row in connection.execute(query))
        return found

    def moved_on_in(self, plan_id: int, numbers: Collection[int]) -> dict[int, set[tuple[int, int]]]:
        """By pass, batch and ordinal of each copy in these batches of which it could not say more than that its source has moved
        on, whosever it is."""
        verdicts, found = schema.verdicts, defaultdict[int, set[tuple[int, int]]](set)
        with self._read() as connection:
            for chunk in chunks(sorted(numbers), _USERS):
                query = select(verdicts.c.pass_id, verdicts.c.number, verdicts.c.ordinal).where(
                    literal_column("verdicts.verdict <> 'MATCH'"),  # as the index has it
                    verdicts.c.plan_id == plan_id,
                    verdicts.c.reopened == literal_column("false"),
                    verdicts.c.verdict == Verdict.UNKNOWN.value,
                    verdicts.c.number.in_(chunk),
                    verdicts.c.reason.in_(SOURCE_MOVED_ON),
                )
                for row in connection.execute(query):
                    found[row.pass_id].add((row.number, row.ordinal))
        return dict(found)

    def away_among(self, user_ids: Collection[str]) -> set[str]:
        """Those of these users whose home has moved, or who went back since, or are forgotten: what the targets have of them
        is not ours any more."""
        users, away = schema.users, [state.value for state in WRITTEN_SINCE]
        found: set[str] = set()
        with self._read() as connection:
            for chunk in chunks(user_ids, _USERS):
                query = select(users.c.user_id).where(users.c.user_id.in_(chunk), users.c.state.in_(away))
                found.update(connection.execute(query).scalars())
        return found

    def forgotten_among(self, user_ids: Collection[str]) -> dict[str, int]:
        """Those of these users who are forgotten, each with the plan that has them."""
        users, found = schema.users, dict[str, int]()
        with self._read() as connection:
            for chunk in chunks(user_ids, _USERS):
                query = select(users.c.user_id, users.c.plan_id).where(
                    users.c.user_id.in_(chunk), users.c.state == UserState.FORGOTTEN.value
                )
                found |= {user_id: int(plan_id) for user_id, plan_id in connection.execute(query)}
        return found

    def known_of(self, user: UserRow, ordinals: Collection[int] | None) -> dict[str, int]:
        """What is known to be wrong of a user, or could not be checked, by kind and number; what nothing has answered yet.

        `ordinals` are the user's copies in the one batch that is shared with others; None where nobody shares the batches.
        """
        copies, verdicts, findings = schema.copies, schema.verdicts, schema.findings
        found: Counter[str] = Counter()
        with self._read() as connection:
            if user.first_batch is not None and user.last_batch is not None:
                failed = select(copies.c.ordinal, copies.c.outcome).where(
                    copies.c.plan_id == user.plan_id,
                    copies.c.number.between(user.first_batch, user.last_batch),
                    copies.c.outcome.in_([columns.OUTCOME_CODES[outcome] for outcome in _FAILED]),
                )
                for ordinal, code in connection.execute(failed):
                    if ordinals is None or ordinal in ordinals:
                        found[columns.OUTCOMES[code].value] += 1
                # a copy may be known to be wrong by several passes; the literal text lets the index be used
                wrong = (
                    select(verdicts.c.number, verdicts.c.ordinal, verdicts.c.verdict)
                    .where(
                        literal_column("verdicts.verdict <> 'MATCH'"),
                        verdicts.c.plan_id == user.plan_id,
                        verdicts.c.reopened == literal_column("false"),
                        verdicts.c.verdict.in_([verdict.value for verdict in _NO_MATCH]),
                        verdicts.c.number.between(user.first_batch, user.last_batch),
                    )
                    .distinct()
                )
                for _, ordinal, verdict in connection.execute(wrong):
                    if ordinals is None or ordinal in ordinals:
                        found[verdict] += 1
            of_user = and_(findings.c.kind == EXTRA, findings.c.user_id == user.user_id)
            # between NULL and NULL is nothing
            of_batch = and_(findings.c.kind == SEAL_LOST, findings.c.number.between(user.first_batch, user.last_batch))
            unanswered = select(findings.c.kind, func.count()).where(
                findings.c.plan_id == user.plan_id,
                findings.c.answered == literal_column("false"),
                findings.c.kind.in_([EXTRA, SEAL_LOST]),
                or_(of_user, of_batch),
            )
            for kind, number in connection.execute(unanswered.group_by(findings.c.kind)):
                found[kind.upper()] += number
        return dict(found)

    def history_of(self, user: UserRow) -> list[UserEvent]:
        """What happened to a user, the oldest first: the plan came into the ledger, runs made receipts in the user's batches,
        verifications looked at them. A run's time is its end, where it has ended."""
        plans, runs, passes = schema.plans, schema.runs, schema.passes
        copies, seals, checks = schema.copies, schema.seals, schema.checks

        def theirs(table: Table, kind: ColumnElement[bool]) -> ColumnElement[bool]:
            batches = table.c.number.between(user.first_batch, user.last_batch)
            return and_(table.c.plan_id == user.plan_id, batches, kind)

        with self._read() as connection:
            plan = connection.execute(select(plans).where(plans.c.id == user.plan_id)).one()
            events = [UserEvent(plan.registered_at, "registered", plan.run_id, f"in plan {plan.digest[:12]}")]
            if user.first_batch is not None:
                receipts = [columns.OUTCOME_CODES[outcome] for outcome in Outcome if outcome.has_receipt]
                by = union(
                    select(seals.c.run_id).where(theirs(seals, seals.c.kind == SealKind.RECEIPTS.value)),
                    select(copies.c.run_id).where(theirs(copies, copies.c.outcome.in_(receipts))),
                )
                events += [
                    UserEvent(
                        row.ended_at or row.started_at, "copied", row.id, f"by a {row.verb}, in the user's batches"
                    )
                    for row in connection.execute(select(runs).where(runs.c.id.in_(by)))
                ]
                looked = select(checks.c.pass_id).where(theirs(checks, checks.c.state == CheckState.DONE.value))
                events += [
                    UserEvent(
                        found.ended_at or found.worked_at,
                        "checked",
                        found.run_id,
                        f"verification {found.id}, {found.level}",
                    )
                    for found in map(pass_row, connection.execute(select(passes).where(passes.c.id.in_(looked))))
                ]
        return sorted(events, key=lambda event: event.at)


def _candidates() -> Select[Any]:
    users, holds, findings = schema.users, schema.holds, schema.findings
    extras = (
        select(func.count())
        .where(
            findings.c.plan_id == users.c.plan_id,
            findings.c.kind == EXTRA,
            findings.c.answered == literal_column("false"),
            findings.c.user_id == users.c.user_id,
        )
        .scalar_subquery()
    )
    behind = case(
        (
            among(users.c.state, [state.value for state in HELD_UP]),
            case((is_only_behind(), users.c.copies - users.c.matched), else_=0),
        ),
        else_=brought_late(),
    )
    return select(
        users,
        behind.label("behind"),
        is_proven().label("is_proven"),
        extras.label("extras"),
        exists().where(holds.c.user_id == users.c.user_id).label("is_on_hold"),
    )


def _candidate(row: Row[Any]) -> Candidate:
    return Candidate(
        user_id=row.user_id,
        state=UserState(row.state),
        home=row.home,
        backup=row.backup,
        copies=row.copies,
        good=row.good,
        quarantined=row.quarantined,
        behind=row.behind,
        matched_pass=row.matched_pass,
        is_proven=bool(row.is_proven),
        extras=row.extras,
        is_on_hold=bool(row.is_on_hold),
    )
