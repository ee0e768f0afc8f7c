"""What goes into the ledger and comes out of it: frozen values. No query stands here, and no constraint.

Times are UTC-aware datetimes, sizes are bytes, digests are 32 raw bytes (a plan's digest is 64 hex digits). Batches are named by
(plan_id, number), copies by their ordinal in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from migrate.model import BatchInfo, Category, Level, Outcome, Purpose, Receipt, TargetRole, Verdict
from migrate.states import HELD_UP, BatchState, UserState

FULL_SAMPLE_PPM = 1_000_000
EXTRA = "extra"  # the kind of a finding: an object that no copy stands for
SEAL_LOST = (
    "seal_lost"  # why copies are UNKNOWN whose receipts are in a seal that is lost or edited; and the finding's kind
)
FORGOTTEN_ELSEWHERE = "forgotten_elsewhere"  # why a copy is withdrawn whose user is forgotten in another line of plans
SOURCE_MOVED_ON = ("source_changed", "source_gone")  # why a copy that equals its receipt is UNKNOWN at both ends
AGAINST_RECEIPT = (
    "receipt_content",
    "receipt_attributes",
)  # why one that does not is MISMATCH, its source being gone or another


class SealKind(StrEnum):
    """What a sealed file holds: the receipts of a batch, or the verdicts of one check of it."""

    RECEIPTS = "receipts"
    VERDICTS = "verdicts"


class CheckState(StrEnum):
    """Where the check of one batch in one pass stands."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"


class EventKind(StrEnum):
    """What a row of a user's history tells of: a hold set, a hold released, a move from one state to another, or that nothing of
    a forgotten user is left at the targets."""

    HOLD = "hold"
    RELEASE = "release"
    MOVE = "move"
    ERASED = "erased"


class PlanEntry(NamedTuple):
    """A built plan as it is registered. The totals must be the sums over its batches and users."""

    digest: str
    name: str
    built_at: datetime
    verify_level: Level
    users: int
    objects: int
    copies: int
    size_bytes: int  # over all copies
    batches: int
    parent: str | None = None


class PlanRow(NamedTuple):
    """A registered plan."""

    id: int
    entry: PlanEntry
    registered_at: datetime
    run_id: int


class RunRow(NamedTuple):
    """One command that changes something: who, where, when, how it ended. `failures`: copies it quarantined."""

    id: int
    verb: str
    operator: str
    host: str
    country: str | None
    tool_version: str
    arguments: Mapping[str, Any]
    plan: str | None
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None
    failures: int


class Lease(NamedTuple):
    """The right to work on one batch. Every write for the batch shows it, and is refused once `fence` is stale (invariant 5).

    `fresh`: no receipt, open row or upload of the batch exists, so nothing has to be looked up before copying.
    """

    plan_id: int
    number: int
    wave: int
    purpose: Purpose
    fence: int
    worker_id: int
    pass_id: int | None
    batch: BatchInfo
    fresh: bool


class Left(NamedTuple):
    """What there is still to be done: whether a batch waits to be leased, how many the workers of one's own run hold, and how
    many those of other runs, by their host."""

    is_pending: bool
    ours: int
    held: Mapping[str, int]

    @property
    def is_any(self) -> bool:
        return self.is_pending or bool(self.ours) or bool(self.held)


class CopyRow(NamedTuple):
    """One open row of a batch: an outcome that is not sealed, or a pending copy that was put back.

    `etag` of a pending copy is what the target showed when it was put back by a repair (None: nothing there, or a retry).
    `tallied`: its user's tally already has it, from an earlier end of the batch; the next `finish_copy` must leave it out.
    """

    ordinal: int
    outcome: Outcome
    receipt: Receipt | None
    reason: str | None
    detail: str | None
    etag: str | None
    run_id: int
    at: datetime
    tallied: bool


class PartRow(NamedTuple):
    """One part of a multipart upload that the target has confirmed. `part` counts from 1; `sha256` is of its bytes."""

    ordinal: int
    part: int
    etag: str
    sha256: bytes
    size: int


class UploadRow(NamedTuple):
    """A multipart upload under way, with the parts that are known to be there, by part number.

    `attributes` is the digest of the attributes and tags that it was begun with.
    """

    number: int
    ordinal: int
    store: str
    upload_id: str
    part_bytes: int
    attributes: bytes
    run_id: int
    parts: tuple[PartRow, ...]


class NewSeal(NamedTuple):
    """A sealed file that is durable: its rows, and its digest over content, which is a part of its name."""

    rows: int
    digest: bytes


