"""`migrate rollback`: one user, or a wave's, go back to their old home while the sources stand; what earlier rollbacks left; how
it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from migrate.errors import ExitCode, UnreachableError, UsageError
from migrate.jobs.freezes import retry_in_a_freeze
from migrate.jobs.last_delta import known_of
from migrate.jobs.receipts import Receipts, opened_receipts
from migrate.jobs.rollback_gate import FROM, why_not
from migrate.jobs.rollback_look import Subject, stands_of
from migrate.jobs.rollback_user import Ended, Tools, attempt_of, go_back, look, settle
from migrate.jobs.steps import Way, side_by_side
from migrate.jobs.wave_users import (
    PAGE,
    SHOWN_MAX,
    Memory,
    Setting,
    WaveEnd,
    opened_line,
    read_ahead,
    users_in,
    waves_of,
)
from migrate.jobs.written import Written, WrittenFile
from migrate.layout import CompiledRule, at_targets, compile_rules, unlistable_rules
from migrate.ledger import Candidate, Ledger, Move
from migrate.model import Purpose, Role, is_stand_in
from migrate.planner.folder import Plan
from migrate.planner.of_users import LineOfUsers, PlannedAt, SourceKey
from migrate.spec import Spec
from migrate.states import AWAY, UserState
from migrate.stores.base import Capabilities
from migrate.stores.keys import ODD_KEYS
from migrate.transfer.caller import Caller

_HAS_MOVED = (*(state for state in AWAY if state is not UserState.FORGOTTEN), UserState.FROZEN)


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """What the command line asks of a rollback: a user or waves. `trust_home`: what the home does not have was deleted there.
    `approved_by`: who has approved that what was written at the home is sent back; None where nobody has."""

    user_id: str | None = None
    wave: str | None = None
    dry_run: bool = False
    trust_home: bool = False
    approved_by: str | None = None
    max_failures: int | None = None


@dataclass(slots=True)
class RollbackEnd(WaveEnd):
    """How a rollback ended. Numbers of users: `back` in this run, `ready` to go back (dry run), `back_before` it began,
    `not_moved` who live at their old home anyhow.

    `settled` are users whom an earlier one had left `open`, and who turned out to be back. `written` are objects that stay at
    the new home, with their user, the first of `new` and `changed`; all of them are in `file`. `sent` of them were sent back as
    well, and `replayed` were deleted at the sources; or would be.
    """

    waves: tuple[int, ...] | None = None
    dry_run: bool = False
    back: int = 0
    settled: int = 0
    ready: int = 0
    back_before: int = 0
    not_moved: int = 0
    written: list[tuple[str, Written]] = field(default_factory=list)
    new: int = 0
    changed: int = 0
    written_bytes: int = 0
    replayed: int = 0
    sent: int = 0
    file: Path | None = None
    listing_seconds_max: float = 0.0
    frozen_ms_max: int = 0

    @property
    def done(self) -> int:
        """Users of whom is known how they ended."""
        return self.back + self.settled + self.ready + self.back_before + self.not_moved + self.unready + self.failed


def roll_back(setting: Setting, request: RollbackRequest, *, on_progress: Callable[[RollbackEnd], None]) -> RollbackEnd:
    """Bring users back to their old home, or with `dry_run` look at each whether they could go.

    UsageError for a user whom the ledger does not have in this plan; LaterError where nothing of the plan was run, or others work
    on it; RefusedError where a delta has taken its place.
    """
    plan, ledger, plan_id = setting.plan, setting.ledger, setting.plan_id()
    end = RollbackEnd(dry_run=request.dry_run, waves=_waves(ledger, plan_id, request))
    written = WrittenFile(setting.workspace, setting.now(), setting.run_id)
    with (
        setting.alone("rollback", dry_run=request.dry_run),
        _opened(setting, request) as caller,
        opened_line(plan) as line,
        opened_receipts(line.plans, setting.workspace, ledger) as receipts,
    ):
        spec, rules = plan.spec, compile_rules(plan.spec.layout.rules)
        tools = Tools(
            plan_id=plan_id,
            run_id=setting.run_id,
            spec=spec,
            rules=rules,
            ledger=ledger,
            router=setting.router,
            caller=caller,
            unlistable=_unlistable(spec, rules),
            trust_home=request.trust_home,
            approved_by=request.approved_by,
            written=written,
            takes=Memory(spec.run.bytes_in_flight).takes,
            now=setting.now,
            stopped=setting.stop.is_set,
        )
        rollback = _Rollback(tools, line, receipts, request, end, setting, on_progress)
        if not request.dry_run:
            rollback.settle_what_is_left()
        rollback.take()
        end.left = rollback.left()
        try:
            end.file = written.finish()
        except UnreachableError as error:  # who is back is back, and the rows are there
            end.errors.append(error)
            end.file = written.folder
        end.exit_code = end.code(setting.stop)
        end.next_step = _next_step(plan, request, end)
    return end


def _waves(ledger: Ledger, plan_id: int, request: RollbackRequest) -> tuple[int, ...] | None:
    """The waves that are named; None for a user."""
    if (request.user_id is None) == (request.wave is None):
        raise UsageError("name a user or a wave", remedy="Give --user U, or --wave W: 0, 0-3, 1,4 or all.")
    if request.user_id is not None:
        _demand_known(ledger, plan_id, request.user_id)
        return None
    return waves_of(ledger, plan_id, request.wave)


def _demand_known(ledger: Ledger, plan_id: int, user_id: str) -> None:
    if not user_id or "/" in user_id:
        raise UsageError("a user's id is one path segment: not empty, and without a `/`")
    row = ledger.user(user_id)
    if row is None or row.plan_id != plan_id:
        raise UsageError(
            "the ledger knows no such user in this plan",
            remedy="`migrate where USER` says where a user is, and in which plan.",
        )


def _unlistable(spec: Spec, rules: tuple[CompiledRule, ...]) -> list[str]:
    """The rules by which nobody's keys can be listed, at the sources or at the targets."""
    sources = unlistable_rules(rules, spec.by_role(Role.SOURCE))
    targets = unlistable_rules(at_targets(rules), ["any"])
    return sorted({*sources, *targets})


