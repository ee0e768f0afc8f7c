"""Lists a plan's findings of one kind, as the operator asks for them before accepting a blocker."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from migrate.errors import IntegrityError
from migrate.planner.folder import Plan, open_reader


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the plan's findings."""

    store: str
    user_id: str | None
    key: str | None
    detail: str | None
    count: int


def list_findings(plan: Plan, kind: str, *, limit: int) -> list[Listed]:
    """The first `limit` findings of a kind, by store, user and key. IntegrityError where one was changed."""
    plan.check_findings()
    connection = open_reader()
    try:
        rows = connection.execute(
            f"SELECT store, user_id, key, detail, count FROM {plan.relation('findings')} WHERE kind = ? "
            "ORDER BY store, user_id NULLS FIRST, key NULLS FIRST, detail NULLS FIRST LIMIT ?",
            [kind, limit],
        ).fetchall()
    except duckdb.Error as error:
        raise IntegrityError(f"the findings of the plan in {plan.folder} cannot be read") from error
    finally:
        connection.close()
    return [Listed(*row) for row in rows]
