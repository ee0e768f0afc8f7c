"""`migrate cutover`: a wave's users, one way each, side by side; what earlier cutovers left; when the wave halts; how it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from migrate.errors import ExitCode, LaterError, MigrateError, UsageError, worst
from migrate.jobs.checking import plan_id_of
from migrate.jobs.common import Actor, is_over, parse_waves
from migrate.jobs.cutover_gate import FROM
from migrate.jobs.cutover_user import Attempt, Ended, Mover, Tools, cut, look, settle
from migrate.jobs.elsewhere import demand_newest, wait_for_requests
from migrate.jobs.steps import Way, side_by_side
from migrate.jobs.wave_users import PAGE, SHOWN_MAX, Memory, opened_line, read_ahead
from migrate.layout import compile_rules, unlistable_rules
from migrate.ledger import Candidate, FrozenTimes, Ledger, Move
from migrate.model import Purpose, Role, is_stand_in
from migrate.planner.folder import Plan
from migrate.planner.of_users import LineOfUsers, PlannedAt, SourceKey
from migrate.planner.summary import sources_seen, summarise
from migrate.routing import Router
from migrate.states import AWAY, UserState
from migrate.stores.door import Door, Visitor
from migrate.transfer.caller import Caller, RetryPolicy
from migrate.worker.loop import Stop
from migrate.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CutoverRequest:
    """What the command line asks of a cutover. `deadline` is in `time.monotonic` seconds."""

    wave: str
    dry_run: bool = False
    max_failures: int | None = None
    deadline: float | None = None


@dataclass(slots=True)
class CutoverEnd:
    """How a cutover ended. Numbers of users: `moved` in this run, `ready` to move (dry run), `away` before it began.

    `missing` counts by check what the gate found; `unready` are users whom it held back, `failed` those whose way broke off, and
    of both the first are named in `shown`. `open` are users of whom nobody knows at which home they live, until the next cutover;
    `settled` those whom an earlier one had left so, and who turned out to have moved.
    """

    exit_code: ExitCode = ExitCode.DONE
    waves: tuple[int, ...] = ()
    dry_run: bool = False
    moved: int = 0
    settled: int = 0
    ready: int = 0
    away: int = 0
    unready: int = 0
    failed: int = 0
    open: int = 0
    left: int = 0
    late: int = 0
    halted: bool = False
    missing: Counter[str] = field(default_factory=Counter)
    errors: list[MigrateError] = field(default_factory=list)
    shown: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    listing_seconds_max: float = 0.0
    frozen: FrozenTimes | None = None
    next_step: str = ""

    @property
    def done(self) -> int:
        """Users of whom is known how they ended."""
        return self.moved + self.ready + self.unready + self.failed


def cut_over(
    plan: Plan,
    workspace: Workspace,
    ledger: Ledger,
    router: Router,
    actor: Actor,
    request: CutoverRequest,
    *,
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
    on_progress: Callable[[CutoverEnd], None],
) -> CutoverEnd:
    """Move the users of a wave, or with `dry_run` look at each whether they could be moved.

    LaterError where nothing of the plan was run, or others work on it; RefusedError where a delta has taken its place.
    """
    ledger.heed(stop.ledger_ends_at)
    demand_newest(plan, ledger)
    plan_id = plan_id_of(plan, workspace, ledger)
    every = sorted(int(share.name) for share in summarise(plan.document).by_wave)
    waves = parse_waves(request.wave, every)
    if waves is None:
        raise UsageError("no wave is named", remedy="Give --wave W: 0, 0-3, 1,4 or all.")
    end = CutoverEnd(waves=tuple(waves), dry_run=request.dry_run)
    with (
        _holding(ledger, plan, request, run_id, now, stop),
        _opened(plan, workspace, actor, request) as caller,
        opened_line(plan) as line,
    ):
        tools = _tools(plan, plan_id, run_id, ledger, router, caller, now, stop)
        cutover = _Cutover(tools, line, ledger, request, end, stop, on_progress)
        if not request.dry_run:
            cutover.settle_what_is_left(plan_id)
        for wave in waves:
            cutover.take(plan_id, wave)
        end.frozen = ledger.frozen_times(plan_id)
        end.left = cutover.left(plan_id, waves)
        end.exit_code = cutover.code()
        end.next_step = _next_step(plan, end)
    return end


@contextmanager
def _holding(
    ledger: Ledger, plan: Plan, request: CutoverRequest, run_id: int, now: Callable[[], datetime], stop: Stop
) -> Iterator[None]:
    """No run, verification or other cutover of the plan meanwhile: they would judge what the platform writes; and no request of
    an earlier one may still be on its way. A dry run holds nobody up."""
    if request.dry_run:
        yield
        return
    with ledger.hold_plan(plan.digest, share=False, alone=True, verb="cutover"):
        demand_newest(plan, ledger)  # again, now that nobody can begin a delta
        wait_for_requests(plan, ledger, stop, request.deadline, now, run_id=run_id)
        yield


@contextmanager
def _opened(plan: Plan, workspace: Workspace, actor: Actor, request: CutoverRequest) -> Iterator[Caller]:
    """The way to the stores: a dry run's opens them to be read."""
    purpose = Purpose.VERIFY if request.dry_run else Purpose.COPY
    visitor = Visitor(actor.operator, actor.host, actor.country, purpose, plan.digest)
    door = Door(plan.spec, workspace, visitor, capabilities=plan.capabilities)
    for name in plan.spec.by_role(Role.SOURCE, Role.TARGET):
        door.admit(name)
    seconds = plan.spec.routing.freeze_seconds_max
    yield Caller(
        door.open,
        concurrency=lambda name: plan.spec.stores[name].concurrency_max,
        retry=RetryPolicy(attempts=4, timeout_seconds=seconds / 3),
    )
    door.close()  # not after an error: threads may be in a request


