"""A tombstone: what an earlier plan has copied of an object that the source has deleted since is removed at the targets.

The source is asked first: a tombstone stands for a listing, and what is there all the same is not taken away. At the target only
what carries the ETag of the line's receipt, or the one that a verification saw there, is taken away; anything else is left alone,
and the copy quarantined as `occupied` (design, invariant 2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from migrate.errors import NotFoundError, PermanentStoreError, StoreError, TransientStoreError
from migrate.model import (
    DELETED,
    Attributes,
    CopyResult,
    Evidence,
    Outcome,
    PlannedCopy,
    PlannedObject,
    Receipt,
    attributes_digest,
)
from migrate.pauses import PausePoint, pause_at
from migrate.stores.base import Store
from migrate.transfer.caller import Caller
from migrate.transfer.whole import failed, occupied

_NOTHING = hashlib.sha256(b"").digest()
_NO_ATTRIBUTES = attributes_digest(Attributes(), {})


def remove_copies(
    planned: PlannedObject,
    copies: Sequence[PlannedCopy],
    replaceable: Mapping[int, str | None],
    caller: Caller,
    now: Callable[[], datetime],
) -> list[CopyResult]:
    """Remove the object's copies; a result each: `copied` where something was taken away, `present` where nothing was there.

    UnreachableError where a store is down: nothing is settled then, and the copies stay pending.
    """
    if planned.flag == DELETED:
        try:
            caller.call(planned.store, lambda store: store.head(planned.key))
        except NotFoundError:
            pass
        except StoreError as error:
            return [failed(copy, error) for copy in copies]
        else:
            return [CopyResult(copy.ordinal, Outcome.DRIFTED, reason="there_again") for copy in copies]
    return [_remove(planned, copy, replaceable.get(copy.ordinal), caller, now) for copy in copies]


def _remove(
    planned: PlannedObject, copy: PlannedCopy, etag: str | None, caller: Caller, now: Callable[[], datetime]
) -> CopyResult:
    def remove(store: Store) -> bool:
        """Whether what is there is ours, and taken away. NotFoundError, after a second look (`Caller`), where nothing is."""
        found = store.head(planned.target_key)
        if etag is None or found.etag != etag:
            return False
        store.delete(planned.target_key)
        pause_at(PausePoint.OBJECT_REMOVED)
        if (
            found.version_id is not None
        ):  # under a delete marker by now, so that no version from before ours shows again
            store.delete(planned.target_key, version_id=found.version_id)
        if _is_there(store, planned.target_key):
            raise TransientStoreError(store.name, "DELETE", "the object is still there", key=planned.target_key)
        return True

    def remove_behind(store: Store) -> None:
        """Take away the version of ours that an earlier try has left behind the delete marker that it wrote."""
        for page in store.list_versions(planned.target_key):
            for info in page:
                if info.key == planned.target_key and info.etag == etag and not info.is_delete_marker:
                    store.delete(planned.target_key, version_id=info.version_id)
            if any(info.key != planned.target_key for info in page):
                break

    outcome = Outcome.COPIED
    try:
        try:
            if not caller.call(copy.store, remove):
                return occupied(copy)
        except NotFoundError:
            outcome = Outcome.PRESENT
            if etag is not None and caller.store(copy.store).capabilities.versions:
                caller.call(copy.store, remove_behind)
    except (PermanentStoreError, TransientStoreError) as error:
        return failed(copy, error)
    return CopyResult(copy.ordinal, outcome, receipt_of_nothing(now()))


def receipt_of_nothing(at: datetime) -> Receipt:
    """That of a tombstone: nothing was there any more."""
    return Receipt(_NOTHING, 0, _NO_ATTRIBUTES, "", None, Evidence.LENGTH, at)


def _is_there(store: Store, key: str) -> bool:
    try:
        store.head(key)
    except NotFoundError:
        return False
    return True
