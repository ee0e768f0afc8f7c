"""One user's way to the new home: gate, freeze, last delta, flip, read back, unfreeze; or back to where it stood.

The order is that of invariant 1: what is to be sent stands in the ledger first, its receipts come after it was read again, and
the platform is told of the new home last. What the platform has done decides, whatever became of our question: after anything
that failed the freeze is ended, which also ends what of ours may still be on its way to the platform, and then the route is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from migrate.errors import (
    IntegrityError,
    InterruptedRun,
    LaterError,
    MigrateError,
    MoveRefusedError,
    OnHoldError,
    UnreachableError,
)
from migrate.jobs.cutover_gate import Seen, missing, too_much
from migrate.jobs.freezes import begin_freeze, end_freeze, note_of
from migrate.jobs.last_delta import (
    Behind,
    Known,
    LastDelta,
    LateDone,
    copy_late,
    etags_at,
    known_of,
    last_delta,
    list_now,
    listed_at,
    ours_at_targets,
)
from migrate.jobs.late import same_objects
from migrate.jobs.steps import OF_THE_USER, Way
from migrate.layout import CompiledRule, at_targets
from migrate.ledger import Candidate, LateCopy, LateRef, Ledger
from migrate.model import PlannedObject, Receipt, Role, TargetRole
from migrate.pauses import PausePoint, pause_at
from migrate.planner.of_users import PlannedAt, SourceKey
from migrate.routing import Route, Router
from migrate.spec import Spec
from migrate.states import UserState
from migrate.transfer.caller import Caller
from migrate.worker.checking import user_prefixes

_LATE_AT_ONCE = 4
_OF_THE_USER = (*OF_THE_USER, MoveRefusedError)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every user's way needs. `stopped` says that no user may begin to be frozen or flipped any more; `takes` bounds what
    is in memory by bytes while the block lasts."""

    plan_id: int
    run_id: int
    spec: Spec
    rules: tuple[CompiledRule, ...]
    ledger: Ledger
    router: Router
    caller: Caller
    sources_seen: datetime
    unlistable: Sequence[str]
    unshared_sites: frozenset[str]
    now: Callable[[], datetime]
    stopped: Callable[[], bool]
    takes: Callable[[int], Any]

    @property
    def freeze_seconds(self) -> int:
        return self.spec.routing.freeze_seconds_max

    @property
    def source_sites(self) -> frozenset[str]:
        return frozenset(store.site for store in self.spec.by_role(Role.SOURCE).values())


@dataclass(frozen=True, slots=True)
class Mover:
    """A user who is to move: as the ledger has them, their state in the newest plan, what the line has planned of them, what
    earlier cutovers have copied late, and which copies of the newest plan are behind."""

    candidate: Candidate
    planned: str
    line: Mapping[SourceKey, PlannedAt]
    late: Sequence[LateCopy]
    behind: Behind

    def known(self, spec: Spec) -> dict[SourceKey, Known]:
        """What the last delta has to hold the sources against."""
        return known_of(self.line, self.late, spec, self.behind)

    @property
    def user_id(self) -> str:
        return self.candidate.user_id


