"""`migrate cutover`: a wave's users, one way each, side by side; what earlier cutovers left; when the wave halts; how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from migrate.errors import ExitCode
from migrate.jobs.cutover_gate import may_begin
from migrate.jobs.cutover_user import Attempt, Ended, Mover, Tools, cut, look, settle
from migrate.jobs.freezes import frozen_ms, retry_in_a_freeze
from migrate.jobs.last_delta import Behind
from migrate.jobs.steps import Way, side_by_side
from migrate.jobs.wave_users import (
    PAGE,
    Memory,
    Setting,
    WaveEnd,
    opened_line,
    read_ahead,
    users_in,
    waves_of,
)
from migrate.layout import compile_rules, unlistable_rules
from migrate.ledger import Candidate, FrozenTimes, Ledger, Move
from migrate.model import LEAVING, Purpose, Role, is_stand_in
from migrate.planner.folder import Plan
from migrate.planner.line import CopyRef
from migrate.planner.of_users import LineOfUsers, PlannedAt, SourceKey
from migrate.planner.summary import sources_seen
from migrate.spec import Spec
from migrate.states import AWAY, UserState
from migrate.transfer.caller import Caller


@dataclass(frozen=True, slots=True)
class CutoverRequest:
    """What the command line asks of a cutover."""

    wave: str
    dry_run: bool = False
    max_failures: int | None = None


@dataclass(slots=True)
class CutoverEnd(WaveEnd):
    """How a cutover ended. Numbers of users: `moved` in this run, `ready` to move (dry run), `away` before it began. `aside` are
    those whom nobody moves: stand-ins, who is forgotten, and who has left the scope.

    `settled` are users whom an earlier one had left `open`, and who turned out to have moved.
    """

    waves: tuple[int, ...] = ()
    dry_run: bool = False
    moved: int = 0
    settled: int = 0
    ready: int = 0
    away: int = 0
    aside: int = 0
    late: int = 0
    listing_seconds_max: float = 0.0
    frozen: FrozenTimes | None = None

    @property
    def done(self) -> int:
        """Users of whom is known how they ended."""
        return self.moved + self.ready + self.unready + self.failed


def cut_over(setting: Setting, request: CutoverRequest, *, on_progress: Callable[[CutoverEnd], None]) -> CutoverEnd:
    """Move the users of a wave, or with `dry_run` look at each whether they could be moved.

    LaterError where nothing of the plan was run, or others work on it; RefusedError where a delta has taken its place.
    """
    plan, ledger, plan_id = setting.plan, setting.ledger, setting.plan_id()
    waves = waves_of(ledger, plan_id, request.wave)
    end = CutoverEnd(waves=waves, dry_run=request.dry_run)
    with (
        setting.alone("cutover", dry_run=request.dry_run),
        _opened(setting, request) as caller,
        opened_line(plan) as line,
    ):
        tools = _tools(setting, plan_id, caller)
        cutover = _Cutover(tools, line, ledger, request, end, setting, on_progress)
        if not request.dry_run:
            cutover.settle_what_is_left(plan_id)
        for wave in waves:
            cutover.take(plan_id, wave)
        end.frozen = ledger.frozen_times(plan_id)
        end.left = cutover.left(plan_id, waves)
        end.exit_code = end.code(setting.stop)
        end.next_step = _next_step(plan, end)
    return end


@contextmanager
def _opened(setting: Setting, request: CutoverRequest) -> Iterator[Caller]:
    """The way to the stores: a dry run's opens them to be read."""
    purpose = Purpose.VERIFY if request.dry_run else Purpose.COPY
    spec = setting.spec
    with setting.opened_door(purpose, [Role.SOURCE, Role.TARGET]) as door:
        yield Caller(
            door.open,
            concurrency=lambda name: spec.stores[name].concurrency_max,
            retry=retry_in_a_freeze(spec),
        )


def _tools(setting: Setting, plan_id: int, caller: Caller) -> Tools:
    spec = setting.spec
    rules = compile_rules(spec.layout.rules)
    return Tools(
        plan_id=plan_id,
        run_id=setting.run_id,
        spec=spec,
        rules=rules,
        ledger=setting.ledger,
        router=setting.router,
        caller=caller,
        sources_seen=sources_seen(setting.plan.document, spec.by_role(Role.SOURCE, Role.BACKUP)),
        unlistable=unlistable_rules(rules, spec.by_role(Role.SOURCE)),
        unshared_sites=_unshared_sites(setting.ledger, plan_id, spec),
        now=setting.now,
        stopped=setting.stop.is_set,
        takes=Memory(spec.run.bytes_in_flight).takes,
    )


