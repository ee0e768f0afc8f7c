"""The last delta of one user, while their writers are kept off: what the sources show now, beside what the line has planned.

The same rules as in a delta (design, section 6), for one user and without a plan: new and changed objects are copied, what the
source has no more is removed at the targets. Each source store is listed by the user's prefixes; what the line has read from a
backup, since the source had it no more, is asked for by HEAD.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from migrate.errors import LaterError
from migrate.jobs.at_stores import etag_at, object_at, objects_under
from migrate.jobs.steps import Way
from migrate.layout import CompiledRule, at_source, at_targets, match
from migrate.ledger import LateCopy, LateRef
from migrate.model import (
    DELETED,
    SENT_BACK,
    TOMBSTONES,
    CheckResult,
    CopyResult,
    Level,
    ObjectInfo,
    PlannedCopy,
    PlannedObject,
    Receipt,
    Role,
    TargetRole,
    Verdict,
)
from migrate.planner.line import CopyRef
from migrate.planner.of_users import PlannedAt, SourceKey
from migrate.spec import Spec
from migrate.transfer.at_once import copy_at_once
from migrate.transfer.caller import Caller
from migrate.transfer.integrity import composite_parts
from migrate.verify import check_object, check_removed
from migrate.worker.checking import user_prefixes

_ASKED_AT_ONCE = 4  # of one user, so that other users' questions find a thread
Now = Mapping[SourceKey, tuple[str, ObjectInfo]]
"""What the sources show of a user: by source key, the store that it is to be read from, and its listing."""


@dataclass(frozen=True, slots=True)
class Behind:
    """Copies of the newest plan that are behind their sources: those that have `drifted`, and those with a receipt whose source
    had `moved_on` when it was verified at both ends. The last delta takes all of them, whatever the sources show."""

    drifted: frozenset[CopyRef] = frozenset()
    moved_on: frozenset[CopyRef] = frozenset()

    @property
    def copies(self) -> frozenset[CopyRef]:
        return self.drifted | self.moved_on


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one source key: the object that was planned last, and whether its copies have receipts. Of what was sent
    back the home's proves both ends, and what the backup site has is the platform's business.

    `bounds` has the roles at whose target keys what stands there is not ours whatever it is, but by these ETags. `removes` has
    what an earlier attempt was to remove at targets, and does not know whether it has. `stood` is the ETag that a rollback was
    about to replace at the source, and does not know either.
    """

    planned: PlannedObject
    is_settled: bool
    bounds: Mapping[TargetRole, frozenset[str]] = field(default_factory=dict)
    removes: Mapping[TargetRole, str] = field(default_factory=dict)
    stood: str | None = None

    @property
    def is_half_sent(self) -> bool:
        """Whether a sending back broke off, so that nobody knows what the source has."""
        return self.planned.flag == SENT_BACK and not self.is_settled

    def is_untouched(self, info: ObjectInfo | None) -> bool:
        """Whether such a sending has left at the source what it found there."""
        return self.is_half_sent and (None if info is None else info.etag) == self.stood

    def may_be(self, info: ObjectInfo) -> bool:
        """Whether this may be at a source by such a sending: what it found, or what it left. An object that was sent in parts has
        an ETag of its own."""
        is_sent = info.etag == self.planned.etag or composite_parts(info.etag) is not None
        return self.is_half_sent and (info.etag == self.stood or (is_sent and info.size == self.planned.size))


@dataclass(frozen=True, slots=True)
class LastDelta:
    """What is to be done. `unclassified` counts keys that no rule knows: nobody may decide about them now; `collisions` target
    keys that two source keys would share."""

    objects: tuple[PlannedObject, ...]
    unclassified: int
    collisions: int = 0

    @property
    def size_bytes(self) -> int:
        """What is to be read of the sources."""
        return sum(planned.size for planned in self.objects if not planned.is_tombstone)


