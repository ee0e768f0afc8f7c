"""Verification: passes, the check of each batch in a pass, verdicts, and the findings that come up on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, case, delete, func, insert, literal, or_, select, update
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql.elements import BindParameter

from migrate.errors import IntegrityError, LedgerError
from migrate.ledger import schema
from migrate.ledger.core import Core, among, chunks, demand_lease, in_batch, may_become
from migrate.ledger.engine import upsert
from migrate.ledger.rows import (
    FULL_SAMPLE_PPM,
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

    def start_pass(
        self,
        plan_id: int,
        level: Level,
        sample_ppm: int,
        waves: Sequence[int] | None,
        run_id: int,
        now: datetime,
    ) -> Pass:
        """A new pass with a check for each batch; or the one of the same level, sample and waves that is not finished."""
        passes, batches = schema.passes, schema.batches
        row = {
            "plan_id": plan_id,
            "level": level.value,
            "sample_ppm": sample_ppm,
            "waves": _waves_text(waves),
            "started_at": now,
            "run_id": run_id,
        }
        with self._write() as connection:
            statement = upsert(connection, passes).values(row).on_conflict_do_nothing()
            made = connection.execute(statement.returning(passes.c.id)).scalar()
            same = [passes.c[name] == row[name] for name in ("plan_id", "level", "sample_ppm", "waves")]
            found = pass_row(connection.execute(select(passes).where(*same, passes.c.ended_at.is_(None))).one())
            if made is not None:
                wanted = [batches.c.plan_id == plan_id]
                if waves is not None:
                    wanted.append(batches.c.wave.in_(list(waves)))
                connection.execute(
                    insert(schema.checks).from_select(
                        ["pass_id", "plan_id", "number"],
                        select(literal(found.id), batches.c.plan_id, batches.c.number).where(*wanted),
                    )
                )
        return found

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
                "at": schema.to_micros(now),
            }
            for result in results
        ]
        with self._write() as connection:
            demand_lease(connection, lease)
            statement = upsert(connection, schema.verdicts)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["pass_id", "plan_id", "number", "ordinal"],
                    set_={name: statement.excluded[name] for name in ("verdict", "reason", "etag", "run_id", "at")},
                ),
                rows,
            )
            pause_at(PausePoint.VERDICTS_COMMITTING)

    def add_findings(self, scope: Lease | Pass, findings: Sequence[NewFinding], *, run_id: int, now: datetime) -> None:
        """Write down what was found by a check (fenced by its lease) or by a pass as a whole. The same twice is one."""
        if not findings:
            return
        rows = [
            {
                "plan_id": scope.plan_id,
                "pass_id": scope.pass_id if isinstance(scope, Lease) else scope.id,
                "kind": finding.kind,
                "store": finding.store,
                "key": finding.key,
                "user_id": finding.user_id,
                "size": finding.size_bytes,
                "at": now,
                "run_id": run_id,
            }
            for finding in findings
        ]
        with self._write() as connection:
            if isinstance(scope, Lease):
                demand_lease(connection, scope)
            connection.execute(upsert(connection, schema.findings).on_conflict_do_nothing(), rows)

    def finish_check(
        self, lease: Lease, seal: NewSeal | None, users: Mapping[str, UserCheck], counts: CheckCounts
    ) -> None:
        """End the check of a batch: MATCH verdicts leave for the sealed file, the others stay, users move.

        `seal` holds all verdicts of the check, MATCH and others; None where nothing was checked. IntegrityError where `counts`,
        `users`, the seal and the verdicts in the ledger do not agree (invariant 3).
        """
        verdicts, checks = schema.verdicts, schema.checks
        with self._write() as connection:
            demand_lease(connection, lease)
            of_check = and_(verdicts.c.pass_id == lease.pass_id, in_batch(verdicts, lease.plan_id, lease.number))
            _demand_counts(connection, lease, of_check, counts, users, seal)
            if seal is not None:
                append_seal(connection, lease, SealKind.VERDICTS, seal)
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
            _move_users(connection, lease, users)
            pause_at(PausePoint.CHECK_FINISHING)

    def end_pass(self, pass_id: int, now: datetime) -> bool:
        """End a pass whose checks are all done; False, with nothing changed, while some are not. Ending it twice is no harm.

        A full pass at the plan's level also moves the users who have no copies.
        """
        passes, checks, users = schema.passes, schema.checks, schema.users
        with self._write() as connection:
            found = pass_row(connection.execute(select(passes).where(passes.c.id == pass_id)).one())
            open_check = connection.execute(
                select(checks.c.number)
                .where(checks.c.pass_id == pass_id, checks.c.state != CheckState.DONE.value)
                .limit(1)
            ).first()
            if open_check is not None:
                return False
            connection.execute(
                update(passes).where(passes.c.id == pass_id, passes.c.ended_at.is_(None)).values(ended_at=now)
            )
            if _moves_users_on(connection, found):
                wanted = [users.c.plan_id == found.plan_id, users.c.copies == 0]
                if found.waves is not None:
                    wanted.append(or_(users.c.wave.in_(found.waves), users.c.wave.is_(None)))
                connection.execute(
                    update(users)
                    .where(*wanted, users.c.state.in_(may_become(UserState.VERIFIED)))
                    .values(state=UserState.VERIFIED.value, matched_pass=pass_id)
                )
        return True


def verdict_row(row: Row[Any]) -> VerdictRow:
    return VerdictRow(
        number=row.number,
        ordinal=row.ordinal,
        verdict=Verdict(row.verdict),
        reason=row.reason,
        etag=row.etag,
        run_id=row.run_id,
        at=schema.from_micros(row.at),
        reopened=row.reopened,
    )


def _waves_text(waves: Sequence[int] | None) -> str:
    return "*" if waves is None else ",".join(str(wave) for wave in sorted(set(waves)))


def pass_row(row: Row[Any]) -> Pass:
    """A pass from its row."""
    return Pass(
        id=row.id,
        plan_id=row.plan_id,
        level=Level(row.level),
        sample_ppm=row.sample_ppm,
        waves=None if row.waves == "*" else tuple(int(wave) for wave in row.waves.split(",") if wave),
        started_at=row.started_at,
        ended_at=row.ended_at,
        run_id=row.run_id,
    )


def _moves_users_on(connection: Connection, found: Pass) -> bool:
    plans = schema.plans
    wanted = connection.execute(select(plans.c.verify_level).where(plans.c.id == found.plan_id)).scalar_one()
    return found.sample_ppm == FULL_SAMPLE_PPM and found.level.rank >= Level(wanted).rank


def _demand_counts(
    connection: Connection,
    lease: Lease,
    of_check: Any,
    counts: CheckCounts,
    users: Mapping[str, UserCheck],
    seal: NewSeal | None,
) -> None:
    verdicts = schema.verdicts
    query = select(verdicts.c.verdict, func.count()).where(of_check).group_by(verdicts.c.verdict)
    found: Counter[str] = Counter({row[0]: row[1] for row in connection.execute(query)})
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
    if (seal.rows if seal else 0) != counts.checked:
        problems.append(f"the seal has {seal.rows if seal else 0} rows for {counts.checked} verdicts")
    if problems:
        raise IntegrityError(f"the check of batch {lease.number} cannot end: {'; '.join(problems)}")


def _move_users(connection: Connection, lease: Lease, users: Mapping[str, UserCheck]) -> None:
    """Verified users with something wrong go back; in a full pass at the plan's level, whole users go on (invariant 9).

    A copy that is known to be wrong or gone counts whatever the pass was; UNKNOWN says something only where all was asked.
    """
    passes = schema.passes
    found = pass_row(connection.execute(select(passes).where(passes.c.id == lease.pass_id)).one())
    full = _moves_users_on(connection, found)
    table = schema.users
    back = {user_id for user_id, check in users.items() if check.wrong or (full and check.unknown)}
    verified = table.c.state == UserState.VERIFIED.value
    # what another pass had matched of them so far is void too: it may have looked before the copy went wrong
    statement = (
        update(table)
        .where(table.c.user_id == bindparam("of_user"), table.c.plan_id == lease.plan_id)
        .values(state=case((verified, UserState.COPIED.value), else_=table.c.state), matched=0, matched_pass=None)
    )
    for chunk in chunks(sorted(back)):
        connection.execute(statement, [{"of_user": user_id} for user_id in chunk])
    if full:
        _add_matches(connection, lease, users)


def _add_matches(connection: Connection, lease: Lease, users: Mapping[str, UserCheck]) -> None:
    table = schema.users
    match: BindParameter[int] = bindparam("more_matched")
    in_pass = case((table.c.matched_pass == lease.pass_id, table.c.matched + match), else_=match)
    whole = in_pass == table.c.copies
    # One who is verified already stays so; what the new pass has matched so far must not look like less.
    verified = table.c.state == UserState.VERIFIED.value
    goes_on = and_(whole, among(table.c.state, may_become(UserState.VERIFIED)))
    statement = (
        update(table)
        .where(table.c.user_id == bindparam("of_user"), table.c.plan_id == lease.plan_id)
        .values(
            matched=case((and_(verified, ~whole), table.c.matched), else_=in_pass),
            matched_pass=case((and_(verified, ~whole), table.c.matched_pass), else_=lease.pass_id),
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