def _unshared_sites(ledger: Ledger, plan_id: int, spec: Spec) -> frozenset[str]:
    """The sites of stand-ins of whom a copy is still to be made, or one that was made is not verified. What drifted, or cannot be
    copied, is told by `run` and `status`, and waiting would not bring it."""
    sites: set[str | None] = set()
    for user_id, both in spec.stand_ins.items():
        row = ledger.user(user_id)
        if row is not None and row.plan_id == plan_id and (row.settled < row.copies or row.matched < row.good):
            sites.update(both)
    return frozenset(site for site in sites if site is not None)


class _Cutover:
    """One cutover under way, with what it counts."""

    def __init__(
        self,
        tools: Tools,
        line: LineOfUsers,
        ledger: Ledger,
        request: CutoverRequest,
        end: CutoverEnd,
        setting: Setting,
        on_progress: Callable[[CutoverEnd], None],
    ) -> None:
        self._tools = tools
        self._line = line
        self._ledger = ledger
        self._request = request
        self._end = end
        self._setting = setting
        self._on_progress = on_progress
        self._max_failures = request.max_failures or tools.spec.cutover.max_failures
        self._counted: set[str] = set()  # who is counted before their turn comes

    def settle_what_is_left(self, plan_id: int) -> None:
        """Users whom a cutover that died has left frozen, or flipped without a window: the platform says where they live."""
        for move in self._ledger.moving(plan_id, [UserState.CUT_OVER]):
            self._ledger.observe(
                move.user_id, self._tools.run_id, until=_window(self._tools, move), now=self._tools.now()
            )
        ways = (self._settled(move) for move in self._ledger.moving(plan_id, [UserState.FROZEN]))
        for ended in self._side_by_side(ways):
            self._end.settled += ended.moved
            if ended.is_open:  # the others have their turn with their wave
                self._count(ended)
                self._counted.add(ended.user_id)

    def _settled(self, move: Move) -> Way[Ended]:
        tools = self._tools

        def lasted() -> int:
            return frozen_ms(move.frozen_at, tools.now(), tools.freeze_seconds)

        attempt = Attempt(move.user_id, move.token, move.to_site)
        ended: Ended = yield from settle(tools, attempt, lasted, None)
        return ended

    def take(self, plan_id: int, wave: int) -> None:
        """The users of a wave, as far as neither signal, time nor failures end it."""
        for ended in self._side_by_side(self._ways(plan_id, wave)):
            self._count(ended)

    def left(self, plan_id: int, waves: Sequence[int]) -> int:
        """Users of the waves whom nobody has looked at; who is in `_counted` still was counted, and is none of these."""
        end = self._end
        return max(0, users_in(self._ledger, plan_id, waves) - end.away - end.aside - end.done + len(self._counted))

    def _ways(self, plan_id: int, wave: int) -> Iterator[Way[Ended]]:
        """Read page by page: who was moved meanwhile is not asked for again."""
        after = ""
        while page := self._ledger.candidates(plan_id, wave, after, PAGE):
            after = page[-1].user_id
            counted = {each.user_id for each in page} & self._counted
            self._counted -= counted
            page = [each for each in page if each.user_id not in counted]
            mine = [each for each in page if each.state not in AWAY and not is_stand_in(each.user_id)]
            aside = sum(is_stand_in(each.user_id) or each.state is UserState.FORGOTTEN for each in page)
            self._end.aside += aside
            self._end.away += len(page) - len(mine) - aside
            states = self._line.states([candidate.user_id for candidate in mine]) if mine else {}
            staying = [candidate for candidate in mine if states.get(candidate.user_id) != LEAVING]
            self._end.aside += len(mine) - len(staying)
            yield from (_not_verified(candidate) for candidate in staying if not may_begin(candidate))
            yield from self._ways_of([candidate for candidate in staying if may_begin(candidate)], states)

    def _ways_of(self, candidates: Sequence[Candidate], states: Mapping[str, str]) -> Iterator[Way[Ended]]:
        """The ways of these users, each begun when its turn comes. `states` are those in the newest plan."""

        def read(group: list[Candidate]) -> dict[str, Mapping[SourceKey, PlannedAt]]:
            return self._line.of([candidate.user_id for candidate in group])

        for group, objects in read_ahead(candidates, read):
            late = self._ledger.late_of([candidate.user_id for candidate in group])
            behind = self._behind([each for each in group if each.is_only_behind], objects)
            for candidate in group:
                user_id = candidate.user_id
                mover = Mover(
                    candidate,
                    states.get(user_id, "unknown"),
                    objects.pop(user_id),
                    late.get(user_id, []),
                    behind.get(user_id, Behind()),
                )
                yield look(self._tools, mover) if self._request.dry_run else cut(self._tools, mover)

    def _behind(
        self, candidates: Sequence[Candidate], objects: Mapping[str, Mapping[SourceKey, PlannedAt]]
    ) -> dict[str, Behind]:
        """By user, the copies of the newest plan that are behind their sources: what older ones have left open it plans anew."""
        if not candidates:
            return {}
        newest, plan_id = len(self._line.plans) - 1, self._tools.plan_id
        copies = {
            each.user_id: {
                (at.batch, copy.ordinal)
                for at in objects[each.user_id].values()
                if at.place == newest
                for copy in at.planned.copies
            }
            for each in candidates
        }
        numbers = {number for mine in copies.values() for number, _ in mine}
        drifted = self._ledger.drifted_in(plan_id, numbers)
        moved_on = self._ledger.moved_on_in(plan_id, numbers)

        def named(found: Set[tuple[int, int]]) -> frozenset[CopyRef]:
            return frozenset((newest, *copy) for copy in found)

        return {
            each.user_id: Behind(
                named(copies[each.user_id] & drifted),
                named(copies[each.user_id] & moved_on.get(each.matched_pass or 0, set())),
            )
            for each in candidates
        }

    def _side_by_side(self, ways: Iterator[Way[Ended]]) -> Iterator[Ended]:
        return side_by_side(
            ways,
            at_once=self._tools.spec.cutover.concurrency,
            threads=self._tools.spec.run.concurrency,
            is_over=lambda: self._end.halted or self._setting.is_over(),
            stop=self._setting.stop,
            on_look=lambda: self._on_progress(self._end),
        )

    def _count(self, ended: Ended) -> None:
        end = self._end
        end.late += ended.late
        end.listing_seconds_max = max(end.listing_seconds_max, ended.listing_seconds)
        if ended.missing:
            end.hold_back(ended.user_id, ended.missing)
        elif ended.error is not None:
            if ended.error.exit_code is ExitCode.INTERRUPTED and not ended.is_open:
                return  # left for the next one
            halts_at = None if self._request.dry_run else self._max_failures
            end.fail(ended.user_id, ended.error, halts_at=halts_at, is_open=ended.is_open)
        elif ended.moved:
            end.moved += 1
        else:
            end.ready += 1


