"""The first half of planning: every user judged, every key in exactly one class, the backups compared with their sources.

The classes and what they add up to are the design's invariant 3: a sum that is off is an IntegrityError, and no plan comes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate import layout, residency
from migrate.errors import InputError, IntegrityError, RefusedError
from migrate.inventory.files import DirectoryFile, InventoryFile
from migrate.layout import CompiledRule
from migrate.model import CensusClass, Role
from migrate.planner.line import Line, take_line
from migrate.planner.session import Session, numbers, pattern, text, texts
from migrate.spec import Spec
from migrate.sql import literal
from migrate.units import SIZE_MAX

# What a delta takes away again. Nothing of it is read; the store that had it is asked whether it is gone.
_TOMBSTONES = (
    "SELECT * REPLACE (CASE WHEN seen = 0 OR disposition = 'left' THEN origin ELSE source END AS origin, 0 AS size, "
    "NULL AS storage_class, NULL AS encryption, NULL AS lock) "
    "FROM census WHERE disposition IN ('deleted', 'left')"
)
_SHARE_ROWS = 4_000_000  # of a backup: what a join holds of them fits in the memory of a session
_SHARES_MAX = 8  # each reads all keys again


@dataclass(slots=True)
class StoreCensus:
    """One store's keys by class; of the owned, shared and orphans, how many by what planning does with them. Bytes are counted
    for sources alone."""

    listed: int = 0
    classes: dict[str, int] = field(default_factory=lambda: {kind.value: 0 for kind in CensusClass})
    size_bytes: dict[str, int] = field(default_factory=dict)
    dispositions: dict[str, int] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    orphans: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, disposition: str | None, keys: int) -> None:
        self.listed += keys
        self.classes[kind] += keys
        disposed = self._disposed().get(kind)
        if disposed is not None and disposition is not None:
            disposed[disposition] = disposed.get(disposition, 0) + keys

    def _disposed(self) -> dict[str, dict[str, int]]:
        return {CensusClass.OWNED: self.dispositions, CensusClass.SHARED: self.shared, CensusClass.ORPHAN: self.orphans}

    def check(self, store: str, rows: int) -> None:
        """IntegrityError unless the classes add up to what the inventory lists (invariant 3)."""
        classed = sum(self.classes.values())
        lost = [
            f"; of {self.classes[kind]} {kind} ones {sum(disposed.values())} are accounted for"
            for kind, disposed in self._disposed().items()
            if sum(disposed.values()) != self.classes[kind]
        ]
        if classed != rows or lost:
            raise IntegrityError(
                f"{store}: its inventory lists {rows} keys, the census has {classed} in its classes{''.join(lost)}",
                remedy="An inventory that lists a key twice does this. Take a new one.",
            )


@dataclass(frozen=True, slots=True)
class Census:
    """The census of all stores, by backup how its keys of planned users stand beside its source's, and keys and bytes by what was
    decided of shared objects and orphans: class, policy, and for shared ones the rule's number."""

    stores: dict[str, StoreCensus]
    reconciliation: dict[str, dict[str, int]]
    decided: dict[tuple[str, str, int | None], tuple[int, int]]


def judge_users(session: Session, spec: Spec, directory: DirectoryFile) -> None:
    """Make the table `judged`. RefusedError where a country still needs a decision."""
    session.table(
        "policy",
        "code VARCHAR, country VARCHAR, verdict VARCHAR, rule VARCHAR",
        residency.scope_table(spec.scope.decisions),
    )
    session.run(
        "judged",
        directory=pattern(directory.path),
        folded=residency.FOLD_SQL,
        unknown_verdict=residency.UNKNOWN.verdict.value,
        unknown_rule=residency.UNKNOWN.rule,
        status_moves="TRUE"
        if spec.directory.columns.status is None
        else f"coalesce(d.status IN {texts(spec.scope.statuses)}, FALSE)",
    )
    undecided = session.query(
        "SELECT country, count(*) FROM judged WHERE state = 'undecided' GROUP BY country ORDER BY country"
    )
    if undecided:
        found = ", ".join(f"{country} ({count})" for country, count in undecided)
        raise RefusedError(
            f"users live where the policy {spec.scope.policy} needs a written decision: {found}",
            remedy='Say "in", "out" or "review" for each in the spec, under scope.decisions.',
        )
    judged = session.query("SELECT count(*) FROM judged")[0][0]
    if judged != directory.rows:
        raise IntegrityError(f"the directory has {directory.rows} users, planning judged {judged}")


def count_users(session: Session) -> dict[str, int]:
    """How many users there are by state: the states of any plan, and those of a delta that occur. Needs `users`."""
    counts = dict(session.query("SELECT state, count(*) FROM users GROUP BY state ORDER BY state"))
    return {state: counts.get(state, 0) for state in ("planned", "held", "review", "out")} | counts


