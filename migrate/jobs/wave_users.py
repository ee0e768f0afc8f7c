"""What all ways through a plan's users share: which waves, alone on the plan, their objects read some users ahead, what is in
memory bounded; and how such a command counts and ends."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TypeVar

from migrate.errors import ExitCode, MigrateError, UsageError, worst
from migrate.jobs.checking import plan_id_of
from migrate.jobs.common import Actor, is_over, parse_waves
from migrate.jobs.elsewhere import demand_newest, wait_for_requests
from migrate.ledger import Candidate, Ledger
from migrate.model import Purpose, Role
from migrate.planner.folder import Plan
from migrate.planner.of_users import LineOfUsers
from migrate.routing import Router
from migrate.spec import Spec
from migrate.stores.base import Capabilities
from migrate.stores.door import Door, Visitor
from migrate.worker.loop import Stop
from migrate.workspace import Workspace

T = TypeVar("T")
SHOWN_MAX = 1_000
"""Users with what is missing or what failed that an end keeps; of all others the numbers."""
PAGE = 256  # users who are asked of the ledger at once
USERS_AT_ONCE, COPIES_AT_ONCE = 32, 20_000  # whose objects are read from the plans at once


@dataclass(frozen=True, slots=True)
class Setting:
    """In what a command takes users one by one. `run_id` is 0 for who only foresees; `deadline` is by `time.monotonic`."""

    plan: Plan
    workspace: Workspace
    ledger: Ledger
    router: Router
    actor: Actor
    run_id: int
    deadline: float | None
    now: Callable[[], datetime]
    stop: Stop

    @property
    def spec(self) -> Spec:
        return self.plan.spec

    def is_over(self) -> bool:
        """Whether nobody's way is to begin any more."""
        return is_over(self.stop, self.deadline)

    def plan_id(self) -> int:
        """The plan's number in the ledger, which ends its waiting for a lock with the stop from here on.

        LaterError where nothing of the plan was run; RefusedError where a delta has taken its place.
        """
        self.ledger.heed(self.stop.ledger_ends_at)
        demand_newest(self.plan, self.ledger)
        return plan_id_of(self.plan, self.workspace, self.ledger)

    def alone(self, verb: str, *, dry_run: bool = False) -> AbstractContextManager[None]:
        return alone_on(
            self.plan,
            self.ledger,
            verb,
            dry_run=dry_run,
            run_id=self.run_id,
            deadline=self.deadline,
            now=self.now,
            stop=self.stop,
        )

    def opened_door(
        self, purpose: Purpose, roles: Sequence[Role], *, able: Mapping[str, Capabilities] | None = None
    ) -> AbstractContextManager[Door]:
        return opened_door(self.plan, self.workspace, self.actor, purpose, roles, self.stop, able=able)


@dataclass(slots=True)
class WaveEnd:
    """How a command that takes users one by one ended, in numbers of users.

    `missing` counts by check what the gate found; `unready` are users whom it held back, `failed` those whose way broke off, and
    of both the first are named in `shown`. `open` are users of whom nobody knows at which home they live. `left` are those whom
    nobody has looked at.
    """

    exit_code: ExitCode = ExitCode.DONE
    unready: int = 0
    failed: int = 0
    open: int = 0
    left: int = 0
    halted: bool = False
    missing: Counter[str] = field(default_factory=Counter)
    errors: list[MigrateError] = field(default_factory=list)
    shown: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    next_step: str = ""

    def hold_back(self, user_id: str, why: Mapping[str, str]) -> None:
        """Somebody stays as they are: what the gate found, by check."""
        self.unready += 1
        self.missing.update(why.keys())
        self.show(user_id, why)

    def fail(self, user_id: str, error: MigrateError, *, halts_at: int | None, is_open: bool = False) -> None:
        """Somebody's way broke off. With the failure `halts_at` nobody begins any more; None: that is no reason to stop."""
        self.failed += 1
        self.open += is_open
        if len(self.errors) < SHOWN_MAX:
            self.errors.append(error)
        self.show(user_id, {"failed": error.what})
        self.halted = self.halted or (halts_at is not None and self.failed >= halts_at)

    def show(self, user_id: str, why: Mapping[str, str]) -> None:
        if len(self.shown) < SHOWN_MAX:
            self.shown.append((user_id, dict(why)))

    def code(self, stop: Stop, *, is_whole: bool = True) -> ExitCode:
        """The exit code; `is_whole` is False where somebody's way has ended, and something of it is left to do."""
        codes: list[ExitCode] = [error.exit_code for error in self.errors if error.exit_code is not ExitCode.LATER]
        if self.unready or self.failed or not is_whole:
            codes.append(ExitCode.INCOMPLETE)
        if self.left or self.open or self.halted:
            codes.append(ExitCode.INTERRUPTED if stop.is_set() and self.left else ExitCode.LATER)
        return worst(codes)


