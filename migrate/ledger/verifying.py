"""Verification: the check of each batch in a pass, its verdicts and findings, and who moves by them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, and_, bindparam, case, delete, func, or_, select, update
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql.elements import BindParameter

from migrate.errors import IntegrityError, LedgerError
from migrate.ledger import columns, schema
from migrate.ledger.core import Core, among, chunks, demand_lease, in_batch, is_proven
from migrate.ledger.engine import upsert
from migrate.ledger.known import (
    FALL_BACK,
    answer,
    answer_findings,
    is_known,
    is_seen_at,
    is_wrong,
    put_findings,
    void_matches,
)
from migrate.ledger.passes import finding_rows, pass_row, wanted_level
from migrate.ledger.rows import (
    EXTRA,
    CheckCounts,
    CheckState,
    Lease,
    NewFinding,
    NewSeal,
    Pass,
    SealKind,
    UserCheck,
    VerdictRow,
)
from migrate.ledger.seals import append_seal
from migrate.model import CheckResult, Level, Verdict
from migrate.pauses import PausePoint, pause_at
from migrate.states import UserState


class Verifying(Core):
    """A pass checks each batch of its waves once. Only a full pass at the plan's level moves users on (invariant 9)."""

    def verdict_rows(self, lease: Lease) -> list[VerdictRow]:
        """The verdicts of a check under way, by ordinal."""
        verdicts = schema.verdicts
        with self._read() as connection:
            rows = connection.execute(
                select(verdicts)
                .where(verdicts.c.pass_id == lease.pass_id, in_batch(verdicts, lease.plan_id, lease.number))
                .order_by(verdicts.c.ordinal)
            ).all()
        return [verdict_row(row) for row in rows]

    def record_verdicts(self, lease: Lease, results: Sequence[CheckResult], run_id: int, now: datetime) -> None:
        """Commit a group of verdicts. A copy that is looked at again gets the newer verdict: the check is not over."""
        if not results:
            return
        match, unknown = Verdict.MATCH.value, Verdict.UNKNOWN.value
        rows = [
            {
                "pass_id": lease.pass_id,
                "plan_id": lease.plan_id,
                "number": lease.number,
                "ordinal": result.ordinal,
                "verdict": result.verdict.value,
                "reason": result.reason,
                "etag": result.etag,
                "run_id": run_id,
                "at": columns.to_micros(now),
            }
            for result in results
        ]
        with self._write() as connection:
            demand_lease(connection, lease)
            old, statement = schema.verdicts, upsert(connection, schema.verdicts)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["pass_id", "plan_id", "number", "ordinal"],
                    set_={name: statement.excluded[name] for name in ("verdict", "reason", "etag", "run_id", "at")},
                    # what is known to be wrong is not answered by a look that failed
                    where=or_(statement.excluded.verdict != unknown, among(old.c.verdict, [match, unknown])),
                ),
                rows,
            )
            pause_at(PausePoint.VERDICTS_COMMITTING)

    def differing_copies(self, lease: Lease) -> set[int]:
        """The copies of a batch of which any pass has a verdict other than MATCH."""
        verdicts = schema.verdicts
        with self._read() as connection:
            return set(
                connection.execute(
                    select(verdicts.c.ordinal).where(in_batch(verdicts, lease.plan_id, lease.number), is_known())
                ).scalars()
            )

    def deeper_differences(self, lease: Lease, level: Level) -> list[VerdictRow]:
        """The differences in a batch that a check at `level` cannot answer, because a deeper one found them; newest last."""
        verdicts = schema.verdicts
        with self._read() as connection:
            rows = connection.execute(
                select(verdicts)
                .where(
                    in_batch(verdicts, lease.plan_id, lease.number),
                    is_wrong(),
                    ~is_seen_at(lease.plan_id, level),
                )
                .order_by(verdicts.c.at, verdicts.c.pass_id)
            ).all()
        return [verdict_row(row) for row in rows]

    def finish_check(
        self,
        lease: Lease,
        seal: NewSeal | None,
        users: Mapping[str, UserCheck],
        counts: CheckCounts,
        findings: Sequence[NewFinding],
        *,
        run_id: int,
        now: datetime,
        away: int = 0,
        sealed_only: int = 0,
    ) -> None:
        """End the check of a batch: MATCH verdicts leave for the sealed file, the others stay, users move.

        `seal` holds all verdicts of the check, MATCH and others; None where nothing was checked. `sealed_only` of the MATCH
        verdicts were never recorded here: there is nothing whose place they would take. `away` counts the copies with a receipt
        that are nobody's to check, since their users live at their new home. Older verdicts and findings that this check has
        answered go. IntegrityError where `counts`, `users`, `findings`, the seal and the verdicts in the ledger do not agree
        (invariant 3), or where a MATCH stands against a difference that a deeper look found.
        """
        verdicts, checks = schema.verdicts, schema.checks
        with self._write() as connection:
            demand_lease(connection, lease)
            of_check = and_(verdicts.c.pass_id == lease.pass_id, in_batch(verdicts, lease.plan_id, lease.number))
            found = _touch(connection, lease, now)
            _demand_counts(connection, lease, of_check, counts, users, findings, seal, sealed_only)
            if found.is_full:
                _demand_whole(connection, lease, counts, away)
            if seal is not None:
                append_seal(connection, lease, SealKind.VERDICTS, seal)
            answer(connection, lease, found)
            if found.is_full:
                answer_findings(connection, lease)
            put_findings(connection, finding_rows(lease.plan_id, found.id, findings, run_id, now))
            connection.execute(delete(verdicts).where(of_check, verdicts.c.verdict == Verdict.MATCH.value))
            connection.execute(delete(schema.leases).where(in_batch(schema.leases, lease.plan_id, lease.number)))
            ended = connection.execute(
                update(checks)
                .where(
                    checks.c.pass_id == lease.pass_id,
                    in_batch(checks, lease.plan_id, lease.number),
                    checks.c.state == CheckState.LEASED.value,
                )
                .values(
                    state=CheckState.DONE.value,
                    matched=counts.match,
                    mismatched=counts.mismatch,
                    missing=counts.missing,
                    unknown=counts.unknown,
                    extra=counts.extra,
                )
            ).rowcount
            if ended != 1:
                raise IntegrityError(f"the check of batch {lease.number} is not leased, so it cannot end")
            _move_users(connection, lease, found, users)
            pause_at(PausePoint.CHECK_FINISHING)


