"""What differs between two plans: the spec's keys, what was found, the users, and the copies; and whom the later one strands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import duckdb

from migrate.errors import IntegrityError
from migrate.model import Role
from migrate.planner.folder import Plan, open_reader
from migrate.spec import deciding
from migrate.spec.places import place_of
from migrate.sql import literal

ROLES = ("home", "backup")


@dataclass(frozen=True, slots=True)
class SpecChange:
    """A key of the spec's deciding sections, or of what was found, with both values; None where a plan does not have it."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Change:
    """Copies that only one plan has, or that differ."""

    copies: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """From plan `before` to plan `after`. A copy is the same where its source, target store and target key are."""

    before: str
    after: str
    spec: tuple[SpecChange, ...]
    found: tuple[SpecChange, ...]  # what stores can do, findings and blockers, the census, sites that closed
    users_added: int
    users_removed: int
    users_state_changed: int
    users_moved: int  # another home or backup
    users_wave_changed: int
    copies_added: Change
    copies_removed: Change
    copies_changed: Change  # another version, ETag, size, time, rule or flag


@dataclass(frozen=True, slots=True)
class Stranded:
    """Users, as many as `users`, whose copies another plan writes to stores at `sites` that a later plan does not look at."""

    users: int
    sites: tuple[str, ...]


def diff(before: Plan, after: Plan) -> PlanDiff:
    """Compare two plans, out of core on one thread.

    What is told of was digested: the users, and the copies of the batches that differ. A batch that has the same digest in both
    plans has the same copies, which are not read. IntegrityError where a plan cannot be read or was changed.
    """
    before.check_users()
    after.check_users()
    with _comparing(after) as connection:
        users = _users(connection, before, after)
        numbers = _differing(connection, before, after)
        for plan in (before, after):
            plan.check_copies(numbers)
        added, removed, changed = _copies(connection, before, after)
    return PlanDiff(
        before=before.digest,
        after=after.digest,
        spec=spec_changes(deciding(before.document["spec"]), deciding(after.document["spec"])),
        found=tuple(_changes(_found(before), _found(after), "")),
        users_added=users[0],
        users_removed=users[1],
        users_state_changed=users[2],
        users_moved=users[3],
        users_wave_changed=users[4],
        copies_added=added,
        copies_removed=removed,
        copies_changed=changed,
    )


def spec_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[SpecChange, ...]:
    """What differs between the deciding parts of two specs, by key."""
    return tuple(_changes(before, after, ""))


def stranded(before: Plan, after: Plan, *, besides: Sequence[str] = (), one_in: int = 1) -> Stranded | None:
    """Who moves in both plans, has copies in `before`, and of these some at a place where `after` has none of the user's; but for
    the users of `besides`.

    Of every `one_in` users one is asked, by DuckDB's hash of the id: whom a site with a capacity loses stand together in the
    order of turns, so the first users would be no fair sample. The users' tables are not digested. None where nobody is.
    """
    left = {role: f"b.{role} IS NOT NULL AND NOT ({_is_covered(before, after, f'b.{role}')})" for role in ROLES}
    columns = ", ".join(("user_id", "state", "copies", *ROLES))
    taken = f"state = 'planned' AND copies > 0 AND hash(user_id) % {one_in} = 0"
    with _comparing(after) as connection:
        rows = connection.execute(
            f"""
            SELECT {", ".join(f"CASE WHEN {sql} THEN b.{role} END AS {role}" for role, sql in left.items())}, count(*)
            FROM (SELECT {columns} FROM {before.relation("users")} WHERE {taken}) AS b
            JOIN (SELECT {columns} FROM {after.relation("users")} WHERE state = 'planned') AS a ON b.user_id = a.user_id
            WHERE ({" OR ".join(f"({sql})" for sql in left.values())})
            AND b.user_id NOT IN (SELECT unnest(CAST(? AS VARCHAR[])))
            GROUP BY ALL
            """,
            [list(besides)],
        ).fetchall()
    sites = {site for *at, _ in rows for site in at if site is not None}
    return Stranded(one_in * sum(row[-1] for row in rows), tuple(sorted(sites))) if rows else None


def _is_covered(before: Plan, after: Plan, site: str) -> str:
    """A SQL condition: all places where `before` writes at `site` are places where `after` writes for the same user."""
    old, new = _places(before), _places(after)
    pairs = [
        f"({site} = {literal(one)} AND coalesce(a.{role} = {literal(other)}, FALSE))"
        for role, (one, stores), (other, others) in product(ROLES, old.items(), new.items())
        if stores <= others
    ]
    return " OR ".join(pairs) or "FALSE"