@dataclass(frozen=True, slots=True)
class Attempt:
    """A user's cutover that has begun: under which token, and to which home."""

    user_id: str
    token: str
    to_site: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How one user's way ended.

    `moved`: the new home holds. `missing`: what the gate found, by check; nothing was begun then. `error`: what broke the way off
    after it was begun; the user is where they were, unless `is_open`: then the next cutover finds out. `late`: how many objects
    the last delta had. `listing_seconds`: how long listing the sources took.
    """

    user_id: str
    moved: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    error: MigrateError | None = None
    is_open: bool = False
    late: int = 0
    listing_seconds: float = 0.0


def look(tools: Tools, mover: Mover) -> Way[Ended]:
    """Every check, for real, and nothing else: what a dry run does for each user."""
    try:
        seen = yield from _look(tools, mover)
    except _OF_THE_USER as error:
        return Ended(mover.user_id, error=error)
    return Ended(
        mover.user_id,
        missing=missing(seen),
        late=len(seen.late.objects),
        listing_seconds=seen.listing_seconds,
    )


def cut(tools: Tools, mover: Mover) -> Way[Ended]:
    """The whole way. Raises only what no user is at fault for: RefusedError, IntegrityError, an error of the ledger's."""
    candidate, ledger = mover.candidate, tools.ledger
    user_id = candidate.user_id
    try:
        seen = yield from _look(tools, mover)
        lacks = missing(seen)
        if lacks:
            return Ended(user_id, missing=lacks, listing_seconds=seen.listing_seconds)
        if tools.stopped():
            raise InterruptedRun("stopped before the user was frozen")
        token = ledger.begin_freeze(
            user_id,
            tools.plan_id,
            tools.run_id,
            from_site=seen.route.home,
            to_site=candidate.home,
            now=tools.now(),
        )
    except OnHoldError:  # since the gate
        return Ended(user_id, missing={"hold": "is on hold"})
    except MoveRefusedError as refused:  # the same
        return Ended(user_id, missing={"state": refused.what})
    except _OF_THE_USER as failure:  # nothing was begun
        return Ended(user_id, error=failure)
    pause_at(PausePoint.FREEZE_RECORDED)
    begun = time.monotonic()
    error: Exception | None = None
    count = 0
    try:
        count = yield from _move(tools, mover, token, seen.route.home, begun)
    except Exception as broken_off:  # noqa: BLE001 - whatever it was, the user's freeze is ended first
        error = broken_off
    way = Attempt(user_id, token, candidate.home)
    ended = yield from settle(tools, way, lambda: round((time.monotonic() - begun) * 1000), error)
    if error is not None and not isinstance(error, _OF_THE_USER):
        raise error
    return Ended(
        user_id,
        moved=ended.moved,
        error=ended.error,
        is_open=ended.is_open,
        late=count,
        listing_seconds=seen.listing_seconds,
    )


def settle(tools: Tools, move: Attempt, frozen_ms: Callable[[], int], error: Exception | None) -> Way[Ended]:
    """End a user's freeze, and write down where the platform has the user: at the new home, or where they were.

    For a move that came to its end as well as for one that broke off, by `error` or by a process that died. `frozen_ms` tells how
    long the user was frozen. Where the platform cannot be asked the move stays open.
    """
    user_id = move.user_id
    try:
        route = yield from end_freeze(tools.router, user_id, move.token, tools.freeze_seconds)
    except (UnreachableError, LaterError) as unknown:
        return Ended(user_id, error=error if isinstance(error, MigrateError) else unknown, is_open=True)
    pause_at(PausePoint.USER_UNFROZEN)
    try:
        return _written_down(tools, move, route, frozen_ms, error)
    except MoveRefusedError as refused:
        return Ended(user_id, error=refused, is_open=True)


def _written_down(
    tools: Tools, move: Attempt, route: Route, frozen_ms: Callable[[], int], error: Exception | None
) -> Ended:
    """What the platform has, in the ledger."""
    user_id, ledger = move.user_id, tools.ledger
    if route.home == move.to_site:
        now = tools.now()
        ledger.flipped(user_id, move.token, tools.run_id, at=now, frozen_ms=frozen_ms())
        pause_at(PausePoint.MOVE_RECORDED)
        until = now + timedelta(seconds=tools.spec.cutover.observe)
        try:
            ledger.observe(user_id, tools.run_id, until=until, now=tools.now())
        except MoveRefusedError as refused:  # forgotten meanwhile: the move is known, and nobody is observed
            return Ended(user_id, error=refused)
        return Ended(user_id, moved=True)
    ledger.thaw(user_id, move.token, tools.run_id, tools.now(), note=None if error is None else note_of(error))
    broken_off = LaterError("a cutover of the user broke off, and was taken back")
    return Ended(user_id, error=error if isinstance(error, MigrateError) else broken_off)


