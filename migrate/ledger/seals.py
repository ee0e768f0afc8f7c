"""The chain of seals of a plan: each seal's link covers the one before, so that none can be changed or lost unnoticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection, Row

from migrate.errors import IntegrityError
from migrate.ledger import schema
from migrate.ledger.core import CHUNK, Core, in_batch
from migrate.ledger.rows import Lease, NewSeal, Seal, SealKind


class Seals(Core):
    """Reading and checking the seals. They are written by the transaction that ends a batch or a check."""

    def seals(self, plan_id: int, number: int, kind: SealKind) -> list[Seal]:
        """A batch's seals of one kind, oldest first. A later receipt of a copy voids an earlier one."""
        seals = schema.seals
        with self._read() as connection:
            rows = connection.execute(
                select(seals)
                .where(in_batch(seals, plan_id, number), seals.c.kind == kind.value)
                .order_by(seals.c.sequence)
            ).all()
        return [seal_of(row) for row in rows]

    def check_chain(self, plan_id: int) -> int:
        """Walk all seals of a plan from the first, and say how many there are. IntegrityError as `chain`."""
        return sum(1 for _ in self.chain(plan_id))

    def chain(self, plan_id: int) -> Iterator[Seal]:
        """All seals of a plan, in order; IntegrityError where one is missing or was changed.

        Read by the thousand, each time in a transaction of its own: a chain only grows, and nobody waits for the whole walk.
        """
        seals, plans = schema.seals, schema.plans
        with self._read() as connection:
            digest = connection.execute(select(plans.c.digest).where(plans.c.id == plan_id)).scalar_one()
        link, sequence = first_link(digest), 0
        while True:
            query = select(seals).where(seals.c.plan_id == plan_id, seals.c.sequence > sequence)
            with self._read() as connection:
                rows = connection.execute(query.order_by(seals.c.sequence).limit(CHUNK)).all()
            if not rows:
                return
            for seal in map(seal_of, rows):
                sequence += 1
                link = next_link(link, seal.digest, seal.kind, seal.number, seal.pass_id, seal.rows)
                if seal.sequence != sequence or seal.chain != link:
                    raise IntegrityError(
                        f"plan {digest[:16]}: the chain of seals is broken at {sequence}",
                        remedy="a seal was changed or is missing; compare with a backup of the ledger",
                    )
                yield seal


def first_link(plan_digest: str) -> bytes:
    """What the first seal of a plan is chained to."""
    return hashlib.sha256(b"migrate seals of plan " + plan_digest.encode("ascii")).digest()


def next_link(previous: bytes, digest: bytes, kind: SealKind, number: int, pass_id: int | None, rows: int) -> bytes:
    """SHA-256 over the link before, the seal's digest, and what it is the seal of."""
    what = f"{kind.value}:{number}:{'-' if pass_id is None else pass_id}:{rows}"
    return hashlib.sha256(previous + digest + what.encode("ascii")).digest()


def append_seal(connection: Connection, lease: Lease, kind: SealKind, seal: NewSeal) -> None:
    """Add the seal of a batch to its plan's chain. The plan's row is locked, because a chain grows at one end."""
    seals, plans, workers = schema.seals, schema.plans, schema.workers
    digest = connection.execute(
        select(plans.c.digest).where(plans.c.id == lease.plan_id).with_for_update(key_share=True)
    ).scalar_one()
    run_id = connection.execute(select(workers.c.run_id).where(workers.c.id == lease.worker_id)).scalar_one()
    last = connection.execute(
        select(seals.c.sequence, seals.c.chain)
        .where(seals.c.plan_id == lease.plan_id)
        .order_by(seals.c.sequence.desc())
        .limit(1)
    ).first()
    sequence, previous = (0, first_link(digest)) if last is None else (last.sequence, bytes(last.chain))
    row = {
        "plan_id": lease.plan_id,
        "sequence": sequence + 1,
        "number": lease.number,
        "kind": kind.value,
        "pass_id": lease.pass_id,
        "rows": seal.rows,
        "digest": seal.digest,
        "chain": next_link(previous, seal.digest, kind, lease.number, lease.pass_id, seal.rows),
        "run_id": run_id,
    }
    connection.execute(insert(seals).values(row))


def seal_of(row: Row[Any]) -> Seal:
    """A row of `seals`."""
    return Seal(
        plan_id=row.plan_id,
        sequence=row.sequence,
        number=row.number,
        kind=SealKind(row.kind),
        pass_id=row.pass_id,
        rows=row.rows,
        digest=bytes(row.digest),
        chain=bytes(row.chain),
        run_id=row.run_id,
    )
