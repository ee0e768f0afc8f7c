"""What `plan.json` says of a plan: sums over its tables, and no user and no key (design, invariant 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from migrate.inventory.files import DirectoryFile, InventoryFile
from migrate.layout import CompiledRule, unlistable_rules
from migrate.model import CensusClass, Policy, Role
from migrate.placement import Closing
from migrate.planner.census import Census, StoreCensus, backups_of
from migrate.planner.session import Session
from migrate.spec import Spec
from migrate.sql import literal
from migrate.stores.base import MULTIPART_MAX_PARTS, Capabilities


def inputs_of(directory: DirectoryFile, inventories: Mapping[str, InventoryFile]) -> list[dict[str, Any]]:
    """What the plan was made from: kinds, times and fingerprints. Outside the digest."""
    found: list[dict[str, Any]] = [
        {
            "input": "directory",
            "rows": directory.rows,
            "as_of": directory.as_of.isoformat(),
            "fingerprint": directory.fingerprint,
        }
    ]
    for name, inventory in sorted(inventories.items()):
        found.append(
            {
                "input": name,
                "kind": inventory.kind,
                "rows": inventory.rows,
                "as_of": inventory.as_of.isoformat(),
                "until": inventory.until.isoformat(),
                "fingerprint": inventory.fingerprint,
                "left_out": inventory.left_out,
            }
        )
    return found


def skew_of(spec: Spec, inventories: Mapping[str, InventoryFile]) -> dict[str, int]:
    """By backup, the seconds by which its inventory was begun after its source's (negative: before)."""
    return {
        name: int((inventories[name].as_of - inventories[str(store.backup_of)].as_of).total_seconds())
        for name, store in sorted(spec.by_role(Role.BACKUP).items())
    }


def census_of(census: Census) -> dict[str, Any]:
    return {name: asdict(store) for name, store in census.stores.items()}


def policies_of(spec: Spec, rules: tuple[CompiledRule, ...], census: Census) -> list[dict[str, Any]]:
    """What was decided of objects that are no single user's, and of how many keys: a row a shared rule, and one for orphans.

    `objects` counts a key once, whichever stores list it. `policy` is None where nobody has decided.
    """
    shared = [
        {"class": CensusClass.SHARED.value, "rule": rule.name, "policy": rule.policy.value, "reason": given.reason}
        | _counted(census, CensusClass.SHARED, rule.policy.value, number)
        for number, (rule, given) in enumerate(zip(rules, spec.layout.rules, strict=True))
        if rule.policy is not None
    ]
    orphans = [
        {
            "class": CensusClass.ORPHAN.value,
            "rule": None,
            "policy": policy,
            "reason": spec.orphans.reason if policy and policy == spec.orphans.policy else None,
        }
        | _counted(census, CensusClass.ORPHAN, policy or "undecided", None)
        # undecided are those that the line has copied, too; of who moved or is forgotten they are kept, whatever the spec says
        for policy in dict.fromkeys((spec.orphans.policy, Policy.KEEP, None))
    ]
    return [
        *shared,
        *(row for row in orphans if row["objects"] or (row["policy"] and row["policy"] == spec.orphans.policy)),
    ]


def _counted(census: Census, kind: CensusClass, policy: str, rule: int | None) -> dict[str, int]:
    objects, size_bytes = census.decided.get((kind.value, policy, rule), (0, 0))
    return {"objects": objects, "size_bytes": size_bytes}


def placement_of(closings: Mapping[str, Closing]) -> dict[str, Any]:
    return {"closed": {site: asdict(closing) for site, closing in closings.items()}}


def totals_of(session: Session, users: Mapping[str, int]) -> dict[str, Any]:
    """Users, objects and bytes: in all, by country, by site and by wave. `size_bytes` counts every copy."""
    objects, copies, size_bytes = session.query("SELECT sum(objects), sum(copies), sum(size_bytes) FROM movers")[0]
    return {
        "users": dict(users),
        "objects": int(objects or 0),
        "copies": int(copies or 0),
        "size_bytes": int(size_bytes or 0),
        "batches": session.query("SELECT count(*) FROM batches")[0][0],
        "by_country": _rows(
            session,
            ("country", "users", "objects", "copies", "size_bytes"),
            "SELECT if(country = '', 'everywhere', country) AS name, count(*), sum(objects), sum(copies), sum(size_bytes) "
            "FROM movers GROUP BY name ORDER BY name",
        ),
        "by_site": _rows(
            session,
            ("site", "role", "users", "copies", "size_bytes"),
            "SELECT site, role, count(*), sum(copies), sum(size_bytes) FROM ("
            "SELECT home AS site, 'home' AS role, objects AS copies, size_bytes // fold AS size_bytes FROM movers UNION ALL "
            "SELECT backup, 'backup', objects, size_bytes // fold FROM movers WHERE backup IS NOT NULL"
            ") GROUP BY site, role ORDER BY site, role DESC",
        ),
        "by_wave": _rows(
            session,
            ("wave", "users", "objects", "copies", "size_bytes", "batches"),
            "SELECT m.wave, count(*), sum(objects), sum(copies), sum(size_bytes), any_value(coalesce(b.batches, 0)) "
            "FROM movers AS m LEFT JOIN (SELECT wave, count(*) AS batches FROM batches GROUP BY wave) AS b ON m.wave = b.wave "
            "GROUP BY m.wave ORDER BY m.wave",
        ),
    }


