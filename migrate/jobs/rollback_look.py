"""What the new home shows of a user beside what line and ledger know of the copies there, and whether the sources still stand.

A copy is known by the ETag of its receipt: another one, or a key that nobody knows, was written at the new home since. What is
known and not there was deleted there, if somebody else says so too: the backup site does not have it either, or the home keeps
versions and shows a delete marker. Else, and where all of a user is gone, the home may have lost it, and nothing is deleted for
that (invariant 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from migrate.jobs.at_stores import etag_at, has_marker, object_at, objects_under
from migrate.jobs.last_delta import Known, Now, list_now
from migrate.jobs.receipts import Receipts
from migrate.jobs.steps import Way
from migrate.jobs.written import Written
from migrate.layout import CompiledRule, at_targets, is_for_all, match, origins
from migrate.ledger import LateCopy
from migrate.model import DELETED, SENT_BACK, ObjectInfo, PlannedCopy, PlannedObject, Role, TargetRole
from migrate.planner.of_users import PlannedAt, SourceKey
from migrate.spec import Spec
from migrate.transfer.caller import Caller
from migrate.worker.checking import user_prefixes

ASKED_AT_ONCE = 16  # keys: so that other users' questions find a thread


@dataclass(frozen=True, slots=True)
class Stand:
    """An object of a user as line or ledger know it last. `etag` is that of its receipt at the home, None where there is none;
    what an earlier rollback was to send back, and has not, is by no ETag ours.

    `is_due`: an earlier rollback was to delete it at the sources, and nobody knows whether it came to that.
    """

    known: Known
    etag: str | None
    is_due: bool

    @property
    def planned(self) -> PlannedObject:
        return self.known.planned

    @property
    def store(self) -> str:
        """The target store at the home."""
        return next(copy.store for copy in self.planned.copies if copy.role is TargetRole.HOME)

    @property
    def backup_store(self) -> str | None:
        return next((copy.store for copy in self.planned.copies if copy.role is TargetRole.BACKUP), None)

    @property
    def is_at_home(self) -> bool:
        """Whether it is to be at the home, unless it was deleted there."""
        return not self.planned.is_tombstone


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was deleted at the new home. `at` is what stands under its key still, by store, a source and its backups: there it is
    as it is known, and a backup that lagged may have an older one. `left_at_backup` is the ETag of what the backup site's target
    has under its key."""

    stand: Stand
    at: Mapping[str, ObjectInfo]
    left_at_backup: str | None


@dataclass(frozen=True, slots=True)
class Sendable:
    """An object at the new home, and where it would go at a source: as a plan would have it, from the one to the other.

    `replaces` is the ETag of what is there, and known. `backup_store`: where the backup site has it, or will have it.
    """

    planned: PlannedObject
    replaces: str | None
    backup_store: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What differs. Numbers are of objects.

    `listed`: at home or sources, whichever are more. `unproven`: without a receipt to compare with. `unmapped`: at keys among the
    user's that no rule makes the user's. `ambiguous`: not at the home, which alone says so. `strange`: deleted at the home, and a
    source has something else there than is known, by the stores that do. `lost`: at the home, and not at the sources as they
    were; `half_sent`: they may be, since a sending back broke off, and another one ends it. `sendable` is what was written, as it
    could be sent back; `unsendable`: of which nobody knows to which key, or where something else stands.
    """

    written: tuple[Written, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    listed: int = 0
    unproven: int = 0
    unmapped: int = 0
    ambiguous: int = 0
    strange: int = 0
    strange_at: tuple[str, ...] = ()
    lost: int = 0
    half_sent: int = 0
    sendable: tuple[Sendable, ...] = ()
    unsendable: int = 0

    @property
    def to_delete(self) -> int:
        """Objects that the sources have, and are to lose."""
        return sum(len(deletion.at) > 0 for deletion in self.deletions)


@dataclass(frozen=True, slots=True)
class Subject:
    """A user who is to be looked at: the sites where they live now and have their backup, since when they were kept off the
    sources, and what line and ledger know of them."""

    user_id: str
    home: str
    backup: str | None
    moved_at: datetime
    known: Mapping[SourceKey, Known]
    stands: Mapping[SourceKey, Stand]


def stands_of(
    known: Mapping[SourceKey, Known],
    line: Mapping[SourceKey, PlannedAt],
    late: Sequence[LateCopy],
    receipts: Receipts,
    spec: Spec,
) -> dict[SourceKey, Stand]:
    """What is known of a user's objects at the home."""
    found: dict[SourceKey, str | None] = {}
    for key, at in line.items():
        home = next(copy.ordinal for copy in at.planned.copies if copy.role is TargetRole.HOME)
        last = receipts.of(at.place, at.batch).last.get(home)
        found[key] = None if last is None else last[0]
    due = set()
    for copy in late:
        if copy.role is TargetRole.HOME:
            key = (spec.source_of(copy.store), copy.key)
            unproven = "" if copy.flag == SENT_BACK else None
            found[key] = unproven if copy.receipt is None else copy.receipt.etag
            if copy.receipt is None and copy.flag == DELETED:
                due.add(key)
    return {key: Stand(each, found.get(key), key in due) for key, each in known.items()}


