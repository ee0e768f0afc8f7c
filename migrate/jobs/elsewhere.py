"""Whether the users of a plan stand elsewhere already: in another plan of the ledger, or at sites where this plan does not look.

Either refuses its first run, and the second every run until one has begun. Planning does not ask: the same inputs give the same
plan in any workspace.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from itertools import islice

import structlog

from migrate.errors import InterruptedRun, MigrateError, RefusedError
from migrate.filelock import locked, waiting
from migrate.inventory.aside import side_by_side
from migrate.inventory.forgotten import remembered
from migrate.inventory.tables import writing
from migrate.jobs.common import ended_early, is_over, users_with_a_row
from migrate.ledger import Ledger, continued_by, continued_by_another
from migrate.model import Role
from migrate.planner.diff import Stranded, stranded
from migrate.planner.folder import PREFIX_DIGITS, Plan
from migrate.planner.kept import parents_of
from migrate.planner.summary import accept_words, summarise
from migrate.stopping import Stopping, never
from migrate.units import number_of
from migrate.worker.loop import Stop
from migrate.worker.seals import Seals
from migrate.workspace import Workspace

LATE_SECONDS = 60.0
"""After the end of a run, or after it was last seen where it was killed, until which a request of it may still land."""
_LOOK_SECONDS = 0.5
_SHOWN = 12
_NOTHING = "nothing of this plan was begun"


def demand_newest(plan: Plan, ledger: Ledger) -> None:
    """RefusedError where a delta has taken this plan's place: its users are in that one, and what they still need is, too."""
    child = ledger.child_of(plan.digest)
    if child is not None:
        raise continued_by(plan.digest, child)


def demand_only_child(plan: Plan, ledger: Ledger) -> None:
    """RefusedError where another delta continues what this one would."""
    parent = plan.document["parent"]
    child = None if parent is None else ledger.child_of(parent)
    if child not in (None, plan.digest):
        raise continued_by_another(parent, child)


@contextmanager
def hold_line(plan: Plan, ledger: Ledger) -> Iterator[None]:
    """While a delta takes its line's users over: no run or verification of these plans. LaterError where one is under way."""
    with ExitStack() as held:
        for each in parents_of(plan):
            held.enter_context(ledger.hold_plan(each.digest, share=False))
        yield


def wait_for_requests(
    plan: Plan,
    ledger: Ledger,
    stop: Stop,
    deadline: float | None,
    now: Callable[[], datetime],
    *,
    run_id: int | None = None,
) -> None:
    """Before something else is written than before: wait until no older request can be under way, since no lease reaches the
    stores (design, invariant 2). InterruptedRun when stopped, LaterError when time is up.

    A delta waits for the plans before it; the cutover, rollback or purge `run_id` for all that wrote for its plan as well. Nobody
    waits where the stores are folders and the ledger is a file: who wrote there is on this machine, and what a process has begun
    ends with it.
    """
    stores = plan.spec.by_role(Role.SOURCE, Role.BACKUP, Role.TARGET)
    if ledger.is_file and all(store.scheme != "s3" for store in stores.values()):
        return
    older = [each.digest for each in parents_of(plan)]
    if run_id is not None:
        older.append(plan.digest)
    said, begun, host = False, now(), socket.gethostname()
    while older and (last := ledger.last_run_of(older, begun, host=host, besides=run_id)) is not None:
        left = LATE_SECONDS - (now() - last).total_seconds()
        if left <= 0:
            return
        if is_over(stop, deadline):
            raise ended_early(stop, "the last run of the plan before was let come to rest", "nothing was begun")
        if not said:
            structlog.get_logger().info("waiting", step="the last requests of the plan before", seconds=round(left))
            said = True
        time.sleep(min(left, _LOOK_SECONDS))


def taken_elsewhere(
    plan: Plan, workspace: Workspace, ledger: Ledger | None, *, users_max: int | None = None
) -> RefusedError | None:
    """What a run of this plan would be refused with since its users stand elsewhere already; None where they do not, or where it
    was registered and begun. `ledger` is None where there is none yet.

    `users_max` bounds the look, to about as many users, and nothing is digested for it. What it finds is true; what it does not
    find, the run may.
    """
    is_registered = ledger is not None and ledger.plan_id(plan.digest) is not None
    if is_registered and is_begun(plan, workspace):
        return None
    copied = _copied_elsewhere(plan, workspace, users_max, never)
    return copied or (None if is_registered else _in_another_plan(plan, ledger, users_max))


def is_begun(plan: Plan, workspace: Workspace) -> bool:
    """Whether a run of the plan has ever come so far in this workspace that a copy could be made."""
    return Seals.folder_of(workspace.seals, plan.digest).is_dir()