def take_census(
    session: Session,
    spec: Spec,
    rules: tuple[CompiledRule, ...],
    inventories: Mapping[str, InventoryFile],
    line: Line | None,
    forgotten: Collection[str],
) -> Census:
    """Make the table `users`, and the views `census` and `planned`. IntegrityError where a sum is off.

    Needs `judged` and `settled`. Who is `forgotten` is nobody's orphan.
    """
    if line is not None:
        take_line(session, spec, line)
    session.run("users")
    session.query("CREATE TEMP TABLE forgotten (user_id VARCHAR)")
    session.query("INSERT INTO forgotten SELECT unnest(CAST(? AS VARCHAR[]))", [sorted(forgotten)])
    session.query(
        "CREATE TEMP TABLE vanished AS SELECT s.user_id, bool_or(s.is_away) AS is_away "
        "FROM (SELECT user_id, is_away FROM settled UNION ALL SELECT user_id, TRUE FROM forgotten) AS s "
        "ANTI JOIN users AS u ON s.user_id = u.user_id GROUP BY s.user_id"
    )
    session.run("comparable")
    folder = session.folder / "census"
    folder.mkdir()
    for source in sorted(spec.by_role(Role.SOURCE)):
        _census_of(session, spec, rules, source, inventories, folder, line)
    session.query(
        f"CREATE TEMP VIEW census AS SELECT * FROM read_parquet({pattern(folder)}, hive_partitioning = false)"
    )
    _check_bytes(session, spec)
    _fetch_backup_only(session, spec, rules, inventories)
    counts = session.run("counts")
    stores = _count(spec, counts)
    for name, census in stores.items():
        census.check(name, inventories[name].rows)
    return Census(stores, _reconcile(spec, counts), _decided(counts))


def _check_bytes(session: Session, spec: Spec) -> None:
    """InputError where the objects have more bytes than can be counted, at a home and a backup or at every site."""
    sums = session.query("SELECT source, sum(size) AS total FROM census GROUP BY source ORDER BY total DESC, source")
    if sum(total or 0 for _, total in sums) > SIZE_MAX // max(2, 2 * len(spec.stand_ins)):
        source, total = sums[0]
        raise InputError(
            f"{source}: the sizes in its inventory add up to {total:,} bytes, more than can be counted",
            remedy="Look at the column of sizes: it is in another unit, or holds something else.",
        )


def backups_of(spec: Spec, source: str) -> list[str]:
    """The backups of a source, by name: the bit of each is its place in this list."""
    return sorted(name for name, store in spec.by_role(Role.BACKUP).items() if store.backup_of == source)


