"""What `status` and the summaries ask: fast at any size, because it reads counters and indexes, never rows by the million."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, Table, and_, func, literal_column, select, union
from sqlalchemy.engine import Row

from migrate.errors import IntegrityError, UnsupportedError
from migrate.ledger import columns, counts, schema
from migrate.ledger.core import Core, batch_info, found_more, in_batch, is_only_behind
from migrate.ledger.counts import NOWHERE, Counted
from migrate.ledger.known import WRONG
from migrate.ledger.passes import LEFT_ALONE, pass_row
from migrate.ledger.rows import (
    EXTRA,
    FORGOTTEN_ELSEWHERE,
    FULL_SAMPLE_PPM,
    SEAL_LOST,
    SOURCE_MOVED_ON,
    BatchRow,
    CheckCounts,
    CheckState,
    Failure,
    FindingRow,
    NewFinding,
    Pass,
    PassProgress,
    UserRow,
    VerdictRow,
    WaveProgress,
)
from migrate.ledger.verifying import verdict_row
from migrate.model import Level, Outcome, Verdict
from migrate.states import BatchState, UserState

_SETTLED = tuple(outcome for outcome in Outcome if outcome is not Outcome.PENDING)
_FAILED = (Outcome.DRIFTED, Outcome.QUARANTINED, Outcome.WITHDRAWN)


class Reading(Core):
    """Each answer is of one moment."""

    def progress(self, plan_id: int, *, held_up: bool = False) -> list[WaveProgress]:
        """Where each wave stands, by wave; users without a wave last. Counters alone say so, but for what has
        `held_up` users (`moved_on`, `cannot_keep`, `unlooked`): that is looked for where it is asked for, among what is known to
        be wrong, and what has drifted."""
        batches, parts = schema.batches, schema.parts
        with self._read() as connection:
            by_state = connection.execute(_sums(schema.batch_counts, counts.BATCHES, plan_id)).all()
            of_users = connection.execute(_sums(schema.user_counts, counts.USERS, plan_id)).all()
            moved_on: dict[int | None, int] = {}
            cannot_keep: dict[int | None, int] = {}
            unlooked: dict[int | None, int] = {}
            if held_up:
                unlooked.update(connection.execute(_unlooked(plan_id)).all())
                moved_on.update(connection.execute(_moved_on(plan_id)).all())
                cannot_keep.update(connection.execute(_cannot_keep(plan_id)).all())
            of_nobody: Sequence[Any] = []
            if any(row._mapping[Outcome.WITHDRAWN.value] for row in by_state):
                of_nobody = connection.execute(_without_a_row(plan_id)).all()
            of_parts = connection.execute(
                select(batches.c.wave, func.sum(parts.c.size))
                .join(batches, (batches.c.plan_id == parts.c.plan_id) & (batches.c.number == parts.c.number))
                .where(parts.c.plan_id == plan_id)
                .group_by(batches.c.wave)
            ).all()
        totals: dict[int | None, Counter[str]] = defaultdict(Counter)
        states: dict[int | None, dict[BatchState, int]] = defaultdict(dict)
        people: dict[int | None, dict[UserState, int]] = defaultdict(dict)
        for wave, state, count, *values in by_state:
            if count:
                states[wave][BatchState(state)] = int(count)
            totals[wave].update({name: int(value) for name, value in zip(counts.BATCHES.sums, values, strict=True)})
        for wave, size in of_parts:
            totals[wave]["part_bytes"] = int(size)
        tallies: dict[int | None, Counter[int]] = defaultdict(Counter)
        for wave, withdrawn in of_nobody:
            tallies[wave][2] = int(withdrawn)
        for found, state, count, *settled in of_users:
            wave = None if found == NOWHERE else found
            if count:
                people[wave][UserState(state)] = int(count)
            tallies[wave].update({place: int(value) for place, value in enumerate(settled)})
        waves = sorted(totals.keys() | people.keys(), key=lambda wave: (wave is None, wave or 0))
        return [
            _wave(
                wave,
                people[wave],
                states[wave],
                totals[wave],
                tallies[wave],
                moved_on=moved_on.get(wave, 0),
                cannot_keep=cannot_keep.get(wave, 0),
                unlooked=unlooked.get(wave, 0),
            )
            for wave in waves
        ]

    def open_copies(self, plan_ids: Sequence[int]) -> dict[tuple[int, int], int]:
        """By plan and wave, how many copies are pending, drifted or quarantined; where there are none, nothing. By counters."""
        table = schema.batch_counts
        left = table.c.copies - table.c.copied - table.c.present - table.c.withdrawn
        query = (
            select(table.c.plan_id, table.c.wave, func.sum(left))
            .where(table.c.plan_id.in_(plan_ids))
            .group_by(table.c.plan_id, table.c.wave)
        )
        with self._read() as connection:
            rows = connection.execute(query).all()
        return {(plan_id, wave): int(number) for plan_id, wave, number in rows if number}

    def check_counters(self, plan_id: int) -> None:
        """IntegrityError where the counters of a plan's batches are not the sums over them (invariant 3). Reads every batch."""
        self._demand_sums(counts.BATCHES, schema.batch_counts, schema.batches, plan_id)

    def check_pass_counters(self, pass_id: int) -> None:
        """IntegrityError where the counters of a pass's checks are not the sums over them (invariant 3). Reads every check."""
        self._demand_sums(counts.CHECKS, schema.check_counts, schema.checks, pass_id)

    def _demand_sums(self, of: Counted, counters: Table, rows: Table, owner: int) -> None:
        with self._read() as connection:
            counted, summed = (
                sorted(tuple(row) for row in connection.execute(_sums(table, of, owner)) if any(row[len(of.by) :]))
                for table in (counters, rows)
            )
        if counted != summed:
            raise IntegrityError(
                f"the ledger's counters are not the sums over its {of.table}",
                remedy="Do not go on. Compare the ledger with its last backup.",
            )

    def pass_progress(self, pass_id: int) -> PassProgress:
        """How far a pass is, and what it found."""
        findings, verdicts = schema.findings, schema.verdicts
        with self._read() as connection:
            rows = connection.execute(_sums(schema.check_counts, counts.CHECKS, pass_id)).all()
            # of users without copies no check tells
            loose = connection.execute(
                select(func.count()).where(
                    findings.c.pass_id == pass_id, findings.c.kind == EXTRA, findings.c.number.is_(None)
                )
            ).scalar_one()
            moved_on = connection.execute(
                select(func.count()).where(verdicts.c.pass_id == pass_id, verdicts.c.reason.in_(SOURCE_MOVED_ON))
            ).scalar_one()
        match, mismatch, missing, unknown, extra = (sum(int(row[place]) for row in rows) for place in range(2, 7))
        states = {CheckState(row[0]): int(row[1]) for row in rows if row[1]}
        return PassProgress(states, CheckCounts(match, mismatch, missing, unknown, extra + loose), moved_on)

    def passes(self, plan_id: int, limit: int) -> list[Pass]:
        """The last verifications of a plan, by when they were last worked on; the last one first."""
        passes = schema.passes
        last = [passes.c.worked_at.desc(), passes.c.id.desc()]
        with self._read() as connection:
            rows = connection.execute(
                select(passes).where(passes.c.plan_id == plan_id).order_by(*last).limit(limit)
            ).all()
        return [pass_row(row) for row in rows]

    def open_passes(self, plan_id: int, level: Level, sample_ppm: int, now: datetime) -> list[Pass]:
        """The unfinished verifications at a level that may be gone on with; the one last worked on first."""
        passes = schema.passes
        with self._read() as connection:
            rows = connection.execute(
                select(passes)
                .where(
                    passes.c.plan_id == plan_id,
                    passes.c.ended_at.is_(None),
                    passes.c.level == level.value,
                    passes.c.sample_ppm == sample_ppm,
                    passes.c.worked_at >= now - LEFT_ALONE,
                )
                .order_by(passes.c.worked_at.desc(), passes.c.id.desc())
            ).all()
        return [pass_row(row) for row in rows]

    def batch(self, plan_id: int, number: int) -> BatchRow:
        """Where one batch stands."""
        batches = schema.batches
        with self._read() as connection:
            row = connection.execute(select(batches).where(in_batch(batches, plan_id, number))).one()
        return BatchRow(
            info=batch_info(row),
            state=BatchState(row.state),
            fence=row.fence,
            outcomes={outcome: row._mapping[outcome.value] for outcome in _SETTLED},
            done_bytes=row.done_bytes,
        )

    def user(self, user_id: str) -> UserRow | None:
        """Where a user stands; None if the ledger does not know the user."""
        with self._read() as connection:
            row = connection.execute(select(schema.users).where(schema.users.c.user_id == user_id)).first()
        return None if row is None else _user(row)

    def failures(self, plan_id: int, limit: int) -> list[Failure]:
        """The first copies that ended without a receipt, by batch and ordinal."""
        copies, batches = schema.copies, schema.batches
        codes = [columns.OUTCOME_CODES[outcome] for outcome in _FAILED]
        with self._read() as connection:
            rows = connection.execute(
                select(copies)
                # by way of the counters, so that open receipts elsewhere are not even looked at
                .join(batches, (batches.c.plan_id == copies.c.plan_id) & (batches.c.number == copies.c.number))
                .where(
                    batches.c.plan_id == plan_id,
                    batches.c.drifted + batches.c.quarantined + batches.c.withdrawn > 0,
                    copies.c.outcome.in_(codes),
                )
                .order_by(copies.c.number, copies.c.ordinal)
                .limit(limit)
            ).all()
        return [
            Failure(
                number=row.number,
                ordinal=row.ordinal,
                outcome=columns.OUTCOMES[row.outcome],
                reason=row.reason,
                detail=row.detail,
                run_id=row.run_id,
                at=columns.from_micros(row.at),
            )
            for row in rows
        ]

    def differences(self, plan_id: int, limit: int) -> list[VerdictRow]:
        """The first verdicts other than MATCH that no later check has answered: what is wrong, what could not be checked, and
        what a repair has put back; each by batch and ordinal."""
        verdicts = schema.verdicts
        found: list[Row[Any]] = []
        with self._read() as connection:
            for reopened in (False, True):
                for verdict in (*WRONG, Verdict.UNKNOWN.value) if not reopened else WRONG:
                    found += connection.execute(
                        select(verdicts)
                        .where(_known(plan_id, verdict, reopened=reopened))
                        .order_by(verdicts.c.number, verdicts.c.ordinal, verdicts.c.at.desc())
                        .limit(limit - len(found))
                    ).all()
        return [verdict_row(row) for row in found]

    def known_differences(self, plan_id: int) -> frozenset[str]:
        """Which of MISMATCH, MISSING and EXTRA a verification found that nothing has answered yet."""
        verdicts, findings = schema.verdicts, schema.findings
        queries: dict[str, Select[Any]] = {
            verdict: select(verdicts.c.number).where(_known(plan_id, verdict, reopened=False)) for verdict in WRONG
        }
        queries[EXTRA.upper()] = select(findings.c.id).where(
            findings.c.plan_id == plan_id, findings.c.answered.is_(False), findings.c.kind == EXTRA
        )
        with self._read() as connection:
            return frozenset(
                kind for kind, query in queries.items() if connection.execute(query.limit(1)).first() is not None
            )

    def different_waves(self, plan_id: int, *, lost_seals: bool = False) -> frozenset[int]:
        """The waves of which something is known to be wrong, missing or EXTRA; with `lost_seals`, or without its receipts."""
        verdicts, findings, batches, users = schema.verdicts, schema.findings, schema.batches, schema.users
        by_verdict = [
            select(batches.c.wave)
            .join(verdicts, and_(verdicts.c.plan_id == batches.c.plan_id, verdicts.c.number == batches.c.number))
            .where(_known(plan_id, verdict, reopened=False))
            for verdict in WRONG
        ]
        kinds = [EXTRA, SEAL_LOST] if lost_seals else [EXTRA]
        unanswered = and_(findings.c.plan_id == plan_id, findings.c.answered.is_(False), findings.c.kind.in_(kinds))
        of_batches = and_(findings.c.plan_id == batches.c.plan_id, findings.c.number == batches.c.number)
        of_users = and_(findings.c.number.is_(None), users.c.user_id == findings.c.user_id, users.c.wave.is_not(None))
        query = union(
            *by_verdict,
            select(batches.c.wave).join(findings, of_batches).where(unanswered),
            select(users.c.wave).join(findings, of_users).where(unanswered),
        )
        with self._read() as connection:
            return frozenset(connection.execute(query).scalars())

    def findings(
        self,
        plan_id: int,
        limit: int,
        *,
        pass_id: int | None = None,
        kind: str | None = None,
        number: int | None = None,
        answered: bool | None = None,
    ) -> list[FindingRow]:
        """The first findings of a plan, or of one pass of it, of one kind, of one batch, or those that are answered or not."""
        findings = schema.findings
        query = select(findings).where(findings.c.plan_id == plan_id).order_by(findings.c.id).limit(limit)
        if pass_id is not None:
            query = query.where(findings.c.pass_id == pass_id)
        if kind is not None:
            query = query.where(findings.c.kind == kind)
        if number is not None:
            query = query.where(findings.c.number == number)
        if answered is not None:
            query = query.where(findings.c.answered.is_(answered))
        with self._read() as connection:
            rows = connection.execute(query).all()
        return [
            FindingRow(
                id=row.id,
                pass_id=row.pass_id,
                finding=NewFinding(row.kind, row.store, row.key, row.user_id, row.size, row.number),
                at=row.at,
                run_id=row.run_id,
            )
            for row in rows
        ]