def _not_verified(candidate: Candidate) -> Way[Ended]:
    """The gate for who is not even near it: no store is asked for them. Who has drifted copies is near once a full verification
    has looked at all else."""
    yield [lambda: None]
    return Ended(candidate.user_id, missing={"state": f"is {candidate.state}, and not verified"})


def _window(tools: Tools, move: Move) -> datetime:
    begun = move.flipped_at or tools.now()
    return begun + timedelta(seconds=tools.spec.cutover.observe)


def _next_step(plan: Plan, end: CutoverEnd) -> str:
    name, wave = plan.digest[:12], ",".join(map(str, end.waves))
    if end.halted:
        return (
            f"Too many failures halted the wave: mend the cause, then `migrate cutover {name} --wave {wave}` goes on."
        )
    if end.left or end.open:
        return f"Users are left: `migrate cutover {name} --wave {wave}` goes on."
    if end.missing["lag"] or end.missing["late"]:
        return f"`migrate delta {name}` catches up with the sources; run and verify it, then cut over."
    if end.missing["state"] or end.missing["copies"] or end.missing["verdicts"]:
        return f"`migrate status {name}` shows what is not verified yet."
    if end.dry_run and end.ready:
        return f"`migrate cutover {name} --wave {wave}` moves them."
    if end.moved:
        return "They are observed now, and the sources stand."
    return "Nobody is left to move in these waves."
