"""A delta continues a plan: its users come over from the plans of its line, and what those have proved stays proved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    MetaData,
    Table,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Connection

from migrate.errors import LaterError, RefusedError
from migrate.ledger import schema
from migrate.ledger.copying import copy_row
from migrate.ledger.core import Core, in_batch
from migrate.ledger.engine import insert_many
from migrate.ledger.known import is_wrong
from migrate.ledger.rows import FULL_SAMPLE_PPM, CopyRow, Seal, SealKind
from migrate.ledger.seals import seal_of
from migrate.model import MOVED, Level
from migrate.states import AWAY, BatchState, UserState

# At a store: a request of one that was killed may still be on its way.
_WRITES = ("run", "cutover", "rollback", "purge")
_OF_ANY_PLAN = "forget"
_PAGE = 10_000
_CLOCKS_APART = timedelta(minutes=5)
"""What the clocks of two machines may differ by. S3 allows 15, and NTP keeps to far less."""
# Who is one of these is no delta's business any more: the sources are not the authority for them. A freeze may be broken off.
_KEPT = (UserState.FROZEN, *AWAY)
_PROVEN = (UserState.VERIFIED, UserState.READY)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the ledger knows of one batch's copies. `seals` are those of receipts, and those of the verdicts of full passes at the
    level asked for or deeper, oldest first; `wrong`: what is known against copies, by ordinal the ETag that was seen, if any."""

    rows: Sequence[CopyRow]
    seals: Sequence[Seal]
    wrong: Mapping[int, str | None]


