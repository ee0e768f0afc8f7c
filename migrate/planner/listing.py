"""Lists a plan's findings of one kind, as the operator asks for them before accepting a blocker.

How a key stands in the backups is said of copies, each with its flag: there the findings have the sum by backup, and the keys
come from the copies.
"""

from __future__ import annotations

import duckdb

from migrate.errors import IntegrityError, UsageError
from migrate.model import STAND_INS
from migrate.planner.folder import Plan, open_reader
from migrate.planner.summary import Listed
from migrate.sql import literal

FLAGS = ("diverged", "incomparable", "unbacked")
LISTED_MAX = 10_000
# a SQL condition: what goes to every site is told of the first stand-in alone
ONCE = f"(NOT starts_with(user_id, {literal(STAND_INS)}) OR ends_with(user_id, '/1'))"


def list_findings(plan: Plan, kind: str, *, limit: int = LISTED_MAX) -> list[Listed]:
    """The first `limit` findings of a kind: sums, then keys, each by store, user and key. UsageError where the plan has none
    of the kind, IntegrityError for a broken plan."""
    if kind not in (kinds := plan.document["findings"]):
        names = ", ".join(sorted(kinds)) or "none"
        raise UsageError(f"the plan has no finding of the kind {kind!r}", remedy=f"It has: {names}.")
    plan.check_findings()
    findings = f"SELECT store, user_id, key, detail, count FROM {plan.relation('findings')} WHERE kind = $kind"
    if kind in FLAGS:
        findings += (
            f" UNION ALL SELECT store, user_id, key, NULL, 1 FROM {plan.relation('copies')} "
            f"WHERE flag = $kind AND target_role = 'home' AND {ONCE}"
        )
    connection = open_reader()
    try:
        rows = connection.execute(
            f"{findings} ORDER BY key IS NOT NULL, store, user_id NULLS FIRST, key, detail NULLS FIRST LIMIT $limit",
            {"kind": kind, "limit": limit},
        ).fetchall()
    except duckdb.Error as error:
        raise IntegrityError(f"the findings of the plan in {plan.folder} cannot be read") from error
    finally:
        connection.close()
    return [Listed(*row) for row in rows]
