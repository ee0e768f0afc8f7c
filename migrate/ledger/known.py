"""What is known to be wrong, until it is answered; and which checks it makes anew (invariant 9).

A MISMATCH verdict stays in the ledger until a repair puts its copy back, or a later check of the same copy at its level or
deeper says something else; a MISSING one until any later check finds the copy there, and equal as far as it looks. An EXTRA
finding stays until a later full check of its user does not find it. Meanwhile nobody whom it concerns is verified: what open
passes had counted of them is void, and their batches are checked again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, literal_column, or_, select, update
from sqlalchemy.engine import Connection

from migrate.errors import IntegrityError
from migrate.ledger import schema
from migrate.ledger.core import chunks, in_batch, is_proven, may_become
from migrate.ledger.engine import upsert
from migrate.ledger.rows import AGAINST_RECEIPT, EXTRA, SEAL_LOST, CheckState, Lease, Pass
from migrate.model import Level, Verdict
from migrate.states import UserState

# From here a difference leads back to `copied`. Who is frozen, or has moved already, stays where the platform has the user.
FALL_BACK = may_become(UserState.COPIED, of=[UserState.VERIFIED, UserState.READY])
WRONG = [Verdict.MISMATCH.value, Verdict.MISSING.value]


def is_wrong() -> ColumnElement[bool]:
    """A verdict that found a difference, and that nothing has answered yet. The literal text lets the index be used."""
    verdicts = schema.verdicts
    return and_(
        literal_column("verdicts.verdict <> 'MATCH'"),
        verdicts.c.reopened == literal_column("false"),
        verdicts.c.verdict.in_(WRONG),
    )


def is_known() -> ColumnElement[bool]:
    """A verdict other than MATCH, put back or not: all that there are, said so that the index leads to a batch's."""
    verdicts = schema.verdicts
    return and_(
        literal_column("verdicts.verdict <> 'MATCH'"),
        verdicts.c.reopened.in_([False, True]),
        verdicts.c.verdict.in_([*WRONG, Verdict.UNKNOWN.value]),
    )


def is_seen_at(plan_id: int, level: Level) -> ColumnElement[bool]:
    """A verdict that a check at this level can answer: of a pass no deeper, or one that such a look would have given as well."""
    passes, verdicts = schema.passes, schema.verdicts
    no_deeper = [known.value for known in Level if known.rank <= level.rank]
    found = select(passes.c.id).where(passes.c.plan_id == plan_id, passes.c.level.in_(no_deeper))
    ways = [verdicts.c.pass_id.in_(found), verdicts.c.verdict == Verdict.MISSING.value]
    if level.rank >= Level.CONTENT.rank:
        ways.append(func.coalesce(verdicts.c.reason, "").in_(AGAINST_RECEIPT))
    return or_(*ways)


def void_matches(connection: Connection, plan_id: int, user_ids: Iterable[str], *, spare: int) -> None:
    """What open passes, but the pass `spare`, counted of these users is void: their batches are checked again."""
    users = schema.users
    numbers: set[int] = set()
    for chunk in chunks(sorted(user_ids)):
        for first, last in connection.execute(
            select(users.c.first_batch, users.c.last_batch).where(
                users.c.user_id.in_(chunk), users.c.plan_id == plan_id, users.c.first_batch.is_not(None)
            )
        ):
            numbers.update(range(first, last + 1))
    check_again(connection, plan_id, numbers, spare=spare)


def check_again(connection: Connection, plan_id: int, numbers: Collection[int], *, spare: int | None = None) -> None:
    """Put the checks of these batches back to pending in every open pass but `spare`, and forget what their users matched there.

    All batches of a user go together, since a pass has one sum a user. A check that is leased now goes on. The differences that
    a check found stay known.
    """
    passes, checks, verdicts = schema.passes, schema.checks, schema.verdicts
    by_pass: dict[int, list[int]] = defaultdict(list)
    whole = sorted(_with_whole_users(connection, plan_id, numbers))
    for chunk in chunks(whole):
        query = (
            select(checks.c.pass_id, checks.c.number, checks.c.state)
            .join(passes, passes.c.id == checks.c.pass_id)
            .where(checks.c.plan_id == plan_id, checks.c.number.in_(chunk), passes.c.ended_at.is_(None))
            # a check that ends in another transaction just now loses what it counted, and so goes into no sum
            .with_for_update(of=[checks], skip_locked=True)
        )
        for row in connection.execute(query).all():
            if row.pass_id != spare:
                by_pass[row.pass_id] += [row.number] if row.state != CheckState.LEASED.value else []
    for pass_id, found in by_pass.items():
        for chunk in chunks(found):
            of_checks = and_(checks.c.pass_id == pass_id, checks.c.plan_id == plan_id, checks.c.number.in_(chunk))
            counts = ("matched", "mismatched", "missing", "unknown", "extra")
            connection.execute(
                update(checks).where(of_checks).values(state=CheckState.PENDING.value, **dict.fromkeys(counts, 0))
            )
            connection.execute(
                delete(verdicts).where(
                    verdicts.c.pass_id == pass_id,
                    verdicts.c.plan_id == plan_id,
                    verdicts.c.number.in_(chunk),
                    or_(verdicts.c.verdict.not_in(WRONG), verdicts.c.reopened.is_(True)),
                    or_(verdicts.c.reason.is_(None), verdicts.c.reason != SEAL_LOST),
                )
            )
        for chunk in chunks(whole):
            _forget_matches(connection, plan_id, pass_id, chunk)