def _tools(
    plan: Plan,
    plan_id: int,
    run_id: int,
    ledger: Ledger,
    router: Router,
    caller: Caller,
    now: Callable[[], datetime],
    stop: Stop,
) -> Tools:
    spec = plan.spec
    rules = compile_rules(spec.layout.rules)
    return Tools(
        plan_id=plan_id,
        run_id=run_id,
        spec=spec,
        rules=rules,
        ledger=ledger,
        router=router,
        caller=caller,
        sources_seen=sources_seen(plan.document, spec.by_role(Role.SOURCE, Role.BACKUP)),
        unlistable=unlistable_rules(rules, spec.by_role(Role.SOURCE)),
        now=now,
        stopped=stop.is_set,
        takes=Memory(spec.run.bytes_in_flight).takes,
    )


class _Cutover:
    """One cutover under way, with what it counts."""

    def __init__(
        self,
        tools: Tools,
        line: LineOfUsers,
        ledger: Ledger,
        request: CutoverRequest,
        end: CutoverEnd,
        stop: Stop,
        on_progress: Callable[[CutoverEnd], None],
    ) -> None:
        self._tools = tools
        self._line = line
        self._ledger = ledger
        self._request = request
        self._end = end
        self._stop = stop
        self._on_progress = on_progress
        self._max_failures = request.max_failures or tools.spec.cutover.max_failures

    def settle_what_is_left(self, plan_id: int) -> None:
        """Users whom a cutover that died has left frozen, or flipped without a window: the platform says where they live."""
        for move in self._ledger.moving(plan_id, [UserState.CUT_OVER]):
            self._ledger.observe(
                move.user_id, self._tools.run_id, until=_window(self._tools, move), now=self._tools.now()
            )
        ways = (self._settled(move) for move in self._ledger.moving(plan_id, [UserState.FROZEN]))
        for ended in self._side_by_side(ways):
            self._end.settled += ended.moved
            if ended.is_open:
                self._count(ended)  # the others have their turn with their wave

    def _settled(self, move: Move) -> Way[Ended]:
        longest = self._tools.freeze_seconds * 1000

        def frozen_ms() -> int:
            """By two readings of this machine's clock, and no longer than a freeze lasts."""
            since = (self._tools.now() - move.frozen_at).total_seconds() * 1000
            return round(min(max(since, 0), longest))

        attempt = Attempt(move.user_id, move.token, move.to_site)
        ended: Ended = yield from settle(self._tools, attempt, frozen_ms, None)
        return ended

    def take(self, plan_id: int, wave: int) -> None:
        """The users of a wave, as far as neither signal, time nor failures end it."""
        for ended in self._side_by_side(self._ways(plan_id, wave)):
            self._count(ended)

    def left(self, plan_id: int, waves: Sequence[int]) -> int:
        """Users of the waves whom nobody has looked at."""
        every = sum(
            sum(progress.users.values()) for progress in self._ledger.progress(plan_id) if progress.wave in waves
        )
        return max(0, every - self._end.away - self._end.done)

    def code(self) -> ExitCode:
        end = self._end
        codes = [error.exit_code for error in end.errors if not isinstance(error, LaterError)]
        if end.unready or end.failed:
            codes.append(ExitCode.INCOMPLETE)
        if end.left or end.open or end.halted:
            codes.append(ExitCode.INTERRUPTED if self._stop.is_set() and end.left else ExitCode.LATER)
        return worst(codes)

    def _ways(self, plan_id: int, wave: int) -> Iterator[Way[Ended]]:
        """Read page by page: who was moved meanwhile is not asked for again."""
        after = ""
        while page := self._ledger.candidates(plan_id, wave, after, PAGE):
            after = page[-1].user_id
            mine = [each for each in page if each.state not in AWAY and not is_stand_in(each.user_id)]
            self._end.away += len(page) - len(mine)
            yield from (_not_verified(candidate) for candidate in mine if candidate.state not in FROM)
            yield from self._ways_of([candidate for candidate in mine if candidate.state in FROM])

    def _ways_of(self, candidates: Sequence[Candidate]) -> Iterator[Way[Ended]]:
        """The ways of these users, each begun when its turn comes."""

        def read(group: list[Candidate]) -> tuple[dict[str, str], dict[str, Mapping[SourceKey, PlannedAt]]]:
            names = [candidate.user_id for candidate in group]
            return self._line.states(names), self._line.of(names)

        for group, (states, objects) in read_ahead(candidates, read):
            late = self._ledger.late_of([candidate.user_id for candidate in group])
            for candidate in group:
                user_id = candidate.user_id
                mover = Mover(candidate, states.get(user_id, "unknown"), objects.pop(user_id), late.get(user_id, []))
                yield look(self._tools, mover) if self._request.dry_run else cut(self._tools, mover)

    def _side_by_side(self, ways: Iterator[Way[Ended]]) -> Iterator[Ended]:
        return side_by_side(
            ways,
            at_once=self._tools.spec.cutover.concurrency,
            threads=self._tools.spec.run.concurrency,
            is_over=lambda: self._end.halted or is_over(self._stop, self._request.deadline),
            on_look=lambda: self._on_progress(self._end),
        )

    def _count(self, ended: Ended) -> None:
        end = self._end
        end.late += ended.late
        end.listing_seconds_max = max(end.listing_seconds_max, ended.listing_seconds)
        if ended.missing:
            end.unready += 1
            end.missing.update(ended.missing.keys())
            self._show(ended.user_id, dict(ended.missing))
        elif ended.error is not None:
            if ended.error.exit_code is ExitCode.INTERRUPTED:
                return  # left for the next one
            end.failed += 1
            end.open += ended.is_open
            if len(end.errors) < SHOWN_MAX:
                end.errors.append(ended.error)
            self._show(ended.user_id, {"failed": ended.error.what})
            end.halted = end.halted or (not self._request.dry_run and end.failed >= self._max_failures)
        elif ended.moved:
            end.moved += 1
        else:
            end.ready += 1

    def _show(self, user_id: str, why: dict[str, str]) -> None:
        if len(self._end.shown) < SHOWN_MAX:
            self._end.shown.append((user_id, why))


def _not_verified(candidate: Candidate) -> Way[Ended]:
    """The gate for who is not even near it: no store is asked for them."""
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