def _sums(table: Table, of: Counted, owner: int) -> Select[Any]:
    """What is counted, how many of it and the sums; from the counters, or from the rows themselves."""
    by = [table.c[name] for name in of.by]
    number = func.count() if table.name == of.table else func.sum(table.c[of.table])
    sums = [func.sum(table.c[name]).label(name) for name in of.sums]
    return select(*by, number, *sums).where(table.c[of.owner] == owner).group_by(*by)


def _known(plan_id: int, verdict: str, *, reopened: bool) -> ColumnElement[bool]:
    """Verdicts of one kind, by way of the index whose condition the literal text repeats."""
    verdicts = schema.verdicts
    return and_(
        literal_column("verdicts.verdict <> 'MATCH'"),
        verdicts.c.plan_id == plan_id,
        verdicts.c.reopened == literal_column("true" if reopened else "false"),
        verdicts.c.verdict == verdict,
    )


def _moved_on(plan_id: int) -> Select[Any]:
    """By wave, how many users were left copied for their sources' sake alone by the pass that last counted matches of theirs.

    That pass came to its end, was full and at the plan's level, and of their batches it found nothing else. Whatever was found,
    put back or begun since would have taken its number from the user. One batch at least is said to have such a verdict: by it
    the user is found, whose first batch is the last to begin at or before it.
    """
    users, passes, plans, verdicts = schema.users, schema.passes, schema.plans, schema.verdicts
    unknown = _known(plan_id, Verdict.UNKNOWN.value, reopened=False)
    numbers = (
        select(verdicts.c.number).where(unknown, verdicts.c.reason.in_(SOURCE_MOVED_ON)).distinct().subquery("numbers")
    )
    return (
        select(users.c.wave, func.count())
        .join(passes, passes.c.id == users.c.matched_pass)
        .join(plans, and_(plans.c.id == users.c.plan_id, plans.c.verify_level == passes.c.level))
        .where(
            users.c.plan_id == plan_id,
            users.c.first_batch.in_(_beginning(plan_id, numbers)),
            users.c.state == UserState.COPIED.value,
            passes.c.ended_at.is_not(None),
            passes.c.superseded.is_(False),
            passes.c.sample_ppm == FULL_SAMPLE_PPM,
            ~found_more(),
        )
        .group_by(users.c.wave)
    )


