"""What the stores show of one user before a purge: all that stands at the sources, and whether home and backup have it.

Whose a key is the layout says, and a prefix only leads to it. A listing that fails raises, and reads as no absence (invariant 4).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from migrate.jobs.at_stores import NO_VERSION, has_marker, object_at, objects_under, uploads_under, versions_under
from migrate.jobs.last_delta import Known, Listing, is_unchanged
from migrate.jobs.purge_plan import Entry, Kind
from migrate.jobs.steps import Way
from migrate.layout import CompiledRule, at_source, match
from migrate.ledger import LateCopy
from migrate.model import DELETED, SENT_BACK, ObjectInfo, Role, TargetRole
from migrate.planner.of_users import PlannedAt, SourceKey
from migrate.spec import Spec
from migrate.transfer.caller import Caller
from migrate.worker.checking import user_prefixes

AT_ONCE = 100  # requests of one user that are asked for together
ReceiptKey = tuple[int, int, int]
"""Whose receipt it is: the plan's place in its line, the batch, and the copy's ordinal."""
Stored = tuple[str, str | None]
"""What a receipt says of what was written at the target: its ETag, and its version where the store keeps them."""


@dataclass(frozen=True, slots=True)
class AtSource:
    """One source store: the user's own things in the order in which they are to be deleted, their current objects, and how many
    keys under the user's prefixes are not theirs."""

    store: str
    entries: tuple[Entry, ...]
    current: tuple[ObjectInfo, ...]
    left_alone: int


@dataclass(frozen=True, slots=True)
class AtSources:
    """All source stores. `never_seen` counts current objects that no plan or cutover has copied as they are now."""

    entries: tuple[Entry, ...]
    left_alone: int
    never_seen: int


@dataclass(frozen=True, slots=True)
class AtTargets:
    """Home and backup, by number of objects: gone at both, in a newer version of the platform's, wrong at one of them; and how
    many copies have no receipt.

    `doubted` are those of which nothing shows that they were deleted, and not lost: a home that keeps versions has no delete
    marker; or every object that is known is gone, and a home that keeps none could not tell. `doubted_digest` says which.
    """

    deleted_since: int = 0
    newer: int = 0
    wrong_at_home: int = 0
    wrong_at_backup: int = 0
    unproven: int = 0
    doubted: int = 0
    doubted_digest: str = ""


# the sources


def list_source(user_id: str, name: str, spec: Spec, rules: Sequence[CompiledRule], caller: Caller) -> AtSource:
    """Everything of the user at a source store or a backup of one. Raises what a listing raises.

    A store is asked for its versions whatever is known of it: where it has some, a plain DELETE would add a marker and remove
    nothing.
    """
    source = spec.source_of(name)

    def is_theirs(key: str) -> bool:
        found = match(rules, source, key)
        return found is not None and not found.rule.shared and found.user_id == user_id

    prefixes = user_prefixes(at_source(rules, source), user_id)
    versions, objects = versions_under(name, prefixes, caller), objects_under(name, prefixes, caller)
    uploads = uploads_under(name, prefixes, caller)
    keys = {info.key for info in (*versions, *objects)} | {upload.key for upload in uploads}
    foreign = {key for key in keys if not is_theirs(key)}
    versions, objects = ([info for info in infos if info.key not in foreign] for infos in (versions, objects))
    # what is current by one listing and not by the other came or went between them: both count
    listed = {(info.key, info.etag, info.size) for info in versions if info.is_latest and not info.is_delete_marker}
    beside = [info for info in objects if (info.key, info.etag, info.size) not in listed]
    current = [*objects, *(info for info in versions if info.is_latest and not info.is_delete_marker)]
    entries = [
        *(
            Entry(name, upload.key, upload.upload_id, Kind.UPLOAD, 0, "", upload.started)
            for upload in sorted(uploads, key=lambda upload: (upload.key, upload.upload_id))
            if upload.key not in foreign
        ),
        *(_entry(name, info) for info in _oldest_first(versions, beside)),
    ]
    return AtSource(name, tuple(entries), tuple(current), len(foreign))


