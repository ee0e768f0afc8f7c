"""Where one user's data is now, store by store, and what plan and ledger say of the user. Only reads, and copies nothing.

Each store is asked by the prefixes under which the layout puts a user. Where a rule has no such prefix, only a sweep finds what
lies under it, and the answer says so: it is no zero. Neither is a store that could not be listed (invariant 4).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import duckdb

from migrate.errors import (
    ExitCode,
    IntegrityError,
    InterruptedRun,
    PermanentStoreError,
    StoreError,
    UnreachableError,
    UnsupportedError,
    UsageError,
    worst,
)
from migrate.inventory.aside import ask, side_by_side
from migrate.inventory.paging import pages_after
from migrate.jobs.registered import demand_not_begun, registered
from migrate.jobs.sweep_listing import store_names
from migrate.layout import CompiledRule, at_source, at_targets, compile_rules, literal_prefix
from migrate.ledger import Ledger, UserEvent, UserRow
from migrate.model import Role, UserInfo
from migrate.planner.digest import USERS
from migrate.planner.folder import Plan, PlanReader, find_plan, open_reader
from migrate.spec import Spec
from migrate.states import UserState
from migrate.stopping import Stopping
from migrate.stores.base import Store
from migrate.worker.checking import user_prefixes
from migrate.workspace import Workspace

UNKNOWN = "unknown"
_VERIFIED = (
    UserState.VERIFIED,
    UserState.READY,
    UserState.CUT_OVER,
    UserState.OBSERVING,
    UserState.RETURNING,
    UserState.PURGING,
    UserState.PURGED,
)


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """What one store has of the user. None is "not known", and never nothing.

    `place`: what a target's site is to the user: home, backup or elsewhere. `versions` counts those that are not current, and
    delete markers. `since` is when the oldest object was written there. `unlisted` are the layout's rules that no prefix
    answers for. `problem` is why the store, or something of it, could not be asked.
    """

    name: str
    role: Role
    site: str
    place: str | None
    objects: int | None = None
    size_bytes: int | None = None
    since: datetime | None = None
    versions: int | None = None
    uploads: int | None = None
    unlisted: tuple[str, ...] = ()
    problem: StoreError | UnreachableError | None = None


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """All that is known of a user. `row` is the ledger's, `planned` the plan's where the ledger has none.

    `known` is what is wrong of the user by kind, `None` where the plan's folder is not here, which says whose the copies are.
    """

    user_id: str
    plan: Plan
    row: UserRow | None
    row_plan: str | None
    planned: UserInfo | None
    stores: tuple[StoreAnswer, ...]
    known: Mapping[str, int] | None
    history: tuple[UserEvent, ...]

    @property
    def state(self) -> str:
        if self.row is not None:
            return self.row.state.value
        return UNKNOWN if self.planned is None else self.planned.state

    @property
    def home(self) -> str | None:
        found = self.row or self.planned
        return None if found is None else found.home

    @property
    def backup(self) -> str | None:
        found = self.row or self.planned
        return None if found is None else found.backup

    @property
    def is_verified(self) -> bool:
        """By the state; of who is frozen, for a cutover that may be taken back, by what a verification has said."""
        if self.row is None:
            return False
        return self.row.state in _VERIFIED or (
            self.row.state is UserState.FROZEN and self.row.matched == self.row.copies
        )

    @property
    def exit_code(self) -> ExitCode:
        return worst(store.problem.exit_code for store in self.stores if store.problem is not None)


@dataclass(frozen=True, slots=True)
class _Known:
    """What plan and ledger know, before any store is asked."""

    row: UserRow | None = None
    row_plan: str | None = None
    planned: UserInfo | None = None
    known: Mapping[str, int] | None = None
    history: tuple[UserEvent, ...] = ()


def plan_of(workspace: Workspace, prefix: str | None, ledger: Ledger | None, user_id: str) -> Plan:
    """The plan that is named; else the one that the ledger has the user in; else the newest. UsageError where there is none."""
    if prefix is None and ledger is not None:
        row = ledger.user(user_id)
        if row is not None:
            with suppress(UsageError):  # its folder is not here
                return find_plan(workspace, _digest(ledger, row))
    return find_plan(workspace, prefix)


def where_is(
    user_id: str,
    plan: Plan,
    opener: Callable[[str], Store],
    workspace: Workspace,
    ledger: Ledger | None,
    *,
    unprobed: Collection[str],
    is_stopping: Stopping,
) -> Whereabouts:
    """Ask each store of the plan's spec, the plan and the ledger about one user.

    `unprobed` are stores of which nobody knows whether they keep versions: they are asked. UsageError for an id that no user can
    have, InterruptedRun when stopped. A store's failure is no error: it stands in the store's answer.
    """
    if not user_id or "/" in user_id:
        raise UsageError("a user's id is one path segment: not empty, and without a `/`")
    known = _known(user_id, plan, workspace, ledger, is_stopping)
    found = known.row or known.planned
    sites = {} if found is None else {found.backup: "backup", found.home: "home"}
    jobs = [
        partial(_ask_store, name, user_id, plan.spec, opener, sites, name in unprobed)
        for name in store_names(plan.spec)
    ]
    stopped = InterruptedRun("stopped before every store was asked", remedy="Ask again: nothing was changed.")
    stores = side_by_side(jobs, threads=len(jobs), is_stopping=is_stopping, stopped=stopped)
    return Whereabouts(
        user_id, plan, known.row, known.row_plan, known.planned, tuple(stores), known.known, known.history
    )


# plan and ledger


def _known(user_id: str, plan: Plan, workspace: Workspace, ledger: Ledger | None, is_stopping: Stopping) -> _Known:
    row = None if ledger is None else ledger.user(user_id)
    if ledger is None or row is None:
        if ledger is None or registered(plan, ledger) is None:
            demand_not_begun(plan, workspace)  # another ledger knows more of the user
        return _Known(planned=_planned(plan, user_id, is_stopping))
    digest = _digest(ledger, row)
    return _Known(
        row=row,
        row_plan=digest,
        known=_wrong(ledger, row, plan, digest, workspace),
        history=tuple(_history(ledger, row)),
    )


def _history(ledger: Ledger, row: UserRow) -> list[UserEvent]:
    """What runs and verifications have done with the user's batches, and what was done about the user alone; oldest first."""
    alone = [
        UserEvent(event.at, event.to_state or event.kind, event.run_id, event.note or "")
        for event in ledger.history(row.user_id)
    ]
    return sorted([*ledger.history_of(row), *alone], key=lambda event: event.at)