class Seal(NamedTuple):
    """A seal in the chain of its plan; `sequence` is dense from 1. Batch, kind, pass and digest name the sealed file."""

    plan_id: int
    sequence: int
    number: int
    kind: SealKind
    pass_id: int | None
    rows: int
    digest: bytes
    chain: bytes
    run_id: int


class UserTally(NamedTuple):
    """How many copies of a user were settled by the batch that ends now: with a receipt, quarantined, drifted or withdrawn."""

    good: int = 0
    quarantined: int = 0
    other: int = 0


class UserCheck(NamedTuple):
    """What one check of a batch found about a user's copies; `wrong` is MISMATCH and MISSING.

    A user with EXTRA objects has each of them in `wrong` too, and 0 in `matched`: such a user does not go on.
    """

    matched: int = 0
    wrong: int = 0
    unknown: int = 0


class CheckCounts(NamedTuple):
    """What one check of a batch found. The first four add up to the copies that were checked; `extra` counts findings."""

    match: int = 0
    mismatch: int = 0
    missing: int = 0
    unknown: int = 0
    extra: int = 0

    @property
    def checked(self) -> int:
        return self.match + self.mismatch + self.missing + self.unknown


class Pass(NamedTuple):
    """One verification of a plan, or of some of its waves (None: all of them).

    `worked_at`: when it was begun, gone on with, or a check of it ended. `superseded`: ended before it had come to its end.
    """

    id: int
    plan_id: int
    level: Level
    sample_ppm: int
    waves: tuple[int, ...] | None
    started_at: datetime
    worked_at: datetime
    ended_at: datetime | None
    superseded: bool
    run_id: int

    @property
    def is_full(self) -> bool:
        """Whether it looks at everything, and not at a sample."""
        return self.sample_ppm == FULL_SAMPLE_PPM


class PassProgress(NamedTuple):
    """How far a pass is: its checks by state, and what those that are done found.

    `moved_on` is how many of the UNKNOWN copies equal their receipts while their sources are no longer what was copied.
    """

    checks: Mapping[CheckState, int]
    counts: CheckCounts
    moved_on: int = 0


class EmptyUser(NamedTuple):
    """A user of the plan for whom nothing is to be copied, and the sites where their data would be."""

    user_id: str
    home: str | None
    backup: str | None


class VerdictRow(NamedTuple):
    """One verdict that is in the ledger: all of a check under way, those other than MATCH afterwards.

    `reopened`: a repair has put the copy back, which voids the verdict.
    """

    number: int
    ordinal: int
    verdict: Verdict
    reason: str | None
    etag: str | None
    run_id: int
    at: datetime
    reopened: bool


class SealedCopy(NamedTuple):
    """What the caller knows, from plan and seals, of a copy that a repair puts back."""

    outcome: Outcome
    user_id: str
    size_bytes: int


class UnsealedCopy(NamedTuple):
    """What the plan says of a copy whose receipt is lost with its seal."""

    user_id: str
    size_bytes: int


class PutBack(NamedTuple):
    """Numbers of copies: those that are pending again, and those that were left as they are, since their users live elsewhere."""

    copies: int
    left_alone: int


class NewFinding(NamedTuple):
    """Something about a user or a store that no copy stands for: EXTRA objects, uploads left behind.

    `number` is the batch whose check tells of it; None where the user has no copies.
    """

    kind: str
    store: str
    key: str | None = None
    user_id: str | None = None
    size_bytes: int | None = None
    number: int | None = None


class FindingRow(NamedTuple):
    """A finding in the ledger."""

    id: int
    pass_id: int | None
    finding: NewFinding
    at: datetime
    run_id: int


class Failure(NamedTuple):
    """A copy that ended without a receipt: drifted, quarantined or withdrawn."""

    number: int
    ordinal: int
    outcome: Outcome
    reason: str
    detail: str | None
    run_id: int
    at: datetime


class BatchRow(NamedTuple):
    """Where a batch stands. `done_bytes` counts copies with a receipt."""

    info: BatchInfo
    state: BatchState
    fence: int
    outcomes: Mapping[Outcome, int]  # of the five settled ones
    done_bytes: int


class WaveProgress(NamedTuple):
    """Where a wave stands. `outcomes` has all six; they add up to `copies` (invariant 3).

    `wave` is None for users without one (held, in review): they have no copies.
    """

    wave: int | None
    users: Mapping[UserState, int]
    batches: Mapping[BatchState, int]
    objects: int
    copies: int
    size_bytes: int
    outcomes: Mapping[Outcome, int]
    done_bytes: int
    part_bytes: int  # sent of copies under way, in parts
    tallied: tuple[int, int, int]  # by the users, not by the batches: with a receipt, quarantined, drifted or withdrawn
    moved_on: int = 0  # users that a whole verification left copied for this alone: sources of theirs have moved on
    cannot_keep: int = 0  # quarantined copies that no trying again helps: their targets cannot keep all of them
    unlooked: int = (
        0  # users whom drifted copies alone hold up, and the rest of whose copies no whole verification has matched
    )