def _beginning(plan_id: int, numbers: Subquery) -> Select[Any]:
    """The first batches of the users who have copies in these batches: for each, the last with which somebody begins at or before
    it."""
    begins = schema.users.alias("begins")
    first = (
        select(func.max(begins.c.first_batch))
        .where(begins.c.plan_id == plan_id, begins.c.first_batch <= numbers.c.number)
        .scalar_subquery()
    )
    return select(first).select_from(numbers)


def _unlooked(plan_id: int) -> Select[Any]:
    """By wave, how many users have a receipt for all but drifted copies, and were not wholly looked at; found by the batches that
    have such copies."""
    users, batches = schema.users, schema.batches
    numbers = select(batches.c.number).where(batches.c.plan_id == plan_id, batches.c.drifted > 0).subquery("numbers")
    return (
        select(users.c.wave, func.count())
        .where(
            users.c.plan_id == plan_id,
            users.c.first_batch.in_(_beginning(plan_id, numbers)),
            users.c.state == UserState.COPYING.value,
            users.c.other > 0,
            users.c.quarantined == 0,
            users.c.good + users.c.other == users.c.copies,
            ~is_only_behind(),
        )
        .group_by(users.c.wave)
    )


def _cannot_keep(plan_id: int) -> Select[Any]:
    """By wave, how many copies are quarantined since their target cannot keep all of them."""
    return _copies_by_wave(plan_id, Outcome.QUARANTINED, UnsupportedError.code)


