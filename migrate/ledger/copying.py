"""What a worker writes while it copies a batch: outcomes and receipts, uploads and parts, and the end of the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, case, delete, exists, func, insert, select, update
from sqlalchemy.engine import Connection, Row

from migrate.errors import IntegrityError
from migrate.ledger import columns, schema
from migrate.ledger.core import (
    Core,
    batch_params,
    chunks,
    demand_lease,
    forgotten_elsewhere,
    in_batch,
    move_batch,
    of_batch,
)
from migrate.ledger.engine import insert_many, upsert
from migrate.ledger.rows import CopyRow, Lease, NewSeal, PartRow, SealKind, UploadRow, UserTally
from migrate.ledger.seals import append_seal
from migrate.model import CopyResult, Outcome, Receipt
from migrate.pauses import PausePoint, pause_at
from migrate.states import BatchState, UserState

SETTLED = tuple(outcome for outcome in Outcome if outcome is not Outcome.PENDING)
RECEIPTS = tuple(outcome for outcome in Outcome if outcome.has_receipt)


# What each group of receipts runs is built once.
_ORDINALS = select(schema.copies.c.ordinal).where(
    of_batch(schema.copies), schema.copies.c.ordinal.between(bindparam("first"), bindparam("last"))
)
_UPLOADING = select(exists().where(of_batch(schema.uploads)))
_COUNTED = (
    update(schema.batches)
    .where(of_batch(schema.batches))
    .values(
        {
            name: schema.batches.c[name] + bindparam(f"more_{name}")
            for name in ("done_bytes", *(outcome.value for outcome in SETTLED))
        }
    )
)


class Copying(Core):
    """Every write here is fenced by the lease (invariant 5), and the sums move with the rows (invariant 3)."""

    def copy_rows(self, lease: Lease) -> list[CopyRow]:
        """The open rows of the batch, by ordinal: outcomes that are not sealed, and pending copies that were put back."""
        copies = schema.copies
        with self._read() as connection:
            rows = connection.execute(
                select(copies).where(in_batch(copies, lease.plan_id, lease.number)).order_by(copies.c.ordinal)
            ).all()
        return [copy_row(row) for row in rows]

    def record(
        self, lease: Lease, results: Sequence[CopyResult], *, sizes: Mapping[int, int], run_id: int, now: datetime
    ) -> None:
        """Commit a group of outcomes. `sizes` has the bytes of each copy, by ordinal.

        A result that is in the ledger already, equal, changes nothing (invariant 2); another one for a copy that is settled is an
        IntegrityError. `now` is the time of results without a receipt.
        """
        if not results:
            return
        with self._write() as connection:
            demand_lease(connection, lease)
            known = _known(connection, lease, [result.ordinal for result in results])
            new: list[tuple[Any, ...]] = []
            again: list[tuple[Any, ...]] = []
            settled: dict[int, CopyResult] = {}
            for result in results:
                old = settled.get(result.ordinal) or known.get(result.ordinal)
                if old is None or old.outcome is Outcome.PENDING:
                    settled[result.ordinal] = result
                    (new if old is None else again).append(_values(lease, result, run_id, now))
                elif old != result:
                    raise IntegrityError(f"batch {lease.number}: copy {result.ordinal} has two different outcomes")
            if new:
                insert_many(connection, schema.copies, new)
            if again:
                _replace_pending(connection, again)
            if settled:
                if connection.execute(_UPLOADING, batch_params(lease.plan_id, lease.number)).scalar_one():
                    _drop_uploads(connection, lease, list(settled))
                _count(connection, lease, settled, sizes, run_id)
                pause_at(PausePoint.GROUP_COMMITTING)

    def uploads(self, lease: Lease) -> list[UploadRow]:
        """The multipart uploads of the batch that are under way, by ordinal."""
        uploads, parts = schema.uploads, schema.parts
        with self._read() as connection:
            rows = connection.execute(
                select(uploads).where(in_batch(uploads, lease.plan_id, lease.number)).order_by(uploads.c.ordinal)
            ).all()
            part_rows = connection.execute(
                select(parts)
                .where(in_batch(parts, lease.plan_id, lease.number))
                .order_by(parts.c.ordinal, parts.c.part)
            ).all()
        by_ordinal: dict[int, list[PartRow]] = {}
        for part in part_rows:
            by_ordinal.setdefault(part.ordinal, []).append(
                PartRow(part.ordinal, part.part, part.etag, bytes(part.sha256), part.size)
            )
        return [
            UploadRow(
                number=row.number,
                ordinal=row.ordinal,
                store=row.store,
                upload_id=row.upload_id,
                part_bytes=row.part_bytes,
                attributes=bytes(row.attributes),
                run_id=row.run_id,
                parts=tuple(by_ordinal.get(row.ordinal, ())),
            )
            for row in rows
        ]

    def start_upload(
        self,
        lease: Lease,
        ordinal: int,
        *,
        store: str,
        upload_id: str,
        part_bytes: int,
        attributes: bytes,
        run_id: int,
    ) -> None:
        """Write down a multipart upload before its first part is sent. It takes the place of an earlier one of the copy."""
        row = {
            "plan_id": lease.plan_id,
            "number": lease.number,
            "ordinal": ordinal,
            "store": store,
            "upload_id": upload_id,
            "part_bytes": part_bytes,
            "attributes": attributes,
            "run_id": run_id,
        }
        with self._write() as connection:
            demand_lease(connection, lease)
            _drop_uploads(connection, lease, [ordinal])
            connection.execute(insert(schema.uploads).values(row))

    def record_parts(self, lease: Lease, parts: Sequence[PartRow]) -> None:
        """Write down parts that the target has confirmed. A part that is sent again replaces what was there."""
        if not parts:
            return
        rows = [
            {
                "plan_id": lease.plan_id,
                "number": lease.number,
                "ordinal": part.ordinal,
                "part": part.part,
                "etag": part.etag,
                "sha256": part.sha256,
                "size": part.size,
            }
            for part in parts
        ]
        with self._write() as connection:
            demand_lease(connection, lease)
            statement = upsert(connection, schema.parts)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["plan_id", "number", "ordinal", "part"],
                    set_={name: statement.excluded[name] for name in ("etag", "sha256", "size")},
                ),
                rows,
            )

    def finish_copy(self, lease: Lease, seal: NewSeal | None, users: Mapping[str, UserTally]) -> None:
        """End a batch whose copies all have an outcome: its receipts leave for the sealed file, its users move on.

        `seal` holds exactly the open receipts; None where there is none. `users` has what was settled since the batch was last
        done. IntegrityError where any sum is off (invariant 3); then nothing has changed.
        """
        copies = schema.copies
        with self._write() as connection:
            demand_lease(connection, lease)
            sealed_before, voided, batch = _sealed(connection, lease)
            opened = _open_counts(connection, lease)
            _demand_whole(lease, batch, opened, sealed_before - voided, seal)
            _demand_tallies(lease, opened, users)
            if seal is not None:
                append_seal(connection, lease, SealKind.RECEIPTS, seal)
                connection.execute(
                    delete(copies).where(
                        in_batch(copies, lease.plan_id, lease.number),
                        copies.c.outcome.in_([columns.OUTCOME_CODES[outcome] for outcome in RECEIPTS]),
                    )
                )
            connection.execute(update(copies).where(in_batch(copies, lease.plan_id, lease.number)).values(tallied=True))
            connection.execute(delete(schema.leases).where(in_batch(schema.leases, lease.plan_id, lease.number)))
            move_batch(connection, lease.plan_id, lease.number, BatchState.LEASED, BatchState.DONE)
            add_tallies(connection, lease.plan_id, users)
            pause_at(PausePoint.BATCH_FINISHING)


def copy_row(row: Iterable[Any]) -> CopyRow:
    """From a row of `copies`, in the order of its columns: a batch's end reads all that it has."""
    _, _, ordinal, code, sha256, part_bytes, attributes, packed, version_id, evidence, *more = row
    reason, detail, run_id, at_us, tallied = more
    outcome, at = columns.OUTCOMES[code], columns.from_micros(at_us)
    etag = None if packed is None else columns.unpack_etag(packed)
    if not outcome.has_receipt:
        return CopyRow(ordinal, outcome, None, reason, detail, etag, run_id, at, tallied)
    assert etag is not None, "a receipt has one"
    receipt = Receipt(sha256, part_bytes, attributes, etag, version_id, columns.EVIDENCES[evidence], at)
    return CopyRow(ordinal, outcome, receipt, reason, detail, None, run_id, at, tallied)


