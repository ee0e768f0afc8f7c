"""One user's purge: gate, what the sources hold, the deletions, and a look at what is left.

What destroys comes last (invariant 1): after the gate and a look at home and backup at that moment, and once the ledger has the
user as purging. Nothing is deleted that the purge plan does not name: a version by its id, which no other can take; anything else
after another look that still shows what was listed. The ledger is asked for a hold before each chunk of deletions.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import groupby
from typing import Any

from migrate.errors import (
    InterruptedRun,
    MigrateError,
    MoveRefusedError,
    NotFoundError,
    OnHoldError,
    PermanentStoreError,
    StoreError,
    TransientStoreError,
)
from migrate.jobs.at_stores import NULL_VERSION
from migrate.jobs.last_delta import Known, known_of, list_target
from migrate.jobs.purge_gate import CHANGED, Seen, missing
from migrate.jobs.purge_look import (
    AT_ONCE,
    AtTargets,
    CopiedObject,
    ReceiptKey,
    Stored,
    compare,
    copied_objects,
    list_source,
    source_stores,
    weigh,
)
from migrate.jobs.purge_plan import Entry, Kind
from migrate.jobs.steps import OF_THE_USER, Way
from migrate.layout import CompiledRule
from migrate.ledger import Ledger
from migrate.pauses import PausePoint, pause_at
from migrate.planner.of_users import PlannedAt, SourceKey
from migrate.routing import Router
from migrate.spec import Spec
from migrate.states import UserState
from migrate.stores.base import Store
from migrate.transfer.caller import Caller
from migrate.units import number_of

HOLD_SECONDS = 1.0
"""After which no deletion is begun any more before the ledger was asked for a hold again."""


class HoldWatch:
    """Who is put on hold while requests for them are under way: `look` is called by the ledger's thread, several times a
    second."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._under_way: set[str] = set()
        self._held: set[str] = set()
        self._asked = 0.0

    def look(self) -> None:
        if self._under_way and time.monotonic() >= self._asked + HOLD_SECONDS:
            self._held |= self._ledger.held(self._under_way)
            self._asked = time.monotonic()

    @contextmanager
    def watching(self, user_id: str) -> Iterator[Callable[[], bool]]:
        """Whether the user was found on hold by now. For any thread."""
        self._under_way.add(user_id)
        try:
            yield lambda: user_id in self._held
        finally:
            self._under_way.discard(user_id)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every user's way needs. `is_over` says that nothing may be deleted any more; `note` goes into the users' histories.
    With `trust_home` whatever is gone at home and backup was deleted there."""

    plan_id: int
    run_id: int
    spec: Spec
    rules: tuple[CompiledRule, ...]
    ledger: Ledger
    router: Router
    caller: Caller
    unlistable: Sequence[str]
    now: Callable[[], datetime]
    is_over: Callable[[], bool]
    holds: HoldWatch
    note: str = ""
    trust_home: bool = False


@dataclass(frozen=True, slots=True)
class Person:
    """A user: what the line has planned of them, and what the receipts say. `line` is None where that was not read, since the
    ledger did not let the user be purged then, or has them as forgotten. `lost`: why receipts of the user cannot be had. Of the
    objects with the digest `trusted` the purge plan trusts the home that they were deleted there."""

    user_id: str
    wave: int
    line: Mapping[SourceKey, PlannedAt] | None
    receipts: Mapping[ReceiptKey, Stored]
    lost: str = ""
    trusted: str = ""


class Reason(StrEnum):
    """Why something is left at a source."""

    LOCKED = "object lock"
    DENIED = "denied"
    FAILED = "failed"
    CHANGED = "changed since it was listed"
    KEPT = "kept, since an older version under it is left"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look at a user found: what is missing, by check, or else all that may be deleted."""

    user_id: str
    wave: int
    missing: Mapping[str, str] = field(default_factory=dict)
    error: MigrateError | None = None
    state: UserState | None = None
    entries: tuple[Entry, ...] = ()
    left_alone: int = 0
    targets: AtTargets = field(default_factory=AtTargets)