def _digest(ledger: Ledger, row: UserRow) -> str:
    return next(known.entry.digest for known in ledger.plans() if known.id == row.plan_id)


def _planned(plan: Plan, user_id: str, is_stopping: Stopping) -> UserInfo | None:
    """The plan's row of a user of its directory. All of them are digested for it: no row can be checked alone."""
    plan.check_users(is_stopping)
    connection = open_reader()
    try:
        row = connection.execute(
            f"SELECT {USERS.names} FROM {plan.relation('users')} WHERE user_id = ?", [user_id]
        ).fetchone()
    except duckdb.Error as error:
        raise IntegrityError(f"the plan in {plan.folder} cannot be read") from error
    finally:
        connection.close()
    return None if row is None else UserInfo(*row)


def _wrong(ledger: Ledger, row: UserRow, plan: Plan, digest: str, workspace: Workspace) -> Mapping[str, int] | None:
    """What is known to be wrong of the user. In a batch that several users share, the plan says whose the copies are."""
    if row.first_batch is None or row.first_batch != row.last_batch:
        return ledger.known_of(row, None)
    if plan.digest != digest:
        try:
            plan = find_plan(workspace, digest)
        except UsageError:
            return None
    reader = PlanReader(plan)
    try:
        objects = reader.objects(ledger.batch(row.plan_id, row.first_batch).info)
    finally:
        reader.close()
    ordinals = {copy.ordinal for planned in objects if planned.user_id == row.user_id for copy in planned.copies}
    return ledger.known_of(row, ordinals)


# stores


def _ask_store(
    name: str,
    user_id: str,
    spec: Spec,
    opener: Callable[[str], Store],
    sites: Mapping[str | None, str],
    is_unprobed: bool,
    halted: Stopping,
) -> StoreAnswer:
    described = spec.stores[name]
    place = None
    if described.role is Role.TARGET and sites:
        place = sites.get(described.site, "elsewhere")
    rules = _rules_of(spec, name)
    prefixes = user_prefixes(rules, user_id)
    unlisted = tuple(rule.name for rule in rules if not rule.shared and literal_prefix(rule, user_id) is None)
    answer = partial(StoreAnswer, name, described.role, described.site, place, unlisted=unlisted)
    try:
        store = opener(name)
        counts = _count_objects(store, prefixes, halted)
        try:
            versions = _count_versions(store, prefixes) if store.capabilities.versions or is_unprobed else None
        except PermanentStoreError:
            if store.capabilities.versions:
                raise
            versions = None  # it was worth a try
        uploads = _count_uploads(store, prefixes)
    except (StoreError, UnreachableError) as error:
        return answer(problem=error)
    if not prefixes:
        return answer()
    objects, size_bytes, since = counts
    return answer(objects=objects, size_bytes=size_bytes, since=since, versions=versions, uploads=uploads)


def _rules_of(spec: Spec, name: str) -> tuple[CompiledRule, ...]:
    """The rules by which a user's keys at the store are found."""
    rules, store = compile_rules(spec.layout.rules), spec.stores[name]
    return at_targets(rules) if store.role is Role.TARGET else at_source(rules, spec.source_of(name))


def _count_objects(store: Store, prefixes: Sequence[str], halted: Stopping) -> tuple[int, int, datetime | None]:
    objects, size_bytes, since = 0, 0, None
    for prefix in prefixes:
        for page in pages_after(store, "", prefix=prefix):
            objects += len(page)
            size_bytes += sum(info.size for info in page)
            oldest = min(info.last_modified for info in page)
            since = oldest if since is None else min(since, oldest)
            if halted():
                break
    return objects, size_bytes, since


def _count_versions(store: Store, prefixes: Sequence[str]) -> int:
    def count(prefix: str) -> int:
        return sum(info.is_delete_marker or not info.is_latest for page in store.list_versions(prefix) for info in page)

    return sum(ask(partial(count, prefix)) for prefix in prefixes)


def _count_uploads(store: Store, prefixes: Sequence[str]) -> int | None:
    """Unfinished uploads; None where the store takes none."""
    try:
        return sum(len(ask(partial(store.list_uploads, prefix))) for prefix in prefixes)
    except UnsupportedError:
        return None