def differences(
    subject: Subject, spec: Spec, rules: Sequence[CompiledRule], caller: Caller, *, trust_home: bool
) -> Way[Found]:
    """Ask home and sources. With `trust_home` what the home does not have was deleted there, whoever else has it.

    Raises what a listing raises: one that failed reads as no absence.
    """
    there, now = yield from _list(subject, spec, rules, caller)
    listed = max(len(there), len(now))
    gone = yield from _gone(subject, there, caller)
    found = yield from _deleted(subject, gone, now, spec, caller, trust_home=trust_home)
    written, unmapped = _written(subject, there, rules)
    sendable = [_sendable(subject, each, there[each.store, each.key], now, spec, rules) for each in written]
    at_home = {key: stand for key, stand in subject.stands.items() if stand.is_at_home and key not in gone}
    missing = {
        key: stand
        for key, stand in at_home.items()
        if not _stands(stand.planned, now.get(key))
        and not _is_same(there[stand.store, stand.planned.target_key], now.get(key))
        and not stand.known.is_untouched(None if key not in now else now[key][1])
    }
    half_sent = [key for key, stand in missing.items() if key in now and stand.known.may_be(now[key][1])]
    return replace(
        found,
        written=tuple(written),
        listed=listed,
        unproven=sum(stand.etag is None for stand in at_home.values()),
        unmapped=unmapped,
        lost=len(missing) - len(half_sent),
        half_sent=len(half_sent),
        sendable=tuple(each for each in sendable if each is not None),
        unsendable=sum(each is None for each in sendable),
    )


_Home = dict[tuple[str, str], ObjectInfo]
"""What the home has, by target store and key."""


def _list(subject: Subject, spec: Spec, rules: Sequence[CompiledRule], caller: Caller) -> Way[tuple[_Home, Now]]:
    """Home and sources, by the user's prefixes."""
    prefixes = user_prefixes(rules, subject.user_id)
    homes = [name for name, store in spec.by_role(Role.TARGET).items() if store.site == subject.home]
    *listings, now = yield [
        *(partial(objects_under, name, prefixes, caller) for name in homes),
        partial(list_now, subject.user_id, subject.known, spec, rules, caller),
    ]
    return {(name, info.key): info for name, infos in zip(homes, listings, strict=True) for info in infos}, now


def _gone(subject: Subject, there: _Home, caller: Caller) -> Way[dict[SourceKey, Stand]]:
    """What is known and not at the home, once that was asked for by name; what is there all the same is added to `there`."""
    absent = [
        (key, stand)
        for key, stand in subject.stands.items()
        if (stand.is_at_home or stand.is_due) and (stand.store, stand.planned.target_key) not in there
    ]
    gone: dict[SourceKey, Stand] = {}
    for some in _some(absent):
        heads = yield [partial(object_at, stand.store, stand.planned.target_key, caller) for _, stand in some]
        for (key, stand), info in zip(some, heads, strict=True):
            if info is None:
                gone[key] = stand
            else:
                there[stand.store, stand.planned.target_key] = info
    return gone


def _deleted(
    subject: Subject, gone: Mapping[SourceKey, Stand], now: Now, spec: Spec, caller: Caller, *, trust_home: bool
) -> Way[Found]:
    """What of it was deleted, and what is in the way of deleting it at the sources."""
    deletions: list[Deletion] = []
    ambiguous = strange = 0
    strange_at: set[str] = set()
    for some in _some(list(gone.items())):
        answers = yield [partial(_ask, subject, key, stand, now, spec, caller) for key, stand in some]
        for (_, stand), answer in zip(some, answers, strict=True):
            if not (answer.is_believed or trust_home):
                ambiguous += 1
            elif answer.strange_at:
                strange += 1
                strange_at.update(answer.strange_at)
            else:
                deletions.append(Deletion(stand, answer.at, answer.left_at_backup))
    if deletions and not trust_home and all(key in gone for key, stand in subject.stands.items() if stand.is_at_home):
        ambiguous, deletions = ambiguous + len(deletions), []  # who has lost everything has hardly deleted it
    return Found(deletions=tuple(deletions), ambiguous=ambiguous, strange=strange, strange_at=tuple(sorted(strange_at)))


