"""Passes: which one a verification works on, how it ends, and the users for whom nothing was to be copied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, exists, insert, literal, literal_column, or_, select, update
from sqlalchemy.engine import Connection, Row

from migrate.errors import LaterError
from migrate.ledger import schema
from migrate.ledger.core import Core
from migrate.ledger.engine import upsert
from migrate.ledger.known import FALL_BACK, check_again, put_findings
from migrate.ledger.leases import free_leases
from migrate.ledger.rows import EXTRA, SEAL_LOST, CheckState, EmptyUser, NewFinding, Pass
from migrate.model import Level, Verdict
from migrate.states import UserState

LEFT_ALONE = timedelta(days=7)  # a pass that nobody worked on for longer says too little of today


class Passes(Core):
    """A pass has a check for each batch of its waves, and is open until all of them are done, or a newer one takes its place."""

    def start_pass(
        self,
        plan_id: int,
        level: Level,
        sample_ppm: int,
        waves: Sequence[int] | None,
        run_id: int,
        now: datetime,
    ) -> tuple[Pass, list[Pass]]:
        """The pass to work on, and those that it takes the place of.

        It is the one of the same level, sample and waves that is not finished, unless nobody worked on that for a week; else
        a new one, with a check for each batch. One that goes on looks again at batches whose receipts were lost: their sealed
        file may have been brought back. A new full pass ends the open ones that share a wave and look no deeper.
        """
        passes = schema.passes
        row = {
            "plan_id": plan_id,
            "level": level.value,
            "sample_ppm": sample_ppm,
            "waves": _waves_text(waves),
            "started_at": now,
            "worked_at": now,
            "run_id": run_id,
        }
        is_new = False
        with self._write() as connection:
            opened = connection.execute(
                select(passes).where(passes.c.plan_id == plan_id, passes.c.ended_at.is_(None)).order_by(passes.c.id)
            ).all()
            closed = [found for found in map(pass_row, opened) if found.worked_at < now - LEFT_ALONE]
            _supersede(connection, closed, now)
            statement = (
                upsert(connection, passes)
                .values(row)
                .on_conflict_do_update(
                    index_elements=["plan_id", "level", "sample_ppm", "waves"],
                    index_where=passes.c.ended_at.is_(None),
                    set_={"worked_at": now},
                )
            )
            found = pass_row(connection.execute(statement.returning(passes)).one())
            if found.id in {row.id for row in opened}:
                check_again(connection, plan_id, _without_receipts(connection, found))
            elif not _has_checks(connection, found):
                is_new = True
                _add_checks(connection, found)
                taken = [other for other in map(pass_row, opened) if other not in closed and _takes_place(found, other)]
                _supersede(connection, taken, now)
                closed += taken
        if is_new:
            self._database.tidy(schema.checks, schema.check_counts, schema.batches)
        return found, closed

    def is_open(self, pass_id: int) -> bool:
        """Whether the pass has neither come to its end nor given way to another."""
        with self._read() as connection:
            ended = connection.execute(
                select(schema.passes.c.ended_at).where(schema.passes.c.id == pass_id)
            ).scalar_one()
        return ended is None

    def add_findings(self, found: Pass, findings: Sequence[NewFinding], *, run_id: int, now: datetime) -> None:
        """Write down what was found by a pass as a whole. The same twice is one."""
        with self._write() as connection:
            put_findings(connection, finding_rows(found.plan_id, found.id, findings, run_id, now))

    def end_pass(self, pass_id: int, now: datetime) -> bool:
        """End a pass whose checks are all done; False, with nothing changed, while some are not. Ending it twice is no harm.

        A full pass must have looked at the users who have no copies, too. LaterError where another one has taken its place.
        """
        passes, checks = schema.passes, schema.checks
        with self._write() as connection:
            found = pass_row(connection.execute(select(passes).where(passes.c.id == pass_id)).one())
            if found.superseded:
                raise LaterError(
                    "another verification, begun since, has taken the place of this one",
                    remedy="Let that one end; what this one found wrong is kept, and `migrate status --failures` lists it.",
                )
            open_check = connection.execute(
                select(checks.c.number)
                .where(checks.c.pass_id == pass_id, checks.c.state != CheckState.DONE.value)
                .limit(1)
            ).first()
            if open_check is not None or (found.is_full and _without_copies(connection, found, "", 1)):
                return False
            connection.execute(
                update(passes)
                .where(passes.c.id == pass_id, passes.c.ended_at.is_(None))
                .values(ended_at=now, worked_at=now)
            )
        return True

    def users_without_copies(self, found: Pass, after: str, limit: int) -> list[EmptyUser]:
        """The next users of a full pass, in order of their ids, for whom nothing is to be copied and nobody has looked yet."""
        with self._read() as connection:
            return _without_copies(connection, found, after, limit)

    def record_looks(
        self, found: Pass, looked_at: Sequence[str], findings: Sequence[NewFinding], run_id: int, now: datetime
    ) -> None:
        """These users, who have no copies, were looked for at their sites; `findings` are the EXTRA objects that were there.

        In a pass that moves users on, who has none is verified; whoever has some is not, in any pass (invariant 9).
        """
        table, users = schema.findings, schema.users
        with self._write() as connection:
            of_them = and_(table.c.plan_id == found.plan_id, table.c.number.is_(None), table.c.user_id.in_(looked_at))
            connection.execute(
                update(table).where(of_them, table.c.kind == EXTRA, table.c.pass_id != found.id).values(answered=True)
            )
            put_findings(connection, finding_rows(found.plan_id, found.id, findings, run_id, now))
            held = select(table.c.user_id).where(of_them, table.c.kind == EXTRA, table.c.answered.is_(False))
            them = [users.c.plan_id == found.plan_id, users.c.user_id.in_(looked_at), users.c.copies == 0]
            back = and_(users.c.user_id.in_(held), users.c.state.in_(FALL_BACK))
            moves: list[Any] = [(back, UserState.COPIED.value)]
            if found.level.rank >= wanted_level(connection, found).rank:
                on = and_(users.c.user_id.not_in(held), users.c.state == UserState.COPIED.value)
                moves.append((on, UserState.VERIFIED.value))
            connection.execute(
                update(users).where(*them).values(state=case(*moves, else_=users.c.state), matched_pass=found.id)
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
        worked_at=row.worked_at,
        ended_at=row.ended_at,
        superseded=row.superseded,
        run_id=row.run_id,
    )


def _has_checks(connection: Connection, found: Pass) -> bool:
    checks = schema.checks
    return connection.execute(select(checks.c.number).where(checks.c.pass_id == found.id).limit(1)).first() is not None


def _add_checks(connection: Connection, found: Pass) -> None:
    batches = schema.batches
    wanted = [batches.c.plan_id == found.plan_id]
    if found.waves is not None:
        wanted.append(batches.c.wave.in_(found.waves))
    connection.execute(
        insert(schema.checks).from_select(
            ["pass_id", "plan_id", "number"],
            select(literal(found.id), batches.c.plan_id, batches.c.number).where(*wanted),
        )
    )


def _without_receipts(connection: Connection, found: Pass) -> list[int]:
    """The batches of a pass that could not be checked for want of their receipts."""
    verdicts = schema.verdicts
    of_pass = [verdicts.c.pass_id == found.id, verdicts.c.verdict == Verdict.UNKNOWN.value]
    query = select(verdicts.c.number).where(*of_pass, verdicts.c.reason == SEAL_LOST).distinct()
    return list(connection.execute(query).scalars())


def _takes_place(new: Pass, old: Pass) -> bool:
    """Whether all that the old pass would have said of a batch that both have is said by the new one."""
    shares = new.waves is None or old.waves is None or not set(new.waves).isdisjoint(old.waves)
    return new.is_full and shares and new.level.rank >= old.level.rank


def _supersede(connection: Connection, closed: Sequence[Pass], now: datetime) -> None:
    """End passes that have not come to their end. What they found wrong stays known; who is at work on one loses its leases."""
    passes, verdicts, leases = schema.passes, schema.verdicts, schema.leases
    ids = [found.id for found in closed]
    # leases before passes, in the order in which the end of a check takes them
    free_leases(connection, connection.execute(select(leases).where(leases.c.pass_id.in_(ids)).with_for_update()).all())
    connection.execute(update(passes).where(passes.c.id.in_(ids)).values(ended_at=now, superseded=True))
    connection.execute(delete(verdicts).where(verdicts.c.pass_id.in_(ids), verdicts.c.verdict == Verdict.MATCH.value))


def wanted_level(connection: Connection, found: Pass) -> Level:
    """The level at which the pass's plan wants its users verified."""
    plans = schema.plans
    return Level(connection.execute(select(plans.c.verify_level).where(plans.c.id == found.plan_id)).scalar_one())


