"""One forgotten user's way: look at every target, take away what is ours there, look again, and write down that nothing is left.

Whose an object at a target is depends on whether the user ever lived there. Before that nobody else writes at a key where one of
our copies has a receipt, so whatever stands there is ours. A copy without one may have been made all the same, once its batch was
begun: what is like its source is ours. Anything else at our keys was there before us (`occupied`). Where the platform writes, or
somebody else did, only what has the ETag of one of our receipts is ours. Everything else is told by number, and left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from migrate.errors import (
    InterruptedRun,
    LaterError,
    MigrateError,
    NotFoundError,
    SealLostError,
    UnreachableError,
)
from migrate.jobs.at_stores import NO_VERSION, objects_under, uploads_under, versions_under
from migrate.jobs.freezes import frozen_ms
from migrate.jobs.steps import OF_THE_USER, Job, Way
from migrate.layout import CompiledRule, at_targets, is_for_all
from migrate.ledger import Ledger, Move
from migrate.model import ObjectInfo
from migrate.pauses import PausePoint, pause_at
from migrate.routing import Route, Router
from migrate.states import UserState
from migrate.stores.base import Store, UploadInfo
from migrate.transfer.caller import Caller
from migrate.worker.checking import user_prefixes

_KEYS_A_JOB, _JOBS_AT_ONCE = 50, 16
_OF_THE_USER = (*OF_THE_USER, SealLostError)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every user's way needs. `router` opens the way to the platform; None where the spec names none, so that nobody can
    have moved by it. `freeze_seconds` is the longest time that the platform keeps a freeze. `stopped` says that nothing more is
    to be begun. With `dry_run` nothing is changed anywhere."""

    ledger: Ledger
    caller: Caller
    rules: tuple[CompiledRule, ...]
    targets: Sequence[str]
    source_sites: frozenset[str]
    router: Callable[[], Router | None]
    freeze_seconds: int
    run_id: int
    now: Callable[[], datetime]
    stopped: Callable[[], bool]
    dry_run: bool


@dataclass(slots=True)
class Ours:
    """What we may have at one key of a target store: `etags` are those of our receipts, of whatever plan; `begun` has
    the sources' sizes and ETags of copies whose batch was begun, and which have no receipt; `is_occupied`, where a copy found
    somebody else's object there. `has_receipt`: a copy looked there, and left what it was to leave, a tombstone nothing."""

    etags: set[str] = field(default_factory=set)
    begun: set[tuple[int, str]] = field(default_factory=set)
    has_receipt: bool = False
    is_occupied: bool = False

    @property
    def is_all_ours(self) -> bool:
        """Whether nobody else can have written there before the user lives at the target."""
        return self.has_receipt and not self.is_occupied


@dataclass(frozen=True, slots=True)
class Mine:
    """A user who is forgotten, and what the plans of the line and cutovers may have left at the targets.

    `copies` has the ordinals by plan and batch, `keys` what may be ours by target store and key. `move` is the last attempt at a
    cutover. `lost`: a seal of receipts that cannot be had.
    """

    user_id: str
    copies: Mapping[tuple[int, int], Sequence[int]]
    keys: Mapping[tuple[str, str], Ours]
    move: Move | None
    lost: SealLostError | None


