"""One user's way back to the old home: gate, freeze, look again, replay deletions, flip, read back, unfreeze; or back to where it
stood. What was written at the new home stays there. Where somebody has approved it, it is sent back as well, before the flip.

What was deleted at the new home is deleted at the sources before the flip, so that nothing erased comes to life. It stands in the
ledger before, and its receipts after it (invariant 1); the platform is told of the home last. As in a cutover, what the platform
has counts, whatever became of our question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from migrate.errors import (
    IntegrityError,
    InterruptedRun,
    LaterError,
    MigrateError,
    MoveRefusedError,
    NotFoundError,
    StrangeAnswerError,
    ThrottledError,
    TransientStoreError,
    UnreachableError,
)
from migrate.jobs.at_stores import etag_at
from migrate.jobs.freezes import begin_freeze, end_freeze, note_of
from migrate.jobs.late import same_objects
from migrate.jobs.rollback_gate import Seen, missing
from migrate.jobs.rollback_look import ASKED_AT_ONCE, Deletion, Found, Sendable, Subject, differences
from migrate.jobs.steps import OF_THE_USER, Way
from migrate.jobs.written import Written, WrittenFile
from migrate.layout import CompiledRule
from migrate.ledger import LateRef, Ledger, Move
from migrate.model import (
    DELETED,
    SENT_BACK,
    Level,
    ObjectInfo,
    PlannedCopy,
    PlannedObject,
    Receipt,
    TargetRole,
    Verdict,
)
from migrate.pauses import PausePoint, pause_at
from migrate.routing import Router
from migrate.spec import Spec
from migrate.states import UserState
from migrate.stores.base import Store
from migrate.transfer.at_once import copy_at_once
from migrate.transfer.caller import Caller
from migrate.transfer.removing import receipt_of_nothing
from migrate.verify import check_object

_DELETED_AT_ONCE, _SENT_AT_ONCE = 8, 4
_OF_THE_USER = (*OF_THE_USER, MoveRefusedError)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every user's way needs. `stopped` says that nobody may begin to be frozen or flipped any more; `written` takes what
    was written at the new home. `approved_by` is who has approved that it is sent back, None where nobody has.
    `takes` bounds what is in memory by bytes while the block lasts."""

    plan_id: int
    run_id: int
    spec: Spec
    rules: tuple[CompiledRule, ...]
    ledger: Ledger
    router: Router
    caller: Caller
    unlistable: Sequence[str]
    trust_home: bool
    approved_by: str | None
    written: WrittenFile
    takes: Callable[[int], Any]
    now: Callable[[], datetime]
    stopped: Callable[[], bool]

    @property
    def freeze_seconds(self) -> int:
        return self.spec.routing.freeze_seconds_max


@dataclass(frozen=True, slots=True)
class Attempt:
    """A user's way back that has begun: under which token, from which home, and to which."""

    user_id: str
    token: str
    from_site: str
    to_site: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How one user's way ended.

    `is_back`: the old home holds. `missing`: what the gate found, by check; nothing was begun then. `error`: what broke the way
    off after it was begun; the user is where they were, unless `is_open`: then the next rollback finds out. `written` is at
    the new home, `sent` counts what of it was, or would be, sent back, and `replayed` what was, or would be, deleted at the
    sources. Times are of listing, and of the freeze.
    """

    user_id: str
    is_back: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    error: MigrateError | None = None
    is_open: bool = False
    written: Sequence[Written] = ()
    replayed: int = 0
    sent: int = 0
    listing_seconds: float = 0.0
    frozen_ms: int = 0


def look(tools: Tools, subject: Subject) -> Way[Ended]:
    """Every check, for real, and nothing else: what a dry run does for each user."""
    try:
        seen = yield from _look(tools, subject)
        lacks = missing(seen)
        if not lacks:
            yield [partial(tools.written.keep, subject.user_id, seen.found.written)]
    except _OF_THE_USER as error:
        return Ended(subject.user_id, error=error)
    return Ended(
        subject.user_id,
        missing=lacks,
        written=seen.found.written,
        replayed=seen.found.to_delete,
        sent=len(seen.found.sendable) if seen.sends_back else 0,
        listing_seconds=seen.listing_seconds,
    )


def go_back(tools: Tools, subject: Subject) -> Way[Ended]:
    """The whole way. Raises only what no user is at fault for: RefusedError, IntegrityError, an error of the ledger's."""
    user_id, ledger = subject.user_id, tools.ledger
    try:
        seen = yield from _look(tools, subject)
        lacks = missing(seen)
        if lacks:
            return Ended(user_id, missing=lacks, listing_seconds=seen.listing_seconds)
        if tools.stopped():
            raise InterruptedRun("stopped before the user was frozen")
        approved = f"what they wrote is sent back, approved by {tools.approved_by}" if tools.approved_by else None
        ledger.begin_return(user_id, tools.run_id, tools.now(), note=approved)
    except MoveRefusedError as refused:  # since the gate
        return Ended(user_id, missing={"state": refused.what})
    except _OF_THE_USER as failure:  # nothing was begun
        return Ended(user_id, error=failure)
    pause_at(PausePoint.RETURN_RECORDED)
    begun = time.monotonic()
    move = ledger.move_of(user_id)
    assert move is not None, "who is on the way back has moved"
    way = attempt_of(move)
    error: Exception | None = None
    found = Found()
    try:
        found = yield from _look_again(tools, subject, seen, way)
        yield from _return(tools, way, found, begun)
    except Exception as broken_off:  # noqa: BLE001 - whatever it was, the user's freeze is ended first
        error = broken_off
    ended = yield from settle(tools, way, error)
    if not ended.is_back and not ended.is_open:
        yield [partial(tools.written.drop, user_id)]
    if error is not None and not isinstance(error, _OF_THE_USER):
        raise error
    return replace(
        ended,
        written=found.written if ended.is_back else (),
        replayed=found.to_delete if ended.is_back else 0,
        sent=len(found.sendable) if ended.is_back and seen.sends_back else 0,
        listing_seconds=seen.listing_seconds,
        frozen_ms=round((time.monotonic() - begun) * 1000),
    )


