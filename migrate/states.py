"""The state machines: one table of allowed moves a kind (design, section 5). The ledger repeats each as a constraint."""

from __future__ import annotations

from enum import StrEnum

from migrate.errors import IntegrityError


class BatchState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"


class UserState(StrEnum):
    PLANNED = "planned"
    COPYING = "copying"
    COPIED = "copied"
    VERIFIED = "verified"
    READY = "ready"
    FROZEN = "frozen"
    CUT_OVER = "cut_over"
    OBSERVING = "observing"
    RETURNING = "returning"
    PURGING = "purging"
    PURGED = "purged"
    QUARANTINED = "quarantined"
    HELD = "held"
    REVIEW = "review"
    ROLLED_BACK = "rolled_back"
    FORGOTTEN = "forgotten"


_B, _U = BatchState, UserState

BATCH_MOVES: dict[BatchState, frozenset[BatchState]] = {
    _B.PENDING: frozenset({_B.LEASED}),
    _B.LEASED: frozenset({_B.DONE, _B.PENDING}),
    _B.DONE: frozenset({_B.PENDING}),  # a repair puts copies back to pending, and their batch with them
}

# No move leads to `held`: that is what the directory said when the plan was built. A hold that is set later is no state.
USER_MOVES: dict[UserState, frozenset[UserState]] = {
    _U.PLANNED: frozenset({_U.COPYING, _U.REVIEW, _U.FORGOTTEN}),
    # some copy of who writes without pause is always behind its source: a freeze takes them from where that holds them up
    _U.COPYING: frozenset({_U.COPIED, _U.QUARANTINED, _U.FROZEN, _U.FORGOTTEN}),
    _U.COPIED: frozenset({_U.VERIFIED, _U.FROZEN, _U.COPYING, _U.FORGOTTEN}),
    _U.VERIFIED: frozenset({_U.READY, _U.FROZEN, _U.COPIED, _U.COPYING, _U.FORGOTTEN}),
    _U.READY: frozenset({_U.FROZEN, _U.COPIED, _U.COPYING, _U.FORGOTTEN}),
    # a thaw goes to `verified`, or as far back as what was found meanwhile leads
    _U.FROZEN: frozenset({_U.CUT_OVER, _U.VERIFIED, _U.COPIED, _U.COPYING, _U.QUARANTINED, _U.FORGOTTEN}),
    _U.CUT_OVER: frozenset({_U.OBSERVING, _U.FORGOTTEN}),
    _U.OBSERVING: frozenset({_U.RETURNING, _U.PURGING, _U.FORGOTTEN}),
    # the way back: to the old home, or broken off
    _U.RETURNING: frozenset({_U.ROLLED_BACK, _U.OBSERVING, _U.FORGOTTEN}),
    _U.PURGING: frozenset(
        {_U.PURGED, _U.FORGOTTEN}
    ),  # something may be gone at the sources, so nobody goes back from here
    _U.PURGED: frozenset(),
    _U.QUARANTINED: frozenset({_U.COPYING, _U.FORGOTTEN}),
    _U.HELD: frozenset({_U.PLANNED, _U.FORGOTTEN}),
    _U.REVIEW: frozenset({_U.PLANNED, _U.FORGOTTEN}),
    _U.ROLLED_BACK: frozenset({_U.COPYING, _U.FORGOTTEN}),
    _U.FORGOTTEN: frozenset(),
}

# Of whom a full pass has matched every copy, but those that were behind when a freeze began: what a newer pass has matched so
# far says nothing against that.
PROVEN = (_U.VERIFIED, _U.READY, _U.FROZEN, _U.CUT_OVER, _U.OBSERVING, _U.RETURNING, _U.PURGING)
# Where a user waits whose copies are behind their sources: drifted, or at both ends not to be confirmed.
HELD_UP = (_U.COPYING, _U.COPIED)
# Who lives at the new home, or did when the way back began, or is erased: what the targets have of them is not ours to change.
AWAY = (_U.CUT_OVER, _U.OBSERVING, _U.RETURNING, _U.PURGING, _U.PURGED, _U.FORGOTTEN)
# The same, and who went back: until a delta plans them anew, the targets hold what the platform has written there.
WRITTEN_SINCE = (*AWAY, _U.ROLLED_BACK)


def check_batch_move(old: BatchState, new: BatchState) -> None:
    """Raise IntegrityError unless a batch may go from `old` to `new`."""
    if new not in BATCH_MOVES[old]:
        raise IntegrityError(f"a batch cannot go from {old} to {new}")