@contextmanager
def beginning(plan: Plan, workspace: Workspace, stop: Stop, deadline: float | None) -> Iterator[None]:
    """Around what comes before the first copy of a plan, such as its registration; once it is done, the plan counts as begun.

    RefusedError, before anything, where a run of the plan would leave copies behind. One plan begins at a time in a workspace,
    since of two that look at once neither would see the other, whatever their ledgers. InterruptedRun when stopped, LaterError
    when time is up.
    """

    def tell() -> None:
        structlog.get_logger().info("waiting", step="another run begins its plan in this workspace")

    def go_on() -> None:
        if is_over(stop, deadline):
            raise ended_early(stop, "another run began its plan in this workspace", _NOTHING)

    with writing():
        lock = workspace.ensure(workspace.scratch) / "beginning.lock"
        lock.touch(0o600)
    with locked(lock, waiting(tell, go_on)):
        _refuse_stranding(plan, workspace, stop, deadline)
        yield
        with writing():
            Seals(workspace.seals, plan.digest).close()  # which makes the folder


def _refuse_stranding(plan: Plan, workspace: Workspace, stop: Stop, deadline: float | None) -> None:
    look = [lambda halt: _copied_elsewhere(plan, workspace, None, halt)]
    try:
        (refused,) = side_by_side(look, threads=1, is_stopping=partial(is_over, stop, deadline))
    except InterruptedRun as error:
        raise ended_early(stop, "earlier plans were compared with this one", _NOTHING) from error
    if refused is not None:
        raise refused


def _in_another_plan(plan: Plan, ledger: Ledger | None, users_max: int | None) -> RefusedError | None:
    """The users stand in the order of the SHA-256 of their ids, so the first are a fair sample."""
    if ledger is None:
        return None
    users = islice(users_with_a_row(plan, is_sample=users_max is not None), users_max)
    taken = ledger.plan_that_has(
        (user.user_id for user in users), besides=[plan.digest, *(each.digest for each in parents_of(plan))]
    )
    accept = accept_words(summarise(plan.document).blockers)
    return None if taken is None else ledger.taken_elsewhere(plan.digest, accept)


def _copied_elsewhere(
    plan: Plan, workspace: Workspace, users_max: int | None, is_stopping: Stopping
) -> RefusedError | None:
    """For users of whom another plan of the workspace, which was begun, writes copies to places that this plan has
    not: an EXTRA object is looked for where the user belongs, so they would stay, and nobody would be told. Of who is forgotten
    nothing is copied, and what was is erased by that.

    Without `users_max` all users are asked, and those of the other plans digested. What cannot be read was begun all the same.
    """
    moving = int(plan.document["totals"]["users"]["planned"])
    one_in = 1 if users_max is None else max(1, moving // users_max)
    forgotten = sorted(remembered(workspace))
    line = [
        plan.digest,
        *(each.digest for each in parents_of(plan)),
    ]  # which keeps everybody at the places that they have
    for name in begun_here(workspace):
        if any(digest.startswith(name) for digest in line):
            continue
        try:
            other = Plan.open(workspace.plans / name)
            if users_max is None:
                other.check_users(is_stopping)
            found = stranded(other, plan, besides=forgotten, one_in=one_in)
        except InterruptedRun:
            raise
        except MigrateError as error:
            return _unreadable(name, error)
        if found is not None:
            return _stranded(plan, other, found, is_estimate=one_in > 1)
    return None


def begun_here(workspace: Workspace) -> Iterator[str]:
    """The plans whose work has begun, by the names of their folders. That of a plan's seals is made before its first copy."""
    if workspace.seals.is_dir():
        yield from sorted(path.name for path in workspace.seals.iterdir() if len(path.name) == PREFIX_DIGITS)


def _stranded(plan: Plan, other: Plan, found: Stranded, *, is_estimate: bool) -> RefusedError:
    sites, old, new = ", ".join(found.sites), other.digest[:_SHOWN], plan.digest[:_SHOWN]
    number = f"{'about ' if is_estimate else ''}{number_of(found.users, 'user')}"
    return RefusedError(
        f"this plan places {number} elsewhere than plan {old}, which was begun: what that one copies to {sites} would stay "
        "there, and no verification would look for it",
        remedy=f"Plan again so that they stay where they are (`migrate diff {old} {new}` counts them): keep the placement rules, "
        "weights and target stores, or name their countries in a rule of their own; give a site with a capacity the one at which "
        f"it closes where it did. Or first remove at {sites} what plan {old} has copied of them; "
        f"then {_archive(other.folder.name)}.",
    )


def _unreadable(name: str, error: MigrateError) -> RefusedError:
    return RefusedError(
        f"plan {name[:_SHOWN]} was begun here, and this plan cannot be compared with it: {error.what}",
        remedy=f"Bring its folder back; or look at all targets for what it has copied, and then {_archive(name)}.",
    )


def _archive(name: str) -> str:
    return f"move .migrate/plans/{name} and .migrate/seals/{name} out of the workspace, to be kept with its ledger"