def attempt_of(move: Move) -> Attempt:
    """The way back that the ledger has begun for a user."""
    assert move.back_token is not None, "a way back has its token from the beginning"
    return Attempt(move.user_id, move.back_token, move.to_site, move.from_site)


def settle(tools: Tools, way: Attempt, error: Exception | None) -> Way[Ended]:
    """End a user's freeze, and write down where the platform has the user: at the old home, or where they were.

    For a way that came to its end as well as for one that broke off, by `error` or by a process that died. Where the platform
    cannot be asked it stays open.
    """
    user_id, ledger = way.user_id, tools.ledger
    ours = error if isinstance(error, MigrateError) else None
    try:
        route = yield from end_freeze(tools.router, user_id, way.token, tools.freeze_seconds)
    except (UnreachableError, LaterError) as unknown:
        return Ended(user_id, error=ours or unknown, is_open=True)
    pause_at(PausePoint.RETURN_UNFROZEN)
    try:
        if route.home == way.to_site:
            ledger.rolled_back(user_id, way.token, tools.run_id, tools.now())
            return Ended(user_id, is_back=True)
        note = None if error is None else note_of(error)
        ledger.stayed(user_id, way.token, tools.run_id, tools.now(), note=note)
    except MoveRefusedError as refused:
        return Ended(user_id, error=refused, is_open=True)
    return Ended(user_id, error=ours or LaterError("a way back of the user broke off, and they stayed"))


def _look(tools: Tools, subject: Subject) -> Way[Seen]:
    (route,) = yield [partial(tools.router.read, subject.user_id)]
    begun = time.monotonic()
    found = Found()
    if not tools.unlistable and len(subject.known) <= tools.spec.cutover.objects_max:
        found = yield from differences(subject, tools.spec, tools.rules, tools.caller, trust_home=tools.trust_home)
    return Seen(
        route=route,
        home=subject.home,
        is_on_hold=tools.ledger.hold_of(subject.user_id) is not None,
        unlistable=tools.unlistable,
        objects=max(found.listed, len(subject.known)),
        listing_seconds=time.monotonic() - begun,
        found=found,
        sends_back=tools.approved_by is not None,
        limits=tools.spec.cutover,
        freeze_seconds=tools.freeze_seconds,
    )


def _look_again(tools: Tools, subject: Subject, seen: Seen, way: Attempt) -> Way[Found]:
    """Freeze the user, and look once more what differs. LaterError where the gate would not let them pass any more."""
    user_id = subject.user_id
    yield from begin_freeze(tools.router, user_id, way.token, tools.freeze_seconds, subject.home)
    pause_at(PausePoint.RETURN_FROZEN)
    found = yield from differences(subject, tools.spec, tools.rules, tools.caller, trust_home=tools.trust_home)
    lacks = missing(replace(seen, found=found, is_on_hold=tools.ledger.hold_of(user_id) is not None))
    if lacks:
        raise LaterError(f"since the gate: {'; '.join(lacks.values())}")
    return found


