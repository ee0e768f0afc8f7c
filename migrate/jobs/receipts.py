"""The ETags that the receipts of a line's copies name, batch by batch, for who moves users one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache

from migrate.errors import SealLostError
from migrate.jobs.registered import no_copy_yet, registered
from migrate.ledger import Ledger, Seal, SealKind
from migrate.planner.folder import Plan
from migrate.worker.seals import Seals
from migrate.workspace import Workspace

_REMEMBERED = 16  # batches: users come in order of their ids, and mostly so do batches


class ReceiptEtags:
    """For the thread that talks to the ledger. `opened_receipts` opens and closes it."""

    def __init__(self, plans: Sequence[Plan], ids: Sequence[int], seals: Sequence[Seals], ledger: Ledger) -> None:
        self._levels = [plan.spec.verify.level for plan in plans]
        self._ids = ids
        self._seals = seals
        self._ledger = ledger
        self.of = lru_cache(_REMEMBERED)(self._read)

    def _read(self, place: int, number: int) -> Mapping[int, str]:
        """By ordinal, the ETags of the receipts in a batch of the line's plan at `place`; a copy whose receipt cannot be had is
        left out."""
        proof = self._ledger.proof(self._ids[place], number, self._levels[place])
        etags: dict[int, str] = {}
        for seal in proof.seals:  # oldest first: a later receipt voids an earlier one
            if seal.kind is SealKind.RECEIPTS:
                etags |= dict(etags_of(self._seals[place], seal))
        for row in proof.rows:
            etags.pop(row.ordinal, None)
            if row.receipt is not None:
                etags[row.ordinal] = row.receipt.etag
        return etags


@contextmanager
def opened_receipts(plans: Sequence[Plan], workspace: Workspace, ledger: Ledger) -> Iterator[ReceiptEtags]:
    """Those of a line of plans, oldest first. LaterError where one of them was never run with this ledger."""
    ids = []
    for plan in plans:
        found = registered(plan, ledger)
        if found is None:
            raise no_copy_yet(plan)
        ids.append(found)
    with ExitStack() as held:
        seals = [Seals(workspace.seals, plan.digest) for plan in plans]
        for each in seals:
            held.callback(each.close)
        yield ReceiptEtags(plans, ids, seals, ledger)


def etags_of(reader: Seals, seal: Seal) -> list[tuple[int, str]]:
    """The ETags of a seal's receipts, by ordinal; none where it is lost: what it said is not known any more."""
    try:
        return [(ordinal, receipt.etag) for ordinal, _, receipt in reader.receipts_of(seal)]
    except SealLostError:
        return []
