"""The second half of planning: each planned user gets a home, a backup, a wave and its batches. Nothing here reads a big table
but once for the sums and once for the users that are split over several batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from migrate.errors import RefusedError
from migrate.layout import CompiledRule
from migrate.model import Policy, Role
from migrate.placement import Closing, netstrings, rule_for
from migrate.planner.session import Session, pattern
from migrate.residency import ISO_COUNTRIES
from migrate.spec import PlacementRule, Spec
from migrate.sql import literal
from migrate.units import format_size, number_of

_TICKETS = "STRUCT(form VARCHAR, site VARCHAR)[]"


def cover_countries(session: Session, spec: Spec) -> None:
    """Make the table `country_rules`. RefusedError where no placement rule names the country of a planned user."""
    covered = [(code, rule_for(code, spec.placement.rules)) for code in sorted(ISO_COUNTRIES)]
    session.table(
        "country_rules",
        "country VARCHAR, rule VARCHAR",
        [(code, rule.name) for code, rule in covered if rule is not None],
    )
    _refuse_if_any(
        session,
        "SELECT u.country, count(*) FROM judged AS u ANTI JOIN country_rules AS r ON u.country = r.country "
        "ANTI JOIN settled AS s ON u.user_id = s.user_id WHERE u.state = 'planned' GROUP BY u.country ORDER BY u.country",
        "no placement rule names these countries",
        "Add them to a rule under placement.rules in the spec.",
    )


def place_users(session: Session, spec: Spec, taken: Mapping[str, int]) -> dict[str, Closing]:
    """Make the table `placed`; the sites that closed. RefusedError where a user can go nowhere. Needs `country_rules`, `settled`.

    `taken`: the bytes that the line has placed at each site.
    """
    rules = spec.placement.rules
    session.table(
        "rule_tickets",
        f"rule VARCHAR, home_tickets {_TICKETS}, backup_tickets {_TICKETS}",
        [(rule.name, _tickets(spec, "home", rule), _tickets(spec, "backup", rule)) for rule in rules],
    )
    session.run("tally")
    session.run("preferences")
    closings = _close_sites(session, spec, taken)
    _refuse_if_any(
        session,
        "SELECT country, count(*) FROM placed WHERE home IS NULL OR (wants_backup AND backup IS NULL) "
        "GROUP BY country ORDER BY country",
        "no site with capacity left takes the users of these countries",
        "Raise a site's capacity in the spec, or offer their rule more sites.",
    )
    session.run("stay")
    return closings


def stand_in_bytes(session: Session, spec: Spec) -> dict[str, int]:
    """By site, the bytes of what is copied to every site. RefusedError where a site's capacity does not hold them."""
    found: dict[str, int] = (
        dict(
            session.query(
                "SELECT site, CAST(sum(p.size) AS BIGINT) FROM planned AS p JOIN users AS u ON p.turn = u.turn "
                "JOIN (SELECT user_id, unnest([home, backup]) AS site FROM stand_ins) AS s ON u.user_id = s.user_id "
                "WHERE site IS NOT NULL GROUP BY site"
            )
        )
        if spec.stand_ins
        else {}
    )
    for name, size in sorted(found.items()):
        capacity = spec.sites[name].capacity
        if capacity is not None and size > capacity:
            raise RefusedError(
                f"what is to be copied to every site ({format_size(size)}) is more than {name} takes ({format_size(capacity)})",
                remedy="Raise the site's capacity in the spec, or give the shared rules or orphans another policy.",
            )
    return found


def _tickets(spec: Spec, kind: str, rule: PlacementRule) -> list[dict[str, str]]:
    sites: Iterable[str] = rule.home if kind == "home" else rule.backup
    return [
        {"form": netstrings(kind, site, str(ticket)).decode(), "site": site}
        for site in sorted(set(sites))
        for ticket in range(1, spec.sites[site].weight + 1)
    ]