class Lines(Core):
    """What a delta has to know of the plans before it."""

    def child_of(self, digest: str) -> str | None:
        """The digest of the delta that continues this plan; None where none is registered."""
        plans = schema.plans
        with self._read() as connection:
            found: str | None = connection.execute(select(plans.c.digest).where(plans.c.parent == digest)).scalar()
        return found

    def unproven_users(self, plan_ids: Sequence[int]) -> Iterator[str]:
        """The users of these plans for whom something is left to do or to prove, by id."""
        done = [state.value for state in (*_PROVEN, *AWAY)]
        return self._users_of(plan_ids, schema.users.c.state.not_in(done))

    def users_away(self, plan_ids: Sequence[int]) -> Iterator[str]:
        """The users of these plans whose home has moved, and all who are forgotten, of whatever plan, by id."""
        users = schema.users
        moved = and_(users.c.plan_id.in_(plan_ids), users.c.state.in_([state.value for state in AWAY]))
        return self._users(or_(moved, users.c.state == UserState.FORGOTTEN.value))

    def users_back(self, plan_ids: Sequence[int]) -> Iterator[str]:
        """The users of these plans who went back to their old home, by id: what was proved of their copies counts no more."""
        return self._users_of(plan_ids, schema.users.c.state == UserState.ROLLED_BACK.value)

    def _users_of(self, plan_ids: Sequence[int], which: ColumnElement[bool]) -> Iterator[str]:
        return self._users(and_(schema.users.c.plan_id.in_(plan_ids), which))

    def _users(self, which: ColumnElement[bool]) -> Iterator[str]:
        users, after = schema.users, ""
        while True:
            query = select(users.c.user_id).where(which, users.c.user_id > after).order_by(users.c.user_id).limit(_PAGE)
            with self._read() as connection:
                page = [str(found) for found in connection.execute(query).scalars()]
            if not page:
                return
            yield from page
            after = page[-1]

    def begun_batches(self, plan_id: int) -> set[int]:
        """The batches that somebody has ever leased: of the others nothing is known but that nothing was done."""
        batches = schema.batches
        with self._read() as connection:
            numbers = connection.execute(
                select(batches.c.number).where(
                    batches.c.plan_id == plan_id,
                    or_(batches.c.state != BatchState.PENDING.value, batches.c.fence > 0),
                )
            ).scalars()
            return set(numbers)

    def demand_at_rest(self, plan_ids: Sequence[int]) -> None:
        """LaterError while a batch of these plans is leased, or was begun and is not done: what of it stands at a target
        without a receipt, nobody knows."""
        with self._read() as connection:
            _demand_at_rest(connection, plan_ids)

    def mark_of(self, plan_ids: Sequence[int]) -> str:
        """How the receipts of these plans stand, and what is known against them: it changes with what a delta is built on."""
        with self._read() as connection:
            return _mark_of(connection, plan_ids)

    def proof(self, plan_id: int, number: int, level: Level) -> Proof:
        """What is known of a batch's copies."""
        copies, seals, passes, verdicts = schema.copies, schema.seals, schema.passes, schema.verdicts
        deep = [other.value for other in Level if other.rank >= level.rank]
        full = select(passes.c.id).where(
            passes.c.plan_id == plan_id, passes.c.sample_ppm >= FULL_SAMPLE_PPM, passes.c.level.in_(deep)
        )
        with self._read() as connection:
            rows = connection.execute(
                select(copies).where(in_batch(copies, plan_id, number)).order_by(copies.c.ordinal)
            ).all()
            sealed = connection.execute(
                select(seals)
                .where(
                    in_batch(seals, plan_id, number),
                    or_(seals.c.kind == SealKind.RECEIPTS.value, seals.c.pass_id.in_(full)),
                )
                .order_by(seals.c.sequence)
            ).all()
            wrong = connection.execute(
                select(verdicts.c.ordinal, verdicts.c.etag)
                .where(in_batch(verdicts, plan_id, number), is_wrong())
                .order_by(verdicts.c.at)
            ).all()
            return Proof(
                [copy_row(row) for row in rows],
                [seal_of(row) for row in sealed],
                {row.ordinal: row.etag for row in wrong},
            )

    def last_run_of(
        self, digests: Sequence[str], now: datetime, *, host: str, besides: int | None = None
    ) -> datetime | None:
        """When the last command of these plans that writes to a store ended, `besides` left out; `now`, where one has not ended,
        or was killed. None where there was none. Forgetting counts for every plan: its users may be of any.

        An end on another machine than `host` is as late as that machine's clock may be behind."""
        runs = schema.runs
        with self._read() as connection:
            found = connection.execute(
                select(runs.c.ended_at, runs.c.host).where(
                    or_(
                        and_(runs.c.plan_digest.in_(digests), runs.c.verb.in_(_WRITES)),
                        and_(runs.c.plan_digest.is_(None), runs.c.verb == _OF_ANY_PLAN),
                    ),
                    runs.c.id != (besides or 0),
                )
            )
            ends = [now if at is None else min(now, at if where == host else at + _CLOCKS_APART) for at, where in found]
        return max(ends, default=None)


def line_of(connection: Connection, parent: str) -> list[int]:
    """The ids of a plan and of those that it continues. LaterError where one is not registered."""
    plans = schema.plans
    found: list[int] = []
    digest: str | None = parent
    while digest is not None:
        row = connection.execute(select(plans.c.id, plans.c.parent).where(plans.c.digest == digest)).first()
        if row is None:
            raise LaterError(
                f"plan {digest[:12]}, which this one continues, was never run with this ledger",
                remedy="Name the ledger of that plan (--ledger or MIGRATE_LEDGER).",
            )
        found.append(row.id)
        digest = row.parent
    return found


def _demand_at_rest(connection: Connection, plan_ids: Sequence[int]) -> None:
    batches = schema.batches
    begun = or_(
        batches.c.state == BatchState.LEASED.value,
        and_(batches.c.state == BatchState.PENDING.value, batches.c.fence > 0),
    )
    if connection.execute(select(batches.c.number).where(batches.c.plan_id.in_(plan_ids), begun).limit(1)).first():
        raise LaterError(
            "a batch of the plan that is to be continued was begun and is not done",
            remedy="`migrate run` ends it; a delta comes after.",
        )


