"""`migrate purge`: a purge plan of a wave's users, and carrying one out once its digest is confirmed.

The plan is made by reading alone, by whoever foresees; carrying it out asks everything again, user by user, at that moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from migrate.errors import ExitCode, MigrateError, SealLostError
from migrate.jobs.purge_gate import FROM, Seen, missing
from migrate.jobs.purge_look import ReceiptKey, Stored
from migrate.jobs.purge_plan import CONFIRMED_DIGITS, Entry, PurgePlan, PurgeUser, PurgeWriter, building, find_purge
from migrate.jobs.purge_user import HoldWatch, Looked, Person, Purged, Tools, look, purge
from migrate.jobs.receipts import Receipts, opened_receipts
from migrate.jobs.steps import Way, side_by_side
from migrate.jobs.wave_users import (
    COPIES_AT_ONCE,
    PAGE,
    USERS_AT_ONCE,
    Setting,
    WaveEnd,
    groups,
    opened_line,
    users_in,
    waves_of,
)
from migrate.layout import compile_rules, unlistable_rules
from migrate.ledger import Candidate, Ledger
from migrate.model import Purpose, Role, is_stand_in
from migrate.planner.of_users import LineOfUsers, PlannedAt, SourceKey
from migrate.states import UserState
from migrate.transfer.caller import Caller

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PurgeRequest:
    """What the command line asks of a purge. `trust_home`, which is for making its plan: what home and backup do not have was
    deleted there."""

    wave: str
    max_failures: int | None = None
    trust_home: bool = False


@dataclass(slots=True)
class PurgeEnd(WaveEnd):
    """How a purge, or the making of its plan, ended. Numbers of users: `ready` are in the purge plan, `purged` now, `away` before
    it began.

    `unfinished` are those of whom something is left at a source (`remains`, by store and reason), and are named in `shown` as
    well. `deleted` are versions, markers and uploads.
    """

    waves: tuple[int, ...] = ()
    plan: PurgePlan | None = None
    ready: int = 0
    purged: int = 0
    away: int = 0
    stand_ins: int = 0
    unfinished: int = 0
    deleted: int = 0
    size_bytes: int = 0
    remains: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Users of whom is known how they ended."""
        return self.ready + self.purged + self.unready + self.failed + self.unfinished


@dataclass(frozen=True, slots=True)
class Purging:
    """In what a purge works, what is asked of it, and what is told meanwhile."""

    setting: Setting
    request: PurgeRequest
    on_progress: Callable[[PurgeEnd], None]

    def waves(self, plan_id: int) -> tuple[int, ...]:
        """The waves that are asked for."""
        return waves_of(self.setting.ledger, plan_id, self.request.wave)


def plan_purge(purging: Purging) -> PurgeEnd:
    """Look at each user of the waves, and write a purge plan of those who are ready. Nothing else is changed.

    None is written where nobody is ready, or not everybody was looked at. LaterError where nothing of the plan was run;
    RefusedError where a delta has taken its place.
    """
    setting = purging.setting
    plan, ledger, plan_id = setting.plan, setting.ledger, setting.plan_id()
    end = PurgeEnd(waves=purging.waves(plan_id))
    with (
        building(setting.workspace) as writer,
        _line(purging) as line,
        _opened(purging, Purpose.VERIFY) as caller,
    ):
        tools = _tools(purging, plan_id, caller, trust_home=purging.request.trust_home)
        for wave in end.waves:
            for looked in _side_by_side(purging, end, tools, _looks(tools, line, end, wave)):
                _count_looked(purging, end, looked, writer)
        end.left = _left(ledger, plan_id, end)
        if end.ready and not end.left and not end.halted:
            end.plan = writer.finish(plan.digest, end.waves, setting.now())
    end.exit_code = end.code(setting.stop, is_whole=not end.unfinished)
    end.next_step = _next_step_of_plan(purging, end)
    return end


def carry_out(purging: Purging, digest: str) -> PurgeEnd:
    """Carry out the purge plan whose digest begins so. UsageError where there is none, IntegrityError where it was changed.

    LaterError where others work on the plan.
    """
    setting = purging.setting
    plan, plan_id = setting.plan, setting.plan_id()
    confirmed = find_purge(setting.workspace, digest, plan.digest, purging.waves(plan_id))
    confirmed.check(setting.stop, setting.deadline)
    end = PurgeEnd(waves=confirmed.waves, plan=confirmed)
    with (
        setting.alone("purge"),
        _line(purging) as line,
        _opened(purging, Purpose.PURGE) as caller,
    ):
        tools = _tools(purging, plan_id, caller, note=f"purge plan {confirmed.digest[:CONFIRMED_DIGITS]}")
        for purged in _side_by_side(purging, end, tools, _purges(tools, line, end, confirmed)):
            _count_purged(purging, end, purged)
    end.left = max(0, confirmed.users - end.away - end.done)
    end.exit_code = end.code(setting.stop, is_whole=not end.unfinished)
    end.next_step = _next_step_of_purge(purging, end, confirmed)
    return end


