"""The line of a plan: the plan that a delta continues, that one's parent, and so on. What it has settled is not planned again.

The newest plan of the line that names a key, or a user, is the one that counts. A key is settled while the sources show the same
object as then and nothing is left to do for its copies; which copies those are is the ledger's to say, and comes in as `unsound`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from migrate.errors import InputError, SpecError
from migrate.model import STAND_INS, Role
from migrate.planner.diff import SpecChange, spec_changes
from migrate.planner.folder import Plan
from migrate.planner.inputs import PlanInputs
from migrate.planner.session import Session, pattern
from migrate.spec import Spec
from migrate.sql import literal

CopyRef = tuple[int, int, int]
"""A copy of the line: the place of its plan in the line, its batch, its ordinal."""
_ASKED = 10_000
_MAY_CHANGE = re.compile(r"scope\..+|directory\..+|sites\.[^.]+\.capacity|stores\.[^.]+\.inventory(\..+)?")


@dataclass(frozen=True, slots=True)
class Line:
    """The plans, oldest first, and what the ledger knows of their copies."""

    plans: Sequence[Plan]
    away: Path
    """A Parquet file of users (`user_id`) whose home is elsewhere by now: nothing is planned for them any more."""
    unsound: Path
    """A Parquet file of copies (`plan`, `batch`, `ordinal`) for which something is left to do: no receipt, no MATCH after it, or
    something that is known against them."""
    late: Path
    """A Parquet file, with the columns of a plan's objects, of what cutovers have copied or removed after the newest plan. Its
    place in the line is behind that plan."""
    receipts: Callable[[Sequence[CopyRef]], Iterable[tuple[int, int, int, str | None]]]
    """The ETags of the receipts of these copies. One that has none is left out, or where it drifted has None: a process that died
    may have made it."""
    mark: str
    """How the ledger stood when it was asked: where it stands otherwise, the delta is not begun any more."""


def demand_newer(line: Line, inputs: PlanInputs) -> None:
    """InputError where an input is older than the one that the line's newest plan was made from: what came to be between the two
    would look deleted."""
    before = {row["input"]: datetime.fromisoformat(row["as_of"]) for row in line.plans[-1].document["inputs"]}
    taken = {"directory": inputs.directory.as_of} | {
        name: inventory.as_of for name, inventory in inputs.inventories.items()
    }
    older = sorted(name for name, as_of in taken.items() if name in before and as_of < before[name])
    if older:
        raise InputError(
            f"older than what plan {line.plans[-1].digest[:12]} was made from: {', '.join(older)}",
            remedy="A delta needs newer inventories and a newer directory: deliver them, or list the store (kind live).",
        )


def demand_same_line(before: Spec, after: Spec) -> None:
    """SpecError where a delta with the spec `after` would decide again what the line has decided with `before`.

    What may be another: all that is outside of a plan's digest, where directory and inventories are and what they show, who is
    in scope, a site's capacity, and what is added of placement rules and stores of reports. Whom the line has placed stay there.
    """
    changes = [change for change in spec_changes(before.deciding(), after.deciding()) if not _is_of_this_moment(change)]
    problems = [f"{change.key} is another than in the line" for change in changes]
    if before.stand_ins != after.stand_ins:
        problems.append("placement.rules: what belongs to nobody would go to other sites")
    if problems:
        raise SpecError(
            "a delta decides with the spec of its line, and this one differs",
            problems,
            remedy="Take these keys back; or plan again on a ledger of its own: docs/operations.md, Planning again.",
        )


def _is_of_this_moment(change: SpecChange) -> bool:
    if change.before is None and change.key.startswith("placement.rules."):
        return True
    if change.before is None and re.fullmatch(r"stores\.[^.]+", change.key):
        return bool(change.after["role"] == Role.REPORTS)  # where inventories lie
    return bool(_MAY_CHANGE.fullmatch(change.key))


def take_settled(session: Session, spec: Spec, line: Line | None) -> None:
    """Make the tables `stand_ins`, and `settled`: where users have been placed. Without a line, these are the stand-ins alone.

    They are in the first wave: who is cut over later finds there what everybody uses.
    """
    session.table(
        "stand_ins",
        "user_id VARCHAR, home VARCHAR, backup VARCHAR",
        [(user_id, home, backup) for user_id, (home, backup) in spec.stand_ins.items()],
    )
    if line is None:
        session.query(
            "CREATE TEMP TABLE settled AS "
            "SELECT *, CAST(NULL AS VARCHAR) AS placement_rule, 0 AS wave, FALSE AS is_away FROM stand_ins"
        )
        return
    session.run(
        "settled", away=pattern(line.away), users=_newest([plan.relation("users") for plan in line.plans], "user_id")
    )


def take_line(session: Session, spec: Spec, line: Line) -> None:
    """Make the views `line_rows`, and `line`: a row for each key of a source that the line has planned."""
    session.table("sources", "store VARCHAR, source VARCHAR", list(_sources(spec)))
    session.query(
        f"CREATE TEMP VIEW unsound AS SELECT * FROM read_parquet({pattern(line.unsound)}, hive_partitioning = false)"
    )
    path = session.folder / "line.parquet"
    relations = [plan.relation("objects") for plan in line.plans]
    relations.append(f"read_parquet({pattern(line.late)}, hive_partitioning = false)")
    objects = [
        f"(SELECT o.*, s.source FROM {relation} AS o JOIN sources AS s ON o.store = s.store)" for relation in relations
    ]
    session.run(
        "line", objects=_newest(objects, "source", "key"), stand_ins=literal(STAND_INS), path=literal(str(path))
    )
    session.query(
        f"CREATE TEMP VIEW line_rows AS SELECT * FROM read_parquet({pattern(path)}, hive_partitioning = false)"
    )
    session.run("line_keys")


def placed_bytes(session: Session, spec: Spec) -> dict[str, int]:
    """By site, the bytes of the line's objects, by the newest plan that names each. Needs `line_rows`."""
    found: dict[str, int] = {}
    for store, size in session.query(
        "SELECT store, CAST(sum(size) AS BIGINT) FROM (SELECT unnest([home_store, backup_store]) AS store, size FROM line_rows) "
        "WHERE store IS NOT NULL GROUP BY store"
    ):
        site = spec.stores[store].site
        found[site] = found.get(site, 0) + size
    return found


