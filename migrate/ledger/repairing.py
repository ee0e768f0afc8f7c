"""Putting copies back to pending: what a verification found wrong, and what was quarantined and is to be tried again.

Both refuse to work beside a lease of the same batches: nobody may be working on what changes here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, case, delete, func, insert, literal_column, select, update
from sqlalchemy.engine import Connection, Row

from migrate.errors import IntegrityError, LaterError
from migrate.ledger import columns, schema
from migrate.ledger.core import Core, among, chunks, in_batch, may_become
from migrate.ledger.known import WRONG, check_again, drop_wrong, is_wrong
from migrate.ledger.rows import SEAL_LOST, CheckState, PutBack, SealedCopy, UnsealedCopy
from migrate.model import Outcome, Verdict
from migrate.pauses import PausePoint, pause_at
from migrate.states import WRITTEN_SINCE, BatchState, UserState, check_batch_move

REPAIR, RETRY = "repair", "retry"


class Repairing(Core):
    """What goes back to pending leaves the counters of its batch and its user with it (invariant 3)."""

    def wrong_batches(self, pass_id: int) -> list[int]:
        """The batches that have MISMATCH or MISSING copies, by this pass, which no repair has answered yet."""
        verdicts = schema.verdicts
        with self._read() as connection:
            found = connection.execute(
                _wrong(select(verdicts.c.number), pass_id).distinct().order_by(verdicts.c.number)
            )
            return [int(number) for number in found.scalars()]

    def wrong_copies(self, pass_id: int, number: int) -> list[int]:
        """The ordinals of these copies in one batch."""
        verdicts = schema.verdicts
        with self._read() as connection:
            query = _wrong(select(verdicts.c.ordinal), pass_id).where(verdicts.c.number == number)
            return [int(ordinal) for ordinal in connection.execute(query.order_by(verdicts.c.ordinal)).scalars()]

    def reopen(self, pass_id: int, number: int, sealed: Mapping[int, SealedCopy], run_id: int, now: datetime) -> int:
        """Put the MISMATCH and MISSING copies of one batch back to pending; how many. Doing it again changes nothing.

        `sealed` tells of each, by ordinal, its outcome, owner and size. LaterError while the batch is leased. Older verdicts on
        the same copies, of whatever pass, are void with it. Copies of users whose home has moved, or who went back or are
        forgotten, are not put back: what is at the targets is not ours to judge any more, so what was found there is dropped.
        """
        verdicts, batches = schema.verdicts, schema.batches
        with self._write() as connection:
            query = _wrong(select(verdicts), pass_id).where(verdicts.c.number == number).order_by(verdicts.c.ordinal)
            rows = connection.execute(query.with_for_update(of=[verdicts, batches])).all()
            if not rows:
                return 0
            plan_id = rows[0].plan_id
            _demand_unleased(connection, plan_id, [number])
            away = _away(connection, {copy.user_id for copy in sealed.values()})
            gone = [row.ordinal for row in rows if _sealed_copy(sealed, number, row.ordinal).user_id in away]
            if gone:
                drop_wrong(connection, plan_id, {number: gone})
                rows = [row for row in rows if row.ordinal not in set(gone)]
            if not rows:
                return 0
            copies = [_sealed_copy(sealed, number, row.ordinal) for row in rows]
            _put_back(connection, plan_id, number, [(row.ordinal, row.etag) for row in rows], run_id, now)
            _uncount(connection, plan_id, number, copies)
            _users_lose(connection, plan_id, Counter(copy.user_id for copy in copies))
            check_again(connection, plan_id, [number])
            pause_at(PausePoint.COPIES_REOPENING)
        return len(rows)

    def lost_batches(self, pass_id: int) -> list[int]:
        """The batches whose receipts could not be read in this pass, and that no repair has answered yet."""
        verdicts = schema.verdicts
        with self._read() as connection:
            found = connection.execute(_lost(select(verdicts.c.number), pass_id).distinct().order_by(verdicts.c.number))
            return [int(number) for number in found.scalars()]

    def reopen_lost(
        self, pass_id: int, number: int, planned: Mapping[int, UnsealedCopy], run_id: int, now: datetime
    ) -> PutBack:
        """Put every copy of a batch back to pending whose receipt is lost with its seal. Again changes nothing.

        `planned` has all copies of the batch, by ordinal. The seal stays in the chain, and their rows in it are void: the next
        run makes new receipts, from what it finds at the target. Copies of users whose home has moved, or who went back or are
        forgotten, stay as they are: nothing is made of them any more, and the sealed file may come back. LaterError while
        somebody works on the batch.
        """
        verdicts, batches, copies = schema.verdicts, schema.batches, schema.copies
        with self._write() as connection:
            query = _lost(select(verdicts.c.plan_id), pass_id).where(verdicts.c.number == number)
            plan_id = connection.execute(query.limit(1).with_for_update(of=[batches])).scalar()
            if plan_id is None:
                return PutBack(0, 0)
            _demand_unleased(connection, plan_id, [number])
            batch = connection.execute(select(batches).where(in_batch(batches, plan_id, number))).one()
            opened = dict(
                connection.execute(
                    select(copies.c.ordinal, copies.c.outcome).where(in_batch(copies, plan_id, number))
                ).all()
            )
            if any(columns.OUTCOMES[outcome].has_receipt for outcome in opened.values()):
                raise LaterError(f"batch {number} is half copied", remedy="`migrate run` first, then repair.")
            lost = {ordinal: copy for ordinal, copy in planned.items() if ordinal not in opened}
            _demand_counted(batch, lost)
            away = _away(connection, {copy.user_id for copy in lost.values()})
            kept = [copy for copy in lost.values() if copy.user_id in away]
            lost = {ordinal: copy for ordinal, copy in lost.items() if copy.user_id not in away}
            seen = connection.execute(
                _wrong(select(verdicts.c.ordinal, verdicts.c.etag), pass_id).where(verdicts.c.number == number)
            ).all()
            etags = {row.ordinal: row.etag for row in seen}  # what a check saw before the seal was lost
            group = [(ordinal, etags.get(ordinal)) for ordinal in sorted(lost)]
            connection.execute(
                delete(verdicts).where(in_batch(verdicts, plan_id, number), verdicts.c.reason == SEAL_LOST)
            )
            if lost:
                _put_back(connection, plan_id, number, group, run_id, now)
                copied = min(batch.copied, len(kept))  # which of them were present, the seal alone could say
                left = {"copied": copied, "present": len(kept) - copied}
                left["done_bytes"] = sum(copy.size_bytes for copy in kept)
                _to_pending(connection, batch, **left, voided=batch.voided + len(lost))
                _users_lose(connection, plan_id, Counter(copy.user_id for copy in lost.values()))
            findings = schema.findings
            connection.execute(
                update(findings)
                .where(in_batch(findings, plan_id, number), findings.c.kind == SEAL_LOST)
                .values(answered=True)
            )
            check_again(connection, plan_id, [number])
        return PutBack(len(lost), len(kept))

    def retry_quarantined(self, plan_id: int, waves: Sequence[int] | None, run_id: int, now: datetime) -> int:
        """Put all quarantined copies of the waves (None: of the plan) back to pending; how many.

        Whoever leases them withdraws those of users whose home has moved, or who went back or are forgotten: so they are settled
        for good. LaterError while a batch among them is leased.
        """
        batches, copies, users = schema.batches, schema.copies, schema.users
        with self._write() as connection:
            wanted = [batches.c.plan_id == plan_id, batches.c.quarantined > 0]
            if waves is not None:
                wanted.append(batches.c.wave.in_(list(waves)))
            found = connection.execute(
                select(batches).where(*wanted).order_by(batches.c.number).with_for_update()
            ).all()
            _demand_unleased(connection, plan_id, [batch.number for batch in found])
            tallied = 0
            for batch in found:
                of_batch = [
                    in_batch(copies, plan_id, batch.number),
                    copies.c.outcome == columns.OUTCOME_CODES[Outcome.QUARANTINED],
                ]
                tallied += connection.execute(
                    select(func.count()).where(*of_batch, copies.c.tallied.is_(True))
                ).scalar_one()
                changed = connection.execute(
                    update(copies)
                    .where(*of_batch)
                    .values(
                        outcome=columns.OUTCOME_CODES[Outcome.PENDING],
                        reason=RETRY,
                        detail=None,
                        etag=None,
                        tallied=False,
                        run_id=run_id,
                        at=columns.to_micros(now),
                    )
                ).rowcount
                if changed != batch.quarantined:
                    raise IntegrityError(
                        f"batch {batch.number} counts {batch.quarantined} quarantined copies and has {changed}"
                    )
                _to_pending(connection, batch, quarantined=0)
            # the literal text lets the index be used
            of_users = [users.c.plan_id == plan_id, literal_column("users.quarantined > 0")]
            if waves is not None:
                of_users.append(users.c.wave.in_(list(waves)))
            _users_retry(connection, of_users, tallied)
            check_again(connection, plan_id, [batch.number for batch in found])
        return sum(batch.quarantined for batch in found)


def _wrong(query: Select[Any], pass_id: int) -> Select[Any]:
    """Narrow a query on verdicts to those that found a difference, and that nothing has answered yet."""
    return _of_pass(query, pass_id).where(is_wrong())


def _lost(query: Select[Any], pass_id: int) -> Select[Any]:
    """Narrow a query on verdicts to those that could not be given for want of a receipt. A repair deletes them."""
    verdicts = schema.verdicts
    return _of_pass(query, pass_id).where(verdicts.c.verdict == Verdict.UNKNOWN.value, verdicts.c.reason == SEAL_LOST)


def _of_pass(query: Select[Any], pass_id: int) -> Select[Any]:
    """Narrow a query on verdicts to those of a pass, beside their batches."""
    verdicts, batches = schema.verdicts, schema.batches
    return query.join(
        batches, (batches.c.plan_id == verdicts.c.plan_id) & (batches.c.number == verdicts.c.number)
    ).where(verdicts.c.pass_id == pass_id)


def _demand_unleased(connection: Connection, plan_id: int, numbers: list[int]) -> None:
    leases = schema.leases
    leased = set(connection.execute(select(leases.c.number).where(leases.c.plan_id == plan_id)).scalars())
    if busy := leased.intersection(numbers):
        raise LaterError(
            f"{len(busy)} of the batches are leased by a worker",
            remedy="wait until the run or verification under way has ended",
        )


def _sealed_copy(sealed: Mapping[int, SealedCopy], number: int, ordinal: int) -> SealedCopy:
    copy = sealed.get(ordinal)
    if copy is None or not copy.outcome.has_receipt:
        raise IntegrityError(f"batch {number}: copy {ordinal} has a verdict, but no sealed receipt")
    return copy


def _away(connection: Connection, user_ids: Collection[str]) -> set[str]:
    """Those of these users whose home has moved, or who went back or are forgotten. Their rows are held to the end of the
    transaction."""
    users, away = schema.users, [state.value for state in WRITTEN_SINCE]
    found: set[str] = set()
    for chunk in chunks(sorted(user_ids)):
        query = select(users.c.user_id).where(users.c.user_id.in_(chunk), users.c.state.in_(away))
        found.update(connection.execute(query.order_by(users.c.user_id).with_for_update(key_share=True)).scalars())
    return found


def _demand_counted(batch: Row[Any], lost: Mapping[int, UnsealedCopy]) -> None:
    """The copies without a row are just those that the batch counts as copied or present (invariant 3)."""
    sums = (len(lost), sum(copy.size_bytes for copy in lost.values()))
    if sums != (batch.copied + batch.present, batch.done_bytes):
        raise IntegrityError(f"batch {batch.number} counts other receipts than the plan has copies for")


def _put_back(
    connection: Connection,
    plan_id: int,
    number: int,
    group: Sequence[tuple[int, str | None]],
    run_id: int,
    now: datetime,
) -> None:
    """Make rows of pending copies: ordinal, and the ETag that was seen at the target, which may be replaced."""
    copies, verdicts, passes, checks = schema.copies, schema.verdicts, schema.passes, schema.checks
    at = columns.to_micros(now)
    connection.execute(
        insert(copies),
        [
            {
                "plan_id": plan_id,
                "number": number,
                "ordinal": ordinal,
                "outcome": columns.OUTCOME_CODES[Outcome.PENDING],
                "etag": None if etag is None else columns.pack_etag(etag),
                "reason": REPAIR,
                "run_id": run_id,
                "at": at,
            }
            for ordinal, etag in group
        ],
    )
    # a check under way must not believe what it saw before the repair
    connection.execute(
        delete(verdicts).where(
            in_batch(verdicts, plan_id, number),
            verdicts.c.ordinal == bindparam("of_copy"),
            verdicts.c.pass_id.in_(
                select(checks.c.pass_id).where(
                    in_batch(checks, plan_id, number), checks.c.state != CheckState.DONE.value
                )
            ),
        ),
        [{"of_copy": ordinal} for ordinal, _ in group],
    )
    connection.execute(
        update(verdicts)
        .where(
            verdicts.c.pass_id.in_(select(passes.c.id).where(passes.c.plan_id == plan_id)),
            in_batch(verdicts, plan_id, number),
            verdicts.c.ordinal == bindparam("of_copy"),
            among(verdicts.c.verdict, WRONG),
        )
        .values(reopened=True),
        [{"of_copy": ordinal} for ordinal, _ in group],
    )


def _uncount(connection: Connection, plan_id: int, number: int, copies: Sequence[SealedCopy]) -> None:
    batches = schema.batches
    batch = connection.execute(select(batches).where(in_batch(batches, plan_id, number))).one()
    counts = Counter(copy.outcome for copy in copies)
    _to_pending(
        connection,
        batch,
        copied=batch.copied - counts[Outcome.COPIED],
        present=batch.present - counts[Outcome.PRESENT],
        done_bytes=batch.done_bytes - sum(copy.size_bytes for copy in copies),
        voided=batch.voided + len(copies),
    )


def _to_pending(connection: Connection, batch: Row[Any], **values: int) -> None:
    """Set a batch's counters, and put it back to pending if it was done. Its row is locked, and it is not leased."""
    batches = schema.batches
    if batch.state != BatchState.PENDING.value:
        check_batch_move(BatchState(batch.state), BatchState.PENDING)
    connection.execute(
        update(batches)
        .where(in_batch(batches, batch.plan_id, batch.number), batches.c.state == batch.state)
        .values(state=BatchState.PENDING.value, **values)
    )