class _Line:
    """What the line has planned of users, and what the receipts say. For one thread, that of the ledger."""

    def __init__(self, line: LineOfUsers, receipts: Receipts) -> None:
        self._line = line
        self._receipts = receipts

    def of(self, users: Mapping[str, int], near: Collection[str]) -> list[Person]:
        """The users, in their order, each given with the wave; of those who are near with what is known of them."""
        known = self._line.of([user_id for user_id in users if user_id in near])
        return [self._person(user_id, wave, known.get(user_id)) for user_id, wave in users.items()]

    def _person(self, user_id: str, wave: int, objects: Mapping[SourceKey, PlannedAt] | None) -> Person:
        """Whose receipts cannot be had stays, and nobody else: what they prove is to be proved before anything is deleted."""
        receipts: dict[ReceiptKey, Stored] = {}
        lost: SealLostError | None = None
        for at in (objects or {}).values():
            if at.planned.is_tombstone:
                continue
            batch = self._receipts.of(at.place, at.batch)
            for copy in at.planned.copies:
                if (stored := batch.last.get(copy.ordinal)) is not None:
                    receipts[at.place, at.batch, copy.ordinal] = stored
                else:
                    lost = lost or batch.lost
        return Person(user_id, wave, objects, receipts, "" if lost is None else lost.what)


@contextmanager
def _line(purging: Purging) -> Iterator[_Line]:
    setting = purging.setting
    with (
        opened_line(setting.plan) as line,
        opened_receipts(line.plans, setting.workspace, setting.ledger) as receipts,
    ):
        yield _Line(line, receipts)


@contextmanager
def _opened(purging: Purging, purpose: Purpose) -> Iterator[Caller]:
    plan, roles = purging.setting.plan, [Role.SOURCE, Role.BACKUP, Role.TARGET]
    with purging.setting.opened_door(purpose, roles) as door:
        yield Caller(door.open, concurrency=lambda name: plan.spec.stores[name].concurrency_max)


def _tools(purging: Purging, plan_id: int, caller: Caller, *, note: str = "", trust_home: bool = False) -> Tools:
    spec = purging.setting.spec
    rules = compile_rules(spec.layout.rules)
    return Tools(
        plan_id=plan_id,
        run_id=purging.setting.run_id,
        spec=spec,
        rules=rules,
        ledger=purging.setting.ledger,
        router=purging.setting.router,
        caller=caller,
        unlistable=unlistable_rules(rules, spec.by_role(Role.SOURCE)),
        now=purging.setting.now,
        is_over=purging.setting.is_over,
        holds=HoldWatch(purging.setting.ledger),
        note=note,
        trust_home=trust_home,
    )


def _side_by_side(purging: Purging, end: PurgeEnd, tools: Tools, ways: Iterator[Way[R]]) -> Iterator[R]:
    spec = purging.setting.spec

    def look() -> None:
        tools.holds.look()
        purging.on_progress(end)

    return side_by_side(
        ways,
        at_once=spec.cutover.concurrency,
        threads=spec.run.concurrency,
        is_over=lambda: end.halted or purging.setting.is_over(),
        stop=purging.setting.stop,
        on_look=look,
    )


# the purge plan


def _looks(tools: Tools, line: _Line, end: PurgeEnd, wave: int) -> Iterator[Way[Looked]]:
    """Of each user of the wave who may be near. Read page by page."""
    after = ""
    while page := tools.ledger.candidates(tools.plan_id, wave, after, PAGE):
        after = page[-1].user_id
        mine: list[Candidate] = []
        for candidate in page:
            if is_stand_in(candidate.user_id):
                end.stand_ins += 1
            elif _is_done(tools, candidate):
                end.away += 1
            else:
                mine.append(candidate)
        for group in groups(mine):
            # of who is not near nothing is read from the plans: the gate says why
            near = {each.user_id for each in group if _is_near(tools, each)}
            for person in line.of({each.user_id: wave for each in group}, near):
                yield look(tools, person)


def _is_done(tools: Tools, candidate: Candidate) -> bool:
    """Whether nothing is left to purge: the user is purged, or was so after they were forgotten."""
    if candidate.state is UserState.FORGOTTEN:
        move = tools.ledger.move_of(candidate.user_id)
        return move is not None and move.purged_at is not None
    return candidate.state is UserState.PURGED


def _is_near(tools: Tools, candidate: Candidate) -> bool:
    """Whether what the ledger knows lets the user be purged, so that their objects have to be known."""
    if candidate.state not in FROM:
        return False
    move = tools.ledger.move_of(candidate.user_id)
    return not missing(Seen(candidate, move, tools.now(), tools.spec, tools.unlistable))


