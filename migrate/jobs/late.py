"""What cutovers have copied late: once a plan has it, and which stores have one object between them."""

from __future__ import annotations

from itertools import islice

from migrate.ledger import Ledger
from migrate.model import Role
from migrate.planner.folder import Plan, open_reader
from migrate.spec import Spec

_CHUNK = 10_000


def same_objects(spec: Spec) -> dict[str, list[str]]:
    """By store, a source or a backup of one: the others of these, in which the same objects are."""
    source_of = {name: spec.source_of(name) for name in spec.by_role(Role.SOURCE, Role.BACKUP)}
    return {
        name: sorted(other for other in source_of if other != name and source_of[other] == source)
        for name, source in source_of.items()
    }


def forget_replanned(plan: Plan, plan_id: int, ledger: Ledger) -> None:
    """What cutovers have copied late is the delta's from now on, where it plans the same keys: of two that name a key the late
    copy would count for the newer one. Nothing is lost if it is done twice, or not to its end."""
    source_of = plan.spec.source_of
    connection = open_reader()
    try:
        connection.execute("CREATE TEMP TABLE late (user_id VARCHAR, store VARCHAR, key VARCHAR)")
        copies = (
            (copy.user_id, copy.store, copy.key)
            for copy in ledger.late_copies([plan_id])
            if copy.plan_id != plan_id  # what this plan's own cutovers have copied came after it
        )
        while chunk := list(islice(copies, _CHUNK)):
            connection.executemany("INSERT INTO late VALUES (?, ?, ?)", chunk)
        rows = connection.execute(
            f"SELECT DISTINCT l.user_id, l.store, l.key, o.store FROM late AS l JOIN {plan.relation('objects')} AS o "
            "ON l.user_id = o.user_id AND l.key = o.key"
        ).fetchall()
    finally:
        connection.close()
    ledger.forget_late([(user, store, key) for user, store, key, now in rows if source_of(store) == source_of(now)])