@contextmanager
def _opened(setting: Setting, request: RollbackRequest) -> Iterator[Caller]:
    """The way to the stores, which a dry run opens to be read."""
    purpose = Purpose.ROLLBACK if request.approved_by is None else Purpose.SEND_BACK
    if request.dry_run:
        purpose = Purpose.VERIFY
    spec, able = setting.spec, dict(setting.plan.capabilities)
    if request.approved_by is not None:
        # nobody has tried to write at the sources: whether they take all keys, and large objects, shows when it is done
        for name in spec.by_role(Role.SOURCE):
            trusted: dict[str, Any] = dict.fromkeys((*ODD_KEYS, "multipart"), True)
            able[name] = replace(able.get(name, Capabilities()), **trusted)

    with setting.opened_door(purpose, [Role.SOURCE, Role.BACKUP, Role.TARGET], able=able) as door:
        yield Caller(
            door.open, concurrency=lambda name: spec.stores[name].concurrency_max, retry=retry_in_a_freeze(spec)
        )


class _Rollback:
    """One rollback under way, with what it counts."""

    def __init__(
        self,
        tools: Tools,
        line: LineOfUsers,
        receipts: Receipts,
        request: RollbackRequest,
        end: RollbackEnd,
        setting: Setting,
        on_progress: Callable[[RollbackEnd], None],
    ) -> None:
        self._tools = tools
        self._line = line
        self._receipts = receipts
        self._ledger = tools.ledger
        self._request = request
        self._end = end
        self._setting = setting
        self._on_progress = on_progress
        self._max_failures = request.max_failures or tools.spec.cutover.max_failures
        self._settled: set[str] = set()  # who is counted before their turn comes
        self._looked_at = 0  # users of those who were asked for

    def settle_what_is_left(self) -> None:
        """Users whom a cutover that died has left without a window, or a rollback on the way back: the platform says where those
        live."""
        for move in self._moves(UserState.CUT_OVER):
            begun = move.flipped_at or self._tools.now()
            until = begun + timedelta(seconds=self._tools.spec.cutover.observe)
            self._ledger.observe(move.user_id, self._tools.run_id, until=until, now=self._tools.now())
        ways = (settle(self._tools, attempt_of(move), None) for move in self._moves(UserState.RETURNING))
        for ended in self._side_by_side(ways):
            if ended.is_back:
                self._end.settled += 1
            elif ended.is_open:
                self._count(ended)
            else:
                continue  # their turn comes with their wave
            self._settled.add(ended.user_id)

    def _moves(self, state: UserState) -> Iterator[Move]:
        """Those of the users who were asked for: of waves, of the whole plan."""
        if self._request.user_id is None:
            yield from self._ledger.moving(self._tools.plan_id, [state])
            return
        move = self._ledger.move_of(self._request.user_id)
        if move is not None and move.state is state:
            yield move

    def take(self) -> None:
        """The users who were asked for, as far as neither signal, time nor failures end it."""
        for wave in [None] if self._end.waves is None else self._end.waves:
            for ended in self._side_by_side(self._ways(wave)):
                self._looked_at += self._count(ended)

    def left(self) -> int:
        """Users of those asked for whom nobody has looked at."""
        waves = self._end.waves
        every = 1 if waves is None else users_in(self._ledger, self._tools.plan_id, waves)
        return max(0, every - self._looked_at)

    def _pages(self, wave: int | None) -> Iterator[list[Candidate]]:
        """Read page by page: who went back meanwhile is not asked for again."""
        if wave is None:
            assert self._request.user_id is not None, "who names no wave names a user"
            found = self._ledger.candidate(self._tools.plan_id, self._request.user_id)
            yield [] if found is None else [found]
            return
        after = ""
        while page := self._ledger.candidates(self._tools.plan_id, wave, after, PAGE):
            after = page[-1].user_id
            yield page

    def _ways(self, wave: int | None) -> Iterator[Way[Ended]]:
        able = {FROM, UserState.CUT_OVER} if self._request.dry_run else {FROM}
        for page in self._pages(wave):
            ready = []
            for candidate in page:
                state = candidate.state
                if state in able:
                    ready.append(candidate)
                elif candidate.user_id in self._settled:
                    self._looked_at += 1
                elif state is UserState.ROLLED_BACK:
                    self._end.back_before += 1
                    self._looked_at += 1
                elif is_stand_in(candidate.user_id) or (wave is not None and state not in _HAS_MOVED):
                    self._end.not_moved += 1
                    self._looked_at += 1
                else:
                    yield _cannot(candidate)
            yield from self._ways_of(ready)

    def _ways_of(self, candidates: Sequence[Candidate]) -> Iterator[Way[Ended]]:
        """The ways of these users, each begun when its turn comes."""
        spec = self._tools.spec

        def read(group: list[Candidate]) -> dict[str, Mapping[SourceKey, PlannedAt]]:
            return self._line.of([candidate.user_id for candidate in group])

        for group, objects in read_ahead(candidates, read):
            late = self._ledger.late_of([candidate.user_id for candidate in group])
            for candidate in group:
                mine, copied = objects.pop(candidate.user_id), late.get(candidate.user_id, [])
                known = known_of(mine, copied, spec)
                stands = stands_of(known, mine, copied, self._receipts, spec)
                move = self._ledger.move_of(candidate.user_id)
                assert move is not None, "who lives at the new home has moved"
                subject = Subject(candidate.user_id, candidate.home, candidate.backup, move.frozen_at, known, stands)
                yield look(self._tools, subject) if self._request.dry_run else go_back(self._tools, subject)

    def _side_by_side(self, ways: Iterator[Way[Ended]]) -> Iterator[Ended]:
        return side_by_side(
            ways,
            at_once=self._tools.spec.cutover.concurrency,
            threads=self._tools.spec.run.concurrency,
            is_over=lambda: self._end.halted or self._setting.is_over(),
            stop=self._setting.stop,
            on_look=lambda: self._on_progress(self._end),
        )

    def _count(self, ended: Ended) -> bool:
        """Add up how a user's way ended; False for one who is left for the next rollback."""
        end = self._end
        end.listing_seconds_max = max(end.listing_seconds_max, ended.listing_seconds)
        end.frozen_ms_max = max(end.frozen_ms_max, ended.frozen_ms)
        if ended.missing:
            end.hold_back(ended.user_id, ended.missing)
            return True
        if ended.error is not None:
            if ended.error.exit_code is ExitCode.INTERRUPTED and not ended.is_open:
                return False
            halts_at = None if self._request.dry_run else self._max_failures
            end.fail(ended.user_id, ended.error, halts_at=halts_at, is_open=ended.is_open)
            return True
        if ended.is_back:
            end.back += 1
        else:
            end.ready += 1
        end.replayed += ended.replayed
        end.sent += ended.sent
        for each in ended.written:
            end.new += each.is_new
            end.changed += not each.is_new
            end.written_bytes += each.size
            if len(end.written) < SHOWN_MAX:
                end.written.append((ended.user_id, each))
        return True


def _cannot(candidate: Candidate) -> Way[Ended]:
    """The gate for who is not even near it: no store is asked for them."""
    yield [lambda: None]
    return Ended(candidate.user_id, missing={"state": why_not(candidate.state)})


def _next_step(plan: Plan, request: RollbackRequest, end: RollbackEnd) -> str:
    name = plan.digest[:12]
    again = f"`migrate rollback {name} {'--user U' if end.waves is None else f'--wave {request.wave}'}`"
    if end.halted:
        return f"Too many failures halted it: mend the cause, then {again} goes on."
    if end.left or end.open:
        return f"Users are left: {again} goes on."
    if end.unready or end.failed:
        return f"What is in the way of the others is told above: mend it, then {again} goes on."
    if end.dry_run and end.ready:
        return f"{again} takes them back."
    if end.back or end.settled:
        return f"They live at their old home. `migrate delta {name}` takes them up again: it looks at all of their copies anew."
    return "Nobody is left to go back."