def waves_of(ledger: Ledger, plan_id: int, words: str | None) -> tuple[int, ...]:
    """The waves that are named, of those that the ledger has: a delta's own tables count nobody who was moved before."""
    every = sorted(progress.wave for progress in ledger.progress(plan_id) if progress.wave is not None)
    waves = parse_waves(words or None, every)
    if waves is None:
        raise UsageError("no wave is named", remedy="Give --wave W: 0, 0-3, 1,4 or all.")
    return waves


def users_in(ledger: Ledger, plan_id: int, waves: Collection[int]) -> int:
    """How many users these waves have."""
    return sum(sum(progress.users.values()) for progress in ledger.progress(plan_id) if progress.wave in waves)


@contextmanager
def alone_on(
    plan: Plan,
    ledger: Ledger,
    verb: str,
    *,
    dry_run: bool = False,
    run_id: int,
    deadline: float | None,
    now: Callable[[], datetime],
    stop: Stop,
) -> Iterator[None]:
    """No run, verification or other such command of the plan meanwhile, and no request of an earlier one still on its way. A dry
    run holds nobody up.

    LaterError where others are at work; RefusedError where a delta has taken the plan's place.
    """
    if dry_run:
        yield
        return
    with ledger.hold_plan(plan.digest, share=False, alone=True, verb=verb):
        demand_newest(plan, ledger)  # again, now that nobody can begin a delta
        wait_for_requests(plan, ledger, stop, deadline, now, run_id=run_id)
        yield


@contextmanager
def opened_door(
    plan: Plan,
    workspace: Workspace,
    actor: Actor,
    purpose: Purpose,
    roles: Sequence[Role],
    stop: Stop,
    *,
    able: Mapping[str, Capabilities] | None = None,
) -> Iterator[Door]:
    """The door to the plan's stores of these roles, each of which lets this actor in. `able` is what they can do, else the plan
    says it. RefusedError, SpecError before there is anything to do."""
    visitor = Visitor(actor.operator, actor.host, actor.country, purpose, plan.digest)
    door = Door(plan.spec, workspace, visitor, capabilities=plan.capabilities if able is None else able)
    for name in plan.spec.by_role(*roles):
        door.admit(name)
    yield door
    if not stop.is_set():  # then, as after an error, threads may be in a request
        door.close()


@contextmanager
def opened_line(plan: Plan) -> Iterator[LineOfUsers]:
    """The objects of the plan's line, user by user."""
    line = LineOfUsers(plan)
    try:
        yield line
    finally:
        line.close()


def groups(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """In order, as many at a time as fit in memory with their objects."""
    group: list[Candidate] = []
    for candidate in candidates:
        if group and (
            len(group) >= USERS_AT_ONCE or sum(each.copies for each in group) + candidate.copies > COPIES_AT_ONCE
        ):
            yield group
            group = []
        group.append(candidate)
    if group:
        yield group


def read_ahead(
    candidates: Sequence[Candidate], read: Callable[[list[Candidate]], T]
) -> Iterator[tuple[list[Candidate], T]]:
    """The candidates in groups, each with what `read` says of it. That of the next group is read meanwhile, by the one thread
    that reads: users are frozen while this thread waits."""
    coming = groups(candidates)
    reader = ThreadPoolExecutor(1)
    try:
        ahead = deque((group, reader.submit(read, group)) for group in islice(coming, 2))
        while ahead:
            group, reading = ahead.popleft()
            yield group, reading.result()
            ahead.extend((each, reader.submit(read, each)) for each in islice(coming, 1))
    finally:
        reader.shutdown(wait=True, cancel_futures=True)


class Memory:
    """Bytes in memory, over all threads (invariant 11): who needs more than there are left waits; the first one never does."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._free = threading.Condition()

    @contextmanager
    def takes(self, size: int) -> Iterator[None]:
        size = min(size, self._limit)
        with self._free:
            while self._used and self._used + size > self._limit:
                self._free.wait()
            self._used += size
        try:
            yield
        finally:
            with self._free:
                self._used -= size
                self._free.notify_all()
