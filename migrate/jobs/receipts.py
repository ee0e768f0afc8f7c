"""What the receipts of a line's copies say, batch by batch, for who moves, purges or forgets users one by one.

The last receipt of a copy says what is to be at its target. It stands in a seal, or in a row of the ledger while its batch is
open; a row without one is of a copy that was put back, or of which nothing came, and voids what was sealed before. A seal that
cannot be had may have held a later one, so of what only older seals name the last receipt is not known: who moves or purges
leaves such a user where they are. Who forgets asks what may be ours, and that any receipt says, be it void or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache

from migrate.errors import SealLostError
from migrate.jobs.registered import no_copy_yet, registered
from migrate.ledger import CopyRow, Ledger, Seal, SealKind
from migrate.planner.folder import Plan
from migrate.worker.seals import SealedReceipt, Seals
from migrate.workspace import Workspace

_REMEMBERED = 16  # batches: users come in order of their ids, and mostly so do batches


@dataclass(frozen=True, slots=True)
class Proved:
    """Of one batch, by ordinal: the ETag and version of each copy's last receipt, as far as it can be had; the ETags of all other
    receipts; what the ledger has of single copies beside the seals. `lost`: what kept us from reading a seal."""

    last: Mapping[int, tuple[str, str | None]]
    others: Mapping[int, set[str]]
    rows: Mapping[int, CopyRow]
    lost: SealLostError | None

    def has_receipt(self, ordinal: int) -> bool:
        """Whether any receipt of the copy can be had, be it void by now."""
        return ordinal in self.last or ordinal in self.others

    def etags_of(self, ordinal: int) -> set[str]:
        """All that receipts of the copy have ever named; a tombstone's names none."""
        last = self.last.get(ordinal)
        return {*self.others.get(ordinal, ()), *([] if last is None else [last[0]])} - {""}


class Receipts:
    """Of a line of plans, oldest first; a batch is named by its plan's place there. For the thread that talks to the ledger.

    `opened_receipts` opens and closes it. `ids` are the plans' numbers in the ledger.
    """

    def __init__(
        self, plans: Sequence[Plan], ids: Sequence[int], seals: Sequence[Seals | None], ledger: Ledger
    ) -> None:
        self.ids = ids
        self._levels = [plan.spec.verify.level for plan in plans]
        self._seals = seals
        self._ledger = ledger
        self.of = lru_cache(_REMEMBERED)(self._read)

    def _read(self, place: int, number: int) -> Proved:
        """What a batch of the plan at `place` has proved."""
        proof = self._ledger.proof(self.ids[place], number, self._levels[place])
        rows = {row.ordinal: row for row in proof.rows}
        last: dict[int, tuple[str, str | None]] = {}
        others: dict[int, set[str]] = {}
        lost: SealLostError | None = None
        for row in rows.values():
            if row.receipt is not None:
                last[row.ordinal] = (row.receipt.etag, row.receipt.version_id)
        for seal in reversed(proof.seals):  # the newest first
            if seal.kind is not SealKind.RECEIPTS:
                continue
            try:
                receipts = self._receipts_of(place, seal)
            except SealLostError as error:
                lost = lost or error
                continue
            for ordinal, _, receipt in receipts:
                if lost is None and ordinal not in rows and ordinal not in last:
                    last[ordinal] = (receipt.etag, receipt.version_id)
                else:
                    others.setdefault(ordinal, set()).add(receipt.etag)
        return Proved(last, others, rows, lost)

    def _receipts_of(self, place: int, seal: Seal) -> list[SealedReceipt]:
        reader = self._seals[place]
        if reader is None:
            raise SealLostError("the folder of sealed receipts is not here", "", remedy="Bring .migrate/seals back.")
        return reader.receipts_of(seal)


@contextmanager
def opened_receipts(plans: Sequence[Plan], workspace: Workspace, ledger: Ledger) -> Iterator[Receipts]:
    """Those of a line of plans, oldest first. LaterError where one of them was never run with this ledger."""
    ids: list[int] = []
    with ExitStack() as held:
        seals: list[Seals | None] = []
        for plan in plans:
            plan_id = registered(plan, ledger)
            if plan_id is None:
                raise no_copy_yet(plan)
            ids.append(plan_id)
            # a reader makes its folder, and a plan counts as begun once it has one
            is_here = Seals.folder_of(workspace.seals, plan.digest).is_dir()
            seals.append(Seals(workspace.seals, plan.digest) if is_here else None)
            if (reader := seals[-1]) is not None:
                held.callback(reader.close)
        yield Receipts(plans, ids, seals, ledger)
