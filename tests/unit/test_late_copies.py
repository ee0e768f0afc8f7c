"""What a cutover that broke off has left, as a verification takes it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from planning import MODIFIED, spec_with

from migrate.ledger import LateCopy
from migrate.model import Category, Evidence, PlannedCopy, PlannedObject, Receipt, TargetRole
from migrate.worker.kept import as_cut_over

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SPEC = spec_with()
RECEIPT = Receipt(bytes(32), 0, bytes(32), "there", None, Evidence.MD5, NOW)
PLANNED = PlannedObject(
    "anna", "singapore", "k", None, "old", 1, MODIFIED, Category.RESTRICTED, "photos", "k", None,
    (PlannedCopy(6, TargetRole.HOME, "hamar"), PlannedCopy(7, TargetRole.BACKUP, "dublin-1")),
)  # fmt: skip


def late(role: TargetRole, store: str, receipt: Receipt | None) -> LateCopy:
    return LateCopy(
        "anna", 1, 1, store, "k", role, None, "new", 2, MODIFIED, Category.RESTRICTED, "photos", None, "at", "k", receipt
    )  # fmt: skip


@pytest.mark.parametrize("store", ["us", "singapore"])
def test_an_object_that_was_brought_late_stands_for_the_one_of_the_plan(store: str) -> None:
    """Also where the plan has read it from a backup, which alone had it then: else a repair would put the old one back."""
    copies = [late(role, store, RECEIPT) for role in TargetRole]
    (found,), receipts = as_cut_over([PLANNED], {"anna": copies}, SPEC)
    assert (found.store, found.etag, found.size, found.copies) == (store, "new", 2, PLANNED.copies)
    assert receipts == {6: RECEIPT, 7: RECEIPT}


def test_what_was_not_brought_to_both_sites_is_as_the_plan_has_it() -> None:
    """The twin, and one of another key."""
    half = [late(TargetRole.HOME, "us", RECEIPT), late(TargetRole.BACKUP, "us", None)]
    other = [late(role, "us", RECEIPT)._replace(key="l") for role in TargetRole]
    for copies in (half, other):
        assert as_cut_over([PLANNED], {"anna": copies}, SPEC) == ([PLANNED], {})