class UserRow(NamedTuple):
    """Where a user stands. `matched` counts the MATCH verdicts of the full pass `matched_pass`."""

    user_id: str
    plan_id: int
    country: str
    home: str | None
    backup: str | None
    wave: int | None
    state: UserState
    copies: int
    size_bytes: int
    good: int
    quarantined: int
    other: int
    matched: int
    matched_pass: int | None
    first_batch: int | None
    last_batch: int | None

    @property
    def settled(self) -> int:
        return self.good + self.quarantined + self.other


class PlacedUser(NamedTuple):
    """Where a user belongs, by the row of their plan."""

    user_id: str
    home: str | None
    backup: str | None
    state: UserState


class UserEvent(NamedTuple):
    """Something that happened to a user, by a run of this ledger. `what` is a word, `detail` words for people."""

    at: datetime
    what: str
    run_id: int | None
    detail: str


class Hold(NamedTuple):
    """Whose data stays where it is until the hold is released; since when, why, and who set it last."""

    user_id: str
    since: datetime
    reason: str
    operator: str


class Event(NamedTuple):
    """A line of a user's history. A MOVE has both states, the others neither; `note` is its reason."""

    id: int
    user_id: str
    at: datetime
    run_id: int | None
    plan_id: int | None
    kind: EventKind
    from_state: UserState | None
    to_state: UserState | None
    note: str | None


class Move(NamedTuple):
    """The last attempt at a user's cutover, and the state that the user is in.

    `from_site` is the home before, as the router read it. `attempt` counts from 1, each under a token of its own. It ends with
    `unfrozen_at`, where it was broken off, or with `flipped_at` and `frozen_ms`: how long the user's writers were kept off.
    `back_token` is of the last attempt at the way back. `behind` counts the copies that were behind when the freeze began.
    """

    user_id: str
    state: UserState
    plan_id: int
    run_id: int
    from_site: str
    to_site: str
    token: str
    attempt: int
    frozen_at: datetime
    unfrozen_at: datetime | None
    flipped_at: datetime | None
    frozen_ms: int | None
    observe_until: datetime | None
    back_token: str | None
    rolled_back_at: datetime | None
    purged_at: datetime | None
    behind: int = 0


class LateCopy(NamedTuple):
    """One copy that a cutover planned while its user was frozen, or with a tombstone's `flag` one that it was to take away.
    `receipt` is None until it is there, or gone, and was looked at again.

    A rollback writes tombstones as well: for what was deleted at the new home, and is to be deleted at the sources. Their
    receipts come once it is, at the roles where nothing is left. And it writes what it sends back (`SENT_BACK`), with the home's
    receipt alone once it is there: whether the backup site has the same is the platform's business.

    `seen` is an ETag that was seen while the user was frozen. Of a tombstone: of what stood under the key at the target, and is
    to be removed there. Of what is sent back: at the backup site of what stood under the key all the same, at the home of what
    the source had, and what is sent back replaces. At a target a delta may replace or remove that, and nothing else."""

    user_id: str
    plan_id: int
    run_id: int
    store: str
    key: str
    role: TargetRole
    version_id: str | None
    etag: str
    size: int
    last_modified: datetime
    category: Category
    rule: str
    flag: str | None
    target_store: str
    target_key: str
    receipt: Receipt | None
    seen: str | None = None


class Candidate(NamedTuple):
    """A user before a cutover or a way back, as the ledger has them.

    `is_proven`: a full pass has matched every copy but what a last delta has brought, and nothing speaks against one of them
    since. `behind` counts the copies that a last delta has brought; of who is copying or copied those that it is to bring, where
    nothing else holds them up, and else none; `matched_pass` has matched the others. `extras` are the EXTRA objects that nothing
    has answered.
    """

    user_id: str
    state: UserState
    home: str
    backup: str | None
    copies: int
    good: int
    quarantined: int
    behind: int
    matched_pass: int | None
    is_proven: bool
    extras: int
    is_on_hold: bool

    @property
    def is_only_behind(self) -> bool:
        """Whether the user is not verified, and the last delta of a cutover is all that it takes."""
        return self.state in HELD_UP and self.behind > 0


class FrozenTimes(NamedTuple):
    """How long writers were kept off, in milliseconds, over `users` users who were flipped; percentiles by nearest rank."""

    users: int
    p50_ms: int
    p99_ms: int
    max_ms: int
