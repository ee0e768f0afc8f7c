"""How many users, batches and checks are in which state, and their sums, kept by the database with every change of a row.

Triggers, so that no statement can forget it, and rows and counters change in one transaction. A counter stands for a state of a
wave (or of a pass) and not for a batch, so that where a plan stands is read at once at any size.

On PostgreSQL many transactions count at the same time, and must not wait for each other: each takes a lane that no other has,
by a lock that ends with it, and counts there. A counter is the sum over its lanes, and one lane alone may fall below zero.
There are as many lanes as there ever were transactions at one time. SQLite has one writer, and one lane.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import DDL, BigInteger, Column, ForeignKey, Integer, PrimaryKeyConstraint, Table, Text, event

NOWHERE = -1  # the wave of users without one
_LANE_LOCKS = 726_234  # any number: the first half of the locks' keys, of which the lane is the second


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted: the rows of a table, by some of its columns, and the sums of others."""

    table: str
    name: str  # of the table of counters
    owner: str  # the column that says whose rows they are
    owner_id: str  # and what it refers to
    by: tuple[str, ...]
    sums: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        return (self.owner, *self.by)

    @property
    def counters(self) -> tuple[str, ...]:
        """The columns that count: how many rows (named as their table), and the sums."""
        return (self.table, *self.sums)


USERS = Counted(
    "users", "user_counts", "plan_id", "plans.id", by=("wave", "state"), sums=("good", "quarantined", "other")
)
BATCHES = Counted(
    "batches",
    "batch_counts",
    "plan_id",
    "plans.id",
    by=("wave", "state"),
    sums=(
        "objects",
        "copies",
        "size_bytes",
        "done_bytes",
        "copied",
        "present",
        "drifted",
        "quarantined",
        "withdrawn",
    ),
)
CHECKS = Counted(
    "checks",
    "check_counts",
    "pass_id",
    "passes.id",
    by=("state",),
    sums=("matched", "mismatched", "missing", "unknown", "extra"),
)


def _column(row: str, name: str) -> str:
    return f"coalesce({row}.wave, {NOWHERE})" if name == "wave" else f"{row}.{name}"


def _insert(of: Counted, rows: str) -> str:
    """Add what `rows` select, in the order of the counters' columns."""
    key = ", ".join((*of.key, "lane"))
    adds = ", ".join(f"{name} = {of.name}.{name} + excluded.{name}" for name in of.counters)
    return f"INSERT INTO {of.name} ({key}, {', '.join(of.counters)}) {rows} ON CONFLICT ({key}) DO UPDATE SET {adds};"


def sqlite_triggers(of: Counted) -> tuple[str, ...]:
    """SQLite has triggers for each row alone."""
    new = ", ".join((*(_column("NEW", name) for name in of.key), "0", "1", *(f"NEW.{name}" for name in of.sums)))
    old = ", ".join((*(_column("OLD", name) for name in of.key), "0", "-1", *(f"-OLD.{name}" for name in of.sums)))
    come, go = _insert(of, f"VALUES ({new})"), _insert(of, f"VALUES ({old})")
    differs = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in (*of.key, *of.sums))
    return (
        f"CREATE TRIGGER {of.table}_come AFTER INSERT ON {of.table} BEGIN {come} END",
        f"CREATE TRIGGER {of.table}_go AFTER DELETE ON {of.table} BEGIN {go} END",
        f"CREATE TRIGGER {of.table}_change AFTER UPDATE ON {of.table} WHEN {differs} BEGIN {go} {come} END",
    )


def postgresql_triggers(of: Counted) -> tuple[str, ...]:
    """PostgreSQL has them for a statement: a row that a transaction updates for each of a million users would become slow."""
    key = ", ".join(_column("r", name) for name in of.key)
    groups = ", ".join(str(place + 1) for place in range(len(of.key)))

    def counted(sign: str, rows: str) -> str:
        sums = ", ".join((f"sum({sign})", *(f"sum({sign} * r.{name})" for name in of.sums)))
        return f"SELECT {key}, free, {sums} FROM {rows} GROUP BY {groups}"

    names = ", ".join((*of.key, *of.sums))
    both = f"(SELECT 1 AS sign, {names} FROM come UNION ALL SELECT -1, {names} FROM gone) AS r"
    moved = " OR ".join(("sum(r.sign) <> 0", *(f"sum(r.sign * r.{name}) <> 0" for name in of.sums)))
    changed = f"{counted('r.sign', both)} HAVING {moved}"
    function = (
        f"CREATE FUNCTION count_{of.table}() RETURNS trigger LANGUAGE plpgsql AS $$"
        " DECLARE free integer := 0; BEGIN"
        f" WHILE NOT pg_try_advisory_xact_lock({_LANE_LOCKS}, free) LOOP free := free + 1; END LOOP;"
        f" IF TG_OP = 'INSERT' THEN {_insert(of, counted('1', 'come AS r'))}"
        f" ELSIF TG_OP = 'DELETE' THEN {_insert(of, counted('-1', 'gone AS r'))}"
        f" ELSE {_insert(of, changed)}"
        " END IF; RETURN NULL; END $$"
    )
    changes = {
        "come": "INSERT ON {} REFERENCING NEW TABLE AS come",
        "go": "DELETE ON {} REFERENCING OLD TABLE AS gone",
        "change": "UPDATE ON {} REFERENCING OLD TABLE AS gone NEW TABLE AS come",
    }
    return (
        function,
        *(
            f"CREATE TRIGGER {of.table}_{name} AFTER {change.format(of.table)}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION count_{of.table}()"
            for name, change in changes.items()
        ),
    )


def counters_of(rows: Table, of: Counted) -> Table:
    """The table of the counters, beside that of the rows, with the triggers that keep it."""
    for dialect, statements in (("sqlite", sqlite_triggers(of)), ("postgresql", postgresql_triggers(of))):
        for statement in statements:
            ddl = DDL(statement).execute_if(dialect=dialect)  # type: ignore[no-untyped-call]
            event.listen(rows, "after_create", ddl)
    return Table(
        of.name,
        rows.metadata,
        Column(of.owner, Integer, ForeignKey(of.owner_id), nullable=False),
        *(Column(name, Text if name == "state" else Integer, nullable=False) for name in of.by),
        Column("lane", Integer, nullable=False),
        *(Column(name, BigInteger, nullable=False) for name in of.counters),
        PrimaryKeyConstraint(*of.key, "lane"),
        sqlite_with_rowid=False,
    )
