"""Named places at which a crash leaves something half done: tests stop the process there, kill it, and look at what comes next.

With MIGRATE_PAUSE_AT=NAME in the environment the process stops itself at the point of that name, as on SIGSTOP; `NAME:3`
means the third time that it comes there. Whoever watches kills it, or wakes it by SIGCONT. Nothing else is done at a point,
and without the variable nothing at all. `tests/fault/test_crashes.py` kills at each of them.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from enum import StrEnum

VARIABLE = "MIGRATE_PAUSE_AT"


class PausePoint(StrEnum):
    """Each stands in the code at exactly one place. What is durable by then, and what is not, is its meaning."""

    # planning
    SEGMENT_SEALED = "segment-sealed"  # a segment of a listing is on disk, its state does not count it yet
    OBJECTS_WRITTEN = "objects-written"  # the plan's first file is on disk, the others are not
    PLAN_WRITTEN = "plan-written"  # all of the folder is on disk, without its name
    PLAN_NAMED = "plan-named"  # the folder has its name, which need not be durable

    # the ledger as a whole
    LEDGER_MADE = "ledger-made"  # inside the transaction that makes a ledger
    LEDGER_UPGRADED = "ledger-upgraded"  # inside the transaction that upgrades one
    PLAN_REGISTERING = "plan-registering"  # inside the transaction, between batches and users
    PLAN_REGISTERED = "plan-registered"  # registered; nothing is leased

    # copying
    BATCH_LEASED = "batch-leased"  # nothing of it is done
    OBJECT_READ = "object-read"  # in memory, nowhere else
    OBJECT_WRITTEN = "object-written"  # at a target, without a receipt
    OBJECT_REMOVED = "object-removed"  # a tombstone's, without a receipt
    GROUP_COMMITTING = "group-committing"  # inside the transaction, receipts inserted
    GROUP_COMMITTED = "group-committed"  # receipts committed, the batch goes on
    RECEIPTS_WRITING = "receipts-writing"  # a sealed file is on disk, without its name
    RECEIPTS_SEALED = "receipts-sealed"  # the file stands, the ledger does not know it
    BATCH_FINISHING = "batch-finishing"  # inside the transaction that ends a batch
    BATCH_FINISHED = "batch-finished"  # done; its users have moved on

    # a large object
    UPLOAD_CREATED = "upload-created"  # at the target, unknown to the ledger
    UPLOAD_RECORDED = "upload-recorded"  # in the ledger, without a part
    PART_SENT = "part-sent"  # at the target, unknown to the ledger
    PARTS_RECORDED = "parts-recorded"  # some parts are in the ledger
    PARTS_COMPLETE = "parts-complete"  # all of them are, and are not joined
    TAGS_UNSET = "tags-unset"  # joined on an S3 server, without its tags
    PARTS_JOINED = "parts-joined"  # the object stands, without a receipt

    # a user's cutover
    FREEZE_RECORDED = "freeze-recorded"  # frozen in the ledger; the platform was not asked yet
    USER_FROZEN = "user-frozen"  # the platform keeps the user's writers off
    LATE_PLANNED = "late-planned"  # the last delta is in the ledger, nothing of it was sent
    LATE_COPIED = "late-copied"  # it stands at the targets and was looked at again, without receipts
    LATE_CONFIRMED = "late-confirmed"  # its receipts are in the ledger, the home is what it was
    USER_FLIPPED = "user-flipped"  # the platform has the new home, the ledger does not know
    USER_UNFROZEN = "user-unfrozen"  # the same, and writers are let in again
    MOVE_RECORDED = "move-recorded"  # the ledger knows the flip, and no window yet

    # a user's way back
    RETURN_RECORDED = "return-recorded"  # returning in the ledger; the platform was not asked yet
    RETURN_FROZEN = "return-frozen"  # the platform keeps the user's writers off
    DELETIONS_PLANNED = "deletions-planned"  # what is to be deleted at the sources is in the ledger, and stands there
    DELETION_REPLAYED = "deletion-replayed"  # an object is gone at a source, others stand
    DELETIONS_REPLAYED = "deletions-replayed"  # all are gone at the sources, without receipts
    WRITES_SENT_BACK = "writes-sent-back"  # a source has what was written at the new home, the ledger does not know
    FLIPPED_BACK = "flipped-back"  # the platform has the old home, the ledger does not know
    RETURN_UNFROZEN = "return-unfrozen"  # the same, and writers are let in again

    # a user's purge
    PURGE_RECORDED = "purge-recorded"  # purging in the ledger; nothing is deleted
    SOME_DELETED = "some-deleted"  # a version, marker or upload is gone at a source
    ALL_DELETED = "all-deleted"  # all that the purge plan names, and the sources were not listed again
    SOURCES_EMPTIED = "sources-emptied"  # they were, and are empty of the user; the ledger does not know

    # forgetting a user
    USER_FORGOTTEN = "user-forgotten"  # in the ledger; nothing is erased
    OBJECT_ERASED = "object-erased"  # something of the user is gone at a target
    USER_ERASED = "user-erased"  # nothing is left there, and the ledger does not know

    # verifying
    CHECK_LEASED = "check-leased"  # a pass has begun, nothing of the batch is checked
    VERDICTS_COMMITTING = "verdicts-committing"  # inside the transaction, verdicts inserted
    VERDICTS_SEALED = "verdicts-sealed"  # the file stands, the ledger does not know it
    CHECK_FINISHING = "check-finishing"  # inside the transaction that ends a check
    PASS_ENDING = "pass-ending"  # all checks are done, the pass is not
    COPIES_REOPENING = "copies-reopening"  # inside the transaction of a repair


def _wanted(text: str) -> tuple[str, int]:
    name, _, times = text.partition(":")
    return name, int(times) if times.isdecimal() else 1


_NAME, _TIMES = _wanted(os.environ.get(VARIABLE, ""))
_count = itertools.count(1)


def pause_at(point: PausePoint) -> None:
    """Stop the process here, if that was asked for."""
    if point == _NAME and next(_count) == _TIMES:
        # to this thread: sent to the process, another thread might take it, and this one would go on for a while
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