def _without_a_row(plan_id: int) -> Select[Any]:
    """By wave, how many copies users would count as withdrawn, were they not forgotten in another line of plans, where their row
    is."""
    found = _copies_by_wave(plan_id, Outcome.WITHDRAWN, FORGOTTEN_ELSEWHERE)
    return found.where(schema.copies.c.tallied == literal_column("true"))


def _copies_by_wave(plan_id: int, outcome: Outcome, reason: str) -> Select[Any]:
    """By wave, how many copies ended so for this reason; by the batches that count any with this outcome."""
    copies, batches = schema.copies, schema.batches
    return (
        select(batches.c.wave, func.count())
        .join(copies, (copies.c.plan_id == batches.c.plan_id) & (copies.c.number == batches.c.number))
        .where(
            batches.c.plan_id == plan_id,
            batches.c[outcome.value] > 0,
            copies.c.outcome == columns.OUTCOME_CODES[outcome],
            copies.c.reason == reason,
        )
        .group_by(batches.c.wave)
    )


def _wave(
    wave: int | None,
    users: dict[UserState, int],
    batches: dict[BatchState, int],
    totals: Counter[str],
    tallied: Counter[int],
    *,
    moved_on: int,
    cannot_keep: int,
    unlooked: int,
) -> WaveProgress:
    outcomes: dict[Outcome, int] = {outcome: totals[outcome.value] for outcome in _SETTLED}
    outcomes[Outcome.PENDING] = totals["copies"] - sum(outcomes.values())
    return WaveProgress(
        wave=wave,
        users=users,
        batches=batches,
        objects=totals["objects"],
        copies=totals["copies"],
        size_bytes=totals["size_bytes"],
        outcomes=outcomes,
        done_bytes=totals["done_bytes"],
        part_bytes=totals["part_bytes"],
        tallied=(tallied[0], tallied[1], tallied[2]),
        moved_on=moved_on,
        cannot_keep=cannot_keep,
        unlooked=unlooked,
    )


def _user(row: Row[Any]) -> UserRow:
    return UserRow(
        user_id=row.user_id,
        plan_id=row.plan_id,
        country=row.country,
        home=row.home,
        backup=row.backup,
        wave=row.wave,
        state=UserState(row.state),
        copies=row.copies,
        size_bytes=row.size_bytes,
        good=row.good,
        quarantined=row.quarantined,
        other=row.other,
        matched=row.matched,
        matched_pass=row.matched_pass,
        first_batch=row.first_batch,
        last_batch=row.last_batch,
    )