def _return(tools: Tools, way: Attempt, found: Found, begun: float) -> Way[None]:
    """From the freeze to the flip that was read back. Raises what broke it off."""
    user_id = way.user_id
    yield [partial(tools.written.keep, user_id, found.written)]
    if found.deletions:
        yield from _replay(tools, way, found.deletions, begun)
    if tools.approved_by is not None and found.sendable:
        yield from _send_back(tools, way, found.sendable, begun)
    _demand_time(tools, begun)
    _demand_returning(tools.ledger, way)
    yield [partial(tools.router.flip, user_id, way.token, way.to_site)]
    pause_at(PausePoint.FLIPPED_BACK)
    (route,) = yield [partial(tools.router.read, user_id)]
    if route.home != way.to_site:
        raise IntegrityError(
            "the platform has taken the old home back, and does not show it",
            remedy="Look at its routing: no user can go back by it.",
        )


def _replay(tools: Tools, way: Attempt, deletions: Sequence[Deletion], begun: float) -> Way[None]:
    """Delete at the sources what was deleted at the new home, and write down both. From then on it counts as deleted, also where
    the user stays: what comes to be under such a key is another object."""
    user_id, ledger = way.user_id, tools.ledger
    tombstones = [_tombstone(deletion) for deletion in deletions]
    left = {
        (planned.store, planned.key, TargetRole.BACKUP): deletion.left_at_backup
        for planned, deletion in zip(tombstones, deletions, strict=True)
        if deletion.left_at_backup is not None
    }
    ledger.plan_late(user_id, way.token, tools.plan_id, tools.run_id, tombstones, same_objects(tools.spec), left)
    pause_at(PausePoint.DELETIONS_PLANNED)
    jobs = [partial(_delete, tools, deletion, store, begun) for deletion in deletions for store in deletion.at]
    for start in range(0, len(jobs), _DELETED_AT_ONCE):  # so that other users' questions find a thread
        if ledger.hold_of(user_id) is not None:
            raise LaterError("the user was put on hold, so nothing more is deleted at the sources")
        yield jobs[start : start + _DELETED_AT_ONCE]
    pause_at(PausePoint.DELETIONS_REPLAYED)
    receipt = receipt_of_nothing(tools.now())
    receipts: dict[LateRef, Receipt] = {}
    for deletion in deletions:
        planned = deletion.stand.planned
        for copy in planned.copies:
            if copy.role is TargetRole.HOME or deletion.left_at_backup is None:
                receipts[planned.store, planned.key, copy.role] = receipt
    ledger.confirm_late(user_id, way.token, receipts)


def _tombstone(deletion: Deletion) -> PlannedObject:
    """Of what was looked at: where a sending back broke off, that is not what is known."""
    planned = deletion.stand.planned
    there = deletion.at.get(planned.store)
    if there is not None:
        planned = planned._replace(
            version_id=there.version_id,
            etag=there.etag,
            size=there.size,
            last_modified=there.last_modified,
        )
    return planned._replace(flag=DELETED)


def _delete(tools: Tools, deletion: Deletion, name: str, begun: float) -> None:
    """Delete one object at a source or a backup, if it is what was looked at. LaterError where it is not, or where the answer was
    lost: such a request may land at any time later, so nobody is flipped after it (invariant 2)."""
    planned, seen = deletion.stand.planned, deletion.at[name]

    def delete(store: Store) -> None:
        _demand_time(tools, begun)
        found = store.head(planned.key)
        if (found.size, found.etag) != (seen.size, seen.etag):
            raise LaterError("a source has another object than a moment ago, so it is not deleted there")
        try:
            store.delete(planned.key)
        except ThrottledError:
            raise  # it was not done
        except (TransientStoreError, StrangeAnswerError) as error:
            raise LaterError(
                "nobody knows whether an object was deleted at a source: the next rollback asks"
            ) from error

    try:
        tools.caller.call(name, delete)
    except NotFoundError:  # it said so twice
        return
    pause_at(PausePoint.DELETION_REPLAYED)
    try:
        tools.caller.call(name, lambda store: store.head(planned.key))
    except NotFoundError:
        return
    raise LaterError("an object was deleted at a source, and is still there")