@dataclass(frozen=True, slots=True)
class Purged:
    """How one user's purge ended.

    `purged`: nothing is left at any source. `missing`: what the gate found, by check. `error`: what broke it off. `left`: by
    store and reason, what is left after all. `deleted`: how many entries are gone, `size_bytes` of them.
    """

    user_id: str
    purged: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    error: MigrateError | None = None
    left: Mapping[tuple[str, Reason], int] = field(default_factory=dict)
    deleted: int = 0
    size_bytes: int = 0


def look(tools: Tools, person: Person) -> Way[Looked]:
    """Every check, for real, and nothing else. An error of the user's is in the answer; any other is raised."""
    try:
        looked = yield from _look(tools, person)
    except OF_THE_USER as error:
        return Looked(person.user_id, person.wave, error=error)
    return looked


def _look(tools: Tools, person: Person) -> Way[Looked]:
    user_id, spec, caller = person.user_id, tools.spec, tools.caller
    candidate = tools.ledger.candidate(tools.plan_id, user_id)
    if candidate is None:
        return Looked(user_id, person.wave, missing={"state": "is of another plan by now"})
    move = tools.ledger.move_of(user_id)
    seen = Seen(candidate, move, tools.now(), spec, tools.unlistable)
    if why := missing(seen):  # no store is asked
        return Looked(user_id, person.wave, missing=why)
    known: Mapping[SourceKey, Known] = {}
    copied: list[CopiedObject] = []
    if not seen.is_forgotten:
        if person.line is None:  # as after a release, or the end of the window, in this very moment
            return Looked(user_id, person.wave, missing={"state": "could not be purged a moment ago: look again"})
        if person.lost:
            return Looked(user_id, person.wave, missing={"copies": person.lost})
        late = tools.ledger.late_of([user_id]).get(user_id, [])
        known = known_of(person.line, late, spec)
        copied = copied_objects(person.line, late, known, person.receipts, spec)
    targets = sorted({copy.store for each in copied for copy in each.copies})
    sources = source_stores(spec)
    listings: list[Any] = yield [
        *(partial(list_source, user_id, name, spec, tools.rules, caller) for name in sources),
        *(partial(list_target, user_id, name, tools.rules, caller) for name in targets),
        partial(tools.router.read, user_id),
    ]
    at_sources, rest = weigh(listings[: len(sources)], known, spec), listings[len(sources) :]
    seen = replace(seen, route=rest[-1])
    if not seen.is_forgotten:
        assert move is not None, "the gate has asked for it"
        shown = dict(zip(targets, rest[:-1], strict=True))
        # where a cutover was killed, the flip was before the time that the ledger knows; from the freeze on nobody else wrote
        at_targets = yield from compare(copied, shown, move.frozen_at, caller)
        trusted = at_targets.doubted_digest if tools.trust_home else person.trusted
        seen = replace(seen, targets=at_targets, trusted=trusted)
    seen = replace(seen, sources=at_sources)
    return Looked(
        user_id,
        person.wave,
        missing=missing(seen),
        state=candidate.state,
        entries=at_sources.entries,
        left_alone=at_sources.left_alone,
        targets=seen.targets or AtTargets(),
    )