def _values(lease: Lease, result: CopyResult, run_id: int, now: datetime) -> tuple[Any, ...]:
    """A row of `copies`, in the order of its columns."""
    receipt = result.receipt
    key = (lease.plan_id, lease.number, result.ordinal, columns.OUTCOME_CODES[result.outcome])
    if receipt is None:
        nothing = (None, None, None, None, None, None)
        return (*key, *nothing, result.reason, result.detail, run_id, columns.to_micros(now), False)
    return (
        *key,
        receipt.sha256,
        receipt.part_bytes,
        receipt.attributes,
        columns.pack_etag(receipt.etag),
        receipt.version_id,
        columns.EVIDENCE_CODES[receipt.evidence],
        result.reason,
        result.detail,
        run_id,
        columns.to_micros(receipt.at),
        False,
    )


def _known(connection: Connection, lease: Lease, ordinals: list[int]) -> dict[int, CopyResult]:
    copies = schema.copies
    between = {"first": min(ordinals), "last": max(ordinals)}
    seen = connection.execute(_ORDINALS, batch_params(lease.plan_id, lease.number) | between).scalars()
    if not (ordinals_known := set(ordinals).intersection(seen)):
        return {}  # the common case
    in_question = copies.c.ordinal.in_(ordinals_known)
    rows = connection.execute(select(copies).where(in_batch(copies, lease.plan_id, lease.number), in_question)).all()
    found = map(copy_row, rows)
    return {row.ordinal: CopyResult(row.ordinal, row.outcome, row.receipt, row.reason, row.detail) for row in found}


