"""`migrate forget`: users whose deletion was asked for. They are marked at once, whatever is under way; what we made of them at
the targets goes as soon as nobody else works on their plan.

The mark is the state `forgotten` in the ledger, in one transaction a user and without any lock on the plan: a run that is under
way begins no copy of theirs any more (`worker/copying.py`). It stands in the workspace too, for ledgers to come.
Erasing waits for nobody: where a run, a verification or a cutover holds the plan the command ends with 75, the mark stays, and
the next one erases. It can be killed anywhere and given again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cache, lru_cache

from migrate.errors import (
    ExitCode,
    InterruptedRun,
    LaterError,
    MigrateError,
    MoveRefusedError,
    OnHoldError,
    RefusedError,
    SealLostError,
    UsageError,
    worst,
)
from migrate.inventory.forgotten import remember
from migrate.jobs.common import Actor
from migrate.jobs.forget_user import Erased, Mine, Ours, Tools, erase
from migrate.jobs.receipts import Proved, Receipts, opened_receipts
from migrate.jobs.steps import Way, side_by_side
from migrate.jobs.wave_users import alone_on, opened_door, opened_line
from migrate.layout import at_targets, compile_rules, literal_prefix
from migrate.ledger import LateCopy, Ledger
from migrate.model import SENT_BACK, Outcome, Purpose, Role, is_stand_in
from migrate.pauses import PausePoint, pause_at
from migrate.planner.folder import Plan, find_plan
from migrate.planner.of_users import CopyAt, LineOfUsers
from migrate.routing import Router
from migrate.spec import Spec
from migrate.states import UserState
from migrate.transfer.caller import Caller
from migrate.worker.loop import Stop
from migrate.workspace import Workspace

_AT_ONCE = 4  # users whose objects are erased side by side
_READ_AT_ONCE = 32  # users whose copies are read from the plans at once
_OCCUPIED = "occupied"


class Result(StrEnum):
    """What became of one user. With `forgotten` the user is marked, and what stands at the targets has still to go."""

    UNKNOWN = "unknown"
    ON_HOLD = "on hold"
    PURGED = "purged"
    FORGOTTEN = "forgotten"
    LEFT = "left"
    FAILED = "failed"
    ERASED = "erased"
    ERASED_BEFORE = "erased before"


_CODES = {
    Result.UNKNOWN: ExitCode.BAD_SPEC,
    Result.ON_HOLD: ExitCode.LATER,
    Result.PURGED: ExitCode.INCOMPLETE,
    Result.FORGOTTEN: ExitCode.LATER,
    Result.LEFT: ExitCode.INCOMPLETE,
}


@dataclass(frozen=True, slots=True)
class Forgotten:
    """One user: what the state was before the command, what became of them, and what was erased or, in a dry run, would be.

    `unlisted`: layout rules by which keys of the user cannot be listed, so that beside our own nobody knows what lies there.
    """

    user_id: str
    result: Result
    state: UserState | None = None
    erased: Erased | None = None
    unlisted: tuple[str, ...] = ()

    @property
    def error(self) -> MigrateError | None:
        return None if self.erased is None else self.erased.error


@dataclass(slots=True)
class ForgetEnd:
    """How it ended, user by user in the order in which they were named. `notes` say what keeps users' data from being erased."""

    users: list[Forgotten]
    dry_run: bool
    notes: list[MigrateError] = field(default_factory=list)
    is_stopped: bool = False

    @property
    def exit_code(self) -> ExitCode:
        codes = [_CODES[user.result] for user in self.users if user.result in _CODES]
        codes += [note.exit_code for note in self.notes]
        codes += [
            user.error.exit_code for user in self.users if user.error is not None and user.result is Result.FAILED
        ]
        if self.is_stopped:
            codes.append(ExitCode.INTERRUPTED)
        return worst(codes)