def _refuse_if_any(session: Session, sql: str, what: str, remedy: str) -> None:
    rows = session.query(sql)
    if rows:
        countries = [f"{country} ({number_of(count, 'user')})" for country, count in rows]
        raise RefusedError(f"{what}: {', '.join(countries)}", remedy=remedy)


def _close_sites(session: Session, spec: Spec, taken: Mapping[str, int]) -> dict[str, Closing]:
    """Place, and place again for each site whose capacity is overrun: at most one pass more than there are such sites."""
    capacities = [
        (name, max(0, site.capacity - taken.get(name, 0)))
        for name, site in sorted(spec.sites.items())
        if site.capacity is not None
    ]
    session.table("capacities", "site VARCHAR, capacity BIGINT", capacities)
    turns: dict[str, int] = {}
    session.run("placed", open="TRUE")
    while capacities and (overruns := session.run("closing")):
        turns.update(overruns)
        is_open = " AND ".join(f"(site <> {literal(site)} OR turn < {turn})" for site, turn in sorted(turns.items()))
        session.run("placed", open=f"({is_open})")
    placed: dict[str, int] = dict(
        session.query(
            "SELECT site, CAST(sum(bytes) AS BIGINT) FROM "
            "(SELECT home AS site, bytes FROM placed UNION ALL SELECT backup, bytes FROM placed) GROUP BY site"
        )
    )
    return {site: Closing(turn, placed.get(site, 0)) for site, turn in sorted(turns.items())}


def make_batches(session: Session, spec: Spec, *, file_copies: int) -> Path:
    """Make the tables `movers` (users with their waves), `batches`, `seats`, `places`; the file of split users' objects."""
    users = session.query("SELECT count(*) FROM placed AS p ANTI JOIN settled AS s ON p.user_id = s.user_id")[0][0]
    halves = {"half_copies": spec.batches.copies_max // 2, "half_bytes": max(1, spec.batches.bytes_max // 2)}
    session.run(
        "waves",
        canary_users=-(-users * spec.waves.canary // 1_000_000),
        waves=spec.waves.count,
        copies_max=spec.batches.copies_max,
        bytes_max=spec.batches.bytes_max,
        **halves,
    )
    big = session.folder / "big.parquet"
    session.run("big", path=literal(str(big)), **halves)
    session.run("batches", big=pattern(big), file_copies=max(1, file_copies - spec.batches.copies_max), **halves)
    session.run("seats", **halves)
    session.run("places")
    return big


def make_routes(session: Session, spec: Spec, rules: tuple[CompiledRule, ...]) -> None:
    """Make the tables that say what a layout rule is called and which store takes what at each site."""
    session.table(
        "layout_rules",
        "number SMALLINT, name VARCHAR, category VARCHAR",
        [(number, rule.name, rule.category) for number, rule in enumerate(rules)],
    )
    session.table(
        "routes", "source VARCHAR, site VARCHAR, role VARCHAR, rank INTEGER, store VARCHAR", list(_routes(spec))
    )


def _routes(spec: Spec) -> Iterable[tuple[Any, ...]]:
    for rank, role in enumerate(("home", "backup")):
        sites = {site for rule in spec.placement.rules for site in (rule.home if role == "home" else rule.backup)}
        sites |= {site for pair in spec.stand_ins.values() if (site := pair[rank]) is not None}
        for site in sorted(sites):
            for source in sorted(spec.by_role(Role.SOURCE)):
                yield source, site, role, rank, spec.target_store(site, source)


def may_collide(spec: Spec, rules: tuple[CompiledRule, ...]) -> bool:
    """False where no two objects can have one target key: one source to each target store, and no key is changed."""
    takers = [(store, source) for source, _, _, _, store in _routes(spec)]
    sources_of = {store: {source for taker, source in takers if taker == store} for store, _ in takers}
    return any(len(sources) > 1 for sources in sources_of.values()) or not all(
        rule.keeps_keys or rule.policy in (Policy.KEEP, Policy.EXCLUDE) for rule in rules
    )