def _written(
    subject: Subject, there: Mapping[tuple[str, str], ObjectInfo], rules: Sequence[CompiledRule]
) -> tuple[list[Written], int]:
    """What was written at the home since, and how many keys there no rule makes the user's."""
    ours = {(stand.store, stand.planned.target_key): stand for stand in subject.stands.values() if stand.is_at_home}
    by_target = at_targets(rules)
    found: list[Written] = []
    unmapped = 0
    for (store, key), info in there.items():
        stand = ours.get((store, key))
        if stand is not None:
            if stand.etag is not None and stand.etag != info.etag:
                found.append(Written(store, key, info.size, info.etag, is_new=False))
            continue
        if is_for_all(rules, store, key):
            continue  # everybody's, among the user's
        whose = match(by_target, store, key)
        if whose is None or whose.user_id != subject.user_id:
            unmapped += 1
        else:
            found.append(Written(store, key, info.size, info.etag, is_new=True))
    return found, unmapped


def _stands(planned: PlannedObject, now: tuple[str, ObjectInfo] | None) -> bool:
    """Whether a source has the object as it is known."""
    return now is not None and (now[1].size, now[1].etag) == (planned.size, planned.etag)


def _is_same(info: ObjectInfo, now: tuple[str, ObjectInfo] | None) -> bool:
    """Whether a source has what the home has: an earlier rollback has sent it back, and the user stayed."""
    return now is not None and (now[1].size, now[1].etag) == (info.size, info.etag)


def _sendable(
    subject: Subject, written: Written, info: ObjectInfo, now: Now, spec: Spec, rules: Sequence[CompiledRule]
) -> Sendable | None:
    """Where what was written at the home goes at a source; None where that is not to be told, or something else stands there."""
    sources = [name for name in spec.by_role(Role.SOURCE) if spec.target_store(subject.home, name) == written.store]
    places = origins(rules, written.key, sources)
    if len(places) != 1:
        return None
    source, key, read = places[0]
    stand, there = subject.stands.get((source, key)), now.get((source, key))
    if there is not None and there[0] != source:
        there = None  # a backup alone has it
    is_known = (
        stand is not None and there is not None and (_stands(stand.planned, there) or stand.known.may_be(there[1]))
    )
    if there is not None and not is_known and not _is_same(info, there):
        return None
    assert read.rule.category is not None, "a user's rule has one"
    planned = PlannedObject(
        user_id=subject.user_id,
        store=written.store,
        key=written.key,
        version_id=info.version_id,
        etag=info.etag,
        size=info.size,
        last_modified=info.last_modified,
        category=read.rule.category,
        rule=read.rule.name,
        target_key=key,
        flag=None,
        copies=(PlannedCopy(0, TargetRole.HOME, source),),
    )
    return Sendable(
        planned,
        there[1].etag if there is not None and is_known else None,
        None if subject.backup is None else spec.target_store(subject.backup, source),
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    """Of what the home does not have: whether somebody else says so, what stands under its key at the sources, and at which
    of them it is another object, and what the backup site's target has."""

    is_believed: bool
    strange_at: tuple[str, ...]
    at: Mapping[str, ObjectInfo]
    left_at_backup: str | None


def _ask(subject: Subject, key: SourceKey, stand: Stand, now: Now, spec: Spec, caller: Caller) -> _Answer:
    planned, (source, name) = stand.planned, key
    left = None if stand.backup_store is None else etag_at(stand.backup_store, planned.target_key, caller)
    is_believed = stand.backup_store is not None and left is None
    if not is_believed:
        able = caller.store(stand.store).capabilities
        is_believed = able.versions and has_marker(stand.store, planned.target_key, caller)
    listed = now.get(key)
    seen = {source: None if listed is None or listed[0] != source else listed[1]}
    for backup, store in spec.by_role(Role.BACKUP).items():
        if store.backup_of == source:
            seen[backup] = object_at(backup, name, caller)
    at = {place: info for place, info in seen.items() if info is not None}
    strange = tuple(
        place
        for place, info in at.items()
        if not (_stands(planned, (place, info)) or stand.known.may_be(info))
        # a backup that lagged has an older one, which the deletion is for as well. Stores tell whole seconds
        and (place == source or info.last_modified >= subject.moved_at.replace(microsecond=0))
    )
    return _Answer(is_believed, strange, at, left)


def _some(stands: Sequence[tuple[SourceKey, Stand]]) -> Iterator[Sequence[tuple[SourceKey, Stand]]]:
    for start in range(0, len(stands), ASKED_AT_ONCE):
        yield stands[start : start + ASKED_AT_ONCE]