def _replace_pending(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    """Give pending copies their outcome, guarded by the state they were in."""
    copies = schema.copies
    names = [column.name for column in copies.columns]
    settable = [name for name in names if name not in copies.primary_key.columns]
    statement = (
        update(copies)
        .where(
            copies.c.plan_id == bindparam("new_plan_id"),
            copies.c.number == bindparam("new_number"),
            copies.c.ordinal == bindparam("new_ordinal"),
            copies.c.outcome == columns.OUTCOME_CODES[Outcome.PENDING],
        )
        .values({name: bindparam(f"new_{name}") for name in settable})
    )
    values = [{f"new_{name}": value for name, value in zip(names, row, strict=True)} for row in rows]
    if connection.execute(statement, values).rowcount != len(rows):
        raise IntegrityError("a copy that was pending a moment ago is not any more")


def _drop_uploads(connection: Connection, lease: Lease, ordinals: list[int]) -> None:
    uploads = schema.uploads
    found = connection.execute(
        select(uploads.c.ordinal).where(in_batch(uploads, lease.plan_id, lease.number))
    ).scalars()
    gone = set(ordinals).intersection(found)
    for table in (schema.parts, uploads):
        for ordinal in gone:
            connection.execute(
                delete(table).where(in_batch(table, lease.plan_id, lease.number), table.c.ordinal == ordinal)
            )


def _count(
    connection: Connection, lease: Lease, settled: Mapping[int, CopyResult], sizes: Mapping[int, int], run_id: int
) -> None:
    runs = schema.runs
    counts = Counter(result.outcome for result in settled.values())
    done_bytes = sum(sizes[ordinal] for ordinal, result in settled.items() if result.outcome.has_receipt)
    more = {f"more_{outcome.value}": counts[outcome] for outcome in SETTLED}
    connection.execute(_COUNTED, batch_params(lease.plan_id, lease.number) | more | {"more_done_bytes": done_bytes})
    if failures := counts[Outcome.QUARANTINED]:
        connection.execute(update(runs).where(runs.c.id == run_id).values(failures=runs.c.failures + failures))


def _sealed(connection: Connection, lease: Lease) -> tuple[int, int, Row[Any]]:
    """Rows in the batch's seals of receipts, how many of them a repair voided, and the batch."""
    seals, batches = schema.seals, schema.batches
    rows = connection.execute(
        select(func.coalesce(func.sum(seals.c.rows), 0)).where(
            in_batch(seals, lease.plan_id, lease.number), seals.c.kind == SealKind.RECEIPTS.value
        )
    ).scalar_one()
    batch = connection.execute(select(batches).where(in_batch(batches, lease.plan_id, lease.number))).one()
    return int(rows), batch.voided, batch


def _open_counts(connection: Connection, lease: Lease) -> Counter[tuple[Outcome, bool]]:
    """Open rows by outcome, and by whether their user's tally has them."""
    copies = schema.copies
    rows = connection.execute(
        select(copies.c.outcome, copies.c.tallied, func.count())
        .where(in_batch(copies, lease.plan_id, lease.number))
        .group_by(copies.c.outcome, copies.c.tallied)
    ).all()
    return Counter({(columns.OUTCOMES[outcome], tallied): count for outcome, tallied, count in rows})


def _demand_whole(
    lease: Lease, batch: Row[Any], opened: Counter[tuple[Outcome, bool]], sealed: int, seal: NewSeal | None
) -> None:
    """Every copy has one outcome, and the counters are the sums of sealed and open rows (invariant 3)."""
    by_outcome: Counter[Outcome] = Counter()
    for (outcome, _), count in opened.items():
        by_outcome[outcome] += count
    receipts = sum(by_outcome[outcome] for outcome in RECEIPTS)
    problems = []
    if by_outcome[Outcome.PENDING]:
        problems.append(f"{by_outcome[Outcome.PENDING]} copies are pending")
    if sum(batch._mapping[outcome.value] for outcome in SETTLED) != batch.copies:
        problems.append("not every copy has an outcome")
    if sealed + receipts != batch.copied + batch.present:
        problems.append(f"{sealed} sealed and {receipts} open receipts for {batch.copied + batch.present} copies")
    if (seal.rows if seal else 0) != receipts:
        problems.append(f"the seal has {seal.rows if seal else 0} rows for {receipts} open receipts")
    problems += [
        f"{by_outcome[outcome]} rows for {batch._mapping[outcome.value]} copies {outcome}"
        for outcome in SETTLED
        if not outcome.has_receipt and by_outcome[outcome] != batch._mapping[outcome.value]
    ]
    if problems:
        raise IntegrityError(f"batch {lease.number} cannot be done: {'; '.join(problems)}")


def _demand_tallies(lease: Lease, opened: Counter[tuple[Outcome, bool]], users: Mapping[str, UserTally]) -> None:
    """What the users are credited with is what was settled now, no more and no less (invariant 3)."""
    expected = (
        sum(opened[outcome, False] for outcome in RECEIPTS),
        opened[Outcome.QUARANTINED, False],
        opened[Outcome.DRIFTED, False] + opened[Outcome.WITHDRAWN, False],
    )
    given = (
        sum(tally.good for tally in users.values()),
        sum(tally.quarantined for tally in users.values()),
        sum(tally.other for tally in users.values()),
    )
    if given != expected:
        raise IntegrityError(
            f"batch {lease.number}: users are credited with {given}, but {expected} copies were settled"
            " (good, quarantined, other)"
        )


def add_tallies(connection: Connection, plan_id: int, users: Mapping[str, UserTally]) -> None:
    """Add to the users' tallies, and move those who are copying on to copied or quarantined. Who is forgotten in another line of
    plans has no row in this one: their copies are counted by the batch alone."""
    table = schema.users
    good = table.c.good + bindparam("more_good")
    quarantined = table.c.quarantined + bindparam("more_quarantined")
    moved = case(
        (table.c.state != UserState.COPYING.value, table.c.state),
        (quarantined > 0, UserState.QUARANTINED.value),
        (good == table.c.copies, UserState.COPIED.value),
        else_=table.c.state,
    )
    statement = (
        update(table)
        .where(table.c.user_id == bindparam("of_user"), table.c.plan_id == plan_id)
        .values(good=good, quarantined=quarantined, other=table.c.other + bindparam("more_other"), state=moved)
    )
    changed = 0
    for chunk in chunks(
        sorted(users.items())
    ):  # in one order, so that two batches of a user cannot wait for each other
        changed += connection.execute(
            statement,
            [
                {
                    "of_user": user_id,
                    "more_good": tally.good,
                    "more_quarantined": tally.quarantined,
                    "more_other": tally.other,
                }
                for user_id, tally in chunk
            ],
        ).rowcount
    if changed != len(users):
        changed += sum(len(forgotten_elsewhere(connection, chunk, plan_id)) for chunk in chunks(users))
    if changed != len(users):
        raise IntegrityError(f"{len(users) - changed} users of a batch have no row in the ledger")