def verdict_row(row: Row[Any]) -> VerdictRow:
    return VerdictRow(
        number=row.number,
        ordinal=row.ordinal,
        verdict=Verdict(row.verdict),
        reason=row.reason,
        etag=row.etag,
        run_id=row.run_id,
        at=columns.from_micros(row.at),
        reopened=row.reopened,
    )


def _touch(connection: Connection, lease: Lease, now: datetime) -> Pass:
    """The pass of a check, worked on now."""
    passes = schema.passes
    statement = update(passes).where(passes.c.id == lease.pass_id).values(worked_at=now)
    return pass_row(connection.execute(statement.returning(passes)).one())


def _demand_counts(
    connection: Connection,
    lease: Lease,
    of_check: Any,
    counts: CheckCounts,
    users: Mapping[str, UserCheck],
    findings: Sequence[NewFinding],
    seal: NewSeal | None,
    sealed_only: int,
) -> None:
    verdicts = schema.verdicts
    query = select(verdicts.c.verdict, func.count()).where(of_check).group_by(verdicts.c.verdict)
    found: Counter[str] = Counter({row[0]: row[1] for row in connection.execute(query)})
    found[Verdict.MATCH.value] += sealed_only
    seen = tuple(found[verdict.value] for verdict in Verdict)
    given = (counts.match, counts.mismatch, counts.missing, counts.unknown)
    by_user = (
        sum(check.matched for check in users.values()),
        sum(check.wrong for check in users.values()),
        sum(check.unknown for check in users.values()),
    )
    problems = []
    if seen != given:
        problems.append(f"the ledger has {seen} verdicts, {given} are counted (match, mismatch, missing, unknown)")
    # a user with an EXTRA object may be told of as having something wrong, and nothing that matched
    matched, wrong, unknown = by_user
    differences = counts.mismatch + counts.missing
    if not (
        (0 if counts.extra else counts.match) <= matched <= counts.match
        and differences <= wrong <= differences + counts.extra
        and unknown == counts.unknown
    ):
        problems.append(f"the users' sums are {by_user} (match, wrong, unknown)")
    extras = sum(finding.kind == EXTRA for finding in findings)
    if extras != counts.extra:
        problems.append(f"{extras} EXTRA objects are named, {counts.extra} are counted")
    if (seal.rows if seal else 0) != counts.checked:
        problems.append(f"the seal has {seal.rows if seal else 0} rows for {counts.checked} verdicts")
    if problems:
        raise IntegrityError(f"the check of batch {lease.number} cannot end: {'; '.join(problems)}")