def _census_of(
    session: Session,
    spec: Spec,
    rules: tuple[CompiledRule, ...],
    source: str,
    inventories: Mapping[str, InventoryFile],
    folder: Path,
    line: Line | None,
) -> None:
    """Write the census of a source and its backups to the folder, a share of the keys at a time."""
    backups = backups_of(spec, source)
    first_backup = " ".join(f"WHEN seen & {1 << place} > 0 THEN {literal(name)}" for place, name in enumerate(backups))
    decided = {
        decision: [number for number, rule in enumerate(rules) if _decision(spec, rule) == decision]
        for decision in ("copy", "exclude")
    }
    held = max((inventories[backup].rows for backup in backups), default=0)
    if line is not None:
        held = max(held, session.query("SELECT count(*) FROM line")[0][0])
    shares = min(_SHARES_MAX, -(-held // _SHARE_ROWS) or 1)
    for number in range(shares):
        share = f"hash(key) % {shares} = {number}" if shares > 1 else "TRUE"
        listed = text("listed", primary=pattern(inventories[source].path), share=share)
        for place, backup in enumerate(backups):
            path = pattern(inventories[backup].path)
            listed = text("backed", listed=listed, backup=path, bit=1 << place, share=share)
        listed = text("unlined" if line is None else "lined", listed=listed, source=source, share=share)
        session.run(
            "census",
            listed=listed,
            rule=layout.rule_sql(rules, source),
            user=layout.user_sql(rules),
            shared_policy=_shared_policy(rules),
            orphan_policy=literal(spec.orphans.policy or "undecided"),
            shared_rules=numbers(number for number, rule in enumerate(rules) if rule.shared),
            copied_rules=numbers(decided["copy"]),
            excluded_rules=numbers(decided["exclude"]),
            source=source,
            first_backup=f"CASE {first_backup} END" if backups else "NULL",
            backups=len(backups),
            path=literal(str(folder / f"{source}-{number}.parquet")),
        )


def _shared_policy(rules: tuple[CompiledRule, ...]) -> str:
    """A SQL expression: the policy of the shared rule whose number is in the column `rule`."""
    cases = [
        f"WHEN {number} THEN {literal(rule.policy)}" for number, rule in enumerate(rules) if rule.policy is not None
    ]
    return f"CASE rule {' '.join(cases)} END" if cases else "CAST(NULL AS VARCHAR)"


def _decision(spec: Spec, rule: CompiledRule) -> str:
    return "block" if rule.category is None else spec.reconcile.backup_only.get(rule.category, "block")


def _fetch_backup_only(
    session: Session, spec: Spec, rules: tuple[CompiledRule, ...], inventories: Mapping[str, InventoryFile]
) -> None:
    """The view `planned`: what is copied from the sources, and from the backups what only they hold."""
    parts = ["SELECT * FROM census WHERE disposition = 'planned' AND in_primary", _TOMBSTONES]
    if "copy" in spec.reconcile.backup_only.values():
        for place, backup in enumerate(sorted(spec.by_role(Role.BACKUP))):
            path = session.folder / f"fetched-{place}.parquet"
            session.run("fetched", backup=pattern(inventories[backup].path), origin=backup, path=literal(str(path)))
            parts.append(f"SELECT * FROM read_parquet({pattern(path)}, hive_partitioning = false)")
    key = layout.target_key_sql(rules)
    standing = "SELECT * FROM census WHERE disposition IN ('planned', 'unchanged', 'deleted', 'left')"
    for view, rows in (("planned", " UNION ALL ".join(parts)), ("standing", standing)):
        taken = _for_stand_ins(rows) if spec.stand_ins else rows
        session.query(f"CREATE TEMP VIEW {view} AS SELECT *, {key} AS target_key FROM ({taken})")


def _for_stand_ins(rows: str) -> str:
    """SQL: rows of the census, and those for all in a row for each stand-in."""
    return (
        f"SELECT c.* REPLACE (coalesce(c.turn, s.turn) AS turn) FROM ({rows}) AS c "
        "LEFT JOIN (SELECT TRUE AS for_all, turn FROM users WHERE state = 'stand-in') AS s ON c.for_all = s.for_all"
    )


def _count(spec: Spec, counts: list[tuple[Any, ...]]) -> dict[str, StoreCensus]:
    stores = {name: StoreCensus() for name in sorted(spec.by_role(Role.SOURCE, Role.BACKUP))}
    for source, kind, disposition, _, in_primary, seen, _, _, keys, size_bytes, _ in counts:
        if in_primary:
            stores[source].add(kind, disposition, keys)
            stores[source].size_bytes[kind] = stores[source].size_bytes.get(kind, 0) + size_bytes
        for place, backup in enumerate(backups_of(spec, source)):
            if seen >> place & 1:
                stores[backup].add(kind, disposition, keys)
    return stores


def _reconcile(spec: Spec, counts: list[tuple[Any, ...]]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for source, _, disposition, _, in_primary, seen, diverged, incomparable, keys, _, _ in counts:
        if disposition not in ("planned", "unchanged", "blocked", "excluded"):
            continue
        for place, backup in enumerate(backups_of(spec, source)):
            kind = _comparison(place, in_primary, seen, diverged, incomparable, disposition)
            if kind is not None:
                found.setdefault(backup, Counter())[kind] += keys
    return {
        backup: {kind: found.get(backup, Counter())[kind] for kind in _COMPARISONS}
        for backup in sorted(spec.by_role(Role.BACKUP))
    }


def _decided(counts: list[tuple[Any, ...]]) -> dict[tuple[str, str, int | None], tuple[int, int]]:
    found: dict[tuple[str, str, int | None], tuple[int, int]] = {}
    for _, kind, _, rule, in_primary, seen, _, _, keys, size_bytes, policy in counts:
        if policy is not None and (in_primary or seen):
            place = (kind, policy, rule if kind == CensusClass.SHARED else None)
            old = found.get(place, (0, 0))
            found[place] = (old[0] + keys, old[1] + size_bytes)
    return found


_COMPARISONS = (
    "equal",
    "diverged",
    "incomparable",
    "unbacked",
    "backup_only_copied",
    "backup_only_excluded",
    "backup_only_blocked",
)
_BACKUP_ONLY = {
    "planned": "backup_only_copied",
    "unchanged": "backup_only_copied",
    "excluded": "backup_only_excluded",
    "blocked": "backup_only_blocked",
}


def _comparison(
    place: int, in_primary: bool, seen: int, diverged: int, incomparable: int, disposition: str
) -> str | None:
    if not seen >> place & 1:
        return "unbacked" if in_primary else None
    if not in_primary:
        return _BACKUP_ONLY[disposition]
    if diverged >> place & 1:
        return "diverged"
    return "incomparable" if incomparable >> place & 1 else "equal"
