"""What other plans keep at the targets: the line before a delta, whose copies are not EXTRA for having none of the delta's, and
what was copied to every site, for a sweep."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import duckdb

from migrate.errors import IntegrityError
from migrate.model import STAND_IN, STAND_INS, TOMBSTONES, Policy, Role
from migrate.planner.folder import PREFIX_DIGITS, Plan, open_reader
from migrate.spec import StoreSpec
from migrate.spec.places import place_of
from migrate.sql import literal

Kept = Mapping[str, Collection[tuple[str, str]]]
"""By user: target stores and keys."""


def parents_of(plan: Plan) -> list[Plan]:
    """The plans of its line before it, oldest first. Raises what `Plan.open` raises."""
    line: list[Plan] = []
    parent: str | None = plan.document["parent"]
    while parent is not None:
        found = Plan.open(plan.folder.parent / parent[:PREFIX_DIGITS])
        if found.digest != parent:
            raise IntegrityError(f"plan {parent[:12]}, which {plan.digest[:12]} continues, is another plan by now")
        line.insert(0, found)
        parent = found.document["parent"]
    return line


class KeptKeys:
    """Reads what a line keeps, a few users at a time. For one thread. Empty for a plan without a parent."""

    def __init__(self, plan: Plan) -> None:
        self._line = parents_of(plan)
        self._is_checked = False

    def of(self, user_ids: Collection[str]) -> Kept:
        """The target stores and keys of these users. IntegrityError where a plan of the line was changed."""
        if not self._line or not user_ids:
            return {}
        if not self._is_checked:
            for plan in self._line:
                plan.check_users()
            self._is_checked = True
        found: dict[str, set[tuple[str, str]]] = {}
        with closing(open_reader()) as connection:
            for plan in self._line:
                _follow(connection, plan, list(user_ids), found)
        return found


def _follow(
    connection: duckdb.DuckDBPyConnection, plan: Plan, user_ids: list[str], found: dict[str, set[tuple[str, str]]]
) -> None:
    """Add the keys that a plan wrote for these users to those of the plans before it, and take away those that it removed."""
    spans = connection.execute(
        f"SELECT first_batch, last_batch FROM {plan.relation('users')} "
        "WHERE user_id IN (SELECT unnest(?)) AND first_batch IS NOT NULL",
        [user_ids],
    ).fetchall()
    if not spans:
        return
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    plan.check_copies(sorted({number for span in spans for number in range(span[0], span[1] + 1)}))
    rows = connection.execute(
        f"SELECT user_id, target_store, target_key, flag FROM {plan.relation('copies', first=first, last=last)} "
        "WHERE batch BETWEEN ? AND ? AND user_id IN (SELECT unnest(?))",
        [first, last, user_ids],
    ).fetchall()
    for user_id, store, key, flag in rows:
        keys = found.setdefault(user_id, set())
        if flag in TOMBSTONES:
            keys.discard((store, key))
        else:
            keys.add((store, key))


def keys_sql(plan: Plan, store: str) -> str:
    """SQL: the target keys at a store that the plan or its line stands for, by the newest of them that names each. The plan's own
    tombstones are among them, for their own check tells what is there. IntegrityError where a plan of the line was changed."""
    line = parents_of(plan)
    for each in line:
        each.check_copies([batch.number for batch in each.batches()])
    rows = " UNION ALL ".join(
        f"SELECT target_key, flag, {place} AS place FROM {each.relation('copies')} WHERE target_store = {literal(store)}"
        for place, each in enumerate([*line, plan])
    )
    removed = ", ".join(map(literal, TOMBSTONES))
    return (
        f"SELECT target_key FROM ({rows}) GROUP BY target_key "
        f"HAVING max(place) = {len(line)} OR coalesce(arg_max(coalesce(flag, ''), place) NOT IN ({removed}), TRUE)"
    )


def write_copied_orphans(plans: Sequence[Plan], scratch: Path) -> Path:
    """A Parquet file of the `site` and target `key` of the copies of orphans in these plans, oldest first: as the
    newest that names each has it. IntegrityError where a plan was changed."""
    path = scratch / "orphans.parquet"
    rows = [_NO_ROW]
    with closing(open_reader(spill=scratch)) as connection:
        for place, plan in enumerate(plans):
            if plan.spec.orphans.policy is Policy.COPY:
                sites = {name: store.site for name, store in plan.spec.by_role(Role.TARGET).items()}
                rows += _everywhere(connection, plan, place, sites, "category IS NOT NULL")
        connection.execute(
            f"COPY (SELECT target AS site, key FROM ({' UNION ALL '.join(rows)}) GROUP BY target, key "
            f"HAVING {_stands()}) TO {literal(str(path))} (FORMAT parquet)"
        )
    return path


def write_left_everywhere(plans: Sequence[Plan], others: Sequence[Plan], scratch: Path) -> Path:
    """A Parquet file of the `target` (its `place_text`) and the `key` there of shared objects that `others` have copied to every
    site, and `plans` do not; both oldest first: the newest that names a key counts. IntegrityError where one was changed."""
    path = scratch / "left-everywhere.parquet"
    rows = [_NO_ROW]
    with closing(open_reader(spill=scratch)) as connection:
        # those of `others` have places below 0
        for place, plan in enumerate([*others, *(plans if others else ())], -len(others)):
            targets = {name: place_text(store) for name, store in plan.spec.by_role(Role.TARGET).items()}
            rows += _everywhere(connection, plan, place, targets, "category IS NULL")
        connection.execute(
            f"COPY (SELECT target, key FROM ({' UNION ALL '.join(rows)}) GROUP BY target, key "
            f"HAVING {_stands('place < 0')} AND NOT {_stands('place >= 0')}) TO {literal(str(path))} (FORMAT parquet)"
        )
    return path


def place_text(store: StoreSpec) -> str:
    """Where a store is, however it is written, in one text."""
    return json.dumps(place_of(store.url, store.endpoint))


_NO_ROW = "SELECT '' AS target, '' AS key, '' AS flag, 0 AS place WHERE FALSE"


def _everywhere(
    connection: duckdb.DuckDBPyConnection, plan: Plan, place: int, targets: Mapping[str, str], condition: str
) -> list[str]:
    """SQL: the copies of a plan's stand-ins, target stores as `targets` has them. IntegrityError where the plan was changed."""
    spans = connection.execute(
        f"SELECT first_batch, last_batch FROM {plan.relation('users')} "
        f"WHERE state = {literal(STAND_IN)} AND first_batch IS NOT NULL"
    ).fetchall()
    plan.check_copies(sorted({number for first, last in spans for number in range(first, last + 1)}))
    named = " ".join(f"WHEN {literal(name)} THEN {literal(text)}" for name, text in targets.items())
    return [
        f"SELECT CASE target_store {named} END, target_key, coalesce(flag, ''), {place} "
        f"FROM {plan.relation('copies', first=first, last=last)} "
        f"WHERE batch BETWEEN {first} AND {last} AND starts_with(user_id, {literal(STAND_INS)}) AND {condition}"
        for first, last in spans
    ]


def _stands(condition: str = "TRUE") -> str:
    """SQL, of the rows of one key: whether the newest of those under the condition has not removed it."""
    removed = ", ".join(map(literal, TOMBSTONES))
    return f"coalesce(arg_max(flag, place) FILTER (WHERE {condition}) NOT IN ({removed}), FALSE)"