def known_of(
    line: Mapping[SourceKey, PlannedAt], late: Sequence[LateCopy], spec: Spec, behind: Behind | None = None
) -> dict[SourceKey, Known]:
    """What the line and earlier attempts at a cutover know of a user. Of the line all is settled but what is `behind`.

    What was known late of an object by a source and by a backup of it, or by several attempts, is known by the newest.
    """
    found = {key: _planned_at(at, behind or Behind()) for key, at in line.items()}
    grouped: dict[SourceKey, list[LateCopy]] = {}
    for copy in late:
        grouped.setdefault((spec.source_of(copy.store), copy.key), []).append(copy)
    for key, copies in grouped.items():
        newest = max(copies, key=lambda copy: copy.run_id)
        mine = [copy for copy in copies if copy.store == newest.store]
        proved = [copy for copy in mine if copy.flag != SENT_BACK or copy.role is TargetRole.HOME]
        # what is behind is brought in the very freeze that it is flipped in
        is_settled = all(copy.receipt is not None for copy in proved) and (key not in found or found[key].is_settled)
        stood = next((copy.seen for copy in proved), None)
        removes = {copy.role: copy.seen for copy in mine if copy.flag in TOMBSTONES and copy.seen is not None}
        found[key] = Known(_object_of(newest, mine), is_settled, removes=removes, stood=stood)
    return found


def _planned_at(at: PlannedAt, behind: Behind) -> Known:
    """An object of the line. At the target of a drifted copy stands what an earlier plan has left there, or this one before its
    source changed, if anything of ours: the user may have lived there since, and have written another."""
    refs = {copy.role: (at.place, at.batch, copy.ordinal) for copy in at.planned.copies}
    bounds = {
        copy.role: frozenset({at.planned.etag} if copy.replaces is None else {at.planned.etag, copy.replaces})
        for copy in at.planned.copies
        if refs[copy.role] in behind.drifted
    }
    return Known(at.planned, behind.copies.isdisjoint(refs.values()), bounds)


def _object_of(one: LateCopy, copies: Sequence[LateCopy]) -> PlannedObject:
    order = sorted(copies, key=lambda copy: list(TargetRole).index(copy.role))
    return PlannedObject(
        user_id=one.user_id,
        store=one.store,
        key=one.key,
        version_id=one.version_id,
        etag=one.etag,
        size=one.size,
        last_modified=one.last_modified,
        category=one.category,
        rule=one.rule,
        target_key=one.target_key,
        flag=one.flag,
        copies=tuple(PlannedCopy(place, copy.role, copy.target_store) for place, copy in enumerate(order)),
    )


def list_now(
    user_id: str, known: Mapping[SourceKey, Known], spec: Spec, rules: Sequence[CompiledRule], caller: Caller
) -> Now:
    """What the sources show of the user. Raises what a listing raises: one that failed reads as no absence (invariant 4)."""
    found: dict[SourceKey, tuple[str, ObjectInfo]] = {}
    for source in spec.by_role(Role.SOURCE):
        prefixes = user_prefixes(at_source(rules, source), user_id)
        found |= {(source, info.key): (source, info) for info in objects_under(source, prefixes, caller)}
    for (source, key), each in known.items():
        store = each.planned.store
        if store != source and (source, key) not in found and not each.planned.is_tombstone:
            info = object_at(store, key, caller)
            if info is not None:
                found[source, key] = (store, info)
    return found