def purge(tools: Tools, person: Person, planned: Sequence[Entry]) -> Way[Purged]:
    """The whole way. Raises only what no user is at fault for: RefusedError, IntegrityError, an error of the ledger's."""
    user_id, ledger = person.user_id, tools.ledger
    looked = yield from look(tools, person)
    if looked.missing or looked.error is not None:
        return Purged(user_id, missing=looked.missing, error=looked.error)
    new = len(set(looked.entries) - set(planned))
    if new:
        return Purged(
            user_id, missing={CHANGED: f"the sources show {number_of(new, 'thing')} that the purge plan does not name"}
        )
    try:
        if tools.is_over():
            raise InterruptedRun("stopped before anything of the user was deleted")
        if looked.state is UserState.OBSERVING:
            ledger.begin_purge(user_id, tools.run_id, tools.now(), note=tools.note)
    except OF_THE_USER as error:
        return _not_begun(user_id, error)
    except MoveRefusedError as refused:  # since the gate
        return Purged(user_id, missing={"state": refused.what})
    pause_at(PausePoint.PURGE_RECORDED)
    still = set(looked.entries)
    deletions = _Deletions(tools, [entry for entry in planned if entry in still])
    try:
        with tools.holds.watching(user_id) as was_held:
            yield from deletions.carry_out(lambda: ledger.hold_of(user_id) is not None, was_held)
        pause_at(PausePoint.ALL_DELETED)
        left = yield from _left(tools, user_id, deletions.why)
    except OF_THE_USER as error:
        return deletions.ended(user_id, error=error)
    if left:
        return deletions.ended(user_id, left=left)
    pause_at(PausePoint.SOURCES_EMPTIED)
    try:
        if looked.state is UserState.FORGOTTEN:
            ledger.purged_of_forgotten(user_id, tools.run_id, tools.now(), note=f"sources purged: {tools.note}")
        else:
            ledger.purged(user_id, tools.run_id, tools.now())
    except OnHoldError as held:
        return deletions.ended(user_id, error=held)
    except MoveRefusedError as refused:  # another process: forgotten meanwhile
        return deletions.ended(user_id, error=refused)
    return deletions.ended(user_id, purged=True)


def _not_begun(user_id: str, error: MigrateError) -> Purged:
    if isinstance(error, OnHoldError):
        return Purged(user_id, missing={"hold": "is on hold"})
    return Purged(user_id, error=error)


def _left(tools: Tools, user_id: str, why: Mapping[Entry, Reason]) -> Way[Counter[tuple[str, Reason]]]:
    """What the sources still show of the user, by store and reason."""
    stores = source_stores(tools.spec)
    found = yield [partial(list_source, user_id, name, tools.spec, tools.rules, tools.caller) for name in stores]
    reasons = {_place(entry): reason for entry, reason in why.items()}
    return Counter((entry.store, reasons.get(_place(entry), Reason.NEW)) for each in found for entry in each.entries)


def _place(entry: Entry) -> tuple[str, str, str | None, Kind]:
    return entry.store, entry.key, entry.version_id, entry.kind


class _Deletions:
    """The deletions of one user: chunk by chunk, the things of one key one after another, keys side by side.

    `why` says of each entry that was not deleted why it was not.
    """

    def __init__(self, tools: Tools, entries: Sequence[Entry]) -> None:
        self._tools = tools
        by_key = groupby(entries, key=lambda entry: (entry.store, entry.key, entry.kind is Kind.UPLOAD))
        self._queue = deque(deque(group) for _, group in by_key)
        self._lock = threading.Lock()
        self._was_held: Callable[[], bool] = lambda: False
        self._blocked: set[tuple[str, str]] = set()  # keys of which something older is left
        self.why: dict[Entry, Reason] = {}
        self.deleted = 0
        self.size_bytes = 0

    def carry_out(self, is_held: Callable[[], bool], was_held: Callable[[], bool]) -> Way[None]:
        """Raises OnHoldError once the user is on hold, InterruptedRun when it is over, and what makes a store unusable.

        `is_held` asks the ledger, for its own thread; `was_held` is for those that send requests, before each one that is sent
        again.
        """
        self._was_held = was_held
        while self._queue:
            self._demand(is_held)
            until = time.monotonic() + HOLD_SECONDS
            chunk = self._chunk()
            yield [partial(self._delete_some, keys, number, until) for keys, number in chunk]
            self._queue.extendleft(keys for keys, _ in reversed(chunk) if keys)

    def _demand(self, is_held: Callable[[], bool]) -> None:
        if self._tools.is_over():
            raise InterruptedRun("stopped while a user's sources were purged")
        if is_held():
            raise OnHoldError("the user was put on hold while their sources were purged, so what is left stays")

    def ended(
        self,
        user_id: str,
        *,
        purged: bool = False,
        error: MigrateError | None = None,
        left: Mapping[tuple[str, Reason], int] | None = None,
    ) -> Purged:
        """How it ended, with what is gone. A hold is no failure: it stands among what is missing."""
        is_held = isinstance(error, OnHoldError)
        return Purged(
            user_id,
            purged=purged,
            missing={"hold": error.what} if error is not None and is_held else {},
            error=None if is_held else error,
            left=left or {},
            deleted=self.deleted,
            size_bytes=self.size_bytes,
        )

    def _chunk(self) -> list[tuple[deque[Entry], int]]:
        """The next keys, each with how many of its entries may go: `AT_ONCE` deletions together."""
        chunk: list[tuple[deque[Entry], int]] = []
        left = AT_ONCE
        while self._queue and left:
            keys = self._queue.popleft()
            chunk.append((keys, min(left, len(keys))))
            left -= chunk[-1][1]
        return chunk

    def _delete_some(self, entries: deque[Entry], number: int, until: float) -> None:
        """Delete the first ones of a key, as long as time is left. What was not come to stays in the queue."""
        for _ in range(number):
            if time.monotonic() >= until or self._tools.is_over():
                return
            entry = entries[0]
            reason = self._delete(entry, is_last=len(entries) == 1)
            entries.popleft()
            with self._lock:
                if reason is None:
                    self.deleted += 1
                    self.size_bytes += entry.size
                else:
                    self.why[entry] = reason
                    self._blocked.add((entry.store, entry.key))

    def _delete(self, entry: Entry, *, is_last: bool) -> Reason | None:
        """Delete one entry; None, or why it is left. UnreachableError where the store cannot be used."""
        caller = self._tools.caller
        if entry.kind is not Kind.UPLOAD and is_last and (entry.store, entry.key) in self._blocked:
            return Reason.KEPT
        if entry.version_id is None and entry.kind is not Kind.OBJECT:
            return Reason.FAILED  # without its id a DELETE would be for whatever is current
        try:
            if not caller.call(entry.store, partial(self._attempt, entry=entry)):
                return Reason.CHANGED
        except NotFoundError:
            return None
        except (PermanentStoreError, TransientStoreError) as error:
            return _reason(entry, error, caller)
        pause_at(PausePoint.SOME_DELETED)
        return None

    def _attempt(self, store: Store, entry: Entry) -> bool:
        """One try. A deletion that is tried again looks again before, and asks whether it still may."""
        self._demand(self._was_held)
        return _deleted(store, entry)