def _with_whole_users(connection: Connection, plan_id: int, numbers: Collection[int]) -> set[int]:
    """These batches, and the others of users that are split over several: such a user shares none with anybody."""
    users = schema.users
    found = set(numbers)
    for number in sorted(numbers):
        split = connection.execute(
            select(users.c.first_batch, users.c.last_batch).where(
                users.c.plan_id == plan_id,
                users.c.last_batch > users.c.first_batch,
                users.c.first_batch <= number,
                users.c.last_batch >= number,
            )
        ).all()
        found.update(other for first, last in split for other in range(first, last + 1))
    return found


def _forget_matches(connection: Connection, plan_id: int, pass_id: int, numbers: Sequence[int]) -> None:
    """Users of these batches have matched nothing in the pass. Who is verified stays so: nothing was found against them."""
    users = schema.users
    connection.execute(
        update(users)
        # the first batch of each is among them
        .where(users.c.plan_id == plan_id, users.c.first_batch.in_(numbers), users.c.matched_pass == pass_id)
        .values(matched=case((is_proven(), users.c.matched), else_=0), matched_pass=None)
    )


def answer(connection: Connection, lease: Lease, found: Pass) -> None:
    """A check is about to end: its verdicts take the place of older ones on the same copies that it can answer.

    UNKNOWN takes the place of UNKNOWN alone. IntegrityError where a MATCH stands against a difference that a deeper look found.
    """
    older, newer = schema.verdicts, schema.verdicts.alias("newer")
    same_copy = and_(
        newer.c.pass_id == lease.pass_id,
        newer.c.plan_id == older.c.plan_id,
        newer.c.number == older.c.number,
        newer.c.ordinal == older.c.ordinal,
    )
    unknown, match = Verdict.UNKNOWN.value, Verdict.MATCH.value
    of_others = and_(is_known(), in_batch(older, lease.plan_id, lease.number), older.c.pass_id != lease.pass_id)
    answered = and_(
        of_others,
        or_(is_seen_at(lease.plan_id, found.level), older.c.reopened.is_(True)),
        exists().where(same_copy, or_(newer.c.verdict != unknown, older.c.verdict == unknown)),
    )
    is_open = older.c.pass_id.in_(select(schema.passes.c.id).where(schema.passes.c.ended_at.is_(None)))
    voids_open = connection.execute(select(older.c.pass_id).where(answered, is_open).limit(1)).first()
    connection.execute(delete(older).where(answered))
    if voids_open is not None:
        # what an open pass counts must be what stands
        check_again(connection, lease.plan_id, [lease.number], spare=lease.pass_id)
    contradicted = connection.execute(
        select(older.c.ordinal)
        .where(
            of_others,
            is_wrong(),
            ~is_seen_at(lease.plan_id, found.level),
            exists().where(same_copy, newer.c.verdict == match),
        )
        .limit(1)
    ).first()
    if contradicted is not None:
        raise IntegrityError(f"the check of batch {lease.number} calls a copy equal that a deeper one found different")


def answer_findings(connection: Connection, lease: Lease) -> None:
    """A full check of the batch looked for all that its findings tell of; what it found again is written down after this."""
    findings = schema.findings
    connection.execute(
        update(findings)
        .where(
            findings.c.plan_id == lease.plan_id,
            findings.c.number == lease.number,
            findings.c.kind.in_([EXTRA, SEAL_LOST]),
            findings.c.answered.is_(False),
        )
        .values(answered=True)
    )


def drop_wrong(connection: Connection, plan_id: int, copies: Mapping[int, Collection[int]]) -> None:
    """Drop what is known to be wrong of these copies, ordinals by batch: they are nobody's to judge any more. What open passes
    have counted of their batches is counted anew."""
    verdicts = schema.verdicts
    changed: list[int] = []
    for number, ordinals in copies.items():
        for chunk in chunks(ordinals):
            dropped = connection.execute(
                delete(verdicts).where(
                    literal_column("verdicts.verdict <> 'MATCH'"),
                    in_batch(verdicts, plan_id, number),
                    # all that there are, said so that the index leads to the batch
                    verdicts.c.reopened.in_([False, True]),
                    verdicts.c.verdict.in_(WRONG),
                    verdicts.c.ordinal.in_(chunk),
                )
            ).rowcount
            changed += [number] if dropped else []
    if changed:
        check_again(connection, plan_id, changed)


def put_findings(connection: Connection, rows: Sequence[dict[str, object]]) -> None:
    """Write findings down. The same one twice in a pass is one, and not answered."""
    if not rows:
        return
    statement = upsert(connection, schema.findings)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["pass_id", "kind", "store", "key"],
            set_={"answered": False, "number": statement.excluded.number},
        ),
        list(rows),
    )