def last_delta(
    user_id: str,
    home: str,
    backup: str | None,
    known: Mapping[SourceKey, Known],
    now: Now,
    spec: Spec,
    rules: Sequence[CompiledRule],
    *,
    seen: datetime,
) -> LastDelta:
    """What differs, as objects to be copied or removed. `home` and `backup` are the user's sites; `seen` is as of when the plan
    knows the sources: of a key that no rule knows and that was there then, an operator has decided that it stays."""
    objects: list[PlannedObject] = []
    unclassified = 0
    for (source, key), (store, info) in now.items():
        before = known.get((source, key))
        if before is not None and before.is_settled and is_unchanged(before.planned, store, info):
            continue
        found = match(rules, source, key)
        if found is None:
            unclassified += info.last_modified > seen
        elif found.user_id == user_id and found.rule.category is not None and found.target_key is not None:
            objects.append(
                PlannedObject(
                    user_id=user_id,
                    store=store,
                    key=key,
                    version_id=info.version_id,
                    etag=info.etag,
                    size=info.size,
                    last_modified=info.last_modified,
                    category=found.rule.category,
                    rule=found.rule.name,
                    target_key=found.target_key,
                    flag=None,
                    copies=tuple(_copies(spec, source, home, backup)),
                )
            )
    for key_of, before in known.items():
        gone = key_of not in now
        if gone and not (before.planned.is_tombstone and before.is_settled):
            copies = tuple(_copies(spec, key_of[0], home, backup))
            flag = before.planned.flag if before.planned.flag in TOMBSTONES else DELETED
            objects.append(before.planned._replace(flag=flag, copies=copies))
    return LastDelta(tuple(objects), unclassified, _collisions(objects, known, now, spec))


def _collisions(objects: Sequence[PlannedObject], known: Mapping[SourceKey, Known], now: Now, spec: Spec) -> int:
    """Target keys that two source keys would take, or that one takes and another gives up: in which order, nobody would know."""
    takers: dict[tuple[str, str], set[SourceKey]] = defaultdict(set)
    standing = [each.planned for key, each in known.items() if key in now]
    for planned in (*standing, *objects):
        source = spec.source_of(planned.store)
        for copy in planned.copies:
            takers[copy.store, planned.target_key].add((source, planned.key))
    return sum(len(sources) > 1 for sources in takers.values())


def is_unchanged(planned: PlannedObject, store: str, info: ObjectInfo) -> bool:
    """As a delta sees it: size and ETag, and version and time where both have them. Times to the second, since inventories,
    listings and HEAD show them with more digits or fewer."""
    return (
        not planned.is_tombstone
        and planned.store == store
        and (planned.size, planned.etag) == (info.size, info.etag)
        and (planned.version_id is None or info.version_id is None or planned.version_id == info.version_id)
        and planned.last_modified.replace(microsecond=0) == info.last_modified.replace(microsecond=0)
    )


def _copies(spec: Spec, source: str, home: str, backup: str | None) -> Iterator[PlannedCopy]:
    yield PlannedCopy(0, TargetRole.HOME, spec.target_store(home, source))
    if backup is not None:
        yield PlannedCopy(1, TargetRole.BACKUP, spec.target_store(backup, source))


Listing = Mapping[str, ObjectInfo]


def list_target(user_id: str, name: str, rules: Sequence[CompiledRule], caller: Caller) -> Listing:
    """What a target store shows under the user's prefixes, by key."""
    return {info.key: info for info in objects_under(name, user_prefixes(at_targets(rules), user_id), caller)}


def listed_at(
    user_id: str, stores: Collection[str], rules: Sequence[CompiledRule], caller: Caller
) -> Way[dict[tuple[str, str], ObjectInfo]]:
    """What the target stores show under the user's prefixes, by store and key. Raises what a listing raises."""
    names = sorted(stores)
    if not names:
        return {}
    listings: list[Listing] = yield [partial(list_target, user_id, name, rules, caller) for name in names]
    return {(name, key): info for name, there in zip(names, listings, strict=True) for key, info in there.items()}