def _demand_whole(connection: Connection, lease: Lease, counts: CheckCounts, away: int) -> None:
    """A full check has a verdict for each copy that has a receipt; of a batch that is done the open rows are the others."""
    copies = schema.copies
    without = connection.execute(
        select(func.count()).select_from(copies).where(in_batch(copies, lease.plan_id, lease.number))
    ).scalar_one()
    if counts.checked + without + away != lease.batch.copies:
        raise IntegrityError(
            f"the check of batch {lease.number} cannot end: {counts.checked} verdicts for"
            f" {lease.batch.copies - without - away} copies that have a receipt"
        )


def _move_users(connection: Connection, lease: Lease, found: Pass, users: Mapping[str, UserCheck]) -> None:
    """Users with something wrong go back; in a full pass at the plan's level or deeper, whole users go on (invariant 9).

    A copy that is known to be wrong or gone, and an EXTRA object, count whatever the pass was, and void what any open pass has
    counted of the user. UNKNOWN takes `verified` away only where it contradicts what gave it: in a full pass at the plan's own
    level, where the same look does not succeed any more.
    """
    table, wanted = schema.users, wanted_level(connection, found)
    wrong = {user_id for user_id, check in users.items() if check.wrong}
    void_matches(connection, lease.plan_id, wrong, spare=found.id)
    unknown = {user_id for user_id, check in users.items() if check.unknown}
    falls_back = among(table.c.state, FALL_BACK)
    # what could not be checked voids nothing that this pass has matched in other batches of the user
    is_kept = and_(table.c.matched_pass == found.id, bindparam("not_wrong", type_=Boolean))
    statement = (
        update(table)
        .where(table.c.user_id == bindparam("of_user"), table.c.plan_id == lease.plan_id)
        .values(
            state=case((falls_back, UserState.COPIED.value), else_=table.c.state),
            matched=case((is_kept, table.c.matched), else_=0),
            matched_pass=case((is_kept, table.c.matched_pass), else_=None),
        )
    )
    back = wrong | (unknown if found.is_full and found.level is wanted else set())
    for chunk in chunks(sorted(back)):
        connection.execute(statement, [{"of_user": user_id, "not_wrong": user_id not in wrong} for user_id in chunk])
    if found.is_full and found.level.rank >= wanted.rank:
        _add_matches(connection, lease, users)


def _add_matches(connection: Connection, lease: Lease, users: Mapping[str, UserCheck]) -> None:
    table = schema.users
    match: BindParameter[int] = bindparam("more_matched")
    in_pass = case((table.c.matched_pass == lease.pass_id, table.c.matched + match), else_=match)
    whole = in_pass == table.c.copies
    # One who is verified already stays so; what the new pass has matched so far must not look like less.
    goes_on = and_(whole, table.c.state == UserState.COPIED.value)
    statement = (
        update(table)
        .where(table.c.user_id == bindparam("of_user"), table.c.plan_id == lease.plan_id)
        .values(
            matched=case((and_(is_proven(), ~whole), table.c.matched), else_=in_pass),
            matched_pass=case((and_(is_proven(), ~whole), table.c.matched_pass), else_=lease.pass_id),
            state=case((goes_on, UserState.VERIFIED.value), else_=table.c.state),
        )
    )
    changed = 0
    for chunk in chunks(sorted(users.items())):
        changed += connection.execute(
            statement, [{"of_user": user_id, "more_matched": check.matched} for user_id, check in chunk]
        ).rowcount
    if changed != len(users):
        raise LedgerError(f"{len(users) - changed} users of a check have no row in the ledger")