def _look(tools: Tools, mover: Mover) -> Way[Seen]:
    candidate = mover.candidate
    (route,) = yield [partial(tools.router.read, candidate.user_id)]
    known = mover.known(tools.spec)
    begun = time.monotonic()
    found: LastDelta = LastDelta((), 0)
    objects, lost = len(known), 0
    if not tools.unlistable and objects <= tools.spec.cutover.objects_max:
        found, objects = yield from _differences(tools, candidate, known)
        lost = yield from _lost(tools, mover, known)
    return Seen(
        candidate=candidate,
        planned=mover.planned,
        behind=len(mover.behind.copies),
        route=route,
        source_sites=tools.source_sites,
        sources_seen=tools.sources_seen,
        now=tools.now(),
        unlistable=tools.unlistable,
        objects=objects,
        listing_seconds=time.monotonic() - begun,
        late=found,
        lost=lost,
        unshared_sites=tools.unshared_sites,
        limits=tools.spec.cutover,
        freeze_seconds=tools.freeze_seconds,
    )


def _lost(tools: Tools, mover: Mover, known: Mapping[SourceKey, Known]) -> Way[int]:
    """How many copies of the line's objects the listings of home and backup do not show, or with another size. What earlier
    attempts have brought is looked at under the freeze."""
    sizes: dict[tuple[str, str], int] = {}
    for key, at in mover.line.items():
        planned = known[key].planned
        if planned is at.planned and known[key].is_settled and not planned.is_tombstone:
            sizes.update({(copy.store, planned.target_key): planned.size for copy in planned.copies})
    there = yield from listed_at(mover.user_id, {store for store, _ in sizes}, tools.rules, tools.caller)
    prefixes = user_prefixes(at_targets(tools.rules), mover.user_id)
    return sum(
        any(map(key.startswith, prefixes)) and ((store, key) not in there or there[store, key].size != size)
        for (store, key), size in sizes.items()
    )


def _differences(tools: Tools, candidate: Candidate, known: Mapping[SourceKey, Known]) -> Way[tuple[LastDelta, int]]:
    (now,) = yield [partial(list_now, candidate.user_id, known, tools.spec, tools.rules, tools.caller)]
    found = last_delta(
        candidate.user_id,
        candidate.home,
        candidate.backup,
        known,
        now,
        tools.spec,
        tools.rules,
        seen=tools.sources_seen,
    )
    return found, len(now)


def _move(
    tools: Tools,
    mover: Mover,
    token: str,
    lives_at: str,
    begun: float,
) -> Way[int]:
    """From the freeze to the flip that was read back; how many objects the last delta had. Raises what broke it off."""
    candidate = mover.candidate
    user_id = candidate.user_id
    yield from begin_freeze(tools.router, user_id, token, tools.freeze_seconds, lives_at)
    pause_at(PausePoint.USER_FROZEN)
    known = yield from _still_there(tools, mover)
    found, _ = yield from _differences(tools, candidate, known)
    if (problem := too_much(found, tools.spec.cutover)) is not None:
        raise LaterError(problem)
    if found.objects:
        yield from _copy(tools, user_id, token, found.objects, known, begun)
    _demand_time(tools, begun)
    _demand_sound(tools, mover, token)
    yield [partial(tools.router.flip, user_id, token, candidate.home)]
    pause_at(PausePoint.USER_FLIPPED)
    (route,) = yield [partial(tools.router.read, user_id)]
    if route.home != candidate.home:
        raise IntegrityError(
            "the platform has taken a new home, and does not show it",
            remedy="Look at its routing: no user can go over by it.",
        )
    return len(found.objects)


def _still_there(tools: Tools, mover: Mover) -> Way[Mapping[SourceKey, Known]]:
    """What the last delta has to hold the sources against. What earlier attempts have copied late no verification has looked at
    since, where no plan has it: what is not at both sites as its receipt says is not settled."""
    known = mover.known(tools.spec)
    proved = {(copy.target_store, copy.target_key): copy for copy in mover.late if copy.receipt is not None}
    there = yield from etags_at(mover.user_id, proved, tools.rules, tools.caller)
    lost = {
        (tools.spec.source_of(copy.store), copy.key)
        for place, copy in proved.items()
        if copy.receipt is not None and there.get(place, "") != copy.receipt.etag
    }
    return {key: replace(each, is_settled=each.is_settled and key not in lost) for key, each in known.items()}