def forget(
    user_ids: Sequence[str],
    workspace: Workspace,
    ledger: Ledger,
    *,
    actor_of: Callable[[Plan], Actor],
    open_router: Callable[[Spec], AbstractContextManager[Router]],
    run_id: int,
    reason: str | None,
    dry_run: bool,
    now: Callable[[], datetime],
    stop: Stop,
    on_progress: Callable[[int], None],
) -> ForgetEnd:
    """Mark these users, and erase what is ours of them at the targets; with `dry_run` look what that would be.

    RefusedError where policy lets nobody in here, IntegrityError where plans or seals are not what they must be: users who are
    marked stay so.
    """
    ledger.heed(stop.ledger_ends_at)
    found = {user_id: _mark(user_id, ledger, run_id, reason, now, dry_run=dry_run) for user_id in user_ids}
    if not dry_run:
        marked = (Result.FORGOTTEN, Result.ERASED_BEFORE)
        remember(workspace, [user_id for user_id, each in found.items() if each.result in marked])
    end = ForgetEnd([], dry_run)
    rows = [ledger.user(user_id) for user_id, each in found.items() if each.result is Result.FORGOTTEN]
    newest = _newest_plans(ledger)  # after the rows: a delta that is registered meanwhile is among them
    by_plan: dict[str, list[str]] = {}
    for row in filter(None, rows):
        by_plan.setdefault(newest[row.plan_id], []).append(row.user_id)
    done = 0
    for digest, users in by_plan.items():
        try:
            plan = find_plan(workspace, digest)
        except UsageError as error:
            end.notes.append(
                LaterError(
                    f"plan {digest[:12]}, which has {len(users)} of the users, is not in this workspace",
                    remedy=f"Bring its folder back, then give the command again. ({error.what})",
                )
            )
            continue
        for ended in _erase_all(
            plan, users, workspace, ledger, actor_of(plan), open_router, run_id, now, stop, end, dry_run=dry_run
        ):
            found[ended.user_id] = replace(
                found[ended.user_id],
                result=_result(ended),
                erased=ended,
                unlisted=_unlisted(plan.spec),
            )
            done += 1
            on_progress(done)
    end.users = list(found.values())
    end.is_stopped = stop.is_set() and any(user.result is Result.FORGOTTEN for user in end.users)
    return end


def _unlisted(spec: Spec) -> tuple[str, ...]:
    rules = at_targets(compile_rules(spec.layout.rules))
    return tuple(rule.name for rule in rules if not rule.shared and literal_prefix(rule, "user") is None)


def _mark(
    user_id: str, ledger: Ledger, run_id: int, reason: str | None, now: Callable[[], datetime], *, dry_run: bool
) -> Forgotten:
    """The user is forgotten from here on, unless that cannot be."""
    row = None if is_stand_in(user_id) else ledger.user(user_id)
    if row is None:
        return Forgotten(user_id, Result.UNKNOWN)
    if ledger.hold_of(user_id) is not None:
        return Forgotten(user_id, Result.ON_HOLD, row.state)
    if row.state is UserState.PURGED:
        return Forgotten(user_id, Result.PURGED, row.state)
    if ledger.is_erased(user_id):
        return Forgotten(user_id, Result.ERASED_BEFORE, row.state)
    if not dry_run:
        try:
            ledger.forgotten(user_id, run_id, now(), note=reason)
        except OnHoldError:  # since we looked
            return Forgotten(user_id, Result.ON_HOLD, row.state)
        except MoveRefusedError:  # the same
            return Forgotten(user_id, Result.PURGED, row.state)
        pause_at(PausePoint.USER_FORGOTTEN)
    return Forgotten(user_id, Result.FORGOTTEN, row.state)


def _newest_plans(ledger: Ledger) -> dict[int, str]:
    """By the id of each plan, the digest of the newest of its line: that is the one that is run."""
    plans = ledger.plans()
    child = {row.entry.parent: row.entry.digest for row in plans if row.entry.parent is not None}
    found: dict[int, str] = {}
    for row in plans:
        digest = row.entry.digest
        while digest in child:
            digest = child[digest]
        found[row.id] = digest
    return found


def _result(ended: Erased) -> Result:
    if isinstance(ended.error, OnHoldError):
        return Result.ON_HOLD
    if isinstance(ended.error, InterruptedRun):
        return Result.FORGOTTEN
    if ended.error is not None:
        return Result.FAILED
    return Result.LEFT if ended.left else Result.ERASED