def _send_back(tools: Tools, way: Attempt, objects: Sequence[Sendable], begun: float) -> Way[None]:
    """Copy to the sources what was written at the new home, and write down that both hold the same: from then on that is what is
    known, also where the user stays. That it is to be sent stands in the ledger before, with what it replaces."""
    late = [_as_late(each) for each in objects]
    left = yield from _left_at_backup(tools, late)
    replaced = {
        (each.store, each.key, TargetRole.HOME): sendable.replaces
        for each, sendable in zip(late, objects, strict=True)
        if sendable.replaces is not None
    }
    tools.ledger.plan_late(
        way.user_id, way.token, tools.plan_id, tools.run_id, late, same_objects(tools.spec), replaced | left
    )
    done: list[tuple[Receipt, ObjectInfo]] = []
    for start in range(0, len(objects), _SENT_AT_ONCE):
        done += yield [partial(_send, tools, each, begun) for each in objects[start : start + _SENT_AT_ONCE]]
    pause_at(PausePoint.WRITES_SENT_BACK)
    late = [
        each._replace(version_id=info.version_id, etag=info.etag, last_modified=info.last_modified)
        for each, (_, info) in zip(late, done, strict=True)
    ]
    receipts = {(each.store, each.key, TargetRole.HOME): receipt for each, (receipt, _) in zip(late, done, strict=True)}
    tools.ledger.plan_late(way.user_id, way.token, tools.plan_id, tools.run_id, late, same_objects(tools.spec), left)
    tools.ledger.confirm_late(way.user_id, way.token, receipts)


def _left_at_backup(tools: Tools, late: Sequence[PlannedObject]) -> Way[dict[LateRef, str]]:
    """The ETags of what the backup site has where it may lag behind the home."""
    asked = [(each, copy.store) for each in late for copy in each.copies if copy.role is TargetRole.BACKUP]
    found: dict[LateRef, str] = {}
    for start in range(0, len(asked), ASKED_AT_ONCE):
        some = asked[start : start + ASKED_AT_ONCE]
        etags = yield [partial(etag_at, store, each.target_key, tools.caller) for each, store in some]
        for (each, _), etag in zip(some, etags, strict=True):
            if etag is not None:
                found[each.store, each.key, TargetRole.BACKUP] = etag
    return found


def _as_late(sendable: Sendable) -> PlannedObject:
    """What is sent back, as if the source had it and a cutover had brought it to the home and the backup site. Until it is there
    ETag, version and time are the home's."""
    planned = sendable.planned
    copies = [PlannedCopy(0, TargetRole.HOME, planned.store)]
    if sendable.backup_store is not None:
        copies.append(PlannedCopy(1, TargetRole.BACKUP, sendable.backup_store))
    return planned._replace(
        store=planned.copies[0].store,
        key=planned.target_key,
        target_key=planned.key,
        flag=SENT_BACK,
        copies=tuple(copies),
    )


def _send(tools: Tools, sendable: Sendable, begun: float) -> tuple[Receipt, ObjectInfo]:
    """Copy one object to a source, and read it again there; its receipt at the home, and what the source shows. LaterError where
    nothing came of it: a request whose answer was lost may land later, so nobody is flipped after it (invariant 2)."""
    planned = sendable.planned
    source = planned.copies[0].store
    replaceable = {} if sendable.replaces is None else {0: sendable.replaces}
    _demand_time(tools, begun)
    with tools.takes(planned.size):
        results = copy_at_once(
            planned,
            replaceable,
            tools.caller,
            multipart_from=tools.spec.copying.multipart_from,
            part_bytes=tools.spec.copying.part_bytes,
            now=tools.now,
            demand_time=lambda: _demand_time(tools, begun),
        )
        receipt = results[0].receipt
        if receipt is None:
            raise LaterError(f"an object was not sent back ({results[0].reason or results[0].outcome})")
        (check,) = check_object(planned, {0: receipt}, Level.CONTENT, tools.caller)
    if check.verdict is not Verdict.MATCH:
        raise LaterError(f"an object that was sent back is not what it was ({check.reason or check.verdict})")
    info = tools.caller.call(source, lambda store: store.head(planned.target_key))
    return receipt._replace(etag=planned.etag, version_id=planned.version_id), info


def _demand_time(tools: Tools, begun: float) -> None:
    """InterruptedRun where somebody said stop, LaterError where the freeze may have ended."""
    if tools.stopped():
        raise InterruptedRun("stopped before the user went back")
    if time.monotonic() - begun >= tools.freeze_seconds:
        raise LaterError("the way back takes longer than a freeze may (routing.freeze_seconds_max)")


def _demand_returning(ledger: Ledger, way: Attempt) -> None:
    """LaterError where the user's way back is not this one any more, such as where they are forgotten by now."""
    move = ledger.move_of(way.user_id)
    if move is None or move.state is not UserState.RETURNING or move.back_token != way.token:
        raise LaterError("the user is not on this way back any more")
