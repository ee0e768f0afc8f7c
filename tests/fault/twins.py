"""Products with one thing broken, each of which the model test must find. A twin is put in place by a MonkeyPatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from fibers import here
from modelworld import TARGETS

from migrate.errors import StoreError
from migrate.jobs import copying as jobs_copying
from migrate.ledger import copying as ledger_copying
from migrate.ledger import passes, repairing, verifying
from migrate.model import CheckResult, CopyResult, Level, Outcome, PlannedCopy, PlannedObject, Receipt, Verdict
from migrate.stores.memory import MemoryStore, place
from migrate.transfer import parted, whole
from migrate.transfer.caller import Caller
from migrate.transfer.removing import receipt_of_nothing
from migrate.transfer.whole import DriftedError, copy_whole, read_source
from migrate.verify import PrefixCheck, check_prefix
from migrate.worker import checking, copying


def receipts_before_the_bytes(patch: pytest.MonkeyPatch) -> None:
    """Invariant 1: the receipt is given out while the PUT is on its way."""

    def hasty(
        planned: PlannedObject,
        copies: Sequence[PlannedCopy],
        repairs: Mapping[int, str | None],
        caller: Caller,
        now: Callable[[], datetime],
    ) -> list[CopyResult]:
        fiber = here()
        assert fiber is not None
        try:
            body = read_source(planned, caller)
        except (DriftedError, StoreError):
            return copy_whole(planned, copies, repairs, caller, now)
        fiber.process.spawn("later", lambda: copy_whole(planned, copies, repairs, caller, now))
        receipt = Receipt(body.sha256, 0, body.attributes_digest, body.md5.hex(), None, body.evidence, now())
        return [CopyResult(copy.ordinal, Outcome.COPIED, receipt) for copy in copies]

    patch.setattr(copying, "copy_whole", hasty)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """Invariant 5: whoever had the lease once may write."""
    for module in (ledger_copying, verifying):
        patch.setattr(module, "demand_lease", lambda connection, lease: None)


def if_none_match_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Invariant 2: the store says that it refuses to overwrite, and does not refuse."""
    for name in TARGETS:
        patch.setattr(place(name), "able", replace(place(name).able, conditional_put=False))


class _Everything(dict[int, Any]):
    """Repairs of whatever is there."""

    def __contains__(self, key: object) -> bool:
        return True

    def get(self, key: int, default: Any = None) -> Any:
        return _Anything()


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def what_is_there_is_replaced(patch: pytest.MonkeyPatch) -> None:
    """Invariant 2: a copy that nobody repairs replaces what it finds."""
    patch.setattr(
        copying,
        "copy_whole",
        lambda planned, copies, _, caller, now: copy_whole(planned, copies, _Everything(), caller, now),
    )


def drift_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    """Section 6, source identity: the GET has no If-Match, and nobody compares ETags."""
    real = MemoryStore.get

    def get(self: MemoryStore, key: str, *, if_match: str | None = None, **others: Any) -> Any:
        return real(self, key, **others)

    patch.setattr(MemoryStore, "get", get)
    for module in (whole, parted):
        patch.setattr(module, "check_source", lambda planned, info: None)


def verification_trusts_the_receipt(patch: pytest.MonkeyPatch) -> None:
    """Invariant 8: nothing is read again."""

    def trusting(
        planned: PlannedObject, receipts: Mapping[int, Receipt], level: Level, caller: Caller
    ) -> list[CheckResult]:
        return [CheckResult(ordinal, Verdict.MATCH, None, receipt.etag) for ordinal, receipt in receipts.items()]

    patch.setattr(checking, "check_object", trusting)


def any_pass_moves_users_on(patch: pytest.MonkeyPatch) -> None:
    """Invariant 9: a look at a listing verifies users."""
    for module in (passes, verifying):
        patch.setattr(module, "wanted_level", lambda connection, found: Level.LISTING)


def extra_objects_are_not_told(patch: pytest.MonkeyPatch) -> None:
    """Invariant 9: what stands beside a user's copies is nobody's business."""

    def blind(*values: Any) -> PrefixCheck:
        return replace(check_prefix(*values), extras=())

    patch.setattr(checking, "check_prefix", blind)


def repairs_are_not_uncounted(patch: pytest.MonkeyPatch) -> None:
    """Invariant 3: copies that go back to pending stay in the counters."""
    real = repairing._to_pending

    def keep(connection: Any, batch: Any, **_: int) -> None:
        real(connection, batch)

    patch.setattr(repairing, "_to_pending", keep)


def deletions_are_only_written_down(patch: pytest.MonkeyPatch) -> None:
    """Invariant 1: a tombstone has its receipt, and the object stays."""

    def hasty(
        planned: PlannedObject, copies: Sequence[PlannedCopy], _1: object, _2: Caller, now: Callable[[], datetime]
    ) -> list[CopyResult]:
        return [CopyResult(copy.ordinal, Outcome.COPIED, receipt_of_nothing(now())) for copy in copies]

    patch.setattr(copying, "remove_copies", hasty)


def a_delta_waits_for_no_late_request(patch: pytest.MonkeyPatch) -> None:
    """Invariant 2: what the plan before has sent may land after what its delta has written."""
    patch.setattr(jobs_copying, "wait_for_requests", lambda *_, **__: None)