def _still_shows(store: Store, entry: Entry) -> bool:
    """Whether the store has this very thing: asked only where another one can have taken its place. NotFoundError: it is gone."""
    if entry.kind is Kind.OBJECT:
        info = store.head(entry.key)
        # a bucket that never kept versions lists `null`, and HEAD shows none; one that keeps them by now would only get a marker
        is_same = info.version_id == entry.version_id or (info.version_id, entry.version_id) == (None, NULL_VERSION)
        return is_same and (info.size, info.etag) == (entry.size, entry.etag)
    if entry.version_id != NULL_VERSION or entry.kind is Kind.UPLOAD:
        return True
    for page in store.list_versions(entry.key):
        for info in page:
            if (info.key, info.version_id) == (entry.key, NULL_VERSION):
                return (info.is_delete_marker, info.etag, info.last_modified) == (
                    entry.kind is Kind.DELETE_MARKER,
                    entry.etag,
                    entry.last_modified,
                )
            if info.key > entry.key:
                break
    raise NotFoundError(store.name, "list versions", key=entry.key)


def _deleted(store: Store, entry: Entry) -> bool:
    """Delete the entry; False where something else is there. NotFoundError: it is gone."""
    if not _still_shows(store, entry):
        return False
    if entry.kind is Kind.UPLOAD:
        assert entry.version_id is not None, "an upload has an id"
        store.abort_upload(entry.key, entry.version_id)
    else:
        store.delete(entry.key, version_id=entry.version_id)
    return True


def _reason(entry: Entry, error: StoreError, caller: Caller) -> Reason:
    """A lock is refused as denied by some servers and as a bad request by others: the object's own headers tell."""
    if entry.kind in (Kind.OBJECT, Kind.VERSION) and isinstance(error, PermanentStoreError):
        version_id = entry.version_id if entry.kind is Kind.VERSION else None
        try:
            if caller.call(entry.store, lambda store: store.head(entry.key, version_id=version_id)).lock is not None:
                return Reason.LOCKED
        except StoreError:
            pass
    return Reason.DENIED if error.code == "denied" else Reason.FAILED