def take_replaced(session: Session, line: Line | None) -> None:
    """Make the tables `replaced` and `replaced_everywhere`: the ETags that the line's copies of planned objects have left at the
    targets."""
    if line is None:
        session.query(
            "CREATE TEMP TABLE replaced "
            "(plan INTEGER, batch INTEGER, ordinal INTEGER, home_replaces VARCHAR, backup_replaces VARCHAR)"
        )
        session.query(
            "CREATE TEMP TABLE replaced_everywhere (source VARCHAR, key VARCHAR, store VARCHAR, etag VARCHAR)"
        )
        return
    session.query("CREATE TEMP TABLE left_there (plan INTEGER, batch INTEGER, ordinal INTEGER, etag VARCHAR)")
    session.run("asked")
    number = session.query("SELECT count(*) FROM asked")[0][0]
    for start in range(0, number, _ASKED):
        asked = session.query(
            "SELECT plan, batch, ordinal FROM asked WHERE place BETWEEN ? AND ? ORDER BY place",
            [start + 1, start + _ASKED],
        )
        found = list(line.receipts(asked))
        session.query(
            "INSERT INTO left_there SELECT unnest(?), unnest(?), unnest(?), unnest(CAST(? AS VARCHAR[]))",
            [list(column) for column in zip(*found, strict=True)] or [[]] * 4,
        )
    session.run("replaced")
    session.run("replaced_everywhere")


def _sources(spec: Spec) -> Iterable[tuple[str, str]]:
    """By each store that holds originals, the source whose keys it holds."""
    for name in sorted(spec.by_role(Role.SOURCE)):
        yield name, name
    for name, store in sorted(spec.by_role(Role.BACKUP).items()):
        yield name, str(store.backup_of)


def _newest(relations: Sequence[str], *key: str) -> str:
    """SQL: the rows of all plans, oldest first, with the place of their plan; of those with the same key, the newest plan's."""
    whole = f"SELECT 0 AS plan, * FROM {relations[0]}"
    for number, newer in enumerate(relations[1:], 1):
        using = " AND ".join(f"older.{name} = newer.{name}" for name in key)
        whole = (
            f"SELECT * FROM ({whole}) AS older ANTI JOIN {newer} AS newer ON {using} "
            f"UNION ALL SELECT {number} AS plan, * FROM {newer}"
        )
    return whole