def _count_looked(purging: Purging, end: PurgeEnd, looked: Looked, writer: PurgeWriter) -> None:
    if looked.missing:
        end.hold_back(looked.user_id, looked.missing)
    elif looked.error is not None:
        _fail(purging, end, looked.user_id, looked.error)
    else:
        end.ready += 1
        user = PurgeUser(
            looked.user_id,
            looked.wave,
            len(looked.entries),
            sum(entry.size for entry in looked.entries),
            looked.targets.deleted_since,
            looked.targets.newer,
            looked.left_alone,
            looked.targets.doubted,
            looked.targets.doubted_digest,
        )
        writer.add(user, looked.entries)


def _left(ledger: Ledger, plan_id: int, end: PurgeEnd) -> int:
    """Users of the waves whom nobody has looked at."""
    return max(0, users_in(ledger, plan_id, end.waves) - end.away - end.stand_ins - end.done)


# carrying it out


def _purges(tools: Tools, line: _Line, end: PurgeEnd, confirmed: PurgePlan) -> Iterator[Way[Purged]]:
    people = confirmed.people()
    while group := _some(people):
        candidates = {user.user_id: tools.ledger.candidate(tools.plan_id, user.user_id) for user, _ in group}
        done = {user_id for user_id, found in candidates.items() if found is not None and _is_done(tools, found)}
        end.away += len(done)
        near = {user_id for user_id, found in candidates.items() if found is not None and _is_near(tools, found)}
        waves = {user.user_id: user.wave for user, _ in group if user.user_id not in done}
        entries = {user.user_id: mine for user, mine in group}
        trusted = {user.user_id: user.trusted_digest for user, _ in group}
        for person in line.of(waves, near):
            trusting = replace(person, trusted=trusted[person.user_id])
            yield purge(tools, trusting, entries.pop(person.user_id))


def _some(people: Iterator[tuple[PurgeUser, list[Entry]]]) -> list[tuple[PurgeUser, list[Entry]]]:
    """The next users, as many at a time as fit in memory with their entries."""
    group: list[tuple[PurgeUser, list[Entry]]] = []
    for each in islice(people, USERS_AT_ONCE):
        group.append(each)
        if sum(user.entries for user, _ in group) > COPIES_AT_ONCE:
            break
    return group


def _count_purged(purging: Purging, end: PurgeEnd, purged: Purged) -> None:
    end.deleted += purged.deleted
    end.size_bytes += purged.size_bytes
    if purged.missing:
        end.hold_back(purged.user_id, purged.missing)
    elif purged.error is not None:
        _fail(purging, end, purged.user_id, purged.error)
    elif purged.purged:
        end.purged += 1
    else:
        end.unfinished += 1
        end.remains.update({(store, reason.value): number for (store, reason), number in purged.left.items()})
        why = {store: "" for store, _ in purged.left}
        for store in why:
            reasons = [
                f"{number} {reason}" for (where, reason), number in sorted(purged.left.items()) if where == store
            ]
            why[store] = f"left at {store}: {', '.join(reasons)}"
        end.show(purged.user_id, why)


def _fail(purging: Purging, end: PurgeEnd, user_id: str, error: MigrateError) -> None:
    if error.exit_code is ExitCode.INTERRUPTED:
        return  # left for the next one
    end.fail(user_id, error, halts_at=purging.request.max_failures or purging.setting.spec.cutover.max_failures)


def _command(purging: Purging, end: PurgeEnd) -> str:
    return f"migrate purge {purging.setting.plan.digest[:CONFIRMED_DIGITS]} --wave {','.join(map(str, end.waves))}"


def confirming(purging: Purging, end: PurgeEnd) -> str:
    """The command that carries the purge plan out."""
    assert end.plan is not None, "there is one to be confirmed"
    return f"{_command(purging, end)} --confirm {end.plan.digest[:CONFIRMED_DIGITS]}"


def _next_step_of_plan(purging: Purging, end: PurgeEnd) -> str:
    if end.plan is not None:
        return f"confirm with `{confirming(purging, end)}`"
    if end.halted:
        return f"Too many failures: mend the cause, then `{_command(purging, end)}` looks again."
    if end.left:
        return f"Not everybody was looked at: `{_command(purging, end)}` does."
    return "Nobody of these waves can be purged now."


def _next_step_of_purge(purging: Purging, end: PurgeEnd, confirmed: PurgePlan) -> str:
    if end.halted:
        return f"Too many failures halted the purge: mend the cause, then `{confirming(purging, end)}` goes on."
    if end.left:
        return f"Users are left: `{confirming(purging, end)}` goes on."
    if end.unfinished or end.unready or end.failed:
        return f"See to what is told of them; then `{_command(purging, end)}` makes a new purge plan of who is left."
    return "`migrate sweep` shows that nothing of them is left at the sources."
