"""Why a user is where the plan has it: which rule decided, which alternatives lost, and why. Read from the plan alone.

The placement is decided again by the pure function and compared with what the plan says: an explanation that differs from the
plan is an IntegrityError, not a story.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from migrate.errors import IntegrityError, UsageError
from migrate.model import STAND_IN, UserInfo
from migrate.placement import Alternative, PlacementDecision, place
from migrate.planner.digest import USERS
from migrate.planner.folder import Plan, PlanReader, open_reader
from migrate.units import number_of


@dataclass(frozen=True, slots=True)
class CopiesShare:
    """The user's copies of one category at one target store; of shared objects, those of one layout rule."""

    category: str
    role: str
    store: str
    copies: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UserFinding:
    """What the plan found about the user's objects: a kind, at a store, so many times."""

    kind: str
    store: str
    detail: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that a plan says of one user. `wave_reason`, `closed_sites` and `alternatives` are for who is planned."""

    user: UserInfo
    policy: str
    placement: PlacementDecision | None
    alternatives: tuple[Alternative, ...]
    closed_sites: tuple[str, ...]
    wave_reason: str | None
    copies: tuple[CopiesShare, ...]
    findings: tuple[UserFinding, ...]


def explain(plan: Plan, user_id: str) -> Explanation:
    """Explain one user of the directory, whether it moves or not.

    All users are digested for it, and all findings, as long as that takes (some 700,000 rows a second): one digest stands for the
    whole table, so no row can be checked alone, and the user's turn is a count over all rows. Of the copies, only the user's are.
    UsageError where that directory does not have it, IntegrityError where users, findings or the user's copies were changed.
    """
    plan.check_users()
    plan.check_findings()
    connection = open_reader()
    try:
        return _explain(connection, plan, user_id)
    except duckdb.Error as error:
        raise IntegrityError(f"the plan in {plan.folder} cannot be read") from error
    finally:
        connection.close()


def _explain(connection: duckdb.DuckDBPyConnection, plan: Plan, user_id: str) -> Explanation:
    row = connection.execute(
        f"SELECT {USERS.names} FROM {plan.relation('users')} WHERE user_id = ?", [user_id]
    ).fetchone()
    if row is None:
        raise _unknown(connection, plan, user_id)
    user = UserInfo(*row)
    placement, closed = _placement(connection, plan, user)
    return Explanation(
        user=user,
        policy=plan.spec.scope.policy,
        placement=placement,
        alternatives=placement.alternatives if placement else (),
        closed_sites=closed,
        wave_reason=_wave_reason(plan, user),
        copies=_copies(connection, plan, user),
        findings=tuple(
            UserFinding(*found)
            for found in connection.execute(
                f"SELECT kind, store, detail, CAST(sum(count) AS BIGINT) FROM {plan.relation('findings')} "
                "WHERE user_id = ? GROUP BY ALL ORDER BY ALL",
                [user_id],
            ).fetchall()
        ),
    )


def _unknown(connection: duckdb.DuckDBPyConnection, plan: Plan, user_id: str) -> UsageError:
    """The directory has no such user; whether there are keys all the same, and what was decided of them."""
    remedy = "Give the id as the directory has it."
    found = connection.execute(
        f"SELECT detail, CAST(sum(count) AS BIGINT), string_agg(store, ', ' ORDER BY store) FROM {plan.relation('findings')} "
        "WHERE kind = 'orphan' AND user_id = ? GROUP BY detail",
        [user_id],
    ).fetchone()
    if found is not None:
        policy, count, stores = found
        reason = plan.spec.orphans.reason if policy else None
        decided = "nobody has decided what becomes of them" if policy is None else f"the policy of orphans is {policy}"
        remedy = f"There are {number_of(count, 'key')} at {stores}; {decided}{f': {reason}' if reason else '.'}"
    elif "orphan" in plan.document["findings"]:
        remedy += f" `migrate show {plan.digest[:12]} --list orphan` names who has keys and is not in it."
    return UsageError("the directory that the plan was built from has no such user", remedy=remedy)


def _placement(
    connection: duckdb.DuckDBPyConnection, plan: Plan, user: UserInfo
) -> tuple[PlacementDecision | None, tuple[str, ...]]:
    if user.home is None or user.state == STAND_IN:
        return None, ()
    turn = 1 + _number(
        connection.execute(
            f"SELECT count(*) FROM {plan.relation('users')} WHERE state = 'planned' "
            "AND (sha256(user_id), user_id) < (sha256(?), ?)",
            [user.user_id, user.user_id],
        ).fetchone()
    )
    closed = tuple(
        site for site, closing in sorted(plan.document["placement"]["closed"].items()) if turn >= closing["turn"]
    )
    weights = {name: site.weight for name, site in plan.spec.sites.items()}
    decision = place(user.user_id, user.country, plan.spec.placement.rules, weights, closed)
    if (decision.rule, decision.home, decision.backup) != (user.placement_rule, user.home, user.backup):
        raise IntegrityError(
            "the plan places this user otherwise than its own rules do", remedy="Build the plan again."
        )
    return decision, closed


def _number(row: tuple[Any, ...] | None) -> int:
    return int(row[0]) if row else 0


def _wave_reason(plan: Plan, user: UserInfo) -> str | None:
    if user.wave is None:
        return None
    if user.state == STAND_IN:
        return "first, so that whoever is cut over finds there what everybody uses"
    if user.wave == 0:
        return "in the canary: its SHA-256 is among the lowest"
    return f"by size: wave {user.wave} of {plan.spec.waves.count}, the small users first"


def _copies(connection: duckdb.DuckDBPyConnection, plan: Plan, user: UserInfo) -> tuple[CopiesShare, ...]:
    if user.first_batch is None or user.last_batch is None:
        return ()
    reader = PlanReader(plan)
    try:
        for batch in filter(None, map(reader.batch, range(user.first_batch, user.last_batch + 1))):
            reader.objects(batch)  # for their digest
    finally:
        reader.close()
    rows = connection.execute(
        f"SELECT coalesce(category, rule), target_role, target_store, count(*), CAST(sum(size) AS BIGINT) "
        f"FROM {plan.relation('copies', first=user.first_batch, last=user.last_batch)} "
        "WHERE batch BETWEEN ? AND ? AND user_id = ? GROUP BY ALL ORDER BY ALL",
        [user.first_batch, user.last_batch, user.user_id],
    ).fetchall()
    return tuple(CopiesShare(*row) for row in rows)
