"""How many users are in which state, kept by the database itself with every change of a user's row.

Triggers, so that no statement can forget it, and rows and counters change in one transaction. The counters stand by the batch in
which a user begins: a transaction then touches the counters of its own batch alone, and two workers never wait for each other
at them. Users without a batch, and those without a wave, stand under -1.
"""

from __future__ import annotations

NOWHERE = -1

_KEY = "plan_id, number, wave, state"
_TALLIES = ("good", "quarantined", "other")
_COLUMNS = ", ".join((_KEY, "users", *_TALLIES))
_ADD = ", ".join(f"{name} = user_counts.{name} + excluded.{name}" for name in ("users", *_TALLIES))
_CHANGES = ("plan_id", "first_batch", "wave", "state", *_TALLIES)


def _place(row: str) -> str:
    return f"{row}.plan_id, coalesce({row}.first_batch, {NOWHERE}), coalesce({row}.wave, {NOWHERE}), {row}.state"


# SQLite has triggers for each row alone
_COME = (
    f"INSERT INTO user_counts ({_COLUMNS}) VALUES ({_place('NEW')}, 1, NEW.good, NEW.quarantined, NEW.other)"
    f" ON CONFLICT ({_KEY}) DO UPDATE SET {_ADD};"
)
_GO = (
    f"UPDATE user_counts SET users = users - 1, {', '.join(f'{name} = {name} - OLD.{name}' for name in _TALLIES)}"
    f" WHERE ({_KEY}) = ({_place('OLD')});"
)
_DIFFERS = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in _CHANGES)
SQLITE = (
    f"CREATE TRIGGER users_come AFTER INSERT ON users BEGIN {_COME} END",
    f"CREATE TRIGGER users_go AFTER DELETE ON users BEGIN {_GO} END",
    f"CREATE TRIGGER users_change AFTER UPDATE ON users WHEN {_DIFFERS} BEGIN {_GO} {_COME} END",
)


def _sums(rows: str) -> str:
    sums = ", ".join(f"sum(u.{name}) AS {name}" for name in _TALLIES)
    return f"SELECT {_place('u')}, count(*) AS users, {sums} FROM {rows} AS u GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"


# PostgreSQL has them for a statement: a row that a transaction updates for each of a million users would become slow. A loop
# rather than a join, so that the counters are found by their key whatever the planner knows of the table.
_TAKEN = ", ".join(f"{name} = c.{name} - g.{name}" for name in ("users", *_TALLIES))
_SAME = " AND ".join(f"c.{name} = g.{name}" for name in _KEY.split(", "))
_FUNCTION = (
    "CREATE FUNCTION count_users() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE g record; BEGIN"
    " IF TG_OP <> 'INSERT' THEN"
    f" FOR g IN SELECT * FROM ({_sums('gone')}) AS s ({_COLUMNS}) LOOP"
    f" UPDATE user_counts AS c SET {_TAKEN} WHERE {_SAME};"
    " END LOOP;"
    " END IF;"
    " IF TG_OP <> 'DELETE' THEN"
    f" INSERT INTO user_counts ({_COLUMNS}) {_sums('come')}"
    f" ON CONFLICT ({_KEY}) DO UPDATE SET {_ADD};"
    " END IF;"
    " RETURN NULL; END $$"
)


def _trigger(name: str, change: str, tables: str) -> str:
    return (
        f"CREATE TRIGGER users_{name} AFTER {change} ON users"
        f" REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION count_users()"
    )


POSTGRESQL = (
    _FUNCTION,
    _trigger("come", "INSERT", "NEW TABLE AS come"),
    _trigger("go", "DELETE", "OLD TABLE AS gone"),
    _trigger("change", "UPDATE", "OLD TABLE AS gone NEW TABLE AS come"),
)