def _users_lose(connection: Connection, plan_id: int, lost: Mapping[str, int]) -> None:
    """Users whose copies went back are no longer whole, and nothing is known of them by any pass."""
    users = schema.users
    whole = may_become(UserState.COPYING, of=[UserState.COPIED, UserState.VERIFIED, UserState.READY])
    statement = (
        update(users)
        .where(users.c.user_id == bindparam("of_user"), users.c.plan_id == plan_id)
        .values(
            good=users.c.good - bindparam("lost"),
            matched=0,
            matched_pass=None,
            state=case((among(users.c.state, whole), UserState.COPYING.value), else_=users.c.state),
        )
    )
    changed = 0
    for chunk in chunks(sorted(lost.items())):
        changed += connection.execute(
            statement, [{"of_user": user_id, "lost": count} for user_id, count in chunk]
        ).rowcount
    if changed != len(lost):
        raise IntegrityError(f"{len(lost) - changed} users of reopened copies have no row in the ledger")


def _users_retry(connection: Connection, of_users: list[Any], tallied: int) -> None:
    """Users whose quarantined copies are tried again: no pass has seen the copies that come of it."""
    users = schema.users
    counted = connection.execute(select(func.coalesce(func.sum(users.c.quarantined), 0)).where(*of_users)).scalar_one()
    if counted != tallied:
        raise IntegrityError(f"users count {counted} quarantined copies, their batches {tallied}")
    again = may_become(UserState.COPYING, of=[UserState.QUARANTINED])
    connection.execute(
        update(users)
        .where(*of_users)
        .values(
            quarantined=0,
            matched=0,
            matched_pass=None,
            state=case((users.c.state.in_(again), UserState.COPYING.value), else_=users.c.state),
        )
    )