def _without_copies(connection: Connection, found: Pass, after: str, limit: int) -> list[EmptyUser]:
    users, plans = schema.users, schema.plans
    waits: ColumnElement[bool] = users.c.state.in_([UserState.COPIED.value, UserState.VERIFIED.value])
    if connection.execute(select(plans.c.parent).where(plans.c.id == found.plan_id)).scalar() is not None:
        # who came to a delta verified, and has nothing to do there, was looked at, unless something was found since
        table = schema.findings
        is_held = exists().where(
            table.c.plan_id == users.c.plan_id,
            table.c.user_id == users.c.user_id,
            table.c.kind == EXTRA,
            table.c.answered.is_(False),
        )
        waits = or_(users.c.state == UserState.COPIED.value, and_(users.c.state == UserState.VERIFIED.value, is_held))
    query = select(users.c.user_id, users.c.home, users.c.backup).where(
        users.c.plan_id == found.plan_id,
        users.c.user_id > after,
        literal_column("users.copies = 0"),  # as the index has it
        waits,
        or_(users.c.matched_pass.is_(None), users.c.matched_pass != found.id),
    )
    if found.waves is not None:
        query = query.where(or_(users.c.wave.in_(found.waves), users.c.wave.is_(None)))
    return [EmptyUser(*row) for row in connection.execute(query.order_by(users.c.user_id).limit(limit))]


def finding_rows(
    plan_id: int, pass_id: int, findings: Sequence[NewFinding], run_id: int, now: datetime
) -> list[dict[str, object]]:
    """Rows of findings."""
    return [
        {
            "plan_id": plan_id,
            "pass_id": pass_id,
            "number": finding.number,
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