def _rows(session: Session, names: tuple[str, ...], sql: str) -> list[dict[str, Any]]:
    return [
        {name: value if isinstance(value, str) else int(value) for name, value in zip(names, row, strict=True)}
        for row in session.query(sql)
    ]


def forecast_of(session: Session, spec: Spec) -> dict[str, int]:
    """How many requests the plan comes to: whole objects, objects in parts, and parts."""
    part = spec.copying.part_bytes
    row = session.query(
        f"""
        WITH sized AS (
            SELECT
                m.fold,
                p.size,
                p.size >= {spec.copying.multipart_from} AS parted,
                (p.size + greatest({part}, (p.size + {MULTIPART_MAX_PARTS - 1}) // {MULTIPART_MAX_PARTS}) - 1)
                // greatest({part}, (p.size + {MULTIPART_MAX_PARTS - 1}) // {MULTIPART_MAX_PARTS}) AS parts
            FROM planned AS p JOIN movers AS m ON p.turn = m.turn
        )
        SELECT
            count(*) FILTER (NOT parted),
            sum(fold) FILTER (NOT parted),
            count(*) FILTER (parted),
            sum(fold) FILTER (parted),
            sum(parts) FILTER (parted),
            sum(parts * fold) FILTER (parted),
            sum(size)
        FROM sized
        """
    )[0]
    names = (
        "whole_objects",
        "whole_copies",
        "parted_objects",
        "parted_copies",
        "parts_read",
        "parts_written",
        "bytes_read",
    )
    return {name: int(value or 0) for name, value in zip(names, row, strict=True)}


def gather_findings(
    session: Session,
    spec: Spec,
    capabilities: Mapping[str, Capabilities],
    inventories: Mapping[str, InventoryFile],
    census: Census,
) -> None:
    """Fill the table `findings` with what no single copy stands for."""
    session.run("findings", stores_of_key=_stores_of_key(spec))
    for source in sorted(spec.by_role(Role.SOURCE)):
        _find_nothing_owned(session, source, census.stores[source])
    rows: list[tuple[str, str, int]] = []
    for name, inventory in sorted(inventories.items()):
        for kind, count in (
            ("noncurrent", inventory.noncurrent),
            ("delete_marker", inventory.delete_markers),
            ("open_upload", inventory.open_uploads),
        ):
            if count:
                rows.append((kind, name, count))
    for backup, counts in census.reconciliation.items():
        rows += [(kind, backup, counts[kind]) for kind in ("diverged", "incomparable", "unbacked") if counts[kind]]
    written = session.query(
        "SELECT store, CAST(sum(copies) AS BIGINT) FROM target_copies GROUP BY store ORDER BY store"
    )
    for store, count in written:
        found = capabilities.get(store)
        if found is None:  # that it keeps nothing is caution, and not a finding
            rows.append(("unprobed", store, count))
            continue
        rows += [
            (kind, store, count)
            for kind, kept in (("no_tags", found.tags), ("no_metadata", found.metadata))
            if not kept
        ]
    for kind, store, count in rows:
        session.query("INSERT INTO findings VALUES (?, ?, NULL, NULL, NULL, ?)", (kind, store, count))


def _find_nothing_owned(session: Session, source: str, census: StoreCensus) -> None:
    """A source without a key of anybody who may move: an empty place, another one's, or a layout that does not fit it.

    A plan of nothing would end verified, and say of people who have data there that all of it has arrived.
    """
    copied = sum(kinds.get(kind, 0) for kinds in (census.shared, census.orphans) for kind in ("planned", "unchanged"))
    if census.classes[CensusClass.OWNED.value] == 0 and not copied:
        detail = f"none of {census.listed} keys is owned" if census.listed else "it holds no key"
        session.query("INSERT INTO findings VALUES ('nothing_owned', ?, NULL, NULL, ?, 1)", (source, detail))


def _stores_of_key(spec: Spec) -> str:
    """A SQL expression: the names of the stores that hold a row of the census."""
    held = ["CASE WHEN in_primary THEN source END"]
    for source in sorted(spec.by_role(Role.SOURCE)):
        for place, backup in enumerate(backups_of(spec, source)):
            held.append(f"CASE WHEN source = {literal(source)} AND seen & {1 << place} > 0 THEN {literal(backup)} END")
    return f"list_filter([{', '.join(held)}], lambda store: store IS NOT NULL)"


def cutover_of(session: Session, spec: Spec, rules: Sequence[CompiledRule], *, is_delta: bool) -> dict[str, Any]:
    """Who could not be cut over, whatever happens: the rules whose source keys cannot be listed by user, and how many users have
    more objects than may be listed in a freeze: in a delta, with what the line has settled."""
    objects = "SELECT turn, objects FROM movers"
    if is_delta:
        objects = (
            "SELECT turn, count(*) AS objects FROM standing WHERE disposition IN ('planned', 'unchanged') GROUP BY turn"
        )
    count = session.query(
        f"SELECT count(*) FROM ({objects}) AS o JOIN users AS u ON o.turn = u.turn "
        "WHERE u.state = 'planned' AND o.objects > ?",
        [spec.cutover.objects_max],
    )[0][0]
    return {"unlistable_rules": unlistable_rules(rules, spec.by_role(Role.SOURCE)), "users_too_large": int(count)}


def findings_of(session: Session) -> dict[str, int]:
    return {
        str(kind): int(count)
        for kind, count in session.query(
            "SELECT kind, CAST(sum(count) AS BIGINT) FROM findings GROUP BY kind ORDER BY kind"
        )
    }