def _copy(
    tools: Tools,
    user_id: str,
    token: str,
    objects: Sequence[PlannedObject],
    known: Mapping[SourceKey, Known],
    begun: float,
) -> Way[None]:
    """Copy what has changed, look at it again, and write down both. LaterError for the first object of which nothing came; and,
    before anything is written down, where a target key holds what is not ours: so whatever comes to stand there later on is ours,
    as nobody else writes at a target before the user lives there (invariant 2)."""
    places = {(copy.store, planned.target_key) for planned in objects for copy in planned.copies}
    there = yield from etags_at(user_id, places, tools.rules, tools.caller)
    ours = ours_at_targets(objects, known, there, tools.spec)
    tombstones = {(planned.store, planned.key) for planned in objects if planned.is_tombstone}
    removed = {ref: etag for ref, etag in ours.items() if ref[:2] in tombstones}
    tools.ledger.plan_late(user_id, token, tools.plan_id, tools.run_id, objects, same_objects(tools.spec), seen=removed)
    pause_at(PausePoint.LATE_PLANNED)

    def copied(planned: PlannedObject) -> LateDone:
        demand_time()
        with tools.takes(planned.size):
            return copy_late(
                planned,
                {role: ours[ref] for role in TargetRole if (ref := (planned.store, planned.key, role)) in ours},
                tools.caller,
                tools.spec,
                tools.spec.verify.level,
                now=tools.now,
                demand_time=demand_time,
            )

    def demand_time() -> None:
        _demand_time(tools, begun)

    receipts: dict[LateRef, Receipt] = {}
    problem: str | None = None
    for start in range(0, len(objects), _LATE_AT_ONCE):  # so that other users' questions find a thread
        done: list[LateDone] = yield [partial(copied, planned) for planned in objects[start : start + _LATE_AT_ONCE]]
        for each in done:
            if each.problem is None:
                receipts |= each.receipts
            else:
                problem = problem or each.problem
        if problem is not None:
            break
    pause_at(PausePoint.LATE_COPIED)
    # also where one failed: what stands at a target is known by its receipt to whoever comes next
    tools.ledger.confirm_late(user_id, token, receipts)
    pause_at(PausePoint.LATE_CONFIRMED)
    if problem is not None:
        raise LaterError(f"an object of the last delta was not copied ({problem})")


def _demand_time(tools: Tools, begun: float) -> None:
    """InterruptedRun where somebody said stop, LaterError where the freeze may have ended."""
    if tools.stopped():
        raise InterruptedRun("stopped before the user was flipped")
    if time.monotonic() - begun >= tools.freeze_seconds:
        raise LaterError("the last delta takes longer than a freeze may (routing.freeze_seconds_max)")


def _demand_sound(tools: Tools, mover: Mover, token: str) -> None:
    """LaterError where something came up against the user since the gate, such as an object that a verification has found, or
    where the last delta has not brought a copy that was behind."""
    user, move = tools.ledger.user(mover.user_id), tools.ledger.move_of(mover.user_id)
    behind = len(mover.behind.copies)
    is_ours = move is not None and (move.token, move.state, move.behind) == (token, UserState.FROZEN, behind)
    is_sound = user is not None and not user.quarantined and user.settled == user.copies == user.matched + behind
    if not (is_ours and is_sound):
        raise LaterError("something was found wrong of the user, or put back, while they were frozen")
    if behind:
        _demand_brought(tools, mover)


def _demand_brought(tools: Tools, mover: Mover) -> None:
    """LaterError unless each copy that was behind has a receipt of this very freeze: it was copied, or removed, and looked at
    again (invariant 9)."""
    late = tools.ledger.late_of([mover.user_id]).get(mover.user_id, [])
    brought = {
        (copy.key, copy.target_store, copy.target_key)
        for copy in late
        if copy.receipt is not None and copy.run_id == tools.run_id
    }
    wanted = {
        (at.planned.key, copy.store, at.planned.target_key)
        for at in mover.line.values()
        for copy in at.planned.copies
        if (at.place, at.batch, copy.ordinal) in mover.behind.copies
    }
    if wanted - brought:
        raise LaterError("a copy that was behind its source was not brought by the last delta")
