"""EXTRA objects that no check of a batch can see: where no literal prefix finds them, and of users without copies.

A layout such as `messages/{year}/{user}/{rest}` spreads a user over the store, so that no listing by prefix shows all that
is there of one user. The store is listed once, as inventories are (in segments, so that a crash costs little), and what no
copy of the plan stands for, but a rule says is one of the plan's users', is EXTRA. It becomes a finding of the pass before the
batches are checked, so that the check of a user's batch sees it and holds the user back.

Users for whom nothing is to be copied are in no batch. Their prefixes are listed here, at the stores of their home and backup.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from migrate.errors import InterruptedRun, LaterError
from migrate.filelock import locked, waiting
from migrate.inventory.aside import side_by_side
from migrate.inventory.files import InventoryFile
from migrate.inventory.take import take_inventory
from migrate.layout import (
    CompiledRule,
    at_targets,
    compile_rules,
    has_loose_rules,
    is_for_all,
    literal_prefix,
    rule_sql,
    user_sql,
)
from migrate.ledger import EXTRA, EmptyUser, Ledger, NewFinding, Pass
from migrate.model import TOMBSTONES, Role
from migrate.planner.folder import Plan, open_reader
from migrate.planner.kept import keys_sql
from migrate.spec import InventorySource
from migrate.sql import literal
from migrate.stores.base import Store
from migrate.transfer.caller import Caller
from migrate.verify import check_prefix
from migrate.worker.checking import not_listed, user_prefixes
from migrate.worker.kept import KeptObjects
from migrate.workspace import Workspace

_CHUNK = 1_000
_USERS_AT_ONCE = 500
USERS_WITHOUT_COPIES = "users without copies"  # the step's name in the progress
OTHER_VERIFICATION = "waiting for another verification"  # the same
_ANY_AGE = 10 * 365 * 86_400  # a listing that takes long is still this pass's own


def find_loose_extras(
    plan: Plan,
    opener: Callable[[str], Store],
    workspace: Workspace,
    ledger: Ledger,
    verification: Pass,
    *,
    run_id: int,
    now: Callable[[], datetime],
    is_stopping: Callable[[], bool],
    on_listing: Callable[[str, int], None],
) -> int:
    """Record the EXTRA objects of a pass that only a look through whole stores shows; how many. 0 where none is needed.

    `on_listing` is told the store's name and how many of its objects are listed, from any thread.

    Goes on with the pass's unfinished listing. One command at a time lists for a pass: another one that works on it waits, says
    so, and takes what was listed; nothing is listed for a pass that has ended meanwhile. A store's error is raised: nothing is
    then said about any user.
    """
    rules = compile_rules(plan.spec.layout.rules)
    if not has_loose_rules(rules):
        return 0

    def go_on() -> None:
        if is_stopping():
            raise InterruptedRun("stopped while another verification listed", remedy="`migrate verify` goes on.")

    count = 0
    wait = waiting(lambda: on_listing(OTHER_VERIFICATION, 0), go_on)
    with locked(_lock(plan, workspace, verification), wait):
        if not ledger.is_open(verification.id):
            return 0
        for found in _look(plan, opener, workspace, verification, rules, now, is_stopping, on_listing):
            chunk = _of_who_is_here(found, ledger)
            ledger.add_findings(verification, chunk, run_id=run_id, now=now())
            count += len(chunk)
    return count


def _of_who_is_here(found: Sequence[NewFinding], ledger: Ledger) -> list[NewFinding]:
    """Those that no cutover has copied late, of users who do not live at their new home yet: there the platform writes."""
    users = {finding.user_id for finding in found if finding.user_id is not None}
    away = ledger.away_among(users)
    late = {
        (copy.target_store, copy.target_key)
        for copies in ledger.late_of(users).values()
        for copy in copies
        if copy.flag not in TOMBSTONES
    }
    return [each for each in found if each.user_id not in away and (each.store, each.key) not in late]


def _look(
    plan: Plan,
    opener: Callable[[str], Store],
    workspace: Workspace,
    verification: Pass,
    rules: Sequence[CompiledRule],
    now: Callable[[], datetime],
    is_stopping: Callable[[], bool],
    on_listing: Callable[[str, int], None],
) -> Iterator[list[NewFinding]]:
    """What a look through each target store finds. Under the lock."""
    scratch = _scratch(plan, workspace, verification)
    listings: dict[str, InventoryFile] = {}
    for name, store_spec in plan.spec.by_role(Role.TARGET).items():
        live = store_spec.model_copy(update={"inventory": InventorySource(max_age=_ANY_AGE)})
        listings[name] = take_inventory(
            name,
            live,
            opener(name),
            opener=opener,
            workspace=workspace,
            scratch=scratch / name,
            now=now,
            on_progress=on_listing,
            is_stopping=is_stopping,
        )
    plan.check_users(is_stopping)  # now that they are read: one who was taken out of them would have no strays
    for name, listing in listings.items():
        yield from _extras(plan, name, listing, rules, verification, scratch)


def look_for_users_without_copies(
    plan: Plan,
    opener: Callable[[str], Store],
    ledger: Ledger,
    verification: Pass,
    *,
    run_id: int,
    now: Callable[[], datetime],
    is_stopping: Callable[[], bool],
    on_listing: Callable[[str, int], None],
) -> None:
    """List the prefixes of each user of a full pass for whom nothing is to be copied; who has nothing there may go on.

    Goes on where an earlier attempt was stopped. UnreachableError where a listing fails, InterruptedRun when stopped.
    """
    rules, spec = compile_rules(plan.spec.layout.rules), plan.spec
    targets = {name: store.site for name, store in spec.by_role(Role.TARGET).items()}
    caller = Caller(opener, concurrency=lambda name: spec.stores[name].concurrency_max)

    def look(user: EmptyUser, kept: Collection[tuple[str, str]], _halt: Callable[[], bool]) -> list[NewFinding]:
        found: list[NewFinding] = []
        for store in (name for name, site in targets.items() if site in (user.home, user.backup)):
            for prefix in user_prefixes(rules, user.user_id):
                listed = check_prefix(store, user.user_id, prefix, (), None, None, caller)
                if listed.failed is not None:
                    raise not_listed(store, listed.failed)
                found += [
                    NewFinding(EXTRA, store, extra.key, user.user_id, extra.size)
                    for extra in listed.extras
                    if (store, extra.key) not in kept and not is_for_all(rules, store, extra.key)
                ]
        return found

    line = KeptObjects(plan, ledger)
    after, count = "", 0
    while users := ledger.users_without_copies(verification, after, _USERS_AT_ONCE):
        kept = line.of([user.user_id for user in users])
        looks = side_by_side(
            [partial(look, user, kept.get(user.user_id, ())) for user in users],
            threads=spec.run.concurrency,
            is_stopping=is_stopping,
        )
        findings = [finding for look_findings in looks for finding in look_findings]
        ledger.record_looks(verification, [user.user_id for user in users], findings, run_id, now())
        after, count = users[-1].user_id, count + len(users)
        on_listing(USERS_WITHOUT_COPIES, count)


def forget_listings(plan: Plan, workspace: Workspace, verification: Pass) -> None:
    """Remove what the pass listed, once it has ended.

    Who reads in it meanwhile keeps it: that command finds the pass ended, too, and removes it then.
    """
    scratch, lock = _scratch(plan, workspace, verification), _lock(plan, workspace, verification)
    if not lock.exists():  # nothing was listed
        return
    with suppress(LaterError), locked(lock, _give_up):
        shutil.rmtree(scratch, ignore_errors=True)
        lock.unlink()


def _give_up() -> None:
    raise LaterError("another command works on this verification")


def _lock(plan: Plan, workspace: Workspace, verification: Pass) -> Path:
    workspace.ensure(workspace.scratch)
    return _scratch(plan, workspace, verification).with_suffix(".lock")


def _scratch(plan: Plan, workspace: Workspace, verification: Pass) -> Path:
    """Named by when the pass began, too: a ledger that was put back from its backup counts its passes anew."""
    began = verification.started_at.strftime("%Y%m%dT%H%M%S%f")
    return workspace.scratch / f"verify-{plan.digest[:16]}-{verification.id}-{began}"


def _extras(
    plan: Plan,
    store: str,
    listing: InventoryFile,
    rules: Sequence[CompiledRule],
    verification: Pass,
    spill: Path,
) -> Iterator[list[NewFinding]]:
    """What is listed at `store`, planned by no copy, and by a loose rule a key of one of the pass's users."""
    loose = [index for index, rule in enumerate(rules) if literal_prefix(rule, "x") is None and not rule.shared]
    waves = (
        "" if verification.waves is None else f"AND u.wave IN ({', '.join(str(wave) for wave in verification.waves)})"
    )
    anywhere = at_targets(rules)
    query = f"""
        WITH listed AS (
            SELECT key, size, {rule_sql(anywhere, store)} AS rule
            FROM read_parquet({literal(listing.glob)}, hive_partitioning = false)
        ),
        claimed AS (
            SELECT key, size, {user_sql(anywhere)} AS user_id FROM listed WHERE rule IN ({", ".join(map(str, loose))})
        )
        SELECT c.key, c.user_id, c.size, u.first_batch
        FROM claimed AS c
        JOIN {plan.relation("users")} AS u ON u.user_id = c.user_id
        ANTI JOIN ({keys_sql(plan, store)}) AS p
            ON p.target_key = c.key
        WHERE u.state = 'planned' {waves}
        ORDER BY c.key
    """
    connection = open_reader(spill=spill)
    try:
        connection.execute(query)
        while rows := connection.fetchmany(_CHUNK):
            yield [NewFinding(EXTRA, store, key, user_id, size, number) for key, user_id, size, number in rows]
    finally:
        connection.close()