@dataclass(frozen=True, slots=True)
class Erased:
    """How it ended: objects and versions that went, their bytes, and uploads; in a dry run, that would. `left` counts by kind
    what stays: `extra` and `occupied` are nobody's that we know, `platform` is the platform's. `error` is what broke it off."""

    user_id: str
    objects: int = 0
    size_bytes: int = 0
    uploads: int = 0
    left: Mapping[str, int] = field(default_factory=dict)
    error: MigrateError | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What one target store has of the user: objects, versions and delete markers, the newest of a key first, and uploads.

    `tells_md5`: an ETag of 32 digits is the MD5 there."""

    store: str
    tells_md5: bool
    objects: Sequence[ObjectInfo]
    uploads: Sequence[UploadInfo]


def erase(tools: Tools, mine: Mine) -> Way[Erased]:
    """The whole way. Raises only what no user is at fault for."""
    try:
        return (yield from _erase(tools, mine))
    except _OF_THE_USER as error:
        return Erased(mine.user_id, error=error)


def _erase(tools: Tools, mine: Mine) -> Way[Erased]:
    has_lived = yield from _has_lived(tools, mine)
    if has_lived and mine.lost is not None:
        raise mine.lost  # nobody can tell what is ours
    begun = tools.ledger.uploads_begun(mine.copies)
    looks: list[_Look] = yield [partial(_look, tools, store, mine) for store in tools.targets]
    doomed = {look.store: _doomed(look, mine, has_lived) for look in looks}
    uploads = {look.store: _our_uploads(look, mine, has_lived, begun) for look in looks}
    gone = [info for found in doomed.values() for info in found if not info.is_delete_marker]
    count = partial(
        Erased,
        mine.user_id,
        objects=len(gone),
        size_bytes=sum(info.size for info in gone),
        uploads=sum(len(found) for found in uploads.values()),
    )
    if tools.dry_run:
        return count(left=_left(_without(looks, doomed, uploads), mine, has_lived))
    tools.ledger.demand_erasable(mine.user_id)
    jobs = _jobs(tools, mine, has_lived, doomed, uploads)
    for start in range(0, len(jobs), _JOBS_AT_ONCE):
        if tools.stopped():
            raise InterruptedRun("stopped before all of the user was erased", remedy="Give the command again.")
        if start:
            tools.ledger.demand_erasable(mine.user_id)  # a hold that was set meanwhile
        yield jobs[start : start + _JOBS_AT_ONCE]
    if jobs:
        looks = yield [partial(_look, tools, store, mine) for store in tools.targets]
    left = _left(looks, mine, has_lived)
    if left[_OURS]:
        raise UnreachableError(
            "a target has taken deletions, and shows the objects all the same",
            remedy="Ask `migrate doctor` about the targets, then give the command again.",
        )
    pause_at(PausePoint.USER_ERASED)
    tools.ledger.looked_over(mine.user_id, mine.copies, tools.run_id, tools.now(), is_clean=not left)
    return count(left=left)


def _has_lived(tools: Tools, mine: Mine) -> Way[bool]:
    """Whether the user's home is or ever was at the targets. Of a cutover that broke off only the platform knows, and so it does
    where another ledger has moved the user. A freeze that such a cutover has left is ended first: no flip can come any more. How
    it ended is written down, so that a purge knows of a flip."""
    move = mine.move
    if move is not None and move.flipped_at is not None:
        return True
    # by an earlier attempt, of which the move's row has nothing left
    lived_once = any(event.to_state is UserState.CUT_OVER for event in tools.ledger.history(mine.user_id))
    broke_off = move if move is not None and move.unfrozen_at is None else None
    if lived_once and broke_off is None:
        return True
    router = tools.router()
    if router is None:
        return lived_once
    if broke_off is not None and not tools.dry_run:
        yield [partial(router.unfreeze, mine.user_id, broke_off.token)]
    (route,) = yield [partial(router.read, mine.user_id)]
    assert isinstance(route, Route), "a router reads routes"
    if broke_off is not None and not tools.dry_run:
        if route.frozen_by == broke_off.token:
            raise LaterError(
                "the platform still shows the freeze of a cutover that broke off",
                remedy="It ends by itself (routing.freeze_seconds_max): give the command again.",
            )
        at, attempt = tools.now(), (mine.user_id, broke_off.token, tools.run_id)
        if route.home == broke_off.to_site:
            lasted = frozen_ms(broke_off.frozen_at, at, tools.freeze_seconds)
            tools.ledger.flipped(*attempt, at=at, frozen_ms=lasted)
        else:
            tools.ledger.thaw(*attempt, at)
    return lived_once or route.home not in tools.source_sites


# what is there


def _look(tools: Tools, name: str, mine: Mine) -> _Look:
    rules = at_targets(tools.rules)
    prefixes = user_prefixes(rules, mine.user_id)
    loose = [
        key for store, key in mine.keys if store == name and not any(key.startswith(prefix) for prefix in prefixes)
    ]
    caller = tools.caller
    objects, uploads = _listed(name, prefixes, caller), uploads_under(name, prefixes, caller)
    for key in loose:
        objects += [info for info in _listed(name, [key], caller) if info.key == key]
        uploads += [found for found in uploads_under(name, [key], caller) if found.key == key]
    return _Look(
        name,
        caller.call(name, lambda store: store.capabilities.etag_is_md5),
        [info for info in objects if (name, info.key) in mine.keys or not is_for_all(rules, name, info.key)],
        uploads,
    )


def _listed(name: str, prefixes: Sequence[str], caller: Caller) -> list[ObjectInfo]:
    """Objects, versions and delete markers. A store that is not known to keep versions is asked for them all the same, since it
    may have begun to; what such a one says is no proof that there is nothing (invariant 4)."""
    current, found = objects_under(name, prefixes, caller), versions_under(name, prefixes, caller)
    latest = {info.key for info in found if info.is_latest}
    return [*(info for info in current if info.key not in latest), *found]


# what of it is ours


_OURS, _OCCUPIED, _EXTRA, _PLATFORM = "ours", "occupied", "extra", "platform"


def _doomed(look: _Look, mine: Mine, has_lived: bool) -> list[ObjectInfo]:
    by_key: dict[str, list[ObjectInfo]] = {}
    for info in look.objects:
        by_key.setdefault(info.key, []).append(info)
    found: list[ObjectInfo] = []
    for key, versions in by_key.items():
        ours = mine.keys.get((look.store, key))
        if ours is None:
            continue
        if not has_lived and ours.is_all_ours:
            found += versions
            continue
        data = [info for info in versions if not info.is_delete_marker]
        mine_there = [info for info in data if _is_ours(look, info, ours, has_lived)]
        found += mine_there
        if len(mine_there) == len(data) and data:  # markers over what is gone hide nothing
            found += [info for info in versions if info.is_delete_marker]
    return found


def _our_uploads(look: _Look, mine: Mine, has_lived: bool, begun: set[tuple[str, str]]) -> list[UploadInfo]:
    """Those that the ledger knows, and before anybody lives there all for keys that we have begun."""
    return [
        upload
        for upload in look.uploads
        if (look.store, upload.upload_id) in begun
        or (not has_lived and _is_begun(mine.keys.get((look.store, upload.key))))
    ]


def _is_begun(ours: Ours | None) -> bool:
    return ours is not None and (ours.has_receipt or ours.is_occupied or bool(ours.begun))


def _is_ours(look: _Look, info: ObjectInfo, ours: Ours, has_lived: bool) -> bool:
    """Whether an object or version at a key of ours is."""
    if info.etag in ours.etags:
        return True
    if has_lived or ours.is_occupied:
        return False
    return ours.has_receipt or any(_is_like(info, size, etag, look.tells_md5) for size, etag in ours.begun)


def _is_like(info: ObjectInfo, size: int, etag: str, tells_md5: bool) -> bool:
    """Whether an object may be the copy of a source of this size and ETag: nothing that both stores tell of it differs."""
    if info.size != size:
        return False
    is_comparable = (
        _is_composite(info.etag) if _is_composite(etag) else tells_md5 and _is_md5(info.etag) and _is_md5(etag)
    )
    return info.etag == etag or not is_comparable


def _is_md5(etag: str) -> bool:
    return re.fullmatch("[0-9a-f]{32}", etag) is not None


def _is_composite(etag: str) -> bool:
    return re.fullmatch("[0-9a-f]{32}-[0-9]+", etag) is not None


def _without(
    looks: Sequence[_Look], doomed: Mapping[str, Sequence[ObjectInfo]], uploads: Mapping[str, Sequence[UploadInfo]]
) -> list[_Look]:
    """What would be left."""
    return [
        _Look(
            look.store,
            look.tells_md5,
            [info for info in look.objects if info not in doomed[look.store]],
            [upload for upload in look.uploads if upload not in uploads[look.store]],
        )
        for look in looks
    ]


def _left(looks: Sequence[_Look], mine: Mine, has_lived: bool) -> Counter[str]:
    """What stands there, by whose it is. A delete marker alone is nothing."""
    found: Counter[str] = Counter()
    for look in looks:
        for info in look.objects:
            ours = mine.keys.get((look.store, info.key))
            is_ours = ours is not None and _is_ours(look, info, ours, has_lived)
            found[_kind(ours, is_ours, has_lived)] += not info.is_delete_marker
        for upload in look.uploads:
            ours = mine.keys.get((look.store, upload.key))
            found[_kind(ours, not has_lived and _is_begun(ours), has_lived)] += 1
    return +found


def _kind(ours: Ours | None, is_ours: bool, has_lived: bool) -> str:
    if is_ours:
        return _OURS
    if has_lived:
        return _PLATFORM
    return _EXTRA if ours is None else _OCCUPIED


# taking it away


def _jobs(
    tools: Tools,
    mine: Mine,
    has_lived: bool,
    doomed: Mapping[str, Sequence[ObjectInfo]],
    uploads: Mapping[str, Sequence[UploadInfo]],
) -> list[Job]:
    """Some keys a job; of a key the oldest version first, and markers last, so that nothing shows again on the way."""
    jobs: list[Job] = []
    for store, found in uploads.items():
        jobs += [
            partial(_abort, tools, store, found[start : start + _KEYS_A_JOB])
            for start in range(0, len(found), _KEYS_A_JOB)
        ]
    for store, objects in doomed.items():
        by_key: dict[str, list[ObjectInfo]] = {}
        for info in reversed(objects):
            by_key.setdefault(info.key, []).append(info)
        keys = [sorted(versions, key=lambda info: info.is_delete_marker) for versions in by_key.values()]
        jobs += [
            partial(_delete, tools, store, mine, has_lived, keys[start : start + _KEYS_A_JOB])
            for start in range(0, len(keys), _KEYS_A_JOB)
        ]
    return jobs


def _abort(tools: Tools, name: str, uploads: Sequence[UploadInfo]) -> None:
    for upload in uploads:
        tools.caller.call(name, lambda store, upload=upload: store.abort_upload(upload.key, upload.upload_id))  # type: ignore[misc]


def _delete(tools: Tools, name: str, mine: Mine, has_lived: bool, keys: Sequence[Sequence[ObjectInfo]]) -> None:
    for versions in keys:
        for info in versions:
            is_shared = has_lived or not mine.keys[name, info.key].is_all_ours
            tools.caller.call(name, partial(_delete_one, info=info, looks=is_shared and not info.is_delete_marker))
            pause_at(PausePoint.OBJECT_ERASED)


def _delete_one(store: Store, info: ObjectInfo, looks: bool) -> None:
    """Delete a version, or an object that has none. With `looks` somebody else may have written the key since it was listed: what
    has no version of its own is looked at once more, and left where it is another by now."""
    if looks and info.version_id in NO_VERSION:
        try:
            if store.head(info.key, version_id=info.version_id).etag != info.etag:
                return
        except NotFoundError:
            return
    store.delete(info.key, version_id=info.version_id)