def _oldest_first(versions: Sequence[ObjectInfo], beside: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """By key; of each the current version or marker last, so that nothing that is deleted comes to life meanwhile."""
    places = [*enumerate(versions), *enumerate(beside, len(versions))]
    places.sort(key=lambda place: (place[1].key, place[1].is_latest, place[1].last_modified, -place[0]))
    return [info for _, info in places]


def _entry(store: str, info: ObjectInfo) -> Entry:
    if info.is_delete_marker:
        kind = Kind.DELETE_MARKER
    elif info.is_latest and info.version_id in NO_VERSION:
        kind = Kind.OBJECT
    else:
        kind = Kind.VERSION
    return Entry(store, info.key, info.version_id, kind, info.size, info.etag, info.last_modified)


def weigh(found: Iterable[AtSource], known: Mapping[SourceKey, Known], spec: Spec) -> AtSources:
    """The sources as a whole, held against what line and cutover know of the user.

    A current object at a source must be the one that was copied, and so must one at a backup that was read from there. What a
    backup alone has, and no plan has taken, was left there by the spec or by whoever accepted it.
    """
    entries: list[Entry] = []
    left_alone, never_seen = 0, 0
    for each in found:
        of_backup = spec.stores[each.store].backup_of
        source = of_backup or each.store
        left_alone += each.left_alone
        unseen: set[str] = set()
        for info in each.current:
            before = known.get((source, info.key))
            if of_backup is not None and (before is None or before.planned.store != each.store):
                continue
            if before is None or not _was_seen(before, each.store, info):
                unseen.add(info.key)
        never_seen += len(unseen)
        entries += (
            entry if of_backup is None or (source, entry.key) in known else _never_copied(entry)
            for entry in each.entries
        )
    return AtSources(tuple(entries), left_alone, never_seen)


def _was_seen(before: Known, store: str, info: ObjectInfo) -> bool:
    """Whether a current object is the one that is known. A tombstone without all its receipts is of a rollback that broke off:
    the object was deleted at the home, and has not come to be deleted here. With them what is here came later. Where a rollback
    broke off while it sent the home's object back, what it has found or left here counts as known."""
    planned = before.planned
    if not before.is_settled and planned.flag == DELETED:
        planned = planned._replace(flag=None)
    elif not before.is_settled:
        return before.may_be(info)
    return is_unchanged(planned, store, info)


def _never_copied(entry: Entry) -> Entry:
    if entry.kind is not Kind.OBJECT and entry.kind is not Kind.VERSION:
        return entry
    return Entry(
        entry.store,
        entry.key,
        entry.version_id,
        entry.kind,
        entry.size,
        entry.etag,
        entry.last_modified,
        never_copied=True,
    )


# home and backup


@dataclass(frozen=True, slots=True)
class Copied:
    """One copy of an object that is to be at a target: by its receipt's ETag, None where it has no receipt. `is_version`: it was
    written as a version of its own, so the store keeps them, and a deletion leaves a marker."""

    role: TargetRole
    store: str
    etag: str | None
    is_version: bool


@dataclass(frozen=True, slots=True)
class CopiedObject:
    target_key: str
    copies: tuple[Copied, ...]


def copied_objects(
    line: Mapping[SourceKey, PlannedAt],
    late: Sequence[LateCopy],
    known: Mapping[SourceKey, Known],
    receipts: Mapping[ReceiptKey, Stored],
    spec: Spec,
) -> list[CopiedObject]:
    """What is to be at the targets of a user: all that is known and not removed since. What a rollback has sent back is the
    platform's there, so no receipt speaks for it: at the home it is newer than what was copied, and the backup site may lag."""
    stored_late: dict[tuple[str, str, TargetRole], Stored] = {}
    for row in late:
        place = (spec.source_of(row.store), row.key, row.role)
        if row.flag == SENT_BACK:
            lagging = row.seen if row.role is TargetRole.BACKUP else None
            stored_late[place] = (lagging or "", row.version_id if row.receipt is None else row.receipt.version_id)
        elif row.receipt is not None:
            stored_late[place] = (row.receipt.etag, row.receipt.version_id)
    replaced = {(spec.source_of(copy.store), copy.key) for copy in late}
    found: list[CopiedObject] = []
    for key, each in known.items():
        if each.planned.is_tombstone:
            continue
        copies: list[Copied] = []
        for copy in each.planned.copies:
            if key in replaced:
                stored = stored_late.get((*key, copy.role))
            else:
                stored = receipts.get((line[key].place, line[key].batch, copy.ordinal))
            etag, version_id = stored or (None, None)
            copies.append(Copied(copy.role, copy.store, etag, version_id not in NO_VERSION))
        found.append(CopiedObject(each.planned.target_key, tuple(copies)))
    return found


def compare(
    copied: Sequence[CopiedObject], listings: Mapping[str, Listing], since: datetime, caller: Caller
) -> Way[AtTargets]:
    """Hold the targets against the receipts. What a listing does not show as it was copied is asked for by HEAD.

    What was written after `since`, when the cutover's freeze began, and is none of ours, is the platform's, which had flipped.
    Gone at both is deleted since; where a home that keeps versions shows no delete marker, that is in doubt.
    """
    doubtful: list[tuple[str, str]] = []
    for each in copied:
        for copy in each.copies:
            info = listings[copy.store].get(each.target_key)
            if info is None or info.etag != copy.etag:
                doubtful.append((copy.store, each.target_key))
    seen: dict[tuple[str, str], ObjectInfo | None] = {}
    for start in range(0, len(doubtful), AT_ONCE):
        chunk = doubtful[start : start + AT_ONCE]
        heads = yield [partial(object_at, store, key, caller) for store, key in chunk]
        seen |= dict(zip(chunk, heads, strict=True))
    shown_by = [{copy.role: _shown(copy, each.target_key, seen, since) for copy in each.copies} for each in copied]
    is_gone = [shown.get(TargetRole.HOME) == shown.get(TargetRole.BACKUP) == _GONE for shown in shown_by]
    homes = [next(copy for copy in each.copies if copy.role is TargetRole.HOME) for each in copied]
    to_tell = [
        (home.store, each.target_key)
        for each, home, gone in zip(copied, homes, is_gone, strict=True)
        if gone and home.is_version
    ]
    doubted: list[tuple[str, str]] = []
    for start in range(0, len(to_tell), AT_ONCE):
        chunk = to_tell[start : start + AT_ONCE]
        markers = yield [partial(has_marker, store, key, caller) for store, key in chunk]
        doubted += [at for at, is_marked in zip(chunk, markers, strict=True) if not is_marked]
    deleted_since, newer, wrong_at_home, wrong_at_backup, unproven = 0, 0, 0, 0, 0
    for each, shown, gone in zip(copied, shown_by, is_gone, strict=True):
        unproven += sum(copy.etag is None for copy in each.copies)
        home, backup = shown[TargetRole.HOME], shown.get(TargetRole.BACKUP)
        if gone:
            deleted_since += 1
            continue
        newer += _NEWER in (home, backup)
        wrong_at_home += home in (_GONE, _WRONG)
        # the platform has written at home, and has not brought it to the backup yet
        wrong_at_backup += backup == _WRONG or (backup == _GONE and home != _NEWER)
    if all(is_gone):
        doubted += [
            (home.store, each.target_key) for each, home in zip(copied, homes, strict=True) if not home.is_version
        ]
    digest = hashlib.sha256(json.dumps(sorted(doubted)).encode()).hexdigest() if doubted else ""
    return AtTargets(deleted_since, newer, wrong_at_home, wrong_at_backup, unproven, len(doubted), digest)


_AS_COPIED, _NEWER, _GONE, _WRONG = "as copied", "newer", "gone", "wrong"


def _shown(copy: Copied, key: str, seen: Mapping[tuple[str, str], ObjectInfo | None], since: datetime) -> str:
    if (copy.store, key) not in seen:
        return _AS_COPIED
    info = seen[copy.store, key]
    if info is None:
        return _GONE
    if info.etag == copy.etag:
        return _AS_COPIED
    # stores tell whole seconds
    return _NEWER if info.last_modified >= since.replace(microsecond=0) else _WRONG


def source_stores(spec: Spec) -> list[str]:
    """The stores that a purge empties of its users."""
    return sorted(spec.by_role(Role.SOURCE, Role.BACKUP))