def etags_at(
    user_id: str, places: Collection[tuple[str, str]], rules: Sequence[CompiledRule], caller: Caller
) -> Way[dict[tuple[str, str], str]]:
    """What stands at these target stores and keys, by ETag, as the listings of the user's prefixes show it; what lies under none
    of these is asked for. Raises what a listing raises."""
    there = yield from listed_at(user_id, {store for store, _ in places}, rules, caller)
    found = {place: info.etag for place, info in there.items()}
    prefixes = user_prefixes(at_targets(rules), user_id)
    others = [(store, key) for store, key in places if not any(map(key.startswith, prefixes))]
    for start in range(0, len(others), _ASKED_AT_ONCE):
        part = others[start : start + _ASKED_AT_ONCE]
        etags = yield [partial(etag_at, store, key, caller) for store, key in part]
        found.update((place, etag) for place, etag in zip(part, etags, strict=True) if etag is not None)
    return found


def ours_at_targets(
    objects: Sequence[PlannedObject], known: Mapping[SourceKey, Known], there: Mapping[tuple[str, str], str], spec: Spec
) -> dict[LateRef, str]:
    """The ETags of what is ours at the targets, and is to be replaced or removed there. LaterError where somebody else's stands
    at a key: nothing of ours is known there, or not with this ETag. What has the source's ETag is a copy of it."""
    found: dict[LateRef, str] = {}
    for planned in objects:
        before = known.get((spec.source_of(planned.store), planned.key))
        if before is not None and before.planned.target_key != planned.target_key:
            before = None
        bounds = dict.fromkeys(TargetRole, frozenset({planned.etag})) if before is None else before.bounds
        removes = before.removes if before is not None and planned.is_tombstone else {}
        for copy in planned.copies:
            etag = there.get((copy.store, planned.target_key))
            if etag is not None and copy.role in bounds and etag not in bounds[copy.role]:
                raise LaterError(
                    "an object of the last delta was not copied: its target key is occupied by something else"
                )
            stands = etag or removes.get(copy.role)  # behind a delete marker, where an attempt broke off amid a removal
            if stands is not None:
                found[planned.store, planned.key, copy.role] = stands
    return found


@dataclass(frozen=True, slots=True)
class LateDone:
    """What became of one late object: receipts of the copies that are there and were read again, or what failed first."""

    receipts: Mapping[LateRef, Receipt]
    problem: str | None


def copy_late(
    planned: PlannedObject,
    replaceable: Mapping[TargetRole, str],
    caller: Caller,
    spec: Spec,
    level: Level,
    *,
    now: Callable[[], datetime],
    demand_time: Callable[[], None],
) -> LateDone:
    """Copy or remove one object, and look at it again as a verification does.

    `replaceable` has, by role, the ETag of what is ours at the target key, and is replaced or removed.
    """
    results = copy_at_once(
        planned,
        {copy.ordinal: replaceable[copy.role] for copy in planned.copies if copy.role in replaceable},
        caller,
        multipart_from=spec.copying.multipart_from,
        part_bytes=spec.copying.part_bytes,
        now=now,
        demand_time=demand_time,
    )
    receipts = {result.ordinal: result.receipt for result in results if result.receipt is not None}
    if len(receipts) < len(planned.copies):
        return LateDone(
            {}, next((_why(result) for result in results if result.receipt is None), "nothing came of a copy")
        )
    if planned.is_tombstone:
        checks = [check_removed(planned, copy, caller) for copy in planned.copies]
    else:
        checks = check_object(planned, receipts, level if level.rank > Level.LISTING.rank else Level.CONTENT, caller)
    problem = next((_doubt(check) for check in checks if check.verdict is not Verdict.MATCH), None)
    roles = {copy.ordinal: copy.role for copy in planned.copies}
    return LateDone(
        {(planned.store, planned.key, roles[ordinal]): receipt for ordinal, receipt in receipts.items()}, problem
    )


def _why(result: CopyResult) -> str:
    return f"{result.outcome}: {result.reason}" if result.reason else str(result.outcome)


def _doubt(check: CheckResult) -> str:
    return f"{check.verdict}: {check.reason}" if check.reason else str(check.verdict)
