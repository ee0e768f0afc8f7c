"""What the subjects of the ledger share: the database, the fence, and guarded moves. Each subject is a mixin over `Core`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Column, and_, bindparam, exists, func, literal_column, or_, select, update
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql.elements import ColumnElement

from migrate.errors import IntegrityError, StaleLeaseError
from migrate.ledger import schema
from migrate.ledger.engine import Database
from migrate.ledger.rows import EXTRA, FULL_SAMPLE_PPM, SOURCE_MOVED_ON, CheckState, Lease
from migrate.model import BatchInfo, Level, Verdict
from migrate.states import HELD_UP, PROVEN, USER_MOVES, BatchState, UserState, check_batch_move

T = TypeVar("T")
CHUNK = 5000  # rows that are bound at a time


class Core:
    """The database of a ledger. Every method above it is one short transaction, taken here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._database.write() as connection:
            yield connection

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._database.read() as connection:
            yield connection


def chunks(rows: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def in_batch(table: Any, plan_id: int, number: int) -> ColumnElement[bool]:
    return and_(table.c.plan_id == plan_id, table.c.number == number)


def of_batch(table: Any) -> ColumnElement[bool]:
    """`in_batch` for a statement that is built once, since to build one takes longer than to run it. It is run with
    `batch_params`."""
    return and_(table.c.plan_id == bindparam("of_plan"), table.c.number == bindparam("of_number"))


def batch_params(plan_id: int, number: int) -> dict[str, Any]:
    return {"of_plan": plan_id, "of_number": number}


# FOR NO KEY UPDATE: rows that refer to the lease's batch do not wait for it. SQLite has the whole database by now.
_HELD = (
    select(schema.leases.c.number)
    .where(
        of_batch(schema.leases),
        schema.leases.c.fence == bindparam("fence"),
        schema.leases.c.worker_id == bindparam("worker_id"),
        schema.leases.c.purpose == bindparam("purpose"),
    )
    .with_for_update(key_share=True)
)


def demand_lease(connection: Connection, lease: Lease) -> None:
    """Hold the lease's row to the end of the transaction. StaleLeaseError if its fence is no longer the batch's (invariant 5)."""
    shown = {"fence": lease.fence, "worker_id": lease.worker_id, "purpose": lease.purpose.value}
    found = connection.execute(_HELD, batch_params(lease.plan_id, lease.number) | shown).first()
    if found is None:
        raise StaleLeaseError(
            f"batch {lease.number}: the lease with fence {lease.fence} is no longer held",
            remedy="drop the batch and lease another one",
        )


def move_batch(
    connection: Connection, plan_id: int, number: int, old: BatchState, new: BatchState, **values: Any
) -> None:
    """Move one batch from `old` to `new`, and demand that it was there. IntegrityError otherwise."""
    check_batch_move(old, new)
    batches = schema.batches
    moved = connection.execute(
        update(batches)
        .where(in_batch(batches, plan_id, number), batches.c.state == old.value)
        .values(state=new.value, **values)
    ).rowcount
    if moved != 1:
        raise IntegrityError(f"batch {number} is not {old}, so it cannot become {new}")


def among(column: Column[str], values: Iterable[str]) -> ColumnElement[bool]:
    """`column IN values` in a form that many rows of parameters can go through."""
    return or_(*(column == value for value in values))


def may_become(new: UserState, *, of: Iterable[UserState] = UserState) -> list[str]:
    """The states, among `of`, from which a user may move to `new`."""
    return [old.value for old in of if new in USER_MOVES[old]]


def is_proven() -> ColumnElement[bool]:
    """Users of whom a full pass has matched every copy, but what the last delta of their cutover has brought, and against whom
    nothing was found since."""
    users = schema.users
    whole = or_(users.c.matched == users.c.copies, users.c.matched + brought_late() == users.c.copies)
    return and_(among(users.c.state, [state.value for state in PROVEN]), whole)


def brought_late() -> ColumnElement[int]:
    """How many copies of a user were behind their sources when the freeze of their last cutover began, in the plan that they are
    in: whoever was flipped has a late receipt for each."""
    users, moves = schema.users, schema.moves
    behind = select(moves.c.behind).where(moves.c.user_id == users.c.user_id, moves.c.plan_id == users.c.plan_id)
    return func.coalesce(behind.correlate(users).scalar_subquery(), 0)


def has_extra() -> ColumnElement[bool]:
    """Users of whom an EXTRA object stands at a target, and nothing has answered it."""
    users, findings = schema.users, schema.findings
    return exists().where(
        findings.c.plan_id == users.c.plan_id,
        findings.c.answered == literal_column("false"),
        findings.c.kind == EXTRA,
        findings.c.user_id == users.c.user_id,
    )


def found_more() -> ColumnElement[bool]:
    """Users in whose batches the pass that last counted matches of theirs has found anything but sources that have moved on."""
    users, checks, known = schema.users, schema.checks, schema.verdicts.alias("known")
    moved_on = (
        select(func.count())
        .where(
            known.c.pass_id == checks.c.pass_id,
            known.c.plan_id == checks.c.plan_id,
            known.c.number == checks.c.number,
            known.c.verdict == Verdict.UNKNOWN.value,
            known.c.reason.in_(SOURCE_MOVED_ON),
        )
        .correlate(checks)
        .scalar_subquery()
    )
    return exists().where(
        checks.c.pass_id == users.c.matched_pass,
        checks.c.plan_id == users.c.plan_id,
        checks.c.number.between(users.c.first_batch, users.c.last_batch),
        or_(checks.c.mismatched + checks.c.missing + checks.c.extra > 0, checks.c.unknown != moved_on),
    )


def is_only_behind() -> ColumnElement[bool]:
    """Users whom nothing holds up but copies that are behind their sources: those that have drifted, and those with a receipt
    whose source had moved on when they were verified at both ends.

    A full pass at the plan's level or deeper has matched all else, and looked for EXTRA objects in all of their batches. How many
    copies are behind is `copies - matched`.
    """
    users, plans, passes, checks = schema.users, schema.plans, schema.passes, schema.checks
    looked = (
        select(func.count())
        .where(
            checks.c.pass_id == passes.c.id,
            checks.c.plan_id == users.c.plan_id,
            checks.c.number.between(users.c.first_batch, users.c.last_batch),
            checks.c.state == CheckState.DONE.value,
        )
        .correlate(users, passes)
        .scalar_subquery()
    )
    is_deep = or_(
        *(
            and_(
                plans.c.verify_level == wanted.value,
                passes.c.level.in_([level.value for level in Level if level.rank >= wanted.rank]),
            )
            for wanted in Level
        )
    )
    whole = (
        select(passes.c.id)
        .join(plans, plans.c.id == passes.c.plan_id)
        .where(
            passes.c.plan_id == users.c.plan_id,
            passes.c.sample_ppm >= FULL_SAMPLE_PPM,
            is_deep,
            or_(users.c.good == 0, users.c.matched_pass == passes.c.id),
            looked == users.c.last_batch - users.c.first_batch + 1,
        )
        .correlate(users)
    )
    return and_(
        among(users.c.state, [state.value for state in HELD_UP]),
        users.c.matched < users.c.copies,
        users.c.quarantined == 0,
        users.c.good + users.c.other == users.c.copies,
        ~has_extra(),
        whole.exists(),
        or_(users.c.matched == users.c.good, ~found_more()),
    )


def forgotten_elsewhere(connection: Connection, user_ids: Collection[str], plan_id: int) -> set[str]:
    """Those of these users, no more than one chunk, whose row is of another plan, where they are forgotten."""
    users = schema.users
    query = select(users.c.user_id).where(
        users.c.user_id.in_(user_ids), users.c.plan_id != plan_id, users.c.state == UserState.FORGOTTEN.value
    )
    return set(connection.execute(query).scalars())


def batch_info(row: Row[Any] | Mapping[str, Any]) -> BatchInfo:
    values = row._mapping if isinstance(row, Row) else row
    return BatchInfo(
        number=values["number"],
        wave=values["wave"],
        users=values["users"],
        objects=values["objects"],
        copies=values["copies"],
        size_bytes=values["size_bytes"],
        digest=bytes(values["digest"]),
        key_from=values["key_from"],
        key_until=values["key_until"],
    )