def _mark_of(connection: Connection, plan_ids: Sequence[int]) -> str:
    """A digest over the last receipts of each plan, what a repair voided, the verdicts that are no MATCH, open findings, what
    cutovers have copied late, and who went back: their targets hold what the platform wrote."""
    seals, batches, verdicts, findings = schema.seals, schema.batches, schema.verdicts, schema.findings
    last = (
        select(seals.c.plan_id, func.max(seals.c.sequence), func.count())
        .where(seals.c.plan_id.in_(plan_ids), seals.c.kind == SealKind.RECEIPTS.value)
        .group_by(seals.c.plan_id)
        .order_by(seals.c.plan_id)
    )
    voided = (
        select(batches.c.plan_id, batches.c.number, batches.c.voided)
        .where(batches.c.plan_id.in_(plan_ids), batches.c.voided > 0)
        .order_by(batches.c.plan_id, batches.c.number)
    )
    copy = (verdicts.c.plan_id, verdicts.c.number, verdicts.c.ordinal)
    doubted = (
        select(*copy, verdicts.c.verdict)
        .where(
            verdicts.c.plan_id.in_(plan_ids),
            literal_column("verdicts.verdict <> 'MATCH'"),
            verdicts.c.reopened == literal_column("false"),
        )
        .order_by(*copy, verdicts.c.verdict)
    )
    found = select(findings.c.id).where(findings.c.plan_id.in_(plan_ids), findings.c.answered.is_(False))
    digest = hashlib.sha256()
    users, moves = schema.users, schema.moves
    back = (
        select(users.c.user_id, moves.c.attempt)
        .join(moves, moves.c.user_id == users.c.user_id)
        .where(
            users.c.plan_id.in_(plan_ids),
            users.c.state == UserState.ROLLED_BACK.value,
            literal_column(f"({schema.UNDER_WAY_SQL})"),  # as the index has it
        )
        .order_by(users.c.user_id)
    )
    late = (
        select(schema.late.c.user_id, func.count(), func.max(schema.late.c.at))
        .where(schema.late.c.plan_id.in_(plan_ids))
        .group_by(schema.late.c.user_id)
        .order_by(schema.late.c.user_id)
    )
    for query in (last, voided, doubted, found.order_by(findings.c.id), late, back):
        for row in connection.execute(query.execution_options(yield_per=_PAGE)):
            digest.update(":".join(map(str, row)).encode() + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()


def demand_not_continued(connection: Connection, plan_id: int) -> None:
    """RefusedError where a delta has taken this plan's users over. In the transaction of a lease, with which it takes turns."""
    plans = schema.plans
    digest = connection.execute(
        select(plans.c.digest).where(plans.c.id == plan_id).with_for_update(read=True, key_share=True)
    ).scalar_one()
    child = connection.execute(select(plans.c.digest).where(plans.c.parent == digest)).scalar()
    if child is not None:
        raise continued_by(digest, child)


def continued_by(digest: str, child: str) -> RefusedError:
    """Why nothing is done any more for a plan whose users a delta has taken over."""
    return RefusedError(
        f"plan {digest[:12]} is continued by the delta {child[:12]}, where its users are now",
        remedy=f"Name that plan: what is left of this one is in it, or is done. `migrate show {child[:12]}` shows it.",
    )


def continued_by_another(parent: str, child: str) -> RefusedError:
    """Why a delta is not begun whose parent another delta continues already."""
    return RefusedError(
        f"plan {parent[:12]} is continued by another delta, {child[:12]}",
        remedy=f"That one counts, and this one is not needed: `migrate delta {child[:12]}` plans what has changed since.",
    )


def take_users(
    connection: Connection, plan_id: int, parent: str, mark: str, rows: Iterable[Sequence[tuple[object, ...]]]
) -> bool:
    """Bring the users of a delta over from the plans of its line, and add those who are new: chunks of rows as `users` has them.

    Who is verified and has nothing to do stays so. Whose home has moved, or may have, comes over also where the delta does not
    have them, since its directory has lost them: a way back and a purge are of the newest plan. Who is forgotten in another line
    stays there, and is left out. False where anybody else is in a plan of another line. LaterError where the home of one for whom
    there is something to do has moved since, or the line is not as it was when the delta was built (`mark`).
    """
    plans, line = schema.plans, line_of(connection, parent)
    connection.execute(select(plans.c.id).where(plans.c.id.in_(line)).with_for_update())  # a lease waits, or is seen
    _demand_at_rest(connection, line)
    if _mark_of(connection, line) != mark:
        raise LaterError(
            "the plan before was copied, repaired or found different since this delta was built on it",
            remedy=f"Build a new one: `migrate delta {parent[:12]}`.",
        )
    users = schema.users
    coming = Table("coming_users", MetaData(), *(column._copy() for column in users.columns), prefixes=["TEMPORARY"])
    coming.create(connection)
    for chunk in rows:
        insert_many(connection, coming, list(chunk))
    is_forgotten = users.c.state == UserState.FORGOTTEN.value
    elsewhere = select(users.c.user_id).where(is_forgotten, users.c.plan_id.not_in(line))
    connection.execute(delete(coming).where(coming.c.user_id.in_(elsewhere)))
    same = users.c.user_id == coming.c.user_id
    if connection.execute(select(users.c.plan_id).where(same, users.c.plan_id.not_in(line)).limit(1)).first():
        return False
    kept, away = [state.value for state in _KEPT], [state.value for state in AWAY]
    # what a delta has planned of who was forgotten since is withdrawn once it is leased
    moved = [state for state in kept if state != UserState.FORGOTTEN.value]
    moves = and_(users.c.state.in_(moved), coming.c.copies > 0)
    came_back = and_(users.c.state.not_in(away), coming.c.state == MOVED)
    moved_since = set(connection.execute(select(users.c.state).where(same, or_(moves, came_back)).distinct()).scalars())
    if UserState.FROZEN.value in moved_since:
        raise LaterError(
            "this delta has users whom a cutover has left frozen when it broke off",
            remedy=f"`migrate cutover {parent[:12]} --wave all` finds out where they live; then `migrate delta {parent[:12]}`.",
        )
    if moved_since:
        raise LaterError(
            "the home of some users of this delta has moved since it was built",
            remedy=f"Build a new one: `migrate delta {parent[:12]}`.",
        )
    stays = and_(
        coming.c.copies == 0,
        coming.c.state == UserState.COPIED.value,
        users.c.state.in_([state.value for state in _PROVEN]),
    )
    state = case(
        (users.c.state.in_(kept), users.c.state),
        (stays, literal(UserState.VERIFIED.value)),
        else_=coming.c.state,
    )
    taken = {column.name: coming.c[column.name] for column in users.columns if column.name not in ("user_id", "state")}
    connection.execute(update(users).where(same, users.c.plan_id.in_(line)).values(**taken, state=state))
    nothing_planned = {"copies": 0, "size_bytes": 0, "good": 0, "quarantined": 0, "other": 0, "matched": 0}
    of_no_batch = {"matched_pass": None, "first_batch": None, "last_batch": None}
    # by the delta's directory. Of who is frozen nothing is to look better than it is, should the freeze be taken back
    as_proven = or_(users.c.state != UserState.FROZEN.value, users.c.matched == users.c.copies)
    left_behind = and_(users.c.plan_id.in_(line), users.c.state.in_(kept), as_proven)
    connection.execute(update(users).where(left_behind).values(plan_id=plan_id, **nothing_planned, **of_no_batch))
    known = select(users.c.user_id).where(same).exists()
    connection.execute(insert(users).from_select(list(coming.columns.keys()), select(coming).where(~known)))
    coming.drop(connection)
    return True