def _erase_all(
    plan: Plan,
    users: Sequence[str],
    workspace: Workspace,
    ledger: Ledger,
    actor: Actor,
    open_router: Callable[[Spec], AbstractContextManager[Router]],
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
    end: ForgetEnd,
    *,
    dry_run: bool,
) -> Iterator[Erased]:
    """The ways of a line's users, while nobody else works on it; what keeps us from it is a note."""
    with ExitStack() as held:
        alone = alone_on(plan, ledger, "forget", dry_run=dry_run, run_id=run_id, deadline=None, now=now, stop=stop)
        try:
            held.enter_context(alone)
        except InterruptedRun:
            return
        except (LaterError, RefusedError):
            end.notes.append(_others_at_work(plan))
            return
        purpose = Purpose.SWEEP if dry_run else Purpose.FORGET  # nothing is written
        door = held.enter_context(opened_door(plan, workspace, actor, purpose, [Role.TARGET], stop))
        line = held.enter_context(opened_line(plan))
        receipts = held.enter_context(opened_receipts(line.plans, workspace, ledger))
        tools = Tools(
            ledger=ledger,
            caller=Caller(door.open, concurrency=lambda name: plan.spec.stores[name].concurrency_max),
            rules=compile_rules(plan.spec.layout.rules),
            targets=sorted(plan.spec.by_role(Role.TARGET)),
            source_sites=frozenset(store.site for store in plan.spec.by_role(Role.SOURCE).values()),
            router=_router_of(plan.spec, open_router, held),
            freeze_seconds=plan.spec.routing.freeze_seconds_max,
            run_id=run_id,
            now=now,
            stopped=stop.is_set,
            dry_run=dry_run,
        )
        yield from side_by_side(
            _ways(tools, users, line, receipts),
            at_once=_AT_ONCE,
            threads=plan.spec.run.concurrency,
            is_over=stop.is_set,
            stop=stop,
            on_look=lambda: None,
        )


def _others_at_work(plan: Plan) -> LaterError:
    return LaterError(
        f"another command works on plan {plan.digest[:12]}: its users are forgotten, and nothing more of them "
        "is copied; what stands at the targets goes once that has ended",
        remedy="Give the command again then.",
    )


def _router_of(
    spec: Spec, open_router: Callable[[Spec], AbstractContextManager[Router]], held: ExitStack
) -> Callable[[], Router | None]:
    """The way to the platform, which is opened for the first who asks and kept open by `held`."""

    @cache
    def router() -> Router | None:
        if spec.routing.kind in ("embedded", "sql") and spec.default_home is None:
            return None  # nobody can have been cut over by it
        return held.enter_context(open_router(spec))

    return router


def _ways(tools: Tools, users: Sequence[str], line: LineOfUsers, receipts: Receipts) -> Iterator[Way[Erased]]:
    ledger = tools.ledger

    @lru_cache(_READ_AT_ONCE)
    def is_begun(place: int, batch: int) -> bool:
        return ledger.is_begun(receipts.ids[place], batch)

    for start in range(0, len(users), _READ_AT_ONCE):
        names = users[start : start + _READ_AT_ONCE]
        copies, late = line.copies_of(names), ledger.late_of(names)
        for user_id in names:
            keys: dict[tuple[str, str], Ours] = {}
            ordinals: dict[tuple[int, int], list[int]] = {}
            lost: SealLostError | None = None
            for copy in copies.pop(user_id):
                batch = receipts.of(copy.place, copy.batch)
                ordinals.setdefault((receipts.ids[copy.place], copy.batch), []).append(copy.ordinal)
                lost = lost or batch.lost
                _add(keys.setdefault((copy.store, copy.key), Ours()), copy, batch, is_begun)
            for late_copy in late.get(user_id, []):
                _add_late(keys.setdefault((late_copy.target_store, late_copy.target_key), Ours()), late_copy)
            yield erase(tools, Mine(user_id, ordinals, keys, ledger.move_of(user_id), lost))


def _add(ours: Ours, copy: CopyAt, batch: Proved, is_begun: Callable[[int, int], bool]) -> None:
    """What a plan's copy may have left at its key."""
    has_receipt, row = batch.has_receipt(copy.ordinal), batch.rows.get(copy.ordinal)
    ours.etags |= batch.etags_of(copy.ordinal)
    if has_receipt:
        ours.has_receipt = True
    elif not copy.is_tombstone and is_begun(copy.place, copy.batch):
        ours.begun.add((copy.size, copy.etag))
    if has_receipt or (row is not None and row.outcome is not Outcome.PENDING):
        # a later plan has found out what stands there now
        ours.is_occupied = row is not None and row.outcome is Outcome.QUARANTINED and row.reason == _OCCUPIED


def _add_late(ours: Ours, copy: LateCopy) -> None:
    """What a cutover may have left at its key. What a rollback has sent back is the platform's there."""
    if copy.flag == SENT_BACK:
        return
    if copy.receipt is not None:
        ours.has_receipt = True
        ours.etags |= {copy.receipt.etag} - {""}
    elif copy.flag is None:
        ours.begun.add((copy.size, copy.etag))