def _places(plan: Plan) -> dict[str, set[tuple[str, ...]]]:
    """The places of the target stores at each site that a placement rule names."""
    spec = plan.spec
    sites = {site for rule in spec.placement.rules for site in (*rule.home, *rule.backup)}
    stores = {site: {spec.target_store(site, source) for source in spec.by_role(Role.SOURCE)} for site in sites}
    return {
        site: {place_of(spec.stores[name].url, spec.stores[name].endpoint) for name in names}
        for site, names in sorted(stores.items())
    }


@contextmanager
def _comparing(after: Plan) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = open_reader(spill=after.folder.parent)
    try:
        yield connection
    except duckdb.Error as error:
        raise IntegrityError("one of the two plans cannot be read") from error
    finally:
        connection.close()


def _users(connection: duckdb.DuckDBPyConnection, before: Plan, after: Plan) -> tuple[int, ...]:
    row = connection.execute(
        f"""
        SELECT
            count(*) FILTER (a.user_id IS NULL),
            count(*) FILTER (b.user_id IS NULL),
            count(*) FILTER (a.state <> b.state),
            count(*) FILTER (a.state = b.state AND (a.home IS DISTINCT FROM b.home OR a.backup IS DISTINCT FROM b.backup)),
            count(*) FILTER (a.state = b.state AND a.wave IS DISTINCT FROM b.wave)
        FROM {before.relation("users")} AS a
        FULL JOIN {after.relation("users")} AS b ON a.user_id = b.user_id
        """
    ).fetchone()
    return tuple(int(count) for count in row or ())


def _differing(connection: duckdb.DuckDBPyConnection, before: Plan, after: Plan) -> list[int]:
    """The numbers of the batches that only one plan has, or that have another digest in each: the table `differing`, too."""
    connection.execute(
        f"""
        CREATE TEMP TABLE differing AS
        SELECT coalesce(a.number, b.number) AS number
        FROM {before.relation("batches")} AS a
        FULL JOIN {after.relation("batches")} AS b ON a.number = b.number
        WHERE a.digest IS DISTINCT FROM b.digest
        """
    )
    return [number for (number,) in connection.execute("SELECT number FROM differing ORDER BY number").fetchall()]


def _copies(connection: duckdb.DuckDBPyConnection, before: Plan, after: Plan) -> tuple[Change, Change, Change]:
    differing = "WHERE batch IN (SELECT number FROM differing)"
    differs = " OR ".join(
        f"a.{name} IS DISTINCT FROM b.{name}"
        for name in (
            "version_id",
            "etag",
            "size",
            "last_modified",
            "category",
            "rule",
            "flag",
            "target_role",
            "user_id",
        )
    )
    row = connection.execute(
        f"""
        SELECT
            count(*) FILTER (a.key IS NULL), sum(b.size) FILTER (a.key IS NULL),
            count(*) FILTER (b.key IS NULL), sum(a.size) FILTER (b.key IS NULL),
            count(*) FILTER (a.key IS NOT NULL AND b.key IS NOT NULL AND ({differs})),
            sum(b.size) FILTER (a.key IS NOT NULL AND b.key IS NOT NULL AND ({differs}))
        FROM (SELECT * FROM {before.relation("copies")} {differing}) AS a
        FULL JOIN (SELECT * FROM {after.relation("copies")} {differing}) AS b
            ON a.store = b.store AND a.key = b.key AND a.target_store = b.target_store AND a.target_key = b.target_key
        """
    ).fetchone()
    numbers = [int(value or 0) for value in row or (0,) * 6]
    return Change(*numbers[0:2]), Change(*numbers[2:4]), Change(*numbers[4:6])


def _named(value: Any) -> dict[str, Any] | None:
    """A list of rules by their names, as one rule after the other; None for anything else."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {str(item["name"]): item for item in value}
    return None


def _found(plan: Plan) -> dict[str, Any]:
    """What the digest covers beside the spec and the tables of users and copies. Digests stand for which keys it is about."""
    document = plan.document
    return {
        key: document[key] for key in ("name", "capabilities", "census", "reconciliation", "placement", "findings")
    } | {
        "policies": {row["rule"] or row["class"]: row for row in document.get("policies", [])},
        "blockers": {
            blocker["kind"]: f"{blocker['count']}:{blocker['digest'][:12]}" for blocker in document["blockers"]
        },
        "findings.parquet": document["digests"]["findings"][:12],
    }


def _changes(before: Any, after: Any, place: str) -> Iterator[SpecChange]:
    """What differs, key by key; of two lists of rules, which rules do, and whether the others stand in another order."""
    rules, others = _named(before), _named(after)
    if rules is not None and others is not None:
        yield from _changes(rules, others, place)
        kept, now = [name for name in rules if name in others], [name for name in others if name in rules]
        if kept != now:
            yield SpecChange(f"{place}: order", kept, now)
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from _changes(before.get(key), after.get(key), f"{place}.{key}" if place else key)
    elif before != after:
        yield SpecChange(place, before, after)
